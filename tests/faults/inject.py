"""What can be made to fail: sites of a build with -DHL_FAULTS, and hotloop's calls in Python.

A site is a place in the source that makes one system call, or one allocation. C sites come from the
extension itself (csrc/core/fault.h); those in Python are found as they run: a method of a socket,
or a function of `os`, called from a module of hotloop.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hotloop import _core

SHORT = -1  # HL_FAULT_SHORT

# What the manual pages say of each call, without EFAULT; and what a network or a filter adds.
INTERRUPTED = "EAGAIN EINTR"
SOCKET = "EBADF ENOTSOCK EINVAL ENOMEM ENOBUFS"
PEER = "ECONNRESET ECONNREFUSED ENOTCONN ETIMEDOUT EHOSTUNREACH ENETUNREACH ENETDOWN EPIPE"
SEND = f"{INTERRUPTED} {SOCKET} {PEER} EACCES EPERM EDESTADDRREQ EMSGSIZE EOPNOTSUPP EISCONN"
RECEIVE = f"{INTERRUPTED} {SOCKET} {PEER}"
DESCRIPTORS = "EMFILE ENFILE ENOMEM"
ERRNOS: dict[str, str] = {
    "read": f"{INTERRUPTED} EBADF EINVAL EIO EISDIR ECONNRESET",
    "write": f"{INTERRUPTED} EBADF EINVAL EIO EPIPE ENOSPC EDQUOT EFBIG EPERM EDESTADDRREQ",
    "readv": f"{INTERRUPTED} {SOCKET} {PEER}",
    "writev": f"{INTERRUPTED} EBADF EINVAL EIO EPIPE ENOSPC EDQUOT EFBIG EPERM",
    "recv": RECEIVE,
    "recvfrom": RECEIVE,
    "send": SEND,
    "sendmsg": SEND,
    "sendto": SEND,
    "accept4": f"{INTERRUPTED} {SOCKET} {DESCRIPTORS} ECONNABORTED EPROTO EPERM EOPNOTSUPP"
    " ENETDOWN ENOPROTOOPT EHOSTDOWN ENONET EHOSTUNREACH ENETUNREACH ENOSYS",
    "shutdown": "EBADF EINVAL ENOTCONN ENOTSOCK ENOBUFS",
    "getsockname": "EBADF EINVAL ENOBUFS ENOTSOCK",
    "getpeername": "EBADF EINVAL ENOBUFS ENOTSOCK ENOTCONN",
    "setsockopt": "EBADF EINVAL ENOPROTOOPT ENOTSOCK ENOBUFS ENOMEM EDOM EISCONN",
    "fcntl": "EBADF EPERM EINVAL",
    "fstat": "EBADF EIO ENOMEM EOVERFLOW EACCES",
    "pipe2": f"{DESCRIPTORS} EINVAL",
    "eventfd": f"{DESCRIPTORS} EINVAL ENODEV",
    "epoll_create1": f"{DESCRIPTORS} EINVAL",
    "epoll_ctl": "EBADF EEXIST EINVAL ELOOP ENOENT ENOMEM ENOSPC EPERM",
    "epoll_wait": "EBADF EINTR EINVAL",
    "epoll_pwait2": "EBADF EINTR EINVAL ENOSYS EPERM",
    "poll": "EINTR EINVAL ENOMEM",
    "pselect": "EBADF EINTR EINVAL ENOMEM",
    "close": "EBADF EINTR EIO ENOSPC EDQUOT",
    "SSL_write_ex": "EAGAIN",  # what it does not encrypt, _ssl's write() does
    # in Python
    "socket": f"{DESCRIPTORS} EACCES EAFNOSUPPORT EINVAL ENOBUFS EPROTONOSUPPORT",
    "connect": f"{SOCKET} {PEER} EACCES EPERM EADDRINUSE EADDRNOTAVAIL EAFNOSUPPORT EAGAIN EALREADY"
    " EINPROGRESS EINTR EISCONN EPROTOTYPE",
    "bind": "EACCES EADDRINUSE EADDRNOTAVAIL EBADF EINVAL ENOTSOCK ELOOP ENAMETOOLONG ENOENT"
    " ENOMEM ENOTDIR EROFS",
    "listen": "EADDRINUSE EBADF ENOTSOCK EOPNOTSUPP",
    "accept": f"{INTERRUPTED} {SOCKET} {DESCRIPTORS} ECONNABORTED EPROTO EPERM",
    "getsockopt": "EBADF EINVAL ENOPROTOOPT ENOTSOCK",
    "setblocking": "EBADF",
    "recv_into": RECEIVE,
    "recvfrom_into": RECEIVE,
    "sock_close": "EINTR EIO",
    "sendfile": f"{INTERRUPTED} EBADF EINVAL EIO ENOMEM EOVERFLOW ESPIPE ECONNRESET EPIPE ENOTCONN",
    "lseek": "EBADF EINVAL EOVERFLOW ESPIPE",
    "pidfd_open": f"{DESCRIPTORS} EINVAL ENODEV ESRCH ENOSYS EPERM",
    "waitpid": "ECHILD",
    "waitid": "ECHILD",
    "os_close": "EINTR EIO",
    "stat": "EACCES ELOOP ENAMETOOLONG ENOENT ENOMEM ENOTDIR",
    "unlink": "EACCES EBUSY EIO ENOENT ENOTDIR EPERM EROFS",
    "remove": "EACCES EBUSY EIO ENOENT ENOTDIR EPERM EROFS",
}
# Where a call can fail in fewer ways than its page has.
AT_PLACES = {
    "fcntl in core/fdtab.c:grow": "EBADF",
    "fstat in core/poll_select.c:is_same": "",  # it is asked whether the descriptor is closed
    "fstat in core/": "EBADF",
    # An eventfd is full, or closed, or takes eight bytes: then nobody wakes asyncio either.
    "write in core/wake.c:hl_wake_signal": "EINTR",
}
WHOLE = ("net/dgram_io.c", "core/wake.c", "hotloop.")  # a datagram, a count: all or nothing
SHORTABLE = {
    "read",
    "readv",
    "write",
    "writev",
    "recv",
    "send",
    "sendmsg",
    "epoll_wait",
    "epoll_pwait2",
}
OBJECTS = {"tp_alloc", "gc_new", "PyObject_Malloc", "PyContext_New"}
MEMORY = {"malloc", "calloc", "realloc", "PyMem_Malloc", "PyMem_Calloc", "BIO_write"} | OBJECTS


def errnos_of(site: str) -> list[int]:
    """What a site is failed with, SHORT included; an allocation fails in one way."""
    call = site.partition(" ")[0]
    if call in MEMORY:
        return [errno.ENOMEM]
    names = next((AT_PLACES[p] for p in AT_PLACES if site.startswith(p)), ERRNOS.get(call, ""))
    codes = list(dict.fromkeys(getattr(errno, name) for name in names.split()))
    whole = call not in SHORTABLE or any(place in site for place in WHOLE)
    return codes if whole else [*codes, SHORT]


def name_of(code: int) -> str:
    return "short" if code == SHORT else errno.errorcode[code]


class _Site(ctypes.Structure):
    _fields_ = (
        ("call", ctypes.c_char_p),
        ("file", ctypes.c_char_p),
        ("func", ctypes.c_char_p),
        ("line", ctypes.c_long),
        ("calls", ctypes.c_long),
        ("fired", ctypes.c_long),
    )


class Site:
    """A place in the source that can fail."""

    def __init__(self, call: str, place: str, native: Any = None, index: int = -1) -> None:
        self.call, self.place = call, place
        self.native, self.index = native, index
        self.count = 0  # calls, of a site in Python

    @property
    def name(self) -> str:
        return f"{self.call} in {self.place}"

    @property
    def calls(self) -> int:
        return int(self.native.calls) if self.native is not None else self.count


class Injector:
    """Both kinds of sites; one of them at a time is armed."""

    def __init__(self) -> None:
        # PyDLL: the GIL is kept, so that nothing else runs between two of these calls
        self.library = ctypes.PyDLL(_core.__file__)
        try:
            self.library.hl_fault_site.restype = ctypes.POINTER(_Site)
        except AttributeError:
            raise SystemExit("this hotloop was built without -DHL_FAULTS") from None
        self.sites: dict[str, Site] = {}
        for index in range(self.library.hl_fault_sites()):
            native = self.library.hl_fault_site(index).contents
            path = Path(native.file.decode())
            place = f"{'/'.join(path.parts[-2:])}:{native.func.decode()}"
            site = Site(native.call.decode(), place, native, index)
            if site.name in self.sites:  # two calls in one function
                site.place += f":{native.line}"
            self.sites[site.name] = site
        self.armed: Site | None = None
        self.left = self.code = self.fired = 0

    def reset(self) -> None:
        self.library.hl_fault_reset()
        for site in self.sites.values():
            site.count = 0

    def arm(self, name: str, nth: int, code: int) -> None:
        site = self.sites.get(name)
        if site is None:  # a site in Python, known from another process
            call, _, place = name.partition(" in ")
            site = self.sites[name] = Site(call, place)
        if site.native is not None:
            self.library.hl_fault_arm(site.index, nth, code)
        self.armed, self.left, self.code, self.fired = site, nth, code, 0

    def disarm(self) -> int:
        """How often what was armed has fired."""
        if self.armed is not None and self.armed.native is not None:
            self.fired = self.library.hl_fault_disarm()
        self.armed = None
        return self.fired

    # ---- in Python ----

    def take(self, call: str, depth: int = 2) -> None:
        """Called in a wrapper: raises if this very call is to fail."""
        frame = sys._getframe(depth)
        module = frame.f_globals.get("__name__", "")
        if not module.startswith("hotloop."):
            return
        name = f"{call} in {module}:{frame.f_code.co_name}"
        site = self.sites.get(name)
        if site is None:
            site = self.sites[name] = Site(call, f"{module}:{frame.f_code.co_name}")
        site.count += 1
        if site is self.armed:
            self.left -= 1
            if self.left == 0:
                self.fired += 1
                raise OSError(self.code, os.strerror(self.code))

    def _wrap(self, call: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            self.take(call)
            return original(*args, **kwargs)

        return wrapper

    def _wrap_connect(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """connect(): of those that say that it goes on, it does go on."""

        def wrapper(sock: Any, *args: Any) -> Any:
            try:
                self.take("connect")
            except (BlockingIOError, InterruptedError):
                try:
                    original(sock, *args)
                except BlockingIOError:
                    pass
                raise
            return original(sock, *args)

        return wrapper

    def _wrap_after(self, call: str, original: Callable[..., Any]) -> Callable[..., Any]:
        """close(): done even where it fails."""

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            self.take(call)
            return result

        return wrapper

    def patch(self) -> None:
        """From now on Python's calls are sites too. What C does by itself for an untouched
        socket class, such as connecting, it then leaves to Python."""
        kind: Any = socket.socket
        methods = "bind listen accept getsockopt setsockopt setblocking send sendto"
        for name in (methods + " recv recv_into recvfrom recvfrom_into").split():
            setattr(kind, name, self._wrap(name, getattr(kind, name)))
        kind.connect = self._wrap_connect(kind.connect)
        kind.__init__ = self._wrap("socket", kind.__init__)
        kind.close = self._wrap_after("sock_close", kind.close)
        module: Any = os
        for name in "sendfile lseek pidfd_open waitpid waitid stat unlink remove fstat".split():
            setattr(module, name, self._wrap(name, getattr(module, name)))
        module.close = self._wrap_after("os_close", os.close)

    def __iter__(self) -> Iterator[Site]:
        return iter(list(self.sites.values()))
