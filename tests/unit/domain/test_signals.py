"""Pages to signals: differences, restarts, churn, quantiles, and what nobody said."""

import math

import pytest

from optiinfra.domain import quantiles
from optiinfra.domain.readings import EngineKind, EngineReading, Histogram, Signal, Unknown, UnknownReason
from optiinfra.domain.signals import summarise
from tests.unit.engines.recorded import BATCH_BOUND, MEMORY_BOUND, readings

S = Signal


def page(time, *, gauges=None, counters=None, histograms=None):
    return EngineReading(
        time=time,
        engine=EngineKind.VLLM,
        version="",
        model="m",
        gauges=gauges or {},
        counters=counters or {},
        histograms=histograms or {},
    )


def join(pages, *, now=100.0, window=900.0, stale_after=60.0, expected=None):
    return summarise(
        pages,
        now=now,
        window=window,
        stale_after=stale_after,
        replicas_expected=len(pages) if expected is None else expected,
    )


def counting(*values, signal=S.GENERATION_TOKENS, step=10.0, start=0.0):
    return [page(start + step * index, counters={signal: value}) for index, value in enumerate(values)]


def test_rates_come_from_differences_not_from_lifetimes():
    signals = join({"a": counting(1_000_000, 1_000_300, 1_000_600)}, now=20.0)
    assert signals.generation_token_rate == 30.0
    assert signals.window == 20.0


def test_a_counter_that_went_down_was_restarted_and_counts_from_zero():
    assert join({"a": counting(500, 600, 40, 140)}, now=30.0).generation_token_rate == pytest.approx(240 / 30)


def test_replicas_add_up_over_the_span_of_all():
    signals = join({"a": counting(0, 100, 200), "b": counting(7, 17, start=10.0)}, now=20.0)
    assert signals.generation_token_rate == pytest.approx(210 / 20)


def test_what_a_replica_served_before_it_left_counts_but_it_does_not_report():
    pages = {"gone": counting(0, 600), "here": counting(0, 0, 0, step=50.0)}
    signals = join(pages, now=100.0, stale_after=30.0, expected=1)
    assert signals.generation_token_rate == 6.0
    assert signals.replicas_reporting == 1
    assert signals.replicas_expected == 1


def test_a_rate_needs_two_pages():
    rate = join({"a": counting(5)}, now=0.0).generation_token_rate
    assert isinstance(rate, Unknown)
    assert rate.reason is UnknownReason.TOO_FEW_SAMPLES


def test_a_replica_without_the_counter_makes_the_rate_unknown_not_smaller():
    pages = {"a": counting(0, 100), "b": counting(0, 5, signal=S.PROMPT_TOKENS)}
    signals = join(pages, now=10.0)
    assert isinstance(signals.generation_token_rate, Unknown)
    assert isinstance(signals.work_rate, Unknown)


def test_work_weighs_generated_tokens():
    pages = [
        page(0.0, counters={S.PROMPT_TOKENS: 0, S.GENERATION_TOKENS: 0}),
        page(10.0, counters={S.PROMPT_TOKENS: 100, S.GENERATION_TOKENS: 50}),
    ]
    assert join({"a": pages}, now=10.0).work_rate == pytest.approx(10 + 4 * 5)


def test_nothing_at_all_is_unknown_everywhere():
    signals = join({}, expected=3)
    assert signals.replicas_reporting == 0
    assert signals.window == 0.0
    values = [getattr(signals, name) for name in signals.__dataclass_fields__ if name not in {"time", "window"}]
    assert all(isinstance(value, (Unknown, int)) for value in values)


def test_a_stale_replica_does_not_report_and_its_last_value_is_not_kept():
    pages = {"a": [page(0.0, gauges={S.REQUESTS_RUNNING: 9.0, S.REQUESTS_WAITING: 4.0})]}
    signals = join(pages, now=100.0, stale_after=30.0)
    assert signals.replicas_reporting == 0
    assert isinstance(signals.running, Unknown)
    assert signals.running.reason is UnknownReason.STALE


def test_gauges_sum_or_take_the_fullest():
    pages = {
        "a": [page(90.0, gauges={S.REQUESTS_RUNNING: 2, S.KV_CACHE_USAGE: 0.2, S.KV_CACHE_CAPACITY_TOKENS: 100})],
        "b": [page(95.0, gauges={S.REQUESTS_RUNNING: 6, S.KV_CACHE_USAGE: 0.8, S.KV_CACHE_CAPACITY_TOKENS: 80})],
    }
    signals = join(pages)
    assert signals.running == 8.0
    assert signals.kv_cache_usage == 0.8
    assert signals.kv_cache_usage_mean == 0.5
    assert signals.kv_cache_capacity_tokens == 80.0


def test_one_replica_that_cannot_say_makes_the_sum_unknown():
    pages = {"a": [page(90.0, gauges={S.REQUESTS_WAITING: 2})], "b": [page(90.0, gauges={S.REQUESTS_RUNNING: 1})]}
    assert isinstance(join(pages).waiting, Unknown)


def test_pages_out_of_order_and_outside_the_window():
    pages = [page(time, gauges={S.REQUESTS_WAITING: time}) for time in (90.0, 10.0, 50.0, 150.0)]
    signals = join({"a": pages}, now=100.0, window=60.0)
    assert signals.waiting == 90.0
    assert signals.window == 40.0


def test_the_largest_sum_is_over_replicas_at_one_time():
    pages = {
        "a": [page(time, gauges={S.REQUESTS_WAITING: value}) for time, value in ((0, 9), (10, 0), (20, 0))],
        "b": [page(time, gauges={S.REQUESTS_WAITING: value}) for time, value in ((1, 0), (11, 0), (21, 7))],
    }
    assert join(pages, now=21.0).waiting_max == 9.0


def test_a_replica_that_left_is_not_held_beyond_staleness():
    pages = {
        "a": [page(0.0, gauges={S.REQUESTS_RUNNING: 8})],
        "b": [page(time, gauges={S.REQUESTS_RUNNING: value}) for time, value in ((0.0, 1), (90.0, 5))],
    }
    assert join(pages, stale_after=30.0).running_max == 9.0
    assert join(pages, window=50.0, stale_after=30.0).running_max == 5.0


def test_slope_is_per_replica_so_that_joining_is_not_a_rise():
    steady = {S.REQUESTS_WAITING: 5}
    pages = {
        "old": [page(time, gauges=steady) for time in (0.0, 50.0, 100.0)],
        "new": [page(time, gauges=steady) for time in (80.0, 90.0, 100.0)],
    }
    assert join(pages).waiting_slope == pytest.approx(0.0)
    rising = {"a": [page(time, gauges={S.REQUESTS_WAITING: 2 * time}) for time in (0.0, 10.0, 20.0)]}
    assert join(rising, now=20.0).waiting_slope == pytest.approx(2.0)


def test_shares_of_pages():
    pages = [
        page(time, gauges={S.REQUESTS_RUNNING: time > 50, S.REQUESTS_WAITING: time > 90}) for time in range(0, 101, 10)
    ]
    signals = join({"a": pages})
    assert signals.busy_share == pytest.approx(5 / 11)
    assert signals.waiting_share == pytest.approx(1 / 11)


def test_prefix_hits_are_a_ratio_of_differences():
    pages = [
        page(0.0, counters={S.PREFIX_CACHE_HITS: 900, S.PREFIX_CACHE_QUERIES: 1000}),
        page(10.0, counters={S.PREFIX_CACHE_HITS: 910, S.PREFIX_CACHE_QUERIES: 1100}),
    ]
    assert join({"a": pages}, now=10.0).prefix_hit_ratio == pytest.approx(0.1)
    assert isinstance(join({"a": [pages[0], pages[0]]}, now=10.0).prefix_hit_ratio, Unknown)


def test_prefix_hits_by_the_engines_own_ratio_where_it_has_no_counters():
    pages = {"a": [page(95.0, gauges={S.PREFIX_CACHE_HIT_RATIO: 0.3})]}
    assert join(pages).prefix_hit_ratio == 0.3


def histogram(*counts, bounds=(1.0, 2.0, math.inf), total=0.0):
    return Histogram(bounds, tuple(map(float, counts)), total, float(counts[-1]))


def timed(*histograms, signal=S.TIME_TO_FIRST_TOKEN):
    return [page(10.0 * index, histograms={signal: one}) for index, one in enumerate(histograms)]


def test_a_quantile_is_of_the_growth_and_straight_within_a_bucket():
    signals = join({"a": timed(histogram(1000, 1000, 1000), histogram(1000, 1100, 1100))}, now=10.0)
    assert signals.time_to_first_token_p95 == pytest.approx(1.95)


def test_a_quantile_across_a_restart():
    series = timed(histogram(50, 50, 50), histogram(60, 60, 60), histogram(0, 10, 10))
    # Ten in the first bucket before it, ten in the second after it.
    assert join({"a": series}, now=20.0).time_to_first_token_p95 == pytest.approx(1.9)


def test_a_restart_that_only_the_buckets_show():
    series = timed(histogram(50, 50, 50, total=10.0), histogram(0, 60, 60, total=90.0))
    # All sixty are of the new process, none of the old.
    assert join({"a": series}, now=10.0).time_to_first_token_p95 == pytest.approx(1.95)


def test_replicas_with_other_bounds_join():
    pages = {
        "a": timed(histogram(0, 0, 0), histogram(10, 10, 10)),
        "b": timed(histogram(0, 0, bounds=(4.0, math.inf)), histogram(10, 10, bounds=(4.0, math.inf))),
    }
    assert join(pages, now=10.0).time_to_first_token_p95 == pytest.approx(3.6)


def test_above_the_largest_bound_it_is_that_bound():
    assert quantiles.quantile([histogram(0, 0, 10)], 0.95) == 2.0
    assert isinstance(quantiles.quantile([histogram(10, bounds=(math.inf,))], 0.95), Unknown)


def test_no_observation_in_the_window_is_unknown():
    p95 = join({"a": timed(histogram(5, 5, 5), histogram(5, 5, 5))}, now=10.0).time_to_first_token_p95
    assert isinstance(p95, Unknown)
    assert p95.reason is UnknownReason.TOO_FEW_SAMPLES
    absent = join({"a": counting(1, 2)}, now=10.0).time_to_first_token_p95
    assert isinstance(absent, Unknown)
    assert absent.reason is UnknownReason.NOT_MEASURED


def test_quantiles_match_known_values():
    parts = [histogram(10, 20, 40, 40, bounds=(1.0, 2.0, 4.0, math.inf))]
    assert quantiles.quantile(parts, 0.25) == pytest.approx(1.0)
    assert quantiles.quantile(parts, 0.5) == pytest.approx(2.0)
    assert quantiles.quantile(parts, 0.75) == pytest.approx(3.0)
    assert quantiles.quantile(parts, 1.0) == pytest.approx(4.0)


def test_lengths_by_histogram_else_by_counters():
    series = timed(histogram(0, 0, 0), histogram(2, 4, 4, total=600.0), signal=S.REQUEST_PROMPT_TOKENS)
    assert join({"a": series}, now=10.0).prompt_tokens_mean == 150.0
    counters = [
        page(0.0, counters={S.PROMPT_TOKENS: 0, S.REQUESTS_FINISHED: 0}),
        page(10.0, counters={S.PROMPT_TOKENS: 900, S.REQUESTS_FINISHED: 3}),
    ]
    assert join({"a": counters}, now=10.0).prompt_tokens_mean == pytest.approx(300.0)
    assert isinstance(join({"a": [counters[0], counters[0]]}, now=10.0).prompt_tokens_mean, Unknown)


def test_the_longest_request_is_bounded_by_its_bucket():
    def pages(prompt, generation):
        empty = histogram(0, 0, 0, bounds=(100.0, 200.0, math.inf))
        return [
            page(0.0, histograms={S.REQUEST_PROMPT_TOKENS: empty, S.REQUEST_GENERATION_TOKENS: empty}),
            page(10.0, histograms={S.REQUEST_PROMPT_TOKENS: prompt, S.REQUEST_GENERATION_TOKENS: generation}),
        ]

    bounds = (100.0, 200.0, math.inf)
    short, long = histogram(5, 5, 5, bounds=bounds), histogram(5, 9, 9, bounds=bounds)
    assert join({"a": pages(short, long)}, now=10.0).request_tokens_highest == 300.0
    beyond = histogram(5, 9, 10, bounds=bounds)
    assert isinstance(join({"a": pages(short, beyond)}, now=10.0).request_tokens_highest, Unknown)


def test_recorded_saturation_by_batch_has_the_recorded_shape():
    pages = readings(BATCH_BOUND)[80:170]
    signals = join({"a": pages}, now=pages[-1].time)
    assert signals.waiting_max == 16.0
    assert signals.running_per_replica_max == 8.0
    assert 0.75 < signals.kv_cache_usage_max < 0.8
    assert 40 < signals.generation_token_rate < 55
    assert signals.preemption_rate == 0.0
    assert signals.waiting_slope < 0.0


def test_recorded_shortage_of_kv_cache_has_the_recorded_shape():
    pages = readings(MEMORY_BOUND)[36:]
    signals = join({"a": pages}, now=pages[-1].time)
    assert signals.kv_cache_usage_max == 1.0
    assert signals.preemption_rate > 0.0
    assert signals.running_per_replica_max == 9.0
    assert 40 < signals.generation_token_rate < 55
