"""What of asyncio's streams `csrc/net/feed.c` stands in for, as it is when hotloop is imported.

A transport whose protocol is exactly a StreamReaderProtocol, with exactly a StreamReader, puts
what arrives into the reader's buffer itself. It may as long as nothing that would have run in
between has been patched.
"""

from __future__ import annotations

import sys
from asyncio import streams
from types import FunctionType
from typing import Any

_NAMES = (
    (streams.StreamReaderProtocol, "data_received"),
    (streams.StreamReaderProtocol, "_stream_reader"),
    (streams.StreamReader, "feed_data"),
    (streams.StreamReader, "_wakeup_waiter"),
)


def _asyncios(function: Any, name: str) -> bool:
    """Is it the function that asyncio's own module defines under that qualified name?"""
    return (
        type(function) is FunctionType
        and function.__globals__ is vars(streams)
        and function.__code__.co_qualname == name
    )


def _seen() -> tuple[Any, ...]:
    """What the classes have, then the functions of that, then their codes.

    Empty, and these streams are left alone: where somebody had patched one before, or where
    nobody has compared this version's with feed.c yet.
    """
    found = [vars(cls).get(name) for cls, name in _NAMES]
    functions = [one.fget if type(one) is property else one for one in found]
    for function, (cls, name) in zip(functions, _NAMES, strict=True):
        if not _asyncios(function, f"{cls.__name__}.{name}") or sys.version_info >= (3, 16):
            return ()
    return (*found, *functions, *(function.__code__ for function in functions if function))


SEEN = _seen()
