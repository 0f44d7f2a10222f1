"""The regimes that a classifier is judged on: other models, limits, loads, shapes and seeds than the tuning ones.

Mostly a 70B model on four GPUs and a 24B model, 32-token blocks, open loops (Poisson), several replicas.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from optiinfra_sim.regime import Change, Label, Regime, Stream, Truth
from optiinfra_sim.routing import Routing
from optiinfra_sim.settings import EngineKind, EngineSettings

_ALWAYS = -1e9
_HEALTHY = Truth(Label.HEALTHY)
_LARGE: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "model_name": "llama-3.1-70b",
        "block_size": 32,
        "num_blocks": 12_000,
        "max_model_len": 32_768,
        "max_num_seqs": 192,
        "step_seconds": 0.021,
        "sequence_seconds": 0.00011,
        "prefill_token_seconds": 0.00009,
    }
)
_MIDDLE: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "model_name": "mistral-small-24b",
        "block_size": 32,
        "num_blocks": 4_000,
        "max_model_len": 16_384,
        "max_num_seqs": 96,
        "max_num_batched_tokens": 4_096,
        "step_seconds": 0.016,
        "sequence_seconds": 0.00009,
        "prefill_token_seconds": 0.00006,
    }
)


def _large(**changes: Any) -> EngineSettings:
    return EngineSettings(**{**_LARGE, **changes})


def _middle(**changes: Any) -> EngineSettings:
    return EngineSettings(**{**_MIDDLE, **changes})


def _throughout(truth: Truth) -> tuple[tuple[float, Truth | None], ...]:
    return ((_ALWAYS, truth),)


JUDGING: Final[Mapping[str, Regime]] = MappingProxyType(
    {
        "idle-pair": Regime(
            summary="Two replicas that answered for a minute and then nobody asks.",
            settings=_large(),
            streams=(Stream(rate=2.0, end=30.0, prompt=(900, 1_500), output=(50, 90)),),
            ready=(-1e9, -1e9),
            truths=((_ALWAYS, _HEALTHY), (26.0, None), (350.0, Truth(Label.IDLE))),
            interval=10.0,
            scrapes=60,
            seed=101,
        ),
        "healthy-summaries": Regime(
            summary="Summaries by a large model at half its capacity on two replicas.",
            settings=_large(),
            streams=(Stream(rate=1.6, prompt=(1_500, 3_500), output=(150, 350)),),
            ready=(-1e9, -1e9),
            truths=_throughout(_HEALTHY),
            seed=102,
        ),
        "healthy-conversations-cached": Regime(
            summary="A thousand long system prompts in turn: the cache holds as many as fit, live blocks are few.",
            settings=_middle(),
            streams=(Stream(rate=2.5, documents=1_000, document_tokens=2_200, prompt=(40, 260), output=(60, 200)),),
            ready=(-1e9, -1e9),
            routing=Routing.PREFIX_AWARE,
            truths=_throughout(_HEALTHY),
            warm_up=400.0,
            seed=103,
            trap=True,
        ),
        "healthy-hourly-jobs": Regime(
            summary="Now and then 150 short requests come at once to a batch of 96; each queue is over in a second.",
            settings=_middle(),
            streams=(
                Stream(rate=1.2, prompt=(300, 700), output=(80, 160)),
                Stream(bursts=(14.7, 49.8, 79.6, 119.9, 154.7, 184.8), burst=150, prompt=(15, 40), output=(8, 20)),
            ),
            truths=_throughout(_HEALTHY),
            seed=104,
            trap=True,
        ),
        "healthy-full-pool": Regime(
            summary="Eight long reports fill the pool to nine tenths; a ninth never comes.",
            settings=_large(num_blocks=2_800, prefill_token_seconds=0.00005),
            streams=(Stream(clients=8, prompt=(9_600, 9_900), output=(700, 900)),),
            truths=_throughout(_HEALTHY),
            seed=105,
            trap=True,
        ),
        "healthy-after-backlog": Regime(
            summary="A backlog of 240 requests for two replicas drains in about a minute.",
            settings=_middle(max_num_seqs=32),
            streams=(
                Stream(rate=1.5, prompt=(200, 500), output=(60, 120)),
                Stream(bursts=(-8.0,), burst=240, prompt=(150, 250), output=(230, 290)),
            ),
            ready=(-1e9, -1e9),
            truths=((_ALWAYS, None), (85.0, _HEALTHY)),
            seed=106,
            trap=True,
        ),
        "healthy-lopsided": Regime(
            summary="Affinity sends three quarters of the sessions to one of four replicas; it has room for them.",
            settings=_middle(),
            streams=(
                Stream(rate=2.6, tenant=4, shared=900, prompt=(100, 400), output=(150, 250)),
                Stream(rate=0.4, tenant=5, shared=900, prompt=(100, 400), output=(150, 250)),
                Stream(rate=0.3, tenant=6, shared=900, prompt=(100, 400), output=(150, 250)),
                Stream(rate=0.1, tenant=7, shared=900, prompt=(100, 400), output=(150, 250)),
            ),
            ready=(-1e9,) * 4,
            routing=Routing.PREFIX_HASH,
            truths=_throughout(_HEALTHY),
            seed=107,
            trap=True,
        ),
        "batch-open-loop": Regime(
            summary="More arrivals a second than two replicas with a batch limit of 20 can serve; the queue grows.",
            settings=_middle(max_num_seqs=20),
            streams=(Stream(rate=14.0, prompt=(80, 240), output=(120, 200)),),
            ready=(-1e9, -1e9),
            truths=_throughout(Truth(Label.BATCH)),
            remedy=MappingProxyType({"max_num_seqs": 256}),
            seed=108,
        ),
        "batch-with-cached-prefixes": Regime(
            summary="A batch limit of 10 on documents whose prefixes fill the pool; the limit binds, not the pool.",
            settings=_middle(max_num_seqs=10, num_blocks=2_500),
            streams=(Stream(clients=26, documents=300, document_tokens=1_600, prompt=(40, 90), output=(90, 190)),),
            truths=_throughout(Truth(Label.BATCH)),
            remedy=MappingProxyType({"max_num_seqs": 96}),
            warm_up=240.0,
            seed=109,
            trap=True,
        ),
        "kv-open-loop": Regime(
            summary="Answers of a thousand tokens arrive faster than the pools of two replicas can hold them.",
            settings=_large(num_blocks=1_100),
            streams=(Stream(rate=3.4, prompt=(200, 600), output=(800, 1_200)),),
            ready=(-1e9, -1e9),
            truths=((_ALWAYS, None), (0.0, Truth(Label.KV_CACHE))),
            warm_up=120.0,
            remedy=MappingProxyType({"num_blocks": 12_000}),
            seed=110,
        ),
        "kv-begins": Regime(
            summary="A healthy service gets long reports after a minute and a half, more than its pool can hold.",
            settings=_middle(num_blocks=1_200),
            streams=(
                Stream(rate=0.8, prompt=(100, 300), output=(60, 120)),
                Stream(clients=24, begin=90.0, prompt=(2_500, 4_500), output=(500, 700)),
            ),
            truths=((_ALWAYS, _HEALTHY), (89.0, None), (110.0, Truth(Label.KV_CACHE))),
            remedy=MappingProxyType({"num_blocks": 8_000}),
            seed=111,
        ),
        "prefill-open-loop": Regime(
            summary="Contracts of twelve thousand tokens arrive faster than a large model can read them.",
            settings=_large(max_num_batched_tokens=16_384, num_blocks=60_000),
            streams=(Stream(rate=1.3, prompt=(9_000, 15_000), output=(20, 60)),),
            truths=((_ALWAYS, None), (0.0, Truth(Label.COMPUTE, "PrefillBound"))),
            warm_up=90.0,
            remedy=MappingProxyType({"prefill_token_seconds": 0.000009}),
            seed=112,
        ),
        "decode-large-batch": Regime(
            summary="A hundred and seventy writers of long texts on a model that reads much per sequence.",
            settings=_large(sequence_seconds=0.0009, num_blocks=14_000),
            streams=(Stream(clients=170, prompt=(60, 160), output=(700, 1_300)),),
            truths=_throughout(Truth(Label.COMPUTE, "DecodeBound")),
            remedy=MappingProxyType({"sequence_seconds": 0.00011}),
            seed=113,
        ),
        "adapters-many": Regime(
            summary="Forty adapters on three slots at two replicas.",
            settings=_middle(max_loras=3),
            streams=(Stream(clients=70, adapters=40, prompt=(100, 300), output=(60, 140)),),
            ready=(-1e9, -1e9),
            truths=_throughout(Truth(Label.QUEUE, "Adapters")),
            remedy=MappingProxyType({"max_loras": 40}),
            seed=114,
        ),
        "chunks-too-small": Regime(
            summary="Prompts of five thousand tokens in chunks of at most 192 tokens a step.",
            settings=_middle(max_num_batched_tokens=192, prefill_token_seconds=0.000015),
            streams=(Stream(clients=18, prompt=(4_000, 6_000), output=(10, 30)),),
            truths=_throughout(Truth(Label.QUEUE, "TokenBudget")),
            remedy=MappingProxyType({"max_num_batched_tokens": 8_192}),
            seed=115,
        ),
        "host-becomes-slow": Regime(
            summary="After a minute and a half a neighbour takes the CPUs: 160 ms a step, the GPU waits.",
            settings=_large(),
            streams=(Stream(rate=1.2, prompt=(300, 700), output=(80, 160)),),
            changes=(Change(90.0, host_seconds=0.16, host_cpu_ratio=0.99),),
            truths=((_ALWAYS, _HEALTHY), (89.0, None), (105.0, Truth(Label.HOST))),
            remedy=MappingProxyType({"host_seconds": 0.0}),
            seed=116,
        ),
        "remote-link-degrades": Regime(
            summary="A remote cache that served well becomes a hundred times slower after eighty seconds.",
            settings=_middle(remote_seconds=0.004, remote_token_seconds=0.000001, num_blocks=24_000),
            streams=(Stream(rate=2.2, prompt=(4_000, 6_000), output=(40, 120), external_share=0.85),),
            ready=(-1e9, -1e9),
            changes=(Change(80.0, remote_token_seconds=0.0003),),
            truths=((_ALWAYS, _HEALTHY), (79.0, None), (105.0, Truth(Label.NETWORK))),
            remedy=MappingProxyType({"remote_token_seconds": 0.000001}),
            seed=117,
        ),
        "cold-start-rollout": Regime(
            summary="Two of six replicas serve a load for five; four load a large model for two minutes.",
            settings=_large(max_num_seqs=24),
            streams=(Stream(clients=110, prompt=(200, 500), output=(100, 220)),),
            ready=(-1e9, -1e9, 118.0, 120.0, 124.0, 126.0),
            truths=((_ALWAYS, Truth(Label.COLD_START)), (117.0, None), (160.0, _HEALTHY)),
            seed=118,
        ),
        "sglang-batch-limit": Regime(
            summary="SGLang with --max-running-requests 18 and fifty clients.",
            settings=_middle(kind=EngineKind.SGLANG, max_num_seqs=18),
            streams=(Stream(clients=50, prompt=(100, 300), output=(100, 200)),),
            truths=_throughout(Truth(Label.BATCH)),
            remedy=MappingProxyType({"max_num_seqs": 96}),
            seed=119,
        ),
        "tgi-healthy": Regime(
            summary="TGI at a moderate load.",
            settings=_middle(kind=EngineKind.TGI),
            streams=(Stream(rate=2.0, prompt=(100, 400), output=(60, 160)),),
            truths=_throughout(_HEALTHY),
            seed=120,
        ),
    }
)
