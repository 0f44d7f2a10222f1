"""What moving pods costs, in hours of the node that they leave: what is paid for and serves nothing meanwhile.

A model server that is moved loads its model again. For that time its share of a node is paid for and does nothing, and
the part of its traffic that it served must be borne by others, which is worth as much again at full load:

    price = sum over pods of  share of the node x start-up time x (1 + load)

with the share by the resource of which the pod takes most, and the load as the part of its capacity that it serves
now; a server whose load is not known counts as fully loaded. Divided by hours the node would be away, it needs no
prices: both sides are paid in the same node. The idea is Karpenter's balanced consolidation (saving share against
disruption share); `WORTH` is its factor.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from optiinfra.domain.consolidation.permits import Permits
from optiinfra.domain.consolidation.room import Room
from optiinfra.domain.readings import Unknown
from optiinfra.domain.units import Seconds
from optiinfra.domain.workload import PodFacts

WORTH: Final = 2.0
"""A node should be away for so many times the price of emptying it, at least."""
_MOST_NAMED: Final = 8


@dataclass(frozen=True, slots=True)
class Price:
    """What moving some pods costs."""

    node_hours: float
    unready: Seconds
    """Seconds of unreadiness of all pods together."""
    unmeasured: int
    """Pods of which nobody saw a start; they count as nothing, and hold no GPU."""
    warm: int
    alone: tuple[str, ...]

    @property
    def seconds_to_earn(self) -> Seconds:
        """How long the node has to be away until emptying it was worth it."""
        return Seconds(WORTH * self.node_hours * 3600.0)


def is_warm(pod: PodFacts) -> bool:
    """Tell whether a pod holds GPUs and serves."""
    return pod.gpus > 0.0 and pod.ready


def price_of(pods: Iterable[tuple[PodFacts, int]], *, room: Room, permits: Permits) -> Price:
    """Add up what moving pods from their nodes (by index) costs."""
    hours = unready = 0.0
    unmeasured = warm = 0
    alone: list[str] = []
    for pod, node in pods:
        start_up = permits.start_up(pod)
        if isinstance(start_up, Unknown):
            unmeasured += 1
            start_up = 0.0
        busy = permits.busy(pod)
        load = (1.0 if is_warm(pod) else 0.0) if isinstance(busy, Unknown) else min(max(busy, 0.0), 1.0)
        hours += room.dominant_share(pod, node) * start_up / 3600.0 * (1.0 + load)
        unready += start_up
        warm += is_warm(pod)
        if permits.alone(pod):
            alone.append(f"{pod.namespace}/{pod.owner[0]}/{pod.owner[1]}")
    return Price(hours, Seconds(unready), unmeasured, warm, tuple(dict.fromkeys(alone))[:_MOST_NAMED])
