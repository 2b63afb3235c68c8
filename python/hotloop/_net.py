"""Connections and servers: what happens once per connection attempt or server, in Python.

What happens per accepted connection or per packet is in C (`csrc/net`).  A socket that one of
these coroutines has made is closed by it if anything goes wrong before a transport has adopted
it; from then on it is the transport's.  A socket that the caller gave stays the caller's until a
transport has adopted it.
"""

from __future__ import annotations

import asyncio
import collections
import contextvars
import errno
import functools
import itertools
import os
import socket
import stat
import sys
from asyncio import constants, exceptions, protocols, staggered, tasks
from asyncio.log import logger
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from hotloop._server import ProtocolFactory, Server
from hotloop._sock import SEEKS_ALWAYS, SockMixin

try:
    import ssl
    from asyncio import sslproto
except ImportError:  # Python built without OpenSSL
    ssl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    Base = asyncio.AbstractEventLoop
else:
    Base = object

# A server takes no notice, since 3.13, of an address whose family is not enabled.
_SKIPS_MISSING_FAMILIES: bool = sys.version_info >= (3, 13)
# A socket that was given is closed when the protocol's factory fails.
_CLOSES_GIVEN_SOCKETS: bool = sys.version_info >= (3, 14)
# A connection has one context for all that it calls, taken before the factory is called.
_HAS_CONTEXT: bool = sys.version_info >= (3, 15)
# What a stream reader has in its buffer when a server starts TLS is the client's hello.
_READ_AHEAD_IS_TLS: bool = sys.version_info >= (3, 14)


def _tls_traits(proto: Any) -> int:
    """How this asyncio ends TLS connections, which patch releases have changed: csrc/net/tls.h."""
    aborts = "_force_close" not in proto._abort.__code__.co_names
    asks_below = hasattr(proto, "_is_transport_closing")
    times_closing = "call_later" in proto._on_shutdown_complete.__code__.co_names
    return aborts + 2 * asks_below + 4 * times_closing


_TLS_TRAITS = 0 if ssl is None else _tls_traits(sslproto.SSLProtocol)
# What csrc/net/tls_membio.c does without: ssl.SSLObject's own methods, as long as they are these.
_PASSED_OVER = (
    {}
    if ssl is None
    else {name: vars(ssl.SSLObject)[name] for name in ("do_handshake", "read", "write", "unwrap")}
)
_BY_OBJECT = 8


def _by_object() -> int:
    now = vars(ssl.SSLObject)
    return _BY_OBJECT if any(now.get(name) is not was for name, was in _PASSED_OVER.items()) else 0


AddrInfo = tuple[Any, Any, int, str, Any]

# Bound here, where tools that look for blocking calls do not wrap them: they let a server's path
# be looked at in asyncio's own functions only, by name and file.
_stat, _unlink = os.stat, os.unlink


def check_ssl_socket(sock: object) -> None:
    """Plain sockets only: TLS is the loop's business."""
    if ssl is not None and isinstance(sock, ssl.SSLSocket):
        raise TypeError("Socket cannot be of type SSLSocket")


def _check_stream(sock: socket.socket, what: str = "Stream", unix: bool = False) -> None:
    if sock.type != socket.SOCK_STREAM or (unix and sock.family != socket.AF_UNIX):
        raise ValueError(f"A {what} Socket was expected, got {sock!r}")


def _check_ssl_timeouts(ssl: Any, handshake: object, shutdown: object) -> None:
    """`ssl` false: neither timeout may be given."""
    for name, value in (("handshake", handshake), ("shutdown", shutdown)):
        if value is not None and not ssl:
            raise ValueError(f"ssl_{name}_timeout is only meaningful with ssl")


def _interleave(infos: Iterable[AddrInfo], first: int) -> list[AddrInfo]:
    """Takes turns among the families (RFC 8305), after `first` - 1 more of the first one."""
    by_family: dict[int, list[AddrInfo]] = collections.defaultdict(list)
    for info in infos:
        by_family[info[0]].append(info)
    groups = list(by_family.values())
    head = groups[0][: first - 1] if first > 1 else []
    if head:
        del groups[0][: len(head)]
    turns = itertools.chain.from_iterable(itertools.zip_longest(*groups))
    return head + [info for info in turns if info is not None]


def _bind_error(err: OSError, address: object) -> OSError:
    text = str(err) if sys.version_info >= (3, 13) else (err.strerror or str(err))
    return OSError(
        err.errno, f"error while attempting to bind on address {address!r}: {text.lower()}"
    )


def _bind_local(
    sock: socket.socket, family: int, infos: Iterable[AddrInfo], errors: list[OSError]
) -> None:
    """Binds to the first local address of the socket's family that can be had."""
    for local_family, _, _, _, address in infos:
        if local_family != family:
            continue
        try:
            sock.bind(address)
        except OSError as exc:
            errors.append(_bind_error(exc, address))
        else:
            return
    try:
        if errors:
            raise errors.pop()
        raise OSError(f"no matching local address with {family=} found")
    finally:
        del errors  # the caller adds what is raised to it: a cycle by way of this frame


def _raise_connect_errors(errors: list[OSError], all_errors: bool) -> None:
    try:
        if all_errors:
            raise ExceptionGroup("create_connection failed", errors)
        texts = [str(exc) for exc in errors]
        if len(set(texts)) == 1:
            raise errors[0]
        raise OSError(f"Multiple exceptions: {', '.join(texts)}")
    finally:
        del errors  # the traceback of what is raised holds this frame: no cycle


def _set_reuseport(sock: socket.socket) -> None:
    if not hasattr(socket, "SO_REUSEPORT"):
        raise ValueError("reuse_port not supported by socket module")
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError:
        raise ValueError(
            "reuse_port not supported by socket module, SO_REUSEPORT defined but not implemented."
        ) from None


def _flush_before_fork() -> None:
    """Held writes leave first: otherwise both processes would send them."""
    loop = asyncio._get_running_loop()
    if isinstance(loop, NetMixin):
        loop._flush_writes()


os.register_at_fork(before=_flush_before_fork)


class _SendfileProtocol(protocols.Protocol):
    """Stands in for a transport's protocol while a file is written by hand."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._proto = transport.get_protocol()
        self._resume_reading = transport.is_reading()
        self._resume_writing = transport._protocol_paused
        self._room: asyncio.Future[None] | None = None
        transport.pause_reading()
        transport.set_protocol(self)
        if self._resume_writing:
            self._room = transport._loop.create_future()

    async def drain(self) -> None:
        if self._transport.is_closing():
            raise ConnectionError("Connection closed by peer")
        if self._room is not None:
            await self._room

    def connection_made(self, transport: object) -> None:
        raise RuntimeError("Invalid state: connection should have been established already.")

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_exception(exc or ConnectionError("Connection is closed by peer"))
        self._proto.connection_lost(exc)

    def pause_writing(self) -> None:
        if self._room is None:
            self._room = self._transport._loop.create_future()

    def resume_writing(self) -> None:
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    def data_received(self, data: bytes) -> None:
        raise RuntimeError("Invalid state: reading should be paused")

    def eof_received(self) -> None:
        raise RuntimeError("Invalid state: reading should be paused")

    def restore(self) -> None:
        self._transport.set_protocol(self._proto)
        if self._resume_reading:
            self._transport.resume_reading()
        if self._room is not None:
            self._room.cancel()
        if self._resume_writing:
            self._proto.resume_writing()


def _hand_over_read_ahead(protocol: Any, tls: Any) -> None:
    reader = getattr(protocol, "_stream_reader", None)
    streams = isinstance(protocol, asyncio.StreamReaderProtocol)
    if streams and reader is not None and reader._buffer:
        tls._feed(reader._buffer)
        reader._buffer.clear()


class NetMixin(Base):
    """Stream connections and servers of a loop; a base of LoopBase."""

    _unix_server_sockets: dict[socket.socket, tuple[int, int]] | None = None

    @functools.cached_property
    def _lent(self) -> dict[Any, asyncio.Future[Any]]:
        """Sockets that a transport lends to sock_sendfile(): the future that ends with each."""
        return {}

    if TYPE_CHECKING:
        # what the rest of the loop brings
        def _check_closed(self) -> None: ...
        async def _ensure_resolved(
            self,
            address: Any,
            *,
            family: int = 0,
            type: int = socket.SOCK_STREAM,
            proto: int = 0,
            flags: int = 0,
            loop: asyncio.AbstractEventLoop,
        ) -> list[Any]: ...
        def _make_stream_transport(
            self,
            sock: socket.socket,
            protocol: Any,
            waiter: Any = None,
            extra: dict[str, Any] | None = None,
            server: Any = None,
            context: contextvars.Context | None = None,
        ) -> asyncio.Transport: ...
        def _make_tls(
            self,
            protocol: Any,
            sslcontext: Any,
            waiter: Any,
            server_side: bool,
            server_hostname: str | None,
            call_connection_made: bool,
            handshake_timeout: float,
            shutdown_timeout: float,
            how: int,
        ) -> Any: ...
        def _connect(self, host: Any, port: Any, family: int, proto: int) -> Any: ...
        def _flush_writes(self) -> None: ...
        def _listen(
            self, sock: socket.socket, factory: Any, server: Any, backlog: int, on_accept: Any
        ) -> Any: ...

    # ---- names ----

    async def _resolve(self, address: Any, empty: str, **hints: int) -> list[Any]:
        infos = await self._ensure_resolved(address, type=socket.SOCK_STREAM, loop=self, **hints)
        if not infos:
            raise OSError(empty)
        return infos

    # ---- connecting ----

    async def _connect_sock(
        self,
        made: list[socket.socket],
        errors: list[list[OSError]],
        info: AddrInfo,
        local_infos: list[AddrInfo] | None,
    ) -> socket.socket:
        """One attempt.  Its socket is in `made` while it is open; its errors go to `errors`."""
        mine: list[OSError] = []
        errors.append(mine)
        family, kind, proto, _, address = info
        sock = None
        try:
            sock = socket.socket(family=family, type=kind, proto=proto)
            made.append(sock)
            sock.setblocking(False)
            if local_infos is not None:
                _bind_local(sock, family, local_infos, mine)
            await self.sock_connect(sock, address)
        except BaseException as exc:
            if isinstance(exc, OSError):
                mine.append(exc)  # before close(), which can fail as well
            if sock is not None:
                made.remove(sock)
                sock.close()
            raise
        finally:
            errors = mine = None  # type: ignore[assignment]  # cycles with the tracebacks
        return sock

    async def _race(
        self,
        infos: list[AddrInfo],
        local_infos: list[AddrInfo] | None,
        delay: float | None,
        all_errors: bool,
    ) -> socket.socket:
        """A connected socket; every other one that was made on the way is closed."""
        made: list[socket.socket] = []
        errors: list[list[OSError]] = []
        winner = None
        try:
            if delay is None:
                for info in infos:
                    try:
                        winner = await self._connect_sock(made, errors, info, local_infos)
                        break
                    except OSError:
                        continue
            else:
                attempts = (
                    functools.partial(self._connect_sock, made, errors, info, local_infos)
                    for info in infos
                )
                winner, _, raised = await staggered.staggered_race(attempts, delay, loop=self)
                if winner is None and not any(errors):  # it was no OSError: out of memory, say
                    raise next(exc for exc in raised if exc is not None)
            if winner is None:
                _raise_connect_errors([exc for some in errors for exc in some], all_errors)
                raise AssertionError("not reached")
            made.remove(winner)
            return winner
        finally:
            for sock in made:  # of attempts that finished too late, or of a cancelled race
                sock.close()
            errors = None  # type: ignore[assignment]

    async def create_connection[P: asyncio.BaseProtocol](
        self,
        protocol_factory: Callable[[], P],
        host: Any = None,
        port: Any = None,
        *,
        ssl: Any = None,
        family: int = 0,
        proto: int = 0,
        flags: int = 0,
        sock: socket.socket | None = None,
        local_addr: Any = None,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        happy_eyeballs_delay: float | None = None,
        interleave: int | None = None,
        all_errors: bool = False,
    ) -> tuple[asyncio.Transport, P]:
        if server_hostname is not None and not ssl:
            raise ValueError("server_hostname is only meaningful with ssl")
        if server_hostname is None and ssl:
            if not host:
                raise ValueError("You must set server_hostname when using ssl without a host")
            server_hostname = host
        _check_ssl_timeouts(ssl, ssl_handshake_timeout, ssl_shutdown_timeout)
        if sock is not None:
            check_ssl_socket(sock)
        ours = host is not None or port is not None
        if ours:
            if sock is not None:
                raise ValueError("host/port and sock can not be specified at the same time")
            plain = not ssl and local_addr is None and happy_eyeballs_delay is None
            if plain and not interleave:
                made = await self._connect_plainly(
                    protocol_factory, host, port, family, proto, all_errors
                )
                if made is not None:
                    return made
            hints = {"family": family, "proto": proto, "flags": flags}
            empty = "getaddrinfo() returned empty list"
            infos = await self._resolve((host, port), empty, **hints)
            local_infos = None
            if local_addr is not None:
                local_infos = await self._resolve(local_addr, empty, **hints)
            if interleave is None and happy_eyeballs_delay is not None:
                interleave = 1
            if interleave:
                infos = _interleave(infos, interleave)
            sock = await self._race(infos, local_infos, happy_eyeballs_delay, all_errors)
        else:
            if sock is None:
                raise ValueError("host and port was not specified and no sock specified")
            _check_stream(sock)
        transport, protocol = await self._create_connection_transport(
            sock,
            protocol_factory,
            ssl,
            server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
            ours=ours,
        )
        if self.get_debug():
            self._log_connected(host, port, transport, protocol)
        return transport, protocol

    async def _create_connection_transport[P: asyncio.BaseProtocol](
        self,
        sock: socket.socket,
        protocol_factory: Callable[[], P],
        ssl: Any,
        server_hostname: str | None,
        server_side: bool = False,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        ours: bool = False,
    ) -> tuple[asyncio.Transport, P]:
        """Hands a connected socket to a transport; `ours`: it is closed if that fails.

        From 3.14 on asyncio closes one that the caller brought as well.
        """
        try:
            sock.setblocking(False)
            context = contextvars.copy_context() if _HAS_CONTEXT else None
            protocol = protocol_factory()
            waiter = self.create_future()
            if ssl:
                transport = self._make_ssl_transport(
                    sock, protocol, None if isinstance(ssl, bool) else ssl, waiter,
                    server_side=server_side, server_hostname=server_hostname,
                    ssl_handshake_timeout=ssl_handshake_timeout,
                    ssl_shutdown_timeout=ssl_shutdown_timeout, context=context,
                )  # fmt: skip
            else:
                transport = self._make_stream_transport(sock, protocol, waiter, context=context)
        except BaseException:
            if ours or _CLOSES_GIVEN_SOCKETS:
                sock.close()
            raise
        try:
            await waiter
        except BaseException:
            transport.close()
            del waiter  # its exception, with this frame in it, would keep it alive
            raise
        return transport, protocol

    async def _connect_plainly[P: asyncio.BaseProtocol](
        self,
        protocol_factory: Callable[[], P],
        host: Any,
        port: Any,
        family: int,
        proto: int,
        all_errors: bool,
    ) -> tuple[asyncio.Transport, P] | None:
        """All of create_connection() for a numeric address; None: nothing has been done.

        As many turns as by the long way, but no socket object: the transport makes one for who
        asks for it.
        """
        connecting: Any = None
        failed: OSError | None = None
        try:
            connecting = self._connect(host, port, family, proto)
            if connecting is None:
                return None
            if connecting.future is not None:
                await connecting.future
            context = contextvars.copy_context() if _HAS_CONTEXT else None
        except OSError as exc:
            failed = exc
        except BaseException:
            if connecting is not None:
                connecting.close()
            raise
        if failed is not None:
            if connecting is not None:
                connecting.close()
            try:
                _raise_connect_errors([failed], all_errors)
            finally:
                failed = None  # its traceback holds this frame: no cycle
        try:
            protocol = protocol_factory()
            waiter = self.create_future()
            transport: asyncio.Transport = connecting.adopt(protocol, waiter, context)
        except BaseException:
            connecting.close()
            raise
        try:
            await waiter
        except BaseException:
            transport.close()
            del waiter  # its exception, with this frame in it, would keep it alive
            raise
        if self.get_debug():  # since a moment ago
            self._log_connected(host, port, transport, protocol)
        return transport, protocol

    def _log_connected(self, host: Any, port: Any, transport: Any, protocol: Any) -> None:
        sock_view = transport.get_extra_info("socket")
        logger.debug("%r connected to %s:%r: (%r, %r)", sock_view, host, port, transport, protocol)

    async def connect_accepted_socket[P: asyncio.BaseProtocol](
        self,
        protocol_factory: Callable[[], P],
        sock: socket.socket,
        *,
        ssl: Any = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> tuple[asyncio.Transport, P]:
        _check_stream(sock)
        _check_ssl_timeouts(ssl, ssl_handshake_timeout, ssl_shutdown_timeout)
        check_ssl_socket(sock)
        transport, protocol = await self._create_connection_transport(
            sock, protocol_factory, ssl, "", server_side=True,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )  # fmt: skip
        if self.get_debug():
            sock_view = transport.get_extra_info("socket")
            logger.debug("%r handled: (%r, %r)", sock_view, transport, protocol)
        return transport, protocol

    async def create_unix_connection[P: asyncio.BaseProtocol](
        self,
        protocol_factory: Callable[[], P],
        path: Any = None,
        *,
        ssl: Any = None,
        sock: socket.socket | None = None,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> tuple[asyncio.Transport, P]:
        assert server_hostname is None or isinstance(server_hostname, str)
        if ssl and server_hostname is None:
            raise ValueError("you have to pass server_hostname when using ssl")
        if server_hostname is not None and not ssl:
            raise ValueError("server_hostname is only meaningful with ssl")
        _check_ssl_timeouts(ssl, ssl_handshake_timeout, ssl_shutdown_timeout)
        ours = path is not None
        if path is not None:
            if sock is not None:
                raise ValueError("path and sock can not be specified at the same time")
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0)
            try:
                sock.setblocking(False)
                await self.sock_connect(sock, os.fspath(path))
            except BaseException:
                sock.close()
                raise
        else:
            if sock is None:
                raise ValueError("no path and sock were specified")
            _check_stream(sock, "UNIX Domain Stream", unix=True)
        return await self._create_connection_transport(
            sock, protocol_factory, ssl, server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
            ours=ours,
        )  # fmt: skip

    # ---- serving ----

    async def _server_infos(self, host: Any, port: Any, family: int, flags: int) -> set[Any]:
        """Every address to bind, each once, however many of the hosts have it."""
        if host == "":
            hosts: Iterable[Any] = [None]
        elif isinstance(host, str) or not isinstance(host, collections.abc.Iterable):
            hosts = [host]
        else:
            hosts = host
        resolved = await tasks.gather(
            *(
                self._resolve(
                    (one, port),
                    f"getaddrinfo({one!r}) returned empty list",
                    family=family,
                    flags=flags,
                )
                for one in hosts
            )
        )
        return set(itertools.chain.from_iterable(resolved))

    def _bind_sockets(
        self, infos: set[Any], reuse_address: bool, reuse_port: bool, keep_alive: bool
    ) -> list[socket.socket]:
        sockets: list[socket.socket] = []
        try:
            for family, kind, proto, _, address in infos:
                try:
                    sock = socket.socket(family, kind, proto)
                except OSError:  # a combination that this system does not have
                    if self.get_debug():
                        logger.warning(
                            "create_server() failed to create socket.socket(%r, %r, %r)",
                            family, kind, proto, exc_info=True,
                        )  # fmt: skip
                    continue
                sockets.append(sock)
                if reuse_address:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, True)
                if reuse_port:
                    _set_reuseport(sock)
                if keep_alive:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, True)
                if family == socket.AF_INET6:
                    # IPv4 has a socket of its own among the others
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, True)
                try:
                    sock.bind(address)
                except OSError as exc:
                    error = _bind_error(exc, address)
                    if exc.errno != errno.EADDRNOTAVAIL or not _SKIPS_MISSING_FAMILIES:
                        raise error from None
                    sockets.pop().close()  # its family is not enabled on this system
                    if self.get_debug():
                        logger.warning(error.strerror)
            if not sockets:
                tried = [info[4] for info in infos]
                raise OSError(f"could not bind on any address out of {tried!r}")
        except BaseException:
            for sock in sockets:
                sock.close()
            raise
        return sockets

    async def create_server(
        self,
        protocol_factory: ProtocolFactory,
        host: Any = None,
        port: Any = None,
        *,
        family: int = socket.AF_UNSPEC,
        flags: int = socket.AI_PASSIVE,
        sock: socket.socket | None = None,
        backlog: int = 100,
        ssl: Any = None,
        reuse_address: bool | None = None,
        reuse_port: bool | None = None,
        keep_alive: bool | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        start_serving: bool = True,
    ) -> Server:
        if isinstance(ssl, bool):
            raise TypeError("ssl argument must be an SSLContext or None")
        _check_ssl_timeouts(ssl is not None, ssl_handshake_timeout, ssl_shutdown_timeout)
        if sock is not None:
            check_ssl_socket(sock)
        ours = host is not None or port is not None
        if ours:
            if sock is not None:
                raise ValueError("host/port and sock can not be specified at the same time")
            if reuse_address is None:
                reuse_address = os.name == "posix" and sys.platform != "cygwin"
            infos = await self._server_infos(host, port, family, flags)
            sockets = self._bind_sockets(infos, reuse_address, bool(reuse_port), bool(keep_alive))
        else:
            if sock is None:
                raise ValueError("Neither host/port nor sock were specified")
            _check_stream(sock)
            sockets = [sock]
        server = await self._serve(
            sockets, protocol_factory, ssl, backlog,
            ssl_handshake_timeout, ssl_shutdown_timeout, start_serving, ours,
        )  # fmt: skip
        if self.get_debug():
            logger.info("%r is serving", server)
        return server

    async def _serve(
        self,
        sockets: list[socket.socket],
        protocol_factory: ProtocolFactory,
        ssl: Any,
        backlog: int,
        handshake_timeout: float | None,
        shutdown_timeout: float | None,
        start_serving: bool,
        ours: bool,
    ) -> Server:
        """A server on bound sockets; `ours`: they are closed if that fails."""
        server = None
        try:
            for sock in sockets:
                sock.setblocking(False)
            server = Server(
                self, sockets, protocol_factory, ssl, backlog, handshake_timeout, shutdown_timeout
            )
            if start_serving:
                server._start_serving()
                await tasks.sleep(0)
        except BaseException:
            if server is not None and (ours or server._listeners):
                server.close()
            elif ours:
                for sock in sockets:
                    sock.close()
            raise
        return server

    def _start_listening(self, server: Server, sock: socket.socket) -> Any:
        """Has C accept connections on a listening socket: the Listener, to be closed."""
        on_accept = None
        if server._ssl_context is not None:
            on_accept = functools.partial(self._accept_tls, server)
        arguments = (sock, server._protocol_factory, server, server._backlog, on_accept)
        if _HAS_CONTEXT:
            return server._context.run(self._listen, *arguments)
        return self._listen(*arguments)

    def _accept_tls(self, server: Server, sock: socket.socket, peername: Any) -> None:
        if self.get_debug():
            logger.debug("%r got a new connection from %r: %r", server, peername, sock)
        if not _HAS_CONTEXT:
            self.create_task(self._handshake(server, sock, peername, None))
            return
        context = contextvars.copy_context()
        self.create_task(self._handshake(server, sock, peername, context), context=context)

    async def _handshake(
        self,
        server: Server,
        sock: socket.socket,
        peername: Any,
        context: contextvars.Context | None,
    ) -> None:
        protocol = transport = None
        try:
            protocol = server._protocol_factory()
            waiter: Any = self.create_future()
            transport = self._make_ssl_transport(
                sock, protocol, server._ssl_context, waiter=waiter, server_side=True,
                extra={"peername": peername}, server=server,
                ssl_handshake_timeout=server._ssl_handshake_timeout,
                ssl_shutdown_timeout=server._ssl_shutdown_timeout, context=context,
            )  # fmt: skip
            try:
                await waiter
            except BaseException:
                transport.close()
                waiter = None  # its exception refers to frames that refer to the protocol
                raise
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            if transport is None:
                sock.close()
            if self.get_debug():
                report = {
                    "message": "Error on transport creation for incoming connection",
                    "exception": exc,
                    "protocol": protocol,
                    "transport": transport,
                }
                self.call_exception_handler(
                    {key: value for key, value in report.items() if value is not None}
                )

    def _close_listening(self, sock: socket.socket) -> None:
        """Closes a server's socket, and takes its path out of the file system if it is ours."""
        known = (self._unix_server_sockets or {}).pop(sock, None)
        path = sock.getsockname() if known is not None else None
        sock.close()
        if path is None:
            return
        try:
            now = _stat(path)
            if (now.st_dev, now.st_ino) == known:
                _unlink(path)
        except FileNotFoundError:
            pass
        except OSError as exc:
            logger.error("Unable to clean up listening UNIX socket %r: %r", path, exc)

    def _bind_unix(self, path: Any) -> socket.socket:
        path = os.fspath(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if path[0] not in (0, "\x00"):  # not an abstract name
                try:
                    if stat.S_ISSOCK(_stat(path).st_mode):
                        _unlink(path)
                except FileNotFoundError:
                    pass
                except OSError as exc:
                    logger.error("Unable to check or remove stale UNIX socket %r: %r", path, exc)
            try:
                sock.bind(path)
            except OSError as exc:
                if exc.errno != errno.EADDRINUSE:
                    raise
                message = f"Address {path!r} is already in use"
                raise OSError(errno.EADDRINUSE, message) from None
        except BaseException:
            sock.close()
            raise
        return sock

    async def create_unix_server(
        self,
        protocol_factory: ProtocolFactory,
        path: Any = None,
        *,
        sock: socket.socket | None = None,
        backlog: int = 100,
        ssl: Any = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        start_serving: bool = True,
        cleanup_socket: bool = sys.version_info >= (3, 13),
    ) -> Server:
        if isinstance(ssl, bool):
            raise TypeError("ssl argument must be an SSLContext or None")
        _check_ssl_timeouts(ssl, ssl_handshake_timeout, ssl_shutdown_timeout)
        ours = path is not None
        if path is not None:
            if sock is not None:
                raise ValueError("path and sock can not be specified at the same time")
            sock = self._bind_unix(path)
        else:
            if sock is None:
                raise ValueError("path was not specified, and no sock specified")
            _check_stream(sock, "UNIX Domain Stream", unix=True)
        if cleanup_socket:
            name = sock.getsockname()
            if name and name[0] not in (0, "\x00"):
                try:
                    info = _stat(name)
                except FileNotFoundError:
                    pass
                except BaseException:
                    if ours:
                        sock.close()
                    raise
                else:
                    if self._unix_server_sockets is None:
                        self._unix_server_sockets = {}
                    self._unix_server_sockets[sock] = (info.st_dev, info.st_ino)
        return await self._serve(
            [sock], protocol_factory, ssl, backlog,
            ssl_handshake_timeout, ssl_shutdown_timeout, start_serving, ours,
        )  # fmt: skip

    # ---- TLS: a protocol in C over any transport, which makes the application's one ----

    def _tls_protocol(
        self,
        protocol: Any,
        sslcontext: Any,
        waiter: Any,
        server_side: bool,
        server_hostname: str | None,
        handshake_timeout: float | None,
        shutdown_timeout: float | None,
        call_connection_made: bool,
    ) -> Any:
        if ssl is None:
            raise RuntimeError("stdlib ssl module not available")
        if handshake_timeout is None:
            handshake_timeout = constants.SSL_HANDSHAKE_TIMEOUT
        elif handshake_timeout <= 0:
            raise ValueError(
                f"ssl_handshake_timeout should be a positive number, got {handshake_timeout}"
            )
        if shutdown_timeout is None:
            shutdown_timeout = constants.SSL_SHUTDOWN_TIMEOUT
        elif shutdown_timeout <= 0:
            raise ValueError(
                f"ssl_shutdown_timeout should be a positive number, got {shutdown_timeout}"
            )
        if not sslcontext:
            if server_side:
                raise ValueError("Server side SSL needs a valid SSLContext")
            sslcontext = ssl.create_default_context()
            if not server_hostname:
                sslcontext.check_hostname = False
        return self._make_tls(
            protocol, sslcontext, waiter, bool(server_side), server_hostname,
            call_connection_made, handshake_timeout, shutdown_timeout, _TLS_TRAITS + _by_object(),
        )  # fmt: skip

    def _make_ssl_transport(
        self,
        rawsock: socket.socket,
        protocol: Any,
        sslcontext: Any,
        waiter: Any = None,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        extra: dict[str, Any] | None = None,
        server: Any = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        context: contextvars.Context | None = None,
    ) -> Any:
        tls = self._tls_protocol(
            protocol, sslcontext, waiter, server_side, server_hostname,
            ssl_handshake_timeout, ssl_shutdown_timeout, True,
        )  # fmt: skip
        transport = tls._app_transport
        try:
            self._make_stream_transport(rawsock, tls, None, extra, server, context)
        except BaseException:
            transport._closed = True  # nobody ever had it: there is nothing to warn of
            raise
        return transport

    async def start_tls(
        self,
        transport: Any,
        protocol: Any,
        sslcontext: Any,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> Any:
        if ssl is None:
            raise RuntimeError("Python ssl module is not available")
        if not isinstance(sslcontext, ssl.SSLContext):
            raise TypeError(
                f"sslcontext is expected to be an instance of ssl.SSLContext, got {sslcontext!r}"
            )
        if not getattr(transport, "_start_tls_compatible", False):
            raise TypeError(f"transport {transport!r} is not supported by start_tls()")
        waiter = self.create_future()
        tls = self._tls_protocol(
            protocol, sslcontext, waiter, server_side, server_hostname,
            ssl_handshake_timeout, ssl_shutdown_timeout, False,
        )  # fmt: skip
        transport.pause_reading()  # until tls.connection_made() has been called
        if server_side and _READ_AHEAD_IS_TLS:
            _hand_over_read_ahead(protocol, tls)
        transport.set_protocol(tls)
        made = self.call_soon(tls.connection_made, transport)
        resumed = self.call_soon(transport.resume_reading)
        try:
            await waiter
        except BaseException:
            transport.close()
            made.cancel()
            resumed.cancel()
            del waiter  # its exception, with this frame in it, would keep it alive
            raise
        return tls._app_transport

    # ---- sendfile ----

    async def sendfile(
        self,
        transport: Any,
        file: Any,
        offset: int = 0,
        count: int | None = None,
        *,
        fallback: bool = True,
    ) -> int:
        if transport.is_closing():
            raise RuntimeError("Transport is closing")
        modes = constants._SendfileMode
        mode = getattr(transport, "_sendfile_compatible", modes.UNSUPPORTED)
        if mode is modes.UNSUPPORTED:
            raise RuntimeError(f"sendfile is not supported for transport {transport!r}")
        if mode is modes.TRY_NATIVE:
            try:
                return await self._sendfile_native(transport, file, offset, count)
            except exceptions.SendfileNotAvailableError:
                if not fallback:
                    raise
        if not fallback:
            raise RuntimeError(
                "fallback is disabled and native sendfile is not supported for transport "
                f"{transport!r}"
            )
        return await self._sendfile_fallback(transport, file, offset, count)

    async def _sendfile_native(
        self, transport: Any, file: Any, offset: int, count: int | None
    ) -> int:
        empty = transport._make_empty_waiter()  # RuntimeError: it sends a file already
        resume = transport.is_reading()
        transport.pause_reading()
        gone: asyncio.Future[Any] | None = None
        sock = None
        try:
            await empty
            sock = transport._sock
            gone = self.create_future()
            transport._lend(gone)
            self._lent[sock] = gone
            return await self.sock_sendfile(sock, file, offset, count, fallback=False)
        finally:
            transport._reset_empty_waiter()
            if gone is not None:
                del self._lent[sock]
                transport._lend(None)
                if gone.done() and not gone.cancelled():
                    gone.exception()  # seen, wherever it went
            if resume:
                transport.resume_reading()
            del gone, empty  # what they raise holds this frame: no cycle

    async def _sendfile_fallback(
        self, transport: Any, file: Any, offset: int, count: int | None
    ) -> int:
        if offset or (SEEKS_ALWAYS and hasattr(file, "seek")):
            file.seek(offset)
        size = min(count, 16384) if count else 16384
        buffer = memoryview(bytearray(size))
        sent = 0
        proto = _SendfileProtocol(transport)
        try:
            while True:
                if count:
                    size = min(count - sent, size)
                    if size <= 0:
                        return sent
                read = await self.run_in_executor(None, file.readinto, buffer[:size])
                if not read:
                    return sent
                await proto.drain()
                transport.write(buffer[:read])  # mutable: the transport copies what it keeps
                sent += read
        finally:
            if sent > 0 and hasattr(file, "seek"):
                file.seek(offset + sent)
            proto.restore()


def _socket_seen() -> tuple[Any, ...]:
    """What csrc/net/connect.c stands in for of socket.socket; empty if somebody patched it."""
    cls = socket.socket
    raw = cls.__mro__[1]
    if cls.__module__ != "socket" or raw.__module__ != "_socket":
        return ()
    names = ("setblocking", "connect", "getsockopt", "recv", "gettimeout", "fileno")
    inherited = [vars(raw).get(name) for name in names]
    return (vars(cls).get("__init__"), vars(cls).get("close"), *inherited)


SOCKET_SEEN = _socket_seen()
# Likewise of the loop's own methods.
CONNECTING_SEEN = (
    SockMixin._ensure_resolved,
    SockMixin.sock_connect,
    NetMixin._create_connection_transport,
)
