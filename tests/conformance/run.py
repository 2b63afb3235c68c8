"""CPython's own asyncio tests on hotloop, judged against stock asyncio on the same interpreter.

    python tests/conformance/run.py --out build/conformance [--backend epoll] [-k PATTERN]

Runs run_stdlib.py twice: once on asyncio (its result is kept in --out for the next run of the
same interpreter), once on hotloop with hotloop's Task and Future. A test that passes there and
not here is a failure, unless pending.toml lists it. A row of pending.toml all of whose tests
pass is a failure too: it has to go.
"""

from __future__ import annotations

import argparse
import fnmatch
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


def judge(ours: Results, stock: Results, whole: bool) -> int:
    worse = sorted(
        test
        for test, result in ours.items()
        if result["outcome"] in BAD and stock.get(test, {}).get("outcome", "passed") not in BAD
    )
    # A test that asyncio runs and we skip was not run: no better than a failure.
    worse += sorted(
        test
        for test, result in ours.items()
        if result["outcome"] == "skipped" and stock.get(test, {}).get("outcome") == "passed"
    )
    missing = sorted(set(stock) - set(ours))
    unlisted, stale = set(worse), 0
    for row in pending_rows():
        patterns = row["match"]

        def covered(test: str, patterns: list[str] = patterns) -> bool:
            return any(fnmatch.fnmatchcase(test, pattern) for pattern in patterns)

        waiting = [test for test in worse if covered(test)]
        passing = [test for test in ours if covered(test) and ours[test]["outcome"] == "passed"]
        unlisted.difference_update(waiting)
        print(f"\npending: {row['why']}: {len(waiting)} wait, {len(passing)} pass already")
        for test in passing if row.get("tell", True) else ():
            print(f"  passes: {test}")
        if whole and not waiting:
            print("  NONE of this row's tests fails any more: take it out of pending.toml")
            stale += 1

    print()
    for test in sorted(unlisted):
        error = ours[test].get("text", "").strip().splitlines()
        print(f"WORSE THAN ASYNCIO: {test} ({ours[test]['outcome']}): {error[-1] if error else ''}")
    for test in missing:
        print(f"NOT RUN: {test}")
    count = {"passed": 0, "skipped": 0}
    for result in ours.values():
        count[result["outcome"]] = count.get(result["outcome"], 0) + 1
    print(
        f"conformance: {count['passed']} passed (asyncio:"
        f" {sum(r['outcome'] == 'passed' for r in stock.values())}), {len(worse) - len(unlisted)}"
        f" pending, {len(unlisted)} worse than asyncio, {len(missing)} not run,"
        f" {stale} stale rows"
    )
    return bool(unlisted or missing or stale)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("build/conformance"))
    parser.add_argument("--backend", default="epoll", help="epoll or select")
    parser.add_argument("-k", action="append", default=[], metavar="PATTERN", dest="patterns")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    patterns = [part for pattern in options.patterns for part in ("-k", pattern)]
    stock = reference(options.out, patterns)
    print(f"\nconformance: hotloop on {options.backend}", flush=True)
    ours = run_stdlib(
        options.out / f"hotloop-{platform.python_version()}-{options.backend}.json",
        *("--loop", "hotloop:new_event_loop"),
        *("--task", "hotloop:Task", "--future", "hotloop:Future"),
        *patterns,
        HOTLOOP_BACKEND=options.backend,
    )
    return judge(ours, stock, whole=not patterns)


if __name__ == "__main__":
    sys.exit(main())
