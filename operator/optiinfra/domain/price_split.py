"""A node's price cut into its GPUs, its cores and its memory: parts that always add up to the whole.

The way is OpenCost's: the unit prices of one node keep the ratios of weights, here a core at 0.031611, a GiB at
0.004237 (OpenCost's defaults) and a GPU at what its model weighs in `list_prices.gpu_weight`. A unit price that
somebody gives is kept as it is, and the rest of the node's price goes to the other parts by their weights.
"""

from dataclasses import dataclass
from typing import Final

from optiinfra.domain.list_prices import OPENCOST_CPU_CORE_HOUR, OPENCOST_MEMORY_GIB_HOUR, gpu_weight
from optiinfra.domain.prices import GIB
from optiinfra.domain.readings import Unknown, UnknownReason


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a node has; GPUs as pods ask for them."""

    gpus: float
    gpu_model: str
    cpu_cores: float
    memory_bytes: float
    devices: float = 0.0
    """GPUs that are really in it, where time-slicing or MIG offers more of them to pods; 0: as many as `gpus`."""

    @property
    def amounts(self) -> tuple[float, float, float]:
        """GPUs, cores, GiB."""
        return self.gpus, self.cpu_cores, self.memory_bytes / GIB

    @property
    def offered_per_device(self) -> float:
        """How many GPUs pods see of each real one."""
        return self.gpus / self.devices if self.devices > 0.0 and self.gpus > 0.0 else 1.0


@dataclass(frozen=True, slots=True)
class UnitPrices:
    """Prices an hour of one GPU (as pods ask for it), one core and one GiB; None where somebody did not say."""

    gpu: float | None = None
    cpu_core: float | None = None
    memory_gib: float | None = None


UNSAID: Final = UnitPrices()


@dataclass(frozen=True, slots=True)
class Parts:
    """The three unit prices of a node; 0 for what it has none of."""

    gpu: float
    cpu_core: float
    memory_gib: float

    def total(self, capacity: Capacity) -> float:
        """Return the price of the whole node."""
        gpus, cores, gib = capacity.amounts
        return self.gpu * gpus + self.cpu_core * cores + self.memory_gib * gib


def split(hour: float, capacity: Capacity, given: UnitPrices = UNSAID) -> Parts | Unknown:
    """Cut the price of a node, an hour, into unit prices.

    Unknown (Invalid) when the prices that are given already come to more than the whole, and when the node has nothing.
    """
    amounts = capacity.amounts
    weights = (
        gpu_weight(capacity.gpu_model) / capacity.offered_per_device,
        OPENCOST_CPU_CORE_HOUR,
        OPENCOST_MEMORY_GIB_HOUR,
    )
    fixed = (given.gpu, given.cpu_core, given.memory_gib)
    rest = hour - sum(price * amount for price, amount in zip(fixed, amounts, strict=True) if price is not None)
    weighed = sum(
        weight * amount for weight, amount, price in zip(weights, amounts, fixed, strict=True) if price is None
    )
    if rest < 0.0 or (weighed > 0.0 and rest <= 0.0):
        return Unknown(
            UnknownReason.INVALID,
            f"the prices of its parts come to more than the node's {hour:.4g} an hour; correct one of them",
        )
    if weighed <= 0.0 and all(price is None for price in fixed):
        return Unknown(UnknownReason.INVALID, "the node has neither GPUs nor cores nor memory to be paid for")
    scale = rest / weighed if weighed > 0.0 else 0.0
    gpu, core, gib = (
        price if price is not None else weight * scale if amount > 0.0 else 0.0
        for price, weight, amount in zip(fixed, weights, amounts, strict=True)
    )
    return Parts(gpu, core, gib)
