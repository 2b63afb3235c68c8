"""What asyncio and tools see of our tasks: current_task, all_tasks, stacks, repr."""

from __future__ import annotations

import asyncio
import gc
import io
import sys
import threading
import weakref

import pytest
from helpers import plain, run, turn

import hotloop

all_tasks, current_task = asyncio.all_tasks, asyncio.current_task


async def forever():
    await asyncio.get_running_loop().create_future()


# ---- current_task ----


def test_current_task(anyloop):
    async def main():
        assert current_task() is current_task(anyloop) is task
        await asyncio.sleep(0)
        assert current_task() is task
        future = anyloop.create_future()
        anyloop.call_soon(future.set_result, None)
        await future
        assert current_task() is task

    task = anyloop.create_task(main())
    run(anyloop, task)
    assert current_task(anyloop) is None


def test_no_current_task_in_callbacks_and_between(anyloop):
    seen = []

    def look(*args):
        seen.append(current_task(anyloop))

    async def main():
        anyloop.call_soon(look)
        await asyncio.sleep(0)
        anyloop.call_later(0, look)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        future = anyloop.create_future()
        future.add_done_callback(look)
        future.set_result(None)
        await asyncio.sleep(0)

    task = anyloop.create_task(main())
    task.add_done_callback(look)
    run(anyloop, task)
    turn(anyloop)
    assert seen == [None] * 4


def test_no_current_task_while_a_finished_one_is_freed(anyloop):
    seen = []

    class Probe:
        def __del__(self):
            seen.append(current_task(anyloop) is not None)

    async def main(probe):
        await asyncio.sleep(0)
        return Probe()

    anyloop.create_task(main(Probe()))
    anyloop.create_task(asyncio.sleep(0))
    turn(anyloop, 4)
    assert len(seen) == 2
    assert seen[1] is False  # the result goes with the task


def test_no_current_task_in_the_exception_handler(anyloop):
    seen = []
    anyloop.set_exception_handler(lambda loop, context: seen.append(current_task(anyloop)))

    async def fail():
        raise ValueError

    anyloop.create_task(fail())
    anyloop.create_task(asyncio.sleep(0))
    turn(anyloop, 2)
    gc.collect()
    anyloop.set_exception_handler(None)
    assert seen == [None]


def test_current_task_after_an_interrupt(anyloop):
    async def main():
        raise KeyboardInterrupt

    task = anyloop.create_task(main())
    with pytest.raises(KeyboardInterrupt):
        anyloop.run_forever()
    assert current_task(anyloop) is None
    with pytest.raises(KeyboardInterrupt):
        task.result()


def test_current_task_of_loops_in_threads(anyloop, stock_loop):
    seen = []

    async def main(loop):
        seen.append(current_task() is not None)
        seen.append(current_task(stock_loop if loop is anyloop else anyloop))

    thread = threading.Thread(target=stock_loop.run_until_complete, args=(main(stock_loop),))
    thread.start()
    thread.join()
    anyloop.run_until_complete(main(anyloop))
    assert seen == [True, None, True, None]


def test_enter_and_leave_task(anyloop):
    task = anyloop.create_task(asyncio.sleep(0))
    other = anyloop.create_task(asyncio.sleep(0))
    enter, leave = asyncio.tasks._enter_task, asyncio.tasks._leave_task

    async def nothing():
        pass

    def callback():
        enter(anyloop, task)
        assert current_task(anyloop) is task
        with pytest.raises(RuntimeError, match="Cannot enter into task"):
            enter(anyloop, other)
        refusal = "does not match the current task|Invalid attempt to leave task"
        with pytest.raises(RuntimeError, match=refusal):
            leave(anyloop, other)
        leave(anyloop, task)
        assert current_task(anyloop) is None
        with pytest.raises(RuntimeError):
            leave(anyloop, task)
        ok.append(1)

    ok = []
    anyloop.call_soon(callback)
    turn(anyloop, 3)
    assert ok == [1]
    assert task.done()
    assert other.done()


def test_stepping_over_a_task_that_was_entered(same, reports):
    """Someone entered a task and did not leave: the next step is refused, the loop goes on."""

    def scenario(loop):
        seen = []

        async def other():
            seen.append("stepped")

        entered = loop.create_task(asyncio.sleep(0))
        turn(loop, 2)

        def enter():
            asyncio.tasks._enter_task(loop, entered)
            refused.append(loop.create_task(other()))

        def leave():
            if current_task(loop) is entered:
                asyncio.tasks._leave_task(loop, entered)
                left.append(entered)

        refused, left = [], []
        loop.call_soon(enter)
        turn(loop)
        try:
            turn(loop)
        except RuntimeError:
            seen.append("raised")
        loop.call_soon(leave)  # 3.14 lets only a running loop look and leave
        turn(loop)
        seen.append(len(left))
        seen.append(len(reports))
        reports.clear()
        turn(loop, 2)
        for task in all_tasks(loop):
            task._log_destroy_pending = False
            task.get_coro().close()
            asyncio.tasks._unregister_task(task)
        return seen

    same(scenario)


def test_swap_current_task(anyloop):
    swap = asyncio.tasks._swap_current_task

    async def main():
        me = current_task()
        assert swap(anyloop, None) is me
        assert current_task() is None
        assert swap(anyloop, me) is None
        assert current_task() is me
        other = anyloop.create_task(asyncio.sleep(0))
        assert swap(anyloop, other) is me
        assert current_task() is other
        assert swap(anyloop, me) is other
        await other

    run(anyloop, main())


def test_swapped_current_task_does_not_leak_into_callbacks(anyloop):
    seen = []

    async def main():
        me = current_task()
        asyncio.tasks._swap_current_task(anyloop, None)
        asyncio.tasks._swap_current_task(anyloop, me)
        anyloop.call_soon(lambda: seen.append(current_task(anyloop)))
        await asyncio.sleep(0)

    anyloop.run_until_complete(main())
    assert seen == [None]


# ---- all_tasks ----


def test_all_tasks(anyloop):
    async def main():
        assert all_tasks() == {current_task()}
        tasks = {anyloop.create_task(forever()) for _ in range(5)}
        assert all_tasks() == tasks | {current_task()}
        await asyncio.sleep(0)
        assert all_tasks(anyloop) == tasks | {current_task()}
        gone = tasks.pop()
        gone.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert all_tasks() == tasks | {current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert all_tasks() == {current_task()}

    anyloop.run_until_complete(main())
    assert all_tasks(anyloop) == set()


def test_all_tasks_of_each_loop(anyloop, stock_loop):
    ours = anyloop.create_task(asyncio.sleep(0))
    theirs = stock_loop.create_task(asyncio.sleep(0))
    assert all_tasks(anyloop) == {ours}
    assert all_tasks(stock_loop) == {theirs}
    turn(anyloop, 2)
    turn(stock_loop, 2)
    assert all_tasks(anyloop) == all_tasks(stock_loop) == set()


def test_all_tasks_does_not_keep_tasks_alive(anyloop):
    task = anyloop.create_task(asyncio.sleep(0))
    turn(anyloop, 2)
    reference = weakref.ref(task)
    del task
    assert reference() is None


def test_all_tasks_from_another_thread(anyloop):
    async def main():
        tasks = [anyloop.create_task(forever()) for _ in range(3)]
        await asyncio.sleep(0)
        found = await asyncio.to_thread(all_tasks, anyloop)
        assert found == {*tasks, current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    anyloop.run_until_complete(main())
    anyloop.run_until_complete(anyloop.shutdown_default_executor())


def test_register_and_unregister(anyloop):
    class Stranger:
        def __init__(self):
            self.loop = anyloop

        def done(self):
            return False

        def get_loop(self):
            return self.loop

    if sys.version_info >= (3, 14):
        Stranger._loop = anyloop
    stranger = Stranger()
    asyncio.tasks._register_task(stranger)
    assert stranger in all_tasks(anyloop)
    asyncio.tasks._unregister_task(stranger)
    assert stranger not in all_tasks(anyloop)


def test_unregistered_task_is_not_listed_and_still_runs(anyloop):
    task = anyloop.create_task(asyncio.sleep(0, 5))
    asyncio.tasks._unregister_task(task)
    assert task not in all_tasks(anyloop)
    asyncio.tasks._register_task(task)
    assert task in all_tasks(anyloop)
    asyncio.tasks._register_task(task)
    asyncio.tasks._unregister_task(task)
    assert task not in all_tasks(anyloop)
    turn(anyloop, 2)
    assert task.result() == 5


def test_all_tasks_with_many_made_and_freed(loop):
    async def main():
        for _ in range(200):
            tasks = [loop.create_task(asyncio.sleep(0)) for _ in range(10)]
            assert len(all_tasks()) == 11
            await asyncio.gather(*tasks)
            assert all_tasks() == {current_task()}

    loop.run_until_complete(main())


def test_the_scheduled_tasks_set_as_tools_use_it(anyloop):
    """aiomonitor and others look at the set itself."""
    scheduled = getattr(asyncio.tasks, "_scheduled_tasks", None)
    if sys.version_info >= (3, 14):
        pytest.skip("from 3.14 on only the tasks of Python code are in it")
    task = anyloop.create_task(forever())
    assert task in set(asyncio.all_tasks(anyloop))
    for found in (list(scheduled), len(scheduled) > 0):
        assert found
    task.cancel()
    turn(anyloop, 2)
    assert task.done()
    del task
    assert all_tasks(anyloop) == set()


# ---- stacks ----


async def inner():
    await asyncio.get_running_loop().create_future()


async def outer():
    await inner()


def stack_of(task, **kwargs):
    return [(frame.f_code.co_name, frame.f_lineno) for frame in task.get_stack(**kwargs)]


def test_get_stack_of_a_suspended_task(same):
    def scenario(loop):
        task = loop.create_task(outer())
        seen = [stack_of(task)]
        turn(loop)
        seen += [stack_of(task), stack_of(task, limit=1), stack_of(task, limit=0)]
        task.cancel()
        turn(loop, 2)
        return [*seen, stack_of(task)]

    assert len(same(scenario)[1]) == 1


def test_get_stack_of_a_failed_task(same):
    async def deep(level):
        if level:
            await deep(level - 1)
        raise ValueError

    def scenario(loop):
        task = loop.create_task(deep(5))
        turn(loop)
        task.exception()
        return [stack_of(task, limit=limit) for limit in (None, 1, 3, 100)]

    assert len(same(scenario)[0]) == 6


def test_get_stack_of_the_running_task(same):
    def scenario(loop):
        async def main():
            return stack_of(current_task())[-1][0]

        return loop.run_until_complete(main())

    assert same(scenario) == "main"


def test_print_stack(same):
    def scenario(loop):
        task = loop.create_task(outer())
        turn(loop)
        waiting = io.StringIO()
        task.print_stack(file=waiting)
        task.cancel()
        turn(loop, 2)
        cancelled = io.StringIO()
        task.print_stack(file=cancelled, limit=1)
        failed = io.StringIO()

        async def fail():
            raise ValueError("printed")

        task = loop.create_task(fail())
        turn(loop)
        task.exception()
        task.print_stack(limit=5, file=failed)
        return [plain(file.getvalue()) for file in (waiting, cancelled, failed)]

    assert "in outer" in same(scenario)[0]


def test_print_stack_to_stderr(anyloop, capsys):
    task = anyloop.create_task(outer())
    turn(anyloop)
    task.print_stack()
    printed = capsys.readouterr()
    assert "Stack for <Task" in printed.out + printed.err
    assert "in outer" in printed.err
    task.cancel()
    turn(anyloop, 2)


def test_stack_arguments(anyloop):
    task = anyloop.create_task(forever())
    turn(anyloop)
    with pytest.raises(TypeError):
        task.get_stack(1)
    with pytest.raises(TypeError):
        task.print_stack(1)
    with pytest.raises(TypeError):
        task.get_stack(other=1)
    task.cancel()
    turn(anyloop)


# ---- repr ----


def test_repr_of_futures(same):
    def named(fut): ...

    def scenario(loop):
        futures = [loop.create_future() for _ in range(8)]
        _pending, result, text, failed, cancelled, one, two, many = futures
        result.set_result(4)
        text.set_result("x" * 500)
        failed.set_exception(ValueError("v"))
        failed.exception()
        cancelled.cancel()
        one.add_done_callback(named)
        for _ in range(2):
            two.add_done_callback(named)
        for _ in range(5):
            many.add_done_callback(named)
        return [plain(repr(future)) for future in futures]

    assert same(scenario)[0] == "<Future pending>"


def test_repr_of_tasks(same):
    def scenario(loop):
        async def fail():
            raise KeyError("k")

        task = loop.create_task(outer(), name="named")
        seen = [repr(task)]
        turn(loop)
        seen.append(repr(task))
        task.add_done_callback(print)
        seen.append(repr(task))
        task.cancel()
        seen.append(repr(task))
        turn(loop, 2)
        seen.append(repr(task))
        failed = loop.create_task(fail())
        turn(loop)
        failed.exception()
        seen.append(repr(failed))
        cancelling = loop.create_task(outer())
        cancelling.cancel()
        seen.append(repr(cancelling))
        turn(loop)
        return [plain(text) for text in seen]

    same(scenario)


def test_repr_in_debug_mode(same):
    def scenario(loop):
        loop.set_debug(True)
        future = loop.create_future()
        task = loop.create_task(outer())
        loop.set_debug(False)
        seen = [repr(future), repr(task)]
        task.cancel()
        turn(loop)
        return ["created at" in text for text in seen]

    assert same(scenario) == [True, True]


def test_repr_of_subclasses(anyloop, future_class, task_class):
    class Mine(future_class): ...

    class MyTask(task_class): ...

    future = Mine(loop=anyloop)
    assert repr(future) == "<Mine pending>"
    task = MyTask(asyncio.sleep(0), loop=anyloop, name="n")
    assert repr(task).startswith("<MyTask pending name='n' coro=<sleep() running at ")
    turn(anyloop, 2)


def test_repr_that_recurses(anyloop):
    future = anyloop.create_future()
    future.set_result([future])
    assert "..." in repr(future) or "Future" in repr(future)
    future.result().clear()


def test_repr_with_a_result_whose_repr_raises(anyloop):
    class Bad:
        def __repr__(self):
            raise ZeroDivisionError

    future = anyloop.create_future()
    future.set_result(Bad())
    repr(future)  # reprlib speaks for it


def test_repr_waiting_for(anyloop):
    async def wait(inner):
        await inner

    inner_task = anyloop.create_task(forever(), name="inner")
    task = anyloop.create_task(wait(inner_task))
    turn(anyloop, 2)
    assert "wait_for=<Task pending name='inner'" in repr(task)
    assert "cb=[" in repr(inner_task)
    assert "wakeup" in repr(inner_task)
    task.cancel()
    turn(anyloop, 3)


def test_names_of_the_types():
    assert hotloop.Task.__name__ == "Task"
    assert hotloop.Future.__name__ == "Future"
    assert hotloop.Task.__module__.startswith("hotloop")
    assert hotloop.Future.__module__.startswith("hotloop")
    assert issubclass(hotloop.Task, hotloop.Future)
    assert issubclass(hotloop.Task, asyncio.Task)
    for cls in (hotloop.EventLoop, hotloop.Future, hotloop.Task, hotloop.Handle):
        assert cls.__doc__


@pytest.mark.skipif(sys.version_info < (3, 14), reason="call graphs came with 3.14")
def test_call_graph(anyloop):
    async def main():
        task = anyloop.create_task(outer(), name="child")

        async def waiter():
            await task

        waiting = anyloop.create_task(waiter(), name="parent")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        graph = asyncio.capture_call_graph(task)
        assert [entry.future.get_name() for entry in graph.awaited_by] == ["parent"]
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    anyloop.run_until_complete(main())


@pytest.mark.parametrize("what", ["finished", "callback removed", "nothing"])
@pytest.mark.parametrize("base", [hotloop.Future, hotloop.Task])
def test_repr_of_what_another_thread_finishes(loop, base, what):
    """asyncio's function reads the callbacks twice: between the two they may go."""

    class Seen(base):
        @property
        def _callbacks(self):
            shown = super()._callbacks
            looks.append(shown)
            if what == "nothing":
                return 1  # has no len() either
            if len(looks) == 1:
                self.remove_done_callback(called)
                if what == "finished":
                    future.cancel()
            return shown

    called = asyncio.Future.cancelled
    looks = []
    future = Seen(loop=loop) if base is hotloop.Future else Seen(asyncio.sleep(0), loop=loop)
    future.add_done_callback(called)
    if what == "nothing":
        with pytest.raises(TypeError):
            repr(future)
        assert len(looks) == 2
    else:
        ended = "cancelled" if base is hotloop.Future else "cancelling"
        assert (ended if what == "finished" else "pending") in repr(future)
        assert looks[1:] == [None, None]
    future.cancel()
    turn(loop, 2)
