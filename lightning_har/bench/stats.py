"""The few tests and intervals that comparing recognisers needs; plain Python, exact where that is affordable."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import product
from statistics import NormalDist

from lightning_har.errors import ConfigError

MIN_CLIPS = 30
"""Fewer clips than this give no interval: it would span most of what is possible, and mislead by its ends."""

_EXACT = 16
_DRAWS = 10_000


def wilson(share: float, clips: int, confidence: float = 0.95) -> tuple[float, float] | None:
    """Wilson's score interval of an accuracy (JASA 1927), for clips that are independent of each other.

    Clips cut from one video are not independent: the true interval is then wider.

    Args:
        share: Right clips, in [0, 1].
        clips: How many were scored.
        confidence: In (0, 1).

    Returns:
        (low, high), or None for fewer than ``MIN_CLIPS`` clips.
    """
    if clips < MIN_CLIPS:
        return None
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    centre = share + z * z / (2 * clips)
    half = z * math.sqrt(share * (1 - share) / clips + z * z / (4 * clips * clips))
    scale = 1 + z * z / clips
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def spread(values: Sequence[float]) -> float | None:
    """Sample standard deviation; None for fewer than two values."""
    if len(values) < 2:
        return None
    mean = sum(values) / len(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))


def half_interval(values: Sequence[float], confidence: float = 0.95) -> float | None:
    """Half of Student's interval of the mean of a few independent values, such as one of each seed.

    Args:
        values: Their spread is estimated from themselves.
        confidence: In (0, 1).

    Returns:
        What the mean may be off by to either side; None for fewer than two values.
    """
    std = spread(values)
    if std is None:
        return None
    return _student(confidence, len(values) - 1) * std / math.sqrt(len(values))


def _student(share: float, freedom: int) -> float:
    """The t of which ``share`` of Student's distribution lies within ± t, by halving what it can be."""
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        angle = (low + high) / 2
        low, high = (angle, high) if _within(angle, freedom) < share else (low, angle)
    return math.sqrt(freedom) * math.tan(low)


def _within(angle: float, freedom: int) -> float:
    """The share within ± sqrt(freedom) · tan(angle) (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    odd = freedom % 2
    total, term = 0.0, math.cos(angle) if odd else 1.0
    for k in range(1 + odd, freedom, 2):
        total += term
        term *= k / (k + 1) * math.cos(angle) ** 2
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total


def paired_permutation(differences: Sequence[float], seed: int = 0) -> float:
    """Two-sided p-value of a mean difference, by flipping the sign of each paired difference.

    All flips are counted for up to 16 pairs; beyond, 10,000 are drawn. With n pairs no p-value is below
    2 / 2^n: 3 seeds cannot show anything at 0.05, 6 can.

    Args:
        differences: A minus B, a pair each.
        seed: Of the drawn flips.

    Returns:
        The share of flips whose mean is at least as far from 0 as the observed one.

    Raises:
        ConfigError: There are no pairs.
    """
    if not differences:
        raise ConfigError("a paired test needs at least one pair")
    # Zeros change nothing and would only take up flips.
    moved = [d for d in differences if d != 0]
    if not moved:
        return 1.0
    # Sums of the same numbers in another order differ by rounding.
    observed = abs(sum(moved)) * (1 - 1e-9)
    if len(moved) <= _EXACT:
        sums = [
            abs(sum(s * d for s, d in zip(signs, moved, strict=True))) for signs in product((1, -1), repeat=len(moved))
        ]
        return sum(s >= observed for s in sums) / len(sums)
    draw = random.Random(seed)
    hits = 0
    for _ in range(_DRAWS):
        bits = draw.getrandbits(len(moved))
        hits += abs(sum(d if bits >> i & 1 else -d for i, d in enumerate(moved))) >= observed
    return (hits + 1) / (_DRAWS + 1)


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided p-value of McNemar's test: a binomial test of the clips on which two models disagree.

    Args:
        only_a: Clips that A alone has right.
        only_b: Clips that B alone has right.
    """
    n, least = only_a + only_b, min(only_a, only_b)
    if not n:
        return 1.0
    tail = sum(math.comb(n, i) for i in range(least + 1))
    return min(1.0, float(2 * tail / 2**n))
