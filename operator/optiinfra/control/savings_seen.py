"""What a round saw, in the words of the savings ledger: workloads with who changed them, nodes with who removed them.

Pure. A workload without any pod and without books of before is not looked at yet: its size would be a guess. Who made
a change is said as far as it can be proven: an action that ordered it, a recommendation that asked for it, the scaler
that drives the workload; everything else was others.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeAlias

from optiinfra.api.v1alpha1 import ClusterResourceOptimization
from optiinfra.api.v1alpha1.action_status import ActionState, ActionStatus
from optiinfra.api.v1alpha1.scaling import Actuation
from optiinfra.api.v1alpha1.status_parts import RecommendationStatus
from optiinfra.cluster.errors import Malformed
from optiinfra.cluster.quantities import quantity
from optiinfra.control.actuation import wants_to_act
from optiinfra.control.prices import object_prices
from optiinfra.control.report import merge_actions
from optiinfra.control.work import ServiceWork, TargetWork
from optiinfra.domain import groups
from optiinfra.domain.evidence import RecommendationType
from optiinfra.domain.node_market import market_of
from optiinfra.domain.prices import NodePrice, Terms
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.savings.account import NOT_FOLLOWING, Account, TargetSeen
from optiinfra.domain.savings.amounts import NOTHING, Capacity
from optiinfra.domain.savings.booking import BY_OTHERS, Maker
from optiinfra.domain.savings.entries import NOWHERE, Axis, Cause, Place
from optiinfra.domain.savings.nodes import Departure, NodeBooks, Shape, like
from optiinfra.domain.savings.reference import plain_hpa_replicas
from optiinfra.domain.scaler.variant import CapacityType
from optiinfra.domain.scaling import ScalingDecision
from optiinfra.domain.workload import NodeFacts, PodFacts, WorkloadFacts

GIB: Final = 2.0**30
Held: TypeAlias = tuple[tuple[PodFacts, ...], Capacity]
_DIGITS: Final = 6
"""As the status keeps them: a size that was rounded there must not look like a change after a restart."""
_SETTING: Final = re.compile(r"containers\[([^\]]+)\]\.(?:requests|limits)\.(cpu|memory|nvidia\.com/gpu)")
_AXES: Final = {"cpu": Axis.CPU, "memory": Axis.MEMORY, "nvidia.com/gpu": Axis.GPUS}
_DONE: Final = frozenset({ActionState.APPLIED, ActionState.VERIFIED, ActionState.ROLLED_BACK})
_NEAR: Final = 0.05


def target_seen(
    service: ServiceWork, target: TargetWork, nodes: Mapping[str, NodeFacts], before: Account | None
) -> TargetSeen | None:
    """Return one workload as the ledger sees it; None where it could not be observed."""
    facts = target.facts
    if facts is None:
        return None
    pods = _newest(facts)
    if not pods and before is None:
        return None
    size = _size(pods, before)
    actions = _actions(service, target)
    follows = _follows(service, target, facts)
    return TargetSeen(
        target=target.target.name,
        uid=facts.uid,
        generation=facts.generation,
        replicas=facts.desired_replicas,
        size=size,
        held=total([pod for pod in facts.pods if pod.node]),
        place=_place(facts, nodes, size=size) or _last_place(before),
        replicas_by=_replicas_by(service, target, facts, actions, before, follows=follows),
        size_by={} if before is None else _size_by(service, pods, before, size),
        verified=frozenset(action.id for action in actions if action.state is ActionState.VERIFIED),
        reference=_reference(target) if follows else NOT_FOLLOWING,
        reference_by=actions[-1].id if actions else "",
        follows=follows,
    )


def total(pods: Sequence[PodFacts]) -> Capacity:
    """Sum up what pods ask for."""
    return Capacity(
        round(sum(pod.gpus for pod in pods), _DIGITS),
        round(sum(pod.cpu_request_cores for pod in pods), _DIGITS),
        round(sum(pod.memory_request_bytes for pod in pods) / GIB, _DIGITS),
    )


def _size(pods: Sequence[PodFacts], before: Account | None) -> Capacity:
    size = total(pods)
    if before is None:
        return size
    if not pods:
        return before.size
    # Shares of a GPU (time-slicing, MPS, fractions of other schedulers) are other resources: who asked for GPUs and
    # asks for none of them now may still sit on one. What cannot be seen is not claimed.
    return replace(size, gpus=before.size.gpus) if size.gpus == 0.0 else size


def _newest(facts: WorkloadFacts) -> Sequence[PodFacts]:
    """The pods of the newest replica: it is made from the template of now."""
    living = [pod for pod in facts.pods if not pod.terminating]
    if not living:
        return ()
    newest = max(living, key=lambda pod: (pod.created, pod.name))
    if facts.kind != groups.KIND:
        return (newest,)
    group = groups.group_of(newest.name, workload=facts.name)[0]
    return [pod for pod in living if groups.group_of(pod.name, workload=facts.name)[0] == group]


def _place(facts: WorkloadFacts, nodes: Mapping[str, NodeFacts], *, size: Capacity) -> Place | None:
    """Where most of its pods are."""
    counts: dict[Place, int] = {}
    for pod in facts.pods:
        node = nodes.get(pod.node)
        if node is not None:
            place = Place(node.pool, node.gpu_model if size.gpus > 0.0 else "")
            counts[place] = counts.get(place, 0) + 1
    return max(counts, key=lambda place: (counts[place], place)) if counts else None


def _last_place(before: Account | None) -> Place:
    return next((entry.place for entry in reversed(before.entries)), NOWHERE) if before is not None else NOWHERE


def _actions(service: ServiceWork, target: TargetWork) -> list[ActionStatus]:
    known = merge_actions(service.obj.status.actions, service.actions)
    return [
        action
        for action in known
        if action.type is RecommendationType.REPLICAS and action.subject == target.target.name and action.state in _DONE
    ]


def _follows(service: ServiceWork, target: TargetWork, facts: WorkloadFacts) -> bool:
    """Tell whether the workload's scaler follows our count. A floor is none: the HPA goes on deciding by itself."""
    if target.target.scaling.actuation is Actuation.FLOOR or facts.scaler is None or service.dry_run:
        return False
    heard = target.effect is not None and target.effect.effective is not False
    return target.memory.ordered is not None and wants_to_act(service) and heard


def _reference(target: TargetWork) -> Value:
    decision = target.decision
    if not isinstance(decision, ScalingDecision):
        why = decision.detail if isinstance(decision, Unknown) else "there is no decision"
        return Unknown(UnknownReason.NOT_MEASURED, f"no plain HPA to compare with: {why}")
    return plain_hpa_replicas(target.memory.scaler)


def _replicas_by(
    service: ServiceWork,
    target: TargetWork,
    facts: WorkloadFacts,
    actions: Sequence[ActionStatus],
    before: Account | None,
    *,
    follows: bool,
) -> Maker:
    was, now = (facts.desired_replicas if before is None else before.replicas), facts.desired_replicas
    if was == now:
        return BY_OTHERS
    if follows and facts.scaler is not None:
        return Maker(Cause.SCALER, facts.scaler.name)
    if actions and _ordered(actions[-1], target, was=was, now=now):
        return Maker(Cause.ACTION, actions[-1].id, rollback=actions[-1].state is ActionState.ROLLED_BACK)
    if facts.scaler is not None:
        return Maker(Cause.SCALER, facts.scaler.name)
    for item in service.obj.status.recommendations:
        if (
            item.type is RecommendationType.REPLICAS
            and item.subject in {"", target.target.name}
            and item.proposed == str(now)
        ):
            return Maker(Cause.ADOPTED, item.id)
    return BY_OTHERS


def _ordered(action: ActionStatus, target: TargetWork, *, was: int, now: int) -> bool:
    """Tell whether a change is the action's, or a step on its way: scalers take several."""
    if not (action.to.isdecimal() and action.from_.isdecimal()) or target.memory.ordered is None:
        return False
    wanted = int(action.from_ if action.state is ActionState.ROLLED_BACK else action.to)
    return (wanted - was) * (now - was) > 0 and min(was, wanted) <= now <= max(was, wanted)


def _size_by(service: ServiceWork, pods: Sequence[PodFacts], before: Account, size: Capacity) -> dict[Axis, Maker]:
    """By axis: the recommendation that a new size follows. What nobody recommended was others."""
    moved = {
        Axis.GPUS: size.gpus != before.size.gpus,
        Axis.CPU: size.cpu_cores != before.size.cpu_cores,
        Axis.MEMORY: size.memory_gib != before.size.memory_gib,
    }
    if not any(moved.values()):
        return {}
    found: dict[Axis, Maker] = {}
    for item in service.obj.status.recommendations:
        setting = _SETTING.fullmatch(item.setting)
        axis = _AXES[setting[2]] if setting is not None else None
        if setting is None or axis is None or not moved[axis] or axis in found:
            continue
        if _followed(item, setting[1], axis, pods, less=_less(axis, size, before)):
            found[axis] = Maker(Cause.ADOPTED, item.id)
    return found


def _less(axis: Axis, size: Capacity, before: Account) -> bool:
    return {
        Axis.GPUS: size.gpus < before.size.gpus,
        Axis.CPU: size.cpu_cores < before.size.cpu_cores,
        Axis.MEMORY: size.memory_gib < before.size.memory_gib,
    }[axis]


def _followed(item: RecommendationStatus, container: str, axis: Axis, pods: Sequence[PodFacts], *, less: bool) -> bool:
    if axis is Axis.GPUS:
        # Shares are proposed in words ("1 x nvidia.com/mig-1g.10gb"): fewer GPUs is what they have in common.
        return less
    try:
        lower, upper = quantity(item.lower), quantity(item.upper)
    except Malformed:
        return False
    for pod in pods:
        for one in pod.containers:
            asked = one.cpu_request_cores if axis is Axis.CPU else one.memory_request_bytes
            if one.name == container and not isinstance(asked, Unknown):
                return lower * (1.0 - _NEAR) <= asked <= upper * (1.0 + _NEAR)
    return False


# nodes


def shape_of(node: NodeFacts) -> Shape:
    """Return what a node is counted as."""
    return Shape(
        place=Place(node.pool, node.gpu_model if node.gpus > 0.0 else ""),
        gpus=round(node.gpus, 2),
        cpu_cores=round(node.cpu_cores, 1),
        memory_gib=float(round(node.memory_bytes / GIB)),
        spot=market_of(node.labels).capacity is CapacityType.SPOT,
    )


def shapes_of(nodes: Mapping[str, NodeFacts], *, before: Mapping[str, Shape], books: NodeBooks) -> dict[str, Shape]:
    """Return what each node is counted as. One that is still there stays what it was, or turns out to be more.

    Its GPUs vanish from the API while a device plugin restarts, and nobody pays less for it.
    """
    known = {*books.counts, *(entry.shape for entry in books.entries)}
    found: dict[str, Shape] = {}
    for name, node in nodes.items():
        shape, was = shape_of(node), before.get(name)
        if was is not None and _same(was, shape):
            shape = was
        elif shape not in known:
            shape = like(shape, known)
            known.add(shape)
        found[name] = shape
    return found


def _same(was: Shape, now: Shape) -> bool:
    labels = was.place.gpu_model if was.gpus > 0.0 and not now.place.gpu_model else now.place.gpu_model
    return (was.spot, was.place) == (now.spot, Place(now.place.pool, labels)) and now.gpus <= was.gpus


def relabelled(before: Mapping[str, Shape], now: Mapping[str, Shape]) -> tuple[tuple[Shape, Shape], ...]:
    """Return the shapes of nodes that are still there and are counted as something else now."""
    return tuple((before[name], shape) for name, shape in now.items() if name in before and before[name] != shape)


def prices_of_shapes(
    shapes: Mapping[str, Shape], prices: Mapping[str, NodePrice], *, marginal: bool
) -> dict[Shape, float]:
    """Return the mean price an hour of each shape, of the nodes that have one."""
    sums: dict[Shape, tuple[float, int]] = {}
    for name, shape in shapes.items():
        price = prices.get(name)
        hour = None if price is None else (price.marginal_hour if marginal else price.hour)
        if hour is None or isinstance(hour, Unknown):
            continue
        so_far, count = sums.get(shape, (0.0, 0))
        sums[shape] = so_far + hour, count + 1
    return {shape: so_far / count for shape, (so_far, count) in sums.items()}


def allocated(
    nodes: Mapping[str, NodeFacts], shapes: Mapping[str, Shape], known: dict[str, Held]
) -> dict[Place, Capacity]:
    """Sum up what pods hold, by place; `known` is what was found the last time, and is brought up to date."""
    sums: dict[Place, Capacity] = {}
    for name in [name for name in known if name not in nodes]:
        del known[name]
    for name, node in nodes.items():
        before = known.get(name)
        if before is None or before[0] is not node.pods:
            known[name] = before = node.pods, total(node.pods)
        place = shapes[name].place
        sums[place] = sums.get(place, NOTHING) + before[1]
    return sums


def departures(
    before: Mapping[str, Shape], now: Mapping[str, Shape], cluster: ClusterResourceOptimization
) -> dict[Shape, list[Departure]]:
    """Name the nodes that went since the last look, and the recommendation that said so where one stands."""
    asked = {
        item.subject: item.id
        for item in cluster.status.recommendations
        if item.type is RecommendationType.CONSOLIDATION
    }
    gone: dict[Shape, list[Departure]] = {}
    for name in sorted(before.keys() - now.keys()):
        cause = Cause.ADOPTED if name in asked else Cause.OTHERS
        gone.setdefault(before[name], []).append(Departure(name, cause, asked.get(name, "")))
    return gone


def terms_of(shapes: Mapping[str, Shape], cluster: ClusterResourceOptimization) -> dict[Place, Terms]:
    """Return on what terms the nodes of each place are bought."""
    by_pool = object_prices(cluster.spec)
    return {shape.place: by_pool.get(shape.place.pool, by_pool[""]).terms for shape in set(shapes.values())}
