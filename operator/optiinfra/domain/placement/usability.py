"""How much of what is free on a node the expected pods could use: the ground of every fragmentation score.

For one kind of pod, the usable part of a node is the free GPU on devices that have enough left for it, and nothing
where CPU, memory, model or the number of such devices do not suffice. Averaged over the expected kinds and subtracted
from all that is free, this is the fragmentation F of Weng et al., "Beware of Fragmentation: Scheduling GPU-Sharing
Workloads with Fragmentation Gradient Descent", USENIX ATC 2023, equations 1 to 4; here memory counts as CPU does.

Kinds with the same GPU need are one column, weighted by those of them whose CPU and memory needs are met, so that a
node costs as many columns as there are GPU needs (some 25), not as many as there are kinds. All numbers are whole
and below 2**53: sums are exact, and equal nodes get equal scores whatever else is scored with them.
"""

from typing import Final

import numpy as np

from optiinfra.domain.placement.cluster import Cluster, IntArray
from optiinfra.domain.placement.demand import Demand
from optiinfra.domain.placement.placer import FloatArray
from optiinfra.domain.placement.request import WHOLE_GPU


class Usability:
    """Tables of one demand over one cluster's GPU models."""

    def __init__(self, cluster: Cluster, demand: Demand, *, memory: bool = True) -> None:
        kinds = [(request, weight) for request, weight in demand.kinds if request.gpus]
        needs = sorted({(request.gpu_milli, request.gpus) for request, _ in kinds})
        self._cpu: Final = np.array([request.cpu_milli for request, _ in kinds], dtype=np.int64)
        self._memory: Final = np.array([request.memory_bytes if memory else 0 for request, _ in kinds], dtype=np.int64)
        self._allowed: Final = np.array(
            [
                [not request.gpu_models or model in request.gpu_models for request, _ in kinds]
                for model in cluster.models
            ],
            dtype=np.bool_,
        ).reshape(len(cluster.models), len(kinds))
        self._columns: Final = np.zeros((len(kinds), len(needs)), dtype=np.float64)
        for row, (request, weight) in enumerate(kinds):
            self._columns[row, needs.index((request.gpu_milli, request.gpus))] = weight
        milli = np.array([one[0] for one in needs], dtype=np.int64)
        self._least: Final = np.array([one[0] * one[1] if one[1] > 1 else 1 for one in needs], dtype=np.float64)
        # Row f + 1 is a device with f thousandths free, row 0 one that the node does not have.
        free = np.arange(-1, WHOLE_GPU + 1)[:, None]
        self._big: Final = np.where((free >= milli) & (free > 0), free, 0).astype(np.float64)

    def weights(self, model: IntArray, free_cpu: IntArray, free_memory: IntArray) -> FloatArray:
        """nodes, needs: the weight of the kinds whose CPU, memory and model needs are met."""
        met = self._allowed[model] & (free_cpu[:, None] >= self._cpu) & (free_memory[:, None] >= self._memory)
        found: FloatArray = met.astype(np.float64) @ self._columns
        return found

    def enough(self, free_gpu: IntArray) -> FloatArray:
        """nodes, needs: free GPU (thousandths) on devices with enough left for each need."""
        found: FloatArray = self._big[free_gpu + 1].sum(axis=1)
        return found

    def usable(self, weights: FloatArray, enough: FloatArray) -> FloatArray:
        """Usable GPU, thousandths times weight, summed over the needs (the last axis)."""
        found: FloatArray = np.einsum("...j,...j->...", weights, np.where(enough >= self._least, enough, 0.0))
        return found

    def change(self, before: IntArray, after: IntArray) -> FloatArray:
        """What `enough` changes by when one device goes from one free share to another; a last axis of needs."""
        found: FloatArray = self._big[after + 1] - self._big[before + 1]
        return found
