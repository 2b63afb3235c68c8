"""Cancelling tasks and futures, in every state."""

from __future__ import annotations

import asyncio

import pytest
from helpers import run, turn


async def forever():
    await asyncio.get_running_loop().create_future()


def cancelled_args(task):
    try:
        task.result()
    except asyncio.CancelledError as exc:
        return exc.args


def test_before_the_first_step(anyloop):
    ran = []

    async def main():
        ran.append(1)

    task = anyloop.create_task(main())
    assert task.cancel("early") is True
    assert task._must_cancel is True
    assert not task.done()
    turn(anyloop)
    assert task.cancelled()
    assert ran == []
    assert cancelled_args(task) == ("early",)


def test_while_it_waits_for_a_future(anyloop):
    task = anyloop.create_task(forever())
    turn(anyloop)
    waiter = task._fut_waiter
    assert task.cancel("m")
    assert waiter.cancelled()
    assert task._must_cancel is False
    assert not task.done()
    turn(anyloop)
    assert task.cancelled()
    assert cancelled_args(task) == ("m",)


def test_while_its_wakeup_is_queued(anyloop):
    """The future has its result already: the task is cancelled with its next step."""
    got = []

    async def main():
        try:
            got.append(await future)
        except asyncio.CancelledError:
            got.append("cancelled")
            raise

    future = anyloop.create_future()
    task = anyloop.create_task(main())
    turn(anyloop)
    future.set_result("result")
    assert task.cancel()
    assert task._must_cancel is True
    turn(anyloop)
    assert got == ["cancelled"]
    assert task.cancelled()


def test_while_its_step_is_queued(anyloop):
    seen = []

    async def main():
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError as exc:
            seen.append(exc.args)
            raise

    task = anyloop.create_task(main())
    turn(anyloop)
    assert task._fut_waiter is None
    task.cancel(1)
    turn(anyloop)
    assert task.cancelled()
    assert seen == [(1,)]


def test_from_inside(anyloop):
    steps = []

    async def main():
        steps.append(asyncio.current_task().cancel("inside"))
        steps.append("still here")
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError as exc:
            steps.append(exc.args)
            raise

    task = anyloop.create_task(main())
    turn(anyloop, 2)
    assert steps == [True, "still here", ("inside",)]
    assert task.cancelled()


def test_from_inside_before_a_future(anyloop):
    async def main():
        asyncio.current_task().cancel()
        await future

    future = anyloop.create_future()
    task = anyloop.create_task(main())
    turn(anyloop, 2)
    assert task.cancelled()
    assert future.cancelled()


def test_from_inside_and_then_return(anyloop):
    async def main():
        asyncio.current_task().cancel()
        return 1

    task = anyloop.create_task(main())
    turn(anyloop, 2)
    assert task.cancelled()


def test_from_inside_and_then_raise(anyloop):
    async def main():
        asyncio.current_task().cancel()
        raise ValueError

    task = anyloop.create_task(main())
    turn(anyloop, 2)
    assert type(task.exception()) is ValueError


def test_after_the_end(anyloop):
    async def main():
        return 1

    task = anyloop.create_task(main())
    run(anyloop, task)
    assert task.cancel() is False
    assert task.cancelling() == 0
    assert task.result() == 1


def test_suppressed(anyloop):
    async def main():
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            pass
        await asyncio.sleep(0)
        return "survived"

    task = anyloop.create_task(main())
    turn(anyloop)
    task.cancel()
    assert run(anyloop, task) == "survived"
    assert task.cancelling() == 1


def test_another_exception_instead(anyloop):
    async def main():
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            raise KeyError("instead") from None

    task = anyloop.create_task(main())
    turn(anyloop)
    task.cancel()
    with pytest.raises(KeyError):
        run(anyloop, task)
    assert not task.cancelled()


def test_cancelling_and_uncancel_count(anyloop):
    task = anyloop.create_task(forever())
    turn(anyloop)
    assert task.cancelling() == 0
    assert task.uncancel() == 0
    task.cancel()
    task.cancel()
    assert task.cancelling() == 2
    assert task.uncancel() == 1
    assert task.uncancel() == 0
    assert task.uncancel() == 0
    assert task.cancelling() == 0
    turn(anyloop)
    assert task.cancelled()


def test_uncancel_to_zero_takes_back_what_is_not_delivered(same):
    """3.13 clears the pending cancellation, 3.12 does not: as asyncio on this version."""

    def scenario(loop):
        seen = []

        async def main():
            me = asyncio.current_task()
            me.cancel()
            me.uncancel()
            seen.append(me._must_cancel)
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                seen.append("cancelled")

        loop.run_until_complete(main())
        return seen

    same(scenario)


@pytest.mark.parametrize("message", [None, "text", 5, ("a", "b"), ValueError("v")], ids=repr)
@pytest.mark.parametrize("when", ["new", "waiting", "ready"])
def test_messages(anyloop, message, when):
    async def main():
        if when == "ready":
            await asyncio.sleep(0)
        else:
            await anyloop.create_future()

    task = anyloop.create_task(main())
    if when != "new":
        turn(anyloop)
    task.cancel(message)
    turn(anyloop, 2)
    assert cancelled_args(task) == (() if message is None else (message,))


def test_the_last_message_wins_while_it_is_pending(same):
    def scenario(loop):
        task = loop.create_task(forever())
        task.cancel("one")
        task.cancel("two")
        turn(loop)
        other = loop.create_task(forever())
        turn(loop)
        other.cancel("one")
        other.cancel("two")
        turn(loop)
        return cancelled_args(task), cancelled_args(other), other.cancelling()

    same(scenario)


def test_through_a_chain(anyloop):
    async def middle(inner):
        await inner

    inner = anyloop.create_task(forever())
    middles = anyloop.create_task(middle(inner))
    outer = anyloop.create_task(middle(middles))
    turn(anyloop, 2)
    outer.cancel("deep")
    turn(anyloop, 4)
    assert inner.cancelled()
    assert middles.cancelled()
    assert outer.cancelled()
    assert cancelled_args(outer) == ("deep",)


def test_deep_chain_of_cancels(anyloop):
    async def wait_for(inner):
        await inner

    async def main():
        task = anyloop.create_task(forever())
        tasks = [task]
        for _ in range(200):
            task = anyloop.create_task(wait_for(task))
            tasks.append(task)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)

    run(anyloop, main())


def test_circle_of_tasks(anyloop):
    """a awaits b awaits a: cancelling ends in RecursionError or in a cancellation, not a crash."""

    async def wait(name):
        await tasks[name]

    tasks = {}
    tasks["a"] = anyloop.create_task(wait("b"))
    tasks["b"] = anyloop.create_task(wait("a"))
    turn(anyloop, 2)
    with pytest.raises(RecursionError):
        tasks["a"].cancel()
    for task in tasks.values():
        task._log_destroy_pending = False
    # break the circle by hand so that nothing is left pending
    a, b = tasks["a"], tasks["b"]
    for waiter, owner in ((a, b), (b, a)):
        for callback, _ in list(waiter._callbacks or ()):
            waiter.remove_done_callback(callback)
        assert owner is not waiter
    tasks.clear()
    for task in (a, b):
        task.get_coro().close()
        asyncio.tasks._unregister_task(task)


def test_waiter_whose_cancel_refuses(anyloop):
    class Stubborn(asyncio.Future):
        def cancel(self, msg=None):
            return False

    async def main():
        await waiter

    waiter = Stubborn(loop=anyloop)
    task = anyloop.create_task(main())
    turn(anyloop)
    assert task.cancel() is True
    assert task._must_cancel is True
    turn(anyloop)
    assert not task.done()
    waiter.set_result(None)
    turn(anyloop)
    assert task.cancelled()


def test_waiter_whose_cancel_raises(anyloop):
    class Bad(asyncio.Future):
        def cancel(self, msg=None):
            raise ZeroDivisionError

    async def main():
        await waiter

    waiter = Bad(loop=anyloop)
    task = anyloop.create_task(main())
    turn(anyloop)
    with pytest.raises(ZeroDivisionError):
        task.cancel()
    waiter.set_result(None)
    turn(anyloop)
    assert task.done()


def test_shield(anyloop):
    async def main():
        inner = anyloop.create_task(asyncio.sleep(0.002, "inner"))
        outer = anyloop.create_task(wait(asyncio.shield(inner)))
        await asyncio.sleep(0)
        outer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await outer
        assert not inner.done()
        return await inner

    async def wait(awaitable):
        return await awaitable

    assert run(anyloop, main()) == "inner"


def test_cancelled_error_raised_by_the_coroutine(anyloop):
    async def main():
        raise asyncio.CancelledError("own", 2)

    task = anyloop.create_task(main())
    turn(anyloop)
    assert task.cancelled()
    assert cancelled_args(task) == ("own", 2)


def test_subclass_of_cancelled_error(same):
    class Mine(asyncio.CancelledError): ...

    def scenario(loop):
        async def main():
            raise Mine("own")

        task = loop.create_task(main())
        turn(loop)
        try:
            task.result()
        except asyncio.CancelledError as exc:
            return task.cancelled(), type(exc).__name__, exc.args

    same(scenario)


def test_traceback_of_the_cancellation(same):
    """The first result() shows where the coroutine was; later ones do not grow it."""
    import traceback

    def scenario(loop):
        async def inner():
            await asyncio.sleep(1000)

        async def main():
            await inner()

        task = loop.create_task(main())
        turn(loop)
        task.cancel()
        turn(loop, 2)
        seen = []
        for _ in range(2):
            try:
                task.result()
            except asyncio.CancelledError as exc:
                names = [frame.name for frame in traceback.extract_tb(exc.__traceback__)]
                seen.append((names, type(exc.__context__).__name__))
        return seen

    same(scenario)


def test_timeout_and_outside_cancel_are_told_apart(anyloop):
    async def child():
        async with asyncio.timeout(1000):
            await asyncio.sleep(1000)

    async def main():
        task = anyloop.create_task(child())
        await asyncio.sleep(0)
        task.cancel("outside")
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelling() == 1
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await asyncio.sleep(1000)
        assert asyncio.current_task().cancelling() == 0

    run(anyloop, main())


def test_cancel_all_at_the_end_of_runner(backend):
    import hotloop

    seen = []

    async def child():
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def main():
        for _ in range(3):
            asyncio.create_task(child())
        await asyncio.sleep(0)

    hotloop.run(main(), backend=backend)
    assert seen == ["cancelled"] * 3


def test_cancel_with_a_keyword(anyloop):
    task = anyloop.create_task(forever())
    turn(anyloop)
    with pytest.raises(TypeError):
        task.cancel("a", "b")
    with pytest.raises(TypeError):
        task.cancel(message="x")
    task.cancel(msg="x")
    turn(anyloop)
    assert cancelled_args(task) == ("x",)


def test_task_that_cancels_another_which_cancels_it(anyloop):
    async def main(other):
        try:
            await asyncio.sleep(1000)
        finally:
            tasks[other].cancel()

    tasks = {}
    tasks["a"] = anyloop.create_task(main("b"))
    tasks["b"] = anyloop.create_task(main("a"))
    turn(anyloop)
    tasks["a"].cancel()
    turn(anyloop, 4)
    assert tasks["a"].cancelled()
    assert tasks["b"].cancelled()
