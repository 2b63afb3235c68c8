"""Signal handlers of the event loop.

The C side (csrc/loop/signals.c) owns the wakeup fd: one pipe for the process, into which the
interpreter writes the numbers of the signals that arrive. Whichever loop runs in the main thread
reads them and calls `_process_signals()`, which hands them to every loop that has handlers, so
that a loop which is stopped finds its handlers queued when it runs again.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import os
import signal
import sys
import warnings
import weakref
from asyncio import coroutines
from asyncio.log import logger
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    Base = asyncio.AbstractEventLoop
else:
    Base = object

# The public name is deprecated in 3.14, where asyncio itself goes by the private one.
_iscoroutinefunction: Callable[[object], bool] = getattr(
    coroutines, "_iscoroutinefunction", None
) or getattr(coroutines, "iscoroutinefunction")  # noqa: B009

# Loops with signal handlers. Only touched in the main thread.
_listeners: weakref.WeakSet[SignalsMixin] = weakref.WeakSet()

if hasattr(os, "register_at_fork"):  # a child's signals are no business of its parent's loops
    os.register_at_fork(after_in_child=_listeners.clear)


def _noop(signum: int, frame: object) -> None:
    """Has the interpreter catch the signal; the number in the wakeup fd does the work."""


def _check_signal(sig: object) -> None:
    if not isinstance(sig, int):
        raise TypeError(f"sig must be an int, not {sig!r}")
    if sig not in signal.valid_signals():
        raise ValueError(f"invalid signal number {sig}")


def _set_signal(sig: int, handler: Any) -> None:
    try:
        signal.signal(sig, handler)
    except OSError as exc:
        if exc.errno == errno.EINVAL:
            raise RuntimeError(f"sig {sig} cannot be caught")  # noqa: B904  # as asyncio: no cause
        raise


class SignalsMixin(Base):
    """What a loop does with signals; a base of LoopBase."""

    if TYPE_CHECKING:  # what the C type brings

        def _check_closed(self) -> None: ...
        def _hold_wakeup_fd(self) -> None: ...
        def _drop_wakeup_fd(self) -> None: ...
        def _make_handle(self, callback: Callable[..., object], *args: Any) -> asyncio.Handle: ...
        def _add_callback_signalsafe(self, handle: asyncio.Handle) -> None: ...

    @functools.cached_property
    def _signal_handlers(self) -> dict[int, asyncio.Handle]:
        return {}

    def add_signal_handler(  # type: ignore[override]
        self, sig: int, callback: Callable[..., object], *args: Any
    ) -> None:
        """Have the loop call callback(*args) when the signal arrives.

        Takes the place of the handler that the signal had. TypeError: sig is not an int, or the
        callback a coroutine; ValueError: no such signal; RuntimeError: the signal cannot be
        caught, the loop is closed, or this is not the main thread.
        """
        if coroutines.iscoroutine(callback) or _iscoroutinefunction(callback):
            raise TypeError("coroutines cannot be used with add_signal_handler()")
        _check_signal(sig)
        self._check_closed()
        try:
            self._hold_wakeup_fd()  # first: it fails outside the main thread
        except (ValueError, OSError) as exc:
            raise RuntimeError(str(exc))  # noqa: B904  # as asyncio: no cause
        handlers = self._signal_handlers
        handlers[sig] = self._make_handle(callback, *args)
        _listeners.add(self)
        try:
            _set_signal(sig, _noop)
            signal.siginterrupt(sig, False)  # restart system calls: fewer EINTR for others
        except (OSError, RuntimeError):
            del handlers[sig]
            self._forget_if_idle()
            raise

    def remove_signal_handler(self, sig: int) -> bool:
        """Give the signal its default handling back; was there a handler of this loop?"""
        _check_signal(sig)
        handlers = self._signal_handlers
        if handlers.pop(sig, None) is None:
            return False
        try:
            _set_signal(sig, signal.default_int_handler if sig == signal.SIGINT else signal.SIG_DFL)
        finally:
            self._forget_if_idle()
        return True

    def _forget_if_idle(self) -> None:
        if self._signal_handlers:
            return
        _listeners.discard(self)
        try:
            self._drop_wakeup_fd()
        except (ValueError, OSError) as exc:
            logger.info("set_wakeup_fd(-1) failed: %s", exc)

    def _process_signals(self, data: bytes) -> None:
        """The signals whose numbers the running loop has read from the wakeup fd."""
        for signum in data:
            for loop in list(_listeners):
                loop._handle_signal(signum)

    def _handle_signal(self, sig: int) -> None:
        handle = self._signal_handlers.get(sig)
        if handle is None:
            return
        if handle.cancelled():
            self.remove_signal_handler(sig)
        else:
            self._add_callback_signalsafe(handle)

    def _close_signals(self) -> None:
        """Part of close(): the handlers go, unless the interpreter is shutting down."""
        if not self._signal_handlers:
            return
        if sys.is_finalizing():
            warnings.warn(
                f"Closing the loop {self!r} on interpreter shutdown stage, "
                f"skipping signal handlers removal",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )
            self._signal_handlers.clear()
            return
        for sig in list(self._signal_handlers):
            self.remove_signal_handler(sig)
