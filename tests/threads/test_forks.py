"""Forks and children of multiprocessing beside a running loop.

The child of a fork has the parent's loop in its memory, and is told that it runs; it makes one of
its own. What the child does, the parent's poller does not feel.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import hotloop

HOME = str(Path(hotloop.__file__).parent.parent)

START = """
import asyncio, multiprocessing, os, signal, sys, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of fork() beside threads
KIND, METHOD = sys.argv[1:]
if KIND == "asyncio":
    new_event_loop = asyncio.new_event_loop
else:
    import hotloop
    def new_event_loop():
        return hotloop.new_event_loop(KIND)
"""

METHODS = """
def child(number, queue):
    said = []
    try:
        asyncio.get_running_loop()
    except RuntimeError as error:
        said.append(str(error))
    async def main():
        await asyncio.sleep(0.001)
        return number * 2
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        said.append(runner.run(main()))
    queue.put((number, said))

async def main():
    loop = asyncio.get_running_loop()
    beats = 0
    def beat():
        nonlocal beats
        beats += 1
        loop.call_later(0.001, beat)
    beat()
    context = multiprocessing.get_context(METHOD)
    queue = context.SimpleQueue()
    children = [context.Process(target=child, args=(n, queue)) for n in range(3)]
    for one in children:
        one.start()
    for one in children:
        await loop.run_in_executor(None, one.join)
    print(sorted(queue.get() for _ in children), [one.exitcode for one in children])
    with context.Pool(2) as pool:
        print(await loop.run_in_executor(None, pool.map, abs, [-1, -2, -3]))
    assert beats > 1

if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())
"""

POLLER = """
def in_child(body):
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        code = 1
        try:
            body()
            code = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def refused(call):
    try:
        call()
    except RuntimeError as error:
        return str(error)

async def main():
    loop = asyncio.get_running_loop()
    r, w = os.pipe()
    os.set_blocking(r, False)
    got = []
    loop.add_reader(r, lambda: got.append(os.read(r, 10)))
    def body():
        assert "already running" in refused(loop.run_forever)
        assert "Cannot close a running event loop" in refused(loop.close)
        assert "no running" in refused(asyncio.get_running_loop)
        mine = new_event_loop()
        mine.add_reader(r, lambda: None)
        assert mine.run_until_complete(asyncio.sleep(0.001, 3)) == 3
        assert mine.remove_reader(r)
        seen = []
        mine.call_soon_threadsafe(seen.append, 1)
        mine.run_until_complete(asyncio.sleep(0))
        assert seen == [1]
        mine.close()
        os.close(r)
    print("child", in_child(body))
    print("child of a thread", await asyncio.to_thread(in_child, body_of_a_thread))
    os.write(w, b"one")
    while not got:
        await asyncio.sleep(0.001)
    print(got, loop.remove_reader(r))
    loop.call_soon_threadsafe(print, "woken")
    await asyncio.sleep(0.01)

def body_of_a_thread():
    mine = new_event_loop()
    mine.run_until_complete(asyncio.sleep(0.001))
    mine.close()

loop = new_event_loop()
loop.run_until_complete(main())
loop.run_until_complete(loop.shutdown_default_executor())
loop.close()
"""

THREADS_POST = """
# A fork while other threads post: whatever lock they hold, the child's own loop is free of it.
loop = new_event_loop()
over = threading.Event()
def post():
    while not over.is_set():
        loop.call_soon_threadsafe(int)
threads = [threading.Thread(target=post) for _ in range(4)]
async def main():
    for thread in threads:
        thread.start()
    codes = []
    for number in range(10):
        pid = os.fork()
        if pid == 0:
            signal.alarm(60)
            code = 1
            try:
                loop.call_soon_threadsafe(int)
                mine = new_event_loop()
                code = mine.run_until_complete(asyncio.sleep(0, 7))
                mine.close()
            finally:
                os._exit(code)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        await asyncio.sleep(0)
    over.set()
    print(codes)
asyncio.set_event_loop(loop)
loop.run_until_complete(main())
for thread in threads:
    thread.join()
loop.close()
"""

THREADS_FORK = """
# Forks in a thread that runs no loop, while others post to two loops: the child may post to what
# it has of its parent's loops, and posts from threads of its own to a loop of its own.
stop = threading.Event()
loops = [new_event_loop() for _ in range(2)]
codes = []
def post(number):
    while not stop.is_set():
        loops[number % 2].call_soon_threadsafe(int)
def in_child():
    signal.alarm(60)
    code = 1
    try:
        for loop in loops:
            loop.call_soon_threadsafe(int)
        mine = new_event_loop()
        async def main():
            arrived = []
            def several(number):
                for n in range(20):
                    mine.call_soon_threadsafe(arrived.append, n)
            await asyncio.gather(*[asyncio.to_thread(several, n) for n in range(3)])
            await asyncio.sleep(0)
            assert len(arrived) == 60, arrived
        mine.run_until_complete(main())
        mine.run_until_complete(mine.shutdown_default_executor())
        mine.close()
        code = 7
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)
def fork():
    for _ in range(12):
        pid = os.fork()
        if pid == 0:
            in_child()
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    stop.set()
    for loop in loops:
        loop.call_soon_threadsafe(loop.stop)
posters = [threading.Thread(target=post, args=(number,)) for number in range(4)]
others = [threading.Thread(target=loops[1].run_forever), threading.Thread(target=fork)]
for thread in posters + others:
    thread.start()
loops[0].run_forever()
for thread in posters + others:
    thread.join()
for loop in loops:
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
print(codes)
"""


def run(script: str, kind: str, method: str, folder: Path) -> tuple[int, str, str]:
    path = folder / f"program_{kind}.py"
    path.write_text(START + textwrap.dedent(script))
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", str(path), kind, method],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([HOME, *filter(None, sys.path)])},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_from_a_running_loop(method: str, backend: str, tmp_path: Path) -> None:
    expected = run(METHODS, "asyncio", method, tmp_path)
    assert expected[0] == 0, expected[2]
    assert run(METHODS, backend, method, tmp_path) == expected


def test_the_parents_poller_is_untouched(backend: str, tmp_path: Path) -> None:
    """With asyncio's both processes share one kernel set, and what the child does there counts."""
    status, said, complaints = run(POLLER, backend, "", tmp_path)
    assert (status, complaints) == (0, "")
    assert said.splitlines() == ["child 0", "child of a thread 0", "[b'one'] True", "woken"]


def test_a_fork_while_threads_post(backend: str, tmp_path: Path) -> None:
    status, said, complaints = run(THREADS_POST, backend, "", tmp_path)
    assert (status, complaints, said) == (0, "", f"{[7] * 10}\n")


def test_forks_in_a_thread_while_threads_post(backend: str, tmp_path: Path) -> None:
    """Not compared: without a GIL a child of stock asyncio's has been seen to hang."""
    expected = (0, f"{[7] * 12}\n", "")
    assert run(THREADS_FORK, backend, "", tmp_path) == expected
