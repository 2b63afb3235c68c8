"""What the tests of transports share: protocols that take notes, and sockets to drive them by."""

from __future__ import annotations

import asyncio
import io
import os
import socket
import struct
from collections.abc import Callable
from typing import Any

# AddressSanitizer keeps what is freed for a while, so memory in use says nothing there.
SANITIZED = "libasan" in os.environ.get("LD_PRELOAD", "")
LIMIT = float(os.environ.get("TEST_LIMIT", 20))  # seconds that no event of a test may take


class Recorder(asyncio.Protocol):
    """Notes every call; `await until(name)` waits for the next or a past call of that name."""

    keep_open: Any = None

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.transport: Any = None
        self.data = b""
        self._changed = asyncio.Event()

    def note(self, name: str, *what: Any) -> None:
        self.events.append((name, *what) if what else name)
        self._changed.set()

    def names(self) -> list[str]:
        return [e if isinstance(e, str) else e[0] for e in self.events]

    async def until(self, name: str) -> Any:
        return await self.until_true(lambda: name in self.names())

    async def until_data(self, size: int) -> bytes:
        await self.until_true(lambda: len(self.data) >= size)
        return self.data

    async def until_true(self, test: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT):
            while not test():
                self._changed.clear()
                await self._changed.wait()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.note("made")

    def data_received(self, data: bytes) -> None:
        self.data += data
        if not self.events or self.events[-1] != "data":  # how it is cut up is no promise
            self.note("data")
        self._changed.set()

    def eof_received(self) -> Any:
        self.note("eof")
        return self.keep_open

    def pause_writing(self) -> None:
        self.note("pause")

    def resume_writing(self) -> None:
        self.note("resume")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.note("lost", type(exc).__name__)


class BufferedRecorder(Recorder, asyncio.BufferedProtocol):
    size = 16

    def get_buffer(self, hint: int) -> Any:
        assert hint == -1
        self.buffer = bytearray(self.size)
        return self.buffer

    def buffer_updated(self, count: int) -> None:
        self.data_received(bytes(self.buffer[:count]))


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected TCP sockets, non-blocking."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    near.setblocking(False)
    far.setblocking(False)
    return near, far


def reset(sock: socket.socket) -> None:
    """Closes so that the peer gets a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class Link:
    """A transport of the loop under test at one end, a plain socket at the other."""

    def __init__(self, loop: Any, protocol: Any, transport: Any, far: socket.socket) -> None:
        self.loop = loop
        self.protocol = protocol
        self.transport = transport
        self.far = far

    async def recv(self, size: int) -> bytes:
        """Exactly that many bytes, or what came before the end."""
        data = b""
        async with asyncio.timeout(LIMIT):
            while len(data) < size:
                some = await self.loop.sock_recv(self.far, size - len(data))
                if not some:
                    break
                data += some
        return data

    async def send(self, data: bytes) -> None:
        await self.loop.sock_sendall(self.far, data)

    async def fill(self, high: int | None = 0) -> int:
        """Writes until the socket takes no more; the number of bytes written.

        The protocol has been paused then, unless `high` is None: the marks stay as they are.
        """
        total = 0
        if high is not None:
            self.transport.set_write_buffer_limits(high=high)
        while not self.transport.get_write_buffer_size():
            self.transport.write(bytes(65536))
            total += 65536
        return total

    async def lost(self) -> Any:
        await self.protocol.until("lost")
        return self.protocol.events[-1]


async def link(protocol: Any = None, tcp: bool = True) -> Link:
    loop = asyncio.get_running_loop()
    protocol = Recorder() if protocol is None else protocol
    near, far = tcp_pair() if tcp else socket.socketpair()
    far.setblocking(False)
    transport, _ = await loop.create_connection(lambda: protocol, sock=near)
    return Link(loop, protocol, transport, far)


async def finish(*links: Link) -> None:
    for one in links:
        one.transport.abort()
        await one.lost()
        one.far.close()


def pipe_files() -> tuple[io.FileIO, io.FileIO]:
    r, w = os.pipe()
    return io.FileIO(r, "r"), io.FileIO(w, "w")


class CountedFile:
    """A file object that notes how often it was closed, and that its number was open then."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.closed = 0

    def fileno(self) -> int:
        return self.fd

    def close(self) -> None:
        os.fstat(self.fd)
        os.close(self.fd)
        self.closed += 1


async def reader(pipe: Any, protocol: Any = None) -> tuple[Any, Any]:
    loop = asyncio.get_running_loop()
    protocol = Recorder() if protocol is None else protocol
    return await loop.connect_read_pipe(lambda: protocol, pipe)


async def writer(pipe: Any, protocol: Any = None) -> tuple[Any, Any]:
    loop = asyncio.get_running_loop()
    protocol = Recorder() if protocol is None else protocol
    return await loop.connect_write_pipe(lambda: protocol, pipe)
