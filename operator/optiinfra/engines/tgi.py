"""Text Generation Inference v2 and v3 (in maintenance): names and what is derived.

Counters carry no `_total` here, and no series has a model label. There is no time to first token, no preemption and no
prefix-cache counter: these signals stay absent. Token counters do not exist either; the sums of the length histograms
take their place, which grow when a request ends and not before. The time per token is a mean per request.
`tgi_request_skipped_tokens` (speculated tokens) is documented as a histogram and exposed as a summary, and not read.

`batch_current_max_tokens / batch_max_total_tokens` is what the running batch reserved of the KV cache, not what it
fills; it is the share that keeps further requests out, hence it stands for the KV usage as well as for the
reservation. v2 has no `batch_max_total_tokens`: its KV usage is unknown.

A counter appears with its first event: no `request_failure` beside a `request_success` means that none failed. Those
that failed validation or found the server overloaded never came in, and are no arrivals.
"""

from optiinfra.domain.readings import EngineKind, Signal
from optiinfra.engines.alias import Alias, Joined, Kind, Table, fold, names, total
from optiinfra.engines.text import Labels, Samples

_FORWARD_SECONDS = "batch_inference_duration_sum"
_AT_THE_DOOR = frozenset({"overloaded", "validation"})

TABLE = Table(
    kind=EngineKind.TGI,
    prefix="tgi_",
    aliases=(
        Alias(Signal.REQUESTS_RUNNING, Kind.GAUGE, names("batch_current_size")),
        Alias(Signal.REQUESTS_WAITING, Kind.GAUGE, names("queue_size")),
        Alias(Signal.INTER_TOKEN_LATENCY, Kind.HISTOGRAM, names("request_mean_time_per_token_duration")),
        Alias(Signal.REQUEST_LATENCY, Kind.HISTOGRAM, names("request_duration")),
        Alias(Signal.QUEUE_TIME, Kind.HISTOGRAM, names("request_queue_duration")),
        Alias(Signal.REQUEST_PROMPT_TOKENS, Kind.HISTOGRAM, names("request_input_length")),
        Alias(Signal.REQUEST_GENERATION_TOKENS, Kind.HISTOGRAM, names("request_generated_tokens")),
    ),
    extra=(
        "batch_current_max_tokens",
        "batch_max_total_tokens",
        "request_success",
        "request_failure",
        _FORWARD_SECONDS,
    ),
)


def finish(samples: Samples, table: Table, joined: Joined) -> None:
    """Add the KV reservation, how requests ended, and token counters from the sums of the length histograms."""
    capacity = sum(fold(samples.values.get(f"{table.prefix}batch_max_total_tokens", {}), table.ranks))
    reserved = fold(samples.values.get(f"{table.prefix}batch_current_max_tokens", {}), table.ranks)
    if capacity:
        joined.version = "v3"
        joined.gauges[Signal.KV_CACHE_CAPACITY_TOKENS] = capacity
        if reserved and sum(reserved) <= capacity:
            joined.gauges[Signal.KV_CACHE_RESERVED] = joined.gauges[Signal.KV_CACHE_USAGE] = sum(reserved) / capacity
    _add_endings(samples, table, joined)
    busy = total(samples, table, _FORWARD_SECONDS)
    if busy is not None:
        joined.counters[Signal.BUSY_SECONDS] = busy
    for counter, lengths in (
        (Signal.PROMPT_TOKENS, Signal.REQUEST_PROMPT_TOKENS),
        (Signal.GENERATION_TOKENS, Signal.REQUEST_GENERATION_TOKENS),
    ):
        if lengths in joined.histograms:
            joined.counters[counter] = joined.histograms[lengths].total


def _add_endings(samples: Samples, table: Table, joined: Joined) -> None:
    success = total(samples, table, "request_success")
    failures = samples.values.get(f"{table.prefix}request_failure", {})
    if success is None or (failures and not fold(failures, table.ranks)):
        return
    inside = sum(value for labels, value in failures.items() if _error(labels) not in _AT_THE_DOOR)
    joined.counters[Signal.REQUESTS_FINISHED] = success + inside
    joined.counters[Signal.REQUESTS_FAILED] = inside
    joined.counters[Signal.REQUESTS_REJECTED] = sum(
        value for labels, value in failures.items() if _error(labels) == "overloaded"
    )


def _error(labels: Labels) -> str:
    return next((value for name, value in labels if name == "err"), "")
