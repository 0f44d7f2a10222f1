"""The KV cache's arithmetic against what was measured on a real vLLM, and what a workload needs."""

import numpy as np
import pytest

from optiinfra.domain import kv_capacity
from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.model_facts import Attention, ModelFacts, kv_bytes_per_token
from optiinfra.domain.readings import EngineKind, Unknown
from tests.unit.domain.made_up import GIB, UNKNOWN, signals_of

MEASURED = ModelFacts(layers=4.0, kv_heads=2.0, head_size=64.0, attention=Attention.FULL)
"""The model of the measured runs."""


def test_the_measured_vectors():
    each = kv_bytes_per_token(MEASURED, EngineSettings(engine=EngineKind.VLLM, kv_cache_dtype="bfloat16"))
    assert each == 2048.0
    assert kv_capacity.blocks_in(GIB, block_size=16, bytes_per_token=each) == 32768
    assert kv_capacity.blocks_in(GIB, block_size=32, bytes_per_token=each) == 16384
    assert kv_capacity.concurrency(3200, context_tokens=2048) == 1.5625
    assert kv_capacity.usage(20, 100) == pytest.approx(0.2020, abs=5e-5)


def test_a_cache_without_blocks_is_an_error():
    with pytest.raises(ValueError, match="none to use"):
        kv_capacity.usage(0, 1)
    with pytest.raises(ValueError, match="context"):
        kv_capacity.concurrency(1, context_tokens=0)
    with pytest.raises(ValueError, match="blocks of"):
        kv_capacity.blocks_in(1, block_size=0, bytes_per_token=1)


def test_requests_that_fit_by_the_formula():
    # 100000 / (1000 x 0.5 + 100)
    fit = kv_capacity.requests_that_fit
    assert fit(signals_of(), EngineSettings()) == pytest.approx(100_000 / 600)
    assert fit(signals_of(prefix_hit_ratio=UNKNOWN), EngineSettings()) == pytest.approx(100_000 / 1100)
    assert isinstance(fit(signals_of(prompt_tokens_mean=UNKNOWN), EngineSettings()), Unknown)
    assert isinstance(fit(signals_of(kv_cache_capacity_tokens=0.0), EngineSettings()), Unknown)


def test_the_need_at_p99_is_what_drawn_requests_hold():
    draw = np.random.default_rng(1)
    sums = []
    for _ in range(4000):
        prompt = np.maximum(0.0, draw.normal(1000.0, 300.0, 40))
        answer = np.maximum(0.0, draw.normal(400.0, 100.0, 40))
        sums.append((prompt + draw.uniform(0.0, 1.0, 40) * answer).sum())
    signals = signals_of(
        prompt_tokens_mean=1000.0,
        generation_tokens_mean=400.0,
        prompt_tokens_p99=1000.0 + 2.326 * 300.0,
        generation_tokens_p99=400.0 + 2.326 * 100.0,
        prefix_hit_ratio=0.0,
    )
    need = kv_capacity.needed(signals, 40.0)
    assert need.mean == pytest.approx(float(np.mean(sums)), rel=0.01)
    assert need.p99 == pytest.approx(float(np.quantile(sums, 0.99)), rel=0.02)
    assert need.mean < need.p99 < need.worst


def test_without_percentiles_the_longest_request_stands_for_them():
    need = kv_capacity.needed(signals_of(request_tokens_highest=5000.0), 10.0)
    assert need.mean == 6000.0
    assert need.mean < need.p99 <= need.worst == 50_000.0
    assert isinstance(kv_capacity.needed(signals_of(), 10.0), Unknown)
    assert isinstance(kv_capacity.needed(signals_of(request_tokens_highest=5000.0), 0.0), Unknown)


def test_what_mostly_fits_is_what_drawn_requests_hold():
    signals = signals_of(
        prompt_tokens_mean=90.0, prompt_tokens_p99=120.0, generation_tokens_mean=250.0, generation_tokens_p99=350.0,
        prefix_hit_ratio=0.0,
    )  # fmt: skip
    spread, held = kv_capacity.spread_of(signals), kv_capacity.held_tokens(signals)
    count = int(kv_capacity.fit_mostly(2080.0, held=held, deviation=spread.deviation))
    draw = np.random.default_rng(3)
    shape = (40_000, count + 1)
    each = draw.normal(90.0, 30.0 / 2.326, shape) + draw.random(shape) * draw.normal(250.0, 100.0 / 2.326, shape)
    assert np.mean(each[:, :count].sum(axis=1) > 2080.0) <= 0.1
    assert np.mean(each.sum(axis=1) > 2080.0) > 0.1
    for requests in (count, count + 1):
        short = kv_capacity.shortage(2080.0, requests=requests, held=held, deviation=spread.deviation)
        measured = np.mean(each[:, :requests].sum(axis=1) > 2080.0)
        assert short.expected == pytest.approx(measured, abs=0.02)
        assert measured <= short.upper


def test_requests_that_do_not_vary_fit_or_do_not():
    assert kv_capacity.fit_mostly(1000.0, held=100.0, deviation=0.0) == pytest.approx(10.0)
    assert kv_capacity.shortage(1000.0, requests=10.0, held=100.0, deviation=0.0).upper == 0.0
    assert kv_capacity.shortage(1000.0, requests=11.0, held=100.0, deviation=0.0).expected == 1.0
    with pytest.raises(ValueError, match="hold 0 tokens"):
        kv_capacity.fit_mostly(1000.0, held=0.0, deviation=1.0)
