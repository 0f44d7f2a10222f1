"""What a workload's past actions mean for the next: rests after harm, trust in a rule, actions of earlier leaders.

A rest holds falls back whatever the mode, and a rollback stands until the workload has followed it: both come after
policy, because no limit of a user can ask for harm. What an earlier leader did is read from the status and counted
once; what it was still watching when it went is watched anew where its checkpoint has what was measured before, and is
Unknown where not.
"""

import dataclasses
import logging
from typing import Final

from optiinfra.api.status_actions import judged
from optiinfra.api.v1alpha1.action_status import ActionState, ActionStatus, Judgement
from optiinfra.api.v1alpha1.scaling import Actuation
from optiinfra.control import trials
from optiinfra.control.memory import LastAction, Rollback, Trial
from optiinfra.control.work import ServiceWork, TargetWork, Work
from optiinfra.domain.evidence import Direction, Past, Proposal, RecommendationType
from optiinfra.domain.policy import Clamped, Limit, LimitReason
from optiinfra.domain.units import Ratio, Seconds, UnixTime
from optiinfra.domain.verification import WOKEN, Outcome, Verdict

_LOG = logging.getLogger(__name__)
_LOST: Final = Verdict(
    Outcome.UNKNOWN,
    "LeaderChanged",
    "another operator took over while it was watched, and what was measured before it is lost",
    control="none: nothing was measured",
)


def adopt(work: Work) -> None:
    """Count what earlier leaders did, once a target."""
    for service in work.services:
        for target in service.targets:
            if not target.memory.adopted:
                target.memory.adopted = True
                _adopt(service, target, now=work.at)


def _adopt(service: ServiceWork, target: TargetWork, *, now: UnixTime) -> None:
    memory, policy = target.memory, service.settings.policy
    own = [
        action
        for action in service.obj.status.actions
        if action.type is RecommendationType.REPLICAS
        and action.subject == target.target.name
        and action.started_at is not None
    ]
    rest = Seconds(max(policy.cooldown, policy.verify_window))
    for action in sorted(own, key=lambda one: one.at.unix):
        lost = action.outcome is None and action.state is ActionState.APPLIED
        told = action
        if lost and _taken_over(service, target, action, now=now):
            continue
        if lost:
            falls = _direction(action) is Direction.SCALE_DOWN
            told = judged(
                action,
                _LOST,
                judgement=Judgement.UNKNOWN,
                state=ActionState.APPLIED,
                message=f"{Judgement.UNKNOWN}: {_LOST.message}",
                rests_until=UnixTime(now + rest) if falls else None,
                at=now,
            )
            trials.note(service, told)
        if told.outcome is not None and told.outcome.at.unix > memory.record.as_of:
            _count(target, told, rest=rest)
    if own and memory.last_action is None:
        newest = own[-1]
        word = str(newest.state if newest.outcome is None else newest.outcome.verdict).lower()
        word = "rolledback" if newest.state is ActionState.ROLLED_BACK else word
        trials.remember(service.key, target.target.name, memory, LastAction(newest.id, word, UnixTime(newest.at.unix)))
    memory.kept_trial = None


def _taken_over(service: ServiceWork, target: TargetWork, action: ActionStatus, *, now: UnixTime) -> bool:
    """Watch an action on that an earlier leader began, for a whole window from now; tells whether that is possible."""
    memory = target.memory
    kept = memory.kept_trial
    if kept is None or kept.id != action.id or memory.trial is not None or kept.started > now:
        return False
    memory.trial = Trial(
        action=action,
        rule=kept.rule,
        direction=kept.direction,
        actuation=kept.actuation,
        started=kept.started,
        expectation=kept.expectation,
        before=kept.before,
        begun=kept.begun,
    )
    if kept.direction is Direction.SCALE_DOWN:
        memory.policy = dataclasses.replace(memory.policy, in_flight=action.id)
    extra = {"object": str(service.key), "target": target.target.name, "action": action.id}
    _LOG.info("an action of an earlier leader is watched on", extra=extra)
    return True


def _direction(action: ActionStatus) -> Direction:
    return Direction.SCALE_UP if int(action.to) > int(action.from_) else Direction.SCALE_DOWN


def _count(target: TargetWork, action: ActionStatus, *, rest: Seconds) -> None:
    record, outcome = target.memory.record, action.outcome
    assert outcome is not None
    direction = _direction(action)
    falls, rule = direction is Direction.SCALE_DOWN, trials.rule_name(direction, action.reason)
    at, why = UnixTime(outcome.at.unix), f"action {action.id}: {outcome.message}"
    match outcome.verdict:
        case Judgement.VERIFIED:
            if action.to == "0":
                record.slept(rule, at=at)
            else:
                record.good(rule, falls=falls, at=at)
        case Judgement.REGRESSED if outcome.reason == WOKEN:
            record.woke(rule, at=at)
        case Judgement.REGRESSED:
            record.bad(rule, falls=falls, rest=rest, why=why, at=at)
        case Judgement.UNKNOWN:
            record.unclear(rule, falls=falls, stood_at=int(action.from_), rest=rest, why=why, at=at)
    if outcome.rests_until is not None:
        # As it was told, whatever cooldown and verify window are by now.
        record.rests_until = UnixTime(outcome.rests_until.unix)


def hold(work: Work) -> None:
    """Keep rests and rollbacks, after policy and before anything is carried out."""
    for service in work.services:
        for target in service.targets:
            if service.problem is None and target.problem is None:
                _rest(target, now=work.at)
                _give_back(target, now=work.at)


def _rest(target: TargetWork, *, now: UnixTime) -> None:
    """Take nothing away while the workload rests. What is not followed of a fall of before is taken back."""
    record, facts = target.memory.record, target.facts
    left = record.resting(now=now)
    if left <= 0.0 or facts is None:
        return
    target.harmed = record.why if record.row else ""
    current = facts.desired_replicas
    if target.clamped is not None and target.clamped.value < current:
        reason = LimitReason(Limit.COOLDOWN, f"it rests for {left:.0f} s more: {record.why}")
        target.clamped = Clamped(value=current, reasons=(reason, *target.clamped.reasons))
    if target.order is not None and target.order < current:
        most = target.limits.maximum if target.limits is not None else current
        target.order = min(current, most)
    if target.target.scaling.actuation is Actuation.FLOOR and facts.scaler is not None and facts.scaler.held:
        target.restore = max(target.restore or 0, facts.scaler.min_replicas)


def _give_back(target: TargetWork, *, now: UnixTime) -> None:
    """Order again what is given back, until the workload has it."""
    rollback, facts = target.memory.rollback, target.facts
    if rollback is None or facts is None:
        return
    if now >= rollback.until or facts.desired_replicas >= rollback.replicas:
        target.memory.rollback = None
    elif target.order is not None:
        wanted = _within(rollback.replicas, target)
        target.order = max(target.order, wanted)
        target.restore = max(target.restore or 0, wanted)


def _within(replicas: int, target: TargetWork) -> int:
    return min(replicas, target.limits.maximum) if target.limits is not None else replicas


def restored(target: TargetWork, replicas: int) -> int:
    """Return the last verified count, no more than the maximum allows."""
    return _within(target.memory.record.restored(replicas), target)


def start_rollback(target: TargetWork, replicas: int, *, within: Seconds, now: UnixTime) -> None:
    """Let a rollback stand until it is followed, or until nobody waits for it any more."""
    target.memory.rollback = Rollback(replicas, UnixTime(now + within))


def marked(target: TargetWork, proposal: Proposal, *, now: UnixTime) -> Proposal:
    """Return a proposal with the trust that its rule has earned, and with what happened."""
    if proposal.type is not RecommendationType.REPLICAS:
        return proposal
    record, rule = target.memory.record, trials.rule_name(proposal.direction, proposal.reason)
    past = record.of(rule)
    left = record.resting(now=now) if proposal.direction is Direction.SCALE_DOWN else Seconds(0.0)
    if not (past.good or past.bad or past.unclear or left):
        return proposal
    message = record.why if left else ""
    told = Past(
        verified=round(past.good),
        regressed=round(past.bad),
        unclear=past.unclear,
        message=message,
        rests_until=record.rests_until if left else None,
    )
    risk = f"{proposal.risk} {message}".strip() if message else proposal.risk
    confidence: Ratio = record.confidence(rule, proposal.confidence)
    return dataclasses.replace(proposal, confidence=confidence, past=told, risk=risk)
