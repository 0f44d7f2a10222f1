"""trtllm-serve: names and what is derived. No preemption counter, no token counters before 1.3.

The hit rate of the KV cache is the engine's own ratio, not a pair of counters. There is no batch limit on the page.
"""

from optiinfra.domain.readings import EngineKind, Signal
from optiinfra.engines.alias import Alias, Join, Joined, Kind, Table, fold
from optiinfra.engines.text import Samples

TABLE = Table(
    kind=EngineKind.TRTLLM,
    prefix="trtllm_",
    model_label="model_name",
    aliases=(
        Alias(Signal.REQUESTS_RUNNING, Kind.GAUGE, ("num_requests_running",)),
        Alias(Signal.REQUESTS_WAITING, Kind.GAUGE, ("num_requests_waiting",)),
        Alias(Signal.KV_CACHE_USAGE, Kind.RATIO, ("kv_cache_utilization",), join=Join.MAX),
        Alias(Signal.PREFIX_CACHE_HIT_RATIO, Kind.RATIO, ("kv_cache_hit_rate",), join=Join.MAX),
        Alias(Signal.PROMPT_TOKENS, Kind.COUNTER, ("prompt_tokens_total",)),
        Alias(Signal.GENERATION_TOKENS, Kind.COUNTER, ("generation_tokens_total",)),
        Alias(Signal.REQUESTS_FINISHED, Kind.COUNTER, ("request_success_total",)),
        Alias(Signal.TIME_TO_FIRST_TOKEN, Kind.HISTOGRAM, ("time_to_first_token_seconds",)),
        Alias(Signal.INTER_TOKEN_LATENCY, Kind.HISTOGRAM, ("time_per_output_token_seconds",)),
        Alias(Signal.REQUEST_LATENCY, Kind.HISTOGRAM, ("e2e_request_latency_seconds",)),
        Alias(Signal.QUEUE_TIME, Kind.HISTOGRAM, ("request_queue_time_seconds",)),
    ),
    extra=("kv_cache_max_blocks", "kv_cache_tokens_per_block"),
)


def finish(samples: Samples, table: Table, joined: Joined) -> None:
    """Add the KV capacity: blocks times tokens in a block."""
    blocks = fold(samples.values.get(f"{table.prefix}kv_cache_max_blocks", {}), table.ranks)
    size = fold(samples.values.get(f"{table.prefix}kv_cache_tokens_per_block", {}), table.ranks)
    if blocks and size and sum(blocks) and max(size):
        joined.gauges[Signal.KV_CACHE_CAPACITY_TOKENS] = sum(blocks) * max(size)
