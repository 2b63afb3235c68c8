"""What of asyncio's streams `csrc/net/feed.c` stands in for, and whether it is still as it was.

A transport whose protocol is exactly a StreamReaderProtocol, with exactly a StreamReader, puts
what arrives into the reader's buffer itself. It may as long as nothing that would have run in
between, or that would have seen it, has been patched.
"""

from __future__ import annotations

import sys
from asyncio import streams
from types import CodeType, FunctionType
from typing import Any

_NAMES = (
    (streams.StreamReaderProtocol, "data_received"),
    (streams.StreamReaderProtocol, "_stream_reader"),
    (streams.StreamReader, "feed_data"),
    (streams.StreamReader, "_wakeup_waiter"),
)
_FIELDS = (
    (streams.StreamReaderProtocol, ("_stream_reader_wr",)),
    (
        streams.StreamReader,
        ("_buffer", "_eof", "_limit", "_paused", "_transport", "_waiter"),
    ),
)
_HOOKS = ("__getattribute__", "__getattr__", "__setattr__", "__delattr__")


def _found(cls: type, name: str) -> Any:
    """What the class itself has under that name; of a property, its function."""
    found = vars(cls).get(name)
    return found.fget if type(found) is property else found


def _seen() -> tuple[FunctionType | CodeType, ...]:
    """Each function and its code, in the order of _NAMES; empty: leave these streams alone.

    That is so where somebody had patched one before, or nobody has compared it with feed.c yet.
    """
    pairs: list[FunctionType | CodeType] = []
    for cls, name in _NAMES:
        found = _found(cls, name)
        if not isinstance(found, FunctionType) or found.__globals__ is not vars(streams):
            return ()
        if found.__code__.co_qualname != f"{cls.__name__}.{name}":
            return ()
        pairs += [found, found.__code__]
    return tuple(pairs) if sys.version_info < (3, 16) else ()


SEEN = _seen()


def untouched() -> bool:
    """Are the classes what they were at import? Asked again whenever one of them changed.

    Not about the functions' code: feed.c looks at that each time.
    """
    if [_found(cls, name) for cls, name in _NAMES] != list(SEEN[::2]):
        return False
    return not any(
        name in vars(base)
        for cls, fields in _FIELDS
        for base in cls.__mro__[:-1]
        for name in (*fields, *_HOOKS)
    )
