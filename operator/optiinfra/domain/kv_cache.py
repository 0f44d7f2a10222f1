"""Advice on the KV cache of a service: what helps where it limits, what it wastes where it does not.

The levers live beside this module: `kv_memory_advice` makes the cache larger, `kv_demand_advice` lets requests ask
less of it, `prefix_advice` is about what they share, `lmcache_advice` about the cache behind it. Here it is decided
which of them a verdict calls for, and in which order people read them: first what needs no new hardware and changes
no answer. One of them at a time is enough; each is checked before the next.

What cannot be computed from what was measured is not estimated. Replicas are decided by scaling alone.
"""

from typing import Final

from optiinfra.domain import kv_demand_advice, kv_memory_advice, lmcache_advice, prefix_advice
from optiinfra.domain.advice import Advice, AdviceInput
from optiinfra.domain.evidence import Bottleneck, Evidence, Finding, FindingType, Proposal
from optiinfra.domain.kv_capacity import held_tokens, requests_that_fit
from optiinfra.domain.kv_case import NO_FORECAST, KVCase
from optiinfra.domain.prefix_reuse import HitForecast
from optiinfra.domain.readings import Unknown
from optiinfra.domain.units import Ratio, Seconds

__all__ = ["NO_FORECAST", "advise", "held_tokens", "oversized", "requests_that_fit"]

OVERSIZED: Final = 0.4
"""Highest usage over a long window below which a pool is called larger than its load."""
OVERSIZED_SPAN: Final = Seconds(600.0)
_WAITS_FOR_PROMPTS: Final = frozenset({Bottleneck.KV_CACHE, Bottleneck.COMPUTE, Bottleneck.BATCH})


def advise(given: AdviceInput, *, reuse: tuple[HitForecast, ...] | Unknown = NO_FORECAST) -> tuple[Advice, ...]:
    """Return what helps against a full KV cache, and what was considered and does not.

    Args:
        given: what was measured and how the engine is set.
        reuse: forecasts of the prefix-hit ratio at larger capacities (`prefix_reuse.predict`), where there are any.
    """
    case, diagnosis = KVCase(given, reuse), given.diagnosis
    caches: tuple[Advice, ...] = (*prefix_advice.useless(case), *lmcache_advice.advise(case))
    if diagnosis.bottleneck in _WAITS_FOR_PROMPTS:
        caches = (*prefix_advice.switch_on(case), *caches)
    if diagnosis.bottleneck is Bottleneck.UNKNOWN:
        return (*caches, case.refuse("BottleneckUnknown", f"No KV-cache advice: {diagnosis.message}"))
    if diagnosis.bottleneck is not Bottleneck.KV_CACHE:
        return (*caches, case.refuse("NotLimiting", "The KV cache does not limit the service."))
    by_hand, share, fp8, split = kv_memory_advice.advise(case)
    levers = (
        by_hand,
        share,
        kv_demand_advice.fewer_requests(case),
        fp8,
        prefix_advice.offload(case),
        kv_demand_advice.shorter_context(case),
        split,
    )
    return (
        *(one for one in levers if isinstance(one, Proposal)),
        *(one for one in levers if not isinstance(one, Proposal)),
        kv_demand_advice.replicas(case),
        *caches,
    )


def oversized(given: AdviceInput, *, smaller: HitForecast | Unknown = NO_FORECAST) -> Finding | None:
    """Return the finding that the pool is larger than its load uses; None where that is not sure.

    Unused blocks are not idle: they keep prefixes. So a pool whose prefixes are hit is called oversized only where a
    forecast for half of it (`smaller`) says that the hits stay. What follows (a smaller GPU, another model beside it)
    is for people to judge: weights and latency have their say too.
    """
    case, signals = KVCase(given), given.signals
    usage, hits = signals.kv_cache_usage_max, signals.prefix_hit_ratio
    if given.diagnosis.bottleneck is not Bottleneck.HEALTHY or signals.window < OVERSIZED_SPAN:
        return None
    busy = signals.busy_share
    if isinstance(usage, Unknown) or isinstance(case.capacity, Unknown) or isinstance(busy, Unknown):
        return None
    if usage > OVERSIZED or busy < 0.5:
        return None
    if given.settings.prefix_caching is not False and (isinstance(hits, Unknown) or hits > prefix_advice.NO_HITS):
        kept = not isinstance(smaller, Unknown) and not isinstance(hits, Unknown) and smaller.predictable
        if not kept or isinstance(smaller, Unknown) or isinstance(hits, Unknown) or smaller.lower < hits - 0.02:
            return None
    used = usage * case.capacity
    text = (
        f"Running requests used at most {used:,.0f} of {case.capacity:,.0f} KV tokens ({usage:.0%}) in "
        f"{signals.window / 60:.0f} min: a smaller GPU, a smaller share of it, or another model beside it may do. "
        "Judge it on a week, and on latency, before you change it."
    )
    evidence = (
        Evidence("kv_cache_usage", usage, "ratio", signals.window, "engine", "max"),
        Evidence("prefix_hit_ratio", hits, "ratio", signals.window, "engine"),
    )
    return Finding(FindingType.UNDER_USED, "KVCacheOversized", text, Ratio(0.4), evidence)
