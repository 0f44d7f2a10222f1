"""From pages to signals: what a service's replicas said in a window, joined into one frozen set of values.

Rates and quantiles come from differences between pages, never from lifetimes; a counter that went down is a restart
and starts anew; a replica that said nothing counts as not said, not as zero.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, TypeAlias

from optiinfra.domain import quantiles
from optiinfra.domain.readings import EngineReading, Histogram, Signal, Unknown, UnknownReason, Value
from optiinfra.domain.units import Seconds, UnixTime

GENERATION_WEIGHT: Final = 4.0
"""What a generated token costs, in prompt tokens."""
_UNMEASURED: Final = Unknown(UnknownReason.NOT_MEASURED)


@dataclass(frozen=True, slots=True)
class ServiceSignals:
    """The signals of one service over one window. Sums are over reporting replicas; see each field."""

    time: UnixTime
    window: Seconds
    """Span really covered by pages; 0 when there is at most one."""
    replicas_expected: int
    replicas_reporting: int
    running: Value
    """Requests in the batch now, sum."""
    waiting: Value
    """Requests not yet scheduled now, sum."""
    waiting_slope: Value
    """Change of `waiting` per second over the window."""
    waiting_max: Value
    """Largest sum of waiting requests in the window."""
    running_max: Value
    """Largest sum of running requests in the window."""
    running_per_replica_max: Value
    """Largest running of any single replica in the window: with waiting > 0 the plateau is the batch limit."""
    kv_cache_usage: Value
    """Largest KV usage over replicas now, ratio."""
    kv_cache_usage_mean: Value
    kv_cache_usage_max: Value
    """Largest KV usage of any replica in the window."""
    kv_cache_capacity_tokens: Value
    """Of one replica (smallest)."""
    request_rate: Value
    """Requests finished per second."""
    prompt_token_rate: Value
    generation_token_rate: Value
    work_rate: Value
    """Prompt tokens + 4 x generated tokens, per second (weights as in the replay benchmark)."""
    preemption_rate: Value
    """Preemptions per second."""
    prefix_hit_ratio: Value
    lmcache_hit_ratio: Value
    time_to_first_token_p95: Value
    inter_token_latency_p95: Value
    queue_time_p95: Value
    request_latency_p95: Value
    prompt_tokens_mean: Value
    """Mean prompt length of requests finished in the window."""
    generation_tokens_mean: Value
    busy_share: Value
    """Share of the window's pages (over replicas) with running > 0."""
    waiting_share: Value = Unknown(UnknownReason.NOT_MEASURED)
    """Share of the window's pages (over replicas) with waiting > 0."""
    request_tokens_highest: Value = Unknown(UnknownReason.NOT_MEASURED)
    """No request finished in the window was longer, prompt and answer together; as precise as the buckets are."""
    deferred: Value = Unknown(UnknownReason.NOT_MEASURED)
    """Of the requests that wait now, those that more capacity would not start (LoRA budget, KV transfer, grammar)."""
    arrival_rate: Value = _UNMEASURED
    """Requests that came in per second: those that left, and the change of those inside."""
    abort_rate: Value = _UNMEASURED
    failure_rate: Value = _UNMEASURED
    rejection_rate: Value = _UNMEASURED
    """Requests refused at the door per second."""
    length_share: Value = _UNMEASURED
    """Share of the finished requests that ended at their length limit."""
    time_to_first_token_p50: Value = _UNMEASURED
    time_to_first_token_mean: Value = _UNMEASURED
    inter_token_latency_p50: Value = _UNMEASURED
    inter_token_latency_mean: Value = _UNMEASURED
    queue_time_mean: Value = _UNMEASURED
    prefill_time_mean: Value = _UNMEASURED
    prefill_time_p95: Value = _UNMEASURED
    decode_time_mean: Value = _UNMEASURED
    request_latency_p50: Value = _UNMEASURED
    request_latency_mean: Value = _UNMEASURED
    prompt_tokens_p99: Value = _UNMEASURED
    generation_tokens_p99: Value = _UNMEASURED
    running_mean: Value = _UNMEASURED
    """Mean over the window's pages of the running requests of one replica (mean over replicas)."""
    step_tokens_mean: Value = _UNMEASURED
    """Tokens per engine step."""
    step_rate: Value = _UNMEASURED
    """Engine steps per second of one replica, mean over replicas."""
    prompt_computed_rate: Value = _UNMEASURED
    """Prompt tokens per second that were computed here, sum; unknown where the engine does not tell cached ones."""
    external_hit_ratio: Value = _UNMEASURED
    """Share of the tokens asked of a cache outside the engine (KV connector) that it held."""
    draft_acceptance: Value = _UNMEASURED
    """Share of the speculatively drafted tokens that were accepted."""
    sleeping: Value = _UNMEASURED
    """Replicas that sleep now, sum."""
    lora_running: Value = _UNMEASURED
    lora_waiting: Value = _UNMEASURED
    lora_limit: Value = _UNMEASURED
    kv_cache_reserved: Value = _UNMEASURED
    """Largest share of tokens reserved (not resident) over replicas now."""
    kv_cache_evictable: Value = _UNMEASURED
    """Largest share of the pool with cached prefixes nobody uses, over replicas now."""
    busy_ratio: Value = _UNMEASURED
    """Share of the time in forward passes, mean over replicas, where the engine counts it."""
    process_cpu_cores: Value = _UNMEASURED
    """CPU cores that the page-serving process used, largest over replicas."""
    lmcache_usage_bytes: Value = _UNMEASURED
    """Host memory that LMCache's local pools hold, sum over replicas and workers."""
    lmcache_disk_bytes: Value = _UNMEASURED
    lmcache_eviction_rate: Value = _UNMEASURED
    lmcache_store_rate: Value = _UNMEASURED
    """Tokens stored per second."""
    lmcache_requested_rate: Value = _UNMEASURED
    """Tokens asked for per second."""
    lmcache_remote_get_p95: Value = _UNMEASURED
    lmcache_remote_read_rate: Value = _UNMEASURED
    lmcache_retrieve_p95: Value = _UNMEASURED
    lmcache_lifespan_p50: Value = _UNMEASURED
    """Minutes."""
    lmcache_ping_error_rate: Value = _UNMEASURED
    lmcache_healthy: Value = _UNMEASURED
    """0 as soon as one replica's LMCache says that it is not well."""


_Pages: TypeAlias = Mapping[str, tuple[EngineReading, ...]]
_NO_PAGE = Unknown(UnknownReason.NOT_MEASURED, "no page of any replica in the window")


def summarise(
    pages: Mapping[str, Sequence[EngineReading]],
    *,
    now: UnixTime,
    window: Seconds,
    stale_after: Seconds,
    replicas_expected: int,
) -> ServiceSignals:
    """Join the pages that the replicas served in the window. A replica counts as reporting while its page is fresh."""
    within = {
        name: tuple(sorted((one for one in readings if now - window <= one.time <= now), key=lambda one: one.time))
        for name, readings in pages.items()
    }
    within = {name: readings for name, readings in within.items() if readings}
    fresh = {name: readings for name, readings in within.items() if now - readings[-1].time <= stale_after}
    span = _span(within)
    running = _sums_over_time(within, Signal.REQUESTS_RUNNING, stale_after)
    waiting = _sums_over_time(within, Signal.REQUESTS_WAITING, stale_after)
    prompt = _rate(within, fresh, span, Signal.PROMPT_TOKENS)
    generation = _rate(within, fresh, span, Signal.GENERATION_TOKENS)
    finished = _rate(within, fresh, span, Signal.REQUESTS_FINISHED)
    return ServiceSignals(
        time=now,
        window=span,
        replicas_expected=replicas_expected,
        replicas_reporting=len(fresh),
        running=_now(within, fresh, Signal.REQUESTS_RUNNING, sum),
        waiting=_now(within, fresh, Signal.REQUESTS_WAITING, sum),
        waiting_slope=_slope(fresh, Signal.REQUESTS_WAITING),
        waiting_max=waiting,
        running_max=running,
        running_per_replica_max=_largest(within, Signal.REQUESTS_RUNNING),
        kv_cache_usage=_now(within, fresh, Signal.KV_CACHE_USAGE, max),
        kv_cache_usage_mean=_now(within, fresh, Signal.KV_CACHE_USAGE, lambda values: sum(values) / len(values)),
        kv_cache_usage_max=_largest(within, Signal.KV_CACHE_USAGE),
        kv_cache_capacity_tokens=_now(within, fresh, Signal.KV_CACHE_CAPACITY_TOKENS, min),
        request_rate=finished,
        prompt_token_rate=prompt,
        generation_token_rate=generation,
        work_rate=_work(prompt, generation),
        preemption_rate=_rate(within, fresh, span, Signal.PREEMPTIONS),
        prefix_hit_ratio=_prefix_hits(within, fresh),
        lmcache_hit_ratio=_ratio(within, Signal.LMCACHE_HIT_TOKENS, Signal.LMCACHE_REQUESTED_TOKENS),
        time_to_first_token_p95=_p95(within, Signal.TIME_TO_FIRST_TOKEN),
        inter_token_latency_p95=_p95(within, Signal.INTER_TOKEN_LATENCY),
        queue_time_p95=_p95(within, Signal.QUEUE_TIME),
        request_latency_p95=_p95(within, Signal.REQUEST_LATENCY),
        prompt_tokens_mean=_mean_length(within, Signal.REQUEST_PROMPT_TOKENS, prompt, finished),
        generation_tokens_mean=_mean_length(within, Signal.REQUEST_GENERATION_TOKENS, generation, finished),
        busy_share=_share_above_zero(within, Signal.REQUESTS_RUNNING),
        waiting_share=_share_above_zero(within, Signal.REQUESTS_WAITING),
        request_tokens_highest=_highest_length(within),
        deferred=_now(within, fresh, Signal.REQUESTS_DEFERRED, sum),
    )


def _span(within: _Pages) -> Seconds:
    if not within:
        return Seconds(0.0)
    first = min(readings[0].time for readings in within.values())
    last = max(readings[-1].time for readings in within.values())
    return Seconds(last - first)


def _now(within: _Pages, fresh: _Pages, signal: Signal, join: Callable[[list[float]], float]) -> Value:
    """Join the newest value of every reporting replica; one that cannot say makes the whole unknown."""
    if not fresh:
        return Unknown(UnknownReason.STALE, "no replica has served a page lately") if within else _NO_PAGE
    values: list[float] = []
    for readings in fresh.values():
        value = readings[-1].gauge(signal)
        if isinstance(value, Unknown):
            return value
        values.append(value)
    return float(join(values))


def _sums_over_time(within: _Pages, signal: Signal, stale_after: Seconds) -> Value:
    """Return the largest sum over replicas, each held at its last value until it is stale."""
    events = sorted(
        ((one.time, name, one.gauges.get(signal)) for name, readings in within.items() for one in readings),
        key=lambda event: event[0],
    )
    held: dict[str, tuple[UnixTime, float]] = {}
    largest: float | None = None
    for time, name, value in events:
        if value is None:
            held.pop(name, None)
            continue
        held[name] = (time, value)
        total = sum(one for since, one in held.values() if time - since <= stale_after)
        largest = total if largest is None else max(largest, total)
    return _absent(within, signal) if largest is None else largest


def _largest(within: _Pages, signal: Signal) -> Value:
    values = [one.gauges[signal] for readings in within.values() for one in readings if signal in one.gauges]
    return max(values) if values else _absent(within, signal)


def _share_above_zero(within: _Pages, signal: Signal) -> Value:
    values = [one.gauges[signal] for readings in within.values() for one in readings if signal in one.gauges]
    return sum(value > 0.0 for value in values) / len(values) if values else _absent(within, signal)


def _absent(within: _Pages, signal: Signal) -> Unknown:
    if not within:
        return _NO_PAGE
    return Unknown(UnknownReason.NOT_MEASURED, f"no page in the window carries {signal}")


def _slope(fresh: _Pages, signal: Signal) -> Value:
    """Sum the replicas' own least-squares slopes, so that a replica that joins is not a rise."""
    slopes: list[float] = []
    for readings in fresh.values():
        points = [(one.time, one.gauges[signal]) for one in readings if signal in one.gauges]
        if len(points) < 2:
            continue
        middle = sum(time for time, _ in points) / len(points)
        level = sum(value for _, value in points) / len(points)
        spread = sum((time - middle) ** 2 for time, _ in points)
        if spread > 0.0:
            slopes.append(sum((time - middle) * (value - level) for time, value in points) / spread)
    return sum(slopes) if slopes else Unknown(UnknownReason.TOO_FEW_SAMPLES, "a slope needs two pages of a replica")


def _increase(readings: Sequence[EngineReading], signal: Signal) -> float | None:
    """Return what a counter grew by; one that went down was restarted, and counts from zero."""
    values = [one.counters[signal] for one in readings if signal in one.counters]
    if len(values) < 2:
        return None
    return sum(later - earlier if later >= earlier else later for earlier, later in pairwise(values))


def _rate(within: _Pages, fresh: _Pages, span: Seconds, signal: Signal) -> Value:
    for readings in fresh.values():
        if signal not in readings[-1].counters:
            return Unknown(UnknownReason.NOT_MEASURED, f"{readings[-1].engine} page without {signal}")
    if not within:
        return _NO_PAGE
    increases = [one for readings in within.values() if (one := _increase(readings, signal)) is not None]
    if not increases or span <= 0.0:
        return Unknown(UnknownReason.TOO_FEW_SAMPLES, "a rate needs two pages of a replica")
    return sum(increases) / span


def _work(prompt: Value, generation: Value) -> Value:
    if isinstance(prompt, Unknown):
        return prompt
    if isinstance(generation, Unknown):
        return generation
    return prompt + GENERATION_WEIGHT * generation


def _ratio(within: _Pages, part: Signal, whole: Signal) -> Value:
    parts = wholes = 0.0
    measured = False
    for readings in within.values():
        hits, queries = _increase(readings, part), _increase(readings, whole)
        if hits is not None and queries is not None:
            measured = True
            parts, wholes = parts + hits, wholes + queries
    if not measured:
        return _absent(within, whole)
    if wholes <= 0.0:
        return Unknown(UnknownReason.TOO_FEW_SAMPLES, "nothing was looked up in the window")
    return min(1.0, parts / wholes)


def _prefix_hits(within: _Pages, fresh: _Pages) -> Value:
    ratio = _ratio(within, Signal.PREFIX_CACHE_HITS, Signal.PREFIX_CACHE_QUERIES)
    if isinstance(ratio, Unknown) and ratio.reason is UnknownReason.NOT_MEASURED:
        own = _now(within, fresh, Signal.PREFIX_CACHE_HIT_RATIO, lambda values: sum(values) / len(values))
        return ratio if isinstance(own, Unknown) else own
    return ratio


def _growths(within: _Pages, signal: Signal) -> list[Histogram]:
    growths: list[Histogram] = []
    for readings in within.values():
        growths += quantiles.growth([one.histograms[signal] for one in readings if signal in one.histograms])
    return growths


def _p95(within: _Pages, signal: Signal) -> Value:
    growths = _growths(within, signal)
    if not growths and not any(signal in one.histograms for readings in within.values() for one in readings):
        return _absent(within, signal)
    return quantiles.quantile(growths, 0.95)


def _mean_length(within: _Pages, signal: Signal, tokens: Value, finished: Value) -> Value:
    """Return the mean length of finished requests; by the counters where the engine has no such histogram."""
    growths = _growths(within, signal)
    count = sum(one.count for one in growths)
    if count > 0.0:
        return sum(one.total for one in growths) / count
    if any(signal in one.histograms for readings in within.values() for one in readings):
        return Unknown(UnknownReason.TOO_FEW_SAMPLES, "no request finished in the window")
    if isinstance(tokens, Unknown):
        return tokens
    if isinstance(finished, Unknown):
        return finished
    if finished <= 0.0:
        return Unknown(UnknownReason.TOO_FEW_SAMPLES, "no request finished in the window")
    return tokens / finished


def _highest_length(within: _Pages) -> Value:
    prompt = quantiles.highest(_growths(within, Signal.REQUEST_PROMPT_TOKENS))
    if isinstance(prompt, Unknown):
        return prompt
    generation = quantiles.highest(_growths(within, Signal.REQUEST_GENERATION_TOKENS))
    return generation if isinstance(generation, Unknown) else prompt + generation
