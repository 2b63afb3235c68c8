"""Compare hotloop with stock asyncio and other loops, side by side in one process.

    python benchmarks/compare.py [--arms a,b,..] [--rows NAME,..] [--rounds N] [--json FILE]

Machines are noisy, so the arms take turns: a round measures every arm once, and a figure is
the median of the rounds. Ratios are of medians, the base arm's (uvloop's, where it is there)
over the arm's own: above 1 the arm is faster. An arm that is not installed is said so.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import platform
import statistics
import sys

from rows import ROWS, LoopFactory, measure

ARMS = {
    "asyncio": ("asyncio", "SelectorEventLoop"),
    "uvloop": ("uvloop", "new_event_loop"),
    "rloop": ("rloop", "new_event_loop"),
    "hotloop": ("hotloop", "new_event_loop"),
}


def find_arms(names: list[str]) -> dict[str, LoopFactory]:
    """The factories of the arms that are installed."""
    found: dict[str, LoopFactory] = {}
    for name in names:
        module, attribute = ARMS[name]
        try:
            found[name] = getattr(importlib.import_module(module), attribute)
        except ImportError as exc:
            print(f"{name}: not here ({exc})", file=sys.stderr)
    return found


def run_row(name: str, arms: dict[str, LoopFactory], rounds: int) -> dict[str, list[float]]:
    """Nanoseconds an operation, per arm and round; arms alternate, the first round is not kept."""
    row = ROWS[name]
    figures: dict[str, list[float]] = {arm: [] for arm in arms}
    for number in range(rounds + 1):
        for arm, factory in arms.items():
            gc.collect()
            seconds = measure(row.work, factory, row.count)
            if number:
                figures[arm].append(seconds / row.count * 1e9)
    return figures


def print_row(name: str, figures: dict[str, list[float]], base: str) -> None:
    medians = {arm: statistics.median(values) for arm, values in figures.items()}
    cells = "".join(f"{medians[arm]:>11,.0f}" for arm in figures)
    ratios = "".join(f"{medians[base] / medians[arm]:>9.2f}" for arm in figures if arm != base)
    print(f"{name:22}{cells}  |{ratios}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arms", default=",".join(ARMS), help="comma-separated")
    parser.add_argument("--rows", default=",".join(ROWS), help="comma-separated")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", metavar="FILE", help="all figures, in nanoseconds")
    options = parser.parse_args()

    arms = find_arms(options.arms.split(","))
    base = "uvloop" if "uvloop" in arms else next(iter(arms))
    print(
        f"Python {platform.python_version()}, median of {options.rounds} rounds, "
        f"ns an operation | {base}'s time over the arm's"
    )
    others = "".join(f"{arm:>9}" for arm in arms if arm != base)
    print(f"{'':22}" + "".join(f"{arm:>11}" for arm in arms) + "  |" + others)
    results = {}
    for name in options.rows.split(","):
        results[name] = run_row(name, arms, options.rounds)
        print_row(name, results[name], base)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
