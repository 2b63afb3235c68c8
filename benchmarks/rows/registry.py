"""What a row is, and all of them by name.

A row is a piece of work that is measured on every loop. Its work is a coroutine function: called
with a count on a running loop, it returns what so many operations took. What it sets up and takes
down is not measured.
"""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar


class Spent(NamedTuple):
    """Seconds by the clock, and of this process's CPU time (both ends are in it)."""

    wall: float
    cpu: float

    def __add__(self, other: object) -> Spent:
        assert isinstance(other, Spent)
        return Spent(self.wall + other.wall, self.cpu + other.cpu)


def begin() -> Spent:
    """A point in time, for since()."""
    return Spent(time.perf_counter(), time.process_time())


def since(start: Spent) -> Spent:
    cpu = time.process_time()
    return Spent(time.perf_counter() - start.wall, cpu - start.cpu)


class Grown(NamedTuple):
    """Bytes by which this process's resident memory grew, for `items` things made."""

    bytes: int
    items: int


Work = Callable[[int], Coroutine[Any, Any, Spent | Grown]]
W = TypeVar("W", bound=Work)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    `count` operations make one measurement. `floor` are the arguments of the C program that
    does the same (floor/echo.c), for the rows that have one. A row that sets up much is measured
    `once` a process, and warms up by itself. A row of `servers` names the application instead
    of a work.
    """

    name: str
    title: str
    group: str
    count: int
    says: str
    work: Work | None = None
    floor: tuple[str, ...] = ()
    once: bool = False


ROWS: dict[str, Row] = {}


def add(row: Row) -> None:
    assert row.name not in ROWS, row.name
    ROWS[row.name] = row


def row(
    group: str,
    name: str,
    title: str,
    count: int,
    floor: tuple[str, ...] = (),
    *,
    once: bool = False,
) -> Callable[[W], W]:
    """Register a coroutine function as the work of a row; it says what one operation is."""

    def register(work: W) -> W:
        says = (work.__doc__ or "").strip().splitlines()[0]
        add(Row(name, title, group, count, says, work, floor, once))
        return work

    return register


def choose(patterns: str, among: Iterable[Row]) -> list[Row]:
    """The rows whose name, title or group matches one of the patterns; in the table's order.

    A title may have a comma in it, so a pattern that is one whole title is taken as it is.
    """
    rows = list(among)
    asked = [patterns] if any(row.title == patterns for row in rows) else patterns.split(",")
    wanted = [pattern.strip() for pattern in asked if pattern.strip()]
    chosen = [
        row
        for row in rows
        if any(
            fnmatch.fnmatchcase(text, pattern)
            for pattern in wanted
            for text in (row.name, row.title, row.group)
        )
    ]
    for pattern in wanted:
        if not any(
            fnmatch.fnmatchcase(text, pattern)
            for row in rows
            for text in (row.name, row.title, row.group)
        ):
            raise SystemExit(f"no row and no group is called {pattern!r} (--list shows all)")
    return chosen
