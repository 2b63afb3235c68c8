"""Fixtures of the feature tests: each of them is the test of one row of the feature table."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

# The protocols that take notes, which the transport tests use as well.
sys.path.append(str(Path(__file__).parents[1] / "net"))

Run = Callable[[Coroutine[Any, Any, Any]], Any]
LIMIT = 60.0  # seconds; only there so that a failure ends


async def bounded(main: Coroutine[Any, Any, Any]) -> Any:
    async with asyncio.timeout(LIMIT):
        return await main


@pytest.fixture
def run(anyloop: asyncio.AbstractEventLoop) -> Run:
    """Runs a coroutine on stock asyncio, then on hotloop with each backend."""
    return lambda main: anyloop.run_until_complete(bounded(main))


@pytest.fixture
def hotrun(loop: asyncio.AbstractEventLoop) -> Run:
    """Runs a coroutine on hotloop only: where stock asyncio has a defect."""
    return lambda main: loop.run_until_complete(bounded(main))
