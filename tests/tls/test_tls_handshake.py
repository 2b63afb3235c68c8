"""Handshakes that fail: what is raised, what is reported, and that others are not disturbed."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import re
import socket
import ssl
import time
import warnings
from typing import Any

import pytest
from netlib import Recorder, reset, tcp_pair
from tlslib import (
    NAME,
    Certs,
    Echo,
    Peer,
    failing_pair,
    greet,
    link,
    only,
    started,
)

HTTP = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Uncalled(asyncio.Protocol):
    """A protocol of a connection that never came to be."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def connection_made(self, transport: Any) -> None:
        self.calls.append("made")

    def eof_received(self) -> None:
        self.calls.append("eof")

    def connection_lost(self, exc: Any) -> None:
        self.calls.append("lost")


class Half:
    """One end under test whose handshake has begun; the other is a plain socket."""

    def __init__(self, certs: Certs, server_side: bool, **timeouts: Any) -> None:
        loop = asyncio.get_running_loop()
        near, self.far = tcp_pair()
        self.protocol = Uncalled()
        if server_side:
            coro = loop.connect_accepted_socket(
                lambda: self.protocol, near, ssl=certs.server_context(), **timeouts
            )
        else:
            coro = loop.create_connection(
                lambda: self.protocol,
                sock=near,
                ssl=certs.client_context(),
                server_hostname=NAME,
                **timeouts,
            )
        self.near = near
        self.task = loop.create_task(coro)

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.far, data)

    async def hello(self) -> bytes:
        """Waits for the first bytes of the client's hello."""
        return await asyncio.get_running_loop().sock_recv(self.far, 65536)

    async def error(self, kind: Any) -> Any:
        """The exception that the connecting coroutine raises, of the kind expected."""
        with pytest.raises(kind) as caught:
            await self.task
        assert self.protocol.calls == []
        self.far.close()
        self.near.close()
        return caught.value


SIDES = pytest.mark.parametrize("server_side", [False, True], ids=["client", "server"])


# ---- certificates and versions ----


def test_unknown_authority(run: Any, handled: Any, certs: Certs) -> None:
    async def main() -> None:
        client, server, ends = await failing_pair(
            certs, server_context=certs.server_context(certs.stranger)
        )
        assert type(client) is ssl.SSLCertVerificationError
        assert client.verify_code in (18, 19, 20)
        assert isinstance(server, ConnectionResetError)
        assert ends.client.events == ends.server.events == []

    run(main())
    assert handled == []


def test_wrong_host_name(run: Any, handled: Any, certs: Certs) -> None:
    async def main() -> None:
        client, server, _ = await failing_pair(certs, name="who.example")
        assert type(client) is ssl.SSLCertVerificationError
        assert "Hostname mismatch" in client.verify_message
        assert isinstance(server, ConnectionResetError)

    run(main())
    assert handled == []


def test_expired_certificate(run: Any, handled: Any, certs: Certs) -> None:
    async def main() -> None:
        client, _, _ = await failing_pair(certs, server_context=certs.server_context(certs.expired))
        assert type(client) is ssl.SSLCertVerificationError
        assert client.verify_message == "certificate has expired"

    run(main())
    assert handled == []


def test_no_common_version(run: Any, handled: Any, certs: Certs) -> None:
    async def main() -> None:
        client, server, _ = await failing_pair(
            certs,
            client_context=only(certs.client_context(), "1.3"),
            server_context=only(certs.server_context(), "1.2"),
        )
        assert type(server) is ssl.SSLError
        assert server.reason == "UNSUPPORTED_PROTOCOL"
        assert isinstance(client, ConnectionResetError)

    run(main())
    assert handled == []


def test_no_common_cipher(run: Any, handled: Any, certs: Certs) -> None:
    async def main() -> None:
        client = only(certs.client_context(), "1.2")
        server = only(certs.server_context(), "1.2")
        client.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
        server.set_ciphers("ECDHE-ECDSA-AES256-GCM-SHA384")
        _, error, _ = await failing_pair(certs, client_context=client, server_context=server)
        assert error.reason == "NO_SHARED_CIPHER"

    run(main())
    assert handled == []


def test_refused_client_certificate(run: Any, handled: Any, certs: Certs) -> None:
    async def main() -> None:
        server = only(certs.server_context(), "1.2")
        server.verify_mode = ssl.CERT_REQUIRED
        server.load_verify_locations(certs.ca)
        client = only(certs.client_context(cert=certs.stranger), "1.2")
        _, error, _ = await failing_pair(certs, client_context=client, server_context=server)
        assert type(error) is ssl.SSLCertVerificationError

    run(main())
    assert handled == []


# ---- what is no TLS ----


def test_http_to_a_tls_end(run: Any, handled: Any, certs: Certs) -> None:
    async def main() -> None:
        half = Half(certs, server_side=True)
        await half.send(HTTP)
        assert (await half.error(ssl.SSLError)).reason == "HTTP_REQUEST"

    run(main())
    assert handled == []


def test_tls_to_a_plain_server(run: Any, handled: Any, certs: Certs) -> None:
    async def main() -> None:
        half = Half(certs, server_side=False)
        await half.hello()
        await half.send(b"HTTP/1.0 400 Bad request\r\n\r\n")
        error = await half.error(ssl.SSLError)
        assert error.reason in ("WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG")

    run(main())
    assert handled == []


@SIDES
@pytest.mark.parametrize("garbage", [b"\0" * 64, b"\xff" * 64, b"\x16\x03\x01\xff\xff" + b"x" * 99])
def test_garbage(run: Any, handled: Any, certs: Certs, server_side: bool, garbage: bytes) -> None:
    async def main() -> None:
        half = Half(certs, server_side)
        await half.send(garbage)
        await half.error(ssl.SSLError)

    run(main())
    assert handled == []


@SIDES
def test_eof_before_anything(run: Any, handled: Any, certs: Certs, server_side: bool) -> None:
    async def main() -> None:
        half = Half(certs, server_side)
        half.far.shutdown(socket.SHUT_WR)
        await half.error(ConnectionResetError)

    run(main())
    assert handled == []


@SIDES
def test_truncated_record(run: Any, handled: Any, certs: Certs, server_side: bool) -> None:
    async def main() -> None:
        half = Half(certs, server_side)
        await half.send(b"\x16\x03\x01\x02\x00\x01")  # a record of 512 bytes, of which one comes
        half.far.shutdown(socket.SHUT_WR)
        await half.error(ConnectionResetError)

    run(main())
    assert handled == []


@SIDES
def test_reset_in_the_middle(run: Any, handled: Any, certs: Certs, server_side: bool) -> None:
    async def main() -> None:
        half = Half(certs, server_side)
        await half.send(b"\x16\x03\x01\x02\x00\x01")
        await asyncio.sleep(0)
        reset(half.far)
        await half.error(ConnectionResetError)

    run(main())
    assert handled == []


def test_eof_after_the_clients_hello(run: Any, handled: Any, certs: Certs) -> None:
    async def main() -> None:
        half = Half(certs, server_side=False)
        assert (await half.hello())[0] == 0x16
        half.far.close()
        await half.error(ConnectionResetError)

    run(main())
    assert handled == []


def test_hello_that_comes_byte_by_byte(run: Any, certs: Certs) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        near, far = tcp_pair()
        far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        protocol = Recorder()
        task = loop.create_task(
            loop.connect_accepted_socket(lambda: protocol, near, ssl=certs.server_context())
        )
        peer = Peer(far, certs.client_context(), server_side=False)
        with pytest.raises(ssl.SSLWantReadError):
            peer.tls.do_handshake()
        for byte in peer.outgoing.read():
            await loop.sock_sendall(far, bytes([byte]))
            await asyncio.sleep(0)
        await peer.handshake()
        transport, _ = await task
        await peer.write(b"here")
        assert await protocol.until_data(4) == b"here"
        transport.abort()
        await protocol.until("lost")
        far.close()

    run(main())


def test_data_in_the_last_flight_of_the_handshake(run: Any, certs: Certs) -> None:
    """The client's Finished and its first data arrive in one piece: both are seen."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        near, far = tcp_pair()
        protocol = Recorder()
        task = loop.create_task(
            loop.connect_accepted_socket(lambda: protocol, near, ssl=certs.server_context())
        )
        peer = Peer(far, only(certs.client_context(), "1.3"), server_side=False)
        with pytest.raises(ssl.SSLWantReadError):
            peer.tls.do_handshake()
        await peer.flush()
        while True:
            await peer.feed()
            try:
                peer.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                pass
        peer.tls.write(b"at once")
        await peer.flush()
        transport, _ = await task
        assert await protocol.until_data(7) == b"at once"
        assert protocol.events == ["made", "data"]
        transport.abort()
        await protocol.until("lost")
        far.close()

    run(main())


# ---- timeouts, cancellation ----


@SIDES
def test_handshake_timeout(run: Any, handled: Any, certs: Certs, server_side: bool) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        half = Half(certs, server_side, ssl_handshake_timeout=0.05)
        error = await half.error(ConnectionAbortedError)
        assert loop.time() - start >= 0.05
        assert error.args == (
            "SSL handshake is taking longer than 0.05 seconds: aborting the connection",
        )

    run(main())
    assert handled == []


@SIDES
def test_handshake_timeout_in_the_middle(run: Any, certs: Certs, server_side: bool) -> None:
    async def main() -> None:
        half = Half(certs, server_side, ssl_handshake_timeout=0.05)
        await half.send(b"\x16\x03\x01\x02\x00\x01")
        await half.error(ConnectionAbortedError)

    run(main())


def test_handshake_timeout_of_a_server(run: Any, handled: Any, certs: Certs) -> None:
    async def main() -> None:
        made: list[Uncalled] = []

        def make() -> Any:
            made.append(Uncalled())
            return made[-1]

        server, port = await started(certs, make, ssl_handshake_timeout=0.05)
        loop = asyncio.get_running_loop()
        with socket.create_connection(("127.0.0.1", port)) as silent:
            silent.setblocking(False)
            try:
                assert await loop.sock_recv(silent, 100) == b""
            except ConnectionResetError:
                pass
        assert [one.calls for one in made] == [[]]
        server.close()
        await server.wait_closed()

    run(main())
    assert handled == []


@SIDES
def test_handshake_timeout_is_gone_once_made(run: Any, certs: Certs, server_side: bool) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        one = await link(certs, server_side=server_side, ssl_handshake_timeout=20.0)
        loop.time = lambda: time.monotonic() + 30.0
        await asyncio.sleep(0.001)
        del loop.time
        await one.peer.write(b"later")
        assert await one.protocol.until_data(5) == b"later"
        await one.finish()

    run(main())


@SIDES
def test_cancelled(run: Any, handled: Any, certs: Certs, server_side: bool) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        half = Half(certs, server_side)
        if not server_side:
            await half.hello()
        else:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        half.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await half.task
        assert half.protocol.calls == []
        assert await loop.sock_recv(half.far, 100) == b""  # the socket is closed
        half.far.close()

    run(main())
    assert handled == []


def test_cancelled_by_a_timeout(run: Any, certs: Certs) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await asyncio.open_connection(
                        "127.0.0.1", silent.getsockname()[1], ssl=certs.client_context()
                    )

    run(main())


def test_connect_refused(run: Any, certs: Certs) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as gone:
            port = gone.getsockname()[1]
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port, ssl=certs.client_context())

    run(main())


# ---- servers ----


async def connect_plain(port: int, data: bytes, hard: bool = False) -> None:
    """Sends the data as it is, then waits until the server closes, or resets at once."""
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", port))
        await loop.sock_sendall(sock, data)
        if hard:
            await asyncio.sleep(0)
            reset(sock)
            return
        if len(data) < 20:
            sock.shutdown(socket.SHUT_WR)
        try:
            while await loop.sock_recv(sock, 1000):
                pass
        except ConnectionResetError:
            pass


BAD = [HTTP, b"\0" * 64, b"\x16\x03\x01\x02\x00\x01", b""]


@pytest.mark.parametrize("data", BAD)
def test_server_goes_on(run: Any, handled: Any, certs: Certs, data: bytes) -> None:
    async def main() -> None:
        server, port = await started(certs, Echo)
        async with server:
            await connect_plain(port, data)
            await greet(certs, port)
            await connect_plain(port, data, hard=True)
            await greet(certs, port)

    run(main())
    assert handled == []


def test_other_connections_are_not_disturbed(run: Any, handled: Any, certs: Certs) -> None:
    async def main() -> None:
        server, port = await started(certs, Echo)
        async with server:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=certs.client_context()
            )
            await asyncio.gather(*(connect_plain(port, data) for data in BAD * 3))
            writer.write(b"still here")
            assert await reader.readexactly(10) == b"still here"
            writer.close()
            await writer.wait_closed()

    run(main())
    assert handled == []


def test_server_closes_while_hands_are_being_shaken(run: Any, handled: Any, certs: Certs) -> None:
    async def main() -> None:
        server, port = await started(certs, Echo, ssl_handshake_timeout=0.2)
        loop = asyncio.get_running_loop()
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.setblocking(False)
            await loop.sock_sendall(sock, b"\x16\x03\x01\x02\x00\x01")
            server.close()
            try:
                assert await loop.sock_recv(sock, 100) == b""
            except ConnectionResetError:
                pass
        await server.wait_closed()

    run(main())
    assert handled == []


def test_factory_raises(run: Any, handled: Any, certs: Certs) -> None:
    made: list[int] = []

    def make() -> Any:
        made.append(1)
        if len(made) == 1:
            raise LookupError("the factory's")
        return Echo()

    async def main() -> None:
        server, port = await started(certs, make)
        async with server:
            with pytest.raises(ConnectionError):
                await asyncio.open_connection("127.0.0.1", port, ssl=certs.client_context())
            gc.collect()
            await greet(certs, port)

    with warnings.catch_warnings():
        # asyncio leaves it to the socket's finaliser to close the connection
        warnings.simplefilter("ignore", ResourceWarning)
        run(main())
    assert handled == []


def test_factory_of_a_client_raises(run: Any, certs: Certs) -> None:
    def make() -> Any:
        raise LookupError("the factory's")

    async def main() -> None:
        near, far = tcp_pair()
        with near, far:
            loop = asyncio.get_running_loop()
            with pytest.raises(LookupError, match="the factory's"):
                await loop.create_connection(
                    make, sock=near, ssl=certs.client_context(), server_hostname=NAME
                )

    run(main())


# ---- what is said of it ----


def test_failure_is_not_logged(run: Any, certs: Certs, caplog: Any) -> None:
    async def main() -> None:
        await failing_pair(certs, name="who.example")
        half = Half(certs, server_side=True)
        await half.send(HTTP)
        await half.error(ssl.SSLError)

    with caplog.at_level(logging.DEBUG, logger="asyncio"):
        run(main())
    said = [one.getMessage() for one in caplog.records if "selector" not in one.getMessage()]
    assert said == []


def test_failure_of_a_client_in_debug_mode(
    run: Any, anyloop: Any, handled: Any, certs: Certs, caplog: Any
) -> None:
    anyloop.set_debug(True)
    anyloop.slow_callback_duration = 60.0

    async def main() -> None:
        half = Half(certs, server_side=False)
        await half.hello()
        await half.send(b"no TLS at all, sorry")
        await half.error(ssl.SSLError)

    with caplog.at_level(logging.DEBUG, logger="asyncio"):
        run(main())
    said = [(one.levelname, one.getMessage()) for one in caplog.records if "SSL" in str(one.msg)]
    said += [(one.levelname, one.getMessage()) for one in caplog.records if "SSL" in str(one.args)]
    assert any(re.search("starts SSL handshake$", text) for _, text in said)
    assert any(re.search(": SSL handshake failed$", text) for _, text in said)
    assert {level for level, _ in said} == {"DEBUG"}
    assert handled == []


def test_failure_on_a_server_in_debug_mode(
    run: Any, anyloop: Any, handled: Any, certs: Certs
) -> None:
    anyloop.set_debug(True)
    anyloop.slow_callback_duration = 60.0

    async def main() -> None:
        server, port = await started(certs, Echo)
        async with server:
            await connect_plain(port, HTTP)
            await greet(certs, port)

    run(main())
    assert [one["message"] for one in handled] == [
        "Error on transport creation for incoming connection"
    ]
    assert handled[0]["exception"].reason == "HTTP_REQUEST"
    assert isinstance(handled[0]["protocol"], Echo)
    assert "transport" in handled[0]


# ---- nothing is left ----


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


def test_no_descriptor_left(run: Any, certs: Certs) -> None:
    async def main() -> None:
        server, port = await started(certs, Echo)
        async with server:
            await greet(certs, port)
            before = descriptors()
            for data in BAD:
                await connect_plain(port, data)
                await connect_plain(port, data, hard=True)
            await greet(certs, port)
            for _ in range(5):
                await failing_pair(certs, name="who.example")
            await asyncio.sleep(0)
            assert descriptors() <= before

    run(main())


@pytest.mark.parametrize("hard", [False, True], ids=["eof", "reset"])
def test_aborted_handshakes_leave_nothing(run: Any, certs: Certs, hard: bool) -> None:
    """250 of each kind; objects are counted by type after a first round.

    asyncio keeps up to a hundred cancelled timers.
    """

    def count() -> dict[str, int]:
        gc.collect()
        found: dict[str, int] = {}
        for one in gc.get_objects():
            name = type(one).__name__
            found[name] = found.get(name, 0) + 1
        return found

    async def some(port: int, number: int) -> None:
        for _ in range(number):
            await connect_plain(port, b"\x16\x03\x01\x02\x00\x01", hard=hard)

    async def main() -> None:
        server, port = await started(certs, Echo)
        async with server:
            await some(port, 20)
            await greet(certs, port)
            before, open_before = count(), descriptors()
            await some(port, 250)
            await greet(certs, port)
            after = count()
            grown = {name: after[name] - before.get(name, 0) for name in after}
            assert {name: more for name, more in grown.items() if more >= 120} == {}
            assert descriptors() <= open_before

    run(main())
