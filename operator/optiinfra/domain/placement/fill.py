"""Replay of a filling cluster: every pod is placed once, in order of arrival, or dropped; nothing ends, nothing moves.

The figures are those of the FGD paper: GPUs allocated, as a share of all GPUs, when the pods that have arrived ask for
as much as there is, and at the end.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from optiinfra.domain.placement.arrivals import Arrival
from optiinfra.domain.placement.cluster import Cluster, Placement
from optiinfra.domain.placement.request import WHOLE_GPU
from optiinfra.domain.placement.scheduler import Scheduler


@dataclass(frozen=True, slots=True)
class Filled:
    """What came of the arrivals."""

    placements: tuple[Placement | None, ...]
    """One an arrival; None where it was dropped."""
    allocated_at_100: float | None
    """Share of all GPUs; None where less than all of them was asked for."""
    allocated_end: float


def fill(scheduler: Scheduler, arrivals: Sequence[Arrival]) -> Filled:
    """Place all arrivals."""
    capacity = gpu_capacity(scheduler.cluster)
    placements: list[Placement | None] = []
    asked = allocated = 0
    at_100: float | None = None
    for arrival in arrivals:
        placement = scheduler.arrive(arrival.request)
        placements.append(placement)
        asked += arrival.request.total_gpu_milli
        if placement is not None:
            allocated += arrival.request.total_gpu_milli
        if at_100 is None and capacity and asked >= capacity:
            at_100 = allocated / capacity
    return Filled(tuple(placements), at_100, allocated / capacity if capacity else 0.0)


def gpu_capacity(cluster: Cluster) -> int:
    """All GPUs, in thousandths."""
    return WHOLE_GPU * int(cluster.gpus.sum())


def active_utilization(cluster: Cluster) -> float | None:
    """Allocated share of the GPUs on nodes that hold any pod; None where no such node has GPUs."""
    active = (cluster.pods > 0) & (cluster.gpus > 0)
    size = WHOLE_GPU * int(cluster.gpus[active].sum())
    if not size:
        return None
    return 1.0 - int(np.maximum(cluster.free_gpu[active], 0).sum()) / size
