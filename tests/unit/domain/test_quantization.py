"""Advice on quantised weights: what a GPU and an engine can do with them, by how much, and where they do not help."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optiinfra.domain import quantization
from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.evidence import Proposal, RecommendationType, Refusal
from optiinfra.domain.gpu_models import GPUS, GpuModel
from optiinfra.domain.gpu_models import recognise as gpu
from optiinfra.domain.model_facts import ModelFacts
from optiinfra.domain.model_table import MODELS
from optiinfra.domain.model_table import recognise as model
from optiinfra.domain.readings import EngineKind, Unknown
from optiinfra.domain.roofline import Roofline, bytes_each, roofline
from optiinfra.domain.weight_formats import Arithmetic, formats_for
from tests.unit.domain.advised import UNKNOWN, Bottleneck, case, effect, is_complete, is_refused

SLOW = {
    "running_mean": 8.0,
    "inter_token_latency_mean": 0.008,
    "inter_token_latency_p95": 0.12,
    "time_to_first_token_p95": 0.5,
}
"""Eight requests, steps of 8 ms: on an H100 reading 16 GB takes 4.8 of them."""


def advise(bottleneck=Bottleneck.COMPUTE, *, signals=None, **changes):
    advice = quantization.advise(case(bottleneck, signals=SLOW | (signals or {}), **changes))
    assert advice.type is RecommendationType.QUANTIZATION
    return advice


# ---- roofline


def test_the_least_time_of_a_decode_step_is_the_reading_of_its_weights():
    line = roofline(model("llama-3.1-70b"), gpu("NVIDIA H100 80GB HBM3"), tensor_group=4.0, stages=UNKNOWN)
    assert isinstance(line, Roofline)
    assert line.read_seconds(1.0, 2.0) == pytest.approx(70.55e9 * 2 / (4 * 3.35e12))
    assert line.read_seconds(64.0, 2.0) == line.read_seconds(1.0, 2.0)
    assert line.weight_bytes(2.0) == pytest.approx(70.55e9 * 2 / 4)
    assert line.compute_seconds(1000.0, 989e12) == pytest.approx(2 * 70.55e9 * 1000 / (4 * 989e12))


def test_a_mixture_of_experts_reads_more_of_itself_as_the_batch_grows():
    line = roofline(model("qwen3-30b-a3b"), gpu("H100 PCIe"), tensor_group=1.0, stages=UNKNOWN)
    assert isinstance(line, Roofline)
    alone, many = line.read_seconds(1.0, 2.0), line.read_seconds(64.0, 2.0)
    assert alone == pytest.approx(3.35e9 * 2 / 2.0e12)
    assert 8 * alone < many <= 30.53e9 * 2 / 2.0e12


def test_stages_of_a_pipeline_take_turns():
    line = roofline(model("llama-3.1-8b"), gpu("NVIDIA L4"), tensor_group=1.0, stages=2.0)
    assert isinstance(line, Roofline)
    assert line.read_seconds(1.0, 2.0) == pytest.approx(8.03e9 * 2 / 300e9)
    assert line.weight_bytes(2.0) == pytest.approx(8.03e9)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"quantization": "awq"}, 0.53),
        ({"quantization": "fp8"}, 1.0),
        ({}, 2.0),
        ({"model_dtype": "float32"}, 4.0),
    ],
)
def test_the_size_of_weights_now(settings, expected):
    assert bytes_each(model("llama-3.1-8b"), EngineSettings(quantization_known=True, **settings)) == expected


@pytest.mark.parametrize(
    "settings", [EngineSettings(), EngineSettings(quantization_known=True, quantization="compressed-tensors")]
)
def test_weights_of_unknown_size(settings):
    assert isinstance(bytes_each(model("llama-3.1-8b"), settings), Unknown)


# ---- formats


@pytest.mark.parametrize(
    ("engine", "name", "expected"),
    [
        (EngineKind.VLLM, "Tesla-V100-SXM2-16GB", []),
        (EngineKind.VLLM, "Tesla-T4", [("INT8 W8A8", ""), ("INT4 (AWQ or GPTQ)", "")]),
        (
            EngineKind.VLLM,
            "NVIDIA-A100-SXM4-80GB",
            [("FP8 (weights only)", "fp8"), ("INT8 W8A8", ""), ("INT4 (AWQ or GPTQ)", "")],
        ),
        (EngineKind.VLLM, "NVIDIA L40S", [("FP8", "fp8"), ("INT4 (AWQ or GPTQ)", "")]),
        (EngineKind.VLLM, "NVIDIA H100 80GB HBM3", [("FP8", "fp8"), ("INT4 (AWQ or GPTQ)", "")]),
        (EngineKind.VLLM, "NVIDIA B200", [("FP8", "fp8"), ("NVFP4", "")]),
        (EngineKind.VLLM, "AMD Instinct MI300X", [("FP8", "fp8")]),
        (EngineKind.VLLM, "AMD Instinct MI355X", [("FP8", "fp8"), ("MXFP4", "")]),
        (EngineKind.VLLM, "AMD Instinct MI250X", []),
        (EngineKind.VLLM, "Gaudi3", []),
        (EngineKind.SGLANG, "NVIDIA H200", [("FP8", "fp8"), ("INT4 (AWQ or GPTQ)", "")]),
        (EngineKind.TGI, "NVIDIA A10G", [("FP8 (weights only)", "fp8"), ("INT4 (AWQ or GPTQ)", "")]),
        (EngineKind.TRTLLM, "NVIDIA H100 PCIe", [("FP8", ""), ("INT4 (AWQ or GPTQ)", "")]),
        (EngineKind.TRTLLM, "NVIDIA GB200", [("FP8", ""), ("NVFP4", "")]),
        (EngineKind.NIM, "NVIDIA L40S", [("FP8", "")]),
    ],
)
def test_what_pays_by_gpu_and_engine(engine, name, expected):
    found = gpu(name)
    assert isinstance(found, GpuModel)
    assert [(one.name, one.value) for one in formats_for(engine, "", found)] == expected


def test_an_engine_that_knows_its_version_gets_its_own_words():
    found = gpu("Tesla-T4")
    assert formats_for(EngineKind.VLLM, "0.32.0", found)[0].value == "fp8_per_tensor"
    assert formats_for(EngineKind.VLLM, "0.10.2", found)[0].name == "INT8 W8A8"


@pytest.mark.parametrize("one", GPUS, ids=lambda one: one.name)
@pytest.mark.parametrize("engine", list(EngineKind))
def test_no_format_is_offered_whose_arithmetic_the_gpu_lacks(engine, one):
    formats = formats_for(engine, "", one)
    assert all(not isinstance(form.operations(one), Unknown) for form in formats)
    assert all(bool(form.value) != bool(form.checkpoint) for form in formats)


# ---- slow tokens


def test_slow_tokens_at_small_batch():
    advice = is_complete(advise())
    assert (advice.reason, advice.setting, advice.current, advice.proposed) == (
        "QuantiseForLatency",
        "--quantization",
        "none",
        "fp8",
    )
    latency = effect(advice, "inter_token_latency_p95")
    # At least: 16.06 GB of 8.03e9 x (0.869 + 2 x 0.131) bytes less, at 3.35 TB/s, of 8 ms.
    saved = 8.03e9 * (2.0 - (0.8692 + 2.0 * 0.1308)) / 3.35e12
    assert latency.upper == pytest.approx(0.12 * (1.0 - saved / 0.008), rel=1e-3)
    assert latency.lower < latency.expected < latency.upper < latency.before
    assert "--quantization=fp8" in advice.message
    assert "Never applied" in advice.message
    assert "FP8" in advice.risk


def test_room_for_the_cache_is_told_as_well():
    room = effect(advise(), "kv_cache_capacity")
    # 6.98 GB less weights at 128 KiB a token.
    assert room.expected - room.before == pytest.approx(8.03e9 * (2.0 - 1.1308) / 131072, rel=1e-2)


def test_a_format_that_is_not_enough_yields_to_one_that_is():
    # 16 GB at 300 GB/s is 53.5 ms of a 60 ms step; FP8 leaves about 29 ms, INT4 about 22.
    slow = {"inter_token_latency_mean": 0.06, "inter_token_latency_p95": 0.24}
    advice = is_complete(advise(signals=slow, gpu_name="NVIDIA L4"))
    assert advice.proposed == "INT4 (AWQ or GPTQ) checkpoint"
    assert advice.setting == "--model"
    assert "4-bit" in advice.risk
    worse = is_complete(advise(signals=slow | {"inter_token_latency_p95": 2.0}, gpu_name="NVIDIA L4"))
    assert "not enough" in worse.message
    assert worse.confidence < advice.confidence


def test_tensor_parallel_replicas_read_less_each():
    signals = {"inter_token_latency_mean": 0.02, "inter_token_latency_p95": 0.12}
    advice = is_complete(advise(signals=signals, model_name="llama-3.1-70b", settings={"tensor_parallel": 4.0}))
    assert "reads 35.3 GB of weights on each GPU" in advice.message


def test_a_large_batch_is_not_reading():
    signals = {"running_mean": 400.0, "inter_token_latency_mean": 0.12, "inter_token_latency_p95": 0.2}
    refusal = is_refused(advise(signals=signals), "ReadingNotLimiting")
    assert "400 requests" in refusal.message


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"settings": {"quantization": "awq"}}, "AlreadyQuantised"),
        ({"settings": {"quantization_known": False}}, "QuantizationUnknown"),
        ({"settings": {"engine": EngineKind.TRITON}}, "NoSuchSetting"),
        ({"settings": {"engine": UNKNOWN}}, "EngineUnknown"),
        ({"settings": {"engine": EngineKind.TGI}}, "GPUCountUnknown"),
        ({"gpu_name": "NVIDIA GeForce GTX 1080"}, "GPUUnknown"),
        ({"gpu_name": "NVIDIA-L4-SHARED"}, "GPUShared"),
        ({"gpu_name": "AMD Instinct MI250X"}, "NoFormatForGPU"),
        ({"model_name": "my-company/chat"}, "ModelUnknown"),
        ({"model_name": "nvidia/Nemotron-H-8B"}, "ModelUnknown"),
        ({"model_name": "deepseek-ai/DeepSeek-R1"}, "AlreadyQuantised"),
        ({"model_name": "openai/gpt-oss-20b"}, "AlreadyQuantised"),
        ({"signals": {"running_mean": UNKNOWN, "running_per_replica_max": UNKNOWN}}, "StepsUnknown"),
        ({"signals": {"inter_token_latency_mean": 0.003}}, "FactsContradicted"),
    ],
)
def test_quantization_is_refused_with_the_reason(changes, reason):
    signals = {"inter_token_latency_mean": 0.02} | changes.pop("signals", {})
    is_refused(advise(signals=signals, **changes), reason)


@pytest.mark.parametrize("bottleneck", [Bottleneck.BATCH, Bottleneck.QUEUE, Bottleneck.HOST, Bottleneck.IDLE])
def test_what_something_else_limits_is_not_helped(bottleneck):
    is_refused(advise(bottleneck), "NotLimiting")


def test_no_verdict_no_advice():
    is_refused(advise(Bottleneck.UNKNOWN), "BottleneckUnknown")


def test_engines_that_need_a_checkpoint_say_so():
    advice = is_complete(advise(settings={"engine": EngineKind.TRTLLM}))
    assert (advice.setting, advice.proposed) == ("MODEL", "FP8 checkpoint")
    assert "ModelOpt" in advice.message
    nim = is_complete(advise(settings={"engine": EngineKind.NIM, "tensor_parallel": 1.0}))
    assert (nim.setting, nim.proposed) == ("NIM_MODEL_PROFILE", "FP8 profile")


# ---- slow prompts


PROMPTS = {"inter_token_latency_p95": 0.05, "time_to_first_token_p95": 6.0, "prompt_tokens_mean": 16_000.0}


def test_slow_prompts_profit_from_arithmetic_only():
    signals = PROMPTS | {"prefill_time_mean": 0.4, "prefix_hit_ratio": 0.0}
    advice = is_complete(advise(signals=signals))
    assert advice.reason == "QuantiseForPrefill"
    first = effect(advice, "time_to_first_token_p95")
    # 2 x 8.03e9 x 16000 operations take 0.26 s at 989 Tera, and half of it in FP8.
    assert first.before - first.upper == pytest.approx(8.03e9 * 16000 / 989e12, rel=1e-3)
    assert first.before - first.lower == pytest.approx(0.4 * (1.0 - 989 / 1979), rel=1e-3)  # no more than all of it


def test_weights_that_are_only_read_smaller_do_not_help_prompts():
    signals = PROMPTS | {"prefill_time_mean": 2.0, "inter_token_latency_mean": 0.04}
    tgi = {"engine": EngineKind.TGI, "tensor_parallel": 1.0}
    is_refused(advise(signals=signals, gpu_name="NVIDIA A10G", settings=tgi), "PrefillComputeBound")
    advice = is_complete(advise(signals=signals, gpu_name="NVIDIA-A100-SXM4-80GB"))
    assert "INT8" in advice.proposed


def test_prompts_that_wait_for_something_else():
    is_refused(advise(signals=PROMPTS | {"prefill_time_mean": 60.0}), "ArithmeticNotLimiting")
    is_refused(advise(signals=PROMPTS), "PrefillUnknown")


# ---- a full KV cache, and a healthy service


def test_a_full_cache_gets_the_room_that_weights_leave():
    advice = is_complete(advise(Bottleneck.KV_CACHE))
    assert advice.reason == "QuantiseForKVCache"
    assert "6.5 GiB less" in advice.message
    is_refused(advise(Bottleneck.KV_CACHE, settings={"kv_blocks": 1000.0}), "LittleRoom")
    unknown = {"settings": {"kv_cache_dtype": "turbo"}}
    is_refused(advise(Bottleneck.KV_CACHE, **unknown), "KVRoomUnknown")


def test_a_healthy_service_may_need_fewer_replicas():
    signals = {"replicas_expected": 8, "replicas_reporting": 8, "inter_token_latency_p95": 0.02, "busy_share": 1.0}
    advice = is_complete(advise(Bottleneck.HEALTHY, signals=signals))
    assert advice.reason == "QuantiseForFewerReplicas"
    replicas = effect(advice, "replicas")
    # At least 2.08 ms of 8 ms are saved: 8 x 0.74 are 6 replicas.
    assert replicas.upper == 6.0
    assert replicas.lower <= replicas.expected <= 6.0
    assert advice.savings.gpus_freed == 2.0
    assert advice.savings.per_month is None


HALVES = {
    "running_mean": 8.0,
    "inter_token_latency_mean": 0.03,
    "inter_token_latency_p95": 0.05,
    "kv_cache_usage_max": 0.3,
    "kv_cache_capacity_tokens": 400_000.0,
}
BIG = {"model_name": "llama-3.1-70b", "settings": {"tensor_parallel": 4.0}}


def test_a_healthy_replica_may_need_half_its_gpus():
    advice = is_complete(advise(Bottleneck.HEALTHY, signals=HALVES, **BIG))
    assert advice.reason == "QuantiseForFewerGPUs"
    assert advice.savings.gpus_freed == 2.0
    assert (effect(advice, "gpus_per_replica").before, effect(advice, "gpus_per_replica").expected) == (4.0, 2.0)
    # Per GPU: 141.1 GB / 4 of weights before, (1.0443 x 70.55 GB) / 2 after; 80 KiB a token before, 160 after.
    room = (400_000 * 81920 + 70.55e9 * (2.0 / 4 - 1.0443 / 2)) / 163840
    assert effect(advice, "kv_cache_tokens_after_both").expected == pytest.approx(room, rel=1e-3)
    assert "--tensor-parallel-size" in advice.message


@pytest.mark.parametrize(
    ("signals", "settings", "why"),
    [
        ({"kv_cache_usage_max": 0.6}, {}, "are used"),
        ({"kv_cache_usage_max": UNKNOWN}, {}, "is not known"),
        ({"inter_token_latency_p95": 0.0999}, {}, "too long"),
        ({}, {"kv_blocks": 1000.0}, "is not known"),
        ({}, {"tensor_parallel": 3.0}, "cannot be halved"),
    ],
)
def test_a_replica_that_needs_its_gpus(signals, settings, why):
    advice = advise(
        Bottleneck.HEALTHY,
        signals=HALVES | signals,
        model_name="llama-3.1-70b",
        settings={"tensor_parallel": 4.0} | settings,
    )
    assert why in is_refused(advice, "FreesNothing").message


def test_tokens_that_only_prompts_slow_down_are_a_matter_of_arithmetic():
    signals = {"inter_token_latency_p50": 0.02, "prefill_time_mean": 0.4, "prompt_tokens_mean": 16_000.0}
    advice = is_complete(advise(signals=signals | {"prefix_hit_ratio": 0.0, "inter_token_latency_p95": 0.12}))
    assert advice.reason == "QuantiseForPrefill"


@pytest.mark.parametrize(
    ("signals", "reason"),
    [
        ({"replicas_expected": 1}, "FreesNothing"),
        ({"replicas_expected": 8, "busy_share": 0.5}, "NotLimiting"),
        ({"replicas_expected": 8, "busy_share": UNKNOWN}, "NotLimiting"),
        ({"replicas_expected": 3}, "FreesNothing"),
    ],
)
def test_a_healthy_service_that_gains_nothing(signals, reason):
    is_refused(advise(Bottleneck.HEALTHY, signals=signals), reason)


# ---- for any facts


@given(
    engine=st.sampled_from(EngineKind),
    name=st.sampled_from([one.name for one in GPUS]),
    served=st.sampled_from(MODELS),
    bottleneck=st.sampled_from([Bottleneck.COMPUTE, Bottleneck.KV_CACHE, Bottleneck.HEALTHY]),
    batch=st.floats(0.5, 2000.0),
    step=st.floats(1e-4, 1.0),
    prefill=st.floats(1e-3, 30.0),
    gpus=st.sampled_from([1.0, 2.0, 8.0]),
)
def test_no_promise_exceeds_the_roofline(engine, name, served, bottleneck, batch, step, prefill, gpus):
    signals = {
        "running_mean": batch,
        "inter_token_latency_mean": step,
        "inter_token_latency_p95": step * 3,
        "time_to_first_token_p95": prefill * 3,
        "prefill_time_mean": prefill,
        "replicas_expected": 12,
    }
    found = next(one for one in GPUS if one.name == name)
    given_ = case(bottleneck, signals=signals, model_name=served, settings={"engine": engine, "tensor_parallel": gpus})
    given_ = type(given_)(
        given_.signals, given_.settings, given_.diagnosis, given_.objectives, found, given_.model, given_.pace
    )
    advice = quantization.advise(given_)
    if isinstance(advice, Refusal):
        assert advice.message
        return
    assert isinstance(advice, Proposal)
    is_complete(advice)
    smallest = 0.25 if "4" in advice.proposed else 0.45
    if "4" in advice.proposed and not isinstance(found.flops_4, Unknown):
        # Large batches are arithmetic, and Blackwell Ultra does six times as much of it in four bits as in sixteen.
        smallest = min(smallest, found.flops_16 / found.flops_4)
    for one in advice.effects:
        if one.signal == "inter_token_latency_p95" and not isinstance(one.lower, Unknown):
            assert one.lower >= one.before * smallest - 1e-9
            # On half the GPUs a step may take longer, within what is promised.
            highest = 0.1 if advice.reason == "QuantiseForFewerGPUs" else one.before
            assert one.upper <= highest * (1.0 + 1e-9)


def test_stated_facts_are_enough_without_a_name():
    facts = ModelFacts(parameters=8e9, weight_bytes_each=2.0)
    given_ = case(Bottleneck.COMPUTE, signals=SLOW)
    given_ = type(given_)(
        given_.signals, given_.settings, given_.diagnosis, given_.objectives, given_.gpu, facts, given_.pace
    )
    assert is_complete(quantization.advise(given_)).proposed == "fp8"
    assert Arithmetic.FP8 == "FP8"
