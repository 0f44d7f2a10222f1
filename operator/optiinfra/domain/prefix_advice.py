"""Levers on what requests share: the prefix cache on or off, host memory behind it, and what a larger one would hit.

A hit ratio at another size is a forecast (`prefix_reuse`), made from the engine's counters where enough of them were
seen. Where there is none, or its interval is too wide, the lever is proposed without a promise, or not at all.
"""

from math import ceil
from typing import Final, NamedTuple

from optiinfra.domain.advice import Advice
from optiinfra.domain.evidence import Effect, Evidence, Refusal
from optiinfra.domain.kv_case import GIB, NOT_SET, WATCHED, WORKING_SET, KVCase
from optiinfra.domain.prefix_reuse import HitForecast
from optiinfra.domain.readings import EngineKind, Unknown, UnknownReason

NO_HITS: Final = 0.02
"""Hit ratio at or below which a cache is of no use."""
SOME_REUSE: Final = 0.2
"""Hit ratio from which prefixes come back often enough to keep them in host memory."""
LEAST_GAIN: Final = 0.02
"""Rise of the hit ratio that is worth a restart."""
HIERARCHICAL: Final = "--enable-hierarchical-cache"
"""SGLang's switch; its size is a second flag."""
HOST_TIMES: Final = 4.0
"""How many times the GPU's cache is proposed for host memory: it is cheap, and not endless."""


def useless(case: KVCase) -> tuple[Refusal, ...]:
    """Name a prefix cache that hits nothing, and why it may stay on."""
    hits, caching = case.given.signals.prefix_hit_ratio, case.given.settings.prefix_caching
    if caching is not True or isinstance(hits, Unknown) or hits > NO_HITS:
        return ()
    message = (
        f"The prefix cache answers {hits:.1%} of prompt tokens. It costs next to nothing and may stay on; to profit, "
        "send requests with a common prefix to the same replica, and put what varies at the end of the prompt."
    )
    return (case.refuse("PrefixCacheUseless", message),)


def switch_on(case: KVCase) -> tuple[Advice, ...]:
    """Switch a prefix cache on that is off; nothing where it is on or not known."""
    if case.given.settings.prefix_caching is not False:
        return ()
    setting, current, proposed = case.flags.prefix_on, "off", "on"
    if case.flags.prefix_off and case.given.settings.engine is EngineKind.SGLANG:
        setting, current, proposed = case.flags.prefix_off, "on", "removed"
    if not setting:
        return (case.refuse("NoSuchSetting", f"{case.engine} has no setting for its prefix cache."),)
    nothing = Unknown(UnknownReason.NOT_MEASURED, "a cache that is off counts no hits")
    return (
        case.propose(
            "EnablePrefixCaching",
            "The prefix cache is off: prompts with a common beginning are computed and kept once each. How many there "
            "are is measured by nobody while it is off, so no gain is promised.",
            setting=setting,
            current=current,
            proposed=proposed,
            sure=0.5,
            effects=(Effect("prefix_hit_ratio", "ratio", 0.0, 0.0, nothing, nothing, "counted once it is on"),),
            risk="Next to none: cached blocks give way to running requests. Tenants can time each other's prompts.",
            verification=f"prefix_hit_ratio above {NO_HITS:.0%} and a lower kv_cache_usage within {WATCHED}.",
        ),
    )


def offload(case: KVCase) -> Advice:
    """Keep evicted prefixes in host memory, where a forecast or the present hits say that they come back."""
    signals, settings, flags = case.given.signals, case.given.settings, case.flags
    hits = signals.prefix_hit_ratio
    if not flags.host_tier and not flags.offload:
        return case.refuse("NoSuchSetting", f"{case.engine} cannot keep its KV cache in host memory.")
    if settings.lmcache is True:
        return case.refuse("AlreadyOffloading", "LMCache keeps evicted prefixes already.")
    if not isinstance(settings.offload_bytes, Unknown) and settings.offload_bytes > 0.0:
        size = settings.offload_bytes / GIB
        return case.refuse("AlreadyOffloading", f"{size:.0f} GiB of host memory keep evicted prefixes already.")
    if isinstance(settings.lmcache, Unknown):
        return case.refuse("OffloadingUnknown", f"Whether LMCache is on is {settings.lmcache}.")
    if settings.prefix_caching is False:
        return case.refuse("PrefixCacheOff", "Host memory keeps what the prefix cache knows, and that is off.")
    if isinstance(hits, Unknown):
        return case.refuse("ReuseUnknown", f"Whether prefixes come back is {hits}.")
    found = case.forecast(1.0 + HOST_TIMES)
    if found is None and hits < SOME_REUSE:
        text = f"Only {hits:.0%} of prompt tokens were seen before; keeping more would not help."
        return case.refuse("LittleReuse", text)
    if found is not None and found.predictable and found.expected - hits < LEAST_GAIN:
        text = (
            f"With {found.capacity:,.0f} tokens {found.expected:.0%} of prompt tokens would hit "
            f"({found.lower:.0%} to {found.upper:.0%}), and {hits:.0%} do now."
        )
        return case.refuse("LittleReuse", text)
    gain, effect = _gain(case, found)
    tier = _host_tier(case)
    return case.propose(
        "OffloadPrefixes",
        f"{hits:.0%} of prompt tokens were in the prefix cache, which running requests push out while it is full. "
        f"{tier.keeper} them; {gain}",
        setting=tier.setting,
        current=tier.current,
        proposed=tier.proposed,
        sure=0.55 if found is not None and found.predictable else 0.4,
        effects=(effect,),
        risk=("Host memory must be free (the pod's memory limit grows with it), and every hit crosses the bus."),
        verification=f"external_hit_ratio above {NO_HITS:.0%} and a lower time_to_first_token within {WATCHED}.",
        evidence=(Evidence("prefix_hit_ratio", hits, "ratio", signals.window, "engine"),),
    )


def _gain(case: KVCase, found: HitForecast | None) -> tuple[str, Effect]:
    hits = case.given.signals.prefix_hit_ratio
    if found is None or not found.predictable:
        nothing = Unknown(UnknownReason.TOO_FEW_SAMPLES, "not predictable from what the engine counted so far")
        text = "how many come back is measured by no engine, so no gain is promised."
        if found is not None:
            text = (
                f"how many come back is not predictable yet ({found.lower:.0%} to {found.upper:.0%} would hit), so no "
                "gain is promised."
            )
        return text, Effect("prefix_hit_ratio", "ratio", hits, nothing, nothing, nothing, "no forecast")
    text = f"with {found.capacity:,.0f} tokens {found.expected:.0%} would hit ({found.lower:.0%} to {found.upper:.0%})."
    return text, Effect("prefix_hit_ratio", "ratio", hits, found.lower, found.expected, found.upper, WORKING_SET)


class _Tier(NamedTuple):
    """What to set so that evicted prefixes are kept, and who keeps them, to begin a sentence with."""

    setting: str
    current: str
    proposed: str
    keeper: str


def _host_tier(case: KVCase) -> _Tier:
    """Return the engine's own host tier where its size is computable, else LMCache; one of them exists."""
    flags, each, split = case.flags, case.bytes_per_token, case.given.settings.tensor_parallel
    if flags.host_tier and not isinstance(each, Unknown) and not isinstance(case.capacity, Unknown):
        # Of one GPU's rank; vLLM and TensorRT-LLM are given the size of all ranks together.
        rank = HOST_TIMES * case.capacity * each
        whole = rank * (1.0 if isinstance(split, Unknown) else split)
        gib = max(1, ceil(whole / GIB))
        if case.given.settings.engine is EngineKind.SGLANG:
            keeper = f"{gib} GiB of host memory ({flags.host_tier}={max(1, ceil(rank / 1e9))} a rank) keep"
            return _Tier(HIERARCHICAL, "off", "on", keeper)
        size = gib * 2**30 if case.given.settings.engine is EngineKind.TRTLLM else gib
        return _Tier(flags.host_tier, NOT_SET, str(size), f"{gib} GiB of host memory keep")
    if flags.offload:
        return _Tier(flags.offload, "off", flags.offload_value, "LMCache keeps")
    return _Tier(flags.host_tier, NOT_SET, "as much as the node can spare", "Host memory keeps")
