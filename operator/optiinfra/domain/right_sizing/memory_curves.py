"""The probability that the coming day's memory peak exceeds a request, as a curve over requests.

Below the highest peak seen, a container's own daily peaks tell it: the older the lighter, the last days and the coming
weekday heavier. Above it nothing was seen, and the law of records speaks: of n + 1 days without a trend the newest is
the highest with probability 1 / (n + 1), and how far a record goes has a Pareto tail (shape 1/3 in the words of
extreme-value theory, fitted over fleets: docs/design/2026-11-21-right-sizing.md). A new record's step is counted in a
unit between the container's usual peak and what is usual in the fleet, because small containers were seen to jump
further in percent than large ones. A trend moves all of it up; a kill for memory lifts the highest peak until it is
forgotten.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from optiinfra.domain.histogram import DAY
from optiinfra.domain.right_sizing.pricing import Curves
from optiinfra.domain.right_sizing.record import KILL_DAYS, PEAK_DAYS, Kept

FloatArray = npt.NDArray[np.float64]
HALF_LIFE_DAYS: Final = 60.0
FAST_HALF_LIFE_DAYS: Final = 3.0
FAST_SHARE: Final = 0.3
"""Of the weight: peaks come in runs."""
SAME_WEEKDAY: Final = 3.0
"""Weight of a peak on the coming day's weekday beside the others."""
RECORD: Final = 0.9
"""Of 1 / (n + 1): records that are worth the name."""
STEP: Final = 1.0 / 3.0
"""Scale of a record's step, in units."""
SHAPE: Final = 3.0
UNIT_FACTOR: Final = 3.0
"""The unit is the fleet's median of highest peaks, but within this factor of the container's usual peak."""
OVER_PEAK: Final = 1.02
"""Candidates below the highest peak lie this far above one that was seen."""
STEPS: Final[FloatArray] = np.concatenate(
    [[0.0, 0.01, 0.02, 0.03], np.exp(np.arange(np.log(0.04), np.log(12.0), 0.08))]
)
"""Candidates above the highest peak, in units."""
_TREND_DAYS: Final = 8
_MOST_GROWTH: Final = 0.5


@dataclass(frozen=True, slots=True)
class MemoryCurves:
    """Curves and what they are made of; arrays are (containers,)."""

    curves: Curves
    growth: FloatArray
    peaks: FloatArray
    """(containers, days): daily peaks, growing; unknown days first, as -1."""
    killed: npt.NDArray[np.bool_]
    """A kill that still counts lies above every peak."""


def memory_curves(kept: list[Kept], *, days: FloatArray, now: float) -> MemoryCurves:
    """Build the curves of a fleet in which every container has a memory peak or a kill; `days` it is known for."""
    peaks, ages = _peaks(kept, now=now)
    known = np.isfinite(peaks)
    growth = _growth(peaks, ages)
    kill = np.array([one.kill_bytes if now - one.kill_time <= KILL_DAYS * DAY else 0.0 for one in kept])
    values = np.where(known, peaks * (1.0 + growth)[:, None], -1.0)
    highest = np.maximum(values.max(axis=1), kill)
    killed = kill >= np.maximum(values.max(axis=1), 1e-9)
    weights = _weights(known, ages)
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    weights = np.take_along_axis(weights, order, axis=1)
    total = weights.sum(axis=1, keepdims=True)
    above = np.clip(1.0 - np.cumsum(weights, axis=1) / np.where(total > 0.0, total, 1.0), 0.0, 1.0)
    # A kill says that the peaks below it were cut off: they tell nothing of how much is enough.
    above = np.where(killed[:, None] | (ordered < 0.0), 1.0, above)
    unit = _unit(values, known, highest)
    record = np.minimum(RECORD / (np.maximum(days, 0.0) + 1.0), 0.9)
    beyond = record[:, None] * (1.0 + STEPS / STEP)[None, :] ** -SHAPE
    below = np.minimum(np.maximum(ordered, 0.0) * OVER_PEAK, highest[:, None])
    request = np.concatenate([below, highest[:, None] + unit[:, None] * STEPS[None, :]], axis=1)
    harm = np.concatenate([record[:, None] + (1.0 - record)[:, None] * above, beyond], axis=1)
    return MemoryCurves(Curves(request, harm, highest), growth, np.sort(np.where(known, peaks, -1.0), axis=1), killed)


def _weights(known: npt.NDArray[np.bool_], ages: FloatArray) -> FloatArray:
    """What each day counts: some of it the last days alone, the coming weekday more."""
    slow = np.where(known, 0.5 ** (ages / HALF_LIFE_DAYS), 0.0)
    slow *= np.where((ages + 1) % 7 == 0, SAME_WEEKDAY, 1.0)
    fast = np.where(known, 0.5 ** ((ages - ages.min(axis=1, keepdims=True)) / FAST_HALF_LIFE_DAYS), 0.0)
    both = [weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-300) for weights in (slow, fast)]
    return np.asarray((1.0 - FAST_SHARE) * both[0] + FAST_SHARE * both[1])


def _peaks(kept: list[Kept], *, now: float) -> tuple[FloatArray, FloatArray]:
    """(containers, days) of peaks and of their ages in days at `now`; a peak of yesterday is 0 days old."""
    behind = np.array([max(0.0, now // DAY - 1.0 - one.day) for one in kept])
    ages = np.arange(PEAK_DAYS, dtype=np.float64)[::-1][None, :] + behind[:, None]
    return np.array([one.peaks for one in kept]), ages


def _unit(values: FloatArray, known: npt.NDArray[np.bool_], highest: FloatArray) -> FloatArray:
    """Between the container's usual peak and the fleet's: the next record of a spiky one is no second spike on top."""
    ordered = np.sort(np.where(known, values, np.inf), axis=1)
    count = known.sum(axis=1)
    usual = ordered[np.arange(len(ordered)), np.maximum(count - 1, 0) // 2]
    usual = np.where(count > 0, usual, highest)
    fleet = float(np.median(highest))
    return np.minimum(np.maximum(fleet, usual / UNIT_FACTOR), usual * UNIT_FACTOR)


def _growth(peaks: FloatArray, ages: FloatArray) -> FloatArray:
    """Relative growth a day: the middle one of the last days' steps, where nearly all of them go up; else 0."""
    last = peaks[:, -_TREND_DAYS:]
    steps = np.diff(last, axis=1) / np.maximum(last[:, 1:], 1.0)
    known = np.isfinite(steps)
    rising = ((steps > 0.002) & known).sum(axis=1)
    count = known.sum(axis=1)
    ordered = np.sort(np.where(known, steps, np.inf), axis=1)
    middle = ordered[np.arange(len(ordered)), np.maximum(count - 1, 0) // 2]
    sure = (count >= 4) & (rising >= count - 1) & (ages[:, -1] < 2.0)
    return np.where(sure & np.isfinite(middle), np.clip(middle, 0.0, _MOST_GROWTH), 0.0)
