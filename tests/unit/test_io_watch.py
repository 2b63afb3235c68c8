"""add_reader(), add_writer() and their removal, next to stock asyncio's."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import LONG

import hotloop

Loop = Any  # the private methods are of interest as well


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    a, b = socket.socketpair()
    a.setblocking(False)
    b.setblocking(False)
    yield a, b
    a.close()
    b.close()


Pair = tuple[socket.socket, socket.socket]


def turns(loop: Loop, n: int = 1) -> None:
    """Runs n turns of the loop, each with a poll."""

    async def go() -> None:
        for _ in range(n):
            await asyncio.sleep(0)

    loop.run_until_complete(go())


def run_until(loop: Loop, condition: Callable[[], bool]) -> None:
    async def go() -> None:
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0)

    loop.run_until_complete(go())


def test_reader_and_writer(anyloop: Loop, pair: Pair) -> None:
    a, b = pair
    got = []

    def read(tag: str) -> None:
        got.append((tag, a.recv(100)))
        anyloop.remove_reader(a)
        anyloop.stop()

    assert anyloop.add_reader(a, read, "x") is None
    b.send(b"hello")
    anyloop.run_forever()
    assert got == [("x", b"hello")]
    assert anyloop.remove_reader(a) is False

    assert anyloop.add_writer(a.fileno(), anyloop.stop) is None
    anyloop.run_forever()
    assert anyloop.remove_writer(a.fileno()) is True
    assert anyloop.remove_writer(a.fileno()) is False


def test_reader_comes_before_writer(anyloop: Loop, pair: Pair) -> None:
    a, b = pair
    order = []
    anyloop.add_writer(a, lambda: (order.append("w"), anyloop.stop()))
    anyloop.add_reader(a, order.append, "r")
    b.send(b"x")
    anyloop.run_forever()
    assert order == ["r", "w"]
    anyloop.remove_reader(a)
    anyloop.remove_writer(a)


def test_level_triggered(anyloop: Loop, pair: Pair) -> None:
    a, b = pair
    count = 0

    def read() -> None:
        nonlocal count
        count += 1
        if count == 3:
            anyloop.remove_reader(a)
            anyloop.stop()

    anyloop.add_reader(a, read)
    b.send(b"x")
    anyloop.run_forever()
    assert count == 3


def test_replacing_cancels_the_old_handle(anyloop: Loop, pair: Pair) -> None:
    a, b = pair
    got = []
    first = anyloop._add_reader(a, got.append, 1)
    assert isinstance(first, asyncio.Handle)
    second = anyloop._add_reader(a, got.append, 2)
    assert first.cancelled()
    assert not second.cancelled()
    b.send(b"x")
    run_until(anyloop, lambda: bool(got))
    assert set(got) == {2}
    assert anyloop._remove_reader(a) is True
    assert second.cancelled()
    assert anyloop._remove_reader(a) is False


def test_removed_by_a_callback_of_the_same_turn(anyloop: Loop, pair: Pair) -> None:
    a, b = pair
    c, d = socket.socketpair()
    ran = []

    def read(mine: socket.socket, other: socket.socket) -> None:
        ran.append(mine)
        anyloop.remove_reader(other)

    anyloop.add_reader(a, read, a, c)
    anyloop.add_reader(c, read, c, a)
    b.send(b"x")
    d.send(b"x")
    turns(anyloop, 5)
    assert len(set(ran)) == 1
    assert anyloop.remove_reader(ran[0])
    c.close()
    d.close()


def test_cancelled_handle_goes_at_its_next_event(anyloop: Loop, pair: Pair) -> None:
    a, b = pair
    handle = anyloop._add_reader(a, pytest.fail, "the handle was cancelled")
    writer = anyloop._add_writer(a, pytest.fail, "the handle was cancelled")
    handle.cancel()
    writer.cancel()
    b.send(b"x")
    turns(anyloop, 3)
    assert anyloop.remove_reader(a) is False
    assert anyloop.remove_writer(a) is False


def test_removing_one_side_keeps_the_other(anyloop: Loop, pair: Pair) -> None:
    a, b = pair
    got: list[str] = []
    anyloop.add_reader(a, got.append, "r")
    anyloop.add_writer(a, got.append, "w")
    b.send(b"x")
    assert anyloop.remove_writer(a)
    turns(anyloop, 3)
    assert set(got) == {"r"}
    got.clear()
    anyloop.add_writer(a, got.append, "w")
    assert anyloop.remove_reader(a)
    turns(anyloop, 3)
    assert set(got) == {"w"}
    anyloop.remove_writer(a)


def test_hang_up_wakes_both_sides(anyloop: Loop, pair: Pair) -> None:
    a, b = pair
    got: list[str] = []
    anyloop.add_reader(a, got.append, "r")
    anyloop.add_writer(a, got.append, "w")
    b.close()
    turns(anyloop, 2)
    assert {"r", "w"} == set(got)
    anyloop.remove_reader(a)
    anyloop.remove_writer(a)


def test_context_is_a_copy_of_the_current_one(anyloop: Loop, pair: Pair) -> None:
    a, b = pair
    var: contextvars.ContextVar[int] = contextvars.ContextVar("var", default=0)
    seen = []

    def read() -> None:
        seen.append(var.get())
        var.set(99)
        anyloop.remove_reader(a)
        anyloop.stop()

    token = var.set(7)
    anyloop.add_reader(a, read)
    var.reset(token)
    b.send(b"x")
    anyloop.run_forever()
    assert seen == [7]
    assert var.get() == 0


def test_callback_that_raises_is_reported(anyloop: Loop, pair: Pair, reports: list[Any]) -> None:
    a, b = pair
    contexts = []
    anyloop.set_exception_handler(lambda loop, context: contexts.append(context))

    def read() -> None:
        a.recv(10)
        raise ZeroDivisionError

    anyloop.add_reader(a, read)
    b.send(b"x")
    run_until(anyloop, lambda: bool(contexts))
    assert isinstance(contexts[0]["exception"], ZeroDivisionError)
    assert isinstance(contexts[0]["handle"], asyncio.Handle)
    b.send(b"x")  # it is still there
    run_until(anyloop, lambda: len(contexts) == 2)
    anyloop.remove_reader(a)


@pytest.mark.parametrize("method", ["add_reader", "add_writer"])
def test_bad_descriptors(anyloop: Loop, method: str) -> None:
    add = getattr(anyloop, method)
    remove = getattr(anyloop, method.replace("add", "remove"))

    class NoNumber:
        def fileno(self) -> Any:
            return "no number"

    class Raises:
        def fileno(self) -> Any:
            raise ZeroDivisionError

    for bad in (None, object(), "5", 1.5, NoNumber()):
        with pytest.raises(ValueError, match="Invalid file object"):
            add(bad, print)
        with pytest.raises(ValueError, match="Invalid file object"):
            remove(bad)
    with pytest.raises(ZeroDivisionError):
        add(Raises(), print)
    with pytest.raises(ValueError, match="Invalid file descriptor: -1"):
        add(-1, print)
    with pytest.raises(ValueError, match="Invalid file descriptor: -5"):
        remove(-5)
    with pytest.raises(OverflowError):
        add(2**40, print)
    assert remove(2**40) is False
    with pytest.raises(TypeError):
        add()
    with pytest.raises(TypeError):
        add(1)
    with pytest.raises(TypeError):
        remove()
    with pytest.raises(TypeError):
        remove(1, 2)
    with pytest.raises(TypeError):
        add(1, print, nonsense=1)
    with pytest.raises(TypeError):
        add(1, print, fd=1)
    turns(anyloop)


def test_arguments_by_name(anyloop: Loop, pair: Pair) -> None:
    a, _ = pair
    anyloop.add_writer(fd=a, callback=anyloop.stop)
    anyloop.run_forever()
    assert anyloop.remove_writer(fd=a)
    anyloop.add_writer(a, callback=anyloop.stop)
    anyloop.run_forever()
    assert anyloop.remove_writer(a)


def closed_number() -> int:
    r, w = os.pipe()
    os.close(r)
    os.close(w)
    return r


def test_closed_descriptor(make_loop: Any) -> None:
    loop = make_loop()
    number = closed_number()
    with pytest.raises(OSError, match=r"\[Errno 9\]"):
        loop.add_reader(number, print)
    assert loop.remove_reader(number) is False
    with pytest.raises(OSError, match=r"\[Errno 9\]"):
        loop.add_writer(1_000_000_000 if loop.backend == "epoll" else 1000, print)
    turns(loop)


def test_regular_file(make_loop: Any) -> None:
    loop = make_loop()
    with tempfile.TemporaryFile() as file:
        if loop.backend == "select":  # a file is always ready, as stock asyncio has it there
            loop.add_reader(file, loop.stop)
            loop.run_forever()
            loop.remove_reader(file)
        else:
            with pytest.raises(PermissionError):
                loop.add_reader(file, print)
            assert loop.remove_reader(file) is False
        turns(loop)


def test_select_refuses_large_descriptors(make_loop: Any) -> None:
    loop = make_loop()
    if loop.backend != "select":
        pytest.skip("a limit of select")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1100:
        pytest.skip("may not open that many descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1100), hard))
    r, w = os.pipe()
    try:
        high = os.dup2(r, 1050)
        with pytest.raises(ValueError, match=r"1050.*select"):
            loop.add_reader(high, print)
        assert loop.remove_reader(high) is False
        os.close(high)
        turns(loop)
    finally:
        os.close(r)
        os.close(w)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_closed_loop(anyloop: Loop, pair: Pair) -> None:
    a, _ = pair
    anyloop.add_reader(a, print)
    anyloop.close()
    for add in (anyloop.add_reader, anyloop.add_writer):
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            add(a, print)
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            add(-1, print)
    assert anyloop.remove_reader(a) is False
    assert anyloop.remove_writer(a) is False
    with pytest.raises(ValueError, match="Invalid file object"):
        anyloop.remove_reader(None)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the socket is dropped, not closed
def test_object_is_kept_and_known_after_close(anyloop: Loop) -> None:
    a, b = socket.socketpair()
    anyloop.add_reader(a, print)
    number = a.fileno()
    a.close()
    assert anyloop.remove_reader(a) is True
    with pytest.raises(ValueError, match="Invalid file descriptor: -1"):
        anyloop.remove_reader(a)
    assert anyloop.remove_reader(number) is False
    b.close()

    a, b = socket.socketpair()
    ref = weakref.ref(a)
    number = a.fileno()
    got: list[str] = []
    anyloop.add_reader(a, got.append, "r")
    del a
    gc.collect()
    assert ref() is not None
    b.send(b"x")
    run_until(anyloop, lambda: bool(got))
    assert anyloop.remove_reader(number)
    gc.collect()
    assert ref() is None
    b.close()


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the socket is dropped, not closed
def test_close_drops_everything(anyloop: Loop, pair: Pair) -> None:
    class Callback:
        def __call__(self) -> None: ...

    callback = Callback()
    a, b = socket.socketpair()
    refs = [weakref.ref(callback), weakref.ref(a)]
    anyloop.add_reader(a, callback)
    anyloop.add_writer(a, callback)
    del callback, a
    anyloop.close()
    gc.collect()
    assert [ref() for ref in refs] == [None, None]
    b.close()


def test_number_reused_after_close(loop: Loop, pair: Pair) -> None:
    """A watcher that was never taken away does not survive into the number's next life."""
    turns(loop)  # opens what the loop needs for itself
    a, b = socket.socketpair()
    got: list[str] = []
    loop.add_reader(a, got.append, "old")
    number = a.fileno()
    a.close()
    b.close()
    turns(loop)
    r, w = os.pipe()
    if r != number:
        os.dup2(r, number)
    loop.add_reader(number, got.append, "new")
    os.write(w, b"x")
    run_until(loop, lambda: bool(got))
    assert set(got) == {"new"}
    assert loop.remove_reader(number)
    for fd in {r, w, number}:
        os.close(fd)


def test_other_side_of_a_reused_number(loop: Loop) -> None:
    """The writer of a socket that was closed does not fire for the next one of its number."""
    turns(loop)
    a, b = socket.socketpair()
    number = a.fileno()
    got: list[str] = []
    loop.add_writer(a, got.append, "old")
    a.close()
    c, d = socket.socketpair()
    assert c.fileno() == number
    loop.add_reader(c, got.append, "new")
    d.send(b"x")
    run_until(loop, lambda: bool(got))
    assert set(got) == {"new"}
    assert loop.remove_writer(c) is False
    assert loop.remove_reader(c) is True
    for sock in (b, c, d):
        sock.close()


def test_same_number_reopened_in_the_turn_of_its_event(loop: Loop) -> None:
    """An event fetched for the old owner is not delivered to the new one."""
    a, b = socket.socketpair()
    c, d = socket.socketpair()
    got: list[str] = []
    opened: list[int] = []

    def swap(mine: socket.socket, other: socket.socket) -> None:
        number = other.fileno()
        loop.remove_reader(mine)
        loop.remove_reader(other)
        r, w = os.pipe()
        os.dup2(r, number)
        loop.add_reader(number, got.append, "nothing was written")
        opened.extend({r, w} - {number})

    loop.add_reader(a, swap, a, c)
    loop.add_reader(c, swap, c, a)
    b.send(b"x")
    d.send(b"x")
    turns(loop, 4)
    assert got == []
    for sock in (a, b, c, d):
        loop._remove_reader(sock)
        sock.close()
    for fd in opened:
        os.close(fd)


def test_methods_are_honoured_when_overridden(backend: str, pair: Pair) -> None:
    calls = []

    class Loud(hotloop.EventLoop):  # type: ignore[misc]
        def _add_reader(self, fd: Any, callback: Any, *args: Any) -> Any:
            calls.append("add")
            return super()._add_reader(fd, callback, *args)

        def _remove_reader(self, fd: Any) -> bool:
            calls.append("remove")
            return bool(super()._remove_reader(fd))

    a, b = pair
    loop = Loud(backend)
    try:
        task = loop.create_task(loop.sock_recv(a, 5))
        turns(loop, 2)
        b.send(b"x")
        assert loop.run_until_complete(task) == b"x"
    finally:
        loop.close()
    assert calls == ["add", "remove"]


def test_dropping_a_callback_may_change_the_table(anyloop: Loop, pair: Pair) -> None:
    """Finalisers run inside add and remove, and use the same table."""
    a, _ = pair
    socks = [socket.socketpair() for _ in range(40)]

    class Evil:
        def __call__(self) -> None: ...

        def __del__(self) -> None:
            if not anyloop.is_closed():
                for one, _ in socks:
                    anyloop.add_writer(one, int)
                anyloop.remove_writer(a)

    anyloop.add_reader(a, Evil())
    anyloop.add_reader(a, int)
    anyloop.add_writer(a, Evil())
    assert anyloop.remove_writer(a) is True
    anyloop.add_writer(a, Evil())
    turns(anyloop, 2)
    for one, _ in socks:
        anyloop.remove_writer(one)
    anyloop.close()
    for one, two in socks:
        one.close()
        two.close()


def test_close_with_finalisers(anyloop: Loop, pair: Pair) -> None:
    a, _ = pair
    errors = []

    class Evil:
        def __call__(self) -> None: ...

        def __del__(self) -> None:
            try:
                anyloop.add_reader(a, int)
            except RuntimeError as exc:
                errors.append(str(exc))

    anyloop.add_writer(a, Evil())
    anyloop.close()
    gc.collect()
    assert errors == ["Event loop is closed"]


def test_source_traceback_in_debug_mode(anyloop: Loop, pair: Pair) -> None:
    anyloop.set_debug(True)
    handle = anyloop._add_reader(pair[0], int)
    names = [frame.name for frame in handle._source_traceback]
    assert "test_source_traceback_in_debug_mode" in names
    assert "int" in repr(handle)
    anyloop.remove_reader(pair[0])


def test_many_descriptors(loop: Loop) -> None:
    pairs = [socket.socketpair() for _ in range(100)]
    seen: set[int] = set()
    for i, (one, _) in enumerate(pairs):
        loop.add_reader(one, seen.add, i)
    for _, two in pairs:
        two.send(b"x")
    run_until(loop, lambda: len(seen) == 100)
    for one, two in pairs:
        assert loop.remove_reader(one)
        one.close()
        two.close()


def test_collected_in_a_cycle(backend: str, pair: Pair) -> None:
    """Handler, loop and socket in one cycle: the collector gets them, and the loop warns."""

    def make() -> weakref.ref[Any]:
        loop = hotloop.new_event_loop(backend=backend)
        loop.add_reader(pair[0], loop.stop)
        loop.run_until_complete(asyncio.sleep(0))
        return weakref.ref(loop)

    ref = make()
    with pytest.warns(ResourceWarning, match="unclosed event loop"):
        gc.collect()
    assert ref() is None


def test_descriptor_of_a_transport(anyloop: Loop, pair: Pair) -> None:
    a, _ = pair

    async def go() -> None:
        protocol = asyncio.Protocol()
        transport, _ = await anyloop.connect_accepted_socket(lambda: protocol, a)
        number = a.fileno()
        for fd in (a, number, transport.get_extra_info("socket")):
            for method in (anyloop.add_reader, anyloop.add_writer):
                with pytest.raises(RuntimeError, match="is used by transport"):
                    method(fd, print)
            for method in (anyloop.remove_reader, anyloop.remove_writer):
                with pytest.raises(RuntimeError, match="is used by transport"):
                    method(fd)
        with pytest.raises(RuntimeError, match="is used by transport"):
            await anyloop.sock_recv(a, 10)
        transport.pause_reading()
        with pytest.raises(RuntimeError, match="is used by transport"):
            anyloop.remove_reader(a)
        transport.close()
        assert anyloop.remove_reader(number) is False  # closing: no longer in use
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        c, d = socket.socketpair()
        with c, d:
            assert c.fileno() == number
            assert anyloop.remove_reader(c) is False
            anyloop.add_reader(c, print)
            anyloop.remove_reader(c)

    anyloop.run_until_complete(go())


@pytest.mark.parametrize("removed_first", [False, True])
def test_number_reused_on_its_other_side(
    factory_of_loops: Any, backends_here: tuple[str, ...], removed_first: bool
) -> None:
    """Not delivered to the dead file's watcher, though asyncio raises or delivers here.

    With epoll alone: select cannot know, nor can it under asyncio.
    """
    if "epoll" not in backends_here:
        pytest.skip("there is no epoll here")
    loop = factory_of_loops(lambda: hotloop.new_event_loop(backend="epoll"))
    fd, other_end = os.pipe()
    a, b = socket.socketpair()
    fired: list[str] = []
    loop.add_reader(fd, fired.append, "dead")
    if removed_first:
        loop.add_writer(fd, fired.append, "dead too")
    os.close(fd)
    os.close(other_end)
    try:
        os.dup2(a.fileno(), fd)
        b.send(b"x")
        if removed_first:
            loop.remove_writer(fd)
        else:
            loop.add_writer(fd, fired.append, "writer")
        turns(loop, 3)
        assert set(fired) == (set() if removed_first else {"writer"})
        loop.remove_reader(fd)
        loop.remove_writer(fd)
        os.close(fd)
    finally:
        a.close()
        b.close()


def number_of_a_file_now(loop: Loop) -> int:
    """Watches a descriptor and closes it; a file that epoll does not take gets its number."""
    a, b = socket.socketpair()
    loop.add_reader(a, print)
    number = a.detach()
    os.close(number)
    b.close()
    file = os.open(__file__, os.O_RDONLY)
    if file != number:
        os.dup2(file, number)
        os.close(file)
    return number


def test_stale_event_with_a_file_under_another_number(loop: Loop) -> None:
    """The poller is renewed without the stale one, and without the file: the loop sleeps."""
    file = number_of_a_file_now(loop)
    a, b = socket.socketpair()
    loop.add_reader(a, print)
    number = a.detach()
    spare = os.dup(number)
    os.close(number)
    loop.remove_reader(number)  # too late: its file is open as `spare`
    b.send(b"x")
    try:
        before = time.thread_time()
        loop.run_until_complete(asyncio.sleep(1))
        # Asleep it takes next to nothing, awake all it is given.
        assert time.thread_time() - before < 0.5
    finally:
        loop.remove_reader(file)
        os.close(file)
        os.close(spare)
        b.close()


def fork_with_a_file_under_the_number(loop: Loop) -> None:
    number_of_a_file_now(loop)
    child = os.fork()
    if child == 0:
        try:
            loop.run_until_complete(asyncio.sleep(0))
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    loop.run_until_complete(asyncio.sleep(0))


def test_fork_with_a_file_under_the_number(loop_kind: str) -> None:
    """In a process of its own, which has no thread but the one."""
    backend = loop_kind.removeprefix("hotloop-")
    ours = f"hotloop.new_event_loop(backend={backend!r})"
    make = "asyncio.SelectorEventLoop()" if loop_kind == "asyncio" else ours
    code = f"""
import asyncio, hotloop, test_io_watch
test_io_watch.fork_with_a_file_under_the_number({make})
"""
    subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, check=True, timeout=LONG
    )
