"""GPUs that are not well, in the round: on the nodes, in the conditions of objects, and against shrinking onto them.

A service that holds such a GPU keeps its other replicas: giving one of them back would leave more of the load to a
replica that may fail at any moment. Which of its pods goes is the workload controller's choice and not ours, so the
whole target is held; growing stays free.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Final

from optiinfra import metrics
from optiinfra.api.conditions import ConditionStatus, ConditionType, Wanted
from optiinfra.api.reasons import EXPLANATIONS, Reason
from optiinfra.control.work import ClusterWork, TargetWork
from optiinfra.domain.agent_readings import GpuTrouble
from optiinfra.domain.gpu_health import HealthMemory, TroubleReason, describe, finding
from optiinfra.domain.idle.holders import Held, holders_of
from optiinfra.domain.scaling import ScalingDecision
from optiinfra.domain.units import UnixTime
from optiinfra.domain.workload import NodeFacts

_NAMED: Final = 3
BLOCKED: Final = "GPUUnhealthy"


def mark(nodes: dict[str, NodeFacts], memory: HealthMemory, *, now: UnixTime) -> None:
    """Note on each node which of its GPUs are not well, and show how many there are."""
    counted: Counter[str] = Counter()
    for name, node in nodes.items():
        troubles = memory.of(node, now=now)
        if troubles:
            nodes[name] = dataclasses.replace(node, troubles=troubles)
            counted.update(one.reason for one in troubles)
    memory.forget_except(nodes)
    for reason in TroubleReason:
        metrics.UNHEALTHY_GPUS.labels(reason).set(counted[reason])


def judge(cluster: ClusterWork) -> None:
    """Add a finding for every GPU that is not well."""
    cluster.findings += tuple(
        finding(trouble, _pods(node, trouble)) for node in cluster.nodes.values() for trouble in node.troubles
    )


def held_by(target: TargetWork, nodes: Mapping[str, NodeFacts]) -> tuple[GpuTrouble, ...]:
    """Return the GPUs of a target's pods that are not well."""
    facts = target.facts
    if facts is None:
        return ()
    pods = {f"{pod.namespace or facts.namespace}/{pod.name}" for pod in facts.pods if pod.gpus > 0.0}
    return tuple(
        trouble
        for name in sorted({pod.node for pod in facts.pods if pod.node})
        if name in nodes
        for trouble in nodes[name].troubles
        if pods.intersection(_pods(nodes[name], trouble))
    )


def hold(target: TargetWork) -> None:
    """Keep a target that holds such a GPU from shrinking."""
    decision = target.decision
    if not target.sick or not isinstance(decision, ScalingDecision):
        return
    why = describe(target.sick[0])
    blocked = (*decision.shrink_blocked, f"{BLOCKED}: {why}")
    if decision.desired >= decision.current:
        target.decision = dataclasses.replace(decision, shrink_blocked=blocked)
        return
    target.decision = dataclasses.replace(
        decision,
        desired=decision.current,
        floor=max(decision.floor, decision.current),
        message=f"{decision.current} replicas stay, because {why}; without that: {decision.message}",
        shrink_blocked=blocked,
        evidence=(*target.sick[0].evidence, *decision.evidence),
    )


def condition(target: TargetWork) -> Wanted | None:
    """Return what Degraded says of a service; None while its GPUs are well."""
    if not target.sick:
        return None
    more = f" (and {len(target.sick) - 1} more)" if len(target.sick) > 1 else ""
    return _wanted(f"{describe(target.sick[0])}{more}")


def cluster_condition(cluster: ClusterWork) -> Wanted | None:
    """Return what Degraded says of the cluster's object; None while all GPUs are well."""
    found = [(node, trouble) for node in cluster.nodes.values() for trouble in node.troubles]
    if not found:
        return None
    told = "; ".join(describe(trouble, _pods(node, trouble)) for node, trouble in found[:_NAMED])
    more = f"; and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return _wanted(f"{told}{more}")


def _wanted(text: str) -> Wanted:
    remedy = EXPLANATIONS[Reason.GPU_UNHEALTHY].remedy
    return Wanted(ConditionType.DEGRADED, ConditionStatus.TRUE, Reason.GPU_UNHEALTHY, f"{text}. {remedy}")


def _pods(node: NodeFacts, trouble: GpuTrouble) -> tuple[str, ...]:
    """Return who holds a GPU, as namespace/name; nobody where that is not known."""
    if not node.agent:
        return ()
    # A GPU that vanished is still in somebody's hands, by the reading that showed it last.
    reading = next((one for one in reversed(node.agent) if any(gpu.uuid == trouble.uuid for gpu in one.gpus)), None)
    held = holders_of(trouble.uuid, node, reading) if reading is not None else None
    return held.pods if isinstance(held, Held) else ()
