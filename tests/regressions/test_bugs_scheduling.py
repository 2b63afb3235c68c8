"""Bug classes 39-46: callbacks and timers."""

from __future__ import annotations

import asyncio
import gc
import math
import socket
import threading
import time
import weakref
from typing import Any

import pytest
from netlib import LIMIT


@pytest.mark.bug(39, fails_on=("uvloop",))
def test_timers_fire_early(run: Any) -> None:
    async def main() -> None:
        for _ in range(100):
            began = time.monotonic()
            await asyncio.sleep(0.0013)
            assert time.monotonic() - began >= 0.0013

    run(main())


@pytest.mark.bug(39, fails_on=("uvloop",))
def test_timer_runs_before_its_time_by_the_loops_clock(anyloop: Any) -> None:
    late: list[float] = []

    def note(when: float) -> None:
        late.append(anyloop.time() - when)
        if len(late) == 50:
            anyloop.stop()

    now = anyloop.time()
    for n in range(50):
        when = now + n * 0.000_7
        anyloop.call_at(when, note, when)
    anyloop.run_forever()
    # asyncio rounds by the resolution of the clock
    assert min(late) >= -time.get_clock_info("monotonic").resolution


@pytest.mark.bug(40)
@pytest.mark.parametrize("delay", [math.inf, 1e300, 1e18, float(2**63), 1e10])
def test_huge_delay_overflows_or_hangs(run: Any, delay: float) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ran: list[int] = []
        handle = loop.call_later(delay, ran.append, 1)
        await asyncio.sleep(0.002)
        done = loop.create_future()
        threading.Timer(0.01, loop.call_soon_threadsafe, (done.set_result, None)).start()
        await done  # asleep with that timer alone
        assert ran == []
        handle.cancel()

    run(main())


@pytest.mark.bug(40)
@pytest.mark.parametrize("delay", [math.nan, -math.inf, -1.0])
def test_odd_delay_hangs_the_loop(run: Any, delay: float) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        try:
            handle = loop.call_later(delay, int)
        except ValueError:
            assert math.isnan(delay)
            return
        for _ in range(3):
            await asyncio.sleep(0.001)
        handle.cancel()

    run(main())


@pytest.mark.bug(41)
def test_cancelled_timers_pile_up(run: Any) -> None:
    class Owned:
        def call(self) -> None: ...

    async def main() -> None:
        loop = asyncio.get_running_loop()
        refs = []
        for _ in range(1000):
            owned = Owned()
            refs.append(weakref.ref(owned))
            loop.call_later(3600, owned.call).cancel()
        del owned
        await asyncio.sleep(0)
        gc.collect()
        assert [ref for ref in refs if ref() is not None] == []

    run(main())


@pytest.mark.bug(41)
def test_finaliser_that_sets_a_timer_breaks_the_heap(run: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ran: list[int] = []

        class Scheduling:
            def __del__(self) -> None:
                loop.call_later(0.001, ran.append, 1)

            def call(self) -> None: ...

        handles = [loop.call_later(3600, Scheduling().call) for _ in range(500)]
        order: list[int] = []
        now = loop.time()
        for n in (3, 1, 2):
            loop.call_at(now + n / 1000, order.append, n)
        for handle in handles:
            handle.cancel()
        del handles, handle
        async with asyncio.timeout(LIMIT):
            while len(ran) < 500 or len(order) < 3:
                await asyncio.sleep(0.001)
        assert order == [1, 2, 3]

    run(main())


@pytest.mark.bug(42)
def test_call_soon_and_threadsafe_out_of_order(anyloop: Any) -> None:
    order: list[int] = []
    for n in range(0, 100, 2):
        anyloop.call_soon(order.append, n)
        anyloop.call_soon_threadsafe(order.append, n + 1)
    anyloop.call_soon_threadsafe(anyloop.stop)
    anyloop.run_forever()
    assert order == list(range(100))


@pytest.mark.bug(42)
def test_calls_of_threads_lost_or_out_of_order(anyloop: Any) -> None:
    order: dict[int, list[int]] = {n: [] for n in range(4)}
    left = 4

    def ended() -> None:
        nonlocal left
        left -= 1
        if not left:
            anyloop.stop()

    def call(me: int) -> None:
        for n in range(2000):
            anyloop.call_soon_threadsafe(order[me].append, n)
        anyloop.call_soon_threadsafe(ended)

    threads = [threading.Thread(target=call, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    anyloop.run_forever()
    for thread in threads:
        thread.join()
    assert all(one == list(range(2000)) for one in order.values())


@pytest.mark.bug(42, fails_on=("rloop",))
@pytest.mark.asyncio_is_flawed("its heap knows no order among equal deadlines")
def test_equal_deadlines_out_of_order(anyloop: Any) -> None:
    order: list[int] = []
    when = anyloop.time() + 0.001
    for n in range(100):
        anyloop.call_at(when, order.append, n)
    anyloop.call_at(when + 0.001, anyloop.stop)
    anyloop.run_forever()
    assert order == list(range(100))


@pytest.mark.bug(43)
def test_callback_cancels_itself(anyloop: Any) -> None:
    """Its arguments live as long as it runs; when() is still known afterwards."""
    got: list[Any] = []

    class Argument:
        alive = True

        def __del__(self) -> None:
            Argument.alive = False

    def callback(argument: Any) -> None:
        handles[0].cancel()
        gc.collect()
        got.append((argument.alive, Argument.alive))

    when = anyloop.time()
    handles = [anyloop.call_at(when, callback, Argument())]
    anyloop.call_at(when + 0.001, anyloop.stop)
    anyloop.run_forever()
    assert got == [(True, True)]
    assert handles[0].cancelled()
    assert handles[0].when() == when
    repr(handles[0])
    handles[0].cancel()
    Argument.alive = True
    handles[0] = anyloop.call_soon(callback, Argument())
    anyloop.call_soon(anyloop.stop)
    anyloop.run_forever()
    assert got[1] == (True, True)
    repr(handles[0])


@pytest.mark.bug(44, fails_on=("rloop",))
@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_exit_drops_the_wakeups_behind_it(anyloop: Any, error: Any) -> None:
    order: list[int] = []

    def leave() -> None:
        raise error

    async def waiting(future: asyncio.Future[None]) -> str:
        await future
        return "woken"

    future = anyloop.create_future()
    task = anyloop.create_task(waiting(future))
    anyloop.run_until_complete(asyncio.sleep(0))
    anyloop.call_soon(order.append, 1)
    anyloop.call_soon(leave)
    anyloop.call_soon(order.append, 2)
    future.set_result(None)  # the task's wakeup stands in the same batch
    with pytest.raises(error):
        anyloop.run_forever()
    anyloop.call_later(LIMIT, task.cancel)
    assert anyloop.run_until_complete(task) == "woken"
    assert order == [1, 2]


@pytest.mark.bug(45)
def test_chain_of_callbacks_starves_timers_and_descriptors(run: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        done = []
        near, far = socket.socketpair()
        links = 0

        def chain() -> None:
            nonlocal links
            links += 1
            if len(done) < 2 and links < 5_000_000:
                loop.call_soon(chain)
            else:
                ended.set_result(None)

        def ready() -> None:
            loop.remove_reader(near)
            done.append("reader")

        ended = loop.create_future()
        loop.add_reader(near, ready)
        loop.call_later(0.002, done.append, "timer")
        far.send(b"x")
        loop.call_soon(chain)
        await ended
        assert sorted(done) == ["reader", "timer"]
        near.close()
        far.close()

    run(main())


@pytest.mark.bug(46, fails_on=("uvloop",))
def test_time_is_of_another_clock(run: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        seen = []
        for _ in range(20):
            before, now, after = time.monotonic(), loop.time(), time.monotonic()
            assert before <= now <= after
            seen.append(now)
            time.sleep(0.000_2)  # within one callback: it is no cached time
        assert sorted(set(seen)) == seen

    run(main())
