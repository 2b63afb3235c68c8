"""Rows of the feature table in docs/compatibility.md: handles, tasks, timers, debug mode, memory.

Each test has the name that the table's last column gives. What a row leaves open is tested where
the subject is tested (tests/unit, tests/net, tests/proc, tests/leaks).
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from typing import Any

import pytest
from netlib import Recorder, finish, link

import hotloop

Loop = Any


def one_turn(loop: Loop) -> None:
    loop.call_soon(loop.stop)
    loop.run_forever()


# ---- handles, tasks ----


def test_task_and_future_types(anyloop: Loop, loop_kind: str) -> None:
    async def main() -> None:
        future = anyloop.create_future()
        task = asyncio.current_task()
        assert isinstance(future, asyncio.Future)
        assert isinstance(task, asyncio.Task)
        await asyncio.gather(task_of := asyncio.ensure_future(asyncio.sleep(0)))
        assert isinstance(task_of, asyncio.Task)
        if loop_kind != "asyncio":
            assert type(future) is hotloop.Future
            assert type(task) is hotloop.Task
            assert isinstance(task, hotloop.Future)

    anyloop.run_until_complete(main())


def test_call_soon_handle(anyloop: Loop) -> None:
    for handle in (
        anyloop.call_soon(print, 1),
        anyloop.call_soon_threadsafe(print, 1),
        anyloop.call_later(1, print, 1),
    ):
        assert isinstance(handle, asyncio.Handle)
        assert not handle.cancelled()
        handle.cancel()
        assert handle.cancelled()
    one_turn(anyloop)


def test_call_later_handle(anyloop: Loop) -> None:
    when = anyloop.time() + 1000
    at = anyloop.call_at(when, print)
    later = anyloop.call_later(1001, print)
    for handle in (at, later):
        assert isinstance(handle, asyncio.TimerHandle)
    assert at.when() == when
    assert at < later
    at.cancel()
    later.cancel()


@pytest.mark.skipif(sys.version_info < (3, 14), reason="asyncio's cancel() waits from 3.14 on")
def test_threadsafe_cancel_waits(anyloop: Loop) -> None:
    """When cancel() returns in another thread, the callback has ended or will never run."""

    def once() -> list[str]:
        begun = threading.Event()
        log: list[str] = []

        def callback() -> None:
            begun.set()
            time.sleep(0.002)
            log.append("ended")

        def other() -> None:
            begun.wait()
            handle.cancel()
            log.append("cancelled")

        handle = anyloop.call_soon_threadsafe(callback)
        thread = threading.Thread(target=other)
        thread.start()
        one_turn(anyloop)
        thread.join()
        return log

    assert [once() for _ in range(20)] == [["ended", "cancelled"]] * 20


def test_eager_start(anyloop: Loop) -> None:
    """`create_task(eager_start=True)` wherever asyncio's loop of that Python takes it."""

    async def main() -> None:
        seen = []

        async def child() -> int:
            seen.append("step")
            return 5

        if hasattr(asyncio, "eager_task_factory"):
            anyloop.set_task_factory(asyncio.eager_task_factory)
            task = anyloop.create_task(child())
            anyloop.set_task_factory(None)
            assert (seen, task.done(), task.result()) == (["step"], True, 5)
            seen.clear()
        if sys.version_info >= (3, 14):
            for start in (True, False):
                task = anyloop.create_task(child(), name="child", eager_start=start)
                assert task.done() is start
                assert task.get_name() == "child"
                await task
            async with asyncio.TaskGroup() as group:
                assert group.create_task(child(), eager_start=True).done()

    anyloop.run_until_complete(main())


def test_all_tasks_and_call_graph(anyloop: Loop) -> None:
    async def main() -> None:
        release = anyloop.create_future()

        async def inner() -> None:
            await release

        async def outer(task: asyncio.Task[None]) -> None:
            await task

        first = anyloop.create_task(inner(), name="inner")
        second = anyloop.create_task(outer(first), name="outer")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert {first, second, asyncio.current_task()} == asyncio.all_tasks()
        assert [frame.f_code.co_name for frame in first.get_stack()] == ["inner"]
        if sys.version_info >= (3, 14):
            text = asyncio.format_call_graph(first)
            assert "name='inner'" in text
            assert "name='outer'" in text
        release.set_result(None)
        await second

    anyloop.run_until_complete(main())


def test_contexts_in_protocol_callbacks(run: Any) -> None:
    """Each connection's callbacks see the context in which it was made."""
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="none")

    async def main() -> None:
        seen: list[str] = []

        class Noting(Recorder):
            def note(self, name: str, *what: Any) -> None:
                seen.append(f"{name} in {var.get()}")
                super().note(name, *what)

        async def one(name: str) -> None:
            var.set(name)
            made = await link(Noting())
            await made.send(b"x")
            await made.protocol.until_data(1)
            await finish(made)

        for name in ("first", "second"):
            await asyncio.create_task(one(name))
            assert seen == [f"{event} in {name}" for event in ("made", "data", "lost")]
            seen.clear()

    run(main())


# ---- the loop as an object ----


def test_loop_subclass(backend: str) -> None:
    class Mine(hotloop.EventLoop):
        calls = 0

        def call_soon(self, *args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            return super().call_soon(*args, **kwargs)

    loop = Mine(backend)
    loop.note = "of the user"  # type: ignore[attr-defined]
    assert vars(loop)["note"] == "of the user"
    assert weakref.ref(loop)() is loop
    assert isinstance(loop, asyncio.AbstractEventLoop)
    loop.run_until_complete(asyncio.sleep(0))
    assert loop.calls >= 3  # two steps of the task, and its callback
    loop.close()


def test_policy_class(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOTLOOP_BACKEND", backend)
    policy = hotloop.EventLoopPolicy()
    if sys.version_info < (3, 14):  # where asking for that name warns
        assert isinstance(policy, asyncio.AbstractEventLoopPolicy)
    loop = policy.new_event_loop()
    assert type(loop) is hotloop.EventLoop
    assert loop.backend == backend
    loop.close()


def test_nested_runs(loop: Loop) -> None:
    async def value() -> int:
        await asyncio.sleep(0.001)
        return 5

    def plain_function() -> int:
        return int(loop.run_until_complete(value()))

    async def main() -> int:
        task = asyncio.current_task()
        coro = value()
        with pytest.raises(RuntimeError, match="already running"):
            loop.run_until_complete(coro)
        coro.close()
        hotloop.allow_nested_runs(loop)
        result = plain_function()
        assert asyncio.current_task() is task
        await asyncio.sleep(0)
        return result

    assert loop.run_until_complete(main()) == 5


# ---- timers ----


def test_patched_time(anyloop: Loop) -> None:
    """A clock that tests set by hand moves the whole schedule; nothing waits for real."""
    now = [1000.0]
    anyloop.time = lambda: now[0]
    seen: list[float] = []
    for delay in (3600.0, 60.0):
        anyloop.call_later(delay, seen.append, delay)
    one_turn(anyloop)
    assert seen == []
    now[0] += 61
    one_turn(anyloop)
    assert seen == [60.0]
    now[0] += 3600
    one_turn(anyloop)
    assert seen == [60.0, 3600.0]


def test_timers_never_early(loop: Loop) -> None:
    """By the clock that everybody reads, time.monotonic(), to the nanosecond.

    100 sleeps of 1.3 ms, the row's measure, and deadlines of every fraction of one.
    """

    async def main() -> None:
        for _ in range(100):
            began = time.monotonic_ns()
            await asyncio.sleep(0.0013)
            assert time.monotonic_ns() - began >= 1_300_000
        fired = asyncio.Event()
        early = []

        def due(when: float) -> None:
            late = time.monotonic() - when
            if late < -1e-9:  # the clock's own resolution, as asyncio has it
                early.append(late)
            fired.set()

        for number in range(1, 60):
            when = time.monotonic() + number * 37e-6
            fired.clear()
            loop.call_at(when, due, when)
            await fired.wait()
        assert early == []

    loop.run_until_complete(main())


def test_equal_deadlines_fifo(loop: Loop) -> None:
    seen: list[int] = []
    for base in (loop.time() - 5, loop.time() + 0.003):
        seen.clear()
        handles = [loop.call_at(base, seen.append, number) for number in range(500)]
        for handle in handles[::3]:
            handle.cancel()
        loop.call_at(base, loop.stop)
        loop.run_forever()
        assert seen == [number for number in range(500) if number % 3]


# ---- debug mode ----


def test_slow_callback_line(anyloop: Loop, caplog: pytest.LogCaptureFixture) -> None:
    anyloop.set_debug(True)
    anyloop.slow_callback_duration = 0.002
    anyloop.call_soon(time.sleep, 0.003)
    with caplog.at_level(logging.WARNING, logger="asyncio"):
        one_turn(anyloop)
    [line] = [r.getMessage() for r in caplog.records if "sleep" in r.getMessage()]
    assert line.startswith("Executing <")
    assert " took " in line
    assert line.endswith(" seconds")


def test_wrong_thread_in_debug(anyloop: Loop) -> None:
    anyloop.set_debug(True)
    raised = []

    def other() -> None:
        for call in (
            lambda: anyloop.call_soon(print),
            lambda: anyloop.call_later(9, print),
            lambda: anyloop.call_at(9, print),
        ):
            try:
                call()
            except RuntimeError as exc:
                raised.append(str(exc))

    def callback() -> None:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

    anyloop.call_soon(callback)
    one_turn(anyloop)
    expected = "Non-thread-safe operation invoked on an event loop other than the current one"
    assert raised == [expected] * 3


# ---- memory ----


def test_freed_without_gc(loop: Loop) -> None:
    """Ten connections and their loop go when the last reference goes, the collector being off."""

    async def main() -> list[Any]:
        links = [await link() for _ in range(10)]
        for one in links:
            await one.send(b"x")
            await one.protocol.until_data(1)
        refs = [weakref.ref(one.transport) for one in links]
        refs += [weakref.ref(one.protocol) for one in links]
        await finish(*links)
        return refs

    gc.collect()
    gc.disable()
    try:
        refs = loop.run_until_complete(main())
        one_turn(loop)
        assert [ref() for ref in refs] == [None] * 20
        loop.close()
    finally:
        gc.enable()


MEMORY = """
    import asyncio, os, resource, socket, sys
    import hotloop

    PAIRS = 400

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        kept = []

        async def connect(count):
            for _ in range(count):
                kept.append(await loop.create_connection(asyncio.Protocol, *address))
            await asyncio.sleep(0.01)

        await connect(50)
        before = resident()
        await connect(PAIRS)
        print((resident() - before) / 1024 / PAIRS)
        server.close()
        for transport, _ in kept:
            transport.abort()
        await asyncio.sleep(0.01)

    loop = asyncio.SelectorEventLoop() if sys.argv[1] == "asyncio" else hotloop.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_per_connection() -> None:
    """KiB of resident memory per idle connection, both its ends included: not above asyncio's."""

    def measured(kind: str) -> float:
        command = [sys.executable, "-c", textwrap.dedent(MEMORY), kind]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return float(done.stdout)

    ours = measured("hotloop")
    assert 0 < ours <= measured("asyncio") + 1.0  # pages are counted, not bytes
