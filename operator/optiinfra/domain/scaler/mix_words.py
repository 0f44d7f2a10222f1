"""A mix as people read it: the reason of each count, what it beat and at what price, and which limits were in the way.

Nothing is decided here. Prices are per hour, in the currency of the caller's prices.
"""

from collections.abc import Mapping, Sequence

from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.scaler.mix_states import MILLION
from optiinfra.domain.scaler.mix_whole import Settled, Whole
from optiinfra.domain.scaler.variant import (
    Choice,
    Mix,
    MixAlternative,
    MixLimit,
    MixReason,
    PriceBasis,
    Shortfall,
    Variant,
)
from optiinfra.domain.units import Seconds


def told(
    given: Whole,
    settled: Settled,
    *,
    need: float,
    desired: Sequence[int],
    unweighed: Sequence[int],
    from_nothing: Sequence[int] | None,
    horizon: Seconds,
) -> Mix:
    """Put a mix together from the counts of the variants that were weighed and of those that were not."""
    grows = any(count > v.placed for v, count in zip(given.variants, settled.counts, strict=True))
    choices = [
        _choice(given, settled, index, desired=desired[index], grows=grows) for index in range(len(given.variants))
    ]
    choices += [_left(v, count) for v, count in zip(given.unweighed, unweighed, strict=True)]
    counts = {v.name: count for v, count in zip(given.variants, settled.counts, strict=True)}
    others = {v.name: count for v, count in zip(given.unweighed, unweighed, strict=True)}
    everyone = (*given.variants, *given.unweighed)
    return Mix(
        choices=tuple(sorted(choices, key=lambda choice: choice.name)),
        need=need,
        capacity=given.covered(settled.counts) * given.unit,
        price=hourly(everyone, counts | others),
        basis=given.basis,
        alternatives=tuple(_alternatives(given, counts, others, need=need, from_nothing=from_nothing, horizon=horizon)),
        shortfalls=tuple(_shortfalls(given, settled, need=need)),
        gap=settled.gap,
    )


def hourly(variants: Sequence[Variant], counts: Mapping[str, int]) -> Value:
    """Return what counts of variants cost an hour, without what is paid anyway."""
    total = 0.0
    for variant in variants:
        paid = max(0, counts[variant.name] - variant.paid_anyway)
        if paid and isinstance(variant.price, Unknown):
            return Unknown(UnknownReason.NOT_CONFIGURED, f"variant {variant.name} has no price")
        total += paid * variant.price if not isinstance(variant.price, Unknown) else 0.0
    return total


def _choice(given: Whole, settled: Settled, index: int, *, desired: int, grows: bool) -> Choice:
    variant, count = given.variants[index], settled.counts[index]
    reason, why = _reason(given, settled, index, desired=desired, grows=grows)
    now = f"{desired} now, {count} once the others serve" if desired > count else f"{desired}"
    return Choice(variant.name, desired, count, reason, f"{variant.name}: {now} ({reason}): {why}")


def _reason(given: Whole, settled: Settled, index: int, *, desired: int, grows: bool) -> tuple[MixReason, str]:
    variant, count = given.variants[index], settled.counts[index]
    item = given.problem.items[index]
    if variant.stocked_out:
        waiting = max(0, variant.current - variant.placed)
        return MixReason.STOCKED_OUT, f"{waiting} of {variant.current} replicas find no node; others are asked instead"
    if desired > count:
        return MixReason.UNTIL_READY, "what replaces it does not serve yet"
    if count > variant.current:
        return MixReason.CHEAPEST, f"{_each(given, variant)}; ready in {variant.start_up_p50:.0f} s in the median"
    if count == variant.minimum and count < variant.current:
        return MixReason.AT_MINIMUM, f"its minimum; {_each(given, variant)}"
    if count < variant.current:
        return (
            (MixReason.DEARER, f"{_each(given, variant)}, others serve it for less")
            if grows
            else (MixReason.SURPLUS, "less of it is enough")
        )
    if item.share < MILLION and (count + 1) * item.capacity * MILLION > item.share * (
        given.covered(settled.counts) + item.capacity
    ):
        return MixReason.AT_SHARE, f"one more would be above its share of {variant.max_share:.0%}"
    if count == variant.maximum:
        return MixReason.AT_MAXIMUM, "its maximum"
    if count == variant.minimum:
        return MixReason.AT_MINIMUM, "its minimum"
    return MixReason.KEPT, "no change pays itself back"


def _left(variant: Variant, count: int) -> Choice:
    missing = "neither its price nor its GPUs are known"
    if isinstance(variant.capacity, Unknown):
        missing = "what a replica serves is not known"
    if count > variant.within(variant.current):
        reason, why = MixReason.LAST_RESORT, f"no other variant can give more, though {missing}"
    else:
        reason, why = MixReason.CAPACITY_UNKNOWN, f"{missing} yet, so it is left as it is"
    return Choice(variant.name, count, count, reason, f"{variant.name}: {count} ({reason}): {why}")


def _each(given: Whole, variant: Variant) -> str:
    """Say what a unit of its work costs."""
    assert not isinstance(variant.capacity, Unknown)
    if variant.paid_anyway:
        return f"{variant.paid_anyway} of it are paid for anyway"
    if given.basis is PriceBasis.GPUS or isinstance(variant.price, Unknown):
        gpus = "an unknown number of" if isinstance(variant.gpus, Unknown) else f"{variant.gpus:g}"
        return f"{gpus} GPUs serve {variant.capacity:.4g} work/s (compared by GPUs: a price is missing)"
    return f"{variant.price / variant.capacity * 1000.0:.4g} an hour for 1000 work/s"


def _alternatives(
    given: Whole,
    counts: Mapping[str, int],
    others: Mapping[str, int],
    *,
    need: float,
    from_nothing: Sequence[int] | None,
    horizon: Seconds,
) -> list[MixAlternative]:
    """Return what runs now, each variant alone as far as the limits allow, and what would be cheapest from nothing."""
    everyone = (*given.variants, *given.unweighed)
    tried: list[tuple[str, Sequence[int], str]] = [
        ("AsItRuns", [v.within(v.placed) for v in given.variants], "what runs now"),
    ]
    if from_nothing is not None:
        text = f"cheaper if nothing ran; starting it does not pay itself back within {horizon / 60.0:.0f} minutes"
        if given.problem.gpus is not None:
            text = "cheaper if nothing ran; starting it does not pay itself back, or has no GPUs beside what runs"
        tried.append(("FromNothing", from_nothing, text))
    lowest = [item.lowest for item in given.problem.items]
    wanted = given.units(need)
    for index, variant in enumerate(given.variants):
        item = given.problem.items[index]
        missing = max(0, wanted - given.covered(lowest))
        alone = min(item.lowest + -(-missing // item.capacity), max(item.highest, item.lowest))
        text = f"all on {variant.name}, the others at their minimum"
        tried.append((f"Only {variant.name}", [*lowest[:index], alone, *lowest[index + 1 :]], text))
    found: list[MixAlternative] = []
    for name, other, text in tried:
        named = {v.name: count for v, count in zip(given.variants, other, strict=True)}
        if named != counts and all(named != one.settled for one in found):
            price = hourly(everyone, {**named, **others})
            found.append(MixAlternative(name, named, price, given.problem.fits(other, wanted), text))
    return found


def _shortfalls(given: Whole, settled: Settled, *, need: float) -> list[Shortfall]:
    """Say which limits were in the way."""
    found: list[Shortfall] = []
    if not settled.survives:
        spot = tuple(v.name for v in given.variants if v.spot)
        left = 1.0 - given.problem.spot_share / MILLION
        text = f"should all spot go at once, less than {left:.0%} would be left: allow more that is not spot"
        found.append(Shortfall(MixLimit.AVAILABILITY, spot, text))
    if settled.reached:
        return found
    rows = list(zip(given.variants, settled.counts, given.problem.items, strict=True))
    full = tuple(v.name for v, count, _ in rows if count >= v.maximum)
    empty = tuple(v.name for v, count, item in rows if v.stocked_out and count >= item.highest and count < v.maximum)
    shares = tuple(
        v.name for v, count, item in rows if count < item.highest and item.share < MILLION and not v.stocked_out
    )
    unknown = tuple(v.name for v in given.unweighed)
    have = f"{given.covered(settled.counts) * given.unit:.4g} of {need:.4g} work/s"
    if full:
        found.append(Shortfall(MixLimit.MAXIMUM, full, f"{have}: raise the maximum of {_names(full)}"))
    if empty:
        found.append(Shortfall(MixLimit.STOCKED_OUT, empty, f"{have}: no node for more of {_names(empty)}"))
    if shares:
        found.append(Shortfall(MixLimit.MAX_SHARE, shares, f"{have}: raise maxShare of {_names(shares)}"))
    if given.problem.gpus is not None:
        text = f"{have}: no more GPUs are allowed"
        found.append(Shortfall(MixLimit.GPU_BUDGET, tuple(v.name for v in given.variants), text))
    if unknown:
        text = f"{have}: what {_names(unknown)} can serve is not known"
        found.append(Shortfall(MixLimit.CAPACITY_UNKNOWN, unknown, text))
    return found


def _names(names: Sequence[str]) -> str:
    return ", ".join(names)
