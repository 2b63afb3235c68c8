"""Compare hotloop with stock asyncio and other loops, side by side.

    python benchmarks/compare.py [--arms a,b,..] [--rows NAME,..] [--rounds N] [--json FILE]

Every figure comes from a process of its own. Machines are noisy, so the arms take turns: a round
measures every arm once, and a figure is the median of the rounds. Ratios are of medians, the base
arm's (uvloop's, where it is there) over the arm's own: above 1 the arm is faster. An arm that is
not installed is said so; one that raises, hangs or lacks what a row needs gets a "-" there, and
the reason below.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import platform
import statistics
import subprocess
import sys

from rows import ROWS, LoopFactory, measure

ARMS = {
    "asyncio": ("asyncio", "SelectorEventLoop"),
    "uvloop": ("uvloop", "new_event_loop"),
    "rloop": ("rloop", "new_event_loop"),
    "hotloop": ("hotloop", "new_event_loop"),
}


def find_arms(names: list[str]) -> list[str]:
    """Those that are installed."""
    found = [name for name in names if importlib.util.find_spec(ARMS[name][0]) is not None]
    for name in names:
        if name not in found:
            print(f"{name}: not installed", file=sys.stderr)
    return found


def one(name: str, arm: str) -> None:
    """Measure once, in this process, after a warm-up; print the nanoseconds."""
    row = ROWS[name]
    module, attribute = ARMS[arm]
    factory: LoopFactory = getattr(importlib.import_module(module), attribute)
    measure(row.work, factory, min(row.count, 1000))
    print(measure(row.work, factory, row.count) / row.count * 1e9)


def ask(name: str, arm: str, seconds: float) -> tuple[float | None, str]:
    """A figure from a process of its own, or the reason why there is none."""
    command = [sys.executable, __file__, "--one", name, arm]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return None, f"nothing within {seconds:.0f} s"
    if done.returncode:
        return None, (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return float(done.stdout), ""


def run_row(
    name: str, arms: list[str], rounds: int, seconds: float
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Nanoseconds an operation, per arm and round; and why an arm has none."""
    figures: dict[str, list[float]] = {arm: [] for arm in arms}
    reasons: dict[str, str] = {}
    for _ in range(rounds):
        for arm in arms:
            if arm not in reasons:
                figure, reason = ask(name, arm, seconds)
                if figure is None:
                    reasons[arm] = reason
                    figures[arm] = []
                else:
                    figures[arm].append(figure)
    return figures, reasons


def print_row(
    name: str, figures: dict[str, list[float]], reasons: dict[str, str], base: str
) -> None:
    """A line of the table; ratios where there are two figures."""
    medians = {arm: statistics.median(values) for arm, values in figures.items() if values}
    line = f"{name:22}"
    for arm in figures:
        line += f"{medians[arm]:>13,.0f}" if arm in medians else f"{'-':>13}"
    line += "  |"
    for arm in figures:
        if arm != base:
            both = arm in medians and base in medians
            line += f"{medians[base] / medians[arm]:>9.2f}" if both else f"{'-':>9}"
    print(line, flush=True)
    for arm, reason in reasons.items():
        print(f"    {arm}: {reason[:150]}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arms", default=",".join(ARMS), help="comma-separated")
    parser.add_argument("--rows", default=",".join(ROWS), help="comma-separated")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--limit", type=float, default=60, help="seconds a figure may take")
    parser.add_argument("--json", metavar="FILE", help="all figures, in nanoseconds")
    parser.add_argument("--one", nargs=2, metavar=("ROW", "ARM"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(*options.one)
        return

    arms = find_arms(options.arms.split(","))
    base = "uvloop" if "uvloop" in arms else arms[0]
    print(
        f"Python {platform.python_version()}, median of {options.rounds} rounds, "
        f"ns an operation | {base}'s time over the arm's"
    )
    others = "".join(f"{arm:>9}" for arm in arms if arm != base)
    print(f"{'':22}" + "".join(f"{arm:>13}" for arm in arms) + "  |" + others)
    results = {}
    for name in options.rows.split(","):
        figures, reasons = run_row(name, arms, options.rounds, options.limit)
        print_row(name, figures, reasons, base)
        results[name] = {"nanoseconds": figures, "reasons": reasons}
    if options.json:
        with open(options.json, "w") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
