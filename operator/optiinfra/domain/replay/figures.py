"""The figures of a run: cost and what it did to the users. None is quoted without the others beside it.

Late work is read from the recorded queue in closed form: work that arrived in step k is late after n steps exactly as
far as the queue at the end of step k + n still reaches back to it. So nothing has to be followed while a run is played.
Intervals come from resampling whole days, because hours of one day are not independent.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from optiinfra.domain.replay.fluid import STEP_S, STEPS_PER_SYNC, Fleet, FloatArray

WINDOW_S: Final = 300.0
INCIDENT_SHARE: Final = 0.10
"""A window is an incident when more than this share of its work was late."""
DAY_S: Final = 86_400.0
MONTH_DAYS: Final = 30.0
_NOTHING: Final = 1e-12


@dataclass(frozen=True, slots=True)
class Figures:
    """What one run came to."""

    cost: float
    """Replica-seconds over (work / capacity): 1.0 is every replica always busy."""
    late10: float
    """Share of the work that waited longer than the objective (10 s by default)."""
    late60: float
    incidents: float
    """Five-minute windows with more than a tenth of their work late, per 30 days."""
    worst_hour: float
    """Largest late share of a clock hour of the trace."""
    actions_per_day: float
    """Changes of the number asked for, a day."""


def late_work(fleet: Fleet, *, after_s: float) -> FloatArray:
    """(runs, steps): work that arrived in a step and waited longer than `after_s`, in replica-seconds."""
    steps = fleet.load.shape[1]
    wait = max(0, round(after_s / STEP_S))
    backlog = fleet.backlog.astype(np.float64)
    # What is unserved when the load ends is looked at as if no more came: it waits on in the last queue.
    later = np.minimum(np.arange(steps) + wait, steps - 1)
    younger = (fleet.arrived[:, later + 1] - fleet.arrived[:, 1:]) * STEP_S
    late: FloatArray = np.clip(backlog[:, later] - younger, 0.0, fleet.load * STEP_S)
    return late


def windows(values: FloatArray, *, steps: int) -> FloatArray:
    """Sums over windows of `steps` columns; the last one may be shorter."""
    sums: FloatArray = np.add.reduceat(values, np.arange(0, values.shape[1], steps), axis=1)
    return sums


@dataclass(frozen=True, slots=True)
class Ledger:
    """Per five-minute window of each run, all (runs, windows): what figures and intervals are computed from."""

    paid: FloatArray
    work: FloatArray
    late10: FloatArray
    late60: FloatArray
    actions: FloatArray
    seconds: FloatArray

    @classmethod
    def of(cls, fleet: Fleet, *, count_from_s: float = 0.0, late_after_s: float = 10.0) -> "Ledger":
        """Read a played fleet; what came before `count_from_s` (rounded to a sync) was only lived through."""
        first_sync = min(fleet.syncs - 1, round(count_from_s / STEP_S / STEPS_PER_SYNC))
        first = first_sync * STEPS_PER_SYNC
        width = round(WINDOW_S / STEP_S)
        paid = np.repeat(fleet.asked, STEPS_PER_SYNC, axis=1)[:, first : fleet.load.shape[1]].astype(np.float64)
        changes = np.zeros_like(fleet.asked, dtype=np.float64)
        changes[:, 1:] = fleet.asked[:, 1:] != fleet.asked[:, :-1]
        return cls(
            paid=windows(paid * STEP_S, steps=width),
            work=windows(fleet.load[:, first:] * STEP_S, steps=width),
            late10=windows(late_work(fleet, after_s=late_after_s)[:, first:], steps=width),
            late60=windows(late_work(fleet, after_s=60.0)[:, first:], steps=width),
            actions=windows(changes[:, first_sync:], steps=width // STEPS_PER_SYNC),
            seconds=windows(np.full_like(paid, STEP_S), steps=width),
        )

    def figures(self) -> list[Figures]:
        """Figures of each run."""
        days = self.seconds.sum(axis=1) / DAY_S
        work = np.maximum(self.work.sum(axis=1), _NOTHING)
        hour = round(3600.0 / WINDOW_S)
        hourly = windows(self.late10, steps=hour) / np.maximum(windows(self.work, steps=hour), _NOTHING)
        bad = (self.late10 > INCIDENT_SHARE * self.work + _NOTHING).sum(axis=1)
        return [
            Figures(
                cost=float(self.paid[row].sum() / work[row]),
                late10=float(self.late10[row].sum() / work[row]),
                late60=float(self.late60[row].sum() / work[row]),
                incidents=float(bad[row] * MONTH_DAYS / days[row]),
                worst_hour=float(hourly[row].max()),
                actions_per_day=float(self.actions[row].sum() / days[row]),
            )
            for row in range(len(work))
        ]

    def intervals(self, *, share: float = 0.9, draws: int = 400, seed: int = 20261121) -> list[tuple[Figures, Figures]]:
        """Bootstrap intervals (low, high) over days; a load shorter than two days is its own interval."""
        width = round(DAY_S / WINDOW_S)
        count = -(-self.work.shape[1] // width)
        found = self.figures()
        if self.work.shape[1] < 2 * width:
            return [(one, one) for one in found]
        bad = (self.late10 > INCIDENT_SHARE * self.work + _NOTHING).astype(np.float64)
        hour = round(3600.0 / WINDOW_S)
        hourly = windows(self.late10, steps=hour) / np.maximum(windows(self.work, steps=hour), _NOTHING)
        worst = np.maximum.reduceat(hourly, np.arange(0, hourly.shape[1], 24), axis=1)
        parts = [windows(part, steps=width) for part in (self.paid, self.work, self.late10, self.late60, self.actions)]
        paid, work, late10, late60, actions = parts
        seconds, incidents = windows(self.seconds, steps=width), windows(bad, steps=width)
        picks = np.random.default_rng(seed).integers(0, count, size=(draws, count))
        edges = ((1.0 - share) / 2.0, (1.0 + share) / 2.0)
        results = []
        for row in range(len(work)):
            total, days = work[row][picks].sum(axis=1), seconds[row][picks].sum(axis=1) / DAY_S
            drawn = (
                paid[row][picks].sum(axis=1) / total,
                late10[row][picks].sum(axis=1) / total,
                late60[row][picks].sum(axis=1) / total,
                incidents[row][picks].sum(axis=1) * MONTH_DAYS / days,
                worst[row][picks].max(axis=1),
                actions[row][picks].sum(axis=1) / days,
            )
            low, high = (Figures(*(float(np.quantile(one, edge)) for one in drawn)) for edge in edges)
            results.append((low, high))
        return results
