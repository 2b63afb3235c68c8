"""Task: what it makes of its coroutine, names, contexts, attributes."""

from __future__ import annotations

import asyncio
import gc
import inspect
import sys
import types
import weakref

import pytest
from helpers import outcome, run, turn

import hotloop


async def answer(value=None):
    return value


async def forever():
    await asyncio.get_running_loop().create_future()


def finish(loop, *tasks):
    """Cancels and awaits tasks, so that none is left."""
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))


def test_it_is_an_asyncio_task(anyloop, task_class, future_class):
    task = anyloop.create_task(answer(1))
    assert type(task) is task_class
    assert isinstance(task, asyncio.Task)
    assert isinstance(task, future_class)
    assert asyncio.isfuture(task)
    assert task.get_loop() is anyloop
    assert run(anyloop, task) == 1


def test_result_exception_cancel(anyloop):
    async def fail():
        raise ValueError("no")

    async def main():
        good, bad, gone = map(anyloop.create_task, [answer(5), fail(), forever()])
        await asyncio.sleep(0)
        gone.cancel("message")
        done, _ = await asyncio.wait([good, bad, gone])
        assert done == {good, bad, gone}
        assert good.result() == 5
        assert type(bad.exception()) is ValueError
        assert gone.cancelled()

    run(anyloop, main())


def test_exception_is_the_same_object_with_its_traceback(anyloop):
    error = ValueError()

    async def fail():
        raise error

    task = anyloop.create_task(fail())
    with pytest.raises(ValueError) as caught:
        run(anyloop, task)
    assert caught.value is error
    names = []
    step = error.__traceback__
    while step:
        names.append(step.tb_frame.f_code.co_name)
        step = step.tb_next
    assert names[-1] == "fail"


@pytest.mark.parametrize(
    "wrong", [None, 1, "coro", answer, object(), [], lambda: None], ids=lambda v: type(v).__name__
)
def test_what_is_no_coroutine_is_refused(anyloop, task_class, wrong):
    with pytest.raises(TypeError, match="a coroutine was expected, got"):
        task_class(wrong, loop=anyloop)
    with pytest.raises(TypeError):
        anyloop.create_task(wrong)


def test_a_future_is_no_coroutine(anyloop, task_class):
    future = anyloop.create_future()
    with pytest.raises(TypeError, match="a coroutine was expected"):
        task_class(future, loop=anyloop)


def test_constructor_arguments(anyloop, task_class):
    coro = forever()
    for args, kwargs in [((), {}), ((coro, anyloop), {}), ((coro,), {"loop": anyloop, "odd": 1})]:
        with pytest.raises(TypeError):
            task_class(*args, **kwargs)
    task = task_class(coro=coro, loop=anyloop)
    finish(anyloop, task)


def test_decorated_generator_is_no_coroutine(anyloop):
    @types.coroutine
    def old_style():
        yield

    with pytest.raises(TypeError, match="a coroutine was expected"):
        anyloop.create_task(old_style())


def test_starts_in_the_next_turn(anyloop):
    seen = []

    async def main():
        seen.append("task")

    task = anyloop.create_task(main())
    seen.append("made")
    turn(anyloop)
    assert seen == ["made", "task"]
    assert task.done()


def test_bare_yield_takes_a_turn(anyloop):
    @types.coroutine
    def pause():
        yield

    seen = []

    async def main():
        seen.append(1)
        await pause()
        seen.append(2)

    task = anyloop.create_task(main())
    turn(anyloop)
    assert seen == [1]
    turn(anyloop)
    assert seen == [1, 2]
    assert task.done()


@pytest.mark.parametrize("thing", [1, "text", object(), [], False, 0.0], ids=lambda v: repr(v)[:7])
def test_yielding_something_else_raises_in_the_coroutine(anyloop, thing):
    @types.coroutine
    def wrong():
        yield thing

    async def main():
        with pytest.raises(RuntimeError, match="Task got bad yield"):
            await wrong()
        return "goes on"

    assert run(anyloop, anyloop.create_task(main())) == "goes on"


def test_yielding_a_future_without_await(anyloop):
    @types.coroutine
    def wrong():
        yield future

    future = anyloop.create_future()

    async def main():
        with pytest.raises(RuntimeError, match=r"yield was used instead of yield from in task"):
            await wrong()

    run(anyloop, anyloop.create_task(main()))


def test_yielding_a_generator(anyloop):
    def generator():
        yield

    @types.coroutine
    def wrong():
        yield generator()

    async def main():
        with pytest.raises(
            RuntimeError, match=r"yield was used instead of yield from for generator"
        ):
            await wrong()

    run(anyloop, anyloop.create_task(main()))


def test_awaiting_itself(anyloop):
    async def main():
        with pytest.raises(RuntimeError, match="Task cannot await on itself"):
            await asyncio.current_task()
        return 1

    assert anyloop.run_until_complete(anyloop.create_task(main())) == 1


def test_future_of_another_loop(anyloop, factory_of_loops):
    other = factory_of_loops(asyncio.SelectorEventLoop)
    future = other.create_future()

    async def main():
        with pytest.raises(RuntimeError, match="attached to a different loop"):
            await future
        return 1

    assert run(anyloop, anyloop.create_task(main())) == 1


def test_stop_iteration_result(anyloop):
    async def main():
        return StopIteration(3)

    result = run(anyloop, anyloop.create_task(main()))
    assert type(result) is StopIteration
    assert result.value == 3


@pytest.mark.parametrize("value", [None, (), (1, 2), ValueError("v"), [1]], ids=repr)
def test_any_result(anyloop, value):
    assert run(anyloop, anyloop.create_task(answer(value))) is value


def test_raising_stop_iteration_becomes_runtime_error(anyloop):
    async def main():
        raise StopIteration(1)

    with pytest.raises(RuntimeError, match="coroutine raised StopIteration"):
        run(anyloop, anyloop.create_task(main()))


# ---- name, coroutine, context ----


def test_names(anyloop, task_class):
    named = anyloop.create_task(answer(), name="given")
    number = anyloop.create_task(answer(), name=7)
    default = anyloop.create_task(answer())
    assert named.get_name() == "given"
    assert number.get_name() == "7"
    assert default.get_name().startswith("Task-")
    default.set_name(("a", 1))
    assert default.get_name() == "('a', 1)"
    anyloop.run_until_complete(asyncio.gather(named, number, default))
    assert named.get_name() == "given"


def test_default_names_count_up(anyloop):
    tasks = [anyloop.create_task(answer()) for _ in range(3)]
    numbers = [int(task.get_name().removeprefix("Task-")) for task in tasks]
    assert numbers == [numbers[0], numbers[0] + 1, numbers[0] + 2]
    anyloop.run_until_complete(asyncio.gather(*tasks))


def test_name_that_cannot_be_made(anyloop, task_class, reports):
    class Bad:
        def __str__(self):
            raise ZeroDivisionError

    coro = answer()
    with pytest.raises(ZeroDivisionError):
        task_class(coro, loop=anyloop, name=Bad())
    coro.close()
    task = anyloop.create_task(answer(), name="kept")
    with pytest.raises(ZeroDivisionError):
        task.set_name(Bad())
    assert task.get_name() == "kept"
    run(anyloop, task)
    assert len(reports) <= 1  # the half-made task was pending when it was destroyed


def test_get_coro(anyloop):
    coro = answer()
    task = anyloop.create_task(coro)
    assert task.get_coro() is coro
    assert task._coro is coro
    run(anyloop, task)
    assert task.get_coro() is coro


def test_set_result_and_exception_are_refused(anyloop):
    task = anyloop.create_task(answer(2))
    with pytest.raises(RuntimeError, match="Task does not support set_result operation"):
        task.set_result(1)
    with pytest.raises(RuntimeError, match="Task does not support set_exception operation"):
        task.set_exception(ValueError())
    assert run(anyloop, task) == 2


def test_attributes_while_pending(anyloop):
    task = anyloop.create_task(forever())
    assert task._fut_waiter is None
    assert task._must_cancel is False
    assert task._log_destroy_pending is True
    turn(anyloop)
    assert isinstance(task._fut_waiter, asyncio.Future)
    assert task._fut_waiter._asyncio_future_blocking is False
    waiter = task._fut_waiter
    assert len(waiter._callbacks) == 1
    assert waiter._callbacks[0][1] is task.get_context()
    finish(anyloop, task)
    assert task._fut_waiter is None


@pytest.mark.parametrize("name", ["_coro", "_fut_waiter", "_must_cancel", "_state"])
def test_read_only_attributes(anyloop, name):
    task = anyloop.create_task(answer())
    with pytest.raises(AttributeError):
        setattr(task, name, None)
    run(anyloop, task)


def test_log_destroy_pending_is_settable(anyloop):
    task = anyloop.create_task(answer())
    task._log_destroy_pending = False
    assert task._log_destroy_pending is False
    with pytest.raises(AttributeError):
        del task._log_destroy_pending
    run(anyloop, task)


def test_the_waiters_callback_wakes_the_task(anyloop):
    """anyio and others take the wake-up out of the future and call it by themselves."""
    task = anyloop.create_task(forever())
    turn(anyloop)
    waiter = task._fut_waiter
    callback, _ = waiter._callbacks[0]
    assert callable(callback)
    assert getattr(callback, "__self__", task) is task
    assert waiter.remove_done_callback(callback) == 1
    assert not waiter._callbacks
    waiter.add_done_callback(callback)
    waiter.set_result(None)
    turn(anyloop, 2)
    assert task.done()


def test_weak_reference(anyloop):
    task = anyloop.create_task(answer())
    reference = weakref.ref(task)
    run(anyloop, task)
    assert reference() is task
    del task
    assert reference() is None


def test_finished_task_is_freed_without_gc(anyloop):
    class Probe: ...

    async def main(probe):
        await asyncio.sleep(0)

    probe = Probe()
    reference = weakref.ref(probe)
    gc.disable()
    try:
        task = anyloop.create_task(main(probe))
        del probe
        run(anyloop, task)
        del task
        turn(anyloop)
        assert reference() is None
    finally:
        gc.enable()


def test_the_loop_keeps_a_scheduled_task_alive(anyloop):
    seen = []

    async def main():
        seen.append(1)

    anyloop.create_task(main())
    gc.collect()
    turn(anyloop)
    assert seen == [1]


def test_the_awaited_future_keeps_the_task_alive(anyloop):
    future = anyloop.create_future()
    seen = []

    async def main():
        seen.append(await future)

    anyloop.create_task(main())
    turn(anyloop)
    gc.collect()
    future.set_result(9)
    turn(anyloop)
    assert seen == [9]


def test_generic_alias(task_class):
    assert task_class[str].__origin__ is task_class
    assert task_class[str].__args__ == (str,)


def test_init_twice(anyloop, task_class, reports):
    first, second = forever(), answer("second")
    task = task_class(first, loop=anyloop)
    if sys.version_info >= (3, 15):
        with pytest.raises(RuntimeError, match="Task object is already initialized"):
            task.__init__(second, loop=anyloop)
        second.close()
        task.cancel()
        turn(anyloop, 2)
        assert task.cancelled()
        return
    task.__init__(second, loop=anyloop)
    assert task.get_coro() is second
    first.close()
    assert run(anyloop, task) == "second"
    turn(anyloop)
    assert len(reports) <= 1  # the first start found it done


def test_object_made_without_init():
    """stock asyncio crashes in some of these."""
    task = hotloop.Task.__new__(hotloop.Task)
    for call in (
        task.get_loop,
        task.result,
        task.exception,
        lambda: task.add_done_callback(print),
        lambda: iter(task).send(None),
    ):
        with pytest.raises((RuntimeError, asyncio.InvalidStateError)):
            call()
    assert task.done() is False
    assert task.cancelled() is False
    for call in (task.get_coro, task.get_name, task.get_context, task.cancelling, task.uncancel):
        outcome(call)
    outcome(task.get_stack)
    outcome(task.cancel)
    outcome(repr, task)


def test_coroutine_that_is_running_already(anyloop):
    """Two tasks over one coroutine: the second one gets the interpreter's error."""
    coro = forever()
    one = anyloop.create_task(coro)
    two = anyloop.create_task(coro)
    turn(anyloop, 2)
    for task in (one, two):
        if task.done():
            with pytest.raises(RuntimeError):
                task.result()
    finish(anyloop, *[task for task in (one, two) if not task.done()])


def test_recursion_of_awaits(anyloop):
    async def deep(level):
        return 0 if level == 0 else 1 + await deep(level - 1)

    assert run(anyloop, deep(300)) == 300


def test_chain_of_tasks(anyloop):
    async def link(before):
        return 1 + (await before if before else 0)

    async def main():
        task = None
        for _ in range(5_000):
            task = anyloop.create_task(link(task))
        return await task

    assert run(anyloop, main()) == 5_000


def test_task_made_in_a_callback(anyloop):
    made = []
    anyloop.call_soon(lambda: made.append(anyloop.create_task(answer(4))))
    turn(anyloop)
    assert run(anyloop, made[0]) == 4


@pytest.mark.parametrize("where", ["before", "inside"])
def test_task_of_a_closed_loop(anyloop, where):
    coro = answer()
    anyloop.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        anyloop.create_task(coro)
    coro.close()


def test_task_factory(anyloop):
    made = []

    def factory(loop, coro, **kwargs):
        made.append((loop, kwargs))
        return asyncio.Task(coro, loop=loop, **kwargs)

    anyloop.set_task_factory(factory)
    assert anyloop.get_task_factory() is factory
    assert run(anyloop, anyloop.create_task(answer(1), name="n")) == 1
    assert all(loop is anyloop for loop, _ in made)
    anyloop.set_task_factory(None)
    assert anyloop.get_task_factory() is None


def test_task_factory_gets_asyncios_keywords(same):
    def scenario(loop):
        seen = []

        def factory(loop, coro, **kwargs):
            seen.append({key: type(value).__name__ for key, value in kwargs.items()})
            return asyncio.Task(coro, loop=loop, **kwargs)

        loop.set_task_factory(factory)
        import contextvars

        context = contextvars.copy_context()
        for kwargs in [{}, {"name": "x"}, {"context": context}, {"name": "x", "context": context}]:
            loop.run_until_complete(loop.create_task(answer(), **kwargs))
        return seen

    same(scenario)


@pytest.mark.parametrize("wrong", [1, "factory", object()])
def test_task_factory_must_be_callable(anyloop, wrong):
    with pytest.raises(TypeError, match="task factory must be a callable or None"):
        anyloop.set_task_factory(wrong)


def test_task_factory_that_raises(anyloop):
    def factory(loop, coro, **kwargs):
        raise ZeroDivisionError

    anyloop.set_task_factory(factory)
    coro = answer()
    with pytest.raises(ZeroDivisionError):
        anyloop.create_task(coro)
    coro.close()


def test_name_with_a_factory_is_set_on_what_it_returns(anyloop):
    anyloop.set_task_factory(lambda loop, coro, **kw: asyncio.Task(coro, loop=loop))
    task = anyloop.create_task(answer(), name="after")
    name = task.get_name()
    anyloop.set_task_factory(None)
    run(anyloop, task)
    assert name == "after" or name.startswith("Task-")


def test_signature_of_create_task(anyloop):
    coro = answer()
    with pytest.raises(TypeError):
        anyloop.create_task()
    with pytest.raises(TypeError):
        anyloop.create_task(coro, "name")
    with pytest.raises(TypeError):
        anyloop.create_task(coro, nonsense=1)
    assert inspect.getcoroutinestate(coro) == inspect.CORO_CREATED
    coro.close()
