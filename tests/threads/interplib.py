"""Interpreters with a GIL of their own, by whichever module this version of Python has."""

from __future__ import annotations

import importlib
import sys
import textwrap
from pathlib import Path
from typing import Any

import hotloop

HOME = str(Path(hotloop.__file__).parent.parent)


class Interpreter:
    """One interpreter; run() raises what the code in it raised, as text."""

    def __init__(self) -> None:
        if sys.version_info >= (3, 14):
            self.own: Any = importlib.import_module("concurrent.interpreters").create()
        elif sys.version_info >= (3, 13):
            self.low: Any = importlib.import_module("_interpreters")
            self.own = self.low.create("isolated")
        else:
            self.low = importlib.import_module("_xxsubinterpreters")
            self.own = self.low.create(isolated=True)
        self.run(f"import sys; sys.path[:] = {[HOME, *sys.path]!r}")

    def run(self, code: str) -> None:
        code = textwrap.dedent(code)
        if sys.version_info >= (3, 14):
            self.own.exec(code)
        elif (failed := self.low.run_string(self.own, code)) is not None:
            raise RuntimeError(getattr(failed, "errdisplay", None) or failed.formatted)

    def close(self) -> None:
        if sys.version_info >= (3, 14):
            self.own.close()
        else:
            self.low.destroy(self.own)
