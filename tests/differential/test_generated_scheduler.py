"""Generated sequences of operations on the scheduler; the loops must log the same.

A program is a few scripts, each a list of operations. Script 0 runs as a task; callbacks and
tasks that an operation makes run a script too, perhaps the same. Time is counted in turns.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from typing import Any

from duet import TURN, Recorder, compare, play
from hypothesis import given
from hypothesis import strategies as st

import hotloop

VAR: contextvars.ContextVar[int] = contextvars.ContextVar("VAR", default=0)
SLOTS = 4
SCRIPTS = 4
MOST_EVENTS = 200
MOST_TASKS = 40
MOST_CALLS = 300
MOST_WAKES = 100  # asyncio's self-pipe holds a few hundred, and its debug mode logs when it is full
DEEPEST = 6
TURNS = 25

slots = st.integers(0, SLOTS - 1)
delays = st.sampled_from([0, -1, TURN / 2, TURN, 1.5 * TURN, 2 * TURN, 3 * TURN, 0.3])


class Boom(Exception):
    pass


class Odd(BaseException):
    pass


EXCEPTIONS = {"boom": Boom, "odd": Odd, "cancelled": asyncio.CancelledError, "stop": StopIteration}


def operations() -> Any:
    """What a callback does, at once; and what a task does, with awaits between."""
    children = st.integers(0, SCRIPTS - 1)
    call = st.one_of(
        st.tuples(st.just("soon"), slots, children),
        st.tuples(st.just("soon in a context"), slots, children),
        st.tuples(st.just("later"), slots, delays, children),
        st.tuples(st.just("at"), slots, delays, children),
        st.tuples(st.just("threadsafe"), slots, children),
        st.tuples(st.just("from a thread"), slots, children),
        st.tuples(st.just("cancel handle"), slots),
        st.tuples(st.just("set var"), st.integers(1, 9)),
        st.tuples(st.just("task"), slots, children),
        st.tuples(st.just("cancel task"), slots),
        st.tuples(st.just("uncancel"), slots),
        st.tuples(st.just("set result"), slots),
        st.tuples(st.just("set exception"), slots),
        st.tuples(st.just("cancel future"), slots),
        st.tuples(st.just("new future"), slots),
        st.tuples(st.just("add callback"), slots, children),
        st.tuples(st.just("callback of task"), slots, children),
        st.tuples(st.just("remove callbacks"), slots),
        st.tuples(st.just("stop")),
        st.tuples(st.just("raise"), st.sampled_from(sorted(EXCEPTIONS))),
        st.tuples(st.just("look")),
    )
    wait = st.one_of(
        st.tuples(st.just("sleep"), delays),
        st.tuples(st.just("await future"), slots),
        st.tuples(st.just("await task"), slots),
        st.tuples(st.just("shield task"), slots),
        st.tuples(st.just("wait for"), slots, delays),
        st.tuples(st.just("timeout"), slots, delays),
        st.tuples(st.just("gather"), slots, slots),
        st.tuples(st.just("wait"), slots, slots, delays),
        st.tuples(st.just("guard"), children),
        st.tuples(st.just("group"), children, children),
    )
    return call | wait


SCRIPT = st.lists(operations(), min_size=1, max_size=8)
PROGRAMS = st.lists(SCRIPT, min_size=SCRIPTS, max_size=SCRIPTS)
# What a run may be like: debug mode, eager tasks.
MODES = st.sampled_from(["plain", "plain", "plain", "debug", "eager"])


class Machine:
    def __init__(self, rec: Recorder, mode: str, scripts: Any) -> None:
        self.rec = rec
        self.scripts = scripts
        self.over = False  # nothing is done any more
        self.depth = 0
        self.loop = rec.loop
        self.note = rec.note
        self.handles: list[Any] = [None] * SLOTS
        self.tasks: list[Any] = [None] * SLOTS
        self.every_task: list[Any] = []
        self.futures: list[Any] = [self.loop.create_future() for _ in range(SLOTS)]
        self.added: list[Any] = [[] for _ in range(SLOTS)]
        self.serial = 0
        self.timers = 0
        self.calls = 0
        self.wakes = 0
        # Names would do, but under an eager factory 3.13.0 gives them after the first step.
        self.numbers: dict[Any, Any] = {None: None}
        if mode == "debug":
            self.loop.set_debug(True)
            self.loop.slow_callback_duration = 1e9
        elif mode == "eager":
            self.loop.set_task_factory(asyncio.eager_task_factory)

    def report(self, loop: Any, context: dict[str, Any]) -> None:
        # Without the callback's name, which asyncio has forgotten if the handle was cancelled.
        message = context["message"].partition(" in callback ")[0]
        self.rec.party("handler")(message, sorted(context), context.get("exception"))

    def number(self) -> int:
        self.serial += 1
        return self.serial

    def own(self, delay: float) -> float:
        """A little more, each time more: asyncio's heap keeps no order among equal deadlines."""
        self.timers += 1
        return delay + self.timers * 2**-20

    def full(self) -> bool:
        return self.over or len(self.note.events) > MOST_EVENTS or self.calls > MOST_CALLS

    def who(self, task: Any) -> Any:
        return self.numbers.get(task, "?")

    def callback(self, program: Any) -> Any:
        number = self.number()
        self.calls += 1  # a callback that makes two multiplies

        def run(*args: Any) -> None:
            self.note("call", number, VAR.get(), self.who(asyncio.current_task()))
            self.burst(program)

        return run

    def burst(self, program: Any) -> None:
        for op in self.scripts[program]:
            self.do(op)

    def do(self, op: Any) -> None:
        """An operation that does not wait; those that do are passed over."""
        method = getattr(self, "do_" + op[0].replace(" ", "_"), None)
        if method is not None and not self.full():
            method(*op[1:])

    # ---- calls ----

    def do_soon(self, slot: int, program: Any) -> None:
        self.handles[slot] = self.loop.call_soon(self.callback(program))

    def do_soon_in_a_context(self, slot: int, program: Any) -> None:
        ctx = contextvars.Context()
        ctx.run(VAR.set, 99)
        self.handles[slot] = self.loop.call_soon(self.callback(program), 1, context=ctx)

    def do_later(self, slot: int, delay: float, program: Any) -> None:
        self.handles[slot] = handle = self.loop.call_later(self.own(delay), self.callback(program))
        self.note("when", handle.when())

    def do_at(self, slot: int, delay: float, program: Any) -> None:
        when = self.loop.time() + self.own(delay)
        self.handles[slot] = self.loop.call_at(when, self.callback(program), 1, 2)

    def do_threadsafe(self, slot: int, program: Any) -> None:
        self.wakes += 1
        if self.wakes > MOST_WAKES:
            return
        self.handles[slot] = self.loop.call_soon_threadsafe(self.callback(program))

    def do_from_a_thread(self, slot: int, program: Any) -> None:
        thread = threading.Thread(target=self.do_threadsafe, args=(slot, program))
        thread.start()
        thread.join()

    def do_cancel_handle(self, slot: int) -> None:
        if self.handles[slot] is not None:
            self.handles[slot].cancel()
            self.note("cancelled", self.handles[slot].cancelled())

    def do_set_var(self, value: int) -> None:
        VAR.set(value)

    def do_stop(self) -> None:
        self.loop.stop()

    def do_raise(self, name: str) -> None:
        raise EXCEPTIONS[name](name)

    def do_look(self) -> None:
        names = sorted(str(self.who(task)) for task in asyncio.all_tasks())
        self.note("look", self.who(asyncio.current_task()), names)
        self.note([f._state for f in self.futures], [t and t._state for t in self.tasks])

    # ---- futures ----

    def do_new_future(self, slot: int) -> None:
        self.futures[slot] = self.loop.create_future()
        self.added[slot] = []

    def do_set_result(self, slot: int) -> None:
        if not self.futures[slot].done():
            self.futures[slot].set_result(slot)

    def do_set_exception(self, slot: int) -> None:
        if not self.futures[slot].done():
            self.futures[slot].set_exception(Boom(slot))
            self.futures[slot]._log_traceback = False

    def do_cancel_future(self, slot: int) -> None:
        self.note("cancel", self.futures[slot].cancel(f"f{slot}"))

    def do_add_callback(self, slot: int, program: Any) -> None:
        callback = self.callback(program)
        self.added[slot].append(callback)
        self.futures[slot].add_done_callback(callback)

    def do_callback_of_task(self, slot: int, program: Any) -> None:
        if self.tasks[slot] is not None:
            self.tasks[slot].add_done_callback(self.callback(program))

    def do_remove_callbacks(self, slot: int) -> None:
        for callback in self.added[slot]:
            self.note("removed", self.futures[slot].remove_done_callback(callback))

    # ---- tasks ----

    def do_task(self, slot: int, program: Any) -> None:
        if len(self.every_task) > MOST_TASKS:
            return
        number = self.number()
        task = self.loop.create_task(self.steps(number, program))
        self.tasks[slot] = task
        self.every_task.append(task)

    def do_cancel_task(self, slot: int) -> None:
        task = self.tasks[slot]
        if task is not None:
            self.note("cancel", task.cancel(f"c{slot}"), task.cancelling(), task._must_cancel)

    def do_uncancel(self, slot: int) -> None:
        if self.tasks[slot] is not None:
            self.note("uncancel", self.tasks[slot].uncancel())

    async def steps(self, number: int, program: Any) -> Any:
        self.numbers[asyncio.current_task()] = self.numbers.get(asyncio.current_task(), number)
        self.note("task", number, VAR.get())
        try:
            await self.script(program)
        except BaseException as exc:
            self.note("task ends", number, exc)
            raise
        self.note("task ends", number, asyncio.current_task().cancelling())  # type: ignore[union-attr]
        return number

    async def script(self, program: Any) -> None:
        for op in self.scripts[program]:
            method = getattr(self, "await_" + op[0].replace(" ", "_"), None)
            if method is None:
                self.do(op)
            elif not self.full():
                self.note(op[0], await method(*op[1:]))

    async def await_sleep(self, delay: float) -> Any:
        return await asyncio.sleep(self.own(delay) if delay > 0 else delay, delay)

    async def await_await_future(self, slot: int) -> Any:
        return await self.futures[slot]

    async def await_await_task(self, slot: int) -> Any:
        """Only a younger task itself, of others the shield: no ring of tasks is ever made.

        To cancel in a ring is a RecursionError, or, with a task group in it, never done.
        """
        task, every = self.tasks[slot], self.every_task
        here = {task, asyncio.current_task()} <= set(every)
        if here and every.index(task) > every.index(asyncio.current_task()):
            return await task
        return await self.await_shield_task(slot)

    async def await_shield_task(self, slot: int) -> Any:
        if self.tasks[slot] is not None and self.tasks[slot] is not asyncio.current_task():
            return await asyncio.shield(self.tasks[slot])
        return None

    async def await_wait_for(self, slot: int, delay: float) -> Any:
        return await asyncio.wait_for(self.futures[slot], self.own(delay) if delay > 0 else delay)

    async def await_timeout(self, slot: int, delay: float) -> Any:
        async with asyncio.timeout(self.own(delay) if delay > 0 else delay):
            return await self.futures[slot]

    async def await_gather(self, one: int, two: int) -> Any:
        return await asyncio.gather(
            self.futures[one], asyncio.sleep(self.own(0.2), "slept"), self.futures[two]
        )

    async def await_wait(self, one: int, two: int, delay: float) -> Any:
        both = {self.futures[one], self.futures[two]}
        done, left = await asyncio.wait(
            both, timeout=self.own(delay), return_when="FIRST_COMPLETED"
        )
        return len(done), len(left)

    async def await_guard(self, program: Any) -> Any:
        if self.depth < DEEPEST:
            self.depth += 1
            try:
                await self.script(program)
            except (Exception, asyncio.CancelledError) as exc:
                return exc
            finally:
                self.depth -= 1
        return None

    async def await_group(self, one: Any, two: Any) -> None:
        # One child only: a group cancels in the order of a set.
        async with asyncio.TaskGroup() as group:
            if len(self.every_task) < MOST_TASKS:
                task = group.create_task(self.steps(self.number(), one))
                self.every_task.append(task)
            await self.await_guard(two)

    async def main(self) -> None:
        self.every_task.append(self.loop.create_task(self.steps(0, 0)))
        for _ in range(TURNS):
            await asyncio.sleep(0)

    async def finish(self) -> None:
        """Ends what is left; exceptions that nobody looked at are looked at here."""
        self.over = True
        while left := [task for task in self.every_task if not task.done()]:
            for task in left:
                task.cancel()
            await asyncio.sleep(0)
        for task in self.every_task:
            self.note(self.who(task), task._state)
            if not task.cancelled():
                self.note(task.exception())
        for future in self.futures:
            future.cancel()


def run_program(rec: Recorder, mode: str, program: Any) -> None:
    machine = Machine(rec, mode, program)
    loop = rec.loop
    loop.set_exception_handler(machine.report)
    rec.start_clock(loop)
    for part in (machine.main, machine.finish):
        task = loop.create_task(part(), name=part.__name__)
        while not task.done():
            try:
                loop.run_until_complete(task)
            except BaseException as exc:
                if rec.hung:
                    raise
                rec.note("run ends", exc)
        rec.note(part.__name__, task.cancelled() or task.exception())


@given(MODES, PROGRAMS)
def test_programs(backend: str, mode: str, program: Any) -> None:
    def scenario(rec: Recorder) -> None:
        run_program(rec, mode, program)

    theirs, turns = play(scenario, asyncio.SelectorEventLoop, brief=True, clock=True)
    ours, mine = play(scenario, lambda: hotloop.new_event_loop(backend), brief=True, clock=True)
    compare("test_programs", ours, theirs)
    assert mine == turns
