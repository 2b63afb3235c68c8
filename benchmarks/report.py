"""Results as text."""

from __future__ import annotations

from typing import Any

from arms import FLOOR
from results import median
from runner import Cell, Setting

WIDE = 26


def about(facts: dict[str, Any], setting: Setting) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return (
        f"Python {facts['python']} on {facts['cpus']} of {facts['cpu']}, {facts['date']}\n"
        f"{versions}\n"
        f"Medians of {setting.rounds} rounds of {setting.repeats}, pinned to CPU {setting.cpu}: "
        f"ns an operation"
    )


def head(group: str, arms: list[str], base: str) -> str:
    line = f"\n{group:{WIDE}}" + "".join(f"{name[-11:]:>12}" for name in arms)
    line += f"  | {base}'s over" + "".join(f"{name[-7:]:>8}" for name in arms if name != base)
    return line + f"{'floor':>7}"


def ratio(own: float | None, other: float | None) -> float | None:
    return other / own if own and other else None


def line(title: str, cells: dict[str, Cell], arms: list[str], base: str) -> str:
    """Medians; ratios where there are two; CPU time's ratio in brackets; share of the floor."""
    wall = {name: median(cell.wall) for name, cell in cells.items()}
    text = f"{title:{WIDE}}"
    for name in arms:
        figure = wall[name]
        text += f"{'-':>12}" if figure is None else f"{figure:>12,.0f}"
    text += f"  | {'':{len(base) + 7}}"
    for name in arms:
        if name != base:
            over = ratio(wall[name], wall.get(base))
            text += f"{'-':>8}" if over is None else f"{over:>8.2f}"
    own = "hotloop" if "hotloop" in arms else arms[-1]
    share = ratio(wall[own], wall.get(FLOOR))
    return text + (f"{share:>7.0%}" if share else "")
