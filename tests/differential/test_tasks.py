"""Tasks and futures: cancelling, waiting for many, ends, what is reported and what they show."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import sys
import weakref
from typing import Any

import pytest
from duet import Recorder, scenario

VAR: contextvars.ContextVar[str] = contextvars.ContextVar("VAR", default="none")


class Boom(Exception):
    pass


async def sleeper(rec: Recorder, name: str, turns: float, end: Any = None) -> Any:
    note = rec.party(name)
    try:
        note("begins", VAR.get())
        await asyncio.sleep(turns)
        note("slept")
    except asyncio.CancelledError as exc:
        note("cancelled", exc)
        raise
    if isinstance(end, Exception):
        raise end
    return end


async def stubborn(rec: Recorder, name: str, times: int) -> str:
    note = rec.party(name)
    for nth in range(times):
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError as exc:
            note(nth, exc)
    return "lived"


# ---- cancelled after every turn ----


@scenario(clock=True, cancel=True)
async def test_sleep(rec: Recorder) -> str:
    for nth in range(3):
        rec.note(nth)
        await asyncio.sleep(0)
    await asyncio.sleep(0.3)
    return "end"


@scenario(clock=True, cancel=True)
async def test_sleep_with_result_and_odd_delays(rec: Recorder) -> None:
    for delay in (0, -1, 0.0, 1e-9, 0.125, 0.25):
        rec.note(delay, await asyncio.sleep(delay, delay))
    with rec.raises("nan"):
        await asyncio.sleep(float("nan"))


@scenario(clock=True, cancel=True)
async def test_gather(rec: Recorder) -> Any:
    return await asyncio.gather(
        sleeper(rec, "a", 0.2, 1), sleeper(rec, "b", 0.1, 2), sleeper(rec, "c", 0.3, 3)
    )


@scenario(clock=True, cancel=True)
async def test_gather_with_exceptions(rec: Recorder) -> Any:
    return await asyncio.gather(
        sleeper(rec, "a", 0.2, Boom("a")),
        sleeper(rec, "b", 0.1, 2),
        sleeper(rec, "c", 0.3, Boom("c")),
        return_exceptions=True,
    )


@scenario(clock=True, cancel=True)
async def test_gather_that_fails(rec: Recorder) -> Any:
    try:
        return await asyncio.gather(
            sleeper(rec, "a", 0.1, Boom("a")), sleeper(rec, "b", 0.3), sleeper(rec, "c", 0.2)
        )
    finally:
        rec.note("waits")
        await asyncio.sleep(0.5)


@scenario(clock=True, cancel=True)
async def test_gather_of_nothing_and_of_doubles(rec: Recorder) -> Any:
    rec.note(await asyncio.gather())
    task = asyncio.ensure_future(sleeper(rec, "a", 0.1, 1))
    return await asyncio.gather(task, task, asyncio.gather(task))


@scenario(clock=True, cancel=True)
async def test_gather_whose_child_is_cancelled(rec: Recorder) -> Any:
    one = asyncio.ensure_future(sleeper(rec, "a", 1))
    two = asyncio.ensure_future(sleeper(rec, "b", 0.4))
    asyncio.get_running_loop().call_later(0.2, one.cancel, "child")
    try:
        return await asyncio.gather(one, two)
    finally:
        rec.note(one.cancelled(), two.done())


@scenario(clock=True, cancel=True)
@pytest.mark.parametrize("when", ["FIRST_COMPLETED", "FIRST_EXCEPTION", "ALL_COMPLETED"])
async def test_wait(rec: Recorder, when: str) -> None:
    tasks = [
        asyncio.ensure_future(sleeper(rec, name, delay, end))
        for name, delay, end in (("a", 0.1, 1), ("b", 0.25, Boom("b")), ("c", 0.4, 3))
    ]
    done, left = await asyncio.wait(tasks, return_when=when)
    rec.note([t in done for t in tasks], [t in left for t in tasks])
    done, left = await asyncio.wait(tasks, timeout=0.2)
    rec.note([t in done for t in tasks])
    rec.note([t.exception() for t in tasks if t.done() and not t.cancelled()])


@scenario(clock=True, cancel=True)
@pytest.mark.parametrize("timeout", [None, 0, -1, 0.1, 0.25, 0.3, 5])
async def test_wait_for(rec: Recorder, timeout: float | None) -> Any:
    try:
        return await asyncio.wait_for(sleeper(rec, "a", 0.25, "value"), timeout)
    except TimeoutError as exc:
        rec.note(exc)
        return "late"


@scenario(clock=True, cancel=True)
@pytest.mark.parametrize("timeout", [0, 0.2])
async def test_wait_for_of_a_stubborn_one(rec: Recorder, timeout: float) -> Any:
    return await asyncio.wait_for(stubborn(rec, "a", 2), timeout)


@scenario(clock=True, cancel=True)
async def test_wait_for_a_future(rec: Recorder) -> Any:
    future = rec.loop.create_future()
    rec.loop.call_later(0.2, lambda: future.done() or future.set_result("set"))
    rec.note(await asyncio.wait_for(future, 1))
    late = rec.loop.create_future()
    try:
        await asyncio.wait_for(late, 0.2)
    finally:
        rec.note(late.cancelled())


@scenario(clock=True, cancel=True)
async def test_shield(rec: Recorder) -> Any:
    inner = asyncio.ensure_future(sleeper(rec, "a", 0.3, "kept"))
    try:
        return await asyncio.shield(inner)
    except asyncio.CancelledError:
        rec.note("outer cancelled", inner.cancelled())
        return await inner


@scenario(clock=True, cancel=True)
async def test_shield_whose_inside_fails_later(rec: Recorder) -> Any:
    inner = asyncio.ensure_future(sleeper(rec, "a", 0.3, Boom("inside")))
    await asyncio.shield(inner)


@scenario(clock=True, cancel=True)
@pytest.mark.parametrize("delay", [0, -1, 0.125, 0.2, 0.3, None])
async def test_timeout(rec: Recorder, delay: float | None) -> None:
    with rec.raises("block"):
        async with asyncio.timeout(delay) as limit:
            rec.note(limit.when(), limit.expired())
            await asyncio.sleep(0.25)
            rec.note("slept")
    rec.note(limit.expired(), asyncio.current_task().cancelling())  # type: ignore[union-attr]
    await asyncio.sleep(0)


@scenario(clock=True, cancel=True)
async def test_timeouts_nested_and_rescheduled(rec: Recorder) -> None:
    try:
        async with asyncio.timeout(0.5) as outer:
            try:
                async with asyncio.timeout(0.25) as inner:
                    await asyncio.sleep(0.125)
                    inner.reschedule(rec.loop.time() + 0.25)
                    await asyncio.sleep(2)
            except TimeoutError as exc:
                rec.note("inner", exc, inner.expired(), outer.expired())
                await asyncio.sleep(2)
    except TimeoutError as exc:
        rec.note("outer", exc, repr(outer))


@scenario(clock=True, cancel=True)
async def test_task_group(rec: Recorder) -> None:
    async with asyncio.TaskGroup() as group:
        one = group.create_task(sleeper(rec, "a", 0.2, 1))
        two = group.create_task(sleeper(rec, "b", 0.1, 2))
        await asyncio.sleep(0.15)
        rec.note("body ends")
    rec.note(one.result(), two.result())


@scenario(clock=True, cancel=True)
async def test_task_group_that_fails(rec: Recorder) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(sleeper(rec, "a", 0.2, Boom("a")))
        group.create_task(sleeper(rec, "b", 0.2, Boom("b")))
        group.create_task(sleeper(rec, "c", 1))
        await asyncio.sleep(1)


@scenario(clock=True, cancel=True)
async def test_task_groups_nested(rec: Recorder) -> None:
    try:
        async with asyncio.TaskGroup() as outer:
            outer.create_task(sleeper(rec, "a", 0.6))
            async with asyncio.TaskGroup() as inner:
                inner.create_task(sleeper(rec, "b", 0.2, Boom("b")))
                inner.create_task(stubborn(rec, "c", 2))
    except* Boom as group:
        rec.note(group)
    await asyncio.sleep(0.1)


@scenario(clock=True, cancel=True)
async def test_stubborn_main(rec: Recorder) -> Any:
    task = asyncio.current_task()
    assert task is not None
    for nth in range(4):
        try:
            await asyncio.sleep(0.2)
        except asyncio.CancelledError as exc:
            rec.note(nth, exc, task.cancelling(), task.uncancel(), task.cancelling())
    return "lived"


@scenario(clock=True, cancel=True)
async def test_awaits_in_finally(rec: Recorder) -> None:
    try:
        await asyncio.sleep(0.2)
    finally:
        await asyncio.sleep(0.1)
        rec.note("cleaned")


@scenario(clock=True, cancel=True)
async def test_chain_of_tasks(rec: Recorder) -> Any:
    async def link(depth: int) -> Any:
        try:
            if depth == 0:
                return await asyncio.sleep(0.2, "bottom")
            return await asyncio.create_task(link(depth - 1))
        finally:
            rec.note(depth, "unwinds")

    return await link(4)


@scenario(clock=True, cancel=True)
async def test_as_completed(rec: Recorder) -> None:
    work = [sleeper(rec, "a", 0.3, 1), sleeper(rec, "b", 0.1, 2), sleeper(rec, "c", 0.2, Boom())]
    for next_one in asyncio.as_completed(work, timeout=1):
        with rec.raises("one"):
            try:
                rec.note(await next_one)
            except asyncio.CancelledError:
                break


@scenario(clock=True, cancel=True)
async def test_as_completed_that_is_late(rec: Recorder) -> None:
    try:
        for one in asyncio.as_completed([sleeper(rec, "a", 2), sleeper(rec, "b", 0.1)], timeout=1):
            rec.note(await one)
    except TimeoutError as exc:
        rec.note(exc)


@scenario(clock=True, cancel=True)
async def test_eager_tasks(rec: Recorder) -> Any:
    rec.loop.set_task_factory(asyncio.eager_task_factory)

    async def at_once() -> str:
        rec.note("runs", asyncio.current_task().get_name()[:4])  # type: ignore[union-attr]
        return "done"

    one = asyncio.create_task(at_once())
    rec.note(one.done(), one.result())
    two = asyncio.create_task(sleeper(rec, "a", 0.2, 2))
    rec.note(two.done())
    three = asyncio.create_task(sleeper(rec, "b", 0, Boom("b")))
    async with asyncio.timeout(1):
        with contextlib.suppress(Boom):
            await three
        return await asyncio.gather(one, two, at_once())


@scenario(clock=True, cancel=True)
async def test_async_generator_in_the_middle(rec: Recorder) -> None:
    async def numbers() -> Any:
        try:
            for n in range(3):
                await asyncio.sleep(0.1)
                yield n
        finally:
            rec.note("generator ends")
            await asyncio.sleep(0)

    async for n in numbers():
        rec.note(n)
        if n == 1:
            await asyncio.sleep(0.1)


# ---- cancelling ----


@scenario(clock=True)
async def test_cancel_in_every_state(rec: Recorder) -> None:
    new = asyncio.create_task(sleeper(rec, "new", 1))
    rec.note(new.cancel("unstarted"), new.cancelling(), new.cancelled())
    with rec.raises("new"):
        await new
    rec.note(new.cancel(), new.cancelling())
    done = asyncio.create_task(sleeper(rec, "done", 0, 5))
    await done
    rec.note(done.cancel("late"), done.cancelling(), done.result())
    twice = asyncio.create_task(stubborn(rec, "twice", 3))
    await asyncio.sleep(0)
    rec.note(twice.cancel("one"), twice.cancel("two"), twice.cancelling())
    await asyncio.sleep(0)
    rec.note(twice.uncancel(), twice.uncancel(), twice.uncancel(), twice.cancelling())
    rec.note(await twice)


@scenario(clock=True)
async def test_cancels_itself(rec: Recorder) -> None:
    async def own(wait: bool) -> str:
        task = asyncio.current_task()
        assert task is not None
        rec.note(task.cancel("myself"), task.cancelling(), task._must_cancel)  # type: ignore[attr-defined]
        if wait:
            await asyncio.sleep(0)
        return "end"

    for wait in (False, True):
        with rec.raises(str(wait)):
            rec.note(await asyncio.create_task(own(wait)))


@scenario(clock=True)
async def test_cancel_through_futures(rec: Recorder) -> None:
    future = rec.loop.create_future()

    async def waits() -> None:
        await future

    one, two = asyncio.create_task(waits()), asyncio.create_task(waits())
    await asyncio.sleep(0)
    rec.note(one.cancel("first"), future.cancelled(), one.done())
    with rec.raises("one"):
        await one
    with rec.raises("two"):
        await two
    with rec.raises("future"):
        future.result()


@scenario(clock=True)
async def test_cancel_while_the_result_is_under_way(rec: Recorder) -> None:
    future = rec.loop.create_future()

    async def waits() -> Any:
        try:
            return await future
        except asyncio.CancelledError as exc:
            rec.note("inside", exc)
            raise

    task = asyncio.create_task(waits())
    await asyncio.sleep(0)
    future.set_result("there")
    rec.note(task.cancel("after"), task.cancelling())
    with rec.raises("task"):
        await task


@scenario(clock=True)
async def test_cancelled_error_raised_by_hand(rec: Recorder) -> None:
    async def raises(exc: BaseException) -> None:
        await asyncio.sleep(0)
        raise exc

    for exc in (
        asyncio.CancelledError(),
        asyncio.CancelledError("m"),
        asyncio.CancelledError(1, 2),
    ):
        task = asyncio.create_task(raises(exc))
        with rec.raises("awaited"):
            await task
        rec.note(task.cancelled())
        with rec.raises("result"):
            task.result()
        with rec.raises("exception"):
            task.exception()


@scenario(clock=True)
async def test_exceptions_of_every_kind(rec: Recorder) -> None:
    class Odd(BaseException):
        pass

    async def raises(exc: BaseException) -> None:
        raise exc

    group = ExceptionGroup("g", [Boom(1), ValueError("v")])
    for exc in (Boom("x"), Odd("o"), GeneratorExit("g"), StopAsyncIteration(1), group):
        task = asyncio.create_task(raises(exc))
        with rec.raises("awaited"):
            await task
        rec.note(task.exception())
    future = rec.loop.create_future()
    for bad in (StopIteration(), StopIteration, 1, "x", object, Boom, Boom("i")):
        with rec.raises("set"):
            future.set_exception(bad)
        if future.done():
            rec.note(future.exception())
            future = rec.loop.create_future()


def stop_after(loop: asyncio.AbstractEventLoop, turns: int) -> None:
    loop.call_soon(stop_after, loop, turns - 1) if turns else loop.stop()


@scenario
def test_exit_leaves_the_loop(rec: Recorder) -> None:
    async def raises(exc: BaseException) -> None:
        await asyncio.sleep(0)
        raise exc

    for exc in (KeyboardInterrupt("k"), SystemExit(3)):
        with rec.raises("run"):
            rec.loop.run_until_complete(raises(exc))
        rec.note(rec.loop.is_running())
        task = rec.loop.create_task(raises(exc))
        stop_after(rec.loop, 5)
        with rec.raises("forever"):
            rec.loop.run_forever()
        rec.note(task.done(), task.exception())
        rec.loop.call_soon(rec.loop.stop)
        rec.loop.run_forever()


# ---- futures ----


@scenario
def test_future_states(rec: Recorder) -> None:
    def look(f: Any) -> None:
        rec.note(repr(f), f.done(), f.cancelled(), f._state)
        rec.attempt("result", f.result)
        rec.attempt("exception", f.exception)
        rec.attempt("set_result", f.set_result, 2)
        rec.attempt("set_exception", f.set_exception, Boom())
        rec.attempt("cancel", f.cancel)

    for finish in (
        lambda f: f.set_result("value"),
        lambda f: f.set_exception(Boom("b")),
        lambda f: f.cancel("why"),
    ):
        future = rec.loop.create_future()
        rec.attempt("result", future.result)
        rec.attempt("exception", future.exception)
        future.add_done_callback(print)
        rec.note(repr(future), future.remove_done_callback(print))
        finish(future)
        look(future)


@scenario
def test_long_results_and_many_callbacks_in_repr(rec: Recorder) -> None:
    def one(f: Any) -> None: ...

    future = rec.loop.create_future()
    for _ in range(4):
        future.add_done_callback(one)
        rec.note(repr(future))
    rec.note(future.remove_done_callback(one), repr(future))
    future.set_result("x" * 300)
    rec.note(repr(future))
    nested = rec.loop.create_future()
    nested.set_result(nested)
    rec.note(repr(nested))


@scenario(clock=True)
async def test_done_callbacks(rec: Recorder) -> None:
    future = rec.loop.create_future()

    def call(name: str) -> Any:
        def callback(f: Any) -> None:
            rec.note(name, f is future, VAR.get())
            if name == "raises":
                raise Boom(name)
            if name == "adds":
                f.add_done_callback(late)
            if name == "removes":
                rec.note(f.remove_done_callback(late), f.remove_done_callback(callback))

        return callback

    late = call("late")
    rec.handler()
    VAR.set("one")
    future.add_done_callback(call("first"))
    VAR.set("two")
    for name in ("raises", "adds", "removes"):
        future.add_done_callback(call(name))
    ctx = contextvars.copy_context()
    ctx.run(VAR.set, "own")
    future.add_done_callback(call("own"), context=ctx)
    future.add_done_callback(late)
    future.set_result(1)
    rec.note("set")
    await asyncio.sleep(0)
    await asyncio.sleep(0)


@scenario
def test_awaiting_badly(rec: Recorder) -> None:
    class Yields:
        def __init__(self, what: Any) -> None:
            self.what = what

        def __await__(self) -> Any:
            rec.note((yield self.what))

    async def waits(what: Any) -> None:
        try:
            await Yields(what)
        finally:
            rec.note("ends")

    other = rec.make_loop()
    foreign = other.create_future()
    unblocked = rec.loop.create_future()
    blocking = rec.loop.create_future()
    blocking._asyncio_future_blocking = True
    blocking.set_result(1)
    for what in (None, 1, "x", foreign, unblocked, blocking, (i for i in ())):
        with rec.raises("run"):
            rec.loop.run_until_complete(waits(what))

    async def itself() -> None:
        await asyncio.current_task()  # type: ignore[misc]

    with rec.raises("itself"):
        rec.loop.run_until_complete(itself())


@scenario
def test_making_tasks_badly(rec: Recorder) -> None:
    async def coro() -> None: ...

    def gen() -> Any:
        yield

    rec.attempt("int", rec.loop.create_task, 1)
    rec.attempt("function", rec.loop.create_task, coro)
    rec.attempt("generator", rec.loop.create_task, gen())
    rec.attempt("future", rec.loop.create_task, rec.loop.create_future())
    rec.attempt("no loop", asyncio.create_task, None)
    rec.attempt("ensure", asyncio.ensure_future, 1, loop=rec.loop)
    one = coro()
    rec.refuses("keyword", rec.loop.create_task, one, bad=1)
    one.close()
    rec.attempt("factory", rec.loop.set_task_factory, 1)
    rec.attempt("get factory", rec.loop.get_task_factory)
    future: Any = rec.loop.create_future()
    rec.refuses("set_result", future.set_result)
    rec.refuses("set_result 2", future.set_result, 1, 2)
    rec.refuses("cb", future.add_done_callback)
    rec.refuses("cb", future.add_done_callback, print, None)
    rec.refuses("msg", future.cancel, "a")
    rec.refuses("msg", future.cancel, wrong=1)
    two = coro()
    task = rec.loop.create_task(two, name=7)
    rec.note(task.get_name(), task.get_coro() is two)
    task.set_name(("a", 1))
    rec.note(task.get_name(), repr(task))
    rec.attempt("result", task.result)
    rec.attempt("set", task.set_result, 1)
    rec.attempt("set", task.set_exception, Boom())
    rec.loop.run_until_complete(task)


@scenario(clock=True)
async def test_repr_of_tasks(rec: Recorder) -> None:
    async def work(end: Any, future: Any = None) -> Any:
        if future is not None:
            await future
        if isinstance(end, Exception):
            raise end
        return end

    task = asyncio.create_task(work(1), name="new")
    rec.note(repr(task))
    task.cancel()
    rec.note(repr(task))
    await asyncio.wait([task])
    rec.note(repr(task))
    future = rec.loop.create_future()
    task = asyncio.create_task(work("x", future), name="waits")
    task.add_done_callback(lambda t: None)
    await asyncio.sleep(0)
    rec.note(repr(task), repr(future))
    future.set_result(1)
    rec.note(repr(task))
    await task
    rec.note(repr(task), repr(future))
    task = asyncio.create_task(work(Boom("b")), name="fails")
    await asyncio.wait([task])
    rec.note(repr(task), task.exception())
    rec.note(repr(asyncio.gather(task, return_exceptions=True)))
    rec.note(repr(asyncio.current_task()))


@scenario(clock=True)
async def test_stacks_of_tasks(rec: Recorder) -> None:
    import io

    async def work() -> None:
        await asyncio.sleep(1)

    task = asyncio.create_task(work(), name="t")
    for turns in (0, 1):
        for _ in range(turns):
            await asyncio.sleep(0)
        out = io.StringIO()
        task.print_stack(file=out)
        rec.note(len(task.get_stack()), out.getvalue())
    task.cancel()
    await asyncio.wait([task])
    rec.note(task.get_stack())


# ---- what nobody looks at ----


@scenario
def test_exception_never_retrieved(rec: Recorder) -> None:
    async def fails(text: str) -> None:
        raise Boom(text)

    def turn(n: int = 2) -> None:
        for _ in range(n):
            rec.loop.call_soon(rec.loop.stop)
            rec.loop.run_forever()

    task: Any = rec.loop.create_task(fails("task"), name="t")
    turn()
    del task
    gc.collect()
    future: Any = rec.loop.create_future()
    future.set_exception(Boom("future"))
    del future
    gc.collect()
    seen: Any = rec.loop.create_future()
    seen.set_exception(Boom("seen"))
    rec.note(seen.exception(), seen._log_traceback)
    del seen
    quiet: Any = rec.loop.create_future()
    quiet.set_exception(Boom("quiet"))
    rec.attempt("log", setattr, quiet, "_log_traceback", True)
    rec.attempt("log", setattr, quiet, "_log_traceback", False)
    del quiet
    rec.handler()
    task = rec.loop.create_task(fails("handled"), name="t")
    turn()
    del task
    gc.collect()


@scenario
def test_pending_task_is_destroyed(rec: Recorder) -> None:
    async def waits(future: Any) -> None:
        await future

    def lose(debug: bool) -> None:
        rec.loop.set_debug(debug)
        rec.loop.slow_callback_duration = 1e9
        task = rec.loop.create_task(waits(rec.loop.create_future()), name="lost")
        for _ in range(2):
            rec.loop.call_soon(rec.loop.stop)
            rec.loop.run_forever()
        ref = weakref.ref(task)
        del task
        gc.collect()
        rec.note(ref())

    lose(False)
    rec.handler()
    lose(False)
    lose(True)
    quiet = rec.loop.create_task(waits(rec.loop.create_future()), name="quiet")
    rec.loop.call_soon(rec.loop.stop)
    rec.loop.run_forever()
    quiet._log_destroy_pending = False
    del quiet
    gc.collect()


@scenario
def test_coroutine_never_awaited(rec: Recorder) -> None:
    async def never() -> None: ...

    never()
    task = rec.loop.create_task(never(), name="never run")
    rec.note(repr(task))
    rec.loop.close()
    del task
    gc.collect()


@scenario(clock=True)
async def test_contexts_of_tasks(rec: Recorder) -> None:
    VAR.set("main")
    ctx = contextvars.copy_context()
    ctx.run(VAR.set, "given")

    async def work(name: str) -> None:
        rec.note(name, VAR.get())
        VAR.set(name)
        await asyncio.sleep(0)
        rec.note(name, VAR.get())

    one = asyncio.create_task(work("one"))
    two = asyncio.create_task(work("two"), context=ctx)
    three = asyncio.create_task(work("three"), context=ctx)
    VAR.set("changed")
    await asyncio.wait([one, two, three])
    rec.note(VAR.get(), ctx[VAR], two.get_context() is ctx)
    rec.loop.call_soon(lambda: rec.note("call", VAR.get()))
    rec.loop.call_soon(lambda: rec.note("call", VAR.get()), context=ctx)
    rec.loop.call_later(0.1, lambda: (rec.note("later", VAR.get()), VAR.set("later")))
    await asyncio.sleep(0.2)
    rec.note(VAR.get())


@scenario
def test_task_factories(rec: Recorder) -> None:
    made = rec.party("factory")

    def factory(loop: Any, coro: Any, **kw: Any) -> Any:
        made(coro.__name__, sorted(kw))
        kw.pop("eager_start", None)
        return asyncio.Task(coro, loop=loop, **kw)

    async def child() -> str:
        return "child"

    async def main() -> Any:
        one = asyncio.create_task(child(), name="n")
        two = asyncio.create_task(child(), context=contextvars.copy_context())
        async with asyncio.TaskGroup() as group:
            three = group.create_task(child())
        return one.get_name(), await one, await two, three.result()

    rec.loop.set_task_factory(factory)
    rec.note(rec.loop.get_task_factory() is factory)
    rec.note(rec.loop.run_until_complete(main()))
    rec.loop.set_task_factory(None)
    rec.note(rec.loop.run_until_complete(main()))
    rec.loop.set_task_factory(lambda loop, coro, **kw: None)
    with rec.raises("none"):
        one = child()
        rec.note(rec.loop.create_task(one))
        one.close()


@scenario
def test_runner(rec: Recorder) -> None:
    async def main(name: str) -> str:
        rec.note(name, VAR.get())
        VAR.set(name)
        asyncio.create_task(sleeper(rec, "left", 100))
        await asyncio.sleep(0)
        return name

    async def fails() -> None:
        raise Boom("main")

    runner = asyncio.Runner(loop_factory=rec.make_loop, debug=True)
    rec.attempt("run", runner.run, 1)
    with runner:
        for name in ("one", "two"):
            rec.note(runner.run(main(name)))
        with rec.raises("fails"):
            runner.run(fails())
        rec.note(runner.get_loop().get_debug())

        async def nested() -> None:
            one = main("nested")
            try:
                runner.run(one)
            finally:
                one.close()

        with rec.raises("nested"):
            runner.run(nested())
    rec.attempt("closed", runner.get_loop)
    with rec.raises("asyncio.run"):
        asyncio.run(fails(), loop_factory=rec.make_loop)
    rec.note(asyncio.run(main("run"), loop_factory=rec.make_loop, debug=False))


@scenario(clock=True)
async def test_all_and_current_tasks(rec: Recorder) -> None:
    async def work() -> None:
        rec.note(asyncio.current_task().get_name())  # type: ignore[union-attr]
        await asyncio.sleep(0)
        rec.note(sorted(t.get_name() for t in asyncio.all_tasks()))

    def callback() -> None:
        rec.note(asyncio.current_task())

    one = asyncio.create_task(work(), name="one")
    two = asyncio.create_task(work(), name="two")
    rec.loop.call_soon(callback)
    one.add_done_callback(lambda t: rec.note(asyncio.current_task(), t.get_name()))
    await asyncio.wait([one, two])
    rec.note(sorted(t.get_name() for t in asyncio.all_tasks()))


@scenario(clock=True)
async def test_wrapped_concurrent_futures(rec: Recorder) -> None:
    import concurrent.futures

    source: concurrent.futures.Future[int] = concurrent.futures.Future()
    wrapped = asyncio.wrap_future(source)
    rec.note(asyncio.isfuture(wrapped), repr(wrapped)[:15])
    source.set_result(4)
    rec.note(await wrapped)
    other: concurrent.futures.Future[int] = concurrent.futures.Future()
    wrapped = asyncio.wrap_future(other)
    wrapped.cancel()
    await asyncio.sleep(0)
    rec.note(other.cancelled())
    failed: concurrent.futures.Future[int] = concurrent.futures.Future()
    wrapped = asyncio.wrap_future(failed)
    failed.set_exception(TimeoutError("t"))
    with rec.raises("failed"):
        await wrapped


if sys.version_info >= (3, 13):

    @scenario(clock=True, cancel=True)
    async def test_as_completed_asynchronously(rec: Recorder) -> None:
        tasks = [asyncio.ensure_future(sleeper(rec, str(n), n / 8, n)) for n in (3, 1, 2)]
        async for one in asyncio.as_completed(tasks):
            rec.note(one in tasks, await one)


@scenario(clock=True, cancel=True)
async def test_a_future_set_by_one_task_wakes_many(rec: Recorder) -> None:
    future = rec.loop.create_future()

    async def waits(name: str) -> None:
        with rec.raises(name, rec.party(name)):
            rec.party(name)(await future)

    async def sets() -> None:
        await asyncio.sleep(0.2)
        if not future.done():
            future.set_exception(Boom("for all"))

    await asyncio.gather(*(waits(str(n)) for n in range(5)), sets())
