"""Test runners: a user's tests on hotloop, by each one's own hook."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from doorlib import Run

PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null")

LOOP_FACTORIES = """
import hotloop, pytest
from facts import facts, ours

def pytest_asyncio_loop_factories(config, item):
    return {"hotloop": hotloop.new_event_loop}
"""

FACTORY_TEST = """
import asyncio, pytest
from facts import facts, ours

@pytest.mark.asyncio
async def test_loop():
    assert ours(facts())
    await asyncio.sleep(0)
"""

POLICY_TEST = """
import asyncio, hotloop, pytest
from facts import facts, ours

@pytest.fixture(scope="session")
def event_loop_policy():
    return hotloop.EventLoopPolicy()

@pytest.mark.asyncio
async def test_loop():
    assert ours(facts())
"""

ANYIO_TEST = """
import anyio, hotloop, pytest
from facts import facts, ours

@pytest.fixture
def anyio_backend():
    return "asyncio", {"loop_factory": hotloop.new_event_loop}

@pytest.mark.anyio
async def test_loop():
    assert ours(facts())
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, 0)
    assert await anyio.to_thread.run_sync(lambda: 1) == 1
"""

UNITTEST = """
import asyncio, sys, unittest, hotloop
from facts import facts, ours

class Case(unittest.IsolatedAsyncioTestCase):
    if sys.version_info >= (3, 13):
        loop_factory = staticmethod(hotloop.new_event_loop)
    async def asyncSetUp(self):
        self.future = asyncio.get_running_loop().create_future()
    async def test_loop(self):
        self.assertTrue(ours(facts()), facts())
        self.future.set_result(None)
        await self.future

if sys.version_info < (3, 13):
    hotloop.install()
unittest.main()
"""


def test_pytest_asyncio_factory(run_file: Run, tmp_path: Path) -> None:
    plugin = pytest.importorskip("pytest_asyncio.plugin", reason="make doors installs it")
    if not hasattr(plugin, "pytest_asyncio_loop_factories") and not any(
        "loop_factories" in name for name in vars(plugin)
    ):
        pytest.skip("this pytest-asyncio has no hook for loop factories")
    (tmp_path / "conftest.py").write_text(LOOP_FACTORIES)
    assert "1 passed" in run_file(FACTORY_TEST, *PYTEST, name="test_user.py")


def test_pytest_asyncio_policy(run_file: Run) -> None:
    pytest.importorskip("pytest_asyncio", reason="make doors installs it")
    if sys.version_info >= (3, 16):
        pytest.skip("asyncio has no policies any more")
    assert "1 passed" in run_file(POLICY_TEST, *PYTEST, name="test_user.py")


def test_anyio_plugin(run_file: Run) -> None:
    pytest.importorskip("anyio", reason="make doors installs it")
    assert "1 passed" in run_file(ANYIO_TEST, *PYTEST, name="test_user.py")


def test_isolated_asyncio_test_case(run_file: Run) -> None:
    assert "OK" in run_file(UNITTEST, "-W", "error")
