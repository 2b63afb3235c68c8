"""OpenSSL called directly, and every reason not to: what is seen is the same."""

from __future__ import annotations

import asyncio
import ctypes
import ssl
import sys
import sysconfig
from typing import Any

import pytest
from netlib import LIMIT, Recorder, tcp_pair
from tlslib import NAME, Certs, Peer, arrived, link, only, pair

KNOWN = (3, 12) <= sys.version_info < (3, 16) and not sysconfig.get_config_var("Py_GIL_DISABLED")


def direct(transport: Any) -> bool:
    """Whether it is called directly; only transports of ours tell."""
    answer: bool = transport._ssl_protocol._direct
    return answer


def found() -> bool:
    import _ssl

    linked = getattr(_ssl, "__file__", None) is not None
    return KNOWN and linked and ssl.OPENSSL_VERSION.startswith("OpenSSL 3.")


async def exchange(ends: Any) -> None:
    for source, target in ((ends.client, ends.server), (ends.server, ends.client)):
        for size in (1, 1000, 16384, 16385, 100_000):
            before = len(target.data)
            source.transport.write(b"x" * size)
            async with asyncio.timeout(LIMIT):
                while len(target.data) < before + size:
                    await asyncio.sleep(0)
    await ends.close()


@pytest.mark.skipif(not found(), reason="OpenSSL is linked into this _ssl, or is none of 3")
@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_where_it_can_be_had(hotrun: Any, certs: Certs, version: str) -> None:
    async def main() -> None:
        context = only(certs.client_context(), version)
        ends = await pair(certs, client_context=context)
        assert direct(ends.client.transport)
        assert direct(ends.server.transport)
        await exchange(ends)

    hotrun(main())


def test_a_message_callback_sees_every_message(run: Any, certs: Certs) -> None:
    async def main() -> None:
        context = certs.client_context()
        seen: list[Any] = []
        # The silenced error: a name that stubs leave out.
        context._msg_callback = lambda *args: seen.append(args[0])  # type: ignore[attr-defined]
        ends = await pair(certs, client_context=context)
        count = len(seen)
        await exchange(ends)
        assert len(seen) > count

    run(main())


def test_a_module_that_is_hidden(run: Any, certs: Certs, monkeypatch: pytest.MonkeyPatch) -> None:
    """As test suites do to programs that can do without TLS."""

    async def main() -> None:
        with monkeypatch.context() as hidden:
            hidden.setitem(sys.modules, "_ssl", None)
            ends = await pair(certs)
        await exchange(ends)

    run(main())


class Keeping(ssl.SSLContext):
    """Looks at the traffic by way of the MemoryBIOs."""

    kept: Any = None

    def wrap_bio(self, incoming: Any, outgoing: Any, *args: Any, **kwargs: Any) -> Any:
        self.kept = incoming, outgoing
        return super().wrap_bio(incoming, outgoing, *args, **kwargs)


def test_memory_that_somebody_keeps(hotrun: Any, certs: Certs) -> None:
    async def main() -> None:
        context = certs.client_context(Keeping)
        ends = await pair(certs, client_context=context)
        assert not direct(ends.client.transport)
        await exchange(ends)

    hotrun(main())


# The last error in OpenSSL's queue: of 3.0, and of later ones.
BAD_RECORD = (("SSL", "DECRYPTION_FAILED_OR_BAD_RECORD_MAC"), ("SSL", "RECORD_LAYER_FAILURE"))


@pytest.mark.parametrize("good", [0, 1, 3])
@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_the_error_of_a_bad_record(run: Any, certs: Certs, version: str, good: int) -> None:
    """The text is OpenSSL's, but for the line of _ssl.c; the data before it is lost with it."""

    async def main() -> None:
        errors: list[Any] = []

        class Keep(Recorder):
            def connection_lost(self, exc: Any) -> None:
                errors.append(exc)
                super().connection_lost(exc)

        one = await link(certs, Keep())
        for _ in range(good):
            one.peer.tls.write(b"fine")
        good_bytes = one.peer.outgoing.read()
        one.peer.tls.write(b"will not arrive")
        bad = bytearray(one.peer.outgoing.read())
        bad[-1] ^= 1
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(one.peer.sock, good_bytes + bad)
        await one.lost()
        (error,) = errors
        assert type(error) is ssl.SSLError
        assert (error.library, error.reason) in BAD_RECORD
        text = error.reason.lower().replace("_", " ")
        assert str(error).startswith(f"[SSL: {error.reason}] {text} (_ssl.c:")
        one.peer.sock.close()

    run(main())


def test_the_error_of_an_alert(run: Any, certs: Certs) -> None:
    """The peer says that it does not understand us."""

    async def main() -> None:
        errors: list[Any] = []

        class Keep(Recorder):
            def connection_lost(self, exc: Any) -> None:
                errors.append(exc)
                super().connection_lost(exc)

        one = await link(certs, Keep())
        one.peer.incoming.write(b"\x17\x03\x03\x00\x20" + bytes(32))
        with pytest.raises(ssl.SSLError):
            one.peer.tls.read(10)
        await one.peer.flush()
        await one.lost()
        (error,) = errors
        assert type(error) is ssl.SSLError
        assert "ALERT" in error.reason
        assert str(error).startswith(f"[SSL: {error.reason}] ")
        one.peer.sock.close()

    run(main())


def test_close_notify_and_bytes_after_it(run: Any, certs: Certs) -> None:
    async def main() -> None:
        one = await link(certs)
        one.peer.tls.write(b"last words")
        with pytest.raises(ssl.SSLWantReadError):
            one.peer.tls.unwrap()
        data = one.peer.outgoing.read() + b"\x17\x03\x03\x00\x20" + bytes(32)
        await asyncio.get_running_loop().sock_sendall(one.peer.sock, data)
        await one.lost()
        assert one.protocol.data == b"last words"
        one.peer.sock.close()

    run(main())


def test_ssl_object_reads_what_a_paused_transport_keeps(run: Any, certs: Certs) -> None:
    async def main() -> None:
        one = await link(certs)
        await one.peer.write(b"one")
        await one.protocol.until("data")
        one.transport.pause_reading()
        await one.peer.write(b"two")
        await arrived(one.transport)
        assert one.transport.get_extra_info("ssl_object").read(100) == b"two"
        one.transport.resume_reading()
        await one.peer.write(b"three")
        while one.protocol.data != b"onethree":
            await asyncio.sleep(0)
        await one.finish()

    run(main())


def test_ssl_object_writes_between(run: Any, certs: Certs) -> None:
    """What is written past the transport leaves with its next write, and before it."""

    async def main() -> None:
        one = await link(certs)
        assert one.transport.get_extra_info("ssl_object").write(b"past ") == 5
        one.transport.write(b"through")
        assert await one.peer.read(12) == b"past through"
        await one.finish()

    run(main())


def test_records_in_pieces(run: Any, certs: Certs) -> None:
    """Every way to cut three records in two."""

    async def main() -> None:
        one = await link(certs)
        loop = asyncio.get_running_loop()
        sent = b""
        for cut in range(1, 120, 7):
            for text in (b"first", b"the second", b"3"):
                one.peer.tls.write(text)
                sent += text
            data = one.peer.outgoing.read()
            await loop.sock_sendall(one.peer.sock, data[:cut])
            for _ in range(3):
                await asyncio.sleep(0)
            await loop.sock_sendall(one.peer.sock, data[cut:])
            async with asyncio.timeout(LIMIT):
                while len(one.protocol.data) < len(sent):
                    await asyncio.sleep(0)
        assert one.protocol.data == sent
        await one.finish()

    run(main())


class Inner(ctypes.Structure):
    """What csrc/py/compat.c takes an _ssl._SSLSocket to begin with."""

    _fields_ = (
        ("refs", ctypes.c_ssize_t),
        *((name, ctypes.c_void_p) for name in ("type", "socket", "ssl", "context")),
    )


def openssl(name: str, sslobj: Any, *args: int) -> None:
    """Calls one of OpenSSL's functions that Python does not have."""
    import _ssl

    function = getattr(ctypes.CDLL(_ssl.__file__), name)
    pointer = ctypes.c_void_p(Inner.from_address(id(sslobj._sslobj)).ssl)
    assert function(pointer, *args) == 1


async def both_ways(transport: Any, protocol: Any, peer: Peer) -> None:
    """Small and large writes, and what they look like at the other end."""
    for size in (5, 70_000):
        transport.write(b"x" * size)
        assert await peer.read(size) == b"x" * size
        before = len(protocol.data)
        await peer.write(b"y" * size)
        async with asyncio.timeout(LIMIT):
            while len(protocol.data) < before + size:
                await asyncio.sleep(0)


@pytest.mark.skipif(not found(), reason="OpenSSL is linked into this _ssl, or is none of 3")
@pytest.mark.parametrize("answer", [0, 1], ids=["one-way", "requested"])
def test_new_keys_in_between(run: Any, certs: Certs, answer: int) -> None:
    """What OpenSSL sends by itself while it reads, or before it writes, leaves in its order."""

    async def main() -> None:
        one = await link(certs)
        ours = one.transport.get_extra_info("ssl_object")
        for sslobj in (one.peer.tls, ours, one.peer.tls, ours):
            openssl("SSL_key_update", sslobj, answer)
            await both_ways(one.transport, one.protocol, one.peer)
        await one.finish()

    run(main())


@pytest.mark.skipif(not found(), reason="OpenSSL is linked into this _ssl, or is none of 3")
@pytest.mark.parametrize("by_us", [False, True], ids=["by-peer", "by-us"])
@pytest.mark.parametrize("server_side", [False, True], ids=["client", "server"])
def test_another_handshake(run: Any, certs: Certs, by_us: bool, server_side: bool) -> None:
    """TLS 1.2 may begin anew at any time, and writes have to wait meanwhile."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        contexts = only(certs.client_context(), "1.2"), only(certs.server_context(), "1.2")
        for context in contexts:
            context.options &= ~ssl.OP_NO_RENEGOTIATION
            context.options |= 1 << 8  # SSL_OP_ALLOW_CLIENT_RENEGOTIATION
        protocol = Recorder()
        near, far = tcp_pair()
        peer = Peer(far, contexts[not server_side], not server_side)
        making: Any
        if server_side:
            making = loop.connect_accepted_socket(lambda: protocol, near, ssl=contexts[1])
        else:
            making = loop.create_connection(
                lambda: protocol, sock=near, ssl=contexts[0], server_hostname=NAME
            )
        (transport, _), _ = await asyncio.gather(making, peer.handshake())
        for _ in range(2):
            sslobj = transport.get_extra_info("ssl_object") if by_us else peer.tls
            openssl("SSL_renegotiate", sslobj)
            await both_ways(transport, protocol, peer)
        transport.abort()
        await protocol.until("lost")
        far.close()

    run(main())


LOST_OF = {"abort": "NoneType", "close": "SSLError", "raise": "SSLError"}


@pytest.mark.skipif(not found(), reason="OpenSSL is linked into this _ssl, or is none of 3")
@pytest.mark.parametrize("what", ["write", "abort", "close", "raise"])
def test_a_callback_in_the_middle_of_a_read(
    run: Any, certs: Certs, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The server's callback for names runs while OpenSSL reads from memory that is lent."""

    async def main() -> None:
        contexts = only(certs.client_context(), "1.2"), only(certs.server_context(), "1.2")
        for context in contexts:
            context.options &= ~ssl.OP_NO_RENEGOTIATION
            context.options |= 1 << 8  # SSL_OP_ALLOW_CLIENT_RENEGOTIATION
        ends: Any = None

        def named(*_args: Any) -> None:
            if ends is None:
                return
            if what == "raise":
                raise ZeroDivisionError
            if what == "write":
                ends.server.transport.write(b"of the same connection")
                ends.client.transport.write(b"of another")
            else:
                getattr(ends.server.transport, what)()

        contexts[1].sni_callback = named
        ends = await pair(certs, client_context=contexts[0], server_context=contexts[1])
        openssl("SSL_renegotiate", ends.client.transport.get_extra_info("ssl_object"))
        ends.client.transport.write(b"begin")
        if what == "write":
            async with asyncio.timeout(LIMIT):
                while ends.client.data != b"of the same connection" or len(ends.server.data) < 15:
                    await asyncio.sleep(0)
            assert sorted(ends.server.data) == sorted(b"begin" + b"of another")
            await ends.abort()
        else:
            await ends.server.until("lost")
            assert ends.server.events[-1] == ("lost", LOST_OF[what])
            await ends.client.until("lost")

    told: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: told.append(args.exc_type))
    run(main())
    assert told == ([ZeroDivisionError] if what == "raise" else [])


class Empty(asyncio.BufferedProtocol):
    """Offers no room, the first time."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.lost = asyncio.Event()
        self.room = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.seen.append("made")

    def get_buffer(self, sizehint: int) -> bytearray:
        room, self.room = self.room, 100
        return bytearray(room)

    def buffer_updated(self, nbytes: int) -> None:
        self.seen.append(nbytes)

    def eof_received(self) -> None:
        self.seen.append("eof")

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()


def test_a_buffer_without_room_is_the_end(run: Any, certs: Certs) -> None:
    """asyncio asks for one as soon as the handshake is over, and takes 0 bytes for an end."""

    async def main() -> None:
        one = await link(certs, Empty())
        for _ in range(4):
            await asyncio.sleep(0)
        assert one.protocol.seen == ["made", "eof"]
        one.transport.abort()
        async with asyncio.timeout(LIMIT):
            await one.protocol.lost.wait()
        one.peer.sock.close()

    run(main())


def test_a_stranger_writes_below(run: Any, certs: Certs) -> None:
    """A write() put into the transport below gets the ciphertext of every write."""

    async def main() -> None:
        one = await link(certs)
        below = one.transport._ssl_protocol._transport
        if not hasattr(below, "__dict__"):
            pytest.skip("this transport has no room for it")
        original, taken = below.write, []

        def write(data: Any) -> None:
            taken.append(bytes(data))
            original(data)

        below.write = write
        one.transport.write(b"hello")
        assert await one.peer.read(5) == b"hello"
        assert len(taken) == 1
        del below.write
        await one.finish()

    run(main())
