"""From pages to signals: what a service's replicas said in a window, joined into one frozen set of values.

Rates and quantiles come from differences between pages, never from lifetimes; a counter that went down is a restart
and starts anew; a replica that said nothing counts as not said, not as zero.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from optiinfra.domain.aggregation import GENERATION_WEIGHT, RULES
from optiinfra.domain.readings import EngineReading, Unknown, UnknownReason, Value
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.domain.windows import Window

__all__ = ["GENERATION_WEIGHT", "ServiceSignals", "summarise"]

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
    waiting_share: Value = _UNMEASURED
    """Share of the window's pages (over replicas) with waiting > 0."""
    request_tokens_highest: Value = _UNMEASURED
    """No request finished in the window was longer, prompt and answer together; as precise as the buckets are."""
    deferred: Value = _UNMEASURED
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
    running_when_waiting: Value = _UNMEASURED
    """Requests in the batch of a replica while others waited, where a window is so long that its means hide those
    moments (`report.crowds`); the pages of a minute show the moment itself."""
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


def summarise(
    pages: Mapping[str, Sequence[EngineReading]],
    *,
    now: UnixTime,
    window: Seconds,
    stale_after: Seconds,
    replicas_expected: int,
) -> ServiceSignals:
    """Join the pages that the replicas served in the window. A replica counts as reporting while its page is fresh."""
    cut = Window.of(pages, now=now, window=window, stale_after=stale_after)
    return ServiceSignals(
        time=now,
        window=cut.span,
        replicas_expected=replicas_expected,
        replicas_reporting=len(cut.fresh),
        **{name: rule.compute(cut) for name, rule in RULES.items()},
    )
