"""The part of the event loop that runs once per loop, not once per callback.

`hotloop._core.EventLoop` is a C type whose base is the class `LoopBase` below. C never calls
`LoopBase.__init__`: state lives in the instance dictionary, with its defaults on the class.
Nothing here, nor in the mixins, may import `hotloop._core` while it is being imported.
"""

from __future__ import annotations

import _socket
import asyncio
import concurrent.futures
import functools
import socket
import sys
import threading
import traceback
import warnings
import weakref
from asyncio import constants, coroutines, events, futures, tasks
from asyncio.log import logger
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from hotloop._dgram import DgramMixin
from hotloop._nested import NestedMixin, _ended_the_run
from hotloop._net import NetMixin
from hotloop._pipe import PipeMixin
from hotloop._signals import SignalsMixin, _iscoroutinefunction
from hotloop._sock import SockMixin
from hotloop._subprocess import SubprocessMixin

ContextDict = dict[str, Any]
ExceptionHandler = Callable[[asyncio.AbstractEventLoop, ContextDict], object]

# A job of an executor that ends in the loop's own thread settles its future there and then.
_CHAINS_AT_ONCE: bool = sys.version_info >= (3, 14)
# What getaddrinfo() may be asked for without ever leaving this machine's memory.
_LOCAL_FLAGS = (
    socket.AI_PASSIVE | socket.AI_NUMERICHOST | socket.AI_NUMERICSERV | socket.AI_ADDRCONFIG
)
_LITERAL_FAMILIES = (socket.AF_INET, socket.AF_INET6)
# The function that answers, and the one that it asks, if nobody has replaced them already.
_GETADDRINFO: Any = socket.getaddrinfo
_RAW_GETADDRINFO: Any = _socket.getaddrinfo
if (
    getattr(_GETADDRINFO, "__globals__", None) is not vars(socket)
    or getattr(_RAW_GETADDRINFO, "__self__", None) is not _socket
):
    _GETADDRINFO = None


def _run_until_complete_cb(future: asyncio.Future[Any]) -> None:
    """Stops the loop of a finished future; its name is what asyncio's `repr(task)` shows."""
    if _ended_the_run(future):
        return  # run_forever() has been left already: a stop() would end its next run
    # typeshed does not know the private function
    loop = futures._get_loop(future)  # type: ignore[attr-defined]
    if not getattr(loop, "_set_aside", None) or loop._is_innermost(future):
        loop.stop()


def _settle(future: asyncio.Future[Any], done: concurrent.futures.Future[Any]) -> None:
    """Give future the outcome of one that is done, whose fields nobody changes any more."""
    if future.cancelled():
        return
    assert not future.done()
    if done._state != "FINISHED":
        future.cancel()
    elif done._exception is None:
        future.set_result(done._result)
    else:
        convert: Any = futures._convert_future_exc  # type: ignore[attr-defined]  # not in typeshed
        future.set_exception(convert(done._exception))


# The name that a report of it has with asyncio.
_settle.__qualname__ = "_chain_future.<locals>._set_state"


def _chain_future(source: concurrent.futures.Future[Any], destination: asyncio.Future[Any]) -> None:
    """What asyncio.futures.wrap_future() does, for a source of exactly this type.

    asyncio's asks, with a lock each time, whether the source is done, whether it was cancelled,
    for its exception and for its result.
    """
    if not futures.isfuture(destination):  # of a create_future() of the program's
        raise TypeError("A future is required for destination argument")
    loop: Any = futures._get_loop(destination)  # type: ignore[attr-defined]  # not in typeshed

    def _call_check_cancel(destination: asyncio.Future[Any]) -> None:
        if destination.cancelled():
            source.cancel()

    def _call_set_state(source: concurrent.futures.Future[Any]) -> None:
        in_its_thread = events._get_running_loop() is loop
        if _CHAINS_AT_ONCE and in_its_thread:
            if not (destination.cancelled() and loop.is_closed()):
                _settle(destination, source)
        elif not loop.is_closed():
            loop.call_soon_threadsafe(_settle, destination, source)

    destination.add_done_callback(_call_check_cancel)
    source.add_done_callback(_call_set_state)


def _literal_family(host: object) -> int | None:
    """The address family of a numeric literal; None for anything else, scope ids included."""
    if type(host) is bytes:
        try:
            host = host.decode("ascii")
        except UnicodeDecodeError:
            return None
    if type(host) is not str:
        return None
    for family in _LITERAL_FAMILIES:
        try:
            socket.inet_pton(family, host)
        except (OSError, ValueError):
            continue
        return family
    return None


def _is_numeric_port(port: object) -> bool:
    """May the C library resolve this port without a look at the services database?"""
    if port is None or type(port) is int:
        return True
    if type(port) is str:
        return port.isascii() and port.isdigit()
    return type(port) is bytes and port.isdigit()


class LoopBase(
    SignalsMixin,
    SockMixin,
    NetMixin,
    DgramMixin,
    PipeMixin,
    SubprocessMixin,
    NestedMixin,
    asyncio.AbstractEventLoop,
):
    """Cold policy of the loop: exception handlers, executors, name resolution, start and end."""

    _default_executor: Executor | None = None
    _executor_shutdown_called = False
    _asyncgens_shutdown_called = False
    _old_agen_hooks: Any = None
    _origin_depth: int | None = None  # what to restore; None: tracking is not ours
    _exception_handler: ExceptionHandler | None = None

    if TYPE_CHECKING:  # what the C type brings
        slow_callback_duration: float
        _current_handle: asyncio.Handle | None
        _debug: bool

        @property
        def _thread_id(self) -> int | None: ...
        def _check_closed(self) -> None: ...
        def _check_running(self) -> None: ...
        def _literal_address(
            self, host: Any, port: Any, family: int, type: int, proto: int, flags: int
        ) -> list[Any] | None: ...
    else:
        _current_handle = None

    @functools.cached_property
    def _asyncgens(self) -> weakref.WeakSet[AsyncGenerator[Any, Any]]:
        return weakref.WeakSet()

    def __repr__(self) -> str:
        cls = type(self)
        return (
            f"<{cls.__module__}.{cls.__qualname__} running={self.is_running()} "
            f"closed={self.is_closed()} debug={self.get_debug()}>"
        )

    def __del__(self, _warn: Any = warnings.warn) -> None:
        if self.is_closed():
            return
        _warn(f"unclosed event loop {self!r}", ResourceWarning, source=self)
        if not self.is_running():
            self.close()

    # ---- around a run; called by the C type ----

    def _enter_run(self) -> None:
        """First thing in a run: what the interpreter knows about a running loop."""
        self._set_coroutine_origin_tracking(self.get_debug())
        self._old_agen_hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(
            firstiter=self._asyncgen_firstiter_hook, finalizer=self._asyncgen_finalizer_hook
        )
        events._set_running_loop(self)

    def _leave_run(self) -> None:
        """Last thing in a run, and the undoing of an _enter_run() that failed half-way."""
        events._set_running_loop(None)
        self._set_coroutine_origin_tracking(False)
        hooks, self._old_agen_hooks = self._old_agen_hooks, None
        if hooks is not None:
            sys.set_asyncgen_hooks(*hooks)

    def _log_close(self) -> None:
        """In debug mode, while the loop still counts as open."""
        logger.debug("Close %r", self)

    def _close_base(self) -> None:
        """The Python half of close()."""
        self._executor_shutdown_called = True
        executor, self._default_executor = self._default_executor, None
        try:
            if executor is not None:
                executor.shutdown(wait=False)
        finally:
            self._close_signals()
            self._close_children()

    def _debug_changed(self, enabled: bool) -> None:
        """set_debug() on a running loop, perhaps from another thread."""
        self.call_soon_threadsafe(self._set_coroutine_origin_tracking, enabled)

    def _set_coroutine_origin_tracking(self, enabled: bool) -> None:
        if bool(enabled) == (self._origin_depth is not None):
            return
        if enabled:
            self._origin_depth = sys.get_coroutine_origin_tracking_depth()
            sys.set_coroutine_origin_tracking_depth(constants.DEBUG_STACK_DEPTH)
        else:
            depth, self._origin_depth = self._origin_depth, None
            sys.set_coroutine_origin_tracking_depth(depth or 0)

    def run_until_complete[T](self, future: Generator[Any, None, T] | Awaitable[T]) -> T:
        """Run until the future, or a task made of the coroutine, is done; return its result.

        RuntimeError: the loop is closed or runs already, or was stopped before the end.
        """
        self._check_closed()
        self._check_running()
        level = self._new_level(future)
        is_ours = not futures.isfuture(future)  # nobody else can look at what comes of it
        task: Any = future
        task = tasks.ensure_future(task, loop=self)
        if is_ours:
            task._log_destroy_pending = False  # "stopped before completed" says it better
        # One callback serves all runs that wait for it: this one's end takes it from nobody.
        added = task.done() or all(other is not task for other in self._awaited.values())
        if added:
            task.add_done_callback(_run_until_complete_cb)
        before: Any = self._awaited.get(level, self)  # an overridden run_forever() may call this
        self._awaited[level] = task
        try:
            self.run_forever()
        except BaseException:
            if is_ours and task.done() and not task.cancelled():
                task.exception()  # marks it as retrieved: it is what is being raised
            raise
        finally:
            if before is self:
                del self._awaited[level]
            else:
                self._awaited[level] = before
            if added:
                task.remove_done_callback(_run_until_complete_cb)
        if not task.done():
            raise RuntimeError("Event loop stopped before Future completed.")
        result: T = task.result()
        return result

    # ---- asynchronous generators ----

    def _asyncgen_firstiter_hook(self, agen: AsyncGenerator[Any, Any]) -> None:
        if self._asyncgens_shutdown_called:
            warnings.warn(
                f"asynchronous generator {agen!r} was scheduled after "
                f"loop.shutdown_asyncgens() call",
                ResourceWarning,
                stacklevel=1,  # the frame above is the generator's
                source=self,
            )
        self._asyncgens.add(agen)

    def _asyncgen_finalizer_hook(self, agen: AsyncGenerator[Any, Any]) -> None:
        """Runs in whichever thread dropped the generator."""
        self._asyncgens.discard(agen)
        if not self.is_closed():
            self.call_soon_threadsafe(self.create_task, agen.aclose())

    async def shutdown_asyncgens(self) -> None:
        """Close all asynchronous generators that have started and not ended."""
        self._asyncgens_shutdown_called = True
        closing = list(self._asyncgens)
        if not closing:
            return
        self._asyncgens.clear()
        results = await tasks.gather(*[agen.aclose() for agen in closing], return_exceptions=True)
        for agen, result in zip(closing, results, strict=True):
            if isinstance(result, Exception):
                self.call_exception_handler(
                    {
                        "message": "an error occurred during closing of "
                        f"asynchronous generator {agen!r}",
                        "exception": result,
                        "asyncgen": agen,
                    }
                )

    # ---- executors ----

    def _check_callback(self, callback: object, method: str) -> None:
        if coroutines.iscoroutine(callback) or _iscoroutinefunction(callback):
            raise TypeError(f"coroutines cannot be used with {method}()")
        if not callable(callback):
            raise TypeError(f"a callable object was expected by {method}(), got {callback!r}")

    def _check_default_executor(self) -> None:
        if self._executor_shutdown_called:
            raise RuntimeError("Executor shutdown has been called")

    def run_in_executor[*Ts, T](
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Call func(*args) in the executor, None being the default one; return a future.

        RuntimeError: the loop is closed, or its default executor has been shut down.
        """
        self._check_closed()
        if self.get_debug():
            self._check_callback(func, "run_in_executor")
        if executor is None:
            self._check_default_executor()
            executor = self._default_executor
            if executor is None:
                executor = ThreadPoolExecutor(thread_name_prefix="asyncio")
                self._default_executor = executor
        submitted = executor.submit(func, *args)
        future: asyncio.Future[T]
        if type(submitted) is concurrent.futures.Future:
            _chain_future(submitted, future := self.create_future())
        else:
            future = futures.wrap_future(submitted, loop=self)
        return future

    def set_default_executor(self, executor: Executor) -> None:
        """Take a ThreadPoolExecutor as the default one; TypeError for anything else."""
        if not isinstance(executor, ThreadPoolExecutor):
            raise TypeError("executor must be ThreadPoolExecutor instance")
        self._default_executor = executor

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Refuse new work and join the default executor's threads.

        timeout: seconds to wait for them, None being for ever; RuntimeWarning when it passes.
        """
        self._executor_shutdown_called = True
        executor = self._default_executor
        if executor is None:
            return
        joined = self.create_future()
        thread = threading.Thread(target=self._join_executor, args=(executor, joined))
        thread.start()
        try:
            async with asyncio.timeout(timeout):
                await joined
        except TimeoutError:
            warnings.warn(
                f"The executor did not finishing joining its threads within {timeout} seconds.",
                RuntimeWarning,
                stacklevel=2,
            )
            executor.shutdown(wait=False)
        else:
            thread.join()

    def _join_executor(self, executor: Executor, joined: asyncio.Future[None]) -> None:
        """The body of the thread that shutdown_default_executor() starts."""
        error: Exception | None = None
        try:
            executor.shutdown(wait=True)
        except Exception as exc:
            error = exc
        try:
            self.call_soon_threadsafe(self._executor_joined, joined, error)
        except RuntimeError:
            if not self.is_closed():  # else nobody waits any more
                raise

    @staticmethod
    def _executor_joined(joined: asyncio.Future[None], error: Exception | None) -> None:
        if joined.done():
            return
        if error is None:
            joined.set_result(None)
        else:
            joined.set_exception(error)

    # ---- names and addresses ----

    async def getaddrinfo(
        self,
        host: bytes | str | None,
        port: bytes | str | int | None,
        *,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        """socket.getaddrinfo() in the default executor, or at once for a numeric address.

        The quick ways are taken only where that function has nothing to look up: one asks it,
        so the answers and errors are the same; the other one, for an address whose answer is
        known, does without, unless somebody has replaced the function.
        """
        if socket.getaddrinfo is _GETADDRINFO and _socket.getaddrinfo is _RAW_GETADDRINFO:
            found = self._literal_address(host, port, family, type, proto, flags)
            if found is not None:
                return found
        resolve = self._getaddrinfo_debug if self.get_debug() else socket.getaddrinfo
        if (
            isinstance(flags, int)
            and not flags & ~_LOCAL_FLAGS
            and _is_numeric_port(port)
            and (literal := _literal_family(host)) is not None
            and family in (0, literal)
        ):
            self._check_closed()
            return resolve(host, port, family, type, proto, flags)
        return await self.run_in_executor(None, resolve, host, port, family, type, proto, flags)

    def _getaddrinfo_debug(
        self, host: Any, port: Any, family: int, type: int, proto: int, flags: int
    ) -> Any:
        """socket.getaddrinfo() with two lines for the log; may run in a thread."""
        asked = {"family": family, "type": type, "proto": proto, "flags": flags}
        query = ", ".join(
            [f"{host}:{port!r}", *(f"{name}={value!r}" for name, value in asked.items() if value)]
        )
        logger.debug("Get address info %s", query)
        began = self.time()
        found = socket.getaddrinfo(host, port, family, type, proto, flags)
        took = self.time() - began
        message = f"Getting address info {query} took {took * 1e3:.3f}ms: {found!r}"
        if took >= self.slow_callback_duration:
            logger.info(message)
        else:
            logger.debug(message)
        return found

    async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> tuple[str, str]:
        """socket.getnameinfo() in the default executor."""
        name: tuple[str, str] = await self.run_in_executor(
            None, socket.getnameinfo, sockaddr, flags
        )
        return name

    # ---- exception handlers ----

    def get_exception_handler(self) -> ExceptionHandler | None:
        """The handler that set_exception_handler() set, or None for the default one."""
        return self._exception_handler

    def set_exception_handler(self, handler: ExceptionHandler | None) -> None:
        """Have handler(loop, context) called for what no one else catches; None: the default.

        TypeError: it is neither None nor callable.
        """
        if handler is not None and not callable(handler):
            raise TypeError(f"A callable object or None is expected, got {handler!r}")
        self._exception_handler = handler

    def default_exception_handler(self, context: ContextDict) -> None:
        """Log the context, with the traceback of its exception, as asyncio words it."""
        handle = self._current_handle
        if "source_traceback" not in context and handle is not None:
            made_at = getattr(handle, "_source_traceback", None)
            if made_at:
                context["handle_traceback"] = made_at
        lines = [context.get("message") or "Unhandled exception in event loop"]
        for key in sorted(context):
            if key not in ("message", "exception"):
                lines.append(f"{key}: {self._format_context(key, context[key])}")
        exception = context.get("exception")
        logger.error(
            "\n".join(lines),
            exc_info=exception is not None
            and (type(exception), exception, exception.__traceback__),
        )

    @staticmethod
    def _format_context(key: str, value: Any) -> str:
        made = {"source_traceback": "Object", "handle_traceback": "Handle"}.get(key)
        if made is None:
            return repr(value)
        stack = "".join(traceback.format_list(value)).rstrip()
        return f"{made} created at (most recent call last):\n{stack}"

    def call_exception_handler(self, context: ContextDict) -> None:
        """Hand a context to the exception handler that is in force.

        Keys: message; and, where there is one, exception, future, task, handle, protocol,
        transport, socket, asyncgen. Only SystemExit and KeyboardInterrupt come out of it.
        """
        handler = self._exception_handler
        if handler is None:
            self._call_default_handler(context, "Exception in default exception handler")
            return
        try:
            self._call_custom_handler(handler, context)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._call_default_handler(
                {
                    "message": "Unhandled error in exception handler",
                    "exception": exc,
                    "context": context,
                },
                "Exception in default exception handler while handling an unexpected error "
                "in custom exception handler",
            )

    def _call_default_handler(self, context: ContextDict, failure: str) -> None:
        """default_exception_handler(), guarded: a subclass may have put its own in place."""
        try:
            self.default_exception_handler(context)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException:
            logger.error(failure, exc_info=True)

    def _call_custom_handler(self, handler: ExceptionHandler, context: ContextDict) -> None:
        """Calls it in the contextvars context of the task, future or handle concerned."""
        thing: Any = None
        for key in ("task", "future", "handle"):
            thing = context.get(key)
            if thing is not None:
                break
        ctx = thing.get_context() if hasattr(thing, "get_context") else None
        if ctx is not None and hasattr(ctx, "run"):
            ctx.run(handler, self, context)
        else:
            handler(self, context)
