"""The drain plan as the status of a ClusterResourceOptimization: bounded, and a list that can be followed from the top.

Only whole nodes are listed: a node whose moves do not fit ends the list, because half of a node's moves free nothing.
"""

from collections import defaultdict

from optiinfra.api.scalars import Time
from optiinfra.api.status_from import cut, round_number, to_measured
from optiinfra.api.v1alpha1.consolidation_status import (
    MAX_HELD,
    MAX_PLANNED_NODES,
    MAX_STEPS,
    ConsolidationStatus,
    HeldNodes,
    PackingStatus,
    PlannedNode,
    PlannedStep,
)
from optiinfra.control.work import ClusterWork
from optiinfra.domain.consolidation import ConsolidationPlan, FreedNode, Move, NodeRefusal
from optiinfra.domain.consolidation.scheduling import Habit
from optiinfra.domain.evidence import RecommendationType
from optiinfra.domain.readings import Unknown
from optiinfra.domain.units import UnixTime


def consolidation_status(cluster: ClusterWork) -> ConsolidationStatus | None:
    """Build it; None while nothing was planned, or the facts are too doubtful for a plan."""
    plan = cluster.plan
    if plan is None or any(not problem.node for problem in plan.problems):
        return None
    listed, steps = _listed(cluster, plan)
    proposed = {item.subject for item in cluster.proposals if item.type is RecommendationType.CONSOLIDATION}
    return ConsolidationStatus(
        at=Time.of(plan.time),
        nodes=tuple(_node(cluster, node, proposed=node.node in proposed) for node in listed),
        steps=tuple(_step(move) for move in steps),
        nodes_left_out=len(plan.freed) - len(listed),
        held=_held(plan.refusals),
        scheduler=_packing(cluster.habit),
    )


def _listed(cluster: ClusterWork, plan: ConsolidationPlan) -> tuple[list[FreedNode], list[Move]]:
    due = set(cluster.due)
    listed: list[FreedNode] = []
    count = 0
    for node in plan.freed:
        if node.node not in due or len(listed) == MAX_PLANNED_NODES or count + node.moves > MAX_STEPS:
            break
        listed.append(node)
        count += node.moves
    return listed, list(plan.moves[:count])


def _node(cluster: ClusterWork, node: FreedNode, *, proposed: bool) -> PlannedNode:
    since = cluster.memory.emptyable_since.get(node.node, cluster.plan.time if cluster.plan else 0.0)
    return PlannedNode(
        name=node.node,
        pool=node.pool,
        gpus=float(node.gpus),
        pods=node.moves,
        warm_servers=node.warm,
        unready_seconds=round_number(node.unready),
        unmeasured_pods=node.unmeasured,
        price=round_number(node.price),
        proposed=proposed,
        since=Time.of(UnixTime(since)),
        alone=tuple(cut(owner, 253) for owner in node.alone),
    )


def _step(move: Move) -> PlannedStep:
    return PlannedStep(
        step=move.step,
        namespace=move.namespace,
        pod=move.pod,
        from_=move.source,
        to=move.target,
        group=cut(move.group, 320),
        unready_seconds=to_measured(move.unready),
    )


def _held(refusals: tuple[NodeRefusal, ...]) -> tuple[HeldNodes, ...]:
    by_reason: dict[str, list[NodeRefusal]] = defaultdict(list)
    for refusal in refusals:
        by_reason[str(refusal.reason)].append(refusal)
    ordered = sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0]))
    return tuple(
        HeldNodes(reason=reason, nodes=len(found), example=found[0].node, message=cut(found[0].message, 1024))
        for reason, found in ordered[:MAX_HELD]
    )


def _packing(habit: Habit | Unknown | None) -> PackingStatus | None:
    if habit is None:
        return None
    if isinstance(habit, Unknown):
        return PackingStatus(habit=str(habit.reason))
    return PackingStatus(habit=str(habit.kind), placements=habit.placements, fullness=round(habit.fullness, 2))
