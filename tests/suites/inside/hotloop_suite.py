"""The pytest plugin under which a foreign suite runs: puts a loop in, counts it, writes outcomes.

`-p hotloop_suite`, with this folder on PYTHONPATH, and these variables:

    SUITE_LOOP      hotloop or asyncio
    SUITE_RESULT    the file that gets a line of JSON as each test starts and as it ends
    SUITE_WITHOUT   a JSON list of what is left out: files, classes, tests, or a test's parameters
    SUITE_ONLY      a JSON list of the only tests to run; empty: all

It is loaded into the suite's own environment, so it needs nothing but pytest.

Nothing of the suite is patched. The loop goes in by the event loop policy, which is where
asyncio.run(), asyncio.Runner, anyio, pytest-asyncio, aiohttp's `loop_factory` and tornado's IOLoop
look when nobody names a loop. Where a test names asyncio's loop by its class, it gets that.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import os
import pathlib
import sys
import time
import warnings
from typing import Any, TextIO

import pytest

ASYNCIO, HOTLOOP = "asyncio", "hotloop"


class Counts:
    """Loops that the policy made, and those among them that have run a callback."""

    made = 0
    ran = 0

    @classmethod
    def started(cls) -> None:
        cls.ran += 1


def counting(policy: type[Any], kind: type[Any]) -> type[Any]:
    """A policy that counts its loops; every one must be of the kind that is under test."""

    # mypy wants a base that it knows, and an Any stands for either policy
    class CountingPolicy(policy):  # type: ignore[misc]
        def new_event_loop(self) -> asyncio.AbstractEventLoop:
            loop = super().new_event_loop()
            if type(loop) is not kind:
                raise AssertionError(f"the policy made a {type(loop)!r}, not a {kind!r}")
            Counts.made += 1
            # In a context of its own: the maker's would live as long as a loop that never runs.
            loop.call_soon(Counts.started, context=contextvars.Context())
            return loop  # type: ignore[no-any-return]  # of a base that is Any

    return CountingPolicy


def put_in(name: str) -> None:
    with warnings.catch_warnings():  # 3.14 deprecates policies
        warnings.simplefilter("ignore", DeprecationWarning)
        if name == HOTLOOP:
            import hotloop

            policy = counting(hotloop.EventLoopPolicy, hotloop.EventLoop)
        else:
            policy = counting(asyncio.DefaultEventLoopPolicy, asyncio.SelectorEventLoop)
        asyncio.set_event_loop_policy(policy())


def belongs(nodeid: str, name: str) -> bool:
    """Whether a test is the one named, or one of the named folder, file, class or
    parametrized test."""
    return nodeid == name or nodeid.startswith((name + "/", name + "::", name + "["))


def select(items: list[pytest.Item]) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """What to run, and what was left out."""
    only = set(json.loads(os.environ.get("SUITE_ONLY", "[]")))
    without = json.loads(os.environ.get("SUITE_WITHOUT", "[]"))
    wanted: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        if only:
            (wanted if item.nodeid in only else left_out).append(item)
        elif any(belongs(item.nodeid, name) for name in without):
            left_out.append(item)
        else:
            wanted.append(item)
    return wanted, left_out


class Outcomes:
    """Writes line by line: what ran is known even if the process is killed."""

    def __init__(self, out: TextIO) -> None:
        self.out = out

    def write(self, **line: Any) -> None:
        self.out.write(json.dumps(line) + "\n")
        self.out.flush()

    def pytest_ignore_collect(
        self, collection_path: pathlib.Path, config: pytest.Config
    ) -> bool | None:
        """A file or folder that is left out is not even imported."""
        without = json.loads(os.environ.get("SUITE_WITHOUT", "[]"))
        places = {config.rootpath / name for name in without if "::" not in name}
        return True if collection_path in places else None

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        items[:], left_out = select(items)
        if left_out:
            config.hook.pytest_deselected(items=left_out)
        self.write(collected=[item.nodeid for item in items], left_out=len(left_out))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.write(start=nodeid, at=time.time())

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or not report.passed:
            outcome: str = report.outcome
            if hasattr(report, "wasxfail"):
                outcome = "xfailed" if report.skipped else "xpassed"
            elif report.when != "call" and report.failed:
                outcome = "error"
            self.write(
                test=report.nodeid,
                outcome=outcome,
                text=str(report.longrepr)[-4000:] if report.failed else "",
            )

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.write(test=report.nodeid, outcome="error", text=str(report.longrepr)[-4000:])

    def pytest_sessionfinish(self) -> None:
        self.write(made=Counts.made, ran=Counts.ran, python=sys.version.split()[0])


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    put_in(os.environ["SUITE_LOOP"])
    out = open(os.environ["SUITE_RESULT"], "w")  # noqa: SIM115 - until the process ends
    config.pluginmanager.register(Outcomes(out), "hotloop-outcomes")
