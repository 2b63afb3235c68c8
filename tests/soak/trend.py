"""Does a row of samples grow? Robust against noise: no single sample decides anything.

After the warm-up the median of the last third is compared with that of the first third. Growth
counts when it is beyond the tolerance and the row rises throughout: the slope of Theil and Sen is
positive, and the test of Mann and Kendall says that so steady a rise is no accident.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

WARM_UP = 0.3  # of the samples, before which nothing is asked
FEWEST = 9  # samples after the warm-up that say anything
CERTAIN = 4.0  # standard deviations


@dataclass
class Trend:
    early: float
    late: float
    slope: float  # per sample
    score: float  # of Mann and Kendall, in standard deviations
    grows: bool


def slope(values: list[float]) -> float:
    n = len(values)
    return statistics.median(
        (values[j] - values[i]) / (j - i) for i in range(n) for j in range(i + 1, n)
    )


def kendall(values: list[float]) -> float:
    n = len(values)
    s = sum(
        (values[j] > values[i]) - (values[j] < values[i]) for i in range(n) for j in range(i + 1, n)
    )
    if s == 0:
        return 0.0
    variance = n * (n - 1) * (2 * n + 5) / 18
    return (s - math.copysign(1, s)) / math.sqrt(variance)


def trend(samples: list[float], at_least: float, share: float) -> Trend | None:
    """None: too few samples. Growth is tolerated up to `at_least` or this share of the level."""
    values = samples[int(len(samples) * WARM_UP) :]
    if len(values) > 400:  # all pairs are looked at
        values = values[:: len(values) // 400 + 1]
    if len(values) < FEWEST:
        return None
    third = len(values) // 3
    early, late = statistics.median(values[:third]), statistics.median(values[-third:])
    rises, score = slope(values), kendall(values)
    beyond = late - early > max(at_least, share * abs(early))
    return Trend(early, late, rises, score, beyond and rises > 0 and score > CERTAIN)
