"""Conditions: their types, their reasons with a remedy each, and merging by the rules of kstatus.

Flux, Argo CD and `kubectl wait` read conditions in the order of kstatus: observedGeneration first, then Reconciling,
Stalled, Ready. Both enums are closed: a condition that nobody documents helps nobody. Times are arguments.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from optiinfra.api.base import ApiModel
from optiinfra.api.reasons import EXPLANATIONS, Reason
from optiinfra.api.scalars import Time
from optiinfra.domain.units import UnixTime

MAX_MESSAGE = 1024


class ConditionType(StrEnum):
    """The conditions of our objects, in the order in which they are shown."""

    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    METRICS_AVAILABLE = "MetricsAvailable"
    ANALYSIS_COMPLETE = "AnalysisComplete"
    INSIGHTS_AVAILABLE = "InsightsAvailable"
    ACTUATION_EFFECTIVE = "ActuationEffective"
    APPROVALS_ACCEPTED = "ApprovalsAccepted"
    PRICES_KNOWN = "PricesKnown"
    WITHIN_LIMITS = "WithinLimits"
    DEGRADED = "Degraded"


class ConditionStatus(StrEnum):
    """The three answers of a condition."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(ApiModel):
    """One condition of an object (KEP-1623)."""

    type: ConditionType
    """What is spoken about."""
    status: ConditionStatus
    """True, False or Unknown."""
    observed_generation: Annotated[int, Field(ge=0)] = 0
    """Generation of the spec that this was said about."""
    last_transition_time: Time
    """When the status last changed."""
    reason: Annotated[str, Field(min_length=1, max_length=64)]
    """Why, in one CamelCase word; see docs/reference/custom-resources.md."""
    message: Annotated[str, Field(max_length=MAX_MESSAGE)] = ""
    """Why, in a sentence, with the remedy."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A condition as the round decides it; merging gives it its time."""

    type: ConditionType
    status: ConditionStatus
    reason: Reason
    message: str = ""
    """Empty: the reason's own sentence and remedy."""


_ORDER = {kind: position for position, kind in enumerate(ConditionType)}


def merge(
    existing: Iterable[Condition],
    wanted: Iterable[Wanted],
    *,
    generation: int,
    now: UnixTime,
) -> tuple[Condition, ...]:
    """Return the conditions after a round, in kstatus order.

    A condition that is wanted again with the same status keeps its lastTransitionTime; one that nobody mentions stays
    as it is.
    """
    merged = {condition.type: condition for condition in existing}
    for want in wanted:
        old = merged.get(want.type)
        message = want.message or str(EXPLANATIONS[want.reason])
        merged[want.type] = Condition(
            type=want.type,
            status=want.status,
            observed_generation=generation,
            last_transition_time=old.last_transition_time if old and old.status is want.status else Time.of(now),
            reason=want.reason,
            message=message if len(message) <= MAX_MESSAGE else f"{message[: MAX_MESSAGE - 1]}…",
        )
    return tuple(sorted(merged.values(), key=lambda condition: _ORDER[condition.type]))
