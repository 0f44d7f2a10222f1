"""The round's fourth step: carry out the orders, object by object, and note each change as an action.

Skipped as a whole when no object may act. What was written is verified by monitor in later rounds.
"""

import asyncio
from collections.abc import Sequence

from optiinfra.api.identity import action_id, recommendation_id
from optiinfra.api.v1alpha1.common import Mode
from optiinfra.api.v1alpha1.scaling import Actuation
from optiinfra.control import approvals, trials
from optiinfra.control.actuation import Actuator
from optiinfra.control.isolation import isolated
from optiinfra.control.latecomers import NextStep, apart, leave
from optiinfra.control.rehearse import answer_previews, rehearse
from optiinfra.control.resize import Resizer
from optiinfra.control.work import ServiceWork, TargetWork, Work
from optiinfra.domain.evidence import Direction, Proposal, RecommendationType
from optiinfra.domain.scaling import ScalingDecision
from optiinfra.domain.units import UnixTime

_CONCURRENCY = 8


def wants_execution(work: Work, actuator: Actuator, resizer: Resizer) -> bool:
    """Tell whether anything is to be published, written, withdrawn or released in this round."""
    if work.previews:
        return True
    for service in work.services:
        if service.dry_run or resizer.wanted(service):
            return True
        for target in service.targets:
            if target.order is not None or target.memory.ordered is not None:
                return True
            if any(scaler.held or scaler.owned_by_us for scaler in target.scalers):
                return True
            if actuator.board.get(service.key.namespace, service.key.name) is not None:
                return True
    return False


async def execute(work: Work, actuator: Actuator, resizer: Resizer, *, then: Sequence[NextStep[Work]] = ()) -> Work:
    """Carry out every order of the round; of objects in a dry run, write down what would have been done.

    An object whose calls take long leaves the round, and goes through the steps `then` by itself.
    """

    async def one(service: ServiceWork, target: TargetWork) -> None:
        with isolated(service, step="execute"):
            await actuator.carry_out(service, target)
            _note(service, target, now=work.at)

    async def all_of(service: ServiceWork) -> None:
        if service.dry_run:
            await rehearse(service, actuator, resizer, preview=service.key in work.previews, now=work.at)
            return
        async with asyncio.TaskGroup() as group:
            for target in service.targets:
                group.create_task(one(service, target))
        # After the counts: what those have just begun holds a resize back.
        if service.problem is None and resizer.wanted(service):
            with isolated(service, step="execute"):
                await resizer.carry_out(service, now=work.at)

    async def answered(own: Work) -> Work:
        answer_previews(own)
        return own

    late = await apart(work.services, all_of, at_once=_CONCURRENCY, alone=work.alone)
    leave(work, [(service.key, task) for service, task in late], step="execute", then=(answered, *then))
    return await answered(work)


def _note(service: ServiceWork, target: TargetWork, *, now: UnixTime) -> None:
    """Record a change of the ordered count as an action, and start its trial."""
    memory, order = target.memory, target.order
    failed = target.effect is not None and target.effect.effective is False
    if order is None or failed:
        memory.ordered = None if order is None else memory.ordered
        return
    decision, facts = target.decision, target.facts
    if memory.ordered == order or facts is None or not isinstance(decision, ScalingDecision):
        memory.ordered = order
        return
    before = facts.desired_replicas
    memory.ordered, memory.ordered_at = order, now
    if order == before:
        return
    direction = Direction.SCALE_UP if order > before else Direction.SCALE_DOWN
    recommendation = _recommendation(service, target, order=order, before=before, direction=direction, now=now)
    identifier = action_id(recommendation=recommendation, started=now)
    trials.begin(
        service, target, identifier=identifier, recommendation=recommendation, before=before, order=order, now=now
    )


def _recommendation(
    service: ServiceWork, target: TargetWork, *, order: int, before: int, direction: Direction, now: UnixTime
) -> str:
    if service.settings.mode_for(direction) is Mode.APPROVE:
        approval = approvals.covering(service, target, before, order)
        if approval is not None:
            return approval.id
    assert isinstance(target.decision, ScalingDecision)
    assert target.facts is not None
    proposal = Proposal(
        type=RecommendationType.REPLICAS,
        reason=str(target.decision.rule),
        message="",
        setting="replicas" if target.target.scaling.actuation is not Actuation.FLOOR else "minReplicas",
        current=str(before),
        proposed=str(order),
        lower=str(order),
        upper=str(order),
        direction=direction,
        confidence=target.decision.confidence,
        evidence=(),
        subject=target.target.name,
    )
    return recommendation_id(
        object_uid=service.obj.metadata.uid, target_uid=target.facts.uid, proposal=proposal, issued=now
    )
