"""How each signal of a service is joined: over replicas, over the window, and over the parts of a disaggregated one.

One rule a field of `ServiceSignals`, and the rules are what runs: `signals.summarise` applies them one after the other,
and the table in docs/reference/signals.md is compared with them. A sum is for what a service has more of with more
replicas; a largest or smallest value for what limits it as soon as one replica is there; everything divided is divided
after pooling, so that a busy replica weighs more than an idle one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from optiinfra.domain.readings import Signal, Unknown, UnknownReason, Value
from optiinfra.domain.windows import Joiner, Window

GENERATION_WEIGHT: Final = 4.0
"""What a generated token costs, in prompt tokens."""


class Across(StrEnum):
    """How replicas become one service."""

    SUM = "sum"
    LARGEST = "largest"
    SMALLEST = "smallest"
    MEAN = "mean"
    POOLED = "pooled"
    """What the replicas counted or observed is added up before anything is divided: a weighted mean."""


class Over(StrEnum):
    """What of the window counts."""

    NEWEST = "newest pages"
    PAGES = "all pages"
    GROWTH = "growth"
    """Differences between pages."""


class From(StrEnum):
    """Which part of a disaggregated service says it."""

    PREFILL = "prefill"
    DECODE = "decode"
    BOTH = "both"
    """Joined as replicas are."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How one field comes about."""

    compute: Callable[[Window], Value]
    signals: tuple[Signal, ...]
    across: Across
    over: Over
    part: From = From.DECODE


JOINERS: Final[Mapping[Across, Joiner]] = {
    Across.SUM: sum,
    Across.LARGEST: max,
    Across.SMALLEST: min,
    Across.MEAN: lambda values: sum(values) / len(values),
}
S = Signal
_PREFILL, _DECODE, _BOTH = From.PREFILL, From.DECODE, From.BOTH


def _now(signal: Signal, across: Across, part: From = _DECODE) -> Rule:
    join = JOINERS[across]
    return Rule(lambda window: window.now(signal, join), (signal,), across, Over.NEWEST, part)


def _rate(signal: Signal, part: From = _DECODE) -> Rule:
    return Rule(lambda window: window.rate(signal), (signal,), Across.SUM, Over.GROWTH, part)


def _own_rate(signal: Signal, across: Across, part: From = _DECODE) -> Rule:
    join = JOINERS[across]
    return Rule(lambda window: window.own_rates(signal, join), (signal,), across, Over.GROWTH, part)


def _ratio(part_of: Signal, whole: Signal, part: From = _DECODE) -> Rule:
    return Rule(lambda window: window.ratio(part_of, whole), (part_of, whole), Across.POOLED, Over.GROWTH, part)


def _quantile(signal: Signal, share: float, part: From = _DECODE) -> Rule:
    return Rule(lambda window: window.quantile(signal, share), (signal,), Across.POOLED, Over.GROWTH, part)


def _mean(signal: Signal, part: From = _DECODE) -> Rule:
    return Rule(lambda window: window.mean(signal), (signal,), Across.POOLED, Over.GROWTH, part)


def _work(window: Window) -> Value:
    prompt, generation = window.rate(S.PROMPT_TOKENS), window.rate(S.GENERATION_TOKENS)
    if isinstance(prompt, Unknown):
        return prompt
    return generation if isinstance(generation, Unknown) else prompt + GENERATION_WEIGHT * generation


def _prefix_hits(window: Window) -> Value:
    """Return the hit ratio by counters, else the engines' own where they publish no counters."""
    ratio = window.ratio(S.PREFIX_CACHE_HITS, S.PREFIX_CACHE_QUERIES)
    if isinstance(ratio, Unknown) and ratio.reason is UnknownReason.NOT_MEASURED:
        own = window.now(S.PREFIX_CACHE_HIT_RATIO, JOINERS[Across.MEAN])
        return ratio if isinstance(own, Unknown) else own
    return ratio


def _mean_length(lengths: Signal, tokens: Signal) -> Callable[[Window], Value]:
    def compute(window: Window) -> Value:
        """Return the mean length of finished requests; by the counters where the engine has no such histogram."""
        mean = window.mean(lengths)
        if not isinstance(mean, Unknown) or mean.reason is not UnknownReason.NOT_MEASURED:
            return mean
        counted, finished = window.rate(tokens), window.rate(S.REQUESTS_FINISHED)
        if isinstance(counted, Unknown):
            return counted
        if isinstance(finished, Unknown):
            return finished
        return counted / finished if finished > 0.0 else Unknown(UnknownReason.TOO_FEW_SAMPLES, "no request finished")

    return compute


def _highest_length(window: Window) -> Value:
    prompt = window.highest(S.REQUEST_PROMPT_TOKENS)
    if isinstance(prompt, Unknown):
        return prompt
    generation = window.highest(S.REQUEST_GENERATION_TOKENS)
    return generation if isinstance(generation, Unknown) else prompt + generation


_RUNNING, _WAITING = S.REQUESTS_RUNNING, S.REQUESTS_WAITING
RULES: Final[Mapping[str, Rule]] = {
    "running": _now(_RUNNING, Across.SUM, _BOTH),
    "waiting": _now(_WAITING, Across.SUM, _PREFILL),
    "waiting_slope": Rule(lambda window: window.slope(_WAITING), (_WAITING,), Across.SUM, Over.PAGES, _PREFILL),
    "waiting_max": Rule(lambda window: window.largest_sum(_WAITING), (_WAITING,), Across.SUM, Over.PAGES, _PREFILL),
    "running_max": Rule(lambda window: window.largest_sum(_RUNNING), (_RUNNING,), Across.SUM, Over.PAGES, _BOTH),
    "running_per_replica_max": Rule(
        lambda window: window.largest(_RUNNING), (_RUNNING,), Across.LARGEST, Over.PAGES, _DECODE
    ),
    "running_mean": Rule(lambda window: window.mean_of_pages(_RUNNING), (_RUNNING,), Across.MEAN, Over.PAGES),
    "busy_share": Rule(
        lambda window: window.share_above_zero(_RUNNING), (_RUNNING,), Across.POOLED, Over.PAGES, _DECODE
    ),
    "waiting_share": Rule(
        lambda window: window.share_above_zero(_WAITING), (_WAITING,), Across.POOLED, Over.PAGES, _PREFILL
    ),
    "deferred": _now(S.REQUESTS_DEFERRED, Across.SUM, _PREFILL),
    "kv_cache_usage": _now(S.KV_CACHE_USAGE, Across.LARGEST),
    "kv_cache_usage_mean": _now(S.KV_CACHE_USAGE, Across.MEAN),
    "kv_cache_usage_max": Rule(
        lambda window: window.largest(S.KV_CACHE_USAGE), (S.KV_CACHE_USAGE,), Across.LARGEST, Over.PAGES
    ),
    "kv_cache_reserved": _now(S.KV_CACHE_RESERVED, Across.LARGEST),
    "kv_cache_evictable": _now(S.KV_CACHE_EVICTABLE, Across.LARGEST),
    "kv_cache_capacity_tokens": _now(S.KV_CACHE_CAPACITY_TOKENS, Across.SMALLEST),
    "request_rate": _rate(S.REQUESTS_FINISHED),
    "arrival_rate": Rule(Window.arrivals, (S.REQUESTS_FINISHED, _RUNNING, _WAITING), Across.SUM, Over.GROWTH, _PREFILL),
    "abort_rate": _rate(S.REQUESTS_ABORTED, _BOTH),
    "failure_rate": _rate(S.REQUESTS_FAILED, _BOTH),
    "rejection_rate": _rate(S.REQUESTS_REJECTED, _PREFILL),
    "length_share": _ratio(S.REQUESTS_FINISHED_BY_LENGTH, S.REQUESTS_FINISHED),
    "prompt_token_rate": _rate(S.PROMPT_TOKENS, _PREFILL),
    "prompt_computed_rate": _rate(S.PROMPT_TOKENS_COMPUTED, _PREFILL),
    "generation_token_rate": _rate(S.GENERATION_TOKENS),
    "work_rate": Rule(_work, (S.PROMPT_TOKENS, S.GENERATION_TOKENS), Across.SUM, Over.GROWTH, _DECODE),
    "preemption_rate": _rate(S.PREEMPTIONS, _BOTH),
    "prefix_hit_ratio": Rule(
        _prefix_hits,
        (S.PREFIX_CACHE_HITS, S.PREFIX_CACHE_QUERIES, S.PREFIX_CACHE_HIT_RATIO),
        Across.POOLED,
        Over.GROWTH,
        _PREFILL,
    ),
    "external_hit_ratio": _ratio(S.EXTERNAL_CACHE_HITS, S.EXTERNAL_CACHE_QUERIES, _PREFILL),
    "draft_acceptance": _ratio(S.ACCEPTED_TOKENS, S.DRAFT_TOKENS),
    "time_to_first_token_p50": _quantile(S.TIME_TO_FIRST_TOKEN, 0.5, _PREFILL),
    "time_to_first_token_p95": _quantile(S.TIME_TO_FIRST_TOKEN, 0.95, _PREFILL),
    "time_to_first_token_mean": _mean(S.TIME_TO_FIRST_TOKEN, _PREFILL),
    "inter_token_latency_p50": _quantile(S.INTER_TOKEN_LATENCY, 0.5),
    "inter_token_latency_p95": _quantile(S.INTER_TOKEN_LATENCY, 0.95),
    "inter_token_latency_mean": _mean(S.INTER_TOKEN_LATENCY),
    "queue_time_p95": _quantile(S.QUEUE_TIME, 0.95, _PREFILL),
    "queue_time_mean": _mean(S.QUEUE_TIME, _PREFILL),
    "prefill_time_p95": _quantile(S.PREFILL_TIME, 0.95, _PREFILL),
    "prefill_time_mean": _mean(S.PREFILL_TIME, _PREFILL),
    "decode_time_mean": _mean(S.DECODE_TIME),
    "request_latency_p50": _quantile(S.REQUEST_LATENCY, 0.5),
    "request_latency_p95": _quantile(S.REQUEST_LATENCY, 0.95),
    "request_latency_mean": _mean(S.REQUEST_LATENCY),
    "prompt_tokens_mean": Rule(
        _mean_length(S.REQUEST_PROMPT_TOKENS, S.PROMPT_TOKENS),
        (S.REQUEST_PROMPT_TOKENS, S.PROMPT_TOKENS, S.REQUESTS_FINISHED),
        Across.POOLED,
        Over.GROWTH,
        _PREFILL,
    ),
    "prompt_tokens_p99": _quantile(S.REQUEST_PROMPT_TOKENS, 0.99, _PREFILL),
    "generation_tokens_mean": Rule(
        _mean_length(S.REQUEST_GENERATION_TOKENS, S.GENERATION_TOKENS),
        (S.REQUEST_GENERATION_TOKENS, S.GENERATION_TOKENS, S.REQUESTS_FINISHED),
        Across.POOLED,
        Over.GROWTH,
    ),
    "generation_tokens_p99": _quantile(S.REQUEST_GENERATION_TOKENS, 0.99),
    "request_tokens_highest": Rule(
        _highest_length, (S.REQUEST_PROMPT_TOKENS, S.REQUEST_GENERATION_TOKENS), Across.LARGEST, Over.GROWTH
    ),
    "step_tokens_mean": _mean(S.STEP_TOKENS),
    "step_rate": Rule(
        lambda window: window.observations_each(S.STEP_TOKENS), (S.STEP_TOKENS,), Across.MEAN, Over.GROWTH
    ),
    "busy_ratio": _own_rate(S.BUSY_SECONDS, Across.MEAN),
    "process_cpu_cores": _own_rate(S.PROCESS_CPU_SECONDS, Across.LARGEST, _BOTH),
    "sleeping": _now(S.SLEEPING, Across.SUM, _BOTH),
    "lora_running": _now(S.LORA_RUNNING, Across.SUM),
    "lora_waiting": _now(S.LORA_WAITING, Across.SUM, _PREFILL),
    "lora_limit": _now(S.LORA_LIMIT, Across.SMALLEST, _BOTH),
    "lmcache_hit_ratio": _ratio(S.LMCACHE_HIT_TOKENS, S.LMCACHE_REQUESTED_TOKENS, _PREFILL),
    "lmcache_usage_bytes": _now(S.LMCACHE_LOCAL_USAGE_BYTES, Across.SUM, _PREFILL),
    "lmcache_disk_bytes": _now(S.LMCACHE_DISK_USAGE_BYTES, Across.SUM, _PREFILL),
    "lmcache_eviction_rate": _rate(S.LMCACHE_EVICTIONS, _PREFILL),
    "lmcache_store_rate": _rate(S.LMCACHE_STORED_TOKENS, _PREFILL),
    "lmcache_requested_rate": _rate(S.LMCACHE_REQUESTED_TOKENS, _PREFILL),
    "lmcache_remote_get_p95": _quantile(S.LMCACHE_REMOTE_GET_TIME, 0.95, _PREFILL),
    "lmcache_remote_read_rate": _rate(S.LMCACHE_REMOTE_READS, _PREFILL),
    "lmcache_retrieve_p95": _quantile(S.LMCACHE_RETRIEVE_TIME, 0.95, _PREFILL),
    "lmcache_lifespan_p50": _quantile(S.LMCACHE_LIFESPAN, 0.5, _PREFILL),
    "lmcache_ping_error_rate": _rate(S.LMCACHE_PING_ERRORS, _PREFILL),
    "lmcache_healthy": _now(S.LMCACHE_HEALTHY, Across.SMALLEST, _BOTH),
}
"""Field of `ServiceSignals` -> how it comes about. `work_rate` of a disaggregated service is added up from its parts:
prompt tokens of the prefill part and generated ones of the decode part."""


def join(values: Sequence[Value], across: Across) -> Value:
    """Join what several parts say; one that cannot say makes the whole unknown."""
    known: list[float] = []
    for value in values:
        if isinstance(value, Unknown):
            return value
        known.append(value)
    return float(JOINERS[across](known))
