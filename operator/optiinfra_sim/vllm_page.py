"""The metric page of a simulated engine exactly as vLLM 0.32 writes it.

Families, order, HELP and TYPE lines, labels, `_created` gauges and bucket bounds are those of a recorded page
(``recordings/``); a test holds the two together. vLLM's habits are kept: a histogram named ``iteration_tokens_total``,
``cache_config_info`` without a model name.
"""

from optiinfra_sim.engine import Engine
from optiinfra_sim.exposition import Page, PageTimes

RESIDENT_BYTES = 6.48781824e08
VIRTUAL_BYTES = 2.20653568e09
OPEN_FILES = 54
SERVER_SECONDS_A_TOKEN = 0.00027
"""CPU of the process that serves the page: 5.2 s for 19,200 tokens of a real vLLM 0.32 on CPU."""
BYTES_PER_PROMPT_TOKEN = 4
BYTES_PER_ANSWER_TOKEN = 5


def render(engine: Engine, *, times: PageTimes) -> bytes:
    """The whole page of ``engine`` as it stands."""
    page = Page(engine=f'engine="0",model_name="{engine.settings.model_name}"', created=times.serving)
    _process(page, engine, times)
    _state(page, engine)
    _caches(page, engine)
    _tokens(page, engine)
    _outcomes(page, engine)
    _sizes(page, engine)
    _latencies(page, engine)
    _phases(page, engine)
    _cache_config(page, engine)
    _http(page, engine)
    return ("\n".join(page.lines) + "\n").encode()


def _process(page: Page, engine: Engine, times: PageTimes) -> None:
    generations = [f'generation="{generation}"' for generation in range(3)]
    for name, text, values in (
        ("objects_collected", "Objects collected during gc", (15094, 2299, 782)),
        ("objects_uncollectable", "Uncollectable objects found during GC", (0, 0, 0)),
        ("collections", "Number of times this generation was collected", (1568, 143, 10)),
    ):
        samples = zip(generations, values, strict=True)
        page.counter(f"python_gc_{name}", text, *samples, created=False)
    page.gauge(
        "python_info",
        "Python platform information",
        ('implementation="CPython",major="3",minor="11",patchlevel="7",version="3.11.7"', 1),
    )
    page.gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.", ("", VIRTUAL_BYTES))
    page.gauge("process_resident_memory_bytes", "Resident memory size in bytes.", ("", RESIDENT_BYTES))
    page.gauge(
        "process_start_time_seconds",
        "Start time of the process since unix epoch in seconds.",
        ("", times.started),
    )
    page.counter(
        "process_cpu_seconds",
        "Total user and system CPU time spent in seconds.",
        ("", 10.0 + SERVER_SECONDS_A_TOKEN * engine.metrics.generation_tokens),
        created=False,
    )
    page.gauge("process_open_fds", "Number of open file descriptors.", ("", OPEN_FILES))
    page.gauge("process_max_fds", "Maximum number of open file descriptors.", ("", 20000))


def _state(page: Page, engine: Engine) -> None:
    own = page.engine
    for name, text in (
        ("flops", "Estimated number of floating point operations per GPU"),
        ("read_bytes", "Estimated number of bytes read from memory per GPU"),
        ("write_bytes", "Estimated number of bytes written to memory per GPU"),
    ):
        text_in_full = f"{text} (for Model Flops Utilization calculations)."
        page.counter(f"vllm:estimated_{name}_per_gpu", text_in_full, (own, 0))
    page.gauge("vllm:num_requests_running", "Number of requests in model execution batches.", (own, engine.running))
    page.gauge("vllm:num_requests_waiting", "Number of requests waiting to be processed.", (own, engine.waiting))
    page.gauge(
        "vllm:num_requests_waiting_by_reason",
        "Number of waiting requests by reason. Reason labels: 'capacity' = waiting for scheduling capacity; "
        "'deferred' = deferred by transient constraints (LoRA budget, KV transfer, blocked status). "
        "Sum of all reasons equals vllm:num_requests_waiting.",
        (f'{own},reason="capacity"', engine.waiting - engine.deferred),
        (f'{own},reason="deferred"', engine.deferred),
    )
    page.gauge(
        "vllm:engine_sleep_state",
        "Engine sleep state; awake = 0 means engine is sleeping; awake = 1 means engine is awake; "
        "weights_offloaded = 1 means sleep level 1; discard_all = 1 means sleep level 2.",
        (f'{own},sleep_state="awake"', 1),
        (f'{own},sleep_state="weights_offloaded"', 0),
        (f'{own},sleep_state="discard_all"', 0),
    )
    page.gauge("vllm:kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", (own, engine.kv_usage))


def _caches(page: Page, engine: Engine) -> None:
    own = page.engine
    metrics = engine.metrics
    page.counter(
        "vllm:prefix_cache_queries",
        "Prefix cache queries, in terms of number of queried tokens.",
        (own, metrics.prefix_queries),
    )
    page.counter(
        "vllm:prefix_cache_hits",
        "Prefix cache hits, in terms of number of cached tokens.",
        (own, metrics.prefix_hits),
    )
    for kind, unit in (("queries", "queried"), ("hits", "cached")):
        page.counter(
            f"vllm:external_prefix_cache_{kind}",
            f"External prefix cache {kind} from KV connector cross-instance cache sharing, "
            f"in terms of number of {unit} tokens.",
            (own, metrics.external_queries if kind == "queries" else metrics.external_hits),
        )
    for kind, unit in (("queries", "queried"), ("hits", "cached")):
        page.counter(
            f"vllm:mm_cache_{kind}",
            f"Multi-modal cache {kind}, in terms of number of {unit} items.",
            (own, 0),
        )
    page.counter(
        "vllm:num_preemptions", "Cumulative number of preemption from the engine.", (own, metrics.preemptions_told)
    )


def _tokens(page: Page, engine: Engine) -> None:
    own = page.engine
    metrics = engine.metrics
    cached = metrics.prompt_tokens_cached
    page.counter("vllm:prompt_tokens", "Number of prefill tokens processed.", (own, metrics.prompt_tokens))
    page.counter(
        "vllm:prompt_tokens_by_source",
        "Number of prompt tokens by source.",
        (f'{own},source="local_compute"', metrics.prompt_tokens - cached),
        (f'{own},source="local_cache_hit"', cached - metrics.prompt_tokens_fetched),
        (f'{own},source="external_kv_transfer"', metrics.prompt_tokens_fetched),
    )
    page.counter("vllm:prompt_tokens_cached", "Number of cached prompt tokens (local + external).", (own, cached))
    page.counter(
        "vllm:prompt_tokens_cached_by_source",
        "Prefix-cache hit tokens by the cache tier that supplied them: device (local HBM), host (offloaded to DRAM), "
        "disk, p2p (transferred from another vLLM instance) or external_unspecified. Counted at admission; sums to "
        "vllm:prefix_cache_hits + vllm:external_prefix_cache_hits.",
        (f'{own},source="device"', metrics.prefix_hits),
        *((f'{own},source="{tier}"', 0.0) for tier in ("host", "p2p", "disk")),
        (f'{own},source="external_unspecified"', metrics.external_hits),
    )
    page.counter("vllm:generation_tokens", "Number of generation tokens processed.", (own, metrics.generation_tokens))


def _outcomes(page: Page, engine: Engine) -> None:
    model = engine.settings.model_name
    metrics = engine.metrics
    outcomes = {"length": metrics.finished_by_length, "stop": metrics.finished_by_stop, "abort": metrics.aborted}
    page.counter(
        "vllm:request_success",
        "Count of successfully processed requests.",
        *(
            (
                f'engine="0",finished_reason="{reason}",model_name="{model}"',
                float(outcomes.get(reason, 0)),
            )
            for reason in ("stop", "length", "abort", "error", "repetition")
        ),
    )
    page.counter(
        "vllm:admission_rejections",
        "Number of admission attempts rejected by a queue limit, by reason.",
        (f'model_name="{model}",reason="max_num_queued_reqs"', 0),
        (f'model_name="{model}",reason="max_num_queued_tokens"', 0),
    )


def _sizes(page: Page, engine: Engine) -> None:
    metrics = engine.metrics
    generated = metrics.request_generation_tokens
    for name, text, values in (
        ("request_prompt_tokens", "Number of prefill tokens processed.", metrics.request_prompt_tokens),
        ("request_generation_tokens", "Number of generation tokens processed.", generated),
        ("iteration_tokens_total", "Histogram of number of tokens per engine_step.", metrics.iteration_tokens),
        (
            "request_max_num_generation_tokens",
            "Histogram of maximum number of requested generation tokens.",
            metrics.request_max_tokens,
        ),
        ("request_params_n", "Histogram of the n request parameter.", metrics.parallel_samples),
        ("request_params_max_tokens", "Histogram of the max_tokens request parameter.", metrics.request_max_tokens),
    ):
        page.histogram(f"vllm:{name}", text, values)


def _latencies(page: Page, engine: Engine) -> None:
    metrics = engine.metrics
    for name, text, values in (
        (
            "time_to_first_token_seconds",
            "Histogram of time to first token in seconds.",
            metrics.time_to_first_token,
        ),
        (
            "inter_token_latency_seconds",
            "Histogram of inter-token latency in seconds.",
            metrics.inter_token_latency,
        ),
        (
            "request_time_per_output_token_seconds",
            "Histogram of time_per_output_token_seconds per request.",
            metrics.time_per_output_token,
        ),
        ("e2e_request_latency_seconds", "Histogram of e2e request latency in seconds.", metrics.end_to_end),
    ):
        page.histogram(f"vllm:{name}", text, values)


def _phases(page: Page, engine: Engine) -> None:
    metrics = engine.metrics
    for name, phase, values in (
        ("queue", "WAITING", metrics.queue_time),
        ("inference", "RUNNING", metrics.inference_time),
        ("prefill", "PREFILL", metrics.prefill_time),
        ("decode", "DECODE", metrics.decode_time),
    ):
        page.histogram(
            f"vllm:request_{name}_time_seconds",
            f"Histogram of time spent in {phase} phase for request.",
            values,
        )
    page.histogram(
        "vllm:request_num_preemptions",
        "Histogram of the number of times a request was preempted.",
        metrics.request_preemptions,
    )
    page.histogram(
        "vllm:request_prefill_kv_computed_tokens",
        "Histogram of new KV tokens computed during prefill (excluding cached tokens).",
        metrics.request_prefill_computed,
    )


def _cache_config(page: Page, engine: Engine) -> None:
    settings = engine.settings
    tokens = settings.num_blocks * settings.block_size
    values = (
        ("_block_size_resolved", True),
        ("block_size", settings.block_size),
        ("cache_dtype", "auto"),
        ("cache_hit_alignment_tokens", None),
        ("effective_attention_block_size", settings.block_size),
        ("enable_mamba_shared_prefix_checkpoint", False),
        ("enable_prefix_caching", settings.prefix_caching),
        ("engine", 0),
        ("gpu_memory_utilization", settings.gpu_memory_utilization),
        ("hash_block_size", None),
        ("is_attention_free", False),
        ("kv_cache_dtype_skip_layers", "[]"),
        ("kv_cache_layout", None),
        ("kv_cache_max_concurrency", tokens / settings.max_model_len),
        ("kv_cache_memory_bytes", None),
        ("kv_cache_size_tokens", tokens),
        ("kv_offloading_backend", "native"),
        ("kv_offloading_size", None),
        ("kv_sharing_fast_prefill", False),
        ("mamba_block_size", None),
        ("mamba_cache_dtype", "auto"),
        ("mamba_cache_mode", "none"),
        ("mamba_page_size_padded", None),
        ("mamba_ssm_cache_dtype", "auto"),
        ("num_cpu_blocks", None),
        ("num_gpu_blocks", settings.num_blocks),
        ("num_gpu_blocks_override", None),
        ("prefix_cache_retention_interval", 0),
        ("prefix_caching_hash_algo", "sha256"),
        ("prefix_match_unit", None),
        ("replayssm_buffer_len", 16),
        ("skip_page_size_padded", None),
        ("sliding_window", None),
        ("swa_bounded_replay", True),
        ("use_kda_recoverssm", False),
        ("use_replayssm", False),
        ("user_specified_block_size", False),
    )
    labels = ",".join(f'{name}="{value}"' for name, value in values)
    page.gauge("vllm:cache_config_info", "Information of the LLMEngine CacheConfig", (labels, 1))


def _http(page: Page, engine: Engine) -> None:
    metrics = engine.metrics
    handler = 'handler="/v1/completions"'
    done = metrics.finished
    page.counter(
        "http_requests",
        "Total number of requests by method, status and handler.",
        *([(f'{handler},method="POST",status="2xx"', done)] if done else []),
    )
    for direction, noun, size in (
        ("request", "incoming requests", metrics.request_prompt_tokens.sum * BYTES_PER_PROMPT_TOKEN),
        ("response", "outgoing responses", metrics.request_generation_tokens.sum * BYTES_PER_ANSWER_TOKEN),
    ):
        page.summary(
            f"http_{direction}_size_bytes",
            f"Content length of {noun} by handler. Only value of header is respected. Otherwise ignored. "
            "No percentile calculated. ",
            labels=handler,
            count=done,
            total=size,
        )
    page.histogram(
        "http_request_duration_highr_seconds",
        "Latency with many buckets but no API specific labels. Made for more accurate percentile calculations. ",
        metrics.http_fine,
        labels="",
    )
    text = "Latency with only few buckets by handler. Made to be only used if aggregation by handler is important. "
    if done:
        page.histogram("http_request_duration_seconds", text, metrics.http_coarse, labels=f'{handler},method="POST"')
    else:
        page.head("http_request_duration_seconds", "histogram", text)
