"""vLLM, V0 and V1: names, renames and what is derived. Checked against vLLM 0.32.0 (39 families).

Data-parallel engines of one process tell themselves apart by the label `engine`: their requests, capacities and
counters add up, their KV usage does not (the fullest one counts). Under Ray the same families are prefixed: `ray_vllm:`
up to Ray 2.4x, `ray_vllm_` since, and each worker is a series of its own. Ray exports counters twice, with and without
`_total`; only the former is read.

| signal | names, newest first | why |
|---|---|---|
| kv_cache_usage | kv_cache_usage_perc, gpu_cache_usage_perc | both in 2025, then the old one hidden, then gone |
| prefix_cache_* | prefix_cache_*_total, gpu_prefix_cache_*_total | likewise; blocks, not tokens, before PR 18003 |
| prefix_cache_hit_ratio | gpu_prefix_cache_hit_rate | V0 only; -1 when unused, which is left out |
| inter_token_latency | inter_token_latency_seconds, time_per_output_token_seconds | it held inter-token intervals |
| queue_time | request_queue_time_seconds, time_in_queue_requests | the duplicate was removed |

`cache_config_info` has `engine` but no `model_name`, and its labels are strings. `kv_cache_size_tokens` is trusted over
`kv_cache_memory_bytes`, which still shows the configured size when the number of blocks is overridden (measured).
"""

from dataclasses import replace

from optiinfra.domain.readings import EngineKind, Signal
from optiinfra.engines.alias import Alias, Join, Joined, Kind, Table
from optiinfra.engines.text import Labels, Samples

TABLE = Table(
    kind=EngineKind.VLLM,
    prefix="vllm:",
    model_label="model_name",
    info="cache_config_info",
    aliases=(
        Alias(Signal.REQUESTS_RUNNING, Kind.GAUGE, ("num_requests_running",)),
        Alias(Signal.REQUESTS_WAITING, Kind.GAUGE, ("num_requests_waiting",)),
        Alias(
            Signal.REQUESTS_DEFERRED,
            Kind.GAUGE,
            ("num_requests_waiting_by_reason",),
            only=("reason", frozenset({"deferred"})),
        ),
        Alias(Signal.KV_CACHE_USAGE, Kind.RATIO, ("kv_cache_usage_perc", "gpu_cache_usage_perc"), join=Join.MAX),
        Alias(Signal.PREFIX_CACHE_HIT_RATIO, Kind.RATIO, ("gpu_prefix_cache_hit_rate",), join=Join.MAX),
        Alias(Signal.PROMPT_TOKENS, Kind.COUNTER, ("prompt_tokens_total",)),
        Alias(Signal.GENERATION_TOKENS, Kind.COUNTER, ("generation_tokens_total",)),
        Alias(Signal.REQUESTS_FINISHED, Kind.COUNTER, ("request_success_total",)),
        Alias(Signal.PREEMPTIONS, Kind.COUNTER, ("num_preemptions_total",)),
        Alias(
            Signal.PREFIX_CACHE_QUERIES, Kind.COUNTER, ("prefix_cache_queries_total", "gpu_prefix_cache_queries_total")
        ),
        Alias(Signal.PREFIX_CACHE_HITS, Kind.COUNTER, ("prefix_cache_hits_total", "gpu_prefix_cache_hits_total")),
        Alias(Signal.TIME_TO_FIRST_TOKEN, Kind.HISTOGRAM, ("time_to_first_token_seconds",)),
        Alias(
            Signal.INTER_TOKEN_LATENCY,
            Kind.HISTOGRAM,
            ("inter_token_latency_seconds", "time_per_output_token_seconds"),
        ),
        Alias(Signal.REQUEST_LATENCY, Kind.HISTOGRAM, ("e2e_request_latency_seconds",)),
        Alias(Signal.QUEUE_TIME, Kind.HISTOGRAM, ("request_queue_time_seconds", "time_in_queue_requests")),
        Alias(Signal.REQUEST_PROMPT_TOKENS, Kind.HISTOGRAM, ("request_prompt_tokens",)),
        Alias(Signal.REQUEST_GENERATION_TOKENS, Kind.HISTOGRAM, ("request_generation_tokens",)),
    ),
)
RAY_TABLE = replace(TABLE, prefix="ray_vllm:")
RAY_SANITISED_TABLE = replace(TABLE, prefix="ray_vllm_")


def finish(samples: Samples, table: Table, joined: Joined) -> None:
    """Add the KV capacity, from the configuration that every engine of the page shows."""
    capacities = [_capacity(labels) for labels in samples.values.get(table.prefix + table.info, {})]
    if capacities and None not in capacities:
        joined.gauges[Signal.KV_CACHE_CAPACITY_TOKENS] = sum(one for one in capacities if one is not None)


def _capacity(labels: Labels) -> float | None:
    facts = dict(labels)
    tokens = positive(facts.get("kv_cache_size_tokens"))
    if tokens is not None:
        return tokens
    blocks = positive(facts.get("num_gpu_blocks"))
    block_size = positive(facts.get("block_size"))
    return None if blocks is None or block_size is None else blocks * block_size


def positive(text: str | None) -> float | None:
    """Return a positive count of a label, which is text and may read "None"."""
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 15:
        return None
    return float(text) or None
