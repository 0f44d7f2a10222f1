"""From proposals to recommendations: ids that stay while the proposal stays, expiry, rank, and the savings ledger.

An id belongs to one proposal issued at one moment. The same proposal in the next round keeps its id until it expires,
so that a person can approve what they read a minute ago. Pure: the old status is an argument.
"""

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TypeVar

from optiinfra.api.identity import recommendation_id
from optiinfra.api.scalars import Time
from optiinfra.api.status_from import round_number, to_recommendation
from optiinfra.api.v1alpha1.savings import LedgerStatus
from optiinfra.api.v1alpha1.status_parts import (
    MAX_RECOMMENDATIONS,
    InsightStatus,
    PlaceStatus,
    RecommendationStatus,
    Severity,
)
from optiinfra.control.approvals import envelope_of, holds
from optiinfra.domain.evidence import Proposal, RecommendationType
from optiinfra.domain.units import UnixTime

LIFETIME = 24 * 3600.0
Kept = TypeVar("Kept", bound=LedgerStatus)
_HARMFUL = {
    "OutOfMemory": Severity.CRITICAL,
    "LimitTooLow": Severity.WARNING,
    "UnderRequested": Severity.WARNING,
}
"""Sizes that do harm as they are, whatever they cost."""
_IN_MANIFESTS = frozenset(
    {
        RecommendationType.RESOURCES,
        RecommendationType.KV_CACHE,
        RecommendationType.BATCH_SIZE,
        RecommendationType.QUANTIZATION,
        RecommendationType.GPU_SHARE,
    }
)
"""What is written into the workload's own manifest; never applied."""
_URGENT = frozenset({RecommendationType.REPLICAS, RecommendationType.KV_CACHE, RecommendationType.BATCH_SIZE})


def recommendations_of(
    proposals: Sequence[tuple[str, Proposal]],
    old: Sequence[RecommendationStatus],
    *,
    object_uid: str,
    texts: Mapping[str, InsightStatus],
    now: UnixTime,
    steps: Mapping[str, int] | None = None,
    ended: Collection[str] = (),
    places: Mapping[str, PlaceStatus] | None = None,
) -> tuple[RecommendationStatus, ...]:
    """Give each proposal (target uid, proposal) its id, keeping the one it had.

    Args:
        proposals: what is proposed now, with the uid of its target.
        old: what the status shows.
        object_uid: uid of the object.
        texts: insights by id.
        now: time of the round.
        steps: replicas that one order may add or remove, by uid of the target; without it a proposal of replicas has
            no envelope.
        ended: ids that were approved and work no more.
        places: whose manifest holds a target's settings, by uid of the target, with the engine's container.
    """
    known = {_identity(item): item for item in old if item.expires_at.unix > now and item.id not in ended}
    found: list[RecommendationStatus] = []
    for target_uid, made in proposals:
        proposal = _as_issued(made, known.values(), object_uid=object_uid, target_uid=target_uid)
        fresh = to_recommendation(proposal, identifier="pending", issued=now, expires=UnixTime(now + LIFETIME))
        before = known.get(_identity(fresh))
        issued = UnixTime(before.issued_at.unix) if before else now
        identifier = recommendation_id(object_uid=object_uid, target_uid=target_uid, proposal=proposal, issued=issued)
        if before is not None and before.id != identifier:
            # The same words about another target (it was replaced): what was approved for the old one does not count.
            before, issued = None, now
            identifier = recommendation_id(object_uid=object_uid, target_uid=target_uid, proposal=proposal, issued=now)
        shown = to_recommendation(
            proposal,
            identifier=identifier,
            issued=issued,
            expires=UnixTime(issued + LIFETIME),
            severity=_severity(proposal),
            insight=texts.get(identifier) or (before.insight if before else None),
        )
        # What an id allows is settled when it is issued: a person approves what they have read.
        envelope = before.envelope if before is not None else None
        if envelope is None and steps is not None and steps.get(target_uid):
            envelope = envelope_of(proposal, step=steps[target_uid])
        place = _place(proposal, places.get(target_uid) if places is not None else None)
        found.append(shown.model_copy(update={"envelope": envelope, "place": place}))
    unique = {item.id: item for item in found}
    return tuple(sorted(unique.values(), key=_order)[:MAX_RECOMMENDATIONS])


def _place(proposal: Proposal, own: PlaceStatus | None) -> PlaceStatus | None:
    """Return the manifest that a change is written into: the workload's, with the container that it is about."""
    if own is None or proposal.type not in _IN_MANIFESTS:
        return None
    named = proposal.setting.partition("containers[")[2].partition("]")[0]
    return own.model_copy(update={"container": named}) if named else own


def _as_issued(
    proposal: Proposal, known: Iterable[RecommendationStatus], *, object_uid: str, target_uid: str
) -> Proposal:
    """Return a proposal of replicas with the counts under which it was issued, while it lies in that envelope.

    How many replicas are needed changes with every tick. Were each number a new id, nobody could approve any. What is
    saved is that of the shown counts.
    """
    if proposal.type is not RecommendationType.REPLICAS or not (
        proposal.current.isdecimal() and proposal.proposed.isdecimal()
    ):
        return proposal
    for item in known:
        same = (item.type, item.subject, item.setting, item.direction) == (
            proposal.type,
            proposal.subject,
            proposal.setting,
            proposal.direction,
        )
        if not same or item.envelope is None:
            continue
        counts = (int(proposal.current), int(proposal.proposed))
        shown = sorted((int(item.current), int(item.proposed)))
        within = all(shown[0] <= count <= shown[1] for count in counts)  # more than was shown is another proposal
        if not within or counts[0] == counts[1] or not holds(item.envelope, *counts):
            continue
        ratio = (int(item.proposed) - int(item.current)) / (counts[1] - counts[0])
        saved = proposal.savings.scaled(ratio)
        issued = dataclasses.replace(proposal, current=item.current, proposed=item.proposed, savings=saved)
        identifier = recommendation_id(
            object_uid=object_uid, target_uid=target_uid, proposal=issued, issued=UnixTime(item.issued_at.unix)
        )
        if identifier == item.id:
            return issued
    return proposal


def _identity(item: RecommendationStatus) -> tuple[str, ...]:
    return (item.type, item.subject, item.setting, item.current, item.proposed)


def _severity(proposal: Proposal) -> Severity:
    if proposal.type is RecommendationType.RESOURCES and proposal.reason in _HARMFUL:
        return _HARMFUL[proposal.reason]
    if proposal.type in _URGENT and proposal.direction.value == "ScaleUp":
        return Severity.CRITICAL if proposal.confidence >= 0.8 else Severity.WARNING
    saved = proposal.savings.per_month
    return Severity.WARNING if (saved or 0.0) > 0.0 or proposal.savings.gpus_freed > 0 else Severity.INFO


def _order(item: RecommendationStatus) -> tuple[int, float, float, str]:
    urgency = {Severity.CRITICAL: 0, Severity.WARNING: 1, Severity.INFO: 2}[item.severity]
    return urgency, -(item.savings.per_month or item.savings.gpus), -item.confidence, item.id


def ledger_of(
    recommendations: Iterable[RecommendationStatus],
    kept: Kept,
    old: LedgerStatus | None,
    *,
    currency: str,
    now: UnixTime,
) -> Kept | None:
    """Sum up what could be saved beside what was. Where no price is known the ledger counts GPUs and says so.

    `kept` are the books, empty where nothing is in them.
    """
    # One capacity cannot be saved twice: alternatives for the same subject count once, at their largest.
    money: dict[str, float] = {}
    freed: dict[str, float] = {}
    for item in recommendations:
        saved = item.savings
        if saved.per_month is not None and saved.per_month > 0:
            money[item.subject] = max(money.get(item.subject, 0.0), saved.per_month)
        if saved.gpus > 0:
            freed[item.subject] = max(freed.get(item.subject, 0.0), saved.gpus)
    gpus, priced = sum(freed.values()), bool(money)
    unpriced = sum(count for subject, count in freed.items() if subject not in money)
    saves = priced or gpus > 0
    if not saves and old is None and kept.as_of is None:
        return None
    potential = round_number(sum(money.values())) if priced else None
    summary = f"{potential:,.0f} {currency}".strip() if potential is not None else f"{gpus:g} GPUs"
    since = kept.since or (old.since if old is not None else None) or Time.of(now)
    return kept.model_copy(
        update={
            "summary": summary,
            "per_month_potential": potential,
            "gpus_potential": round_number(gpus),
            "unknown": _unpriced(unpriced, gpus=gpus),
            "currency": currency if priced or kept.per_month_realised is not None else "",
            "since": since,
        }
    )


def _unpriced(unpriced: float, *, gpus: float) -> str:
    if not unpriced:
        return ""
    if unpriced < gpus:
        return f"{unpriced:g} of {gpus:g} GPUs have no price: set prices for their pools"
    return "no GPU price is configured: set prices on the ClusterResourceOptimization"
