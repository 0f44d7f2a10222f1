"""Empties nodes of a replayed cluster within a budget of moves: most GPUs freed for a move first, whole or not at all.

A node is emptied when all its pods find room on nodes that are in use anyway, or, as a second choice, on smaller empty
ones; else everything is as it was. Which pods may move at all is for the caller to say: this is the search, not the
policy, and it starts nothing.
"""

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from optiinfra.domain.placement.cluster import BoolArray, Cluster, Placement
from optiinfra.domain.placement.placer import Placer
from optiinfra.domain.placement.request import WHOLE_GPU

MOST_FAILURES: Final = 48
"""Nodes that are tried in vain in one pass; those after them are fuller still."""


@dataclass(frozen=True, slots=True)
class Drained:
    """One pass."""

    nodes: int
    """Nodes emptied."""
    moves: int


class Residents:
    """Which pods are where; `places` is what callers read."""

    def __init__(self, nodes: int) -> None:
        self.places: Final[dict[int, Placement]] = {}
        self._on: Final[tuple[set[int], ...]] = tuple(set() for _ in range(nodes))

    def put(self, pod: int, placement: Placement) -> None:
        """Note a pod's place."""
        self.places[pod] = placement
        self._on[placement.node].add(pod)

    def take(self, pod: int) -> Placement:
        """Forget a pod; returns where it was."""
        placement = self.places.pop(pod)
        self._on[placement.node].discard(pod)
        return placement

    def on(self, node: int) -> Mapping[int, Placement]:
        """Pods of a node, in a fixed order."""
        return {pod: self.places[pod] for pod in sorted(self._on[node])}


def drain(placer: Placer, residents: Residents, *, budget: int) -> Drained:
    """Empty nodes with at most `budget` moves; what moved is noted in `residents`."""
    cluster = placer.cluster
    moved = emptied = failures = 0
    for node in _order(cluster):
        pods = residents.on(node)
        if failures >= MOST_FAILURES:
            break
        if not pods or len(pods) > budget - moved:
            continue
        places = _elsewhere(placer, node, pods)
        if places is None:
            failures += 1
            continue
        for pod, placement in places.items():
            residents.take(pod)
            residents.put(pod, placement)
        moved += len(pods)
        emptied += 1
    return Drained(emptied, moved)


def _order(cluster: Cluster) -> list[int]:
    """Nodes with GPUs and pods: most idle GPUs for a move first."""
    idle = np.maximum(cluster.free_gpu, 0).sum(axis=1)
    worth = idle / np.maximum(1, cluster.pods)
    chosen = np.flatnonzero((cluster.pods > 0) & (cluster.gpus > 0) & (idle >= WHOLE_GPU // 2))
    order = np.lexsort((chosen, -worth[chosen]))
    return [int(node) for node in chosen[order]]


def _elsewhere(placer: Placer, node: int, pods: Mapping[int, Placement]) -> MutableMapping[int, Placement] | None:
    """Move all pods of a node away, or leave all where they are and return None."""
    cluster = placer.cluster
    in_use = cluster.pods > 0
    in_use[node] = False
    smaller = in_use | ((cluster.pods == 0) & (cluster.gpus < cluster.gpus[node]))
    for placement in pods.values():
        cluster.remove(placement)
    for allowed in (in_use, smaller):
        found = _all_placed(placer, pods, allowed)
        if found is not None:
            return found
    for placement in pods.values():
        cluster.place(placement.request, placement.node, placement.devices)
    return None


def _all_placed(
    placer: Placer, pods: Mapping[int, Placement], allowed: BoolArray
) -> MutableMapping[int, Placement] | None:
    found: dict[int, Placement] = {}
    largest_first = sorted(
        pods, key=lambda pod: (-pods[pod].request.total_gpu_milli, -pods[pod].request.cpu_milli, pod)
    )
    for pod in largest_first:
        placement = placer.place(pods[pod].request, allowed)
        if placement is None:
            for done in found.values():
                placer.cluster.remove(done)
            return None
        found[pod] = placement
    return found
