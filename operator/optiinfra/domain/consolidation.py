"""Which GPU nodes could be emptied: every pod gets a new place first, then the node counts as freed.

Greedy and explainable: emptiest nodes first, each pod to the node that it fills best (GPUs, then CPU and memory), in
the same pool and on the same GPU model only. A node is freed whole or not at all. It refuses pods that must not move,
never moves a pod twice, never fills a node that is to be emptied, and moves nothing itself. It knows requests, not
affinities and taints: whoever acts on the plan asks the scheduler again.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from optiinfra.domain.units import Gpus, UnixTime
from optiinfra.domain.workload import NodeFacts, PodFacts

Array = npt.NDArray[np.float64]

STAYS_WITH_NODE: Final = "DaemonSet"
"""The one blocker that does not hold a node: such pods go away with it."""
_FINISHED: Final = frozenset({"Succeeded", "Failed"})
_TOLERANCE: Final = 1e-6


class NodeReason(StrEnum):
    """Why a GPU node cannot be emptied."""

    NOT_READY = "NotReady"
    UNSCHEDULABLE = "Unschedulable"
    """Somebody drains it already."""
    BLOCKED_PODS = "BlockedPods"
    TERMINATING_PODS = "TerminatingPods"
    NO_ROOM = "NoRoom"
    RECEIVES_PODS = "ReceivesPods"
    """Pods of other nodes are planned to come here."""
    MAX_MOVES = "MaxMoves"


@dataclass(frozen=True, slots=True)
class Move:
    """One pod and its new place."""

    namespace: str
    pod: str
    pod_uid: str
    source: str
    target: str
    gpus: Gpus


@dataclass(frozen=True, slots=True)
class NodeRefusal:
    """A GPU node that stays, and why."""

    node: str
    reason: NodeReason
    message: str


@dataclass(frozen=True, slots=True)
class FreedNode:
    """A GPU node that would be empty."""

    node: str
    pool: str
    gpu_model: str
    gpus: Gpus
    moves: int
    """Pods that have to move for it; 0 when it is empty already."""


@dataclass(frozen=True, slots=True)
class ConsolidationPlan:
    """What could be emptied, by which moves, and what could not."""

    time: UnixTime
    freed: tuple[FreedNode, ...]
    moves: tuple[Move, ...]
    refusals: tuple[NodeRefusal, ...]

    @property
    def gpus_freed(self) -> Gpus:
        """GPUs of all nodes that would be empty; money only when the nodes go away."""
        return Gpus(sum(node.gpus for node in self.freed))


def plan(nodes: Sequence[NodeFacts], *, now: UnixTime, max_moves: int) -> ConsolidationPlan:
    """Plan which GPU nodes to empty with at most `max_moves` moved pods."""
    groups: dict[tuple[str, str], list[NodeFacts]] = defaultdict(list)
    for node in nodes:
        if node.gpus > 0.0:
            groups[node.pool, node.gpu_model].append(node)
    freed: list[FreedNode] = []
    moves: list[Move] = []
    refusals: list[NodeRefusal] = []
    for key in sorted(groups):
        pool = _Pool(groups[key])
        for index in pool.emptiest_first():
            outcome = pool.empty(index, moves_left=max_moves - len(moves))
            node = pool.nodes[index]
            if isinstance(outcome, NodeRefusal):
                refusals.append(outcome)
            else:
                moves += outcome
                freed.append(FreedNode(node.name, node.pool, node.gpu_model, Gpus(node.gpus), len(outcome)))
    return ConsolidationPlan(time=now, freed=tuple(freed), moves=tuple(moves), refusals=tuple(refusals))


def _counts(pod: PodFacts) -> bool:
    return pod.phase not in _FINISHED


def _moves(pod: PodFacts) -> bool:
    return _counts(pod) and not pod.terminating and STAYS_WITH_NODE not in pod.blockers


class _Pool:
    """Nodes that may stand in for each other, as arrays of what is still free."""

    def __init__(self, nodes: Sequence[NodeFacts]) -> None:
        self.nodes = nodes
        self._used = np.array(
            [
                np.sum(
                    [(p.gpus, p.cpu_request_cores, p.memory_request_bytes) for p in node.pods if _counts(p)]
                    or [(0.0, 0.0, 0.0)],
                    axis=0,
                )
                for node in nodes
            ]
        )
        size = np.array([(node.gpus, node.cpu_cores, node.memory_bytes) for node in nodes], dtype=np.float64)
        self._size = np.ascontiguousarray(np.maximum(size, 1e-9).T)
        self._free: Array = np.ascontiguousarray((size - self._used).T)
        # Nodes that cannot take pods have nothing free, so that no search ever finds them.
        closed = [not node.ready or node.unschedulable for node in nodes]
        self._free[:, closed] = -1.0
        self._receives = np.zeros(len(nodes), dtype=np.bool_)

    def emptiest_first(self) -> list[int]:
        """Order of trying: fewest GPUs in use, then fewest pods to move; the name makes it repeatable."""
        return sorted(
            range(len(self.nodes)),
            key=lambda i: (
                self._used[i, 0],
                sum(1 for pod in self.nodes[i].pods if _moves(pod)),
                self.nodes[i].name,
            ),
        )

    def empty(self, index: int, *, moves_left: int) -> list[Move] | NodeRefusal:
        """Find a place for all pods of a node and take it out of the pool; or leave all as it was."""
        node = self.nodes[index]
        refusal = self._refusal(index)
        if refusal is not None:
            return refusal
        pods = [pod for pod in node.pods if _moves(pod)]
        if len(pods) > moves_left:
            return NodeRefusal(
                node.name, NodeReason.MAX_MOVES, f"{len(pods)} pods to move, {max(0, moves_left)} moves left"
            )
        own = self._free[:, index].copy()
        self._free[:, index] = -1.0
        placed: list[tuple[int, PodFacts]] = []
        for pod in sorted(pods, key=lambda p: (-p.gpus, -p.memory_request_bytes, p.namespace, p.name)):
            target = self._best_fit(pod)
            if target is None:
                for taken, earlier in placed:
                    self._free[:, taken] += _demand(earlier)
                self._free[:, index] = own
                return NodeRefusal(
                    node.name,
                    NodeReason.NO_ROOM,
                    f"no other node has room for {pod.namespace}/{pod.name} ({pod.gpus:g} GPUs, "
                    f"{pod.cpu_request_cores:g} cores, {pod.memory_request_bytes / 2**30:.1f} GiB)",
                )
            self._free[:, target] -= _demand(pod)
            placed.append((target, pod))
        for target, _ in placed:
            self._receives[target] = True
        return [
            Move(pod.namespace, pod.name, pod.uid, node.name, self.nodes[target].name, Gpus(pod.gpus))
            for target, pod in placed
        ]

    def _refusal(self, index: int) -> NodeRefusal | None:
        node = self.nodes[index]
        if not node.ready:
            return NodeRefusal(node.name, NodeReason.NOT_READY, "the node is not ready")
        if node.unschedulable:
            return NodeRefusal(node.name, NodeReason.UNSCHEDULABLE, "the node is cordoned already")
        if self._receives[index]:
            return NodeRefusal(node.name, NodeReason.RECEIVES_PODS, "pods of emptier nodes are to move here")
        leaving = [pod for pod in node.pods if _counts(pod) and pod.terminating]
        if leaving:
            text = f"{len(leaving)} pods are terminating, such as {leaving[0].namespace}/{leaving[0].name}"
            return NodeRefusal(node.name, NodeReason.TERMINATING_PODS, text)
        blocked = [pod for pod in node.pods if _moves(pod) and pod.blockers]
        if blocked:
            first = blocked[0]
            text = f"{len(blocked)} pods may not move, such as {first.namespace}/{first.name}"
            text += f" ({', '.join(first.blockers)})"
            return NodeRefusal(node.name, NodeReason.BLOCKED_PODS, text)
        return None

    def _best_fit(self, pod: PodFacts) -> int | None:
        """Return the node that has least left after taking the pod: GPUs first, then CPU and memory as shares."""
        # Transposed: one row a resource keeps each comparison over thousands of nodes contiguous.
        gpus, cpu, memory = self._free
        fits = np.flatnonzero((gpus >= max(0.0, pod.gpus - _TOLERANCE)) & (cpu >= pod.cpu_request_cores - _TOLERANCE))
        fits = fits[memory[fits] >= pod.memory_request_bytes - _TOLERANCE]
        if not fits.size:
            return None
        fits = fits[gpus[fits] == gpus[fits].min()]
        share = cpu[fits] / self._size[1, fits] + memory[fits] / self._size[2, fits]
        return int(fits[share.argmin()])


def _demand(pod: PodFacts) -> Array:
    return np.array([pod.gpus, pod.cpu_request_cores, pod.memory_request_bytes])
