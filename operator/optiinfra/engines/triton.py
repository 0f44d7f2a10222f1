"""Triton with the TensorRT-LLM backend: one family for requests, one for KV blocks, told apart by a label.

`active` counts waiting and scheduled requests together and is not read. Latencies exist only as sums over all models
of the server, ensembles included, and are left out.
"""

from optiinfra.domain.readings import EngineKind, Signal
from optiinfra.engines.alias import Alias, Join, Joined, Kind, Table, fold
from optiinfra.engines.text import Samples

_REQUESTS = "request_metrics"
_BLOCKS = "kv_cache_block_metrics"


def _requests(signal: Signal, kind: str) -> Alias:
    return Alias(signal, Kind.GAUGE, (_REQUESTS,), only=("request_type", frozenset({kind})))


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
            (_BLOCKS,),
            join=Join.MAX,
            only=("kv_cache_block_type", frozenset({"fraction"})),
        ),
    ),
)


def finish(samples: Samples, table: Table, joined: Joined) -> None:
    """Add the KV capacity: blocks times tokens in a block, of every model."""
    series = samples.values.get(table.prefix + _BLOCKS, {})

    def values(kind: str) -> list[float]:
        return fold(
            {key: value for key, value in series.items() if dict(key).get("kv_cache_block_type") == kind}, table.ranks
        )

    blocks, size = values("max"), values("tokens_per")
    if len(blocks) == len(size) and blocks:
        joined.gauges[Signal.KV_CACHE_CAPACITY_TOKENS] = sum(a * b for a, b in zip(blocks, size, strict=True))
