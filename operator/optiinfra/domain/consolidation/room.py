"""What is left on the nodes: the placement core, and beside it every other resource that pods ask for by name.

CPU, memory, pods and GPUs (whole, or a share inside one device) are the core's. MIG instances, time-sliced replicas,
network devices, huge pages, local disk and the ports of the host are counts that the scheduler compares by name, and so
does this. A resource that a node does not show is none: what a scheduler of its own hands out has no place here, and
the pod that asks for it stays.
"""

import math
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from optiinfra.domain.consolidation.inputs import counts
from optiinfra.domain.consolidation.terrain import BoolArray, IntArray
from optiinfra.domain.placement.cluster import Cluster, Node, Placement
from optiinfra.domain.placement.placer import Placer
from optiinfra.domain.placement.request import MOST_GPUS, WHOLE_GPU, PlacementError, Request
from optiinfra.domain.placement.rules import SimpleRule
from optiinfra.domain.workload import NodeFacts, PodFacts

_WHOLE: Final = frozenset({"nvidia.com/gpu", "amd.com/gpu"})
_ROUNDING: Final = 1e-6
FloatArray = npt.NDArray[np.float64]


def _tightest(cluster: Cluster, _request: Request, nodes: IntArray) -> FloatArray:
    return np.array(
        (
            np.maximum(cluster.free_gpu[nodes], 0).sum(axis=1),
            cluster.free_cpu[nodes],
            cluster.free_memory[nodes],
        ),
        dtype=np.float64,
    )


TIGHTEST: Final = SimpleRule(3, _tightest)
"""The node with least GPU left, then CPU, then memory: what is free stays together on few nodes, and those can go.

Rules that look at what other pods could still use free no more nodes here, and take twice as long.
"""


@dataclass(frozen=True, slots=True)
class Place:
    """A pod in its place."""

    placement: Placement
    named: tuple[tuple[int, float], ...]
    """Row of each resource beyond the core's, and the amount."""


class Room:
    """Nodes by index with what is free on them."""

    def __init__(self, nodes: Sequence[NodeFacts], waiting: Iterable[PodFacts], *, doubtful: Container[str]) -> None:
        """Nodes named in `doubtful` offer nothing."""
        self._nodes = nodes
        self._requests: dict[tuple[float, float, float], Request] = {}
        named: set[str] = set()
        pods = [pod for node in nodes if node.name not in doubtful for pod in node.pods if counts(pod)]
        for pod in (*pods, *waiting):
            named.update(name for name, _ in pod.rules.resources)
            named.update(f"port {port}" for port in pod.rules.host_ports)
        self._rows: Final = {name: row for row, name in enumerate(sorted(named - _WHOLE))}
        self.core: Final = Cluster([Node(node.name, 0, 0) if node.name in doubtful else _node(node) for node in nodes])
        self._free: Final[FloatArray] = np.zeros((len(self._rows), len(nodes)))
        for index, node in enumerate(nodes):
            for name, amount in node.resources:
                if name in self._rows:
                    self._free[self._rows[name], index] = amount
        for name, row in self._rows.items():
            if name.startswith("port "):
                self._free[row] = 1.0
        self.placer: Final = Placer(self.core, TIGHTEST)
        self.unknown_shares: Final[BoolArray] = np.zeros(len(nodes), dtype=np.bool_)
        """Nodes with shared pods of which nobody knows on which GPU: no other share may come."""

    def request(self, pod: PodFacts) -> Request:
        """Return what a pod asks of the core."""
        gpus = _whole_gpus(pod)
        key = (pod.cpu_request_cores, pod.memory_request_bytes, gpus)
        found = self._requests.get(key)
        if found is None:
            share = 0.0 < gpus < 1.0
            found = self._requests[key] = Request(
                cpu_milli=math.ceil(pod.cpu_request_cores * 1000.0 - _ROUNDING),
                memory_bytes=math.ceil(pod.memory_request_bytes),
                gpus=1 if share else round(gpus),
                gpu_milli=0 if not gpus else (math.ceil(gpus * WHOLE_GPU - _ROUNDING) if share else WHOLE_GPU),
            )
        return found

    def settle(self, index: int) -> dict[str, Place] | None:
        """Put a node's present pods where they are; None, and nothing changed, where they cannot all be there."""
        known: list[PodFacts] = []
        unknown: list[PodFacts] = []
        for pod in self._nodes[index].pods:
            if counts(pod):
                (known if pod.devices else unknown).append(pod)
        # Of shares on unknown GPUs the worst is assumed: each spoils a GPU of its own.
        unknown.sort(key=lambda pod: not self.request(pod).shares)
        places: dict[str, Place] = {}
        try:
            for pod in (*known, *unknown):
                request = self.request(pod)
                devices = pod.devices or self.core.whole_devices(index, request.gpus)
                places[pod.uid] = self.put(pod, index, devices)
                if request.shares and not pod.devices:
                    self.unknown_shares[index] = True
        except PlacementError:
            for place in places.values():
                self.remove(place)
            return None
        return places

    def put(self, pod: PodFacts, node: int, devices: Sequence[int]) -> Place:
        """Place a pod; raises PlacementError where the core has no room, and changes nothing then."""
        placement = self.core.place(self.request(pod), node, devices)
        named = self._named(pod)
        for row, amount in named:
            self._free[row, node] -= amount
        return Place(placement, named)

    def remove(self, place: Place) -> None:
        """Take a pod away again."""
        self.core.remove(place.placement)
        for row, amount in place.named:
            self._free[row, place.placement.node] += amount

    def restore(self, place: Place) -> None:
        """Put back exactly what `remove` took."""
        self.core.place(place.placement.request, place.placement.node, place.placement.devices)
        for row, amount in place.named:
            self._free[row, place.placement.node] -= amount

    def has_named(self, pod: PodFacts, *, certain: bool = True) -> BoolArray | None:
        """Nodes with enough of the named resources; None where the pod asks for none.

        `certain` leaves out nodes on which nobody knows which GPUs are shared by whom.
        """
        found: BoolArray | None = None
        for row, amount in self._named(pod):
            enough: BoolArray = self._free[row] >= amount - _ROUNDING
            found = enough if found is None else found & enough
        if certain and self.request(pod).shares and self.unknown_shares.any():
            found = ~self.unknown_shares if found is None else found & ~self.unknown_shares
        return found

    def too_full(self, members: BoolArray, headroom: float) -> str:
        """Name what would be used beyond the headroom on these nodes together, with both shares; empty when nothing."""
        core = self.core
        gpu = np.maximum(core.free_gpu[members], 0).sum()
        for name, size, free in (
            ("GPUs", core.gpus[members].sum() * WHOLE_GPU, gpu),
            ("CPU", core.cpu[members].sum(), core.free_cpu[members].sum()),
            ("memory", core.memory[members].sum(), core.free_memory[members].sum()),
        ):
            if size and free < headroom * size - 0.5:
                return (
                    f"{free / size:.0%} of the {name} of the remaining nodes would be free, and {headroom:.0%} must be"
                )
        return ""

    def dominant_share(self, pod: PodFacts, node: int) -> float:
        """Share of a node that a pod takes, by the resource of which it takes most."""
        core, request = self.core, self.request(pod)
        shares = (
            (request.total_gpu_milli, core.gpus[node] * WHOLE_GPU),
            (request.cpu_milli, core.cpu[node]),
            (request.memory_bytes, core.memory[node]),
        )
        return max((float(part / whole) for part, whole in shares if whole), default=0.0)

    def _named(self, pod: PodFacts) -> tuple[tuple[int, float], ...]:
        rules = pod.rules
        if not rules.resources and not rules.host_ports:
            return ()
        found = [(self._rows[name], amount) for name, amount in rules.resources if name not in _WHOLE]
        return (*found, *((self._rows[f"port {port}"], 1.0) for port in rules.host_ports))


def _whole_gpus(pod: PodFacts) -> float:
    """GPUs that come as devices; instances of a partitioned GPU are resources with names of their own."""
    if not pod.rules.resources:
        return pod.gpus
    return sum(amount for name, amount in pod.rules.resources if name in _WHOLE)


def _node(node: NodeFacts) -> Node:
    gpus = sum(amount for name, amount in node.resources if name in _WHOLE) if node.resources else node.gpus
    return Node(
        name=node.name,
        cpu_milli=math.floor(node.cpu_cores * 1000.0 + _ROUNDING),
        memory_bytes=math.floor(node.memory_bytes),
        # More replicas of time-sliced GPUs than devices can be told apart: none is offered, and none is moved.
        gpus=round(gpus) if gpus <= MOST_GPUS else 0,
        gpu_model=node.gpu_model,
        pods=round(node.pod_limit),
    )
