"""Fixtures of the regression tests. REGRESSION_LOOP names another loop to run them on."""

from __future__ import annotations

import importlib
import os
import pathlib
import subprocess
import sys
import textwrap
from collections.abc import Callable

import pytest
from bugs import door
from netlib import LIMIT
from tlslib import Certs

Program = Callable[..., str]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where asyncio has the defect, the test must fail on it."""
    here = pathlib.Path(__file__).parent
    for item in items:
        if here not in item.path.parents:
            continue
        params = getattr(item, "callspec", None)
        kind = params and params.params.get("loop_kind")
        for mark in item.iter_markers("asyncio_is_flawed"):
            if kind == "asyncio" and mark.kwargs.get("when", True):
                item.add_marker(pytest.mark.xfail(reason=mark.args[0], strict=True))


def pytest_collection_finish() -> None:
    """Another loop may keep descriptors for the process (libuv's pipe for signals): made here."""
    kind = os.environ.get("REGRESSION_LOOP")
    if kind:
        loop = importlib.import_module(kind).new_event_loop()
        loop.call_later(0.001, loop.stop)
        loop.run_forever()
        loop.close()


@pytest.fixture
def limit() -> float:
    return 2 * LIMIT


@pytest.fixture(scope="session")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Certs:
    return Certs(tmp_path_factory.mktemp("certs"))


@pytest.fixture
def source(loop_kind: str) -> Callable[[str], list[str]]:
    """The command that runs this text as a program in which new_event_loop() is the tested one."""
    return lambda text: [sys.executable, "-c", door(loop_kind) + textwrap.dedent(text)]


@pytest.fixture
def program(source: Callable[[str], list[str]]) -> Program:
    """Runs the text as such a program, which must end well and say nothing on stderr: its output.

    For what ends a process or needs one of its own: crashes, Ctrl-C, forks, limits.
    """

    def check(text: str, *, status: int = 0) -> str:
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            source(text), env=env, capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stderr) == (status, ""), done.stdout
        return done.stdout.strip()

    return check
