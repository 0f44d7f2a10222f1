"""Chooses a place for a pod by a rule, and computes again only what has changed since it last looked.

A score depends on a node and on a request, not on the pod: all replicas of a workload share one row of scores. A row
remembers the position of the cluster's log at which it was computed, and brings up to date the nodes that changed
since. Choosing is then a minimum over a row.

Ties go to the next key of the rule and at last to the node given first, so that the same cluster and the same requests
always give the same places. It places nothing unless asked to, and never where the mask of the caller forbids.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from optiinfra.domain.placement.cluster import BoolArray, Cluster, IntArray, Placement
from optiinfra.domain.placement.request import Request

FloatArray: TypeAlias = npt.NDArray[np.float64]

MOST_ROWS: Final = 1_024
"""Requests whose scores are kept; a row of 5,000 nodes takes about 120 KiB."""


@dataclass(frozen=True, slots=True)
class Scores:
    """A rule's opinion of some nodes for one request; smaller is better."""

    keys: FloatArray
    """keys, nodes: compared in order; infinite in the first where the pod does not fit."""
    devices: IntArray
    """nodes: the device that a shared pod would take; whatever for others."""


class Rule(Protocol):
    """Scores nodes for a request. Must depend on those nodes, the request and the rule's own fixed facts only."""

    @property
    def keys(self) -> int:
        """How many keys there are."""
        ...

    def score(self, cluster: Cluster, request: Request, nodes: IntArray) -> Scores:
        """Score some nodes for a request."""
        ...


@dataclass(frozen=True, slots=True)
class Choice:
    """Where a pod should go."""

    node: int
    devices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class NoRoom:
    """A pod that has no place, and how many nodes fail for which reason; a node counts once, in this order."""

    forbidden: int
    """Masked by the caller: taints, affinity, topology, draining."""
    gpu_model: int
    gpus: int
    """Not enough GPUs, or no device with enough left."""
    cpu: int
    memory: int
    pods: int

    def __str__(self) -> str:
        parts: Mapping[str, int] = {
            "not allowed": self.forbidden,
            "wrong GPU model": self.gpu_model,
            "too few free GPUs": self.gpus,
            "too little CPU": self.cpu,
            "too little memory": self.memory,
            "no pod slot": self.pods,
        }
        return ", ".join(f"{count} {words}" for words, count in parts.items() if count) or "no nodes"


class _Row:
    """Scores of one request at one position of the log."""

    __slots__ = ("devices", "keys", "position")

    def __init__(self, scores: Scores, position: int) -> None:
        self.keys = scores.keys
        self.devices = scores.devices
        self.position = position


class Placer:
    """A rule over a cluster, with its rows of scores."""

    def __init__(self, cluster: Cluster, rule: Rule) -> None:
        self.cluster: Final = cluster
        self._rule = rule
        self._rows: dict[Request, _Row] = {}
        self._everything: Final[IntArray] = np.arange(len(cluster), dtype=np.int64)

    def use(self, rule: Rule) -> None:
        """Change the rule: all scores are forgotten."""
        self._rule = rule
        self._rows.clear()

    def choose(self, request: Request, allowed: BoolArray | None = None) -> Choice | None:
        """Return the best place, or None where there is none; `why_not` says why.

        Args:
            request: What the pod asks for.
            allowed: One a node: where taints, affinity, topology and drains let it go; None for everywhere.
        """
        if not len(self.cluster):
            return None
        row = self._row(request)
        first = row.keys[0] if allowed is None else np.where(allowed, row.keys[0], np.inf)
        node = int(first.argmin())
        best = first[node]
        if np.isinf(best):
            return None
        if self._rule.keys > 1:
            tied = np.flatnonzero(first == best)
            for key in row.keys[1:]:
                if len(tied) == 1:
                    break
                values = key[tied]
                tied = tied[values == values.min()]
            node = int(tied[0])
        if not request.gpus:
            return Choice(node, ())
        if request.shares:
            return Choice(node, (int(row.devices[node]),))
        return Choice(node, self.cluster.whole_devices(node, request.gpus))

    def place(self, request: Request, allowed: BoolArray | None = None) -> Placement | None:
        """Choose and take the place; None where there is none."""
        choice = self.choose(request, allowed)
        return None if choice is None else self.cluster.place(request, choice.node, choice.devices)

    def why_not(self, request: Request, allowed: BoolArray | None = None) -> NoRoom:
        """Count what keeps a pod from each node, for a message; call it when `choose` found nothing."""
        cluster = self.cluster
        left = np.ones(len(cluster), dtype=np.bool_)
        counts = []
        enough = np.count_nonzero(cluster.free_gpu >= max(1, request.gpu_milli), axis=1) >= request.gpus
        for good in (
            left if allowed is None else allowed,
            cluster.accepts(request),
            enough,
            cluster.free_cpu >= request.cpu_milli,
            cluster.free_memory >= request.memory_bytes,
            cluster.free_pods > 0,
        ):
            counts.append(int(np.count_nonzero(left & ~good)))
            left = left & good
        return NoRoom(*counts)

    def _row(self, request: Request) -> _Row:
        row = self._rows.get(request)
        position = self.cluster.log_position
        if row is not None:
            if row.position == position:
                return row
            changed = self.cluster.changed_since(row.position)
            if changed is not None and 2 * len(changed) < len(self.cluster):
                scores = self._rule.score(self.cluster, request, changed)
                row.keys[:, changed] = scores.keys
                row.devices[changed] = scores.devices
                row.position = position
                return row
        elif len(self._rows) >= MOST_ROWS:
            del self._rows[next(iter(self._rows))]
        row = self._rows[request] = _Row(self._rule.score(self.cluster, request, self._everything), position)
        return row
