"""Fixtures of the feature tests: each of them is the test of one row of the feature table."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# The protocols that take notes, which the transport tests use as well.
sys.path.append(str(Path(__file__).parents[1] / "net"))


@pytest.fixture
def limit() -> float:
    return 60.0
