"""What right-sizing says about a container: values and their evidence, no proposals.

One estimate a resource, with bounds, the probability that it is exceeded, and why it is what it is. A target is the
request that is worth its price, not a promise: `exceedance` says how often it is expected to be too little. Limits are
advice. Prices of money, patches, quality-of-service classes and what an autoscaler makes of a request belong to whoever
proposes; a resource of which nothing is known is an `Unknown`, never a default size.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from optiinfra.domain.readings import Unknown, Value
from optiinfra.domain.units import Bytes, Cores, Ratio, Seconds

MEBIBYTE: Final = 1024.0**2
STALE_AFTER: Final = Seconds(28.0 * 86_400.0)
"""What was measured longer ago than this says nothing of tomorrow."""


class Resource(StrEnum):
    """The resources that are sized."""

    CPU = "cpu"
    MEMORY = "memory"


class SizingReason(StrEnum):
    """What decided an estimate; shown to people."""

    COLD_START = "ColdStart"
    """Known for less than `COLD_DAYS`: kept wide, because hardly anything of it was seen."""
    SETTLED = "Settled"
    """Enough days, and they resemble each other."""
    GROWTH = "Growth"
    """It grows from day to day; tomorrow's step is in it."""
    WEEKLY_PEAK = "WeeklyPeak"
    """The coming weekday uses more than the last days did."""
    OUT_OF_MEMORY = "OutOfMemory"
    """It was killed for memory lately."""
    BURSTY = "Bursty"
    """Its days differ so much that more headroom costs more than it saves."""


@dataclass(frozen=True, slots=True)
class SizingPolicy:
    """What is wanted of requests; over a fleet, or of each container where there is one."""

    cpu_over_time: Ratio = Ratio(0.013)
    """Share of the time in which CPU use may exceed the request."""
    memory_exceedance: Ratio = Ratio(0.01)
    """Probability that a day's memory peak exceeds the request."""
    most_cpu_over_time: Ratio = Ratio(0.1)
    """Largest expected over-time of a single container, however dear the headroom."""
    most_memory_exceedance: Ratio = Ratio(0.05)
    """Largest probability of a single container, however dear the headroom."""
    least_cpu: Cores = Cores(0.01)
    least_memory: Bytes = Bytes(32.0 * MEBIBYTE)

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        for name in ("cpu_over_time", "memory_exceedance"):
            most = getattr(self, f"most_{name}")
            if not 0.0 < getattr(self, name) <= most < 1.0:
                raise ValueError(f"SizingPolicy: {name} must be above 0 and at most most_{name}, below 1")
        if not (0.0 < self.least_cpu < float("inf") and 0.0 < self.least_memory < float("inf")):
            raise ValueError("SizingPolicy: least_cpu and least_memory must be above 0")


@dataclass(frozen=True, slots=True)
class SizingEstimate:
    """One resource of one container: cores or bytes."""

    resource: Resource
    target: float
    """Request. Between `lower` and `upper`, never below the policy's least amount."""
    lower: float
    """What would be exceeded five times as often as the target."""
    upper: float
    """What would be exceeded a fifth as often as the target."""
    limit: float
    """Advised limit: holds the start-up peak as well. A CPU limit throttles; it is advice for those who need one."""
    exceedance: Ratio
    """CPU: expected share of the coming day's time above the target. Memory: probability that its peak is above."""
    confidence: Ratio
    """0 to 1: how much of what is needed to know this container was seen."""
    samples: int
    days: float
    """Days with measurements, the running one in part."""
    percentiles: tuple[tuple[Ratio, float], ...]
    """(share, value), growing: of CPU samples, of daily memory peaks."""
    start_up_peak: Value
    """Highest use while starting, kept apart."""
    reason: SizingReason
    uncalibrated: Ratio = Ratio(0.0)
    """`exceedance` before it was corrected by what earlier advice came to; kept with the advice."""
    growth_per_day: float = 0.0
    """Relative; 0 where it does not grow."""


@dataclass(frozen=True, slots=True)
class ContainerEstimate:
    """Both resources of one container."""

    cpu: SizingEstimate | Unknown
    memory: SizingEstimate | Unknown
