"""What a handle says when its callback raised or was slow: asyncio's words."""

from __future__ import annotations

import inspect
import logging
from asyncio import format_helpers, tasks
from typing import Any

logger = logging.getLogger("asyncio")

# 3.13 gave the formatter a keyword that hides arguments outside debug mode.
_TAKES_DEBUG = "debug" in inspect.signature(format_helpers._format_callback_source).parameters


def callback_source(callback: Any, args: Any, loop: Any) -> str:
    """Name a callback and where it is defined, as asyncio's log lines do."""
    if _TAKES_DEBUG:
        text: str = format_helpers._format_callback_source(  # type: ignore[call-arg]
            callback, args, debug=loop.get_debug()
        )
    else:
        text = format_helpers._format_callback_source(callback, args)
    return text


def handle_failed(handle: Any, loop: Any, callback: Any, args: Any, exc: BaseException) -> None:
    """Tell the loop's exception handler that a handle's callback raised `exc`."""
    context = {
        "message": f"Exception in callback {callback_source(callback, args, loop)}",
        "exception": exc,
        "handle": handle,
    }
    if handle._source_traceback:
        context["source_traceback"] = handle._source_traceback
    loop.call_exception_handler(context)


def slow_callback(handle: Any, seconds: float) -> None:
    """Log, in debug mode, that a callback, or a transport with its protocol, held the loop up."""
    owner = getattr(getattr(handle, "_callback", None), "__self__", None)
    text = repr(owner) if isinstance(owner, tasks.Task) else str(handle)
    logger.warning("Executing %s took %.3f seconds", text, seconds)
