"""One arm on one row, in this process: prints what it measured as a line of JSON.

    python benchmarks/worker.py ROW ARM [--repeats N] [--count N] [--cpu N]

Run by runner.py for each figure, and by hand under a profiler:

    perf record -g python benchmarks/worker.py sleep0 hotloop --repeats 20
    valgrind --tool=callgrind python benchmarks/worker.py sleep0 hotloop --repeats 1
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os

from arms import LoopFactory, arm
from rows import ROWS, Grown, Spent
from rows.registry import Row, Work


def measure(work: Work, factory: LoopFactory, count: int) -> Spent | Grown:
    """What one round takes on a new loop."""
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(work(count))


def figures(row: Row, factory: LoopFactory, count: int, repeats: int) -> dict[str, list[float]]:
    """Nanoseconds an operation or bytes a thing, a value a repeat."""
    assert row.work is not None
    if not row.once:
        measure(row.work, factory, max(1, count // 10))
    found: dict[str, list[float]] = {}
    for _ in range(1 if row.once else repeats):
        gc.collect()
        result = measure(row.work, factory, count)
        if isinstance(result, Grown):
            each = {"bytes": result.bytes / result.items}
        else:
            each = {"wall": result.wall / count * 1e9, "cpu": result.cpu / count * 1e9}
        for kind, value in each.items():
            found.setdefault(kind, []).append(value)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("row")
    parser.add_argument("arm")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--count", type=int, help="operations a measurement, instead of the row's")
    parser.add_argument("--cpu", type=int, help="pin this process to it")
    options = parser.parse_args()
    if options.cpu is not None:
        os.sched_setaffinity(0, {options.cpu})
    row = ROWS[options.row]
    factory = arm(options.arm).factory()
    found = figures(row, factory, options.count or row.count, options.repeats)
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
