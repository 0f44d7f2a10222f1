"""What is left on every node and every GPU of a cluster, as arrays of whole numbers.

CPU, memory, pods and devices are hard limits. Devices are tracked one by one, because what is left of two GPUs is not
a GPU. Everything is an integer, so that placing a pod and removing it restores the very same state, and a plan can be
tried and taken back. Every change is written to a log, from which scores learn what they have to compute again.

It knows no labels: taints, affinity and topology are masks that the caller makes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from optiinfra.domain.placement.request import MOST_GPUS, WHOLE_GPU, PlacementError, Request

IntArray: TypeAlias = npt.NDArray[np.int64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]

NO_DEVICE: Final = -1
"""In `free_gpu` where a node has fewer devices than others."""
UNLIMITED_PODS: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Node:
    """What a node offers to pods: its allocatable resources."""

    name: str
    cpu_milli: int
    memory_bytes: int
    gpus: int = 0
    gpu_model: str = ""
    pods: int = UNLIMITED_PODS


@dataclass(frozen=True, slots=True)
class Placement:
    """One pod in its place."""

    request: Request
    node: int
    """Index into the cluster's nodes."""
    devices: tuple[int, ...]
    """Devices of the node that it takes, ascending; empty without GPUs."""


class Cluster:
    """Nodes with what is free on them; all arrays have one row a node, in the order given."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        for node in nodes:
            if min(node.cpu_milli, node.memory_bytes, node.gpus, node.pods) < 0 or node.gpus > MOST_GPUS:
                raise PlacementError(f"node {node.name}: capacities from 0 and at most {MOST_GPUS} GPUs are expected")
        if len({node.name for node in nodes}) != len(nodes):
            raise PlacementError("two nodes have one name; names must differ")
        self.nodes: Final = tuple(nodes)
        self.models: Final = tuple(sorted({node.gpu_model for node in nodes}))
        self.model: Final[IntArray] = np.array([self.models.index(node.gpu_model) for node in nodes], dtype=np.int64)
        self.gpus: Final[IntArray] = np.array([node.gpus for node in nodes], dtype=np.int64)
        self.cpu: Final[IntArray] = np.array([node.cpu_milli for node in nodes], dtype=np.int64)
        self.memory: Final[IntArray] = np.array([node.memory_bytes for node in nodes], dtype=np.int64)
        self.free_cpu: Final[IntArray] = self.cpu.copy()
        self.free_memory: Final[IntArray] = self.memory.copy()
        self.free_pods: Final[IntArray] = np.array([node.pods for node in nodes], dtype=np.int64)
        width = max(1, *(node.gpus for node in nodes)) if nodes else 1
        present = np.arange(width) < self.gpus[:, None]
        self.free_gpu: Final[IntArray] = np.where(present, np.int64(WHOLE_GPU), np.int64(NO_DEVICE))
        self.pods: Final[IntArray] = np.zeros(len(nodes), dtype=np.int64)
        """Pods placed here."""
        self._accepted: dict[tuple[str, ...], BoolArray] = {}
        self._log: list[int] = []
        self._forgotten = 0

    def __len__(self) -> int:
        return len(self.nodes)

    @property
    def log_position(self) -> int:
        """How many changes there have been."""
        return self._forgotten + len(self._log)

    def changed_since(self, position: int) -> IntArray | None:
        """Nodes changed after a position of the log, ascending; None where all have to be taken as changed."""
        if position < self._forgotten:
            return None
        recent = self._log[position - self._forgotten :]
        if len(recent) == 1:
            return np.array(recent, dtype=np.int64)
        return np.array(sorted(set(recent)), dtype=np.int64)

    def accepts(self, request: Request) -> BoolArray:
        """Nodes whose GPU model will do; a constraint on the model binds pods with GPUs only."""
        models = request.gpu_models if request.gpus else ()
        found = self._accepted.get(models)
        if found is None:
            wanted = np.array([not models or model in models for model in self.models], dtype=np.bool_)
            found = self._accepted[models] = wanted[self.model] if len(self) else np.zeros(0, dtype=np.bool_)
        return found

    def fits(self, request: Request, nodes: IntArray | slice | None = None) -> BoolArray:
        """Whether each node (or each of those named) has room for the pod now."""
        which: IntArray | slice = slice(None) if nodes is None else nodes
        found: BoolArray = (
            self.accepts(request)[which]
            & (self.free_cpu[which] >= request.cpu_milli)
            & (self.free_memory[which] >= request.memory_bytes)
            & (self.free_pods[which] > 0)
        )
        if request.gpus:
            found &= np.count_nonzero(self.free_gpu[which] >= request.gpu_milli, axis=1) >= request.gpus
        return found

    def whole_devices(self, node: int, count: int) -> tuple[int, ...]:
        """First `count` devices of a node that are wholly free."""
        found = np.flatnonzero(self.free_gpu[node] == WHOLE_GPU)[:count]
        return tuple(int(device) for device in found)

    def place(self, request: Request, node: int, devices: Sequence[int]) -> Placement:
        """Take what the pod asks for. Raises PlacementError where it does not fit; nothing is changed then."""
        placement = Placement(request, node, tuple(sorted(devices)))
        self._check(placement)
        self._add(placement, -1)
        return placement

    def remove(self, placement: Placement) -> None:
        """Give back what `place` took. Raises PlacementError where that was never taken."""
        node, request = placement.node, placement.request
        free = [int(self.free_gpu[node, device]) for device in placement.devices]
        if (
            self.pods[node] < 1
            or self.free_cpu[node] + request.cpu_milli > self.cpu[node]
            or self.free_memory[node] + request.memory_bytes > self.memory[node]
            or any(not 0 <= one <= WHOLE_GPU - request.gpu_milli for one in free)
        ):
            raise PlacementError(f"node {self.nodes[node].name}: a pod is removed that was not placed there")
        self._add(placement, +1)

    def _check(self, placement: Placement) -> None:
        request, node, devices = placement.request, placement.node, placement.devices
        name = self.nodes[node].name
        if len(set(devices)) != request.gpus or len(devices) != request.gpus:
            raise PlacementError(f"node {name}: {request.gpus} different devices are expected, {devices} were given")
        if not self.fits(request, slice(node, node + 1))[0]:
            raise PlacementError(f"node {name}: the pod does not fit")
        for device in devices:
            if not 0 <= device < self.gpus[node] or self.free_gpu[node, device] < request.gpu_milli:
                raise PlacementError(f"node {name}: device {device} has no room for {request.gpu_milli} thousandths")

    def _add(self, placement: Placement, sign: int) -> None:
        node, request = placement.node, placement.request
        self.free_cpu[node] += sign * request.cpu_milli
        self.free_memory[node] += sign * request.memory_bytes
        self.free_pods[node] += sign
        self.pods[node] -= sign
        for device in placement.devices:
            self.free_gpu[node, device] += sign * request.gpu_milli
        self._log.append(node)
        if len(self._log) > 4 * len(self.nodes) + 1_024:
            forget = len(self._log) // 2
            self._forgotten += forget
            del self._log[:forget]
