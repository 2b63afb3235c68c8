"""Bar charts as SVG: how many times the base arm's speed, on a logarithmic axis.

One per group, and `overview.svg`, which has a few rows of each: README.md shows it.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from results import Results

COLOURS = {
    "asyncio": "#9aa0a6",
    "uvloop": "#4c78a8",
    "zuvloop": "#b279a2",
    "rloop": "#f2b134",
    "rsloop": "#72b7b2",
    "hotloop": "#e4572e",
}
SPARE = ["#54a24b", "#9c755f", "#bab0ac"]
OVERVIEW = (
    "call_soon",
    "sleep0",
    "create_await",
    "timer_cancel",
    "tcp_echo_1k",
    "streams_readline",
    "tls_echo_1k",
    "udp_512",
    "spawn",
    "uvicorn_13",
    "aiohttp",
)


def colour(arm: str, index: int) -> str:
    return COLOURS.get(arm, SPARE[index % len(SPARE)])


def draw(results: Results, names: list[str], title: str, path: Path) -> None:
    """A chart of these rows; without matplotlib there is none, and ImportError says so."""
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("svg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    settings = {"svg.fonttype": "none", "svg.hashsalt": "hotloop", "font.size": 9}
    with matplotlib.rc_context(settings):
        figure = chart(pyplot, results, names, title)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(
            path, format="svg", bbox_inches="tight", facecolor="white", metadata={"Date": None}
        )
        pyplot.close(figure)
    lines = path.read_text().splitlines()
    path.write_text("".join(line.rstrip() + "\n" for line in lines))  # it leaves blanks at ends


def chart(pyplot: Any, results: Results, names: list[str], title: str) -> Any:
    arms = [arm for arm in results.arms if arm != results.base]
    thick = 0.8 / max(1, len(arms))
    figure, axes = pyplot.subplots(figsize=(8, 0.8 + len(names) * (0.18 + 0.09 * len(arms))))
    for index, arm in enumerate(arms):
        found = [(place, results.ratio(name, arm)) for place, name in enumerate(names)]
        bars = [(place, ratio) for place, ratio in found if ratio]
        axes.barh(
            [place + (index - (len(arms) - 1) / 2) * thick for place, _ in bars],
            [ratio - 1 for _, ratio in bars],
            thick,
            left=1,
            color=colour(arm, index),
            clip_on=False,
            label=arm,
        )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(pyplot.FuncFormatter(lambda value, _: f"{value:g}×"))
    axes.set_yticks(range(len(names)), [results.rows[name]["title"] for name in names])
    axes.invert_yaxis()
    axes.axvline(1, color="#4c78a8", linewidth=1)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    about = results.about
    axes.set_title(
        f"{title}times as fast as {results.base} (Python {about['python']}, {about['date']})",
        loc="left",
        fontsize=10,
    )
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def draw_all(results: Results, folder: Path, prefix: str = "") -> list[Path]:
    """A chart a group, and the overview; none, aloud, where matplotlib is missing."""
    charts = {group: (results.group(group), f"{group}: ") for group in results.groups()}
    shown = [name for name in OVERVIEW if name in results.rows]
    if shown:
        charts["overview"] = (shown, "")
    paths = []
    for stem, (names, title) in charts.items():
        path = folder / f"{prefix}{stem}.svg"
        try:
            draw(results, names, title, path)
        except ImportError as missing:
            print(f"no charts: {missing}")
            return []
        paths.append(path)
    return paths
