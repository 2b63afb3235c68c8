"""Child processes."""

from __future__ import annotations

import asyncio
import subprocess
from itertools import repeat

from rows.registry import Spent, begin, row, since
from rows.transports import GROUP


@row(GROUP, "spawn", "spawn", 100)
async def spawn(count: int) -> Spent:
    """A child process that ends at once, from its start to the end of wait()."""
    start = begin()
    for _ in repeat(None, count):
        child = await asyncio.create_subprocess_exec("/bin/true")
        await child.wait()
    return since(start)


@row(GROUP, "subprocess_pipe", "subprocess pipe", 4_000)
async def subprocess_pipe(count: int) -> Spent:
    """A line to a child and back, through its stdin and stdout."""
    pipe = subprocess.PIPE
    child = await asyncio.create_subprocess_exec("/bin/cat", stdin=pipe, stdout=pipe)
    assert child.stdin is not None
    assert child.stdout is not None
    start = begin()
    for _ in repeat(None, count):
        child.stdin.write(b"a line of text\n")
        await child.stdout.readline()
    spent = since(start)
    child.stdin.close()
    await child.wait()
    return spent
