"""Fixtures of the leak tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def stock(factory_of_loops: Callable[[Any], asyncio.AbstractEventLoop]) -> Any:
    return factory_of_loops(asyncio.SelectorEventLoop)
