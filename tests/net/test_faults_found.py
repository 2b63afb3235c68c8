"""What `make faults` found where Python calls the system: each failed once, and lost something."""

from __future__ import annotations

import asyncio
import errno
import os
import platform
import socket
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
        monkeypatch.setattr(os, "stat", denied)
        with pytest.raises(PermissionError):
            await asyncio.get_running_loop().create_unix_server(Recorder, path, cleanup_socket=True)
        monkeypatch.undo()

    hotrun(main())


# recvfrom(), which recv() is, fails from block() on as if the kernel had no memory left.
NO_MEMORY = """
import asyncio, ctypes, hotloop, socket, struct

class Program(ctypes.Structure):
    _fields_ = (("count", ctypes.c_ushort), ("steps", ctypes.c_void_p))

def block(number):
    steps = [(0x20, 0, 0, 0), (0x15, 0, 1, number)]
    steps += [(0x06, 0, 0, 0x50000 | 12), (0x06, 0, 0, 0x7FFF0000)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = Program(len(steps), ctypes.addressof(code))
    prctl = ctypes.CDLL(None).prctl
    return prctl(38, 1, 0, 0, 0) == 0 and prctl(22, 2, ctypes.byref(program)) == 0

async def main():
    a, b = socket.socketpair()
    a.setblocking(False)
    loop = asyncio.get_running_loop()
    waits = asyncio.create_task(loop.sock_recv(a, 10))
    await asyncio.sleep(0)
    if not block(NUMBER):
        raise SystemExit(77)
    b.send(b"x")
    for attempt in (waits, loop.sock_recv(a, 10)):
        try:
            await attempt
        except BaseException as exc:
            print(type(exc).__name__, exc.args[:1])
    a.close()
    b.close()

asyncio.Runner(loop_factory=hotloop.new_event_loop).run(main())
"""


def test_a_kernel_without_memory_to_receive() -> None:
    """An OSError, as socket.recv() raises it: MemoryError is for memory of Python's."""
    number = {"x86_64": 45, "aarch64": 207}.get(platform.machine())
    if sys.platform != "linux" or number is None:
        pytest.skip("the number of recvfrom() is known on two machines")
    code = NO_MEMORY.replace("NUMBER", str(number))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    if done.returncode == 77:
        pytest.skip("no system call can be filtered here")
    assert done.stdout.splitlines() == ["OSError (12,)"] * 2, done.stderr
