"""A Dask cluster: scheduler, two workers in processes of their own, and this client, on hotloop.

    pip install distributed
    python examples/dask_cluster.py [LIMIT]

Over many machines the same program says Client("tcp://scheduler:8786"), see docs/dask.md.
"""

from __future__ import annotations

import asyncio
import sys

from distributed import Client, LocalCluster

# From here on every loop that asyncio makes in this process is a hotloop.
import hotloop.dask  # noqa: F401 - the import is what counts


def primes(start: int, stop: int) -> int:
    """How many there are from `start` up to `stop`: something to compute."""
    found = 0
    for number in range(max(start, 2), stop):
        found += all(number % by for by in range(2, int(number**0.5) + 1))
    return found


async def loop_name() -> str:
    kind = type(asyncio.get_running_loop())
    return f"{kind.__module__}.{kind.__qualname__}"


def main(limit: int) -> None:
    part = max(1, limit // 16)
    # A nanny is what starts a worker's process: its preload makes that process' loops ours.
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            preload_nanny=["hotloop.dask"],
            dashboard_address=None,
        ) as cluster,
        Client(cluster) as client,
    ):
        print("workers run on", *set(client.run(loop_name).values()))
        print("the scheduler on", client.run_on_scheduler(loop_name))
        starts = range(0, limit, part)
        counts = client.map(primes, starts, [min(start + part, limit) for start in starts])
        print("primes below", limit, "are", client.submit(sum, counts).result())


if __name__ == "__main__":  # a worker's process imports this file again
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
