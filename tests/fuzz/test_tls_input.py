"""The fuzz target of TLS's input in short: what it found once, and a few inputs of its own."""

from __future__ import annotations

import random
from typing import Any

import fuzz_tls
import pytest

import hotloop

SHORT = 60


@pytest.fixture
def fuzz(monkeypatch: pytest.MonkeyPatch, backend: str) -> Any:
    made = hotloop.new_event_loop(backend=backend)
    monkeypatch.setattr(hotloop, "new_event_loop", lambda: made)
    level = fuzz_tls.logging.getLogger("asyncio").level
    yield fuzz_tls.Fuzz()
    made.close()
    fuzz_tls.logging.getLogger("asyncio").setLevel(level)


def test_input_of_tls(fuzz: Any) -> None:
    for path in sorted(fuzz_tls.CORPUS.glob("*")):
        fuzz.one(path.read_bytes())
    rng = random.Random(7)
    seeds = [bytes([side, 0, 3, 0, 3, 11, 9, 0, 3, 14, 8, 0, 3, 13, 1, 0, 3]) for side in range(4)]
    for seed in seeds:
        fuzz.one(seed)
    for _ in range(SHORT):
        fuzz.one(fuzz_tls.mutated(rng, seeds))
