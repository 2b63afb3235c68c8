"""What the tests of real programs share: proof of whose loop it is, memory."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import ssl
import sys
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hotloop

Program = Callable[[Coroutine[Any, Any, Any]], Any]


async def prove_ours() -> None:
    loop = asyncio.get_running_loop()
    assert type(loop) is hotloop.EventLoop
    assert type(asyncio.current_task()) is hotloop.Task
    assert type(loop.create_future()) is hotloop.Future
    assert type(loop.create_task(asyncio.sleep(0))) is hotloop.Task


# ---- flat over many repetitions -------------------------------------------------------------


@dataclass
class Usage:
    blocks: int  # memory blocks that Python has allocated
    rss: int  # bytes
    fds: int

    @classmethod
    def now(cls) -> Usage:
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        fds = len(os.listdir("/proc/self/fd"))
        return cls(sys.getallocatedblocks(), pages * os.sysconf("SC_PAGESIZE"), fds)


async def flat(step: Callable[[], Awaitable[object]], times: int = 1000) -> None:
    """Repeats a step: neither descriptors, nor Python's memory, nor the process's may grow.

    Looked at after each fifth, since caches, pools and hash tables grow for a while: a leak
    grows in every one of them. One block every second repetition is found.
    """
    part = times // 5
    used = []
    for _ in range(5):
        for _ in range(part):
            await step()
        await asyncio.sleep(0)
        used.append(Usage.now())
    for earlier, later in itertools.pairwise(used):
        assert later.fds <= earlier.fds, used
    grown = [later.blocks - earlier.blocks for earlier, later in itertools.pairwise(used)]
    assert min(grown) < part / 2, used
    grown = [later.rss - earlier.rss for earlier, later in itertools.pairwise(used)]
    assert min(grown) < part * 100, used


# ---- certificates ------------------------------------------------------------------------------


@dataclass
class Tls:
    server: ssl.SSLContext
    client: ssl.SSLContext
    cert: Path  # certificate chain and key, for programs that take file names
    key: Path
    ca: Path
