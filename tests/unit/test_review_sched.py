"""Abuse of the scheduler's objects: whatever is done to them, nothing crashes or lies.

What these have in common is code that runs, or has run, where the C side expects none: unbound
methods of asyncio's types, `__init__` called again, descriptors of the base classes.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from typing import Any

import pytest

import hotloop

Loop = Any
again = pytest.mark.skipif(sys.version_info >= (3, 15), reason="tasks are initialised once")
Records = list[logging.LogRecord]


def turn(loop: Loop, n: int = 1) -> None:
    for _ in range(n):
        loop.call_soon(loop.stop)
        loop.run_forever()


def exceptions(reports: Records) -> list[str]:
    return [type(r.exc_info[1]).__name__ for r in reports if r.exc_info]


async def waits(future: Any) -> Any:
    return await future


async def returns(value: Any) -> Any:
    return value


# ---- a task as a callback ----


def test_a_callable_task_is_a_callback_like_any_other(loop: Loop) -> None:
    class CallableTask(hotloop.Task):
        def __call__(self, future: Any) -> None:
            got.append(future)

    got: list[Any] = []
    other = loop.create_future()
    task = CallableTask(waits(other), loop=loop)
    done = loop.create_future()
    done.add_done_callback(task)
    done.add_done_callback(task)
    assert [pair[0] for pair in done._callbacks] == [task, task]
    done.set_result(None)
    turn(loop, 2)
    assert got == [done, done]
    assert not task.done()
    other.set_result(4)
    assert loop.run_until_complete(task) == 4


@pytest.mark.parametrize("cls", [hotloop.Task, type("SubTask", (hotloop.Task,), {})])
def test_an_unbound_set_result_wakes_the_waiter(loop: Loop, cls: Any) -> None:
    future = loop.create_future()
    task = cls(waits(future), loop=loop)
    turn(loop)
    asyncio.Future.set_result(future, 7)
    assert loop.run_until_complete(task) == 7


def test_an_empty_task_as_a_callback(loop: Loop, reports: Records) -> None:
    for make_half in (lambda task: None, lambda task: hotloop.Future.__init__(task, loop=loop)):
        task = hotloop.Task.__new__(hotloop.Task)
        make_half(task)
        future = loop.create_future()
        asyncio.Future.add_done_callback(future, task)
        future.set_result(1)
        turn(loop, 2)
    assert exceptions(reports) == ["RuntimeError", "RuntimeError"]


# ---- a task ended by somebody else while it runs ----


@pytest.mark.parametrize("base", [asyncio.Future, hotloop.Future])
@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("how", ["set_result", "set_exception", "cancel"])
def test_a_coroutine_ends_its_own_task(
    loop: Loop, reports: Records, base: Any, raises: bool, how: str
) -> None:
    async def main() -> None:
        args = {"set_result": [5], "set_exception": [KeyError(5)], "cancel": []}[how]
        getattr(base, how)(asyncio.current_task(), *args)
        if raises:
            raise ValueError

    task = loop.create_task(main())
    turn(loop, 2)
    assert exceptions(reports) == ["InvalidStateError"]
    if how == "set_result":
        assert task.result() == 5
    elif how == "set_exception":
        assert type(task.exception()) is KeyError
    else:
        assert task.cancelled()


# ---- __init__ again ----


@pytest.fixture
def no_current_loop() -> None:
    asyncio.set_event_loop(None)


@again
def test_a_queued_task_loses_its_loop(loop: Loop, reports: Records, no_current_loop: None) -> None:
    coro, second = returns(1), returns(2)
    task = loop.create_task(coro)
    with pytest.raises(RuntimeError, match="no current event loop"):
        task.__init__(second, loop=None)
    turn(loop)
    assert exceptions(reports) == ["RuntimeError"]
    coro.close()
    second.close()


@again
def test_a_running_task_loses_its_loop(loop: Loop, reports: Records, no_current_loop: None) -> None:
    class YieldsAnEmptyFuture:
        def __await__(self) -> Any:
            yield hotloop.Future.__new__(hotloop.Future)

    async def main() -> None:
        task: Any = asyncio.current_task()
        asyncio._set_running_loop(None)
        try:
            with pytest.raises(RuntimeError, match="no current event loop"):
                task.__init__(second, loop=None)
        finally:
            asyncio._set_running_loop(loop)
        await YieldsAnEmptyFuture()

    second = returns(2)
    task = loop.create_task(main())
    turn(loop, 2)
    assert exceptions(reports) == ["RuntimeError"]
    second.close()
    del task


@again
def test_a_queued_task_moves_to_another_loop(
    loop: Loop, make_loop: Callable[[], Loop], reports: Records
) -> None:
    async def who() -> Any:
        return asyncio.current_task(other)

    other = make_loop()
    coro = returns(1)
    task = loop.create_task(coro)
    task.__init__(who(), loop=other)
    turn(loop)  # the old entry steps it here, once
    assert asyncio.current_task(loop) is None
    coro.close()
    if sys.version_info < (3, 14):
        assert task.result() is task
        turn(other)  # nothing is left to do for the new one
        assert exceptions(reports) == ["InvalidStateError"]
    else:  # the record of the current task is of the thread's running loop only
        assert exceptions(reports) == ["RuntimeError"]
        assert other.run_until_complete(task) is task


@again
def test_a_future_loses_its_loop_while_it_calls_back(backend: str, no_current_loop: None) -> None:
    class Evil(hotloop.EventLoop):
        def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:
            calls.append(callback)
            if len(calls) == 2:
                with pytest.raises(RuntimeError, match="no current event loop"):
                    future.__init__(loop=None)
            return super().call_soon(callback, *args, context=context)

    calls: list[Any] = []
    loop = Evil(backend)
    future = loop.create_future()
    for _ in range(4):
        future.add_done_callback(lambda future: None)
    with pytest.raises(RuntimeError, match="not initialized"):
        future.set_result(1)
    assert len(calls) == 2
    loop.close()


# ---- through the slots of asyncio.Handle ----


def test_slots_of_asyncio_handle(loop: Loop, reports: Records) -> None:
    base: Any = asyncio.Handle
    got: list[Any] = []
    shown = loop.call_soon(got.append, 1)
    assert shown.get_context() is not None  # in its slot from now on, as `_args` is from four on
    base._context.__delete__(shown)
    base._callback.__delete__(loop.call_soon(got.append, 2))
    base._loop.__delete__(loop.call_soon(got.append, 3))
    base._args.__set__(loop.call_soon(lambda *args: got.extend(args), 1, 2, 3, 4), [5])
    base._args.__delete__(loop.call_soon(max, 1, 2, 3, 4))
    turn(loop)
    assert got == [3, 5]
    assert exceptions(reports) == ["TypeError"]


def test_a_timer_that_says_it_is_another_loops(loop: Loop, make_loop: Callable[[], Loop]) -> None:
    other = make_loop()
    base: Any = asyncio.Handle
    timers = [loop.call_later(100 + i, len) for i in range(20)]
    for _ in range(20):
        other.call_later(50, len)
    for timer in (timers[0], timers[9], timers[19]):
        base._loop.__set__(timer, other)
        timer.cancel()
        assert timer.cancelled()
    for timer in timers:
        timer.cancel()
    got: list[int] = []
    for i in range(5):
        loop.call_later(0.001 * (5 - i), got.append, 5 - i)
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    assert got == [1, 2, 3, 4, 5]
