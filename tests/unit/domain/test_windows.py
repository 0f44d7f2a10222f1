"""Differences over a window: restarts, engines that a page adds up, arrivals, and how replicas join."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optiinfra.domain.aggregation import RULES, Across, Over
from optiinfra.domain.readings import EngineKind, EngineReading, Histogram, Signal, Unknown, UnknownReason
from optiinfra.domain.signals import summarise
from optiinfra.domain.windows import Window, growths, increase
from tests.unit.engines.recorded import BATCH_BOUND, MEMORY_BOUND, readings

S = Signal
BOUNDS = (1.0, 2.0, math.inf)


def page(time, *, gauges=None, counters=None, histograms=None, members=()):
    return EngineReading(
        time=time, engine=EngineKind.VLLM, version="", model="m", gauges=gauges or {}, counters=counters or {},
        histograms=histograms or {}, members=members,
    )  # fmt: skip


def summary(pages, *, now=None, stale_after=1000.0):
    last = max(one.time for series in pages.values() for one in series)
    return summarise(
        pages, now=last if now is None else now, window=1000.0, stale_after=stale_after, replicas_expected=len(pages)
    )


def flow(time, *, finished, running=0.0, waiting=0.0, members=()):
    return page(
        time, gauges={S.REQUESTS_RUNNING: running, S.REQUESTS_WAITING: waiting},
        counters={S.REQUESTS_FINISHED: finished}, members=members,
    )  # fmt: skip


def histogram(*counts, total=0.0, bounds=BOUNDS):
    return Histogram(bounds, tuple(map(float, counts)), total, float(counts[-1]))


# ---- arrivals


def test_arrivals_are_those_that_left_and_the_change_of_those_inside():
    pages = [flow(0.0, finished=1000, running=2, waiting=0), flow(10.0, finished=1020, running=8, waiting=4)]
    assert summary({"a": pages}).arrival_rate == pytest.approx(3.0)
    # Offered more than is served: requests that finish say less.
    assert summary({"a": pages}).request_rate == pytest.approx(2.0)


def test_arrivals_while_a_queue_drains():
    pages = [flow(0.0, finished=0, running=8, waiting=40), flow(10.0, finished=50, running=0, waiting=0)]
    assert summary({"a": pages}).arrival_rate == pytest.approx(0.2)


def test_whoever_is_inside_after_a_restart_came_in_since():
    pages = [flow(0.0, finished=500, running=9, waiting=30), flow(10.0, finished=4, running=3, waiting=0)]
    assert summary({"a": pages}).arrival_rate == pytest.approx(0.7)


def test_a_request_between_counter_and_gauge_is_no_negative_arrival():
    pages = [flow(0.0, finished=10, running=3), flow(10.0, finished=12, running=0)]
    assert summary({"a": pages}).arrival_rate == 0.0


def test_arrivals_need_two_pages_and_the_counter():
    assert summary({"a": [flow(0.0, finished=1)]}).arrival_rate.reason is UnknownReason.TOO_FEW_SAMPLES
    bare = [page(at, gauges={S.REQUESTS_RUNNING: 1, S.REQUESTS_WAITING: 0}) for at in (0.0, 9.0)]
    assert summary({"a": bare}).arrival_rate.reason is UnknownReason.NOT_MEASURED


def test_arrivals_of_recorded_saturation_are_what_was_offered():
    # 24 clients in a closed loop: as many come in as leave, once all of them are inside.
    pages = [one for one in readings(BATCH_BOUND) if one.gauges[S.REQUESTS_WAITING] >= 15]
    signals = summary({"a": pages})
    assert signals.arrival_rate == pytest.approx(signals.request_rate, rel=0.15)


# ---- pages that add several engines up


def test_one_engine_of_several_that_restarted_does_not_count_the_lifetimes_of_the_others():
    both = ("0", "1")
    pages = [
        page(10.0 * index, counters={S.GENERATION_TOKENS: value}, members=both)
        # A million each; then one of them starts anew.
        for index, value in enumerate((2_000_000, 2_000_300, 1_000_200, 1_000_500))
    ]
    assert summary({"a": pages}).generation_token_rate == pytest.approx(600 / 30)


def test_a_worker_that_takes_the_place_of_another_does_not_count_its_lifetime():
    pages = [
        page(0.0, counters={S.GENERATION_TOKENS: 1000}, members=("a", "b")),
        page(10.0, counters={S.GENERATION_TOKENS: 9000}, members=("a", "c")),
        page(20.0, counters={S.GENERATION_TOKENS: 9500}, members=("a", "c")),
    ]
    assert summary({"ray": pages}).generation_token_rate == pytest.approx(500 / 20)


def test_histograms_of_several_engines_count_no_lifetime_either():
    both = ("0", "1")
    series = (
        histogram(1000, 1000, 1000),
        histogram(1000, 1010, 1010),
        histogram(500, 505, 505),
        histogram(500, 525, 525),
    )
    pages = [
        page(10.0 * index, histograms={S.TIME_TO_FIRST_TOKEN: one}, members=both) for index, one in enumerate(series)
    ]
    assert summary({"a": pages}).time_to_first_token_p50 == pytest.approx(1.5)
    # One engine alone that falls was restarted, and counts from zero.
    alone = [page(one.time, histograms=one.histograms) for one in pages]
    assert summary({"a": alone}).time_to_first_token_p50 < 1.0


def test_arrivals_of_several_engines_skip_the_step_across_a_restart():
    both = ("0", "1")
    pages = [
        flow(0.0, finished=1000, members=both), flow(10.0, finished=600, members=both),
        flow(20.0, finished=640, members=both),
    ]  # fmt: skip
    assert summary({"a": pages}).arrival_rate == pytest.approx(2.0)


# ---- the quick way says what the careful one says

COUNTS = st.lists(st.integers(0, 5), min_size=2, max_size=9)


@given(COUNTS, COUNTS, st.lists(st.booleans(), min_size=9, max_size=9))
def test_differences_from_the_ends_are_those_of_every_step(tokens, requests, restarts):
    pages, done, ended = [], 0.0, 0.0
    for index, (more, others) in enumerate(zip(tokens, requests, strict=False)):
        done, ended = (0.0, 0.0) if restarts[index] and index else (done, ended)
        done, ended = done + more, ended + others
        observed = histogram(ended / 2, ended, ended, total=ended)
        counters = {S.GENERATION_TOKENS: done, S.REQUESTS_FINISHED: ended}
        pages.append(page(float(index), counters=counters, histograms={S.QUEUE_TIME: observed}))
    window = Window.of({"a": pages}, now=99.0, window=100.0, stale_after=100.0)
    for signal in (S.GENERATION_TOKENS, S.REQUESTS_FINISHED, S.PREEMPTIONS):
        assert window._increase("a", signal) == increase(pages, signal)
    quick, careful = window._grown_of("a", S.QUEUE_TIME), growths(pages, S.QUEUE_TIME)
    if window._is_whole("a"):
        assert sum(part.count for part in quick) == sum(part.count for part in careful)
        assert sum(part.total for part in quick) == sum(part.total for part in careful)
    else:
        assert quick == careful


@pytest.mark.parametrize("name", [BATCH_BOUND, MEMORY_BOUND])
def test_recorded_windows_are_whole_and_agree_with_every_step(name):
    pages = readings(name)[5:60]
    window = Window.of({"a": pages}, now=pages[-1].time, window=1e6, stale_after=1e6)
    assert window._is_whole("a")
    for signal in pages[0].counters:
        assert window._increase("a", signal) == pytest.approx(increase(pages, signal))
    for signal in pages[0].histograms:
        ours, theirs = window._grown_of("a", signal), growths(pages, signal)
        assert [part.cumulative for part in ours] == [part.cumulative for part in theirs]


# ---- every rule joins replicas as it says

JOINED = {Across.SUM: 8.0, Across.LARGEST: 6.0, Across.SMALLEST: 2.0, Across.MEAN: 4.0}
NOW = [name for name, rule in RULES.items() if rule.over is Over.NEWEST]
RATES = [
    name for name, rule in RULES.items()
    if rule.over is Over.GROWTH and rule.across is not Across.POOLED and len(rule.signals) == 1 and name != "step_rate"
]  # fmt: skip
POOLED = [name for name, rule in RULES.items() if rule.across is Across.POOLED and rule.over is Over.GROWTH]


@pytest.mark.parametrize("name", NOW)
def test_newest_values_join_as_their_rule_says(name):
    rule = RULES[name]
    pages = {"a": [page(0.0, gauges={rule.signals[0]: 2.0})], "b": [page(0.0, gauges={rule.signals[0]: 6.0})]}
    assert getattr(summary(pages), name) == JOINED[rule.across]
    # One that does not say makes the whole unknown, not smaller.
    pages["c"] = [page(0.0, gauges={S.PREFIX_CACHE_HIT_RATIO: 1.0})]
    assert isinstance(getattr(summary(pages), name), Unknown)


@pytest.mark.parametrize("name", RATES)
def test_rates_join_as_their_rule_says(name):
    rule = RULES[name]

    def counting(step):
        return [page(10.0 * index, counters={rule.signals[0]: 1e6 + step * 10.0 * index}) for index in range(3)]

    assert getattr(summary({"a": counting(2.0), "b": counting(6.0)}), name) == pytest.approx(JOINED[rule.across])


@pytest.mark.parametrize("name", [name for name in POOLED if len(RULES[name].signals) == 1])
def test_what_is_pooled_weighs_by_what_was_observed(name):
    signal = RULES[name].signals[0]

    def observing(count, bucket, total):
        counts = [0.0 if index < bucket else count for index in range(3)]
        return [
            page(0.0, histograms={signal: histogram(0, 0, 0)}),
            page(9.0, histograms={signal: histogram(*counts, total=total)}),
        ]

    # A thousand observations of 0.5 beside ten of 1.5: the busy replica decides.
    value = getattr(summary({"a": observing(1000.0, 0, 500.0), "b": observing(10.0, 1, 15.0)}), name)
    assert value < 1.0


@pytest.mark.parametrize("name", [name for name in POOLED if len(RULES[name].signals) == 2])
def test_ratios_are_of_pooled_counts(name):
    part, whole = RULES[name].signals

    def counting(hits, queries):
        return [page(0.0, counters={part: 0.0, whole: 0.0}), page(9.0, counters={part: hits, whole: queries})]

    assert getattr(summary({"a": counting(90.0, 100.0), "b": counting(0.0, 900.0)}), name) == pytest.approx(0.09)


def test_steps_are_counted_a_replica():
    def stepping(rate):
        return [
            page(10.0 * index, histograms={S.STEP_TOKENS: histogram(0, 0, rate * 10.0 * index, total=40.0 * index)})
            for index in range(3)
        ]

    signals = summary({"a": stepping(2.0), "b": stepping(6.0)})
    assert signals.step_rate == pytest.approx(4.0)
    assert signals.step_tokens_mean == pytest.approx(160.0 / 160.0)


def test_running_is_the_mean_of_replicas_not_of_pages():
    many = [page(float(index), gauges={S.REQUESTS_RUNNING: 2.0}) for index in range(9)]
    assert summary({"a": many, "b": [page(8.0, gauges={S.REQUESTS_RUNNING: 6.0})]}).running_mean == pytest.approx(4.0)


def test_shares_of_how_requests_ended():
    pages = [
        page(0.0, counters={S.REQUESTS_FINISHED: 100, S.REQUESTS_FINISHED_BY_LENGTH: 90, S.REQUESTS_ABORTED: 4}),
        page(10.0, counters={S.REQUESTS_FINISHED: 120, S.REQUESTS_FINISHED_BY_LENGTH: 95, S.REQUESTS_ABORTED: 9}),
    ]
    signals = summary({"a": pages})
    assert signals.length_share == pytest.approx(0.25)
    assert signals.abort_rate == pytest.approx(0.5)
    assert isinstance(signals.failure_rate, Unknown)
