"""The arms: the loops that are compared, as the registry delivers them."""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass

LoopFactory = Callable[[], asyncio.AbstractEventLoop]

#: Arms, in the order of the table, and where their loops come from.
ARMS = {
    "asyncio": ("asyncio", "SelectorEventLoop"),
    "uvloop": ("uvloop", "new_event_loop"),
    "zuvloop": ("zuvloop", "new_event_loop"),
    "rloop": ("rloop", "new_event_loop"),
    "rsloop": ("rsloop", "new_event_loop"),
    "hotloop": ("hotloop", "new_event_loop"),
}

#: The arm that ratios are over, and the one that stands in for it where it is missing.
BASES = ("uvloop", "asyncio")

#: Not a loop: the C program that does the same as a row (floor/echo.c).
FLOOR = "floor"


@dataclass(frozen=True)
class Arm:
    """A loop; `folder` is searched for it first, so that two builds of one loop can be compared."""

    name: str
    module: str
    attribute: str
    folder: str = ""

    def factory(self) -> LoopFactory:
        """Import it, in this process only: some peers patch asyncio for all who are in it."""
        if self.folder:
            sys.path.insert(0, self.folder)
        factory: LoopFactory = getattr(importlib.import_module(self.module), self.attribute)
        return factory

    def missing(self) -> bool:
        return not self.folder and importlib.util.find_spec(self.module) is None

    def version(self) -> str:
        if self.module == "asyncio":
            return ".".join(map(str, sys.version_info[:3]))
        if self.folder:
            return self.folder
        try:
            return importlib.metadata.version(self.module)
        except importlib.metadata.PackageNotFoundError:
            return "?"


def arm(name: str) -> Arm:
    """The arm `NAME`, or `NAME@FOLDER` for a build of it in a folder."""
    loop, _, folder = name.partition("@")
    if loop not in ARMS:
        raise SystemExit(f"no arm is called {loop!r} (they are {', '.join(ARMS)})")
    return Arm(name, *ARMS[loop], folder)
