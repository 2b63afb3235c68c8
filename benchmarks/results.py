"""What was measured, and on what: kept row by row, saved as JSON."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import platform
import resource
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arms import arm
from rows import Row
from runner import Cell


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
        "descriptors": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {name: arm(name).version() for name in arms},
    }


@dataclass
class Results:
    """`rows`: name -> title, group, operation, date and, for each arm, figures and reason."""

    arms: list[str]
    base: str
    about: dict[str, Any]
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, row: Row, cells: dict[str, Cell]) -> None:
        self.rows[row.name] = {
            "title": row.title,
            "group": row.group,
            "operation": row.says,
            "arms": {arm: dataclasses.asdict(cell) for arm, cell in cells.items()},
        }

    def cells(self, name: str) -> dict[str, Cell]:
        return {arm: Cell(**cell) for arm, cell in self.rows[name]["arms"].items()}

    def group(self, group: str) -> list[str]:
        """The names of a group's rows."""
        return [name for name, row in self.rows.items() if row["group"] == group]

    def groups(self) -> list[str]:
        return list(dict.fromkeys(row["group"] for row in self.rows.values()))

    def ratio(self, name: str, arm: str, kind: str = "") -> float | None:
        """The base's median over the arm's: above 1, the arm takes less."""
        cells = self.cells(name)
        if arm not in cells or self.base not in cells:
            return None
        own = cells[arm].median(kind) if kind else cells[arm].main()
        other = cells[self.base].median(kind) if kind else cells[self.base].main()
        return other / own if own and other else None

    def save(self, path: Path) -> None:
        """As JSON; an interruption leaves the old file or the new one."""
        text = json.dumps(dataclasses.asdict(self), ensure_ascii=False)
        text = text.replace('}, "', '},\n"')
        aside = path.with_name(path.name + ".new")
        aside.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(text + "\n")
        aside.replace(path)


def load(path: Path) -> Results:
    return Results(**json.loads(path.read_text()))
