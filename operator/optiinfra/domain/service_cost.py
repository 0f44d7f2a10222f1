"""What one service costs, all its targets together, and why a price is missing: for status, conditions and metrics."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from optiinfra.domain.prices import NodePrice, Origin, PriceFault
from optiinfra.domain.readings import Unknown, Value
from optiinfra.domain.token_cost import TokenPrice

_WORST_FIRST: Final = (PriceFault.SOURCE, PriceFault.INVALID, PriceFault.CURRENCY, PriceFault.MISSING)


@dataclass(frozen=True, slots=True)
class PriceTrouble:
    """Nodes whose price is not known, for one kind of reason."""

    fault: PriceFault
    nodes: tuple[str, ...]
    why: str
    """Of the first of them, in a sentence with the remedy."""


@dataclass(frozen=True, slots=True)
class ServiceCost:
    """The cost of one service."""

    currency: str
    held: Value
    """What its pods ask for, an hour."""
    used: Value
    """The part of it that is used."""
    per_replica: Value
    tokens: tuple[TokenPrice, ...] = ()
    origins: tuple[tuple[Origin, int], ...] = ()
    """Where the prices are from, and of how many pods; most pods first."""
    trouble: PriceTrouble | None = None
    """Why the cost is not known, where it is for a price."""


def troubles(prices: Iterable[NodePrice]) -> tuple[PriceTrouble, ...]:
    """Group the nodes whose price is not known by the kind of reason, the worst kind first."""
    by_fault: dict[PriceFault, list[NodePrice]] = defaultdict(list)
    for price in prices:
        if price.fault is not None:
            by_fault[price.fault].append(price)
    return tuple(
        PriceTrouble(fault, tuple(sorted(one.node for one in by_fault[fault])), _why(by_fault[fault]))
        for fault in _WORST_FIRST
        if fault in by_fault
    )


def _why(prices: list[NodePrice]) -> str:
    first = min(prices, key=lambda price: price.node).hour
    return first.detail if isinstance(first, Unknown) else ""
