"""Runs inside runs, which hotloop.allow_nested_runs() allows."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from helpers import LONG, run, turn

import hotloop

Loop = Any


@pytest.fixture
def nesting(loop: Loop) -> Loop:
    assert hotloop.allow_nested_runs(loop) is loop
    return loop


@contextmanager
def in_time(loop: Loop) -> Iterator[None]:
    """Every run of the loop ends, by itself."""
    late: list[str] = []
    handles: list[asyncio.TimerHandle] = []

    def stop() -> None:
        late.append("a run had to be stopped")
        loop.stop()
        handles.append(loop.call_later(0.01, stop))

    handles.append(loop.call_later(LONG, stop))
    yield
    handles[-1].cancel()
    assert not late


async def value(result: Any, delay: float = 0.001) -> Any:
    await asyncio.sleep(delay)
    return result


def test_off_by_default(loop: Loop) -> None:
    async def main() -> None:
        coro = value(1)
        with pytest.raises(RuntimeError, match="This event loop is already running"):
            loop.run_until_complete(coro)
        coro.close()
        with pytest.raises(RuntimeError, match="This event loop is already running"):
            loop.run_forever()

    run(loop, main())


def test_only_our_loops() -> None:
    loop = asyncio.SelectorEventLoop()
    with pytest.raises(TypeError, match="hotloop"):
        hotloop.allow_nested_runs(loop)
    loop.close()


def test_switched_on_while_it_runs(loop: Loop) -> None:
    async def main() -> int:
        hotloop.allow_nested_runs(asyncio.get_running_loop())
        return int(loop.run_until_complete(value(5)))

    assert run(loop, main()) == 5


def test_from_a_callback_and_three_deep(nesting: Loop) -> None:
    def deep(levels: int) -> Any:
        async def body() -> Any:
            await asyncio.sleep(0)
            return [levels, deep(levels - 1)] if levels else []

        return nesting.run_until_complete(body())

    got: list[Any] = []
    nesting.call_soon(lambda: got.append(deep(3)))
    run(nesting, value(None))
    assert got == [[3, [2, [1, []]]]]
    assert not nesting.is_running()


def test_current_task_is_set_aside(nesting: Loop) -> None:
    async def inner(outer: Any) -> None:
        assert asyncio.current_task() is not outer
        assert outer in asyncio.all_tasks()
        await asyncio.sleep(0)
        async with asyncio.timeout(30):
            await asyncio.sleep(0)

    async def main() -> None:
        task = asyncio.current_task()
        for _ in range(3):
            seen: list[Any] = []
            nesting.call_soon(lambda: seen.append(asyncio.current_task()))  # noqa: B023
            nesting.run_until_complete(inner(task))
            assert asyncio.current_task() is task
            assert asyncio.get_running_loop() is nesting
            assert seen == [None]
            await asyncio.sleep(0)

    run(nesting, main())


def test_exceptions_come_out(nesting: Loop) -> None:
    async def fail(error: type[BaseException]) -> None:
        await asyncio.sleep(0)
        raise error

    async def main() -> None:
        task = asyncio.current_task()
        for error in (ValueError, asyncio.CancelledError):
            with pytest.raises(error):
                nesting.run_until_complete(fail(error))
            assert asyncio.current_task() is task
        with pytest.raises(KeyboardInterrupt):
            nesting.run_until_complete(fail(KeyboardInterrupt))
        assert asyncio.current_task() is task
        await asyncio.sleep(0)

    run(nesting, main())


def test_order_of_what_was_queued(nesting: Loop) -> None:
    """The inner run goes on where the outer turn was; that turn runs nothing twice or early."""
    seen: list[Any] = []

    def nested() -> None:
        nesting.call_soon(seen.append, "queued before the inner run")
        nesting.run_until_complete(value(None, 0))
        seen.append("inner run over")
        nesting.call_soon(seen.append, "of the turn after")
        nesting.call_soon(nesting.stop)

    for number in (1, 2):
        nesting.call_soon(seen.append, number)
    nesting.call_soon(nested)
    for number in (3, 4, 5):
        nesting.call_soon(seen.append, number)
    nesting.run_forever()
    assert seen == [
        1, 2, 3, 4, 5, "queued before the inner run", "inner run over", "of the turn after",
    ]  # fmt: skip


def test_a_turn_ends_where_it_would_have(nesting: Loop) -> None:
    """What an inner run took from a turn is not made up for by what was queued later."""
    seen: list[str] = []

    def later() -> None:
        seen.append("later")
        nesting.call_soon(seen.append, "turn after")

    def nested() -> None:
        nesting.call_soon(nesting.stop)
        nesting.run_forever()  # runs the three fillers
        nesting.call_soon(later)
        nesting.call_soon(nesting.stop)

    nesting.call_soon(nested)
    for _ in range(3):
        nesting.call_soon(int)
    nesting.run_forever()
    assert seen == ["later"]
    turn(nesting)
    assert seen == ["later", "turn after"]


def test_stop_ends_the_innermost_run(nesting: Loop) -> None:
    seen: list[str] = []

    def nested() -> None:
        nesting.call_soon(nesting.stop)
        nesting.run_forever()
        seen.append("inner")
        nesting.call_later(0.001, lambda: (seen.append("outer"), nesting.stop()))

    nesting.call_soon(nested)
    nesting.run_forever()
    assert seen == ["inner", "outer"]


def test_stop_of_the_outer_run_is_kept(nesting: Loop) -> None:
    def nested() -> None:
        nesting.stop()
        assert nesting.run_until_complete(value(5)) == 5

    nesting.call_soon(nested)
    nesting.run_forever()  # ends


@pytest.mark.parametrize("bare", [False, True])
def test_outer_run_is_done_first(nesting: Loop, bare: bool) -> None:
    """The future of an outer run ends while an inner one goes on, which is not disturbed."""
    seen: list[str] = []

    def nested() -> None:
        if bare:
            nesting.call_later(0.01, nesting.stop)
            nesting.run_forever()
        else:
            assert nesting.run_until_complete(value(5, 0.01)) == 5
        assert outer.done()
        seen.append("inner")

    nesting.call_soon(nested)
    outer = nesting.create_task(value(6, 0))
    assert nesting.run_until_complete(outer) == 6
    assert seen == ["inner"]


def test_waiting_for_oneself(nesting: Loop) -> None:
    async def main() -> None:
        task = asyncio.current_task()

        async def deeper() -> None:
            with pytest.raises(RuntimeError, match="cannot be waited for by a run inside it"):
                nesting.run_until_complete(task)

        with pytest.raises(RuntimeError, match="cannot be waited for by a run inside it"):
            nesting.run_until_complete(task)
        nesting.run_until_complete(deeper())

    run(nesting, main())


def test_cancelled_while_set_aside(nesting: Loop) -> None:
    """The cancellation waits for the task's next await, as for any task that is running."""

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        nesting.call_soon(task.cancel)
        assert nesting.run_until_complete(value(5)) == 5
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(0)
        task.uncancel()

    run(nesting, main())


def test_other_thread_is_refused(nesting: Loop) -> None:
    async def main() -> None:
        raised: list[str] = []

        def other() -> None:
            try:
                nesting.run_forever()
            except RuntimeError as exc:
                raised.append(str(exc))

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert raised == ["This event loop is already running"]

    run(nesting, main())


def test_held_writes_leave_first(nesting: Loop) -> None:
    async def main() -> None:
        near, far = socket.socketpair()
        far.setblocking(False)
        transport, _ = await nesting.create_connection(asyncio.Protocol, sock=near)
        transport.write(b"question")
        got = nesting.run_until_complete(asyncio.wait_for(nesting.sock_recv(far, 100), 30))
        assert got == b"question"
        transport.abort()
        far.close()
        await asyncio.sleep(0)

    run(nesting, main())


def test_read_inside_data_received(nesting: Loop) -> None:
    """A protocol runs the loop from data_received(), and is called again inside."""

    class Nested(asyncio.Protocol):
        data = b""
        depth = deepest = 0

        def data_received(self, data: bytes) -> None:
            self.data += data
            self.depth += 1
            self.deepest = max(self.depth, self.deepest)
            if len(self.data) < 3:
                far.send(b"x")
                nesting.run_until_complete(value(None))
            self.depth -= 1

    near, far = socket.socketpair()

    async def main() -> None:
        transport, protocol = await nesting.create_connection(Nested, sock=near)
        far.send(b"x")
        async with asyncio.timeout(30):
            while len(protocol.data) < 3 or protocol.depth:
                await asyncio.sleep(0.001)
        assert protocol.data == b"xxx"
        assert protocol.deepest == 3
        transport.abort()
        far.close()
        await asyncio.sleep(0)

    nesting.run_until_complete(main())


def test_streams_of_the_task_that_is_set_aside(nesting: Loop) -> None:
    async def main() -> None:
        near, far = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=near)
        far.send(b"line\n")
        assert nesting.run_until_complete(reader.readline()) == b"line\n"
        far.close()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()

    run(nesting, main())


def test_in_a_finaliser(nesting: Loop) -> None:
    """The release of a finished task runs the loop."""
    got: list[int] = []

    class Last:
        def __del__(self) -> None:
            got.append(nesting.run_until_complete(value(5)))

    async def main(last: Any) -> Any:
        await asyncio.sleep(0)
        return last

    nesting.create_task(main(Last()))
    run(nesting, value(None, 0.02))
    assert got == [5]


def test_contexts(nesting: Loop) -> None:
    """The outer context is left for the inner run, which others may share, and come back to."""
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="none")
    shared = contextvars.copy_context()

    async def inner() -> str:
        before = var.get()
        var.set("inner")
        await asyncio.sleep(0)
        return before

    async def main() -> None:
        var.set("main")
        assert nesting.run_until_complete(inner()) == "main"  # a copy, as for any task
        assert var.get() == "main"
        sharing = nesting.create_task(inner(), context=shared)
        assert nesting.run_until_complete(sharing) == "main"
        assert var.get() == "inner"  # the very context of this task
        with pytest.raises(ZeroDivisionError):
            contextvars.copy_context().run(nesting.run_until_complete, divide())
        assert var.get() == "inner"

    async def divide() -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    nesting.run_until_complete(nesting.create_task(main(), context=shared))
    assert var.get() == "none"
    assert shared[var] == "inner"


def test_signals(nesting: Loop) -> None:
    """Handlers run in the inner run, and in the outer one after it."""
    got: list[int] = []
    nesting.add_signal_handler(signal.SIGUSR1, got.append, 1)

    async def signalled() -> None:
        before = len(got)
        os.kill(os.getpid(), signal.SIGUSR1)
        async with asyncio.timeout(30):
            while len(got) == before:
                await asyncio.sleep(0.001)

    async def main() -> None:
        await signalled()
        nesting.run_until_complete(signalled())
        await signalled()

    nesting.run_until_complete(main())
    assert got == [1, 1, 1]
    assert nesting.remove_signal_handler(signal.SIGUSR1)
    assert signal.set_wakeup_fd(-1) == -1


def test_debug_mode(nesting: Loop) -> None:
    nesting.set_debug(True)
    nesting.slow_callback_duration = 60

    async def main() -> int:
        await asyncio.sleep(0)
        return int(nesting.run_until_complete(value(5)))

    assert nesting.run_until_complete(main()) == 5


@pytest.mark.parametrize("stopped", [False, True])
def test_one_future_for_two_runs(nesting: Loop, stopped: bool) -> None:
    """An inner run that waits for the same future takes nothing from the outer one."""
    future = nesting.create_future()
    seen: list[str] = []

    def nested() -> None:
        if stopped:
            nesting.call_soon(nesting.stop)
            with pytest.raises(RuntimeError, match="stopped before Future completed"):
                nesting.run_until_complete(future)
            nesting.call_soon(future.set_result, 5)
        else:
            nesting.call_later(0.001, future.set_result, 5)
            assert nesting.run_until_complete(future) == 5
        seen.append("inner")

    nesting.call_soon(nested)
    with in_time(nesting):
        assert nesting.run_until_complete(future) == 5
    assert seen == ["inner"]


def test_future_of_the_outer_run_is_done_already(nesting: Loop) -> None:
    """The outer run is about to end; to wait for its future inside it ends at once."""
    future = nesting.create_future()
    seen: list[int] = []

    def finish() -> None:
        future.set_result(5)
        nesting.call_soon(lambda: seen.append(nesting.run_until_complete(future)))

    nesting.call_soon(finish)
    with in_time(nesting):
        assert nesting.run_until_complete(future) == 5
    assert seen == [5]


def test_outer_task_raises_through_an_inner_run(nesting: Loop) -> None:
    """KeyboardInterrupt of the outer run's task leaves the inner run, and is stopped there."""
    seen: list[str] = []

    async def interrupted() -> None:
        await asyncio.sleep(0)
        raise KeyboardInterrupt

    def nested() -> None:
        with pytest.raises(KeyboardInterrupt):
            nesting.run_until_complete(value(None, 2 * LONG))
        seen.append("inner")

    nesting.call_soon(nested)
    with in_time(nesting), pytest.raises(KeyboardInterrupt):
        nesting.run_until_complete(interrupted())
    assert seen == ["inner"]
    for task in asyncio.all_tasks(nesting):
        task.cancel()
    turn(nesting, 2)


async def long() -> int:
    for _ in range(20):
        await asyncio.sleep(0)
    return 2


@pytest.mark.parametrize("base", [hotloop.EventLoop, asyncio.SelectorEventLoop])
def test_run_forever_that_runs_something_before(base: Any) -> None:
    """An overridden run_forever() may wait for something first: no run lies in another."""

    class Prepared(base):  # type: ignore[misc]
        prepared = False

        def run_forever(self) -> None:
            if not self.prepared:
                self.prepared = True
                assert self.run_until_complete(value(1, 0)) == 1
            super().run_forever()

    loop = Prepared()
    try:
        assert loop.run_until_complete(long()) == 2
    finally:
        loop.close()


def test_run_forever_that_runs_something_before_and_inside() -> None:
    """The run that was prepared for still ends when its future is done in an inner one."""

    class Prepared(hotloop.EventLoop):
        prepared = False

        def run_forever(self) -> None:
            if not self.prepared:
                self.prepared = True
                assert self.run_until_complete(value(1, 0)) == 1
            super().run_forever()

    loop = hotloop.allow_nested_runs(Prepared())
    try:
        done = loop.create_future()

        def nested() -> None:
            loop.call_soon(done.set_result, 2)
            loop.run_until_complete(long())

        loop.call_later(0.01, nested)
        with in_time(loop):
            assert loop.run_until_complete(done) == 2
    finally:
        loop.close()


def test_current_handle_in_debug_mode(nesting: Loop) -> None:
    nesting.set_debug(True)
    nesting.slow_callback_duration = LONG
    seen: list[Any] = []

    def nested() -> None:
        seen.append(nesting._current_handle)
        nesting.run_until_complete(value(None, 0))
        seen.append(nesting._current_handle)

    handle = nesting.call_soon(nested)
    with in_time(nesting):
        nesting.run_until_complete(value(None))
    assert seen == [handle, handle]
    assert nesting._current_handle is None


def test_no_current_task_between_steps(backend: str) -> None:
    """An overridden time(), which the loop calls between steps, sees no task in an inner run."""
    seen: set[Any] = set()

    class Watched(hotloop.EventLoop):
        def time(self) -> float:
            if running:
                seen.add(asyncio.current_task(self))
            return super().time()

    async def steps() -> None:
        running.append(True)
        for _ in range(3):
            future = loop.create_future()
            soon = loop.create_task(finish(future))
            await future
            await soon
        running.clear()

    async def finish(future: Any) -> None:
        future.set_result(None)

    async def main() -> None:
        loop.run_until_complete(steps())

    running: list[bool] = []
    loop = hotloop.allow_nested_runs(Watched(backend=backend))
    try:
        with in_time(loop):
            loop.run_until_complete(main())
    finally:
        loop.close()
    assert seen == {None}
