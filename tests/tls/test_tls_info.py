"""What a TLS transport tells about itself, and what may be set on it."""

from __future__ import annotations

import asyncio
import gc
import re
import ssl
import weakref
from typing import Any

import pytest
from netlib import Recorder
from tlslib import NAME, Certs, Echo, only, pair, started


def on_both(run: Any, certs: Certs, check: Any, **how: Any) -> None:
    """Calls check(transport) for a client's and a server's transport."""

    async def main() -> None:
        ends = await pair(certs, **how)
        for end in (ends.client, ends.server):
            check(end.transport)
        await ends.close()

    run(main())


def test_name_of_the_class(run: Any, certs: Certs) -> None:
    """How programs tell TLS from plain, CPython's own tests among them."""
    on_both(run, certs, lambda transport: type(transport).__name__.lower().index("ssl"))


def test_whether_reading_is_paused_by_private_name(run: Any, certs: Certs) -> None:
    """CPython's tests of contexts ask for it so."""

    def check(transport: Any) -> None:
        for paused in (True, False):
            (transport.pause_reading if paused else transport.resume_reading)()
            assert transport._ssl_protocol._app_reading_paused is paused
            assert transport._ssl_protocol._app_writing_paused is False

    on_both(run, certs, check)


def test_ssl_object(run: Any, certs: Certs) -> None:
    def check(transport: Any) -> None:
        tls = transport.get_extra_info("ssl_object")
        assert isinstance(tls, ssl.SSLObject)
        assert tls is transport.get_extra_info("ssl_object")
        assert tls.version() == "TLSv1.3"

    on_both(run, certs, check)


def test_ssl_object_sides(run: Any, certs: Certs) -> None:
    async def main() -> None:
        ends = await pair(certs)
        assert not ends.client.transport.get_extra_info("ssl_object").server_side
        assert ends.server.transport.get_extra_info("ssl_object").server_side
        assert ends.client.transport.get_extra_info("ssl_object").server_hostname == NAME
        await ends.close()

    run(main())


def test_sslcontext(run: Any, certs: Certs) -> None:
    async def main() -> None:
        client, server = certs.client_context(), certs.server_context()
        ends = await pair(certs, client_context=client, server_context=server)
        assert ends.client.transport.get_extra_info("sslcontext") is client
        assert ends.server.transport.get_extra_info("sslcontext") is server
        await ends.close()

    run(main())


def test_peercert(run: Any, certs: Certs) -> None:
    async def main() -> None:
        ends = await pair(certs)
        peercert = ends.client.transport.get_extra_info("peercert")
        tls = ends.client.transport.get_extra_info("ssl_object")
        assert peercert == tls.getpeercert()
        assert ("DNS", NAME) in peercert["subjectAltName"]
        assert ends.server.transport.get_extra_info("peercert") is None
        assert ends.server.transport.get_extra_info("peercert", "default") is None
        await ends.close()

    run(main())


def test_cipher(run: Any, certs: Certs) -> None:
    def check(transport: Any) -> None:
        name, version, bits = transport.get_extra_info("cipher")
        assert (name, version, bits) == transport.get_extra_info("ssl_object").cipher()
        assert version == "TLSv1.2"
        assert bits >= 128

    on_both(run, certs, check, server_context=only(certs.server_context(), "1.2"))


def test_compression(run: Any, certs: Certs) -> None:
    def check(transport: Any) -> None:
        assert transport.get_extra_info("compression", "default") is None

    on_both(run, certs, check)


def test_socket_and_names(run: Any, certs: Certs) -> None:
    async def main() -> None:
        server_ends: list[Echo] = []

        def make() -> Echo:
            server_ends.append(Echo())
            return server_ends[-1]

        server, port = await started(certs, make)
        async with server:
            loop = asyncio.get_running_loop()
            client = Recorder()
            t, _ = await loop.create_connection(
                lambda: client, "127.0.0.1", port, ssl=certs.client_context()
            )
            await server_ends[0].until("made")
            u = server_ends[0].transport
            sock = t.get_extra_info("socket")
            assert isinstance(sock, asyncio.trsock.TransportSocket)
            assert t.get_extra_info("peername") == ("127.0.0.1", port)
            assert t.get_extra_info("sockname") == sock.getsockname()
            assert u.get_extra_info("peername") == sock.getsockname()
            assert u.get_extra_info("sockname") == ("127.0.0.1", port)
            t.close()
            await client.until("lost")

    run(main())


def test_names_in_connection_made(run: Any, certs: Certs) -> None:
    keys = ("ssl_object", "sslcontext", "cipher", "socket", "sockname", "peername")

    class Asking(Recorder):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.found = [transport.get_extra_info(key) is not None for key in keys]

    async def main() -> None:
        ends = await pair(certs, Asking(), Asking())
        assert ends.client.found == ends.server.found == [True] * len(keys)
        await ends.close()

    run(main())


def test_unknown_key(run: Any, certs: Certs) -> None:
    def check(transport: Any) -> None:
        marker = object()
        assert transport.get_extra_info("nonsense") is None
        assert transport.get_extra_info("nonsense", marker) is marker
        assert transport.get_extra_info("nonsense", default=marker) is marker
        assert transport.get_extra_info(name="nonsense", default=3) == 3

    on_both(run, certs, check)


def test_after_connection_lost(run: Any, certs: Certs) -> None:
    async def main() -> None:
        ends = await pair(certs)
        t = ends.client.transport
        await ends.abort()
        assert isinstance(t.get_extra_info("ssl_object"), ssl.SSLObject)
        assert t.get_extra_info("cipher") is not None
        marker = object()
        assert t.get_extra_info("socket", marker) is marker
        assert t.get_extra_info("peername", marker) is marker

    run(main())


def test_is_a_transport(run: Any, certs: Certs) -> None:
    def check(transport: Any) -> None:
        assert isinstance(transport, asyncio.Transport)
        assert isinstance(transport, asyncio.ReadTransport)
        assert isinstance(transport, asyncio.WriteTransport)
        assert transport._start_tls_compatible
        assert not transport.is_closing()
        assert transport.is_reading()

    on_both(run, certs, check)


def test_weak_reference(run: Any, certs: Certs) -> None:
    def check(transport: Any) -> None:
        assert weakref.ref(transport)() is transport

    on_both(run, certs, check)


def test_hash_and_equality(run: Any, certs: Certs) -> None:
    def check(transport: Any) -> None:
        assert {transport: 1}[transport] == 1
        assert transport == transport
        assert transport != object()

    on_both(run, certs, check)


def test_attributes_may_be_set(run: Any, certs: Certs) -> None:
    async def main() -> None:
        ends = await pair(certs)
        t = ends.client.transport
        t.mine = 5
        assert t.mine == 5
        written: list[bytes] = []
        t.write = written.append
        t.write(b"kept")
        assert written == [b"kept"]
        del t.write
        t.write(b"sent")
        assert await ends.server.until_data(4) == b"sent"
        await ends.close()

    run(main())


def test_write_set_on_the_transport_is_used_by_streams(run: Any, certs: Certs) -> None:
    async def main() -> None:
        server, port = await started(certs, Echo)
        async with server:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=certs.client_context()
            )
            plain = writer.transport.write
            writer.transport.write = lambda data: plain(data.upper())
            writer.write(b"small")
            assert await reader.readexactly(5) == b"SMALL"
            writer.close()
            await writer.wait_closed()

    run(main())


def test_repr_names_it(run: Any, certs: Certs) -> None:
    def check(transport: Any) -> None:
        assert re.match(r"<.*Transport.*>$", repr(transport))

    on_both(run, certs, check)


def test_repr_of_a_closed_one(run: Any, certs: Certs) -> None:
    async def main() -> None:
        ends = await pair(certs)
        t = ends.client.transport
        t.close()
        assert "Transport" in repr(t)
        await ends.close()
        assert "Transport" in repr(t)

    run(main())


def test_protocol(run: Any, certs: Certs) -> None:
    async def main() -> None:
        ends = await pair(certs)
        t = ends.client.transport
        assert t.get_protocol() is ends.client
        other = Recorder()
        t.set_protocol(other)
        assert t.get_protocol() is other
        ends.server.transport.write(b"new")
        assert await other.until_data(3) == b"new"
        t.set_protocol(ends.client)
        await ends.close()
        assert other.events == ["data"]

    run(main())


def test_same_transport_everywhere(run: Any, certs: Certs) -> None:
    async def main() -> None:
        class Once(Recorder):
            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                self.first = transport

        ends = await pair(certs, Once(), Once())
        assert ends.client.first is ends.client.transport
        assert ends.server.first is ends.server.transport
        await ends.close()

    run(main())


def test_no_eof_can_be_written(run: Any, certs: Certs) -> None:
    def check(transport: Any) -> None:
        assert transport.can_write_eof() is False
        with pytest.raises(NotImplementedError):
            transport.write_eof()

    on_both(run, certs, check)


def test_write_buffer_limits(run: Any, certs: Certs) -> None:
    def check(transport: Any) -> None:
        assert transport.get_write_buffer_limits() == (128 * 1024, 512 * 1024)
        assert transport.get_write_buffer_size() == 0
        transport.set_write_buffer_limits(high=1000)
        assert transport.get_write_buffer_limits() == (250, 1000)
        transport.set_write_buffer_limits(low=1000)
        assert transport.get_write_buffer_limits() == (1000, 4000)
        transport.set_write_buffer_limits(7, 3)
        assert transport.get_write_buffer_limits() == (3, 7)
        transport.set_write_buffer_limits()
        assert transport.get_write_buffer_limits() == (128 * 1024, 512 * 1024)

    on_both(run, certs, check)


def test_read_buffer_limits(run: Any, certs: Certs) -> None:
    def check(transport: Any) -> None:
        assert transport.get_read_buffer_limits() == (64 * 1024, 256 * 1024)
        assert transport.get_read_buffer_size() == 0
        transport.set_read_buffer_limits(high=1000)
        assert transport.get_read_buffer_limits() == (250, 1000)
        transport.set_read_buffer_limits(low=10)
        assert transport.get_read_buffer_limits() == (10, 40)

    on_both(run, certs, check)


@pytest.mark.parametrize("limits", [(1, 2), (-1, None), (None, -1), (3, 4)])
@pytest.mark.parametrize("which", ["read", "write"])
def test_bad_limits(run: Any, certs: Certs, which: str, limits: Any) -> None:
    def check(transport: Any) -> None:
        with pytest.raises(ValueError, match="must be >= low"):
            getattr(transport, f"set_{which}_buffer_limits")(*limits)

    on_both(run, certs, check)


@pytest.mark.parametrize("data", ["text", 5, None, [b"x"]])
def test_write_of_a_wrong_type(run: Any, certs: Certs, data: Any) -> None:
    text = f"^data: expecting a bytes-like instance, got {type(data).__name__}$"

    def check(transport: Any) -> None:
        with pytest.raises(TypeError, match=text):
            transport.write(data)

    on_both(run, certs, check)


def test_private_sslcontext(run: Any, certs: Certs) -> None:
    """Libraries ask for `_sslcontext` with a default: asyncio's TLS transports have none."""

    def check(transport: Any) -> None:
        found = getattr(transport, "_sslcontext", None)
        assert found in (None, transport.get_extra_info("sslcontext"))

    on_both(run, certs, check)


def test_freed_once_closed(run: Any, certs: Certs) -> None:
    async def main() -> None:
        ends = await pair(certs)
        await ends.abort()
        t = weakref.ref(ends.client.transport)
        del ends
        gc.collect()
        assert t() is None

    run(main())
