"""An action as an Event: when it is ordered, and what it came to, each with its id in front.

The status and the logs have the numbers; an Event says in a sentence what was expected or what happened, beside the
events of the workload itself.
"""

from optiinfra.api.v1alpha1.action_status import ActionState, ActionStatus, Judgement
from optiinfra.cluster.events import EventOutcome, EventRecorder, EventType, ObjectReference

APPLIED, VERIFIED, REGRESSED = "ActionApplied", "ActionVerified", "ActionRegressed"
ROLLED_BACK, UNKNOWN, REFUSED = "ActionRolledBack", "ActionUnknown", "ActionRefused"
REASONS = (APPLIED, VERIFIED, REGRESSED, ROLLED_BACK, UNKNOWN)
_BY_JUDGEMENT = {Judgement.VERIFIED: VERIFIED, Judgement.REGRESSED: REGRESSED, Judgement.UNKNOWN: UNKNOWN}


async def record(events: EventRecorder, about: ObjectReference, action: ActionStatus) -> EventOutcome:
    """Record the state that an action has reached."""
    outcome = action.outcome
    if action.state is ActionState.ROLLED_BACK:
        reason = ROLLED_BACK
    elif action.state is ActionState.REFUSED:
        reason = REFUSED
    else:
        reason = APPLIED if outcome is None else _BY_JUDGEMENT[outcome.verdict]
    harm = reason in (REGRESSED, ROLLED_BACK)
    text = f"{action.id}: {action.subject} from {action.from_} to {action.to}: {action.message}"
    if outcome is None and action.verify_until is not None:
        text += f"; {_expected(action)}judged by {action.verify_until}"
    return await events.record(
        about,
        event_type=EventType.WARNING if harm else EventType.NORMAL,
        reason=reason,
        action="Apply" if outcome is None else "Verify",
        note=text,
    )


def _expected(action: ActionStatus) -> str:
    bounds = [
        f"{one.signal} at most {one.upper.value:g}{' s' if one.unit == 'seconds' else ''}"
        for one in action.expected
        if one.upper.value is not None and one.unit == "seconds"
    ]
    return f"expected: {', '.join(bounds)}; " if bounds else ""
