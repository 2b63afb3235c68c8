"""Tasks that start at once: eager_task_factory, eager_start=True."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys

import pytest
from helpers import in_thread, plain, run, turn

var = contextvars.ContextVar("var", default="none")


@pytest.fixture
def eager(anyloop, task_class):
    """The loop with an eager factory that makes tasks of the class under test."""
    if task_class is asyncio.Task:
        anyloop.set_task_factory(asyncio.eager_task_factory)
    else:
        anyloop.set_task_factory(asyncio.create_eager_task_factory(task_class))
    return anyloop


async def immediate(value):
    return value


def test_runs_to_its_end_at_once(eager):
    async def main():
        task = eager.create_task(immediate(3))
        assert task.done()
        assert task.result() == 3
        if type(task) is not asyncio.Task or sys.version_info >= (3, 13):
            assert task.get_coro() is None  # 3.12's own crashes when asked
        assert await task == 3

    run(eager, main())


def test_unbound_get_coro_of_one_that_ended_at_once(loop):
    """asyncio's own method reads our fields, and 3.12's takes NULL for an object."""
    loop.set_task_factory(asyncio.eager_task_factory)

    async def main():
        task = loop.create_task(immediate(3))
        assert task.done()
        assert asyncio.Task.get_coro(task) is None
        assert "coro" not in repr(task) or "None" not in repr(task)

    run(loop, main())


def test_stops_at_the_first_suspension(eager):
    seen = []

    async def child():
        seen.append("began")
        await asyncio.sleep(0)
        seen.append("ended")
        return 1

    async def main():
        task = eager.create_task(child())
        assert seen == ["began"]
        assert not task.done()
        assert task.get_coro() is not None
        assert await task == 1

    run(eager, main())


def test_current_task_inside_and_after(eager):
    async def child():
        return asyncio.current_task()

    async def main():
        me = asyncio.current_task()
        task = eager.create_task(child())
        assert task.result() is task
        assert asyncio.current_task() is me

    run(eager, main())


def test_nested(eager):
    async def child(depth):
        me = asyncio.current_task()
        if depth:
            inner = eager.create_task(child(depth - 1))
            assert asyncio.current_task() is me
            await inner
        return depth

    async def main():
        assert await eager.create_task(child(20)) == 20

    run(eager, main())


def test_exception(eager):
    async def fail():
        raise ValueError("eager")

    async def main():
        task = eager.create_task(fail())
        assert task.done()
        with pytest.raises(ValueError, match="eager"):
            await task

    run(eager, main())


def test_cancelled_by_itself(eager):
    async def child():
        raise asyncio.CancelledError("self")

    async def main():
        task = eager.create_task(child())
        assert task.cancelled()

    run(eager, main())


def test_child_cancels_its_task_before_it_suspends(eager):
    async def child():
        asyncio.current_task().cancel("m")
        await asyncio.sleep(0)

    async def main():
        task = eager.create_task(child())
        assert not task.done()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert caught.value.args == ("m",)

    run(eager, main())


def test_base_exceptions_propagate(eager, reports):
    async def child(error):
        raise error

    async def main():
        for error in (KeyboardInterrupt(), SystemExit(3)):
            with pytest.raises(type(error)):
                eager.create_task(child(error))

    run(eager, main())
    assert len(reports) == 2  # nobody retrieved them from the tasks


def test_all_tasks_during_and_after(eager):
    async def child(suspend):
        inside.append(asyncio.current_task() in asyncio.all_tasks())
        if suspend:
            await asyncio.sleep(0)

    inside = []

    async def main():
        done = eager.create_task(child(False))
        pending = eager.create_task(child(True))
        assert done not in asyncio.all_tasks()
        assert pending in asyncio.all_tasks()
        await pending

    run(eager, main())
    assert inside == [True, True]


def test_done_callbacks_run_in_the_next_turn(eager):
    seen = []

    async def main():
        task = eager.create_task(immediate(1))
        task.add_done_callback(lambda task: seen.append(task.result()))
        assert seen == []
        await asyncio.sleep(0)
        assert seen == [1]

    run(eager, main())


def test_context_is_a_copy(eager):
    async def child():
        var.set("child")
        await asyncio.sleep(0)
        return var.get()

    async def main():
        var.set("main")
        task = eager.create_task(child())
        assert var.get() == "main"
        assert await task == "child"
        assert var.get() == "main"

    run(eager, main())


def test_given_context(eager):
    async def child():
        seen = var.get()
        var.set("child")
        return seen

    async def main():
        context = contextvars.copy_context()
        context.run(var.set, "given")
        task = eager.create_task(child(), context=context)
        assert task.result() == "given"
        assert context[var] == "child"
        assert task.get_context() is context

    run(eager, main())


def test_await_a_finished_future_does_not_suspend(eager):
    async def main():
        future = eager.create_future()
        future.set_result(1)

        async def child():
            return await future

        assert eager.create_task(child()).result() == 1

    run(eager, main())


def test_gather_of_eager_tasks(eager):
    async def main():
        return await asyncio.gather(*(immediate(n) for n in range(10)))

    assert run(eager, main()) == list(range(10))


def test_task_group(eager):
    async def main():
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(immediate(n)) for n in range(5)]
        return [task.result() for task in tasks]

    assert run(eager, main()) == list(range(5))


def test_eager_start_argument(anyloop, task_class):
    async def main():
        task = task_class(immediate(2), loop=anyloop, eager_start=True)
        assert task.done()
        assert task.result() == 2
        later = task_class(immediate(2), loop=anyloop, eager_start=False)
        assert not later.done()
        await later

    run(anyloop, main())


def test_eager_start_without_a_running_loop(anyloop, task_class):
    """Deferred or refused, but the same as asyncio on this version; in no case lost."""
    coro = immediate(1)
    try:
        task = task_class(coro, loop=anyloop, eager_start=True)
    except RuntimeError:
        coro.close()
    else:
        assert run(anyloop, task) == 1


def test_eager_without_running_loop_is_as_asyncio(same):
    import hotloop

    def scenario(loop):
        cls = asyncio.Task if isinstance(loop, asyncio.SelectorEventLoop) else hotloop.Task
        coro = immediate(1)
        try:
            task = cls(coro, loop=loop, eager_start=True)
        except RuntimeError as exc:
            coro.close()
            return str(exc)
        state = task.done()
        return state, loop.run_until_complete(task)

    same(scenario)


def test_create_task_keyword(anyloop):
    if sys.version_info < (3, 14):
        # 3.13.3+ passes keywords on; before that the keyword is unknown: both are asyncio's.
        kinds = set()
        for loop in (anyloop,):

            async def main(loop=loop):
                coro = immediate(1)
                try:
                    task = loop.create_task(coro, eager_start=True)
                except TypeError:
                    coro.close()
                    kinds.add("refused")
                else:
                    assert task.done()
                    kinds.add("eager")

            run(loop, main())
        assert len(kinds) == 1
        return

    async def main():
        assert anyloop.create_task(immediate(1), eager_start=True).done()

    run(anyloop, main())


def test_many_eager_tasks_leave_nothing(eager):
    async def main():
        for _ in range(1000):
            eager.create_task(immediate(None))
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(eager, main())
    turn(eager)


@pytest.mark.parametrize("waiting", [False, True], ids=["in a step", "in its poll"])
def test_in_another_thread_than_the_loops(eager, waiting, reports):
    """3.14 refuses it, earlier ones let it be; the loop's own record is not touched."""
    outcomes = []

    async def look():
        return asyncio.current_task(eager)

    def elsewhere():
        coro = look()
        try:
            task = eager.create_task(coro)
            outcomes.append(task.result() is task)
        except RuntimeError as exc:
            outcomes.append(plain(str(exc)).partition(" ")[2])
        coro.close()

    async def main():
        me = asyncio.current_task()
        if waiting:
            await asyncio.to_thread(elsewhere)
        else:
            with in_thread(elsewhere):
                pass
        assert asyncio.current_task() is me
        await asyncio.sleep(0)
        assert asyncio.current_task() is me

    run(eager, main())
    gc.collect()
    said = [record.getMessage().partition("\n")[0] for record in reports]
    reports.clear()
    if sys.version_info < (3, 14):
        assert (outcomes, said) == ([True], [])
    else:
        assert len(outcomes) == 1
        assert outcomes[0].endswith("is not the running loop")
        assert said == ["Task was destroyed but it is pending!"]
