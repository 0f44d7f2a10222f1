"""What people approved: ids in an annotation become envelopes that stand; all others are refused with their reasons.

A person approves one recommendation by its id. For replicas that is a range and a step, for 24 h from the approval:
inside it the operator moves as the load asks for, in the directions whose mode is Approve, and policy keeps the last
word on every number. For a resize it is that one change. An id works once: its use is recorded in the status, which
survives a restart; taking it out of the annotation revokes it for good. Pure: annotation, status and time go in.
Nothing is approved by silence: an id that is unknown, expired or used, or of a change that the operator never makes,
is refused, and `refused_approvals` says which and why.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from optiinfra.api.scalars import Time
from optiinfra.api.v1alpha1 import APPROVE_ANNOTATION
from optiinfra.api.v1alpha1.common import Mode
from optiinfra.api.v1alpha1.status_parts import (
    MAX_APPROVALS,
    ApprovalState,
    EnvelopeStatus,
    RecommendationStatus,
    UsedApproval,
)
from optiinfra.control.work import RefusedApproval, ServiceWork, TargetWork
from optiinfra.domain.evidence import Direction, Proposal, RecommendationType
from optiinfra.domain.units import UnixTime

LIFETIME: Final = 24 * 3600.0
"""Seconds for which an approved envelope stands."""
_MOST_ASKED: Final = 64
_ID_LENGTH: Final = 32
_MODE_FIELD: Final = {
    Direction.SCALE_UP: "modes.scaleUp",
    Direction.SCALE_DOWN: "modes.scaleDown",
    Direction.RESIZE: "modes.resize",
}


def asked_ids(annotation: str) -> tuple[str, ...]:
    """Return the ids of the annotation in their order, each once, at most 64, each cut to 32 characters."""
    parts = (part.strip()[:_ID_LENGTH] for part in annotation.split(",")[:_MOST_ASKED])
    return tuple(dict.fromkeys(part for part in parts if part))


def envelope_of(proposal: Proposal, *, step: int) -> EnvelopeStatus | None:
    """Return what an approval of a proposal would allow; None for what is no count of replicas.

    From where the workload is to the far end of the band with which the analysis agrees: a fall never allows more
    replicas than there are, a rise never fewer.
    """
    counts = (proposal.current, proposal.proposed, proposal.lower, proposal.upper)
    if proposal.type is not RecommendationType.REPLICAS or not all(text.isdecimal() for text in counts):
        return None
    current, proposed, lower, upper = (int(text) for text in counts)
    if proposal.direction is Direction.SCALE_UP:
        return EnvelopeStatus(lowest=current, highest=max(current, proposed, upper), max_step=step)
    return EnvelopeStatus(lowest=min(current, proposed, lower), highest=current, max_step=step)


def holds(envelope: EnvelopeStatus, *counts: int) -> bool:
    """Tell whether all counts lie inside an envelope."""
    return all(envelope.lowest <= count <= envelope.highest for count in counts)


def read(service: ServiceWork, *, now: UnixTime) -> None:
    """Settle what is approved: `approved`, `approvals` (the book as of now) and `refused_approvals`."""
    asked = asked_ids(service.obj.metadata.annotations.get(APPROVE_ANNOTATION, ""))
    book = {one.id: _now(one, asked=one.id in asked, now=now) for one in service.obj.status.used_approvals}
    offered = {item.id: item for item in service.obj.status.recommendations}
    fresh: dict[str, UsedApproval | None] = {}
    refused: list[RefusedApproval] = []
    for identifier in asked:
        known = book.get(identifier)
        why = _spent(known) if known is not None else _refusal(service, offered.get(identifier), now=now)
        if why:
            refused.append(RefusedApproval(identifier, why))
        elif known is None and _waits(service, offered[identifier]):
            fresh[identifier] = _granted(service, offered[identifier], now=now)
    service.approved = frozenset(fresh)
    service.approvals = (*book.values(), *(one for one in fresh.values() if one is not None))
    service.refused_approvals = tuple(refused)


def _now(known: UsedApproval, *, asked: bool, now: UnixTime) -> UsedApproval:
    """Return what an approval of before has become."""
    changes: dict[str, object] = {}
    if not asked and known.removed_at is None:
        changes["removed_at"] = Time.of(now)
    if known.state is ApprovalState.STANDING:
        if not asked:
            changes["state"] = ApprovalState.REVOKED
        elif known.until is None or known.until.unix <= now:
            changes["state"] = ApprovalState.EXPIRED
    return known.model_copy(update=changes) if changes else known


def _spent(known: UsedApproval) -> str:
    """Say why an id that was used before is refused; empty while it is not (it just stayed in the annotation)."""
    if known.removed_at is not None:
        word = "revoked" if known.state is ApprovalState.REVOKED else "used"
        return f"it was {word} at {known.removed_at if word == 'revoked' else known.at}, and an id works once"
    if known.state is ApprovalState.EXPIRED:
        return f"what it allowed ended at {known.until}"
    return ""


def _refusal(service: ServiceWork, item: RecommendationStatus | None, *, now: UnixTime) -> str:
    """Say why an id that was never used is refused; empty when it is not."""
    if item is None:
        return "it is unknown: no recommendation of this object has it now"
    if item.expires_at.unix <= now:
        return f"it expired at {item.expires_at}"
    if item.type not in (RecommendationType.REPLICAS, RecommendationType.RESOURCES):
        return f"the operator never applies {item.type}; write its patch into the manifest (kubectl optiinfra patch)"
    if service.settings.mode_for(item.direction) is Mode.RECOMMEND:
        field = _MODE_FIELD.get(item.direction, "mode")
        return f"its direction is in mode Recommend; set {field} to Approve"
    return ""


def _waits(service: ServiceWork, item: RecommendationStatus) -> bool:
    """Tell whether an approval is needed and may count now; in mode Auto none is, and its id stays unused."""
    return service.settings.mode_for(item.direction) is Mode.APPROVE and not service.settings.suspended


def _granted(service: ServiceWork, item: RecommendationStatus, *, now: UnixTime) -> UsedApproval | None:
    if item.type is not RecommendationType.REPLICAS:
        return None  # recorded by the action that uses it
    return UsedApproval(
        id=item.id,
        at=Time.of(now),
        subject=item.subject,
        state=ApprovalState.STANDING,
        envelope=item.envelope or _derived(service, item),
        until=Time.of(UnixTime(now + LIFETIME)),
    )


def _derived(service: ServiceWork, item: RecommendationStatus) -> EnvelopeStatus:
    """Return the envelope of a recommendation that was written without one: the two counts it names."""
    counts = sorted(int(text) if text.isdecimal() else 0 for text in (item.current, item.proposed))
    return EnvelopeStatus(lowest=counts[0], highest=counts[1], max_step=service.settings.policy.max_replica_step)


def standing(service: ServiceWork, target: TargetWork) -> tuple[UsedApproval, ...]:
    """Return the approvals of one target that stand, the newest first."""
    found = [
        one
        for one in service.approvals
        if one.state is ApprovalState.STANDING and one.envelope is not None and one.subject == target.target.name
    ]
    return tuple(reversed(found))


def covering(service: ServiceWork, target: TargetWork, *counts: int) -> UsedApproval | None:
    """Return the newest approval that stands and whose envelope holds all these counts."""
    found = standing(service, target)
    return next((one for one in found if one.envelope is not None and holds(one.envelope, *counts)), None)


def order_within(service: ServiceWork, target: TargetWork, *, current: int, wanted: int) -> int | None:
    """Return the count that approvals allow for a count that policy allows; None where nothing is approved.

    Where the workload stands outside of what was approved (somebody scaled it), it is held where it is: nobody
    approved the way back. A direction in mode Recommend is not moved in, approved or not.
    """
    if not standing(service, target):
        return None
    approval = covering(service, target, current)
    if approval is None or approval.envelope is None:
        return current
    envelope = approval.envelope
    value = min(max(wanted, envelope.lowest), envelope.highest)
    value = min(max(value, current - envelope.max_step), current + envelope.max_step)
    if value == current:
        return current
    direction = Direction.SCALE_UP if value > current else Direction.SCALE_DOWN
    return current if service.settings.mode_for(direction) is Mode.RECOMMEND else value


def ended(service: ServiceWork) -> frozenset[str]:
    """Return ids that work no more: a proposal that goes on needs a new one."""
    return frozenset(one.id for one in service.approvals if one.state is not ApprovalState.STANDING)


def book(service: ServiceWork, *, offered: Iterable[str], now: UnixTime) -> tuple[UsedApproval, ...]:
    """Return the approvals for the status: what stands and what was used, with the actions of this round.

    `offered` are the ids that the status still shows: forgotten, they could be used again. In a dry run nothing is
    used, and the book stays as it was.
    """
    if service.dry_run:
        return service.obj.status.used_approvals
    known = {one.id for one in service.approvals}
    used = {
        action.recommendation_id: UsedApproval(id=action.recommendation_id, at=Time.of(now), subject=action.subject)
        for action in service.actions
        if action.recommendation_id in service.approved and action.recommendation_id not in known
    }
    return _bounded((*service.approvals, *used.values()), keep=frozenset(offered))


def _bounded(approvals: Sequence[UsedApproval], *, keep: frozenset[str]) -> tuple[UsedApproval, ...]:
    if len(approvals) <= MAX_APPROVALS:
        return tuple(approvals)

    def worth(one: tuple[int, UsedApproval]) -> tuple[bool, int]:
        return one[1].state is ApprovalState.STANDING or one[1].id in keep, one[0]

    kept = sorted(enumerate(approvals), key=worth)[-MAX_APPROVALS:]
    return tuple(one for _, one in sorted(kept, key=lambda pair: pair[0]))
