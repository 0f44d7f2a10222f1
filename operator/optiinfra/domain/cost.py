"""What a workload costs, and what a change would save, at unit prices: one GPU, one core, one GiB for an hour.

A `PriceList` holds the unit prices of a pool, whoever says them (`price_resolution`). A GPU's price differs by a
factor of ten between models and contracts: there is no default, and a cost with GPUs in it is unknown until somebody
says what they pay. CPU and memory have OpenCost's defaults, in USD only. Freed requests are not money:
`Savings.per_month` is what is saved once the freed capacity is given back; what removing whole nodes saves is
`prices.saved_by_removal`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from optiinfra.domain.evidence import Savings
from optiinfra.domain.list_prices import CURRENCY, OPENCOST_CPU_CORE_HOUR, OPENCOST_MEMORY_GIB_HOUR
from optiinfra.domain.price_resolution import PriceBook
from optiinfra.domain.price_table import squash
from optiinfra.domain.prices import GIB, NodePrice
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.units import HOURS_PER_MONTH, Money
from optiinfra.domain.workload import NodeFacts

__all__ = [
    "GIB",
    "OPENCOST_CPU_CORE_HOUR",
    "OPENCOST_MEMORY_GIB_HOUR",
    "PriceList",
    "hourly",
    "node_hourly",
    "pool_price_list",
    "saving",
    "workload_cost_per_hour",
]

_NO_PRICE: Final = Unknown(UnknownReason.NOT_CONFIGURED, "no GPU price; set prices.gpuHour of the pool")


@dataclass(frozen=True, slots=True)
class PriceList:
    """What capacity costs an hour, all in one currency."""

    gpu_hour_by_model: Mapping[str, float] = field(default_factory=dict)
    """GPU model, or a part of its name ("H100") -> price of one GPU for an hour."""
    gpu_hour: Value = _NO_PRICE
    """Of GPUs whose model has no price of its own."""
    cpu_core_hour: Value = OPENCOST_CPU_CORE_HOUR
    memory_gib_hour: Value = OPENCOST_MEMORY_GIB_HOUR

    def __post_init__(self) -> None:
        given = (self.gpu_hour, self.cpu_core_hour, self.memory_gib_hour)
        prices = [*self.gpu_hour_by_model.values(), *(price for price in given if not isinstance(price, Unknown))]
        if not all(0.0 <= price < float("inf") for price in prices):
            raise ValueError(f"a price must be zero or more and finite: {prices}")

    def gpu_hour_of(self, model: str) -> Value:
        """Return the price of a GPU: of its exact model, else of the longest name that is part of it, else of all."""
        if model in self.gpu_hour_by_model:
            return self.gpu_hour_by_model[model]
        wanted = squash(model)
        parts = [name for name in self.gpu_hour_by_model if squash(name) and squash(name) in wanted]
        return self.gpu_hour_by_model[max(parts, key=len)] if parts else self.gpu_hour


def hourly(
    prices: PriceList, *, gpus: float = 0.0, gpu_model: str = "", cpu_cores: float = 0.0, memory_bytes: float = 0.0
) -> Value:
    """Return what capacity costs an hour; unknown while a part that is not zero has no price."""
    parts: list[tuple[float, Value]] = [
        (gpus, prices.gpu_hour_of(gpu_model)),
        (cpu_cores, prices.cpu_core_hour),
        (memory_bytes / GIB, prices.memory_gib_hour),
    ]
    return _sum(parts)


def node_hourly(price: NodePrice, *, gpus: float = 0.0, cpu_cores: float = 0.0, memory_bytes: float = 0.0) -> Value:
    """Return what a part of one node costs an hour, at the node's own prices; GPUs as pods ask for them."""
    parts: list[tuple[float, Value]] = [
        (gpus, price.gpu_hour),
        (cpu_cores, price.cpu_core_hour),
        (memory_bytes / GIB, price.memory_gib_hour),
    ]
    return _sum(parts)


def workload_cost_per_hour(
    prices: PriceList,
    *,
    gpus: float,
    gpu_model: str,
    cpu_cores: Value,
    memory_bytes: Value,
) -> Value:
    """Return what a workload's requests cost an hour; unknown while a part that it uses has no price or size."""
    if isinstance(cpu_cores, Unknown):
        return cpu_cores
    if isinstance(memory_bytes, Unknown):
        return memory_bytes
    return hourly(prices, gpus=max(0.0, gpus), gpu_model=gpu_model, cpu_cores=cpu_cores, memory_bytes=memory_bytes)


def saving(
    prices: PriceList,
    *,
    gpus: float = 0.0,
    gpu_model: str = "",
    cpu_cores: float = 0.0,
    memory_bytes: float = 0.0,
    share_of_time: float = 1.0,
) -> Savings:
    """Return what freeing capacity saves. Negative amounts are added capacity, and cost money.

    `share_of_time` is the share of the month in which it is free. Money is left out where a part has no price.
    """
    if not 0.0 <= share_of_time <= 1.0:
        raise ValueError(f"share_of_time must lie between 0 and 1, got {share_of_time!r}")
    cost = hourly(prices, gpus=gpus, gpu_model=gpu_model, cpu_cores=cpu_cores, memory_bytes=memory_bytes)
    money = None if isinstance(cost, Unknown) else Money(cost * HOURS_PER_MONTH * share_of_time)
    return Savings(gpus_freed=gpus, cpu_cores_freed=cpu_cores, memory_bytes_freed=memory_bytes, per_month=money)


def pool_price_list(
    book: PriceBook, pool: str, nodes: Iterable[NodeFacts], node_prices: Mapping[str, NodePrice]
) -> PriceList:
    """Return the unit prices of a pool: what the object says, else the average of its nodes, else the defaults.

    A GPU model of which one node has no price has none: an average over the others would be a guess about it.
    """
    mine = [(node, node_prices[node.name]) for node in nodes if node.pool == pool and node.name in node_prices]
    by_model: dict[str, list[tuple[float, Value]]] = {}
    for node, price in mine:
        if node.gpus > 0.0:
            by_model.setdefault(node.gpu_model, []).append((node.gpus, price.gpu_hour))
    means = {model: _mean(pairs) for model, pairs in by_model.items()}
    given = book.pool(pool).units
    plain = [(node, price) for node, price in mine if price.fault is None]
    core = _mean([(node.cpu_cores, price.cpu_core_hour) for node, price in plain])
    gib = _mean([(node.memory_bytes, price.memory_gib_hour) for node, price in plain])
    return PriceList(
        gpu_hour_by_model={model: mean for model, mean in means.items() if not isinstance(mean, Unknown) and model},
        gpu_hour=_all(given.gpu, fallback=_nameless(means)),
        cpu_core_hour=_all(given.cpu_core, fallback=_or_default(core, OPENCOST_CPU_CORE_HOUR, book, "cpuCoreHour")),
        memory_gib_hour=_all(
            given.memory_gib, fallback=_or_default(gib, OPENCOST_MEMORY_GIB_HOUR, book, "memoryGiBHour")
        ),
    )


def _nameless(means: Mapping[str, Value]) -> Value:
    """Price of the GPUs whose model nobody says; else why a price is missing."""
    if "" in means:
        return means[""]
    return next((mean for mean in means.values() if isinstance(mean, Unknown)), _NO_PRICE)


def _all(given: float | None, *, fallback: Value) -> Value:
    if given is None:
        return fallback
    if given > 0.0:
        return given
    return Unknown(UnknownReason.INVALID, "a price of zero: give what it costs, or leave it out")


def _or_default(mean: Value, default: float, book: PriceBook, name: str) -> Value:
    if not isinstance(mean, Unknown):
        return mean
    if book.currency == CURRENCY:
        return default
    text = f"the default price is in {CURRENCY}: set prices.{name} in {book.currency}"
    return Unknown(UnknownReason.NOT_CONFIGURED, text)


def _mean(pairs: Sequence[tuple[float, Value]]) -> Value:
    """Weighted mean; unknown as soon as one of them is."""
    unknown = next((value for _, value in pairs if isinstance(value, Unknown)), None)
    if unknown is not None:
        return unknown
    weight = sum(amount for amount, _ in pairs)
    if weight <= 0.0:
        return _NO_PRICE
    return sum(amount * value for amount, value in pairs if not isinstance(value, Unknown)) / weight


def _sum(parts: Sequence[tuple[float, Value]]) -> Value:
    total = 0.0
    for amount, price in parts:
        if amount == 0.0:
            continue
        if isinstance(price, Unknown):
            return price
        total += amount * price
    return total
