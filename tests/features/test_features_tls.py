"""Rows of the feature table in docs/compatibility.md: TLS."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from netlib import LIMIT, Recorder, tcp_pair

Run = Callable[[Any], Any]
CERTIFICATE = str(Path(__file__).with_name("localhost.pem"))


class Echo(Recorder):
    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.transport.write(data)


def server_context(cls: type[ssl.SSLContext] = ssl.SSLContext) -> ssl.SSLContext:
    context = cls(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


def client_context(cls: type[ssl.SSLContext] = ssl.SSLContext) -> ssl.SSLContext:
    context = cls(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(CERTIFICATE)
    return context


@contextlib.asynccontextmanager
async def serving(context: Any, factory: Any = Echo) -> AsyncIterator[tuple[Any, list[Any]]]:
    """An echo server: its address and the protocols of its connections."""
    made: list[Any] = []
    before = {task.get_name() for task in asyncio.all_tasks()}
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: made.append(factory()) or made[-1],  # type: ignore[func-returns-value]
        "127.0.0.1", 0, ssl=context,
    )  # fmt: skip
    yield server.sockets[0].getsockname(), made
    server.close()
    while {task.get_name() for task in asyncio.all_tasks()} - before:
        await asyncio.sleep(0.001)  # a handshake that fails ends after the client's
    for protocol in made:
        if protocol.transport is not None:
            protocol.transport.abort()
            await protocol.until("lost")


async def connect(address: Any, context: Any) -> Recorder:
    loop = asyncio.get_running_loop()
    _, protocol = await loop.create_connection(
        Recorder, *address, ssl=context, server_hostname="localhost"
    )
    return protocol


async def said(protocol: Recorder, data: bytes) -> None:
    """The other side echoes it."""
    before = len(protocol.data)
    protocol.transport.write(data)
    assert (await protocol.until_data(before + len(data)))[before:] == data


async def gone(protocol: Recorder) -> None:
    protocol.transport.close()
    await protocol.until("lost")


def test_any_ssl_context(run: Run) -> None:
    """Contexts are the ssl module's, of any class; OpenSSL's own checks hold."""

    class Context(ssl.SSLContext):
        pass

    async def main() -> None:
        async with serving(server_context(Context)) as (address, _):
            for context in (client_context(), client_context(Context)):
                protocol = await connect(address, context)
                await said(protocol, b"hello")
                await said(protocol, bytes(300_000))
                await gone(protocol)
            with pytest.raises(ssl.SSLCertVerificationError):
                await connect(address, ssl.create_default_context())

    run(main())


def test_start_tls(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        near, far = tcp_pair()
        inner, outer = Recorder(), Echo()
        client, _ = await loop.create_connection(lambda: inner, sock=near)
        server, _ = await loop.connect_accepted_socket(lambda: outer, far)
        client.write(b"plain")
        assert await outer.until_data(5) == b"plain"
        assert await inner.until_data(5) == b"plain"
        inner.transport, outer.transport = await asyncio.gather(
            loop.start_tls(client, inner, client_context(), server_hostname="localhost"),
            loop.start_tls(server, outer, server_context(), server_side=True),
        )
        await said(inner, b"secret")
        assert inner.transport.get_extra_info("cipher")
        await gone(inner)
        await outer.until("lost")

    run(main())


def test_tls_in_tls(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with serving(server_context()) as (address, made):
            protocol = await connect(address, client_context())
            await said(protocol, b"outer")
            outer = protocol.transport
            assert outer._start_tls_compatible  # what libraries ask first
            far = made[0]
            protocol.transport, far.transport = await asyncio.gather(
                loop.start_tls(outer, protocol, client_context(), server_hostname="localhost"),
                loop.start_tls(far.transport, far, server_context(), server_side=True),
            )
            await said(protocol, b"inner")
            await said(protocol, bytes(100_000))
            await gone(protocol)

    run(main())


def test_tls_eof_without_close_notify(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()

        def client(address: Any) -> None:
            with socket.create_connection(address, timeout=LIMIT) as plain:
                context = client_context()
                with context.wrap_socket(plain, server_hostname="localhost") as sock:
                    sock.sendall(b"hello")
                    assert sock.recv(5) == b"hello"
                    sock.shutdown(socket.SHUT_WR)  # the connection ends, TLS does not
                    assert sock.recv(1) == b""

        async with serving(server_context()) as (address, made):
            await loop.run_in_executor(None, client, address)
            await made[0].until("lost")
            assert made[0].names() == ["made", "data", "eof", "lost"]
        await loop.shutdown_default_executor()

    run(main())


def test_tls_extra_info(run: Run) -> None:
    async def main() -> None:
        async with serving(server_context()) as (address, _):
            context = client_context()
            protocol = await connect(address, context)
            info = protocol.transport.get_extra_info
            assert info("sslcontext") is context
            assert isinstance(info("ssl_object"), ssl.SSLObject)
            assert info("cipher") == info("ssl_object").cipher()
            assert info("peercert")["subject"] == ((("commonName", "localhost"),),)
            assert info("compression") is None
            assert info("peername") == address
            assert isinstance(info("socket"), asyncio.trsock.TransportSocket)
            assert isinstance(protocol.transport, asyncio.Transport)
            await gone(protocol)

    run(main())
