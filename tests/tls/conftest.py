"""Fixtures of the tests of TLS."""

from __future__ import annotations

import pytest
from tlslib import Certs


@pytest.fixture
def limit() -> float:
    return 60.0  # a failure of TLS is a hang more often than not


@pytest.fixture(scope="session")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Certs:
    return Certs(tmp_path_factory.mktemp("certs"))
