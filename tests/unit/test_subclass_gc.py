"""Subclasses in Python, and cycles through every field that the collector must find.

A field that a type's traverse misses makes a cycle through it immortal; one that it visits twice,
or that its clear leaves, ends in a crash sooner or later.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
import weakref

import pytest
from helpers import run, turn

import hotloop


class Probe:
    """Something that can be watched; it refers to what it is given."""

    def __init__(self, *refers):
        self.refers = list(refers)

    def __call__(self, *args): ...


def collected(make, *args):
    """Is what make(*args) returns, a Probe in a cycle, gone after a collection?"""
    reference = weakref.ref(make(*args))
    for _ in range(3):
        gc.collect()
    return reference() is None


# ---- futures ----


def through_callback(loop):
    future = loop.create_future()
    probe = Probe(future)
    future.add_done_callback(probe)
    return probe


def through_third_callback(loop):
    future = loop.create_future()
    for _ in range(2):
        future.add_done_callback(print)
    probe = Probe(future)
    future.add_done_callback(probe)
    return probe


def through_callback_context(loop):
    future = loop.create_future()
    var = contextvars.ContextVar("var")
    context = contextvars.Context()
    probe = Probe(future)
    context.run(var.set, probe)
    future.add_done_callback(print, context=context)
    return probe


def through_result(loop):
    future = loop.create_future()
    probe = Probe(future)
    future.set_result(probe)
    return probe


def through_exception(loop):
    future = loop.create_future()
    error = ValueError()
    error.probe = Probe(future)
    future.set_exception(error)
    future._log_traceback = False
    return error.probe


def through_cancel_message(loop):
    future = loop.create_future()
    probe = Probe(future)
    future.cancel(probe)
    return probe


def through_attribute(loop):
    future = loop.create_future()
    future.probe = Probe(future)
    return future.probe


def through_iterator(loop):
    future = loop.create_future()
    iterator = iter(future)
    next(iterator)
    probe = Probe(iterator)
    future.add_done_callback(probe)
    return probe


# ---- tasks ----


def through_coroutine(loop):
    async def main(box):
        await box[0]

    box = [loop.create_future()]
    task = loop.create_task(main(box))
    task._log_destroy_pending = False
    probe = Probe(task)
    box.append(probe)
    turn(loop)
    return probe


def through_task_context(loop):
    async def main():
        return None

    var = contextvars.ContextVar("var")
    context = contextvars.Context()
    task = loop.create_task(main(), context=context)
    probe = Probe(task)
    context.run(var.set, probe)
    turn(loop)
    return probe


def through_waited_future(loop):
    async def main():
        await future

    future = loop.create_future()
    task = loop.create_task(main())
    task._log_destroy_pending = False
    turn(loop)
    future.probe = Probe(task)
    return future.probe


def through_two_waiters(loop):
    async def main():
        await future

    future = loop.create_future()
    tasks = [loop.create_task(main()) for _ in range(3)]
    for task in tasks:
        task._log_destroy_pending = False
    turn(loop)
    probe = Probe(*tasks)
    future.probe = probe
    return probe


def through_stock_future(loop):
    async def main():
        await future

    future = asyncio.Future(loop=loop)
    task = loop.create_task(main())
    task._log_destroy_pending = False
    turn(loop)
    future.probe = Probe(task)
    return future.probe


def through_task_result(loop):
    async def main():
        return probe

    probe = Probe()
    task = loop.create_task(main())
    probe.refers.append(task)
    turn(loop)
    return probe


def through_task_exception(loop):
    async def main():
        raise error

    error = ValueError()
    error.probe = Probe()
    task = loop.create_task(main())
    error.probe.refers.append(task)
    turn(loop)
    task.exception()
    return error.probe


def through_task_name(loop):
    class Name(str):
        __slots__ = ("__dict__", "__weakref__", "probe")

    async def main():
        return None

    name = Name("name")
    task = loop.create_task(main(), name=name)
    probe = Probe(task)
    name.probe = probe
    turn(loop)
    return probe


def through_task_callback(loop):
    async def main():
        await loop.create_future()

    task = loop.create_task(main())
    task._log_destroy_pending = False
    probe = Probe(task)
    task.add_done_callback(probe)
    turn(loop)
    return probe


def through_wakeup(loop):
    """The callback object that stands for a waiting task."""

    async def main():
        await future

    future = loop.create_future()
    task = loop.create_task(main())
    task._log_destroy_pending = False
    turn(loop)
    ((wakeup, _),) = future._callbacks
    probe = Probe(wakeup)
    future.probe = probe
    return probe


# ---- handles ----


def through_handle(loop):
    probe = Probe()
    probe.handle = loop.call_soon(probe, probe)
    turn(loop)
    return probe


def through_cancelled_handle(loop):
    probe = Probe()
    probe.handle = loop.call_soon(probe, 1, 2, 3, 4, probe)
    probe.handle.cancel()
    turn(loop)
    return probe


def through_cancelled_timer(loop):
    probe = Probe()
    probe.handle = loop.call_later(1000, probe, 1, 2, 3, 4, probe)
    probe.handle.cancel()
    return probe


def through_fired_timer(loop):
    probe = Probe()
    probe.handle = loop.call_later(0, probe, probe)
    turn(loop)
    return probe


def through_handle_context(loop):
    var = contextvars.ContextVar("var")
    context = contextvars.Context()
    handle = loop.call_soon(int, context=context)
    probe = Probe(handle)
    context.run(var.set, probe)
    turn(loop)
    return probe


MAKERS = [value for name, value in list(globals().items()) if name.startswith("through_")]


@pytest.mark.parametrize("make", MAKERS, ids=lambda f: f.__name__)
def test_cycle_is_collected(anyloop, make):
    assert collected(make, anyloop)
    turn(anyloop)


# ---- the loop itself ----


def loop_with_queue(loop, probe):
    loop.call_soon(probe, probe)


def loop_with_timer(loop, probe):
    loop.call_later(1000, probe)


def loop_with_factory(loop, probe):
    loop.set_task_factory(probe)


def loop_with_handler(loop, probe):
    loop.set_exception_handler(probe)


def loop_with_reader(loop, probe):
    import socket

    probe.pair = socket.socketpair()
    loop.add_reader(probe.pair[0], probe)


def loop_with_attribute(loop, probe):
    loop.probe = probe


def loop_with_future(loop, probe):
    future = loop.create_future()
    future.add_done_callback(probe)
    probe.refers.append(future)


def loop_with_task(loop, probe):
    async def main():
        await loop.create_future()
        return probe

    task = loop.create_task(main())
    task._log_destroy_pending = False
    probe.refers.append(task)
    turn(loop)


LOOPS = [value for name, value in list(globals().items()) if name.startswith("loop_with_")]


@pytest.mark.parametrize("fill", LOOPS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("closed", [True, False], ids=["closed", "open"])
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_loop_in_a_cycle_is_collected(backend, fill, closed):
    loop = hotloop.new_event_loop(backend)
    probe = Probe(loop)
    fill(loop, probe)
    reference, probe_reference = weakref.ref(loop), weakref.ref(probe)
    pair = getattr(probe, "pair", ())
    if closed:
        loop.close()
    del loop, probe
    for _ in range(3):
        gc.collect()
    for sock in pair:
        sock.close()
    assert reference() is None
    assert probe_reference() is None


# ---- subclasses ----


def test_future_subclass_with_fields_of_its_own(anyloop, future_class):
    class Mine(future_class):
        __slots__ = ("other", "slot")

        def __init__(self, slot, *, loop):
            super().__init__(loop=loop)
            self.slot = slot

    future = Mine(5, loop=anyloop)
    assert future.slot == 5
    with pytest.raises(AttributeError):
        future.other  # noqa: B018
    future.other = future
    reference = weakref.ref(future)
    del future
    gc.collect()
    assert reference() is None


def test_task_subclass_with_fields_of_its_own(anyloop, task_class):
    class Mine(task_class):
        def __init__(self, coro, **kwargs):
            self.before = "set before the base is made"
            super().__init__(coro, **kwargs)
            self.me = self

    async def value():
        await asyncio.sleep(0)
        return 1

    task = Mine(value(), loop=anyloop)
    assert run(anyloop, task) == 1
    assert task.before.startswith("set")
    reference = weakref.ref(task)
    del task
    turn(anyloop)
    gc.collect()
    assert reference() is None


@pytest.mark.parametrize("kind", ["future", "task"])
def test_resurrected(anyloop, future_class, task_class, kind):
    """__del__ of a subclass keeps the object: it lives on, whole."""
    kept = []

    class MyFuture(future_class):
        def __del__(self):
            kept.append(self)

    class MyTask(task_class):
        def __del__(self):
            kept.append(self)

    async def value():
        return 7

    if kind == "future":
        thing = MyFuture(loop=anyloop)
        thing.set_result(7)
    else:
        thing = MyTask(value(), loop=anyloop)
        turn(anyloop)
    del thing
    gc.collect()
    (thing,) = kept
    assert thing.result() == 7
    assert thing.get_loop() is anyloop
    assert type(thing) in (MyFuture, MyTask)
    kept.clear()
    del thing
    gc.collect()
    kept.clear()


def test_weak_references_with_callbacks(anyloop):
    gone = []
    things = [anyloop.create_future(), anyloop.call_soon(int), anyloop.call_later(0, int)]
    references = [weakref.ref(thing, gone.append) for thing in things]
    turn(anyloop)
    things.clear()
    turn(anyloop)
    gc.collect()
    assert [reference() for reference in references] == [None] * 3
    assert len(gone) == 3


def test_reused_memory_is_clean(loop):
    """Free lists: an object made after another died shows nothing of it."""
    for _ in range(300):
        future = loop.create_future()
        future.mark = 1
        future.add_done_callback(print)
        future.remove_done_callback(print)
        reference = weakref.ref(future)
        future.cancel("message")
        del future
        assert reference() is None
        fresh = loop.create_future()
        assert not hasattr(fresh, "mark")
        assert fresh._callbacks is None
        assert fresh._cancel_message is None
        assert not fresh.done()
        assert weakref.getweakrefcount(fresh) == 0


def test_reused_tasks_are_clean(loop):
    async def value():
        await asyncio.sleep(0)
        return 1

    for number in range(300):
        task = loop.create_task(value(), name=f"name {number}")
        task.mark = 1
        if number % 3 == 0:
            task.cancel("message")
        turn(loop, 2)
        assert task.done()
        del task
        fresh = loop.create_task(value())
        assert not hasattr(fresh, "mark")
        assert fresh.cancelling() == 0
        assert fresh._must_cancel is False
        assert fresh.get_name().startswith("Task-")
        turn(loop, 2)
        assert fresh.result() == 1


def test_reused_handles_are_clean(loop):
    for number in range(300):
        handle = loop.call_soon(int, *range(number % 6 and 1))
        handle.cancel()
        turn(loop)
        del handle
        fresh = loop.call_soon(int)
        assert not fresh.cancelled()
        assert fresh._args == ()
        turn(loop)
        timer = loop.call_later(0, int)
        timer.cancel()
        del timer
        assert not loop.call_later(0, int).cancelled()
        turn(loop)


def test_collection_at_every_moment(loop):
    """The collector runs after each few allocations while tasks come and go."""
    old = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    try:

        async def child(depth):
            if depth:
                await asyncio.gather(child(depth - 1), child(depth - 1))
            await asyncio.sleep(0)
            future = loop.create_future()
            loop.call_soon(future.set_result, depth)
            timer = loop.call_later(100, int)
            answer = await future
            timer.cancel()
            return answer

        assert run(loop, child(4)) == 4
    finally:
        gc.set_threshold(*old)


def test_finalisers_that_use_the_loop(loop):
    """Callbacks and arguments whose end schedules, cancels and makes futures."""
    seen = []

    class Last:
        def __call__(self, *args): ...

        def __del__(self):
            loop.create_future().cancel()
            loop.call_soon(seen.append, 1)
            loop.call_later(0, seen.append, 2).cancel()

    for _ in range(50):
        loop.call_soon(Last(), Last())
        loop.call_later(0, Last())
        loop.call_soon(Last()).cancel()
        future = loop.create_future()
        future.add_done_callback(Last())
        future.set_result(Last())
        del future
    turn(loop, 3)
    assert len(seen) == 50 * 6


def test_finaliser_that_closes_the_loop(backend):
    loop = hotloop.new_event_loop(backend)

    class Closer:
        def __call__(self): ...

        def __del__(self):
            loop.close()

    loop.call_soon(Closer())
    loop.call_later(1000, Closer())
    loop.close()
    assert loop.is_closed()


def test_sizes_are_told(anyloop):
    for thing in (anyloop.create_future(), anyloop.call_soon(int), anyloop.call_later(0, int)):
        assert sys.getsizeof(thing) > 0
        assert thing.__sizeof__() > 0
    turn(anyloop)


def test_gc_referents_are_listed(loop):
    future = loop.create_future()
    marker = Probe()
    future.set_result(marker)
    assert marker in gc.get_referents(future)
    assert loop in gc.get_referents(future)
    assert hotloop.Future in gc.get_referents(future)
