"""What the search for a mix works on: variants in whole numbers, partial combinations of counts, and a lower bound.

Everything is an integer, so that sums do not depend on their order and equal costs are equal. Only the lower bound is
a real number; whoever compares with it leaves room for its rounding. Nothing is searched or decided here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

MILLION: Final = 1_000_000
MOST_REPLICAS: Final = 10_000
"""Of one variant."""
_NAME_BITS: Final = 14
_STARTS, _GPUS = 2**44, 2**17
_MOST_GPUS: Final = 1_600
"""A hundred GPUs of one replica: beyond that they are no longer told apart where costs are equal."""


@dataclass(frozen=True, slots=True)
class Item:
    """One variant in whole numbers."""

    capacity: int
    """Of one replica, at least 1."""
    lowest: int
    highest: int
    current: int
    """Replicas that need not be started."""
    reserved: int
    """Replicas that cost nothing."""
    keep: int
    """Cost of a replica over the horizon."""
    start: int
    """What starting one adds to it."""
    gpus: int
    """Of one replica, in sixteenths."""
    share: int
    """Most it may carry of the whole capacity, in millionths."""
    spot: bool

    def costs(self) -> tuple[Ints, Ints]:
        """(cost, packed ties) of `lowest`, ..., `highest` replicas."""
        counts = np.arange(self.lowest, self.highest + 1, dtype=np.int64)
        starts = np.maximum(counts - self.current, 0)
        paid = np.maximum(counts - self.reserved, 0)
        charged = np.maximum(counts - max(self.current, self.reserved), 0)
        ties = starts * _STARTS + counts * (min(self.gpus, _MOST_GPUS) * _GPUS + 1)
        return paid * self.keep + charged * self.start, ties

    def cost_of(self, count: int) -> int:
        """Return the cost of some replicas."""
        charged = max(0, count - max(self.current, self.reserved))
        return max(0, count - self.reserved) * self.keep + charged * self.start

    def ties_of(self, count: int) -> int:
        """Return what decides between equal costs, packed: started replicas, GPUs, replicas."""
        return max(0, count - self.current) * _STARTS + count * (min(self.gpus, _MOST_GPUS) * _GPUS + 1)

    def segments(self, low: int, high: int) -> list[tuple[float, float, bool]]:
        """(cost of a unit of capacity, units, spot) beyond `low` replicas, each dearer than the one before."""
        marks = sorted({low, high, *(min(max(mark, low), high) for mark in (self.reserved, self.current))})
        found = []
        for first, last in pairwise(marks):
            unit = 0 if first < self.reserved else self.keep + (self.start if first >= self.current else 0)
            found.append((unit / self.capacity, float((last - first) * self.capacity), self.spot))
        return found


@dataclass(frozen=True, slots=True)
class Problem:
    """Variants in the order of their names, and what holds for all of them together."""

    items: tuple[Item, ...]
    spot_share: int = MILLION
    """Most that all spot variants together may carry of the whole capacity, in millionths."""
    gpus: int | None = None
    """Sixteenths of GPUs that may be held, what runs now and what is asked for counted together; None: any number."""

    def fits(self, counts: Sequence[int], need: int) -> bool:
        """Tell whether counts, which lie within their limits, meet the need and keep every share and the GPUs."""
        rows = list(zip(self.items, counts, strict=True))
        total = sum(count * item.capacity for item, count in rows)
        spot = sum(count * item.capacity for item, count in rows if item.spot)
        least = sum(item.lowest * item.capacity for item in self.items if item.spot)
        held = sum(max(count, item.current) * item.gpus for item, count in rows)
        shares = all(
            count <= item.lowest or count * item.capacity * MILLION <= item.share * total for item, count in rows
        )
        kept = spot <= least or spot * MILLION <= self.spot_share * total
        return total >= need and shares and kept and (self.gpus is None or held <= self.gpus)

    def held(self, index: int, counts: Ints) -> Ints:
        """GPUs that are held while `counts` replicas come up beside the current ones."""
        item = self.items[index]
        return np.maximum(counts, item.current) * item.gpus


@dataclass(slots=True)
class States:
    """Combinations of counts of the first variants; the others are at their lowest. Every array is (states,)."""

    cost: Ints
    ties: Ints
    covered: Ints
    """Capacity."""
    wanted: Ints
    """Capacity that is needed: the need, or more because of a share."""
    spot: Ints
    """Capacity of the spot variants."""
    gpus: Ints
    names: tuple[Ints, Ints]
    """Counts, negated and packed so that more of an earlier name sorts first."""

    @classmethod
    def of(
        cls, counts: Sequence[int], *, cost: int, ties: int, covered: int, wanted: int, spot: int, gpus: int
    ) -> "States":
        """Return a single combination."""
        names = [0, 0]
        for index, count in enumerate(counts):
            array, bits = _shift(index)
            names[array] -= count << bits
        one = np.array([cost, ties, covered, wanted, spot, gpus, *names], dtype=np.int64)[:, None]
        return cls(one[0], one[1], one[2], one[3], one[4], one[5], (one[6], one[7]))

    def __len__(self) -> int:
        return len(self.cost)

    @property
    def left(self) -> Ints:
        """Capacity that is still to be covered."""
        left: Ints = np.maximum(self.wanted - self.covered, 0)
        return left

    def rank(self) -> Ints:
        """Place of each in the order of preference."""
        order = np.lexsort((self.names[1], self.names[0], -self.covered, self.ties, self.cost))
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))
        return place

    def at(self, index: Ints | Bools) -> "States":
        """Return some of them."""
        return States(
            self.cost[index],
            self.ties[index],
            self.covered[index],
            self.wanted[index],
            self.spot[index],
            self.gpus[index],
            (self.names[0][index], self.names[1][index]),
        )

    def added(self, item: Item, index: int, *, cost: Ints, ties: Ints, replicas: Ints, held: Ints) -> "States":
        """Add replicas of one variant, the `index`th by name; all arguments are what is added."""
        capacity = replicas * item.capacity
        array, bits = _shift(index)
        first, second = (old - (replicas << bits) if array == at else old for at, old in enumerate(self.names))
        return States(
            self.cost + cost,
            self.ties + ties,
            self.covered + capacity,
            self.wanted,
            self.spot + (capacity if item.spot else 0),
            self.gpus + held,
            (first, second),
        )

    def counts(self, row: int, variants: int) -> tuple[int, ...]:
        """Return the counts of one combination."""
        places = [_shift(index) for index in range(variants)]
        return tuple(int(-self.names[array][row] >> bits) & (2**_NAME_BITS - 1) for array, bits in places)


def _shift(index: int) -> tuple[int, int]:
    """(array, bits) in which the count of a variant is packed."""
    return index // 4, _NAME_BITS * (3 - index % 4)


class Relaxation:
    """The linear relaxation of some variants: least cost by capacity beyond their lowest counts."""

    def __init__(self, segments: list[tuple[float, float, bool]], room: float) -> None:
        """`segments` are those of `Item.segments`; of those of spot no more than `room` together."""
        slopes, lengths = [0.0], [0.0]
        for slope, length, spot in sorted(segments):
            taken = min(length, room) if spot else length
            room -= taken if spot else 0.0
            slopes.append(slope)
            lengths.append(taken)
        self.capacity: Floats = np.cumsum(lengths)
        self.cost: Floats = np.cumsum(np.multiply(slopes, lengths))

    def least(self, left: Ints) -> Floats:
        """Return the least cost of covering `left`; infinite where it cannot be covered."""
        cost: Floats = np.interp(left, self.capacity, self.cost, right=np.inf)
        return cost

    def most(self, cost: float) -> float:
        """Return the most capacity that can be had for a cost."""
        index = int(np.searchsorted(self.cost, cost, side="right"))
        if index >= len(self.cost):
            return float(self.capacity[-1])
        if index == 0:
            return 0.0
        part = (cost - self.cost[index - 1]) / (self.cost[index] - self.cost[index - 1])
        return float(self.capacity[index - 1] + part * (self.capacity[index] - self.capacity[index - 1]))
