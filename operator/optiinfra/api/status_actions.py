"""An action as the status shows it: what was expected of it beforehand, and what it came to.

The newest actions carry all that was expected and measured; of older ones only the words are kept, so that a long
history does not fill the object.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from optiinfra.api.scalars import Time
from optiinfra.api.status_from import cut, to_effect, to_measured
from optiinfra.api.v1alpha1.action_status import (
    MAX_ACTIONS,
    MAX_COMPARED,
    MAX_EXPECTED,
    ActionState,
    ActionStatus,
    ComparedStatus,
    Judgement,
    OutcomeStatus,
)
from optiinfra.domain.evidence import RecommendationType
from optiinfra.domain.units import UnixTime
from optiinfra.domain.verification import Compared, Expectation, Verdict

DETAILED: Final = 8
"""Newest actions that carry numbers."""


@dataclass(frozen=True, slots=True)
class Ordered:
    """An action as it is ordered."""

    id: str
    recommendation: str
    subject: str
    rule: str
    message: str
    at: UnixTime
    until: UnixTime
    """When it is judged at the latest."""


def to_action(ordered: Ordered, expectation: Expectation) -> ActionStatus:
    """Write an action with what is expected of it."""
    return ActionStatus(
        id=ordered.id,
        recommendation_id=ordered.recommendation,
        type=RecommendationType.REPLICAS,
        subject=cut(ordered.subject, 253),
        state=ActionState.APPLIED,
        from_=str(expectation.from_replicas),
        to=str(expectation.to_replicas),
        at=Time.of(ordered.at),
        message=cut(ordered.message, 1024),
        reason=cut(ordered.rule, 64),
        started_at=Time.of(ordered.at),
        verify_until=Time.of(ordered.until),
        expected=tuple(to_effect(effect) for effect in expectation.effects[:MAX_EXPECTED]),
    )


def judged(
    action: ActionStatus,
    verdict: Verdict,
    *,
    judgement: Judgement,
    state: ActionState,
    message: str,
    rests_until: UnixTime | None,
    at: UnixTime,
) -> ActionStatus:
    """Return an action with what it came to; `message` is the verdict and what was done about it."""
    outcome = OutcomeStatus(
        verdict=judgement,
        reason=cut(verdict.reason, 64),
        message=cut(verdict.message, 1024),
        at=Time.of(at),
        control=cut(verdict.control, 256),
        compared=tuple(_compared(one) for one in verdict.compared[:MAX_COMPARED]),
        rests_until=None if rests_until is None else Time.of(rests_until),
    )
    update = {"state": state, "at": Time.of(at), "message": cut(message, 1024), "outcome": outcome}
    return action.model_copy(update=update)


def _compared(one: Compared) -> ComparedStatus:
    return ComparedStatus(
        signal=cut(one.signal, 64),
        unit=cut(one.unit, 64),
        before=to_measured(one.before),
        after=to_measured(one.after),
        limit=to_measured(one.limit),
        chance=to_measured(one.chance),
        control=to_measured(one.beside),
    )


def history(old: Iterable[ActionStatus], new: Iterable[ActionStatus]) -> tuple[ActionStatus, ...]:
    """Return the bounded history: a new state of a known action replaces the old one in place."""
    merged = {action.id: action for action in old}
    for action in new:
        merged[action.id] = action
    kept = tuple(merged.values())[-MAX_ACTIONS:]
    return (*(_without_numbers(action) for action in kept[:-DETAILED]), *kept[-DETAILED:])


def _without_numbers(action: ActionStatus) -> ActionStatus:
    outcome = action.outcome
    if not action.expected and (outcome is None or not outcome.compared):
        return action
    short = None if outcome is None else outcome.model_copy(update={"compared": ()})
    return action.model_copy(update={"expected": (), "outcome": short})
