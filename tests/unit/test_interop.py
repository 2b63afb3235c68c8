"""Our tasks and futures with everybody else's."""

from __future__ import annotations

import asyncio
import concurrent.futures
import sys
import types

import pytest
from helpers import run, turn

import hotloop

PyFuture = asyncio.futures._PyFuture
PyTask = asyncio.tasks._PyTask


class SubFuture(hotloop.Future): ...


class SubTask(hotloop.Task): ...


class StockSubFuture(asyncio.Future): ...


class StockSubTask(asyncio.Task): ...


FUTURES = [
    asyncio.Future,
    PyFuture,
    hotloop.Future,
    SubFuture,
    StockSubFuture,
]
TASKS = [asyncio.Task, PyTask, hotloop.Task, SubTask, StockSubTask]


def name(cls):
    return f"{cls.__module__}.{cls.__qualname__}"


futures = pytest.mark.parametrize("future_type", FUTURES, ids=name)
tasks = pytest.mark.parametrize("task_type", TASKS, ids=name)


@pytest.fixture
def loops(anyloop):
    return anyloop


@futures
@tasks
@pytest.mark.parametrize("how", ["result", "exception", "cancel", "done"])
def test_any_task_awaits_any_future(anyloop, future_type, task_type, how):
    async def main():
        try:
            return await future
        except ValueError:
            return "exception"
        except asyncio.CancelledError:
            return "cancel"

    future = future_type(loop=anyloop)
    if how == "done":
        future.set_result("done")
    task = task_type(main(), loop=anyloop)
    assert isinstance(task, PyTask if task_type is PyTask else asyncio.Task)
    turn(anyloop)
    if how != "done":
        assert not task.done()
    match how:
        case "result":
            future.set_result("result")
        case "exception":
            future.set_exception(ValueError())
        case "cancel":
            future.cancel()
    turn(anyloop, 2)
    assert task.done()
    assert task.result() == how


@futures
@tasks
def test_cancelling_any_task_cancels_any_future(anyloop, future_type, task_type):
    async def main():
        await future

    future = future_type(loop=anyloop)
    task = task_type(main(), loop=anyloop)
    turn(anyloop)
    assert task.cancel("why")
    assert future.cancelled()
    turn(anyloop, 2)
    assert task.cancelled()
    with pytest.raises(asyncio.CancelledError, match="why"):
        task.result()


@tasks
@pytest.mark.parametrize("inner_type", TASKS, ids=name)
def test_any_task_awaits_any_task(anyloop, task_type, inner_type):
    async def inner():
        await asyncio.sleep(0)
        return 5

    async def outer():
        return await inner_type(inner(), loop=anyloop)

    task = task_type(outer(), loop=anyloop)
    assert run(anyloop, task) == 5


def test_gather_of_all_kinds(anyloop):
    async def value(number):
        await asyncio.sleep(0)
        return number

    async def main():
        made = [cls(value(n), loop=anyloop) for n, cls in enumerate(TASKS)]
        waiting = [cls(loop=anyloop) for cls in FUTURES]
        for number, future in enumerate(waiting):
            anyloop.call_soon(future.set_result, 10 + number)
        return await asyncio.gather(*made, *waiting)

    assert run(anyloop, main()) == [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]


@tasks
def test_run_until_complete_of_any_task(anyloop, task_type):
    async def value():
        return 8

    assert anyloop.run_until_complete(task_type(value(), loop=anyloop)) == 8


@futures
def test_run_until_complete_of_any_future(anyloop, future_type):
    future = future_type(loop=anyloop)
    anyloop.call_soon(future.set_result, 9)
    assert anyloop.run_until_complete(future) == 9


def test_our_task_on_stock_loop(stock_loop):
    async def main():
        await asyncio.sleep(0)
        future = hotloop.Future(loop=stock_loop)
        stock_loop.call_soon(future.set_result, 3)
        assert await future == 3
        await asyncio.sleep(0.001)
        assert asyncio.current_task() is task
        assert task in asyncio.all_tasks()
        return "ran"

    task = hotloop.Task(main(), loop=stock_loop)
    assert run(stock_loop, task) == "ran"


def test_our_task_on_stock_loop_cancelled(stock_loop):
    task = hotloop.Task(asyncio.sleep(1000), loop=stock_loop)
    turn(stock_loop)
    task.cancel("m")
    turn(stock_loop, 2)
    assert task.cancelled()


def test_our_future_callbacks_on_stock_loop(stock_loop):
    seen = []
    future = hotloop.Future(loop=stock_loop)
    for number in range(4):
        future.add_done_callback(lambda fut, n=number: seen.append(n))
    stock_loop.call_soon(seen.append, "first")
    future.set_result(None)
    stock_loop.call_soon(seen.append, "last")
    turn(stock_loop)
    assert seen == ["first", 0, 1, 2, 3, "last"]


def test_our_future_on_a_loop_of_a_subclass(backend):
    class Loop(hotloop.EventLoop): ...

    loop = Loop(backend)

    async def main():
        await asyncio.sleep(0.001)
        return 1

    assert run(loop, main()) == 1
    loop.close()


class MinimalLoop(asyncio.AbstractEventLoop):
    """Not a loop that runs; only what futures and tasks ask of one."""

    def __init__(self):
        self.queue = []

    def get_debug(self):
        return False

    def call_soon(self, callback, *args, context=None):
        self.queue.append((callback, args, context))

    def call_exception_handler(self, context):
        raise AssertionError(context)

    def turn(self):
        queue, self.queue = self.queue, []
        for callback, args, context in queue:
            context.run(callback, *args)


def test_our_objects_on_a_minimal_loop():
    loop = MinimalLoop()

    async def main():
        return await future

    future = hotloop.Future(loop=loop)
    task = hotloop.Task(main(), loop=loop)
    asyncio._set_running_loop(loop)
    try:
        loop.turn()
        future.set_result("minimal")
        loop.turn()
        loop.turn()
    finally:
        asyncio._set_running_loop(None)
    assert task.result() == "minimal"


# ---- concurrent futures ----


def test_wrap_future(anyloop):
    async def main():
        outer = concurrent.futures.Future()
        inner = asyncio.wrap_future(outer)
        assert type(inner) is type(anyloop.create_future())
        outer.set_result(4)
        assert await inner == 4
        failing = concurrent.futures.Future()
        failing.set_exception(KeyError("k"))
        with pytest.raises(KeyError):
            await asyncio.wrap_future(failing)
        pending = concurrent.futures.Future()
        wrapped = asyncio.wrap_future(pending)
        wrapped.cancel()
        await asyncio.sleep(0)
        assert pending.cancelled()

    run(anyloop, main())


def test_wrap_future_of_ours_is_itself(anyloop):
    future = anyloop.create_future()
    assert asyncio.wrap_future(future) is future
    assert asyncio.ensure_future(future, loop=anyloop) is future


def test_run_coroutine_threadsafe(anyloop):
    async def work(number):
        await asyncio.sleep(0)
        if number < 0:
            raise ValueError(number)
        return number * 2

    def thread():
        answers = [
            asyncio.run_coroutine_threadsafe(work(number), anyloop).result(60)
            for number in range(20)
        ]
        with pytest.raises(ValueError):
            asyncio.run_coroutine_threadsafe(work(-1), anyloop).result(60)
        return answers

    async def main():
        return await asyncio.to_thread(thread)

    assert run(anyloop, main()) == [number * 2 for number in range(20)]
    anyloop.run_until_complete(anyloop.shutdown_default_executor())


# ---- awaitables of one's own ----


class Blocking:
    """A future by protocol only."""

    _asyncio_future_blocking = False

    def __init__(self, loop):
        self._loop = loop
        self.callbacks = []
        self.finished = False
        self.cancels = 0

    def get_loop(self):
        return self._loop

    def add_done_callback(self, callback, *, context):
        self.callbacks.append((callback, context))

    def finish(self):
        self.finished = True
        for callback, context in self.callbacks:
            self._loop.call_soon(callback, self, context=context)

    def cancel(self, msg=None):
        self.cancels += 1
        return False

    def result(self):
        assert self.finished
        return "protocol"

    def __await__(self):
        if not self.finished:
            self._asyncio_future_blocking = True
            yield self
        return self.result()


@tasks
def test_future_by_protocol(anyloop, task_type):
    async def main():
        return await future

    future = Blocking(anyloop)
    task = task_type(main(), loop=anyloop)
    turn(anyloop)
    assert task._fut_waiter is future
    assert future._asyncio_future_blocking is False
    assert len(future.callbacks) == 1
    assert future.callbacks[0][1] is not None
    anyloop.call_soon(future.finish)
    turn(anyloop, 3)
    assert task.result() == "protocol"


def test_future_by_protocol_whose_result_raises(anyloop):
    class Failing(Blocking):
        def result(self):
            raise ZeroDivisionError

    async def main():
        with pytest.raises(ZeroDivisionError):
            await future
        return 1

    future = Failing(anyloop)
    task = anyloop.create_task(main())
    turn(anyloop)
    future.finish()
    turn(anyloop, 2)
    assert task.result() == 1


def test_future_by_protocol_is_cancelled_with_the_task(anyloop):
    async def main():
        await future

    future = Blocking(anyloop)
    task = anyloop.create_task(main())
    turn(anyloop)
    task.cancel()
    assert future.cancels == 1
    assert task._must_cancel is True
    future.finish()
    turn(anyloop, 2)
    assert task.cancelled()


def after_two_turns(task, reports):
    """What has become of it; it may be pending for ever, which nobody need be told of."""
    turn(task.get_loop(), 2)
    task._log_destroy_pending = False
    answer = task.done(), task.done() and repr(task.exception()), len(reports)
    reports.clear()
    asyncio.tasks._unregister_task(task)
    return answer


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("broken", ["get_loop", "add_done_callback"])
def test_future_by_protocol_that_is_broken(same, broken, reports):
    """asyncio reports it and leaves the task for ever pending: ours as well."""

    class Broken(Blocking):
        def __getattribute__(self, attribute):
            if attribute == broken:
                raise ZeroDivisionError
            return super().__getattribute__(attribute)

    def scenario(loop):
        async def main():
            await future

        future = Broken(loop)
        task = loop.create_task(main())
        return after_two_turns(task, reports)

    same(scenario)


def test_blocking_flag_none_means_no_future(anyloop):
    class Weird:
        _asyncio_future_blocking = None

        def __await__(self):
            yield self

    async def main():
        await Weird()

    task = anyloop.create_task(main())
    turn(anyloop, 2)
    assert type(task.exception()) is RuntimeError


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_blocking_flag_that_raises(same, reports):
    class Weird:
        @property
        def _asyncio_future_blocking(self):
            raise ZeroDivisionError

        def __await__(self):
            yield self

    def scenario(loop):
        async def main():
            await Weird()

        task = loop.create_task(main())
        return after_two_turns(task, reports)

    same(scenario)


def test_subclass_that_overrides_add_done_callback(anyloop):
    """What a subclass overrides is what a task calls."""
    base = type(anyloop.create_future())
    calls = []

    class Mine(base):
        def add_done_callback(self, fn, *, context=None):
            calls.append("add")
            super().add_done_callback(fn, context=context)

        def result(self):
            calls.append("result")
            return super().result()

    async def main():
        return await future

    future = Mine(loop=anyloop)
    task = anyloop.create_task(main())
    turn(anyloop)
    future.set_result(2)
    turn(anyloop, 2)
    assert task.result() == 2
    assert "add" in calls


def test_subclass_that_overrides_get_loop(anyloop, stock_loop, reports):
    base = type(anyloop.create_future())

    class Mine(base):
        def get_loop(self):
            return anyloop

    future = Mine(loop=stock_loop)

    async def main():
        return await future

    task = anyloop.create_task(main())
    turn(anyloop)
    if not task.done():
        future.set_result(1)
        turn(stock_loop)
        turn(anyloop, 2)
        if sys.version_info >= (3, 14):  # the task cannot be entered on a loop that does not run
            assert [type(record.exc_info[1]) for record in reports] == [RuntimeError]
            reports.clear()
            assert not task.done()
            task._log_destroy_pending = False
            asyncio.tasks._unregister_task(task)
            return
    assert task.done()
    outcome = type(task.exception())
    assert outcome in (type(None), RuntimeError)


def test_class_with_a_settable_blocking_flag(anyloop):
    base = type(anyloop.create_future())

    class Mine(base):
        _asyncio_future_blocking = False

    async def main():
        return await future

    future = Mine(loop=anyloop)
    task = anyloop.create_task(main())
    turn(anyloop)
    future.set_result("x") if not future.done() else None
    turn(anyloop, 2)
    assert task.done()
    task.exception()


# ---- coroutines that are no generators ----


class Hand:
    """A coroutine written by hand."""

    def __init__(self, *steps):
        self.steps = list(steps)
        self.thrown = []
        self.closed = False

    def send(self, value):
        assert value is None
        if not self.steps:
            raise StopIteration("end")
        return self.steps.pop(0)

    def throw(self, *args):
        self.thrown.append(args)
        raise args[0]

    def close(self):
        self.closed = True

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)


import collections.abc  # noqa: E402

collections.abc.Coroutine.register(Hand)


@tasks
def test_coroutine_by_protocol(anyloop, task_type):
    task = task_type(Hand(None, None), loop=anyloop)
    turn(anyloop)
    turn(anyloop)
    assert not task.done()
    turn(anyloop)
    assert task.result() == "end"


@tasks
def test_coroutine_by_protocol_is_cancelled(anyloop, task_type):
    hand = Hand(None)
    task = task_type(hand, loop=anyloop)
    turn(anyloop)
    task.cancel()
    turn(anyloop)
    assert task.cancelled()
    assert len(hand.thrown) == 1


def test_awaitable_over_an_iterator(anyloop):
    class Awaitable:
        def __await__(self):
            return iter([None, None, None])

    async def main():
        await Awaitable()
        return "iterated"

    assert run(anyloop, main()) == "iterated"


def test_awaitable_over_an_iterator_of_futures(anyloop):
    futures = [anyloop.create_future() for _ in range(3)]

    class Iterator:
        def __init__(self):
            self.left = list(futures)

        def __iter__(self):
            return self

        def __next__(self):
            if not self.left:
                raise StopIteration("all")
            future = self.left.pop(0)
            future._asyncio_future_blocking = True
            return future

    class Awaitable:
        def __await__(self):
            return Iterator()

    async def main():
        return await Awaitable()

    task = anyloop.create_task(main())
    for future in futures:
        turn(anyloop)
        assert task._fut_waiter is future
        future.set_result(None)
    turn(anyloop, 2)
    assert task.result() == "all"


def test_cancelled_in_an_iterator_without_throw(anyloop):
    class Awaitable:
        def __await__(self):
            return iter([None] * 5)

    async def main():
        await Awaitable()

    task = anyloop.create_task(main())
    turn(anyloop)
    task.cancel()
    turn(anyloop)
    assert task.cancelled()


def test_types_coroutine(anyloop):
    @types.coroutine
    def generator():
        got = yield
        assert got is None
        return 3

    async def main():
        return await generator()

    assert run(anyloop, main()) == 3


# ---- foreign loops ----


@futures
@tasks
def test_future_of_a_foreign_loop(anyloop, stock_loop, future_type, task_type):
    async def main():
        await future

    future = future_type(loop=stock_loop)
    task = task_type(main(), loop=anyloop)
    turn(anyloop, 2)
    assert type(task.exception()) is RuntimeError
    assert "attached to a different loop" in str(task.exception())
    assert not future._callbacks


def test_finished_future_of_a_foreign_loop(anyloop, stock_loop):
    async def main():
        return await future

    future = stock_loop.create_future()
    future.set_result(1)
    assert run(anyloop, main()) == 1


def test_ensure_future_of_a_foreign_loop(anyloop, stock_loop):
    with pytest.raises(ValueError):
        asyncio.ensure_future(stock_loop.create_future(), loop=anyloop)
    with pytest.raises(ValueError):
        anyloop.run_until_complete(stock_loop.create_future())


def test_gather_over_two_loops(anyloop, stock_loop):
    with pytest.raises(ValueError):
        asyncio.gather(anyloop.create_future(), stock_loop.create_future())


def test_task_factory_of_python_tasks(anyloop):
    anyloop.set_task_factory(lambda loop, coro, **kw: PyTask(coro, loop=loop, **kw))

    # From 3.14 on asyncio's two implementations keep a record of the current task each.
    current_task = asyncio.tasks._py_current_task

    async def child():
        await asyncio.sleep(0)
        return current_task()

    async def main():
        task = asyncio.create_task(child())
        assert isinstance(task, PyTask)
        assert await task is task
        return 1

    assert anyloop.run_until_complete(main()) == 1


def test_create_future_overridden_to_return_python_futures(anyloop):
    anyloop.create_future = lambda: PyFuture(loop=anyloop)

    async def main():
        queue = asyncio.Queue()
        anyloop.call_soon(queue.put_nowait, 6)
        async with asyncio.timeout(60):
            return await queue.get()

    assert anyloop.run_until_complete(main()) == 6
    del anyloop.create_future
