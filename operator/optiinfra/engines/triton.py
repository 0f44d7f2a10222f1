"""Triton with the TensorRT-LLM backend: one family for requests, one for KV blocks, told apart by a label.

`active` counts waiting and scheduled requests together and is not read. Triton counts requests of every model it
serves, ensembles and pre- and post-processing included: only the counters of the model that the TensorRT-LLM families
name are read, and its latencies, which exist only as sums, are left out except for the histogram of first responses
(decoupled models, milliseconds).
"""

from optiinfra.domain.readings import EngineKind, Histogram, Signal
from optiinfra.engines.alias import Alias, Join, Joined, Kind, Name, Table, close, fold, only, scaled
from optiinfra.engines.text import Labels, Samples

_REQUESTS = "request_metrics"
_BLOCKS = "kv_cache_block_metrics"
_SUCCESS = "nv_inference_request_success"
_FAILURE = "nv_inference_request_failure"
_FIRST_RESPONSE = "nv_inference_first_response_histogram_ms"


def _requests(signal: Signal, kind: str) -> Alias:
    return Alias(signal, Kind.GAUGE, (only(_REQUESTS, "request_type", kind),))


TABLE = Table(
    kind=EngineKind.TRITON,
    prefix="nv_trt_llm_",
    model_label="model",
    aliases=(
        _requests(Signal.REQUESTS_RUNNING, "scheduled"),
        _requests(Signal.REQUESTS_WAITING, "waiting"),
        _requests(Signal.BATCH_LIMIT, "max"),
        Alias(
            Signal.KV_CACHE_USAGE,
            Kind.RATIO,
            (only(_BLOCKS, "kv_cache_block_type", "fraction"),),
            join=Join.MAX,
        ),
        Alias(Signal.REQUEST_PROMPT_TOKENS, Kind.HISTOGRAM, (Name("nv_llm_input_token_len", bare=True),)),
        Alias(Signal.REQUEST_GENERATION_TOKENS, Kind.HISTOGRAM, (Name("nv_llm_output_token_len", bare=True),)),
    ),
    extra_bare=(_SUCCESS, _FAILURE),
    extra_histograms=(_FIRST_RESPONSE,),
)


def finish(samples: Samples, table: Table, joined: Joined) -> None:
    """Add the KV capacity (blocks times tokens in a block, of every model), and what Triton counts of the models."""
    series = samples.values.get(table.prefix + _BLOCKS, {})

    def values(kind: str) -> list[float]:
        chosen = {labels: value for labels, value in series.items() if ("kv_cache_block_type", kind) in labels}
        return fold(chosen, table.ranks)

    blocks, size = values("max"), values("tokens_per")
    if len(blocks) == len(size) and blocks:
        joined.gauges[Signal.KV_CACHE_CAPACITY_TOKENS] = sum(a * b for a, b in zip(blocks, size, strict=True))
        joined.facts["block_size"] = f"{max(size):.0f}"
        joined.facts["num_gpu_blocks"] = f"{sum(blocks):.0f}"
    models = {pair for labels in samples.values.get(table.prefix + _REQUESTS, {}) for pair in labels}
    models = {pair for pair in models if pair[0] == "model"}
    success, failure = _of(samples, _SUCCESS, models), _of(samples, _FAILURE, models)
    if success:
        joined.counters[Signal.REQUESTS_FINISHED] = sum(success) + sum(failure)
        if failure:
            joined.counters[Signal.REQUESTS_FAILED] = sum(failure)
    first = _first_response(samples, models)
    if first is not None:
        joined.histograms[Signal.TIME_TO_FIRST_TOKEN] = first
    for counter, lengths in (
        (Signal.PROMPT_TOKENS, Signal.REQUEST_PROMPT_TOKENS),
        (Signal.GENERATION_TOKENS, Signal.REQUEST_GENERATION_TOKENS),
    ):
        if lengths in joined.histograms:
            joined.counters[counter] = joined.histograms[lengths].total


def _of(samples: Samples, name: str, models: set[tuple[str, str]]) -> list[float]:
    return fold({key: value for key, value in samples.values.get(name, {}).items() if models & set(key)}, frozenset())


def _first_response(samples: Samples, models: set[tuple[str, str]]) -> Histogram | None:
    found: list[Labels] = [labels for labels in samples.histograms.get(_FIRST_RESPONSE, {}) if models & set(labels)]
    if len(found) != 1:
        return None
    histogram = close(samples.histograms[_FIRST_RESPONSE][found[0]])
    return None if histogram is None else scaled(histogram, 1e-3)
