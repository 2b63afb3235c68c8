"""CPython's own asyncio tests on hotloop, judged against stock asyncio on the same interpreter.

    python tests/conformance/run.py --out build/conformance [--full] [--backend epoll]
           [--types ours] [-k PATTERN]

Runs run_stdlib.py on asyncio (its result is kept in --out for the next run of the same
interpreter), then on hotloop in one or more modes: a backend, and hotloop's Task and Future
or asyncio's own where the suite tests "the C ones". --full is all four modes. A test that
passes on asyncio and not here is a failure, unless pending.toml lists it. A row of pending.toml
all of whose tests pass in every mode that ran is a failure too: it has to go.
"""

from __future__ import annotations

import argparse
import fnmatch
import itertools
import json
import os
import platform
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BAD = ("failed", "hung", "crashed")
BACKENDS = ("epoll", "select")
# Which types the suite's tests of "the C Task and Future" get.
TYPES = {"ours": ("--task", "hotloop:Task", "--future", "hotloop:Future"), "asyncio": ()}
Results = dict[str, dict[str, Any]]


def run_stdlib(out: Path, *arguments: str, **environment: str) -> Results:
    """One run; its exit status says little here, since the judging is ours."""
    out.unlink(missing_ok=True)
    command = [sys.executable, str(HERE / "run_stdlib.py"), "--json", str(out), *arguments]
    subprocess.run(command, env={**os.environ, **environment}, check=False)
    if not out.exists():
        raise SystemExit(f"conformance: {' '.join(command)} left no result")
    results: Results = json.loads(out.read_text())["results"]
    return results


def reference(folder: Path, patterns: list[str]) -> Results:
    out = folder / f"asyncio-{platform.python_version()}.json"
    if patterns:  # part of a run is no reference for a whole one
        out = out.with_suffix(".part.json")
    elif out.exists():
        print(f"conformance: stock asyncio's results are in {out}")
        kept: Results = json.loads(out.read_text())["results"]
        return kept
    print("conformance: stock asyncio first", flush=True)
    return run_stdlib(out, "--loop", "asyncio:SelectorEventLoop", *patterns)


def pending_rows() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = tomllib.loads((HERE / "pending.toml").read_text()).get("row", [])
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return [row for row in rows if version in row.get("python", [version])]


def worse_than(stock: Results, ours: Results) -> list[str]:
    """What stock asyncio passes and we do not. A test that it runs and we skip was not run."""

    def lost(test: str, outcome: str) -> bool:
        there = stock.get(test, {}).get("outcome", "passed")
        return there not in BAD if outcome in BAD else outcome == "skipped" and there == "passed"

    return sorted(test for test, result in ours.items() if lost(test, result["outcome"]))


def covers(row: dict[str, Any], test: str) -> bool:
    return any(fnmatch.fnmatchcase(test, pattern) for pattern in row["match"])


def judge(mode: str, ours: Results, stock: Results, rows: list[dict[str, Any]]) -> bool:
    """Says what is worse in this mode; whether anything is. Counts what each row waits for."""
    worse = worse_than(stock, ours)
    missing = sorted(set(stock) - set(ours))
    unlisted = set(worse)
    print()
    for row in rows:
        waiting = [test for test in worse if covers(row, test)]
        passing = [t for t in ours if covers(row, t) and ours[t]["outcome"] == "passed"]
        unlisted.difference_update(waiting)
        row["waiting"] = row.get("waiting", 0) + len(waiting)
        print(f"pending: {row['why']}: {len(waiting)} wait, {len(passing)} pass already")
        for test in passing:
            print(f"  passes: {test}")
    for test in sorted(unlisted):
        error = ours[test].get("text", "").strip().splitlines()
        print(f"WORSE THAN ASYNCIO: {test} ({ours[test]['outcome']}): {error[-1] if error else ''}")
    for test in missing:
        print(f"NOT RUN: {test}")
    passed = sum(result["outcome"] == "passed" for result in ours.values())
    print(
        f"conformance ({mode}): {passed} passed"
        f" (asyncio: {sum(r['outcome'] == 'passed' for r in stock.values())}),"
        f" {len(worse) - len(unlisted)} pending, {len(unlisted)} worse than asyncio,"
        f" {len(missing)} not run"
    )
    return bool(unlisted or missing)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("build/conformance"))
    parser.add_argument("--backend", choices=BACKENDS, default="epoll")
    parser.add_argument("--types", choices=TYPES, default="ours", help="Task and Future under test")
    parser.add_argument("--full", action="store_true", help="every backend with either's types")
    parser.add_argument("-k", action="append", default=[], metavar="PATTERN", dest="patterns")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    patterns = [part for pattern in options.patterns for part in ("-k", pattern)]
    modes = [(options.backend, options.types)]
    if options.full:
        modes = list(itertools.product(BACKENDS, TYPES))
    version = platform.python_version()
    stock, rows, failed = reference(options.out, patterns), pending_rows(), []
    for backend, types in modes:
        mode = (
            f"{version}, {backend}, {types}'s types" if types != "ours" else f"{version}, {backend}"
        )
        print(f"\nconformance: hotloop, {mode}", flush=True)
        ours = run_stdlib(
            options.out / f"hotloop-{version}-{backend}-{types}.json",
            *("--loop", "hotloop:new_event_loop", *TYPES[types], *patterns),
            HOTLOOP_BACKEND=backend,
        )
        if judge(mode, ours, stock, rows):
            failed.append(mode)
    for row in rows if not patterns else ():
        if not row["waiting"]:
            print(f"pending: {row['why']}: NONE of these tests fails any more: take the row out")
            failed.append("pending.toml")
    print(f"conformance: {', '.join(failed)} FAILED" if failed else "conformance: ok")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
