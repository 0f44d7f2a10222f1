"""Which pods are to be expected: a weighted list of requests, given or learned from those that came.

`Demand` is frozen, for scores compute tables from it. `LearnedDemand` counts what arrives and hands out a new `Demand`
at doubling sizes only, so that learning costs a logarithmic number of recomputations; it never looks ahead. It begins
early: what is placed before anything is known is placed badly for good. The rarest kinds are left out: they are many
and decide nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from optiinfra.domain.placement.request import Request

MOST_KINDS: Final = 256
"""Kinds of requests that are told apart."""
_COVERED: Final = 0.99
"""Share of the pods whose kinds are kept."""
_FIRST: Final = 8
_GROWTH: Final = 2


@dataclass(frozen=True, slots=True)
class Demand:
    """Kinds of requests with their weights (pods seen), the most frequent first."""

    kinds: tuple[tuple[Request, int], ...]

    @classmethod
    def of(cls, requests: Iterable[Request]) -> "Demand":
        """Count requests."""
        counts: dict[Request, int] = {}
        for request in requests:
            counts[request] = counts.get(request, 0) + 1
        return cls.from_counts(counts)

    @classmethod
    def from_counts(cls, counts: Mapping[Request, int]) -> "Demand":
        """Keep the most frequent kinds, in an order that does not depend on that of the counts."""
        wanted = _COVERED * sum(counts.values())
        kept: list[tuple[Request, int]] = []
        for kind, count in sorted(counts.items(), key=_rank)[:MOST_KINDS]:
            if sum(count for _, count in kept) >= wanted:
                break
            kept.append((kind, count))
        return cls(tuple(kept))

    @property
    def weight(self) -> int:
        """Pods counted."""
        return sum(count for _, count in self.kinds)


class LearnedDemand:
    """Counts arrivals; `current` changes when they have doubled."""

    def __init__(self) -> None:
        self._counts: dict[Request, int] = {}
        self._seen = 0
        self._next = _FIRST
        self.current = Demand(())

    def observe(self, request: Request) -> bool:
        """Count one arrival; True when `current` is a new one."""
        self._counts[request] = self._counts.get(request, 0) + 1
        self._seen += 1
        if self._seen < self._next:
            return False
        self._next *= _GROWTH
        self.current = Demand.from_counts(self._counts)
        return True


def _rank(item: tuple[Request, int]) -> tuple[int, int, int, int, int, tuple[str, ...]]:
    one, count = item
    return -count, one.gpus, one.gpu_milli, one.cpu_milli, one.memory_bytes, one.gpu_models
