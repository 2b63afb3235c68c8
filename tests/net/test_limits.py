"""What a peer that nobody knows yet can make a loop hold: each bound of SECURITY.md.

Every test also runs on stock asyncio: the bounds are asyncio's, or tighter.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest
from netlib import LIMIT, Recorder
from tlslib import Certs

Run = Callable[[Any], Any]
READ_MAX = 256 * 1024  # what one read takes


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Certs:
    return Certs(tmp_path_factory.mktemp("certs"))


async def connected(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    return sock


async def send_until_closed(sock: socket.socket, pieces: Any, most: int) -> int:
    """How many bytes of `pieces` the peer takes before it ends the connection; at most `most`."""
    loop = asyncio.get_running_loop()
    sent = 0
    try:
        for piece in pieces:
            await loop.sock_sendall(sock, piece)
            sent += len(piece)
            assert sent <= most, "the peer swallows anything"
            await asyncio.sleep(0)
    except OSError:
        pass
    return sent


def endless_hello() -> Any:
    """A ClientHello of 16 MB, in records of 16 KB that never come to its end."""
    body = b"\x01" + (2**24 - 1).to_bytes(3, "big") + b"\x03\x03"
    while True:
        body = body.ljust(16384, b"\x00")
        yield b"\x16\x03\x01" + len(body).to_bytes(2, "big") + body
        body = b""


def endless_record() -> Any:
    """Bytes that are no TLS at all."""
    while True:
        yield b"\xff" * 16384


@pytest.mark.parametrize("pieces", [endless_hello, endless_record])
def test_a_handshake_without_end(run: Run, certs: Certs, pieces: Any) -> None:
    """OpenSSL refuses it by its announced length, and the connection ends."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        made: list[Recorder] = []

        def factory() -> Recorder:
            made.append(Recorder())
            return made[-1]

        server = await loop.create_server(factory, "127.0.0.1", 0, ssl=certs.server_context())
        with await connected(server.sockets[0].getsockname()[1]) as sock:
            async with asyncio.timeout(LIMIT):
                # what the kernel's buffers hold on both sides counts as taken
                await send_until_closed(sock, pieces(), 32 * 2**20)
        server.close()
        await server.wait_closed()
        assert [protocol.events for protocol in made] == [[]]  # the application heard of nobody

    run(main())


def test_a_handshake_that_does_not_go_on(run: Run, certs: Certs) -> None:
    """ssl_handshake_timeout ends it."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            Recorder, "127.0.0.1", 0, ssl=certs.server_context(), ssl_handshake_timeout=0.05
        )
        with await connected(server.sockets[0].getsockname()[1]) as sock:
            await loop.sock_sendall(sock, b"\x16\x03\x01")
            async with asyncio.timeout(LIMIT):
                try:
                    assert await loop.sock_recv(sock, 100) == b""
                except ConnectionResetError:
                    pass
        server.close()
        await server.wait_closed()

    run(main())


def test_connections_of_one_turn(run: Run) -> None:
    """Peers that come as fast as they are taken: the backlog (from 3.13: plus one) is a bound."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        per_turn: dict[int, int] = {}
        made: list[Recorder] = []
        turn = 0
        peers = []

        def factory() -> Recorder:
            per_turn[turn] = per_turn.get(turn, 0) + 1
            made.append(Recorder())
            if len(made) < 20:
                peers.append(socket.create_connection(address))
            return made[-1]

        server = await loop.create_server(factory, "127.0.0.1", 0, backlog=3)
        address = server.sockets[0].getsockname()
        peers.append(socket.create_connection(address))
        async with asyncio.timeout(LIMIT):
            while len(made) < 20:
                await asyncio.sleep(0)
                turn += 1
            for protocol in made:
                await protocol.until("made")
                protocol.transport.abort()
                await protocol.until("lost")
        # asyncio's factory runs in a task, a turn after its connection was accepted
        assert max(per_turn.values()) <= 4
        for peer in peers:
            peer.close()
        server.close()
        await server.wait_closed()

    run(main())


def test_a_reader_that_nobody_reads(run: Run) -> None:
    """StreamReader's limit stops the transport: twice that, and one read more, is what it holds."""

    async def main() -> None:
        limit = 1000
        got = asyncio.get_running_loop().create_future()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            got.set_result((reader, writer))

        server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=limit)
        with await connected(server.sockets[0].getsockname()[1]) as sock:
            reader, writer = await got
            flood = asyncio.create_task(
                asyncio.get_running_loop().sock_sendall(sock, bytes(64 * 2**20))
            )
            async with asyncio.timeout(LIMIT):
                while writer.transport.is_reading():
                    await asyncio.sleep(0)
            for _ in range(20):
                await asyncio.sleep(0)
            assert len(reader._buffer) <= 2 * limit + READ_MAX
            flood.cancel()
            await asyncio.gather(flood, return_exceptions=True)
            writer.transport.abort()
            try:
                await writer.wait_closed()
            except ConnectionError:
                pass
        server.close()
        await server.wait_closed()

    run(main())


def test_tls_data_that_nobody_takes(run: Run, certs: Certs) -> None:
    """A paused TLS transport stops the connection beneath, at its high-water mark and a read."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server_side: asyncio.Future[Recorder] = loop.create_future()

        class Deaf(Recorder):
            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                transport.pause_reading()
                server_side.set_result(self)

        server = await loop.create_server(Deaf, "127.0.0.1", 0, ssl=certs.server_context())
        port = server.sockets[0].getsockname()[1]
        transport, client = await loop.create_connection(
            Recorder, "127.0.0.1", port, ssl=certs.client_context(), server_hostname="localhost"
        )
        deaf = await server_side
        beneath = transport._ssl_protocol._transport
        transport.write(bytes(32 * 2**20))
        for _ in range(400):  # it takes what it takes, and then no more
            await asyncio.sleep(0)
        assert beneath.get_write_buffer_size() > 16 * 2**20
        assert deaf.data == b""
        transport.abort()
        deaf.transport.abort()
        await client.until("lost")
        await deaf.until("lost")
        server.close()
        await server.wait_closed()

    run(main())


def test_datagrams_that_come_faster_than_they_are_taken(run: Run) -> None:
    """The loop holds none: what a socket's buffer has no room for is the kernel's to drop."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        seen: list[int] = []
        turn = 0

        class Letters(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, addr: Any) -> None:
                seen.append(turn)
                keep_busy()

        def keep_busy() -> None:
            loop.call_soon(lambda: None)  # with work queued, one datagram a turn

        transport, _ = await loop.create_datagram_endpoint(Letters, ("127.0.0.1", 0))
        name = transport.get_extra_info("sockname")
        with socket.socket(type=socket.SOCK_DGRAM) as sender:
            for _ in range(50):
                sender.sendto(b"x", name)
            async with asyncio.timeout(LIMIT):
                while len(seen) < 50:
                    await asyncio.sleep(0)
                    turn += 1
        assert max(map(seen.count, seen)) == 1
        transport.close()
        await asyncio.sleep(0)

    run(main())
