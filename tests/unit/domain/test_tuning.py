"""Advice on batch size: safe steps only, gains from the engine's own steps, and honest where those tell nothing."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optiinfra.domain import tuning
from optiinfra.domain.evidence import Proposal, RecommendationType, Refusal
from optiinfra.domain.objectives import NOT_PROMISED, Objectives
from optiinfra.domain.readings import EngineKind, Unknown
from optiinfra.domain.step_cost import StepCost, needed_batch, smallest_trial, step_cost
from tests.unit.domain.advised import UNKNOWN, Bottleneck, case, effect, fitted, is_complete, is_refused
from tests.unit.domain.made_up import recorded, signals_of
from tests.unit.engines.recorded import BATCH_BOUND

FULL = {
    "running": 64.0,
    "running_mean": 64.0,
    "running_per_replica_max": 64.0,
    "waiting": 30.0,
    "waiting_max": 30.0,
    "waiting_share": 1.0,
    "kv_cache_usage_max": 0.3,
    "inter_token_latency_p95": 0.02,
    "inter_token_latency_mean": 0.016,
    "generation_token_rate": 4000.0,
}
CHEAP = fitted(0.0096, 0.0001)
"""At 64 requests a step of 16 ms, 6.4 of them the batch's."""


def advise(bottleneck=Bottleneck.BATCH, *, signals=None, **changes):
    batch, steps, quantization = tuning.advise(case(bottleneck, signals=FULL | (signals or {}), **changes))
    assert batch.type is RecommendationType.BATCH_SIZE
    assert steps.type is RecommendationType.BATCH_SIZE
    assert quantization.type is RecommendationType.QUANTIZATION
    return batch


def test_a_full_batch_with_room_may_double_and_says_what_it_brings():
    batch = is_complete(advise(pace=CHEAP))
    assert (batch.setting, batch.current, batch.proposed) == ("--max-num-seqs", "64", "128")
    assert batch.reason == "RaiseBatchLimit"
    gain = effect(batch, "generation_tokens")
    # B / step(B): 128 / 22.4 ms over 64 / 16 ms.
    assert gain.expected / gain.before == pytest.approx(2.0 * 16.0 / 22.4)
    assert effect(batch, "inter_token_latency_p95").expected == pytest.approx(0.02 * 22.4 / 16.0)
    assert effect(batch, "kv_cache_usage").expected == pytest.approx(0.6)
    assert "--max-num-seqs=128" in batch.message
    assert "--max-num-seqs=64" in batch.undo


def test_the_interval_of_the_fit_is_the_interval_of_the_gain():
    gain = effect(advise(pace=fitted(0.0096, 0.0001, half=0.00004)), "generation_tokens")
    assert gain.lower / gain.before == pytest.approx(2.0 * 16.0 / (16.0 + 64 * 0.14))
    assert gain.upper / gain.before == pytest.approx(2.0 * 16.0 / (16.0 + 64 * 0.06))


def test_memory_bounds_the_step():
    assert advise(signals={"kv_cache_usage_max": 0.8}, pace=CHEAP).proposed == "76"  # 64 x 0.95 / 0.8


def test_memory_is_reckoned_from_lengths_where_usage_tells_nothing():
    signals = {"kv_cache_usage_max": UNKNOWN, "kv_cache_capacity_tokens": 60_000.0}
    # 1000 tokens of prompt, half of them cached, and half of 200: 600 tokens a request.
    assert advise(signals=signals, pace=CHEAP).proposed == "95"  # 60000 / 600 x 0.95


def test_latency_bounds_the_step_by_the_upper_end_of_the_fit():
    batch = advise(signals={"inter_token_latency_p95": 0.08}, pace=fitted(0.0096, 0.0001, half=0.00003))
    # 16 ms may become 20 less 5 %: 3.05 ms more at 0.13 ms a request are 23 requests.
    assert batch.proposed == "87"
    assert effect(batch, "inter_token_latency_p95").upper <= 0.1


def test_no_more_than_arrivals_need():
    signals = {"arrival_rate": 40.0, "generation_tokens_mean": 100.0, "prefill_time_mean": 0.1}
    found = needed_batch(case(Bottleneck.BATCH, signals=FULL | signals, pace=CHEAP), step_of(signals))
    # 40 x (0.1 + 100 x (0.0096 + 0.0001 B)) = 42.4 + 0.4 B
    assert found == pytest.approx(42.4 / 0.6)
    batch = advise(signals=signals | {"waiting": 5.0}, pace=CHEAP)
    assert batch.proposed == "77"  # a tenth above 70.7
    assert "needs a batch of 71" in batch.message
    # Whoever waits is no arrival any more, and wants to be served all the same.
    assert advise(signals=signals, pace=CHEAP).proposed == "94"


def step_of(signals):
    return step_cost(case(Bottleneck.BATCH, signals=FULL | signals, pace=CHEAP))


def test_a_load_that_no_batch_serves_is_said():
    signals = {"arrival_rate": 120.0, "generation_tokens_mean": 100.0, "prefill_time_mean": 0.1}
    assert "faster than any batch" in advise(signals=signals, pace=CHEAP).message


def test_where_history_does_not_tell_the_smallest_informative_step_is_proposed():
    batch = is_complete(advise())
    assert (batch.reason, batch.current, batch.proposed) == ("RaiseBatchLimitToLearn", "64", "77")
    assert batch.upper == "128"
    assert "smallest step" in batch.message
    gain = effect(batch, "generation_tokens")
    assert isinstance(gain.expected, Unknown)
    assert (gain.lower, gain.upper) == (gain.before, pytest.approx(gain.before * 77 / 64))


def test_a_wide_interval_is_as_good_as_none():
    batch = advise(pace=fitted(0.0096, 0.0001, half=0.0003))
    assert batch.reason == "RaiseBatchLimitToLearn"
    assert "too wide" in batch.message


def test_a_noisy_engine_needs_a_larger_trial():
    quiet = smallest_trial(case(Bottleneck.BATCH, pace=fitted(0.01, 0.0, half=1.0, noise=0.03)))
    noisy = smallest_trial(case(Bottleneck.BATCH, pace=fitted(0.01, 0.0, half=1.0, noise=0.2)))
    assert 0.1 <= quiet < noisy <= 1.0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"inter_token_latency_p95": 0.2}, "LatencyAtLimit"),
        ({"kv_cache_usage_max": 0.89}, "KVCacheWouldFill"),
        ({"kv_cache_usage_max": UNKNOWN, "kv_cache_capacity_tokens": UNKNOWN}, "KVCacheUnknown"),
    ],
)
def test_a_larger_batch_is_refused(changes, reason):
    is_refused(advise(signals=changes), reason)


@pytest.mark.parametrize(
    ("bottleneck", "reason"),
    [
        (Bottleneck.HEALTHY, "NotLimiting"),
        (Bottleneck.QUEUE, "NotLimiting"),
        (Bottleneck.KV_CACHE, "NotLimiting"),
        (Bottleneck.UNKNOWN, "BottleneckUnknown"),
    ],
)
def test_other_bottlenecks_are_not_the_batch_s(bottleneck, reason):
    is_refused(advise(bottleneck), reason)


def test_steps_that_grow_in_proportion_gain_nothing():
    is_refused(advise(pace=fitted(0.0, 0.00025)), "NoThroughputGain")


def test_a_small_step_is_not_worth_a_restart():
    signals = {"running_mean": 4.0, "running_per_replica_max": 4.0, "inter_token_latency_p95": 0.085}
    is_refused(advise(signals=signals, limit=4.0), "StepTooSmall")


def test_an_inferred_limit_and_an_unmeasured_latency():
    batch = is_complete(advise(source="inferred"))
    assert "Remove --max-num-seqs" in batch.undo
    sure, unmeasured = advise(), advise(signals={"inter_token_latency_p95": UNKNOWN})
    assert unmeasured.confidence < sure.confidence
    assert "not measured" in unmeasured.message


def test_an_undo_removes_nothing_that_nobody_looked_at():
    batch = advise(source="inferred", settings={"container": ""})
    assert batch.undo.startswith("Put back what the engine's container had for --max-num-seqs")


def test_no_objective_is_named_that_nobody_gave():
    unbound = Objectives(time_to_first_token_p95=NOT_PROMISED, inter_token_latency_p95=NOT_PROMISED)
    for pace in (CHEAP, None):
        batch = is_complete(advise(objectives=unbound, pace=pace))
        assert "no objective was given" in batch.verification
        for text in (batch.message, batch.verification):
            assert "inf" not in text
            assert "promised" not in text
    assert "latency" not in advise(objectives=unbound).message
    slow = case(Bottleneck.COMPUTE, signals=FULL | SLOW, objectives=unbound)
    slow = replace(slow, diagnosis=replace(slow.diagnosis, reason="DecodeBound"))
    assert "give an objective" in is_refused(tuning.advise(slow)[0], "NotLimiting").message


def test_a_message_is_a_few_short_sentences():
    for batch in (advise(), advise(pace=CHEAP), advise(signals={"kv_cache_usage_max": 0.8})):
        sentences = batch.message.split(". ")
        assert 3 <= len(sentences) <= 6
        assert all(len(one) < 160 for one in sentences)
        assert ";" not in sentences[0]


def test_engines_that_share_a_limit_get_their_share():
    batch = advise(settings={"data_parallel": 4.0}, pace=CHEAP)
    assert (batch.current, batch.proposed) == ("16", "32")


def test_an_engine_without_the_setting():
    is_refused(advise(settings={"engine": EngineKind.NIM}), "NoSuchSetting")


def test_the_recorded_full_batch_gets_the_little_that_its_cache_allows():
    objectives = Objectives(time_to_first_token_p95=5.0, inter_token_latency_p95=1.0)
    given_ = case(Bottleneck.BATCH, limit=8.0, objectives=objectives)
    given_ = type(given_)(
        recorded(BATCH_BOUND, 80, 170), given_.settings, given_.diagnosis, objectives, given_.gpu, given_.model
    )
    batch = tuning.advise(given_)[0]
    assert (batch.reason, batch.current, batch.proposed) == ("RaiseBatchLimit", "8", "9")
    assert "10 would tell it" in batch.message


SLOW = {
    "running_mean": 60.0,
    "waiting": 0.0,
    "inter_token_latency_p95": 0.125,
    "inter_token_latency_mean": 0.1,
}


def test_tokens_that_are_too_slow_get_a_smaller_batch():
    batch = is_complete(advise(Bottleneck.COMPUTE, signals=SLOW, pace=fitted(0.04, 0.001)))
    # 100 ms may be 80: 20 ms less at 1 ms a request.
    assert (batch.reason, batch.proposed) == ("LowerBatchLimit", "40")
    assert effect(batch, "inter_token_latency_p95").expected == pytest.approx(0.1)
    assert effect(batch, "generation_tokens").expected < effect(batch, "generation_tokens").before


def test_a_batch_is_not_blamed_for_the_prompts_beside_it():
    signals = SLOW | {"inter_token_latency_p50": 0.03}
    is_refused(advise(Bottleneck.COMPUTE, signals=signals, pace=fitted(0.04, 0.001)), "PrefillInterferes")


def test_what_no_longer_fits_is_counted_in_replicas():
    signals = SLOW | {"arrival_rate": 6.0, "generation_tokens_mean": 100.0, "prefill_time_mean": 0.0}
    # 6 x 100 x (0.04 + 0.001 B) = 24 + 0.6 B: a batch of 60, and 40 fit.
    assert "1 more replica" in advise(Bottleneck.COMPUTE, signals=signals, pace=fitted(0.04, 0.001)).message
    signals["arrival_rate"] = 2.0
    assert "nothing has to wait" in advise(Bottleneck.COMPUTE, signals=signals, pace=fitted(0.04, 0.001)).message


def test_a_batch_is_not_to_blame_for_a_slow_step():
    is_refused(advise(Bottleneck.COMPUTE, signals=SLOW, pace=fitted(0.0988, 0.00002)), "StepTooSlow")
    is_refused(advise(Bottleneck.COMPUTE, signals=SLOW | {"running_mean": 1.2}), "BatchAlreadySmall")


def test_a_smaller_batch_to_learn_from():
    batch = is_complete(advise(Bottleneck.COMPUTE, signals=SLOW))
    assert (batch.reason, batch.proposed) == ("LowerBatchLimitToLearn", "50")


def test_prompts_that_come_with_requests_count():
    given_ = case(
        Bottleneck.BATCH, signals=FULL | {"step_tokens_mean": 704.0}, pace=fitted(0.005, 0.0001, prompt_slope=1e-5)
    )
    cost = step_cost(given_)
    assert isinstance(cost, StepCost)
    # 640 prompt tokens a step over 64 requests: ten each.
    assert cost.slope == pytest.approx(0.0002)


@given(
    limit=st.integers(1, 2000),
    usage=st.floats(0.0, 1.0),
    between=st.floats(1e-4, 2.0),
    slope=st.floats(0.0, 0.01),
    half=st.floats(0.0, 0.01),
    bottleneck=st.sampled_from([Bottleneck.BATCH, Bottleneck.COMPUTE]),
)
def test_no_advice_ever_breaks_its_own_bounds(limit, usage, between, slope, half, bottleneck):
    signals = FULL | {
        "running_mean": float(limit),
        "running_per_replica_max": float(limit),
        "kv_cache_usage_max": usage,
        "inter_token_latency_p95": between,
        "inter_token_latency_mean": between * 0.8,
    }
    batch = advise(
        bottleneck, signals=signals, limit=float(limit), pace=fitted(0.001, slope, half=half, highest=float(limit))
    )
    if isinstance(batch, Refusal):
        assert batch.message
        return
    assert isinstance(batch, Proposal)
    is_complete(batch)
    assert 1 <= int(batch.lower) <= int(batch.proposed) <= int(batch.upper) or bottleneck is Bottleneck.COMPUTE
    if bottleneck is Bottleneck.BATCH:
        assert limit < int(batch.proposed) <= 2 * limit
        latency = effect(batch, "inter_token_latency_p95")
        assert latency.upper <= 0.1 * (1 + 1e-6)
    else:
        assert int(batch.proposed) < limit or int(batch.proposed) == 1


def test_signals_without_any_step_are_refused():
    batch = tuning.advise(
        case(
            Bottleneck.COMPUTE,
            signals={"inter_token_latency_p95": 0.2, "running_mean": UNKNOWN, "running_per_replica_max": UNKNOWN},
        )
    )[0]
    is_refused(batch, "StepsUnknown")
    assert signals_of().replicas_reporting == 1
