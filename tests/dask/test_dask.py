"""Dask distributed on hotloop: a real shuffle, a worker killed in its middle, whose loop it is."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cluster
import pytest

pytest.importorskip("distributed", reason="make dask installs it")

ROWS = int(os.environ.get("HOTLOOP_DASK_ROWS") or 2_000_000)  # 24 bytes each


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Any]:
    from distributed import Client

    with (
        cluster.cluster("hotloop", tmp_path) as address,
        Client(address, timeout=cluster.START) as client,
    ):
        client.wait_for_workers(2, timeout=cluster.START)
        yield client
    for log in sorted(tmp_path.glob("*.log")):
        sys.stdout.write(log.read_text())


def expected(rows: int) -> Any:
    """The same computation in one process, without a cluster."""
    return cluster.normal(cluster.shuffled(rows, "tasks").compute(scheduler="synchronous"))


def test_whose_loops(client: Any) -> None:
    workers = client.run(cluster.worker_loop_name)
    assert {cluster.short(name) for name in workers.values()} == {"hotloop.EventLoop"}
    name = client.run_on_scheduler(cluster.scheduler_loop_name)
    assert cluster.short(name) == "hotloop.EventLoop"


def test_shuffle(client: Any) -> None:
    got = cluster.normal(cluster.shuffled(ROWS).compute())
    assert got.equals(expected(ROWS))


def test_killed_worker(client: Any) -> None:
    """The nanny starts another one, the scheduler does the lost part again."""
    future = client.compute(cluster.shuffled(ROWS))
    while not any(client.processing().values()):
        time.sleep(0.01)
    pids = client.run(os.getpid)
    os.kill(next(iter(pids.values())), signal.SIGKILL)
    assert cluster.normal(future.result(timeout=300)).equals(expected(ROWS))
    client.wait_for_workers(2, timeout=cluster.START)


def test_other_loop_is_refused() -> None:
    import asyncio

    from hotloop.dask import dask_setup

    class Scheduler:
        pass

    async def main() -> None:
        with pytest.raises(RuntimeError, match="python -m hotloop -m dask scheduler"):
            dask_setup(Scheduler())

    asyncio.run(main(), loop_factory=asyncio.SelectorEventLoop)
