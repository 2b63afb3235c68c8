"""Each callback and each step runs in the context that it was scheduled with."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import weakref

import pytest
from helpers import run, stream_pair, turn

var = contextvars.ContextVar("var", default="default")


@pytest.fixture(autouse=True)
def reset():
    token = var.set("test")
    yield
    var.reset(token)


def test_call_soon_captures_the_context(anyloop):
    seen = []
    anyloop.call_soon(lambda: seen.append(var.get()))
    var.set("changed")
    anyloop.call_soon(lambda: seen.append(var.get()))
    turn(anyloop)
    assert seen == ["test", "changed"]


def test_what_a_callback_sets_stays_in_its_copy(anyloop):
    seen = []
    anyloop.call_soon(lambda: var.set("in callback"))
    anyloop.call_soon(lambda: seen.append(var.get()))
    turn(anyloop)
    assert seen == ["test"]
    assert var.get() == "test"


@pytest.mark.parametrize("method", ["call_soon", "call_soon_threadsafe", "call_later", "call_at"])
def test_given_context(anyloop, method):
    context = contextvars.copy_context()
    time = {"call_later": (0,), "call_at": (0,)}.get(method, ())
    handle = getattr(anyloop, method)(*time, var.set, "given", context=context)
    assert handle.get_context() is context
    turn(anyloop)
    assert context[var] == "given"
    assert var.get() == "test"


def test_context_given_to_two_callbacks_is_shared(anyloop):
    context = contextvars.copy_context()
    seen = []
    anyloop.call_soon(var.set, "one", context=context)
    anyloop.call_soon(lambda: seen.append(var.get()), context=context)
    turn(anyloop)
    assert seen == ["one"]


def test_task_copies_the_context(anyloop):
    async def child():
        before = var.get()
        var.set("child")
        await asyncio.sleep(0)
        return before, var.get()

    async def main():
        var.set("main")
        task = anyloop.create_task(child())
        var.set("later")
        assert await task == ("main", "child")
        return var.get()

    assert run(anyloop, main()) == "later"
    assert var.get() == "test"


def test_task_in_a_given_context(anyloop):
    context = contextvars.copy_context()

    async def child():
        var.set("child")
        await asyncio.sleep(0)
        return var.get()

    task = anyloop.create_task(child(), context=context)
    assert task.get_context() is context
    assert run(anyloop, task) == "child"
    assert context[var] == "child"


def test_steps_of_two_tasks_do_not_mix(anyloop):
    async def child(value):
        var.set(value)
        seen = []
        for _ in range(5):
            await asyncio.sleep(0)
            seen.append(var.get())
        return set(seen)

    async def main():
        return await asyncio.gather(*[child(n) for n in range(10)])

    assert run(anyloop, main()) == [{n} for n in range(10)]


def test_future_callbacks(anyloop):
    future = anyloop.create_future()
    seen = []
    context = contextvars.copy_context()
    context.run(var.set, "given")
    future.add_done_callback(lambda fut: seen.append(var.get()))
    var.set("second")
    future.add_done_callback(lambda fut: seen.append(var.get()))
    future.add_done_callback(lambda fut: seen.append(var.get()), context=context)
    var.set("third")
    future.set_result(None)
    future.add_done_callback(lambda fut: seen.append(var.get()))
    turn(anyloop)
    assert seen == ["test", "second", "given", "third"]


def test_done_callback_of_a_task(anyloop):
    seen = []

    async def child():
        var.set("child")

    task = anyloop.create_task(child())
    task.add_done_callback(lambda task: seen.append(var.get()))
    run(anyloop, task)
    assert seen == ["test"]


def test_exception_thrown_into_a_task(anyloop):
    async def child():
        var.set("child")
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            return var.get()

    async def main():
        task = anyloop.create_task(child())
        await asyncio.sleep(0)
        var.set("canceller")
        task.cancel()
        return await task

    assert run(anyloop, main()) == "child"


def test_cancelled_future_wakes_the_task_in_its_own_context(anyloop):
    async def child(future):
        var.set("child")
        try:
            await future
        except asyncio.CancelledError:
            return var.get()

    async def main():
        future = anyloop.create_future()
        task = anyloop.create_task(child(future))
        await asyncio.sleep(0)
        future.cancel()
        return await task

    assert run(anyloop, main()) == "child"


def test_readers_and_writers(anyloop):
    seen = []
    with stream_pair() as (one, two):

        def readable():
            seen.append(("read", var.get()))
            one.recv(1)
            var.set("inside")

        def writable():
            seen.append(("write", var.get()))
            anyloop.remove_writer(one)

        anyloop.add_reader(one, readable)
        var.set("other")
        anyloop.add_writer(one, writable)
        two.send(b"ab")
        anyloop.run_until_complete(until(lambda: len(seen) >= 3))
        anyloop.remove_reader(one)
    assert [value for kind, value in seen if kind == "write"] == ["other"]
    assert next(value for kind, value in seen if kind == "read") == "test"


async def until(condition):
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0)


def test_context_that_is_entered_already(anyloop, reports):
    """A report, no crash and no lost callback."""
    context = contextvars.copy_context()
    seen = []

    def outer():
        anyloop.call_soon(seen.append, "inner", context=context)
        turn_inside()

    def turn_inside():
        # the loop's own turn is in the same thread: entering `context` again must fail
        handle = anyloop.call_soon(print, context=context)
        handle._run()
        handle.cancel()

    context.run(anyloop.call_soon, outer, context=context)
    turn(anyloop, 2)
    assert seen == ["inner"]
    assert len(reports) == 1
    assert "cannot enter context" in reports[0].getMessage() or reports[0].exc_info


def test_the_loop_runs_inside_a_context(anyloop):
    """run_forever() in a context whose copy tasks take."""
    seen = []

    async def main():
        seen.append(var.get())
        var.set("main")

    context = contextvars.copy_context()
    context.run(var.set, "outer")
    context.run(anyloop.run_until_complete, main())
    assert seen == ["outer"]
    assert context[var] == "outer"


def test_task_does_not_keep_its_context_after_its_end(anyloop):
    class Probe: ...

    async def child():
        value = Probe()
        refs.append(weakref.ref(value))
        local.set(value)

    local = contextvars.ContextVar("local")
    refs = []
    task = anyloop.create_task(child())
    run(anyloop, task)
    del task
    turn(anyloop)
    gc.collect()
    assert refs[0]() is None


@pytest.mark.parametrize("wrong", [1, "context", object(), {}])
def test_context_of_a_wrong_type(same, wrong):
    """asyncio finds out when it runs, or at once: in both cases the loop goes on."""

    def scenario(loop):
        seen = []
        loop.set_exception_handler(lambda loop, report: None)
        for call in (
            lambda: loop.call_soon(print, context=wrong),
            lambda: loop.create_future().add_done_callback(print, context=wrong),
        ):
            try:
                call()
            except (TypeError, AttributeError):
                pass
        loop.call_soon(seen.append, 1)
        turn(loop)
        loop.set_exception_handler(None)
        return seen

    assert same(scenario) == [1]


class RunsIt:
    """All that a callback needs of its context; with room where a Context has its fields."""

    __slots__ = ("a", "b", "c", "d")

    def run(self, callback, *args):
        return callback(*args)


class RunsItToo(RunsIt):
    pass


@pytest.mark.parametrize("kind", [RunsIt, RunsItToo])
def test_a_context_of_the_programs_own_that_only_its_callback_has(anyloop, kind):
    """It is not taken for a Context, of which the memory could be used again."""
    seen = []
    for _ in range(50):
        anyloop.call_soon(seen.append, 1, context=kind())
        future = anyloop.create_future()
        future.add_done_callback(lambda _: seen.append(var.get()), context=kind())
        future.set_result(None)
        anyloop.call_later(0, int, context=kind()).cancel()
    turn(anyloop, 2)
    assert seen == [1, "test"] * 50
    kept = [anyloop.call_soon(int).get_context() for _ in range(300)]
    assert [context[var] for context in kept] == ["test"] * 300


@pytest.mark.parametrize("kind", ["task", "handle", "timer", "callback"])
def test_a_context_that_the_collector_has_emptied(anyloop, kind):
    """What goes on is not given the mapping that it lacks; its owner goes after it."""

    async def nothing():
        pass

    for _ in range(20):
        context, cycle = contextvars.copy_context(), []
        cycle.append(cycle)  # the collector empties the context, then this, which frees the owner
        if kind == "task":
            cycle.append(anyloop.create_task(nothing(), context=context))
        elif kind == "handle":
            cycle.append(anyloop.call_soon(int, context=context))
        elif kind == "timer":
            cycle.append(anyloop.call_later(1000, int, context=context))
            cycle[1].cancel()
        else:
            cycle.append(anyloop.create_future())
            cycle[1].add_done_callback(int, context=context)
        turn(anyloop, 2)
        del context, cycle
        gc.collect()
    kept = [anyloop.call_soon(int).get_context() for _ in range(300)]
    assert [context[var] for context in kept] == ["test"] * 300


def test_a_context_that_there_was_no_memory_for(loop):
    """It can be asked for again, and the callback runs in it."""
    _testcapi = pytest.importorskip("_testcapi", reason="an interpreter without its test module")
    seen = []
    var.set("before")
    handle = loop.call_soon(lambda: seen.append(var.get()))
    other = loop.call_soon(int)
    used = other.get_context(), [contextvars.copy_context() for _ in range(300)]  # the spare ones
    var.set("after")
    get = handle.get_context
    refused = False
    _testcapi.set_nomemory(0)
    try:
        get()
    except MemoryError:
        refused = True
    finally:
        _testcapi.remove_mem_hooks()
    del used
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert seen == ["before"]
    assert handle.get_context()[var] == "before"
    del refused  # not everywhere is there anything to make


# ---- contexts whose owner is gone ----


async def set_to(value):
    var.set(value)


def test_a_context_that_outlives_its_task_is_its_own(anyloop):
    async def main():
        held = []
        for value in range(5):
            task = asyncio.create_task(set_to(value))
            await task
            held.append(task.get_context())
        del task
        await asyncio.create_task(set_to("later"))
        return [context[var] for context in held], len(set(map(id, held)))

    assert run(anyloop, main()) == (list(range(5)), 5)


def test_a_task_starts_from_the_context_around_it_whatever_ran_before(anyloop):
    async def look():
        return var.get(), len(contextvars.copy_context())

    async def main():
        before = await look()
        for value in range(5):
            await asyncio.create_task(set_to(value))
            assert await asyncio.create_task(look()) == before

    run(anyloop, main())


def test_a_weak_reference_to_a_tasks_context_dies_with_the_task(anyloop):
    async def main():
        task = asyncio.create_task(set_to(1))
        await task
        ref = weakref.ref(task.get_context())
        del task
        await asyncio.create_task(set_to(2))
        return ref()

    assert run(anyloop, main()) is None


def test_a_token_keeps_the_context_of_a_task_that_is_gone(anyloop):
    async def set_it():
        return var.set("in the task")

    async def main():
        token = await asyncio.create_task(set_it())
        await asyncio.create_task(set_to("in another"))
        with pytest.raises(ValueError, match="different Context"):
            var.reset(token)

    run(anyloop, main())


@pytest.mark.parametrize("owner", ["task", "callback", "future"])
def test_what_a_context_held_last_may_schedule_when_it_goes(anyloop, owner):
    seen = []

    class Value:
        def __del__(self):
            seen.append(var.get())
            anyloop.call_soon(lambda: seen.append(var.get()))
            anyloop.create_future().add_done_callback(print)

    def set_it(*_):
        var.set(Value())

    async def in_a_task():
        set_it()

    async def main():
        if owner == "task":
            await asyncio.create_task(in_a_task())
        elif owner == "callback":
            anyloop.call_soon(set_it)
        else:
            future = anyloop.create_future()
            future.add_done_callback(set_it)
            future.set_result(None)
            del future
        for _ in range(3):
            await asyncio.sleep(0)

    run(anyloop, main())
    gc.collect()
    assert seen == ["test", "test"]


def test_callbacks_of_a_future_do_not_share_what_they_set(anyloop):
    seen = []

    def change(_):
        seen.append(var.get())
        var.set("changed")

    for _ in range(3):
        future = anyloop.create_future()
        for _ in range(3):
            future.add_done_callback(change)
        future.set_result(None)
        turn(anyloop)
    assert seen == ["test"] * 9
