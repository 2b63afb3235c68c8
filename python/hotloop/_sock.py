"""The sock_*() coroutines of the event loop: non-blocking sockets, awaited.

Each tries its system call at once, and waits for the descriptor only if that would block. The
watcher goes when the coroutine is left, however that happens, so that the next user of the
descriptor's number meets nothing of ours; it goes by its handle, so that a watcher which somebody
else has put in its place stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import os
import socket
import sys
from asyncio import constants, exceptions
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

try:
    import ssl
except ImportError:  # an interpreter without OpenSSL
    ssl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    Base = asyncio.AbstractEventLoop
else:
    Base = object

WOULD_BLOCK = (BlockingIOError, InterruptedError)
INTERNET = (socket.AF_INET, socket.AF_INET6)
# The file that sendfile() was given stands at the offset even when nothing was sent from there.
SEEKS_ALWAYS: bool = sys.version_info >= (3, 14)
# Bound here, where tools that look for blocking calls do not wrap it: they let it pass in asyncio's
# own functions only, by name and file.
_sendfile: Any = getattr(os, "sendfile", None)


def _check_not_ssl(sock: socket.socket) -> None:
    if ssl is not None and isinstance(sock, ssl.SSLSocket):
        raise TypeError("Socket cannot be of type SSLSocket")


def _try(future: asyncio.Future[Any], call: Callable[..., Any], *args: Any) -> None:
    """The watcher's callback: the call again, its outcome into the future."""
    if future.done():
        return
    try:
        result = call(*args)
    except WOULD_BLOCK:
        return  # the watcher is still there
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as exc:
        future.set_exception(exc)
        del future  # the exception holds this frame: no cycle
    else:
        future.set_result(result)


def _accept(sock: socket.socket) -> tuple[socket.socket, Any]:
    conn, address = sock.accept()
    try:
        conn.setblocking(False)
    except BaseException:
        conn.close()
        raise
    return conn, address


def _finish_connect(sock: socket.socket, address: Any) -> None:
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code != 0:
        raise OSError(code, f"Connect call failed {address}")


class _Sending:
    """What is left of the data of one sock_sendall()."""

    def __init__(self, sock: socket.socket, view: memoryview, sent: int) -> None:
        self.sock, self.view, self.sent = sock, view, sent

    def __call__(self) -> None:
        self.sent += self.sock.send(self.view[self.sent :])
        if self.sent < len(self.view):
            raise BlockingIOError  # the rest when there is room again


def _byte_view(data: Any) -> memoryview:
    view = memoryview(data)
    if view.itemsize != 1 or view.ndim != 1:
        view = view.cast("B")
    return view


# What asyncio takes a numeric address for without asking, and the protocol it then names.
_PROTOCOLS: dict[int, int] = {
    socket.SOCK_STREAM: socket.IPPROTO_TCP,
    socket.SOCK_DGRAM: socket.IPPROTO_UDP,
}


def _literal(address: Any, family: int, type: int, proto: int) -> Any:
    """What getaddrinfo() would give for a numeric (host, port, ...); None: it must be asked."""
    host, port = address[:2]
    try:
        port = 0 if port is None or port == "" or port == b"" else int(port)
    except (TypeError, ValueError):
        return None  # a service
    if isinstance(host, bytes | bytearray):
        host = host.decode("idna")
    if not isinstance(host, str) or "%" in host:  # inet_pton() knows no zones
        return None
    named = _PROTOCOLS.get(type)
    if named is None or proto not in (0, *_PROTOCOLS.values()):
        return None
    for af in INTERNET if family == socket.AF_UNSPEC else (family,):
        try:
            socket.inet_pton(af, host)
        except OSError:  # but not the ValueError for a null: getaddrinfo() would stop there
            continue
        tail = (*address[2:4], 0, 0)[:2] if af == socket.AF_INET6 else ()
        return af, type, named, "", (host, port, *tail)
    return None


def _check_sendfile(sock: socket.socket, file: Any, offset: Any, count: Any) -> None:
    if "b" not in getattr(file, "mode", "b"):
        raise ValueError("file should be opened in binary mode")
    if sock.type != socket.SOCK_STREAM:
        raise ValueError("only SOCK_STREAM type sockets are supported")
    if count is not None:
        message = f"count must be a positive integer (got {count!r})"
        if not isinstance(count, int):
            raise TypeError(message)
        if count <= 0:
            raise ValueError(message)
    message = f"offset must be a non-negative integer (got {offset!r})"
    if not isinstance(offset, int):
        raise TypeError(message)
    if offset < 0:
        raise ValueError(message)


class _Sendfile:
    """One os.sendfile() job: as many calls as it takes, a call per event."""

    def __init__(self, sock: socket.socket, fileno: int, offset: int, count: int | None) -> None:
        self.sock, self.fileno, self.offset, self.count = sock, fileno, offset, count
        self.sent = 0
        self.waited = False

    def __call__(self) -> int:
        """The total once all is sent; BlockingIOError: more to do when there is room."""
        # The file's size says nothing about how much there is to send: it may grow. 2**30 suits
        # every off_t, and no kernel sends more at once.
        room = 2**30 if self.count is None else min(self.count - self.sent, 2**30)
        if room > 0:
            done = self._send(room)
            self.sent += done
            self.offset += done
            if done:
                raise BlockingIOError  # a call per turn: others want their turn as well
        return self.sent

    def _send(self, room: int) -> int:
        try:
            sent: int = _sendfile(self.sock.fileno(), self.fileno, self.offset, room)
            return sent
        except WOULD_BLOCK:
            raise
        except OSError as exc:
            if self.sent == 0:  # not a file that can be mapped: plain send() may do
                raise exceptions.SendfileNotAvailableError("os.sendfile call failed") from exc
            if self.waited and exc.errno == errno.ENOTCONN and type(exc) is not ConnectionError:
                raise ConnectionError("socket is not connected", errno.ENOTCONN) from exc
            raise

    def restore_position(self) -> None:
        """The file stands behind what was sent."""
        if self.sent > 0:
            os.lseek(self.fileno, self.offset, os.SEEK_SET)
        elif SEEKS_ALWAYS:
            with contextlib.suppress(OSError):  # a pipe stands nowhere
                os.lseek(self.fileno, self.offset, os.SEEK_SET)


class SockMixin(Base):
    """The sock_*() methods of a loop; a base of LoopBase."""

    if TYPE_CHECKING:  # what the C type brings

        def _ensure_fd_no_transport(self, fd: Any) -> None: ...
        def _recv(self, sock: Any, nbytes: Any) -> Any: ...
        def _add_reader(self, fd: Any, callback: Any, *args: Any) -> asyncio.Handle: ...
        def _add_writer(self, fd: Any, callback: Any, *args: Any) -> asyncio.Handle: ...
        def _remove_reader(self, fd: Any) -> bool: ...
        def _remove_writer(self, fd: Any) -> bool: ...

        _lent: dict[Any, asyncio.Future[Any]]  # of NetMixin

    def _check_sock(self, sock: socket.socket) -> None:
        _check_not_ssl(sock)
        if self.get_debug() and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")

    async def _when_readable(
        self, sock: socket.socket, call: Callable[..., Any], *args: Any
    ) -> Any:
        """call(*args) as soon as it does not block."""
        future = self.create_future()
        fd = sock.fileno()
        self._ensure_fd_no_transport(fd)
        handle = self._add_reader(fd, _try, future, call, *args)
        try:
            return await future
        finally:
            if not handle.cancelled():
                self._remove_reader(fd)
            del future, handle  # what the future raises holds this frame: no cycle

    async def _when_writable(
        self,
        sock: socket.socket,
        call: Callable[..., Any],
        *args: Any,
        future: asyncio.Future[Any] | None = None,
    ) -> Any:
        """call(*args) as soon as it does not block; a future that is given may end it sooner."""
        if future is None:
            future = self.create_future()
        fd = sock.fileno()
        self._ensure_fd_no_transport(fd)
        handle = self._add_writer(fd, _try, future, call, *args)
        try:
            return await future
        finally:
            if not handle.cancelled():
                self._remove_writer(fd)
            del future, handle  # what the future raises holds this frame: no cycle

    async def sock_recv(self, sock: socket.socket, nbytes: int) -> bytes:
        """Receive up to nbytes bytes."""
        got = self._recv(sock, nbytes)
        if type(got) is bytes:
            return got
        if got is not None:
            try:
                # Whatever _recv() made, its future is of bytes: the stub cannot say so.
                return await got.future  # type: ignore[no-any-return]
            finally:
                got.close()
        self._check_sock(sock)
        try:
            return sock.recv(nbytes)
        except WOULD_BLOCK:
            pass
        data: bytes = await self._when_readable(sock, sock.recv, nbytes)
        return data

    async def sock_recv_into(self, sock: socket.socket, buf: Any) -> int:
        """Receive into a writable buffer; return the number of bytes."""
        self._check_sock(sock)
        try:
            return sock.recv_into(buf)
        except WOULD_BLOCK:
            pass
        received: int = await self._when_readable(sock, sock.recv_into, buf)
        return received

    async def sock_recvfrom(self, sock: socket.socket, bufsize: int) -> tuple[bytes, Any]:
        """Receive a datagram; return it with its sender's address."""
        self._check_sock(sock)
        try:
            return sock.recvfrom(bufsize)
        except WOULD_BLOCK:
            pass
        received: tuple[bytes, Any] = await self._when_readable(sock, sock.recvfrom, bufsize)
        return received

    async def sock_recvfrom_into(
        self, sock: socket.socket, buf: Any, nbytes: int = 0
    ) -> tuple[int, Any]:
        """Receive a datagram into a writable buffer; return its length and sender."""
        self._check_sock(sock)
        if not nbytes:
            nbytes = len(buf)
        try:
            return sock.recvfrom_into(buf, nbytes)
        except WOULD_BLOCK:
            pass
        received: tuple[int, Any] = await self._when_readable(sock, sock.recvfrom_into, buf, nbytes)
        return received

    async def sock_sendall(self, sock: socket.socket, data: Any) -> None:
        """Send all of the data."""
        self._check_sock(sock)
        try:
            sent = sock.send(data)
        except WOULD_BLOCK:
            sent = 0
        if type(data) is bytes and sent == len(data):
            return
        view = _byte_view(data)
        if sent < len(view):
            await self._when_writable(sock, _Sending(sock, view, sent))

    async def sock_sendto(self, sock: socket.socket, data: Any, address: Any) -> int:
        """Send a datagram to the address; return the number of bytes sent."""
        self._check_sock(sock)
        try:
            return sock.sendto(data, address)
        except WOULD_BLOCK:
            pass
        sent: int = await self._when_writable(sock, sock.sendto, data, address)
        return sent

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """Connect the socket, having resolved the address unless it is numeric."""
        self._check_sock(sock)
        if sock.family in INTERNET:
            resolved = await self._ensure_resolved(
                address, family=sock.family, type=sock.type, proto=sock.proto, loop=self
            )
            address = resolved[0][4]
        try:
            sock.connect(address)
        except WOULD_BLOCK as exc:  # after EINTR the connection goes on being made as well
            # A Unix listener's queue is full: nothing goes on, and nothing would tell of room.
            # (asyncio takes it for connected.)
            if sock.family == socket.AF_UNIX and exc.errno == errno.EAGAIN:
                raise
        else:
            return
        await self._when_writable(sock, _finish_connect, sock, address)

    async def _ensure_resolved(
        self,
        address: Any,
        *,
        family: int = 0,
        type: int = socket.SOCK_STREAM,
        proto: int = 0,
        flags: int = 0,
        loop: asyncio.AbstractEventLoop,
    ) -> list[Any]:
        """getaddrinfo() of an address, without a turn of the loop if it is numeric."""
        known = _literal(address, family, type, proto)
        if known is not None:
            return [known]
        host, port = address[:2]
        return await loop.getaddrinfo(
            host, port, family=family, type=type, proto=proto, flags=flags
        )

    async def sock_accept(self, sock: socket.socket) -> tuple[socket.socket, Any]:
        """Accept a connection; return its non-blocking socket and its peer's address."""
        self._check_sock(sock)
        try:
            return _accept(sock)
        except WOULD_BLOCK:
            pass
        future = self.create_future()
        fd = sock.fileno()
        self._ensure_fd_no_transport(fd)
        handle = self._add_reader(fd, _try, future, _accept, sock)
        try:
            return await future  # type: ignore[no-any-return]
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                future.result()[0].close()  # came too late for whoever asked
            raise
        finally:
            if not handle.cancelled():
                self._remove_reader(fd)
            del future, handle  # what the future raises holds this frame: no cycle

    async def sock_sendfile(
        self,
        sock: socket.socket,
        file: Any,
        offset: int = 0,
        count: int | None = None,
        *,
        fallback: bool | None = True,
    ) -> int:
        """Send a file, by os.sendfile() where that works; return the number of bytes.

        SendfileNotAvailableError: it does not work, and fallback is false.
        """
        if self.get_debug() and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")
        _check_not_ssl(sock)
        _check_sendfile(sock, file, offset, count)
        try:
            return await self._sock_sendfile_native(sock, file, offset, count)
        except exceptions.SendfileNotAvailableError:
            if not fallback:
                raise
        return await self._sock_sendfile_fallback(sock, file, offset, count)

    async def _sock_sendfile_native(
        self, sock: socket.socket, file: Any, offset: int, count: int | None
    ) -> int:
        if _sendfile is None:
            raise exceptions.SendfileNotAvailableError("os.sendfile() is not available")
        try:
            fileno = file.fileno()
            size = os.fstat(fileno).st_size
        except (AttributeError, io.UnsupportedOperation, OSError) as exc:
            raise exceptions.SendfileNotAvailableError("not a regular file") from exc
        if not (count or size):
            return 0
        sending = _Sendfile(sock, fileno, offset, count)
        try:
            try:
                return sending()
            except WOULD_BLOCK:
                sending.waited = True
            total: int = await self._when_writable(sock, sending, future=self._lent.get(sock))
            return total
        finally:
            sending.restore_position()

    async def _sock_sendfile_fallback(
        self, sock: socket.socket, file: Any, offset: int, count: int | None
    ) -> int:
        if offset or (SEEKS_ALWAYS and hasattr(file, "seek")):
            file.seek(offset)
        chunk = constants.SENDFILE_FALLBACK_READBUFFER_SIZE
        buffer = bytearray(min(count, chunk) if count else chunk)
        total = 0
        try:
            while True:
                room = min(count - total, len(buffer)) if count else len(buffer)
                if room <= 0:
                    break
                view = memoryview(buffer)[:room]
                read = await self.run_in_executor(None, file.readinto, view)
                if not read:
                    break
                await self.sock_sendall(sock, view[:read])
                total += read
            return total
        finally:
            if total > 0 and hasattr(file, "seek"):
                file.seek(offset + total)
