"""Places a stream of pods by a rule that learns from the stream which pods to expect; and nothing of the future.

A rule that needs an expected demand is made anew when the arrivals have doubled (`demand.LearnedDemand`); the pod that
is placed has been counted, later ones have not. A rule without demand is simply kept.
"""

from collections.abc import Callable
from typing import Final, TypeAlias

from optiinfra.domain.placement.cluster import BoolArray, Cluster, Placement
from optiinfra.domain.placement.demand import Demand, LearnedDemand
from optiinfra.domain.placement.placer import Placer, Rule
from optiinfra.domain.placement.request import Request

MakeRule: TypeAlias = Callable[[Cluster, Demand], Rule]


class Scheduler:
    """A placer whose rule follows the arrivals."""

    def __init__(self, cluster: Cluster, make_rule: MakeRule) -> None:
        self.cluster: Final = cluster
        self._make_rule = make_rule
        self._demand = LearnedDemand()
        self.placer: Final = Placer(cluster, make_rule(cluster, self._demand.current))

    def arrive(self, request: Request, allowed: BoolArray | None = None) -> Placement | None:
        """Count a pod and place it; None where it has no place."""
        if self._demand.observe(request):
            self.placer.use(self._make_rule(self.cluster, self._demand.current))
        return self.placer.place(request, allowed)
