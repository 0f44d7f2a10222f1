"""What a node costs an hour, in which parts, by whose word and of which date; and what is saved when nodes go.

A node's price has one source (`PriceSource`, in the order of precedence), and its parts add up to it. Two numbers are
kept apart: `hour` is what the node costs on average, commitments included; `marginal_hour` is what is no longer paid
when a node goes that no commitment covers. Capacity that is committed or reserved is paid for whether it is used or
not: giving it back saves nothing (`saved_by_removal`). How a source is chosen is in `price_resolution`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from optiinfra.domain.readings import Unknown, Value
from optiinfra.domain.scaler.variant import CapacityType

GIB: Final = 2.0**30
MOST_HOUR: Final = 100_000.0
"""No node costs more an hour, in any currency that is likely here; a larger number is a price of something else."""


class PriceSource(StrEnum):
    """Who says what something costs, in the order of precedence."""

    OBJECT = "Object"
    """The prices of the ClusterResourceOptimization or its pool."""
    CONFIG_MAP = "ConfigMap"
    """The table of node prices in the ConfigMap of the chart."""
    OPENCOST = "OpenCost"
    """OpenCost's own API."""
    PROMETHEUS = "Prometheus"
    """OpenCost's metrics in a Prometheus-compatible server."""
    LIST_PRICE = "ListPrice"
    """The shipped table of on-demand list prices."""
    DEFAULT = "Default"
    """OpenCost's default prices of CPU and memory."""


class PriceFault(StrEnum):
    """Why a price is not known, for conditions."""

    MISSING = "Missing"
    """Nobody says what it costs."""
    INVALID = "Invalid"
    """Somebody says something that cannot be: zero, less, or parts that exceed the whole."""
    CURRENCY = "Currency"
    """The price is in another currency than the object's."""
    SOURCE = "Source"
    """A source that is configured does not answer, or answers something else."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a price is from."""

    source: PriceSource
    detail: str = ""
    """Where to look: a field, a row, an instance type with its region."""
    as_of: str = ""
    """YYYY, YYYY-MM or YYYY-MM-DD; empty where the source gives no date."""

    def __str__(self) -> str:
        where = f"{self.source} ({self.detail})" if self.detail else str(self.source)
        return f"{where}, as of {self.as_of}" if self.as_of else where


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms a pool is bought. Shares and factors are ratios."""

    spot_factor: float | None = None
    """Price of spot over the price on demand; None where nobody says."""
    committed_share: float = 0.0
    """Share of the pool's capacity, spot left aside, that is paid for whether it is used or not."""
    committed_gpus: float | None = None
    """The same as a number of GPUs; it counts instead of the share."""
    committed_factor: float = 1.0
    """Price of committed capacity over the price on demand."""

    def __post_init__(self) -> None:
        factors = [self.committed_factor] if self.spot_factor is None else [self.committed_factor, self.spot_factor]
        if not all(0.0 < factor <= 10.0 for factor in factors):
            raise ValueError(f"factors of prices must lie above 0 and at most at 10, got {factors}")
        if not 0.0 <= self.committed_share <= 1.0 or not (self.committed_gpus is None or self.committed_gpus >= 0.0):
            raise ValueError("a committed share lies between 0 and 1, committed GPUs are not less than 0")

    def share(self, *, gpus: float) -> float:
        """Return the committed share of a pool that has so many GPUs which are not spot."""
        if self.committed_gpus is None:
            return self.committed_share
        return min(1.0, self.committed_gpus / gpus) if gpus > 0.0 else 0.0


NO_TERMS: Final = Terms()


@dataclass(frozen=True, slots=True)
class NodePrice:
    """The price of one node, per hour, in the currency that it names."""

    node: str
    hour: Value
    """What it costs on average, commitments of its pool included."""
    marginal_hour: Value
    """What is no longer paid once it is gone, if no commitment covers it; 0 for a reserved node."""
    gpu_hour: Value
    """Of one GPU, as pods ask for it; unknown where the node has none."""
    cpu_core_hour: Value
    memory_gib_hour: Value
    origin: Origin
    currency: str
    capacity: CapacityType = CapacityType.ON_DEMAND
    committed_share: float = 0.0
    """Of its pool's capacity; 0 for spot, 1 for a reserved node."""
    fault: PriceFault | None = None
    """Why it is not known; None where it is."""
    gpus: float = 0.0
    cpu_cores: float = 0.0

    @property
    def units(self) -> float:
        """What commitments are counted in: GPUs where the node has some, else cores."""
        return self.gpus if self.gpus > 0.0 else self.cpu_cores


def saved_by_removal(gone: Sequence[NodePrice], staying: Sequence[NodePrice]) -> Value:
    """Return the money an hour that is no longer paid when nodes of one pool go and others of it stay.

    Spot and on-demand nodes save their own price. Committed capacity goes on being paid: of the nodes that are not
    spot, only what exceeds the commitment is saved, the cheapest of those that go first, so that nothing is promised
    that a dearer node would have to give. Nodes with GPUs and nodes without are counted apart. Unknown when the price
    of a node that goes is.
    """
    total = 0.0
    for with_gpus in (True, False):
        leaving = [node for node in gone if (node.gpus > 0.0) is with_gpus]
        firm = [node for node in [*leaving, *staying] if (node.gpus > 0.0) is with_gpus and not _is_spot(node)]
        free = sum(node.units * (1.0 - node.committed_share) for node in firm)
        unknown = next((node.marginal_hour for node in leaving if isinstance(node.marginal_hour, Unknown)), None)
        if unknown is not None:
            return unknown
        prices = [(node, node.marginal_hour) for node in leaving if not isinstance(node.marginal_hour, Unknown)]
        for node, price in sorted(prices, key=lambda pair: pair[1] / max(pair[0].units, 1e-9)):
            if _is_spot(node):
                total += price
            elif node.units > 0.0:
                saved = min(node.units, free)
                free -= saved
                total += price * saved / node.units
    return total


def _is_spot(node: NodePrice) -> bool:
    return node.capacity is CapacityType.SPOT
