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
    """The columns: figures, ratios over the base, the share of the floor."""
    title = f"{group}, {UNITS.get(group, 'ns an operation')}"
    figures = "".join(f"{name[-11:]:>12}" for name in arms)
    ratios = "".join(f"{name[-8:]:>9}" for name in arms if name != base)
    return f"\n{title:{WIDE}}{figures} | over {base[-8:]}:{ratios} | floor"


def line(results: Results, name: str) -> str:
    row, cells = results.rows[name], results.cells(name)
    figures = "".join(f"{show(cells[arm], row['group']):>12}" for arm in results.arms)
    text = f"{row['title']:{WIDE}}{figures} | " + " " * (len(results.base[-8:]) + 6)
    text += ratios(results, name, "")
    return f"{text} | {share(cells, main_arm(results.arms))}".rstrip(" |")


def ratios(results: Results, name: str, kind: str) -> str:
    arms = [arm for arm in results.arms if arm != results.base]
    return "".join(f"{over(results.ratio(name, arm, kind)):>9}" for arm in arms)


def cpu_table(results: Results) -> str:
    """Ratios of CPU time, both ends in it: they move less on a machine with other work to do."""
    title = f"CPU time, over {results.base}"
    heads = "".join(f"{arm[-8:]:>9}" for arm in results.arms if arm != results.base)
    lines = [f"\n{title:{WIDE}}{heads}"]
    for name, row in results.rows.items():
        if any("cpu" in cell.figures for cell in results.cells(name).values()):
            lines.append(f"{row['title']:{WIDE}}{ratios(results, name, 'cpu')}")
    return "\n".join(lines) if len(lines) > 1 and len(results.arms) > 1 else ""


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
