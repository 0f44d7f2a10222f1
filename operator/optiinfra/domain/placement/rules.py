"""Rules that schedulers use today: first fit, best fit, dot product, packing, and kube-scheduler's two profiles.

They are baselines and what scheduler-profile advice is measured with. A shared pod goes to the fullest device that
has room, with all of them, as GPU-sharing plug-ins do. None of them knows what other pods may need.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from optiinfra.domain.placement.cluster import Cluster, IntArray
from optiinfra.domain.placement.placer import FloatArray, Scores
from optiinfra.domain.placement.request import WHOLE_GPU, Request

Keys = Callable[[Cluster, Request, IntArray], FloatArray]


@dataclass(frozen=True, slots=True)
class SimpleRule:
    """A rule whose keys are one function."""

    keys: int
    compute: Keys
    """cluster, request, nodes that fit -> (keys, nodes)."""

    def score(self, cluster: Cluster, request: Request, nodes: IntArray) -> Scores:
        """Score nodes for a request."""
        fits = cluster.fits(request, nodes)
        keys = np.full((self.keys, len(nodes)), np.inf)
        if fits.any():
            keys[:, fits] = self.compute(cluster, request, nodes[fits])
        return Scores(keys, fullest_device(cluster, request, nodes))


def fullest_device(cluster: Cluster, request: Request, nodes: IntArray) -> IntArray:
    """Return, for each node, the device with least left among those that have room; the first one if there are more."""
    if not request.shares:
        return np.zeros(len(nodes), dtype=np.int64)
    free = cluster.free_gpu[nodes]
    found: IntArray = np.where(free >= request.gpu_milli, free, WHOLE_GPU + 1).argmin(axis=1)
    return found


def free_gpu(cluster: Cluster, nodes: IntArray) -> IntArray:
    """Free GPU of nodes, thousandths, all devices together."""
    found: IntArray = np.maximum(cluster.free_gpu[nodes], 0).sum(axis=1)
    return found


def _first_fit(_cluster: Cluster, _request: Request, nodes: IntArray) -> FloatArray:
    return np.zeros((1, len(nodes)))


def _left(cluster: Cluster, request: Request, nodes: IntArray) -> FloatArray:
    """3, nodes: CPU, memory and GPU left after the pod, in shares of the cluster's largest node."""
    left = (
        (cluster.free_cpu[nodes] - request.cpu_milli) / max(1, cluster.cpu.max()),
        (cluster.free_memory[nodes] - request.memory_bytes) / max(1, cluster.memory.max()),
        (free_gpu(cluster, nodes) - request.total_gpu_milli) / (WHOLE_GPU * max(1, cluster.gpus.max())),
    )
    return np.array(left)


def _best_fit(cluster: Cluster, request: Request, nodes: IntArray) -> FloatArray:
    found: FloatArray = _left(cluster, request, nodes).sum(axis=0)[None, :]
    return found


def _dot_product(cluster: Cluster, request: Request, nodes: IntArray) -> FloatArray:
    free = np.array(
        (
            cluster.free_cpu[nodes] / max(1, cluster.cpu.max()) * (request.cpu_milli / max(1, cluster.cpu.max())),
            cluster.free_memory[nodes]
            / max(1, cluster.memory.max())
            * (request.memory_bytes / max(1, cluster.memory.max())),
            free_gpu(cluster, nodes) * (request.total_gpu_milli / (WHOLE_GPU * max(1, cluster.gpus.max())) ** 2),
        )
    )
    found: FloatArray = free.sum(axis=0)[None, :]
    return found


def _packing(cluster: Cluster, request: Request, nodes: IntArray) -> FloatArray:
    """First GPUs that are shared already, then nodes in use, then empty ones; the fullest of them."""
    free = cluster.free_gpu[nodes]
    partly = ((free >= request.gpu_milli) & (free < WHOLE_GPU)).any(axis=1) if request.shares else False
    in_use = cluster.pods[nodes] > 0
    stage = np.where(partly, 0.0, np.where(in_use, 1.0, 2.0))
    return np.array((stage, free_gpu(cluster, nodes), cluster.free_cpu[nodes]), dtype=np.float64)


def _allocated(cluster: Cluster, request: Request, nodes: IntArray, *, gpu_weight: float) -> FloatArray:
    """Mean requested share of CPU, memory and GPU after the pod, as NodeResourcesFit computes it."""
    cpu = 1.0 - (cluster.free_cpu[nodes] - request.cpu_milli) / np.maximum(1, cluster.cpu[nodes])
    memory = 1.0 - (cluster.free_memory[nodes] - request.memory_bytes) / np.maximum(1, cluster.memory[nodes])
    size = cluster.gpus[nodes] * float(WHOLE_GPU)
    gpu = 1.0 - (free_gpu(cluster, nodes) - request.total_gpu_milli) / np.maximum(1.0, size)
    weight = np.where(size > 0.0, gpu_weight, 0.0)
    found: FloatArray = (cpu + memory + weight * gpu) / (2.0 + weight)
    return found


def _least_allocated(cluster: Cluster, request: Request, nodes: IntArray) -> FloatArray:
    return _allocated(cluster, request, nodes, gpu_weight=1.0)[None, :]


def _most_allocated(cluster: Cluster, request: Request, nodes: IntArray) -> FloatArray:
    return -_allocated(cluster, request, nodes, gpu_weight=5.0)[None, :]


FIRST_FIT: Final = SimpleRule(1, _first_fit)
BEST_FIT: Final = SimpleRule(1, _best_fit)
DOT_PRODUCT: Final = SimpleRule(1, _dot_product)
PACKING: Final = SimpleRule(3, _packing)
LEAST_ALLOCATED: Final = SimpleRule(1, _least_allocated)
"""kube-scheduler's default: spread, CPU, memory and GPU counting alike."""
MOST_ALLOCATED: Final = SimpleRule(1, _most_allocated)
"""The packing profile that is usually recommended for GPU pools: GPUs weigh five times as much as CPU or memory."""

RULES: Final[Mapping[str, SimpleRule]] = {
    "first fit": FIRST_FIT,
    "best fit": BEST_FIT,
    "dot product": DOT_PRODUCT,
    "packing": PACKING,
    "LeastAllocated": LEAST_ALLOCATED,
    "MostAllocated": MOST_ALLOCATED,
}
