"""The ensemble: simple scalers that live the same load, with their own replicas, start-ups and queues.

They live two ticks behind, because only then the arrivals of a tick are known; what they decided at its beginning was
decided from what could be known at its beginning. No transient is ignored: a shadow that follows too eagerly pays for
the starts, and one that follows too slowly has the queue.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from optiinfra.domain.scaler.grid import CELL, COUNT, GAIN_INDEX, MARGIN, SPARES, START_SHARE
from optiinfra.domain.scaler.load import Features
from optiinfra.domain.scaler.order import foreseen_backlog, late_part, order
from optiinfra.domain.scaler.pipeline import Pipeline
from optiinfra.domain.scaler.tuning import TICK_S, TICKS_PER_HOUR, WINDOW_TICKS, Tuning

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

INCIDENT_SHARE = np.float32(0.1)
"""A window is bad when more than this share of its work was late."""


def needs(features: Features) -> Floats:
    """Replicas that each shadow wants, (workloads, shadows), before the queue and rounding."""
    held = features.held[:, CELL]
    mean = features.mean[:, None]
    # The same headroom at any load: a rise begins where the load is low, and is as steep there.
    wanted = held + (MARGIN + SPARES) * mean
    asked: Floats = np.maximum(wanted, features.least[:, None])
    return asked


@dataclass(slots=True)
class Shadows:
    """The lives of the shadows of a fleet; (workloads, shadows) unless said otherwise."""

    pipeline: Pipeline
    queue: Floats
    known_queue: Floats
    """The queue one tick earlier: what a scaler knows when it decides."""
    paid: Floats
    """Replica-ticks of the running window."""
    late: Floats
    """Late work of the running window, in replica-ticks."""
    work: Floats
    """(workloads,): work of the running window."""
    paid_sum: Floats
    late_sum: Floats
    bad_sum: Floats
    """Bad windows, each worth a window of mean load."""
    work_sum: Floats
    """(workloads,)"""

    @classmethod
    def of(cls, replicas: Ints) -> "Shadows":
        """All shadows begin as the real service does."""
        shape = (len(replicas), COUNT)

        def zeros() -> Floats:
            return np.zeros(shape, dtype=np.float32)

        return cls(
            pipeline=Pipeline.of(replicas, scalers=COUNT),
            queue=zeros(),
            known_queue=zeros(),
            paid=zeros(),
            late=zeros(),
            work=np.zeros(shape[0], dtype=np.float32),
            paid_sum=zeros(),
            late_sum=zeros(),
            bad_sum=zeros(),
            work_sum=np.zeros(shape[0], dtype=np.float32),
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
        tuning: Tuning,
    ) -> None:
        """Live through one tick: order from `features`, which were known at its beginning, then serve `load`."""
        start = np.maximum(np.ceil(start_ticks[:, None] * START_SHARE), 1.0).astype(np.float32)
        now, later = features.now[:, GAIN_INDEX], features.later[:, GAIN_INDEX]
        foreseen = foreseen_backlog(
            queue=self.known_queue, now=now, later=later, start=start, future=self.pipeline.future(start)
        )
        target, _ = order(
            needs(features),
            queue=self.known_queue,
            foreseen=foreseen,
            later=later,
            current=self.pipeline.replicas,
            minimum=minimum[:, None],
            maximum=maximum[:, None],
            tuning=tuning,
        )
        self.pipeline.order(target, tick=tick, start=start.astype(np.int64))
        self.pipeline.begin(tick=tick)
        ready = self.pipeline.ready
        before = self.queue
        after = np.maximum(before + (load[:, None] - ready) * np.float32(TICK_S), 0.0)
        part = late_part(before=before, after=after, ready=ready, objective_s=objective_s[:, None])
        self.pipeline.end()
        self.known_queue, self.queue = before, after
        count = counted.astype(np.float32)
        self.paid += self.pipeline.replicas * count[:, None]
        self.late += part * (load * count)[:, None]
        self.work += load * count

    def close_window(self, *, mean: Floats, tuning: Tuning) -> None:
        """Fold the window of five minutes into the decayed sums."""
        kept = np.float32(np.exp(-WINDOW_TICKS / (tuning.forget_hours * TICKS_PER_HOUR)))
        bad = (self.late > INCIDENT_SHARE * self.work[:, None]) & (self.work[:, None] > 0.0)
        self.paid_sum = self.paid_sum * kept + self.paid
        self.late_sum = self.late_sum * kept + self.late
        self.bad_sum = self.bad_sum * kept + bad * (mean * np.float32(WINDOW_TICKS))[:, None]
        self.work_sum = self.work_sum * kept + self.work
        self.paid[:] = 0.0
        self.late[:] = 0.0
        self.work[:] = 0.0
