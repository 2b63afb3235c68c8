"""What was measured, and on what: kept row by row, saved as JSON."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import platform
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arms import arm
from runner import Cell


def median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


def cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def describe(arms: list[str]) -> dict[str, Any]:
    """The machine, the Python, the loops and the day."""
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "machine": platform.machine(),
        "cpu": cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: arm(name).version() for name in arms},
    }


@dataclass
class Results:
    arms: list[str]
    base: str
    about: dict[str, Any]
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, name: str, title: str, group: str, says: str, cells: dict[str, Cell]) -> None:
        self.rows[name] = {
            "title": title,
            "group": group,
            "operation": says,
            "arms": {arm: dataclasses.asdict(cell) for arm, cell in cells.items()},
        }

    def save(self, path: str) -> None:
        """As JSON; an interruption leaves the old file or the new one."""
        text = json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n"
        aside = Path(path + ".new")
        aside.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(text)
        aside.replace(path)
