"""What one replica serves, learned from the service itself: work per second while it could not serve more.

A tick says something only when work waited all through it: then what was served by each ready replica is its capacity,
and it moves with the shape of the requests. Ticks without a queue only say "at least this". Until enough saturated
ticks were seen the answer is an `Unknown` that carries the lower bound; nothing is guessed from a GPU's name.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.scaler.observation import Observation
from optiinfra.domain.scaler.tuning import TICKS_PER_HOUR

Values = npt.NDArray[np.float64]

LEAST_TICKS: Final = 8.0
"""Saturated ticks needed before a capacity is told: two minutes in all."""
FORGET_HOURS: Final = 24.0
"""Memory, in hours with saturated ticks in them."""
STEADY_SHARE: Final = 0.5
"""A tick counts as saturated when the queue at both ends would keep the replicas busy for this share of it."""
_KEPT: Final = float(np.exp(-1.0 / (FORGET_HOURS * TICKS_PER_HOUR)))
_TICK_S: Final = 15.0


@dataclass(slots=True)
class Capacities:
    """Learned capacities of a fleet; every array is (workloads,)."""

    total: Values
    """Decayed sum of saturated per-replica rates."""
    ticks: Values
    """Decayed number of them."""
    highest: Values
    """Highest smoothed per-replica rate seen: the lower bound."""
    smooth: Values
    backlog: Values
    """Backlog at the end of the last tick, NaN before the first."""

    @classmethod
    def empty(cls, workloads: int) -> "Capacities":
        """Nothing seen."""
        zeros = np.zeros(workloads)
        return cls(zeros.copy(), zeros.copy(), zeros.copy(), zeros.copy(), np.full(workloads, np.nan))

    def observe(self, one: Observation) -> None:
        """Take in one tick; ticks without `served`, backlog or ready replicas say nothing."""
        if one.served is None:
            return
        known = np.isfinite(one.served) & np.isfinite(one.ready) & np.isfinite(one.backlog) & (one.ready >= 1.0)
        rate = np.where(known, one.served / np.where(known, one.ready, 1.0), 0.0)
        least = STEADY_SHARE * one.served * _TICK_S
        with np.errstate(invalid="ignore"):
            full = known & (self.backlog >= least) & (one.backlog >= least) & (rate > 0.0)
        self.total = np.where(full, self.total * _KEPT + rate, self.total)
        self.ticks = np.where(full, self.ticks * _KEPT + 1.0, self.ticks)
        self.smooth = np.where(known, self.smooth + (rate - self.smooth) * 0.25, self.smooth)
        self.highest = np.where(known, np.maximum(self.highest * _KEPT, self.smooth), self.highest)
        self.backlog = np.where(np.isfinite(one.backlog), one.backlog, self.backlog)

    def of(self, row: int) -> Value:
        """Work per second of one replica, or why it is not known."""
        if self.ticks[row] < LEAST_TICKS:
            return Unknown(
                UnknownReason.TOO_FEW_SAMPLES,
                f"never busy for long enough: at least {self.highest[row]:.6g} work a second a replica",
            )
        return max(float(self.total[row] / self.ticks[row]), float(self.highest[row]))
