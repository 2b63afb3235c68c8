"""The floor: the echo rows in plain C on epoll (echo.c), compiled when first needed."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from runner import Failed, Figures, Setting, run

SOURCE = Path(__file__).resolve().parent / "echo.c"
PROGRAM = SOURCE.parents[2] / "build" / f"floor{os.environ.get('HOTLOOP_PLACE', '')}" / "echo"


@functools.cache
def build() -> bool:
    """Compile it, if it is not there or older than its source; False: it cannot be had here."""
    if PROGRAM.exists() and PROGRAM.stat().st_mtime >= SOURCE.stat().st_mtime:
        return True
    compiler = os.environ.get("CC", "cc").split()
    if shutil.which(compiler[0]) is None:
        print(f"no C compiler ({compiler[0]}): no floor beside the echo rows", file=sys.stderr)
        return False
    PROGRAM.parent.mkdir(parents=True, exist_ok=True)
    command = [*compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(PROGRAM), str(SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"no floor beside the echo rows:\n{done.stderr}", file=sys.stderr)
    return not done.returncode


def floor(arguments: tuple[str, ...], count: int, setting: Setting) -> Figures:
    """Figures as an arm's, in the same bounds and on the same CPU."""
    command = [str(PROGRAM), *arguments, str(count)]
    if setting.cpu is not None and shutil.which("taskset"):
        command = ["taskset", "-c", str(setting.cpu), *command]
    figures: Figures = {"wall": [], "cpu": []}
    for _ in range(setting.repeats):
        try:
            one = json.loads(run(command, setting.seconds))
        except ValueError:
            raise Failed("the C program printed no figure") from None
        for kind in figures:
            figures[kind] += one[kind]
    return figures
