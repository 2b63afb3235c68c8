"""The profile of hypothesis, HOTLOOP_EXAMPLES=10000 runs that many of each; certificates of TLS."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings
from tlslib import Certs

settings.register_profile(
    "hotloop",
    max_examples=int(os.environ.get("HOTLOOP_EXAMPLES") or 100),
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("hotloop")


@pytest.fixture(scope="session")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Certs:
    return Certs(tmp_path_factory.mktemp("certs"))
