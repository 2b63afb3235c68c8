"""Handle and TimerHandle."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import sys
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


# ---- what the collector sees, and whose context it is ----


class Holder:
    """Something to be kept alive by a callback, and to keep it in turn."""

    handle: asyncio.Handle

    def ring(self):
        pass


@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("way", ["call_soon", "call_soon_threadsafe", "call_later"])
def test_a_forgotten_loop_is_collected_with_what_is_queued(make_loop, way, kept, running):
    loop = make_loop()
    loop.__class__ = type("Quiet", (type(loop),), {"__del__": lambda self: None})

    def schedule():
        for _ in range(3):
            holder = Holder()
            holder.loop = loop
            delay = [1000] if way == "call_later" else []
            handle = getattr(loop, way)(*delay, holder.ring)
            if kept:
                holder.handle = handle
        seen.append(weakref.ref(holder))
        loop.stop()

    seen = []
    if running:
        loop.call_soon(schedule)
        loop.run_forever()
    else:
        schedule()
    gc.collect()
    assert seen[0]() is not None
    loop.close()
    loop = schedule = None
    gc.collect()
    assert seen[0]() is None


@pytest.mark.parametrize("kept", [False, True])
def test_a_queued_handle_is_the_loops_to_the_collector(loop, kept):
    """As docs/compatibility.md has it."""

    def schedule():
        callback = Holder().ring
        handle = loop.call_soon(callback)
        if not kept:
            del handle
        loop.call_soon(nothing)  # by now it is seen whether the one before was kept
        referrers = gc.get_referrers(callback)
        if kept:
            assert handle in referrers
        elif sys.version_info < (3, 13) or sys._is_gil_enabled():
            assert loop in referrers
        loop.stop()

    loop.call_soon(schedule)
    loop.run_forever()
    loop.run_until_complete(asyncio.sleep(0))


@pytest.mark.parametrize("after", ["ran", "cancelled"])
def test_a_kept_handle_is_collected(anyloop, after):
    def schedule():
        holder = Holder()
        holder.handle = anyloop.call_soon(holder.ring)
        if after == "cancelled":
            holder.handle.cancel()
        seen.append(weakref.ref(holder))

    seen = []
    anyloop.call_soon(schedule)
    turn(anyloop)
    turn(anyloop)
    gc.collect()
    assert seen[0]() is None


def test_a_handle_found_by_its_weak_reference_is_collected(anyloop):
    def schedule():
        holder = Holder()
        seen.append(weakref.ref(anyloop.call_later(0, holder.ring)))
        anyloop.call_soon(nothing)
        holder.handle = seen[0]()
        seen.append(weakref.ref(holder))

    seen = []
    anyloop.call_soon(schedule)
    turn(anyloop)
    turn(anyloop)
    turn(anyloop)
    gc.collect()
    assert [ref() for ref in seen] == [None, None]


def test_a_handle_that_only_a_report_shows_is_collected(anyloop, reports):
    class Marked(Exception):
        pass

    def schedule():
        for _ in range(3):
            anyloop.call_soon(fail)

    def fail():
        raise Marked

    shown = []
    anyloop.set_exception_handler(lambda loop, context: shown.append(context["handle"]))
    anyloop.call_soon(schedule)
    turn(anyloop)
    turn(anyloop)
    assert len(shown) == 3
    assert all(gc.is_tracked(handle) for handle in shown)


def test_queued_callbacks_do_not_share_what_they_set(anyloop):
    var = contextvars.ContextVar("var", default="none")
    seen = []

    def change(value):
        seen.append(var.get())
        var.set(value)

    var_token = var.set("outer")
    anyloop.call_soon(change, 1)
    kept = anyloop.call_soon(change, 2)
    anyloop.call_soon(change, 3)
    var.reset(var_token)
    anyloop.call_soon(change, 4)
    turn(anyloop)
    assert seen == ["outer", "outer", "outer", "none"]
    assert kept.get_context()[var] == 2
    assert kept.get_context() is kept.get_context()
    assert var.get() == "none"


def test_the_context_that_a_callback_finds_is_its_handles(anyloop):
    var = contextvars.ContextVar("var")
    handles = []
    tokens = []

    def look():
        tokens.append(var.set(1))
        handles.append(handle.get_context())

    handle = anyloop.call_soon(look)
    before = handle.get_context()
    turn(anyloop)
    assert handles == [before]
    assert before is handle.get_context()
    before.run(var.reset, tokens[0])  # a token is of the context that it was made in


def test_a_token_keeps_the_context_of_a_callback_that_is_gone(anyloop):
    var = contextvars.ContextVar("var")
    tokens = []
    for value in range(3):
        anyloop.call_soon(lambda value=value: tokens.append(var.set(value)))
    turn(anyloop)
    for token in tokens:
        with pytest.raises(ValueError, match="different Context"):
            var.reset(token)


def test_a_context_variable_dies_with_its_callback(anyloop):
    var = contextvars.ContextVar("var")
    seen = []

    def set_it():
        value = Holder()
        seen.append(weakref.ref(value))
        var.set(value)

    anyloop.call_soon(set_it)
    anyloop.call_soon(lambda: seen.append(seen[0]()))
    turn(anyloop)
    assert seen[1] is None


def test_a_context_that_a_profiler_found_is_not_used_again(anyloop):
    var = contextvars.ContextVar("var", default="none")
    seen = []

    def change():
        seen.append(var.get())
        var.set("changed")

    anyloop.call_soon(nothing)
    turn(anyloop)
    held = [each for each in gc.get_objects() if isinstance(each, contextvars.Context)]
    anyloop.call_soon(change)
    turn(anyloop)
    assert seen == ["none"]
    assert {each.get(var) for each in held} <= {None}


# One for all rounds of a search for leaks: in contexts that others hold it stays set.
FOUND = contextvars.ContextVar("found", default="none")


@pytest.mark.parametrize("how", ["entered", "weak", "changed"])
def test_whatever_is_done_to_a_context_that_a_profiler_found(anyloop, reports, how):
    var = FOUND if how == "changed" else contextvars.ContextVar("var", default="none")
    seen = []

    def change():
        seen.append(var.get())
        var.set("changed")

    def run():
        anyloop.call_soon(change)
        turn(anyloop)

    anyloop.call_soon(nothing)
    turn(anyloop)
    held = [each for each in gc.get_objects() if isinstance(each, contextvars.Context)]
    for each in held:
        # One that is entered already is somebody else's.
        with contextlib.suppress(RuntimeError):
            if how == "entered":
                each.run(run)
            elif how == "changed":
                each.run(var.set, "mine")
    refs = [weakref.ref(each) for each in held] if how == "weak" else []
    held.clear()
    each = None
    run()
    assert set(seen) == {"none"}
    assert all(ref() is None or ref().get(var) is None for ref in refs)
    assert not reports


def test_a_handle_that_has_run_is_gone_before_what_its_callback_set(anyloop):
    var = contextvars.ContextVar("var")
    seen = []

    class Value:
        def __del__(self):
            seen.append(ref())

    def set_it():
        var.set(Value())

    def schedule():
        nonlocal ref
        ref = weakref.ref(anyloop.call_soon(set_it))

    ref = None
    anyloop.call_soon(schedule)
    turn(anyloop)
    turn(anyloop)
    assert seen == [None]


def test_when_is_what_was_given(anyloop):
    """An int stays one, so that `handle.when() % 1` and a comparison of types do as on asyncio."""
    timer = anyloop.call_at(10**9, int)
    assert type(timer.when()) is int
    timer.cancel()
    assert timer.when() == 10**9
    again = anyloop.call_at(anyloop.time() + 1e6, int)
    assert type(again.when()) is float
    assert sorted([again, timer]) == sorted([timer, again])
    again.cancel()
