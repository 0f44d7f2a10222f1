"""The metric page of a simulated engine as SGLang writes it with ``--enable-metrics``.

Names, help texts, labels and bounds are those of ``python/sglang/srt/observability/metrics_collector.py`` (main branch,
commit 016d8605). SGLang runs prometheus_client in its multiprocess mode, which shows: no
``_created`` gauges, counters before gauges before histograms, a histogram's sum before its buckets, a ``pid`` on gauges
without a merge rule. Families for what is not simulated (speculative decoding, disaggregation, grammars, Mamba, sliding
windows, HiCache, LoRA pools, mixture-of-experts balance) are left out but for the gauges that a real one always shows.
"""

from optiinfra_sim.engine import Engine
from optiinfra_sim.exposition import PageTimes, number
from optiinfra_sim.histogram import Histogram

PROCESS = 4242
MEMORY_GB = 80.0
WEIGHTS_GB = 15.0
_QUIET_GAUGES = (
    ("num_grammar_queue_reqs", "The number of requests in the grammar waiting queue."),
    ("swa_token_usage", "The token usage for SWA layers."),
    ("mamba_usage", "The token usage for Mamba layers."),
    (
        "spec_accept_length",
        "Mean acceptance length of speculative decoding (accepted drafts + bonus token per forward).",
    ),
    ("spec_accept_rate", "Speculative acceptance rate (`accepted drafts / proposed drafts` in batch)."),
    ("num_prefill_bootstrap_queue_reqs", "The number of requests in the prefill bootstrap queue."),
    ("num_prefill_inflight_queue_reqs", "The number of requests in the prefill inflight queue."),
    ("num_decode_prealloc_queue_reqs", "The number of requests in the decode prealloc queue."),
    ("num_decode_transfer_queue_reqs", "The number of requests in the decode transfer queue."),
)


class _Page:
    """Lines under construction, in the order and form of the multiprocess mode."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def family(self, name: str, kind: str, text: str, *samples: tuple[str, float]) -> None:
        """One family; ``name`` without the prefix. A family without samples does not appear."""
        if samples:
            self.lines += [f"# HELP sglang:{name} {text}", f"# TYPE sglang:{name} {kind}"]
            self.lines += [f"sglang:{name}{{{labels}}} {number(value)}" for labels, value in samples]

    def histogram(self, name: str, text: str, values: Histogram, *, labels: str) -> None:
        """A histogram that has seen something."""
        if not values.count:
            return
        name = f"sglang:{name}"
        parts = labels.split(",")
        before = [part for part in parts if part < "le"]
        after = [part for part in parts if part >= "le"]
        self.lines += [
            f"# HELP {name} {text}",
            f"# TYPE {name} histogram",
            f"{name}_sum{{{labels}}} {number(values.sum)}",
        ]
        bounds = [*(number(bound) for bound in values.bounds), "+Inf"]
        for bound, count in zip(bounds, values.cumulative(), strict=True):
            inner = ",".join([*before, f'le="{bound}"', *after])
            self.lines.append(f"{name}_bucket{{{inner}}} {number(count)}")
        self.lines.append(f"{name}_count{{{labels}}} {number(values.count)}")


def render(engine: Engine, *, times: PageTimes) -> bytes:
    """The whole page of ``engine`` as it stands."""
    page = _Page()
    model = engine.settings.model_name
    frontend = f'engine_type="unified",model_name="{model}"'
    rank = f'engine_type="unified",model_name="{model}",moe_ep_rank="0",pp_rank="0",tp_rank="0"'
    _counters(page, engine, frontend=frontend, rank=rank)
    _gauges(page, engine, rank=rank)
    _constants(page, engine, frontend=frontend, rank=rank, times=times)
    _histograms(page, engine, frontend=frontend, rank=rank)
    return ("\n".join(page.lines) + "\n").encode()


def _streaming(labels: str) -> str:
    """`is_streaming` sorts before `model_name` and after `engine_type`."""
    return labels.replace(',model_name="', ',is_streaming="true",model_name="', 1)


def _cached(labels: str) -> str:
    return f'cache_source="device",{labels}'


def _counters(page: _Page, engine: Engine, *, frontend: str, rank: str) -> None:
    metrics = engine.metrics
    stream = _streaming(frontend)
    ended = [(stream, metrics.request_prompt_tokens.sum)] if metrics.finished else []
    page.family("prompt_tokens_total", "counter", "Number of prefill tokens processed.", *ended)
    ended = [(stream, metrics.request_generation_tokens.sum)] if metrics.finished else []
    page.family("generation_tokens_total", "counter", "Number of generation tokens processed.", *ended)
    found = metrics.request_prompt_tokens.sum - metrics.request_prefill_computed.sum
    page.family(
        "cached_tokens_total",
        "counter",
        "Number of cached prompt tokens by source (device/host/storage).",
        *([(_cached(frontend), found)] if found else []),
    )
    ended = [(stream, float(metrics.finished))] if metrics.finished else []
    page.family("num_requests_total", "counter", "Number of requests processed.", *ended)
    aborted = [(frontend, float(metrics.aborted))] if metrics.aborted else []
    page.family("num_aborted_requests_total", "counter", "Number of requests aborted.", *aborted)
    for name, text, value in (
        ("num_retracted_requests_total", "Total number of retracted requests.", metrics.preemptions),
        (
            "num_retracted_input_tokens_total",
            "Total number of retracted input tokens.",
            metrics.preempted_prompt_tokens,
        ),
        (
            "num_retracted_output_tokens_total",
            "Total number of retracted output tokens.",
            metrics.preempted_generated_tokens,
        ),
    ):
        page.family(name, "counter", text, *([(rank, float(value))] if value else []))
    computed = metrics.prompt_tokens - metrics.prompt_tokens_cached
    modes = rank.replace('model_name="', 'mode="%s",model_name="', 1)
    page.family(
        "realtime_tokens_total",
        "counter",
        "Total number of tokens processed (updated on each log interval). "
        "mode: prefill_compute, prefill_cache, decode.",
        (modes % "prefill_compute", computed),
        (modes % "prefill_cache", metrics.prompt_tokens_cached),
        (modes % "decode", metrics.generation_tokens),
    )
    page.family(
        "prefill_effective_tokens_total",
        "counter",
        "Effective prefill tokens with retracted-request re-counts excluded, updated on each log interval. mode: "
        "device_hit, host_hit, storage_hit, input. Windowed prefix cache hit rate = rate(sum of *_hit) / "
        "rate(sum of all modes); per-tier rate uses a single *_hit mode in the numerator.",
        (modes % "input", computed),
        (modes % "device_hit", metrics.prompt_tokens_cached - metrics.prompt_tokens_fetched),
        (modes % "host_hit", 0),
        (modes % "storage_hit", metrics.prompt_tokens_fetched),
    )
    page.family(
        "forward_execution_seconds_total",
        "counter",
        "Total time that GPU is busy executing model forward passes. Refer to ForwardMode for category labels.",
        (f'category="decode",{rank}', metrics.decode_steps.sum),
        (f'category="extend",{rank}', metrics.prefill_steps.sum),
    )


def _gauges(page: _Page, engine: Engine, *, rank: str) -> None:
    settings, metrics = engine.settings, engine.metrics
    size = settings.block_size
    used = engine.live_blocks * size
    evictable = engine.cached_blocks * size
    lengths = sum(request.prompt + engine.generated(request) for request in engine.running_requests)
    steps = metrics.decode_steps
    hits = metrics.prefix_hits / metrics.prefix_queries if metrics.prefix_queries else 0.0
    throughput = engine.decoding * steps.count / steps.sum if steps.sum else 0.0
    for name, text, value in (
        ("num_running_reqs", "The number of running requests.", float(engine.running)),
        ("num_queue_reqs", "The number of requests in the waiting queue.", float(engine.waiting)),
        ("gen_throughput", "The generation throughput (token/s).", throughput),
        ("cache_hit_rate", "The prefix cache hit rate.", hits),
        ("decode_sum_seq_lens", "The sum of all sequence lengths in decode.", float(lengths)),
        ("token_usage", "The token usage.", engine.kv_usage),
        ("full_token_usage", "The token usage for full attention layers.", engine.kv_usage),
        ("num_used_tokens", "The number of used tokens.", float(used)),
        (
            "kv_available_tokens",
            "Number of free token slots in the KV cache pool.",
            float(settings.usable_blocks * size - used - evictable),
        ),
        (
            "kv_evictable_tokens",
            "Number of evictable (radix-cached) token slots in the KV cache pool.",
            float(evictable),
        ),
        ("kv_used_tokens", "Number of actively used token slots in the KV cache pool.", float(used)),
        ("utilization", "The utilization.", engine.running / settings.max_num_seqs),
        ("new_token_ratio", "The new token ratio.", 0.0),
        ("is_cuda_graph", "Whether the batch is using CUDA graph.", 1.0 if engine.decoding else 0.0),
    ):
        page.family(name, "gauge", text, (rank, value))
    for name, text in _QUIET_GAUGES:
        page.family(name, "gauge", text, (rank, 0.0))
    own = rank.replace('pp_rank="', f'pid="{PROCESS}",pp_rank="', 1)
    page.family("num_retracted_reqs", "gauge", "The number of retracted requests.", (own, 0.0))
    page.family("num_paused_reqs", "gauge", "The number of paused requests by async weight sync.", (own, 0.0))


def _constants(page: _Page, engine: Engine, *, frontend: str, rank: str, times: PageTimes) -> None:
    settings = engine.settings
    capacity = settings.usable_blocks * settings.block_size
    pool = MEMORY_GB * settings.gpu_memory_utilization - WEIGHTS_GB
    for name, text, value in (
        ("max_total_num_tokens", "Maximum total number of tokens in the KV cache pool.", float(capacity)),
        ("weight_memory_usage_gb", "Memory used by model weights in GB.", WEIGHTS_GB),
        ("kv_cache_memory_usage_gb", "Memory used by the KV cache pools in GB.", pool),
        ("max_running_requests_under_SLO", "The maximum number of running requests under SLO.", 0.0),
        ("page_size", "KV cache page size in tokens.", float(settings.block_size)),
        ("num_pages", "Number of KV cache pages.", float(settings.usable_blocks)),
        ("context_len", "Maximum context length.", float(settings.max_model_len)),
        ("startup_available_gpu_memory_gb", "Available GPU memory in GB at startup.", MEMORY_GB - WEIGHTS_GB - pool),
    ):
        page.family(name, "gauge", text, (rank, value))
    loading = times.serving - times.started
    phases = ("load_weight", 0.6), ("kv_cache_allocation", 0.05), ("scheduler_e2e", 0.95), ("tokenizer_e2e", 1.0)
    page.family(
        "startup_time_seconds",
        "gauge",
        "Engine startup time in seconds by phase.",
        *((f'{frontend},phase="{phase}"', share * loading) for phase, share in phases),
    )


def _histograms(page: _Page, engine: Engine, *, frontend: str, rank: str) -> None:
    metrics = engine.metrics
    stream = _streaming(frontend)
    page.histogram("queue_time_seconds", "Histogram of queueing time in seconds.", metrics.queue_time, labels=rank)
    for name, text, values, labels in (
        ("prompt_tokens_histogram", "Histogram of prompt token length.", metrics.request_prompt_tokens, frontend),
        (
            "uncached_prompt_tokens_histogram",
            "Histogram of uncached (compute) prompt token length.",
            metrics.request_prefill_computed,
            frontend,
        ),
        (
            "generation_tokens_histogram",
            "Histogram of generation token length.",
            metrics.request_generation_tokens,
            frontend,
        ),
        (
            "time_to_first_token_seconds",
            "Histogram of time to first token in seconds.",
            metrics.time_to_first_token,
            stream,
        ),
        (
            "inter_token_latency_seconds",
            "Histogram of inter-token latency in seconds.",
            metrics.inter_token_latency,
            frontend,
        ),
        (
            "e2e_request_latency_seconds",
            "Histogram of End-to-end request latency in seconds",
            metrics.end_to_end,
            stream,
        ),
    ):
        page.histogram(name, text, values, labels=labels)
