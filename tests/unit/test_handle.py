"""Handle and TimerHandle."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import weakref

import pytest
from helpers import plain, raised, turn

import hotloop


def nothing(*args):
    pass


def test_types(loop):
    handle = loop.call_soon(nothing)
    timer = loop.call_later(1000, nothing)
    assert type(handle) is hotloop.Handle
    assert type(timer) is hotloop.TimerHandle
    assert isinstance(handle, asyncio.Handle)
    assert not isinstance(handle, asyncio.TimerHandle)
    assert isinstance(timer, asyncio.TimerHandle)
    assert isinstance(timer, asyncio.Handle)
    timer.cancel()


@pytest.mark.parametrize("count", range(7))
def test_arguments(anyloop, count):
    seen = []
    args = tuple(object() for _ in range(count))
    anyloop.call_soon(lambda *got: seen.append(got), *args)
    turn(anyloop)
    assert seen == [args]


def test_cancelled_is_not_run(anyloop):
    seen = []
    first = anyloop.call_soon(seen.append, 1)
    anyloop.call_soon(seen.append, 2)
    assert first.cancelled() is False
    assert first.cancel() is None
    assert first.cancelled() is True
    first.cancel()
    turn(anyloop)
    assert seen == [2]


def test_cancel_of_a_later_one_in_the_same_turn(anyloop):
    seen = []
    anyloop.call_soon(lambda: victim.cancel())
    victim = anyloop.call_soon(seen.append, "victim")
    turn(anyloop)
    assert seen == []


def test_callback_cancels_itself(anyloop):
    seen = []

    def callback(*args):
        handle.cancel()
        gc.collect()
        seen.append(args)

    handle = anyloop.call_soon(callback, [1], [2])
    turn(anyloop)
    assert seen == [([1], [2])]
    assert handle.cancelled()


def test_cancel_after_it_ran(anyloop):
    handle = anyloop.call_soon(nothing)
    turn(anyloop)
    assert not handle.cancelled()
    handle.cancel()
    assert handle.cancelled()


def test_cancel_drops_callback_and_arguments(anyloop):
    class Probe: ...

    probe, argument = Probe(), Probe()
    probe.call = nothing
    refs = weakref.ref(probe), weakref.ref(argument)
    handle = anyloop.call_soon(lambda a, probe=probe: None, argument)
    del probe, argument
    handle.cancel()
    gc.collect()
    assert [ref() for ref in refs] == [None, None]
    turn(anyloop)


def test_arguments_are_dropped_after_the_run(anyloop):
    class Probe: ...

    probe = Probe()
    ref = weakref.ref(probe)
    anyloop.call_soon(nothing, probe)
    del probe
    turn(anyloop)
    turn(anyloop)
    assert ref() is None


def test_arguments_freed_by_cancel_while_running_cause_no_harm(anyloop):
    seen = []

    class Killer:
        def __call__(self, *args):
            handle.cancel()
            seen.extend(len(arg) for arg in args)

    handle = anyloop.call_soon(Killer(), "a" * 1000, "b" * 2000, "c" * 3000, "d" * 4000)
    turn(anyloop)
    assert seen == [1000, 2000, 3000, 4000]


def test_context(anyloop):
    var = contextvars.ContextVar("var")
    context = contextvars.copy_context()
    handle = anyloop.call_soon(var.set, "x", context=context)
    assert handle.get_context() is context
    turn(anyloop)
    assert context[var] == "x"
    with pytest.raises(LookupError):
        var.get()


def test_private_attributes(anyloop):
    context = contextvars.copy_context()
    handle = anyloop.call_soon(nothing, 1, 2, context=context)
    assert handle._callback is nothing
    assert handle._args == (1, 2)
    assert handle._loop is anyloop
    assert handle._context is context
    assert handle._cancelled is False
    assert handle._repr is None
    assert handle._source_traceback is None
    handle.cancel()
    assert handle._callback is None
    assert handle._args is None
    assert handle._cancelled is True
    turn(anyloop)


def test_private_attributes_of_a_timer(anyloop):
    timer = anyloop.call_at(anyloop.time() + 500, nothing, 1, 2, 3, 4, 5)
    assert timer._callback is nothing
    assert timer._args == (1, 2, 3, 4, 5)
    assert timer._when == timer.when()
    assert timer._scheduled is True
    timer.cancel()
    assert timer._args is None


def test_run_by_hand(anyloop):
    seen = []
    handle = anyloop.call_soon(seen.append, 1)
    handle._run()
    assert seen == [1]
    handle.cancel()
    turn(anyloop)
    assert seen == [1]


def test_repr(same):
    def scenario(loop):
        handle = loop.call_soon(nothing, 1, "two")
        timer = loop.call_at(1234567.5, nothing)
        texts = [repr(handle), repr(timer)]
        handle.cancel()
        timer.cancel()
        texts += [repr(handle), repr(timer)]
        turn(loop)
        return [plain(text) for text in texts]

    same(scenario)


def test_repr_in_debug_mode(same):
    def scenario(loop):
        loop.set_debug(True)
        handle = loop.call_soon(nothing, 1)
        texts = [repr(handle)]
        handle.cancel()
        texts.append(repr(handle))
        loop.set_debug(False)
        turn(loop)
        return [plain(text).split(" at ")[0] for text in texts], "created at" in texts[0]

    same(scenario)


def test_weak_reference_and_attributes(anyloop):
    handle = anyloop.call_soon(nothing)
    ref = weakref.ref(handle)
    assert ref() is handle
    turn(anyloop)
    del handle
    turn(anyloop)
    assert ref() is None


def test_when(anyloop):
    timer = anyloop.call_at(1e9, nothing)
    assert timer.when() == 1e9
    timer.cancel()
    assert timer.when() == 1e9
    before = anyloop.time()
    timer = anyloop.call_later(100, nothing)
    after = anyloop.time()
    assert before + 100 <= timer.when() <= after + 100
    timer.cancel()


def test_timers_compare_by_when(anyloop):
    now = anyloop.time() + 1000
    first, second, equal = (anyloop.call_at(when, nothing) for when in (now, now + 1, now))
    assert first < second
    assert first <= second
    assert second > first
    assert second >= first
    assert not first > second
    assert first <= equal
    assert first >= equal
    assert first == equal
    assert first != second
    assert sorted([second, first]) == [first, second]
    assert hash(first) == hash(equal)
    assert first != 1
    assert (first == 1) is False
    with pytest.raises(TypeError):
        first < 1  # noqa: B015
    for timer in (first, second, equal):
        timer.cancel()


def test_timers_of_different_callbacks_differ(anyloop):
    now = anyloop.time() + 1000
    one, two = anyloop.call_at(now, nothing), anyloop.call_at(now, print)
    assert one != two
    one.cancel()
    two.cancel()


def test_timer_compares_with_asyncios_own(loop):
    theirs = asyncio.TimerHandle(50.0, nothing, (), loop, None)
    ours = loop.call_at(1e9, nothing)
    assert theirs < ours
    assert ours > theirs
    ours.cancel()


def test_cycle_through_a_handle_is_collected(anyloop):
    class Probe: ...

    probe = Probe()
    probe.handle = anyloop.call_soon(nothing, probe)
    ref = weakref.ref(probe)
    turn(anyloop)
    del probe
    gc.collect()
    assert ref() is None


def test_cycle_through_a_timer_is_collected_after_cancel(anyloop):
    class Probe: ...

    probe = Probe()
    probe.handle = anyloop.call_later(1000, nothing, probe)
    ref = weakref.ref(probe)
    probe.handle.cancel()
    del probe
    gc.collect()
    assert ref() is None


@pytest.mark.parametrize("kind", ["Handle", "TimerHandle"])
def test_constructor_as_asyncios(loop, kind):
    """Code that makes handles by itself (as trio-asyncio does) passes asyncio's arguments."""
    seen = []
    args = (seen.append, (1,), loop)
    if kind == "TimerHandle":
        args = (loop.time() + 1, *args)
    theirs = getattr(asyncio, kind)(*args)
    theirs._run()
    assert seen == [1]
    if raised(getattr(hotloop, kind), *args) is None:
        getattr(hotloop, kind)(*args)._run()
        assert seen == [1, 1]


@pytest.mark.parametrize("cls", [hotloop.Handle, hotloop.TimerHandle])
def test_object_made_without_init(cls):
    try:
        handle = cls.__new__(cls)
    except TypeError:
        return  # refusing is fine
    for call in (repr, hash, lambda h: h.cancel(), lambda h: h._run(), lambda h: h.cancelled()):
        raised(call, handle)
    for name in dir(handle):
        raised(getattr, handle, name)
