"""How much may be taken away at one time over a whole cluster, and what of a fall is left of that.

It bounds what one mistake can do: what is taken counts from the order until it was verified, so that the next services
are asked only after the first ones stood the loss.
"""

import math
from dataclasses import dataclass

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Amount:
    """Something that is taken away, in all units in which it may be limited."""

    replicas: int = 0
    pods: int = 0
    gpus: float = 0.0

    def __add__(self, other: "Amount") -> "Amount":
        """Add two amounts."""
        return Amount(self.replicas + other.replicas, self.pods + other.pods, self.gpus + other.gpus)

    def times(self, replicas: int) -> "Amount":
        """Return the amount of so many replicas, of which this is one."""
        return Amount(self.replicas * replicas, self.pods * replicas, self.gpus * replicas)


@dataclass(frozen=True, slots=True)
class ShrinkLimits:
    """Most that may be in flight; None: no limit."""

    replicas: int | None = None
    pods: int | None = None
    gpus: float | None = None

    @property
    def limited(self) -> bool:
        """Whether there is any limit."""
        return (self.replicas, self.pods, self.gpus) != (None, None, None)

    def allowed(self, wanted: int, *, each: Amount, in_flight: Amount) -> int:
        """Return how many of `wanted` replicas may be taken now, each of which is `each`."""
        rows = (
            (self.replicas, each.replicas, in_flight.replicas),
            (self.pods, each.pods, in_flight.pods),
            (self.gpus, each.gpus, in_flight.gpus),
        )
        bounds = [
            math.floor(max(0.0, most - taken) / one + _ROUNDING)
            for most, one, taken in rows
            if most is not None and one > 0
        ]
        return max(0, min([wanted, *bounds]))

    def said(self) -> str:
        """Return the limits in the words of the API."""
        rows = (("maxReplicas", self.replicas), ("maxPods", self.pods), ("maxGpus", self.gpus))
        return ", ".join(f"{name} {most:g}" for name, most in rows if most is not None)
