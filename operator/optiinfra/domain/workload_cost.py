"""What a workload costs an hour, from its pods: what they ask for, at the prices of the nodes that they run on.

A pod that has no node yet costs nothing. What a node has and nobody asks for is the node's, not the workload's. The
used part counts GPUs as far as they were busy; CPU and memory count as asked for, because they come with the node.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from optiinfra.domain.cost import PriceList, hourly, node_hourly
from optiinfra.domain.prices import NodePrice, Origin
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.workload import PodFacts

_NO_GPUS: Final = Unknown(UnknownReason.UNSUPPORTED, "the workload has no GPUs, whose use is what is counted")
_NO_PODS: Final = Unknown(UnknownReason.NOT_MEASURED, "no pod has a node")


@dataclass(frozen=True, slots=True)
class PlacedPod:
    """A pod that is on a node, and the node's price; None where the operator sees no nodes."""

    pod: PodFacts
    price: NodePrice | None


@dataclass(frozen=True, slots=True)
class WorkloadCost:
    """Of all its pods together, an hour."""

    held: Value
    used: Value
    per_replica: Value
    origins: tuple[tuple[Origin, int], ...] = ()
    """Where the prices are from, and of how many pods; most pods first."""


def workload_cost(
    placed: Sequence[PlacedPod], *, replicas: int, gpu_ratio: Value, otherwise: PriceList
) -> WorkloadCost:
    """Add up the pods of one workload.

    Args:
        placed: its pods that are on nodes, and have not ended.
        replicas: how many replicas they are.
        gpu_ratio: mean use of their GPUs.
        otherwise: prices for pods whose node the operator does not see.
    """
    if not placed or replicas < 1:
        return WorkloadCost(_NO_PODS, _NO_PODS, _NO_PODS)
    held = used = 0.0
    share: Value = gpu_ratio
    if not any(one.pod.gpus > 0.0 for one in placed):
        share = _NO_GPUS
    # Pods of one node are added up first: a service has many pods, and few nodes.
    nodes = _by_node(placed)
    for one in nodes:
        gpus, rest = _cost(one, otherwise)
        if isinstance(gpus, Unknown) or isinstance(rest, Unknown):
            why = gpus if isinstance(gpus, Unknown) else rest
            return WorkloadCost(why, why, why)
        held += gpus + rest
        used += rest + gpus * (0.0 if isinstance(share, Unknown) else min(max(share, 0.0), 1.0))
    origins: Counter[Origin] = Counter()
    for one in nodes:
        if one.price is not None:
            origins[one.price.origin] += one.pods
    return WorkloadCost(
        held=held,
        used=share if isinstance(share, Unknown) else used,
        per_replica=held / replicas,
        origins=tuple(sorted(origins.items(), key=lambda pair: (-pair[1], str(pair[0])))),
    )


@dataclass(slots=True)
class _OnNode:
    """What pods on one node ask for together."""

    price: NodePrice | None
    pods: int = 0
    gpus: float = 0.0
    cpu_cores: float = 0.0
    memory_bytes: float = 0.0


def _by_node(placed: Sequence[PlacedPod]) -> list[_OnNode]:
    found: dict[str, _OnNode] = {}
    for one in placed:
        pod = one.pod
        here = found.get(pod.node)
        if here is None:
            here = found[pod.node] = _OnNode(one.price)
        here.pods += 1
        here.gpus += pod.gpus
        here.cpu_cores += pod.cpu_request_cores
        here.memory_bytes += pod.memory_request_bytes
    return list(found.values())


def _cost(one: _OnNode, otherwise: PriceList) -> tuple[Value, Value]:
    """Return the cost of the pods' GPUs, and of their CPU and memory."""
    if one.price is None:
        return (
            hourly(otherwise, gpus=one.gpus),
            hourly(otherwise, cpu_cores=one.cpu_cores, memory_bytes=one.memory_bytes),
        )
    return (
        node_hourly(one.price, gpus=one.gpus),
        node_hourly(one.price, cpu_cores=one.cpu_cores, memory_bytes=one.memory_bytes),
    )
