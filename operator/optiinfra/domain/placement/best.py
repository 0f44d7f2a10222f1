"""The operator's own placement rule: a pod goes where the expected pods lose least of what they could still fill.

The worth of a node is, averaged over the kinds of pods to be expected, what pods of that kind could use of it. Two
answers are mixed. "The next pod": the free GPU on devices with enough left, if one such pod fits; this is what FGD
counts (Weng et al., USENIX ATC 2023), and it does not see that eight free GPUs beside twelve cores will stay free. "All
of them": the GPU that the node would hold if it were filled with that kind alone, as far as devices, CPU and memory
go. CPU and memory are counted in fractions of a pod there, so that a node is not worthless one core below a threshold.

A kind weighs by how often it comes, over the root of its GPUs: weighed by GPUs, shares would be scattered, and counted
as pods, eight free GPUs would be given to eight small ones. A kind that only some GPU models can take weighs more, by
the share of the GPUs that it may use: what is scarce is kept for those who have no choice. Where nodes that stay empty
can be given back (`giving_back`), opening one has a price: a pod joins a node in use although it spoils a little there;
and a kind weighs by its count alone, for there is room for all. Ties go to the tightest node.
"""

from typing import Final

import numpy as np

from optiinfra.domain.placement.cluster import Cluster, IntArray
from optiinfra.domain.placement.demand import Demand
from optiinfra.domain.placement.placer import FloatArray, Scores
from optiinfra.domain.placement.request import WHOLE_GPU, Request

NEXT_POD: Final = 0.5
"""Weight of what the next pod could use; the rest is for filling up. Flat between 0.3 and 0.8."""
ROOT_OF_SIZE: Final = -0.5
"""Power of a kind's GPUs in its weight where pods compete for room; 0 where there is room for all of them."""
OPENING: Final = 20.0
"""Price of opening an empty node where empty ones can be given back: thousandths of a GPU for each of its GPUs."""
_ALMOST_ONE: Final = 1.0 - 1e-9
"""Room for a whole pod, computed with reciprocals."""
_CHUNK: Final = 256
"""Nodes at a time: their tables fit into a core's cache."""
_DIGITS: Final = 6
"""Losses (thousandths of a GPU) are compared to this many digits: sums of floats differ in the last ones."""


class BestRule:
    """The rule over one cluster and one expected demand; keys: worth lost, then free GPU, CPU and memory."""

    keys: Final = 4

    def __init__(
        self, cluster: Cluster, demand: Demand, *, opening: float = 0.0, size_power: float = ROOT_OF_SIZE
    ) -> None:
        self._worth = Worth(cluster, demand, size_power=size_power)
        self._opening = opening
        self._before = np.zeros(len(cluster))
        self._position = -1

    def score(self, cluster: Cluster, request: Request, nodes: IntArray) -> Scores:
        """Score nodes for a request."""
        keys = np.full((self.keys, len(nodes)), np.inf)
        devices = np.zeros(len(nodes), dtype=np.int64)
        fits = cluster.fits(request, nodes)
        chosen = nodes[fits]
        if len(chosen):
            before = self._worth_now(cluster)[chosen]
            lost, devices[fits] = self._lost(cluster, request, chosen, before)
            keys[0, fits] = lost + np.where(cluster.pods[chosen] == 0, self._opening * cluster.gpus[chosen], 0.0)
            keys[1, fits] = np.maximum(cluster.free_gpu[chosen], 0).sum(axis=1)
            keys[2, fits] = cluster.free_cpu[chosen]
            keys[3, fits] = cluster.free_memory[chosen]
        return Scores(keys, devices)

    def _worth_now(self, cluster: Cluster) -> FloatArray:
        """Worth of every node; only those that changed are computed again."""
        position = cluster.log_position
        if position != self._position:
            changed = None if self._position < 0 else cluster.changed_since(self._position)
            which = np.arange(len(cluster)) if changed is None else changed
            self._before[which] = self._worth.of(
                cluster.model[which],
                cluster.free_cpu[which],
                cluster.free_memory[which],
                self._worth.counts(cluster.free_gpu[which]),
            )
            self._position = position
        return self._before

    def _lost(
        self, cluster: Cluster, request: Request, nodes: IntArray, before: FloatArray
    ) -> tuple[FloatArray, IntArray]:
        """Return worth lost and the device for a shared pod, for nodes that it fits."""
        free = cluster.free_gpu[nodes]
        counts = self._worth.counts(free)
        cpu = cluster.free_cpu[nodes] - request.cpu_milli
        memory = cluster.free_memory[nodes] - request.memory_bytes
        model = cluster.model[nodes]
        if not request.shares:
            if request.gpus:
                counts = counts + request.gpus * self._worth.change(np.array([WHOLE_GPU]), np.array([0]))
            lost = before - self._worth.of(model, cpu, memory, counts)
            return lost.round(_DIGITS), np.zeros(len(nodes), dtype=np.int64)
        row, device = np.nonzero(free >= request.gpu_milli)
        was = free[row, device]
        left = was - request.gpu_milli
        after = self._worth.of(model[row], cpu[row], memory[row], counts[:, row] + self._worth.change(was, left))
        lost = (before[row] - after).round(_DIGITS)
        # The first of each node: least lost, then the fullest device, then the first one.
        order = np.lexsort((device, left, lost, row))
        first = order[np.r_[True, row[order][1:] != row[order][:-1]]]
        return lost[first], device[first].astype(np.int64)


class Worth:
    """Tables of one demand over one cluster's GPU models.

    `counts` are two tables over the different shares of a GPU that are asked for: how many times each is on the devices
    of a node, and how much of them (thousandths) is on devices with enough left for one.
    """

    def __init__(self, cluster: Cluster, demand: Demand, *, size_power: float) -> None:
        kinds = [(request, weight) for request, weight in demand.kinds if request.gpus]
        shares = sorted({request.gpu_milli for request, _ in kinds})
        needs = sorted({(request.gpu_milli, request.gpus) for request, _ in kinds})
        milli = np.array(shares, dtype=np.int64)
        free = np.maximum(np.arange(-1, WHOLE_GPU + 1), 0)[:, None]
        # Row f + 1 is a device with f thousandths free, row 0 one that the node does not have.
        self._tables: Final = np.array((free // milli, np.where(free >= milli, free, 0)), dtype=np.float64)
        self._share: Final = np.array([shares.index(one) for one, _ in needs], dtype=np.int64)
        self._gpus: Final = np.array([gpus for _, gpus in needs], dtype=np.float64)
        self._need: Final = np.array(
            [needs.index((request.gpu_milli, request.gpus)) for request, _ in kinds], dtype=np.int64
        )
        self._per_cpu: Final = np.array([1.0 / max(1, request.cpu_milli) for request, _ in kinds])
        self._per_memory: Final = np.array([1.0 / max(1, request.memory_bytes) for request, _ in kinds])
        weights = _weights(cluster, kinds, size_power)
        size = np.array([request.total_gpu_milli for request, _ in kinds], dtype=np.float64)
        self._filling: Final = (1.0 - NEXT_POD) * weights * size
        self._next: Final = NEXT_POD * weights

    def counts(self, free_gpu: IntArray) -> FloatArray:
        """2, nodes, shares: how often each share is there, and thousandths on devices with enough left for it."""
        found: FloatArray = self._tables[:, free_gpu + 1].sum(axis=2)
        return found

    def change(self, before: IntArray, after: IntArray) -> FloatArray:
        """2, devices, shares: what `counts` changes by when a device goes from one free share to another."""
        found: FloatArray = self._tables[:, after + 1] - self._tables[:, before + 1]
        return found

    def of(self, model: IntArray, free_cpu: IntArray, free_memory: IntArray, counts: FloatArray) -> FloatArray:
        """Worth of nodes, in thousandths of a GPU."""
        found = np.empty(len(model))
        for first in range(0, len(model), _CHUNK):
            part = slice(first, first + _CHUNK)
            found[part] = self._of(model[part], free_cpu[part], free_memory[part], counts[:, part])
        return found

    def _of(self, model: IntArray, free_cpu: IntArray, free_memory: IntArray, counts: FloatArray) -> FloatArray:
        pods = np.floor(counts[0].take(self._share, axis=1) / self._gpus)
        enough = np.where(pods >= 1.0, counts[1].take(self._share, axis=1), 0.0)
        room = np.minimum(
            np.multiply.outer(free_cpu.astype(np.float64), self._per_cpu),
            np.multiply.outer(free_memory.astype(np.float64), self._per_memory),
        )
        upcoming = enough.take(self._need, axis=1)
        upcoming *= room > _ALMOST_ONE
        filled = np.minimum(room, pods.take(self._need, axis=1), out=room)
        found: FloatArray = np.einsum("nk,nk->n", filled, self._filling[model])
        found += np.einsum("nk,nk->n", upcoming, self._next[model])
        return found


def _weights(cluster: Cluster, kinds: list[tuple[Request, int]], size_power: float) -> FloatArray:
    """models, kinds: share of the pods, over the share of GPUs that will do, times a power of the GPUs asked for.

    0 where the model will not do.
    """
    gpus = np.array([cluster.gpus[cluster.model == index].sum() for index in range(len(cluster.models))], dtype=float)
    weights = np.zeros((len(cluster.models), len(kinds)))
    total = float(sum(weight for _, weight in kinds))
    for column, (request, weight) in enumerate(kinds):
        will_do = np.array([not request.gpu_models or model in request.gpu_models for model in cluster.models])
        share = gpus[will_do].sum() / max(1.0, gpus.sum())
        if share > 0.0:
            weights[will_do, column] = weight / total / share * (request.total_gpu_milli / WHOLE_GPU) ** size_power
    return weights


def giving_back(cluster: Cluster, demand: Demand) -> BestRule:
    """Return the rule for clusters whose empty nodes can be given back."""
    return BestRule(cluster, demand, opening=OPENING, size_power=0.0)
