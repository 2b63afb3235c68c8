"""hotloop: an asyncio event loop written in C, with its own Future and Task.

The doors: `hotloop.run(main())`; `asyncio.run(main(), loop_factory=hotloop.new_event_loop)`;
`hotloop.install()`, a policy; and `python -m hotloop program.py`, the program unchanged.
"""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Coroutine
from typing import Any, TypeVar

from hotloop import _check as _check  # first: says what is missing, where something is
from hotloop._core import EventLoop, Future, Handle, Task, TimerHandle
from hotloop._nested import allow_nested_runs
from hotloop._policy import EventLoopPolicy, install

__all__ = (
    "EventLoop",
    "EventLoopPolicy",
    "Future",
    "Handle",
    "Task",
    "TimerHandle",
    "allow_nested_runs",
    "install",
    "new_event_loop",
    "run",
)

__version__ = "0.1.0"

_T = TypeVar("_T")


def new_event_loop(backend: str | None = None) -> EventLoop:
    """A new event loop; also what to give as a `loop_factory`.

    backend: "epoll" or "select"; None takes the environment variable HOTLOOP_BACKEND, or
    else the best of this system. ValueError: there is no such backend here.
    """
    if backend is not None:
        return EventLoop(backend)
    chosen = os.environ.get("HOTLOOP_BACKEND")
    if not chosen:
        return EventLoop()
    try:
        return EventLoop(chosen)
    except ValueError as exc:
        raise ValueError(f"HOTLOOP_BACKEND: {exc}") from None


# Not run[T](): an older Python has to get as far as saying that it is too old.
def run(  # noqa: UP047 - older ones cannot read that
    main: Coroutine[Any, Any, _T], *, debug: bool | None = None, backend: str | None = None
) -> _T:
    """asyncio.run() on a hotloop loop: same meaning, same errors."""
    factory = functools.partial(new_event_loop, backend)
    return asyncio.run(main, debug=debug, loop_factory=factory)
