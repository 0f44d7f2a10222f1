"""Quantities of the ledger: capacity as GPUs, cores and GiB, and what it comes to over time.

The same three numbers stand for an amount at a moment and, times hours, for an integral; the field that holds them says
which. Requests, capacity and money are levels of the same thing ("of which really free", "of which no longer paid"), so
nothing here adds one level to another.
"""

from dataclasses import dataclass
from typing import Final

EPSILON: Final = 1e-9
"""Amounts below it are rounding."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """GPUs, CPU cores and GiB of memory; or their hours."""

    gpus: float = 0.0
    cpu_cores: float = 0.0
    memory_gib: float = 0.0

    def __add__(self, other: "Capacity") -> "Capacity":
        return Capacity(self.gpus + other.gpus, self.cpu_cores + other.cpu_cores, self.memory_gib + other.memory_gib)

    def __sub__(self, other: "Capacity") -> "Capacity":
        return self + other.times(-1.0)

    def times(self, factor: float) -> "Capacity":
        """Return so many times as much."""
        return Capacity(self.gpus * factor, self.cpu_cores * factor, self.memory_gib * factor)

    def by(self, other: "Capacity") -> "Capacity":
        """Multiply resource by resource."""
        return Capacity(self.gpus * other.gpus, self.cpu_cores * other.cpu_cores, self.memory_gib * other.memory_gib)

    def least(self, other: "Capacity") -> "Capacity":
        """Return the smaller amount of each resource; of a negative and a positive one, the negative."""
        return Capacity(
            min(self.gpus, other.gpus), min(self.cpu_cores, other.cpu_cores), min(self.memory_gib, other.memory_gib)
        )

    @property
    def positive(self) -> "Capacity":
        """What is above zero."""
        return Capacity(max(self.gpus, 0.0), max(self.cpu_cores, 0.0), max(self.memory_gib, 0.0))

    @property
    def is_nothing(self) -> bool:
        """Whether all of it is rounding."""
        return max(abs(self.gpus), abs(self.cpu_cores), abs(self.memory_gib)) <= EPSILON


NOTHING: Final = Capacity()
ALL: Final = Capacity(1.0, 1.0, 1.0)
"""As shares: the whole of each resource."""


@dataclass(frozen=True, slots=True)
class Amounts:
    """What was freed over a time: hours of requests, hours of capacity that was really free, and money."""

    requests: Capacity = NOTHING
    """GPU-hours, core-hours, GiB-hours that were no longer asked for."""
    capacity: Capacity = NOTHING
    """Of these, the hours in which no pod held them any more."""
    money: float = 0.0
    """Of these, what was no longer paid, or not spent on more nodes; in the ledger's currency."""

    def __add__(self, other: "Amounts") -> "Amounts":
        return Amounts(self.requests + other.requests, self.capacity + other.capacity, self.money + other.money)

    def times(self, factor: float) -> "Amounts":
        """Return so many times as much."""
        return Amounts(self.requests.times(factor), self.capacity.times(factor), self.money * factor)

    @property
    def is_nothing(self) -> bool:
        """Whether there is nothing to write down."""
        return self.requests.is_nothing and self.capacity.is_nothing and abs(self.money) <= EPSILON


def split(amounts: Amounts) -> tuple[Amounts, Amounts]:
    """Return what was freed and what was added, both as positive amounts: a sum must not hide the second."""
    freed = Amounts(amounts.requests.positive, amounts.capacity.positive, max(amounts.money, 0.0))
    return freed, (freed + amounts.times(-1.0))
