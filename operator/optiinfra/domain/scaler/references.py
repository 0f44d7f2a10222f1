"""Plain HPAs that live the same load: the measure for incidents, and the best target for a user who keeps his HPA.

HPA v2 on the rate of work with AverageValue, default behaviour: a minute's mean, 10 % tolerance, the highest
recommendation of five minutes before shrinking. Their costs and incidents are known for the workload's own load and
start-up, so "would a plain HPA have done better" has an answer at any time.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from optiinfra.domain.scaler.load import Features
from optiinfra.domain.scaler.order import RISE_PODS, late_part
from optiinfra.domain.scaler.pipeline import Pipeline
from optiinfra.domain.scaler.shadows import INCIDENT_SHARE
from optiinfra.domain.scaler.tuning import REFERENCE, TARGETS, TICK_S, TICKS_PER_HOUR, WINDOW_TICKS, Tuning

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

STABLE_TICKS: Final = 20
TOLERANCE: Final = np.float32(0.1)
_TARGET: Final = np.array(TARGETS, dtype=np.float32)
_SLACK: Final = np.float32(1e-4)


@dataclass(slots=True)
class References:
    """Plain HPAs of a fleet; (workloads, targets) unless said otherwise."""

    pipeline: Pipeline
    recommended: Floats
    """(workloads, STABLE_TICKS, targets): ring of recommendations."""
    queue: Floats
    paid: Floats
    late: Floats
    work: Floats
    """(workloads,): of the running window, as the shadows count it."""
    paid_sum: Floats
    late_sum: Floats
    work_sum: Floats
    incidents: Floats
    """Bad windows, forgotten exponentially."""

    @classmethod
    def of(cls, replicas: Ints) -> "References":
        """All begin as the real service does."""
        shape = (len(replicas), len(TARGETS))

        def zeros() -> Floats:
            return np.zeros(shape, dtype=np.float32)

        return cls(
            pipeline=Pipeline.of(replicas, scalers=len(TARGETS)),
            recommended=np.zeros((shape[0], STABLE_TICKS, shape[1]), dtype=np.float32),
            queue=zeros(),
            paid=zeros(),
            late=zeros(),
            work=np.zeros(shape[0], dtype=np.float32),
            paid_sum=zeros(),
            late_sum=zeros(),
            work_sum=np.zeros(shape[0], dtype=np.float32),
            incidents=zeros(),
        )

    def live(
        self,
        load: Floats,
        features: Features,
        *,
        tick: int,
        start_ticks: Ints,
        minimum: Floats,
        maximum: Floats,
        objective_s: Floats,
        counted: Bools,
    ) -> None:
        """Live through one tick, deciding from what was known at its beginning."""
        current = self.pipeline.replicas
        total = features.level[:, None]
        steady = np.abs(total - _TARGET * current) <= TOLERANCE * _TARGET * current
        self.recommended[:, tick % STABLE_TICKS] = np.where(steady, current, np.ceil(total / _TARGET - _SLACK))
        target = np.clip(self.recommended.max(axis=1), minimum[:, None], maximum[:, None])
        target = np.minimum(target, current + np.maximum(RISE_PODS, current))
        start = np.repeat(start_ticks[:, None], len(TARGETS), axis=1)
        self.pipeline.order(target.astype(np.float32), tick=tick, start=start)
        self.pipeline.begin(tick=tick)
        ready = self.pipeline.ready
        after = np.maximum(self.queue + (load[:, None] - ready) * np.float32(TICK_S), 0.0)
        part = late_part(before=self.queue, after=after, ready=ready, objective_s=objective_s[:, None])
        self.pipeline.end()
        self.queue = after
        count = counted.astype(np.float32)
        self.paid += self.pipeline.replicas * count[:, None]
        self.late += part * (load * count)[:, None]
        self.work += load * count

    def close_window(self, *, tuning: Tuning) -> None:
        """Fold the window of five minutes into the decayed sums."""
        kept = np.float32(np.exp(-WINDOW_TICKS / (tuning.forget_hours * TICKS_PER_HOUR)))
        remembered = np.float32(np.exp(-WINDOW_TICKS / (tuning.incident_hours * TICKS_PER_HOUR)))
        bad = (self.late > INCIDENT_SHARE * self.work[:, None]) & (self.work[:, None] > 0.0)
        self.paid_sum = self.paid_sum * kept + self.paid
        self.late_sum = self.late_sum * kept + self.late
        self.work_sum = self.work_sum * kept + self.work
        self.incidents = self.incidents * remembered + bad.astype(np.float32)
        self.paid[:] = 0.0
        self.late[:] = 0.0
        self.work[:] = 0.0

    def best(self, *, late_share: Floats) -> Ints:
        """Index of the cheapest target that keeps the late share and has no more incidents than the reference.

        -1 where none does; (workloads,).
        """
        work = np.maximum(self.work_sum, 1e-6)[:, None]
        holds = (self.late_sum / work <= late_share[:, None]) & (
            self.incidents <= self.incidents[:, REFERENCE : REFERENCE + 1] + np.float32(0.5)
        )
        cost = np.where(holds, self.paid_sum, np.inf)
        return np.where(holds.any(axis=1), cost.argmin(axis=1), -1)
