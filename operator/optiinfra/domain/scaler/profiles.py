"""What a day or a week of this load looks like: means of the same minutes of earlier days, or of earlier weeks.

A profile says only by how much the load changes between two moments of the period; its height is always the present
level's. A bin is folded into the profile one bin late, so that a ratio never compares a bin that has seen today with
one that has not. The period runs on UTC: where people's clocks change, the profile is an hour off for some days, which
the error ledger sees. It refuses to speak of a moment that it has not seen.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Halves = npt.NDArray[np.float16]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

DAY_TICKS: Final = 5_760
DAILY_BIN_TICKS: Final = 40
"""Ten minutes: 144 bins a day."""
WEEKLY_BIN_TICKS: Final = 120
"""Half an hour: 336 bins a week."""
FORGET: Final = 0.3
"""Weight of the newest period, once there are enough: about the last five count."""
FORGET_CHANGED: Final = 0.6
"""The same after a change-point."""
MOST_LOAD: Final = 60_000.0
"""Largest load in replicas that half precision holds; more is cut."""
_LEAST_LOAD: Final = 0.01
"""Replicas below which a ratio says nothing."""
_MOST_RATIO: Final = 4.0


@dataclass(slots=True)
class Profile:
    """Means by bin of the period; (workloads, ...)."""

    bins: Halves
    """(workloads, bins) in replicas; -1 where nothing was seen yet."""
    total: Floats
    """Sum of the running bin."""
    count: Floats
    waiting: Floats
    """Mean of the bin before, not folded yet; -1 for none."""
    folded: Ints
    """Bins folded since the beginning."""

    @classmethod
    def empty(cls, workloads: int, *, bins: int) -> "Profile":
        """Nothing seen yet."""
        return cls(
            bins=np.full((workloads, bins), -1.0, dtype=np.float16),
            total=np.zeros(workloads, dtype=np.float32),
            count=np.zeros(workloads, dtype=np.float32),
            waiting=np.full(workloads, -1.0, dtype=np.float32),
            folded=np.zeros(workloads, dtype=np.int64),
        )

    def learn(self, load: Floats, *, measured: Bools, changed: Bools, tick: int, bin_ticks: int) -> None:
        """Take in one tick; close the bin with its last one. `changed` rows forget faster."""
        self.total += np.where(measured, load, 0.0)
        self.count += measured
        if tick % bin_ticks != bin_ticks - 1:
            return
        size = self.bins.shape[1]
        at = tick // bin_ticks
        old = self.bins[:, (at - 1) % size].astype(np.float32)
        periods = self.folded // size
        rate = np.maximum(np.where(changed, FORGET_CHANGED, FORGET), 1.0 / (periods + 1.0)).astype(np.float32)
        rate = np.where(old < 0.0, np.float32(1.0), rate)
        known = self.waiting >= 0.0
        new = np.where(known, old + (np.minimum(self.waiting, MOST_LOAD) - old) * rate, old)
        self.bins[:, (at - 1) % size] = new.astype(np.float16)
        self.folded += known
        # Half a bin of measurements is a bin.
        whole = self.count >= bin_ticks / 2
        self.waiting = np.where(whole, self.total / np.maximum(self.count, 1.0), -1.0).astype(np.float32)
        self.total[:] = 0.0
        self.count[:] = 0.0

    def ratio(self, *, tick: int, ahead: Ints, bin_ticks: int, least_periods: float) -> tuple[Floats, Bools]:
        """(load `ahead` ticks after the last minute over that of the last minute, whether the profile knows)."""
        # The middle of the last minute.
        middle = np.full(len(self.folded), tick - 1.5, dtype=np.float64)
        before, seen_before = self._at(middle, bin_ticks=bin_ticks)
        after, seen_after = self._at(middle + ahead, bin_ticks=bin_ticks)
        known = seen_before & seen_after & (self.folded >= least_periods * self.bins.shape[1])
        known &= before > _LEAST_LOAD
        ratio = np.clip(after / np.maximum(before, _LEAST_LOAD), 1.0 / _MOST_RATIO, _MOST_RATIO)
        return np.where(known, ratio, 1.0).astype(np.float32), known

    def _at(self, ticks: npt.NDArray[np.float64], *, bin_ticks: int) -> tuple[Floats, Bools]:
        """(value at a moment, on a straight line between the middles of two bins; whether both are known)."""
        size = self.bins.shape[1]
        place = (ticks + 0.5) / bin_ticks - 0.5
        left = np.floor(place).astype(np.int64)
        share = (place - left).astype(np.float32)
        rows = np.arange(len(ticks))
        low = self.bins[rows, left % size].astype(np.float32)
        high = self.bins[rows, (left + 1) % size].astype(np.float32)
        value: Floats = low + (high - low) * share
        return value, (low >= 0.0) & (high >= 0.0)

    def interrupt(self) -> None:
        """Forget the running bin: the clock jumped."""
        self.total[:] = 0.0
        self.count[:] = 0.0
        self.waiting[:] = -1.0
