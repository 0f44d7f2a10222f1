"""Quantiles of what scraped histograms grew by.

A scraped histogram counts since its process began; only its growth in a window says something about the window. A
histogram that went down was restarted and counts from zero; one whose bounds changed (TGI derives its bounds from
limits) was restarted with other limits. Growths of different bounds are joined on the union of their bounds, with
straight lines in between, as a quantile itself is.

The result has the precision of the buckets. Above the largest finite bound it is that bound: the least that is sure.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from operator import sub

from optiinfra.domain.readings import Histogram, Unknown, UnknownReason, Value


def growth(series: Sequence[Histogram], *, from_zero: bool = True) -> list[Histogram]:
    """Return what one process's histogram grew by from the first to the last, one part for each life it had.

    With `from_zero` a histogram that went down was restarted and counts from zero. Without, only a part of what it
    adds up was restarted: then the step across the restart counts as nothing.
    """
    if len(series) < 2:
        return []
    parts: list[Histogram] = []
    start: Histogram | None = series[0]
    earlier = series[0]
    for later in series[1:]:
        if later is earlier:
            continue
        same = later.bounds is earlier.bounds or later.bounds == earlier.bounds
        if not same or later.count < earlier.count or later.total < earlier.total:
            parts.append(_difference(start, earlier, from_zero=from_zero))
            start = None if from_zero else later
        earlier = later
    parts.append(_difference(start, earlier, from_zero=from_zero))
    return [part for part in parts if part.count > 0.0]


def merge(parts: Sequence[Histogram]) -> Histogram | None:
    """Pool growths into one, on the union of their bounds; None when nothing was observed."""
    parts = [part for part in parts if part.count > 0.0]
    if len(parts) < 2:
        return parts[0] if parts else None
    total, count = sum(part.total for part in parts), sum(part.count for part in parts)
    bounds = parts[0].bounds
    if all(part.bounds is bounds or part.bounds == bounds for part in parts):
        return Histogram(bounds, tuple(map(sum, zip(*(part.cumulative for part in parts), strict=True))), total, count)
    bounds = tuple(sorted({bound for part in parts for bound in part.bounds}))
    return Histogram(bounds, tuple(sum(_below(part, bound) for part in parts) for bound in bounds), total, count)


def quantile(parts: Sequence[Histogram], share: float) -> Value:
    """Return the value below which a share of all observations lies."""
    pooled = merge(parts)
    if pooled is None:
        return Unknown(UnknownReason.TOO_FEW_SAMPLES, "nothing was observed in the window")
    bounds, cumulative, count = pooled.bounds, pooled.cumulative, pooled.count
    rank = share * count
    index = min(bisect_left(cumulative, rank), len(bounds) - 1)
    upper = bounds[index]
    if upper == math.inf:
        finite = [bound for bound in bounds if bound != math.inf]
        if not finite:
            return Unknown(UnknownReason.INVALID, "a histogram with no finite bound")
        return finite[-1]
    lower = bounds[index - 1] if index else 0.0
    under = cumulative[index - 1] if index else 0.0
    inside = cumulative[index] - under
    if index == 0 and upper <= 0.0:
        return upper
    return upper if inside <= 0.0 else lower + (upper - lower) * (rank - under) / inside


def highest(parts: Sequence[Histogram]) -> Value:
    """Return a bound that no observation exceeds; unknown where one lies above the largest finite bound."""
    bounds = [
        bound
        for part in parts
        for bound, under, count in zip(part.bounds, (0.0, *part.cumulative), part.cumulative, strict=False)
        if count > under
    ]
    if not bounds:
        return Unknown(UnknownReason.TOO_FEW_SAMPLES, "nothing was observed in the window")
    if math.inf in bounds:
        return Unknown(UnknownReason.NOT_MEASURED, "an observation lies above the largest bucket")
    return max(bounds)


def _difference(start: Histogram | None, end: Histogram, *, from_zero: bool) -> Histogram:
    if start is None:
        return end
    cumulative = tuple(map(sub, end.cumulative, start.cumulative))
    if cumulative[0] < 0.0 or list(cumulative) != sorted(cumulative):
        # Restarted, and had observed more than before by the next scrape: only the buckets tell.
        return end if from_zero else Histogram(end.bounds, (0.0,) * len(end.bounds), 0.0, 0.0)
    return Histogram(end.bounds, cumulative, end.total - start.total, end.count - start.count)


def _below(part: Histogram, value: float) -> float:
    """Return how many observations lie at or below a value, straight between the part's own bounds."""
    index = bisect_left(part.bounds, value)
    if index >= len(part.bounds):
        return part.count
    if part.bounds[index] == value:
        return part.cumulative[index]
    upper = part.bounds[index]
    lower = part.bounds[index - 1] if index else min(0.0, upper)
    under = part.cumulative[index - 1] if index else 0.0
    if upper == math.inf or upper <= lower:
        return under
    return under + (part.cumulative[index] - under) * max(0.0, value - lower) / (upper - lower)
