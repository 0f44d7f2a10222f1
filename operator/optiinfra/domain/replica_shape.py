"""What one replica of a workload is made of: pods and GPUs, and how many of them disruption budgets let go.

A replica is a pod, except with LeaderWorkerSets, where it is a whole group. Without any pod nobody knows: that is an
`Unknown`, for a limit in GPUs must not be passed because the replicas are away.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from optiinfra.domain import groups
from optiinfra.domain.label_rules import selects
from optiinfra.domain.pod_rules import DisruptionBudget
from optiinfra.domain.policy import Removable
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.workload import PodFacts, WorkloadFacts


@dataclass(frozen=True, slots=True)
class ReplicaShape:
    """One replica."""

    pods: int
    gpus: float


def shape_of(facts: WorkloadFacts) -> ReplicaShape | Unknown:
    """Return the largest replica that runs: a group that is not complete yet must not make limits wider."""
    replicas = _replicas(facts)
    if not replicas:
        return Unknown(UnknownReason.NOT_MEASURED, "no pod runs that would show its GPUs")
    return ReplicaShape(
        pods=max(len(pods) for pods in replicas),
        gpus=max(sum(pod.gpus for pod in pods) for pods in replicas),
    )


def replica_count(facts: WorkloadFacts) -> int:
    """Return how many replicas have pods, those that go away included."""
    return len(_replicas(facts))


def removable(facts: WorkloadFacts, budgets: Iterable[DisruptionBudget]) -> Removable | None:
    """Return how many replicas the disruption budgets of its pods let go now; None where no budget covers any.

    Nothing asks a budget when a workload is scaled in; this does, because its owner meant the pods to be there. A
    replica goes with all of its pods that a budget covers. Pods of other workloads count in a shared budget.
    """
    living = [pods for pods in _replicas(facts) if not all(pod.terminating for pod in pods)]
    found: list[Removable] = []
    for budget in budgets:
        if budget.namespace != facts.namespace:
            continue
        covered = max((sum(selects(budget.selector, pod.labels) for pod in pods) for pods in living), default=0)
        if not covered:
            continue
        name = f"PodDisruptionBudget {budget.name}"
        if not budget.current:
            found.append(Removable(0, f"{name} was changed and its status does not tell yet what it allows"))
            continue
        text = f"{name} allows {budget.allowed} disruptions now ({budget.healthy} healthy, {budget.desired} must stay)"
        found.append(Removable(max(0, budget.allowed) // covered, text))
    return min(found, key=lambda one: one.replicas, default=None)


def _replicas(facts: WorkloadFacts) -> list[list[PodFacts]]:
    if facts.kind != groups.KIND:
        return [[pod] for pod in facts.pods]
    by_group: dict[str, list[PodFacts]] = {}
    for pod in facts.pods:
        by_group.setdefault(groups.group_of(pod.name, workload=facts.name)[0], []).append(pod)
    return list(by_group.values())
