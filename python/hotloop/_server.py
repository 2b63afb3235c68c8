"""The object that create_server() returns."""

from __future__ import annotations

import asyncio
import contextvars
import socket
import ssl as _ssl
import sys
import weakref
from asyncio import base_events, tasks, trsock
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hotloop._net import NetMixin

# Does a cancelled serve_forever() close the connections, or wait for them?
_CANCEL_CLOSES_CLIENTS: bool = sys.version_info >= (3, 14)

ProtocolFactory = Callable[[], asyncio.BaseProtocol]


class Server(base_events.Server):
    """Listening sockets and the connections that came through them.

    An asyncio.Server for those who ask, though every method and all state is of its own.

    Transports call `_attach` when they are made and `_detach` when they are gone; a server is
    closed for good once it listens no more and the last of them has gone.
    """

    def __init__(
        self,
        loop: NetMixin,
        sockets: list[socket.socket],
        protocol_factory: ProtocolFactory,
        ssl_context: _ssl.SSLContext | None,
        backlog: int,
        ssl_handshake_timeout: float | None,
        ssl_shutdown_timeout: float | None = None,
    ) -> None:
        self._loop: Any = loop
        self._sockets: list[socket.socket] | None = sockets
        # Not strong, so that a transport that nobody uses any more is still found abandoned.
        # It detaches itself even then, but its reference is dead by that time: hence id -> it.
        self._clients: dict[int, weakref.ref[asyncio.Transport]] = {}
        self._unnamed = 0  # connections attached without saying which
        self._waiters: list[asyncio.Future[None]] | None = []  # None: closed for good
        self._protocol_factory = protocol_factory
        self._ssl_context = ssl_context
        self._backlog = backlog
        self._ssl_handshake_timeout = ssl_handshake_timeout
        self._ssl_shutdown_timeout = ssl_shutdown_timeout
        self._context = contextvars.copy_context()  # from 3.15 on: what connections start from
        self._listeners: list[Any] = []
        self._serving = False
        self._serving_forever_fut: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} sockets={self.sockets!r}>"

    # ---- called by the transports ----

    # (asyncio's own of 3.12 only counts, so what is written for that names no transport.)

    def _attach(self, transport: asyncio.Transport | None = None) -> None:
        assert self._sockets is not None
        if transport is None:
            self._unnamed += 1
        else:
            self._clients[id(transport)] = weakref.ref(transport)

    def _detach(self, transport: asyncio.Transport | None = None) -> None:
        if transport is None:
            self._unnamed -= 1
        else:
            self._clients.pop(id(transport), None)
        self._check_done()

    def _check_done(self) -> None:
        """Wakes who waits, once there is neither a socket nor a connection left."""
        connected = self._clients or self._unnamed
        if self._sockets is not None or connected or self._waiters is None:
            return
        waiters, self._waiters = self._waiters, None
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # ---- serving ----

    def _start_serving(self) -> None:
        if self._serving:
            return
        sockets: Any = self._sockets
        sockets = list(sockets)  # None once closed: TypeError, as under asyncio
        self._serving = True
        for sock in sockets:
            sock.listen(self._backlog)
            self._listeners.append(self._loop._start_listening(self, sock))

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop  # type: ignore[no-any-return]

    def is_serving(self) -> bool:
        return self._serving

    @property
    def sockets(self) -> tuple[trsock.TransportSocket, ...]:  # type: ignore[override]
        return tuple(trsock.TransportSocket(sock) for sock in self._sockets or ())

    async def start_serving(self) -> None:
        self._start_serving()
        await tasks.sleep(0)  # as asyncio: what watches the sockets is in place afterwards

    async def serve_forever(self) -> None:
        if self._serving_forever_fut is not None:
            raise RuntimeError(f"server {self!r} is already being awaited on serve_forever()")
        if self._sockets is None:
            raise RuntimeError(f"server {self!r} is closed")
        self._start_serving()
        self._serving_forever_fut = self._loop.create_future()
        try:
            await self._serving_forever_fut
        except asyncio.CancelledError:
            try:
                self.close()
                if _CANCEL_CLOSES_CLIENTS:
                    self.close_clients()
                await self.wait_closed()
            finally:
                raise
        finally:
            self._serving_forever_fut = None

    # ---- the end ----

    def close(self) -> None:
        sockets, self._sockets = self._sockets, None
        if sockets is None:
            return
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener.close()
        for sock in sockets:
            self._loop._close_listening(sock)
        self._serving = False
        forever = self._serving_forever_fut
        if forever is not None and not forever.done():
            forever.cancel()
            self._serving_forever_fut = None
        self._check_done()

    def _live_clients(self) -> list[asyncio.Transport]:
        return [t for t in (ref() for ref in tuple(self._clients.values())) if t is not None]

    def close_clients(self) -> None:
        """Closes every connection; what they have still to send is sent first."""
        for transport in self._live_clients():
            transport.close()

    def abort_clients(self) -> None:
        """Closes every connection at once."""
        for transport in self._live_clients():
            transport.abort()

    async def wait_closed(self) -> None:
        """Waits until the server is closed and its last connection is gone."""
        if self._waiters is None:
            return
        waiter = self._loop.create_future()
        self._waiters.append(waiter)
        await waiter
