"""Has this load changed for good, and is it in a burst just now?

A change-point is found by a two-sided cumulative sum (Page, "Continuous inspection schemes", 1954) over five-minute
means: how far they stay from the level of the last hour, in units of how far they usually stray. One window alone never
suffices, so a burst is no change. Nor is what a profile knew: the level stays or moves as the day or the week did,
whichever comes nearer. On a first day a steep ramp may be called a change.

A burst shows in the index of dispersion, variance over mean of the load by tick: of the last five minutes against that
of the last hour, with the load above the hour's mean. Neither says anything in the first hour.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from optiinfra.domain.scaler.tuning import TICKS_PER_HOUR

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

CHANGED_TICKS: Final = TICKS_PER_HOUR
"""A change-point is told for an hour."""
DISTRUST_TICKS: Final = 6 * TICKS_PER_HOUR
"""No profile is believed for so long after it."""
RELEARN_TICKS: Final = 5_760
"""Profiles forget faster for a day after it."""
LEAST_WINDOWS: Final = 12
"""Five-minute means before a change can be told."""
ALLOWANCE: Final = 2.0
"""What a window may stray, in usual strays, without counting."""
ALARM: Final = 10.0
"""Sum that is a change: three windows at six, or ten at three."""
MOST_STRAY: Final = 6.0
LEAST_STRAY: Final = 0.05
"""A usual stray is taken to be at least this share of the level,"""
LEAST_STRAY_REPLICAS: Final = 0.05
"""and at least this."""
LEVEL_WINDOWS: Final = 12.0
STRAY_WINDOWS: Final = 288.0
BURST_RATIO: Final = 3.0
BURST_RISE: Final = 0.25
"""A burst is at least this share of the hour's mean above it."""
NEVER: Final = -1


@dataclass(slots=True)
class Changes:
    """What is remembered for both questions; (workloads,)."""

    level: Floats
    """Mean of about an hour of windows, moved as profiles did."""
    stray: Floats
    """Mean absolute distance from it."""
    windows: Ints
    """Windows counted."""
    up: Floats
    down: Floats
    since: Ints
    """Ticks since the last change-point, `NEVER` before the first."""
    mean: Floats
    """Of the load by tick over about an hour."""
    variance: Floats
    ticks: Ints
    """Ticks measured."""
    burst: Bools

    @classmethod
    def empty(cls, workloads: int) -> "Changes":
        """Nothing seen yet."""

        def zeros() -> Floats:
            return np.zeros(workloads, dtype=np.float32)

        def counts() -> Ints:
            return np.zeros(workloads, dtype=np.int64)

        return cls(
            level=zeros(),
            stray=zeros(),
            windows=counts(),
            up=zeros(),
            down=zeros(),
            since=np.full(workloads, NEVER, dtype=np.int64),
            mean=zeros(),
            variance=zeros(),
            ticks=counts(),
            burst=np.zeros(workloads, dtype=np.bool_),
        )

    def tick(self, load: Floats, *, measured: Bools) -> None:
        """Take in one tick's load."""
        self.ticks += measured
        share = np.maximum(1.0 / TICKS_PER_HOUR, 1.0 / np.maximum(self.ticks, 1)).astype(np.float32)
        share = np.where(measured, share, np.float32(0.0))
        # West's update: the variance never comes out of a difference of two large sums.
        distance = load - self.mean
        self.mean = self.mean + share * distance
        self.variance = (1.0 - share) * (self.variance + share * distance**2)
        self.since = np.where(self.since == NEVER, NEVER, self.since + 1)

    def window(self, mean: Floats, *, moved: Floats, measured: Bools) -> Bools:
        """Take in a five-minute mean, and return who changed now.

        `moved`, (workloads, opinions), are what profiles say of this window as a share of the one before.
        """
        first = measured & (self.windows == 0)
        rows = np.arange(len(mean))
        levels = self.level[:, None] * moved
        nearest = np.abs(mean[:, None] - levels).argmin(axis=1)
        self.level = np.where(first, mean, np.where(measured, levels[rows, nearest], self.level)).astype(np.float32)
        off = mean - self.level
        usual = np.float32(1.2533) * self.stray
        usual = np.maximum(usual, np.maximum(LEAST_STRAY * self.level, LEAST_STRAY_REPLICAS))
        strayed = np.clip(off / usual, -MOST_STRAY, MOST_STRAY)
        ready = measured & (self.windows >= LEAST_WINDOWS)
        zero = np.float32(0.0)
        self.up = np.where(ready, np.maximum(self.up + strayed - ALLOWANCE, zero), self.up).astype(np.float32)
        self.down = np.where(ready, np.maximum(self.down - strayed - ALLOWANCE, zero), self.down).astype(np.float32)
        changed = ready & (np.maximum(self.up, self.down) > ALARM)
        self.windows += measured
        own = np.maximum(1.0 / LEVEL_WINDOWS, 1.0 / np.maximum(self.windows, 1)).astype(np.float32)
        step = np.where(changed, np.float32(1.0), np.where(measured, own, zero))
        stray_step = np.maximum(1.0 / STRAY_WINDOWS, 1.0 / np.maximum(self.windows, 1)).astype(np.float32)
        # One window's outlier widens the usual stray only so far.
        distance = np.where(ready, np.minimum(np.abs(off), MOST_STRAY * usual), np.abs(off))
        self.stray += np.where(measured, stray_step, zero) * (distance - self.stray)
        self.level += step * off
        self.up[changed] = 0.0
        self.down[changed] = 0.0
        self.since[changed] = 0
        return changed

    def look_for_burst(self, last_five_minutes: Floats, newest: Floats, *, measured: Bools) -> None:
        """Compare the dispersion of the last five minutes, (workloads, ticks), with the hour's."""
        mean = last_five_minutes.mean(axis=1)
        least = np.float32(1e-6)
        short = last_five_minutes.var(axis=1) / np.maximum(mean, least)
        long = self.variance / np.maximum(self.mean, least)
        high = newest > (1.0 + BURST_RISE) * np.maximum(self.mean, LEAST_STRAY_REPLICAS)
        self.burst = np.where(measured, (short > BURST_RATIO * long) & high & self.told, self.burst)

    @property
    def told(self) -> Bools:
        """Who has the hour of ticks that an answer needs."""
        told: Bools = self.ticks >= TICKS_PER_HOUR
        return told

    @property
    def relearning(self) -> Bools:
        """Whose profiles forget faster after a change-point."""
        return self._within(RELEARN_TICKS)

    @property
    def distrusted(self) -> Bools:
        """Whose profiles are not believed, whatever their record."""
        return self._within(DISTRUST_TICKS)

    @property
    def recent(self) -> Bools:
        """Who changed within the hour."""
        return self._within(CHANGED_TICKS)

    def _within(self, ticks: int) -> Bools:
        within: Bools = (self.since != NEVER) & (self.since < ticks)
        return within

    def interrupt(self) -> None:
        """Start the sums anew: the clock jumped."""
        self.up[:] = 0.0
        self.down[:] = 0.0
        self.burst[:] = False
