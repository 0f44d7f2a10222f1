"""A dry run: what the round would do about one object, worked out by the same code and written down instead of done.

The actuator of the rehearsal is a copy with a board of its own, and works on copies of the object's work, so that
nothing of it is remembered afterwards; the requests that it would send are caught at the client
(`optiinfra.cluster.rehearsal`). Nothing is published either: what really stands on the board is taken back.
"""

import copy
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, TypeVar

from optiinfra.api.reasons import Reason
from optiinfra.api.scalars import Time
from optiinfra.api.status_from import cut
from optiinfra.api.v1alpha1.status_parts import (
    MAX_BODY,
    MAX_REHEARSED,
    MAX_TARGETS,
    DryRunStatus,
    RehearsedCount,
    RehearsedWrite,
)
from optiinfra.cluster.rehearsal import rehearsing
from optiinfra.control.actuation import Actuator, published_name
from optiinfra.control.decisions import DecisionBoard
from optiinfra.control.isolation import isolated
from optiinfra.control.keys import ObjectKey
from optiinfra.control.resize import Resizer
from optiinfra.control.work import Effect, Rehearsed, RehearsedTarget, ServiceWork, TargetWork, Work
from optiinfra.domain.readings import Unknown
from optiinfra.domain.scaling import ScalingDecision
from optiinfra.domain.units import UnixTime

T = TypeVar("T")


@dataclass(slots=True)
class RehearsalBoard(DecisionBoard):
    """Takes decisions down and publishes none."""

    taken: dict[str, int] = field(default_factory=dict)

    def publish(self, namespace: str, name: str, *, replicas: int, lifetime: float) -> None:  # noqa: ARG002  as above
        """Note what would be published."""
        self.taken[name] = replicas

    def withdraw(self, namespace: str, name: str) -> None:  # noqa: ARG002  as above
        """Note that nothing would be published."""
        self.taken.pop(name, None)


async def rehearse(service: ServiceWork, actuator: Actuator, resizer: Resizer, *, preview: bool, now: UnixTime) -> None:
    """Fill in `rehearsed` and the effects of a service in a dry run.

    A preview is asked for by somebody and leaves all as it is. With the annotation the object is in a dry run until
    further notice, and what it published before is taken back.
    """
    board = RehearsalBoard(actuator.board.clock)
    stand_in = _apart(actuator)
    stand_in.board = board
    told: list[RehearsedTarget] = []
    with rehearsing() as rehearsal, isolated(service, step="execute"):
        for target in service.targets:
            if not preview:
                actuator.board.withdraw(service.key.namespace, published_name(service, target))
                target.memory.ordered = None
            there, its = copy.copy(service), copy.copy(target)
            there.actions = list(service.actions)
            await stand_in.carry_out(there, its)
            told.append(_told(target, its.effect))
            count = len(rehearsal.writes) + rehearsal.more
            text = f"dry run: {count} requests would have been sent so far; nothing was done"
            target.effect = Effect(effective=None, reason=Reason.DRY_RUN, message=text)
        there = copy.copy(service)
        there.actions, there.targets = [], [copy.copy(target) for target in service.targets]
        for target in there.targets:
            target.memory = copy.copy(target.memory)
        await resizer.carry_out(there, now=now)
    service.rehearsed = Rehearsed(
        writes=tuple(rehearsal.writes),
        more=rehearsal.more,
        published=tuple(sorted(board.taken.items())),
        targets=tuple(told),
        problem="" if service.problem is None else service.problem.message or str(service.problem.reason),
    )


def to_status(rehearsed: Rehearsed, *, now: UnixTime) -> DryRunStatus:
    """Write what a dry run came to; the HTTP API has all of it, the status the first requests."""
    shown = rehearsed.writes[:MAX_REHEARSED]
    return DryRunStatus(
        at=Time.of(now),
        writes=tuple(
            RehearsedWrite(
                method=one.method,
                path=cut(one.path, 1024),
                content_type=cut(one.content_type, 64),
                field_manager=cut(one.field_manager, 64),
                body=cut(one.body, MAX_BODY),
            )
            for one in shown
        ),
        more=rehearsed.more + len(rehearsed.writes) - len(shown),
        published=tuple(RehearsedCount(name=cut(name, 253), replicas=count) for name, count in rehearsed.published)[
            :MAX_TARGETS
        ],
    )


def answer_previews(work: Work) -> None:
    """Answer those who asked what would be done, and take their objects out of the round: nothing is reported."""
    for service in work.services:
        _answer(work, service.key, service.rehearsed or Rehearsed(problem="it was not worked out"))
    work.services = [service for service in work.services if service.key not in work.previews]
    for broken in work.broken:
        _answer(work, broken.key, Rehearsed(problem=f"{broken.broken.field}: {broken.broken.remedy}"))
    for cluster in work.clusters:  # it advises; nothing is ever written for it
        _answer(work, cluster.key, Rehearsed())
    for key in work.gone:
        _answer(work, key, Rehearsed(problem="the object is gone"))
    work.broken = [one for one in work.broken if one.key not in work.previews]
    work.clusters = [one for one in work.clusters if one.key not in work.previews]


def _answer(work: Work, key: ObjectKey, rehearsed: Rehearsed) -> None:
    future = work.previews.get(key)
    if future is not None and not future.done():
        future.set_result(rehearsed)


def _told(target: TargetWork, effect: Effect | None) -> RehearsedTarget:
    decision = target.decision
    if effect is not None:
        reason, message = str(effect.reason), effect.message
    elif target.problem is not None:
        reason, message = str(target.problem.reason), target.problem.message
    elif isinstance(decision, ScalingDecision):
        reason, message = str(decision.rule), decision.message
    elif isinstance(decision, Unknown):
        reason, message = str(decision.reason), decision.detail
    else:
        reason, message = str(Reason.NOT_YET_ANALYZED), ""
    current = None if target.facts is None else target.facts.desired_replicas
    return RehearsedTarget(target.target.name, current, target.order, reason, message[:1024])


def _apart(thing: T) -> T:
    """Copy a part together with what it remembers, so that what happens to the copy happens to nothing else."""
    twin = copy.copy(thing)
    if not is_dataclass(twin):
        return twin
    for one in fields(twin):
        value: Any = getattr(twin, one.name)
        if isinstance(value, dict):
            setattr(twin, one.name, copy.deepcopy(value))
        elif isinstance(value, list | set):
            setattr(twin, one.name, copy.copy(value))
        elif is_dataclass(value) and not value.__dataclass_params__.frozen:  # type: ignore[union-attr]  # has them
            setattr(twin, one.name, _apart(value))
    return twin
