"""The expected over-time of CPU on the coming day, as a curve over requests.

Half of the fast and half of the slow histogram (see `sketch`), moved up by a margin while a container is young, by its
trend where it grows, and by what the coming weekday usually takes above the last days. All of these only add.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from optiinfra.domain.histogram import DAY
from optiinfra.domain.right_sizing.pricing import Curves
from optiinfra.domain.right_sizing.record import LEVEL_DAYS, Kept
from optiinfra.domain.right_sizing.sketch import COUNT, EDGES, SLOW_DAYS

FloatArray = npt.NDArray[np.float64]
FAST_SHARE: Final = 0.5
YOUNG_MARGIN: Final = 0.05
"""Of a container known for one day; shrinks with the root of the days."""
_TREND_DAYS: Final = 8
_TREND_SURE: Final = 3.0
"""Standard errors that a slope must be away from zero."""
_MOST_GROWTH: Final = 0.5
_WEEKLY_SHARE: Final = 0.5
"""How much of the weekday's surplus is added: half of the curve remembers it already."""
_MOST_WEEKLY: Final = 1.0
_LEAST_WEEKLY: Final = 0.1


@dataclass(frozen=True, slots=True)
class CpuCurves:
    """Curves and what they are made of; arrays are (containers,)."""

    curves: Curves
    growth: FloatArray
    weekly: FloatArray
    """Relative surplus of the coming weekday that was added."""
    shares: FloatArray
    """(containers, buckets): share of the slow histogram up to each bucket's upper end."""


def cpu_curves(kept: list[Kept], *, days: FloatArray, now: float) -> CpuCurves:
    """Build the curves of a fleet in which every container has CPU samples; `days` it is known for."""
    fast = _above(np.array([one.cpu.fast for one in kept]))
    slow = _above(np.array([one.cpu.slow for one in kept]))
    harm = FAST_SHARE * fast + (1.0 - FAST_SHARE) * slow
    levels = _levels(kept, now=now)
    growth, weekly = _growth(levels), _weekly(levels)
    size = (harm * np.diff(EDGES, prepend=0.0)).sum(axis=1)
    margin = YOUNG_MARGIN / np.sqrt(np.maximum(days, 0.02))
    factor = (1.0 + np.minimum(margin, 0.35)) * (1.0 + growth) * (1.0 + weekly)
    edges, finer = _finer(harm)
    return CpuCurves(
        curves=Curves(edges[None, :] * factor[:, None], finer, size * factor),
        growth=growth,
        weekly=weekly,
        shares=1.0 - slow,
    )


def _above(weights: FloatArray) -> FloatArray:
    """Share of the weight above each bucket's upper end."""
    total = weights.sum(axis=1, keepdims=True)
    below = np.cumsum(weights, axis=1) / np.where(total > 0.0, total, 1.0)
    return np.where(total > 0.0, np.clip(1.0 - below, 0.0, 1.0), 0.0)


def _finer(harm: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Halve the buckets, values even inside each."""
    edges = np.empty(2 * COUNT - 1)
    edges[::2], edges[1::2] = EDGES, 0.5 * (EDGES[:-1] + EDGES[1:])
    finer = np.empty((len(harm), 2 * COUNT - 1))
    finer[:, ::2], finer[:, 1::2] = harm, 0.5 * (harm[:, :-1] + harm[:, 1:])
    return edges, np.where(finer < 1e-9, 0.0, finer)


def _levels(kept: list[Kept], *, now: float) -> FloatArray:
    """Daily means (containers, days); column -1 is the day before `now`'s, whatever day each history stands at."""
    today = int(now // DAY)
    aligned = np.full((len(kept), LEVEL_DAYS), np.nan)
    for row, one in enumerate(kept):
        behind = today - 1 - one.day
        if behind < 0:
            # The running day is left out: its mean is that of its hours so far.
            aligned[row, 1:] = one.levels[:-1]
        elif behind < LEVEL_DAYS:
            aligned[row, : LEVEL_DAYS - behind] = one.levels[behind:]
    return aligned


def _growth(levels: FloatArray) -> FloatArray:
    """Relative growth a day by a straight line through the logarithms of the last days, where it is sure; else 0."""
    last = levels[:, -_TREND_DAYS:]
    known = np.isfinite(last) & (last > 0.0)
    count = known.sum(axis=1)
    x = np.where(known, np.arange(_TREND_DAYS, dtype=np.float64)[None, :], 0.0)
    y = np.where(known, np.log(np.where(known, last, 1.0)), 0.0)
    number = np.maximum(count, 1)
    x = np.where(known, x - (x.sum(axis=1) / number)[:, None], 0.0)
    y = np.where(known, y - (y.sum(axis=1) / number)[:, None], 0.0)
    spread = np.maximum((x**2).sum(axis=1), 1e-12)
    slope = (x * y).sum(axis=1) / spread
    rest = ((y - slope[:, None] * x) ** 2).sum(axis=1)
    error = np.sqrt((rest + 1e-6) / np.maximum(count - 2, 1) / spread)
    sure = (count >= 5) & (slope > _TREND_SURE * error) & (slope > 0.005)
    return np.where(sure, np.minimum(np.expm1(np.minimum(slope, 1.0)), _MOST_GROWTH), 0.0)


def _weekly(levels: FloatArray) -> FloatArray:
    """Return the surplus of the coming weekday over the last days, where it came at least twice of late; else 0."""
    same = levels[:, [-7, -14, -21, -28]]
    ages = np.arange(levels.shape[1])[::-1]
    weights = np.where(np.isfinite(levels), 0.5 * 2.0 ** (-ages / 0.5) + 0.05 * 2.0 ** (-ages / SLOW_DAYS), 0.0)
    now = np.nansum(np.where(np.isfinite(levels), levels, 0.0) * weights, axis=1) / np.maximum(
        weights.sum(axis=1), 1e-12
    )
    known = np.isfinite(same)
    least = np.where(known, same, np.inf).min(axis=1)
    surplus = np.where(now > 0.0, least / np.maximum(now, 1e-12) - 1.0, 0.0)
    sure = (known.sum(axis=1) >= 2) & (surplus > _LEAST_WEEKLY) & np.isfinite(surplus)
    return np.where(sure, _WEEKLY_SHARE * np.minimum(surplus, _MOST_WEEKLY), 0.0)
