"""A pytest plugin: every test several times over; references, blocks and descriptors stay.

    PYTHONPATH=tests/leaks python3.14-dbg -m pytest -p refleak tests/unit

For a debug build of Python, which counts all references there are (elsewhere: the allocator's
blocks alone). Two runs of a test fill caches; a test that leaves more behind after each single
one of the next REFLEAK_ROUNDS (3) fails, with the figures.
"""

from __future__ import annotations

import gc
import itertools
import os
import sys
from collections.abc import Callable
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

WARM = 2
# pytest itself keeps this much of each run of a test (finalisers of wider fixtures).
SLACK = {"references": 10, "blocks": 8, "descriptors": 0}
ROUNDS = int(os.environ.get("REFLEAK_ROUNDS", "3"))
total_references: Callable[[], int] = getattr(sys, "gettotalrefcount", lambda: 0)


def totals() -> dict[str, int]:
    for _ in range(3):
        gc.collect()
    return {
        "references": total_references(),
        "blocks": sys.getallocatedblocks(),
        "descriptors": len(os.listdir("/proc/self/fd")),
    }


def growth(counts: list[dict[str, int]]) -> dict[str, list[int]]:
    """What has grown in every round, and by how much in each."""
    grown = {}
    for what in counts[0]:
        steps = [after[what] - before[what] for before, after in itertools.pairwise(counts)]
        if min(steps) > SLACK[what]:
            grown[what] = steps
    return grown


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Function, nextitem: pytest.Item | None) -> bool | None:
    if "[asyncio" in item.nodeid:  # the oracle: what it leaks is not ours
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    parent: Any = item.parent  # as the next: the test itself is torn down, and no more than that
    counts: list[dict[str, int]] = []
    reports: list[pytest.TestReport] = []
    for number in range(WARM + ROUNDS + 1):
        last = number == WARM + ROUNDS
        reports = runtestprotocol(item, log=False, nextitem=nextitem if last else parent)
        if last or any(report.outcome != "passed" for report in reports):
            break
        reports = []
        if number >= WARM - 1:
            counts.append(totals())
    if len(counts) > ROUNDS and (grown := growth(counts)):
        reports[1].outcome = "failed"
        reports[1].longrepr = f"{item.nodeid} leaks: {grown}"
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True
