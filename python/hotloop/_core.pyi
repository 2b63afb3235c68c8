"""The types that hotloop makes in C; `import hotloop` has all that is meant for programs.

Times are in seconds on the loop's clock unless a docstring says otherwise. Nothing here is
thread-safe but what says so.
"""

import asyncio
from asyncio.events import _TaskFactory
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from types import FrameType
from typing import Any, Self, TextIO, TypeVar, TypeVarTuple, final

from _typeshed import FileDescriptorLike
from typing_extensions import disjoint_base

from hotloop._base import LoopBase

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

@disjoint_base
class Handle(asyncio.Handle):
    """A callback that call_soon() scheduled."""

    def cancel(self) -> None:
        """Never run the callback; no effect once it has begun."""

    def cancelled(self) -> bool:
        """Has cancel() been called?"""

    def get_context(self) -> Context:
        """The context that the callback runs in."""

@disjoint_base
class TimerHandle(asyncio.TimerHandle):
    """A callback that call_later() or call_at() scheduled; they compare by their time."""

    def cancel(self) -> None:
        """Never run the callback; no effect once it has begun."""

    def cancelled(self) -> bool:
        """Has cancel() been called?"""

    def get_context(self) -> Context:
        """The context that the callback runs in."""

    def when(self) -> float:
        """When it is due, on the loop's clock."""

class Future(asyncio.Future[_T]):
    """A result that will be there later. Loop None is the running or current one."""

    def __init__(self, *, loop: asyncio.AbstractEventLoop | None = None) -> None: ...
    def __await__(self) -> Generator[Any, None, _T]: ...
    def __iter__(self) -> Generator[Any, None, _T]: ...
    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The loop that the future belongs to."""

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel it and schedule its callbacks; False when it was done already."""

    def cancelled(self) -> bool:
        """Was it cancelled?"""

    def done(self) -> bool:
        """Is there a result, an exception or a cancellation?"""

    def result(self) -> _T:
        """The result, or its exception raised.

        InvalidStateError: it is not done. CancelledError: it was cancelled.
        """

    def exception(self) -> BaseException | None:
        """The exception, None if there is a result.

        InvalidStateError: it is not done. CancelledError: it was cancelled.
        """

    def set_result(self, result: _T, /) -> None:
        """Make it done with a result. InvalidStateError: it is done already."""

    def set_exception(self, exception: type | BaseException, /) -> None:
        """Make it done with an exception, an instance or a class to call.

        InvalidStateError: it is done already. TypeError: not an exception, or StopIteration.
        """

    def add_done_callback(
        self, fn: Callable[[Self], object], /, *, context: Context | None = None
    ) -> None:
        """Have fn(self) called by call_soon() when it is done, at once if it is done already."""

    def remove_done_callback(self, fn: Callable[[Self], object], /) -> int:
        """Remove every callback equal to fn; how many there were."""

@disjoint_base
class Task(asyncio.Task[_T]):
    """A coroutine that the loop runs step by step.

    TypeError: not a coroutine. RuntimeError: eager_start without the running loop.
    """

    def __init__(
        self,
        coro: Generator[Any, None, _T] | Coroutine[Any, Any, _T],
        *,
        loop: asyncio.AbstractEventLoop | None = None,
        name: str | None = ...,
        context: Context | None = None,
        eager_start: bool = False,
    ) -> None: ...
    def __await__(self) -> Generator[Any, None, _T]: ...
    def __iter__(self) -> Generator[Any, None, _T]: ...
    def get_coro(self) -> Any:
        """The coroutine; None for a task that ended while it was started eagerly."""

    def get_context(self) -> Context:
        """The context that the coroutine runs in."""

    def get_name(self) -> str:
        """The name."""

    def set_name(self, value: object, /) -> None:
        """Set the name to str(value)."""

    def get_stack(self, *, limit: int | None = None) -> list[FrameType]:
        """The frames of the suspended coroutine, or of the traceback it failed with."""

    def print_stack(self, *, limit: int | None = None, file: TextIO | None = None) -> None:
        """Print get_stack(), to standard error unless told otherwise."""

    def cancel(self, msg: Any | None = None) -> bool:
        """Have CancelledError(msg) thrown in at the next step; False when it is done already."""

    def cancelling(self) -> int:
        """How many cancel() calls there were, less the uncancel() calls."""

    def uncancel(self) -> int:
        """Take back one cancel(); how many are left."""

@disjoint_base
class EventLoop(LoopBase):
    """An event loop.

    backend: "epoll" or "select", None being the best of this system; ValueError for a name
    that is not there.
    """

    def __init__(self, backend: str | None = None) -> None: ...
    @property
    def backend(self) -> str:
        """The name of the poller."""
    slow_callback_duration: float
    """In debug mode, a callback that takes this many seconds or more is logged."""
    @property
    def _thread_id(self) -> int | None: ...

    # ---- life ----

    def run_forever(self) -> None:
        """Run until stop(). RuntimeError: closed, running, or another loop runs here."""

    def stop(self) -> None:
        """End run_forever() after the turn that is under way."""

    def close(self) -> None:
        """Drop all callbacks and free the descriptors. RuntimeError: the loop is running."""

    def is_running(self) -> bool:
        """Is it inside run_forever()?"""

    def is_closed(self) -> bool:
        """Has close() been called?"""

    def get_debug(self) -> bool:
        """Is debug mode on?"""

    def set_debug(self, enabled: bool, /) -> None:
        """Switch debug mode."""

    # ---- callbacks and timers ----

    def time(self) -> float:
        """The loop's clock: time.monotonic(), unless overridden."""

    def call_soon(
        self,
        callback: Callable[[*_Ts], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> Handle:
        """Call callback(*args) in the next turn, in order. RuntimeError: the loop is closed."""

    def call_soon_threadsafe(
        self,
        callback: Callable[[*_Ts], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> Handle:
        """call_soon() from any thread."""

    def call_later(
        self,
        delay: float,
        callback: Callable[[*_Ts], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> TimerHandle:
        """Call callback(*args) in `delay` seconds. TypeError: the delay is no number."""

    def call_at(
        self,
        when: float,
        callback: Callable[[*_Ts], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> TimerHandle:
        """Call callback(*args) when the loop's clock shows `when`."""

    # ---- futures and tasks ----

    def create_future(self) -> Future[Any]:
        """A new future of this loop."""

    def create_task(
        self,
        coro: Generator[Any, None, _T] | Coroutine[Any, Any, _T],
        *,
        name: object = None,
        context: Context | None = None,
        **kwargs: Any,
    ) -> Task[_T]:
        """A task for the coroutine, or what the task factory makes of it."""

    def set_task_factory(self, factory: _TaskFactory | None, /) -> None:
        """Have factory(loop, coro, ...) make the tasks; None: Task. TypeError: not callable."""

    def get_task_factory(self) -> _TaskFactory | None:
        """The task factory, or None."""

    # ---- descriptors ----

    def add_reader(
        self, fd: FileDescriptorLike, callback: Callable[[*_Ts], Any], *args: *_Ts
    ) -> None:
        """Call callback(*args) whenever fd can be read.

        ValueError: no descriptor. RuntimeError: a transport owns it. OSError: cannot be polled.
        """

    def remove_reader(self, fd: FileDescriptorLike) -> bool:
        """Undo add_reader(); was there anything to undo?"""

    def add_writer(
        self, fd: FileDescriptorLike, callback: Callable[[*_Ts], Any], *args: *_Ts
    ) -> None:
        """Call callback(*args) whenever fd can be written; errors as add_reader()."""

    def remove_writer(self, fd: FileDescriptorLike) -> bool:
        """Undo add_writer(); was there anything to undo?"""

    # ---- for the Python half ----

    def _check_closed(self) -> None: ...
    def _check_running(self) -> None: ...
    def _check_thread(self) -> None: ...

# ---- what programs meet, but do not make ----

@final
class StreamTransport(asyncio.Transport):
    """The transport of a connected stream socket; asyncio.Transport says what it does."""

    max_size: int

@final
class TLSProtocol(asyncio.BufferedProtocol):
    """TLS over any transport, as that transport's protocol."""

    _app_transport: SSLTransport

@final
class SSLTransport(asyncio.Transport):
    """The transport of a TLS connection, as the application has it."""

    def set_read_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Bytes of ciphertext at which reading from the transport below pauses and resumes.

        ValueError: not high >= low >= 0.
        """

    def get_read_buffer_limits(self) -> tuple[int, int]:
        """The low- and the high-water mark of reading."""

    def get_read_buffer_size(self) -> int:
        """Bytes of ciphertext that wait to be read."""

@final
class DatagramTransport(asyncio.Transport, asyncio.DatagramTransport):
    """The transport of a datagram socket; asyncio.DatagramTransport says what it does."""

    max_size: int

@final
class ReadPipeTransport(asyncio.ReadTransport):
    """The transport of a pipe's reading end; asyncio.ReadTransport says what it does."""

    max_size: int

@final
class WritePipeTransport(asyncio.Transport):
    """The transport of a pipe's writing end; asyncio.WriteTransport says what it does."""

    max_size: int

@final
class Listener:
    """A listening socket whose connections are accepted in C."""

    def close(self) -> None:
        """Accept no more."""

@final
class Receiving:
    """A sock_recv() that waits."""

    @property
    def future(self) -> Future[bytes] | None:
        """The bytes."""

    def close(self) -> None:
        """Wait no more."""

@final
class Connecting:
    """A connection that is being made."""

    @property
    def future(self) -> Future[None] | None:
        """Done when connected; None: there is no need."""

    def adopt(self, protocol: Any, waiter: Any, context: Context | None, /) -> StreamTransport:
        """A transport on the connection."""

    def close(self) -> None:
        """Give up; nothing after adopt()."""

@final
class FutureIter:
    """What awaiting a future iterates over."""

    def __iter__(self) -> Self: ...
    def __next__(self) -> Future[Any]: ...
    def send(self, value: object, /) -> Future[Any]: ...
    def throw(self, typ: Any, val: Any = ..., tb: Any = ..., /) -> Future[Any]: ...
    def close(self) -> None: ...

@final
class TaskWakeup:
    """Stands for a waiting task among a future's callbacks."""

    __name__: str
    __qualname__: str
    __self__: Task[Any]
    def __call__(self, future: asyncio.Future[Any], /) -> None: ...
