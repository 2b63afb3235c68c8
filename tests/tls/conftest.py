"""Fixtures of the tests of TLS."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from tlslib import Certs

Run = Callable[[Coroutine[Any, Any, Any]], Any]
LONG = 60.0  # seconds; only there so that a hang is a failure


async def bounded(main: Coroutine[Any, Any, Any]) -> Any:
    async with asyncio.timeout(LONG):
        return await main


@pytest.fixture(scope="session")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Certs:
    return Certs(tmp_path_factory.mktemp("certs"))


@pytest.fixture
def run(anyloop: asyncio.AbstractEventLoop) -> Run:
    """Runs a coroutine on stock asyncio, then on hotloop with each backend."""
    return lambda main: anyloop.run_until_complete(bounded(main))


@pytest.fixture
def hotrun(loop: asyncio.AbstractEventLoop) -> Run:
    """Runs a coroutine on hotloop only: where stock asyncio has a defect."""
    return lambda main: loop.run_until_complete(bounded(main))


@pytest.fixture
def handled(anyloop: asyncio.AbstractEventLoop) -> list[dict[str, Any]]:
    """What the loop hands to its exception handler."""
    found: list[dict[str, Any]] = []
    anyloop.set_exception_handler(lambda loop, context: found.append(context))
    return found
