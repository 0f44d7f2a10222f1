"""What the decision is given: one tick's measurements, and the facts and limits that hold now. Arrays over a fleet.

At this door an unmeasured value is NaN, because arrays cannot hold reasons; it never leaves the package as a number.
Work is in units per second (input tokens + 4 x output tokens in the benchmark); a replica's capacity turns it into
replicas. Nothing is clipped silently: a value that cannot be (negative, infinite) counts as not measured.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from optiinfra.domain.scaler.tuning import MOST_START_TICKS, TICK_S
from optiinfra.errors import OptiInfraError

Values = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


class ScalerInputError(OptiInfraError):
    """The arrays of an input do not fit together, or a limit is impossible; names the field and the remedy."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What was seen in one tick of 15 s; every array is (workloads,), NaN where it was not measured."""

    arrived: Values
    """Work offered per second."""
    backlog: Values
    """Work that waited at the end of the tick."""
    ready: Values
    """Replicas that served at the end of the tick."""
    served: Values | None = None
    """Work served per second; only the learning of capacities needs it."""
    starting: Values | None = None
    """Replicas not ready yet; taken from the orders when left out."""

    def __post_init__(self) -> None:
        sizes = {len(array) for array in (self.arrived, self.backlog, self.ready)}
        if len(sizes) != 1:
            raise ScalerInputError(f"observation: arrived, backlog and ready have {sizes} rows: give one each")


@dataclass(frozen=True, slots=True)
class Services:
    """What holds now for each workload; every array is (workloads,)."""

    capacity: Values
    """Work per second that one replica serves at the objective."""
    start_up_p50: Values
    """Seconds from asking for a replica until it serves, measured on its own pods."""
    start_up_p95: Values
    current: Ints
    """Replicas asked for now (spec), whoever asked."""
    minimum: Ints
    maximum: Ints
    late_after_s: Values
    """Work that waits longer is late."""
    late_share: Values
    """Share of the work that may be late."""
    paused: Bools
    """Nobody may scale now (a paused HPA, a suspended object): shadows live on, the answer is what runs."""

    def __post_init__(self) -> None:
        if (self.minimum > self.maximum).any():
            row = int(np.flatnonzero(self.minimum > self.maximum)[0])
            raise ScalerInputError(f"services: minimum is above maximum in row {row}: raise the maximum")
        if (self.minimum < 0).any() or (self.current < 0).any():
            raise ScalerInputError("services: minimum and current must not be negative")
        for name in ("capacity", "late_after_s", "late_share", "start_up_p50", "start_up_p95"):
            values = getattr(self, name)
            if not (np.isfinite(values) & (values > 0.0)).all():
                raise ScalerInputError(f"services: {name} must be positive and finite: leave such workloads out")

    def __len__(self) -> int:
        return len(self.capacity)

    @property
    def start_ticks(self) -> Ints:
        """Start-up that is planned for: half way from the median to p95, in ticks, at least one."""
        seconds = (self.start_up_p50 + np.maximum(self.start_up_p50, self.start_up_p95)) / 2.0
        return np.clip(np.ceil(seconds / TICK_S - 1e-9), 1, MOST_START_TICKS).astype(np.int64)

    def rows(self, rows: slice | Ints) -> "Services":
        """Some of the workloads."""
        return Services(
            capacity=self.capacity[rows],
            start_up_p50=self.start_up_p50[rows],
            start_up_p95=self.start_up_p95[rows],
            current=self.current[rows],
            minimum=self.minimum[rows],
            maximum=self.maximum[rows],
            late_after_s=self.late_after_s[rows],
            late_share=self.late_share[rows],
            paused=self.paused[rows],
        )
