"""Advice on the KV cache: which levers a verdict calls for, their numbers, and what is refused."""

from dataclasses import replace

import pytest

from optiinfra.domain import kv_cache
from optiinfra.domain.advice import AdviceInput
from optiinfra.domain.bottleneck import diagnose
from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.evidence import Bottleneck, Proposal, RecommendationType, Refusal
from optiinfra.domain.gpu_models import GPUS
from optiinfra.domain.kv_capacity import shortage, sized
from optiinfra.domain.kv_case import KVCase
from optiinfra.domain.model_facts import Attention, ModelFacts
from optiinfra.domain.objectives import Objectives
from optiinfra.domain.prefix_reuse import HitForecast, Mechanism
from optiinfra.domain.readings import EngineKind, Unknown, UnknownReason
from optiinfra.domain.surroundings import Surroundings
from tests.unit.domain.made_up import GIB, UNKNOWN, recorded, signals_of
from tests.unit.engines.recorded import MEMORY_BOUND

GPU = {one.name: one for one in GPUS}
LLAMA_8B = ModelFacts(
    name="llama-3.1-8b", parameters=8.03e9, layers=32.0, kv_heads=8.0, head_size=128.0, weight_bytes_each=2.0,
    attention=Attention.FULL,
)  # fmt: skip
LLAMA_70B = replace(LLAMA_8B, name="llama-3.1-70b", parameters=70.6e9, layers=80.0)
OVERRIDDEN = Unknown(UnknownReason.INVALID, "the number of blocks is overridden")


def settings_of(**changes):
    return EngineSettings(
        **{
            "engine": EngineKind.VLLM,
            "batch_limit": 256.0,
            "batch_limit_source": "argument",
            "context_tokens": 32768.0,
            "kv_cache_dtype": "auto",
            "prefix_caching": True,
            "lmcache": False,
            "container": "vllm",
        }
        | changes
    )


FULL = {
    "waiting": 20.0, "waiting_max": 20.0, "waiting_share": 1.0, "kv_cache_usage_max": 0.99, "preemption_rate": 0.05,
    "running": 150.0, "running_per_replica_max": 160.0, "request_tokens_highest": 3000.0,
}  # fmt: skip


def given_of(signals=None, settings=None, **more):
    signals, settings = signals or signals_of(**FULL), settings or settings_of()
    diagnosis = diagnose(signals, settings, Objectives(), surroundings=Surroundings(gpu_utilization=0.5))
    return AdviceInput(signals, settings, diagnosis, Objectives(), **more)


def advise(signals=None, settings=None, *, reuse=kv_cache.NO_FORECAST, **more):
    return {one.reason: one for one in kv_cache.advise(given_of(signals, settings, **more), reuse=reuse)}


def effect(proposal, signal):
    return next(one for one in proposal.effects if one.signal == signal)


# ---- the form of all proposals


def test_every_proposal_says_setting_effect_risk_verification_and_undo():
    settings = settings_of(gpu_memory_share=0.85)
    found = advise(settings=settings, gpu=GPU["H100-SXM"], model=LLAMA_8B)
    proposals = [one for one in found.values() if isinstance(one, Proposal)]
    assert {one.setting for one in proposals} == {
        "--gpu-memory-utilization", "--kv-cache-dtype", "--max-num-seqs", "--kv-offloading-size", "--max-model-len",
    }  # fmt: skip
    for one in proposals:
        assert one.type is RecommendationType.KV_CACHE
        assert 0.0 < one.confidence < 0.95
        assert all((one.evidence, one.lower, one.upper, one.effects, one.risk, one.verification, one.undo))
        assert one.setting in one.undo
        assert one.savings.per_month is None
        for effect in one.effects:
            if not isinstance(effect.expected, Unknown) and not isinstance(effect.upper, Unknown):
                assert effect.lower <= effect.expected <= effect.upper
            assert effect.basis


def test_undo_restores_what_was_set_and_removes_what_was_not():
    found = advise()
    assert "--max-num-seqs=256" in found["SparePreemptions"].undo
    assert advise(gpu=GPU["L40S"])["QuantiseKVCache"].undo.startswith("Remove --kv-cache-dtype")


# ---- the recorded shortage on a CPU: no GPU, no model, and something must help


def test_the_recorded_shortage_gets_advice_that_fits_it():
    settings = settings_of(
        batch_limit=32.0, context_tokens=2048.0, kv_cache_bytes=OVERRIDDEN, kv_blocks=65.0, block_size=32.0
    )
    found = advise(recorded(MEMORY_BOUND, 36, 60), settings)
    fewer = found["SparePreemptions"]
    assert fewer.current == "32"
    assert int(fewer.lower) <= int(fewer.proposed) <= int(fewer.upper)
    # In whole blocks five fit on average, and four nine times in ten.
    assert fewer.proposed == "4"
    assert fewer.upper == "5"
    blocks = found["RaiseKVBlocks"]
    assert (blocks.setting, blocks.current) == ("--num-gpu-blocks-override", "65")
    # Some 17 requests want in, where 6.5 fit.
    assert 150 <= int(blocks.proposed) <= 260
    assert int(blocks.lower) <= int(blocks.proposed) <= int(blocks.upper)
    assert isinstance(found["HardwareUnknown"], Refusal)
    assert isinstance(found["MemoryShareUnused"], Refusal)
    # A window of half a minute does not show how long requests are.
    assert isinstance(found["WindowTooShort"], Refusal)


LIVE = {
    "prompt_tokens_mean": 92.2, "prompt_tokens_p99": 197.3, "generation_tokens_mean": 252.6,
    "generation_tokens_p99": 496.1, "prefix_hit_ratio": 0.0, "kv_cache_capacity_tokens": 2080.0, "running": 8.0,
    "running_mean": 8.0, "running_per_replica_max": 14.0, "waiting": 16.0, "preemption_rate": 2.788,
}  # fmt: skip
"""A real engine (docs/live-engine.md) that preempted 1.748 times a second after its limit went from 32 to 9."""


def test_what_fits_on_average_spares_few_preemptions_and_is_not_proposed():
    hand_set = {"block_size": 32.0, "kv_blocks": 65.0, "kv_cache_bytes": OVERRIDDEN}
    given = signals_of(**FULL | LIVE)
    fewer = advise(given, settings_of(batch_limit=32.0, **hand_set))["SparePreemptions"]
    assert int(fewer.proposed) in {6, 7}
    left = effect(fewer, "preemptions")
    assert 0.0 == left.lower < left.expected < left.upper < 1.0
    # Followed on that engine, the limit of 7 left 0.2025 of 1.83 preemptions a second.
    assert left.expected < 0.2025 / 1.83 * left.before < left.upper
    # Fewer than run now may make fewer tokens, and somebody has to say so.
    assert "fewer tokens a second" in fewer.risk
    # The limit that was tried is still too high.
    limited = signals_of(**FULL | LIVE | {"running_per_replica_max": 9.0, "kv_cache_usage_max": 1.0})
    tried = given_of(limited, settings_of(batch_limit=9.0, **hand_set))
    tried = replace(tried, diagnosis=replace(tried.diagnosis, bottleneck=Bottleneck.KV_CACHE))
    again = {one.reason: one for one in kv_cache.advise(tried)}["SparePreemptions"]
    assert again.proposed == fewer.proposed
    held = KVCase(given_of(given, settings_of(batch_limit=9.0, **hand_set)))
    nine = shortage(2080.0, requests=9.0, held=held.held_in_blocks, deviation=held.held_deviation)
    assert 2.788 * nine.expected <= 1.748 <= 2.788 * nine.upper


def test_a_limit_that_is_never_reached_would_change_nothing():
    refused = advise(signals_of(**FULL | {"running_per_replica_max": 100.0, "running": 90.0}))["BatchLimitFits"]
    assert "never more than 100 ran" in refused.message


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (4_259_840, "4.06 MiB"),
        (40 * GIB, "40 GiB"),
        (1.5 * GIB, "1.5 GiB"),
        (1000 * GIB, "1,000 GiB"),
        (512.0, "512 bytes"),
    ],
)
def test_sizes_are_written_in_the_unit_that_fits(size, text):
    assert sized(size) == text


def test_a_small_memory_given_by_hand_is_not_nothing():
    found = advise(signals_of(**FULL | LIVE), settings_of(kv_cache_bytes=4_259_840.0, batch_limit=32.0))
    assert "in 4.06 MiB." in found["RaiseKVMemory"].message


def test_proposals_come_before_refusals_and_the_hand_set_size_first():
    settings = settings_of(kv_cache_bytes=OVERRIDDEN, kv_blocks=6250.0, block_size=16.0)
    answers = kv_cache.advise(given_of(signals_of(**FULL | {"generation_tokens_mean": 3000.0}), settings))
    kinds = [isinstance(one, Proposal) for one in answers]
    assert answers[0].reason == "RaiseKVBlocks"
    assert kinds == sorted(kinds, reverse=True)


def test_memory_given_in_bytes_is_raised_to_the_need_and_never_beyond_the_gpu():
    signals = signals_of(**FULL | {"generation_tokens_mean": 3000.0})
    settings = settings_of(kv_cache_bytes=2 * GIB)
    found = advise(signals, settings)["RaiseKVMemory"]
    assert found.setting == "--kv-cache-memory-bytes"
    assert found.current == str(2**31)
    # 170 requests x (500 + 1500) tokens = 340,000 on average, 100,000 fit; four times is the most at once.
    assert 3.4 * 2**31 < int(found.proposed) <= 4.0 * 2**31
    assert effect(found, "kv_cache_capacity").before == 100_000.0
    small = replace(GPU["L4"], memory_bytes=3.0 * GIB)
    assert int(advise(signals, settings, gpu=small)["RaiseKVMemory"].proposed) <= 2.7 * GIB + 1


def test_a_hand_set_size_that_suffices_is_left_alone():
    enough = signals_of(**FULL | {"running": 20.0, "waiting": 5.0})
    found = advise(enough, settings_of(kv_cache_bytes=GIB))
    assert isinstance(found["KVSizeSuffices"], Refusal)
    assert isinstance(advise()["KVSizeAutomatic"], Refusal)


# ---- memory share


def test_the_memory_share_rises_in_a_step_with_tokens_from_the_gpu_and_the_model():
    found = advise(settings=settings_of(gpu_memory_share=0.8), gpu=GPU["H100-SXM"], model=LLAMA_8B)["RaiseMemoryShare"]
    assert (found.current, found.proposed) == ("0.8", "0.85")
    gained = GPU["H100-SXM"].memory_bytes * 0.05 / (128 * 1024)
    assert effect(found, "kv_cache_capacity").expected == pytest.approx(100_000 + gained)


def test_without_gpu_or_model_the_share_s_effect_is_unknown_and_its_confidence_low():
    known = advise(settings=settings_of(gpu_memory_share=0.8), gpu=GPU["H100-SXM"], model=LLAMA_8B)["RaiseMemoryShare"]
    found = advise(settings=settings_of(gpu_memory_share=0.8))["RaiseMemoryShare"]
    assert isinstance(effect(found, "kv_cache_capacity").expected, Unknown)
    assert found.confidence < known.confidence


@pytest.mark.parametrize(
    ("changes", "more", "reason"),
    [
        ({"gpu_memory_share": 0.95}, {}, "MemoryShareHigh"),
        ({"gpu_memory_share": 0.8}, {"surroundings": Surroundings(gpu_memory_usage=0.98)}, "MemoryShareHigh"),
        ({"gpu_memory_share": 0.8}, {"gpu": replace(GPU["L4"], shared=True)}, "GPUShared"),
        ({}, {}, "MemoryShareUnknown"),
        ({"kv_cache_bytes": GIB}, {}, "MemoryShareUnused"),
    ],
)
def test_a_memory_share_that_cannot_rise_says_why(changes, more, reason):
    assert isinstance(advise(settings=settings_of(**changes), **more)[reason], Refusal)


# ---- 8-bit keys and values


@pytest.mark.parametrize("name", ["L4", "L40S", "H100-SXM", "H200-SXM", "B200"])
def test_8_bit_keys_and_values_where_the_hardware_has_them(name):
    found = advise(gpu=GPU[name])["QuantiseKVCache"]
    assert (found.current, found.proposed) == ("auto", "fp8")
    assert "100,000 tokens become 200,000" in found.message
    assert effect(found, "kv_cache_capacity").expected == 200_000.0
    # With "auto" the checkpoint may bring 8 bits of its own, and nothing is gained.
    assert effect(found, "kv_cache_capacity").lower == 100_000.0


@pytest.mark.parametrize("name", ["V100-32GB", "T4", "A10G", "A100-80GB-SXM"])
def test_older_gpus_are_refused_by_name(name):
    found = advise(gpu=GPU[name])["HardwareWithoutFP8"]
    assert isinstance(found, Refusal)
    assert name in found.message


def test_an_unknown_gpu_is_refused_and_other_levers_stay():
    found = advise()
    assert isinstance(found["HardwareUnknown"], Refusal)
    assert isinstance(found["SparePreemptions"], Proposal)


# ---- a split over more GPUs


def test_a_split_is_proposed_where_weights_leave_no_room():
    # 70B in FP8 on one H100: 66 GiB of weights, some 5 GiB for the cache.
    tight = signals_of(**FULL | {"kv_cache_capacity_tokens": 15_000.0})
    settings = settings_of(tensor_parallel=1.0, quantization="fp8", quantization_known=True)
    found = advise(tight, settings, gpu=GPU["H100-SXM"], model=LLAMA_70B)["SplitOverGPUs"]
    assert (found.setting, found.current, found.proposed) == ("--tensor-parallel-size", "1", "2")
    each, weights = 320 * 1024, 70.6e9
    assert effect(found, "kv_cache_capacity").expected == pytest.approx((15_000 * each + weights / 2) / (each / 2))


@pytest.mark.parametrize(
    ("changes", "more", "reason"),
    [
        ({}, {"gpu": GPU["H100-SXM"], "model": LLAMA_8B}, "SplitNotComputable"),
        ({"tensor_parallel": 8.0}, {"gpu": GPU["H100-SXM"], "model": LLAMA_8B}, "SplitWide"),
        ({}, {"gpu": GPU["H100-SXM"]}, "SplitNotComputable"),
        ({}, {"model": LLAMA_8B}, "SplitNotComputable"),
    ],
)
def test_a_split_that_cannot_be_computed_says_why(changes, more, reason):
    signals = signals_of(**FULL)
    if reason == "SplitNotComputable" and "gpu" in more and "model" in more:
        signals = signals_of(**FULL | {"kv_cache_capacity_tokens": UNKNOWN})
    assert isinstance(advise(signals, settings_of(**changes), **more)[reason], Refusal)


def test_a_split_that_gains_less_than_a_second_replica_is_refused():
    roomy = signals_of(**FULL | {"kv_cache_capacity_tokens": 100_000.0})
    settings = settings_of(quantization="fp8", quantization_known=True)
    found = advise(roomy, settings, gpu=GPU["H200-SXM"], model=LLAMA_70B)
    assert isinstance(found["SplitOverGPUs"], Proposal)
    wide = advise(
        signals_of(**FULL | {"kv_cache_capacity_tokens": 1_700_000.0}),
        settings_of(batch_limit=10_000.0, tensor_parallel=2.0),
        gpu=GPU["H200-SXM"],
        model=replace(LLAMA_70B, kv_heads=2.0),
    )
    # Two heads over four GPUs are copied: twice the GPUs hold little more each.
    assert "more replicas give as much" in wide["SplitGainsLittle"].message


def test_a_split_for_light_weights_is_refused():
    assert isinstance(advise(gpu=GPU["H100-SXM"], model=LLAMA_8B)["WeightsLight"], Refusal)


# ---- models that do not follow the formula


def test_hybrid_models_are_refused_with_the_reason():
    found = advise(model=replace(LLAMA_8B, attention=Attention.HYBRID), gpu=GPU["H100-SXM"])
    assert isinstance(found["HybridModel"], Refusal)
    assert "does not grow with its tokens" in found["LengthsUnknown"].message


def test_a_windowed_model_of_unknown_layers_is_refused():
    found = advise(settings=settings_of(sliding_window=4096.0))
    assert "windowed" in found["LengthsUnknown"].message


def test_short_requests_of_sliding_models_hold_more_of_a_token():
    sliding = replace(LLAMA_8B, attention=Attention.SLIDING, window_tokens=1024.0, windowed_layers=24.0)
    found = advise(model=sliding)["SparePreemptions"]
    # A request of 1,200 tokens keeps (8 + 24 x 1024/1200) / 32 of its tokens; the capacity counts (8 + 24/32) / 32.
    share = (8 + 24 * 1024 / 1200) / (8 + 24 * 1024 / 32768)
    assert int(found.upper) == int(100_000 / (600 * share))
    assert int(found.proposed) < int(found.upper)


# ---- demand


def test_context_is_cut_to_what_requests_use_with_room():
    found = advise()["ShortenContext"]
    assert (found.current, found.proposed) == ("32768", "4096")
    assert "ContextUsed" in advise(signals_of(**FULL | {"request_tokens_highest": 20000.0}))
    assert "LengthsUnknown" in advise(signals_of(**FULL | {"request_tokens_highest": UNKNOWN}))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kv_cache_dtype": "fp8"}, "KVTypeQuantised"),
        ({"kv_cache_dtype": ""}, "KVTypeUnknown"),
        ({"lmcache": True}, "AlreadyOffloading"),
        ({"offload_bytes": 64 * GIB}, "AlreadyOffloading"),
        ({"lmcache": UNKNOWN}, "OffloadingUnknown"),
        ({"prefix_caching": False}, "PrefixCacheOff"),
        ({"context_tokens": UNKNOWN}, "ContextUnknown"),
        ({"engine": EngineKind.NIM}, "NoSuchSetting"),
    ],
)
def test_what_does_not_apply_is_refused_with_the_reason(changes, reason):
    assert isinstance(advise(settings=settings_of(**changes))[reason], Refusal)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"prefix_hit_ratio": 0.1}, "LittleReuse"),
        ({"prefix_hit_ratio": UNKNOWN}, "ReuseUnknown"),
        ({"preemption_rate": 0.0}, "NoPreemptions"),
        ({"kv_cache_capacity_tokens": 200_000.0}, "BatchLimitFits"),
    ],
)
def test_what_the_signals_do_not_support_is_refused(changes, reason):
    assert isinstance(advise(signals_of(**FULL | changes))[reason], Refusal)


def test_replicas_are_left_to_scaling():
    found = advise()["LeftToScaling"]
    assert isinstance(found, Refusal)
    assert found.type is RecommendationType.REPLICAS
    # 170 requests, 166.7 fit.
    assert "170 requests fill 2 replicas" in found.message


def test_a_cache_with_room_or_an_unknown_bottleneck_gets_no_advice():
    assert set(advise(signals_of())) == {"NotLimiting"}
    assert set(advise(signals_of(waiting=UNKNOWN))) == {"BottleneckUnknown"}


# ---- prefixes


def forecast(lower, expected, upper, capacity=500_000.0):
    return (HitForecast(capacity, lower, expected, upper, Mechanism.WORKING_SET),)


def test_no_gain_is_named_where_none_can_be_predicted():
    blind = signals_of(**FULL | {"kv_cache_capacity_tokens": UNKNOWN, "prompt_tokens_mean": UNKNOWN})
    assert "become" not in advise(blind, gpu=GPU["L4"])["QuantiseKVCache"].message
    found = advise()["OffloadPrefixes"]
    assert "no gain is promised" in found.message
    assert isinstance(effect(found, "prefix_hit_ratio").expected, Unknown)
    wide = advise(reuse=forecast(0.5, 0.65, 0.9))["OffloadPrefixes"]
    assert "not predictable" in wide.message


def test_a_forecast_becomes_the_effect_with_its_interval():
    found = advise(reuse=forecast(0.58, 0.65, 0.7), model=LLAMA_8B)["OffloadPrefixes"]
    assert (effect(found, "prefix_hit_ratio").lower, effect(found, "prefix_hit_ratio").upper) == (0.58, 0.7)
    assert "65% would hit" in found.message
    # Four times 100,000 tokens of 128 KiB.
    assert (found.setting, found.proposed) == ("--kv-offloading-size", "49")
    assert found.confidence > advise(model=LLAMA_8B)["OffloadPrefixes"].confidence


def test_a_larger_pool_s_effect_names_the_hits_that_a_forecast_promises():
    twice = forecast(0.55, 0.6, 0.65, 200_000.0)
    found = advise(reuse=twice, gpu=GPU["L4"])["QuantiseKVCache"]
    assert effect(found, "prefix_hit_ratio").expected == 0.6
    far = advise(reuse=forecast(0.55, 0.6, 0.65, 400_000.0), gpu=GPU["L4"])["QuantiseKVCache"]
    assert all(one.signal != "prefix_hit_ratio" for one in far.effects)


def test_what_the_workload_needs_stands_in_the_evidence():
    found = {one.signal: one for one in advise()["SparePreemptions"].evidence}["kv_cache_needed"]
    # 170 requests of 600 tokens on average.
    assert found.statistic == "p99"
    assert found.value > 170 * 600


def test_a_forecast_without_gain_refuses_and_one_with_gain_proposes_at_few_hits():
    assert "would hit" in advise(reuse=forecast(0.49, 0.505, 0.52))["LittleReuse"].message
    few = signals_of(**FULL | {"prefix_hit_ratio": 0.1})
    assert isinstance(advise(few, reuse=forecast(0.25, 0.3, 0.4))["OffloadPrefixes"], Proposal)


def test_a_prefix_cache_that_is_off_is_to_be_tried():
    found = advise(settings=settings_of(prefix_caching=False))["EnablePrefixCaching"]
    assert found.setting == "--enable-prefix-caching"
    sglang = advise(settings=settings_of(engine=EngineKind.SGLANG, prefix_caching=False))["EnablePrefixCaching"]
    assert (sglang.setting, sglang.proposed) == ("--disable-radix-cache", "removed")


def test_useless_caches_are_named_in_any_state():
    found = advise(signals_of(prefix_hit_ratio=0.0, lmcache_hit_ratio=0.0), settings_of(lmcache=True))
    assert isinstance(found["PrefixCacheUseless"], Refusal)
    assert isinstance(found["LMCacheUseless"], Proposal)


def test_sglang_and_tgi_get_their_own_names():
    sglang = advise(settings=settings_of(engine=EngineKind.SGLANG), model=LLAMA_8B)
    assert sglang["OffloadPrefixes"].setting == "--enable-hierarchical-cache"
    # A rank, in GB: four times 100,000 tokens of 128 KiB.
    assert "--hicache-size=53" in sglang["OffloadPrefixes"].message
    trtllm = advise(settings=settings_of(engine=EngineKind.TRTLLM), model=LLAMA_8B)["OffloadPrefixes"]
    assert (trtllm.setting, trtllm.proposed) == ("kv_cache_config.host_cache_size", str(49 * 2**30))
    assert advise(settings=settings_of(engine=EngineKind.SGLANG))["OffloadPrefixes"].setting == "--enable-lmcache"
    assert sglang["SparePreemptions"].setting == "--max-running-requests"
    tgi = advise(settings=settings_of(engine=EngineKind.TGI), gpu=GPU["L4"])
    assert tgi["QuantiseKVCache"].proposed == "fp8_e4m3fn"
    assert "NoSuchSetting" in tgi


def test_old_versions_get_the_flags_that_they_have():
    old = advise(settings=settings_of(version="0.9.2", kv_cache_bytes=GIB), model=LLAMA_8B)
    assert old["OffloadPrefixes"].setting == "--kv-transfer-config"
    assert "RaiseKVMemory" not in old


# ---- pools larger than their load


def test_a_pool_that_is_never_used_is_a_finding():
    quiet = signals_of(kv_cache_usage_max=0.15, prefix_hit_ratio=0.0)
    found = kv_cache.oversized(given_of(quiet))
    assert found.reason == "KVCacheOversized"
    assert "15,000 of 100,000" in found.message


@pytest.mark.parametrize(
    "changes",
    [
        {"kv_cache_usage_max": 0.7},
        {"window": 60.0},
        {"kv_cache_usage_max": UNKNOWN},
        {"busy_share": 0.1},
        {"prefix_hit_ratio": 0.5},
        {"prefix_hit_ratio": UNKNOWN},
    ],
)
def test_what_may_need_the_pool_is_no_finding(changes):
    quiet = signals_of(**{"kv_cache_usage_max": 0.15, "prefix_hit_ratio": 0.0} | changes)
    assert kv_cache.oversized(given_of(quiet)) is None


def test_prefixes_in_the_unused_part_count_unless_a_forecast_says_that_they_stay():
    quiet = given_of(signals_of(kv_cache_usage_max=0.15, prefix_hit_ratio=0.5))
    assert kv_cache.oversized(quiet, smaller=forecast(0.3, 0.4, 0.45, 50_000.0)[0]) is None
    assert kv_cache.oversized(quiet, smaller=forecast(0.49, 0.5, 0.5, 50_000.0)[0]) is not None
