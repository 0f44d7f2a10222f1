"""Replay of a cluster at part load: pods end, new ones come, and every hour some nodes are emptied.

Pods arrive as a Poisson stream, drawn from the list, at the rate that keeps the load; lifetimes are exponential, so
that the age of a pod says nothing of its end: the hardest case for whoever moves pods. The budget of moves grows with
the arrivals and is never overdrawn. What is told is the mean over the hours after one mean lifetime, when what the
filling left behind has mostly gone.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from optiinfra.domain.placement.arrivals import Arrival
from optiinfra.domain.placement.drain import Residents, drain
from optiinfra.domain.placement.fill import active_utilization
from optiinfra.domain.placement.request import PlacementError
from optiinfra.domain.placement.scheduler import Scheduler

HOUR_S = 3_600.0


@dataclass(frozen=True, slots=True)
class Churned:
    """What came of the hours."""

    hours: int
    """Hours counted."""
    arrived: int
    """Pods that arrived in them."""
    dropped: int
    moves: int
    nodes_emptied: int
    active_utilization: float
    """Mean of the hours, each taken just before its drain."""
    load: float
    """Mean share of all GPUs that was allocated."""

    @property
    def moves_per_pod(self) -> float:
        """Moves for each pod that arrived."""
        return self.moves / max(1, self.arrived)


def churn(
    scheduler: Scheduler,
    residents: Residents,
    pods: Sequence[Arrival],
    *,
    hours: int,
    lifetime_h: float,
    moves_per_pod: float,
    seed: int,
) -> Churned:
    """Live through `hours` hours, of which those after one mean lifetime are counted.

    Raises PlacementError where nothing is left to count.
    """
    warm_up = int(np.ceil(lifetime_h))
    if hours <= warm_up or not residents.places:
        raise PlacementError(f"{hours} hours of churn: more than one mean lifetime ({warm_up} h) and a pod are needed")
    run = _Run(scheduler, residents, pods, lifetime_h=lifetime_h, seed=seed)
    budget = 0.0
    used: list[float] = []
    loads: list[float] = []
    moves = emptied = arrived = dropped = 0
    for hour in range(hours):
        came, lost = run.hour(hour)
        # What the warm-up did not use is not carried over: the counted moves stay within the counted arrivals.
        budget = moves_per_pod * came + (0.0 if hour == warm_up else budget)
        active = active_utilization(scheduler.cluster)
        done = drain(scheduler.placer, residents, budget=int(budget))
        budget -= done.moves
        if hour < warm_up:
            continue
        arrived, dropped = arrived + came, dropped + lost
        moves, emptied = moves + done.moves, emptied + done.nodes
        loads.append(run.load())
        if active is not None:
            used.append(active)
    if not used:
        raise PlacementError("no pod with a GPU was there in any hour; a higher load is needed")
    return Churned(hours - warm_up, arrived, dropped, moves, emptied, float(np.mean(used)), float(np.mean(loads)))


class _Run:
    """The clock, the ends of the pods and the draws."""

    def __init__(
        self, scheduler: Scheduler, residents: Residents, pods: Sequence[Arrival], *, lifetime_h: float, seed: int
    ) -> None:
        self._scheduler = scheduler
        self._residents = residents
        self._pods = pods
        self._life = lifetime_h * HOUR_S
        self._draw = np.random.default_rng((seed, 1))
        self._ends = [(self._draw.exponential(self._life), pod) for pod in sorted(residents.places)]
        heapq.heapify(self._ends)
        self._rate = len(self._ends) / self._life
        self._next = self._draw.exponential(1.0 / self._rate)
        self._number = max(residents.places) + 1

    def hour(self, hour: int) -> tuple[int, int]:
        """Live through one hour; returns how many pods came, and how many of them had no place."""
        until = (hour + 1) * HOUR_S
        came = lost = 0
        while min(self._next, self._ends[0][0] if self._ends else np.inf) < until:
            if self._ends and self._ends[0][0] <= self._next:
                _, pod = heapq.heappop(self._ends)
                self._scheduler.cluster.remove(self._residents.take(pod))
                continue
            came += 1
            lost += not self._arrive()
            self._next += self._draw.exponential(1.0 / self._rate)
        return came, lost

    def load(self) -> float:
        """Allocated share of all GPUs now."""
        cluster = self._scheduler.cluster
        return 1.0 - int(np.maximum(cluster.free_gpu, 0).sum()) / (1_000 * max(1, int(cluster.gpus.sum())))

    def _arrive(self) -> bool:
        request = self._pods[int(self._draw.integers(len(self._pods)))].request
        life = self._draw.exponential(self._life)
        placement = self._scheduler.arrive(request)
        if placement is None:
            return False
        self._residents.put(self._number, placement)
        heapq.heappush(self._ends, (self._next + life, self._number))
        self._number += 1
        return True
