"""What of asyncio's streams `csrc/net/feed.c` stands in for, as it is when hotloop is imported.

A transport whose protocol is exactly a StreamReaderProtocol, with exactly a StreamReader, puts
what arrives into the reader's buffer itself. It may as long as nothing that would have run in
between has been patched. `csrc/net/child.c` does the same for the pipes of child processes.
"""

from __future__ import annotations

import sys
from asyncio import base_subprocess, streams, subprocess
from types import FunctionType
from typing import Any

_Names = tuple[tuple[type, str], ...]

_STREAMS: _Names = (
    (streams.StreamReaderProtocol, "data_received"),
    (streams.StreamReaderProtocol, "_stream_reader"),
    (streams.StreamReader, "feed_data"),
    (streams.StreamReader, "_wakeup_waiter"),
)
_CHILDREN: _Names = (
    (base_subprocess.ReadSubprocessPipeProto, "data_received"),
    (base_subprocess.BaseSubprocessTransport, "_pipe_data_received"),
    (base_subprocess.BaseSubprocessTransport, "_call"),
    (subprocess.SubprocessStreamProtocol, "pipe_data_received"),
)


def _asyncios(function: Any, cls: type, name: str) -> bool:
    """Is it the function that asyncio's own module defines under that qualified name?"""
    return (
        type(function) is FunctionType
        and cls.__module__.startswith("asyncio.")
        and function.__globals__ is vars(sys.modules[cls.__module__])
        and function.__code__.co_qualname == f"{cls.__name__}.{name}"
    )


def _seen(names: _Names) -> tuple[Any, ...]:
    """What the classes have, then the functions of that, then their codes.

    Empty, and these streams are left alone: where somebody had patched one before, or where
    nobody has compared this version's with what C does yet.
    """
    found = [vars(cls).get(name) for cls, name in names]
    functions = [one.fget if type(one) is property else one for one in found]
    for function, (cls, name) in zip(functions, names, strict=True):
        if not _asyncios(function, cls, name) or sys.version_info >= (3, 16):
            return ()
    return (*found, *functions, *(function.__code__ for function in functions if function))


SEEN = _seen(_STREAMS)
CHILDREN_SEEN = _seen(_CHILDREN)
