"""Prices, what a workload costs, and what a change would save.

CPU and memory have list prices that hardly differ between clouds; OpenCost's defaults stand in until a price is
configured. A GPU's price differs by a factor of ten between models and contracts: there is no default, and a cost
with GPUs in it is unknown until somebody says what they pay. Freed requests are not money: `Savings.per_month` is what
is saved once the freed capacity is given back.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from optiinfra.domain.evidence import Savings
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.units import HOURS_PER_MONTH, Money

OPENCOST_CPU_CORE_HOUR: Final = 0.031611
"""OpenCost's default price of a core for an hour, on demand, in USD."""
OPENCOST_MEMORY_GIB_HOUR: Final = 0.004237
"""OpenCost's default price of a GiB for an hour, on demand, in USD."""
GIB: Final = 2.0**30
_NO_PRICE: Final = Unknown(UnknownReason.NOT_CONFIGURED, "no GPU price; set prices.gpuHour of the pool")


@dataclass(frozen=True, slots=True)
class PriceList:
    """What capacity costs an hour, all in one currency."""

    gpu_hour_by_model: Mapping[str, float] = field(default_factory=dict)
    """GPU model, or a part of its name ("H100") -> price of one GPU for an hour."""
    gpu_hour: Value = _NO_PRICE
    """Of GPUs whose model has no price of its own."""
    cpu_core_hour: float = OPENCOST_CPU_CORE_HOUR
    memory_gib_hour: float = OPENCOST_MEMORY_GIB_HOUR

    def __post_init__(self) -> None:
        prices = [*self.gpu_hour_by_model.values(), self.cpu_core_hour, self.memory_gib_hour]
        if not isinstance(self.gpu_hour, Unknown):
            prices.append(self.gpu_hour)
        if not all(0.0 <= price < float("inf") for price in prices):
            raise ValueError(f"a price must be zero or more and finite: {prices}")

    def gpu_hour_of(self, model: str) -> Value:
        """Return the price of a GPU: of its exact model, else of the longest name that is part of it, else of all."""
        if model in self.gpu_hour_by_model:
            return self.gpu_hour_by_model[model]
        wanted = _squash(model)
        parts = [name for name in self.gpu_hour_by_model if _squash(name) and _squash(name) in wanted]
        return self.gpu_hour_by_model[max(parts, key=len)] if parts else self.gpu_hour


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
    cost = cpu_cores * prices.cpu_core_hour + memory_bytes / GIB * prices.memory_gib_hour
    if gpus <= 0.0:
        return cost
    gpu_hour = prices.gpu_hour_of(gpu_model)
    return gpu_hour if isinstance(gpu_hour, Unknown) else cost + gpus * gpu_hour


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

    `share_of_time` is the share of the month in which it is free. Money is left out where a GPU has no price.
    """
    if not 0.0 <= share_of_time <= 1.0:
        raise ValueError(f"share_of_time must lie between 0 and 1, got {share_of_time!r}")
    hourly = cpu_cores * prices.cpu_core_hour + memory_bytes / GIB * prices.memory_gib_hour
    money: Money | None = Money(hourly * HOURS_PER_MONTH * share_of_time)
    if gpus:
        gpu_hour = prices.gpu_hour_of(gpu_model)
        money = (
            None
            if isinstance(gpu_hour, Unknown)
            else Money((hourly + gpus * gpu_hour) * HOURS_PER_MONTH * share_of_time)
        )
    return Savings(gpus_freed=gpus, cpu_cores_freed=cpu_cores, memory_bytes_freed=memory_bytes, per_month=money)


def _squash(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
