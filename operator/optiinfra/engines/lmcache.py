"""LMCache 0.5: in the engine, as a guest on its page, and as a server of its own (`lmcache_mp`).

The in-engine connector stands on the engine's page (one PROMETHEUS_MULTIPROC_DIR for both processes) or behind its own
API server. Every worker is a series; each has its own CPU pool and its own part of a request's tokens, so all of them
add up and the hit ratio stays right. The capacity of the CPU pool is not exported. `lookup_hit_rate` and
`retrieve_hit_rate` speak of the time since the last log line and are not read.

The multi-process server names its metrics for OpenTelemetry (`lmcache_mp.lookup_hit`, unit tokens); a Prometheus page
has underscores for dots, the unit behind the name, and `_total` behind counters. It looks chunk-aligned tokens up in
its memory (L1) and in what lies behind it (L2). A counter appears with its first event. Lifetimes are in seconds there
and in minutes in the engine; both are told in minutes. What it stores is counted in chunks, not tokens: that stays
absent.
"""

from optiinfra.domain.readings import EngineKind, Signal
from optiinfra.engines.alias import Alias, Join, Joined, Kind, Table, fold, join, names, scaled
from optiinfra.engines.text import Labels, Samples

_L2_USAGE = "l2_usage_bytes"
_DISKS = ("fs", "disk", "gds", "nvme", "posix")
"""What the names of L2 adapters that write to a disk start with."""

TABLE = Table(
    kind=EngineKind.VLLM,
    prefix="lmcache:",
    aliases=(
        Alias(Signal.LMCACHE_REQUESTED_TOKENS, Kind.COUNTER, names("num_requested_tokens_total")),
        Alias(Signal.LMCACHE_HIT_TOKENS, Kind.COUNTER, names("num_hit_tokens_total")),
        Alias(Signal.LMCACHE_STORED_TOKENS, Kind.COUNTER, names("num_stored_tokens_total")),
        Alias(Signal.LMCACHE_LOCAL_USAGE_BYTES, Kind.GAUGE, names("local_cache_usage")),
        Alias(Signal.LMCACHE_DISK_USAGE_BYTES, Kind.GAUGE, names("local_storage_usage")),
        Alias(Signal.LMCACHE_REMOTE_USAGE_BYTES, Kind.GAUGE, names("remote_cache_usage")),
        Alias(Signal.LMCACHE_EVICTIONS, Kind.COUNTER, names("local_cpu_evict_count_total")),
        Alias(Signal.LMCACHE_EVICTION_FAILURES, Kind.COUNTER, names("local_cpu_evict_failed_count_total")),
        Alias(Signal.LMCACHE_REMOTE_READS, Kind.COUNTER, names("num_remote_read_requests_total")),
        Alias(Signal.LMCACHE_REMOTE_READ_BYTES, Kind.COUNTER, names("num_remote_read_bytes_total")),
        Alias(Signal.LMCACHE_PING_ERRORS, Kind.COUNTER, names("remote_ping_errors_total")),
        Alias(Signal.LMCACHE_HEALTHY, Kind.RATIO, names("lmcache_is_healthy"), join=Join.MIN),
        Alias(Signal.LMCACHE_REMOTE_GET_TIME, Kind.HISTOGRAM, names("remote_time_to_get")),
        Alias(Signal.LMCACHE_RETRIEVE_TIME, Kind.HISTOGRAM, names("time_to_retrieve")),
        Alias(Signal.LMCACHE_LIFESPAN, Kind.HISTOGRAM, names("request_cache_lifespan")),
    ),
)
"""The kind is the host's; this table is only ever applied beside another one."""
SERVER_TABLE = Table(
    kind=EngineKind.VLLM,
    prefix="lmcache_mp_",
    aliases=(
        Alias(
            Signal.LMCACHE_REQUESTED_TOKENS,
            Kind.COUNTER,
            names("lookup_requested_tokens_total", "lookup_requested_total"),
        ),
        Alias(Signal.LMCACHE_HIT_TOKENS, Kind.COUNTER, names("lookup_hit_tokens_total", "lookup_hit_total")),
        Alias(Signal.LMCACHE_LOCAL_USAGE_BYTES, Kind.GAUGE, names("l1_memory_usage_bytes")),
        Alias(
            Signal.LMCACHE_EVICTIONS,
            Kind.COUNTER,
            names("l1_evicted_chunks_total", "l1_evicted_objects_chunks_total", "l1_evicted_keys_total"),
        ),
        Alias(
            Signal.LMCACHE_REMOTE_READS,
            Kind.COUNTER,
            names("l2_load_completed_requests_total", "l2_load_completed_total"),
        ),
        Alias(Signal.LMCACHE_LIFESPAN, Kind.HISTOGRAM, names("l1_chunk_lifetime_seconds")),
    ),
    extra=(_L2_USAGE,),
)
GUESTS = (TABLE, SERVER_TABLE)
WORKERS = "lmcache_workers"
"""Name of the fact that tells how many workers have a pool of their own."""


def read_guest(samples: Samples, table: Table) -> Joined:
    """Join what one of LMCache's tables finds on a page."""
    joined = join(samples, table)
    if table is TABLE and (pools := samples.values.get(f"{table.prefix}local_cache_usage")):
        workers = {value for labels in pools for name, value in labels if name == "worker_id"}
        joined.facts[WORKERS] = str(len(workers) or 1)
    lifespan = joined.histograms.get(Signal.LMCACHE_LIFESPAN)
    if table is SERVER_TABLE:
        if lifespan is not None:
            joined.histograms[Signal.LMCACHE_LIFESPAN] = scaled(lifespan, 1.0 / 60.0)
        _add_l2(samples, table, joined)
    return joined


def _add_l2(samples: Samples, table: Table, joined: Joined) -> None:
    series = samples.values.get(table.prefix + _L2_USAGE, {})
    for signal, disk in ((Signal.LMCACHE_DISK_USAGE_BYTES, True), (Signal.LMCACHE_REMOTE_USAGE_BYTES, False)):
        usage = fold({key: value for key, value in series.items() if _is_disk(key) is disk}, table.ranks)
        if usage:
            joined.gauges[signal] = sum(usage)


def _is_disk(labels: Labels) -> bool:
    return next((value for name, value in labels if name == "l2_name"), "").lower().startswith(_DISKS)
