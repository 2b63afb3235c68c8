"""The order of callbacks of all kinds, and the number of turns that things take."""

from __future__ import annotations

import asyncio
import contextvars

import pytest
from helpers import count_turns, plain, turn


def test_call_soon_is_first_in_first_out(anyloop):
    seen = []
    for number in range(100):
        anyloop.call_soon(seen.append, number)
    turn(anyloop)
    assert seen == list(range(100))


def test_one_turn_runs_what_was_there_at_its_start(anyloop):
    seen = []

    def again(number):
        seen.append(number)
        anyloop.call_soon(again, number + 1)

    anyloop.call_soon(again, 0)
    for expected in range(1, 5):
        turn(anyloop)
        assert seen == list(range(expected))
    anyloop.close()


def test_growth_of_the_queue(anyloop):
    seen = []

    def spread(depth):
        seen.append(depth)
        if depth < 10:
            anyloop.call_soon(spread, depth + 1)
            anyloop.call_soon(spread, depth + 1)

    anyloop.call_soon(spread, 0)
    turn(anyloop, 11)
    assert seen == sorted(seen)
    assert len(seen) == 2**11 - 1


def test_kinds_share_one_queue(same):
    """Handles, steps, wake-ups, future callbacks, thread-safe calls, timers that are due."""

    def scenario(loop):
        seen = []

        async def task(name, future):
            seen.append(name + " began")
            await future
            seen.append(name + " woke")
            await asyncio.sleep(0)
            seen.append(name + " ended")

        def burst(number):
            seen.append(f"burst {number}")
            loop.call_soon(seen.append, f"soon {number}")
            futures[number].set_result(None)
            futures[number].add_done_callback(lambda fut: seen.append(f"late {number}"))
            loop.call_soon_threadsafe(seen.append, f"threadsafe {number}")
            loop.call_later(0, seen.append, f"timer {number}")

        futures = [loop.create_future() for _ in range(3)]
        tasks = []
        for number, future in enumerate(futures):
            future.add_done_callback(lambda fut, n=number: seen.append(f"first {n}"))
            tasks.append(loop.create_task(task(f"task {number}", future)))
        turn(loop)
        for number, future in enumerate(futures):
            future.add_done_callback(lambda fut, n=number: seen.append(f"second {n}"))
            loop.call_soon(burst, number)
        for _ in range(5):
            turn(loop)
            seen.append("-- turn")
        assert all(task.done() for task in tasks)
        return seen

    assert len(same(scenario)) > 30


def test_waiter_among_callbacks(same):
    """A task that waits is woken in the order in which it began to wait."""

    def scenario(loop):
        seen = []
        future = loop.create_future()

        async def wait(name):
            await future
            seen.append(name)

        future.add_done_callback(lambda fut: seen.append("callback 1"))
        tasks = [loop.create_task(wait("task 1"))]
        turn(loop)
        future.add_done_callback(lambda fut: seen.append("callback 2"))
        tasks.append(loop.create_task(wait("task 2")))
        turn(loop)
        future.add_done_callback(lambda fut: seen.append("callback 3"))
        future.set_result(None)
        loop.call_soon(seen.append, "soon")
        turn(loop)
        return seen

    assert same(scenario) == ["callback 1", "task 1", "callback 2", "task 2", "callback 3", "soon"]


def test_waiter_first_then_callbacks(same):
    def scenario(loop):
        seen = []
        future = loop.create_future()

        async def wait(name):
            await future
            seen.append(name)

        task = loop.create_task(wait("task"))
        turn(loop)
        future.add_done_callback(lambda fut: seen.append("callback"))
        task.add_done_callback(lambda fut: seen.append("done"))
        future.set_result(None)
        loop.call_soon(seen.append, "soon")
        turn(loop, 2)
        return seen

    assert same(scenario) == ["task", "callback", "soon", "done"]


# ---- turns ----


async def nothing():
    return 1


async def sleeps(count):
    for _ in range(count):
        await asyncio.sleep(0)
    return count


async def awaits_a_task():
    return await asyncio.get_running_loop().create_task(nothing())


async def awaits_a_future():
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    loop.call_soon(future.set_result, 1)
    return await future


async def awaits_a_finished_task():
    task = asyncio.get_running_loop().create_task(nothing())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return await task


async def cancels_a_task():
    task = asyncio.get_running_loop().create_task(asyncio.sleep(1000))
    await asyncio.sleep(0)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return "cancelled"


async def cancels_before_the_start():
    task = asyncio.get_running_loop().create_task(asyncio.sleep(1000))
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return "cancelled"


async def cancels_a_task_that_awaits_a_task():
    async def outer():
        await asyncio.get_running_loop().create_task(asyncio.sleep(1000))

    task = asyncio.get_running_loop().create_task(outer())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return "cancelled"


async def gathers(count):
    return await asyncio.gather(*[sleeps(n) for n in range(count)])


async def gathers_nothing():
    return await asyncio.gather()


async def gathers_a_failure():
    async def fail():
        await asyncio.sleep(0)
        raise ValueError("x")

    return [
        plain(repr(answer))
        for answer in await asyncio.gather(fail(), nothing(), return_exceptions=True)
    ]


async def cancels_a_gather():
    group = asyncio.gather(asyncio.sleep(1000), asyncio.sleep(1000))
    await asyncio.sleep(0)
    group.cancel("g")
    try:
        await group
    except asyncio.CancelledError as exc:
        return str(exc)


async def waits_for_a_quick_one():
    return await asyncio.wait_for(sleeps(2), 1000)


async def waits_for_too_long():
    try:
        await asyncio.wait_for(asyncio.sleep(1000), 0)
    except TimeoutError:
        return "timeout"


async def waits_for_all():
    loop = asyncio.get_running_loop()
    done, pending = await asyncio.wait([loop.create_task(sleeps(n)) for n in range(4)])
    return len(done), len(pending)


async def waits_for_the_first():
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(sleeps(n)) for n in (1, 5)]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    answer = len(done), len(pending)
    await asyncio.wait(tasks)
    return answer


async def as_completed():
    # one only: asyncio keeps them in a set, in the order of their addresses
    return [await one for one in asyncio.as_completed([sleeps(3)])]


async def shielded():
    return await asyncio.shield(sleeps(2))


async def a_group_of_tasks():
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(sleeps(n)) for n in range(3)]
    return [task.result() for task in tasks]


async def a_group_that_fails():
    async def fail():
        raise ValueError

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(1000))
            group.create_task(fail())
    except* ValueError:
        pass
    return "failed"


async def a_timeout_that_is_over():
    try:
        async with asyncio.timeout(0):
            await asyncio.sleep(1000)
    except TimeoutError:
        return "timeout"


async def an_event():
    event = asyncio.Event()
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(event.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    event.set()
    return [await task for task in tasks]


async def a_lock():
    lock = asyncio.Lock()
    order = []

    async def hold(number):
        async with lock:
            order.append(number)
            await asyncio.sleep(0)

    await asyncio.gather(*map(hold, range(4)))
    return order


async def a_queue():
    queue = asyncio.Queue(2)

    async def produce():
        for number in range(6):
            await queue.put(number)

    task = asyncio.get_running_loop().create_task(produce())
    got = [await queue.get() for _ in range(6)]
    await task
    return got


async def an_async_generator():
    async def generate():
        for number in range(3):
            await asyncio.sleep(0)
            yield number

    return [number async for number in generate()]


async def fails():
    raise KeyError("k")


async def ping_pong():
    loop = asyncio.get_running_loop()
    ball = [loop.create_future(), loop.create_future()]

    async def player(me):
        for _ in range(5):
            await ball[me]
            ball[me] = loop.create_future()
            ball[1 - me].set_result(None)

    players = [loop.create_task(player(me)) for me in (0, 1)]
    await asyncio.sleep(0)
    ball[0].set_result(None)
    await asyncio.gather(*players)


SUBJECTS = [
    nothing,
    lambda: sleeps(5),
    awaits_a_task,
    awaits_a_future,
    awaits_a_finished_task,
    cancels_a_task,
    cancels_before_the_start,
    cancels_a_task_that_awaits_a_task,
    lambda: gathers(1),
    lambda: gathers(10),
    gathers_nothing,
    gathers_a_failure,
    cancels_a_gather,
    waits_for_a_quick_one,
    waits_for_too_long,
    waits_for_all,
    waits_for_the_first,
    as_completed,
    shielded,
    a_group_of_tasks,
    a_group_that_fails,
    a_timeout_that_is_over,
    an_event,
    a_lock,
    a_queue,
    an_async_generator,
    fails,
    ping_pong,
]


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("debug", [False, True], ids=["", "debug"])
def test_turns(same, subject, debug):
    """A failed count means that some wake-up comes a turn earlier or later than asyncio's."""

    def scenario(loop):
        loop.set_debug(debug)
        loop.slow_callback_duration = 1000
        try:
            return count_turns(loop, subject())
        finally:
            loop.set_debug(False)

    same(scenario)


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda f: f.__name__)
def test_turns_with_eager_tasks(same, subject):
    import hotloop

    def scenario(loop):
        ours = isinstance(loop, hotloop.EventLoop)
        make = asyncio.create_eager_task_factory(hotloop.Task if ours else asyncio.Task)
        loop.set_task_factory(make)
        return count_turns(loop, subject())

    same(scenario)


def test_turns_of_run_until_complete_of_a_future(same):
    def scenario(loop):
        pending = loop.create_future()
        loop.call_soon(pending.set_result, "later")
        done = loop.create_future()
        done.set_result("now")
        return count_turns(loop, pending), count_turns(loop, done)

    same(scenario)


@pytest.mark.parametrize("seed", range(5))
def test_interleaving_of_many_tasks(same, seed):
    """A long random program; its log is the same to the last entry."""

    def scenario(loop):
        import random

        rng = random.Random(seed)
        log = []
        futures = {}

        async def actor(name, depth):
            for step in range(rng.randrange(2, 6)):
                log.append((name, step))
                match rng.randrange(7):
                    case 0:
                        await asyncio.sleep(0)
                    case 1 if depth:
                        child = loop.create_task(actor(f"{name}.{step}", depth - 1))
                        child.add_done_callback(lambda t, s=step: log.append((name, "child", s)))
                        await child
                    case 2 if depth:
                        loop.create_task(actor(f"{name}:{step}", depth - 1))
                    case 3:
                        future = futures[name, step] = loop.create_future()
                        loop.call_soon(lambda f=future: f.done() or f.set_result(1))
                        await future
                    case 4:
                        loop.call_soon(log.append, (name, "soon", step))
                    case 5:
                        task = loop.create_task(asyncio.sleep(1000))
                        loop.call_soon(task.cancel)
                        try:
                            await task
                        except asyncio.CancelledError:
                            log.append((name, "cancelled", step))
                    case 6:
                        await asyncio.gather(asyncio.sleep(0), asyncio.sleep(0))

        async def main():
            await asyncio.gather(*[actor(str(n), 3) for n in range(20)])
            while len(asyncio.all_tasks()) > 1:
                await asyncio.sleep(0)

        turns, _ = count_turns(loop, main())
        return turns, log

    turns, log = same(scenario)
    assert turns > 10
    assert len(log) > 100


def test_context_of_callbacks_does_not_change_the_order(same):
    def scenario(loop):
        seen = []
        for number in range(10):
            context = contextvars.Context() if number % 2 else None
            loop.call_soon(seen.append, number, context=context)
        turn(loop)
        return seen

    assert same(scenario) == list(range(10))
