"""Figures from processes of their own: pinned, bounded in time, the arms taking turns.

A crash or a hang costs one cell of the table: that arm on that row, and its reason is kept.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent


#: Values by kind, one a measurement: nanoseconds an operation by the clock ("wall") and of CPU
#: time ("cpu"); "bytes" a thing; a server's "p99" in microseconds and "rss" in bytes.
Figures = dict[str, list[float]]


@dataclass
class Cell:
    """What an arm did on a row; or why nothing."""

    figures: Figures = field(default_factory=dict)
    reason: str = ""

    def median(self, kind: str) -> float | None:
        values = self.figures.get(kind)
        return statistics.median(values) if values else None

    def main(self) -> float | None:
        """What the table shows, the less the better: bytes, or nanoseconds by the clock."""
        return self.median("bytes" if "bytes" in self.figures else "wall")


@dataclass(frozen=True)
class Setting:
    """How figures are taken."""

    rounds: int = 5
    repeats: int = 3
    seconds: float = 60.0  # that one process may take
    load: int = 4  # seconds of wrk a measurement
    cpu: int | None = None
    count: int | None = None


class Failed(Exception):
    """There is no figure; the message is the reason."""


def why(code: int, errors: str) -> str:
    """One line about a process that failed."""
    lines = [line.strip() for line in errors.strip().splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        fatal = next((line for line in lines if line.startswith("Fatal")), last)
        return f"crashed with {name}" + (f" ({fatal})" if fatal else "")
    return last or f"exit code {code}"


def run(command: list[str], seconds: float) -> str:
    """What a program prints. Its own children end with it, however it ends."""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as child:
        try:
            output, errors = child.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise Failed(f"nothing within {seconds:.0f} s") from None
        finally:
            kill_group(child.pid)
    if child.returncode:
        raise Failed(why(child.returncode, errors))
    return output


def kill_group(pid: int) -> None:
    """End a process that leads a session, and all that it started."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def ask(row: str, arm: str, setting: Setting) -> Figures:
    """A figure of a row on a loop."""
    command = [sys.executable, str(HERE / "worker.py"), row, arm]
    command += ["--repeats", str(setting.repeats)]
    if setting.cpu is not None:
        command += ["--cpu", str(setting.cpu)]
    if setting.count is not None:
        command += ["--count", str(setting.count)]
    output = run(command, setting.seconds)
    try:
        figures: Figures = json.loads(output.strip().splitlines()[-1])
        return {str(kind): [*map(float, values)] for kind, values in figures.items()}
    except (ValueError, IndexError, AttributeError, TypeError):
        raise Failed(f"printed no figure but {output.strip()[-80:]!r}") from None


def turns(arms: list[str], number: int) -> list[str]:
    """The arms in this round's order: each round starts elsewhere, every other one backwards."""
    start = number % len(arms)
    order = arms[start:] + arms[:start]
    return order[::-1] if number % 2 else order


Measure = Callable[[str], Figures]


def take_turns(
    arms: list[str], rounds: int, measure: Measure, progress: Callable[[int, str], None]
) -> dict[str, Cell]:
    """Every arm once a round. Who fails keeps the reason and is not asked again."""
    cells = {arm: Cell() for arm in arms}
    for number in range(rounds):
        for arm in turns(arms, number):
            cell = cells[arm]
            if cell.reason:
                continue
            progress(number, arm)
            try:
                figures = measure(arm)
            except Failed as failed:
                cells[arm] = Cell(reason=str(failed))
            else:
                for kind, values in figures.items():
                    cell.figures.setdefault(kind, []).extend(values)
    return cells
