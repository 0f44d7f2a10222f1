"""How many replicas each target of a round needs: facts and memories in, the domain's decision out.

All targets of a round are one fleet and decided in one pass. An input that makes the domain raise spoils only its own
object: the others are then decided one by one.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from optiinfra.api.v1alpha1.scaling import Actuation
from optiinfra.control import resting
from optiinfra.control.isolation import isolated
from optiinfra.control.variants import mixed_targets
from optiinfra.control.work import ServiceWork, TargetWork, Work
from optiinfra.domain import hpa_target as domain_hpa_target
from optiinfra.domain import replica_load, scaling
from optiinfra.domain.cost import saving
from optiinfra.domain.evidence import Direction, Finding, FindingType, Proposal, RecommendationType, Refusal
from optiinfra.domain.groups import counted_pages
from optiinfra.domain.policy import Limits
from optiinfra.domain.readings import Unknown
from optiinfra.domain.replica_shape import shape_of
from optiinfra.domain.scaling_rules import Rule
from optiinfra.domain.scaling_words import infeasibility
from optiinfra.domain.start_up import first_token_times, replica_pods
from optiinfra.domain.units import Ratio, Seconds, UnixTime
from optiinfra.domain.workload import ScalerFacts, WorkloadFacts

UNMEASURED_STARTUP = Seconds(180.0)
"""Start-up time assumed until one was measured; long, so that the first forecasts look far enough ahead."""
_SAMPLE_TICKS = 2.0
"""Ticks of pages that a rate is taken over: one is short against the interval at which engines are read."""
_TARGET_LASTS = 6 * 3600.0
_REFUSAL_LASTS = 1800.0
_DISABLED = "ScalingDisabled"
"""What an HPA says whose workload was set to zero by hand."""

Given = tuple[ServiceWork, TargetWork, scaling.ScalingInput]


@dataclass(frozen=True, slots=True)
class ScalingTimes:
    """Times of the decision, from the operator's settings."""

    tick: Seconds
    """Length of one tick of the scaler."""
    hold: Seconds
    """Load must be known for so long before anything is given back."""
    stale_after: Seconds


def limits_of(service: ServiceWork, work: TargetWork, facts: WorkloadFacts) -> Limits:
    """The user's limits: the scaler's, narrowed by the object's, widened by nobody."""
    own, scaler, policy = work.target.scaling, facts.scaler, service.settings.policy
    lowest = 0 if zero_allowed(work, scaler) else 1
    minimum = lowest if own.min_replicas is None else max(lowest, own.min_replicas)
    if scaler is not None and own.actuation is not Actuation.OWN:
        # A floor of ours is not the user's minimum: that one was written down when the floor was taken.
        ours = scaler.held and not scaler.floor_lost
        users = scaler.original_min_replicas if ours and scaler.original_min_replicas is not None else None
        minimum = max(minimum, users_minimum(scaler, lowest=lowest) if users is None else users)
        maximum = scaler.max_replicas if own.max_replicas is None else min(scaler.max_replicas, own.max_replicas)
    elif own.max_replicas is not None:
        maximum = own.max_replicas
    else:
        # Nobody gave a maximum, so nobody is bound by one; what policy allows in one step is as far as advice goes.
        maximum = max(facts.desired_replicas, 1) + policy.max_replica_step
    return Limits(
        minimum=min(minimum, maximum),
        maximum=maximum,
        max_replica_step=policy.max_replica_step,
        max_gpu_step=policy.max_gpu_step,
        gpus_per_replica=gpus_of(work, facts),
        cooldown=policy.cooldown,
        rise_cooldown=policy.scale_up_cooldown,
        fall_cooldown=policy.scale_down_cooldown,
        resize_cooldown=policy.resize_cooldown,
        min_available=policy.min_available,
    )


def gpus_of(work: TargetWork, facts: WorkloadFacts) -> float:
    """GPUs of one replica: of those that run, else as they were last seen; 0 where no replica was ever seen."""
    shape = shape_of(facts)
    if isinstance(shape, Unknown):
        return work.memory.shape.gpus if work.memory.shape is not None else 0.0
    work.memory.shape = shape
    return shape.gpus


def users_minimum(scaler: ScalerFacts, *, lowest: int) -> int:
    """Return the minimum that a scaler stands for: KEDA writes 1 into its HPA where the user's minReplicaCount is 0.

    It takes the last replica away itself, and only where its own minReplicaCount allows that.
    """
    return 0 if lowest == 0 and scaler.min_replicas == 1 else scaler.min_replicas


def zero_allowed(work: TargetWork, scaler: ScalerFacts | None) -> bool:
    """Tell whether the last replica may go: the user says so, and who takes it is one that can bring it back.

    An HPA can do neither without a gate that most servers lack, so Own and Floor keep one.
    """
    wanted = work.target.scaling
    return wanted.scale_to_zero.enabled and wanted.actuation is Actuation.SIGNAL and queue_seen_elsewhere(scaler)


def queue_seen_elsewhere(scaler: ScalerFacts | None) -> bool:
    """Tell whether somebody sees requests that come while no replica runs: KEDA, by a trigger of its own.

    Without replicas there is no page that could tell us of a queue; who scales to zero must not be the last to know. A
    trigger that reads our decision sees none either, so there have to be two: KEDA's HPA has one external metric for
    each. A formula (`scalingModifiers`) makes one of all, which cannot be told from a single trigger and counts as one.
    """
    if scaler is None or not scaler.controller_owner.startswith("ScaledObject/"):
        return False
    return sum(1 for metric in scaler.metrics if metric.type == "External") >= 2


def scaling_input(
    service: ServiceWork, work: TargetWork, facts: WorkloadFacts, times: ScalingTimes, *, now: UnixTime
) -> scaling.ScalingInput:
    """Put together what one target's decision rests on; its signals and limits are there already."""
    assert work.signals is not None
    assert work.limits is not None
    pages = counted_pages(facts)
    p50, p95 = start_up(work, facts, now=now)
    scaler = facts.scaler
    # Once the spec was read as zero, what it says is news, and no fall that is followed already.
    current = asked_for(facts, ordered=None if work.memory.asleep else work.memory.ordered)
    due = work.memory.scaler.ticks_due(now=now, tick=times.tick)
    read = [
        replica_load.sample(
            pages,
            now=end,
            window=Seconds(_SAMPLE_TICKS * times.tick),
            stale_after=times.stale_after,
            expected=facts.ready_replicas,
        )
        for end in due or (now,)
    ]
    return scaling.ScalingInput(
        signals=work.signals,
        samples=tuple(read) if due else (),
        fresh=read[-1],
        settings=work.settings,
        current=current,
        ordered=work.memory.ordered,
        ready=facts.ready_replicas,
        minimum=work.limits.minimum,
        maximum=work.limits.maximum,
        start_up_p50=p50,
        start_up_p95=p95,
        memory=work.memory.scaler,
        objectives=service.settings.objectives,
        pace=work.memory.pace.fit(),
        tick=times.tick,
        hold=times.hold,
        forecast_enabled=work.target.scaling.forecast.enabled,
        paused=service.settings.suspended or (scaler is not None and scaler.scaling_active_reason == _DISABLED),
        current_floor=scaler.min_replicas if scaler is not None and scaler.held and not scaler.floor_lost else 0,
        at_rest=resting.observe(work, facts, current=current, start_up=p95, stale_after=times.stale_after, now=now),
    )


def asked_for(facts: WorkloadFacts, *, ordered: int | None) -> int:
    """Return the replicas that are asked for now: the spec, or our order where the pods have followed it already.

    Pods are watched and the spec is read from time to time. Just after a fall the spec of before says that some of its
    replicas are not ready, which would be a reason to hold them, and so to take the fall back.
    """
    if ordered is None or ordered >= facts.desired_replicas:
        return facts.desired_replicas
    living = sum(1 for pod in replica_pods(facts) if not pod.terminating)
    return ordered if living == ordered else facts.desired_replicas


def start_up(work: TargetWork, facts: WorkloadFacts, *, now: UnixTime) -> tuple[Seconds, Seconds]:
    """Median and 95th percentile that are planned with: given, else of the workload's own pods, else careful."""
    memory = work.memory.start_up
    memory.observe(replica_pods(facts), now=now, first_tokens=first_token_times(counted_pages(facts)))
    work.start_up = memory.summary(now)
    given = work.target.scaling.startup_time.seconds
    return (given, given) if given is not None else work.start_up.planned(prior=UNMEASURED_STARTUP)


def decide(inputs: Sequence[Given], *, now: UnixTime) -> None:
    """Decide for all targets, and remember what was learned."""
    if not inputs:
        return
    try:
        outcomes = scaling.decide([given for _, _, given in inputs], now=now)
    except Exception:
        if len(inputs) == 1:
            raise
        # One input spoils the arrays of all: decide one by one, so that only its own object fails.
        for single in inputs:
            with isolated(single[0], step="analyze"):
                decide([single], now=now)
        return
    for (_, target, given), outcome in zip(inputs, outcomes, strict=True):
        target.decision = resting.last_replica(
            target, outcome.decision, tick=given.tick, start_up=given.start_up_p95, now=now
        )
        target.memory.scaler = outcome.memory
        target.memory.decided = target.memory.decided or isinstance(outcome.decision, scaling.ScalingDecision)


def mix(service: ServiceWork, work: Work) -> None:
    """Let variants of one service share its load the cheapest way; a target that may not shrink keeps what it has."""
    several = len(service.targets) > 1
    mixed = (
        mixed_targets(service, work.nodes, now=work.at, prices=work.prices, node_prices=work.node_prices)
        if several
        else None
    )
    for target in service.targets:
        decision, found = target.decision, (mixed or {}).get(target.target.name)
        if found is None or not isinstance(decision, scaling.ScalingDecision) or found.desired == decision.desired:
            continue
        desired = found.desired
        short = "".join(f"; {shortfall.message}" for shortfall in found.mix.shortfalls)
        if desired < decision.current and decision.shrink_blocked:
            desired = max(desired, min(decision.current, decision.desired))
        target.decision = dataclasses.replace(
            decision,
            desired=desired,
            # Where the mix grows a variant its floor has to hold what is asked for, or a scaler would take it back.
            floor=max(decision.floor, desired) if desired > decision.desired else min(decision.floor, desired),
            rule=Rule.MIX,
            message=f"{desired} replicas ({Rule.MIX}): {found.choice.message}{short}; alone: {decision.message}",
        )


def hpa_target(service: ServiceWork, target: TargetWork, *, now: UnixTime) -> list[Proposal | Refusal]:
    """Say which target the user's own scaler should have; replayed anew after hours, because it takes 50 ms."""
    decision, facts, memory = target.decision, target.facts, target.memory
    if facts is None or facts.scaler is None or facts.scaler.owned_by_us or target.limits is None:
        return []
    if not isinstance(decision, scaling.ScalingDecision):
        return []
    kept = memory.hpa_target
    lasts = _TARGET_LASTS if isinstance(kept, Proposal) else _REFUSAL_LASTS
    if kept is None or not 0.0 <= now - memory.hpa_target_at < lasts:
        kept = memory.hpa_target = domain_hpa_target.propose(
            memory.history,
            decision,
            minimum=target.limits.minimum,
            maximum=target.limits.maximum,
            late_share=float(service.settings.objectives.late_share),
            scaler=facts.scaler.name,
            subject=target.target.name,
        )
        memory.hpa_target_at = now
    return [kept]


def findings(target: TargetWork) -> list[Finding]:
    """Say where the objective cannot be held at a bearable price."""
    decision = target.decision
    if not isinstance(decision, scaling.ScalingDecision) or decision.learned.infeasible is None:
        return []
    text = infeasibility(decision.learned.infeasible)
    kind = FindingType.INFEASIBLE_OBJECTIVE
    return [Finding(kind, "NoRuleHolds", text, Ratio(0.8), decision.evidence)]


def proposals(service: ServiceWork, target: TargetWork) -> list[Proposal | Refusal]:
    """Word the decision as a proposal; nothing where it is to stay, a refusal where it is not known."""
    decision, facts = target.decision, target.facts
    assert facts is not None
    answers: list[Proposal | Refusal] = []
    if target.target.scaling.scale_to_zero.enabled and not zero_allowed(target, facts.scaler):
        text = (
            "scaleToZero: with no replica left nobody would see the queue; let a KEDA ScaledObject with a second "
            "trigger that sees it (the gateway's) drive the workload. One replica is kept"
        )
        answers.append(Refusal(RecommendationType.REPLICAS, "QueueNotSeen", text))
    if isinstance(decision, Unknown):
        return [
            *answers,
            Refusal(RecommendationType.REPLICAS, str(decision.reason), decision.detail or str(decision)),
        ]
    if decision is None or decision.direction is Direction.NONE:
        return answers
    freed = max(0, decision.current - decision.desired)
    return [
        *answers,
        Proposal(
            type=RecommendationType.REPLICAS,
            reason=str(decision.rule),
            message=decision.message,
            setting="replicas",
            current=str(decision.current),
            proposed=str(decision.desired),
            lower=str(decision.lower),
            upper=str(decision.upper),
            direction=decision.direction,
            confidence=decision.confidence,
            evidence=decision.evidence,
            savings=saving(
                service.prices,
                gpus=freed * facts.gpus_per_replica,
                cpu_cores=freed * max((pod.cpu_request_cores for pod in facts.pods), default=0.0),
                memory_bytes=freed * max((pod.memory_request_bytes for pod in facts.pods), default=0.0),
            ),
            subject=target.target.name,
        ),
    ]
