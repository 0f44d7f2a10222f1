"""SGLang (`--enable-metrics`), 0.5.10 to 0.5.23: names, renames and what is derived.

Every rank publishes its own series (tp_rank, pp_rank, moe_ep_rank), and all ranks of a model see the same requests:
the largest counts, never the sum. Data-parallel ranks (dp_rank) hold different requests and add up. `pid` appears on
gauges that Prometheus' multiprocess mode did not merge.

| signal | names, newest first | why |
|---|---|---|
| kv_cache_usage | token_usage | the tightest pool; see `finish` for when it is not believed |
| preemptions | num_retracted_requests_total | `num_retracted_reqs` is a gauge of the last batch |
| prefix_cache_hits | cached_tokens_total | `cache_hit_rate` speaks of the last prefill batch only |
| inter_token_latency | inter_token_latency_seconds, time_per_output_token_seconds | renamed |
"""

from optiinfra.domain.readings import EngineKind, Signal
from optiinfra.engines.alias import Alias, Join, Joined, Kind, Table, facts, fold
from optiinfra.engines.text import Samples

_DISTRUST = 0.1
"""`token_usage` further than this from used/total tokens is not believed, unless another pool explains it."""

TABLE = Table(
    kind=EngineKind.SGLANG,
    prefix="sglang:",
    model_label="model_name",
    ranks=frozenset({"tp_rank", "pp_rank", "moe_ep_rank", "ep_rank", "pid"}),
    aliases=(
        Alias(Signal.REQUESTS_RUNNING, Kind.GAUGE, ("num_running_reqs",)),
        Alias(Signal.REQUESTS_WAITING, Kind.GAUGE, ("num_queue_reqs",)),
        Alias(Signal.KV_CACHE_USAGE, Kind.RATIO, ("token_usage",), join=Join.MAX),
        Alias(Signal.PROMPT_TOKENS, Kind.COUNTER, ("prompt_tokens_total",)),
        Alias(Signal.GENERATION_TOKENS, Kind.COUNTER, ("generation_tokens_total",)),
        Alias(Signal.REQUESTS_FINISHED, Kind.COUNTER, ("num_requests_total",)),
        Alias(Signal.PREEMPTIONS, Kind.COUNTER, ("num_retracted_requests_total",)),
        Alias(Signal.PREFIX_CACHE_QUERIES, Kind.COUNTER, ("prompt_tokens_total",)),
        Alias(Signal.PREFIX_CACHE_HITS, Kind.COUNTER, ("cached_tokens_total",)),
        Alias(Signal.TIME_TO_FIRST_TOKEN, Kind.HISTOGRAM, ("time_to_first_token_seconds",)),
        Alias(
            Signal.INTER_TOKEN_LATENCY,
            Kind.HISTOGRAM,
            ("inter_token_latency_seconds", "time_per_output_token_seconds"),
        ),
        Alias(Signal.REQUEST_LATENCY, Kind.HISTOGRAM, ("e2e_request_latency_seconds",)),
        Alias(Signal.QUEUE_TIME, Kind.HISTOGRAM, ("queue_time_seconds",)),
        Alias(Signal.REQUEST_PROMPT_TOKENS, Kind.HISTOGRAM, ("prompt_tokens_histogram",)),
        Alias(Signal.REQUEST_GENERATION_TOKENS, Kind.HISTOGRAM, ("generation_tokens_histogram",)),
    ),
    extra=(
        "num_used_tokens",
        "max_total_num_tokens",
        "swa_token_usage",
        "mamba_usage",
        "page_size",
        "num_pages",
        "cache_config_info",
        "num_grammar_queue_reqs",
        "num_paused_reqs",
    ),
)


def finish(samples: Samples, table: Table, joined: Joined) -> None:
    """Add the KV capacity and the waits that no capacity cures; drop a usage that contradicts its own tokens."""

    def values(name: str, *, largest: bool = True) -> list[float]:
        return fold(samples.values.get(table.prefix + name, {}), table.ranks, largest=largest)

    joined.facts.update(facts(samples.values.get(f"{table.prefix}cache_config_info", {})))
    for name in ("page_size", "num_pages"):
        if found := values(name, largest=False):
            joined.facts[name] = f"{found[0]:.0f}"
    capacity = sum(values("max_total_num_tokens", largest=False))
    if not capacity:
        try:
            capacity = float(joined.facts.get("page_size", "")) * float(joined.facts.get("num_pages", ""))
        except ValueError:
            capacity = 0.0
    if capacity:
        joined.gauges[Signal.KV_CACHE_CAPACITY_TOKENS] = capacity
    deferred = values("num_grammar_queue_reqs") + values("num_paused_reqs")
    if deferred:
        joined.gauges[Signal.REQUESTS_DEFERRED] = sum(deferred)
    usage = joined.gauges.get(Signal.KV_CACHE_USAGE)
    used = values("num_used_tokens")
    if usage is not None and used and capacity and not values("swa_token_usage") and not values("mamba_usage"):
        shares = [one / total for one, total in zip(used, values("max_total_num_tokens"), strict=False) if total]
        if shares and abs(usage - max(shares)) > _DISTRUST:
            del joined.gauges[Signal.KV_CACHE_USAGE]
