"""The regimes that a classifier may be tuned on: an 8B model on one H100 each, 16-token blocks, mostly closed loops."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from optiinfra_sim.regime import Change, Label, Regime, Stream, Truth
from optiinfra_sim.routing import Routing
from optiinfra_sim.settings import EngineKind, EngineSettings

_MODEL = EngineSettings()
_ALWAYS = -1e9
_HEALTHY = Truth(Label.HEALTHY)
_CHAT = Stream(rate=4.0, prompt=(200, 800), output=(100, 300), shared=256)


def _throughout(truth: Truth) -> tuple[tuple[float, Truth | None], ...]:
    return ((_ALWAYS, truth),)


def _settings(**changes: object) -> EngineSettings:
    return EngineSettings(**changes)  # type: ignore[arg-type]  # checked by EngineSettings itself


TUNING: Final[Mapping[str, Regime]] = MappingProxyType(
    {
        "idle-after-work": Regime(
            summary="Work ends two minutes in; labelled idle once five minutes have passed without a request.",
            settings=_MODEL,
            streams=(Stream(rate=4.0, end=120.0),),
            truths=((_ALWAYS, _HEALTHY), (115.0, None), (435.0, Truth(Label.IDLE))),
            interval=15.0,
            scrapes=45,
            seed=11,
        ),
        "healthy-chat": Regime(
            summary="A chat service at a third of what its GPU can do.",
            settings=_MODEL,
            streams=(_CHAT,),
            truths=_throughout(_HEALTHY),
            seed=12,
        ),
        "healthy-prefix-cache-full": Regime(
            summary="Answers on many documents: cached prefixes fill the whole pool, live blocks a tenth of it.",
            settings=_settings(num_blocks=9_000),
            streams=(Stream(rate=3.0, documents=400, document_tokens=3_000, shared=512, prompt=(30, 120)),),
            truths=_throughout(_HEALTHY),
            seed=13,
            warm_up=300.0,
            trap=True,
        ),
        "healthy-bursts": Regime(
            summary="Quiet chat with bursts of 110 requests at once on a batch of 64: queues that last a second.",
            settings=_settings(max_num_seqs=64),
            streams=(
                Stream(rate=3.0, output=(60, 120)),
                Stream(bursts=(29.8, 64.6, 99.7, 134.9, 174.8), burst=110, prompt=(50, 100), output=(20, 40)),
            ),
            truths=_throughout(_HEALTHY),
            seed=14,
            trap=True,
        ),
        "healthy-high-kv": Regime(
            summary="Few long conversations hold nearly all blocks; everybody runs, nobody waits or is preempted.",
            settings=_settings(num_blocks=5_600, max_model_len=16_384),
            streams=(Stream(clients=13, prompt=(5_900, 6_100), output=(200, 400)),),
            truths=_throughout(_HEALTHY),
            seed=15,
            trap=True,
        ),
        "healthy-queue-drained": Regime(
            summary="A hundred and sixty requests came at once and queue for the batch; served within a minute.",
            settings=_settings(max_num_seqs=16, step_seconds=0.012),
            streams=(
                Stream(rate=2.0, output=(80, 120)),
                Stream(bursts=(-6.0,), burst=160, prompt=(100, 300), output=(180, 220)),
            ),
            truths=((_ALWAYS, None), (70.0, _HEALTHY)),
            seed=16,
            trap=True,
        ),
        "healthy-uneven": Regime(
            summary="Sessions stick to replicas: one of three does most of the work, with room to spare.",
            settings=_settings(max_num_seqs=64),
            streams=(
                Stream(rate=7.0, tenant=3, shared=512),
                Stream(rate=0.8, tenant=4, shared=512),
                Stream(rate=0.2, tenant=5, shared=512),
            ),
            ready=(-1e9,) * 3,
            routing=Routing.PREFIX_HASH,
            truths=_throughout(_HEALTHY),
            seed=17,
            trap=True,
        ),
        "batch-limit": Regime(
            summary="Forty clients on a batch limit of 16; blocks and GPU have room.",
            settings=_settings(max_num_seqs=16),
            streams=(Stream(clients=40),),
            truths=_throughout(Truth(Label.BATCH)),
            remedy=MappingProxyType({"max_num_seqs": 256}),
            seed=18,
        ),
        "batch-limit-begins": Regime(
            summary="A healthy service gets more clients than its batch limit of 24 after a minute.",
            settings=_settings(max_num_seqs=24),
            streams=(Stream(rate=2.0), Stream(clients=60, begin=60.0)),
            truths=((_ALWAYS, _HEALTHY), (59.0, None), (75.0, Truth(Label.BATCH))),
            remedy=MappingProxyType({"max_num_seqs": 256}),
            seed=19,
        ),
        "kv-short": Regime(
            summary="Sixty clients with long answers on a pool for some twenty of them; preemptions.",
            settings=_settings(num_blocks=1_300, max_model_len=4_096),
            streams=(Stream(clients=60, prompt=(300, 900), output=(300, 700)),),
            truths=_throughout(Truth(Label.KV_CACHE)),
            remedy=MappingProxyType({"num_blocks": 28_000}),
            seed=20,
        ),
        "kv-short-despite-prefixes": Regime(
            summary="Shared documents are cached, and yet the clients' own tokens do not fit.",
            settings=_settings(num_blocks=1_500, max_model_len=8_192),
            streams=(Stream(clients=40, documents=4, document_tokens=1_000, prompt=(500, 1_100), output=(400, 600)),),
            truths=_throughout(Truth(Label.KV_CACHE)),
            remedy=MappingProxyType({"num_blocks": 28_000}),
            seed=21,
        ),
        "prefill-bound": Regime(
            summary="Long documents, short answers: the GPU spends its time on prompts, first tokens are late.",
            settings=_settings(max_num_batched_tokens=8_192),
            streams=(Stream(clients=30, prompt=(6_000, 8_000), output=(10, 40)),),
            truths=_throughout(Truth(Label.COMPUTE, "PrefillBound")),
            remedy=MappingProxyType({"prefill_token_seconds": 0.0000025}),
            seed=22,
        ),
        "decode-bound": Regime(
            summary="A large batch with much to read for each sequence: tokens come slowly, nobody waits.",
            settings=_settings(max_num_seqs=512, sequence_seconds=0.00045, max_model_len=4_096),
            streams=(Stream(clients=280, prompt=(100, 300), output=(400, 800)),),
            truths=_throughout(Truth(Label.COMPUTE, "DecodeBound")),
            remedy=MappingProxyType({"sequence_seconds": 0.00006}),
            seed=23,
        ),
        "adapter-slots": Regime(
            summary="Twelve adapters, two slots: most requests wait for a slot beside a half-empty batch.",
            settings=_settings(max_loras=2),
            streams=(Stream(clients=40, adapters=12),),
            truths=_throughout(Truth(Label.QUEUE, "Adapters")),
            remedy=MappingProxyType({"max_loras": 12}),
            seed=24,
        ),
        "token-budget": Regime(
            summary="256 tokens a step: prompts queue for the budget while the GPU waits for its weights.",
            settings=_settings(
                max_num_seqs=128, max_num_batched_tokens=256, step_seconds=0.014, prefill_token_seconds=0.000008
            ),
            streams=(Stream(clients=90, prompt=(1_500, 2_500), output=(20, 60)),),
            truths=_throughout(Truth(Label.QUEUE, "TokenBudget")),
            remedy=MappingProxyType({"max_num_batched_tokens": 8_192}),
            seed=25,
        ),
        "host-starved": Regime(
            summary="The CPU takes 120 ms a step: tokens come slowly while the GPU does next to nothing.",
            settings=_MODEL,
            streams=(Stream(clients=24),),
            changes=(Change(_ALWAYS, host_seconds=0.12, host_cpu_ratio=0.97),),
            truths=_throughout(Truth(Label.HOST)),
            remedy=MappingProxyType({"host_seconds": 0.0}),
            seed=26,
        ),
        "remote-cache-slow": Regime(
            summary="Nine tenths of every prompt come from a remote cache whose link is slower than the demand.",
            settings=_settings(remote_seconds=0.01, remote_token_seconds=0.00006),
            streams=(Stream(clients=40, prompt=(3_000, 5_000), output=(50, 150), external_share=0.9),),
            truths=_throughout(Truth(Label.NETWORK)),
            remedy=MappingProxyType({"remote_token_seconds": 0.0000006}),
            seed=27,
        ),
        "cold-start": Regime(
            summary="One replica carries the load of four while three load their model for two minutes.",
            settings=_settings(max_num_seqs=32),
            streams=(Stream(clients=100),),
            ready=(-1e9, 120.0, 121.0, 122.0),
            truths=((_ALWAYS, Truth(Label.COLD_START)), (119.0, None), (150.0, _HEALTHY)),
            seed=28,
        ),
        "sglang-kv-short": Regime(
            summary="As kv-short, by SGLang: retractions.",
            settings=_settings(kind=EngineKind.SGLANG, num_blocks=1_600, max_model_len=4_096),
            streams=(Stream(clients=60, prompt=(300, 900), output=(300, 700)),),
            truths=_throughout(Truth(Label.KV_CACHE)),
            remedy=MappingProxyType({"num_blocks": 28_000}),
            seed=29,
        ),
        "tgi-batch-limit": Regime(
            summary="As batch-limit, by TGI.",
            settings=_settings(kind=EngineKind.TGI, max_num_seqs=12),
            streams=(Stream(clients=36),),
            truths=_throughout(Truth(Label.BATCH)),
            remedy=MappingProxyType({"max_num_seqs": 256}),
            seed=30,
        ),
    }
)
