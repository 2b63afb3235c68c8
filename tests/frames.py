"""Calls of Python functions counted by sys.monitoring, which keeps hotloop from no short way."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from types import CodeType

TOOL = 4  # a sys.monitoring number that has no fixed owner


@contextlib.contextmanager
def counted(codes: Iterable[CodeType]) -> Iterator[Counter[str]]:
    """How often each of these functions has been entered, by its name."""
    count: Counter[str] = Counter()
    monitoring = sys.monitoring

    def entered(code: CodeType, offset: int) -> None:
        count[code.co_name] += 1

    monitoring.use_tool_id(TOOL, "hotloop tests")
    monitoring.register_callback(TOOL, monitoring.events.PY_START, entered)
    watched = list(codes)
    for code in watched:
        monitoring.set_local_events(TOOL, code, monitoring.events.PY_START)
    try:
        yield count
    finally:
        for code in watched:
            monitoring.set_local_events(TOOL, code, 0)
        monitoring.register_callback(TOOL, monitoring.events.PY_START, None)
        monitoring.free_tool_id(TOOL)
