"""Sixteen threads at one loop, and a loop in each of many threads."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

Loop = asyncio.AbstractEventLoop
THREADS = 16
WAIT = 120.0  # seconds; only there for a failure to end


@contextmanager
def threads(count: int, target: Callable[[int], object]) -> Iterator[list[BaseException]]:
    """`target(number)` in so many threads, all let go at the same time; joined at the end."""
    errors: list[BaseException] = []
    gate = threading.Barrier(count)

    def work(number: int) -> None:
        try:
            gate.wait(WAIT)
            target(number)
        except BaseException as error:
            errors.append(error)

    made = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in made:
        thread.start()
    try:
        yield errors
    finally:
        for thread in made:
            thread.join(WAIT)
        assert not any(thread.is_alive() for thread in made)
    assert not errors, errors[0]


def serve(loop: Loop, count: int, target: Callable[[int], object]) -> None:
    """Runs the loop until `target(number)` has returned in each of so many threads."""
    left = [count]

    def finished() -> None:
        left[0] -= 1
        if not left[0]:
            loop.stop()

    def work(number: int) -> None:
        try:
            target(number)
        finally:
            loop.call_soon_threadsafe(finished)

    with threads(count, work):
        loop.run_forever()


def test_coroutines_from_sixteen_threads(anyloop: Loop) -> None:
    """Each thread gets its own results and exceptions, in its own order."""

    async def answer(who: int, number: int) -> tuple[int, int]:
        await asyncio.sleep(0)
        if number % 10 == 9:
            raise LookupError(who, number)
        return who, number

    def work(who: int) -> None:
        for number in range(60):
            future = asyncio.run_coroutine_threadsafe(answer(who, number), anyloop)
            if number % 10 == 9:
                with pytest.raises(LookupError) as info:
                    future.result(WAIT)
                assert info.value.args == (who, number)
            else:
                assert future.result(WAIT) == (who, number)

    serve(anyloop, THREADS, work)


def test_coroutines_cancelled_from_their_threads(anyloop: Loop) -> None:
    """Cancelling what run_coroutine_threadsafe() returned ends the task in the loop."""
    ended: list[int] = []

    async def never(who: int) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append(who)

    def work(who: int) -> None:
        for _ in range(20):
            future = asyncio.run_coroutine_threadsafe(never(who), anyloop)
            with pytest.raises(concurrent.futures.TimeoutError):
                future.result(0.0001)
            future.cancel()
            assert future.cancelled()

    serve(anyloop, THREADS, work)
    while asyncio.all_tasks(anyloop):
        anyloop.run_until_complete(asyncio.sleep(0))
    assert set(ended) <= set(range(THREADS))


def test_handles_cancelled_by_the_threads_that_made_them(anyloop: Loop) -> None:
    """What is not cancelled runs once, in its thread's order; what is runs at most once."""
    ran: list[tuple[int, int]] = []

    def work(who: int) -> None:
        for number in range(300):
            handle = anyloop.call_soon_threadsafe(ran.append, (who, number))
            if number % 3 == 0:
                handle.cancel()
                assert handle.cancelled()

    serve(anyloop, THREADS, work)
    for who in range(THREADS):
        mine = [number for name, number in ran if name == who]
        assert mine == sorted(set(mine)), "an order that was not theirs, or a callback twice"
        assert {number for number in range(300) if number % 3} <= set(mine)


@pytest.mark.skipif(sys.version_info < (3, 14), reason="the promise came with 3.14")
def test_cancel_means_that_nothing_runs_any_more(anyloop: Loop) -> None:
    """After cancel() has returned, the callback has run to its end, or never will."""
    began = [0] * THREADS
    over = [0] * THREADS

    def callback(who: int) -> None:
        began[who] += 1
        time.sleep(0)
        over[who] += 1

    def work(who: int) -> None:
        for _ in range(200):
            handle = anyloop.call_soon_threadsafe(callback, who)
            handle.cancel()
            seen = began[who]
            assert over[who] == seen, "it was running when cancel() returned"
            time.sleep(0)
            assert began[who] == seen, "it began after cancel() had returned"

    serve(anyloop, THREADS, work)


def test_timers_cancelled_from_other_threads(anyloop: Loop) -> None:
    """Not what asyncio promises, but no reason to lose the others or to fall over."""
    ran: list[int] = []
    timers = [anyloop.call_later(0.05 + n % 7 / 1000, ran.append, n) for n in range(3000)]

    def work(who: int) -> None:
        for number in range(who, len(timers), 8):
            if number % 2:
                timers[number].cancel()

    serve(anyloop, 8, work)
    anyloop.run_until_complete(asyncio.sleep(0.2))
    assert sorted(n for n in ran if n % 2 == 0) == list(range(0, 3000, 2))
    assert len(ran) == len(set(ran))


def test_handle_cancelled_by_many_at_once(anyloop: Loop) -> None:
    """Its arguments are released once."""

    class Argument:
        pass

    for _ in range(30):
        argument = Argument()
        seen = threading.Event()
        handles = [anyloop.call_soon_threadsafe(print, argument) for _ in range(20)]

        def cancel(_: int, handles: list[asyncio.Handle] = handles) -> None:
            for handle in handles:
                handle.cancel()

        with threads(4, cancel):
            pass
        anyloop.call_soon(seen.set)
        anyloop.run_until_complete(asyncio.sleep(0))
        assert seen.is_set()
        del handles, cancel
        assert sys.getrefcount(argument) <= 3


def test_a_future_watched_from_other_threads(anyloop: Loop) -> None:
    """done(), result() and repr() of what the loop finishes meanwhile: never half of it."""
    rounds = 300
    futures = [anyloop.create_future() for _ in range(rounds)]

    async def settle() -> None:
        for number, future in enumerate(futures):
            if number % 3 == 0:
                future.set_result(number)
            elif number % 3 == 1:
                future.set_exception(LookupError(number))
            else:
                future.cancel()
            await asyncio.sleep(0)

    def watch(_: int) -> None:
        for number, future in enumerate(futures):
            while not future.done():
                repr(future)
            if number % 3 == 0:
                assert future.result() == number
            elif number % 3 == 1:
                assert repr(future.exception()) == repr(LookupError(number))
            else:
                assert future.cancelled()

    with threads(4, watch):
        anyloop.run_until_complete(settle())
    for future in futures:
        future.cancelled() or future.exception()


def factory_of(kind: str) -> Callable[[], Loop]:
    if kind == "asyncio":
        return asyncio.new_event_loop
    import hotloop

    return lambda: hotloop.new_event_loop(kind.removeprefix("hotloop-"))


async def exercise(rounds: int) -> int:
    """Some of everything, on the running loop: returns how much."""
    loop = asyncio.get_running_loop()
    count = 0

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()

    async def child(number: int) -> int:
        await asyncio.sleep(0)
        return number

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    for number in range(rounds):
        writer.write(b"%d\n" % number)
        assert await reader.readline() == b"%d\n" % number
        assert sum(await asyncio.gather(*map(child, range(10)))) == 45
        assert {task.get_loop() for task in asyncio.all_tasks()} == {loop}
        current = asyncio.current_task()
        assert current is not None
        assert current.get_loop() is loop
        done = loop.create_future()
        loop.call_later(0.0001, done.set_result, None)
        await done
        doomed = loop.create_task(asyncio.sleep(3600))
        await asyncio.sleep(0)
        doomed.cancel()
        await asyncio.gather(doomed, return_exceptions=True)
        count += 1
    assert await asyncio.to_thread(threading.get_ident) != threading.get_ident()
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()
    return count


def test_a_loop_in_each_thread(loop_kind: str) -> None:
    """Eight loops side by side; each sees its own tasks and no others."""

    def work(_: int) -> None:
        assert asyncio.run(exercise(40), loop_factory=factory_of(loop_kind)) == 40

    with threads(8, work):
        pass


def test_loops_made_and_closed_in_threads(loop_kind: str) -> None:
    """What is filled in by whoever comes first is filled in once for all."""

    def work(_: int) -> None:
        for _ in range(30):
            loop = factory_of(loop_kind)()
            try:
                assert loop.run_until_complete(asyncio.sleep(0, 5)) == 5
            finally:
                loop.close()

    with threads(THREADS, work):
        pass


def test_tasks_of_all_loops_looked_at_from_outside(loop_kind: str, gil: bool) -> None:
    """all_tasks(loop), repr() and get_name() in a thread that runs no loop."""
    loops: list[Loop] = []
    over = threading.Event()
    # Without a GIL, up to 3.13, asyncio's own futures, gather()'s too, do not bear repr() in
    # another thread: it raises, or the process ends. There only ours are waited for, and looked at.

    async def child(waits_for: asyncio.Future[None]) -> None:
        await asyncio.sleep(0)
        await waits_for

    async def wait_for_ours(rounds: int) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(rounds):
            future = loop.create_future()
            children = [loop.create_task(child(future)) for _ in range(10)]
            loop.call_later(0.0001, future.set_result, None)
            for each in children:
                await each

    async def main() -> None:
        loops.append(asyncio.get_running_loop())
        if gil or loop_kind == "asyncio":
            await exercise(30)
        await wait_for_ours(100)

    def work(who: int) -> None:
        if who == 0:
            while not over.is_set():
                for loop in list(loops):
                    for task in asyncio.all_tasks(loop):
                        assert task.get_loop() is loop
                        task.get_name()
                        task.done()
                        if gil or loop_kind != "asyncio":
                            repr(task)
                time.sleep(0)
        else:
            try:
                asyncio.run(main(), loop_factory=factory_of(loop_kind))
            finally:
                ended.append(who)
                if len(ended) == 3:
                    over.set()

    ended: list[int] = []
    with threads(4, work):
        pass


def test_garbage_of_a_loop_collected_in_another_thread(loop_kind: str) -> None:
    """Handles, tasks, futures and transports in rings, found by somebody else's collector."""
    over, made = threading.Event(), threading.Event()

    class Ring:
        def __init__(self, *members: Any) -> None:
            self.members = members
            self.itself = self

    class Quiet(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Quiet, "127.0.0.1", 0)
        for _ in range(150):
            task = loop.create_task(asyncio.sleep(0))
            await task
            transport, protocol = await loop.create_connection(
                Quiet, *server.sockets[0].getsockname()
            )
            transport.close()
            await asyncio.sleep(0)
            Ring(task, loop.create_future(), loop.call_soon(id, 1), transport, protocol)
            timer = loop.call_later(3600, id, 1)
            timer.cancel()
            Ring(timer)
            del task, transport, protocol, timer
            made.set()
        server.close()
        await server.wait_closed()

    def work(who: int) -> None:
        if who == 0:
            # Once a ring: without a GIL the loop stands still for as long as it takes.
            while not over.is_set() and made.wait(WAIT):
                made.clear()
                gc.collect()
        else:
            try:
                asyncio.run(main(), loop_factory=factory_of(loop_kind))
            finally:
                over.set()
                made.set()

    with threads(2, work):
        pass


def test_posts_while_the_loop_starts_and_stops(anyloop: Loop) -> None:
    """None is lost between two runs, whatever the loop is about."""
    ran: list[int] = []
    posting = [4]

    def work(who: int) -> None:
        for number in range(500):
            anyloop.call_soon_threadsafe(ran.append, number)
        posting[0] -= 1

    with threads(4, work):
        while len(ran) < 2000:
            anyloop.run_until_complete(asyncio.sleep(0))
    assert len(ran) == 2000
