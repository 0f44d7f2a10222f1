"""trtllm-serve: names and what is derived. No preemption counter, no token counters before 1.3.

Latencies and token counters need `return_perf_metrics: true`; without it only the gauges of the last iteration are
there, and `num_requests_completed_total`, which is therefore preferred to the finish counter. The hit rate of the KV
cache is the engine's own ratio where prompt tokens are not told apart. Under Dynamo the prefix was `trtllm:` for a
while.
"""

from dataclasses import replace

from optiinfra.domain.readings import EngineKind, Signal
from optiinfra.engines.alias import Alias, Join, Joined, Kind, Name, Table, facts, fold, names, only
from optiinfra.engines.text import Samples

_INFOS = ("model_config_info", "parallel_config_info", "speculative_config_info", "kv_cache_config_info")

TABLE = Table(
    kind=EngineKind.TRTLLM,
    prefix="trtllm_",
    model_label="model_name",
    aliases=(
        Alias(Signal.REQUESTS_RUNNING, Kind.GAUGE, names("num_requests_running")),
        Alias(Signal.REQUESTS_WAITING, Kind.GAUGE, names("num_requests_waiting")),
        Alias(Signal.BATCH_LIMIT, Kind.GAUGE, names("max_num_active_requests", "max_batch_size_runtime")),
        Alias(Signal.KV_CACHE_USAGE, Kind.RATIO, names("kv_cache_utilization"), join=Join.MAX),
        Alias(Signal.PREFIX_CACHE_HIT_RATIO, Kind.RATIO, names("kv_cache_hit_rate"), join=Join.MAX),
        Alias(Signal.PROMPT_TOKENS, Kind.COUNTER, names("prompt_tokens_total")),
        Alias(Signal.GENERATION_TOKENS, Kind.COUNTER, names("generation_tokens_total")),
        Alias(Signal.REQUESTS_FINISHED, Kind.COUNTER, names("num_requests_completed_total", "request_success_total")),
        Alias(
            Signal.REQUESTS_FINISHED_BY_LENGTH,
            Kind.COUNTER,
            (only("request_success_total", "finished_reason", "length"),),
            born_late=True,
        ),
        Alias(Signal.REQUESTS_FAILED, Kind.COUNTER, names("request_error_total")),
        Alias(Signal.PREFIX_CACHE_HITS, Kind.COUNTER, names("prompt_cached_tokens_total")),
        Alias(Signal.DRAFT_TOKENS, Kind.COUNTER, names("spec_decode_num_draft_tokens_total")),
        Alias(Signal.ACCEPTED_TOKENS, Kind.COUNTER, names("spec_decode_num_accepted_tokens_total")),
        Alias(Signal.PROCESS_CPU_SECONDS, Kind.COUNTER, (Name("process_cpu_seconds_total", bare=True),)),
        Alias(Signal.TIME_TO_FIRST_TOKEN, Kind.HISTOGRAM, names("time_to_first_token_seconds")),
        Alias(Signal.INTER_TOKEN_LATENCY, Kind.HISTOGRAM, names("time_per_output_token_seconds")),
        Alias(Signal.REQUEST_LATENCY, Kind.HISTOGRAM, names("e2e_request_latency_seconds")),
        Alias(Signal.QUEUE_TIME, Kind.HISTOGRAM, names("request_queue_time_seconds")),
        Alias(Signal.PREFILL_TIME, Kind.HISTOGRAM, names("request_prefill_time_seconds")),
        Alias(Signal.DECODE_TIME, Kind.HISTOGRAM, names("request_decode_time_seconds")),
    ),
    extra=("kv_cache_max_blocks", "kv_cache_tokens_per_block", *_INFOS),
)
DYNAMO_TABLE = replace(TABLE, prefix="trtllm:")


def finish(samples: Samples, table: Table, joined: Joined) -> None:
    """Add the KV capacity (blocks times tokens in a block), what was computed of the prompts, and the configuration."""
    blocks = fold(samples.values.get(f"{table.prefix}kv_cache_max_blocks", {}), table.ranks)
    size = fold(samples.values.get(f"{table.prefix}kv_cache_tokens_per_block", {}), table.ranks)
    if blocks and size and sum(blocks) and max(size):
        joined.gauges[Signal.KV_CACHE_CAPACITY_TOKENS] = sum(blocks) * max(size)
        joined.facts["block_size"] = f"{max(size):.0f}"
        joined.facts["num_gpu_blocks"] = f"{sum(blocks):.0f}"
    for info in _INFOS:
        joined.facts.update(facts(samples.values.get(table.prefix + info, {})))
    prompt, cached = joined.counters.get(Signal.PROMPT_TOKENS), joined.counters.get(Signal.PREFIX_CACHE_HITS)
    if prompt is not None and cached is not None:
        joined.counters[Signal.PREFIX_CACHE_QUERIES] = prompt
        if cached <= prompt:
            joined.counters[Signal.PROMPT_TOKENS_COMPUTED] = prompt - cached
