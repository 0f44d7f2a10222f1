"""What a plan is made from, and what cannot be true of it.

The facts come from mirrors of the API server. A mirror may be torn for a moment (a pod seen on two nodes), numbers may
be wrong at their source, a clock may jump: a plan made from that would evict pods for nothing. What concerns one node
takes that node out; what makes the whole picture doubtful ends the plan.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from optiinfra.domain.consolidation.results import DataProblem
from optiinfra.domain.pod_rules import DisruptionBudget
from optiinfra.domain.readings import Value
from optiinfra.domain.units import Seconds
from optiinfra.domain.workload import NodeFacts, PodFacts

STAYS_WITH_NODE: Final = "DaemonSet"
"""The one blocker that does not hold a node: such pods go away with it."""
FINISHED: Final = frozenset({"Succeeded", "Failed"})
_TOLERANCE: Final = 1e-6
_MOST: Final = 2.0**60
"""More of anything than there is."""


@dataclass(frozen=True, slots=True)
class Serving:
    """What is measured of a pod that serves."""

    start_up: Value
    """Seconds from its node to readiness, as its workload's starts were measured."""
    busy: Value
    """Share of what it can serve that it serves now, 0 to 1."""


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """Everything that a plan looks at."""

    nodes: Sequence[NodeFacts]
    waiting: Sequence[PodFacts] = ()
    """Pods without a node: their room is left to them."""
    budgets: Sequence[DisruptionBudget] = ()
    serving: Mapping[str, Serving] = field(default_factory=dict)
    """By pod uid; of the others the pods' own moments are taken."""


@dataclass(frozen=True, slots=True)
class DrainPolicy:
    """How far a plan goes."""

    max_moves: int
    headroom: float = 0.0
    """Share of the remaining nodes' GPUs, CPU and memory that stays free, in each pool."""
    standing: Mapping[str, Seconds] = field(default_factory=dict)
    """For how long nodes were emptyable until now. They come first, so that a plan does not change its mind."""
    window: Seconds = Seconds(0.0)
    """Nodes that have stood for so long come before all others: their moves are the first of the plan."""


def counts(pod: PodFacts) -> bool:
    """Tell whether a pod takes room."""
    return pod.phase not in FINISHED


def stays(pod: PodFacts) -> bool:
    """Tell whether a pod belongs to its node and ends with it."""
    return STAYS_WITH_NODE in pod.blockers


def evictable(node: NodeFacts) -> list[PodFacts]:
    """Pods that have to leave before a node is empty."""
    return [pod for pod in node.pods if counts(pod) and not stays(pod)]


def problems(cluster: ClusterFacts) -> tuple[DataProblem, ...]:
    """Find what cannot be so."""
    found: list[DataProblem] = []
    homes: dict[str, str] = {}
    names: set[str] = set()
    for node in cluster.nodes:
        if node.name in names:
            found.append(DataProblem("", f"node {node.name} is there twice"))
        names.add(node.name)
        for pod in node.pods:
            if counts(pod) and homes.setdefault(pod.uid, node.name) != node.name:
                text = f"pod {pod.namespace}/{pod.name} is on two nodes, {homes[pod.uid]} and {node.name}"
                found.append(DataProblem("", text))
        problem = _problem_of(node)
        if problem:
            found.append(DataProblem(node.name, f"node {node.name}: {problem}"))
    for pod in cluster.waiting:
        problem = _wrong_request(pod)
        if problem:
            found.append(DataProblem("", problem))
    return tuple(found)


def _wrong_request(pod: PodFacts) -> str:
    wanted = (pod.gpus, pod.cpu_request_cores, pod.memory_request_bytes, *(amount for _, amount in pod.rules.resources))
    if not all(0.0 <= amount < _MOST for amount in wanted):
        return f"pod {pod.namespace}/{pod.name} requests what is no amount from zero on"
    if 1.0 < pod.gpus != round(pod.gpus):
        return f"pod {pod.namespace}/{pod.name} requests {pod.gpus:g} GPUs; only a single GPU can be shared"
    return ""


def _problem_of(node: NodeFacts) -> str:
    size = (node.gpus, node.cpu_cores, node.memory_bytes)
    if not all(0.0 <= amount < _MOST for amount in (*size, node.pod_limit, *(amount for _, amount in node.resources))):
        return f"its capacity is no amount from zero on: {node.gpus:g} GPUs, {node.cpu_cores:g} cores"
    used = [0.0, 0.0, 0.0]
    for pod in node.pods:
        if not counts(pod):
            continue
        problem = _wrong_request(pod)
        if problem:
            return problem
        wanted = (pod.gpus, pod.cpu_request_cores, pod.memory_request_bytes)
        used = [had + more for had, more in zip(used, wanted, strict=True)]
    for name, amount, capacity in zip(("GPUs", "cores", "bytes of memory"), used, size, strict=True):
        if amount > capacity * (1.0 + _TOLERANCE) + _TOLERANCE:
            return f"its pods request {amount:g} {name} and it has {capacity:g}"
    if node.gpus > 0.0 and not node.gpu_model:
        return f"the model of its {node.gpus:g} GPUs is not known: label the node, or set gpuModel of its pool"
    return ""
