"""A mix in whole numbers, and its limits in the order in which they give way.

Prices, capacities and times become integers of eight digits, so that equal prices are equal. What is looked for first
keeps everything: minimum and maximum, each variant's share, the GPUs, and enough that is not spot. Where the need
cannot be met so, the last of these gives way, step by step; the others are the user's and never do. What cannot be met
at all is met as far as it goes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, floor, log10
from typing import Final

from optiinfra.domain.readings import Unknown
from optiinfra.domain.scaler.mix_search import Found, cheapest, most_reachable, reach
from optiinfra.domain.scaler.mix_states import MILLION, Item, Problem
from optiinfra.domain.scaler.variant import LONGEST_START, PriceBasis, Variant
from optiinfra.domain.units import Ratio, Seconds

GPU_PARTS: Final = 16
"""GPUs are counted in sixteenths."""
CLEARLY: Final = 0.01
"""Share of the cost from which a difference is worth telling."""
_DIGITS: Final = 8


@dataclass(frozen=True, slots=True)
class Whole:
    """A mix in whole numbers."""

    variants: tuple[Variant, ...]
    """Those that can be weighed, in the order of their names, as the items of `problem`."""
    problem: Problem
    unit: float
    """Work per second of one unit of capacity."""
    basis: PriceBasis
    unweighed: tuple[Variant, ...]
    """Those whose capacity, or both price and GPUs, nobody knows; in the order of their names."""
    gpu_budget: int | None
    """Sixteenths of GPUs for those that are weighed; None for any number."""
    over_budget: bool
    """More GPUs run than the budget has: nothing may start, and nothing may wait to be replaced."""

    def units(self, work: float) -> int:
        """Return work per second in units; more than all variants together can have is cut."""
        most = sum(item.highest * item.capacity for item in self.problem.items) + 1
        # "1e-9": sums of capacities are rounded, and three replicas are enough for three times what one serves.
        return min(ceil(work / self.unit * (1.0 - 1e-9)), most) if work < most * self.unit else most

    def covered(self, counts: Sequence[int]) -> int:
        """Return the capacity of some counts."""
        return sum(count * item.capacity for count, item in zip(counts, self.problem.items, strict=True))


def price_of(variant: Variant, basis: PriceBasis, *, by_replica: bool) -> float:
    """Return what a replica counts for an hour; `by_replica` where no variant has GPUs."""
    value = variant.price if basis is PriceBasis.PRICE else 1.0 if by_replica else variant.gpus
    assert not isinstance(value, Unknown)
    return value


def whole(
    variants: Sequence[Variant], *, surviving: Ratio, horizon: Seconds, gpu_budget: float | None, kept: bool = True
) -> Whole:
    """Put variants into whole numbers. With `kept` False nothing runs yet and nothing costs to be started."""
    ordered = sorted(variants, key=lambda variant: variant.name)
    weighed = tuple(v for v in ordered if _weighable(v, budget=gpu_budget is not None))
    unweighed = tuple(v for v in ordered if v not in weighed)
    priced = not any(isinstance(v.price, Unknown) for v in weighed)
    basis = PriceBasis.PRICE if priced else PriceBasis.GPUS
    by_replica = not any(_gpus(v) for v in weighed)
    prices = [price_of(v, basis, by_replica=by_replica) for v in weighed]
    capacities = [v.capacity for v in weighed if not isinstance(v.capacity, Unknown)]
    money, unit = _unit(prices), _unit(capacities)
    items = tuple(
        _item(v, price=round(price / money), capacity=max(1, round(capacity / unit)), horizon=horizon, kept=kept)
        for v, price, capacity in zip(weighed, prices, capacities, strict=True)
    )
    spot_share = MILLION - round(surviving * MILLION) if any(item.spot for item in items) else MILLION
    problem = Problem(items, spot_share)
    parts, over = None, False
    if gpu_budget is not None:
        parts = floor(gpu_budget * GPU_PARTS) - sum(_gpus(v) * v.within(v.current) for v in unweighed)
        over = sum(item.current * item.gpus for item in items) > parts
        problem = replace(problem, items=tuple(map(_never_started, items)) if over else items, gpus=parts)
        if sum(max(item.highest, item.current) * item.gpus for item in problem.items) <= parts:
            problem = replace(problem, gpus=None)
    return Whole(weighed, problem, unit, basis, unweighed, parts, over)


def _never_started(item: Item) -> Item:
    highest = max(item.lowest, min(item.highest, item.current))
    return replace(item, highest=highest, current=0, start=0)


def _weighable(variant: Variant, *, budget: bool) -> bool:
    if isinstance(variant.capacity, Unknown):
        return False
    return not isinstance(variant.gpus, Unknown) or not (isinstance(variant.price, Unknown) or budget)


def _gpus(variant: Variant) -> int:
    return 0 if isinstance(variant.gpus, Unknown) else round(variant.gpus * GPU_PARTS)


def _unit(values: Sequence[float]) -> float:
    """Return the power of ten of which the largest value has eight digits."""
    largest = max(values, default=0.0)
    return float(10.0 ** (floor(log10(largest)) + 1 - _DIGITS)) if largest > 0.0 else 1.0


def _item(variant: Variant, *, price: int, capacity: int, horizon: Seconds, kept: bool) -> Item:
    highest = min(variant.maximum, variant.placed) if variant.stocked_out else variant.maximum
    start = round(min(variant.start_up_p95, LONGEST_START)) if kept else 0
    return Item(
        capacity=capacity,
        lowest=min(variant.minimum, highest),
        highest=highest,
        current=variant.placed if kept else 0,
        reserved=variant.paid_anyway,
        keep=price * round(horizon),
        start=price * start,
        gpus=_gpus(variant),
        share=round(variant.max_share * MILLION),
        spot=variant.spot,
    )


@dataclass(frozen=True, slots=True)
class Settled:
    """Where the mix goes."""

    counts: tuple[int, ...]
    gap: float
    reached: bool
    survives: bool
    """Whether enough is left should all spot go at once."""


def settle(problem: Problem, need: int) -> Settled:
    """Return the cheapest counts that meet the need within the limits, or as much of it as they allow."""
    lowest = tuple(item.lowest for item in problem.items)
    if not problem.items:
        return Settled((), 0.0, reached=need <= 0, survives=True)
    met = min(need, reach(problem))
    found, survives = _within(problem, met)
    if found is None:
        # Only GPUs can still be in the way.
        met = most_reachable(replace(problem, spot_share=MILLION), met)
        found, survives = _within(problem, met) if met >= 0 else (Found(lowest, 0.0), True)
    assert found is not None
    covered = sum(count * item.capacity for count, item in zip(found.counts, problem.items, strict=True))
    return Settled(found.counts, found.gap, reached=covered >= need, survives=survives)


def _within(problem: Problem, need: int) -> tuple[Found | None, bool]:
    """Return the cheapest counts, and whether they keep enough beside spot."""
    found = cheapest(problem, need)
    if found is not None or problem.spot_share >= MILLION:
        return found, found is not None
    # The need comes before what is left without spot: all that is not spot, and of spot what is missing then.
    items = tuple(
        item if item.spot or item.share < MILLION else replace(item, lowest=item.highest) for item in problem.items
    )
    anyhow = replace(problem, spot_share=MILLION)
    return cheapest(replace(anyhow, items=items), need) or cheapest(anyhow, need), False


def clearly_cheaper(problem: Problem, need: int, counts: Sequence[int]) -> tuple[int, ...] | None:
    """Return counts that meet the need, as far as `counts` do, at a clearly lower cost; None where there are none."""
    rows = list(zip(problem.items, counts, strict=True))
    cost = float(sum(item.cost_of(count) for item, count in rows))
    covered = sum(count * item.capacity for item, count in rows)
    found = cheapest(problem, min(need, covered), below=cost * (1.0 - CLEARLY)) if cost > 0.0 else None
    return None if found is None else found.counts
