"""SGLang (`--enable-metrics`), 0.5.10 to 0.5.23: names, renames and what is derived.

Every rank publishes its own series (tp_rank, pp_rank, moe_ep_rank), and all ranks of a model see the same requests:
the largest counts, never the sum. Data-parallel ranks (dp_rank) hold different requests and add up. `pid` appears on
gauges that Prometheus' multiprocess mode did not merge.

| signal | names, newest first | why |
|---|---|---|
| kv_cache_usage | token_usage | the tightest pool; see `finish` for when it is not believed |
| preemptions | num_retracted_requests_total | `num_retracted_reqs` is a gauge of the last batch |
| generation_tokens | realtime_tokens_total, generation_tokens_total | the old one grows only when a request ends |
| prefix_cache_hits | prefill_effective_tokens_total, cached_tokens_total | the gauge is of the last batch |
| inter_token_latency | inter_token_latency_seconds, time_per_output_token_seconds | renamed |

`num_queue_reqs` holds only requests that capacity would start; those in the grammar, pause and hand-over queues stand
beside it. They are added to the waiting ones here and told as deferred, as on the other engines' pages. A request that
is aborted while it waits may be missing among the finished ones.
"""

from typing import Protocol

from optiinfra.domain.readings import EngineKind, Signal
from optiinfra.engines.alias import Alias, Join, Joined, Kind, Name, Table, facts, fold, names, only, renamed
from optiinfra.engines.text import Samples

_DISTRUST = 0.1
"""`token_usage` further than this from every pool's own share is not believed."""
_NOT_BY_CAPACITY = (
    "num_grammar_queue_reqs",
    "num_paused_reqs",
    "num_prefill_bootstrap_queue_reqs",
    "num_decode_transfer_queue_reqs",
)
_BY_CAPACITY = ("num_decode_prealloc_queue_reqs",)
_CACHED = ("device_hit", "host_hit", "storage_hit")
_POOLS = ("full_token_usage", "swa_token_usage", "mamba_usage")

TABLE = Table(
    kind=EngineKind.SGLANG,
    prefix="sglang:",
    model_label="model_name",
    ranks=frozenset({"tp_rank", "pp_rank", "moe_ep_rank", "ep_rank", "pid"}),
    aliases=(
        Alias(Signal.REQUESTS_RUNNING, Kind.GAUGE, names("num_running_reqs")),
        Alias(Signal.REQUESTS_WAITING, Kind.GAUGE, names("num_queue_reqs")),
        Alias(Signal.KV_CACHE_USAGE, Kind.RATIO, names("token_usage"), join=Join.MAX),
        Alias(Signal.LORA_RUNNING, Kind.GAUGE, names("lora_pool_slots_used")),
        Alias(Signal.LORA_LIMIT, Kind.GAUGE, names("lora_pool_slots_total")),
        Alias(
            Signal.STARTUP_SECONDS,
            Kind.GAUGE,
            (only("startup_time_seconds", "phase", "scheduler_e2e"), Name("engine_startup_time")),
            join=Join.MAX,
        ),
        Alias(
            Signal.PROMPT_TOKENS,
            Kind.COUNTER,
            (only("prefill_effective_tokens_total", "mode", "input", *_CACHED), Name("prompt_tokens_total")),
        ),
        Alias(Signal.PROMPT_TOKENS_COMPUTED, Kind.COUNTER, (only("prefill_effective_tokens_total", "mode", "input"),)),
        Alias(
            Signal.GENERATION_TOKENS,
            Kind.COUNTER,
            (only("realtime_tokens_total", "mode", "decode"), Name("generation_tokens_total")),
        ),
        Alias(Signal.REQUESTS_FINISHED, Kind.COUNTER, names("num_requests_total")),
        Alias(Signal.REQUESTS_ABORTED, Kind.COUNTER, names("num_aborted_requests_total")),
        Alias(Signal.PREEMPTIONS, Kind.COUNTER, names("num_retracted_requests_total")),
        Alias(
            Signal.PREFIX_CACHE_QUERIES,
            Kind.COUNTER,
            (only("prefill_effective_tokens_total", "mode", "input", *_CACHED), Name("prompt_tokens_total")),
        ),
        Alias(
            Signal.PREFIX_CACHE_HITS,
            Kind.COUNTER,
            (only("prefill_effective_tokens_total", "mode", *_CACHED), Name("cached_tokens_total")),
        ),
        Alias(Signal.BUSY_SECONDS, Kind.COUNTER, names("forward_execution_seconds_total"), join=Join.SUM),
        Alias(Signal.PROCESS_CPU_SECONDS, Kind.COUNTER, (Name("process_cpu_seconds_total", bare=True),)),
        Alias(Signal.TIME_TO_FIRST_TOKEN, Kind.HISTOGRAM, names("time_to_first_token_seconds")),
        Alias(
            Signal.INTER_TOKEN_LATENCY,
            Kind.HISTOGRAM,
            renamed("inter_token_latency_seconds", "time_per_output_token_seconds", since="", gone=""),
        ),
        Alias(Signal.REQUEST_LATENCY, Kind.HISTOGRAM, names("e2e_request_latency_seconds")),
        Alias(Signal.QUEUE_TIME, Kind.HISTOGRAM, names("queue_time_seconds")),
        Alias(Signal.REQUEST_PROMPT_TOKENS, Kind.HISTOGRAM, names("prompt_tokens_histogram")),
        Alias(Signal.REQUEST_GENERATION_TOKENS, Kind.HISTOGRAM, names("generation_tokens_histogram")),
    ),
    extra=(
        "num_used_tokens",
        "max_total_num_tokens",
        "kv_evictable_tokens",
        "page_size",
        "num_pages",
        "cache_config_info",
        *_POOLS,
        *_NOT_BY_CAPACITY,
        *_BY_CAPACITY,
    ),
)


class _Values(Protocol):
    def __call__(self, name: str, *, largest: bool = True) -> list[float]: ...


def finish(samples: Samples, table: Table, joined: Joined) -> None:
    """Add the KV capacity, the shares of its pool, and the waits beside the queue."""

    def values(name: str, *, largest: bool = True) -> list[float]:
        return fold(samples.values.get(table.prefix + name, {}), table.ranks, largest=largest)

    joined.facts.update(facts(samples.values.get(f"{table.prefix}cache_config_info", {})))
    for name in ("page_size", "num_pages"):
        if found := values(name, largest=False):
            joined.facts[name] = f"{found[0]:.0f}"
    capacities = values("max_total_num_tokens", largest=False)
    capacity = sum(capacities)
    if not capacity:
        try:
            capacity = float(joined.facts.get("page_size", "")) * float(joined.facts.get("num_pages", ""))
        except ValueError:
            capacity = 0.0
    if capacity:
        joined.gauges[Signal.KV_CACHE_CAPACITY_TOKENS] = capacity
    evictable = _largest_share(values("kv_evictable_tokens"), capacities)
    if evictable is not None and evictable <= 1.0:
        joined.gauges[Signal.KV_CACHE_EVICTABLE] = evictable
    _add_other_queues(values, joined)
    usage = joined.gauges.get(Signal.KV_CACHE_USAGE)
    used = _largest_share(values("num_used_tokens"), capacities)
    if usage is not None and used is not None:
        pools = [used, *(share for pool in _POOLS for share in values(pool))]
        if all(abs(usage - share) > _DISTRUST for share in pools):
            del joined.gauges[Signal.KV_CACHE_USAGE]


def _largest_share(parts: list[float], wholes: list[float]) -> float | None:
    if not parts or len(parts) != len(wholes):
        return None
    shares = [part / whole for part, whole in zip(parts, wholes, strict=True) if whole]
    return max(shares, default=None)


def _add_other_queues(values: _Values, joined: Joined) -> None:
    deferred = [value for name in _NOT_BY_CAPACITY for value in values(name)]
    beside = deferred + [value for name in _BY_CAPACITY for value in values(name)]
    if deferred:
        joined.gauges[Signal.REQUESTS_DEFERRED] = sum(deferred)
    if Signal.REQUESTS_WAITING in joined.gauges:
        joined.gauges[Signal.REQUESTS_WAITING] += sum(beside)
