"""Trees of tasks, cancelled at random from all sides: nothing is lost, left over or run twice.

In the manner of Trio's nurseries, by asyncio's own means. Every run is seeded, so a failure
repeats; what must hold does not depend on the interleaving.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import pytest
from reallib import Program, flat


class Tree:
    """Workers that hold a resource, wait in every way there is, and spawn further ones."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.held: set[int] = set()
        self.count = Counter[str]()
        self.lock = asyncio.Lock()
        self.slots = asyncio.Semaphore(3)
        self.queue: asyncio.Queue[int] = asyncio.Queue(2)
        self.event = asyncio.Event()

    async def wait_somehow(self) -> None:
        how = self.random.randrange(10)
        if how == 0:
            await asyncio.sleep(0)
        elif how == 1:
            await asyncio.sleep(self.random.random() * 0.003)
        elif how == 2:
            async with self.lock:
                await asyncio.sleep(0)
        elif how == 3:
            async with self.slots:
                await asyncio.sleep(0.001)
        elif how == 4:
            await self.queue.put(1)
        elif how == 5:
            await self.queue.get()
        elif how == 6:
            await asyncio.shield(asyncio.sleep(0.001))
        elif how == 7:
            await asyncio.gather(*(asyncio.sleep(0) for _ in range(3)), self.event.wait())
        elif how == 8:
            await asyncio.wait_for(self.event.wait(), self.random.random() * 0.003)
        else:
            waits = [asyncio.ensure_future(self.event.wait()) for _ in range(2)]
            try:
                await asyncio.wait(waits, timeout=0.002)
            finally:
                for wait in waits:
                    wait.cancel()
                await asyncio.gather(*waits, return_exceptions=True)

    async def worker(self, depth: int) -> None:
        me = self.count["started"]
        self.count["started"] += 1
        self.held.add(me)
        try:
            async with asyncio.timeout(self.random.random() * 0.02):
                if depth:
                    await self.nursery(depth - 1)
                for _ in range(self.random.randrange(4)):
                    await self.wait_somehow()
            self.count["finished"] += 1
        except TimeoutError:
            self.count["timed out"] += 1
        except asyncio.CancelledError:
            self.count["cancelled"] += 1
            if self.random.random() < 0.3:  # some take their time to clean up
                await asyncio.sleep(0)
            raise
        except ExceptionGroup as group:
            if group.split(ValueError)[1] is not None:
                raise
            self.count["saw an error"] += 1
        finally:
            self.held.remove(me)
            self.count["ended"] += 1

    async def nursery(self, depth: int) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.worker(depth)) for _ in range(4)]
            await asyncio.sleep(0)
            for task in self.random.sample(tasks, self.random.randrange(3)):
                task.cancel("pruned")
            if self.random.random() < 0.1:
                raise ValueError("a nursery fails")
            if self.random.random() < 0.2:
                await asyncio.sleep(0.005)

    async def run(self) -> None:
        root = asyncio.ensure_future(self.worker(3))
        ticks = self.random.randrange(1, 40)
        for _ in range(ticks):
            await asyncio.sleep(0.001)
            if self.random.random() < 0.1:
                self.event.set()
                self.event = asyncio.Event()
        root.cancel()
        await asyncio.gather(root, return_exceptions=True)
        while len(asyncio.all_tasks()) > 1:  # what shield() let go of
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("seed", range(40))
def test_every_worker_ends_once(program: Program, seed: int) -> None:
    async def main() -> dict[str, Any]:
        tree = Tree(seed)
        await tree.run()
        assert not tree.held
        assert not tree.lock.locked()
        assert not tree.slots.locked()
        assert tree.count["started"] == tree.count["ended"]
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        return dict(tree.count)

    count = program(main())
    assert count["started"] > 1


def test_flat_over_cancelled_trees(program: Program) -> None:
    async def step() -> None:
        async def leaf() -> None:
            async with asyncio.timeout(3600):
                await asyncio.Event().wait()

        async def branch() -> None:
            async with asyncio.TaskGroup() as group:
                for _ in range(3):
                    group.create_task(leaf())

        root = asyncio.ensure_future(branch())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        root.cancel()
        with pytest.raises(asyncio.CancelledError):
            await root

    program(flat(step))
