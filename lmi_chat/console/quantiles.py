"""Compute quantiles, of values and of a histogram's growth."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

Buckets = Mapping[float, float]
"""How many values are at most so large, by that bound."""


def quantile(values: Sequence[float], part: float) -> float | None:
    """The value below which `part` of the sorted `values` lie, one of them; None of none."""
    return values[min(len(values) - 1, math.ceil(part * len(values)) - 1)] if values else None


def of_growth(before: Buckets, after: Buckets, part: float) -> float | None:
    """The same of what came between two readings of a histogram, as far as its buckets tell; None where nothing did."""
    grown = [(0.0, 0.0)] + [(bound, after[bound] - before.get(bound, 0.0)) for bound in sorted(after)]
    wanted = part * grown[-1][1]
    if wanted <= 0:
        return None
    for (low, below), (high, until) in pairwise(grown):
        if until >= wanted and until > below:
            return low if math.isinf(high) else low + (high - low) * (wanted - below) / (until - below)
    return None
