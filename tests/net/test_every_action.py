"""Whatever a protocol does, in whichever of its methods: connection_lost() comes once, last."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from netlib import LIMIT, reset, tcp_pair

import hotloop

Action = Callable[[Any, Any], Any]


class Notes(asyncio.Protocol, asyncio.DatagramProtocol):
    """Does `action` in its method `where`, each time or the first time only."""

    def __init__(self, where: str, action: Action | None, buffered: bool = False) -> None:
        self.where, self.action = where, action
        self.calls: list[str] = []
        self.transport: Any = None
        self.lost = asyncio.get_running_loop().create_future()

    def note(self, name: str) -> None:
        self.calls.append(name)
        if name == self.where and self.action is not None and self.calls.count(name) < 4:
            self.action(self, self.transport)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.note("connection_made")

    def data_received(self, data: bytes) -> None:
        self.note("data_received")

    def eof_received(self) -> bool:
        self.note("eof_received")
        return True

    def pause_writing(self) -> None:
        self.note("pause_writing")

    def resume_writing(self) -> None:
        self.note("resume_writing")

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.note("datagram_received")

    def error_received(self, exc: Exception) -> None:
        self.note("error_received")

    def connection_lost(self, exc: BaseException | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)
        self.note("connection_lost")


class BufferedNotes(Notes, asyncio.BufferedProtocol):
    buffer = bytearray(1)

    def get_buffer(self, hint: int) -> Any:
        self.buffer = bytearray(10)
        self.note("get_buffer")
        return self.buffer

    def buffer_updated(self, count: int) -> None:
        self.note("buffer_updated")


def write(protocol: Any, transport: Any) -> None:
    if hasattr(transport, "sendto"):
        transport.sendto(b"x" * 100, ("127.0.0.1", 9))
    elif hasattr(transport, "write"):
        transport.write(b"x" * 100_000)
        if hasattr(transport, "writelines"):
            transport.writelines([b"x", bytearray(b"y"), memoryview(b"z" * 100)])


def swap(protocol: Any, transport: Any) -> None:
    """Another protocol, which hands on what matters."""
    other = type(protocol)("", None)
    other.lost, other.calls = protocol.lost, protocol.calls
    transport.set_protocol(other)


def limits(protocol: Any, transport: Any) -> None:
    if hasattr(transport, "set_write_buffer_limits"):
        transport.set_write_buffer_limits(high=0)
        transport.get_write_buffer_size()
        transport.set_write_buffer_limits()


def reading(protocol: Any, transport: Any) -> None:
    if hasattr(transport, "is_reading") and type(transport).__name__ != "WritePipeTransport":
        transport.pause_reading()
        transport.resume_reading()
        transport.pause_reading()
        asyncio.get_running_loop().call_soon(transport.resume_reading)


def end(name: str) -> Action:
    def call(protocol: Any, transport: Any) -> None:
        method = getattr(transport, name, transport.close)
        if hasattr(transport, "sendto") and name == "write_eof":
            method = transport.close  # it is not implemented
        method()
        write(protocol, transport)
        method()

    call.__name__ = name
    return call


def by_hand(protocol: Any, transport: Any) -> None:
    if "connection_lost" not in protocol.calls:
        transport._call_connection_lost(None)
        write(protocol, transport)


def close_fd(protocol: Any, transport: Any) -> None:
    sock = transport._sock if hasattr(transport, "_sock") else None
    if sock is not None:
        sock.close()


def collect(protocol: Any, transport: Any) -> None:
    protocol.transport = None
    gc.collect()


def nested(protocol: Any, transport: Any) -> None:
    """A run inside the method, in which everything else goes on."""
    loop = hotloop.allow_nested_runs(asyncio.get_running_loop())
    loop.run_until_complete(turns(3))
    write(protocol, transport)
    loop.run_until_complete(turns(3))


def nested_end(protocol: Any, transport: Any) -> None:
    """The transport is gone when the method goes on, which then fails."""
    loop = hotloop.allow_nested_runs(asyncio.get_running_loop())
    end("abort")(protocol, transport)
    loop.run_until_complete(turns())
    write(protocol, transport)
    raise ValueError("from a protocol")


def stop(protocol: Any, transport: Any) -> None:
    asyncio.get_running_loop().stop()


def raises(protocol: Any, transport: Any) -> None:
    raise ValueError("from a protocol")


ACTIONS = [
    write, swap, limits, reading, end("close"), end("abort"), end("write_eof"), by_hand,
    close_fd, collect, nested, nested_end, stop, raises,
]  # fmt: skip
METHODS = [
    "connection_made", "data_received", "eof_received", "pause_writing", "resume_writing",
    "connection_lost",
]  # fmt: skip


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def is_lost(protocol: Any, transport: Any) -> None:
    transport.abort() if hasattr(transport, "abort") else transport.close()
    async with asyncio.timeout(LIMIT):
        await protocol.lost
    await turns()
    assert protocol.calls.count("connection_lost") == 1
    assert protocol.calls[-1] == "connection_lost"
    assert protocol.calls[0] == "connection_made"


async def stream(protocol: Any, tcp: bool) -> None:
    """A life in which every method of a stream's protocol is called."""
    loop = asyncio.get_running_loop()
    near, far = tcp_pair() if tcp else socket.socketpair()
    far.setblocking(False)
    transport, _ = await loop.create_connection(lambda: protocol, sock=near)
    with contextlib.suppress(OSError):  # closed already
        far.send(b"hello")
    await turns()
    transport.set_write_buffer_limits(high=1000)
    for _ in range(100):
        if transport.is_closing() or transport._eof or "pause_writing" in protocol.calls:
            break
        transport.write(bytes(1 << 18))
        await turns(1)
    for _ in range(300):
        try:
            if not far.recv(1 << 20):
                break
        except BlockingIOError:
            if "resume_writing" in protocol.calls or transport.is_closing():
                break
        except OSError:
            break
        await turns(1)
    with contextlib.suppress(OSError):
        far.shutdown(socket.SHUT_WR)
    await turns()
    if not transport._eof:
        transport.write(b"x")
    reset(far)
    await turns()
    await is_lost(protocol, transport)


async def datagrams(protocol: Any) -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(
        lambda: protocol, local_addr=("127.0.0.1", 0)
    )
    name = transport.get_extra_info("sockname")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        for _ in range(3):
            peer.sendto(b"hello", name)
        await turns()
    with contextlib.suppress(ValueError):  # what error_received() raises comes out here
        transport.sendto(bytes(100_000), ("127.0.0.1", 9))
    await turns()
    await is_lost(protocol, transport)


async def reading_pipe(protocol: Any) -> None:
    r, w = os.pipe()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: protocol, os.fdopen(r, "rb", 0))
    with contextlib.suppress(OSError):
        os.write(w, b"hello")
    await turns()
    os.close(w)
    await turns()
    await is_lost(protocol, transport)


async def writing_pipe(protocol: Any) -> None:
    r, w = os.pipe()
    os.set_blocking(r, False)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_write_pipe(lambda: protocol, os.fdopen(w, "wb", 0))
    transport.set_write_buffer_limits(high=1000)
    transport.write(bytes(200_000))
    await turns()
    for _ in range(10):
        try:
            os.read(r, 100_000)
        except BlockingIOError:
            break
        await turns(2)
    transport.write(b"x")
    os.close(r)
    await turns()
    await is_lost(protocol, transport)


LIVES: dict[str, Any] = {
    "tcp": (Notes, lambda p: stream(p, True), METHODS),
    "unix": (Notes, lambda p: stream(p, False), METHODS),
    "buffered": (
        BufferedNotes,
        lambda p: stream(p, True),
        ["get_buffer", "buffer_updated", *METHODS],
    ),
    "datagrams": (
        Notes,
        datagrams,
        ["connection_made", "datagram_received", "error_received", "connection_lost"],
    ),
    "reading pipe": (Notes, reading_pipe, METHODS),
    "writing pipe": (Notes, writing_pipe, METHODS),
}


@pytest.fixture
def quiet(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Reports are not looked at here."""
    loop.set_exception_handler(lambda loop, context: None)
    yield
    gc.collect()


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.__name__)
@pytest.mark.parametrize("kind", list(LIVES))
@pytest.mark.usefixtures("quiet")
def test_action(loop: asyncio.AbstractEventLoop, kind: str, action: Action) -> None:
    cls, life, methods = LIVES[kind]

    async def main(where: str) -> None:
        await life(cls(where, action))

    for where in methods:
        task = loop.create_task(main(where))
        while not task.done():  # one of the actions stops the loop
            try:
                loop.run_until_complete(task)
            except RuntimeError as exc:
                if "Event loop stopped" not in str(exc):
                    raise
        task.result()
