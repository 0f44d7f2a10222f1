"""What was measured, and what was not: readings, and unknowns that carry their reason.

A value that was not measured is an `Unknown`, a type of its own: never zero, never NaN, never the last good value.
Code that wants a number has to say what it does without one. This module holds no rules about staleness; whoever
builds a reading knows its source's clock and decides.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from optiinfra.domain.units import UnixTime


class UnknownReason(StrEnum):
    """Why a value is not known. The text is shown to people in conditions and evidence."""

    NOT_MEASURED = "NotMeasured"
    """The source does not publish it."""
    TOO_FEW_SAMPLES = "TooFewSamples"
    """Published, but not often enough yet to say something (a rate needs two scrapes)."""
    STALE = "Stale"
    """Measured, but too long ago."""
    UNREACHABLE = "Unreachable"
    """The source did not answer in time."""
    REFUSED = "Refused"
    """The source answered and refused (authentication, permission)."""
    INVALID = "Invalid"
    """The source answered something that is not a page of metrics, or a value that cannot be."""
    UNSUPPORTED = "Unsupported"
    """The engine, driver or hardware cannot measure it."""
    NOT_CONFIGURED = "NotConfigured"
    """Nobody told us where to look (a price, a poolRef)."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """Not measured, stale or refused, with the reason."""

    reason: UnknownReason
    detail: str = ""

    def __str__(self) -> str:
        return f"unknown ({self.reason}{': ' + self.detail if self.detail else ''})"


Value: TypeAlias = float | Unknown
"""A measured number, or why there is none."""


def is_known(value: Value) -> bool:
    """Tell whether a value was measured. Prefer `isinstance(value, Unknown)` where mypy should narrow the type."""
    return not isinstance(value, Unknown)


class EngineKind(StrEnum):
    """The engines whose pages are understood."""

    VLLM = "vLLM"
    SGLANG = "SGLang"
    TGI = "TGI"
    TRITON = "Triton"
    TRTLLM = "TRT-LLM"
    NIM = "NIM"


class Signal(StrEnum):
    """The normalised signals of an engine page. Unit and kind follow each name; the engines' own names do not leak."""

    # Enum's own hash is a Python function, and signals are looked up some thousand times a summary.
    __hash__ = str.__hash__

    # gauges
    REQUESTS_RUNNING = "requests_running"
    REQUESTS_WAITING = "requests_waiting"
    REQUESTS_DEFERRED = "requests_deferred"
    """Of the waiting requests, those that more capacity would not start (LoRA budget, KV transfer, grammar)."""
    KV_CACHE_USAGE = "kv_cache_usage"
    """Ratio 0..1 of live blocks."""
    KV_CACHE_RESERVED = "kv_cache_reserved"
    """Ratio 0..1 of tokens reserved for running requests, where the engine tells that instead of residency (TGI)."""
    KV_CACHE_CAPACITY_TOKENS = "kv_cache_capacity_tokens"
    KV_CACHE_EVICTABLE = "kv_cache_evictable"
    """Ratio 0..1 of the pool that holds cached prefixes nobody uses (SGLang)."""
    PREFIX_CACHE_HIT_RATIO = "prefix_cache_hit_ratio"
    """As the engine computes it, only where it publishes no counters (trtllm-serve, vLLM V0)."""
    BATCH_LIMIT = "batch_limit"
    """Requests the engine runs at once, where the page says so (NIM); else it comes from the pod's arguments."""
    SLEEPING = "sleeping"
    """1 while the engine sleeps (weights offloaded or discarded), 0 while it is awake."""
    LORA_RUNNING = "lora_running"
    """Adapters that running requests use."""
    LORA_WAITING = "lora_waiting"
    """Adapters that waiting requests ask for."""
    LORA_LIMIT = "lora_limit"
    """Adapters that may run at once."""
    STARTUP_SECONDS = "startup_seconds"
    """Time the engine took to start, where it says so."""
    # counters
    PROMPT_TOKENS = "prompt_tokens"
    PROMPT_TOKENS_COMPUTED = "prompt_tokens_computed"
    """Prompt tokens that were computed here, not found in a cache."""
    GENERATION_TOKENS = "generation_tokens"
    REQUESTS_FINISHED = "requests_finished"
    """Requests that ended, however they did."""
    REQUESTS_FINISHED_BY_LENGTH = "requests_finished_by_length"
    REQUESTS_ABORTED = "requests_aborted"
    """Ended by the client or by a time-out."""
    REQUESTS_FAILED = "requests_failed"
    REQUESTS_REJECTED = "requests_rejected"
    """Refused at the door because the queue was full."""
    PREEMPTIONS = "preemptions"
    PREFIX_CACHE_QUERIES = "prefix_cache_queries"
    PREFIX_CACHE_HITS = "prefix_cache_hits"
    EXTERNAL_CACHE_QUERIES = "external_cache_queries"
    """Prompt tokens asked of a cache outside the engine (KV connector)."""
    EXTERNAL_CACHE_HITS = "external_cache_hits"
    DRAFT_TOKENS = "draft_tokens"
    """Tokens proposed by speculative decoding."""
    ACCEPTED_TOKENS = "accepted_tokens"
    BUSY_SECONDS = "busy_seconds"
    """Time spent in forward passes, where the engine counts it (SGLang)."""
    PROCESS_CPU_SECONDS = "process_cpu_seconds"
    """CPU time of the process that serves the page."""
    # histograms, seconds
    TIME_TO_FIRST_TOKEN = "time_to_first_token"  # noqa: S105  a signal's name, not a secret
    INTER_TOKEN_LATENCY = "inter_token_latency"  # noqa: S105  a signal's name, not a secret
    REQUEST_LATENCY = "request_latency"
    QUEUE_TIME = "queue_time"
    PREFILL_TIME = "prefill_time"
    DECODE_TIME = "decode_time"
    # histograms, tokens
    REQUEST_PROMPT_TOKENS = "request_prompt_tokens"
    REQUEST_GENERATION_TOKENS = "request_generation_tokens"
    STEP_TOKENS = "step_tokens"
    """Tokens of one engine step; its count counts steps."""
    # LMCache
    LMCACHE_REQUESTED_TOKENS = "lmcache_requested_tokens"
    LMCACHE_HIT_TOKENS = "lmcache_hit_tokens"
    LMCACHE_STORED_TOKENS = "lmcache_stored_tokens"
    LMCACHE_LOCAL_USAGE_BYTES = "lmcache_local_usage_bytes"
    LMCACHE_DISK_USAGE_BYTES = "lmcache_disk_usage_bytes"
    LMCACHE_REMOTE_USAGE_BYTES = "lmcache_remote_usage_bytes"
    LMCACHE_EVICTIONS = "lmcache_evictions"
    LMCACHE_EVICTION_FAILURES = "lmcache_eviction_failures"
    LMCACHE_REMOTE_READS = "lmcache_remote_reads"
    LMCACHE_REMOTE_READ_BYTES = "lmcache_remote_read_bytes"
    LMCACHE_REMOTE_GET_TIME = "lmcache_remote_get_time"
    """Histogram, seconds."""
    LMCACHE_RETRIEVE_TIME = "lmcache_retrieve_time"
    """Histogram, seconds."""
    LMCACHE_LIFESPAN = "lmcache_lifespan"
    """Histogram, how long cached chunks live; in the unit of LMCache's page, minutes."""
    LMCACHE_PING_ERRORS = "lmcache_ping_errors"
    LMCACHE_HEALTHY = "lmcache_healthy"
    """1 while LMCache says that it is well."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """A cumulative Prometheus histogram as scraped: upper bounds (last one may be +inf) and counts up to each."""

    bounds: tuple[float, ...]
    cumulative: tuple[float, ...]
    total: float
    """Sum of observed values."""
    count: float


@dataclass(frozen=True, slots=True)
class EngineReading:
    """One scraped page of one engine process, normalised. A signal that is absent from the page is absent here."""

    time: UnixTime
    engine: EngineKind
    version: str
    """As far as the page tells; empty when it does not."""
    model: str
    """The page's model label; empty when it has none. It is user text: never shown to an LLM."""
    gauges: Mapping[Signal, float] = field(default_factory=dict)
    counters: Mapping[Signal, float] = field(default_factory=dict)
    histograms: Mapping[Signal, Histogram] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    """Static configuration labels that the page carries (vLLM's cache_config_info), "None" removed."""
    members: tuple[str, ...] = ()
    """The engines that the page adds up (data-parallel ranks, Ray workers), where it holds more than one."""

    def gauge(self, signal: Signal) -> Value:
        """Return a gauge of the page, or an Unknown that names the engine."""
        value = self.gauges.get(signal)
        return Unknown(UnknownReason.NOT_MEASURED, f"{self.engine} page without {signal}") if value is None else value


@dataclass(frozen=True, slots=True)
class CacheReading:
    """One scraped page of a KV cache that runs beside an engine (LMCache's server), normalised like an engine's."""

    time: UnixTime
    gauges: Mapping[Signal, float] = field(default_factory=dict)
    counters: Mapping[Signal, float] = field(default_factory=dict)
    histograms: Mapping[Signal, Histogram] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
