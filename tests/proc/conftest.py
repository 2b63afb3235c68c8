"""Fixtures of the tests of child processes."""

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
def hotrun(loop: asyncio.AbstractEventLoop) -> Run:
    """Runs a coroutine on hotloop only: where stock asyncio differs."""
    return loop.run_until_complete
