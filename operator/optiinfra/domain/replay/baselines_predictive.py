"""predictive-HPA (jthomperoo): an HPA whose replica count also follows a model of its own past counts.

Both models predict the **replica count**, and the reactive count stays a candidate, so `maximum` (its default) can only
add. Linear: least squares over the last `HISTORY` counts, `LOOK_AHEAD_S` ahead. Holt-Winters: additive trend and
season with the parameters of its documentation's example (alpha 0.9, beta 0.9, gamma 0.9; season of one day here, in
steps of five minutes, because it stores that few). Sync 15 s, tolerance 0.1, the HPA's rule below it.
"""

from collections.abc import Callable
from typing import Final

import numpy as np

from optiinfra.domain.replay.baselines import TOLERANCE, Stabilized, ceiled
from optiinfra.domain.replay.fluid import SYNC_S, FloatArray, IntArray, View, rise_limited

HISTORY: Final = 6
LOOK_AHEAD_S: Final = 300.0
ALPHA: Final = 0.9
BETA: Final = 0.9
GAMMA: Final = 0.9
SEASON: Final = 288
SEASON_SYNCS: Final = 20


class Linear:
    """Least squares over the last counts, extrapolated."""

    def __init__(self) -> None:
        self._past: list[IntArray] = []

    def __call__(self, count: IntArray, sync: int) -> IntArray:
        """Predict the count `LOOK_AHEAD_S` ahead; the count itself while there are too few."""
        del sync
        self._past = [*self._past[-(HISTORY - 1) :], count]
        if len(self._past) < HISTORY:
            return count
        y = np.stack(self._past).astype(np.float64)
        x = np.arange(HISTORY) - (HISTORY - 1) / 2.0
        slope = (x[:, None] * y).sum(axis=0) / (x**2).sum()
        ahead = (HISTORY - 1) / 2.0 + LOOK_AHEAD_S / SYNC_S
        return np.maximum(ceiled(y.mean(axis=0) + slope * ahead), 0)


class HoltWinters:
    """Additive trend and season of one day, smoothed over counts of five minutes; silent for the first season."""

    def __init__(self) -> None:
        self._level: FloatArray | None = None
        self._trend: FloatArray | None = None
        self._season: FloatArray | None = None
        self._first: list[FloatArray] = []
        self._said: IntArray | None = None

    def __call__(self, count: IntArray, sync: int) -> IntArray:
        """Predict the count of the next five minutes; the count itself during the first day."""
        if sync % SEASON_SYNCS == 0:
            self._smooth(count.astype(np.float64), sync // SEASON_SYNCS)
        return count if self._said is None else self._said

    def _smooth(self, value: FloatArray, index: int) -> None:
        slot, following = index % SEASON, (index + 1) % SEASON
        if self._level is None or self._trend is None or self._season is None:
            self._first.append(value)
            if len(self._first) == SEASON:
                season = np.stack(self._first, axis=1)
                self._level, self._trend = season.mean(axis=1), np.zeros(len(value))
                self._season = season - season.mean(axis=1, keepdims=True)
            return
        level = ALPHA * (value - self._season[:, slot]) + (1.0 - ALPHA) * (self._level + self._trend)
        self._trend = BETA * (level - self._level) + (1.0 - BETA) * self._trend
        self._season[:, slot] = GAMMA * (value - level) + (1.0 - GAMMA) * self._season[:, slot]
        self._level = level
        self._said = np.maximum(ceiled(level + self._trend + self._season[:, following]), 0)


class PredictiveHpa:
    """An HPA on the rate whose count is the larger of the reactive and the predicted one."""

    def __init__(self, target: FloatArray, model: Callable[[IntArray, int], IntArray]) -> None:
        self._target = target
        self._model = model
        self._stabilized = Stabilized()

    def __call__(self, view: View) -> IntArray:
        """Ask for replicas."""
        total, current = view.arrivals(12), view.replicas
        inside = np.abs(total / (self._target * current) - 1.0) <= TOLERANCE
        count: IntArray = np.where(inside, current, ceiled(total / self._target))
        asked = np.maximum(count, self._model(count, view.sync))
        return rise_limited(self._stabilized(asked, sync=view.sync, current=current), current)
