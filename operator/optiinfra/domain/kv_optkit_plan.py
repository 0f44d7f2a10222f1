"""What KV-OptKit would do, beside our own advice: its plan as told, or why there is none.

KV-OptKit is somebody else's program (archokshi/kv-optkit). Its plans are shown, never followed and never reckoned
with: as of 0.5.3 only its simulator works, so that a plan of it says nothing about the engines here, and the note says
so. No answer, a failure and an empty plan are one thing: unavailable, with the reason.
"""

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

from optiinfra.domain.evidence import RecommendationType, Refusal
from optiinfra.domain.readings import Unknown


class PlannedAction(StrEnum):
    """What its plans are made of."""

    EVICT = "EVICT"
    OFFLOAD = "OFFLOAD"
    QUANTIZE = "QUANTIZE"
    REUSE = "REUSE"
    OTHER = "OTHER"
    """An action of a kind that 0.5.3 does not have; its name is not repeated."""


@dataclass(frozen=True, slots=True)
class KVOptKitPlan:
    """One plan, never empty."""

    actions: tuple[PlannedAction, ...]
    hbm_reduction: float
    """Share of GPU memory that it says it would free, 0 to 1."""
    accuracy_impact: float
    """As it says itself; it gives no unit."""
    simulated: bool
    """Made for its simulator, not for an engine."""
    version: str


def note(answer: KVOptKitPlan | Unknown) -> Refusal:
    """Return the line that stands beside our own advice."""
    if isinstance(answer, Unknown):
        return Refusal(RecommendationType.KV_CACHE, "KVOptKitUnavailable", f"KV-OptKit has no plan: {answer}.")
    counts = Counter(answer.actions)
    what = ", ".join(f"{counts[kind]} x {kind}" for kind in PlannedAction if counts[kind])
    whose = "its simulator, which is none of these engines" if answer.simulated else "its engine"
    return Refusal(
        RecommendationType.KV_CACHE,
        "KVOptKitPlan",
        f"KV-OptKit {answer.version} plans for {whose}: {what}; it estimates {answer.hbm_reduction:.0%} of GPU memory "
        f"freed and an accuracy impact of {answer.accuracy_impact:g}. It is shown, not followed.",
    )
