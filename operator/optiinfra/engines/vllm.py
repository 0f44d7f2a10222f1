"""vLLM, V0 and V1: names, renames and what is derived. Checked against vLLM 0.32.0 (39 families).

Data-parallel engines of one process tell themselves apart by the label `engine`: their requests, capacities and
counters add up, their KV usage does not (the fullest one counts). Under Ray the same families are prefixed: `ray_vllm:`
up to Ray 2.4x, `ray_vllm_` since, and each worker is a series of its own. Ray exports counters twice, with and without
`_total`; only the former is read. With several API servers Prometheus' multiprocess mode drops the `process_*`
families, and gauges are the most recently written; those that keep the label `pid` are copies of one value.

| signal | names, newest first | why |
|---|---|---|
| kv_cache_usage | kv_cache_usage_perc, gpu_cache_usage_perc | both in 2025, then the old one hidden, then gone |
| prefix_cache_* | prefix_cache_*_total, gpu_prefix_cache_*_total | likewise; blocks, not tokens, before PR 18003 |
| prefix_cache_hit_ratio | gpu_prefix_cache_hit_rate | V0 only; -1 when unused, which is left out |
| inter_token_latency | inter_token_latency_seconds, time_per_output_token_seconds | it held inter-token intervals |
| queue_time | request_queue_time_seconds, time_in_queue_requests | the duplicate was removed |

`cache_config_info` has `engine` but no `model_name`, and its labels are strings. `kv_cache_size_tokens` is trusted over
`kv_cache_memory_bytes`, which still shows the configured size when the number of blocks is overridden (measured).
`request_success_total` counts every ending, by its label `finished_reason`; `admission_rejections_total` has no label
`engine`. Without a version on the page, `version` says what the families prove: see `VERSION_SIGNS`.
"""

from dataclasses import replace
from typing import Final

from optiinfra.domain.readings import EngineKind, Signal
from optiinfra.engines.alias import Alias, Join, Joined, Kind, Name, Table, names, only, renamed
from optiinfra.engines.text import Labels, Samples

_FINISHED = "request_success_total"
_SLEEP = "engine_sleep_state"
_LORA = "lora_requests_info"

VERSION_SIGNS: Final = (
    ("admission_rejections_total", "V1 (>=0.30)"),
    ("prompt_tokens_by_source_total", "V1 (>=0.16)"),
    ("engine_sleep_state", "V1 (>=0.12)"),
    ("inter_token_latency_seconds", "V1 (>=0.11)"),
    ("kv_cache_usage_perc", "V1 (>=0.9)"),
    ("num_requests_swapped", "V0"),
    ("cpu_cache_usage_perc", "V0"),
    ("gpu_prefix_cache_hit_rate", "V0"),
)
"""Family -> the version that its presence proves, newest first. From the pull requests that added them (vLLM 55812,
33290, 24176, 24015, 18354); what V1 never had (swapping, a CPU cache, a hit-rate gauge) proves V0."""

TABLE = Table(
    kind=EngineKind.VLLM,
    prefix="vllm:",
    model_label="model_name",
    info="cache_config_info",
    ranks=frozenset({"pid"}),
    aliases=(
        Alias(Signal.REQUESTS_RUNNING, Kind.GAUGE, names("num_requests_running")),
        Alias(Signal.REQUESTS_WAITING, Kind.GAUGE, names("num_requests_waiting")),
        Alias(Signal.REQUESTS_DEFERRED, Kind.GAUGE, (only("num_requests_waiting_by_reason", "reason", "deferred"),)),
        Alias(
            Signal.KV_CACHE_USAGE,
            Kind.RATIO,
            renamed("kv_cache_usage_perc", "gpu_cache_usage_perc", since="0.9", gone="0.12"),
            join=Join.MAX,
        ),
        Alias(
            Signal.PREFIX_CACHE_HIT_RATIO, Kind.RATIO, (Name("gpu_prefix_cache_hit_rate", gone="V1"),), join=Join.MAX
        ),
        Alias(Signal.PROMPT_TOKENS, Kind.COUNTER, names("prompt_tokens_total")),
        Alias(
            Signal.PROMPT_TOKENS_COMPUTED,
            Kind.COUNTER,
            (only("prompt_tokens_by_source_total", "source", "local_compute", since="0.16"),),
        ),
        Alias(Signal.GENERATION_TOKENS, Kind.COUNTER, names("generation_tokens_total")),
        Alias(Signal.REQUESTS_FINISHED, Kind.COUNTER, names(_FINISHED)),
        Alias(
            Signal.REQUESTS_FINISHED_BY_LENGTH,
            Kind.COUNTER,
            (only(_FINISHED, "finished_reason", "length"),),
            born_late=True,
        ),
        Alias(Signal.REQUESTS_ABORTED, Kind.COUNTER, (only(_FINISHED, "finished_reason", "abort"),), born_late=True),
        # Older versions do not know the reason: there it stays unknown.
        Alias(Signal.REQUESTS_FAILED, Kind.COUNTER, (only(_FINISHED, "finished_reason", "error"),)),
        Alias(Signal.REQUESTS_REJECTED, Kind.COUNTER, (Name("admission_rejections_total", since="0.30"),)),
        Alias(Signal.PREEMPTIONS, Kind.COUNTER, names("num_preemptions_total")),
        Alias(
            Signal.PREFIX_CACHE_QUERIES,
            Kind.COUNTER,
            renamed("prefix_cache_queries_total", "gpu_prefix_cache_queries_total", since="0.9", gone="0.12"),
        ),
        Alias(
            Signal.PREFIX_CACHE_HITS,
            Kind.COUNTER,
            renamed("prefix_cache_hits_total", "gpu_prefix_cache_hits_total", since="0.9", gone="0.12"),
        ),
        Alias(Signal.EXTERNAL_CACHE_QUERIES, Kind.COUNTER, names("external_prefix_cache_queries_total")),
        Alias(Signal.EXTERNAL_CACHE_HITS, Kind.COUNTER, names("external_prefix_cache_hits_total")),
        Alias(Signal.DRAFT_TOKENS, Kind.COUNTER, names("spec_decode_num_draft_tokens_total")),
        Alias(Signal.ACCEPTED_TOKENS, Kind.COUNTER, names("spec_decode_num_accepted_tokens_total")),
        Alias(Signal.PROCESS_CPU_SECONDS, Kind.COUNTER, (Name("process_cpu_seconds_total", bare=True),)),
        Alias(Signal.TIME_TO_FIRST_TOKEN, Kind.HISTOGRAM, names("time_to_first_token_seconds")),
        Alias(
            Signal.INTER_TOKEN_LATENCY,
            Kind.HISTOGRAM,
            renamed("inter_token_latency_seconds", "time_per_output_token_seconds", since="0.11", gone="0.13"),
        ),
        Alias(Signal.REQUEST_LATENCY, Kind.HISTOGRAM, names("e2e_request_latency_seconds")),
        Alias(
            Signal.QUEUE_TIME,
            Kind.HISTOGRAM,
            renamed("request_queue_time_seconds", "time_in_queue_requests", since="", gone="V1"),
        ),
        Alias(Signal.PREFILL_TIME, Kind.HISTOGRAM, names("request_prefill_time_seconds")),
        Alias(Signal.DECODE_TIME, Kind.HISTOGRAM, names("request_decode_time_seconds")),
        Alias(Signal.REQUEST_PROMPT_TOKENS, Kind.HISTOGRAM, names("request_prompt_tokens")),
        Alias(Signal.REQUEST_GENERATION_TOKENS, Kind.HISTOGRAM, names("request_generation_tokens")),
        # A histogram despite its name.
        Alias(Signal.STEP_TOKENS, Kind.HISTOGRAM, names("iteration_tokens_total")),
    ),
    extra=(_SLEEP, _LORA, "num_requests_swapped", "cpu_cache_usage_perc"),
)
RAY_TABLE = replace(TABLE, prefix="ray_vllm:")
RAY_SANITISED_TABLE = replace(TABLE, prefix="ray_vllm_")


def finish(samples: Samples, table: Table, joined: Joined) -> None:
    """Add the KV capacity, whether the engine sleeps, its adapters, and what the families say of its version."""
    capacities = [_capacity(labels) for labels in samples.values.get(table.prefix + table.info, {})]
    if capacities and None not in capacities:
        joined.gauges[Signal.KV_CACHE_CAPACITY_TOKENS] = sum(one for one in capacities if one is not None)
    awake = [
        value
        for labels, value in samples.values.get(table.prefix + _SLEEP, {}).items()
        if ("sleep_state", "awake") in labels
    ]
    if awake and all(value in {0.0, 1.0} for value in awake):
        joined.gauges[Signal.SLEEPING] = 1.0 - min(awake)
    _adapters(samples, table, joined)
    joined.version = _version(samples, table)


def _capacity(labels: Labels) -> float | None:
    facts = dict(labels)
    tokens = positive(facts.get("kv_cache_size_tokens"))
    if tokens is not None:
        return tokens
    blocks = positive(facts.get("num_gpu_blocks"))
    block_size = positive(facts.get("block_size"))
    return None if blocks is None or block_size is None else blocks * block_size


def _adapters(samples: Samples, table: Table, joined: Joined) -> None:
    """Count adapters. Every combination that ever was stays on the page; its value is the time it was last true."""
    series = samples.values.get(table.prefix + _LORA)
    if not series:
        return
    labels, _ = max(series.items(), key=lambda item: item[1])
    newest = dict(labels)
    for signal, label in (
        (Signal.LORA_RUNNING, "running_lora_adapters"),
        (Signal.LORA_WAITING, "waiting_lora_adapters"),
    ):
        if label in newest:
            joined.gauges[signal] = float(len({name for name in newest[label].split(",") if name}))
    limit = positive(newest.get("max_lora"))
    if limit is not None:
        joined.gauges[Signal.LORA_LIMIT] = limit


def _version(samples: Samples, table: Table) -> str:
    for family, version in VERSION_SIGNS:
        name = table.prefix + family
        if name in samples.values or name in samples.histograms:
            return version
    labels = next(iter(samples.values.get(f"{table.prefix}num_requests_running", {})), ())
    return "V1" if any(name == "engine" for name, _ in labels) else ""


def positive(text: str | None) -> float | None:
    """Return a positive count of a label, which is text and may read "None"."""
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 15:
        return None
    return float(text) or None
