"""TLS by every kind of ssl.SSLContext: versions, subclasses, SNI, ALPN, certificates, sessions."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
from typing import Any

import pytest
from netlib import Recorder, tcp_pair
from tlslib import NAME, Certs, Echo, failing_pair, greet, only, pair, started


async def exchange(ends: Any) -> None:
    """A word each way, then both close."""
    ends.client.transport.write(b"from the client")
    ends.server.transport.write(b"from the server")
    assert await ends.server.until_data(15) == b"from the client"
    assert await ends.client.until_data(15) == b"from the server"
    await ends.close()


def test_protocols(run: Any, certs: Certs) -> None:
    async def main() -> None:
        ends = await pair(certs)
        await exchange(ends)
        # Who closes is told too that the peer's close_notify came.
        for end in (ends.client, ends.server):
            assert end.events == ["made", "data", "eof", ("lost", "NoneType")]

    run(main())


def test_server(run: Any, certs: Certs) -> None:
    async def main() -> None:
        server, port = await started(certs, Echo)
        async with server:
            for _ in range(3):
                await greet(certs, port)

    run(main())


def test_streams(run: Any, certs: Certs) -> None:
    async def serve(reader: Any, writer: Any) -> None:
        writer.write((await reader.readline()).upper())
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        done.set()

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=certs.server_context())
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=certs.client_context(), server_hostname=NAME
        )
        writer.write(b"loud\n")
        assert await reader.read() == b"LOUD\n"
        writer.close()
        await writer.wait_closed()
        await done.wait()
        server.close()
        await server.wait_closed()

    done = asyncio.Event()
    run(main())


def test_hostname_is_the_host_by_default(run: Any, certs: Certs) -> None:
    async def main() -> None:
        server, port = await started(certs, Echo)
        async with server:
            client = Recorder()
            context = certs.client_context()
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_connection(
                lambda: client, "127.0.0.1", port, ssl=context
            )
            assert transport.get_extra_info("ssl_object").server_hostname == "127.0.0.1"
            transport.close()
            await client.until("lost")

    run(main())


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_version(run: Any, certs: Certs, version: str) -> None:
    async def main() -> None:
        ends = await pair(certs, server_context=only(certs.server_context(), version))
        for end in (ends.client, ends.server):
            assert end.transport.get_extra_info("ssl_object").version() == f"TLSv{version}"
        await exchange(ends)

    run(main())


def test_default_contexts(run: Any, certs: Certs) -> None:
    async def main() -> None:
        client = ssl.create_default_context(cafile=certs.ca)
        server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        server.load_cert_chain(certs.server)
        await exchange(await pair(certs, client_context=client, server_context=server))

    run(main())


def test_ssl_true_is_the_default_context(run: Any, certs: Certs, monkeypatch: Any) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", certs.ca)

    async def main() -> None:
        server, port = await started(certs, Echo)
        async with server:
            client = Recorder()
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_connection(
                lambda: client, "127.0.0.1", port, ssl=True, server_hostname=NAME
            )
            context = transport.get_extra_info("sslcontext")
            assert context.verify_mode == ssl.CERT_REQUIRED
            assert context.check_hostname
            transport.close()
            await client.until("lost")

    run(main())


def test_ssl_true_without_a_name_checks_no_name(run: Any, certs: Certs, monkeypatch: Any) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", certs.ca)

    async def main() -> None:
        ends = await pair(certs, client_context=True, name="")
        context = ends.client.transport.get_extra_info("sslcontext")
        assert not context.check_hostname
        assert ends.client.transport.get_extra_info("ssl_object").server_hostname is None
        await exchange(ends)

    run(main())


def test_ssl_true_on_the_accepting_side(run: Any) -> None:
    async def main() -> None:
        near, far = tcp_pair()
        with near, far:
            loop = asyncio.get_running_loop()
            with pytest.raises(ValueError, match="Server side SSL needs a valid SSLContext"):
                await loop.connect_accepted_socket(Recorder, near, ssl=True)

    run(main())


def test_server_refuses_true(run: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(TypeError, match="ssl argument must be an SSLContext or None"):
            await loop.create_server(Recorder, "127.0.0.1", 0, ssl=True)

    run(main())


def test_check_hostname_off(run: Any, certs: Certs) -> None:
    async def main() -> None:
        context = certs.client_context()
        context.check_hostname = False
        await exchange(await pair(certs, client_context=context, name="who.example"))

    run(main())


def test_verify_none(run: Any, certs: Certs) -> None:
    async def main() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        ends = await pair(certs, client_context=context)
        assert ends.client.transport.get_extra_info("peercert") == {}
        await exchange(ends)

    run(main())


def test_context_made_before_hotloop_was_imported(loop_kind: str, certs: Certs) -> None:
    program = f"""
import asyncio, ssl
client = ssl.create_default_context(cafile={certs.ca!r})
server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
server.load_cert_chain({certs.server!r})
kind = {loop_kind!r}
if kind == "asyncio":
    make = asyncio.SelectorEventLoop
else:
    import hotloop
    make = lambda: hotloop.new_event_loop(backend=kind.removeprefix("hotloop-"))

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

with asyncio.Runner(loop_factory=make) as runner:
    runner.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert (done.stdout, done.stderr) == (b"b'ping'\n", b"")


class NotedContext(ssl.SSLContext):
    """Overrides wrap_bio(), which is how a loop is to get its SSLObject."""

    wraps: list[Any]

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        made = super().wrap_bio(*args, **kwargs)
        self.wraps = [*getattr(self, "wraps", []), made]
        return made


def test_subclass_of_context(run: Any, certs: Certs) -> None:
    async def main() -> None:
        client = certs.client_context(NotedContext)
        server = certs.server_context(cls=NotedContext)
        ends = await pair(certs, client_context=client, server_context=server)
        for context, end in ((client, ends.client), (server, ends.server)):
            assert context.wraps == [end.transport.get_extra_info("ssl_object")]
            context.wraps.clear()  # a cycle through objects of _ssl, which the collector cannot see
        await exchange(ends)

    run(main())


class NotedObject(ssl.SSLObject):
    """Overrides the methods by which data flows."""

    calls: list[str] = []

    def do_handshake(self) -> None:
        self.calls.append("do_handshake")
        super().do_handshake()

    def read(self, *args: Any) -> Any:
        self.calls.append("read")
        return super().read(*args)

    def write(self, data: Any) -> int:
        self.calls.append("write")
        return super().write(data)

    def unwrap(self) -> Any:
        self.calls.append("unwrap")
        return super().unwrap()


def test_overridden_methods_of_sslobject_are_called(run: Any, certs: Certs) -> None:
    async def main() -> None:
        context = certs.client_context()
        context.sslobject_class = NotedObject
        NotedObject.calls = []
        ends = await pair(certs, client_context=context)
        assert type(ends.client.transport.get_extra_info("ssl_object")) is NotedObject
        await exchange(ends)
        assert set(NotedObject.calls) == {"do_handshake", "read", "write", "unwrap"}

    run(main())


class UpperObject(ssl.SSLObject):
    """What is read is not what was sent; no more than seven bytes are taken at a time."""

    def read(self, len: int = 1024, buffer: Any = None) -> Any:
        if buffer is not None:
            return super().read(len, buffer)
        return super().read(len).upper()

    def write(self, data: Any) -> int:
        return super().write(memoryview(data)[:7])


def test_overridden_read_and_short_write(run: Any, certs: Certs) -> None:
    async def main() -> None:
        context = certs.client_context()
        context.sslobject_class = UpperObject
        ends = await pair(certs, client_context=context)
        ends.client.transport.write(b"a sentence of more than seven")
        assert await ends.server.until_data(29) == b"a sentence of more than seven"
        ends.server.transport.write(b"quiet")
        assert await ends.client.until_data(5) == b"QUIET"
        await ends.close()

    run(main())


class FailingObject(ssl.SSLObject):
    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except ssl.SSLWantReadError:
            if self.server_hostname is None:
                raise
            self.context.steps += 1  # type: ignore[attr-defined]
            if self.context.steps == 2:  # type: ignore[attr-defined]
                raise ValueError("not a TLS error") from None
            raise


class SteppingContext(ssl.SSLContext):
    steps = 0


def test_handshake_method_raising_no_tls_error(run: Any, handled: Any, certs: Certs) -> None:
    async def main() -> None:
        context = only(certs.client_context(SteppingContext), "1.2")
        context.sslobject_class = FailingObject
        client, server, ends = await failing_pair(certs, client_context=context)
        assert isinstance(client, ValueError)
        assert isinstance(server, ConnectionResetError)
        assert ends.client.events == ends.server.events == []

    run(main())
    assert [type(one["exception"]) for one in handled] == [ValueError]
    assert handled[0]["message"] == "Fatal error: protocol.buffer_updated() call failed."


# ---- SNI, ALPN ----


def test_sni_callback(run: Any, certs: Certs) -> None:
    seen = []

    async def main() -> None:
        context = certs.server_context()
        context.sni_callback = lambda obj, name, ctx: seen.append((type(obj), name, ctx))
        ends = await pair(certs, server_context=context, name="one.example")
        assert seen == [(ssl.SSLObject, "one.example", context)]
        await exchange(ends)

    run(main())


def test_sni_callback_switches_the_context(run: Any, certs: Certs) -> None:
    async def main() -> None:
        other = certs.server_context(certs.other)

        def choose(obj: Any, name: Any, context: Any) -> None:
            if name == "two.example":
                obj.context = other

        context = certs.server_context()
        context.sni_callback = choose
        ends = await pair(certs, server_context=context, name="two.example")
        names = ends.client.transport.get_extra_info("peercert")["subjectAltName"]
        assert names == (("DNS", "two.example"),)
        assert ends.server.transport.get_extra_info("ssl_object").context is other
        assert ends.server.transport.get_extra_info("sslcontext") is context
        await exchange(ends)

    run(main())


def test_sni_callback_refuses(run: Any, handled: Any, certs: Certs) -> None:
    async def main() -> None:
        context = certs.server_context()
        context.sni_callback = lambda *args: ssl.ALERT_DESCRIPTION_ACCESS_DENIED
        client, server, ends = await failing_pair(certs, server_context=context)
        assert server.reason == "CALLBACK_FAILED"
        assert isinstance(client, ConnectionResetError)  # asyncio sends no alert
        assert ends.client.events == ends.server.events == []

    run(main())
    assert handled == []


def test_sni_callback_raises(run: Any, handled: Any, certs: Certs, monkeypatch: Any) -> None:
    unraisable: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: unraisable.append(what.exc_type))

    async def main() -> None:
        def choose(*args: Any) -> None:
            raise LookupError("no such name")

        context = certs.server_context()
        context.sni_callback = choose
        client, server, _ = await failing_pair(certs, server_context=context)
        assert server.reason == "CALLBACK_FAILED"
        assert isinstance(client, ConnectionResetError)

    run(main())
    assert unraisable == [LookupError]
    assert handled == []


def test_alpn(run: Any, certs: Certs) -> None:
    async def main() -> None:
        client, server = certs.client_context(), certs.server_context()
        client.set_alpn_protocols(["h2", "http/1.1"])
        server.set_alpn_protocols(["http/1.1"])
        ends = await pair(certs, client_context=client, server_context=server)
        for end in (ends.client, ends.server):
            tls = end.transport.get_extra_info("ssl_object")
            assert tls.selected_alpn_protocol() == "http/1.1"
        await exchange(ends)

    run(main())


def test_no_alpn(run: Any, certs: Certs) -> None:
    async def main() -> None:
        ends = await pair(certs)
        tls = ends.client.transport.get_extra_info("ssl_object")
        assert tls.selected_alpn_protocol() is None
        await exchange(ends)

    run(main())


# ---- certificates ----


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_client_certificate(run: Any, certs: Certs, version: str) -> None:
    async def main() -> None:
        server = only(certs.server_context(), version)
        server.verify_mode = ssl.CERT_REQUIRED
        server.load_verify_locations(certs.ca)
        client = certs.client_context(cert=certs.client)
        ends = await pair(certs, client_context=client, server_context=server)
        peercert = ends.server.transport.get_extra_info("peercert")
        assert peercert["subjectAltName"] == (("email", "client@one.example"),)
        await exchange(ends)

    run(main())


def test_optional_client_certificate_not_given(run: Any, certs: Certs) -> None:
    async def main() -> None:
        server = certs.server_context()
        server.verify_mode = ssl.CERT_OPTIONAL
        server.load_verify_locations(certs.ca)
        ends = await pair(certs, server_context=server)
        assert ends.server.transport.get_extra_info("peercert") is None
        await exchange(ends)

    run(main())


def test_missing_client_certificate_in_tls12(run: Any, handled: Any, certs: Certs) -> None:
    async def main() -> None:
        server = only(certs.server_context(), "1.2")
        server.verify_mode = ssl.CERT_REQUIRED
        server.load_verify_locations(certs.ca)
        client_error, server_error, ends = await failing_pair(certs, server_context=server)
        assert server_error.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE"
        assert isinstance(client_error, ConnectionResetError)
        assert ends.client.events == ends.server.events == []

    run(main())
    assert handled == []


def test_missing_client_certificate_in_tls13(run: Any, handled: Any, certs: Certs) -> None:
    # The client is done before the server looks: it is connected for a moment.
    async def main() -> None:
        server = only(certs.server_context(), "1.3")
        server.verify_mode = ssl.CERT_REQUIRED
        server.load_verify_locations(certs.ca)
        client = Recorder()
        near, far = tcp_pair()
        loop = asyncio.get_running_loop()
        results = await asyncio.gather(
            loop.create_connection(
                lambda: client, sock=near, ssl=certs.client_context(), server_hostname=NAME
            ),
            loop.connect_accepted_socket(Recorder, far, ssl=server),
            return_exceptions=True,
        )
        assert results[0][1] is client
        assert results[1].reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE"  # type: ignore[union-attr]
        await client.until("lost")
        assert client.events == ["made", "eof", ("lost", "NoneType")]
        far.close()

    run(main())
    assert handled == []


@pytest.mark.parametrize("authority", [False, True])
def test_self_signed_leaf_by_cafile(run: Any, certs: Certs, authority: bool) -> None:
    async def main() -> None:
        chain = certs.self_signed(authority)
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.load_verify_locations(cafile=chain)
        server = certs.server_context(chain)
        await exchange(await pair(certs, client_context=client, server_context=server))

    run(main())


# ---- sessions ----


class Resuming(ssl.SSLContext):
    """Offers the session that is set."""

    offered: ssl.SSLSession | None = None

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        made = super().wrap_bio(*args, **kwargs)
        if self.offered is not None:
            made.session = self.offered
        return made


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_session_is_reused(run: Any, certs: Certs, version: str) -> None:
    async def main() -> None:
        client = only(certs.client_context(Resuming), version)
        server = certs.server_context()
        for reused in (False, True):
            ends = await pair(certs, client_context=client, server_context=server)
            tls = ends.client.transport.get_extra_info("ssl_object")
            assert tls.session_reused is reused
            ends.server.transport.write(b"word")  # tickets of TLS 1.3 came before it
            await ends.client.until_data(4)
            client.offered = tls.session  # type: ignore[attr-defined]
            await ends.close()

    run(main())


# ---- arguments ----


@pytest.mark.parametrize("name", ["ssl_handshake_timeout", "ssl_shutdown_timeout"])
@pytest.mark.parametrize("value", [0, -1, -0.5])
def test_timeout_not_positive(run: Any, certs: Certs, name: str, value: float) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        text = f"^{name} should be a positive number, got {value}$"
        near, far = tcp_pair()
        with near, far:
            with pytest.raises(ValueError, match=text):
                await loop.create_connection(
                    Recorder,
                    sock=near,
                    ssl=certs.client_context(),
                    server_hostname=NAME,
                    **{name: value},
                )
            with pytest.raises(ValueError, match=text):
                await loop.connect_accepted_socket(
                    Recorder, far, ssl=certs.server_context(), **{name: value}
                )

    run(main())


@pytest.mark.parametrize("name", ["ssl_handshake_timeout", "ssl_shutdown_timeout"])
def test_timeout_without_ssl(run: Any, name: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        text = f"^{name} is only meaningful with ssl$"
        near, far = tcp_pair()
        with near, far:
            with pytest.raises(ValueError, match=text):
                await loop.create_connection(Recorder, sock=near, **{name: 1.0})
            with pytest.raises(ValueError, match=text):
                await loop.connect_accepted_socket(Recorder, far, **{name: 1.0})
        with pytest.raises(ValueError, match=text):
            await loop.create_server(Recorder, "127.0.0.1", 0, **{name: 1.0})

    run(main())


def test_server_hostname_without_ssl(run: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(ValueError, match="server_hostname is only meaningful with ssl"):
            await loop.create_connection(Recorder, "127.0.0.1", 1, server_hostname=NAME)

    run(main())


def test_ssl_without_host_or_name(run: Any, certs: Certs) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        near, far = tcp_pair()
        with near, far:
            with pytest.raises(ValueError, match="You must set server_hostname when using ssl"):
                await loop.create_connection(Recorder, sock=near, ssl=certs.client_context())

    run(main())


def test_server_context_for_a_client(run: Any, certs: Certs) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        near, far = tcp_pair()
        with near, far:
            with pytest.raises(ssl.SSLError, match="Cannot create a client socket"):
                await loop.create_connection(
                    Recorder, sock=near, ssl=certs.server_context(), server_hostname=NAME
                )
            client = certs.client_context()
            client.check_hostname = False  # or a later version asks for a name first
            with pytest.raises(ssl.SSLError, match="Cannot create a server socket"):
                await loop.connect_accepted_socket(Recorder, far, ssl=client)

    run(main())


@pytest.mark.parametrize("context", ["text", 5, object()])
def test_context_of_a_wrong_type(run: Any, context: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        near, far = tcp_pair()
        with near, far:
            with pytest.raises(AttributeError, match="has no attribute 'wrap_bio'"):
                await loop.create_connection(Recorder, sock=near, ssl=context, server_hostname=NAME)

    run(main())


def test_sslsocket_is_refused(run: Any, certs: Certs) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        near, far = tcp_pair()
        wrapped = certs.client_context().wrap_socket(
            near, server_hostname=NAME, do_handshake_on_connect=False
        )
        with wrapped, far:
            with pytest.raises(TypeError, match="Socket cannot be of type SSLSocket"):
                await loop.create_connection(
                    Recorder, sock=wrapped, ssl=certs.client_context(), server_hostname=NAME
                )
            with pytest.raises(TypeError, match="Socket cannot be of type SSLSocket"):
                await loop.connect_accepted_socket(Recorder, wrapped, ssl=certs.server_context())

    run(main())
