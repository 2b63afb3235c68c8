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
from rows import ROWS, Spent
from rows.registry import Work


def measure(work: Work, factory: LoopFactory, count: int) -> Spent:
    """What one round takes on a new loop."""
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(work(count))


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
    count = options.count or row.count
    factory = arm(options.arm).factory()
    measure(row.work, factory, max(1, count // 10))
    wall, cpu = [], []
    for _ in range(options.repeats):
        gc.collect()
        spent = measure(row.work, factory, count)
        wall.append(spent.wall / count * 1e9)
        cpu.append(spent.cpu / count * 1e9)
    print(json.dumps({"wall": wall, "cpu": cpu}), flush=True)


if __name__ == "__main__":
    main()
