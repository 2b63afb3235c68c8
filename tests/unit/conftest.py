"""Fixtures of the unit tests, over those of tests/conftest.py.

future_class, task_class  what `anyloop` makes: asyncio's own or hotloop's.
same                      runs a scenario on stock asyncio and on hotloop; the answers must agree.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import hotloop

Loop = asyncio.AbstractEventLoop
LoopFactory = Callable[[], Loop]


@pytest.fixture
def future_class(loop_kind: str) -> type[asyncio.Future[Any]]:
    return asyncio.Future if loop_kind == "asyncio" else hotloop.Future


@pytest.fixture
def task_class(loop_kind: str) -> type[asyncio.Task[Any]]:
    return asyncio.Task if loop_kind == "asyncio" else hotloop.Task


@pytest.fixture
def stock_loop(factory_of_loops: Callable[[LoopFactory], Loop]) -> Loop:
    return factory_of_loops(asyncio.SelectorEventLoop)


@pytest.fixture
def same(loop: Loop, stock_loop: Loop) -> Callable[..., Any]:
    """same(scenario, ...) returns what scenario(loop, ...) answers on both loops."""

    def check(scenario: Callable[..., Any], *args: Any) -> Any:
        expected = scenario(stock_loop, *args)
        got = scenario(loop, *args)
        assert got == expected
        return got

    return check
