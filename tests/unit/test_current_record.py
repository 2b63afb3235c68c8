"""asyncio's record of the current task, as whoever looks at it sees it: in a step, after it, from
another thread, by hand. Where no GIL keeps loops apart it is written only when somebody looks.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import weakref
from typing import Any

import pytest
from helpers import LONG, run, turn

import hotloop

Loop = Any
aio: Any = asyncio.tasks

# From 3.14 on there is nothing to look into: the record is a field of each thread state, and where
# it does not fit the interpreter's own functions raise, not ours.
of_the_dictionary = pytest.mark.skipif(
    sys.version_info >= (3, 14), reason="from 3.14 on there is no dictionary of current tasks"
)


def in_thread(ask: Any) -> Any:
    """What `ask()` returns in another thread; the caller's waits for it."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(ask()))
    thread.start()
    thread.join(LONG)
    return found[0]


def test_seen_from_another_thread(anyloop: Loop) -> None:
    async def main() -> None:
        me = asyncio.current_task()
        for _ in range(3):
            # The loop is stuck in this task, and a watchdog asks in which.
            assert in_thread(lambda: asyncio.current_task(anyloop)) is me
            await asyncio.sleep(0)
            assert asyncio.current_task() is me

    run(anyloop, main())
    assert in_thread(lambda: asyncio.current_task(anyloop)) is None
    assert asyncio.current_task(anyloop) is None


def test_not_seen_between_steps(anyloop: Loop) -> None:
    seen: list[Any] = []

    async def main() -> None:
        anyloop.call_soon(lambda: seen.append(asyncio.current_task()))
        anyloop.call_soon(lambda: seen.append(in_thread(lambda: asyncio.current_task(anyloop))))
        await asyncio.sleep(0)
        assert asyncio.current_task() is not None
        await asyncio.sleep(0)

    run(anyloop, main())
    assert seen == [None, None]


@of_the_dictionary
def test_the_dictionary_itself(anyloop: Loop, loop_kind: str, gil: bool) -> None:
    async def main() -> None:
        me = asyncio.current_task()
        await asyncio.sleep(0)
        assert list(aio._current_tasks) == [anyloop]
        # Who does not ask for the loop is not told, where there is no GIL (docs/reliability.md).
        hides = loop_kind != "asyncio" and not gil
        assert list(aio._current_tasks.values()) == [None if hides else me]
        assert anyloop in aio._current_tasks
        await asyncio.sleep(0)
        assert aio._current_tasks[anyloop] is me
        await asyncio.sleep(0)
        assert aio._current_tasks.get(anyloop) is me
        await asyncio.sleep(0)
        assert aio._current_tasks.pop(anyloop) is me
        assert asyncio.current_task() is None
        aio._current_tasks[anyloop] = me
        assert asyncio.current_task() is me
        await asyncio.sleep(0)
        assert asyncio.current_task() is me

    run(anyloop, main())
    assert aio._current_tasks.get(anyloop) is None


def test_another_entered_by_hand(anyloop: Loop) -> None:
    async def idle() -> None:
        assert asyncio.current_task() is other

    async def main() -> None:
        me = asyncio.current_task()
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="Cannot enter into task"):
            aio._enter_task(anyloop, other)
        with pytest.raises(RuntimeError, match=r"Leaving task|Invalid attempt to leave task"):
            aio._leave_task(anyloop, other)
        aio._leave_task(anyloop, me)
        assert asyncio.current_task() is None
        aio._enter_task(anyloop, other)
        assert asyncio.current_task() is other
        aio._leave_task(anyloop, other)
        aio._enter_task(anyloop, me)
        await asyncio.sleep(0)
        assert asyncio.current_task() is me

    other = anyloop.create_task(idle())
    run(anyloop, main())
    run(anyloop, other)


@of_the_dictionary
def test_who_is_in_the_way_may_leave_meanwhile(loop: Loop) -> None:
    """The error names two tasks, and to name the first may end the life of the second."""

    class InTheWay:
        def __repr__(self) -> str:
            return "<who was there>"

    class Refused(hotloop.Task[None]):
        def __repr__(self) -> str:
            aio._current_tasks.pop(loop, None)
            return "<refused>"

    async def nothing() -> None: ...

    told: list[str] = []
    loop.set_exception_handler(lambda _, context: told.append(str(context["exception"])))
    loop.call_soon(aio._enter_task, loop, InTheWay())
    coro = nothing()
    task = Refused(coro, loop=loop)
    turn(loop, 2)
    coro.close()
    # Nobody will finish it: as in asyncio, whose loop takes the error for the callback's.
    task._log_destroy_pending = False
    names = "Cannot enter into task <refused> while another task <who was there> is being executed."
    assert told == [names]
    assert asyncio.current_task(loop) is None


def test_an_eager_task_in_a_step(anyloop: Loop) -> None:
    seen: list[Any] = []

    async def eager() -> None:
        seen.append(asyncio.current_task())
        seen.append(in_thread(lambda: asyncio.current_task(anyloop)))

    async def main() -> None:
        me = asyncio.current_task()
        anyloop.set_task_factory(asyncio.eager_task_factory)
        await asyncio.sleep(0)
        task = anyloop.create_task(eager())
        assert seen == [task, task]
        assert asyncio.current_task() is me
        await asyncio.sleep(0)
        assert asyncio.current_task() is me

    run(anyloop, main())
    assert asyncio.current_task(anyloop) is None


@pytest.mark.parametrize("same", [False, True])
def test_loops_with_a_hash_of_their_own(anyloop: Loop, same: bool) -> None:
    def own_hash(_: Loop) -> int:
        return hash(anyloop) if same else 7

    odd = type("Odd", (type(anyloop),), {"__hash__": own_hash})()

    async def look(loop: Loop) -> None:
        me = asyncio.current_task()
        for _ in range(2):
            assert asyncio.current_task(loop) is me
            assert in_thread(lambda: asyncio.current_task(loop)) is me
            await asyncio.sleep(0)

    try:
        for loop in (anyloop, odd, anyloop):
            run(loop, look(loop))
            assert asyncio.current_task(loop) is None
    finally:
        odd.close()


def test_the_record_keeps_no_task(anyloop: Loop) -> None:
    async def looks() -> None:
        assert asyncio.current_task() is not None
        await asyncio.sleep(0)
        assert asyncio.current_task() is not None

    async def main() -> None:
        task = anyloop.create_task(looks())
        await task
        ref = weakref.ref(task)
        del task
        await asyncio.sleep(0)
        assert ref() is None

    run(anyloop, main())


def test_watched_all_the_time() -> None:
    """Two loops in two threads, and a third that asks for their current tasks meanwhile."""
    loops = [hotloop.new_event_loop() for _ in range(2)]
    over = threading.Event()

    async def leaf() -> None:
        me = asyncio.current_task()
        await asyncio.sleep(0)
        assert asyncio.current_task() is me

    async def main() -> None:
        for _ in range(300):
            tasks = [asyncio.create_task(leaf()) for _ in range(10)]
            await asyncio.gather(*tasks)

    threads = [threading.Thread(target=loop.run_until_complete, args=(main(),)) for loop in loops]
    failed: list[BaseException] = []

    def watch() -> None:
        try:
            while not over.is_set():
                for loop in loops:
                    task = asyncio.current_task(loop)
                    if task is not None:
                        assert task.get_loop() is loop
        except BaseException as error:
            failed.append(error)

    watcher = threading.Thread(target=watch)
    for thread in (watcher, *threads):
        thread.start()
    for thread in threads:
        thread.join(LONG)
    over.set()
    watcher.join(LONG)
    assert not failed, failed[0]
    for loop in loops:
        assert asyncio.current_task(loop) is None
        loop.close()
