"""Pipes: `connect_read_pipe()` and `connect_write_pipe()`; the transports are in C (`csrc/net`).

The file object is the caller's until a transport has been made of it; from then on the transport
closes it, once.
"""

from __future__ import annotations

import asyncio
from asyncio.log import logger
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    Base = asyncio.AbstractEventLoop
else:
    Base = object


class PipeMixin(Base):
    """Pipes of a loop; a base of LoopBase."""

    if TYPE_CHECKING:  # in C

        def _make_read_pipe_transport(
            self, pipe: Any, protocol: Any, waiter: Any = None, extra: Any = None
        ) -> asyncio.ReadTransport: ...
        def _make_write_pipe_transport(
            self, pipe: Any, protocol: Any, waiter: Any = None, extra: Any = None
        ) -> asyncio.WriteTransport: ...

    async def connect_read_pipe[P: asyncio.BaseProtocol](
        self, protocol_factory: Callable[[], P], pipe: Any
    ) -> tuple[asyncio.ReadTransport, P]:
        """Read from a file object: a pipe, a socket or a character device.

        ValueError: it is something else, such as a regular file.
        """
        protocol = protocol_factory()
        waiter = self.create_future()
        transport = self._make_read_pipe_transport(pipe, protocol, waiter)
        await self._pipe_connected("Read", pipe, protocol, transport, waiter)
        return transport, protocol

    async def connect_write_pipe[P: asyncio.BaseProtocol](
        self, protocol_factory: Callable[[], P], pipe: Any
    ) -> tuple[asyncio.WriteTransport, P]:
        """Write to a file object: a pipe, a socket or a character device.

        ValueError: it is something else, such as a regular file.
        """
        protocol = protocol_factory()
        waiter = self.create_future()
        transport = self._make_write_pipe_transport(pipe, protocol, waiter)
        await self._pipe_connected("Write", pipe, protocol, transport, waiter)
        return transport, protocol

    async def _pipe_connected(
        self, kind: str, pipe: Any, protocol: Any, transport: asyncio.BaseTransport, waiter: Any
    ) -> None:
        try:
            await waiter
        except BaseException:
            transport.close()
            raise
        if self.get_debug():
            logger.debug("%s pipe %r connected: (%r, %r)", kind, pipe.fileno(), transport, protocol)
