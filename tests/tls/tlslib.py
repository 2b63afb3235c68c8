"""What the tests of TLS share: certificates, TLS ends on one loop, and a peer played by hand."""

from __future__ import annotations

import asyncio
import datetime
import pathlib
import socket
import ssl
from collections.abc import Callable
from typing import Any

import pytest
from netlib import LIMIT, Recorder, tcp_pair

try:
    import trustme
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID
except ImportError as missing:  # free-threaded Pythons: cryptography has no build for all of them
    NO_CERTIFICATES = f"certificates cannot be made here: {missing}"
else:
    NO_CERTIFICATES = ""

NAME = "localhost"
RECORD = 16384  # the most that one TLS record carries


class Boom(Exception):
    pass


class Certs:
    """An authority, what it signed, and strangers; contexts of them on demand."""

    def __init__(self, folder: pathlib.Path) -> None:
        if NO_CERTIFICATES:
            pytest.skip(NO_CERTIFICATES)
        self.folder = folder
        authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
        stranger = trustme.CA(key_type=trustme.KeyType.ECDSA)
        self.ca = str(folder / "ca.pem")
        authority.cert_pem.write_to_path(self.ca)
        past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=2)
        self.server = self._keep("server", authority, NAME, "127.0.0.1", "one.example")
        self.other = self._keep("other", authority, "two.example")
        self.client = self._keep("client", authority, "client@one.example")
        self.expired = self._keep("expired", authority, NAME, not_after=past)
        self.stranger = self._keep("stranger", stranger, NAME)

    def _keep(self, name: str, authority: trustme.CA, *names: str, **rest: Any) -> str:
        path = self.folder / f"{name}.pem"
        authority.issue_cert(
            *names, key_type=trustme.KeyType.ECDSA, **rest
        ).private_key_and_cert_chain_pem.write_to_path(path)
        return str(path)

    def self_signed(self, authority: bool) -> str:
        """A leaf signed by itself for NAME; `authority`: marked as a CA, as `openssl req` does."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
        now = datetime.datetime.now(datetime.UTC)
        day = datetime.timedelta(days=1)
        cert = (
            x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - day)
            .not_valid_after(now + day)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        path = self.folder / f"self-{authority}.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + cert.public_bytes(serialization.Encoding.PEM)
        )
        return str(path)

    def server_context(self, chain: str = "", cls: Any = ssl.SSLContext) -> ssl.SSLContext:
        context: ssl.SSLContext = cls(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain or self.server)
        return context

    def client_context(self, cls: Any = ssl.SSLContext, cert: str = "") -> ssl.SSLContext:
        context: ssl.SSLContext = cls(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.ca)
        if cert:
            context.load_cert_chain(cert)
        return context


def only(context: ssl.SSLContext, version: str) -> ssl.SSLContext:
    """The context, restricted to TLS '1.2' or '1.3'."""
    number = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[version]
    context.minimum_version = context.maximum_version = number
    return context


class Pair:
    """A TLS client and a TLS server, both of the loop under test."""

    def __init__(self, client: Any, server: Any) -> None:
        self.client = client  # the protocols; their transports are in .transport
        self.server = server

    async def close(self) -> None:
        self.client.transport.close()
        self.server.transport.close()
        await self.lost()

    async def lost(self) -> None:
        await self.client.until("lost")
        await self.server.until("lost")

    async def abort(self) -> None:
        self.client.transport.abort()
        self.server.transport.abort()
        await self.lost()


async def pair(
    certs: Certs,
    client: Any = None,
    server: Any = None,
    *,
    client_context: Any = None,
    server_context: Any = None,
    name: str = NAME,
    socks: tuple[socket.socket, socket.socket] | None = None,
    **timeouts: float,
) -> Pair:
    loop = asyncio.get_running_loop()
    ends = Pair(client or Recorder(), server or Recorder())
    near, far = socks or tcp_pair()
    connecting = loop.create_connection(
        lambda: ends.client,
        sock=near,
        ssl=client_context or certs.client_context(),
        server_hostname=name,
        **timeouts,
    )
    accepting = loop.connect_accepted_socket(
        lambda: ends.server, far, ssl=server_context or certs.server_context(), **timeouts
    )
    (ct, _), (st, _) = await asyncio.gather(connecting, accepting)
    ends.client.transport, ends.server.transport = ct, st
    return ends


async def failing_pair(certs: Certs, **how: Any) -> tuple[Any, Any, Pair]:
    """What create_connection and connect_accepted_socket raise (None: nothing)."""
    loop = asyncio.get_running_loop()
    ends = Pair(Recorder(), Recorder())
    near, far = tcp_pair()
    outcomes = await asyncio.gather(
        loop.create_connection(
            lambda: ends.client,
            sock=near,
            ssl=how.get("client_context") or certs.client_context(),
            server_hostname=how.get("name", NAME),
        ),
        loop.connect_accepted_socket(
            lambda: ends.server, far, ssl=how.get("server_context") or certs.server_context()
        ),
        return_exceptions=True,
    )
    errors = [None if isinstance(one, tuple) else one for one in outcomes]
    for one in outcomes:
        if isinstance(one, tuple):
            one[0].abort()
            await one[1].until("lost")
    near.close()  # given sockets are the caller's, or closed by now
    far.close()
    return errors[0], errors[1], ends


class Peer:
    """One end of TLS played by hand over a plain socket: it does only what it is told."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, server_side: bool) -> None:
        self.sock = sock
        self.loop = asyncio.get_running_loop()
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self.incoming, self.outgoing, server_side, None if server_side else NAME
        )

    async def flush(self) -> None:
        data = self.outgoing.read()
        if data:
            await self.loop.sock_sendall(self.sock, data)

    async def feed(self) -> None:
        data = await self.loop.sock_recv(self.sock, 65536)
        if data:
            self.incoming.write(data)
        else:
            self.incoming.write_eof()

    async def call(self, function: Callable[..., Any], *args: Any) -> Any:
        async with asyncio.timeout(LIMIT):
            while True:
                try:
                    result = function(*args)
                except ssl.SSLWantReadError:
                    await self.flush()
                    await self.feed()
                else:
                    await self.flush()
                    return result

    async def handshake(self) -> None:
        await self.call(self.tls.do_handshake)

    async def read(self, size: int) -> bytes:
        """Exactly that many bytes."""
        data = bytearray()
        while len(data) < size:
            some = await self.call(self.tls.read, size - len(data))
            assert some, f"ended after {len(data)} of {size}"
            data += some
        return bytes(data)

    async def read_all(self) -> tuple[bytes, str]:
        """All up to the end, and how it ended: 'notify', 'eof' or 'reset'."""
        data = bytearray()
        while True:
            try:
                some = await self.call(self.tls.read, 65536)
            except ssl.SSLZeroReturnError:
                return bytes(data), "notify"
            except ssl.SSLEOFError:
                return bytes(data), "eof"
            except ConnectionError:
                return bytes(data), "reset"
            if not some:
                return bytes(data), "notify"
            data += some

    async def write(self, data: bytes) -> None:
        await self.call(self.tls.write, data)

    async def notify(self) -> None:
        """Sends a close_notify and waits for none."""
        try:
            self.tls.unwrap()
        except ssl.SSLWantReadError:
            pass
        await self.flush()


class Link:
    """A TLS transport of the loop under test at one end, a Peer at the other."""

    def __init__(self, protocol: Any, transport: Any, peer: Peer) -> None:
        self.protocol = protocol
        self.transport = transport
        self.peer = peer

    async def lost(self) -> Any:
        await self.protocol.until("lost")
        return self.protocol.events[-1]

    async def finish(self) -> None:
        self.transport.abort()
        await self.lost()
        self.peer.sock.close()


async def link(
    certs: Certs, protocol: Any = None, server_side: bool = False, **timeouts: float
) -> Link:
    """The loop's end is the client, or the server with `server_side`."""
    loop = asyncio.get_running_loop()
    protocol = Recorder() if protocol is None else protocol
    near, far = tcp_pair()
    contexts = certs.client_context(), certs.server_context()
    peer = Peer(far, contexts[not server_side], not server_side)
    if server_side:
        making = loop.connect_accepted_socket(lambda: protocol, near, ssl=contexts[1], **timeouts)
    else:
        making = loop.create_connection(
            lambda: protocol, sock=near, ssl=contexts[0], server_hostname=NAME, **timeouts
        )
    (transport, _), _ = await asyncio.gather(making, peer.handshake())
    return Link(protocol, transport, peer)


async def fill(transport: Any, piece: int = 65536) -> int:
    """Writes until the transport keeps some; the number of bytes written."""
    total = 0
    while not transport.get_write_buffer_size():
        transport.write(bytes(piece))
        total += piece
    return total


async def arrived(transport: Any) -> None:
    """Until what the peer sent waits in a paused transport; or a while, if it is not taken in."""
    loop = asyncio.get_running_loop()
    end = loop.time() + 0.2
    while not transport.get_read_buffer_size() and loop.time() < end:
        await asyncio.sleep(0.001)


async def started(
    certs: Certs, protocol: Any = None, context: Any = None, **rest: Any
) -> tuple[Any, int]:
    """A TLS server on loopback and its port; `protocol` makes its protocols."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        protocol or Recorder, "127.0.0.1", 0, ssl=context or certs.server_context(), **rest
    )
    return server, server.sockets[0].getsockname()[1]


async def greet(certs: Certs, port: int) -> None:
    """A whole connection to an Echo server: proof that it goes on serving."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=certs.client_context(), server_hostname=NAME
    )
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    writer.close()
    await writer.wait_closed()


class Echo(Recorder):
    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.transport.write(data)
