"""Results as text on a terminal."""

from __future__ import annotations

from typing import Any

from arms import FLOOR
from results import Results
from runner import Cell, Setting

WIDE = 30
UNITS = {"servers": "requests/s", "scale": "ns or KiB"}


def about(facts: dict[str, Any], setting: Setting) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    pinned = "not pinned" if setting.cpu is None else f"pinned to CPU {setting.cpu}"
    return (
        f"Python {facts['python']} on {facts['cpus']} × {facts['cpu']}, {facts['date']}\n"
        f"{versions}\n"
        f"Medians of {setting.rounds} rounds of {setting.repeats}, {pinned}."
    )


def show(cell: Cell, group: str) -> str:
    """A cell's figure in the unit of its group."""
    value = cell.main()
    if value is None:
        return "-"
    if "bytes" in cell.figures:
        return f"{value / 1024:.2f} KiB"
    return f"{1e9 / value if group == 'servers' else value:,.0f}"


def over(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"


def head(group: str, arms: list[str], base: str) -> str:
    """The columns: figures; ratios over the base by the clock, of CPU time; the floor's share."""
    others = "".join(f"{name[-8:]:>9}" for name in arms if name != base)
    title = f"{group}, {UNITS.get(group, 'ns an operation')}"
    return (
        f"\n{title:{WIDE}}"
        + "".join(f"{name[-11:]:>12}" for name in arms)
        + f" | over {base[-8:]}:{others} | CPU:{others} | floor"
    )


def line(results: Results, name: str) -> str:
    row, cells, base = results.rows[name], results.cells(name), results.base
    text = f"{row['title']:{WIDE}}"
    text += "".join(f"{show(cells[arm], row['group']):>12}" for arm in results.arms)
    for kind, gap in (("", len(base[-8:]) + 9), ("cpu", 7)):
        text += " | ".ljust(gap)
        for arm in results.arms:
            if arm != base:
                text += f"{over(results.ratio(name, arm, kind)):>9}"
    return text + " | " + share(cells, main_arm(results.arms))


def main_arm(arms: list[str]) -> str:
    """Whose share of the floor is shown."""
    return "hotloop" if "hotloop" in arms else arms[-1]


def share(cells: dict[str, Cell], arm: str) -> str:
    """How much of the C program's speed the arm reaches."""
    if FLOOR not in cells or arm not in cells:
        return ""
    floor, own = cells[FLOOR].main(), cells[arm].main()
    return f"{floor / own:.0%}" if floor and own else ""


def below(cells: dict[str, Cell]) -> list[str]:
    """Lines under a row: a server's other figures, and why a cell has none."""
    lines = []
    for kind, title, unit in (("p99", "p99, ms", 1e3), ("rss", "memory, MiB", 1 << 20)):
        found = [(arm, cell.median(kind)) for arm, cell in cells.items()]
        if any(value is not None for _, value in found):
            shown = [f"{arm} {value / unit:.2f}" for arm, value in found if value is not None]
            lines.append(f"    {title}: " + ", ".join(shown))
    lines += [f"    {arm}: {cell.reason[:200]}" for arm, cell in cells.items() if cell.reason]
    return lines
