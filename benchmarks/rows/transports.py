"""Protocols over sockets, both ends on the measured loop.

So a round trip is two reads and two writes by the loop, in a process that is pinned to one CPU;
no other process's wake-ups are in the figure. floor/echo.c does the same without Python.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Awaitable, Callable
from typing import Any

from rows.registry import Spent, begin, row, since

GROUP = "transports"

KIB = 1024


class Echo(asyncio.Protocol):
    """The server: sends back what comes."""

    transport: asyncio.Transport

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Asker(asyncio.Protocol):
    """The client: sends a message when the last has come back; `done` after `rounds` of them."""

    transport: asyncio.Transport

    def __init__(self, size: int) -> None:
        self.message = b"x" * size
        self.size = size
        self.missing = size
        self.rounds = 0
        self.done: asyncio.Future[None]

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def connection_lost(self, exc: BaseException | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionResetError("the server hung up"))

    def ask(self, rounds: int) -> asyncio.Future[None]:
        self.rounds = rounds
        self.missing = self.size
        self.done = asyncio.get_running_loop().create_future()
        self.transport.write(self.message)
        return self.done

    def data_received(self, data: bytes) -> None:
        self.missing -= len(data)
        if not self.missing:
            self.rounds -= 1
            if self.rounds:
                self.missing = self.size
                self.transport.write(self.message)
            else:
                self.done.set_result(None)


class EchoBuffered(asyncio.BufferedProtocol):
    """As Echo, reading into a buffer of its own."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(65536))

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.transport.write(bytes(self.buffer[:nbytes]))


class AskerBuffered(asyncio.BufferedProtocol):
    """As Asker, reading into a buffer of its own."""

    connection_made = Asker.connection_made
    connection_lost = Asker.connection_lost
    ask = Asker.ask

    def __init__(self, size: int) -> None:
        # Two methods shared with a protocol of another base: hence the silenced errors.
        Asker.__init__(self, size)  # type: ignore[arg-type]
        self.buffer = memoryview(bytearray(65536))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        Asker.data_received(self, self.buffer[:nbytes])  # type: ignore[arg-type]


def port_of(server: asyncio.Server) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port


Connect = Callable[[], Awaitable[tuple[Any, Any]]]


async def round_trips(
    server: asyncio.Server, connect: Connect, count: int, connections: int = 1
) -> Spent:
    """`count` round trips over so many connections at a time, after a few to warm up."""
    clients = [await connect() for _ in range(connections)]
    each = max(1, count // connections)
    for rounds in (min(each, 20), each):
        start = begin()
        waiting = [protocol.ask(rounds) for _, protocol in clients]
        for done in waiting:
            await done
        spent = since(start)
    for transport, _ in clients:
        transport.close()
    server.close()
    await asyncio.sleep(0.01)
    return spent


async def tcp(
    count: int,
    size: int,
    connections: int = 1,
    echo: Callable[[], asyncio.BaseProtocol] = Echo,
    asker: Callable[[int], asyncio.BaseProtocol] = Asker,
) -> Spent:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(echo, "127.0.0.1", 0, backlog=128)
    port = port_of(server)

    def connect() -> Awaitable[tuple[Any, Any]]:
        return loop.create_connection(lambda: asker(size), "127.0.0.1", port)

    return await round_trips(server, connect, count, connections)


@row(GROUP, "tcp_echo_1k", "TCP echo 1 KiB ×1", 10_000, ("tcp", "1024", "1", "1"))
async def tcp_1k(count: int) -> Spent:
    """A round trip over one connection."""
    return await tcp(count, KIB)


@row(GROUP, "tcp_echo_1k_x50", "TCP echo 1 KiB ×50", 15_000, ("tcp", "1024", "50", "1"))
async def tcp_1k_50(count: int) -> Spent:
    """A round trip, fifty connections at it at a time."""
    return await tcp(count, KIB, 50)


@row(GROUP, "tcp_echo_10k", "TCP echo 10 KiB", 8_000, ("tcp", "10240", "1", "1"))
async def tcp_10k(count: int) -> Spent:
    """A round trip of 10 KiB."""
    return await tcp(count, 10 * KIB)


@row(GROUP, "tcp_echo_100k", "TCP echo 100 KiB", 2_000, ("tcp", "102400", "1", "1"))
async def tcp_100k(count: int) -> Spent:
    """A round trip of 100 KiB, which is several reads."""
    return await tcp(count, 100 * KIB)


@row(GROUP, "buffered_10k", "BufferedProtocol 10 KiB", 8_000, ("tcp", "10240", "1", "1"))
async def buffered_10k(count: int) -> Spent:
    """A round trip of 10 KiB between BufferedProtocols."""
    return await tcp(count, 10 * KIB, echo=EchoBuffered, asker=AskerBuffered)


@row(GROUP, "unix_echo_1k", "Unix echo 1 KiB", 10_000, ("unix", "1024", "1", "1"))
async def unix_1k(count: int) -> Spent:
    """A round trip over a Unix socket."""
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "s")
        server = await loop.create_unix_server(Echo, path)
        return await round_trips(
            server, lambda: loop.create_unix_connection(lambda: Asker(KIB), path), count
        )
