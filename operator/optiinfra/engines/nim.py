"""NVIDIA NIM: vLLM's early names without a prefix, on `/v1/metrics`, and one of its own: the batch limit.

Because nothing on the page names the engine, it is recognised last. A NIM whose backend is a newer vLLM prefixes its
families; such a page is read as vLLM's, which it is.
"""

from optiinfra.domain.readings import EngineKind, Signal
from optiinfra.engines.alias import Alias, Join, Kind, Table, names, only

TABLE = Table(
    kind=EngineKind.NIM,
    prefix="",
    model_label="model_name",
    ranks=frozenset({"pid"}),
    aliases=(
        Alias(Signal.REQUESTS_RUNNING, Kind.GAUGE, names("num_requests_running")),
        Alias(Signal.REQUESTS_WAITING, Kind.GAUGE, names("num_requests_waiting")),
        Alias(Signal.KV_CACHE_USAGE, Kind.RATIO, names("kv_cache_usage_perc", "gpu_cache_usage_perc"), join=Join.MAX),
        Alias(Signal.BATCH_LIMIT, Kind.GAUGE, names("num_request_max")),
        Alias(Signal.PROMPT_TOKENS, Kind.COUNTER, names("prompt_tokens_total")),
        Alias(Signal.GENERATION_TOKENS, Kind.COUNTER, names("generation_tokens_total")),
        Alias(Signal.REQUESTS_FINISHED, Kind.COUNTER, names("request_finish_total", "request_success_total")),
        Alias(
            Signal.REQUESTS_FINISHED_BY_LENGTH,
            Kind.COUNTER,
            (only("request_finish_total", "finished_reason", "length"),),
            born_late=True,
        ),
        Alias(Signal.REQUESTS_FAILED, Kind.COUNTER, names("request_failure_total")),
        Alias(Signal.PREEMPTIONS, Kind.COUNTER, names("num_preemptions_total")),
        Alias(Signal.PROCESS_CPU_SECONDS, Kind.COUNTER, names("process_cpu_seconds_total")),
        Alias(Signal.TIME_TO_FIRST_TOKEN, Kind.HISTOGRAM, names("time_to_first_token_seconds")),
        Alias(
            Signal.INTER_TOKEN_LATENCY,
            Kind.HISTOGRAM,
            names("inter_token_latency_seconds", "time_per_output_token_seconds"),
        ),
        Alias(Signal.REQUEST_LATENCY, Kind.HISTOGRAM, names("e2e_request_latency_seconds")),
        Alias(Signal.REQUEST_PROMPT_TOKENS, Kind.HISTOGRAM, names("request_prompt_tokens")),
        Alias(Signal.REQUEST_GENERATION_TOKENS, Kind.HISTOGRAM, names("request_generation_tokens")),
    ),
)
