"""TLS: life cycles, failures and cancellation, both ends on the loop or one played by hand.

Where records begin and end is no promise, nor how long they are: what was received is kept joined,
and of bytes that a plain socket sees only how they end.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import ssl
from typing import Any

import pytest
from duet import Recorder, scenario
from test_transports import Notes, sockets
from tlslib import NAME, Certs, Peer, only

SHORT = 0.05  # seconds: a timeout that is to be met
RESET = b"\1\0\0\0\0\0\0\0"  # SO_LINGER on, for no time

SIDES = pytest.mark.parametrize("side", ["client", "server"])
VERSIONS = pytest.mark.parametrize("version", ["1.2", "1.3"])


class Boom(Exception):
    pass


def begin(rec: Recorder, certs: Certs, notes: Any, sock: Any, side: str, **rest: Any) -> Any:
    """The coroutine that makes a TLS transport of a connected socket."""
    if side == "server":
        context = rest.pop("context", None) or certs.server_context()
        return rec.loop.connect_accepted_socket(lambda: notes, sock, ssl=context, **rest)
    context = rest.pop("context", None) or certs.client_context()
    name = rest.pop("name", NAME)
    return rec.loop.create_connection(
        lambda: notes, sock=sock, ssl=context, server_hostname=name, **rest
    )


async def pair(
    rec: Recorder, certs: Certs, version: str = "1.3", **attributes: Any
) -> tuple[Notes, Notes]:
    """Client and server; `attributes` are the client's."""
    client, server = Notes(rec, "client"), Notes(rec, "server")
    vars(client).update(attributes)
    near, far = socket.socketpair()
    await asyncio.gather(
        begin(rec, certs, client, near, "client", context=only(certs.client_context(), version)),
        begin(rec, certs, server, far, "server"),
    )
    return client, server


async def by_hand(
    rec: Recorder, certs: Certs, side: str = "client", **rest: Any
) -> tuple[Notes, Peer]:
    """The loop's end is `side`, the other is played by hand."""
    notes = Notes(rec, "near")
    vars(notes).update(rest.pop("attributes", {}))
    near, far = sockets(rest.pop("kind", "tcp"))
    far.setblocking(False)
    context = certs.server_context() if side == "client" else certs.client_context()
    peer = Peer(far, context, side == "client")
    await asyncio.gather(begin(rec, certs, notes, near, side, **rest), peer.handshake())
    return notes, peer


async def ends(rec: Recorder, sock: socket.socket) -> str:
    """How what a plain socket still gets comes to its end."""
    with contextlib.suppress(ConnectionError):
        while await rec.loop.sock_recv(sock, 65536):
            pass
        return "end of file"
    return "reset"


async def both_lost(client: Notes, server: Notes) -> None:
    await client.lost()
    await server.lost()


# ---- life cycles ----


@scenario
@VERSIONS
@SIDES
async def test_echo_and_close(rec: Recorder, certs: Certs, version: str, side: str) -> None:
    client, server = await pair(rec, certs, version)
    one, two = (client, server) if side == "client" else (server, client)
    one.transport.write(b"ping")
    rec.note(await two.data(4))
    two.transport.writelines([b"po", bytearray(b"n"), memoryview(b"g")])
    rec.note(await one.data(4))
    one.transport.close()
    rec.note(one.transport.is_closing(), two.transport.is_closing())
    one.transport.close()
    await both_lost(client, server)
    for notes in (one, two):
        rec.note(notes.transport.is_closing(), notes.transport.is_reading())
        for name in ("close", "abort", "write_eof"):
            rec.attempt(name, getattr(notes.transport, name))
        rec.attempt("write", notes.transport.write, b"late")


@scenario
@SIDES
async def test_last_words(rec: Recorder, certs: Certs, side: str) -> None:
    """What is written before close() arrives, however much it is."""
    client, server = await pair(rec, certs)
    one, two = (client, server) if side == "client" else (server, client)
    one.transport.write(bytes(1_000_000))
    one.transport.close()
    one.transport.write(b"too late")
    await both_lost(client, server)
    rec.note(len(two.got))


@scenario
async def test_both_close(rec: Recorder, certs: Certs) -> None:
    client, server = await pair(rec, certs)
    client.transport.close()
    server.transport.close()
    await both_lost(client, server)


@scenario
@SIDES
async def test_abort(rec: Recorder, certs: Certs, side: str) -> None:
    client, server = await pair(rec, certs)
    one, two = (client, server) if side == "client" else (server, client)
    one.transport.write(b"said before")
    await two.data(11)
    one.transport.abort()
    one.transport.abort()
    rec.note(one.transport.is_closing())
    await both_lost(client, server)


@scenario
@VERSIONS
async def test_what_is_known(rec: Recorder, certs: Certs, version: str) -> None:
    client, server = await pair(rec, certs, version)
    for notes in (client, server):
        transport = notes.transport
        tls = transport.get_extra_info("ssl_object")
        rec.note(type(tls).__name__, tls.version(), tls.cipher()[0], tls.server_side)
        for name in ("peercert", "compression", "cipher", "nothing"):
            rec.note(name, transport.get_extra_info(name))
        rec.note(transport.get_extra_info("nothing", "default"), transport.can_write_eof())
        rec.note(transport.is_reading(), transport.is_closing())
        rec.note(transport.get_write_buffer_size(), transport.get_write_buffer_limits())
        rec.note(type(transport.get_extra_info("socket")).__name__)
        rec.note(transport.get_protocol() is notes)
    client.transport.close()
    await both_lost(client, server)


@scenario
async def test_bad_arguments(rec: Recorder, certs: Certs) -> None:
    client, server = await pair(rec, certs)
    transport = client.transport
    for data in ("text", None, 1):
        rec.attempt("write", transport.write, data)
    for limits in ((-1, None), (1, 2), (0, 1), (None, -1)):
        rec.attempt("limits", transport.set_write_buffer_limits, *limits)
    rec.attempt("eof", transport.write_eof)
    transport.write(b"")
    transport.writelines([])
    transport.close()
    await both_lost(client, server)


@scenario
async def test_refused_arguments(rec: Recorder, certs: Certs) -> None:
    near, far = socket.socketpair()
    context = certs.client_context()

    async def attempt(what: str, **rest: Any) -> None:
        with rec.raises(what):
            await rec.loop.create_connection(asyncio.Protocol, **rest)

    await attempt("no name", sock=near, ssl=context)
    await attempt("name without ssl", sock=near, server_hostname=NAME)
    await attempt("timeout without ssl", sock=near, ssl_handshake_timeout=1)
    await attempt("shutdown without ssl", sock=near, ssl_shutdown_timeout=1)
    for value in (0, -1):
        await attempt(
            "zero", sock=near, ssl=context, server_hostname="", ssl_handshake_timeout=value
        )
    for server in (
        {"ssl_handshake_timeout": 1},
        {"ssl_shutdown_timeout": 1},
        {"ssl": True},
        {"ssl": 1},
    ):
        with rec.raises(str(server)):
            await rec.loop.create_server(asyncio.Protocol, "127.0.0.1", 0, **server)
    near.close()
    far.close()


# ---- how it ends from afar ----


@scenario
@SIDES
@pytest.mark.parametrize("keep_open", [None, True])
@pytest.mark.parametrize("how", ["notify", "eof", "reset", "half"])
async def test_gone(rec: Recorder, certs: Certs, side: str, keep_open: Any, how: str) -> None:
    """The peer goes: with close_notify, without, by a reset, or only its sending half."""
    near, peer = await by_hand(rec, certs, side, attributes={"keep_open": keep_open})
    await peer.write(b"data")
    rec.note(await near.data(4))
    if how == "notify":
        await peer.notify()
    elif how == "half":
        peer.sock.shutdown(socket.SHUT_WR)
    else:
        if how == "reset":
            peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        peer.sock.close()
    await near.lost()
    rec.note(near.transport.is_closing())
    peer.sock.close()


@scenario
@SIDES
async def test_gone_with_data_waiting(rec: Recorder, certs: Certs, side: str) -> None:
    near, peer = await by_hand(rec, certs, side)
    near.transport.write(bytes(5_000_000))
    rec.note(near.transport.get_write_buffer_size() > 0)
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    peer.sock.close()
    await near.lost()
    near.transport.write(b"x")


@scenario
@SIDES
async def test_garbage_later(rec: Recorder, certs: Certs, side: str) -> None:
    near, peer = await by_hand(rec, certs, side)
    await rec.loop.sock_sendall(peer.sock, b"this is no record of TLS at all")
    await near.lost()
    peer.sock.close()


@scenario
async def test_paused_while_the_peer_goes(rec: Recorder, certs: Certs) -> None:
    near, peer = await by_hand(rec, certs)
    near.transport.pause_reading()
    near.transport.pause_reading()
    rec.note(near.transport.is_reading())
    await peer.write(b"held")
    await peer.notify()
    await asyncio.sleep(0.02)
    rec.note(near.got, near.calls)
    near.transport.resume_reading()
    near.transport.resume_reading()
    rec.note(await near.data(4))
    await near.lost()
    peer.sock.close()


# ---- handshakes that fail ----


def wrong(certs: Certs, what: str) -> tuple[Any, Any, str]:
    client, server, name = certs.client_context(), certs.server_context(), NAME
    if what == "unknown authority":
        server = certs.server_context(certs.stranger)
    elif what == "expired":
        server = certs.server_context(certs.expired)
    elif what == "another name":
        name = "elsewhere.example"
    elif what == "versions":
        only(client, "1.2")
        only(server, "1.3")
    elif what == "no certificate":
        server.verify_mode = ssl.CERT_REQUIRED
        server.load_verify_locations(certs.ca)
    elif what == "no certificate, 1.2":
        only(client, "1.2")
        server.verify_mode = ssl.CERT_REQUIRED
        server.load_verify_locations(certs.ca)
    elif what == "no common cipher":
        only(client, "1.2").set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
        only(server, "1.2").set_ciphers("ECDHE-ECDSA-AES256-GCM-SHA384")
    return client, server, name


FAILURES = pytest.mark.parametrize(
    "what",
    ["unknown authority", "expired", "another name", "versions", "no certificate"]
    + ["no certificate, 1.2", "no common cipher"],
)


@scenario
@FAILURES
@pytest.mark.parametrize("debug", [False, True])
async def test_handshake_fails(rec: Recorder, certs: Certs, what: str, debug: bool) -> None:
    rec.loop.set_debug(debug)
    rec.loop.slow_callback_duration = 1e9
    client, server = Notes(rec, "client"), Notes(rec, "server")
    client_context, server_context, name = wrong(certs, what)
    near, far = socket.socketpair()
    outcomes = await asyncio.gather(
        begin(rec, certs, client, near, "client", context=client_context, name=name),
        begin(rec, certs, server, far, "server", context=server_context),
        return_exceptions=True,
    )
    for notes, outcome in zip((client, server), outcomes, strict=True):
        made = isinstance(outcome, tuple)
        rec.note("made" if made else outcome)
        if made:
            await notes.lost()
    near.close()
    far.close()


@scenario
@FAILURES
async def test_a_server_goes_on(rec: Recorder, certs: Certs, what: str) -> None:
    """A failed handshake is no end of the server's, which says nothing of it."""
    rec.handler()
    client_context, server_context, name = wrong(certs, what)
    server = await rec.loop.create_server(
        lambda: Notes(rec, "server"), "127.0.0.1", 0, ssl=server_context
    )
    address = server.sockets[0].getsockname()
    for _ in range(2):
        client = Notes(rec, "client")
        try:
            await rec.loop.create_connection(
                lambda client=client: client, *address, ssl=client_context, server_hostname=name
            )
        except Exception as exc:
            rec.note(exc)
        else:
            await client.lost()
    server.close()
    await server.wait_closed()


@scenario
@SIDES
@pytest.mark.parametrize("what", ["garbage", "http", "zeros", "end", "reset", "alert", "nothing"])
async def test_handshake_with_nobody(rec: Recorder, certs: Certs, side: str, what: str) -> None:
    near, far = sockets("tcp")
    far.setblocking(False)
    notes = Notes(rec, "near")
    made = asyncio.ensure_future(
        begin(
            rec, certs, notes, near, side, ssl_handshake_timeout=SHORT if what == "nothing" else 60
        )
    )
    if side == "client":
        await rec.loop.sock_recv(far, 65536)  # its hello
    said = {
        "garbage": b"garbage" * 100,
        "http": b"GET / HTTP/1.1\r\n\r\n",
        "zeros": bytes(100),
        "alert": b"\x15\x03\x03\0\x02\x02\x28",
    }
    if what in said:
        await rec.loop.sock_sendall(far, said[what])
    elif what == "end":
        far.shutdown(socket.SHUT_WR)
    elif what == "reset":
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        far.close()
    with rec.raises("handshake"):
        await made
    if what != "reset":
        rec.note(await ends(rec, far))
    near.close()
    far.close()


async def step(rec: Recorder, peer: Peer) -> bool:
    """One flight of the peer's: takes in what is there, makes its answer. True: it is done."""
    try:
        peer.tls.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


@scenario
@SIDES
@pytest.mark.parametrize("part", [1, 5, 0.5, -1])
@pytest.mark.parametrize("how", ["end", "reset"])
async def test_end_in_the_middle(
    rec: Recorder, certs: Certs, side: str, part: float, how: str
) -> None:
    """The first flight of the peer's comes in part, and then nothing."""
    near, far = sockets("tcp")
    far.setblocking(False)
    notes = Notes(rec, "near")
    context = certs.server_context() if side == "client" else certs.client_context()
    peer = Peer(far, context, side == "client")
    made = asyncio.ensure_future(begin(rec, certs, notes, near, side))
    if side == "client":
        await peer.feed()
    await step(rec, peer)
    flight = peer.outgoing.read()
    size = int(len(flight) * part) if isinstance(part, float) else part
    await rec.loop.sock_sendall(far, flight[:size])
    if how == "end":
        far.shutdown(socket.SHUT_WR)
    else:
        await asyncio.sleep(0.01)
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        far.close()
    with rec.raises("handshake"):
        await made
    near.close()
    far.close()


# ---- timeouts ----


@scenario
@SIDES
async def test_handshake_takes_too_long(rec: Recorder, certs: Certs, side: str) -> None:
    near, far = sockets("tcp")
    far.setblocking(False)
    notes = Notes(rec, "near")
    with rec.raises("handshake"):
        await begin(rec, certs, notes, near, side, ssl_handshake_timeout=SHORT)
    rec.note(near.fileno(), await ends(rec, far))
    far.close()


@scenario
@SIDES
@pytest.mark.parametrize("debug", [False, True])
async def test_shutdown_takes_too_long(rec: Recorder, certs: Certs, side: str, debug: bool) -> None:
    """The peer neither reads nor answers; with more to send than the socket takes."""
    rec.loop.set_debug(debug)
    rec.loop.slow_callback_duration = 1e9
    near, peer = await by_hand(rec, certs, side, kind="unix", ssl_shutdown_timeout=SHORT)
    near.transport.write(bytes(1_000_000))
    near.transport.close()
    rec.note(near.transport.is_closing())
    await near.lost()
    peer.sock.close()


@scenario
async def test_a_client_that_says_nothing(rec: Recorder, certs: Certs) -> None:
    rec.handler()
    server = await rec.loop.create_server(
        lambda: Notes(rec, "server"),
        "127.0.0.1",
        0,
        ssl=certs.server_context(),
        ssl_handshake_timeout=SHORT,
    )
    with socket.create_connection(server.sockets[0].getsockname()) as silent:
        silent.setblocking(False)
        rec.note(await ends(rec, silent))
    server.close()
    await server.wait_closed()


@scenario
async def test_a_silent_client_is_in_nobodys_way(rec: Recorder, certs: Certs) -> None:
    server = await rec.loop.create_server(
        lambda: Notes(rec, "server"), "127.0.0.1", 0, ssl=certs.server_context()
    )
    address = server.sockets[0].getsockname()
    with socket.create_connection(address):
        client = Notes(rec, "client")
        await rec.loop.create_connection(
            lambda: client, *address, ssl=certs.client_context(), server_hostname=NAME
        )
        client.transport.close()
        await client.lost()
    server.close()
    await server.wait_closed()


# ---- cancellation ----


@scenario(cancel=True)
async def test_connecting_is_cancelled(rec: Recorder, certs: Certs) -> None:
    notes = Notes(rec, "near")
    near, far = sockets("tcp")
    far.setblocking(False)
    try:
        await begin(rec, certs, notes, near, "client", ssl_handshake_timeout=5 * SHORT)
    finally:
        far.close()


@scenario
@SIDES
@pytest.mark.parametrize("stage", range(5))
async def test_cancelled_at_each_flight(rec: Recorder, certs: Certs, side: str, stage: int) -> None:
    """Before a turn, after one, and after each thing that the peer says."""
    near, far = sockets("tcp")
    far.setblocking(False)
    notes = Notes(rec, "near")
    context = certs.server_context() if side == "client" else certs.client_context()
    peer = Peer(far, only(context, "1.2"), side == "client")
    made = asyncio.ensure_future(begin(rec, certs, notes, near, side))
    if stage > 0:
        await asyncio.sleep(0)
    if stage > 1:
        if side == "client":
            await peer.feed()
        await step(rec, peer)
        await peer.flush()
        await asyncio.sleep(0.01)
    if stage > 2:
        await peer.feed()
        await step(rec, peer)
        if stage > 3:
            await peer.flush()
            await asyncio.sleep(0.01)
    rec.note(made.done(), made.cancel("by hand"))
    with rec.raises("made"):
        await made
        notes.transport.abort()
        await notes.lost()
    if stage > 0:  # else it has not begun, and the socket is ours
        rec.note("ends", await ends(rec, far))
    near.close()
    far.close()


@scenario
@SIDES
async def test_timeout_around_it(rec: Recorder, certs: Certs, side: str) -> None:
    near, far = sockets("tcp")
    far.setblocking(False)
    notes = Notes(rec, "near")
    with rec.raises("connecting"):
        async with asyncio.timeout(SHORT):
            await begin(rec, certs, notes, near, side)
    rec.note("ends", await ends(rec, far))
    far.close()


# ---- start_tls ----


async def upgrade(
    rec: Recorder, certs: Certs, notes: Notes, server_side: bool, **rest: Any
) -> None:
    context = certs.server_context() if server_side else certs.client_context()
    old = notes.transport
    notes.transport = await rec.loop.start_tls(
        old,
        notes,
        context,
        server_side=server_side,
        server_hostname=None if server_side else NAME,
        **rest,
    )
    rec.party(notes_name(server_side))("upgraded", old is notes.transport, old.is_closing())


def notes_name(server_side: bool) -> str:
    return "server" if server_side else "client"


async def plain_pair(rec: Recorder) -> tuple[Notes, Notes]:
    both = Notes(rec, "client"), Notes(rec, "server")
    for notes, sock in zip(both, socket.socketpair(), strict=True):
        await rec.loop.create_connection(lambda notes=notes: notes, sock=sock)
    return both


@scenario
@SIDES
async def test_start_tls(rec: Recorder, certs: Certs, side: str) -> None:
    """Plain words, then TLS on both ends; `side` closes."""
    client, server = await plain_pair(rec)
    client.transport.write(b"plain")
    await server.data(5)
    await asyncio.gather(upgrade(rec, certs, client, False), upgrade(rec, certs, server, True))
    client.transport.write(b" secret")
    rec.note(await server.data(12))
    (client if side == "client" else server).transport.close()
    await both_lost(client, server)


@scenario
@SIDES
async def test_start_tls_fails(rec: Recorder, certs: Certs, side: str) -> None:
    """One end goes on in plain text."""
    client, server = await plain_pair(rec)
    upgraded, other = (client, server) if side == "client" else (server, client)
    other.transport.write(b"no TLS here, thank you")
    with rec.raises("start_tls"):
        await upgrade(rec, certs, upgraded, side == "server")
    rec.note(upgraded.transport.is_closing())
    await other.lost()
    rec.note("connection_lost" in upgraded.calls)


@scenario
@SIDES
async def test_start_tls_is_cancelled(rec: Recorder, certs: Certs, side: str) -> None:
    client, server = await plain_pair(rec)
    upgraded, other = (client, server) if side == "client" else (server, client)
    task = asyncio.ensure_future(upgrade(rec, certs, upgraded, side == "server"))
    await asyncio.sleep(0.01)
    task.cancel()
    with rec.raises("start_tls"):
        await task
    await other.lost()
    del upgraded


@scenario
async def test_start_tls_badly(rec: Recorder, certs: Certs) -> None:
    client, server = await plain_pair(rec)
    for context in (None, True, "context"):
        with rec.raises("context"):
            await rec.loop.start_tls(client.transport, client, context)
    with rec.raises("transport"):
        await rec.loop.start_tls(asyncio.Transport(), client, certs.client_context())
    client.transport.close()
    await both_lost(client, server)


@scenario
@SIDES
async def test_start_tls_too_long(rec: Recorder, certs: Certs, side: str) -> None:
    client, server = await plain_pair(rec)
    upgraded, other = (client, server) if side == "client" else (server, client)
    with rec.raises("start_tls"):
        await upgrade(rec, certs, upgraded, side == "server", ssl_handshake_timeout=SHORT)
    await other.lost()


# ---- flow control ----


@scenario
@pytest.mark.parametrize("high", [None, 0, 1, 4096, 1 << 40])
@pytest.mark.parametrize("low", [None, 0, 1])
async def test_flow_control(rec: Recorder, certs: Certs, high: int | None, low: int | None) -> None:
    near, peer = await by_hand(rec, certs, kind="unix")
    transport = near.transport
    rec.attempt("limits", transport.set_write_buffer_limits, high, low)
    rec.note(transport.get_write_buffer_limits())
    transport.write(b"")
    transport.write(b"x" * 1_000_000)
    rec.note(near.calls, transport.get_write_buffer_size() > 0)
    transport.write(b"y")
    data = await peer.read(1_000_001)
    await asyncio.sleep(0.01)
    rec.note(data[-1:], near.calls, transport.get_write_buffer_size())
    transport.abort()
    await near.lost()
    peer.sock.close()


@scenario
async def test_read_in_pieces(rec: Recorder, certs: Certs) -> None:
    """A protocol that pauses at each data_received() gets all of it nevertheless."""
    client, server = await pair(rec, certs)

    class Pausing(Notes):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.transport.pause_reading()
            rec.loop.call_soon(self.transport.resume_reading)

    pausing = Pausing(rec, "pausing")
    pausing.transport = server.transport
    server.transport.set_protocol(pausing)
    client.transport.write(bytes(300_000))
    rec.note(len(await pausing.data(300_000)))
    client.transport.close()
    await client.lost()
    await pausing.lost()


class Buffered(Notes, asyncio.BufferedProtocol):  # type: ignore[misc]
    size = 7

    def get_buffer(self, hint: int) -> Any:
        self.buffer = bytearray(self.size)
        return self.buffer

    def buffer_updated(self, count: int) -> None:
        self.data_received(bytes(self.buffer[:count]))


@scenario
async def test_buffered_protocol(rec: Recorder, certs: Certs) -> None:
    client, server = await pair(rec, certs)
    small = Buffered(rec, "buffered")
    small.transport = server.transport
    server.transport.set_protocol(small)
    client.transport.write(b"0123456789" * 5)
    rec.note(await small.data(50))
    client.transport.close()
    await client.lost()
    await small.lost()


# ---- callbacks ----

CALLS = ["connection_made", "data_received", "eof_received", "pause_writing", "resume_writing"]


async def play_all_calls(near: Notes, peer: Peer, call: str) -> None:
    """Until `call` has been made; then the peer goes and the connection is lost."""
    with contextlib.suppress(ConnectionError, ssl.SSLError, OSError, AssertionError):
        near.transport.set_write_buffer_limits(high=1)
        if call in ("pause_writing", "resume_writing"):
            near.transport.write(bytes(1_000_000))
        if call == "resume_writing":
            await peer.read(1_000_000)
        await peer.write(b"data")
        if call == "data_received":
            await near.data(4)
        if call != "connection_lost":
            await peer.notify()
        else:
            near.transport.close()
            await peer.read_all()
            await peer.notify()
    if call != "eof_received":
        peer.sock.close()
    await near.lost()
    peer.sock.close()


@scenario
@pytest.mark.parametrize("call", CALLS)
async def test_abort_in_a_callback(rec: Recorder, certs: Certs, call: str) -> None:
    class Aborts(Notes):
        def _called(self, name: str, *what: Any) -> None:
            super()._called(name, *what)
            if name == call:
                self.transport.abort()
                self.note("aborted", self.transport.is_closing())

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if call == "data_received":
                self.transport.abort()

    rec.handler()
    notes = Aborts(rec, "near")
    near, far = sockets("unix")
    far.setblocking(False)
    peer = Peer(far, certs.server_context(), True)
    outcomes = await asyncio.gather(
        begin(rec, certs, notes, near, "client"), peer.handshake(), return_exceptions=True
    )
    rec.note(type(outcomes[0]).__name__)
    await play_all_calls(notes, peer, call)
    near.close()


@scenario
@pytest.mark.parametrize("call", [*CALLS, "connection_lost"])
async def test_protocol_that_raises(rec: Recorder, certs: Certs, call: str) -> None:
    rec.handler()
    notes = Notes(rec, "near")
    notes.raises = call
    near, far = sockets("unix")
    far.setblocking(False)
    peer = Peer(far, certs.server_context(), True)
    outcomes = await asyncio.gather(
        begin(rec, certs, notes, near, "client"), peer.handshake(), return_exceptions=True
    )
    rec.note(type(outcomes[0]).__name__, notes.calls)
    if isinstance(outcomes[0], tuple):
        await play_all_calls(notes, peer, call)
    near.close()
    far.close()


@scenario
async def test_factory_that_raises(rec: Recorder, certs: Certs) -> None:
    def factory() -> Any:
        raise Boom("factory")

    near, far = socket.socketpair()
    with rec.raises("connecting"):
        await rec.loop.create_connection(
            factory, sock=near, ssl=certs.client_context(), server_hostname=NAME
        )
    near.close()
    far.close()


# ---- streams ----


@scenario
@SIDES
async def test_streams(rec: Recorder, certs: Certs, side: str) -> None:
    served = asyncio.Event()

    async def serve(reader: Any, writer: Any) -> None:
        note = rec.party("server")
        note(await reader.readline())
        writer.write(b"answer\n")
        await writer.drain()
        if side == "client":
            note(await reader.read())
        writer.close()
        with rec.raises("closed", note):
            await writer.wait_closed()
        served.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=certs.server_context())
    reader, writer = await asyncio.open_connection(
        *server.sockets[0].getsockname(), ssl=certs.client_context(), server_hostname=NAME
    )
    writer.write(b"question\n")
    await writer.drain()
    rec.note(await reader.readline())
    if side == "server":
        rec.note(await reader.read())
    writer.close()
    with rec.raises("closed"):
        await writer.wait_closed()
    await served.wait()
    server.close()
    await server.wait_closed()


@scenario
async def test_streams_start_tls(rec: Recorder, certs: Certs) -> None:
    served = asyncio.Event()

    async def serve(reader: Any, writer: Any) -> None:
        note = rec.party("server")
        note(await reader.readline())
        writer.write(b"go\n")
        await writer.start_tls(certs.server_context())
        note(await reader.readline())
        writer.close()
        with rec.raises("closed", note):
            await writer.wait_closed()
        served.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"STARTTLS\n")
    rec.note(await reader.readline())
    await writer.start_tls(certs.client_context(), server_hostname=NAME)
    writer.write(b"secret\n")
    rec.note(await reader.read())
    writer.close()
    with rec.raises("closed"):
        await writer.wait_closed()
    await served.wait()
    server.close()
    await server.wait_closed()


# ---- what nobody closed ----


@scenario
async def test_forgotten(rec: Recorder, certs: Certs) -> None:
    """The loop holds a transport that nobody else does."""
    client, server = await pair(rec, certs)
    transport = client.transport
    rec.note(repr(transport))
    server.transport.abort()
    await both_lost(client, server)
    del transport
    gc.collect()
