"""Callbacks and timers."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from itertools import repeat

from rows.registry import Spent, begin, row, since

GROUP = "scheduling"


def _noop(*args: object) -> None:
    pass


@row(GROUP, "call_soon", "call_soon", 100_000)
async def call_soon(count: int) -> Spent:
    """A callback scheduled and run, a thousand a turn."""
    schedule = asyncio.get_running_loop().call_soon
    start = begin()
    for _ in range(0, count, 1000):
        for _ in repeat(None, 1000):
            schedule(_noop)
        await asyncio.sleep(0)
    return since(start)


@row(GROUP, "call_soon_args", "call_soon, 2 arguments", 100_000)
async def call_soon_args(count: int) -> Spent:
    """The same with two arguments."""
    schedule = asyncio.get_running_loop().call_soon
    start = begin()
    for _ in range(0, count, 1000):
        for _ in repeat(None, 1000):
            schedule(_noop, 1, 2)
        await asyncio.sleep(0)
    return since(start)


@row(GROUP, "chain", "chain of callbacks", 50_000)
async def chain(count: int) -> Spent:
    """A callback that schedules itself: one a turn."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    left = count

    def step() -> None:
        nonlocal left
        left -= 1
        if left:
            loop.call_soon(step)
        else:
            done.set_result(None)

    start = begin()
    loop.call_soon(step)
    await done
    return since(start)


@row(GROUP, "call_soon_threadsafe", "call_soon_threadsafe", 50_000)
async def call_soon_threadsafe(count: int) -> Spent:
    """A callback scheduled from another thread, until the last has run."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def schedule() -> None:
        for _ in repeat(None, count - 1):
            loop.call_soon_threadsafe(_noop)
        loop.call_soon_threadsafe(done.set)

    thread = threading.Thread(target=schedule)
    start = begin()
    thread.start()
    await done.wait()
    spent = since(start)
    thread.join()
    return spent


@row(GROUP, "timer_cancel", "timer armed, cancelled", 50_000)
async def timer_cancel(count: int) -> Spent:
    """A time limit that is never reached; a turn of the loop after each hundred."""
    arm = asyncio.get_running_loop().call_later
    start = begin()
    for _ in range(0, count, 100):
        for handle in [arm(60, _noop) for _ in repeat(None, 100)]:
            handle.cancel()
        await asyncio.sleep(0)
    return since(start)


@row(GROUP, "timer_cancel_100k", "the same among 100,000", 50_000)
async def timer_cancel_among(count: int) -> Spent:
    """The same while 100,000 other timers are armed."""
    loop = asyncio.get_running_loop()
    order = random.Random(1)
    others = [loop.call_later(1000 + order.random() * 1000, _noop) for _ in range(100_000)]
    await asyncio.sleep(0)
    spent = await timer_cancel(count)
    for handle in others:
        handle.cancel()
    return spent


@row(GROUP, "timers_firing", "timers firing", 20_000)
async def timers_firing(count: int) -> Spent:
    """Timers armed in random order and run when all are due."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    left = count

    def fired() -> None:
        nonlocal left
        left -= 1
        if not left:
            done.set_result(None)

    delays = [0.01 * i / count for i in range(count)]
    random.Random(1).shuffle(delays)
    start = begin()
    for delay in delays:
        loop.call_later(delay, fired)
    armed = since(start)
    time.sleep(0.02)  # now all are due: what follows is the loop's work and no waiting
    start = begin()
    await done
    return armed + since(start)
