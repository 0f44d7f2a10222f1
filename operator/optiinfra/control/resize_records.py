"""What is written down of resizes: their records in the status, and their actions with what they came to.

A record says where a resize stands, so that a new leader goes on from there; an action is its story for people, under
one id in the status, in Events and in the log. What is told is kept until a status has it. Nothing is sent here.
"""

import logging
from collections.abc import Sequence
from typing import Final

from optiinfra import metrics
from optiinfra.api.identity import action_id
from optiinfra.api.scalars import Time
from optiinfra.api.status_actions import judged
from optiinfra.api.status_from import cut
from optiinfra.api.v1alpha1.action_status import ActionState, ActionStatus, Judgement
from optiinfra.api.v1alpha1.status_parts import MAX_RESIZES, RecommendationStatus, ResizeState, ResizeStatus
from optiinfra.cluster import rehearsal
from optiinfra.cluster.resize import PodSize, Wish
from optiinfra.control import trials
from optiinfra.control.work import ServiceWork, TargetWork
from optiinfra.domain.evidence import InPlace, Proposal, RecommendationType
from optiinfra.domain.units import UnixTime
from optiinfra.domain.verification import Verdict

_LOG = logging.getLogger(__name__)
_NOTHING: Final = UnixTime(0.0)


def offered(service: ServiceWork, target: TargetWork) -> list[tuple[Proposal, RecommendationStatus]]:
    """Return proposals of sizes that the status shows already, each with its id, in the order of the status."""
    made = {(one.setting, one.current, one.proposed, one.subject): one for one in target.proposals if one.in_place}
    found = []
    for item in service.obj.status.recommendations:
        proposal = made.get((item.setting, item.current, item.proposed, item.subject))
        if item.type is RecommendationType.RESOURCES and proposal is not None:
            found.append((proposal, item))
    return found


def records_of(service: ServiceWork, target: TargetWork) -> list[ResizeStatus]:
    """Return the records of one target: with several targets the subject begins with its name."""
    if len(service.targets) == 1:
        return list(service.resizes)
    return [one for one in service.resizes if one.subject.startswith(f"{target.target.name}/")]


def new_record(item: RecommendationStatus, change: InPlace, *, revision: str, now: UnixTime) -> ResizeStatus:
    """Return the record of a resize that begins now."""
    return ResizeStatus(
        id=item.id,
        subject=item.subject,
        setting=item.setting,
        from_=size_text(change.old_request, change.old_limit),
        to=size_text(change.request, change.limit),
        state=ResizeState.RESIZING,
        reason="Begun",
        revision=revision,
        at=Time.of(now),
        patch=item.patch,
    )


def size_text(request: str, limit: str) -> str:
    """Write a size: "500m", or "request 500m, limit 1" where the limit changes too."""
    if not limit:
        return request
    return f"request {request}, limit {limit}" if request else f"limit {limit}"


def written(pod: PodSize, wish: Wish) -> str:
    """Return the size that a pod has now, of what a wish would change."""
    container = pod.containers.get(wish.container)
    if container is None:
        return ""
    request = container.requests.get(wish.resource, "") if wish.request else ""
    return size_text(request, container.limits.get(wish.resource, "") if wish.limit else "")


def put(service: ServiceWork, record: ResizeStatus, *, now: UnixTime, state: ResizeState, **changes: object) -> None:
    """Write down where a resize stands; the time is that of the state."""
    before = next((one for one in service.resizes if one.id == record.id), None)
    message = cut(str(changes.pop("message", "")), 1024)
    at = before.at if before is not None and before.state is state else Time.of(now)
    known = before or record
    fresh = known.model_copy(update={"state": state, "message": message, "at": at, **changes})
    if (before is None or before.state is not state) and rehearsal.current() is None:
        metrics.ACTIONS.labels("Resize", str(state).lower()).inc()
        extra = {"object": str(service.key), "setting": record.setting, "state": str(state), "why": message}
        _LOG.info("resize of running pods", extra=extra)
    others = [one for one in service.resizes if one.id != record.id]
    service.resizes = (*_kept(others), fresh)


def _kept(records: Sequence[ResizeStatus]) -> list[ResizeStatus]:
    """Leave room for one more: what ended goes first, then what is oldest."""
    order = sorted(records, key=lambda one: (one.state not in (ResizeState.ENDED, ResizeState.REFUSED), one.at.unix))
    kept = order[max(0, len(order) - MAX_RESIZES + 1) :]
    return [one for one in records if one in kept]


def action_of(service: ServiceWork, recommendation: str) -> ActionStatus | None:
    """Return the action of a resize as it was told last; None where it was never told."""
    identifier = action_id(recommendation=recommendation, started=_NOTHING)
    told = (*service.obj.status.actions, *service.memory.untold.values(), *service.actions)
    return next((one for one in reversed(told) if one.id == identifier), None)


def act(
    service: ServiceWork, record: ResizeStatus, state: ActionState, message: str, *, now: UnixTime, **more: object
) -> ActionStatus:
    """Tell the action of a resize; its id is that of the recommendation's only application."""
    action = action_of(service, record.id) or ActionStatus(
        id=action_id(recommendation=record.id, started=_NOTHING),
        recommendation_id=record.id,
        type=RecommendationType.RESOURCES,
        subject=record.subject,
        state=state,
        from_=record.from_,
        to=record.to,
        at=Time.of(now),
    )
    told_now = {"state": state, "from_": record.from_, "to": record.to, "at": Time.of(now)}
    action = action.model_copy(update=told_now | {"message": cut(message, 1024)} | more)
    if rehearsal.current() is None:
        trials.note(service, action)
    else:
        service.actions.append(action)
    return action


def tell(
    service: ServiceWork, record: ResizeStatus, verdict: Verdict, state: ActionState, message: str, *, now: UnixTime
) -> None:
    """Tell what a resize came to, with what it rests on."""
    judgement = Judgement(str(verdict.outcome))
    action = act(service, record, state, message, now=now)
    told = judged(action, verdict, judgement=judgement, state=state, message=message, rests_until=None, at=now)
    act(service, record, state, message, now=now, outcome=told.outcome)
    _LOG.info(
        "action judged",
        extra={
            "object": str(service.key),
            "target": record.subject,
            "action": action.id,
            "state": str(state),
            "verdict": str(judgement),
            "reason": verdict.reason,
            "why": verdict.message,
            "control": verdict.control,
        },
    )
