"""What a round found, as the status of a ResourceOptimization: pure, from work and the old status to the new one.

Conditions follow kstatus: observedGeneration always, Reconciling while the first measurements come in, Stalled when
only a person can help, Ready as the summary. Times of what did not change stay; whether the result is worth a write is
for `optiinfra.api.status_change` to say.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from optiinfra.api.conditions import ConditionStatus, merge
from optiinfra.api.reasons import Reason
from optiinfra.api.scalars import Time
from optiinfra.api.status_actions import history
from optiinfra.api.status_cost import to_cost
from optiinfra.api.status_from import cut, to_bottleneck, to_percent, to_refusal, to_unknown
from optiinfra.api.status_scaling import to_forecast, to_learned, to_start_up
from optiinfra.api.v1alpha1 import ResourceOptimizationStatus
from optiinfra.api.v1alpha1.action_status import ActionStatus
from optiinfra.api.v1alpha1.resource_optimization import (
    DesiredStatus,
    ForecastStatus,
    ReplicaStatus,
    TargetStatus,
    UtilizationStatus,
)
from optiinfra.api.v1alpha1.savings import LedgerStatus
from optiinfra.api.v1alpha1.scaling import Takeover
from optiinfra.api.v1alpha1.status_parts import (
    MAX_REFUSALS,
    BottleneckStatus,
    InsightStatus,
    PlaceStatus,
    RoundStatus,
    TakeoverStatus,
)
from optiinfra.control import approvals, past_taking
from optiinfra.control.conditions import service_conditions
from optiinfra.control.recommend import ledger_of, recommendations_of
from optiinfra.control.rehearse import to_status
from optiinfra.control.work import ServiceWork, TargetWork
from optiinfra.domain.agent_readings import Attributor
from optiinfra.domain.bottleneck import batch_ratio
from optiinfra.domain.evidence import Bottleneck
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.scaling import ScalingDecision
from optiinfra.domain.units import UnixTime


@dataclass(frozen=True, slots=True)
class InsightState:
    """What is to be said about insights: the condition, and texts by recommendation id."""

    status: ConditionStatus
    reason: Reason
    message: str = ""
    texts: dict[str, InsightStatus] = field(default_factory=dict)


def service_status(
    service: ServiceWork, *, round_id: str, now: UnixTime, insight: InsightState
) -> ResourceOptimizationStatus:
    """Build the status after a round."""
    old, metadata = service.obj.status, service.obj.metadata
    # Without fresh facts the advice of before still stands, until it expires: a scrape that failed is no retraction.
    analyzed = any(target.signals is not None for target in service.targets) and service.problem is None
    recommendations = (
        recommendations_of(
            [
                (target.facts.uid if target.facts else "", proposal)
                for target in service.targets
                for proposal in target.proposals
            ],
            old.recommendations,
            object_uid=metadata.uid,
            texts=insight.texts,
            steps={
                target.facts.uid: target.limits.step
                for target in service.targets
                if target.facts is not None and target.limits is not None
            },
            ended=approvals.ended(service),
            places={target.facts.uid: _place(target) for target in service.targets if target.facts is not None},
            now=now,
        )
        if analyzed
        else tuple(item for item in old.recommendations if item.expires_at.unix > now)
    )
    actions = merge_actions(old.actions, service.actions)
    return ResourceOptimizationStatus(
        observed_generation=metadata.generation,
        conditions=merge(old.conditions, service_conditions(service, insight), generation=metadata.generation, now=now),
        target=cut(service.settings.target_summary, 253),
        mode=service.settings.mode_summary,
        replicas=_replicas(service.targets),
        desired=_desired(service, now=now),
        effective=_effective(service),
        targets=tuple(_target(target, old, now=now) for target in service.targets),
        utilization=_utilization(service, now=now),
        bottleneck=_bottleneck(service, old, now=now),
        forecast=_forecast(service),
        recommendations=recommendations,
        refusals=tuple(to_refusal(item) for target in service.targets for item in target.refusals)[:MAX_REFUSALS],
        actions=actions,
        used_approvals=approvals.book(service, offered=[item.id for item in recommendations], now=now),
        resizes=old.resizes if service.dry_run else service.resizes,
        takeovers=_takeovers(service),
        operator=service.claim.operator,
        other_operator=service.claim.other,
        dry_run=None if service.rehearsed is None else to_status(service.rehearsed, now=now),
        cost=None if service.cost is None else to_cost(service.cost),
        savings=ledger_of(
            recommendations,
            # Books that could not be brought up to date are kept as they are: nothing else has them.
            service.ledger or old.savings or LedgerStatus(),
            old.savings,
            currency=service.currency,
            now=now,
        ),
        history=past_taking.told(service),
        last_round=RoundStatus(id=round_id, at=Time.of(now)),
    )


def _place(target: TargetWork) -> PlaceStatus:
    reference = target.target.target_ref
    return PlaceStatus(
        api_version=reference.api_version,
        kind=reference.kind,
        name=reference.name,
        container=target.settings.container[:63],
    )


def merge_actions(old: tuple[ActionStatus, ...], new: list[ActionStatus]) -> tuple[ActionStatus, ...]:
    """Return the bounded history of actions: a new state of a known action replaces the old one in place."""
    return history(old, new)


def _takeovers(service: ServiceWork) -> tuple[TakeoverStatus, ...]:
    """Return where `takeover: Once` is used up; a target with Never is armed anew."""
    armed = {target.target.name for target in service.targets if target.target.scaling.takeover is Takeover.ONCE}
    known = {item.name: item for item in (*service.takeovers, *service.obj.status.takeovers) if item.name in armed}
    return tuple(known[name] for name in sorted(known))


def _replicas(targets: list[TargetWork]) -> ReplicaStatus | None:
    facts = [target.facts for target in targets if target.facts is not None]
    if not facts:
        return None
    return ReplicaStatus(
        current=sum(sum(1 for pod in item.pods if not pod.terminating) for item in facts),
        desired=sum(item.desired_replicas for item in facts),
        ready=sum(item.ready_replicas for item in facts),
    )


def _desired_of(target: TargetWork, *, now: UnixTime) -> DesiredStatus | None:
    decision = target.decision
    if isinstance(decision, ScalingDecision):
        clamped = target.clamped
        limits = "; ".join(reason.message for reason in clamped.reasons) if clamped is not None else ""
        return DesiredStatus(
            replicas=decision.desired if clamped is None else clamped.value,
            rule=str(decision.rule),
            floor=decision.floor,
            reason=str(clamped.reasons[0].limit) if clamped is not None and clamped.reasons else str(decision.rule),
            message=cut(f"{decision.message}{'; limited: ' + limits if limits else ''}", 1024),
            at=Time.of(now),
        )
    if isinstance(decision, Unknown):
        return DesiredStatus(unknown=to_unknown(decision), rule="None", reason=str(decision.reason), at=Time.of(now))
    if target.problem is not None:
        return DesiredStatus(
            unknown=cut(target.problem.message or str(target.problem.reason), 256),
            rule="None",
            reason=str(target.problem.reason),
            at=Time.of(now),
        )
    return None


def _desired(service: ServiceWork, *, now: UnixTime) -> DesiredStatus | None:
    parts = [_desired_of(target, now=now) for target in service.targets]
    if len(parts) == 1:
        return parts[0]
    known = [part for part in parts if part is not None and part.replicas is not None]
    if not known:
        return next((part for part in parts if part is not None), None)
    missing = len(parts) - len(known)
    return DesiredStatus(
        replicas=sum(part.replicas or 0 for part in known),
        floor=sum(part.floor or 0 for part in known),
        rule="Sum",
        reason="Sum",
        message=f"sum over {len(known)} variants" + (f"; {missing} unknown" if missing else ""),
        at=Time.of(now),
    )


def _effective(service: ServiceWork) -> str:
    effects = [target.effect for target in service.targets if target.effect is not None]
    if not effects:
        return ""
    bad = next((effect for effect in effects if effect.effective is False), None)
    if bad is not None:
        return cut(f"False ({bad.reason})", 64)
    unsure = next((effect for effect in effects if effect.effective is None), None)
    if unsure is None and len(effects) < len(service.targets):
        return cut(f"Unknown ({Reason.NOT_YET_ANALYZED})", 64)
    return "True" if unsure is None else cut(f"Unknown ({unsure.reason})", 64)


def _target(target: TargetWork, old: ResourceOptimizationStatus, *, now: UnixTime) -> TargetStatus:
    reference, facts = target.target.target_ref, target.facts
    before = next((item for item in old.targets if item.name == target.target.name), None)
    return TargetStatus(
        name=target.target.name,
        target=cut(f"{reference.kind}/{reference.name}", 253),
        uid=facts.uid if facts is not None else (before.uid if before is not None else ""),
        scaler=cut(f"HorizontalPodAutoscaler/{facts.scaler.name}", 253) if facts is not None and facts.scaler else "",
        replicas=_replicas([target]),
        desired=_desired_of(target, now=now),
        start_up=None if target.start_up is None else to_start_up(target.start_up),
        learned=to_learned(target.decision) if isinstance(target.decision, ScalingDecision) else None,
    )


_NO_SIGNALS = Unknown(UnknownReason.NOT_MEASURED, "no target says anything")


def _worst(values: list[Value]) -> Value:
    known = [value for value in values if not isinstance(value, Unknown)]
    if known:
        return max(known)
    return values[0] if values else Unknown(UnknownReason.NOT_MEASURED, "no targets")


def _utilization(service: ServiceWork, *, now: UnixTime) -> UtilizationStatus | None:
    seen = [target for target in service.targets if target.utilization is not None and target.signals is not None]
    if not seen:
        return None
    return UtilizationStatus(
        gpu_percent=to_percent(_worst([t.utilization.gpu_ratio_mean for t in seen if t.utilization])),
        gpu_memory_percent=to_percent(_worst([t.utilization.gpu_memory_ratio for t in seen if t.utilization])),
        kv_cache_percent=to_percent(service.whole.kv_cache_usage_max if service.whole else _NO_SIGNALS),
        batch_percent=to_percent(_worst([_batch(target) for target in seen])),
        gpus_attributed_by=_attributed_by(seen),
        measured_at=Time.of(max([t.signals.time for t in seen if t.signals], default=now)),
    )


def _attributed_by(seen: Sequence[TargetWork]) -> str:
    """By whose word GPUs are the service's; of several, the least sure one."""
    words = (one.utilization.attributed_by for one in seen if one.utilization is not None)
    known = [word for word in words if word is not None]
    return str(max(known, key=[*Attributor].index)) if known else ""


def _batch(target: TargetWork) -> Value:
    assert target.signals is not None
    if target.diagnosis is None:
        return Unknown(UnknownReason.NOT_MEASURED, "no diagnosis")
    return batch_ratio(target.signals, target.diagnosis)


def _bottleneck(service: ServiceWork, old: ResourceOptimizationStatus, *, now: UnixTime) -> BottleneckStatus | None:
    diagnoses = [target.diagnosis for target in service.targets if target.diagnosis is not None]
    if not diagnoses:
        return None
    harmless = (Bottleneck.HEALTHY, Bottleneck.IDLE, Bottleneck.UNKNOWN)
    worst = next((d for d in diagnoses if d.bottleneck not in harmless), diagnoses[0])
    same = old.bottleneck is not None and old.bottleneck.type is worst.bottleneck
    since = UnixTime(old.bottleneck.since.unix) if same and old.bottleneck is not None else now
    return to_bottleneck(worst, since=since)


def _forecast(service: ServiceWork) -> ForecastStatus | None:
    for target in service.targets:
        if isinstance(target.decision, ScalingDecision):
            return to_forecast(target.decision)
    return None
