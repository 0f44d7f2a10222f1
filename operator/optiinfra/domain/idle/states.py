"""The words of the idle verdict: six states, the policy behind them, and what is said of one GPU.

An idle GPU is the dearest waste there is, and a wrong verdict the dearest mistake: so the maximum of a window counts
and never the mean, several signals must agree, a hole in the samples is not idleness, a pod that still loads its model
is not idle, and whatever is missing makes the verdict `Unknown`. Verdicts are reports; nothing here acts.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from optiinfra.domain.evidence import Evidence, Finding, FindingType
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.units import Bytes, Ratio, Seconds, UnixTime


class GpuState(StrEnum):
    """What a GPU was doing in the window."""

    IDLE_UNALLOCATED = "IdleUnallocated"
    """Nobody requested it."""
    IDLE_ALLOCATED_EMPTY = "IdleAllocatedEmpty"
    """A pod holds it, and neither computes on it nor keeps anything in its memory."""
    IDLE_HELD_MEMORY = "IdleHeldMemory"
    """Something is kept in its memory, and nothing is computed."""
    UNDER_USED = "UnderUsed"
    ACTIVE = "Active"
    UNKNOWN = "Unknown"


IDLE_STATES: Final = frozenset({GpuState.IDLE_UNALLOCATED, GpuState.IDLE_ALLOCATED_EMPTY, GpuState.IDLE_HELD_MEMORY})


@dataclass(frozen=True, slots=True)
class IdlePolicy:
    """From when a GPU counts as idle. All times follow `minimum_span`; `of_span` scales them together."""

    minimum_samples: int = 10
    """Samples without work that are needed; fewer where the source is read so rarely that the span holds fewer."""
    fewest_samples: int = 3
    minimum_span: Seconds = Seconds(600.0)
    """Time without work, and without anything unknown, that the samples must cover."""
    horizon: Seconds = Seconds(1800.0)
    """The verdict is that no work will come for so long."""
    probability: Ratio = Ratio(0.85)
    """Least probability of that with which a GPU is called idle."""
    hysteresis: Ratio = Ratio(0.1)
    """By how much the probability may fall below before the verdict is taken back; work takes it back at once."""
    largest_gap: Seconds = Seconds(120.0)
    """Longest time between two samples of a source read often; in a longer one anything may have happened. A source
    that is read every few minutes may miss one reading."""
    longest_interval: Seconds = Seconds(900.0)
    """A source that is read more rarely than this cannot show idleness."""
    idle_utilization: Ratio = Ratio(0.05)
    """Activity above this is work, at any moment."""
    quiet_utilization: Ratio = Ratio(0.02)
    """Activity up to this is nothing (heart-beat kernels, one or two per cent). What lies between the two is work
    too, unless it is there in nearly every sample and always the same."""
    quiet_work: Seconds = Seconds(1.5)
    """Largest product of activity and sampling interval that is nothing: 2 % of 5 minutes are six seconds of work."""
    under_used_utilization: Ratio = Ratio(0.4)
    """95th percentile of activity below which a GPU is under-used."""
    empty_memory: Bytes = Bytes(1.5 * 2**30)
    """Memory that a driver and a bare context may hold."""
    power_veto: Ratio = Ratio(0.5)
    """Share of the power limit above which a GPU is not idle."""
    power_veto_watts: float = 350.0
    """The same where the limit is not known: half of the largest limit of a common card."""
    warm_up: Seconds = Seconds(600.0)
    """Time that a pod gets to load its model."""

    def __post_init__(self) -> None:
        if not 0.0 < self.minimum_span <= self.horizon < math.inf:
            raise ValueError(f"0 < minimum_span <= horizon is needed: {self.minimum_span!r}, {self.horizon!r}")
        if not 0.0 < self.probability - self.hysteresis <= self.probability < 1.0:
            raise ValueError(f"0 < hysteresis < probability < 1 is needed: {self.hysteresis!r}, {self.probability!r}")

    @staticmethod
    def of_span(span: Seconds) -> "IdlePolicy":
        """Return the policy whose shortest span is this; the horizon keeps three times it."""
        return IdlePolicy(
            minimum_span=span,
            horizon=Seconds(3.0 * span),
            warm_up=Seconds(min(BUILT_IN.warm_up, span)),
        )


BUILT_IN: Final = IdlePolicy()
"""The policy unless somebody says otherwise."""
HIGH_USE: Final = 0.05
"""Share of the recent time with high activity from which a GPU is active: its 95th percentile is high."""
SURE_OF_WORK: Final = 0.9
"""Confidence of what was seen at work."""
NO_PRICE: Final = Unknown(UnknownReason.NOT_CONFIGURED, "no GPU price; set prices.gpuHour of the pool")
NOT_IDLE: Final = Unknown(UnknownReason.NOT_MEASURED, "it is not idle")


@dataclass(frozen=True, slots=True)
class GpuVerdict:
    """The verdict on one GPU."""

    node: str
    uuid: str
    model: str
    state: GpuState
    confidence: Ratio
    """Of an idle state: the probability that no work comes within the policy's horizon."""
    reason: str
    """CamelCase reason code."""
    message: str
    pod: str
    """namespace/name of the pod that holds it, the first of several; empty when none does or it is not known."""
    evidence: tuple[Evidence, ...]
    since: UnixTime | Unknown = NOT_IDLE
    """Since when it does nothing; unknown for what is not idle."""
    cost_per_hour: Value = NO_PRICE
    """Price of the GPU for an hour, in the cluster's currency."""
    holders: tuple[str, ...] = ()
    """All pods that share it."""

    def finding(self) -> Finding | None:
        """Return the verdict as a finding; None where there is nothing to find fault with."""
        if self.state in IDLE_STATES:
            kind = FindingType.IDLE_GPU
        elif self.state is GpuState.UNDER_USED:
            kind = FindingType.UNDER_USED
        else:
            return None
        return Finding(kind, self.reason, self.message, self.confidence, self.evidence, subject=self.uuid)
