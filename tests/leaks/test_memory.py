"""Repeating a thing takes no more memory: blocks of the allocator, objects, resident pages."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

Loop = asyncio.AbstractEventLoop
Scenario = Callable[[Loop], Coroutine[Any, Any, None]]
REPEAT = 300


async def child() -> None:
    await asyncio.sleep(0)


async def tasks(loop: Loop) -> None:
    for _ in range(10):
        await loop.create_task(child())


async def gathered(loop: Loop) -> None:
    await asyncio.gather(*[child() for _ in range(20)])


async def failing(loop: Loop) -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError

    await asyncio.gather(*[fail() for _ in range(5)], return_exceptions=True)


async def cancelled(loop: Loop) -> None:
    made = [loop.create_task(asyncio.sleep(1000)) for _ in range(5)]
    await asyncio.sleep(0)
    for task in made:
        task.cancel("message")
    await asyncio.wait(made)


async def timed_out(loop: Loop) -> None:
    try:
        async with asyncio.timeout(0):
            await asyncio.sleep(1000)
    except TimeoutError:
        pass


async def futures(loop: Loop) -> None:
    for _ in range(20):
        future = loop.create_future()
        for _ in range(3):
            future.add_done_callback(lambda fut: None)
        loop.call_soon(future.set_result, None)
        await future
        loop.create_future().cancel()


async def stock_objects(loop: Loop) -> None:
    future = asyncio.Future(loop=loop)
    loop.call_soon(future.set_result, None)
    await future
    await asyncio.Task(child(), loop=loop)


async def callbacks(loop: Loop) -> None:
    for count in range(6):
        loop.call_soon(lambda *args: None, *range(count))
        loop.call_soon_threadsafe(lambda *args: None, *range(count)).cancel()
    await asyncio.sleep(0)


async def timers(loop: Loop) -> None:
    for count in range(6):
        loop.call_later(0, lambda *args: None, *range(count))
        loop.call_later(1000, lambda *args: None, *range(count)).cancel()
    await asyncio.sleep(0)


class Awaitable:
    # Not in the function: without a GIL CPython 3.13 keeps every class for ever, once there has
    # been a second thread.
    def __await__(self) -> Any:
        return iter([None, None])


async def iterated(loop: Loop) -> None:
    await Awaitable()
    for _ in range(5):
        future = loop.create_future()
        iterator = iter(future)
        next(iterator)
        try:
            iterator.throw(ValueError)
        except ValueError:
            pass


async def watched(loop: Loop) -> None:
    one, two = socket.socketpair()
    with one, two:
        future = loop.create_future()
        loop.add_reader(one, future.set_result, None)
        two.send(b"x")
        await future
        loop.remove_reader(one)


async def sock_calls(loop: Loop) -> None:
    one, two = socket.socketpair()
    with one, two:
        one.setblocking(False)
        two.setblocking(False)
        reading = loop.create_task(loop.sock_recv(one, 100))
        await asyncio.sleep(0)
        await loop.sock_sendall(two, b"x" * 100)
        await reading


async def streams(loop: Loop) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"line\n" * 1)
    assert await reader.read() == b"line\n"
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


async def aborted(loop: Loop) -> None:
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    for _ in range(3):
        transport, _ = await loop.create_connection(asyncio.Protocol, "127.0.0.1", port)
        transport.write(b"x" * 100_000)
        transport.abort()
    server.close()
    server.close_clients() if hasattr(server, "close_clients") else None
    await server.wait_closed()


@contextlib.contextmanager
def refusing_port() -> Iterator[int]:
    """A port that is taken, so that nobody connects to itself, and does not listen."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


async def refused(loop: Loop) -> None:
    with refusing_port() as port:
        try:
            await loop.create_connection(asyncio.Protocol, "127.0.0.1", port)
        except OSError:
            pass


async def refused_in_other_ways(loop: Loop) -> None:
    ways: list[dict[str, Any]] = [
        {"all_errors": True},
        {"local_addr": ("127.0.0.1", 0)},
        {"local_addr": ("192.0.2.1", 0)},
        {"local_addr": ("::1", 0)},
    ]
    with refusing_port() as port:
        for way in ways:
            try:
                await loop.create_connection(asyncio.Protocol, "127.0.0.1", port, **way)
            except* OSError:
                pass


async def refused_in_a_race(loop: Loop) -> None:
    with refusing_port() as port:
        try:
            await loop.create_connection(
                asyncio.Protocol, "127.0.0.1", port, happy_eyeballs_delay=0.25
            )
        except OSError:
            pass


SLOW: list[Scenario] = [streams, aborted, refused, refused_in_other_ways, refused_in_a_race]
SCENARIOS: list[Scenario] = [
    tasks,
    gathered,
    failing,
    cancelled,
    timed_out,
    futures,
    stock_objects,
    callbacks,
    timers,
    iterated,
    watched,
    sock_calls,
    *SLOW,
]


def repeat(loop: Loop, scenario: Scenario, times: int) -> int:
    """Runs it so often; the allocated blocks that are there afterwards."""

    async def main() -> None:
        for _ in range(times):
            await scenario(loop)
        await asyncio.sleep(0.002)

    loop.run_until_complete(main())
    gc.collect()
    return sys.getallocatedblocks()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda f: f.__name__)
def test_blocks_do_not_grow(loop: Loop, scenario: Scenario) -> None:
    """One leaked object a time would be hundreds."""
    if not sys.getallocatedblocks():
        pytest.skip("PYTHONMALLOC=malloc counts no blocks")
    slow = scenario in SLOW
    times = REPEAT // 5 if slow else REPEAT
    repeat(loop, scenario, times)
    counts = [repeat(loop, scenario, times) for _ in range(10 if slow else 4)]
    growth = min(after - before for before, after in itertools.pairwise(counts))
    assert growth < times // 3, counts


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda f: f.__name__)
def test_nothing_waits_for_the_collector(loop: Loop, scenario: Scenario, stock: Loop) -> None:
    """Where asyncio frees without the cyclic collector, so do we."""
    if scenario is refused_in_a_race:
        pytest.skip("asyncio.staggered, which both use, leaves cycles")

    def garbage(each: Loop) -> int:
        async def main() -> None:
            for _ in range(50):
                await scenario(each)
            await asyncio.sleep(0.002)

        each.run_until_complete(main())
        gc.collect()
        gc.disable()
        try:
            each.run_until_complete(main())
            return gc.collect()
        finally:
            gc.enable()

    assert garbage(loop) <= max(garbage(stock), 40)


def test_loops_do_not_pile_up(backend: str) -> None:
    import hotloop

    if not sys.getallocatedblocks():
        pytest.skip("PYTHONMALLOC=malloc counts no blocks")

    def rounds(count: int) -> int:
        for _ in range(count):
            loop = hotloop.new_event_loop(backend)
            loop.run_until_complete(tasks(loop))
            loop.close()
        del loop
        gc.collect()
        return sys.getallocatedblocks()

    rounds(20)
    before = rounds(20)
    assert rounds(200) - before < 100


def test_free_lists_are_bounded(loop: Loop) -> None:
    """A burst of futures, tasks and handles is given back to the allocator."""
    gc.collect()

    def burst(count: int) -> int:
        async def main() -> None:
            future = loop.create_future()

            async def wait() -> None:
                await future

            children = [loop.create_task(wait()) for _ in range(count)]
            timers = [loop.call_later(1000, int) for _ in range(count)]
            await asyncio.sleep(0)
            future.set_result(None)
            await asyncio.gather(*children)
            for timer in timers:
                timer.cancel()

        loop.run_until_complete(main())
        gc.collect()
        return sys.getallocatedblocks()

    burst(100)
    before = burst(100)
    assert burst(20_000) - before < 20_000
