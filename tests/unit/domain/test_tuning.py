"""Advice on batch size and quantization: safe steps only, and no number that was not computed."""

import pytest

from optiinfra.domain import tuning
from optiinfra.domain.advice import AdviceInput
from optiinfra.domain.bottleneck import diagnose
from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.evidence import Proposal, RecommendationType, Refusal
from optiinfra.domain.objectives import Objectives
from optiinfra.domain.readings import EngineKind
from optiinfra.domain.surroundings import Surroundings
from tests.unit.domain.made_up import UNKNOWN, recorded, signals_of
from tests.unit.engines.recorded import BATCH_BOUND


def settings_of(**changes):
    values = {
        "engine": EngineKind.VLLM,
        "batch_limit": 64.0,
        "batch_limit_source": "argument",
        "quantization_known": True,
    }
    return EngineSettings(**values | changes)


def advise(signals, settings=None, *, gpu_busy=0.5, objectives=None):
    settings, objectives = settings or settings_of(), objectives or Objectives()
    diagnosis = diagnose(signals, settings, objectives, surroundings=Surroundings(gpu_utilization=gpu_busy))
    batch, quantization = tuning.advise(AdviceInput(signals, settings, diagnosis, objectives))
    assert batch.type is RecommendationType.BATCH_SIZE
    assert quantization.type is RecommendationType.QUANTIZATION
    return batch, quantization


FULL = {
    "running": 64.0, "running_per_replica_max": 64.0, "waiting": 30.0, "waiting_max": 30.0, "waiting_share": 1.0,
    "kv_cache_usage_max": 0.3, "inter_token_latency_p95": 0.02,
}  # fmt: skip


def test_a_full_batch_with_room_may_double():
    batch, _ = advise(signals_of(**FULL))
    assert (batch.setting, batch.current, batch.proposed) == ("--max-num-seqs", "64", "128")
    assert "at most 100%" in batch.message


def test_memory_bounds_the_step():
    batch, _ = advise(signals_of(**FULL | {"kv_cache_usage_max": 0.8}))
    assert batch.proposed == "76"  # 64 x 0.95 / 0.8


def test_latency_bounds_the_step():
    batch, _ = advise(signals_of(**FULL | {"inter_token_latency_p95": 0.08}))
    assert batch.proposed == "80"  # 64 x 0.1 / 0.08


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"inter_token_latency_p95": 0.2}, "LatencyAtLimit"),
        ({"kv_cache_usage_max": 0.89}, "KVCacheWouldFill"),
        ({"waiting": 0.0, "waiting_share": 0.0}, "NotLimiting"),
        ({"waiting": UNKNOWN}, "BottleneckUnknown"),
    ],
)
def test_a_larger_batch_is_refused(changes, reason):
    batch, _ = advise(signals_of(**FULL | changes))
    assert isinstance(batch, Refusal)
    assert batch.reason == reason


def test_a_small_step_is_not_worth_a_restart():
    settings = settings_of(batch_limit=4.0)
    changes = {"running": 4.0, "running_per_replica_max": 4.0, "inter_token_latency_p95": 0.085}
    batch, _ = advise(signals_of(**FULL | changes), settings)
    assert batch.reason == "StepTooSmall"


def test_an_inferred_limit_and_an_unmeasured_latency_are_less_sure():
    sure, _ = advise(signals_of(**FULL))
    inferred, _ = advise(signals_of(**FULL), settings_of(batch_limit=UNKNOWN))
    unmeasured, _ = advise(signals_of(**FULL | {"inter_token_latency_p95": UNKNOWN}))
    assert inferred.confidence < sure.confidence
    assert unmeasured.confidence < sure.confidence
    assert "not measured" in unmeasured.message


def test_an_engine_without_the_setting():
    batch, _ = advise(signals_of(**FULL), settings_of(engine=EngineKind.NIM))
    assert batch.reason == "NoSuchSetting"


def test_the_recorded_full_batch_gets_the_little_that_its_cache_allows():
    objectives = Objectives(time_to_first_token_p95=5.0, inter_token_latency_p95=1.0)
    batch, _ = advise(recorded(BATCH_BOUND, 80, 170), settings_of(batch_limit=8.0), objectives=objectives)
    assert (batch.current, batch.proposed) == ("8", "9")


SLOW = {"inter_token_latency_p95": 0.15, "running_per_replica_max": 6.0}


def test_slow_small_batches_on_busy_gpus_may_quantise():
    _, quantization = advise(signals_of(**SLOW), gpu_busy=0.95)
    assert isinstance(quantization, Proposal)
    assert (quantization.current, quantization.proposed) == ("none", "fp8")
    assert "0.15 s to 0.075 s" in quantization.message


@pytest.mark.parametrize(
    ("settings", "changes", "reason"),
    [
        ({"quantization": "awq"}, {}, "AlreadyQuantised"),
        ({"quantization_known": False}, {}, "QuantizationUnknown"),
        ({"engine": EngineKind.NIM}, {}, "NoSuchSetting"),
        ({}, {"running_per_replica_max": 60.0}, "BatchNotSmall"),
        ({}, {"inter_token_latency_p95": 0.05, "time_to_first_token_p95": 9.0}, "DecodeNotLimiting"),
        ({}, {"inter_token_latency_p95": 0.05}, "NotLimiting"),
    ],
)
def test_quantization_is_refused(settings, changes, reason):
    _, quantization = advise(signals_of(**SLOW | changes), settings_of(**settings), gpu_busy=0.95)
    assert isinstance(quantization, Refusal)
    assert quantization.reason == reason
