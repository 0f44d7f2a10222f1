"""Is what came after larger than what came before, or is it noise: one test for all signals.

The values are logarithms (a latency that doubles is the same step from 0.1 s as from 1 s), and the yardstick is the
signal's own variation before the action, never the one after it: what did harm often also makes a signal restless.
That is Glass's delta, turned into a t statistic:

    t = (mean(after) - mean(before)) / (s x sqrt(f(na) / na + f(nb) / nb))

- s is the standard deviation of the windows before, moderated by what is usual for such signals, so that three alike
  windows are no proof of a signal that never moves: s2 = (d0 s0^2 + (nb - 1) sb^2) / (d0 + nb - 1) (Smyth, Linear
  models and empirical Bayes methods, SAGMB 3(1), 2004).
- f(n) widens it for windows that resemble their neighbours: 1 + 2 sum (1 - k/n) r^k for an autocorrelation r at a lag
  of one window (von Storch and Zwiers, Statistical Analysis in Climate Research, 1999, section 6.6). r is corrected
  for its bias in short series (Marriott and Pope, Biometrika 41, 1954) and drawn to what is usual in the same way.
- The chance of such a t without any change is that of Student's distribution, by the approximation of Wallace (Annals
  of Mathematical Statistics 30, 1959), good to 0.02 standard deviations.

Where a control is given, its logarithm is subtracted window by window first: what both have in common drops out
(difference in differences). Pure; it knows no signals and no thresholds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist, fmean, variance
from typing import Final

USUAL_DEVIATION: Final = 0.2
"""s0: how much a p95 of a minute usually varies, as a logarithm. Simulated engines under a real trace showed 0.3 for
the time to first token and 0.01 for the inter-token latency (`bench/verification.py`)."""
USUAL_WEIGHT: Final = 4.0
"""d0: windows that the usual deviation counts for."""
USUAL_CORRELATION: Final = 0.3
CORRELATION_WEIGHT: Final = 8.0
MOST_CORRELATION: Final = 0.9
_NORMAL: Final = NormalDist()


@dataclass(frozen=True, slots=True)
class Shift:
    """What changed between two series of logarithms."""

    ratio: float
    """Typical value after over typical value before."""
    deviation: float
    """s: the usual variation, as a logarithm."""
    correlation: float
    statistic: float
    chance: float
    """Of a rise as large without any change (one-sided p value)."""


def shift(before: Sequence[float], after: Sequence[float]) -> Shift | None:
    """Compare two series of logarithms, oldest first; None when one of them is empty."""
    if not before or not after:
        return None
    correlation = _correlation(before)
    wide_before, wide_after = _inflation(len(before), correlation), _inflation(len(after), correlation)
    deviation, freedom = _deviation(before, inflation=wide_before)
    step = fmean(after) - fmean(before)
    error = deviation * math.sqrt(wide_after / len(after) + wide_before / len(before))
    statistic = step / error
    return Shift(math.exp(step), deviation, correlation, statistic, _chance(statistic, freedom))


def _deviation(before: Sequence[float], *, inflation: float) -> tuple[float, float]:
    """Return the moderated standard deviation, and its degrees of freedom."""
    count = len(before)
    squares = 0.0
    if count > 1:
        # Neighbours that are alike hide part of the variation: the sample's is too small by this.
        hidden = (count - 1) / max(count - inflation, (count - 1) / 3.0)
        squares = (count - 1) * variance(before) * hidden
    mixed = (USUAL_WEIGHT * USUAL_DEVIATION**2 + squares) / (USUAL_WEIGHT + count - 1)
    return math.sqrt(mixed), USUAL_WEIGHT + max(0.0, count / inflation - 1.0)


def _correlation(before: Sequence[float]) -> float:
    """Return the autocorrelation of neighbouring windows: not below nought, not above what leaves any evidence."""
    count = len(before)
    measured = USUAL_CORRELATION
    mean = fmean(before)
    spread = math.fsum((value - mean) ** 2 for value in before)
    if count > 2 and spread > 0.0:
        products = math.fsum((one - mean) * (next_ - mean) for one, next_ in pairwise(before))
        raw = products / spread
        measured = raw + (1.0 + 3.0 * raw) / count
    drawn = (CORRELATION_WEIGHT * USUAL_CORRELATION + count * measured) / (CORRELATION_WEIGHT + count)
    return min(max(drawn, 0.0), MOST_CORRELATION)


def _inflation(count: int, correlation: float) -> float:
    """Return by how much a mean of so many alike neighbours varies more than one of strangers."""
    return 1.0 + 2.0 * math.fsum((1.0 - lag / count) * correlation**lag for lag in range(1, count))


def _chance(statistic: float, freedom: float) -> float:
    """Return the upper tail of Student's distribution."""
    normal = math.sqrt(freedom * math.log1p(statistic * statistic / freedom)) * (8.0 * freedom + 1.0)
    normal /= 8.0 * freedom + 3.0
    return _NORMAL.cdf(-math.copysign(normal, statistic))
