"""Advice for a service that the KV cache limits, each with what the cache's own arithmetic says it gains.

The arithmetic: a running request holds its prompt, less what the prefix cache shares, and on average half its answer,
so that `capacity / (prompt x (1 - hits) + answer / 2)` requests fit. It holds for models that keep keys and values of
every token; sliding-window and state-space models need less, and then the estimate errs on the careful side.

What cannot be computed from what was measured is not estimated. KV-OptKit is named because people ask for it: as of
0.5.3 only its simulator adapter works, so it is never proposed. LMCache is proposed without a promised gain, because
how often evicted prefixes come back is not measured by any engine. Replicas are decided by scaling alone.
"""

from math import ceil
from typing import Final

from optiinfra.domain.advice import Advice, AdviceInput
from optiinfra.domain.bottleneck import Diagnosis
from optiinfra.domain.engine_flags import EngineFlags, flags_of
from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.evidence import Bottleneck, Direction, Evidence, Proposal, RecommendationType, Refusal
from optiinfra.domain.objectives import Objectives
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.signals import ServiceSignals
from optiinfra.domain.units import Ratio, Seconds

SIXTEEN_BITS: Final = frozenset({"auto", "half", "float16", "fp16", "bfloat16", "bf16"})
NO_HITS: Final = 0.02
"""Hit ratio at or below which a cache is of no use."""
SOME_REUSE: Final = 0.2
"""Hit ratio from which prefixes come back often enough to keep them in host memory."""
CONTEXT_ROOM: Final = 1.25
CONTEXT_SPAN: Final = Seconds(300.0)
"""On less, the longest request is not spoken of."""
_KV: Final = RecommendationType.KV_CACHE
_INSTANT: Final = Seconds(0.0)


def requests_that_fit(signals: ServiceSignals, settings: EngineSettings) -> Value:
    """Return how many requests of the measured shape one replica's KV cache holds."""
    capacity, held = _capacity(signals, settings), held_tokens(signals)
    if isinstance(capacity, Unknown):
        return capacity
    return held if isinstance(held, Unknown) else capacity / held


def held_tokens(signals: ServiceSignals) -> Value:
    """Return the KV tokens that a running request of the measured shape holds on average."""
    prompt, answer = signals.prompt_tokens_mean, signals.generation_tokens_mean
    if isinstance(prompt, Unknown):
        return prompt
    if isinstance(answer, Unknown):
        return answer
    # Unknown hits count as none: the estimate then fits fewer requests, not more.
    hits = 0.0 if isinstance(signals.prefix_hit_ratio, Unknown) else signals.prefix_hit_ratio
    held = prompt * (1.0 - hits) + answer / 2.0
    return held if held > 0.0 else Unknown(UnknownReason.TOO_FEW_SAMPLES, "requests of no length")


def advise(given: AdviceInput) -> tuple[Advice, ...]:
    """Return what helps against a full KV cache, and what was considered and does not."""
    signals, settings, diagnosis, objectives = given.signals, given.settings, given.diagnosis, given.objectives
    caches: tuple[Advice, ...] = (*_useless_prefix_cache(signals, settings), *_useless_lmcache(signals, settings))
    if diagnosis.bottleneck is Bottleneck.UNKNOWN:
        return (*caches, Refusal(_KV, "BottleneckUnknown", f"No KV-cache advice: {diagnosis.message}"))
    if diagnosis.bottleneck is not Bottleneck.KV_CACHE:
        return (*caches, Refusal(_KV, "NotLimiting", "The KV cache does not limit the service."))
    flags = flags_of(settings.engine)
    return (
        _fp8(signals, settings, diagnosis, flags),
        _fewer_requests(signals, settings, diagnosis, flags),
        _offload(signals, settings, diagnosis, flags),
        _shorter_context(signals, settings, diagnosis, flags),
        _replicas(signals, settings, objectives),
        Refusal(
            _KV, "KVOptKitUnavailable", "KV-OptKit is not proposed: its adapters for real engines are not implemented."
        ),
        *caches,
    )


def _fp8(signals: ServiceSignals, settings: EngineSettings, diagnosis: Diagnosis, flags: EngineFlags) -> Advice:
    dtype = settings.kv_cache_dtype
    if not flags.kv_dtype:
        return Refusal(_KV, "NoSuchSetting", f"{_engine(settings)} has no setting for the type of the KV cache.")
    if not dtype:
        return Refusal(_KV, "KVTypeUnknown", "The type of the KV cache is not known, so that halving it may not help.")
    if dtype not in SIXTEEN_BITS:
        return Refusal(_KV, "KVTypeQuantised", f"The KV cache is {dtype} already.")
    capacity = _capacity(signals, settings)
    fit = requests_that_fit(signals, settings)
    gain = ""
    if not isinstance(capacity, Unknown):
        gain = f": {capacity:,.0f} tokens become {2 * capacity:,.0f}"
    if not isinstance(fit, Unknown):
        gain += f", and {fit:.0f} requests of the measured length become {2 * fit:.0f}"
    return Proposal(
        type=_KV,
        reason="QuantiseKVCache",
        message=(
            f"8-bit keys and values take half of 16-bit ones{gain}. "
            "Needs a GPU with FP8 (Ada, Hopper or newer); compare answers before and after."
        ),
        setting=flags.kv_dtype,
        current=dtype,
        proposed=flags.kv_dtype_fp8,
        lower=flags.kv_dtype_fp8,
        upper=flags.kv_dtype_fp8,
        direction=Direction.RESIZE,
        # With "auto" the checkpoint may bring 8-bit keys and values of its own.
        confidence=_scaled(diagnosis, 0.7 if dtype == "auto" else 0.8),
        evidence=_evidence(signals, settings),
    )


def _fewer_requests(
    signals: ServiceSignals, settings: EngineSettings, diagnosis: Diagnosis, flags: EngineFlags
) -> Advice:
    preemptions, limit, fit = signals.preemption_rate, diagnosis.batch_limit, requests_that_fit(signals, settings)
    if isinstance(preemptions, Unknown) or preemptions <= 0.0:
        return Refusal(_KV, "NoPreemptions", "A lower batch limit spares preemptions, and there are none.")
    if isinstance(limit, Unknown) or not flags.batch_limit:
        return Refusal(_KV, "BatchLimitUnknown", f"A lower batch limit would spare preemptions; it is {limit}.")
    if isinstance(fit, Unknown):
        return Refusal(_KV, "LengthsUnknown", f"A lower batch limit would spare preemptions; request length is {fit}.")
    proposed = max(1, int(fit))
    if proposed >= limit:
        return Refusal(_KV, "BatchLimitFits", f"The batch limit of {limit:g} fits the KV cache on average.")
    held, capacity = held_tokens(signals), _capacity(signals, settings)
    assert not isinstance(held, Unknown)
    assert not isinstance(capacity, Unknown)
    full = held + _known(signals.generation_tokens_mean) / 2.0
    highest = signals.running_per_replica_max
    upper = proposed if isinstance(highest, Unknown) else max(proposed, int(highest))
    return Proposal(
        type=_KV,
        reason="SparePreemptions",
        message=(
            f"{capacity:,.0f} tokens hold about {fit:.1f} requests of the measured length, and up to {limit:g} are "
            f"admitted: what does not fit is preempted and computed again ({preemptions * 60:.2g} a minute)."
        ),
        setting=flags.batch_limit,
        current=f"{limit:g}",
        proposed=str(proposed),
        lower=str(max(1, int(capacity / full))),
        upper=str(upper),
        direction=Direction.RESIZE,
        confidence=_scaled(diagnosis, 0.6),
        evidence=_evidence(signals, settings),
    )


def _offload(signals: ServiceSignals, settings: EngineSettings, diagnosis: Diagnosis, flags: EngineFlags) -> Advice:
    hits = signals.prefix_hit_ratio
    if not flags.offload:
        return Refusal(_KV, "NoSuchSetting", f"{_engine(settings)} cannot keep its KV cache in host memory.")
    if settings.lmcache is True:
        return Refusal(_KV, "AlreadyOffloading", "LMCache keeps evicted prefixes already.")
    if isinstance(settings.lmcache, Unknown):
        return Refusal(_KV, "OffloadingUnknown", f"Whether LMCache is on is {settings.lmcache}.")
    if isinstance(hits, Unknown):
        return Refusal(_KV, "ReuseUnknown", f"Whether prefixes come back is {hits}.")
    if hits < SOME_REUSE:
        return Refusal(
            _KV, "LittleReuse", f"Only {hits:.0%} of prompt tokens were seen before; keeping more would not help."
        )
    return Proposal(
        type=_KV,
        reason="OffloadPrefixes",
        message=(
            f"{hits:.0%} of prompt tokens were in the prefix cache, which running requests push out while it is full. "
            "LMCache keeps them in host memory; how many come back is measured by no engine, so no gain is promised."
        ),
        setting=flags.offload,
        current="off",
        proposed=flags.offload_value,
        lower=flags.offload_value,
        upper=flags.offload_value,
        direction=Direction.RESIZE,
        confidence=_scaled(diagnosis, 0.4),
        evidence=_evidence(signals, settings),
    )


def _shorter_context(
    signals: ServiceSignals, settings: EngineSettings, diagnosis: Diagnosis, flags: EngineFlags
) -> Advice:
    context, longest, capacity = settings.context_tokens, signals.request_tokens_highest, _capacity(signals, settings)
    if isinstance(context, Unknown) or not flags.context:
        return Refusal(_KV, "ContextUnknown", f"The longest context that the engine admits is {context}.")
    if signals.window < CONTEXT_SPAN:
        return Refusal(
            _KV, "WindowTooShort", f"{signals.window:.0f} s of pages do not show how long the longest requests are."
        )
    if isinstance(longest, Unknown):
        return Refusal(_KV, "LengthsUnknown", f"The longest request of the window is {longest}.")
    proposed = ceil(longest * CONTEXT_ROOM / 1024) * 1024
    if proposed * 2 > context:
        return Refusal(
            _KV, "ContextUsed", f"Requests of up to {longest:,.0f} tokens use the context of {context:,.0f} tokens."
        )
    worst = ""
    if not isinstance(capacity, Unknown):
        worst = (
            f" The KV cache then holds {capacity / proposed:.1f} of the longest, instead of {capacity / context:.1f}."
        )
    return Proposal(
        type=_KV,
        reason="ShortenContext",
        message=(
            f"No request of the last {signals.window / 60:.0f} min was longer than {longest:,.0f} tokens, and "
            f"{context:,.0f} are admitted.{worst} Longer requests would be refused."
        ),
        setting=flags.context,
        current=f"{context:.0f}",
        proposed=str(proposed),
        lower=str(ceil(longest)),
        upper=f"{context:.0f}",
        direction=Direction.RESIZE,
        # The window is short, and the longest request of a day is not in it.
        confidence=_scaled(diagnosis, 0.35),
        evidence=_evidence(signals, settings),
    )


def _replicas(signals: ServiceSignals, settings: EngineSettings, objectives: Objectives) -> Refusal:
    fit = requests_that_fit(signals, settings)
    running, waiting = signals.running, signals.waiting
    need = ""
    if not isinstance(fit, Unknown) and not isinstance(running, Unknown) and not isinstance(waiting, Unknown):
        need = (
            f" At the measured length {running + waiting:.0f} requests fill "
            f"{ceil((running + waiting) / max(fit, 1e-9)):d} replicas (to start within {objectives.queue_delay:g} s "
            "it may take fewer)."
        )
    return Refusal(
        RecommendationType.REPLICAS, "LeftToScaling", f"More replicas add KV cache; scaling decides their number.{need}"
    )


def _useless_prefix_cache(signals: ServiceSignals, settings: EngineSettings) -> tuple[Refusal, ...]:
    hits = signals.prefix_hit_ratio
    if settings.prefix_caching is not True or isinstance(hits, Unknown) or hits > NO_HITS:
        return ()
    message = (
        f"The prefix cache answers {hits:.1%} of prompt tokens. It costs next to nothing and may stay on; to profit, "
        "send requests with a common prefix to the same replica, and put what varies at the end of the prompt."
    )
    return (Refusal(_KV, "PrefixCacheUseless", message),)


def _useless_lmcache(signals: ServiceSignals, settings: EngineSettings) -> tuple[Proposal, ...]:
    hits = signals.lmcache_hit_ratio
    if settings.lmcache is not True or isinstance(hits, Unknown) or hits > NO_HITS:
        return ()
    return (
        Proposal(
            type=_KV,
            reason="LMCacheUseless",
            message=(
                f"LMCache answers {hits:.1%} of the tokens it is asked for, and stores what is never read. Check that "
                "chunk_size is not longer than the common prefixes and that routing keeps them together, or remove it."
            ),
            setting="lmcache",
            current="on",
            proposed="off",
            lower="off",
            upper="off",
            direction=Direction.RESIZE,
            confidence=Ratio(0.6),
            evidence=(
                Evidence("lmcache_hit_ratio", hits, "ratio", signals.window, "engine"),
                Evidence("prefix_hit_ratio", signals.prefix_hit_ratio, "ratio", signals.window, "engine"),
            ),
        ),
    )


def _capacity(signals: ServiceSignals, settings: EngineSettings) -> Value:
    measured = signals.kv_cache_capacity_tokens
    value = settings.kv_cache_capacity_tokens if isinstance(measured, Unknown) else measured
    if not isinstance(value, Unknown) and value <= 0.0:
        return Unknown(UnknownReason.INVALID, "a KV cache of no tokens")
    return value


def _known(value: Value) -> float:
    assert not isinstance(value, Unknown)
    return value


def _engine(settings: EngineSettings) -> str:
    return "The engine" if isinstance(settings.engine, Unknown) else str(settings.engine)


def _scaled(diagnosis: Diagnosis, share: float) -> Ratio:
    return Ratio(round(diagnosis.confidence * share, 2))


def _evidence(signals: ServiceSignals, settings: EngineSettings) -> tuple[Evidence, ...]:
    span = signals.window
    return (
        Evidence("kv_cache_usage", signals.kv_cache_usage_max, "ratio", span, "engine", "max"),
        Evidence("kv_cache_capacity", _capacity(signals, settings), "tokens", _INSTANT, "engine"),
        Evidence("prompt_tokens", signals.prompt_tokens_mean, "tokens", span, "engine", "mean"),
        Evidence("generation_tokens", signals.generation_tokens_mean, "tokens", span, "engine", "mean"),
        Evidence("prefix_hit_ratio", signals.prefix_hit_ratio, "ratio", span, "engine"),
        Evidence("preemptions", signals.preemption_rate, "1/s", span, "engine", "rate"),
        Evidence("requests_waiting", signals.waiting, "", _INSTANT, "engine"),
    )
