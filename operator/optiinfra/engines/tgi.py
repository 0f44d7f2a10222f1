"""Text Generation Inference v3 (in maintenance): names and what is derived.

Counters carry no `_total` here, and no series has a model label. There is no time to first token, no preemption and no
prefix-cache counter: these signals stay absent. Token counters do not exist either; the sums of the length histograms
take their place, which grow when a request ends and not before. The time per token is a mean per request.

`batch_current_max_tokens / batch_max_total_tokens` is what the running batch reserved of the KV cache, not what it
fills; it is the share that keeps further requests out, hence the right one for the queue. v2 has no
`batch_max_total_tokens`: its KV usage is unknown.
"""

from optiinfra.domain.readings import EngineKind, Signal
from optiinfra.engines.alias import Alias, Joined, Kind, Table, fold
from optiinfra.engines.text import Samples

TABLE = Table(
    kind=EngineKind.TGI,
    prefix="tgi_",
    aliases=(
        Alias(Signal.REQUESTS_RUNNING, Kind.GAUGE, ("batch_current_size",)),
        Alias(Signal.REQUESTS_WAITING, Kind.GAUGE, ("queue_size",)),
        Alias(Signal.REQUESTS_FINISHED, Kind.COUNTER, ("request_success",)),
        Alias(Signal.INTER_TOKEN_LATENCY, Kind.HISTOGRAM, ("request_mean_time_per_token_duration",)),
        Alias(Signal.REQUEST_LATENCY, Kind.HISTOGRAM, ("request_duration",)),
        Alias(Signal.QUEUE_TIME, Kind.HISTOGRAM, ("request_queue_duration",)),
        Alias(Signal.REQUEST_PROMPT_TOKENS, Kind.HISTOGRAM, ("request_input_length",)),
        Alias(Signal.REQUEST_GENERATION_TOKENS, Kind.HISTOGRAM, ("request_generated_tokens",)),
    ),
    extra=("batch_current_max_tokens", "batch_max_total_tokens"),
)


def finish(samples: Samples, table: Table, joined: Joined) -> None:
    """Add the KV reservation, and token counters from the sums of the length histograms."""
    capacity = sum(fold(samples.values.get(f"{table.prefix}batch_max_total_tokens", {}), table.ranks))
    reserved = fold(samples.values.get(f"{table.prefix}batch_current_max_tokens", {}), table.ranks)
    if capacity:
        joined.gauges[Signal.KV_CACHE_CAPACITY_TOKENS] = capacity
        if reserved and sum(reserved) <= capacity:
            joined.gauges[Signal.KV_CACHE_USAGE] = sum(reserved) / capacity
    for counter, lengths in (
        (Signal.PROMPT_TOKENS, Signal.REQUEST_PROMPT_TOKENS),
        (Signal.GENERATION_TOKENS, Signal.REQUEST_GENERATION_TOKENS),
    ):
        if lengths in joined.histograms:
            joined.counters[counter] = joined.histograms[lengths].total
