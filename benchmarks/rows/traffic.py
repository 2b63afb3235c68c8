"""Raw sockets, pairs of writes, bulk, datagrams, connections: both ends on the measured loop."""

from __future__ import annotations

import asyncio
import socket
from itertools import repeat
from typing import Any

from rows.registry import Spent, begin, row, since
from rows.transports import GROUP, KIB, Echo, port_of, tcp


async def _receive(loop: asyncio.AbstractEventLoop, sock: socket.socket, size: int) -> None:
    while size:
        data = await loop.sock_recv(sock, 65536)
        if not data:
            raise ConnectionResetError("the server hung up")
        size -= len(data)


@row(GROUP, "sock_1k", "sock_recv / sock_sendall", 8_000, ("tcp", "1024", "1", "1"))
async def sock_1k(count: int) -> Spent:
    """A round trip with sock_recv() and sock_sendall() at both ends."""
    loop = asyncio.get_running_loop()

    async def serve(peer: socket.socket) -> None:
        while data := await loop.sock_recv(peer, 65536):
            await loop.sock_sendall(peer, data)

    message = b"x" * KIB
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        listener.setblocking(False)
        client.setblocking(False)
        connecting = asyncio.ensure_future(loop.sock_connect(client, listener.getsockname()))
        peer, _ = await loop.sock_accept(listener)
        await connecting
        with peer:
            for sock in (peer, client):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            serving = loop.create_task(serve(peer))
            start = begin()
            for _ in repeat(None, count):
                await loop.sock_sendall(client, message)
                await _receive(loop, client, KIB)
            spent = since(start)
            client.shutdown(socket.SHUT_WR)
            await serving
    return spent


class EchoTwice(Echo):
    """Answers in two writes, as a web server does with head and body."""

    def data_received(self, data: bytes) -> None:
        self.transport.write(data[:100])
        self.transport.write(data[100:])


@row(GROUP, "two_writes", "two writes a reply", 8_000, ("tcp", "1024", "1", "2"))
async def two_writes(count: int) -> Spent:
    """A round trip of 1 KiB that the server answers in two writes."""
    return await tcp(count, KIB, echo=EchoTwice)


class _Sink(asyncio.Protocol):
    """Takes a number of bytes."""

    def __init__(self, expected: int, done: asyncio.Future[None]) -> None:
        self.left = expected
        self.done = done

    def data_received(self, data: bytes) -> None:
        self.left -= len(data)
        if self.left <= 0 and not self.done.done():
            self.done.set_result(None)


class _Source(asyncio.Protocol):
    """Writes whenever it may."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.chunk = bytes(256 * KIB)
        self.left = 0
        self.paused = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def push(self) -> None:
        while self.left and not self.paused:
            self.left -= 1
            self.transport.write(self.chunk)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self.push()


@row(GROUP, "bulk_64m", "bulk 64 MiB", 64, ("bulk", "262144", "1", "1"))
async def bulk(count: int) -> Spent:
    """A MiB of 64 in one direction, the writer paused and resumed by the loop."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    server = await loop.create_server(lambda: _Sink(count << 20, done), "127.0.0.1", 0)
    transport, source = await loop.create_connection(_Source, "127.0.0.1", port_of(server))
    source.left = count * 4
    start = begin()
    source.push()
    await done
    spent = since(start)
    transport.close()
    server.close()
    await asyncio.sleep(0.01)
    return spent


class EchoDatagrams(asyncio.DatagramProtocol):
    transport: asyncio.DatagramTransport

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(data, addr)


class AskDatagrams(asyncio.DatagramProtocol):
    """Keeps as many datagrams under way as `ask` was told, until `rounds` have come back."""

    transport: asyncio.DatagramTransport

    def __init__(self, size: int) -> None:
        self.message = b"x" * size
        self.to_send = 0
        self.to_come = 0
        self.done: asyncio.Future[None]

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def ask(self, rounds: int, window: int = 1) -> asyncio.Future[None]:
        self.done = asyncio.get_running_loop().create_future()
        window = min(window, rounds)
        self.to_send = rounds - window
        self.to_come = rounds
        for _ in range(window):
            self.transport.sendto(self.message)
        return self.done

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.to_come -= 1
        if self.to_send:
            self.to_send -= 1
            self.transport.sendto(self.message)
        elif not self.to_come:
            self.done.set_result(None)


async def udp(count: int, size: int, window: int = 1) -> Spent:
    loop = asyncio.get_running_loop()
    server, _ = await loop.create_datagram_endpoint(EchoDatagrams, local_addr=("127.0.0.1", 0))
    address = server.get_extra_info("sockname")
    transport, client = await loop.create_datagram_endpoint(
        lambda: AskDatagrams(size), remote_addr=address
    )
    await client.ask(min(count, 50), window)
    start = begin()
    await client.ask(count, window)
    spent = since(start)
    transport.close()
    server.close()
    await asyncio.sleep(0)
    return spent


@row(GROUP, "udp_512", "UDP 512 B", 10_000, ("udp", "512", "1", "1"))
async def udp_512(count: int) -> Spent:
    """A datagram there and back, one under way at a time."""
    return await udp(count, 512)


class _Lost(asyncio.Protocol):
    """Tells when its connection has ended."""

    def __init__(self) -> None:
        self.lost = asyncio.get_running_loop().create_future()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost.set_result(None)


@row(GROUP, "connect_close", "connect and close", 1_000)
async def connect_close(count: int) -> Spent:
    """A connection made, accepted, closed by the client, until both ends have heard of it."""
    loop = asyncio.get_running_loop()
    accepted: list[_Lost] = []

    def accept() -> _Lost:
        accepted.append(_Lost())
        return accepted[-1]

    server = await loop.create_server(accept, "127.0.0.1", 0)
    port = port_of(server)
    start = begin()
    for _ in repeat(None, count):
        transport, client = await loop.create_connection(_Lost, "127.0.0.1", port)
        transport.close()
        await client.lost
        while not accepted:  # the listener's turn may come after the client's end
            await asyncio.sleep(0)
        await accepted.pop().lost
    spent = since(start)
    server.close()
    return spent
