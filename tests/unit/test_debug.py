"""Debug mode: slow callbacks, wrong threads, source tracebacks, and how it is switched on."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import subprocess
import sys
import threading
import time

import pytest
from helpers import in_thread, plain, turn

import hotloop

# What differs between runs: durations, and where in its own code a loop makes a future.
TIMES = re.compile(r"\d+\.\d+( seconds)?|<Future finis[^>]*>")


@pytest.fixture
def debug(anyloop):
    anyloop.set_debug(True)
    anyloop.slow_callback_duration = 1000.0
    yield anyloop
    if not anyloop.is_closed():
        anyloop.set_debug(False)


def test_get_and_set(anyloop):
    assert anyloop.get_debug() is False
    anyloop.set_debug(True)
    assert anyloop.get_debug() is True
    anyloop.set_debug(0)
    assert not anyloop.get_debug()
    assert anyloop.slow_callback_duration == 0.1


def test_slow_callback_is_logged(same, caplog):
    def slow(*args):
        time.sleep(0.003)

    async def slow_task():
        time.sleep(0.003)

    def scenario(loop):
        caplog.set_level(logging.WARNING, "asyncio")
        caplog.clear()
        loop.set_debug(True)
        loop.slow_callback_duration = 0.002
        loop.call_soon(slow, 1)
        turn(loop)
        loop.call_later(0, slow)
        turn(loop)
        future = loop.create_future()
        future.add_done_callback(slow)
        future.set_result(None)
        turn(loop)
        task = loop.create_task(slow_task(), name="slow")
        turn(loop)
        assert task.done()
        loop.set_debug(False)
        return [
            (record.levelname, plain(TIMES.sub("N", line)))
            for record in caplog.records
            for line in [record.getMessage()]
            if "slow" in line  # a busy machine makes the end of a turn slow too
        ]

    seen = same(scenario)
    assert len(seen) == 4
    assert all(text.startswith("Executing <") and "took N" in text for _, text in seen)


def test_quick_callback_is_not_logged(debug, caplog):
    debug.call_soon(lambda: None)
    turn(debug)
    assert caplog.records == []


def test_slow_callback_outside_of_debug_mode(anyloop, caplog):
    anyloop.slow_callback_duration = 0.0
    anyloop.call_soon(time.sleep, 0.002)
    turn(anyloop)
    assert caplog.records == []


def test_slow_step_of_a_task_that_goes_on(same, caplog):
    def scenario(loop):
        async def main():
            time.sleep(0.003)
            await asyncio.sleep(0)
            time.sleep(0.003)
            future = loop.create_future()
            loop.call_soon(future.set_result, None)
            await future
            time.sleep(0.003)

        caplog.clear()
        loop.set_debug(True)
        loop.slow_callback_duration = 0.002
        loop.run_until_complete(main())
        loop.set_debug(False)
        # Of the task alone: a busy machine makes any other callback slow too.
        slow = [r for r in caplog.records if r.getMessage().startswith("Executing <Task")]
        return len(slow)

    assert same(scenario) == 3


@pytest.mark.parametrize("method", ["call_soon", "call_later", "call_at"])
def test_wrong_thread(debug, method):
    errors = []

    def other():
        time_argument = () if method == "call_soon" else (1000,)
        try:
            getattr(debug, method)(*time_argument, print)
        except RuntimeError as exc:
            errors.append(str(exc))

    def callback():
        with in_thread(other):
            pass

    debug.call_soon(callback)
    turn(debug)
    assert errors == [
        "Non-thread-safe operation invoked on an event loop other than the current one"
    ]


def test_wrong_thread_for_futures_and_tasks(debug, reports):
    errors = []

    async def nothing():
        pass

    def other():
        future = debug.create_future()
        future.add_done_callback(print)
        for call in (lambda: future.set_result(1), lambda: debug.create_task(coro)):
            try:
                call()
            except RuntimeError:
                errors.append("refused")

    coro = nothing()

    def callback():
        with in_thread(other):
            pass

    debug.call_soon(callback)
    turn(debug)
    coro.close()
    assert errors == ["refused"] * 2
    assert len(reports) <= 1  # the half-made task, destroyed while pending


def test_threadsafe_is_allowed(debug):
    seen = []

    def callback():
        with in_thread(debug.call_soon_threadsafe, seen.append, 1):
            pass

    debug.call_soon(callback)
    turn(debug, 2)
    assert seen == [1]


def test_no_thread_check_while_it_does_not_run(debug):
    with in_thread(debug.call_soon, print):
        pass
    debug.close()


@pytest.mark.parametrize("method", ["call_soon", "call_soon_threadsafe", "call_later", "call_at"])
def test_callbacks_are_checked(debug, method):
    async def coroutine():
        pass

    made = coroutine()
    time_argument = (0,) if method in ("call_later", "call_at") else ()
    for wrong in (coroutine, made, None, 1):
        with pytest.raises(TypeError) as caught:
            getattr(debug, method)(*time_argument, wrong)
        assert method.replace("call_later", "call_") in str(caught.value)
    made.close()


def test_source_tracebacks(debug):
    async def nothing():
        pass

    made = [
        debug.create_future(),
        debug.create_task(nothing()),
        debug.call_soon(str),
        debug.call_later(0, str),
    ]
    for thing in made:
        files = [frame.filename for frame in thing._source_traceback]
        assert __file__ in files
    turn(debug, 2)


def test_traceback_of_the_handle_is_reported(same, caplog):
    def fail():
        raise ValueError

    def scenario(loop):
        caplog.clear()
        loop.set_debug(True)
        loop.slow_callback_duration = 1000
        loop.call_soon(fail)
        turn(loop)
        loop.set_debug(False)
        (text,) = [r.getMessage() for r in caplog.records if "Exception in callback" in r.msg]
        return "source_traceback: Object created at (most recent call last):" in text

    assert same(scenario) is True


def test_coroutine_never_awaited_names_its_origin(debug):
    async def lost():
        pass

    with pytest.warns(RuntimeWarning, match="was never awaited") as caught:
        debug.call_soon(lambda: bool(lost()))
        turn(debug)
    assert "Coroutine created at" in str(caught[0].message)


def test_switching_debug_inside_a_run(anyloop):
    seen = []

    async def main():
        anyloop.set_debug(True)
        await asyncio.sleep(0)
        seen.append(sys.get_coroutine_origin_tracking_depth() > 0)
        anyloop.set_debug(False)
        await asyncio.sleep(0)
        seen.append(sys.get_coroutine_origin_tracking_depth() > 0)

    anyloop.run_until_complete(main())
    assert seen == [True, False]


PROGRAM = """
import asyncio, hotloop
async def main():
    print(asyncio.get_running_loop().get_debug())
asyncio.run(main(), loop_factory={factory})
"""


@pytest.mark.parametrize("factory", ["asyncio.SelectorEventLoop", "hotloop.new_event_loop"])
@pytest.mark.parametrize(
    ("options", "environment", "expected"),
    [
        ([], {}, "False"),
        (["-X", "dev"], {}, "True"),
        ([], {"PYTHONASYNCIODEBUG": "1"}, "True"),
        ([], {"PYTHONASYNCIODEBUG": ""}, "False"),
        (["-E"], {"PYTHONASYNCIODEBUG": "1"}, "False"),
    ],
    ids=["plain", "dev", "environment", "empty", "ignored"],
)
def test_how_it_is_switched_on(factory, options, environment, expected):
    path = os.path.dirname(os.path.dirname(hotloop.__file__))
    program = f"import sys; sys.path.insert(0, {path!r})" + PROGRAM.format(factory=factory)
    env = {key: value for key, value in os.environ.items() if key != "PYTHONASYNCIODEBUG"}
    done = subprocess.run(
        [sys.executable, *options, "-c", program],
        env=env | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.strip() == expected, done.stderr


def test_program_in_dev_mode_is_silent(backend):
    """No warning, no report, nothing on standard error from a program that is right."""
    path = os.path.dirname(os.path.dirname(hotloop.__file__))
    program = f"""
import sys; sys.path.insert(0, {path!r})
import asyncio, hotloop
async def echo(reader, writer):
    writer.write(await reader.readline())
    await writer.drain()
    writer.close()
    await writer.wait_closed()
async def main():
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"line\\n")
    print(await reader.readline())
    writer.close()
    await writer.wait_closed()
    await asyncio.gather(*[asyncio.sleep(0.001) for _ in range(5)])
    print(await asyncio.to_thread(len, "four"))
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(0))
    server.close()
    await server.wait_closed()
hotloop.run(main(), backend={backend!r})
"""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    errors = [line for line in done.stderr.splitlines() if "took" not in line]
    assert (done.returncode, done.stdout, errors) == (0, "b'line\\n'\n4\n", [])


def test_current_thread_may_always_call(debug):
    seen = []
    debug.call_soon(lambda: debug.call_soon(seen.append, threading.get_ident()))
    turn(debug, 2)
    assert seen == [threading.get_ident()]
