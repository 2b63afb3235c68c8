"""What the tests of datagram endpoints share."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable
from typing import Any

import pytest
from netlib import LIMIT

EMPTY_IS_SENT = sys.version_info >= (3, 13)
HEADER = 8 if EMPTY_IS_SENT else 0  # what flow control counts besides a datagram's bytes


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 on this machine")


class Dgrams(asyncio.DatagramProtocol):
    """Notes every call; `await until(name)` waits for the next or a past call of that name."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.transport: Any = None
        self.got: list[tuple[bytes, Any]] = []
        self.errors: list[Exception] = []
        self._changed = asyncio.Event()

    def note(self, event: Any) -> None:
        self.events.append(event)
        self._changed.set()

    async def until(self, test: Callable[[], Any]) -> Any:
        async with asyncio.timeout(LIMIT):
            while not test():
                self._changed.clear()
                await self._changed.wait()
        return test()

    async def until_event(self, name: Any) -> None:
        await self.until(lambda: name in self.events)

    async def until_got(self, count: int) -> list[bytes]:
        await self.until(lambda: len(self.got) >= count)
        return [data for data, _ in self.got]

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.note("made")

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.got.append((data, addr))
        self.note("datagram")

    def error_received(self, exc: Exception) -> None:
        self.errors.append(exc)
        self.note("error")

    def pause_writing(self) -> None:
        self.note("pause")

    def resume_writing(self) -> None:
        self.note("resume")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.note(("lost", type(exc).__name__))


LOST = ("lost", "NoneType")


async def endpoint(protocol: Any = None, **kwargs: Any) -> tuple[Any, Any]:
    """A transport and its protocol; by default bound to a port of 127.0.0.1."""
    protocol = Dgrams() if protocol is None else protocol
    kwargs = kwargs or {"local_addr": ("127.0.0.1", 0)}
    loop = asyncio.get_running_loop()
    transport, made = await loop.create_datagram_endpoint(lambda: protocol, **kwargs)
    assert made is protocol
    return transport, protocol


def name_of(transport: Any) -> Any:
    return transport.get_extra_info("sockname")


async def finish(*transports: Any) -> None:
    for transport in transports:
        transport.abort()
    await asyncio.sleep(0)
    await asyncio.sleep(0)


def udp(address: str = "127.0.0.1") -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((address, 0))
    sock.settimeout(LIMIT)
    return sock


def unix_pair() -> tuple[socket.socket, socket.socket]:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    far.setblocking(False)
    return near, far


async def full(path: str) -> tuple[Any, Dgrams, socket.socket, int]:
    """An endpoint connected to a Unix socket whose queue is full, and how many are in it."""
    far = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    far.bind(path)
    far.setblocking(False)
    transport, protocol = await endpoint(remote_addr=path, family=socket.AF_UNIX)
    sent = 0
    while transport.get_write_buffer_size() == 0:
        transport.sendto(b"%06d" % sent)
        sent += 1
    return transport, protocol, far, sent


def drain(sock: socket.socket) -> list[bytes]:
    got = []
    while True:
        try:
            got.append(sock.recv(65536))
        except BlockingIOError:
            return got
