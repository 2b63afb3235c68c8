"""What much that is idle costs: memory for each thing, and time for those that are not idle."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from rows.registry import Grown, Spent, row
from rows.scheduling import timer_cancel
from rows.tasks import sleep_zero
from rows.transports import KIB, port_of, tcp

GROUP = "scale"
SIZES = (10, 1_000, 50_000)

#: Connections that a listener surely has room for: one that finds none waits for a second.
BATCH = 250

#: Opens as many connections as each line of its input says, which then say nothing; from several
#: addresses, because each has but 28,000 ports. 24: the port is chosen by connect(), not by bind().
_HOLD = """
import socket, sys
port = int(sys.argv[1])
kept = []
for line in sys.stdin:
    for _ in range(int(line)):
        s = socket.socket()
        s.setsockopt(socket.IPPROTO_IP, 24, 1)
        s.bind(("127.0.0.%d" % (2 + len(kept) // 5000), 0))
        s.connect(("127.0.0.1", port))
        kept.append(s)
"""


def descriptors_left() -> int:
    """How many connections this process may hold beside what it needs itself."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return (1 << 20 if hard == resource.RLIM_INFINITY else hard) - 200


def resident() -> int:
    """Bytes of this process's memory that are in RAM."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class _Idle(asyncio.Protocol):
    __slots__ = ("__weakref__",)


class Holder:
    """A process that opens idle connections to a server here."""

    def __init__(self) -> None:
        self.accepted = 0
        self.awaited = 0
        self.reached: asyncio.Future[None]

    def accept(self) -> asyncio.Protocol:
        self.accepted += 1
        if self.accepted == self.awaited:
            self.reached.set_result(None)
        return _Idle()

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self.server = await loop.create_server(self.accept, "127.0.0.1", 0, backlog=2 * BATCH)
        command = [sys.executable, "-S", "-c", _HOLD, str(port_of(self.server))]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, bufsize=0)

    async def open(self, count: int) -> None:
        """So many more; they are accepted when this returns."""
        assert self.process.stdin is not None
        while count > 0:
            batch = min(count, BATCH)
            count -= batch
            self.awaited = self.accepted + batch
            self.reached = asyncio.get_running_loop().create_future()
            self.process.stdin.write(b"%d\n" % batch)
            await self.reached

    async def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.server.close()
        await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def idle_connections(count: int) -> AsyncIterator[None]:
    holder = Holder()
    await holder.start()
    try:
        await holder.open(min(count, descriptors_left()))
        yield
    finally:
        await holder.close()


@contextlib.asynccontextmanager
async def pending_timers(count: int) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    handles = [loop.call_later(1000 + i % 977, int) for i in range(count)]
    await asyncio.sleep(0)
    try:
        yield
    finally:
        for handle in handles:
            handle.cancel()


# ---- memory ---------------------------------------------------------------------------------


@row(GROUP, "memory_connection", "memory: idle connection", 15_000, once=True)
async def memory_connection(count: int) -> Grown:
    """The resident memory of one end of an idle connection, with its protocol."""
    first = min(1000, count)
    count = min(count, descriptors_left() - first)
    holder = Holder()
    await holder.start()
    await holder.open(first)
    await asyncio.sleep(0.1)
    before = resident()
    await holder.open(count)
    await asyncio.sleep(0.1)
    grown = Grown(resident() - before, count)
    await holder.close()
    return grown


@row(GROUP, "memory_task", "memory: pending task", 50_000, once=True)
async def memory_task(count: int) -> Grown:
    """The resident memory of a task that waits for a future, with its coroutine."""
    loop = asyncio.get_running_loop()

    async def wait() -> None:
        await loop.create_future()

    tasks = [loop.create_task(wait()) for _ in range(1000)]
    await asyncio.sleep(0)
    before = resident()
    tasks += [loop.create_task(wait()) for _ in range(count)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    grown = Grown(resident() - before, count)
    for task in tasks:
        task.cancel()
    return grown


@row(GROUP, "memory_timer", "memory: armed timer", 100_000, once=True)
async def memory_timer(count: int) -> Grown:
    """The resident memory of an armed timer."""
    loop = asyncio.get_running_loop()
    handles = [loop.call_later(1000, int) for _ in range(1000)]
    await asyncio.sleep(0)
    before = resident()
    handles += [loop.call_later(1000 + i % 977, int) for i in range(count)]
    await asyncio.sleep(0)
    grown = Grown(resident() - before, count)
    for handle in handles:
        handle.cancel()
    return grown


# ---- time -----------------------------------------------------------------------------------


async def _echo(count: int) -> Spent:
    return await tcp(count, KIB)


Crowd = Callable[[int], contextlib.AbstractAsyncContextManager[None]]


def _add(
    name: str,
    title: str,
    says: str,
    count: int,
    of: Callable[[int], Awaitable[Spent]],
    crowd: Crowd,
) -> None:
    """A row for each size of the crowd that looks on."""
    for size in SIZES:

        async def work(count: int, size: int = size) -> Spent:
            async with crowd(size):
                await of(max(1, count // 10))
                return await of(count)

        work.__doc__ = f"{says} {size:,} {title.partition(', ')[2]}."
        row(GROUP, f"{name}_{size}", f"{title} ×{size:,}", count, once=True)(work)


_add("turn_connections", "turn, idle connections", "A turn of the loop beside", 50_000,
     sleep_zero, idle_connections)  # fmt: skip
_add("echo_connections", "echo, idle connections", "A round trip of 1 KiB beside", 5_000,
     _echo, idle_connections)  # fmt: skip
_add("turn_timers", "turn, pending timers", "A turn of the loop beside", 50_000,
     sleep_zero, pending_timers)  # fmt: skip
_add("timer_timers", "timer, pending timers", "A timer armed and cancelled beside", 50_000,
     timer_cancel, pending_timers)  # fmt: skip
