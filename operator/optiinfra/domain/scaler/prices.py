"""What late work and bad windows cost, by what really happened to the service: the feedback of the mechanism.

A fixed price would be too low for one workload and too high for the next. Late work gets dearer with the square of its
share over the aim, bad windows with their number over what the reference HPA would have had on the same load. Prices
act on every choice at once, so they never pick a rule; the scores do.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from optiinfra.domain.scaler.order import late_part
from optiinfra.domain.scaler.shadows import INCIDENT_SHARE
from optiinfra.domain.scaler.tuning import TICKS_PER_HOUR, WINDOW_TICKS, Tuning

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(slots=True)
class Realised:
    """What happened to the real services; all (workloads,)."""

    queue: Floats
    """Queue at the last observation, replica-seconds."""
    late: Floats
    work: Floats
    window_late: Floats
    window_work: Floats
    incidents: Floats

    @classmethod
    def empty(cls, workloads: int) -> "Realised":
        """Nothing has happened yet."""
        return cls(*(np.zeros(workloads, dtype=np.float32) for _ in range(6)))

    def observe(self, *, load: Floats, queue: Floats, ready: Floats, objective_s: Floats, tuning: Tuning) -> None:
        """Take in one tick; an unknown tick is given as no load and the last queue."""
        kept = np.float32(np.exp(-1.0 / (tuning.realised_hours * TICKS_PER_HOUR)))
        late = late_part(before=self.queue, after=queue, ready=ready, objective_s=objective_s) * load
        self.late = self.late * kept + late
        self.work = self.work * kept + load
        self.window_late += late
        self.window_work += load
        self.queue = queue.copy()

    def close_window(self, *, tuning: Tuning) -> None:
        """Judge the window of five minutes."""
        kept = np.float32(np.exp(-WINDOW_TICKS / (tuning.incident_hours * TICKS_PER_HOUR)))
        bad = (self.window_late > INCIDENT_SHARE * self.window_work) & (self.window_work > 0.0)
        self.incidents = self.incidents * kept + bad.astype(np.float32)
        self.window_late[:] = 0.0
        self.window_work[:] = 0.0

    def late_share(self, *, mean: Floats, tuning: Tuning) -> Floats:
        """Realised share of late work over two days, with the prior of no lateness."""
        believed = mean * np.float32(tuning.realised_prior_hours * TICKS_PER_HOUR)
        total: Floats = self.work + believed + np.float32(1e-6)
        return (self.late / total).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices of the moment; (workloads,)."""

    late: Floats
    incident: Floats


def prices(
    realised: Realised, *, reference_incidents: Floats, mean: Floats, seen: Ints, late_budget: Floats, tuning: Tuning
) -> Prices:
    """Price late work and bad windows. `late_budget` is the objective's share, `seen` the age in ticks."""
    age = np.maximum(seen, 1) / TICKS_PER_HOUR
    young = 1.0 + tuning.young_factor * age / ((age + tuning.young_hours) * (age + 4.0 * tuning.young_hours))
    over = realised.late_share(mean=mean, tuning=tuning) / (tuning.late_aim * late_budget)
    late = tuning.late_price * young * np.clip(over**2, 1.0, tuning.late_price_most)
    allowed = tuning.incident_allowed * reference_incidents + tuning.incident_prior
    ratio = (realised.incidents + tuning.incident_prior) / allowed
    incident = tuning.incident_price * np.clip(ratio, tuning.incident_price_least, tuning.incident_price_most)
    return Prices(late.astype(np.float32), incident.astype(np.float32))
