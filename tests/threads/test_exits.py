"""How a process ends that has a loop in whatever state: as with stock asyncio, each its own.

The same script runs on stock asyncio, which says what is to come out. What a program prints and
how it ends must be the same; what is said about it on stderr may name other types.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import hotloop

HOME = str(Path(hotloop.__file__).parent.parent)

START = """
import asyncio, atexit, os, signal, sys, threading, time, warnings
KIND = sys.argv[1]
if KIND == "asyncio":
    new_event_loop = asyncio.new_event_loop
else:
    import hotloop
    def new_event_loop():
        return hotloop.new_event_loop(KIND)
def say(*words):
    print(*words, flush=True)
async def never():
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        say("never ended")
async def tick():
    await asyncio.sleep(0)
"""

SCRIPTS = {
    "closed": """
        loop = new_event_loop()
        loop.run_until_complete(tick())
        loop.close()
        say("done")
    """,
    "forgotten": """
        loop = new_event_loop()
        loop.run_until_complete(tick())
        del loop
        say("done")
    """,
    "never_closed": """
        loop = new_event_loop()
        loop.run_until_complete(tick())
        loop.call_soon(say, "not run")
        loop.call_later(0, say, "not run")
        say("done")
    """,
    "never_run": """
        loop = new_event_loop()
        future = loop.create_future()
        loop.call_later(60, say, "not run")
        say("done")
    """,
    "pending_task": """
        loop = new_event_loop()
        task = loop.create_task(never())
        loop.run_until_complete(tick())
        say("done")
    """,
    "pending_task_closed_loop": """
        loop = new_event_loop()
        task = loop.create_task(never())
        loop.run_until_complete(tick())
        loop.close()
        say("done")
    """,
    "signals_of_a_ring": """
        loop = new_event_loop()
        loop.itself = loop
        asyncio.set_event_loop(loop)
        loop.add_signal_handler(signal.SIGUSR1, say, "not called")
        say("done")
    """,
    "task_of_a_ring": """
        loop = new_event_loop()
        task = loop.create_task(never())
        task.itself = loop.itself = task
        loop.run_until_complete(tick())
        del task, loop
        say("done")
    """,
    "exception_never_retrieved": """
        loop = new_event_loop()
        future = loop.create_future()
        future.set_exception(LookupError("lost"))
        say("done")
    """,
    "exit_in_a_callback": """
        loop = new_event_loop()
        loop.call_soon(sys.exit, 7)
        loop.call_soon(say, "behind it")
        loop.run_forever()
    """,
    "exit_in_a_task": """
        async def main():
            task = asyncio.create_task(never())
            await asyncio.sleep(0)
            sys.exit(7)
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(main())
    """,
    "interrupted": """
        async def main():
            try:
                os.kill(os.getpid(), signal.SIGINT)
                await asyncio.sleep(60)
            finally:
                say("cleaned up")
        try:
            with asyncio.Runner(loop_factory=new_event_loop) as runner:
                runner.run(main())
        except KeyboardInterrupt:
            say("interrupted")
    """,
    "killed_while_it_sleeps": """
        loop = new_event_loop()
        loop.call_soon(threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start)
        loop.run_forever()
    """,
    "hard_exit_in_a_callback": """
        loop = new_event_loop()
        loop.call_soon(os._exit, 9)
        loop.run_forever()
    """,
    "daemon_thread_runs_it": """
        started = threading.Event()
        def work():
            loop = new_event_loop()
            loop.call_soon(started.set)
            loop.run_forever()
        threading.Thread(target=work, daemon=True).start()
        started.wait(60)
        say("done")
    """,
    "daemon_thread_is_busy": """
        started = threading.Event()
        def work():
            loop = new_event_loop()
            def spin():
                started.set()
                loop.call_soon(spin)
            loop.call_soon(spin)
            loop.run_forever()
        threading.Thread(target=work, daemon=True).start()
        started.wait(60)
        say("done")
    """,
    "daemon_threads_post": """
        loop = new_event_loop()
        started = threading.Event()
        def post():
            while True:
                loop.call_soon_threadsafe(started.set)
                time.sleep(0.0001)
        for _ in range(4):
            threading.Thread(target=post, daemon=True).start()
        async def main():
            while not started.is_set():
                await asyncio.sleep(0.001)
        loop.run_until_complete(main())
        say("done")
    """,
    "daemon_thread_waits_for_it": """
        loop = new_event_loop()
        def wait():
            asyncio.run_coroutine_threadsafe(never(), loop).result()
        threading.Thread(target=wait, daemon=True).start()
        loop.run_until_complete(asyncio.sleep(0.01))
        say("done")
    """,
    "thread_ends_it_at_exit": """
        loop = new_event_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        while not loop.is_running():
            time.sleep(0.001)
        threading._register_atexit(loop.call_soon_threadsafe, loop.stop)
        atexit.register(lambda: say("ended", loop.is_running()))
    """,
    "atexit_closes": """
        loop = new_event_loop()
        atexit.register(lambda: say("last", loop.is_closed()))
        atexit.register(loop.close)
        atexit.register(lambda: say("first", loop.is_closed()))
        loop.run_until_complete(tick())
        say("done")
    """,
    "atexit_runs_it": """
        loop = new_event_loop()
        def run():
            say(loop.run_until_complete(asyncio.sleep(0.001, "ran")))
            loop.close()
        atexit.register(run)
        say("done")
    """,
    "atexit_makes_one": """
        def run():
            loop = new_event_loop()
            say(loop.run_until_complete(asyncio.sleep(0.001, "ran")))
            loop.close()
        atexit.register(run)
        new_event_loop().close()
        say("done")
    """,
    "executor_at_work": """
        loop = new_event_loop()
        loop.run_in_executor(None, lambda: (time.sleep(0.1), say("executor is done")))
        loop.run_until_complete(tick())
        say("done")
    """,
    "async_generator_left": """
        loop = new_event_loop()
        async def count():
            try:
                while True:
                    yield 1
            finally:
                say("generator closed")
        async def main():
            global left
            left = count()
            await anext(left)
        loop.run_until_complete(main())
        say("done")
    """,
    "connections_left": """
        loop = new_event_loop()
        async def main():
            server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
            streams = await asyncio.open_connection(*server.sockets[0].getsockname())
            return server, streams
        kept = loop.run_until_complete(main())
        say("done")
    """,
    "signal_handler_left": """
        loop = new_event_loop()
        loop.add_signal_handler(signal.SIGUSR1, say, "usr1")
        async def main():
            os.kill(os.getpid(), signal.SIGUSR1)
            await asyncio.sleep(0.01)
        loop.run_until_complete(main())
        say("done")
    """,
    "child_left": """
        loop = new_event_loop()
        async def main():
            return await asyncio.create_subprocess_exec("sleep", "0.2")
        child = loop.run_until_complete(main())
        say("done")
    """,
    "loop_in_a_module_and_a_default": """
        import types
        module = types.ModuleType("module")
        sys.modules["module"] = module
        module.loop = new_event_loop()
        def default(loop=module.loop):
            pass
        module.default = default
        module.loop.run_until_complete(tick())
        say("done")
    """,
    "finaliser_calls_it": """
        loop = new_event_loop()
        class Caller:
            def __del__(self):
                try:
                    loop.call_soon(print)
                    say("called")
                except BaseException as error:
                    say(type(error).__name__, error)
        loop.call_soon(print, Caller())
        loop.close()
        say("done")
    """,
}


def outcome(kind: str, script: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", START + textwrap.dedent(script), kind],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([HOME, *filter(None, sys.path)])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def complaints(stderr: str) -> list[str]:
    """What is said there, by its first words: the types' names and the addresses differ."""
    heads = r"Task was destroyed|exception was never retrieved|Fatal Python|Traceback"
    return sorted(re.findall(f"{heads}|.*was never awaited", stderr))


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_process_ends_as_with_asyncio(name: str, backend: str) -> None:
    expected = outcome("asyncio", SCRIPTS[name])
    found = outcome(backend, SCRIPTS[name])
    assert found[:2] == expected[:2], found[2]
    assert complaints(found[2]) == complaints(expected[2]), found[2]
