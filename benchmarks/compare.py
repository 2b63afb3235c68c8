"""Compare hotloop with stock asyncio and other loops, side by side.

    python benchmarks/compare.py [--arms a,b,..] [--rows PATTERN,..] [--rounds N] [--json FILE]

Every figure comes from a process of its own, pinned to one CPU. Machines are noisy, so the arms
take turns: a round measures every arm, and a figure is the median of all measurements. Ratios are
of medians, the base arm's (uvloop's, where it is there) over the arm's own: above 1 the arm is
faster. An arm that is not installed is said so; one that raises, crashes or hangs gets a "-"
there, and the reason below. ARM@FOLDER is a build of that loop in a folder.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import report
from arms import ARMS, BASES, FLOOR, arm
from floor import build, floor
from results import Results, describe
from rows import ROWS, Row, choose
from runner import Cell, Figures, Setting, ask, take_turns
from servers import wrk

#: Groups whose figures take seconds each and differ little: three fifths of the rounds.
SLOW = ("servers", "scale")
USUAL = "scheduling,tasks,transports,servers,scale"


def find_arms(names: list[str]) -> list[str]:
    """Those that are installed."""
    missing = [name for name in names if arm(name).missing()]
    for name in missing:
        print(f"{name}: not installed here", file=sys.stderr)
    return [name for name in names if name not in missing]


def show_progress(text: str) -> None:
    """One line on a terminal, rewritten; elsewhere nothing but the table."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def measure_row(row: Row, arms: list[str], setting: Setting, at: str) -> dict[str, Cell]:
    """The row on every arm, and on the C program beside them if it has that row."""
    every = [*arms, FLOOR] if row.floor and build() else arms
    rounds = setting.rounds if row.group not in SLOW else max(1, setting.rounds * 3 // 5)

    def measure(name: str) -> Figures:
        if name == FLOOR:
            return floor(row.floor, setting.count or row.count, setting)
        if row.work is None:
            return wrk.ask(row.name, name, setting)
        return ask(row.name, name, setting)

    def progress(number: int, name: str) -> None:
        show_progress(f"{at} {row.title}: round {number + 1} of {rounds}, {name}")

    try:
        return take_turns(every, rounds, measure, progress)
    finally:
        show_progress("")


def measure_rows(rows: list[Row], results: Results, setting: Setting, path: Path | None) -> None:
    """Measure, print and save, row by row: what is measured survives an interruption."""
    group = ""
    for index, row in enumerate(rows):
        if row.group != group:
            group = row.group
            print(report.head(group, results.arms, results.base), flush=True)
        at = f"[{index + 1}/{len(rows)}]"
        cells = measure_row(row, results.arms, setting, at)
        results.add(row, cells)
        print("\n".join([report.line(results, row.name), *report.below(cells)]), flush=True)
        if path:
            results.save(path)


def measurable(rows: list[Row]) -> list[Row]:
    """Without the servers, aloud, where there is no load for them."""
    if wrk.available() or not any(row.work is None for row in rows):
        return rows
    print("wrk is not on PATH (it is a package of that name): no servers", file=sys.stderr)
    return [row for row in rows if row.work is not None]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--arms", default=",".join(ARMS), help="comma-separated")
    parser.add_argument("--rows", default=USUAL, help="names, titles, groups or patterns")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3, help="measurements a process")
    parser.add_argument("--count", type=int, help="operations a measurement, for all rows")
    parser.add_argument("--limit", type=float, default=60, help="seconds a process may take")
    parser.add_argument("--load", type=int, default=4, help="seconds of wrk a measurement")
    parser.add_argument("--cpu", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures")
    parser.add_argument("--list", action="store_true", help="show the rows")
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.list:
        for row in ROWS.values():
            print(f"{row.group:12}{row.name:24}{row.title:34}{row.says}")
        return
    rows = measurable(choose(options.rows, ROWS.values()))
    arms = find_arms(options.arms.split(","))
    if not arms or not rows:
        raise SystemExit("nothing to measure")
    base = next((name for name in BASES if name in arms), arms[0])
    results = Results(arms=arms, base=base, about=describe(arms))
    setting = Setting(
        options.rounds, options.repeats, options.limit, options.load, options.cpu, options.count
    )
    print(report.about(results.about, setting), flush=True)
    start = time.monotonic()
    measure_rows(rows, results, setting, options.json)
    print(report.cpu_table(results))
    print(f"\n{len(rows)} rows in {(time.monotonic() - start) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
