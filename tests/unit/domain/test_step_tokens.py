"""Advice on the tokens of a step: the right direction, and for the right reason."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optiinfra.domain import step_tokens, tuning
from optiinfra.domain.evidence import Proposal, RecommendationType, Refusal
from optiinfra.domain.objectives import NOT_PROMISED, Objectives
from optiinfra.domain.readings import EngineKind
from tests.unit.domain.advised import UNKNOWN, Bottleneck, case, effect, fitted, is_complete, is_refused

INTERFERES = {
    "inter_token_latency_p50": 0.02,
    "inter_token_latency_p95": 0.22,
    "prompt_tokens_mean": 6000.0,
    "time_to_first_token_mean": 0.8,
    "time_to_first_token_p95": 1.5,
}
"""Steps of 20 ms, and of 220 where 8000 tokens of prompts are in them."""
COST = fitted(0.015, 0.0001, prompt_slope=2.5e-5)


def advise(bottleneck=Bottleneck.COMPUTE, *, signals=None, base=INTERFERES, pace=COST, **changes):
    advice = step_tokens.advise(case(bottleneck, signals=base | (signals or {}), pace=pace, **changes))
    assert advice.type is RecommendationType.BATCH_SIZE
    return advice


def test_prompts_that_slow_everybody_down_are_taken_in_smaller_parts():
    advice = is_complete(advise(settings={"step_tokens": 8192.0}))
    assert (advice.reason, advice.setting, advice.current) == ("LowerStepTokens", "--max-num-batched-tokens", "8192")
    # 80 ms at 25 us a token are 3200 tokens, in whole 256s.
    assert advice.proposed == "3072"
    assert effect(advice, "inter_token_latency_p95").expected == pytest.approx(0.02 + 3072 * 2.5e-5)
    assert effect(advice, "time_to_first_token").upper > effect(advice, "time_to_first_token").before
    assert "--max-num-batched-tokens=3072" in advice.message
    assert "--max-num-batched-tokens=8192" in advice.undo


def test_a_setting_that_nobody_gave_is_told_with_the_engine_s_default():
    advice = is_complete(advise())
    assert advice.current.startswith("not given (default 8192 on GPUs of 70 GiB")
    assert advice.undo.startswith("Remove --max-num-batched-tokens")
    # Whose arguments nobody read may have given it.
    unread = is_complete(advise(settings={"container": ""}))
    assert unread.current.startswith("not known (default 8192")
    assert unread.undo.startswith("Put back what")


def test_without_a_fit_prefill_tells_the_most_that_a_token_costs():
    advice = is_complete(advise(signals={"prefill_time_mean": 0.15, "prefix_hit_ratio": 0.0}, pace=fitted(0.01, 0.001)))
    assert advice.proposed == "3072"  # 0.15 s over 6000 tokens: 25 us
    is_refused(advise(pace=fitted(0.01, 0.001)), "PromptCostUnknown")


@pytest.mark.parametrize(
    ("signals", "settings", "reason"),
    [
        ({"inter_token_latency_p50": 0.15}, {}, "PrefillNotInterfering"),
        ({"inter_token_latency_p50": 0.11, "inter_token_latency_p95": 0.4}, {}, "StepTooSlow"),
        ({"inter_token_latency_p50": UNKNOWN}, {}, "StepsUnknown"),
        ({"prompt_tokens_mean": 100.0}, {}, "PromptsShort"),
        ({"inter_token_latency_p50": 0.0999, "inter_token_latency_p95": 0.3}, {}, "DisaggregationNeeded"),
        ({}, {"step_tokens": 1024.0}, "StepTokensSmall"),
        ({"inter_token_latency_p95": 0.05}, {}, "StepTokensNotLimiting"),
        ({}, {"engine": EngineKind.NIM}, "NoSuchSetting"),
    ],
)
def test_smaller_steps_are_refused(signals, settings, reason):
    is_refused(advise(signals=signals, settings=settings), reason)


def test_no_verdict_no_advice():
    is_refused(advise(Bottleneck.UNKNOWN), "BottleneckUnknown")


def test_an_engine_that_computes_prompts_whole_may_split_them():
    advice = is_complete(advise(settings={"chunked_prefill": False, "engine": EngineKind.TRTLLM}))
    assert (advice.reason, advice.setting, advice.proposed) == (
        "EnableChunkedPrefill",
        "--enable_chunked_prefill",
        "on",
    )
    old = advise(settings={"chunked_prefill": False, "version": "0.6.3"})
    assert old.setting == "--enable-chunked-prefill"
    is_refused(advise(settings={"chunked_prefill": False, "engine": EngineKind.TGI}), "NoSuchSetting")


LATE = {
    "inter_token_latency_p50": 0.02,
    "inter_token_latency_p95": 0.045,
    "prompt_tokens_mean": 8000.0,
    "prompt_tokens_p99": 16_000.0,
    "time_to_first_token_p95": 2.2,
    "queue_time_p95": 0.0,
}
"""Prompts in steps of 512: 32 of them, each with 20 ms of decoding beside it."""


def test_prompts_that_take_many_steps_get_larger_ones():
    advice = is_complete(advise(base=LATE, settings={"step_tokens": 512.0}))
    assert (advice.reason, advice.current, advice.proposed) == ("RaiseStepTokens", "512", "3072")
    first = effect(advice, "time_to_first_token_p95")
    assert first.before - first.expected == pytest.approx((32 - 6) * 0.02)


@pytest.mark.parametrize(
    ("signals", "settings", "reason"),
    [
        ({"queue_time_p95": 1.5}, {"step_tokens": 512.0}, "QueueFirst"),
        ({"queue_time_p95": UNKNOWN}, {"step_tokens": 512.0}, "QueueFirst"),
        ({}, {}, "StepTokensUnknown"),
        ({"prompt_tokens_p99": 400.0}, {"step_tokens": 512.0}, "PromptsShort"),
        ({}, {"step_tokens": 2048.0}, "LatencyAtLimit"),
        ({"time_to_first_token_p95": 60.0}, {"step_tokens": 512.0}, "PrefillTakesTheTime"),
    ],
)
def test_larger_steps_are_refused(signals, settings, reason):
    is_refused(advise(base=LATE, signals=signals, settings=settings), reason)


PROMPTS = {
    "inter_token_latency_p50": 0.51,
    "inter_token_latency_p95": 2.02,
    "inter_token_latency_mean": 0.55,
    "time_to_first_token_mean": 1.9,
    "time_to_first_token_p95": 4.5,
    "prompt_tokens_mean": 1185.0,
    "running_mean": 3.5,
    "running_per_replica_max": 6.0,
    "step_tokens_mean": 1102.0,
    "prefix_hit_ratio": 0.0,
}
"""A real engine whose prompts take the time: nearly every step carries some."""
UNBOUND = Objectives(time_to_first_token_p95=NOT_PROMISED, inter_token_latency_p95=NOT_PROMISED)
PROMPT_COST = fitted(0.0, 0.02, prompt_slope=0.000527)


def of_prompts(*, objectives=UNBOUND, signals=None, **changes):
    given_ = case(
        Bottleneck.COMPUTE, signals=PROMPTS | (signals or {}), pace=PROMPT_COST, objectives=objectives, **changes
    )
    return replace(given_, diagnosis=replace(given_.diagnosis, reason="PrefillBound"))


def test_where_prompts_take_the_time_that_is_said_and_late_tokens_are_halved():
    advice = is_complete(step_tokens.advise(of_prompts()))
    assert (advice.reason, advice.proposed) == ("LowerStepTokens", "1792")
    assert "Prompts take the time" in advice.message
    for way in ("begin alike", "FP8", "more replicas", "of their own for prefill"):
        assert way in advice.message
    later = effect(advice, "inter_token_latency_p95")
    # 3.5 requests at 20 ms, and 1792 tokens.
    assert later.expected == pytest.approx(0.07 + 1792 * 0.000527)
    assert "no objective was given" in advice.verification
    assert "promised" not in advice.verification


@pytest.mark.parametrize(
    ("objectives", "signals", "reason"),
    [
        (UNBOUND, {"inter_token_latency_p95": 0.6}, "PrefillTakesTheTime"),
        (UNBOUND, {"inter_token_latency_p50": UNKNOWN}, "PrefillTakesTheTime"),
        (Objectives(), {}, "DisaggregationNeeded"),
        (Objectives(inter_token_latency_p95=5.0, time_to_first_token_p95=9.0), {}, "PrefillTakesTheTime"),
        (Objectives(inter_token_latency_p95=0.05), {}, "StepTooSlow"),
    ],
)
def test_no_refusal_contradicts_a_verdict_on_prompts(objectives, signals, reason):
    refused = is_refused(step_tokens.advise(of_prompts(objectives=objectives, signals=signals)), reason)
    assert "What helps: " in refused.message
    assert "not to blame" not in refused.message


def test_what_helps_follows_the_prefix_cache_and_the_gpu():
    off = step_tokens.what_helps(of_prompts(settings={"prefix_caching": False}, gpu_name="NVIDIA A100-SXM4-80GB"))
    assert "the prefix cache, which is off" in off
    assert "FP8" not in off
    assert "H100" in step_tokens.what_helps(of_prompts())


def test_prompts_are_not_the_batch_s_fault():
    batch = tuning.advise(of_prompts(objectives=Objectives()))[0]
    is_refused(batch, "PrefillInterferes")
    assert "Prompts take the time" in is_refused(tuning.advise(of_prompts())[0], "NotLimiting").message


def test_nothing_promised_and_prompts_in_the_way_of_nobody():
    unbound = is_refused(advise(Bottleneck.BATCH, objectives=UNBOUND), "StepTokensNotLimiting")
    assert "no objective was given" in unbound.message


@given(
    median=st.floats(1e-3, 0.5),
    spread=st.floats(1.0, 50.0),
    prompt=st.floats(1.0, 1e5),
    each=st.floats(1e-7, 1e-2),
    present=st.none() | st.integers(64, 32_768),
    first=st.floats(0.01, 100.0),
    objectives=st.sampled_from([Objectives(), UNBOUND, Objectives(inter_token_latency_p95=NOT_PROMISED)]),
    reason=st.sampled_from(["PrefillBound", "DecodeBound"]),
)
def test_no_advice_ever_contradicts_itself(median, spread, prompt, each, present, first, objectives, reason):
    signals = {
        "inter_token_latency_p50": median,
        "inter_token_latency_p95": median * spread,
        "prompt_tokens_mean": prompt,
        "time_to_first_token_p95": first,
        "time_to_first_token_mean": first / 2,
        "queue_time_p95": 0.0,
    }
    settings = {} if present is None else {"step_tokens": float(present)}
    stated = case(
        Bottleneck.COMPUTE,
        signals=INTERFERES | signals,
        settings=settings,
        pace=fitted(0.01, 0.0001, prompt_slope=each),
        objectives=objectives,
    )
    stated = replace(stated, diagnosis=replace(stated.diagnosis, reason=reason))
    assert all(" inf " not in one.message for one in tuning.advise(stated))
    advice = step_tokens.advise(stated)
    if isinstance(advice, Refusal):
        assert advice.message
        assert ("What helps" in advice.message) == (reason == "PrefillBound")
        return
    assert isinstance(advice, Proposal)
    is_complete(advice)
    assert 512 <= int(advice.proposed) <= 16_384 or present is not None
    if present is not None:
        assert (int(advice.proposed) < present) == (advice.reason == "LowerStepTokens")
