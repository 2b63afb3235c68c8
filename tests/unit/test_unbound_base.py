"""asyncio's own methods, called unbound on our objects: no crash, and no lie.

Libraries do it (`asyncio.Task.cancel(task)`), as does every call through `super()` in a class that
puts asyncio's type after ours. Our objects contain a base part that asyncio's C code reads.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io

import pytest
from helpers import outcome, plain, turn

import hotloop


async def value():
    return "value"


async def fail():
    raise ValueError("failed")


async def forever():
    await asyncio.get_running_loop().create_future()


def future_pending(loop):
    return loop.create_future()


def future_with_callbacks(loop):
    future = loop.create_future()
    future.add_done_callback(print)
    future.add_done_callback(repr)
    return future


def future_result(loop):
    future = loop.create_future()
    future.set_result("result")
    return future


def future_failed(loop):
    future = loop.create_future()
    future.set_exception(ValueError("failed"))
    future._log_traceback = False
    return future


def future_cancelled(loop):
    future = loop.create_future()
    future.cancel("message")
    return future


def task_new(loop):
    return loop.create_task(forever(), name="task")


def task_waiting(loop):
    task = loop.create_task(forever(), name="task")
    turn(loop)
    return task


def task_woken(loop):
    async def main():
        await future

    future = loop.create_future()
    task = loop.create_task(main(), name="task")
    turn(loop)
    future.set_result(None)
    return task


def task_must_cancel(loop):
    task = loop.create_task(forever(), name="task")
    task.cancel("message")
    return task


def task_cancelling(loop):
    task = task_waiting(loop)
    task.cancel("message")
    return task


def task_done(loop):
    task = loop.create_task(value(), name="task")
    turn(loop)
    return task


def task_failed(loop):
    task = loop.create_task(fail(), name="task")
    turn(loop)
    task._log_traceback = False
    return task


def task_cancelled(loop):
    task = task_cancelling(loop)
    turn(loop, 2)
    return task


FUTURES = [future_pending, future_with_callbacks, future_result, future_failed, future_cancelled]
TASKS = [
    task_new,
    task_waiting,
    task_woken,
    task_must_cancel,
    task_cancelling,
    task_done,
    task_failed,
    task_cancelled,
]

NOT_CALLED = {
    "__init__",  # makes another object of it: tested below
    "__new__",
    "__del__",
    "__class__",
    "__init_subclass__",
    "__subclasshook__",
    "__class_getitem__",
    "__setattr__",
    "__delattr__",
    "__getattribute__",
    "__getstate__",
    "__reduce__",
    "__reduce_ex__",
    "__doc__",
    "__module__",
    "__sizeof__",  # ours are larger
    "__dir__",
    "__hash__",
    "__str__",
    "__repr__",  # compared by itself below
}

ARGUMENTS = {
    "set_result": ("new",),
    "set_exception": (KeyError("new"),),
    "add_done_callback": (print,),
    "remove_done_callback": (print,),
    "set_name": ("new name",),
    "__format__": ("",),
    "__eq__": (None,),
    "__ne__": (None,),
    "__lt__": (None,),
    "__le__": (None,),
    "__gt__": (None,),
    "__ge__": (None,),
}


def finish(loop, thing):
    """Nothing is left pending or unretrieved."""
    if isinstance(thing, asyncio.Task):
        coro = thing.get_coro()
        if not thing.done():
            thing.cancel()
        turn(loop, 3)
        if not thing.done():
            thing._log_destroy_pending = False
            asyncio.tasks._unregister_task(thing)
        with contextlib.suppress(AttributeError, RuntimeError):
            coro.close()  # a task that was ended by force has not run it
    elif not thing.done():
        for callback in (print, repr):
            thing.remove_done_callback(callback)
    with contextlib.suppress(AttributeError, ValueError):
        thing._log_traceback = False
    turn(loop)


def describe(thing):
    """The state of a future or task, by its own methods."""
    facts = {
        name: outcome(getattr(thing, name))
        for name in ("done", "cancelled", "exception", "result", "get_loop")
        if name in ("done", "cancelled", "get_loop") or thing.done()
    }
    if isinstance(thing, asyncio.Task):
        for name in ("get_name", "cancelling", "get_coro", "get_context"):
            facts[name] = outcome(getattr(thing, name))
    facts.pop("get_loop")
    facts["callbacks"] = [
        callback if callback in (print, repr) else "..." for callback, _ in thing._callbacks or ()
    ]
    return facts


def members(base):
    return [name for name in dir(base) if name not in NOT_CALLED]


def call_member(base, name, thing):
    attribute = getattr(base, name)
    if not callable(attribute):
        getter = getattr(attribute, "__get__", None)
        return outcome(getter, thing, type(thing)) if getter else ("plain", str(attribute))
    if name == "print_stack":
        return outcome(attribute, thing, file=io.StringIO())
    return outcome(attribute, thing, *ARGUMENTS.get(name, ()))


CASES = [
    (base, name, makers)
    for base, makers in ((asyncio.Future, FUTURES + TASKS), (asyncio.Task, TASKS))
    for name in members(base)
]


@pytest.mark.parametrize(
    ("base", "name", "makers"), CASES, ids=[f"{base.__name__}.{name}" for base, name, _ in CASES]
)
def test_unbound_call_tells_the_truth(loop, stock_loop, base, name, makers, reports):
    """The answer and the state afterwards are those of the call on an asyncio object."""
    for make in makers:
        answers = []
        for each in (stock_loop, loop):
            thing = make(each)
            answer = call_member(base, name, thing)
            if name in ("__await__", "__iter__") or answer == ("returned", type(each).__name__):
                answer = answer[0]  # the iterator's type and the loop's differ, rightly
            if name in ("cancel", "add_done_callback"):
                turn(each)
            answers.append((answer, describe(thing), len(reports)))
            finish(each, thing)
            del thing
            reports.clear()
        assert answers[1] == answers[0], make.__name__


@pytest.mark.parametrize("make", FUTURES + TASKS, ids=lambda f: f.__name__)
def test_unbound_repr(loop, stock_loop, make):
    texts = []
    for each in (stock_loop, loop):
        thing = make(each)
        base = asyncio.Task if isinstance(thing, asyncio.Task) else asyncio.Future
        text = plain(base.__repr__(thing))
        texts.append(text.split(" cb=")[0].split(" wait_for=")[0])
        finish(each, thing)
    assert texts[1] == texts[0]


@pytest.mark.parametrize("make", FUTURES + TASKS, ids=lambda f: f.__name__)
def test_unbound_init_does_not_crash(loop, make, reports):
    thing = make(loop)
    coros = [value()]
    with contextlib.suppress(Exception):
        if isinstance(thing, asyncio.Task):
            coros.append(thing.get_coro())
            asyncio.Task.__init__(thing, coros[0], loop=loop)
        else:
            asyncio.Future.__init__(thing, loop=loop)
    repr(thing)
    finish(loop, thing)
    for coro in coros:
        if coro is not None:
            coro.close()
    del thing
    gc.collect()
    turn(loop, 3)
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False
        asyncio.tasks._unregister_task(task)


@pytest.mark.parametrize("name", ["_asyncio_future_blocking", "_log_traceback", "_cancel_message"])
def test_unbound_setters(loop, name):
    descriptor = asyncio.Future.__dict__[name]
    future = loop.create_future()
    for thing in (False, True, "text"):
        with contextlib.suppress(ValueError, AttributeError, TypeError):
            descriptor.__set__(future, thing)
            getattr(future, name)
    future.cancel()


@pytest.mark.parametrize("iterate", [asyncio.Future.__await__, asyncio.Future.__iter__])
def test_unbound_await(loop, iterate):
    """A coroutine that gets at the result through asyncio's own iterator."""

    class Through:
        def __init__(self, future):
            self.future = future

        def __await__(self):
            return iterate(self.future)

    async def main(future):
        return await Through(future)

    future = loop.create_future()
    task = loop.create_task(main(future))
    turn(loop)
    if not task.done():
        future.set_result("through")
        turn(loop, 2)
    assert task.result() == "through"
    done = loop.create_future()
    done.set_result("done")
    assert loop.run_until_complete(main(done)) == "done"


def test_super_calls_from_a_subclass(loop):
    """The usual way to asyncio's methods: super() in a Python subclass of ours."""

    class Mine(hotloop.Future):
        def set_result(self, result):
            super().set_result(("mine", result))

        def cancel(self, msg=None):
            return super().cancel(msg=("mine", msg))

        def add_done_callback(self, fn, *, context=None):
            super().add_done_callback(fn, context=context)

    seen = []
    future = Mine(loop=loop)
    future.add_done_callback(seen.append)
    future.set_result(1)
    turn(loop)
    assert seen == [future]
    assert future.result() == ("mine", 1)
    gone = Mine(loop=loop)
    gone.cancel("m")
    assert gone._cancel_message == ("mine", "m")


@pytest.mark.parametrize("order", ["ours first", "theirs first"])
def test_multiple_inheritance(loop, order):
    """A class over both types either cannot be made or works."""

    class Mixin:
        extra = 1

    bases = (hotloop.Future, Mixin) if order == "ours first" else (Mixin, hotloop.Future)
    cls = type("Both", bases, {})
    future = cls(loop=loop)
    future.set_result(2)
    assert future.result() == 2
    assert future.extra == 1
    with contextlib.suppress(TypeError):
        type("Odd", (hotloop.Future, asyncio.Task), {})
