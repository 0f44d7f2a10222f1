"""Advice on the KV cache: the formulas against known vectors, and what is refused."""

import pytest

from optiinfra.domain import kv_cache
from optiinfra.domain.advice import AdviceInput
from optiinfra.domain.bottleneck import diagnose
from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.evidence import Proposal, RecommendationType, Refusal
from optiinfra.domain.objectives import Objectives
from optiinfra.domain.readings import EngineKind, Unknown
from optiinfra.domain.surroundings import Surroundings
from tests.unit.domain.made_up import UNKNOWN, recorded, signals_of
from tests.unit.engines.recorded import MEMORY_BOUND


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
        }
        | changes
    )


FULL = {
    "waiting": 20.0, "waiting_max": 20.0, "waiting_share": 1.0, "kv_cache_usage_max": 0.99, "preemption_rate": 0.05,
    "running": 150.0, "running_per_replica_max": 160.0, "request_tokens_highest": 3000.0,
}  # fmt: skip


def advise(signals=None, settings=None):
    signals, settings = signals or signals_of(**FULL), settings or settings_of()
    diagnosis = diagnose(signals, settings, Objectives(), surroundings=Surroundings(gpu_utilization=0.5))
    advice = kv_cache.advise(AdviceInput(signals, settings, diagnosis, Objectives()))
    return {one.reason: one for one in advice}


def test_requests_that_fit_by_the_formula():
    # 100000 / (1000 x 0.5 + 100)
    assert kv_cache.requests_that_fit(signals_of(), settings_of()) == pytest.approx(100_000 / 600)
    no_hits = signals_of(prefix_hit_ratio=UNKNOWN)
    assert kv_cache.requests_that_fit(no_hits, settings_of()) == pytest.approx(100_000 / 1100)
    assert isinstance(kv_cache.requests_that_fit(signals_of(prompt_tokens_mean=UNKNOWN), settings_of()), Unknown)


def test_the_formula_agrees_with_what_a_recorded_engine_ran():
    # The recorded engine ran 6.5 requests on average while short of KV cache.
    fit = kv_cache.requests_that_fit(recorded(MEMORY_BOUND, 36, 60), EngineSettings())
    assert 5.0 < fit < 8.0


def test_the_recorded_shortage_gets_advice_that_fits_it():
    settings = settings_of(batch_limit=32.0, context_tokens=2048.0)
    advice = advise(recorded(MEMORY_BOUND, 36, 60), settings)
    fewer = advice["SparePreemptions"]
    assert fewer.current == "32"
    assert int(fewer.lower) <= int(fewer.proposed) <= int(fewer.upper)
    assert 5 <= int(fewer.proposed) <= 8
    assert "2,080 tokens become 4,160" in advice["QuantiseKVCache"].message
    # A window of half a minute does not show how long requests are.
    assert isinstance(advice["WindowTooShort"], Refusal)


def test_every_proposal_is_about_one_setting_with_evidence_and_bounds():
    proposals = [one for one in advise().values() if isinstance(one, Proposal)]
    assert {one.setting for one in proposals} == {
        "--kv-cache-dtype", "--max-num-seqs", "--kv-transfer-config", "--max-model-len",
    }  # fmt: skip
    for one in proposals:
        assert one.type is RecommendationType.KV_CACHE
        assert 0.0 < one.confidence < 0.95
        assert one.evidence
        assert one.lower
        assert one.upper
        assert one.savings.per_month is None


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
        ({"lmcache": UNKNOWN}, "OffloadingUnknown"),
        ({"context_tokens": UNKNOWN}, "ContextUnknown"),
        ({"engine": EngineKind.NIM}, "NoSuchSetting"),
        ({"batch_limit": 100.0}, "BatchLimitFits"),
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
    ],
)
def test_what_the_signals_do_not_support_is_refused(changes, reason):
    assert isinstance(advise(signals_of(**FULL | changes))[reason], Refusal)


def test_no_gain_is_named_where_none_can_be_computed():
    blind = signals_of(**FULL | {"kv_cache_capacity_tokens": UNKNOWN, "prompt_tokens_mean": UNKNOWN})
    message = advise(blind)["QuantiseKVCache"].message
    assert "become" not in message
    # No engine measures how often evicted prefixes come back.
    assert "no gain is promised" in advise()["OffloadPrefixes"].message


def test_what_only_simulates_is_never_proposed():
    assert isinstance(advise()["KVOptKitUnavailable"], Refusal)


def test_replicas_are_left_to_scaling():
    found = advise()["LeftToScaling"]
    assert isinstance(found, Refusal)
    assert found.type is RecommendationType.REPLICAS
    # 170 requests, 166.7 fit.
    assert "170 requests fill 2 replicas" in found.message


def test_a_cache_with_room_or_an_unknown_bottleneck_gets_no_advice():
    assert set(advise(signals_of())) == {"NotLimiting"}
    assert set(advise(signals_of(waiting=UNKNOWN))) == {"BottleneckUnknown"}


def test_useless_caches_are_named_in_any_state():
    found = advise(signals_of(prefix_hit_ratio=0.0, lmcache_hit_ratio=0.0), settings_of(lmcache=True))
    assert isinstance(found["PrefixCacheUseless"], Refusal)
    assert isinstance(found["LMCacheUseless"], Proposal)
    quiet = advise(signals_of(prefix_hit_ratio=UNKNOWN, lmcache_hit_ratio=UNKNOWN), settings_of(lmcache=True))
    assert set(quiet) == {"NotLimiting"}


def test_sglang_and_tgi_get_their_own_names():
    sglang = advise(settings=settings_of(engine=EngineKind.SGLANG))
    assert sglang["OffloadPrefixes"].setting == "--enable-lmcache"
    assert sglang["SparePreemptions"].setting == "--max-running-requests"
    tgi = advise(settings=settings_of(engine=EngineKind.TGI))
    assert tgi["QuantiseKVCache"].proposed == "fp8_e4m3fn"
    assert "NoSuchSetting" in tgi
