"""call_later and call_at: when, in what order, and what cancelling leaves."""

from __future__ import annotations

import asyncio
import gc
import random
import time

import pytest
from helpers import run, turn


def run_until_count(loop, seen, count):
    """Runs the loop until `seen` has so many entries."""

    async def main():
        async with asyncio.timeout(60):
            while len(seen) < count:
                await asyncio.sleep(0.001)

    loop.run_until_complete(main())


def test_never_early(anyloop):
    late = []

    def fired(when):
        late.append(anyloop.time() - when)

    for number in range(1, 41):
        when = anyloop.time() + number * 0.00071
        anyloop.call_at(when, fired, when)
    run_until_count(anyloop, late, 40)
    # asyncio itself fires within a clock tick of the deadline, ours not before it
    resolution = time.get_clock_info("monotonic").resolution
    assert min(late) >= -resolution


def test_sleep_is_never_short(anyloop):
    async def main():
        for delay in (0.0002, 0.0013, 0.0021):
            for _ in range(5):
                began = time.monotonic()
                await asyncio.sleep(delay)
                assert time.monotonic() - began >= delay - 1e-6

    run(anyloop, main())


def test_order_is_by_deadline(anyloop):
    seen = []
    base = anyloop.time() + 0.01
    offsets = [0.004, 0.001, 0.003, 0.0, 0.002]
    for offset in offsets:
        anyloop.call_at(base + offset, seen.append, offset)
    run_until_count(anyloop, seen, 5)
    assert seen == sorted(offsets)


def test_overdue_timers_run_in_deadline_order_in_one_turn(anyloop):
    seen = []
    base = anyloop.time() - 1
    for offset in (0.5, 0.1, 0.3):
        anyloop.call_at(base + offset, seen.append, offset)
    turn(anyloop)
    assert seen == [0.1, 0.3, 0.5]


def test_equal_deadlines_are_first_in_first_out(loop):
    seen = []
    when = loop.time()
    for number in range(200):
        loop.call_at(when, seen.append, number)
    turn(loop)
    assert seen == list(range(200))


def test_many_random_deadlines(loop):
    seen = []
    rng = random.Random(7)
    base = loop.time() - 10
    whens = [base + rng.randrange(1000) / 500 for _ in range(3000)]
    handles = [loop.call_at(when, seen.append, (when, n)) for n, when in enumerate(whens)]
    gone = set(rng.sample(range(3000), 1700))
    for number in gone:
        handles[number].cancel()
    turn(loop)
    assert seen == sorted((when, n) for n, when in enumerate(whens) if n not in gone)


@pytest.mark.parametrize("delay", [0, -1, -0.5, -1e300, float("-inf")])
def test_not_in_the_future_means_next_turn(anyloop, delay):
    seen = []
    anyloop.call_later(delay, seen.append, 1)
    assert seen == []
    turn(anyloop)
    assert seen == [1]


def test_timer_runs_after_what_was_scheduled_before_it_was_due(anyloop):
    seen = []
    anyloop.call_later(0, seen.append, "timer")
    anyloop.call_soon(seen.append, "soon")
    turn(anyloop)
    assert seen == ["soon", "timer"]


def test_timer_set_by_a_callback_waits_for_the_next_turn(anyloop):
    seen = []
    anyloop.call_soon(lambda: anyloop.call_later(0, seen.append, "timer"))
    turn(anyloop)
    assert seen == []
    turn(anyloop)
    assert seen == ["timer"]


def test_cancelled_timer_is_not_run(anyloop):
    seen = []
    timer = anyloop.call_later(0, seen.append, 1)
    timer.cancel()
    assert timer.cancelled()
    turn(anyloop)
    assert seen == []


def test_cancelled_by_an_earlier_one_of_the_same_turn(anyloop):
    seen = []
    now = anyloop.time()
    anyloop.call_at(now - 2, lambda: victim.cancel())
    victim = anyloop.call_at(now - 1, seen.append, 1)
    turn(anyloop)
    assert seen == []


def test_cancel_after_it_fired(anyloop):
    timer = anyloop.call_later(0, lambda: None)
    turn(anyloop)
    timer.cancel()
    assert timer.cancelled()
    turn(anyloop)


def test_cancelled_timers_do_not_pile_up(loop):
    """As asyncio, which rebuilds its heap when more than half of it is cancelled."""
    alive = []

    class Probe:
        def __init__(self):
            alive.append(None)

        def __call__(self): ...

        def __del__(self):
            alive.pop()

    for _ in range(5000):
        loop.call_later(10_000, Probe()).cancel()
    assert len(alive) == 0  # cancel() lets the callback go
    turn(loop)


def test_finaliser_that_schedules_during_compaction(loop):
    """A callback freed while the heap is rebuilt may itself call call_later()."""
    made = []

    class Evil:
        def __call__(self): ...

        def __del__(self):
            if len(made) < 3000:
                made.append(loop.call_later(5000, print))

    timers = [loop.call_later(1000 + n % 7, Evil()) for n in range(2000)]
    random.Random(1).shuffle(timers)
    while timers:
        timers.pop().cancel()
        if len(timers) % 100 == 0:
            turn(loop)
    for timer in made:
        timer.cancel()
    turn(loop, 2)
    gc.collect()


def test_args_and_context(anyloop):
    import contextvars

    var = contextvars.ContextVar("var", default=0)
    seen = []
    context = contextvars.copy_context()
    context.run(var.set, 5)
    anyloop.call_later(0, lambda *a: seen.append((a, var.get())), 1, 2, 3, 4, context=context)
    before = var.set(1)
    anyloop.call_at(0, lambda *a: seen.append((a, var.get())))
    var.set(2)
    turn(anyloop)
    var.reset(before)
    assert sorted(seen) == [((), 1), ((1, 2, 3, 4), 5)]


def test_time_is_the_monotonic_clock(anyloop):
    before = time.monotonic()
    now = anyloop.time()
    assert before <= now <= time.monotonic()
    time.sleep(0.002)
    assert anyloop.time() >= now + 0.002


def test_time_moves_within_a_turn(anyloop):
    seen = []

    def callback():
        seen.append(anyloop.time())
        time.sleep(0.002)
        seen.append(anyloop.time())
        seen.append(anyloop.call_later(100, print))

    anyloop.call_soon(callback)
    turn(anyloop)
    first, second, timer = seen
    assert second - first >= 0.002
    assert timer.when() >= second + 100
    timer.cancel()


@pytest.mark.parametrize("delay", [float("inf"), 1e300, 1e18, 2**62, 10**15])
def test_far_future(anyloop, delay):
    """No overflow: it is simply not due."""
    seen = []
    timer = anyloop.call_later(delay, seen.append, "far")
    anyloop.call_later(0.005, anyloop.stop)
    anyloop.run_forever()
    assert seen == []
    assert not timer.cancelled()
    timer.cancel()


def test_far_future_alone_and_a_wakeup(anyloop):
    import threading

    timer = anyloop.call_later(1e300, print)
    thread = threading.Timer(0.01, lambda: anyloop.call_soon_threadsafe(anyloop.stop))
    thread.start()
    anyloop.run_forever()
    thread.join()
    timer.cancel()


def test_a_chain_of_ready_callbacks_does_not_starve_timers(anyloop):
    fired = []

    def spin():
        if not fired:
            anyloop.call_soon(spin)

    anyloop.call_soon(spin)
    anyloop.call_later(0.005, fired.append, 1)
    run_until_count(anyloop, fired, 1)


def test_timer_in_the_middle_of_a_sleep(anyloop):
    async def main():
        seen = []
        anyloop.call_later(0.002, seen.append, "a")
        anyloop.call_later(1000, seen.append, "late").cancel()
        await asyncio.sleep(0.004)
        seen.append("b")
        return seen

    assert run(anyloop, main()) == ["a", "b"]


def test_integer_and_odd_numbers_as_delay(anyloop):
    from decimal import Decimal
    from fractions import Fraction

    seen = []
    anyloop.call_later(False, seen.append, "bool")
    anyloop.call_later(0, seen.append, "int")
    for number in (Fraction(0), Decimal(0)):
        try:
            anyloop.call_later(number, seen.append, "odd")
        except TypeError:
            pass
    turn(anyloop)
    assert seen[:2] == ["bool", "int"]


def test_close_drops_timers(anyloop):
    class Probe: ...

    import weakref

    probe = Probe()
    ref = weakref.ref(probe)
    anyloop.call_later(1000, print, probe)
    anyloop.call_soon(print, probe)
    del probe
    anyloop.close()
    gc.collect()
    assert ref() is None


def test_cancel_after_close(anyloop):
    timer = anyloop.call_later(1000, print)
    soon = anyloop.call_soon(print)
    anyloop.close()
    timer.cancel()
    soon.cancel()
    assert timer.cancelled()
    assert soon.cancelled()
    repr(timer)
    timer.when()
