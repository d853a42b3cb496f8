"""Means, spreads, gains and closed gaps over seeds, and when a difference counts.

Values come by seed, because seeds are paired: those of one seed share data, start and order of clips.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Values = Mapping[int, float]
"""One number for each seed."""

RULE = (
    "A difference between two recipes is within the spread of the seeds if the mean of the differences by seed is not "
    "larger than the larger of the two standard deviations over seeds, or if the seeds do not agree on its sign. "
    "With one seed nothing can be said."
)
"""The rule of ``difference`` in words."""


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (divisor n - 1) of n values; None for one value."""

    mean: float
    deviation: float | None
    count: int


@dataclass(frozen=True)
class Difference:
    """One recipe minus another.

    Attributes:
        gain: Of the differences by seed.
        limit: The larger of the two standard deviations; None with one seed.
        within: Whether it is within the spread of the seeds; None with one seed.
    """

    gain: Spread
    limit: float | None
    within: bool | None


def spread(values: Iterable[float]) -> Spread | None:
    """Mean and standard deviation; None without values.

    >>> spread([1.0, 3.0])
    Spread(mean=2.0, deviation=1.4142135623730951, count=2)
    """
    known = list(values)
    if not known:
        return None
    return Spread(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, len(known))


def difference(first: Values, second: Values) -> Difference | None:
    """``first`` minus ``second`` over the seeds that both have; None if there are none. See ``RULE``.

    >>> difference({0: 0.5, 1: 0.7}, {0: 0.4, 1: 0.6}).within
    True
    >>> difference({0: 0.9, 1: 0.9}, {0: 0.4, 1: 0.5}).within
    False
    """
    seeds = sorted(first.keys() & second.keys())
    gains = [first[seed] - second[seed] for seed in seeds]
    gain = spread(gains)
    if gain is None:
        return None
    if gain.count == 1:
        return Difference(gain, None, None)
    limit = max(statistics.stdev(values[seed] for seed in seeds) for values in (first, second))
    agreed = min(gains) > 0 or max(gains) < 0
    return Difference(gain, limit, abs(gain.mean) <= limit or not agreed)


def gap_closed(method: Values, source: Values, oracle: Values) -> float | None:
    """Share of the distance between ``source`` and ``oracle`` that ``method`` covers, of means over common seeds.

    None without common seeds, or where the oracle is not the better one.

    >>> gap_closed({0: 0.4, 1: 0.6}, {0: 0.2, 1: 0.4}, {0: 0.6, 1: 0.8})
    0.5
    """
    seeds = sorted(method.keys() & source.keys() & oracle.keys())
    if not seeds:
        return None
    means = [statistics.fmean(values[seed] for seed in seeds) for values in (method, source, oracle)]
    gap = means[2] - means[1]
    return round((means[0] - means[1]) / gap, 12) if gap > 0 else None
