"""The soak's own test: a leak is found in noise, noise alone is not."""

from __future__ import annotations

import random

from trend import trend


def noise(seed: int, n: int = 120) -> list[float]:
    rng = random.Random(seed)
    return [1000 + rng.gauss(0, 30) for _ in range(n)]


def test_a_leak_is_found() -> None:
    for seed in range(20):
        row = [value + i for i, value in enumerate(noise(seed))]
        found = trend(row, 20, 0.02)
        assert found is not None
        assert found.grows


def test_noise_is_none() -> None:
    for seed in range(200):
        found = trend(noise(seed), 20, 0.02)
        assert found is not None
        assert not found.grows


def test_a_warm_up_and_a_spike_are_none() -> None:
    row = [10.0 * i for i in range(30)] + noise(1, 90)
    row[60] = 1e6
    found = trend(row, 20, 0.02)
    assert found is not None
    assert not found.grows


def test_too_few() -> None:
    assert trend([1.0, 2.0, 3.0], 0, 0) is None
