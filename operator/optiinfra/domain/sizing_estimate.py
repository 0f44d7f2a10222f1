"""What right-sizing estimates of one container: target, bounds, limit, how sure it is, and what it rests on.

Made by the mechanism (`right_sizing`), turned into proposals by `sizing_plan` and `sizing_advice`; neither has to know
how the other works. An estimate never knows what is requested now.
"""

from dataclasses import dataclass
from enum import StrEnum

from optiinfra.domain.pod_shape import Resource
from optiinfra.domain.readings import Unknown, Value
from optiinfra.domain.units import Ratio


class SizingReason(StrEnum):
    """What decided a target."""

    COLD_START = "ColdStart"
    """Too little was seen yet; margins are wide."""
    SETTLED = "Settled"
    GROWTH = "Growth"
    WEEKLY_PEAK = "WeeklyPeak"
    OUT_OF_MEMORY = "OutOfMemory"
    BURSTY = "Bursty"


@dataclass(frozen=True, slots=True)
class SizingEstimate:
    """One resource of one container, in cores or bytes; lower <= target <= upper."""

    resource: Resource
    target: float
    """Request."""
    lower: float
    upper: float
    limit: float
    """Advised limit; of memory at least `upper` and the peak of starting."""
    exceedance: Ratio
    """CPU: share of time above the target; memory: probability that a day's peak exceeds it."""
    confidence: Ratio
    samples: int
    days: float
    """With measurements."""
    percentiles: tuple[tuple[Ratio, float], ...]
    """(share, value): CPU of samples, memory of daily peaks; share 1 is the maximum."""
    start_up_peak: Value
    """Of pods that start; kept apart from all else."""
    reason: SizingReason
    growth_per_day: float = 0.0
    """Relative; 0 where there is none."""


@dataclass(frozen=True, slots=True)
class ContainerEstimate:
    """Both resources of one container."""

    cpu: SizingEstimate | Unknown
    memory: SizingEstimate | Unknown
