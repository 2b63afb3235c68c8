"""What `make faults` found where Python calls the system: each failed once, and lost something."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import platform
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from netlib import LIMIT, Recorder

PIPE = subprocess.PIPE
Run = Callable[[Any], Any]


def test_a_child_whose_pipes_cannot_be_connected(
    hotrun: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed and waited for, and the error comes. (asyncio waited for the pipe for ever.)"""

    async def no_pipe(*args: Any) -> Any:
        raise OSError(errno.EBADF, "no pipe")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "connect_read_pipe", no_pipe)
        async with asyncio.timeout(LIMIT):
            with pytest.raises(OSError, match="no pipe"):
                await loop.subprocess_exec(
                    asyncio.SubprocessProtocol, "sleep", "1000", stdin=PIPE, stdout=PIPE
                )
        with pytest.raises(ChildProcessError):  # it has been reaped
            os.waitpid(-1, os.WNOHANG)

    hotrun(main())


def test_a_pidfd_whose_close_fails(hotrun: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of the child is told all the same."""

    async def main() -> None:
        close = os.close

        def interrupted(fd: int) -> None:
            close(fd)
            if fd in pidfds:
                raise InterruptedError(errno.EINTR, "interrupted")

        pidfds: set[int] = set()
        pidfd_open = os.pidfd_open

        def noted(pid: int, flags: int = 0) -> int:
            pidfds.add(fd := pidfd_open(pid, flags))
            return fd

        monkeypatch.setattr(os, "pidfd_open", noted)
        monkeypatch.setattr(os, "close", interrupted)
        process = await asyncio.create_subprocess_exec("true")
        async with asyncio.timeout(LIMIT):
            assert await process.wait() == 0
        monkeypatch.undo()

    hotrun(main())


def test_a_pidfd_that_there_is_no_memory_to_watch(
    hotrun: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread waits instead; `nothing_left` sees that the pidfd is closed."""

    def no_memory(*args: Any) -> None:
        raise MemoryError

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "add_reader", no_memory, raising=False)
        process = await asyncio.create_subprocess_exec("true")
        async with asyncio.timeout(LIMIT):
            assert await process.wait() == 0

    hotrun(main())


def test_an_accepted_socket_that_cannot_be_made_non_blocking(
    hotrun: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is closed, not left to the collector."""
    made = []

    class Conn:
        def setblocking(self, flag: bool) -> None:
            raise OSError(errno.EBADF, "bad")

        def close(self) -> None:
            made.append("closed")

    class Listener(socket.socket):
        def accept(self) -> Any:
            return Conn(), None

    async def main() -> None:
        with Listener() as listener:
            listener.setblocking(False)
            with pytest.raises(OSError, match="bad"):
                await asyncio.get_running_loop().sock_accept(listener)
        assert made == ["closed"]

    hotrun(main())


def refused_address() -> tuple[socket.socket, Any]:
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    return taken, taken.getsockname()


def test_a_refused_socket_whose_close_fails(hotrun: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said is why there is no connection, not that there were `Multiple exceptions: `."""
    taken, address = refused_address()
    close = socket.socket.close

    def bad_close(self: socket.socket) -> None:
        close(self)
        raise OSError(errno.EIO, "bad close")

    async def main() -> None:
        monkeypatch.setattr(socket.socket, "close", bad_close)
        try:
            with pytest.raises(ConnectionRefusedError):
                await asyncio.get_running_loop().create_connection(Recorder, *address)
        finally:
            monkeypatch.undo()

    with taken:
        hotrun(main())


def test_out_of_memory_in_a_race_of_addresses(hotrun: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    taken, address = refused_address()

    async def no_memory(*args: Any) -> None:
        raise MemoryError

    async def main() -> None:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "sock_connect", no_memory)
        with pytest.raises(MemoryError):
            await loop.create_connection(Recorder, *address, happy_eyeballs_delay=0.1)

    with taken:
        hotrun(main())


def test_a_unix_socket_that_cannot_be_looked_at(
    hotrun: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its path was bound and then denied: the socket is closed, not left to the collector."""
    path = str(tmp_path / "socket")
    stat = os.stat
    calls = []

    def denied(name: Any, *args: Any, **kwargs: Any) -> Any:
        if name == path:
            calls.append(name)
            if len(calls) == 2:
                raise PermissionError(errno.EACCES, "denied")
        return stat(name, *args, **kwargs)

    async def main() -> None:
        monkeypatch.setattr("hotloop._net._stat", denied)
        with pytest.raises(PermissionError):
            await asyncio.get_running_loop().create_unix_server(Recorder, path, cleanup_socket=True)
        monkeypatch.undo()

    hotrun(main())


# From block() on a system call fails with that errno.
BLOCK = """
import asyncio, ctypes, hotloop, socket, struct

class Program(ctypes.Structure):
    _fields_ = (("count", ctypes.c_ushort), ("steps", ctypes.c_void_p))

def block(number, code):
    steps = [(0x20, 0, 0, 0), (0x15, 0, 1, number)]
    steps += [(0x06, 0, 0, 0x50000 | code), (0x06, 0, 0, 0x7FFF0000)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = Program(len(steps), ctypes.addressof(code))
    prctl = ctypes.CDLL(None).prctl
    if prctl(38, 1, 0, 0, 0) != 0 or prctl(22, 2, ctypes.byref(program)) != 0:
        raise SystemExit(77)
"""


def run_blocked(program: str, call: str, *numbers: int) -> list[str]:
    """What a program prints; NUMBER in it is that of the call on x86-64, or on AArch64."""
    number = dict(zip(("x86_64", "aarch64"), numbers, strict=True)).get(platform.machine())
    if sys.platform != "linux" or number is None:
        pytest.skip(f"the number of {call} is known on two machines")
    code = BLOCK + program.replace("NUMBER", str(number))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    if done.returncode == 77:
        pytest.skip("no system call can be filtered here")
    assert not done.stderr
    return done.stdout.splitlines()


# recvfrom(), which recv() is, as if the kernel had no memory left.
NO_MEMORY = """
async def main():
    a, b = socket.socketpair()
    a.setblocking(False)
    loop = asyncio.get_running_loop()
    waits = asyncio.create_task(loop.sock_recv(a, 10))
    await asyncio.sleep(0)
    block(NUMBER, 12)
    b.send(b"x")
    for attempt in (waits, loop.sock_recv(a, 10)):
        try:
            await attempt
        except BaseException as exc:
            print(type(exc).__name__, exc.args[:1])
    a.close()
    b.close()

with asyncio.Runner(loop_factory=hotloop.new_event_loop) as runner:
    runner.run(main())
"""


def test_a_kernel_without_memory_to_receive() -> None:
    """An OSError, as socket.recv() raises it: MemoryError is for memory of Python's."""
    assert run_blocked(NO_MEMORY, "recvfrom()", 45, 207) == ["OSError (12,)"] * 2


NO_WATCH = """
a, b = socket.socketpair()
loops = [asyncio.SelectorEventLoop(), hotloop.new_event_loop(backend="epoll")]
block(NUMBER, ERRNO)
for loop in loops:
    for add in (loop.add_reader, loop.add_writer):
        try:
            add(a, print)
        except BaseException as exc:
            print(type(exc).__name__, exc.args[:1])
    loop.close()
a.close()
b.close()
"""


@pytest.mark.parametrize("code", [errno.ENOMEM, errno.ENOSPC])
def test_a_kernel_without_memory_to_watch(code: int) -> None:
    """An OSError, as epoll.register() raises it; both times here by asyncio and by hotloop."""
    said = run_blocked(NO_WATCH.replace("ERRNO", str(code)), "epoll_ctl()", 233, 21)
    assert said == [f"OSError ({code},)"] * 4


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # asyncio's own transport
def test_a_socket_that_says_it_is_tcp_and_is_not(run: Run) -> None:
    """TCP_NODELAY is refused, and whoever connects is told."""

    async def main() -> None:
        a, b = socket.socketpair()
        fake = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, a.detach())
        fake.setblocking(False)
        with fake, b, pytest.raises(OSError, match=r"not supported|not available"):
            await asyncio.get_running_loop().create_connection(Recorder, sock=fake)

    run(main())


def test_tls_over_a_socket_that_says_it_is_tcp_and_is_not(
    hotrun: Run, recwarn: pytest.WarningsRecorder
) -> None:
    """Nobody is warned of the transport that there never was. (asyncio warns, of two.)"""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE

    async def main() -> None:
        a, b = socket.socketpair()
        fake = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, a.detach())
        fake.setblocking(False)
        loop = asyncio.get_running_loop()
        with fake, b, pytest.raises(OSError, match=r"not supported|not available"):
            await loop.create_connection(Recorder, sock=fake, ssl=context, server_hostname="")

    hotrun(main())
    gc.collect()
    assert [str(warning.message) for warning in recwarn] == []


def test_a_number_closed_while_it_is_watched_and_a_duplicate_that_is_not(hotrun: Run) -> None:
    """epoll goes on to report it and no call takes it out; the loop sleeps all the same. (On
    asyncio it does not.)"""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        pairs = [socket.socketpair() for _ in range(3)]
        kept = [a.dup() for a, _ in pairs]
        heard: list[int] = []
        for a, b in pairs:
            number = a.fileno()
            loop.add_reader(a, heard.append, 0)
            a.close()
            assert loop.remove_reader(number)
            b.send(b"x")
        other, another = socket.socketpair()
        loop.add_reader(other, lambda: heard.append(len(other.recv(1))))
        for _ in range(5):  # what there is to notice, is
            await asyncio.sleep(0)
            await asyncio.sleep(0.001)
        before = loop._turns
        await asyncio.sleep(0.1)
        assert loop._turns - before < 10
        another.send(b"y")
        async with asyncio.timeout(LIMIT):
            while not heard:
                await asyncio.sleep(0.001)
        assert heard == [1]  # who is watched still is
        loop.call_soon_threadsafe(heard.append, 2)
        await asyncio.sleep(0.001)
        loop.remove_reader(other)
        for one in (*kept, *(b for _, b in pairs), other, another):
            one.close()

    hotrun(main())


class Refused(BaseException):
    pass


class Unspeakable:
    def __repr__(self) -> str:
        raise Refused


def test_a_watch_in_place_of_a_handle_that_cannot_be_cancelled(
    hotrun: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transport watches, so it goes on; what is somebody else's is said elsewhere."""
    said: list[Any] = []

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        loop.set_debug(True)
        a, b = socket.socketpair()
        transport, protocol = await loop.create_connection(Recorder, sock=a)
        loop._add_writer(a.fileno(), print, Unspeakable())
        monkeypatch.setattr(sys, "unraisablehook", lambda what: said.append(what.exc_type))
        transport.write(b"x" * 4_000_000)
        monkeypatch.undo()
        assert said == [Refused]
        b.setblocking(False)
        got = 0
        async with asyncio.timeout(LIMIT):
            while got < 4_000_000:
                got += len(await loop.sock_recv(b, 65536))
        transport.close()
        await protocol.until("lost")
        b.close()

    hotrun(main())
