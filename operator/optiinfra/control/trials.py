"""The life of an action: ordered with what is expected of it, watched, judged, and counted for the rule that asked.

One id names it in the status, in Events, in the metric of the last action and in every log line. What is written about
it is kept until a status has it (`memory.untold`). Nothing is changed in the cluster here; undoing is `monitor`'s.
"""

import contextlib
import dataclasses
import logging
from collections.abc import Mapping
from typing import Final

from optiinfra import metrics
from optiinfra.api.status_actions import Ordered, judged, to_action
from optiinfra.api.v1alpha1.action_status import ActionState, ActionStatus, Judgement
from optiinfra.api.v1alpha1.scaling import Actuation
from optiinfra.control.keys import ObjectKey
from optiinfra.control.memory import LastAction, ObjectMemory, TargetMemory, Trial
from optiinfra.control.work import ServiceWork, TargetWork
from optiinfra.domain import verification
from optiinfra.domain.cost import saving
from optiinfra.domain.evidence import Direction
from optiinfra.domain.policy import Axis
from optiinfra.domain.readings import Unknown
from optiinfra.domain.scaling import ScalingDecision
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.domain.verification import WOKEN, Candidate, Course, Outcome, Scene, Trialled, Verdict
from optiinfra.domain.workload import NodeFacts

_LOG = logging.getLogger(__name__)
FOLLOWED_WITHIN: Final = Seconds(90.0)
"""A fall is followed within a few syncs of a scaler, and pods end within their grace period of 30 s."""
STABILISED_WITHIN: Final = Seconds(330.0)
"""The same behind an HPA that is not ours: by default it looks five minutes back before it takes replicas away."""
LET_GO_WITHIN: Final = Seconds(660.0)
"""The same of the last replica behind KEDA, which waits five minutes from when the last trigger was active."""
_JUDGEMENT: Final = {
    Outcome.VERIFIED: Judgement.VERIFIED,
    Outcome.REGRESSED: Judgement.REGRESSED,
    Outcome.UNKNOWN: Judgement.UNKNOWN,
    Outcome.TOO_EARLY: Judgement.UNKNOWN,
}


def rule_name(direction: Direction, rule: str) -> str:
    """Return the name under which a rule's outcomes are counted."""
    return f"{direction}/{rule}"[:64]


def observe(target: TargetWork) -> None:
    """Take the window that ends now into the trail."""
    if target.signals is not None and target.facts is not None:
        target.memory.trail.observe(target.signals, replicas=target.facts.ready_replicas)


def begin(
    service: ServiceWork,
    target: TargetWork,
    *,
    identifier: str,
    recommendation: str,
    before: int,
    order: int,
    now: UnixTime,
) -> None:
    """Note a change of the ordered count as an action, with what is expected of it, and watch it from now on."""
    decision, facts, memory = target.decision, target.facts, target.memory
    assert isinstance(decision, ScalingDecision)
    assert facts is not None
    direction = Direction.SCALE_UP if order > before else Direction.SCALE_DOWN
    supersede(service, target, by=direction, now=now)
    expectation = _expectation(service, target, decision, before=before, order=order, now=now)
    actuation = str(target.target.scaling.actuation)
    action = to_action(
        Ordered(
            id=identifier,
            recommendation=recommendation,
            subject=target.target.name,
            rule=str(decision.rule),
            message=f"{actuation}: {decision.message}",
            at=now,
            until=UnixTime(now + expectation.ready_within + expectation.verify_window),
        ),
        expectation,
    )
    note(service, action)
    falls = direction is Direction.SCALE_DOWN
    axis = Axis.SCALE_DOWN if falls else Axis.SCALE_UP
    memory.policy = memory.policy.changed(axis, at=now, in_flight=identifier if falls else "")
    memory.trial = Trial(
        action=action,
        rule=rule_name(direction, str(decision.rule)),
        direction=direction,
        actuation=actuation,
        started=now,
        expectation=expectation,
        before=memory.trail.before(now, replicas=facts.ready_replicas),
        begun=Scene.of(facts.pods, replicas=before),
    )
    _show(service, target, action, "applied", actuation=actuation, now=now)
    _LOG.info(
        "replicas ordered",
        extra={
            "object": str(service.key),
            "target": target.target.name,
            "action": identifier,
            "from": before,
            "to": order,
            "rule": str(decision.rule),
            "why": decision.message,
            "actuation": actuation,
            "judged_by": str(action.verify_until),
        },
    )


def _expectation(
    service: ServiceWork, target: TargetWork, decision: ScalingDecision, *, before: int, order: int, now: UnixTime
) -> verification.Expectation:
    facts, memory = target.facts, target.memory
    assert facts is not None
    load = decision.load.replicas
    freed = before - order
    within, basis = _ready_within(target, decision, before=before, order=order)
    return verification.expect(
        memory.trail.before(now, replicas=facts.ready_replicas),
        from_replicas=before,
        to_replicas=order,
        objectives=service.settings.objectives,
        growth=decision.learned.forecast / load if load > 0.0 else 1.0,
        ready_within=within,
        ready_basis=basis,
        verify_window=Seconds(service.settings.policy.verify_window),
        savings=saving(
            service.prices,
            gpus=freed * facts.gpus_per_replica,
            cpu_cores=freed * max((pod.cpu_request_cores for pod in facts.pods), default=0.0),
            memory_bytes=freed * max((pod.memory_request_bytes for pod in facts.pods), default=0.0),
        ),
        currency=service.currency,
    )


def _ready_within(target: TargetWork, decision: ScalingDecision, *, before: int, order: int) -> tuple[Seconds, str]:
    """Return how long the count may take to be reached and ready, and on what that rests."""
    if order == 0:
        return LET_GO_WITHIN, "KEDA's default cooldown of five minutes after the last trigger was active, twice"
    if order < before:
        scaler = target.facts.scaler if target.facts is not None else None
        if scaler is not None and not scaler.owned_by_us:
            return STABILISED_WITHIN, "an HPA's default stabilization of five minutes and a grace period"
        return FOLLOWED_WITHIN, "a few syncs of a scaler and a grace period"
    if target.target.scaling.startup_time.seconds is not None:
        basis = "spec.scaling.startupTime"
    elif target.start_up is None or isinstance(target.start_up.p95, Unknown):
        basis = "no start of its own pods was measured yet: a careful value"
    else:
        basis = f"p95 of {target.start_up.samples} starts of its own pods"
    return Seconds(decision.start_up + FOLLOWED_WITHIN), f"{basis}, and a few syncs of a scaler"


def look(
    service: ServiceWork, target: TargetWork, trial: Trial, nodes: dict[str, NodeFacts], *, now: UnixTime
) -> Verdict:
    """Judge a trial by what is known now."""
    facts = target.facts
    assert facts is not None
    scene = Scene.of(facts.pods, replicas=facts.desired_replicas)
    waits_for = _waits_for(target, trial)
    if trial.settled is None and not waits_for:
        trial.settled, trial.settled_at = scene, now
    expectation = trial.expectation
    since = trial.settled_at if trial.settled_at is not None else UnixTime(trial.started + expectation.ready_within)
    course = Course(
        begun=trial.begun,
        from_replicas=expectation.from_replicas,
        to_replicas=expectation.to_replicas,
        settled=trial.settled,
        nodes=nodes,
    )
    return verification.judge(
        Trialled(
            direction=trial.direction,
            expectation=expectation,
            before=trial.before,
            after=() if trial.settled_at is None else target.memory.trail.after(trial.settled_at),
            settled=trial.settled is not None,
            over=now - since >= expectation.verify_window,
            candidates=_siblings(service, target, trial),
            disturbance=verification.disturbance(course, scene),
            waits_for=waits_for,
        )
    )


def _waits_for(target: TargetWork, trial: Trial) -> str:
    """Say what an ordered count still waits for; empty once it is reached and ready."""
    facts, wanted = target.facts, trial.expectation.to_replicas
    assert facts is not None
    asked, ready = facts.desired_replicas, facts.ready_replicas
    reached = asked == wanted
    if trial.actuation == Actuation.FLOOR:
        # Above its floor the user's own scaler decides.
        rises = trial.direction is Direction.SCALE_UP
        reached = asked >= wanted if rises else asked < trial.expectation.from_replicas
    if not reached:
        return f"{wanted} replicas were ordered, {asked} are asked for"
    return "" if ready == asked else f"{ready} of {asked} replicas are ready"


def _siblings(service: ServiceWork, target: TargetWork, trial: Trial) -> tuple[Candidate, ...]:
    """Return the other variants of the service that may serve as a control."""
    if trial.settled_at is None:
        return ()
    found: list[Candidate] = []
    for other in service.targets:
        if other is target or other.facts is None:
            continue
        if other.target.role != target.target.role:
            found.append(Candidate(f"variant {other.target.name}", (), (), "it has another role"))
            continue
        own = other.memory.trial
        last = other.memory.policy.last_change
        disturbed = ""
        if own is not None or (last is not None and last >= trial.started):
            disturbed = "something was done to it as well"
        elif len(Scene.of(other.facts.pods, replicas=0).revisions) > 1:
            disturbed = "a rollout was in progress"
        blocks = tuple(other.memory.trail)
        before = tuple(block for block in blocks if block.time <= trial.started)
        after = other.memory.trail.after(trial.settled_at)
        found.append(Candidate(f"variant {other.target.name}", before, after, disturbed))
    return tuple(found)


def supersede(service: ServiceWork, target: TargetWork, *, by: Direction, now: UnixTime) -> None:
    """End the trial that stands, because something else is ordered: what it did so far is judged first."""
    trial = target.memory.trial
    if trial is None:
        return
    verdict = look(service, target, trial, {}, now=now)
    if verdict.outcome is not Outcome.REGRESSED:
        text = f"{by} was ordered before it was judged ({verdict.message})"
        verdict = Verdict(Outcome.UNKNOWN, "Superseded", text, control=verdict.control)
    conclude(service, target, trial, verdict, now=now)


def conclude(
    service: ServiceWork,
    target: TargetWork,
    trial: Trial,
    verdict: Verdict,
    *,
    given_back: int | None = None,
    now: UnixTime,
) -> None:
    """End a trial: count its outcome for its rule, and tell it. `given_back` are replicas ordered to undo it."""
    memory, policy = target.memory, service.settings.policy
    falls = trial.direction is Direction.SCALE_DOWN
    rest = Seconds(max(policy.cooldown, policy.verify_window))
    done, rests_until = "", None
    match verdict.outcome:
        case Outcome.VERIFIED:
            if trial.expectation.to_replicas == 0:
                memory.record.slept(trial.rule, at=now)
            else:
                memory.record.good(trial.rule, falls=falls, at=now)
        case Outcome.REGRESSED if verdict.reason == WOKEN:
            memory.record.woke(trial.rule, at=now)
            done = f"; the next time it has to be quiet for {2**memory.record.woken} times as long"
        case Outcome.REGRESSED:
            why = f"action {trial.action.id} ({trial.action.from_} to {trial.action.to}) did harm: {verdict.message}"
            length = memory.record.bad(trial.rule, falls=falls, rest=rest, why=why, at=now)
            done = f"; {given_back} replicas were ordered again" if given_back is not None else "; it was not undone"
            if length:
                rests_until = memory.record.rests_until
                done += f"; no replicas are taken away for {length:.0f} s"
        case Outcome.UNKNOWN | Outcome.TOO_EARLY:
            taken = falls and not (trial.actuation == Actuation.FLOOR and trial.settled is None)
            memory.record.unclear(
                trial.rule,
                falls=taken,
                stood_at=trial.expectation.from_replicas,
                rest=rest,
                why=f"action {trial.action.id} could not be judged: {verdict.message}",
                at=now,
            )
            if taken:
                rests_until, done = memory.record.rests_until, "; what stands is held"
    state = ActionState.VERIFIED if verdict.outcome is Outcome.VERIFIED else ActionState.APPLIED
    judgement = _JUDGEMENT[verdict.outcome]
    if given_back is not None:
        state = ActionState.ROLLED_BACK
    action = judged(
        trial.action,
        verdict,
        judgement=judgement,
        state=state,
        message=f"{judgement}: {verdict.message}{done}",
        rests_until=rests_until,
        at=now,
    )
    memory.trial = None
    memory.policy = dataclasses.replace(memory.policy, in_flight="")
    note(service, action)
    word = "rolledback" if given_back is not None else str(judgement).lower()
    _show(service, target, action, word, actuation=trial.actuation, now=now)
    _LOG.info(
        "action judged",
        extra={
            "object": str(service.key),
            "target": target.target.name,
            "action": action.id,
            "state": str(state),
            "verdict": str(judgement),
            "reason": verdict.reason,
            "why": verdict.message,
            "control": verdict.control,
            "rule": trial.rule,
            "trust": round(memory.record.of(trial.rule).trust, 3),
        },
    )


def note(service: ServiceWork, action: ActionStatus) -> None:
    """Keep a state of an action until the status has it."""
    service.actions.append(action)
    service.memory.untold[action.id] = action


def _show(
    service: ServiceWork, target: TargetWork, action: ActionStatus, outcome: str, *, actuation: str, now: UnixTime
) -> None:
    metrics.ACTIONS.labels(actuation, outcome).inc()
    remember(service.key, target.target.name, target.memory, LastAction(action.id, outcome, now))


def remember(key: ObjectKey, variant: str, memory: TargetMemory, last: LastAction) -> None:
    """Keep the newest action of a workload, and show it in its metric in place of the one before."""
    if memory.last_action is not None:
        before = (key.namespace, key.name, variant, memory.last_action.id, memory.last_action.outcome)
        with contextlib.suppress(KeyError):
            metrics.LAST_ACTION.remove(*before)
    memory.last_action = last
    metrics.LAST_ACTION.labels(key.namespace, key.name, variant, last.id, last.outcome).set(last.at)


def show_known(memories: Mapping[ObjectKey, ObjectMemory]) -> None:
    """Show the newest action of every workload that is known; what is gone disappears."""
    metrics.LAST_ACTION.clear()
    for key, memory in memories.items():
        for variant, target in memory.targets.items():
            last = target.last_action
            if last is not None:
                metrics.LAST_ACTION.labels(key.namespace, key.name, variant, last.id, last.outcome).set(last.at)
