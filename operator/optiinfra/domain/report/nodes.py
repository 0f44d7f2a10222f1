"""Nodes that could go: the operator's own drain planner on the pods as they stood at the end of the window.

A metrics server tells requests, owners and taints, and neither disruption budgets nor affinities nor volumes. So pods
are only moved between nodes of one pool and one kind, a pod is taken to bear the taints of its own node, and how long a
model server takes to start is what the caller assumes. The plan says what has room, not what may be moved today: the
operator in the cluster looks at the rest before anything goes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from optiinfra.domain.consolidation import ClusterFacts, ConsolidationPlan, DrainPolicy, FreedNode, Serving, plan
from optiinfra.domain.pod_rules import PodRules, Taint, TaintEffect, Toleration
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.report.history import NodeHistory, PodNow
from optiinfra.domain.units import UnixTime
from optiinfra.domain.workload import NodeFacts, PodFacts

MOVES_PER_POD: Final = 0.5
"""Moves that a plan may make, as a share of the pods with GPUs."""
_OWNED: Final = {"DaemonSet": "DaemonSet", "Node": "DaemonSet", "Job": "BatchJob", "CronJob": "BatchJob"}
_GONE: Final = frozenset({"Succeeded", "Failed"})


@dataclass(frozen=True, slots=True)
class Going:
    """One node that could go."""

    node: FreedNode
    plan: ConsolidationPlan
    """Of its pool."""
    gpu: str
    """Kind of its GPUs."""


def emptied(
    nodes: Sequence[NodeHistory], kinds: Mapping[str, str], *, start_up_s: float, now: UnixTime
) -> tuple[Going, ...]:
    """Plan which nodes with GPUs to empty; `kinds` is the kind of GPU by node name."""
    groups: dict[tuple[str, str, str], list[NodeHistory]] = {}
    for node in nodes:
        if node.name in kinds and not isinstance(node.gpus, Unknown) and node.gpus > 0.0 and _there(node):
            groups.setdefault((node.pool, kinds[node.name], node.instance_type), []).append(node)
    found: list[Going] = []
    for (_, kind, _), members in sorted(groups.items()):
        if not any(node.pods for node in members):
            # Without kube-state-metrics nobody knows what runs where: an empty list is no empty node.
            continue
        facts = [_facts(node, kinds[node.name], now=now) for node in members]
        pods = [pod for node in facts for pod in node.pods]
        serving = {pod.uid: Serving(start_up_s, Unknown(UnknownReason.NOT_MEASURED, "by pod")) for pod in pods}
        moving = sum(pod.gpus > 0.0 for pod in pods)
        policy = DrainPolicy(max_moves=max(1, round(MOVES_PER_POD * moving)))
        made = plan(ClusterFacts(facts, serving=serving), policy, now=now)
        found += [Going(node, made, kind) for node in made.freed]
    return tuple(found)


def _there(node: NodeHistory) -> bool:
    """Tell whether a node is there at the end."""
    return bool(len(node.present)) and bool(node.present[-3:].any())


def _facts(node: NodeHistory, kind: str, *, now: UnixTime) -> NodeFacts:
    taints = tuple(Taint(key, value, TaintEffect(effect)) for key, value, effect in node.taints if _is_effect(effect))
    tolerations = tuple(Toleration(taint.key, exists=True) for taint in taints)
    rules = PodRules(tolerations=tolerations)
    return NodeFacts(
        name=node.name,
        pool=node.pool,
        gpu_model=kind or "GPU",
        gpus=_known(node.gpus_allocatable, node.gpus),
        cpu_cores=_known(node.cpu_cores_allocatable, node.cpu_cores),
        memory_bytes=_known(node.memory_bytes_allocatable, node.memory_bytes),
        ready=node.ready is not False,
        unschedulable=node.unschedulable is True,
        labels=dict(node.labels),
        pods=tuple(_pod(pod, rules, now=now) for pod in node.pods if pod.phase not in _GONE),
        taints=taints,
        pod_limit=_known(node.pod_limit, 110.0),
    )


def _is_effect(effect: str) -> bool:
    return effect in {str(one) for one in TaintEffect}


def _known(*values: Value) -> float:
    return next((value for value in values if not isinstance(value, Unknown)), 0.0)


def _pod(pod: PodNow, rules: PodRules, *, now: UnixTime) -> PodFacts:
    created = now if isinstance(pod.created, Unknown) else UnixTime(pod.created)
    blocker = _OWNED.get(pod.owner_kind, "" if pod.owner_kind else "BarePod")
    return PodFacts(
        name=pod.name,
        uid=pod.uid or f"{pod.namespace}/{pod.name}",
        ip="",
        node=pod.node,
        phase=pod.phase or "Running",
        ready=pod.phase in {"Running", ""},
        terminating=False,
        created=created,
        became_ready=created,
        gpus=pod.gpus,
        blockers=(blocker,) if blocker else (),
        cpu_request_cores=pod.cpu_request_cores,
        memory_request_bytes=pod.memory_request_bytes,
        namespace=pod.namespace,
        rules=rules,
        owner=(pod.owner_kind, pod.workload),
    )
