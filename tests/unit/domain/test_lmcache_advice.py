"""Advice on LMCache, from made-up signals and from a genuine page of LMCache 0.5.6."""

import pytest

from optiinfra.domain.advice import AdviceInput
from optiinfra.domain.bottleneck import diagnose
from optiinfra.domain.engine_settings import EngineSettings, LMCacheSettings
from optiinfra.domain.evidence import Proposal, Refusal
from optiinfra.domain.kv_case import KVCase
from optiinfra.domain.lmcache_advice import advise, fill
from optiinfra.domain.objectives import Objectives
from optiinfra.domain.readings import EngineKind, Unknown
from optiinfra.domain.signals import summarise
from optiinfra.domain.surroundings import Surroundings
from optiinfra.domain.units import UnixTime
from optiinfra.engines import page
from tests.unit.domain.made_up import GIB, UNKNOWN, signals_of
from tests.unit.engines.recorded import MEMORY_BOUND, lmcache_page, raw

POOL = LMCacheSettings(chunk_tokens=256.0, local_bytes=5 * GIB, remote=False, policy="LRU", workers=1.0)
BUSY = {
    "lmcache_hit_ratio": 0.4, "lmcache_usage_bytes": 4.9 * GIB, "lmcache_eviction_rate": 3.0,
    "lmcache_lifespan_p50": 4.0, "lmcache_healthy": 1.0,
}  # fmt: skip


def case_of(signals=None, lmcache=POOL, *, on=True, **changes):
    signals = signals or signals_of(**BUSY)
    settings = EngineSettings(
        **{
            "engine": EngineKind.VLLM,
            "container": "vllm",
            "lmcache": on,
            "lmcache_settings": lmcache,
            "block_size": 16.0,
        }
        | changes
    )
    diagnosis = diagnose(signals, settings, Objectives(), surroundings=Surroundings())
    return KVCase(AdviceInput(signals, settings, diagnosis, Objectives()))


def found(signals=None, lmcache=POOL, **changes):
    return {one.reason: one for one in advise(case_of(signals, lmcache, **changes))}


def test_a_genuine_page_gives_its_real_numbers():
    engine, time = raw(MEMORY_BOUND)[-1]
    now = lmcache_page()
    before = now.replace(b" 2560.0", b" 0.0").replace(b" 1280.0", b" 0.0")
    pages = tuple(
        page.read(engine + b"\n" + one, at=UnixTime(time + offset)) for one, offset in ((before, 0.0), (now, 15.0))
    )
    signals = summarise({"a": pages}, now=UnixTime(time + 15.0), window=60.0, stale_after=60.0, replicas_expected=1)
    assert signals.lmcache_hit_ratio == 0.5
    assert signals.lmcache_usage_bytes == 3.2e9
    case = case_of(signals)
    assert fill(case) == pytest.approx(3.2e9 / (5 * GIB))
    answers = {one.reason: one for one in advise(case)}
    # It hits, has room and evicts nothing; the recorded prompts are shorter than a chunk.
    assert isinstance(answers["LMCacheFits"], Refusal)
    assert "60% full" in answers["LMCacheFits"].message


def test_nothing_is_said_where_lmcache_is_not_on():
    assert found(on=False) == {}
    assert found(on=UNKNOWN) == {}


def test_a_cache_that_is_not_well_is_not_judged():
    assert set(found(signals_of(**BUSY | {"lmcache_healthy": 0.0}))) == {"LMCacheUnhealthy"}


def test_a_cache_that_was_never_asked_is_unknown_not_useless():
    answers = found(signals_of(**BUSY | {"lmcache_hit_ratio": UNKNOWN}))
    assert set(answers) == {"LMCacheReuseUnknown"}


def test_a_full_pool_that_forgets_soon_is_enlarged_by_as_much_as_lives_short():
    one = found()["LMCacheEnlarge"]
    assert (one.setting, one.current, one.proposed) == ("LMCACHE_MAX_LOCAL_CPU_SIZE", "5", "12.5")
    life = one.effects[0]
    assert (life.before, life.expected) == (4.0, 10.0)
    assert life.lower < life.expected < life.upper
    assert isinstance(one.effects[1].expected, Unknown)
    assert "7.5 GB more" in one.risk
    assert "LMCACHE_MAX_LOCAL_CPU_SIZE=5 " in one.undo
    # A variable merges by name, so that the patch can be written.
    assert "name: LMCACHE_MAX_LOCAL_CPU_SIZE" in one.patch
    assert 'value: "12.5"' in one.patch


def test_enlargement_is_bounded_and_halts_where_chunks_live_long():
    assert found(signals_of(**BUSY | {"lmcache_lifespan_p50": 0.5}))["LMCacheEnlarge"].proposed == "20"
    assert found(signals_of(**BUSY | {"lmcache_lifespan_p50": 9.0}))["LMCacheEnlarge"].proposed == "6.25"
    assert found(signals_of(**BUSY | {"lmcache_lifespan_p50": UNKNOWN}))["LMCacheEnlarge"].proposed == "10"
    assert isinstance(found(signals_of(**BUSY | {"lmcache_lifespan_p50": 45.0}))["LMCacheLivesLong"], Refusal)


@pytest.mark.parametrize(
    ("signals", "lmcache", "reason"),
    [
        ({"lmcache_usage_bytes": 1 * GIB, "lmcache_eviction_rate": 0.0}, POOL, "LMCacheHasRoom"),
        ({"lmcache_usage_bytes": 4 * GIB}, POOL, "LMCacheFits"),
        ({"lmcache_usage_bytes": UNKNOWN}, POOL, "LMCacheSizeUnknown"),
        ({}, LMCacheSettings(), "LMCacheSizeUnknown"),
        ({"lmcache_eviction_rate": UNKNOWN}, POOL, "LMCacheEvictionsUnknown"),
    ],
)
def test_what_does_not_call_for_a_larger_pool_says_why(signals, lmcache, reason):
    assert isinstance(found(signals_of(**BUSY | signals), lmcache)[reason], Refusal)


def test_fill_counts_every_worker_of_every_replica():
    two = LMCacheSettings(local_bytes=5 * GIB, workers=2.0)
    case = case_of(signals_of(**BUSY | {"lmcache_usage_bytes": 10 * GIB, "replicas_reporting": 2}), two)
    assert fill(case) == 0.5


def test_a_useless_cache_is_removed_unless_its_chunks_cannot_hit():
    none = signals_of(**BUSY | {"lmcache_hit_ratio": 0.0})
    one = found(none)["LMCacheUseless"]
    assert (one.setting, one.proposed) == ("lmcache", "off")
    assert "own prefix cache answers 50%" in one.message
    # Its confidence does not rest on what limits the service.
    assert one.confidence == 0.6
    short = found(signals_of(**BUSY | {"lmcache_hit_ratio": 0.0, "prompt_tokens_mean": 200.0}))
    assert set(short) == {"LMCacheChunkTooLong"}
    assert short["LMCacheChunkTooLong"].proposed == "96"


def test_chunks_are_aligned_with_blocks():
    odd = LMCacheSettings(chunk_tokens=250.0, local_bytes=5 * GIB)
    one = found(lmcache=odd)["LMCacheChunkUnaligned"]
    assert (one.setting, one.current, one.proposed) == ("LMCACHE_CHUNK_SIZE", "250", "256")
    assert "LMCacheChunkUnaligned" not in found()
    # vLLM on CPU has blocks of 32 and more.
    assert found(block_size=96.0)["LMCacheChunkUnaligned"].proposed == "288"


def test_a_policy_that_forgets_what_comes_back_is_changed():
    odd = LMCacheSettings(chunk_tokens=256.0, local_bytes=5 * GIB, policy="MRU")
    assert found(lmcache=odd)["LMCachePolicy"].proposed == "LRU"
    assert "LMCachePolicy" not in found()
    assert "LMCachePolicy" not in found(signals_of(**BUSY | {"lmcache_eviction_rate": 0.0}), odd)


REMOTE = LMCacheSettings(chunk_tokens=256.0, local_bytes=5 * GIB, remote=True)
# 1,000 prompt tokens, half of them from the cache, in 0.1 s: a chunk of 256 takes 51 ms.
PREFILL = BUSY | {"prefill_time_mean": 0.1, "lmcache_ping_error_rate": 0.0}


def test_a_remote_store_that_is_slower_than_computing_is_dropped():
    one = found(signals_of(**PREFILL | {"lmcache_remote_get_p95": 0.4}), REMOTE)["LMCacheRemoteSlow"]
    assert isinstance(one, Proposal)
    assert one.setting == "LMCACHE_REMOTE_URL"
    # Taking a variable away is no merge, and an address is never known here.
    assert one.patch == ""
    assert one.undo.startswith("Give LMCACHE_REMOTE_URL its address back")
    assert "400 ms" in one.message
    assert "51 ms" in one.message
    assert isinstance(
        found(signals_of(**PREFILL | {"lmcache_remote_get_p95": 0.01}), REMOTE)["LMCacheRemoteFast"], Refusal
    )


def test_a_remote_store_that_fails_or_is_not_measured_says_so():
    failing = signals_of(**PREFILL | {"lmcache_ping_error_rate": 0.1, "lmcache_remote_get_p95": 0.4})
    assert "LMCacheRemoteFails" in found(failing, REMOTE)
    assert "LMCacheRemoteUnknown" in found(signals_of(**PREFILL), REMOTE)
