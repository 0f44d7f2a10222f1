"""What a mix is made of and what it comes to: variants of one service, the choice for each, and what it beat.

A variant is one deployment of the same model: another GPU type, another zone, spot or on-demand nodes. All variants of
a mix do the same work, so a unit of work may go to any of them; those that only prefill and those that only decode are
mixed apart. What is not known of a variant is an `Unknown`, and the choice says what followed from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import isfinite
from typing import Final

from optiinfra.domain.readings import Unknown, Value
from optiinfra.domain.scaler.mix_states import MOST_REPLICAS
from optiinfra.domain.scaler.observation import ScalerInputError
from optiinfra.domain.units import Ratio, Seconds

LONGEST_START: Final = Seconds(86_400.0)
"""A longer start-up is paid for as if it were this long."""


class CapacityType(StrEnum):
    """How the nodes of a variant are paid for."""

    ON_DEMAND = "OnDemand"
    SPOT = "Spot"
    """May be taken away, all at once and without asking."""
    RESERVED = "Reserved"
    """Paid for whether it is used or not."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One deployment of the model, as it stands."""

    name: str
    capacity: Value
    """Work per second that one replica serves at the objective."""
    price: Value
    """Of one replica for an hour."""
    gpus: Value
    """Of one replica."""
    minimum: int
    maximum: int
    current: int
    """Replicas asked for now (spec)."""
    ready: int
    """Replicas that serve."""
    starting: int
    """Replicas that have a node and do not serve yet. What is asked for beyond ready and starting waits for a node."""
    start_up_p50: Seconds
    start_up_p95: Seconds
    capacity_type: CapacityType = CapacityType.ON_DEMAND
    max_share: Ratio = Ratio(1.0)
    """Most that it may carry of the capacity of all."""
    reserved: int | None = None
    """Replicas that are paid for anyway; None: all of a reserved variant, none of another."""
    stocked_out: bool = False
    """Its pods find no node and none comes. It is asked for no more until the caller takes the flag away."""

    def __post_init__(self) -> None:
        counts = (self.minimum, self.maximum, self.current, self.ready, self.starting, self.reserved or 0)
        if not all(count >= 0 for count in counts) or not self.minimum <= self.maximum <= MOST_REPLICAS:
            raise ScalerInputError(
                f"variant {self.name}: counts must lie between 0 and {MOST_REPLICAS} and minimum not above maximum"
            )
        for field in ("capacity", "price", "gpus"):
            value = getattr(self, field)
            if not isinstance(value, Unknown) and not (isfinite(value) and value >= 0.0):
                raise ScalerInputError(f"variant {self.name}: {field} must be zero or more and finite, or Unknown")
        if not isinstance(self.capacity, Unknown) and self.capacity <= 0.0:
            raise ScalerInputError(f"variant {self.name}: a capacity of 0 is not known: give an Unknown")
        if not (0.0 <= self.start_up_p50 < float("inf") and 0.0 <= self.start_up_p95 < float("inf")):
            raise ScalerInputError(f"variant {self.name}: start-up times must be zero or more and finite")
        if not 0.0 < self.max_share <= 1.0:
            raise ScalerInputError(f"variant {self.name}: max_share must be above 0 and not above 1")

    @property
    def spot(self) -> bool:
        """Whether its replicas may be taken away at any time."""
        return self.capacity_type is CapacityType.SPOT

    @property
    def paid_anyway(self) -> int:
        """Replicas that cost nothing more when they are used."""
        if self.reserved is not None:
            return self.reserved
        return self.maximum if self.capacity_type is CapacityType.RESERVED else 0

    @property
    def placed(self) -> int:
        """Replicas that serve or surely will: with a variant that is stocked out, only those that have a node."""
        return min(self.current, self.ready + self.starting) if self.stocked_out else self.current

    def within(self, count: int) -> int:
        """Return the count within the limits."""
        return min(max(count, self.minimum), self.maximum)


class MixReason(StrEnum):
    """Why a variant has the count that it has."""

    CHEAPEST = "Cheapest"
    """More of it is the cheapest way to the need."""
    DEARER = "Dearer"
    """Others do its work for less."""
    SURPLUS = "Surplus"
    """Less of it is enough."""
    UNTIL_READY = "UntilOthersReady"
    """It goes as soon as what replaces it serves."""
    KEPT = "Kept"
    AT_MINIMUM = "AtMinimum"
    AT_MAXIMUM = "AtMaximum"
    AT_SHARE = "AtMaxShare"
    STOCKED_OUT = "StockedOut"
    CAPACITY_UNKNOWN = "CapacityUnknown"
    """Nobody knows yet what it is worth (what it serves, or both price and GPUs): it is left as it is."""
    LAST_RESORT = "LastResort"
    """Nobody knows what it is worth, but no other variant can give more."""


class MixLimit(StrEnum):
    """What kept the mix from what it was asked for."""

    MAXIMUM = "Maximum"
    MAX_SHARE = "MaxShare"
    STOCKED_OUT = "StockedOut"
    GPU_BUDGET = "GpuBudget"
    CAPACITY_UNKNOWN = "CapacityUnknown"
    AVAILABILITY = "Availability"
    """The need is met, but not without spot, should all of it go at once."""


class PriceBasis(StrEnum):
    """What was compared."""

    PRICE = "Price"
    GPUS = "Gpus"
    """A price is missing, so the GPUs of a replica stand for it; a replica where none has GPUs."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What one variant is asked for."""

    name: str
    desired: int
    """Replicas to ask for now."""
    settled: int
    """Replicas once all that starts is ready; less than `desired` while it waits to be replaced."""
    reason: MixReason
    message: str


@dataclass(frozen=True, slots=True)
class MixAlternative:
    """Another mix that was not chosen."""

    name: str
    settled: Mapping[str, int]
    price: Value
    """For an hour, once all is ready."""
    reaches: bool
    """Whether it meets the need within the limits."""
    message: str


@dataclass(frozen=True, slots=True)
class Shortfall:
    """A limit that was in the way, and of which variants."""

    limit: MixLimit
    variants: tuple[str, ...]
    message: str


@dataclass(frozen=True, slots=True)
class Mix:
    """The cheapest mix, and what it beat."""

    choices: tuple[Choice, ...]
    """In the order of the names."""
    need: float
    """Work per second that was asked for."""
    capacity: float
    """Work per second of the settled mix, without variants whose capacity is not known."""
    price: Value
    """Of the settled mix for an hour, without what is paid anyway."""
    basis: PriceBasis
    alternatives: tuple[MixAlternative, ...]
    shortfalls: tuple[Shortfall, ...]
    gap: float
    """No mix is cheaper by more than this share; 0 where the search was complete."""

    @property
    def desired(self) -> dict[str, int]:
        """Replicas to ask for now, by variant."""
        return {choice.name: choice.desired for choice in self.choices}

    @property
    def settled(self) -> dict[str, int]:
        """Replicas once all is ready, by variant."""
        return {choice.name: choice.settled for choice in self.choices}

    @property
    def reached(self) -> bool:
        """Whether the settled mix meets the need."""
        return all(shortfall.limit is MixLimit.AVAILABILITY for shortfall in self.shortfalls)
