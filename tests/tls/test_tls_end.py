"""The end of a TLS connection: close, abort, close_notify or none, resets, servers, loops."""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
import time
import warnings
from typing import Any

import pytest
from netlib import Recorder, reset
from tlslib import Certs, Echo, fill, link, pair, started

CLEAN = ("lost", "NoneType")
# close() waits for the socket to take what is left within the shutdown's timeout, and a transport
# below that is closing counts as closing.
NEW_SHUTDOWN = sys.version_info >= (3, 14)


class Streaming(Recorder):
    """Writes for as long as it is let."""

    going = True

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.resume_writing()

    def pause_writing(self) -> None:
        self.going = False

    def resume_writing(self) -> None:
        self.going = True
        for _ in range(50):
            if not self.going or self.transport.is_closing():
                return
            self.transport.write(bytes(65536))
        asyncio.get_running_loop().call_soon(self.again)

    def again(self) -> None:
        if self.going:
            self.resume_writing()


# ---- close ----


def test_close(run: Any, certs: Certs) -> None:
    async def main() -> None:
        one = await link(certs)
        t = one.transport
        assert not t.is_closing()
        t.write(b"last")
        t.close()
        assert t.is_closing()
        t.close()
        assert one.protocol.events == ["made"]
        assert await one.peer.read_all() == (b"last", "notify")
        await one.peer.notify()
        assert await one.lost() == CLEAN
        assert one.protocol.events == ["made", "eof", CLEAN]
        t.close()
        t.abort()
        one.peer.sock.close()

    run(main())


def test_peer_that_just_closes_after_our_close(run: Any, certs: Certs) -> None:
    async def main() -> None:
        one = await link(certs)
        one.transport.close()
        assert await one.peer.read_all() == (b"", "notify")
        one.peer.sock.close()
        assert await one.lost() == CLEAN

    run(main())


@pytest.mark.parametrize("size", [1, 100_000, 3_000_000])
def test_close_with_pending_writes(run: Any, certs: Certs, size: int) -> None:
    async def main() -> None:
        one = await link(certs)
        one.transport.write(bytes(size))
        one.transport.close()
        data, _ = await one.peer.read_all()
        # What no socket had room for yet, asyncio drops from its backlog at close().
        assert data == bytes(len(data))
        assert len(data) <= size
        if size <= 100_000:
            assert len(data) == size
        one.peer.sock.close()
        await one.lost()

    run(main())


def test_both_close_at_once(run: Any, certs: Certs) -> None:
    async def main() -> None:
        ends = await pair(certs)
        ends.client.transport.close()
        ends.server.transport.close()
        await ends.lost()
        for end in (ends.client, ends.server):
            assert end.events == ["made", "eof", CLEAN]

    run(main())


def test_both_write_and_close_at_once(run: Any, certs: Certs) -> None:
    """Data that comes when the close_notify has gone is an error to OpenSSL."""

    async def main() -> None:
        ends = await pair(certs)
        ends.client.transport.write(b"c")
        ends.server.transport.write(b"s")
        ends.client.transport.close()
        ends.server.transport.close()
        await ends.lost()
        for end in (ends.client, ends.server):
            assert end.events == ["made", ("lost", "SSLError")]

    run(main())


@pytest.mark.parametrize("turns", [0, 1, 5])
def test_close_while_the_peer_streams(run: Any, certs: Certs, turns: int) -> None:
    """Lost promptly, not when the peer has had its say (uvloop once read on for 30 seconds)."""

    async def main() -> None:
        ends = await pair(certs, server=Streaming())
        await ends.client.until("data")
        for _ in range(turns):
            await asyncio.sleep(0)
        start = time.monotonic()
        ends.client.transport.close()
        await ends.lost()
        assert time.monotonic() - start < 15.0  # the shutdown's timeout is 30

    run(main())


def test_no_data_after_the_end(run: Any, certs: Certs) -> None:
    async def main() -> None:
        ends = await pair(certs, server=Streaming())
        await ends.client.until("data")
        ends.client.transport.abort()
        size = len(ends.client.data)
        await ends.lost()
        assert len(ends.client.data) == size

    run(main())


def test_close_in_the_turn_of_the_peers_close(run: Any, certs: Certs) -> None:
    class Closing(Recorder):
        def eof_received(self) -> None:
            super().eof_received()
            self.transport.close()

    async def main() -> None:
        ends = await pair(certs, Closing(), Closing())
        ends.client.transport.close()
        await ends.lost()
        assert ends.client.names().count("lost") == ends.server.names().count("lost") == 1

    run(main())


def test_shutdown_timeout(run: Any, handled: Any, certs: Certs) -> None:
    """A peer that never answers the close_notify."""

    async def main() -> None:
        one = await link(certs, ssl_shutdown_timeout=0.05)
        start = time.monotonic()
        one.transport.close()
        assert await one.lost() == ("lost", "TimeoutError")
        assert time.monotonic() - start >= 0.049
        one.peer.sock.close()

    run(main())
    assert handled == []


def test_shutdown_timeout_says_what_it_is(run: Any, handled: Any, certs: Certs) -> None:
    class Keeping(Recorder):
        def connection_lost(self, exc: Any) -> None:
            self.text = str(exc)
            super().connection_lost(exc)

    async def main() -> None:
        one = await link(certs, Keeping(), ssl_shutdown_timeout=0.01)
        one.transport.close()
        await one.lost()
        assert one.protocol.text == "SSL shutdown timed out"
        one.peer.sock.close()

    run(main())
    assert handled == []


@pytest.mark.skipif(not NEW_SHUTDOWN, reason="before 3.14 nothing bounds the flush of a close()")
def test_shutdown_timeout_with_a_peer_that_does_not_read(
    run: Any, handled: Any, certs: Certs
) -> None:
    async def main() -> None:
        one = await link(certs, ssl_shutdown_timeout=0.05)
        await fill(one.transport)
        one.transport.close()
        await one.lost()
        one.peer.sock.close()

    run(main())
    assert handled == []


def test_shutdown_timeout_is_gone_after_a_clean_end(run: Any, certs: Certs) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        ends = await pair(certs, ssl_shutdown_timeout=20.0)
        await ends.close()
        loop.time = lambda: time.monotonic() + 30.0
        await asyncio.sleep(0.001)
        del loop.time
        assert ends.client.names().count("lost") == 1

    run(main())


# ---- abort ----


def test_abort(run: Any, certs: Certs) -> None:
    async def main() -> None:
        one = await link(certs)
        one.transport.abort()
        assert one.transport.is_closing()
        one.transport.abort()
        assert one.protocol.events == ["made"]
        assert await one.lost() == CLEAN
        assert one.protocol.events == ["made", CLEAN]
        assert await one.peer.read_all() == (b"", "eof")
        one.peer.sock.close()

    run(main())


def test_abort_with_pending_writes(run: Any, certs: Certs) -> None:
    async def main() -> None:
        one = await link(certs)
        await fill(one.transport)
        one.transport.abort()
        assert await one.lost() == CLEAN
        assert one.transport.get_write_buffer_size() == 0
        one.peer.sock.close()

    run(main())


def test_abort_after_close(run: Any, certs: Certs) -> None:
    async def main() -> None:
        one = await link(certs)
        one.transport.close()
        one.transport.abort()
        assert await one.lost() == CLEAN
        assert one.protocol.names().count("lost") == 1
        one.peer.sock.close()

    run(main())


def test_abort_after_close_twice(run: Any, certs: Certs) -> None:
    """asyncio forgets its protocol at a second close(): abort() has no effect then, nor fails."""

    async def main() -> None:
        one = await link(certs)
        one.transport.close()
        one.transport.close()
        one.transport.abort()
        await one.peer.read_all()
        await one.peer.notify()
        assert await one.lost() == CLEAN
        one.peer.sock.close()

    run(main())


CALLBACKS = [
    "connection_made",
    "data_received",
    "eof_received",
    "connection_lost",
    "pause_writing",
    "resume_writing",
]


def acting(method: str, action: str) -> Any:
    """A protocol that calls close() or abort() in one of its callbacks."""

    class Acting(Recorder):
        acted = False

    def act(self: Any, *args: Any) -> Any:
        result = getattr(Recorder, method)(self, *args)
        self.acted = True
        getattr(self.transport, action)()
        return result

    setattr(Acting, method, act)
    return Acting()


@pytest.mark.parametrize("action", ["abort", "close"])
@pytest.mark.parametrize("method", CALLBACKS)
def test_end_in_callback(
    run: Any, loop_kind: str, handled: Any, certs: Certs, method: str, action: str
) -> None:
    async def main() -> None:
        ends = await pair(certs, server=acting(method, action))
        t = ends.server.transport
        if method.endswith("_writing"):
            t.set_write_buffer_limits(high=1)
            await fill(t)
        if not ends.server.acted:
            ends.client.transport.write(b"data")
            if method != "resume_writing":
                ends.client.transport.close()
        await ends.server.until("lost")
        await ends.client.until("lost")
        assert ends.server.acted
        assert ends.server.names().count("lost") == 1
        assert ends.server.names()[-1] == "lost"

    run(main())
    if (loop_kind, method, action) == ("asyncio", "resume_writing", "abort"):
        handled.clear()  # asyncio's transport ends twice there, the second time with an error
    assert handled == []


@pytest.mark.parametrize("method", ["get_buffer", "buffer_updated"])
@pytest.mark.parametrize("action", ["abort", "close"])
def test_end_in_buffered_callback(
    run: Any, handled: Any, certs: Certs, method: str, action: str
) -> None:
    class Acting(Recorder, asyncio.BufferedProtocol):
        def get_buffer(self, hint: int) -> Any:
            if method == "get_buffer" and "made" in self.names():
                getattr(self.transport, action)()
            self.buffer = bytearray(100)
            return self.buffer

        def buffer_updated(self, count: int) -> None:
            self.data_received(bytes(self.buffer[:count]))
            if method == "buffer_updated":
                getattr(self.transport, action)()

    async def main() -> None:
        ends = await pair(certs, server=Acting())
        ends.client.transport.write(b"data")
        await ends.lost()
        assert ends.server.names().count("lost") == 1
        assert ends.server.names()[-1] == "lost"

    run(main())
    assert handled == []


# ---- the peer ends it ----


def test_peer_closes_with_close_notify(run: Any, certs: Certs) -> None:
    async def main() -> None:
        one = await link(certs)
        await one.peer.write(b"bye")
        await one.peer.notify()
        assert await one.lost() == CLEAN
        assert one.protocol.events == ["made", "data", "eof", CLEAN]
        assert await one.peer.read_all() == (b"", "notify")
        one.peer.sock.close()

    run(main())


def test_peer_closes_without_close_notify(run: Any, certs: Certs) -> None:
    async def main() -> None:
        one = await link(certs)
        await one.peer.write(b"bye")
        one.peer.sock.shutdown(socket.SHUT_WR)
        assert await one.lost() == CLEAN
        assert one.protocol.events == ["made", "data", "eof", CLEAN]
        one.peer.sock.close()

    run(main())


def test_truncated_record_at_the_end(run: Any, handled: Any, certs: Certs) -> None:
    """Half a record and then nothing: what was whole is delivered, the rest is no data."""

    async def main() -> None:
        one = await link(certs)
        one.peer.tls.write(b"whole")
        one.peer.tls.write(b"half of this one is missing")
        sent = one.peer.outgoing.read()
        await asyncio.get_running_loop().sock_sendall(one.peer.sock, sent[:-9])
        one.peer.sock.shutdown(socket.SHUT_WR)
        await one.lost()
        assert one.protocol.data == b"whole"
        assert one.protocol.names() == ["made", "data", "eof", "lost"]
        one.peer.sock.close()

    run(main())
    assert handled == []


def test_garbage_after_the_handshake(run: Any, handled: Any, certs: Certs) -> None:
    async def main() -> None:
        one = await link(certs)
        await asyncio.get_running_loop().sock_sendall(one.peer.sock, b"no TLS at all" * 9)
        assert (await one.lost())[1] == "SSLError"
        assert one.protocol.names() == ["made", "lost"]
        one.peer.sock.close()

    run(main())
    assert handled == []


def test_corrupted_record(run: Any, handled: Any, certs: Certs) -> None:
    async def main() -> None:
        one = await link(certs)
        one.peer.tls.write(b"will not arrive")
        sent = bytearray(one.peer.outgoing.read())
        sent[-1] ^= 1
        await asyncio.get_running_loop().sock_sendall(one.peer.sock, sent)
        assert (await one.lost())[1] == "SSLError"
        assert one.protocol.data == b""
        one.peer.sock.close()

    run(main())
    assert handled == []


def test_reset(run: Any, handled: Any, certs: Certs) -> None:
    async def main() -> None:
        one = await link(certs)
        reset(one.peer.sock)
        assert await one.lost() == ("lost", "ConnectionResetError")
        assert one.protocol.names() == ["made", "lost"]

    run(main())
    assert handled == []


def test_reset_while_writing(run: Any, handled: Any, certs: Certs) -> None:
    async def main() -> None:
        one = await link(certs)
        await fill(one.transport)
        reset(one.peer.sock)
        assert (await one.lost())[1] in ("ConnectionResetError", "BrokenPipeError")
        assert one.transport.get_write_buffer_size() == 0

    run(main())
    assert handled == []


def test_reset_during_shutdown(run: Any, handled: Any, certs: Certs) -> None:
    async def main() -> None:
        one = await link(certs)
        one.transport.close()
        await one.peer.read_all()
        reset(one.peer.sock)
        await one.lost()
        assert one.protocol.names()[-1] == "lost"

    run(main())
    assert handled == []


@pytest.mark.parametrize("notify", [True, False])
def test_true_from_eof_received(run: Any, certs: Certs, caplog: Any, notify: bool) -> None:
    class Keeping(Recorder):
        keep_open = True

    async def main() -> None:
        one = await link(certs, Keeping())
        if notify:
            await one.peer.notify()
        else:
            one.peer.sock.shutdown(socket.SHUT_WR)
        assert await one.lost() == CLEAN
        assert one.protocol.names() == ["made", "eof", "lost"]
        one.peer.sock.close()

    run(main())
    said = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert said == ["returning true from eof_received() has no effect when using ssl"]


def test_methods_after_the_end(run: Any, certs: Certs) -> None:
    async def main() -> None:
        ends = await pair(certs)
        t = ends.client.transport
        await ends.abort()
        t.close()
        t.abort()
        t.write(b"")
        assert t.is_closing()
        assert t.can_write_eof() is False
        assert ends.client.names().count("lost") == 1

    run(main())


# ---- streams ----


def test_stream_reader_sees_the_end(run: Any, certs: Certs) -> None:
    async def main() -> None:
        server, port = await started(certs, Echo)
        async with server:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=certs.client_context()
            )
            writer.write(b"x")
            await reader.readexactly(1)
            server.close_clients() if hasattr(server, "close_clients") else writer.close()
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()

    run(main())


def test_stream_reader_gets_the_reset(run: Any, certs: Certs) -> None:
    async def main() -> None:
        one = await link(certs)
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        protocol.connection_made(one.transport)
        one.transport.set_protocol(protocol)
        reset(one.peer.sock)
        with pytest.raises(ConnectionResetError):
            await reader.read()

    run(main())


# ---- servers and loops ----


class Served(Echo):
    all: list[Served] = []

    def __init__(self) -> None:
        super().__init__()
        self.all.append(self)


async def crowd(certs: Certs, port: int, number: int = 3) -> list[Recorder]:
    loop = asyncio.get_running_loop()
    found = []
    for _ in range(number):
        _, one = await loop.create_connection(
            Recorder, "127.0.0.1", port, ssl=certs.client_context()
        )
        found.append(one)
    return found


@pytest.mark.skipif(sys.version_info < (3, 13), reason="new in 3.13")
@pytest.mark.parametrize("how", ["close_clients", "abort_clients"])
def test_server_ends_its_clients(run: Any, certs: Certs, how: str) -> None:
    async def main() -> None:
        server, port = await started(certs, Served)
        clients = await crowd(certs, port)
        for one in clients:
            one.transport.write(b"here")
            await one.until_data(4)
        server.close()
        getattr(server, how)()
        for one in clients:
            await one.until("lost")
        await server.wait_closed()
        assert [one.events[-1] for one in Served.all] == [CLEAN] * 3

    Served.all = []
    run(main())


@pytest.mark.skipif(sys.version_info < (3, 12, 1), reason="it waited for nobody before")
def test_wait_closed_waits_for_the_last_client(run: Any, certs: Certs) -> None:
    async def main() -> None:
        server, port = await started(certs, Echo)
        clients = await crowd(certs, port)
        server.close()
        waiting = asyncio.create_task(server.wait_closed())
        for one in clients:
            await asyncio.sleep(0)
            assert not waiting.done()
            one.transport.write(b"still served")
            await one.until_data(12)
            one.transport.close()
            await one.until("lost")
        await waiting

    run(main())


def test_loop_closed_with_a_transport_open(anyloop: Any, certs: Certs) -> None:
    async def main() -> Any:
        return await pair(certs)

    ends = anyloop.run_until_complete(main())
    anyloop.close()
    with pytest.warns(ResourceWarning, match="unclosed"):
        ends.client.transport = ends.server.transport = None
        del ends
        gc.collect()


def test_never_closed(anyloop: Any, certs: Certs) -> None:
    async def main() -> Any:
        return await pair(certs)

    ends = anyloop.run_until_complete(main())
    anyloop.close()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        ends.client.transport = ends.server.transport = None
        del ends
        gc.collect()
    texts = [str(one.message) for one in said if "SSL" in str(one.message)]
    assert len(texts) == 2
    assert all(text.startswith("unclosed transport <") for text in texts)


def test_loop_stopped_and_run_again(anyloop: Any, certs: Certs) -> None:
    async def begin() -> Any:
        return await pair(certs, server=Echo())

    async def go_on() -> None:
        ends.client.transport.write(b"again")
        assert await ends.client.until_data(5) == b"again"
        await ends.close()

    ends = anyloop.run_until_complete(begin())
    anyloop.run_until_complete(go_on())
