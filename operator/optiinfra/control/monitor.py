"""The round's fifth step: what became of earlier actions, and whether decisions have an effect at all.

An action is watched for its verify window. A fall that did harm is rolled back to the last count that was verified; a
rise is judged but never undone for harm; what cannot be judged is held as it stands. Then decided is compared with
running, so that "inert but green" cannot happen: a decision nobody follows says so, with the reason.
"""

from collections.abc import Sequence

from optiinfra.api.v1alpha1.common import Mode
from optiinfra.control import track, trials
from optiinfra.control.actuation import Actuator, wants_to_act
from optiinfra.control.effect import PATIENCE, effect_of
from optiinfra.control.isolation import isolated
from optiinfra.control.latecomers import NextStep, apart, leave
from optiinfra.control.memory import Trial
from optiinfra.control.plan import last_word
from optiinfra.control.work import ServiceWork, TargetWork, Work
from optiinfra.domain.policy import Axis
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.domain.verification import Outcome, Verdict
from optiinfra.domain.workload import NodeFacts

_CONCURRENCY = 8


async def monitor(
    work: Work, actuator: Actuator, *, patience: Seconds = PATIENCE, then: Sequence[NextStep[Work]] = ()
) -> Work:
    """Judge trials, roll back what did harm, and say whether decisions are followed.

    An object whose rollback takes long leaves the round, and goes through the steps `then` by itself.
    """
    nodes = dict(work.nodes)

    async def one(service: ServiceWork) -> None:
        with isolated(service, step="monitor"):
            await _monitor(service, actuator, nodes, now=work.at, patience=patience)

    on_trial: list[ServiceWork] = []
    for service in work.services:
        if any(target.memory.trial is not None for target in service.targets):
            on_trial.append(service)
        else:
            await one(service)  # it calls nobody
    late = await apart(on_trial, one, at_once=_CONCURRENCY, alone=work.alone)
    leave(work, [(service.key, task) for service, task in late], step="monitor", then=then)
    return work


async def _monitor(
    service: ServiceWork, actuator: Actuator, nodes: dict[str, NodeFacts], *, now: UnixTime, patience: Seconds
) -> None:
    if wants_to_act(service) or service.settings.modes.resize is not Mode.RECOMMEND:
        # All trails first: one variant's windows are the control of another's.
        for target in service.targets:
            trials.observe(target)
    for target in service.targets:
        trial = target.memory.trial
        if trial is not None and target.facts is not None and not service.dry_run:
            await _judge(service, target, trial, actuator, nodes, now=now)
        if target.effect is None:
            target.effect = effect_of(service, target, now=now, patience=patience)


async def _judge(
    service: ServiceWork,
    target: TargetWork,
    trial: Trial,
    actuator: Actuator,
    nodes: dict[str, NodeFacts],
    *,
    now: UnixTime,
) -> None:
    if trial.started == now:
        return  # ordered in this very round: nothing lies after it
    verdict = trials.look(service, target, trial, nodes, now=now)
    if verdict.outcome is Outcome.TOO_EARLY:
        return
    if verdict.roll_back and service.settings.policy.rollback and wants_to_act(service):
        if target.order is not None:
            await _roll_back(service, target, trial, verdict, actuator, now=now)
            return
        if now - trial.started < trial.expectation.ready_within + trial.expectation.verify_window:
            return  # nothing may be ordered in this round (unsure, kill switch); the next one may
    trials.conclude(service, target, trial, verdict, now=now)


async def _roll_back(
    service: ServiceWork, target: TargetWork, trial: Trial, verdict: Verdict, actuator: Actuator, *, now: UnixTime
) -> None:
    """Order the last verified count, and end the trial."""
    assert target.order is not None
    # The order of this round gives way: what did harm is undone first, and decided anew afterwards.
    wanted = max(target.order, last_word(target, track.restored(target, trial.expectation.from_replicas)))
    target.order = target.restore = wanted
    await actuator.carry_out(service, target)
    target.memory.ordered, target.memory.ordered_at = wanted, now
    target.memory.policy = target.memory.policy.changed(Axis.SCALE_UP, at=now, in_flight="")
    stands = Seconds(trial.expectation.ready_within + trial.expectation.verify_window)
    track.start_rollback(target, wanted, within=stands, now=now)
    trials.conclude(service, target, trial, verdict, given_back=wanted, now=now)
