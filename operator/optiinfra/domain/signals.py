"""From pages to signals: what a service's replicas said in a window, joined into one frozen set of values.

Rates and quantiles come from differences between pages, never from lifetimes; a counter that went down is a restart
and starts anew; a replica that said nothing counts as not said, not as zero.
"""

from dataclasses import dataclass

from optiinfra.domain.readings import Value
from optiinfra.domain.units import Seconds, UnixTime


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
