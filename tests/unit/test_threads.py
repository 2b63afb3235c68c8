"""call_soon_threadsafe and what else threads do to a loop."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from helpers import in_thread, run, turn


def test_wakes_an_idle_loop(anyloop):
    def other():
        while not anyloop.is_running():
            time.sleep(0.0005)
        time.sleep(0.005)  # by now it waits in its poller, most likely
        anyloop.call_soon_threadsafe(anyloop.stop)

    anyloop.call_later(60, anyloop.stop)
    began = time.monotonic()
    with in_thread(other):
        anyloop.run_forever()
    assert time.monotonic() - began < 30


def test_order_with_call_soon(anyloop):
    seen = []
    anyloop.call_soon(seen.append, 1)
    anyloop.call_soon_threadsafe(seen.append, 2)
    anyloop.call_soon(seen.append, 3)
    anyloop.call_soon_threadsafe(seen.append, 4)
    turn(anyloop)
    assert seen == [1, 2, 3, 4]


def test_order_of_one_thread(anyloop):
    seen = []

    def other():
        for number in range(5000):
            anyloop.call_soon_threadsafe(seen.append, number)
        anyloop.call_soon_threadsafe(anyloop.stop)

    with in_thread(other):
        anyloop.run_forever()
    assert seen == list(range(5000))


def test_many_threads(anyloop):
    seen = []
    threads, each = 8, 500
    left = [threads]

    def finished():
        left[0] -= 1
        if not left[0]:
            anyloop.stop()

    def other(name):
        for number in range(each):
            anyloop.call_soon_threadsafe(seen.append, (name, number))
        anyloop.call_soon_threadsafe(finished)

    workers = [threading.Thread(target=other, args=(name,)) for name in range(threads)]
    for worker in workers:
        worker.start()
    anyloop.run_forever()
    for worker in workers:
        worker.join()
    assert len(seen) == threads * each
    for name in range(threads):
        assert [number for who, number in seen if who == name] == list(range(each))


def test_ping_pong_between_threads(anyloop):
    """No wake-up is lost: each of 2,000 round trips needs one."""
    rounds = 2000
    served = threading.Semaphore(0)

    def other():
        for _ in range(rounds):
            anyloop.call_soon_threadsafe(served.release)
            assert served.acquire(timeout=60)
        anyloop.call_soon_threadsafe(anyloop.stop)

    anyloop.call_later(120, anyloop.stop)
    with in_thread(other):
        anyloop.run_forever()


def test_before_the_loop_runs(anyloop):
    seen = []
    with in_thread(anyloop.call_soon_threadsafe, seen.append, 1):
        pass
    turn(anyloop)
    assert seen == [1]


def test_closed_loop_refuses(anyloop):
    anyloop.close()
    errors = []

    def other():
        try:
            anyloop.call_soon_threadsafe(print)
        except RuntimeError as exc:
            errors.append(str(exc))

    with in_thread(other):
        pass
    assert errors == ["Event loop is closed"]


def test_handle_is_returned_and_can_be_cancelled(anyloop):
    seen = []
    handle = anyloop.call_soon_threadsafe(seen.append, 1)
    assert isinstance(handle, asyncio.Handle)
    handle.cancel()
    turn(anyloop)
    assert seen == []


def test_cancel_from_another_thread(anyloop):
    seen = []
    handle = anyloop.call_soon(seen.append, 1)
    with in_thread(handle.cancel):
        pass
    turn(anyloop)
    assert seen == []


def test_stop_through_threadsafe_while_busy(anyloop):
    count = 0

    def spin():
        nonlocal count
        count += 1
        anyloop.call_soon(spin)

    def other():
        while count < 100:
            time.sleep(0.0005)
        anyloop.call_soon_threadsafe(anyloop.stop)

    anyloop.call_soon(spin)
    with in_thread(other):
        anyloop.run_forever()
    assert count >= 100
    anyloop.close()


def test_future_set_from_a_thread_through_the_loop(anyloop):
    async def main():
        future = anyloop.create_future()

        def other():
            anyloop.call_soon_threadsafe(future.set_result, "from a thread")

        with in_thread(other):
            return await future

    assert run(anyloop, main()) == "from a thread"


def test_to_thread_keeps_the_context(anyloop):
    import contextvars

    var = contextvars.ContextVar("var", default=0)

    async def main():
        var.set(5)
        return await asyncio.to_thread(var.get)

    assert run(anyloop, main()) == 5
    anyloop.run_until_complete(anyloop.shutdown_default_executor())


def test_many_to_thread(anyloop):
    async def main():
        return await asyncio.gather(*[asyncio.to_thread(abs, -n) for n in range(100)])

    assert run(anyloop, main()) == list(range(100))
    anyloop.run_until_complete(anyloop.shutdown_default_executor())


@pytest.mark.parametrize("kind", ["stopped", "between runs"])
def test_queued_while_stopped_runs_next_time(anyloop, kind):
    seen = []
    turn(anyloop)
    for number in range(3):
        with in_thread(anyloop.call_soon_threadsafe, seen.append, number):
            pass
    turn(anyloop)
    assert seen == [0, 1, 2]


def test_close_while_threads_call(make_loop):
    """The threads get RuntimeError or their call; no crash."""
    for _ in range(20):
        loop = make_loop()
        stop = threading.Event()
        began = threading.Barrier(4)

        def other(loop=loop, stop=stop, began=began):
            began.wait()
            while not stop.is_set():
                try:
                    loop.call_soon_threadsafe(int)
                except RuntimeError:
                    return

        threads = [threading.Thread(target=other) for _ in range(3)]
        for thread in threads:
            thread.start()
        began.wait()
        turn(loop)
        loop.close()
        stop.set()
        for thread in threads:
            thread.join()
