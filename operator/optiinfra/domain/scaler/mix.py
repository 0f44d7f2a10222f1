"""The cheapest mix of a service's variants that meets its load: other GPU types, other zones, spot and on demand.

    mix(need, variants).desired        # replicas to ask for now, by variant

The need is in work per second with its headroom, because a replica of one variant is not worth one of another. The
cheapest counts are found exactly (`mix_search`), counting what starting a replica costs: it is paid for and serves
nothing, while what it replaces is paid for too. A change that does not pay that back within the horizon is not made.
What is replaced goes only when what replaces it is ready. Spot may be lost all at once, so the rest must carry a share
of the whole by itself. A variant without stock is not asked for more, and the next cheapest is. The rules and the order
in which they give way are in `mix_whole`.

The settled capacity never falls when the need rises, and asking again with the answer changes nothing. While one
variant replaces another both count, so that for this while the sum of what is asked for may be larger for a smaller
need.

It knows no load, no steps and no cooldowns, and one role at a time: prefill and decode replace each other by nothing.
"""

from collections.abc import Sequence
from math import ceil, isfinite
from typing import Final

from optiinfra.domain.readings import Unknown
from optiinfra.domain.scaler import mix_words
from optiinfra.domain.scaler.mix_search import MOST_VARIANTS
from optiinfra.domain.scaler.mix_whole import GPU_PARTS, Settled, Whole, clearly_cheaper, settle, whole
from optiinfra.domain.scaler.observation import ScalerInputError
from optiinfra.domain.scaler.variant import Mix, Variant
from optiinfra.domain.units import Ratio, Seconds

SURVIVING: Final = Ratio(0.5)
"""Share of the capacity that must be left should all spot replicas go at once: half, so that what is lost can be
ordered anew while the queue grows for a start-up time and not without end."""
HORIZON: Final = Seconds(3600.0)
"""A started replica must pay back its start within this time: what a load asks for changes by the hour."""
LONGEST_HORIZON: Final = Seconds(7 * 86_400.0)


def mix(
    need: float,
    variants: Sequence[Variant],
    *,
    surviving: Ratio = SURVIVING,
    horizon: Seconds = HORIZON,
    gpu_budget: float | None = None,
) -> Mix:
    """Choose how many replicas of each variant to ask for.

    Args:
        need: work per second to be served, headroom included, without what variants of unknown capacity serve.
        variants: at most 8, all of one role, in any order.
        surviving: share of the capacity that is not spot; it gives way where the need cannot be met otherwise.
        horizon: time within which a start must pay itself back, 1 s to 7 days.
        gpu_budget: most GPUs at any time, also while one variant replaces another; None for any number.

    Raises:
        ScalerInputError: an argument that cannot be.
    """
    if not (isfinite(need) and need >= 0.0):
        raise ScalerInputError("need must be zero or more and finite")
    if len(variants) > MOST_VARIANTS or len({variant.name for variant in variants}) < len(variants):
        raise ScalerInputError(f"variants: at most {MOST_VARIANTS}, each with a name of its own")
    if not 0.0 <= surviving <= 1.0 or not 1.0 <= horizon <= LONGEST_HORIZON:
        raise ScalerInputError("surviving must lie between 0 and 1, horizon between 1 s and 7 days")
    if gpu_budget is not None and not 0.0 <= gpu_budget < float("inf"):
        raise ScalerInputError("gpu_budget must be zero or more and finite, or None")
    given = whole(variants, surviving=surviving, horizon=horizon, gpu_budget=gpu_budget)
    wanted = given.units(need)
    settled = settle(given.problem, wanted)
    desired = _until_ready(given, settled.counts, wanted)
    waiting = tuple(_with_waiting(v, c, d) for v, c, d in zip(given.variants, settled.counts, desired, strict=True))
    fresh = whole(variants, surviving=surviving, horizon=horizon, gpu_budget=gpu_budget, kept=False)
    return mix_words.told(
        given,
        settled,
        need=need,
        desired=waiting,
        unweighed=_unweighed(given, settled, desired, need=need),
        from_nothing=clearly_cheaper(fresh.problem, wanted, settled.counts),
        horizon=horizon,
    )


def _until_ready(given: Whole, settled: Sequence[int], need: int) -> list[int]:
    """Make before break: keep of what goes as many as must serve until the others do, the dearest first to go."""
    desired, items = list(settled), given.problem.items
    if given.over_budget:
        return desired
    serve = [min(variant.ready, variant.current) for variant in given.variants]
    missing = need - given.covered([min(count, ready) for count, ready in zip(settled, serve, strict=True)])
    cheap_first = sorted(range(len(items)), key=lambda i: (items[i].keep / items[i].capacity, i))
    for index in cheap_first:
        goes = min(serve[index], given.variants[index].maximum) - desired[index]
        kept = min(goes, -(-missing // items[index].capacity))
        if missing > 0 and kept > 0:
            desired[index] += kept
            missing -= kept * items[index].capacity
    return desired


def _with_waiting(variant: Variant, settled: int, desired: int) -> int:
    """Leave orders that wait for a node where they are, as long as all that has one is wanted: they try by themselves.

    Taken back, they would be asked for again as soon as nothing waits any more.
    """
    if variant.stocked_out and settled >= min(variant.placed, variant.maximum):
        return max(variant.within(variant.current), desired)
    return max(desired, variant.minimum)


def _unweighed(given: Whole, settled: Settled, desired: Sequence[int], *, need: float) -> tuple[int, ...]:
    """Leave variants that cannot be weighed as they are; ask more of them only where nothing else can give more.

    A replica beyond the minimum then counts as much as the weakest known one, GPU for GPU where that is known.
    """
    missing = 0.0 if settled.reached else need - given.covered(settled.counts) * given.unit
    held = sum(max(count, item.current) * item.gpus for count, item in zip(desired, given.problem.items, strict=True))
    spare = None if given.gpu_budget is None else (given.gpu_budget - held) / GPU_PARTS
    counts = []
    for variant in given.unweighed:
        count = variant.within(variant.current)
        stand_in = _stand_in(given, variant)
        if missing > 0.0 and stand_in > 0.0 and not variant.stocked_out:
            asked = variant.within(variant.minimum + min(ceil(missing / stand_in), variant.maximum))
            if spare is not None:
                room = 0 if isinstance(variant.gpus, Unknown) else spare // variant.gpus if variant.gpus else asked
                asked = min(asked, count + max(0, int(room)))
                spare -= 0.0 if isinstance(variant.gpus, Unknown) else max(0, asked - count) * variant.gpus
            missing -= max(0, asked - variant.minimum) * stand_in
            count = max(count, asked)
        counts.append(count)
    return tuple(counts)


def _stand_in(given: Whole, variant: Variant) -> float:
    if not isinstance(variant.capacity, Unknown):
        return variant.capacity
    known = [(v.capacity, v.gpus) for v in given.variants if not isinstance(v.capacity, Unknown)]
    if not known:
        return 0.0
    by_gpu = [work / gpus for work, gpus in known if not isinstance(gpus, Unknown) and gpus > 0.0]
    if by_gpu and not isinstance(variant.gpus, Unknown) and variant.gpus > 0.0:
        return min(by_gpu) * variant.gpus
    return min(work for work, _ in known)
