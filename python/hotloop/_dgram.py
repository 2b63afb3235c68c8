"""Datagram endpoints: their arguments and their sockets.  The transport is in C.

A socket that is made here is closed here if anything goes wrong before a transport has adopted
it; one that the caller gave stays the caller's until then.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import sys
from asyncio.log import logger
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hotloop._net import _set_reuseport

if TYPE_CHECKING:
    Base = asyncio.AbstractEventLoop
else:
    Base = object

# Up to 3.12 only SOCK_DGRAM would do; since then raw sockets and the like as well.
_ONLY_DGRAM: bool = sys.version_info < (3, 13)

# What to make a socket of: (family, proto), (local address, remote address).
_Candidate = tuple[tuple[int, int], tuple[Any, Any]]


def _check_sock(sock: socket.socket, modifiers: dict[str, Any]) -> None:
    """A socket of the right type, and nothing else said about it."""
    if _ONLY_DGRAM:
        if sock.type != socket.SOCK_DGRAM:
            raise ValueError(f"A UDP Socket was expected, got {sock!r}")
    elif sock.type == socket.SOCK_STREAM:
        raise ValueError(f"A datagram socket was expected, got {sock!r}")
    given = ", ".join(f"{name}={value}" for name, value in modifiers.items() if value)
    if given:
        raise ValueError(
            f"socket modifier keyword arguments can not be used when sock is specified. ({given})"
        )


def _remove_stale(path: str) -> None:
    """Takes away the socket file that an earlier endpoint has left."""
    try:
        if stat.S_ISSOCK(os.stat(path).st_mode):
            os.remove(path)
    except FileNotFoundError:
        pass
    except OSError as exc:  # perhaps the folder lets us make files only
        logger.error("Unable to check or remove stale UNIX socket %r: %r", path, exc)


class DgramMixin(Base):
    """Datagram endpoints of a loop; a base of LoopBase."""

    if TYPE_CHECKING:
        # what the rest of the loop brings
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
        def _make_datagram_transport(
            self,
            sock: socket.socket,
            protocol: Any,
            address: Any = None,
            waiter: Any = None,
            extra: dict[str, Any] | None = None,
        ) -> asyncio.DatagramTransport: ...

    async def _dgram_candidates(
        self, local_addr: Any, remote_addr: Any, family: int, proto: int, flags: int
    ) -> list[_Candidate]:
        if not (local_addr or remote_addr):
            if family == 0:
                raise ValueError("unexpected address family")
            return [((family, proto), (None, None))]
        if hasattr(socket, "AF_UNIX") and family == socket.AF_UNIX:
            for address in (local_addr, remote_addr):
                if address is not None and not isinstance(address, str):
                    raise TypeError("string is expected")
            if local_addr and local_addr[0] != "\x00":  # not an abstract name
                _remove_stale(local_addr)
            return [((family, proto), (local_addr, remote_addr))]
        pairs: dict[tuple[int, int], list[Any]] = {}
        for i, address in enumerate((local_addr, remote_addr)):
            if address is None:
                continue
            if not (isinstance(address, tuple) and len(address) == 2):
                raise TypeError("2-tuple is expected")
            infos = await self._ensure_resolved(
                address, family=family, type=socket.SOCK_DGRAM, proto=proto, flags=flags, loop=self
            )
            if not infos:
                raise OSError("getaddrinfo() returned empty list")
            for found_family, _, found_proto, _, resolved in infos:
                pairs.setdefault((found_family, found_proto), [None, None])[i] = resolved
        # each address that was asked for must be there
        candidates = [
            (key, (local, remote))
            for key, (local, remote) in pairs.items()
            if not (local_addr and local is None) and not (remote_addr and remote is None)
        ]
        if not candidates:
            raise ValueError("can not get address information")
        return candidates

    async def _dgram_socket(
        self,
        candidate: _Candidate,
        binds: bool,
        connects: bool,
        reuse_port: bool | None,
        allow_broadcast: bool | None,
    ) -> socket.socket:
        (family, proto), (local, remote) = candidate
        sock = socket.socket(family=family, type=socket.SOCK_DGRAM, proto=proto)
        try:
            if reuse_port:
                _set_reuseport(sock)
            if allow_broadcast:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sock.setblocking(False)
            if binds:
                sock.bind(local)
            # answers to a broadcast come from anybody: a connected socket would drop them
            if connects and not allow_broadcast:
                await self.sock_connect(sock, remote)
        except BaseException:
            sock.close()
            raise
        return sock

    async def create_datagram_endpoint[P: asyncio.BaseProtocol](  # type: ignore[override]
        self,
        protocol_factory: Callable[[], P],
        local_addr: Any = None,
        remote_addr: Any = None,
        *,
        family: int = 0,
        proto: int = 0,
        flags: int = 0,
        reuse_port: bool | None = None,
        allow_broadcast: bool | None = None,
        sock: socket.socket | None = None,
    ) -> tuple[asyncio.DatagramTransport, P]:
        ours = sock is None
        address = None
        if sock is not None:
            modifiers = {
                "local_addr": local_addr,
                "remote_addr": remote_addr,
                "family": family,
                "proto": proto,
                "flags": flags,
                "reuse_port": reuse_port,
                "allow_broadcast": allow_broadcast,
            }
            _check_sock(sock, modifiers)
            sock.setblocking(False)
        else:
            candidates = await self._dgram_candidates(local_addr, remote_addr, family, proto, flags)
            first_error: OSError | None = None
            try:
                for candidate in candidates:
                    try:
                        sock = await self._dgram_socket(
                            candidate,
                            bool(local_addr),
                            bool(remote_addr),
                            reuse_port,
                            allow_broadcast,
                        )
                    except OSError as exc:
                        first_error = first_error or exc
                        continue
                    address = candidate[1][1] if remote_addr else None
                    break
                if sock is None:
                    assert first_error is not None
                    raise first_error
            finally:
                first_error = None  # else a cycle with its traceback
        try:
            protocol = protocol_factory()
            waiter = self.create_future()
            transport = self._make_datagram_transport(sock, protocol, address, waiter)
        except BaseException:
            if ours:
                sock.close()
            raise
        if self.get_debug():
            if local_addr:
                logger.info(
                    "Datagram endpoint local_addr=%r remote_addr=%r created: (%r, %r)",
                    local_addr, remote_addr, transport, protocol,
                )  # fmt: skip
            else:
                logger.debug(
                    "Datagram endpoint remote_addr=%r created: (%r, %r)",
                    remote_addr, transport, protocol,
                )  # fmt: skip
        try:
            await waiter
        except BaseException:
            transport.close()
            raise
        return transport, protocol
