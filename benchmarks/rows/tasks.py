"""Tasks, futures, and what asyncio builds on them."""

from __future__ import annotations

import asyncio
import socket
from itertools import repeat
from typing import Any

from rows.registry import Spent, begin, row, since

GROUP = "tasks"


async def _nothing() -> None:
    pass


async def _turn() -> None:
    await asyncio.sleep(0)


def _noop(*args: object) -> None:
    pass


@row(GROUP, "sleep0", "sleep(0)", 50_000)
async def sleep_zero(count: int) -> Spent:
    """A turn given to the loop."""
    start = begin()
    for _ in repeat(None, count):
        await asyncio.sleep(0)
    return since(start)


@row(GROUP, "create_await", "create and await a task", 30_000)
async def create_and_await(count: int) -> Spent:
    """A task of a coroutine that returns at once, awaited."""
    loop = asyncio.get_running_loop()
    start = begin()
    for _ in repeat(None, count):
        await loop.create_task(_nothing())
    return since(start)


@row(GROUP, "gather_1000", "gather of 1,000", 50_000)
async def gather(count: int) -> Spent:
    """A coroutine among a thousand gathered."""
    start = begin()
    for _ in range(0, count, 1000):
        await asyncio.gather(*[_nothing() for _ in range(1000)])
    return since(start)


@row(GROUP, "taskgroup_100", "TaskGroup of 100", 50_000)
async def task_group(count: int) -> Spent:
    """A task in a group of a hundred."""
    start = begin()
    for _ in range(0, count, 100):
        async with asyncio.TaskGroup() as group:
            for _ in repeat(None, 100):
                group.create_task(_nothing())
    return since(start)


@row(GROUP, "ping_pong", "futures in ping-pong", 40_000)
async def ping_pong(count: int) -> Spent:
    """One of two tasks woken by the other through a future."""
    loop = asyncio.get_running_loop()
    ball = [loop.create_future(), loop.create_future()]

    async def player(mine: int) -> None:
        for _ in repeat(None, count // 2):
            await ball[mine]
            ball[mine] = loop.create_future()
            ball[1 - mine].set_result(None)

    players = [loop.create_task(player(0)), loop.create_task(player(1))]
    await asyncio.sleep(0)
    start = begin()
    ball[0].set_result(None)
    await asyncio.wait(players)
    return since(start)


@row(GROUP, "future_callbacks", "10 callbacks on a future", 10_000)
async def future_callbacks(count: int) -> Spent:
    """A future with ten callbacks, done; a turn after each ten."""
    loop = asyncio.get_running_loop()
    start = begin()
    for _ in range(0, count, 10):
        for _ in repeat(None, 10):
            future = loop.create_future()
            for _ in repeat(None, 10):
                future.add_done_callback(_noop)
            future.set_result(None)
        await asyncio.sleep(0)
    return since(start)


@row(GROUP, "queue", "Queue", 50_000)
async def queue(count: int) -> Spent:
    """An item from one task to another through a queue of at most 64."""
    items: asyncio.Queue[int] = asyncio.Queue(64)

    async def take() -> None:
        for _ in repeat(None, count):
            await items.get()

    start = begin()
    taking = asyncio.create_task(take())
    for _ in repeat(None, count):
        await items.put(1)
    await taking
    return since(start)


@row(GROUP, "event_100", "Event, 100 waiters", 20_000)
async def event(count: int) -> Spent:
    """A waiter among a hundred, from its wait() to its end."""
    loop = asyncio.get_running_loop()
    total = Spent(0, 0)
    for _ in range(0, count, 100):
        happened = asyncio.Event()
        waiters: list[asyncio.Task[Any]] = [loop.create_task(happened.wait()) for _ in range(100)]
        start = begin()
        await asyncio.sleep(0)
        happened.set()
        for waiter in waiters:
            await waiter
        total += since(start)
    return total


@row(GROUP, "wait_for", "wait_for", 20_000)
async def wait_for(count: int) -> Spent:
    """wait_for() around a coroutine that takes a turn."""
    start = begin()
    for _ in repeat(None, count):
        await asyncio.wait_for(_turn(), 60)
    return since(start)


@row(GROUP, "timeout", "timeout()", 20_000)
async def timeout(count: int) -> Spent:
    """A block under timeout() that takes a turn."""
    start = begin()
    for _ in repeat(None, count):
        async with asyncio.timeout(60):
            await asyncio.sleep(0)
    return since(start)


@row(GROUP, "executor", "run_in_executor", 5_000)
async def executor(count: int) -> Spent:
    """A function that does nothing, in a thread of the default executor, awaited."""
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, _noop)
    start = begin()
    for _ in repeat(None, count):
        await loop.run_in_executor(None, _noop)
    return since(start)


@row(GROUP, "getaddrinfo", "getaddrinfo, literal", 5_000)
async def getaddrinfo(count: int) -> Spent:
    """The address of a host that is an address already."""
    loop = asyncio.get_running_loop()
    await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
    start = begin()
    for _ in repeat(None, count):
        await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
    return since(start)
