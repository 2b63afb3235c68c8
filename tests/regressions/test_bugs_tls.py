"""Bug classes 27-32: TLS."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import subprocess
import sys
import textwrap
import weakref
from typing import Any

import pytest
from bugs import door
from netlib import LIMIT, Recorder, reset, tcp_pair
from tlslib import NAME, Certs, Peer, failing_pair, fill, link, pair, started


@pytest.mark.bug(27)
def test_close_goes_on_downloading(run: Any, certs: Certs) -> None:
    """The peer never stops sending, nor answers the close: the connection ends all the same."""

    async def main() -> None:
        one = await link(certs)
        sending = asyncio.ensure_future(endless(one.peer))
        await one.protocol.until_data(200_000)
        one.transport.close()
        began = asyncio.get_running_loop().time()
        await asyncio.wait_for(one.protocol.until("lost"), LIMIT)
        assert asyncio.get_running_loop().time() - began < LIMIT
        with pytest.raises(ConnectionError):
            await sending
        one.peer.sock.close()

    run(main())


async def endless(peer: Peer) -> None:
    while True:
        await peer.write(bytes(16384))
        await asyncio.sleep(0)


@pytest.mark.bug(28)
def test_bytes_read_before_start_tls_lost(run: Any, certs: Certs) -> None:
    """The peer's hello came along with its last plain bytes and lies in the StreamReader.

    asyncio hands it over since 3.14; hotloop does what asyncio does on the same Python.
    """

    async def main() -> None:
        near, far = tcp_pair()
        peer = Peer(far, certs.client_context(), False)
        with pytest.raises(ssl.SSLWantReadError):
            peer.tls.do_handshake()
        await peer.loop.sock_sendall(far, b"STARTTLS\n" + peer.outgoing.read())
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader, lambda r, w: writers.append(w))
        writers: list[asyncio.StreamWriter] = []
        await peer.loop.connect_accepted_socket(lambda: protocol, near)
        assert await reader.readline() == b"STARTTLS\n"
        writer = writers[0]
        upgrade = writer.start_tls(certs.server_context(), ssl_handshake_timeout=2 * LIMIT)
        upgrading = asyncio.ensure_future(upgrade)
        shaking = asyncio.ensure_future(peer.handshake())
        for _ in range(200 if sys.version_info >= (3, 14) else 20):  # turns with I/O, not seconds
            await asyncio.sleep(0.002)
            if upgrading.done() and shaking.done():
                break
        done = upgrading.done() and shaking.done()
        if done:
            writer.write(b"hello")
            assert await peer.read(5) == b"hello"
        upgrading.cancel()
        shaking.cancel()
        await asyncio.gather(upgrading, shaking, return_exceptions=True)
        writer.transport.abort()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        far.close()
        assert done is (sys.version_info >= (3, 14))

    run(main())


@pytest.mark.bug(29)
def test_nested_write_kills_the_connection(run: Any, certs: Certs) -> None:
    class Busy(Recorder):
        left = 100

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.left:
                self.left -= 1
                self.transport.write(b"n" * 7)

        def pause_writing(self) -> None:
            super().pause_writing()
            self.transport.write(b"p" * 3)

    async def main() -> None:
        ends = await pair(certs, Busy(), Busy())
        for end in ends.client, ends.server:
            for _ in range(6000):
                end.transport.write(b"q" * 100)
        for end in ends.client, ends.server:
            await end.until_true(lambda end=end: end.data.count(b"q") == 600_000)
        await ends.abort()

    run(main())


@pytest.mark.bug(30)
def test_aborted_handshakes_kept(run: Any, certs: Certs) -> None:
    async def main() -> None:
        refs: list[weakref.ref[Any]] = []

        class Counted(Recorder):
            def __init__(self) -> None:
                super().__init__()
                refs.append(weakref.ref(self))

        server, port = await started(certs, Counted)
        for n in range(150):
            sock = socket.create_connection(("127.0.0.1", port))
            sock.send(b"\x16\x03\x01\x02\x00\x01"[: n % 7])
            reset(sock) if n % 2 else sock.close()
            await asyncio.sleep(0)
        async with asyncio.timeout(LIMIT):
            while len(refs) < 150 or len([ref for ref in refs if ref() is not None]) > 3:
                await asyncio.sleep(0.005)
                gc.collect()
        server.close()
        await server.wait_closed()

    run(main())


@pytest.mark.bug(30)
def test_context_kept_by_closed_connections(run: Any, certs: Certs) -> None:
    async def main() -> None:
        context = certs.client_context()
        ends = await pair(certs, client_context=context)
        await ends.close()
        refs = [weakref.ref(context), weakref.ref(ends.client), weakref.ref(ends.client.transport)]
        del context, ends
        for _ in range(3):
            await asyncio.sleep(0)
            gc.collect()
        assert [ref() for ref in refs] == [None, None, None]

    run(main())


@pytest.mark.bug(31)
@pytest.mark.parametrize("how", ["eof", "reset", "cancelled", "garbage", "timeout"])
def test_failed_handshake_never_ends(run: Any, handled: Any, certs: Certs, how: str) -> None:
    """The one who waits is told, the socket is closed, and nothing is reported."""
    errors: dict[str, type[BaseException]] = {
        "eof": ConnectionResetError,
        "reset": ConnectionResetError,
        "cancelled": asyncio.CancelledError,
        "garbage": ssl.SSLError,
        "timeout": ConnectionAbortedError,
    }

    async def main() -> None:
        loop = asyncio.get_running_loop()
        near, far = tcp_pair()
        connecting = asyncio.ensure_future(
            loop.create_connection(
                Recorder,
                sock=near,
                ssl=certs.client_context(),
                server_hostname=NAME,
                ssl_handshake_timeout=0.01 if how == "timeout" else None,
            )
        )
        assert await loop.sock_recv(far, 65536)  # its hello
        if how == "eof":
            far.shutdown(socket.SHUT_WR)
        elif how == "reset":
            reset(far)
        elif how == "cancelled":
            connecting.cancel()
        elif how == "garbage":
            far.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        with pytest.raises(errors[how]):
            await connecting
        for _ in range(3):
            await asyncio.sleep(0)
        assert near.fileno() == -1
        far.close()

    run(main())
    assert handled == []


@pytest.mark.bug(31)
def test_wrong_name_fails_at_both_ends(run: Any, handled: Any, certs: Certs) -> None:
    async def main() -> None:
        client, server, _ = await failing_pair(certs, name="who.example")
        assert isinstance(client, ssl.SSLCertVerificationError)
        assert server is None or isinstance(server, ssl.SSLError | ConnectionError)

    run(main())
    assert handled == []


@pytest.mark.bug(32)
@pytest.mark.parametrize("authority", [False, True])
def test_self_signed_leaf_refused(run: Any, certs: Certs, authority: bool) -> None:
    """What OpenSSL accepts when it is trusted as an authority, the loop accepts."""

    async def main() -> None:
        path = certs.self_signed(authority)
        client = ssl.create_default_context(cafile=path)
        client.verify_flags &= ~ssl.VERIFY_X509_STRICT
        ends = await pair(certs, client_context=client, server_context=certs.server_context(path))
        ends.client.transport.write(b"hello")
        assert await ends.server.until_data(5) == b"hello"
        await ends.close()

    run(main())


@pytest.mark.bug(32)
def test_context_older_than_the_loops_module(loop_kind: str, certs: Certs, tmp_path: Any) -> None:

    made = f"""
        import asyncio, ssl
        client = ssl.create_default_context(cafile={certs.ca!r})
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain({certs.server!r})
    """
    used = """
        async def answer(reader, writer):
            writer.write(await reader.readexactly(4))
            writer.close()
        async def main():
            async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=server) as listening:
                port = listening.sockets[0].getsockname()[1]
                reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client)
                writer.write(b"ping")
                print(await reader.read())
                writer.close()
                await writer.wait_closed()
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(main())
    """
    text = textwrap.dedent(made) + door(loop_kind) + textwrap.dedent(used)
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, check=False, timeout=60
    )
    assert (done.stdout, done.stderr) == (b"b'ping'\n", b"")


@pytest.mark.bug(16)
def test_drain_over_tls_never_returns_with_a_high_mark_of_zero(run: Any, certs: Certs) -> None:
    async def main() -> None:
        one = await link(certs)
        one.transport.set_write_buffer_limits(high=0)
        total = await fill(one.transport)
        reading = asyncio.ensure_future(one.peer.read(total))
        await one.protocol.until("resume")
        assert len(await reading) == total
        await one.finish()

    run(main())
