"""A pytest plugin: every test several times over; references, blocks and descriptors stay.

    PYTHONPATH=tests/leaks python3.14-dbg -m pytest -p refleak tests/unit

For a debug build of Python, which counts all references there are (elsewhere: the allocator's
blocks alone). Two runs of a test fill caches; a test that leaves more behind after each single
one of the next REFLEAK_ROUNDS (3) fails, with the figures. Nothing is allowed for: an empty test
grows by 0, because the counts are kept in memory that is there beforehand, and
because each round tears down all that pytest set up, or wider fixtures would pile up finalisers.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import gc
import itertools
import os
import re
import sys
from collections.abc import Callable

import pytest
from _pytest.runner import runtestprotocol

import hotloop

WARM = 2
ROUNDS = int(os.environ.get("REFLEAK_ROUNDS", "3"))
WHAT = ("references", "blocks", "descriptors")
clear_caches: Callable[[], None] = getattr(sys, "_clear_internal_caches", sys._clear_type_cache)
total_references: Callable[[], int] = getattr(sys, "gettotalrefcount", lambda: 0)


def fill_free_lists() -> None:
    """hotloop keeps the memory of up to 1,024 objects a type: full lists do not grow."""
    with contextlib.closing(hotloop.new_event_loop()) as loop:
        kept: list[object] = []
        for _ in range(1100):
            kept += hotloop.Handle(print, (), loop), hotloop.TimerHandle(0.0, print, (), loop)
            future = hotloop.Future(loop=loop)
            future.add_done_callback(id)  # in a context of its own
            future.cancel()
            kept.append(future)
        loop.run_until_complete(asyncio.sleep(0))


class Counts:
    """One row per round, of plain machine integers: to take one leaves no object behind."""

    def __init__(self, rounds: int) -> None:
        self.columns = [array.array("q", [0]) * rounds for _ in WHAT]

    def take(self, row: int) -> None:
        fill_free_lists()
        for _ in range(3):
            gc.collect()
        clear_caches()  # the interpreter's, of attributes by type and name
        re.purge()  # and that of patterns, in which the numbers of ports may be
        references, blocks, descriptors = self.columns
        references[row] = total_references()
        blocks[row] = sys.getallocatedblocks()
        descriptors[row] = len(os.listdir("/proc/self/fd"))

    def growth(self) -> dict[str, list[int]]:
        """What has grown in every round, and by how much in each."""
        steps = (
            [after - before for before, after in itertools.pairwise(column)]
            for column in self.columns
        )
        return {what: step for what, step in zip(WHAT, steps, strict=True) if min(step) > 0}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Function, nextitem: pytest.Item | None) -> bool | None:
    if "[asyncio" in item.nodeid:  # the oracle: what it leaks is not ours
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    counts = Counts(ROUNDS + 1)
    reports: list[pytest.TestReport] = []
    whole = True
    for number in range(WARM + ROUNDS):
        reports = runtestprotocol(item, log=False, nextitem=None)
        if any(report.outcome != "passed" for report in reports):
            whole = False
            break
        if number >= WARM - 1:
            reports = []
            item._report_sections.clear()  # the logs and output of the runs before
            counts.take(number - WARM + 1)
    if whole:
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
        if grown := counts.growth():
            reports[1].outcome = "failed"
            reports[1].longrepr = f"{item.nodeid} leaks: {grown}"
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True
