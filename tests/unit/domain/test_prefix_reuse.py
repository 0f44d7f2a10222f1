"""Prediction of hit ratios at other cache sizes: the curves, and forecasts against replays of made-up workloads."""

import math

import numpy as np
import pytest

from bench.kv_cache import made_up
from optiinfra.domain.prefix_reuse import (
    HitForecast,
    Mechanism,
    ReuseHistory,
    ReuseWindow,
    predict,
    predict_from_pages,
    windows_of,
)
from optiinfra.domain.readings import EngineKind, EngineReading, Signal, Unknown, UnknownReason
from optiinfra.domain.replay.prefix_cache import accesses
from optiinfra.domain.replay.prefix_counters import observe
from optiinfra.domain.reuse_curves import curves

BLOCK = 512
SIZES = (1500, 4500, 6000, 12000)


@pytest.fixture(scope="module")
def workload():
    return made_up(5, conversations=600)


@pytest.fixture(scope="module")
def history(workload):
    return observe(workload, blocks=3000, block_tokens=BLOCK, sampled=0.2)


def forecasts(history, mechanism=Mechanism.WORKING_SET):
    return predict(history, [float(size * BLOCK) for size in SIZES], mechanism=mechanism)


# ---- curves


def test_a_cache_s_residence_solves_the_working_set_equation():
    family = curves()
    kept = family.residence(5000.0, rate=40.0)
    for row in range(0, len(kept), 97):
        times = np.linspace(0.0, kept[row], 4000)
        share = family.immediate[row] + family.later[row] * np.array(
            [family.came_back(float(time))[row] for time in times[::40]]
        )
        assert 40.0 * np.trapezoid(1.0 - share, times[::40]) == pytest.approx(5000.0, rel=0.03)


def test_generated_tokens_shorten_the_residence():
    family = curves()
    alone, beside = family.residence(5000.0, rate=40.0), family.residence(5000.0, rate=40.0, generated=40.0)
    assert (beside < alone).all()
    assert np.isinf(family.residence(5000.0, rate=0.0)).all()


def test_no_curve_returns_more_than_everything():
    family = curves()
    limit = family.returned(math.inf)
    assert (limit <= 1.0).all()
    assert limit == pytest.approx(family.immediate + family.later)


# ---- forecasts against the replay


def test_the_counters_are_those_of_the_replay(workload, history):
    assert history.hit_ratio == pytest.approx(accesses(workload).hit_ratios([3000])[0])
    assert history.capacity == 3000 * BLOCK
    assert history.idle is not None
    assert history.idle.count > 0


@pytest.mark.parametrize("seed", [5, 11])
def test_the_used_mechanism_beats_assuming_no_change_and_its_intervals_hold(seed):
    requests = made_up(seed, conversations=600)
    truths = accesses(requests).hit_ratios(SIZES)
    seen = observe(requests, blocks=3000, block_tokens=BLOCK)
    own, trivial = forecasts(seen), forecasts(seen, Mechanism.UNCHANGED)
    error = np.mean([abs(one.expected - true) for one, true in zip(own, truths, strict=True)])
    assert error < 0.6 * np.mean([abs(one.expected - true) for one, true in zip(trivial, truths, strict=True)])
    assert all(one.lower - 0.01 <= true <= one.upper + 0.01 for one, true in zip(own, truths, strict=True))


def test_a_forecast_at_the_present_size_is_the_present_ratio(history):
    (found,) = predict(history, [history.capacity])
    assert found.expected == pytest.approx(history.hit_ratio, abs=1e-6)
    assert found.upper - found.lower < 1e-6


@pytest.mark.parametrize("mechanism", [Mechanism.POWER_LAW, Mechanism.WORKING_SET, Mechanism.RESIDENCY])
def test_forecasts_are_ratios_in_order_and_rise_with_the_size(history, mechanism):
    found = forecasts(history, mechanism)
    for one in found:
        assert 0.0 <= one.lower <= one.expected <= one.upper <= 1.0
    assert [one.expected for one in found] == sorted(one.expected for one in found)


def test_far_sizes_are_less_sure_than_near_ones(history):
    near, far = predict(history, [history.capacity * 1.2, history.capacity * 8.0])
    assert far.upper - far.lower > near.upper - near.lower


def test_what_comes_back_unseen_is_called_not_predictable():
    # A steady cache with few hits: nothing shows whether prompts come back later.
    windows = tuple(ReuseWindow(15.0 * one, 15.0 * one + 15.0, 60_000.0, 3_000.0) for one in range(40))
    (found,) = predict(ReuseHistory(windows, 100_000.0), [1_600_000.0])
    assert not found.predictable
    assert HitForecast(1.0, 0.2, 0.3, 0.39, Mechanism.WORKING_SET).predictable


def test_too_little_is_unknown_with_the_reason():
    windows = tuple(ReuseWindow(15.0 * one, 15.0 * one + 15.0, 0.0, 0.0) for one in range(40))
    found = predict(ReuseHistory(windows, 1000.0), [2000.0])
    assert isinstance(found, Unknown)
    assert "windows" in found.detail
    busy = tuple(ReuseWindow(15.0 * one, 15.0 * one + 15.0, 10.0, 1.0) for one in range(40))
    assert isinstance(predict(ReuseHistory(busy, 0.0), [2000.0]), Unknown)
    assert isinstance(predict(ReuseHistory(busy, 1000.0), [2000.0], mechanism=Mechanism.POWER_LAW), Unknown)


def test_a_cache_that_fills_in_the_first_window_and_one_that_never_fills_are_predicted_too():
    windows = tuple(ReuseWindow(15.0 * one, 15.0 * one + 15.0, 1000.0, 300.0) for one in range(20))
    for capacity in (10.0, 1e9):
        found = predict(ReuseHistory(windows, capacity, empty_at=0.0), [capacity, capacity * 2])
        assert not isinstance(found, Unknown)
        assert found[0].expected == pytest.approx(0.3, abs=0.01)


# ---- from pages


def page(time, queries, hits, generated=0.0):
    counters = {
        Signal.PREFIX_CACHE_QUERIES: queries,
        Signal.PREFIX_CACHE_HITS: hits,
        Signal.GENERATION_TOKENS: generated,
    }
    return EngineReading(time, EngineKind.VLLM, "", "", counters=counters)


def test_windows_lie_between_pages_and_a_restart_counts_from_zero():
    found = windows_of([page(0.0, 100.0, 10.0, 5.0), page(15.0, 300.0, 60.0, 25.0), page(30.0, 50.0, 5.0, 8.0)])
    assert found == (ReuseWindow(0.0, 15.0, 200.0, 50.0, 20.0), ReuseWindow(15.0, 30.0, 50.0, 5.0, 8.0))


def test_pages_without_counters_give_no_windows():
    assert windows_of([EngineReading(0.0, EngineKind.TGI, "", ""), EngineReading(15.0, EngineKind.TGI, "", "")]) == ()


def test_forecasts_come_from_the_replica_that_was_asked_most():
    quiet = [page(15.0 * one, 100.0 * one, 0.0) for one in range(20)]
    busy = [page(15.0 * one, 1000.0 * one, 400.0 * one) for one in range(20)]
    found = predict_from_pages({"a": quiet, "b": busy}, capacity=50_000.0, factors=(1.0, 2.0))
    assert [one.capacity for one in found] == [50_000.0, 100_000.0]
    assert found[0].expected == pytest.approx(0.4, abs=0.01)


def test_without_pages_or_capacity_there_is_no_forecast():
    assert isinstance(predict_from_pages({}, capacity=50_000.0), Unknown)
    missing = Unknown(UnknownReason.NOT_MEASURED, "no capacity")
    assert predict_from_pages({"a": [page(0.0, 1.0, 1.0)]}, capacity=missing) is missing
