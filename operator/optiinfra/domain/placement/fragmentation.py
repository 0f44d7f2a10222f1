"""Fragmentation gradient descent: a pod goes where it spoils least of what the other pods could use.

The score of a node is the growth of its fragmentation when the pod is placed there (FGD, algorithm 1 of the paper
named in `usability`). FGD leaves ties to chance, which loses up to five points of allocation; here they go to the
tightest node: least free GPU left, then least free CPU, then least free memory, then the node given first.
"""

from typing import Final

import numpy as np

from optiinfra.domain.placement.cluster import NO_DEVICE, Cluster, IntArray
from optiinfra.domain.placement.demand import Demand
from optiinfra.domain.placement.placer import FloatArray, Scores
from optiinfra.domain.placement.request import WHOLE_GPU, Request
from optiinfra.domain.placement.usability import Usability


class FragmentationRule:
    """FGD with a deterministic tie-break."""

    keys: Final = 4

    def __init__(self, cluster: Cluster, demand: Demand) -> None:
        self._tables = Usability(cluster, demand)

    def score(self, cluster: Cluster, request: Request, nodes: IntArray) -> Scores:
        """Score nodes; keys: usable GPU lost, free GPU, CPU and memory left."""
        fits = cluster.fits(request, nodes)
        keys = np.full((self.keys, len(nodes)), np.inf)
        devices = np.zeros(len(nodes), dtype=np.int64)
        if fits.any():
            chosen = nodes[fits]
            lost, devices[fits] = usable_lost(self._tables, cluster, request, chosen)
            keys[0, fits] = lost
            keys[1, fits] = np.maximum(cluster.free_gpu[chosen], 0).sum(axis=1)
            keys[2, fits] = cluster.free_cpu[chosen]
            keys[3, fits] = cluster.free_memory[chosen]
        return Scores(keys, devices)


def usable_lost(tables: Usability, cluster: Cluster, request: Request, nodes: IntArray) -> tuple[FloatArray, IntArray]:
    """Return what expected pods could use less after the pod, and the device of a shared pod, for nodes it fits.

    Of two devices that lose the same, the fuller one, then the first, is taken.
    """
    free = cluster.free_gpu[nodes]
    cpu, memory, model = cluster.free_cpu[nodes], cluster.free_memory[nodes], cluster.model[nodes]
    enough = tables.enough(free)
    before = tables.usable(tables.weights(model, cpu, memory), enough)
    weights = tables.weights(model, cpu - request.cpu_milli, memory - request.memory_bytes)
    if not request.shares:
        if request.gpus:
            enough = enough + request.gpus * tables.change(np.array(WHOLE_GPU), np.array(0))
        return before - tables.usable(weights, enough), np.zeros(len(nodes), dtype=np.int64)
    roomy = free >= request.gpu_milli
    after = np.where(roomy, free - request.gpu_milli, NO_DEVICE)
    options = enough[:, None, :] + tables.change(np.where(roomy, free, NO_DEVICE), after)
    lost = np.where(roomy, before[:, None] - tables.usable(weights[:, None, :], options), np.inf)
    least = lost.min(axis=1)
    device = np.where(lost == least[:, None], after, WHOLE_GPU + 1).argmin(axis=1)
    return least, device.astype(np.int64)
