"""A family of curves that say how soon prompts come back, and what a cache of a size then holds of them.

A curve is G(t): the share of looked-up tokens whose last use was at most t ago. Part of it is immediate (a system
prompt that every request carries), part comes back after a log-normal time (the next turn of a conversation), the rest
never. A least-recently-used cache of C tokens keeps what was used for a time T, and the mean working set says which
(Denning, "The working set model for program behavior", CACM 1968; Che et al., "Hierarchical web caching systems",
IEEE JSAC 2002): with tokens looked up at a rate, C = rate x integral from 0 to T of (1 - G), and the hit ratio is G(T).
Generated tokens are cached too and take their room.

The family is a fixed grid: whoever predicts weighs its curves by what was observed. Nothing is fitted here.
"""

from dataclasses import dataclass
from functools import cache
from math import erf
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float64]

IMMEDIATE: Final = (0.0, 0.01, 0.03, 0.06, 0.12, 0.25, 0.5, 0.8)
LATER: Final = (0.01, 0.03, 0.08, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95)
MEDIANS: Final = tuple(float(one) for one in np.geomspace(3.0, 3000.0, 16))
"""Seconds after which half of what comes back later has come back."""
SPREADS: Final = (0.6, 1.0, 1.5)
"""Standard deviations of the logarithm of that time."""
MOST: Final = 0.98
"""Largest share of tokens that a curve lets come back."""
_TIMES: Final = np.concatenate([[0.0], np.geomspace(0.5, 40_000.0, 80)])
_NORMAL_AT: Final = np.linspace(-6.0, 6.0, 1201)
_NORMAL: Final = np.array([0.5 * (1.0 + erf(one / 2.0**0.5)) for one in _NORMAL_AT])
_SHORTEST: Final = 1e-9


@dataclass(frozen=True, slots=True)
class ReuseCurves:
    """The curves as columns; every array has one row a curve."""

    immediate: FloatArray
    later: FloatArray
    median: FloatArray
    """Seconds."""
    spread: FloatArray
    _missed: FloatArray
    """Integral of 1 - G up to each of the times, one row a curve."""

    def returned(self, within: FloatArray | float) -> FloatArray:
        """Return G of every curve at a time (seconds; one for all, or one a curve; infinity gives the limit)."""
        times = np.maximum(np.asarray(within, dtype=np.float64), _SHORTEST)
        return self.immediate + self.later * self.came_back(times)

    def came_back(self, within: FloatArray | float) -> FloatArray:
        """Return which share of what comes back later has come back within a time."""
        standard = (np.log(np.maximum(within, _SHORTEST)) - np.log(self.median)) / self.spread
        return np.asarray(np.interp(standard, _NORMAL_AT, _NORMAL))

    def residence(self, capacity: float, *, rate: float, generated: float = 0.0) -> FloatArray:
        """Return for how long, in seconds, a cache keeps what it is not asked for.

        Args:
            capacity: in tokens (or blocks; the same unit as the rates).
            rate: looked up per second.
            generated: written per second without being looked up.
        """
        if rate <= 0.0 and generated <= 0.0:
            return np.full(len(self.median), np.inf)
        rows = np.arange(len(self.median))
        lower, upper = np.zeros(len(rows), dtype=np.int64), np.full(len(rows), len(_TIMES) - 1)
        for _ in range(len(_TIMES).bit_length()):
            middle = (lower + upper) // 2
            fits = self._missed[rows, middle] * rate + _TIMES[middle] * generated < capacity
            lower, upper = np.where(fits, middle, lower), np.where(fits, upper, middle)
        upper = np.maximum(upper, 1)
        low = self._missed[rows, upper - 1] * rate + _TIMES[upper - 1] * generated
        high = self._missed[rows, upper] * rate + _TIMES[upper] * generated
        step = _TIMES[upper] - _TIMES[upper - 1]
        return np.asarray(_TIMES[upper - 1] + step * (capacity - low) / np.maximum(high - low, _SHORTEST))


@cache
def curves() -> ReuseCurves:
    """Return the family (made once; about 2.5 MiB)."""
    mesh = np.meshgrid(IMMEDIATE, LATER, MEDIANS, SPREADS, indexing="ij")
    immediate, later, median, spread = (one.ravel() for one in mesh)
    allowed = immediate + later <= MOST
    immediate, later, median, spread = immediate[allowed], later[allowed], median[allowed], spread[allowed]
    logarithms = np.log(np.maximum(_TIMES, _SHORTEST))
    standard = (logarithms[None, :] - np.log(median)[:, None]) / spread[:, None]
    share = immediate[:, None] * (_TIMES > 0.0) + later[:, None] * np.interp(standard, _NORMAL_AT, _NORMAL)
    between = 1.0 - (share[:, 1:] + share[:, :-1]) / 2.0
    missed = np.concatenate([np.zeros((len(median), 1)), np.cumsum(between * np.diff(_TIMES), axis=1)], axis=1)
    return ReuseCurves(immediate, later, median, spread, missed)
