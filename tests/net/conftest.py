"""Fixtures of the transport tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture
def run(anyloop: asyncio.AbstractEventLoop) -> Run:
    """Runs a coroutine on stock asyncio, then on hotloop with each backend."""
    return anyloop.run_until_complete


@pytest.fixture
def handled(anyloop: asyncio.AbstractEventLoop) -> list[dict[str, Any]]:
    """What the loop hands to its exception handler."""
    found: list[dict[str, Any]] = []
    anyloop.set_exception_handler(lambda loop, context: found.append(context))
    return found


@pytest.fixture
def hotrun(loop: asyncio.AbstractEventLoop) -> Run:
    """Runs a coroutine on hotloop only: where stock asyncio has a defect."""
    return loop.run_until_complete


@pytest.fixture
def handled_hot(loop: asyncio.AbstractEventLoop) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda loop, context: found.append(context))
    return found
