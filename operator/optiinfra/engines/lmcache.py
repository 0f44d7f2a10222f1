"""LMCache 0.5, as a guest on an engine's page (in-engine connector, one PROMETHEUS_MULTIPROC_DIR for both).

Every worker is a series; each has its own CPU pool and its own part of a request's tokens, so all of them add up and
the hit ratio stays right. The capacity of the CPU pool is not exported. The multi-process server's `lmcache_mp.*`
family is served elsewhere and not read here.
"""

from optiinfra.domain.readings import EngineKind, Signal
from optiinfra.engines.alias import Alias, Kind, Table

TABLE = Table(
    kind=EngineKind.VLLM,
    prefix="lmcache:",
    aliases=(
        Alias(Signal.LMCACHE_REQUESTED_TOKENS, Kind.COUNTER, ("num_requested_tokens_total",)),
        Alias(Signal.LMCACHE_HIT_TOKENS, Kind.COUNTER, ("num_hit_tokens_total",)),
        Alias(Signal.LMCACHE_LOCAL_USAGE_BYTES, Kind.GAUGE, ("local_cache_usage",)),
        Alias(Signal.LMCACHE_EVICTIONS, Kind.COUNTER, ("local_cpu_evict_count_total",)),
    ),
)
"""The kind is the host's; this table is only ever applied beside another one."""
