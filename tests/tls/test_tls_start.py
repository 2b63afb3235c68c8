"""start_tls(): both sides, every kind of transport, streams, failures, TLS within TLS."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import sys
from typing import Any

import pytest
from netlib import LIMIT, BufferedRecorder, Recorder, reset, tcp_pair
from tlslib import NAME, Certs, Pair, Peer, pair

CLEAN = ("lost", "NoneType")
# What a server's stream has read of the client's hello goes to TLS.
READ_AHEAD = sys.version_info >= (3, 14)


async def plain(socks: Any = None, client: Any = None, server: Any = None) -> Pair:
    """A connection without TLS, both ends in the loop under test."""
    loop = asyncio.get_running_loop()
    ends = Pair(client or Recorder(), server or Recorder())
    near, far = socks or tcp_pair()
    near.setblocking(False)
    far.setblocking(False)
    if near.family == socket.AF_UNIX:
        await loop.create_unix_connection(lambda: ends.client, sock=near)
    else:
        await loop.create_connection(lambda: ends.client, sock=near)
    await loop.connect_accepted_socket(lambda: ends.server, far)
    return ends


async def upgrade_client(certs: Certs, end: Any, name: str = NAME, **rest: Any) -> Any:
    end.transport = await asyncio.get_running_loop().start_tls(
        end.transport, end, certs.client_context(), server_hostname=name, **rest
    )
    return end.transport


async def upgrade_server(certs: Certs, end: Any, **rest: Any) -> Any:
    end.transport = await asyncio.get_running_loop().start_tls(
        end.transport, end, certs.server_context(), server_side=True, **rest
    )
    return end.transport


async def upgrade(certs: Certs, ends: Pair) -> None:
    await asyncio.gather(upgrade_server(certs, ends.server), upgrade_client(certs, ends.client))


async def talk(ends: Pair, size: int = 100_000) -> None:
    up, down = os.urandom(size), os.urandom(size)
    had = len(ends.server.data), len(ends.client.data)
    ends.client.transport.write(up)
    ends.server.transport.write(down)
    assert (await ends.server.until_data(had[0] + size))[had[0] :] == up
    assert (await ends.client.until_data(had[1] + size))[had[1] :] == down


# ---- both sides ----


@pytest.mark.parametrize("kind", ["tcp", "unix", "named"])
def test_start_tls(run: Any, certs: Certs, kind: str, tmp_path: Any) -> None:
    async def main() -> None:
        ends = await plain({"tcp": tcp_pair, "unix": socket.socketpair, "named": named}[kind]())
        ends.client.transport.write(b"plain")
        assert await ends.server.until_data(5) == b"plain"
        await upgrade(certs, ends)
        await talk(ends)
        await ends.close()
        # connection_made() is not called again
        assert ends.client.events == ["made", "data", "eof", CLEAN]
        assert ends.server.events == ["made", "data", "eof", CLEAN]

    def named() -> tuple[socket.socket, socket.socket]:
        path = str(tmp_path / "s")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            near = socket.socket(socket.AF_UNIX)
            near.connect(path)
            return near, listener.accept()[0]

    run(main())


def test_transport_of_start_tls(run: Any, certs: Certs) -> None:
    async def main() -> None:
        ends = await plain()
        below = ends.client.transport
        await upgrade(certs, ends)
        t = ends.client.transport
        assert t is not below
        assert isinstance(t, asyncio.Transport)
        assert t.get_protocol() is ends.client
        assert isinstance(t.get_extra_info("ssl_object"), ssl.SSLObject)
        assert t.get_extra_info("socket") is below.get_extra_info("socket")
        assert t.get_extra_info("peername") == below.get_extra_info("peername")
        assert t.get_extra_info("peercert")["subjectAltName"]
        assert below.get_extra_info("ssl_object") is None
        assert not t.is_closing()
        await ends.close()
        assert below.is_closing()

    run(main())


def test_closing_the_transport_below(run: Any, certs: Certs) -> None:
    async def main() -> None:
        ends = await plain()
        below = ends.client.transport
        await upgrade(certs, ends)
        below.close()
        await ends.lost()
        assert ends.client.events[-1] == CLEAN

    run(main())


def test_buffered_protocols(run: Any, certs: Certs) -> None:
    async def main() -> None:
        class Hinted(BufferedRecorder):
            def get_buffer(self, hint: int) -> Any:
                return super().get_buffer(-1)

        ends = await plain(client=Hinted(), server=Hinted())
        ends.client.transport.write(b"plain")
        await ends.server.until_data(5)
        await upgrade(certs, ends)
        await talk(ends, 1000)
        await ends.close()

    run(main())


def test_after_a_word_of_the_protocol(run: Any, certs: Certs) -> None:
    """As SMTP does it: the client asks, the server says go, both upgrade."""

    class Server(Recorder):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if data == b"STARTTLS\n":
                self.transport.write(b"go\n")
                self.upgrading = asyncio.create_task(upgrade_server(certs, self))

    class Client(Recorder):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if data == b"go\n":
                self.upgrading = asyncio.create_task(upgrade_client(certs, self))
                self.note("going")

    async def main() -> None:
        ends = await plain(client=Client(), server=Server())
        ends.client.transport.write(b"STARTTLS\n")
        await ends.client.until("going")
        await asyncio.gather(ends.client.upgrading, ends.server.upgrading)
        await talk(ends, 100)
        await ends.close()

    run(main())


def test_pending_plain_writes_go_first(run: Any, certs: Certs) -> None:
    async def main() -> None:
        ends = await plain()
        data = os.urandom(200_000)

        ends.client.transport.write(data)
        await ends.server.until_data(len(data))
        await asyncio.gather(upgrade_server(certs, ends.server), upgrade_client(certs, ends.client))
        assert ends.server.data == data
        await talk(ends, 10)
        await ends.close()

    run(main())


def test_start_tls_of_a_paused_transport(run: Any, certs: Certs) -> None:
    async def main() -> None:
        ends = await plain()
        ends.client.transport.pause_reading()
        ends.server.transport.pause_reading()
        await upgrade(certs, ends)
        assert ends.client.transport.is_reading()
        await talk(ends, 1000)
        await ends.close()

    run(main())


# ---- streams ----


async def stream_pair(on_server: Any) -> tuple[Any, Any, Any]:
    """reader, writer, server: of a plain server whose callback is `on_server`."""
    server = await asyncio.start_server(on_server, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    return reader, writer, server


def test_streams(run: Any, certs: Certs) -> None:
    async def serve(reader: Any, writer: Any) -> None:
        assert await reader.readline() == b"STARTTLS\n"
        writer.write(b"go\n")
        await writer.start_tls(certs.server_context())
        assert writer.get_extra_info("ssl_object") is not None
        writer.write((await reader.readline()).upper())
        writer.close()
        await writer.wait_closed()
        done.set_result(None)

    async def main() -> None:
        nonlocal done
        done = asyncio.get_running_loop().create_future()
        reader, writer, server = await stream_pair(serve)
        writer.write(b"STARTTLS\n")
        assert await reader.readline() == b"go\n"
        await writer.start_tls(certs.client_context(), server_hostname=NAME)
        writer.write(b"secret\n")
        assert await reader.readline() == b"SECRET\n"
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        await done
        server.close()
        await server.wait_closed()

    done: Any = None
    run(main())


def test_streams_over_unix_sockets(run: Any, certs: Certs, tmp_path: Any) -> None:
    async def serve(reader: Any, writer: Any) -> None:
        await reader.readline()
        writer.write(b"go\n")
        await writer.start_tls(certs.server_context())
        writer.write(await reader.readline())
        writer.close()

    async def main() -> None:
        path = str(tmp_path / "s")
        server = await asyncio.start_unix_server(serve, path)
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"STARTTLS\n")
        await reader.readline()
        await writer.start_tls(certs.client_context(), server_hostname=NAME)
        writer.write(b"line\n")
        assert await reader.readline() == b"line\n"
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    run(main())


@pytest.mark.parametrize("limit", [2**16, 100], ids=["", "reader-was-paused"])
def test_hello_read_ahead_by_a_servers_stream(run: Any, certs: Certs, limit: int) -> None:
    """The client's hello is in the StreamReader's buffer when the server upgrades.

    From 3.14 on it is handed to TLS; before, it stayed with the reader and the handshake hung.
    """

    async def serve(reader: Any, writer: Any) -> None:
        async with asyncio.timeout(LIMIT):
            while len(reader._buffer) < 200:
                await asyncio.sleep(0)
        try:
            await writer.start_tls(certs.server_context(), ssl_handshake_timeout=timeout)
            writer.write(await reader.readexactly(4))
            writer.close()
            await writer.wait_closed()
            done.set_result("served")
        except ConnectionAbortedError:
            done.set_result("timed out")

    async def main() -> None:
        nonlocal done
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=limit)
        port = server.sockets[0].getsockname()[1]
        client = Recorder()
        connecting = loop.create_connection(
            lambda: client, "127.0.0.1", port, ssl=certs.client_context()
        )
        if READ_AHEAD:
            transport, _ = await connecting
            transport.write(b"ping")
            assert await client.until_data(4) == b"ping"
            await client.until("lost")
        else:
            with pytest.raises(ConnectionError):
                await connecting
        assert await done == ("served" if READ_AHEAD else "timed out")
        server.close()
        await server.wait_closed()

    timeout = LIMIT if READ_AHEAD else 0.05
    done: Any = None
    run(main())


def test_data_read_ahead_by_a_clients_stream_stays(run: Any, certs: Certs) -> None:
    """What the server said in plain before is the reader's, on every version."""

    async def serve(reader: Any, writer: Any) -> None:
        writer.write(b"banner one\n")
        await reader.readline()
        writer.write(b"banner two\n")
        await writer.start_tls(certs.server_context())
        writer.write(b"encrypted\n")
        writer.close()

    async def main() -> None:
        reader, writer, server = await stream_pair(serve)
        assert await reader.readline() == b"banner one\n"
        writer.write(b"STARTTLS\n")
        async with asyncio.timeout(LIMIT):
            while not reader._buffer:
                await asyncio.sleep(0)
        await writer.start_tls(certs.client_context(), server_hostname=NAME)
        assert await reader.read() == b"banner two\nencrypted\n"
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    run(main())


def test_stream_reader_pauses_the_new_transport(run: Any, certs: Certs) -> None:
    """The reader's flow control works on the transport that start_tls() has put in."""

    async def serve(reader: Any, writer: Any) -> None:
        await reader.readline()
        writer.write(b"go\n")
        await writer.start_tls(certs.server_context())
        for _ in range(40):
            writer.write(bytes(50_000))
            await writer.drain()
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1000)
        writer.write(b"STARTTLS\n")
        await reader.readline()
        await writer.start_tls(certs.client_context(), server_hostname=NAME)
        total = 0
        while data := await reader.read(20_000):
            total += len(data)
            await asyncio.sleep(0)
        assert total == 2_000_000
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    run(main())


# ---- failures ----


def test_unknown_authority(run: Any, handled: Any, certs: Certs) -> None:
    async def main() -> None:
        ends = await plain()
        loop = asyncio.get_running_loop()
        stranger = certs.server_context(certs.stranger)
        client, server = await asyncio.gather(
            upgrade_client(certs, ends.client),
            loop.start_tls(ends.server.transport, ends.server, stranger, server_side=True),
            return_exceptions=True,
        )
        assert isinstance(client, ssl.SSLCertVerificationError)
        assert isinstance(server, ConnectionResetError)
        await ends.lost()
        assert ends.client.events == ["made", ("lost", "SSLCertVerificationError")]
        assert ends.server.events == ["made", ("lost", "ConnectionResetError")]

    run(main())
    assert handled == []


@pytest.mark.parametrize("how", ["garbage", "eof", "reset"])
def test_upgrade_that_the_peer_spoils(run: Any, handled: Any, certs: Certs, how: str) -> None:
    async def main() -> None:
        near, far = tcp_pair()
        loop = asyncio.get_running_loop()
        client = Recorder()
        await loop.create_connection(lambda: client, sock=near)
        below = client.transport
        upgrading = asyncio.create_task(upgrade_client(certs, client))
        assert (await loop.sock_recv(far, 1000))[0] == 0x16
        if how == "garbage":
            await loop.sock_sendall(far, b"this is no server hello")
        elif how == "eof":
            far.shutdown(socket.SHUT_WR)
        else:
            reset(far)
        with pytest.raises(ssl.SSLError if how == "garbage" else ConnectionResetError):
            await upgrading
        assert below.is_closing()
        for _ in range(5):
            await asyncio.sleep(0)
        # asyncio tells of no loss in the middle of a handshake
        assert client.names() == (["made"] if how == "reset" else ["made", "lost"])
        far.close()

    run(main())
    assert handled == []


@pytest.mark.parametrize("server_side", [False, True])
def test_timeout(run: Any, handled: Any, certs: Certs, server_side: bool) -> None:
    async def main() -> None:
        near, far = tcp_pair()
        loop = asyncio.get_running_loop()
        end = Recorder()
        await loop.create_connection(lambda: end, sock=near)
        function = upgrade_server if server_side else upgrade_client
        with pytest.raises(ConnectionAbortedError, match=r"longer than 0\.03 seconds"):
            await function(certs, end, ssl_handshake_timeout=0.03)
        for _ in range(5):
            await asyncio.sleep(0)
        assert end.names() == ["made"]  # asyncio tells of no loss in the middle of a handshake
        far.close()

    run(main())
    assert handled == []


@pytest.mark.parametrize("turns", [0, 1, 2, 5])
def test_cancelled(run: Any, handled: Any, certs: Certs, turns: int) -> None:
    async def main() -> None:
        near, far = tcp_pair()
        loop = asyncio.get_running_loop()
        end = Recorder()
        await loop.create_connection(lambda: end, sock=near)
        below = end.transport
        upgrading = asyncio.create_task(upgrade_client(certs, end))
        await asyncio.sleep(0)
        for _ in range(turns):
            await asyncio.sleep(0)
        upgrading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await upgrading
        assert below.is_closing()
        while await loop.sock_recv(far, 10_000):
            pass
        far.close()

    run(main())
    assert handled == []


@pytest.mark.parametrize("name", ["ssl_handshake_timeout", "ssl_shutdown_timeout"])
def test_bad_timeouts(run: Any, certs: Certs, name: str) -> None:
    async def main() -> None:
        ends = await plain()
        with pytest.raises(ValueError, match=f"^{name} should be a positive number, got 0$"):
            await upgrade_client(certs, ends.client, **{name: 0})
        ends.client.transport.write(b"unharmed")
        await ends.server.until_data(8)
        await ends.close()

    run(main())


@pytest.mark.parametrize("context", [None, True, "context", object()])
def test_wrong_context(run: Any, context: Any) -> None:
    async def main() -> None:
        ends = await plain()
        loop = asyncio.get_running_loop()
        with pytest.raises(TypeError, match="sslcontext is expected to be an instance of"):
            await loop.start_tls(ends.client.transport, ends.client, context)
        ends.client.transport.write(b"unharmed")
        await ends.server.until_data(8)
        await ends.close()

    run(main())


def test_wrong_transport(run: Any, certs: Certs) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        for wrong in (asyncio.Transport(), object(), None):
            with pytest.raises(TypeError, match=r"is not supported by start_tls\(\)"):
                await loop.start_tls(wrong, Recorder(), certs.client_context())  # type: ignore
        transport, protocol = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, ("127.0.0.1", 0)
        )
        with pytest.raises(TypeError, match=r"is not supported by start_tls\(\)"):
            await loop.start_tls(transport, protocol, certs.client_context())  # type: ignore
        transport.close()
        await asyncio.sleep(0)

    run(main())


def test_server_side_context_for_a_client(run: Any, certs: Certs) -> None:
    async def main() -> None:
        ends = await plain()
        loop = asyncio.get_running_loop()
        with pytest.raises(ssl.SSLError, match="Cannot create a client socket"):
            await loop.start_tls(ends.client.transport, ends.client, certs.server_context())
        ends.client.transport.write(b"unharmed")
        await ends.server.until_data(8)
        await ends.close()

    run(main())


def test_no_name_to_check(run: Any, certs: Certs) -> None:
    async def main() -> None:
        ends = await plain()
        loop = asyncio.get_running_loop()
        context = certs.client_context()
        context.check_hostname = False
        ends.client.transport, _ = await asyncio.gather(
            loop.start_tls(ends.client.transport, ends.client, context),
            upgrade_server(certs, ends.server),
        )
        assert ends.client.transport.get_extra_info("ssl_object").server_hostname is None
        await talk(ends, 10)
        await ends.close()

    run(main())


def test_shutdown_timeout(run: Any, certs: Certs) -> None:
    async def main() -> None:
        near, far = tcp_pair()
        loop = asyncio.get_running_loop()
        end = Recorder()
        await loop.create_connection(lambda: end, sock=near)
        peer = Peer(far, certs.server_context(), server_side=True)
        await asyncio.gather(
            upgrade_client(certs, end, ssl_shutdown_timeout=0.03), peer.handshake()
        )
        end.transport.close()
        await end.until("lost")
        assert end.events == ["made", ("lost", "TimeoutError")]
        far.close()

    run(main())


# ---- TLS within TLS ----


def test_tls_in_tls(run: Any, certs: Certs) -> None:
    """start_tls() on a transport that is TLS already: both layers are at work."""

    async def main() -> None:
        ends = await pair(certs)
        outer = ends.client.transport
        await upgrade(certs, ends)
        inner = ends.client.transport
        assert inner is not outer
        assert inner.get_extra_info("ssl_object") is not outer.get_extra_info("ssl_object")
        assert inner.get_extra_info("socket") is outer.get_extra_info("socket")
        await talk(ends, 300_000)
        await ends.close()
        assert ends.client.names().count("lost") == 1

    run(main())


def test_three_layers(run: Any, certs: Certs) -> None:
    async def main() -> None:
        ends = await pair(certs)
        await upgrade(certs, ends)
        await upgrade(certs, ends)
        await talk(ends, 50_000)
        await ends.abort()

    run(main())


def test_abort_of_the_inner_layer(run: Any, certs: Certs) -> None:
    async def main() -> None:
        ends = await pair(certs)
        outer = ends.client.transport
        await upgrade(certs, ends)
        ends.client.transport.abort()
        await ends.lost()
        assert outer.is_closing()
        assert ends.client.events[-1] == CLEAN

    run(main())


def test_inner_handshake_fails(run: Any, handled: Any, certs: Certs) -> None:
    async def main() -> None:
        ends = await pair(certs)
        results = await asyncio.gather(
            upgrade_server(certs, ends.server),
            upgrade_client(certs, ends.client, name="who.example"),
            return_exceptions=True,
        )
        if sys.version_info >= (3, 13):
            assert isinstance(results[1], ssl.SSLCertVerificationError)
            assert isinstance(results[0], ConnectionResetError)
            assert handled == []
        else:  # asyncio may stumble over itself: _abort() takes no argument
            assert isinstance(results[1], (ssl.SSLCertVerificationError, TypeError))
            assert isinstance(results[0], (ConnectionResetError, TypeError))
        await ends.lost()

    run(main())


def test_through_a_tls_proxy(run: Any, certs: Certs) -> None:
    """A client speaks TLS to a proxy, CONNECTs, then speaks TLS to the server behind it."""

    async def origin(reader: Any, writer: Any) -> None:
        writer.write((await reader.readline()).upper())
        writer.close()

    async def copy(reader: Any, writer: Any) -> None:
        while data := await reader.read(10_000):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def proxy(reader: Any, writer: Any) -> None:
        port = int(await reader.readline())
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"connected\n")
        await asyncio.gather(copy(reader, up_writer), copy(up_reader, writer))
        up_writer.close()
        await up_writer.wait_closed()

    async def main() -> None:
        context = certs.server_context()
        behind = await asyncio.start_server(origin, "127.0.0.1", 0, ssl=context)
        before = await asyncio.start_server(proxy, "127.0.0.1", 0, ssl=context)
        ports = [one.sockets[0].getsockname()[1] for one in (behind, before)]
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", ports[1], ssl=certs.client_context()
        )
        writer.write(b"%d\n" % ports[0])
        assert await reader.readline() == b"connected\n"
        await writer.start_tls(certs.client_context(), server_hostname=NAME)
        writer.write(b"through the proxy\n")
        assert await reader.readline() == b"THROUGH THE PROXY\n"
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        for server in (behind, before):
            server.close()
            await server.wait_closed()

    run(main())
