"""Verdicts that settle: single windows, page by page, and made up by hypothesis."""

from dataclasses import replace
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from optiinfra.cli.analyze_series import Series
from optiinfra.domain.diagnosis import Diagnosis
from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.evidence import Bottleneck
from optiinfra.domain.readings import Signal
from optiinfra.domain.surroundings import Surroundings
from optiinfra.domain.verdicts import settle
from tests.unit.domain.made_up import UNKNOWN
from tests.unit.engines.recorded import BATCH_BOUND, MEMORY_BOUND, readings

CLASSES = list(Bottleneck)


def verdict(bottleneck, *, provisional=False):
    return Diagnosis(bottleneck, 0.8, "Reason", "Message.", (), UNKNOWN, "", None, provisional)


def settled(classes, memory=None):
    """The verdicts that hold, window by window."""
    found = []
    for at, bottleneck in enumerate(classes):
        memory = settle(memory, verdict(bottleneck), now=float(at))
        found.append(memory.diagnosis.bottleneck)
    return found


def test_the_first_window_is_a_verdict():
    assert settled([Bottleneck.BATCH]) == [Bottleneck.BATCH]


def test_a_lasting_change_shows_on_its_second_window_with_the_time_of_its_first():
    memory = None
    for at in range(10):
        memory = settle(memory, verdict(Bottleneck.HEALTHY if at < 8 else Bottleneck.BATCH), now=float(at))
    assert memory.diagnosis.bottleneck is Bottleneck.BATCH
    assert memory.since == 8.0


def test_the_class_just_left_comes_back_on_its_third_window():
    healthy, batch = Bottleneck.HEALTHY, Bottleneck.BATCH
    found = settled([healthy, healthy, batch, batch, healthy, healthy, healthy])
    assert found == [healthy] * 3 + [batch] * 3 + [healthy]


def test_pairs_at_the_edge_of_two_classes_change_nothing_for_long():
    pairs = ([Bottleneck.BATCH] * 2 + [Bottleneck.KV_CACHE] * 2) * 20
    found = settled(pairs)
    changes = sum(one is not other for one, other in pairwise(found))
    assert changes <= len(pairs) / 6


def test_confidence_falls_while_windows_disagree_and_returns_when_they_agree():
    memory = settle(None, verdict(Bottleneck.BATCH), now=0.0)
    doubted = settle(memory, verdict(Bottleneck.QUEUE), now=1.0)
    assert doubted.diagnosis.confidence < memory.diagnosis.confidence
    assert settle(doubted, verdict(Bottleneck.BATCH), now=2.0).diagnosis.confidence == 0.8


def test_what_rests_on_one_page_gives_way_at_once():
    memory = settle(None, verdict(Bottleneck.HEALTHY, provisional=True), now=0.0)
    assert settle(memory, verdict(Bottleneck.HOST), now=1.0).diagnosis.bottleneck is Bottleneck.HOST


@given(some.sampled_from(CLASSES), some.sampled_from(CLASSES), some.integers(2, 12), some.integers(2, 12))
def test_a_single_outlier_never_changes_the_verdict(regime, outlier, before, after):
    assert set(settled([regime] * before + [outlier] + [regime] * after)) == {regime}


@given(some.lists(some.tuples(some.sampled_from(CLASSES), some.integers(1, 8)), min_size=1, max_size=8))
def test_outliers_apart_never_change_the_verdict(outliers):
    classes = [Bottleneck.HEALTHY]
    for bottleneck, calm in outliers:
        classes += [bottleneck, *[Bottleneck.HEALTHY] * (calm + 2)]
    assert set(settled(classes)) == {Bottleneck.HEALTHY}


@given(some.lists(some.sampled_from(CLASSES), max_size=12), some.sampled_from(CLASSES))
def test_whatever_came_before_three_windows_in_a_row_are_a_verdict(noise, regime):
    assert settled([*noise, regime, regime, regime])[-1] is regime


# ---- page by page: gauges of one scrape that are far from the others


@cache
def calm(name, first, last):
    return series_over(readings(name)[first:last])


def series_over(pages):
    series = Series(interval=1.0, settings=lambda _: EngineSettings())
    found = []
    for reading in pages:
        series.add("a", reading)
        found.append(series.judge(now=reading.time, surroundings=Surroundings()).settled.bottleneck)
    return found


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [(BATCH_BOUND, 37, 60), (BATCH_BOUND, 80, 103), (MEMORY_BOUND, 37, 59)],
)
@settings(deadline=None, max_examples=12)
@given(
    at=some.integers(8, 18),
    running=some.integers(0, 64),
    waiting=some.integers(0, 200),
    usage=some.floats(0.0, 1.0),
)
def test_one_odd_page_changes_no_verdict_on_recorded_pages(name, first, last, at, running, waiting, usage):
    pages = list(readings(name)[first:last])
    odd = pages[at]
    gauges = {Signal.REQUESTS_RUNNING: float(running), Signal.REQUESTS_WAITING: float(waiting)}
    pages[at] = replace(odd, gauges={**odd.gauges, **gauges, Signal.KV_CACHE_USAGE: usage})
    assert series_over(pages) == calm(name, first, last)
