"""The scheduler against a model of it in plain Python: every callback, in order, at its time.

A program is a row of calls from outside and of turns; callbacks carry scripts of their own. The
clock is the test's, so the model says exactly what runs in which turn. `test_real_clock` has the
true clock, on which no timer may be early, late by a turn, or out of order.
"""

from __future__ import annotations

import asyncio
import collections
import heapq
import threading
import time
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule
from machinelib import Machine, hammer, make_loop

RESOLUTION = time.get_clock_info("monotonic").resolution
FUTURES = 3
MOST = 600  # callbacks of one program

DELAYS = st.sampled_from([0.0, 1.0, 1.0, 2.0, 3.0, 0.5, -1.0, 1e-9, 1e9])
LEAVES = st.one_of(
    st.tuples(st.just("cancel"), st.integers(0, 200)),
    st.tuples(st.just("stop")),
    st.tuples(st.just("raise"), st.sampled_from(["boom", "boom", "exit", "interrupt"])),
    st.tuples(st.just("advance"), st.sampled_from([0.5, 1.0, 3.0])),
    st.tuples(
        st.just("task"),
        st.lists(st.sampled_from(["sleep", "sleep", "0", "1", "2", "shout"]), max_size=4),
    ),
    st.tuples(st.just("resolve"), st.integers(0, FUTURES - 1)),
)
SCRIPTS = st.recursive(
    st.lists(LEAVES, max_size=3),
    lambda inner: st.lists(
        st.one_of(
            LEAVES,
            st.tuples(st.sampled_from(["soon", "threadsafe"]), inner),
            st.tuples(st.sampled_from(["later", "at"]), DELAYS, inner),
        ),
        max_size=5,
    ),
    max_leaves=12,
)


class Boom(Exception):
    pass


RAISES = {"boom": Boom, "exit": SystemExit, "interrupt": KeyboardInterrupt}


class World:
    """What the model and the loop have in common: the log, the numbers, the scripts."""

    def __init__(self, handler: str, unequal: bool) -> None:
        self.now = 100.0
        self.log: list[Any] = []
        self.handler = handler
        self.unequal = unequal  # asyncio's heap keeps no order among equal deadlines
        self.made = 0
        self.things: list[Any] = []

    def number(self) -> int:
        self.made += 1
        return self.made

    def when(self, delay: float) -> float:
        return self.now + delay + (self.made * 2**-30 if self.unequal else 0.0)

    def handle_error(self, name: str) -> None:
        self.log.append(("error", name))
        if self.handler == "raises":
            raise Boom("in the handler")
        if self.handler == "exits":
            raise SystemExit("in the handler")

    def script(self, actions: Any) -> None:
        for name, *rest in actions:
            if self.made < MOST:
                getattr(self, "do_" + name)(*rest)

    def do_advance(self, delay: float) -> None:
        self.now += delay

    def do_raise(self, what: str) -> None:
        raise RAISES[what](what)


class Real(World):
    def __init__(self, loop: asyncio.AbstractEventLoop, handler: str, unequal: bool) -> None:
        super().__init__(handler, unequal)
        self.loop: Any = loop
        # The silenced error: programs do move time that way.
        loop.time = lambda: self.now  # type: ignore[method-assign]
        loop.set_exception_handler(lambda loop, context: self.report(context))
        self.futures = [loop.create_future() for _ in range(FUTURES)]

    def report(self, context: dict[str, Any]) -> None:
        self.handle_error(type(context["exception"]).__name__)

    def callback(self, actions: Any) -> Any:
        number = self.number()

        def run() -> None:
            self.log.append(("run", number, self.now))
            self.script(actions)

        return run

    def do_soon(self, actions: Any) -> None:
        self.things.append(self.loop.call_soon(self.callback(actions)))

    def do_later(self, delay: float, actions: Any) -> None:
        run = self.callback(actions)
        self.things.append(self.loop.call_later(self.when(delay) - self.now, run))

    def do_at(self, delay: float, actions: Any) -> None:
        run = self.callback(actions)
        self.things.append(self.loop.call_at(self.when(delay), run))

    def do_threadsafe(self, actions: Any) -> None:
        run = self.callback(actions)
        made = []
        thread = threading.Thread(target=lambda: made.append(self.loop.call_soon_threadsafe(run)))
        thread.start()
        thread.join()
        self.things += made

    def do_cancel(self, at: int) -> None:
        if self.things:
            self.things[at % len(self.things)].cancel()

    def do_stop(self) -> None:
        self.loop.stop()

    def future(self, slot: int) -> Any:
        if self.futures[slot].done():
            self.futures[slot] = self.loop.create_future()
        return self.futures[slot]

    def do_resolve(self, slot: int) -> None:
        self.future(slot).set_result(None)

    def do_task(self, steps: list[str]) -> None:
        number = self.number()

        async def body() -> None:
            try:
                for step in steps:
                    self.log.append(("step", number, step, self.now))
                    if step == "sleep":
                        await asyncio.sleep(0)
                    elif step != "shout":
                        await self.future(int(step))
            except asyncio.CancelledError:
                self.log.append(("cancelled", number))
                raise
            self.log.append(("end", number))

        self.things.append(self.loop.create_task(body()))

    def turn(self) -> None:
        self.loop.stop()
        self.loop.run_forever()


class Cancelled(Exception):
    pass


class ModelFuture:
    def __init__(self, model: Model) -> None:
        self.model = model
        self.state = "pending"
        self.waiters: list[ModelTask] = []

    def finish(self, state: str) -> bool:
        if self.state != "pending":
            return False
        self.state = state
        self.model.ready.extend(self.waiters)
        self.waiters = []
        return True


class ModelTask:
    """The body of Real.do_task(), step by step."""

    def __init__(self, model: Model, number: int, steps: list[str]) -> None:
        self.model, self.number, self.steps = model, number, list(steps)
        self.started = self.done = self.must_cancel = False
        self.waits: ModelFuture | None = None

    def cancel(self) -> None:
        if not self.done and not (self.waits is not None and self.waits.finish("cancelled")):
            self.must_cancel = True

    def __call__(self) -> None:
        log, model = self.model.log, self.model
        cancelled = self.must_cancel or (self.waits is not None and self.waits.state != "done")
        self.waits, self.must_cancel = None, False
        if cancelled:
            self.done = True
            if self.started:
                log.append(("cancelled", self.number))
            return
        self.started = True
        while self.steps:
            step = self.steps.pop(0)
            log.append(("step", self.number, step, model.now))
            if step == "sleep":
                model.ready.append(self)
                return
            if step != "shout":
                self.waits = model.future(int(step))
                self.waits.waiters.append(self)
                return
        self.done = True
        log.append(("end", self.number))


class ModelHandle:
    def __init__(self, model: Model, number: int, actions: Any) -> None:
        self.model, self.number, self.actions = model, number, actions
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True

    def __call__(self) -> None:
        if self.cancelled:
            return
        self.model.log.append(("run", self.number, self.model.now))
        try:
            self.model.script(self.actions)
        except Exception as exc:
            try:
                self.model.handle_error(type(exc).__name__)
            except Exception:
                pass


class Model(World):
    """asyncio's loop as its documentation has it, with no more than lists."""

    def __init__(self, handler: str, unequal: bool) -> None:
        super().__init__(handler, unequal)
        self.ready: collections.deque[Any] = collections.deque()
        self.timers: list[tuple[float, int, ModelHandle]] = []
        self.futures = [ModelFuture(self) for _ in range(FUTURES)]

    def handle(self, actions: Any) -> ModelHandle:
        self.things.append(ModelHandle(self, self.number(), actions))
        made: ModelHandle = self.things[-1]
        return made

    def do_soon(self, actions: Any) -> None:
        self.ready.append(self.handle(actions))

    do_threadsafe = do_soon

    def do_later(self, delay: float, actions: Any) -> None:
        made = self.handle(actions)
        when = self.now + (self.when(delay) - self.now)  # rounded as call_later() does
        heapq.heappush(self.timers, (when, made.number, made))

    def do_at(self, delay: float, actions: Any) -> None:
        made = self.handle(actions)
        heapq.heappush(self.timers, (self.when(delay), made.number, made))

    def do_cancel(self, at: int) -> None:
        if self.things:
            self.things[at % len(self.things)].cancel()

    def do_stop(self) -> None:
        pass  # each turn is the last of its run

    def future(self, slot: int) -> ModelFuture:
        if self.futures[slot].state != "pending":
            self.futures[slot] = ModelFuture(self)
        return self.futures[slot]

    def do_resolve(self, slot: int) -> None:
        self.future(slot).finish("done")

    def do_task(self, steps: list[str]) -> None:
        self.things.append(ModelTask(self, self.number(), steps))
        self.ready.append(self.things[-1])

    def turn(self) -> None:
        end = self.now + RESOLUTION
        while self.timers and self.timers[0][0] < end:
            self.ready.append(heapq.heappop(self.timers)[2])
        for _ in range(len(self.ready)):
            self.ready.popleft()()


class SchedulerMachine(Machine):
    @initialize(handler=st.sampled_from(["quiet", "quiet", "raises", "exits"]), debug=st.booleans())
    def start(self, handler: str, debug: bool) -> None:
        self.loop = make_loop(self.kind)
        self.loop.set_debug(debug)
        unequal = self.kind == "asyncio"
        self.real = Real(self.loop, handler, unequal)
        self.model = Model(handler, unequal)

    def both(self, what: str, *args: Any) -> None:
        """The same call on both; what leaves one of them leaves the other."""
        left = []
        for world in (self.real, self.model):
            try:
                getattr(world, what)(*args)
            except (SystemExit, KeyboardInterrupt, Boom) as exc:
                left.append(type(exc).__name__)
            else:
                left.append(None)
        assert left[0] == left[1]
        assert self.real.log == self.model.log
        assert self.real.now == self.model.now

    @rule(script=SCRIPTS)
    def outside(self, script: Any) -> None:
        self.both("script", script)

    @rule(script=SCRIPTS)
    def soon(self, script: Any) -> None:
        self.both("do_soon", script)

    @rule(script=SCRIPTS, delay=DELAYS)
    def later(self, script: Any, delay: float) -> None:
        self.both("do_later", delay, script)

    @rule(delay=st.sampled_from([0.5, 1.0, 5.0]))
    def advance(self, delay: float) -> None:
        self.both("do_advance", delay)

    @rule(at=st.integers(0, 200))
    def cancel(self, at: int) -> None:
        self.both("do_cancel", at)

    @rule(turns=st.integers(1, 4))
    def turn(self, turns: int) -> None:
        for _ in range(turns):
            self.both("turn")

    @invariant()
    def same_numbers(self) -> None:
        if hasattr(self, "real"):
            assert self.real.made == self.model.made

    def teardown(self) -> None:
        super().teardown()
        if not hasattr(self, "real"):
            return
        for world in (self.real, self.model):
            world.handler = "quiet"
            world.made = MOST  # scripts do no more
            for thing in list(world.things):
                thing.cancel()
        for _ in range(3):
            self.both("turn")
        assert not self.model.ready
        assert not asyncio.all_tasks(self.loop)
        self.loop.close()


class ClockMachine(Machine):
    """Timers on the true clock."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = make_loop(self.kind)
        self.pending: dict[int, tuple[float, int]] = {}
        self.handles: dict[int, asyncio.TimerHandle] = {}
        self.made = 0

    def fire(self, number: int) -> None:
        key = self.pending.pop(number)
        assert self.loop.time() + RESOLUTION >= key[0]  # never early
        if self.kind == "asyncio":  # where equal ones have no order
            assert all(key[0] <= other[0] for other in self.pending.values())
        else:
            assert all(key < other for other in self.pending.values())

    @rule(delay=st.sampled_from([0.0, -1.0, 1e-6, 1e-5, 1e-4, 0.001, 0.003, 60.0]))
    def later(self, delay: float) -> None:
        self.made += 1
        handle = self.loop.call_later(delay, self.fire, self.made)
        self.handles[self.made] = handle
        self.pending[self.made] = (handle.when(), self.made)

    @rule(at=st.integers(0, 100), delay=st.sampled_from([0.0, 0.001]))
    def at_the_same_time(self, at: int, delay: float) -> None:
        if self.handles:
            self.made += 1
            when = self.handles[1 + at % len(self.handles)].when() + delay
            self.handles[self.made] = self.loop.call_at(when, self.fire, self.made)
            self.pending[self.made] = (when, self.made)

    @rule(at=st.integers(0, 100))
    def cancel(self, at: int) -> None:
        if self.handles:
            number = 1 + at % len(self.handles)
            self.handles[number].cancel()
            self.pending.pop(number, None)

    @rule()
    def turn(self) -> None:
        before = self.loop.time()
        self.loop.stop()
        self.loop.run_forever()
        assert not [key for key in self.pending.values() if key[0] <= before]

    @rule()
    def sleep_for_the_next(self) -> None:
        soon = [key for key in self.pending.values() if key[0] < self.loop.time() + 1]
        if soon:
            self.loop.call_at(max(soon)[0] + 1e-5, self.loop.stop)
            self.loop.run_forever()
            assert not [key for key in soon if key in self.pending.values()]

    def teardown(self) -> None:
        super().teardown()
        self.loop.close()


@pytest.mark.usefixtures("reports")
def test_scheduler(loop_kind: str) -> None:
    hammer(SchedulerMachine, loop_kind, machines=2)


def test_real_clock(loop_kind: str) -> None:
    hammer(ClockMachine, loop_kind, machines=2)
