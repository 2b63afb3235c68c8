"""Live objects of `_asyncio` with known contents, for the layout check at import.

`csrc/py/compat.c` reads the fields it expects at the offsets it expects and compares.
"""

from __future__ import annotations

import _asyncio
import asyncio.base_events
import contextvars
import inspect
import sys
from collections.abc import Callable
from typing import Any

_create_task = inspect.signature(asyncio.base_events.BaseEventLoop.create_task).parameters
# Where loop.create_task() hands any keyword on to the task, eager_start is one of them.
TAKES_EAGER_START = "eager_start" in _create_task or "kwargs" in _create_task


class _Loop:
    """As much of a loop as a future asks for when nothing ever runs."""

    def get_debug(self) -> bool:
        return False

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Any = None) -> None:
        """Drop the callback: the probe's objects never run."""


def _callback(future: Any) -> None:
    """Stand in a future's first callback field."""


async def _coroutine() -> None:
    """Stand in a task's coroutine field."""


def _stops_with_none() -> bool:
    """Whether a finished future's iterator says StopIteration(None), not StopIteration()."""
    loop: Any = _Loop()
    done: Any = _asyncio.Future(loop=loop)
    done.set_result(None)
    try:
        done.__await__().send(None)
    except StopIteration as stop:
        return stop.args == (None,)
    except Exception:  # a Future that is not known: it is told of below, and not used
        return False
    return False


# From 3.14 on it does, and in 3.13 from some bugfix on.
STOPS_WITH_NONE = _stops_with_none()


def probe() -> tuple[Any, ...]:
    """Return objects and what their fields must hold (the order is compat.c's)."""
    loop: Any = _Loop()
    result = object()
    done: Any = _asyncio.Future(loop=loop)
    done.set_result(result)
    waiting: Any = _asyncio.Future(loop=loop)
    context = contextvars.copy_context()
    waiting.add_done_callback(_callback, context=context)
    waiting._asyncio_future_blocking = True
    coroutine = _coroutine()
    name = "hotloop-layout-probe"
    task = _asyncio.Task(coroutine, loop=loop, name=name, context=context)
    # The C side unregisters the task once it has seen it registered.
    if sys.version_info >= (3, 14):
        asyncio.future_add_to_awaited_by(waiting, task)
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    task.cancel()
    task.cancel()
    coroutine.close()
    return (loop, done, result, waiting, _callback, context, task, coroutine, name, context)
