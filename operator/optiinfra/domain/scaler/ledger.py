"""Who forecasts this load best, and how far off: every forecast is written down and judged when its moment comes.

Once a minute each forecaster's opinion of the load one start-up ahead is noted. When that minute is measured, the
forecaster pays the pinball loss at the quantile q = p / (1 + p), p the price of late work in replicas: a replica too
few costs p, one too many costs 1, so a forecast that is too low is p times as bad as one that is too high by as much
(the newsvendor's critical ratio). A forecaster is believed only while its losses of the last day are clearly below the
level's in the same minutes, and its absolute errors below them too; nobody has to switch it off. How much of a forecast
change came on the average (least squares through zero) is learned as well, and only that much is said. Nothing is
judged that was not measured on both ends.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from optiinfra.domain.scaler.profiles import MOST_LOAD

Floats = npt.NDArray[np.float32]
Halves = npt.NDArray[np.float16]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

MINUTE: Final = 4
"""Ticks between two forecasts that are written down."""
OPEN: Final = 24
"""Slots for forecasts whose time has not come, by the minute in which it comes."""
FORGET_MINUTES: Final = 1_440.0
"""Memory of losses: a day."""
LEAST_SCORED: Final = 360.0
"""Judged forecasts, about minutes, before a forecaster may be believed."""
LEAST_TOLD: Final = 60.0
"""Judged forecasts before an error is told to anybody."""
ON: Final = 0.95
"""A forecaster is believed from this share of the level's loss,"""
OFF: Final = 0.98
"""and until this one."""
USELESS: Final = 0.995
"""From this share of the level's loss a trend is not extrapolated in a decision."""
GAIN_PRIOR: Final = 0.5
"""Share of a forecast change that is said while nothing was learned,"""
GAIN_WEIGHT: Final = 0.01
"""and what that is worth, in squared shares of the mean load: a change of 10 % outweighs it."""


class Forecaster(StrEnum):
    """Who forecasts the load one start-up ahead."""

    LEVEL = "level"
    """The last minute stays: the baseline."""
    TREND = "trend"
    """The last minute plus the slope of three minutes beyond its noise; never falling."""
    DAILY = "daily profile"
    """The last minute times what these minutes of earlier days did."""
    WEEKLY = "weekly profile"
    """The same by the minutes of the week, after two weeks."""


FORECASTERS: Final = tuple(Forecaster)
COUNT: Final = len(FORECASTERS)
TREND: Final = FORECASTERS.index(Forecaster.TREND)
FIRST_PROFILE: Final = FORECASTERS.index(Forecaster.DAILY)


@dataclass(slots=True)
class ErrorLedger:
    """Open forecasts and decayed losses; the last axis is the forecaster unless said otherwise."""

    open: Halves
    """(workloads, OPEN, forecasters): replicas, -1 where nobody said anything."""
    whole: Halves
    """The same before the share that usually comes was taken."""
    moved: Floats
    """Squares of the forecast changes, as shares of the mean load,"""
    came: Floats
    """and their products with the changes that came."""
    loss: Floats
    """Pinball loss, in replicas."""
    base: Floats
    """The level's, in the minutes in which this forecaster spoke."""
    error: Floats
    """Absolute error, in replicas."""
    base_error: Floats
    """The level's, in the same minutes."""
    actual: Floats
    """What came, in replicas."""
    scored: Floats
    """Minutes judged, forgotten like the losses."""
    believed: Bools

    @classmethod
    def empty(cls, workloads: int) -> "ErrorLedger":
        """Nothing written down; the level is believed."""

        def zeros() -> Floats:
            return np.zeros((workloads, COUNT), dtype=np.float32)

        believed = np.zeros((workloads, COUNT), dtype=np.bool_)
        believed[:, 0] = True
        return cls(
            open=np.full((workloads, OPEN, COUNT), -1.0, dtype=np.float16),
            whole=np.full((workloads, OPEN, COUNT), -1.0, dtype=np.float16),
            moved=zeros(),
            came=zeros(),
            loss=zeros(),
            base=zeros(),
            error=zeros(),
            base_error=zeros(),
            actual=zeros(),
            scored=zeros(),
            believed=believed,
        )

    def note(self, points: Floats, *, minute: int, ahead: Ints, said: Bools) -> Floats:
        """Write forecasts down for `ahead` ticks, whole minutes, after the minute `minute`, and return what is said.

        `points` are (workloads, forecasters), the level first; `said`: who spoke.
        """
        slots = (minute + ahead // MINUTE) % OPEN
        rows = np.arange(len(slots))
        level = points[:, :1]
        told = np.maximum(level + self.gain * (points - level), 0.0).astype(np.float32)
        for ring, values in ((self.open, told), (self.whole, points)):
            ring[rows, slots] = np.where(said, np.clip(values, 0.0, MOST_LOAD), -1.0).astype(np.float16)
        return told

    def judge(
        self, actual: Floats, *, mean: Floats, minute: int, measured: Bools, distrusted: Bools, late_price: float
    ) -> None:
        """Judge what was said of this minute, and decide who is believed; no profile where they are `distrusted`."""
        said = self.open[:, minute % OPEN].astype(np.float32)
        whole = self.whole[:, minute % OPEN].astype(np.float32)
        self.open[:, minute % OPEN] = -1.0
        self.whole[:, minute % OPEN] = -1.0
        judged = (said >= 0.0) & measured[:, None]
        quantile = np.float32(late_price / (1.0 + late_price))
        came = np.minimum(actual, MOST_LOAD)[:, None]
        below = came - said
        loss = np.maximum(quantile * below, (quantile - 1.0) * below)
        share = np.float32(1.0) / np.maximum(mean, np.float32(1e-3))[:, None]
        change = (whole - whole[:, :1]) * share
        kept = np.where(judged, np.float32(np.exp(-1.0 / FORGET_MINUTES)), np.float32(1.0))
        for total, new in (
            (self.loss, loss),
            (self.base, loss[:, :1]),
            (self.error, np.abs(below)),
            (self.base_error, np.abs(below[:, :1])),
            (self.actual, came),
            (self.scored, np.float32(1.0)),
            (self.moved, change**2),
            (self.came, change * (came - whole[:, :1]) * share),
        ):
            total[...] = total * kept + np.where(judged, new, np.float32(0.0))
        limit = np.where(self.believed, np.float32(OFF), np.float32(ON))
        # A loss of nothing cannot be beaten. Who is only higher wins by the asymmetry, and is no better a forecast.
        better = (self.loss < limit * self.base) & (self.error < limit * self.base_error)
        self.believed = (self.scored >= LEAST_SCORED) & better
        self.believed[:, FIRST_PROFILE:] &= ~distrusted[:, None]
        self.believed[:, 0] = True

    def interrupt(self) -> None:
        """Drop the open forecasts: the clock jumped."""
        self.open[:] = -1.0
        self.whole[:] = -1.0

    @property
    def gain(self) -> Floats:
        """Share of each forecaster's changes that usually comes, 0 to 1."""
        weight = np.float32(GAIN_WEIGHT)
        gains: Floats = (self.came + weight * np.float32(GAIN_PRIOR)) / (self.moved + weight)
        return np.clip(gains, 0.0, 1.0)

    @property
    def share(self) -> Floats:
        """Loss over the level's in the same minutes; 1 where neither lost anything."""
        nothing = self.base <= 0.0
        shares: Floats = np.where(nothing, 1.0, self.loss / np.where(nothing, 1.0, self.base)).astype(np.float32)
        return shares

    def best(self, said: Bools) -> Ints:
        """Index of the believed forecaster with the least loss among those who spoke; the level if there is none."""
        shares = np.where(self.believed & said, self.share, np.float32(np.inf))
        shares[:, 0] = 1.0
        leading: Ints = shares.argmin(axis=1)
        return leading

    def mean_error(self) -> Floats:
        """Mean absolute error as a share of the mean load; 0 where nothing came."""
        return (self.error / np.maximum(self.actual, np.float32(1e-6))).astype(np.float32)
