"""Signal handlers and the wakeup fd."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import hotloop

Loop = Any


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Each test leaves the signals and the wakeup fd as it found them."""
    watched = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP)
    handlers = [signal.getsignal(sig) for sig in watched]
    yield
    gc.collect()
    left = signal.set_wakeup_fd(-1)
    now = [signal.getsignal(sig) for sig in watched]
    for sig, handler in zip(watched, handlers, strict=True):
        signal.signal(sig, handler)
    assert left == -1
    assert now == handlers


def wakeup_fd() -> int:
    fd = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(fd)
    return fd


def kill(sig: int) -> None:
    os.kill(os.getpid(), sig)


def run_until(loop: Loop, condition: Any) -> None:
    async def go() -> None:
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0.001)

    loop.run_until_complete(go())


def test_handler_runs(anyloop: Loop) -> None:
    got: list[Any] = []
    assert anyloop.add_signal_handler(signal.SIGUSR1, got.append, 5) is None
    anyloop.add_signal_handler(signal.SIGUSR2, anyloop.stop)
    anyloop.call_soon(kill, signal.SIGUSR1)
    run_until(anyloop, lambda: got)
    assert got == [5]
    anyloop.call_later(0.01, kill, signal.SIGUSR2)
    anyloop.run_forever()
    assert anyloop.remove_signal_handler(signal.SIGUSR1) is True
    assert anyloop.remove_signal_handler(signal.SIGUSR1) is False
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    assert anyloop.remove_signal_handler(signal.SIGUSR2) is True


def test_wakes_an_idle_loop(anyloop: Loop) -> None:
    anyloop.add_signal_handler(signal.SIGUSR1, anyloop.stop)
    thread = threading.Timer(0.05, kill, (signal.SIGUSR1,))
    thread.start()
    anyloop.run_forever()
    thread.join()
    anyloop.remove_signal_handler(signal.SIGUSR1)


def test_each_arrival_counts(anyloop: Loop) -> None:
    got: list[int] = []
    anyloop.add_signal_handler(signal.SIGUSR1, got.append, 1)
    for _ in range(3):
        kill(signal.SIGUSR1)
    run_until(anyloop, lambda: len(got) >= 3)
    assert got == [1, 1, 1]
    anyloop.remove_signal_handler(signal.SIGUSR1)


def test_order_among_callbacks(anyloop: Loop) -> None:
    """The number is read by a poll, and the handler queued behind what is there by then."""
    order: list[Any] = []

    async def go() -> None:
        kill(signal.SIGUSR1)
        while "signal" not in order:
            order.append(len(order))
            await asyncio.sleep(0)

    anyloop.add_signal_handler(signal.SIGUSR1, order.append, "signal")
    anyloop.run_until_complete(go())
    assert order[:3] == [0, 1, 2]
    anyloop.remove_signal_handler(signal.SIGUSR1)


def test_replacing(anyloop: Loop) -> None:
    got: list[int] = []
    anyloop.add_signal_handler(signal.SIGUSR1, got.append, 1)
    anyloop.add_signal_handler(signal.SIGUSR1, got.append, 2)
    anyloop.call_soon(kill, signal.SIGUSR1)
    run_until(anyloop, lambda: got)
    assert got == [2]
    anyloop.close()
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


def test_cancelled_handle_removes_itself(anyloop: Loop) -> None:
    anyloop.add_signal_handler(signal.SIGUSR1, pytest.fail, "was cancelled")
    anyloop._signal_handlers[signal.SIGUSR1].cancel()
    anyloop.call_soon(kill, signal.SIGUSR1)
    run_until(anyloop, lambda: signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL)
    assert anyloop._signal_handlers == {}


def test_sigint_default_is_restored(anyloop: Loop) -> None:
    got: list[int] = []
    anyloop.add_signal_handler(signal.SIGINT, got.append, 1)
    anyloop.call_soon(kill, signal.SIGINT)
    run_until(anyloop, lambda: got)
    assert anyloop.remove_signal_handler(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_bad_arguments(anyloop: Loop) -> None:
    async def coro() -> None: ...

    made = coro()
    for callback in (coro, made):
        with pytest.raises(TypeError, match="coroutines cannot be used"):
            anyloop.add_signal_handler(signal.SIGUSR1, callback)
    made.close()
    for method in (lambda sig: anyloop.add_signal_handler(sig, int), anyloop.remove_signal_handler):
        with pytest.raises(TypeError, match="sig must be an int, not 'boom'"):
            method("boom")
        for number in (-1, 0, signal.NSIG + 1):
            with pytest.raises(ValueError, match=f"invalid signal number {number}"):
                method(number)
    for sig in (signal.SIGKILL, signal.SIGSTOP):
        with pytest.raises(RuntimeError, match=f"sig {int(sig)} cannot be caught|cannot be caught"):
            anyloop.add_signal_handler(sig, int)
        assert anyloop.remove_signal_handler(sig) is False
    assert wakeup_fd() == -1
    anyloop.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        anyloop.add_signal_handler(signal.SIGUSR1, int)
    assert anyloop.remove_signal_handler(signal.SIGUSR1) is False


def test_other_thread(anyloop: Loop) -> None:
    caught: list[BaseException] = []

    def target() -> None:
        try:
            anyloop.add_signal_handler(signal.SIGUSR1, int)
        except BaseException as exc:
            caught.append(exc)
        anyloop.run_until_complete(asyncio.sleep(0))

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    assert isinstance(caught[0], RuntimeError)
    assert "set_wakeup_fd only works in main thread" in str(caught[0])
    assert anyloop._signal_handlers == {}


def test_handler_that_raises(anyloop: Loop) -> None:
    contexts: list[Any] = []
    anyloop.set_exception_handler(lambda loop, context: contexts.append(context))
    anyloop.add_signal_handler(signal.SIGUSR1, lambda: 1 / 0)
    anyloop.call_soon(kill, signal.SIGUSR1)
    run_until(anyloop, lambda: contexts)
    assert isinstance(contexts[0]["exception"], ZeroDivisionError)
    anyloop.remove_signal_handler(signal.SIGUSR1)


def test_signal_while_stopped(anyloop: Loop) -> None:
    got: list[int] = []
    anyloop.add_signal_handler(signal.SIGUSR1, got.append, 1)
    kill(signal.SIGUSR1)
    assert got == []
    run_until(anyloop, lambda: got)
    anyloop.run_until_complete(asyncio.sleep(0))
    kill(signal.SIGUSR1)
    run_until(anyloop, lambda: len(got) == 2)
    anyloop.remove_signal_handler(signal.SIGUSR1)


def test_wakeup_fd_is_there_only_while_running(make_loop: Any) -> None:
    loop = make_loop()
    seen: list[int] = []
    for _ in range(2):
        loop.call_soon(lambda: seen.append(wakeup_fd()))
        loop.run_until_complete(asyncio.sleep(0))
        assert wakeup_fd() == -1
    assert seen[0] >= 0
    loop.add_signal_handler(signal.SIGUSR1, int)
    assert wakeup_fd() >= 0
    loop.run_until_complete(asyncio.sleep(0))
    assert wakeup_fd() >= 0
    loop.remove_signal_handler(signal.SIGUSR1)
    assert wakeup_fd() == -1


def test_handlers_that_go_while_running(make_loop: Any) -> None:
    loop = make_loop()
    loop.add_signal_handler(signal.SIGUSR1, int)

    async def go() -> None:
        loop.remove_signal_handler(signal.SIGUSR1)
        assert wakeup_fd() >= 0

    loop.run_until_complete(go())
    assert wakeup_fd() == -1


@pytest.fixture
def foreign() -> Iterator[socket.socket]:
    """A wakeup fd of somebody else's, installed; gives the end to read from."""
    r, w = socket.socketpair()
    r.setblocking(False)
    w.setblocking(False)
    signal.set_wakeup_fd(w.fileno())
    yield r
    if signal.set_wakeup_fd(-1) != w.fileno():
        pytest.fail("the wakeup fd was not put back")
    r.close()
    w.close()


def test_old_wakeup_fd_gets_a_copy(make_loop: Any, foreign: socket.socket) -> None:
    loop = make_loop()
    before = wakeup_fd()
    got: list[int] = []
    loop.add_signal_handler(signal.SIGUSR1, got.append, 1)
    assert wakeup_fd() != before
    loop.call_soon(kill, signal.SIGUSR1)
    run_until(loop, lambda: got)
    assert foreign.recv(10) == bytes([signal.SIGUSR1])
    loop.remove_signal_handler(signal.SIGUSR1)
    assert wakeup_fd() == before

    previous = signal.signal(signal.SIGUSR2, lambda *args: None)
    loop.call_soon(kill, signal.SIGUSR2)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert wakeup_fd() == before
    assert foreign.recv(10) == bytes([signal.SIGUSR2])
    signal.signal(signal.SIGUSR2, previous)


def test_old_wakeup_fd_closed_meanwhile(make_loop: Any) -> None:
    """Neither written to nor put back: its number may be somebody's connection by now."""
    loop = make_loop()
    r, w = socket.socketpair()
    w.setblocking(False)
    signal.set_wakeup_fd(w.fileno())
    number = w.fileno()
    got: list[int] = []
    loop.add_signal_handler(signal.SIGUSR1, got.append, 1)
    w.close()
    x, y = socket.socketpair()
    if x.fileno() != number:
        os.dup2(x.fileno(), number)
    x.setblocking(False)
    y.setblocking(False)
    kill(signal.SIGUSR1)
    run_until(loop, lambda: got)
    loop.remove_signal_handler(signal.SIGUSR1)
    assert wakeup_fd() == -1
    with pytest.raises(BlockingIOError):
        y.recv(10)
    if x.fileno() != number:
        os.close(number)
    for sock in (r, x, y):
        sock.close()


def test_installed_by_others_inside_the_run(make_loop: Any) -> None:
    loop = make_loop()
    r, w = socket.socketpair()
    w.setblocking(False)
    loop.call_soon(signal.set_wakeup_fd, w.fileno())
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert signal.set_wakeup_fd(-1) == w.fileno()
    r.close()
    w.close()


def test_two_loops_one_after_the_other(make_loop: Any) -> None:
    one, two = make_loop(), make_loop()
    got: list[str] = []
    one.add_signal_handler(signal.SIGUSR1, got.append, "one")
    two.add_signal_handler(signal.SIGUSR2, got.append, "two")
    one.run_until_complete(asyncio.sleep(0))
    two.call_soon(kill, signal.SIGUSR1)  # two reads it on one's behalf
    two.call_soon(kill, signal.SIGUSR2)
    run_until(two, lambda: "two" in got)
    assert got == ["two"]
    run_until(one, lambda: "one" in got)
    two.close()
    one.call_soon(kill, signal.SIGUSR1)
    run_until(one, lambda: got.count("one") == 2)
    one.close()
    assert got == ["two", "one", "one"]
    assert wakeup_fd() == -1


def test_loop_in_a_loop(make_loop: Any) -> None:
    outer, inner = make_loop(), make_loop()
    got: list[str] = []
    outer.add_signal_handler(signal.SIGUSR1, got.append, "outer")

    def nested() -> None:
        asyncio._set_running_loop(None)
        inner.call_soon(kill, signal.SIGUSR1)
        inner.run_until_complete(asyncio.sleep(0.01))
        asyncio._set_running_loop(outer)
        assert got == []
        assert wakeup_fd() >= 0

    outer.call_soon(nested)
    run_until(outer, lambda: got)
    outer.call_soon(kill, signal.SIGUSR1)
    run_until(outer, lambda: len(got) == 2)
    inner.close()
    outer.call_soon(kill, signal.SIGUSR1)
    run_until(outer, lambda: len(got) == 3)


def test_stock_loop_inside_ours(make_loop: Any) -> None:
    loop = make_loop()
    got: list[str] = []
    loop.add_signal_handler(signal.SIGUSR1, got.append, "ours")
    stock: Any = asyncio.SelectorEventLoop()
    stock.add_signal_handler(signal.SIGUSR2, got.append, "stock")
    stock.call_soon(kill, signal.SIGUSR2)
    run_until(stock, lambda: got)
    stock.close()  # leaves no wakeup fd behind
    loop.call_soon(kill, signal.SIGUSR1)
    run_until(loop, lambda: len(got) == 2)
    assert got == ["stock", "ours"]
    loop.close()


def test_loop_of_another_thread_meanwhile(make_loop: Any) -> None:
    """Signals go to the loop of the main thread; the other one neither sees nor steals them."""
    loop, other = make_loop(), make_loop()
    started = threading.Event()
    other.call_soon(started.set)
    thread = threading.Thread(target=other.run_forever)
    got: list[int] = []
    loop.add_signal_handler(signal.SIGUSR1, got.append, 1)
    thread.start()
    started.wait(30)
    loop.call_soon(kill, signal.SIGUSR1)
    run_until(loop, lambda: got)
    other.call_soon_threadsafe(other.stop)
    thread.join()
    assert got == [1]
    loop.remove_signal_handler(signal.SIGUSR1)


def test_signal_over_our_handler(anyloop: Loop) -> None:
    """signal.signal() after add_signal_handler(): both are told, as under asyncio."""
    got: list[str] = []
    anyloop.add_signal_handler(signal.SIGUSR1, got.append, "loop")
    signal.signal(signal.SIGUSR1, lambda *args: got.append("python"))
    anyloop.call_soon(kill, signal.SIGUSR1)
    run_until(anyloop, lambda: len(got) == 2)
    assert got == ["python", "loop"]
    anyloop.remove_signal_handler(signal.SIGUSR1)


def test_closing_removes_handlers(anyloop: Loop) -> None:
    anyloop.add_signal_handler(signal.SIGUSR1, int)
    anyloop.add_signal_handler(signal.SIGUSR2, int)
    anyloop.close()
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL
    assert wakeup_fd() == -1


def test_pipe_is_not_the_users(make_loop: Any) -> None:
    loop = make_loop()
    loop.add_signal_handler(signal.SIGUSR1, int)
    mine = wakeup_fd()
    pipe = os.readlink(f"/proc/self/fd/{mine}")
    with os.scandir("/proc/self/fd") as entries:
        ends = [int(e.name) for e in entries if os.readlink(e.path) == pipe]
    (reader,) = set(ends) - {mine}
    with pytest.raises(RuntimeError, match="is used by transport"):
        loop.remove_reader(reader)
    loop.remove_signal_handler(signal.SIGUSR1)


def test_keyboard_interrupt_leaves_run_forever(anyloop: Loop) -> None:
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        thread = threading.Timer(0.05, kill, (signal.SIGINT,))
        anyloop.call_soon(thread.start)  # by then it runs, however slow the machine is
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            anyloop.run_forever()
        assert time.monotonic() - began < 10
        thread.join()
        assert anyloop.run_until_complete(asyncio.sleep(0, "on")) == "on"
    finally:
        signal.signal(signal.SIGINT, previous)


def test_keyboard_interrupt_through_the_runner(backend: str) -> None:
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    cancelled = []

    async def main() -> None:
        thread.start()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    thread = threading.Timer(0.05, kill, (signal.SIGINT,))
    try:
        with (
            pytest.raises(KeyboardInterrupt),
            asyncio.Runner(loop_factory=lambda: hotloop.new_event_loop(backend=backend)) as runner,
        ):
            runner.run(main())
        thread.join()
        assert cancelled == [True]
    finally:
        signal.signal(signal.SIGINT, previous)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_child_of_a_fork(make_loop: Any, backend: str) -> None:
    """A signal of the child's does not reach the parent's handlers, nor the other way round."""
    loop = make_loop()
    got: list[str] = []
    loop.add_signal_handler(signal.SIGUSR1, got.append, "parent")

    async def fork() -> int:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                asyncio._set_running_loop(None)
                child: Any = hotloop.new_event_loop(backend=backend)
                child_got: list[str] = []
                child.add_signal_handler(signal.SIGUSR1, child_got.append, "child")
                child.call_soon(kill, signal.SIGUSR1)
                run_until(child, lambda: child_got)
                child.close()
                code = 0 if (child_got, got) == (["child"], []) else 2
            finally:
                os._exit(code)
        return pid

    pid = loop.run_until_complete(fork())
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    loop.run_until_complete(asyncio.sleep(0.01))
    assert got == []
    loop.call_soon(kill, signal.SIGUSR1)
    run_until(loop, lambda: got)
    loop.close()


def script(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-X", "dev", "-c", textwrap.dedent(text)],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_left_open_at_exit(backend: str) -> None:
    done = script(
        f"""
        import asyncio, signal, hotloop
        loop = hotloop.new_event_loop(backend={backend!r})
        loop.add_signal_handler(signal.SIGUSR1, print)
        loop.run_until_complete(asyncio.sleep(0))
        """
    )
    assert done.returncode == 0, done.stderr
    assert "unclosed event loop" in done.stderr


def test_ctrl_c_of_a_program(backend: str) -> None:
    done = script(
        f"""
        import asyncio, os, signal, threading, hotloop
        loop = hotloop.new_event_loop(backend={backend!r})
        loop.call_soon(threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start)
        try:
            loop.run_forever()
        except KeyboardInterrupt:
            print("interrupted")
        loop.close()
        """
    )
    assert done.stdout == "interrupted\n", done.stderr
    assert done.stderr == ""
