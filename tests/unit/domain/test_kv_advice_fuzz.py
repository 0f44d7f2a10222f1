"""Whatever is known or not: advice on the KV cache never fails, and never proposes what it cannot say the effect of."""

from dataclasses import fields

from hypothesis import given, settings
from hypothesis import strategies as some

from optiinfra.domain import kv_cache
from optiinfra.domain.advice import AdviceInput
from optiinfra.domain.bottleneck import Diagnosis
from optiinfra.domain.engine_flags import parse_version
from optiinfra.domain.engine_settings import EngineSettings, LMCacheSettings
from optiinfra.domain.evidence import Bottleneck, Proposal
from optiinfra.domain.gpu_models import GPUS
from optiinfra.domain.model_facts import Attention, ModelFacts
from optiinfra.domain.objectives import Objectives
from optiinfra.domain.prefix_reuse import HitForecast, Mechanism
from optiinfra.domain.readings import EngineKind, Unknown, UnknownReason
from optiinfra.domain.surroundings import Surroundings
from tests.unit.domain.made_up import signals_of

unknown = some.builds(Unknown, some.sampled_from(UnknownReason), some.just("not in this test"))
ratios = some.one_of(unknown, some.floats(0.0, 1.0))
amounts = some.one_of(unknown, some.sampled_from([0.0, 1e-9, 0.5, 1.0, 7.0, 100.0, 5e4, 1e7]), some.floats(0.0, 1e9))
positive = some.one_of(unknown, some.sampled_from([1.0, 2.0, 16.0, 100.0, 4096.0, 1e6, 2.0**31]))
switches = some.one_of(unknown, some.booleans())

RATIOS = ("kv_cache_usage_max", "prefix_hit_ratio", "lmcache_hit_ratio", "busy_share", "lmcache_healthy")
AMOUNTS = (
    "running", "waiting", "kv_cache_capacity_tokens", "preemption_rate", "prompt_tokens_mean", "generation_tokens_mean",
    "prompt_tokens_p99", "generation_tokens_p99", "request_tokens_highest", "running_per_replica_max",
    "prefill_time_mean", "lmcache_usage_bytes", "lmcache_eviction_rate", "lmcache_remote_get_p95",
    "lmcache_lifespan_p50", "lmcache_ping_error_rate", "window",
)  # fmt: skip
signals = some.builds(
    signals_of,
    **dict.fromkeys(RATIOS, ratios),
    **(dict.fromkeys(AMOUNTS, amounts) | {"window": some.sampled_from([0.0, 60.0, 600.0])}),
    replicas_reporting=some.integers(0, 3),
)
lmcache = some.builds(
    LMCacheSettings, chunk_tokens=positive, local_bytes=positive, remote=switches, workers=positive,
    policy=some.sampled_from(["", "LRU", "lfu", "MRU", "FIFO"]),
)  # fmt: skip
engines = some.builds(
    EngineSettings,
    engine=some.one_of(unknown, some.sampled_from(EngineKind)),
    version=some.sampled_from(["", "0.6.3", "0.9.2", "0.32.0", "v1"]),
    container=some.sampled_from(["", "vllm"]),
    gpu_memory_share=ratios,
    kv_cache_dtype=some.sampled_from(["", "auto", "fp8", "bfloat16", "strange"]),
    quantization=some.sampled_from(["", "fp8", "awq"]),
    quantization_known=some.booleans(),
    prefix_caching=switches,
    lmcache=switches,
    lmcache_settings=lmcache,
    **dict.fromkeys(
        (
            "context_tokens",
            "tensor_parallel",
            "block_size",
            "kv_blocks",
            "kv_cache_bytes",
            "offload_bytes",
            "batch_limit",
        ),
        positive,
    ),
    sliding_window=positive,
)
models = some.builds(
    ModelFacts,
    attention=some.sampled_from(Attention),
    **dict.fromkeys(
        ("parameters", "layers", "kv_heads", "head_size", "weight_bytes_each", "context_tokens", "window_tokens",
         "windowed_layers", "latent_size"),
        positive,
    ),
)  # fmt: skip
verdicts = some.builds(
    lambda kind, limit: Diagnosis(kind, 0.8, "Made", "Made up.", (), limit, "argument"),
    some.sampled_from(Bottleneck),
    positive,
)
forecasts = some.one_of(
    unknown,
    some.builds(
        lambda values, size: (HitForecast(size, *sorted(values), Mechanism.WORKING_SET),),
        some.tuples(*[some.floats(0.0, 1.0)] * 3),
        some.floats(1.0, 1e8),
    ),
)


@settings(max_examples=80, deadline=None)
@given(signals, engines, verdicts, some.one_of(unknown, some.sampled_from(GPUS)), models, ratios, forecasts)
def test_advice_never_fails_and_is_always_whole(signals, engine, verdict, gpu, model, memory, reuse):
    given_ = AdviceInput(
        signals, engine, verdict, Objectives(), gpu=gpu, model=model,
        surroundings=Surroundings(gpu_memory_usage=memory),
    )  # fmt: skip
    answers = kv_cache.advise(given_, reuse=reuse)
    kv_cache.oversized(given_)
    assert answers
    for one in answers:
        assert one.reason
        assert one.message
        if not isinstance(one, Proposal):
            continue
        assert all((one.setting, one.proposed, one.current, one.risk, one.verification, one.undo, one.effects))
        assert one.proposed != one.current
        assert 0.0 <= one.confidence <= 1.0
        for effect in one.effects:
            known = [getattr(effect, name) for name in ("lower", "expected", "upper")]
            known = [value for value in known if not isinstance(value, Unknown)]
            assert known == sorted(known), effect
        numbers = [one.lower, one.proposed, one.upper]
        if all(number.replace(".", "", 1).isdigit() for number in numbers):
            assert float(one.lower) <= float(one.proposed) <= float(one.upper), one
        assert "nan" not in one.message
        assert "inf " not in one.message


def test_the_names_above_are_fields():
    known = {one.name for one in fields(type(signals_of()))}
    assert {*RATIOS, *AMOUNTS} <= known
    assert parse_version("v1") == (1,)
