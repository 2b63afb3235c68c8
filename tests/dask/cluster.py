"""A Dask cluster on loopback, each part in a process of its own; `make dask-bench` times it.

Arms: hotloop, uvloop, asyncio. Under each the same scheduler, two workers under nannies, and the
same computations from a client in this process.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ports import free_port

HERE = Path(__file__).parent
START = 120.0  # seconds until all workers are there


def environment(arm: str) -> dict[str, str]:
    more = {"DASK_DISTRIBUTED__ADMIN__EVENT_LOOP": "uvloop" if arm == "uvloop" else "asyncio"}
    here = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, **more, "OMP_NUM_THREADS": "1", "PYTHONPATH": here}


def commands(arm: str, port: int) -> tuple[list[str], list[str]]:
    """The scheduler's command, a worker's."""
    address = f"tcp://127.0.0.1:{port}"
    scheduler = ["dask", "scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    worker = ["dask", "worker", address, "--host", "127.0.0.1", "--nthreads", "1", "--no-dashboard"]
    if arm == "hotloop":
        scheduler = ["hotloop", "-m", *scheduler, "--preload", "hotloop.dask"]
        worker += ["--preload-nanny", "hotloop.dask"]
    python = [sys.executable, "-m"]
    return python + scheduler, python + worker


@contextlib.contextmanager
def cluster(arm: str, folder: Path, workers: int = 2) -> Iterator[str]:
    """The scheduler's address, while the cluster lives."""
    port = free_port()
    scheduler, worker = commands(arm, port)
    processes = []
    with contextlib.ExitStack() as files:

        def start(command: list[str], name: str) -> None:
            log = files.enter_context((folder / f"{name}.log").open("w"))
            processes.append(
                subprocess.Popen(command, cwd=folder, env=environment(arm), stdout=log, stderr=log)
            )

        try:
            start(scheduler, "scheduler")
            for number in range(workers):
                start(worker, f"worker{number}")
            yield f"tcp://127.0.0.1:{port}"
        finally:
            for process in reversed(processes):
                process.send_signal(signal.SIGTERM)
            for process in processes:
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def worker_loop_name(dask_worker: Any) -> str:
    return _name(dask_worker)


def scheduler_loop_name(dask_scheduler: Any) -> str:
    return _name(dask_scheduler)


def _name(server: Any) -> str:
    kind = type(server.loop.asyncio_loop)
    return f"{kind.__module__}.{kind.__qualname__}"


def short(name: str) -> str:
    return re.sub(r"\._core\b", "", name)


def table(rows: int) -> Any:
    """A table in 8 parts whose content depends on nothing but `rows`."""
    import dask.array as da
    import dask.dataframe as dd

    number = da.arange(rows, chunks=rows // 8)
    columns = {"key": (number * 7919) % 1009, "value": number % 1000, "weight": number * 0.5}
    return dd.concat(
        [dd.from_dask_array(column, columns=name) for name, column in columns.items()], axis=1
    )


def shuffled(rows: int, method: str = "p2p") -> Any:
    """Every row goes to the part of its key, then the parts are summed up by key."""
    frame = table(rows).shuffle("key", shuffle_method=method)
    return frame.map_partitions(
        lambda part: part.groupby("key").agg({"value": "sum", "weight": "sum"}),
        meta={"value": "int64", "weight": "float64"},
    )


def normal(frame: Any) -> Any:
    return frame.sort_index()


def increment(number: int) -> int:
    return number + 1


def processor_time(client: Any) -> float:
    """Seconds that the scheduler and the workers have computed so far."""
    workers = client.run(time.process_time).values()
    return float(sum(workers) + client.run_on_scheduler(time.process_time))


def times(address: str, rows: int, tasks: int) -> dict[str, tuple[float, float]]:
    """For a shuffle, for many small tasks, and for a block of memory there and back: seconds by
    the clock, and of the scheduler's and the workers' processors, which other load disturbs less.
    """
    from distributed import Client

    block = os.urandom(32 << 20)

    def there_and_back(client: Any) -> None:
        for _ in range(4):
            assert client.gather(client.scatter(block, direct=True)) == block

    def small_tasks(client: Any) -> None:
        client.gather(client.map(increment, range(tasks), pure=False))

    subjects: dict[str, Any] = {
        "shuffle": lambda _: shuffled(rows).compute(),
        "small tasks": lambda client: client.gather(
            client.map(increment, range(tasks), pure=False)
        ),
        "32 MiB there and back": there_and_back,
    }
    took = {}
    with Client(address, timeout=START) as client:
        client.wait_for_workers(2, timeout=START)
        for name, work in subjects.items():
            began, computed = time.perf_counter(), processor_time(client)
            work(client)
            took[name] = (time.perf_counter() - began, processor_time(client) - computed)
    return took


def compare(arms: list[str], rounds: int, rows: int, tasks: int) -> None:
    """The arms take turns, each time with a cluster of their own; medians of the rounds."""
    took: dict[str, list[dict[str, tuple[float, float]]]] = {arm: [] for arm in arms}
    for _ in range(rounds):
        for arm in arms:
            with tempfile.TemporaryDirectory() as place, cluster(arm, Path(place)) as where:
                took[arm].append(times(where, rows, tasks))
    for subject in took[arms[0]][0]:
        line = [f"{subject:24}"]
        for arm in arms:
            wall, cpu = (statistics.median(one[subject][i] for one in took[arm]) for i in (0, 1))
            line.append(f"{arm} {wall:7.2f} s (processor {cpu:7.2f} s)")
        print("  ".join(line))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Times a Dask cluster on several loops.")
    parser.add_argument("--arms", default="asyncio,uvloop,hotloop")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=8_000_000, help="of 24 bytes each")
    parser.add_argument("--tasks", type=int, default=5000)
    given = parser.parse_args()
    compare(given.arms.split(","), given.rounds, given.rows, given.tasks)
