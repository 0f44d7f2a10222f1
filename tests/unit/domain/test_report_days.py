"""Which days are replayed: all of them where the work allows it, else the telling ones; and what a cut changes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from optiinfra.domain.report import scaling
from optiinfra.domain.report.days import (
    LEAD_DAYS,
    SPAN_DAYS,
    WORK_S,
    Days,
    Stretch,
    chosen,
    work_s,
)
from optiinfra.domain.report.making import prepare
from optiinfra.domain.report.scaling import Case, play, syncs_of
from tests.unit.domain import report_fleet as fleet

STEP_S = 300.0
DAY = 288
END = 1_795_305_600.0
"""2026-11-22, a Sunday, 00:00 UTC."""


def times_of(days):
    return END - STEP_S * np.arange(round(days * DAY) - 1, -1, -1.0)


def models_for(stretches):
    """The most models of which so many stretches may be played."""
    length_s = (SPAN_DAYS + LEAD_DAYS) * 86_400.0
    return max(number for number in range(1, 2_000) if work_s(number, stretches, length_s=length_s) <= WORK_S)


def taken(days, models, *, busy=None, **changed):
    times = times_of(days)
    busy = np.ones(len(times)) if busy is None else busy
    return chosen(times, busy, step_s=STEP_S, models=models, **changed)


def test_a_fleet_of_forty_models_is_replayed_on_all_of_its_fourteen_days():
    found = taken(14, 40)
    assert found.counted.all()
    assert found.words == "all 14.0 days"
    assert found.newest == slice(0, 14 * DAY)
    assert found.length == (SPAN_DAYS + LEAD_DAYS) * DAY


def test_of_a_large_fleet_the_newest_the_busiest_and_a_weekend_are_replayed_and_named():
    busy = np.ones(14 * DAY)
    busy[5 * DAY + 7] = 9.0
    models = models_for(2)
    found = taken(14, models, busy=busy)
    counted = found.counted
    assert counted[-2 * DAY :].all()
    assert counted[5 * DAY + 7]
    assert not counted.all()
    assert work_s(models, len(found.stretches), length_s=found.length * STEP_S) <= WORK_S
    assert found.words.startswith(f"{counted.sum() / DAY:.1f} of 14.0 days: ")
    assert "11-20 00:00 to 11-22 00:00 (the newest)" in found.words
    assert "11-12 00:00 to 11-14 00:00 (the busiest)" in found.words


def test_a_weekend_is_among_the_chosen_where_the_newest_days_are_none():
    shift = 3 * DAY
    times = times_of(14) - shift * STEP_S
    found = chosen(times, np.ones(len(times)), step_s=STEP_S, models=models_for(3))
    starts = {one.counts for one in found.stretches}
    assert len(found.stretches) == 3
    assert len(times) - 2 * DAY in starts
    assert len(times) - 4 * DAY in starts or len(times) - 6 * DAY in starts


def test_a_fleet_beyond_all_measure_is_replayed_on_its_newest_days_only():
    found = taken(14, 5_000)
    assert found.stretches == (Stretch(12 * DAY - round(LEAD_DAYS * DAY), 12 * DAY, 14 * DAY),)


def test_days_that_are_asked_for_are_replayed_whatever_they_take():
    found = taken(14, 5_000, newest_days=5.0)
    assert found.counted.sum() == 5 * DAY
    assert found.counted[-5 * DAY :].all()
    assert found.words == "the newest 5.0 of 14.0 days"
    assert taken(14, 3, newest_days=40.0).words == "all 14.0 days"


def test_a_window_without_points_has_no_days():
    found = chosen(np.zeros(0), np.zeros(0), step_s=0.0, models=0)
    assert found.stretches == ()
    assert found.length == 0
    assert found.newest == slice(0, 0)


@settings(max_examples=60, deadline=None)
@given(
    days=some.floats(0.01, 40.0),
    models=some.integers(0, 1_000),
    newest=some.none() | some.floats(0.1, 40.0),
    lead=some.sampled_from([0.0, 0.5, 1.0]),
    seed=some.integers(0, 99),
)
def test_stretches_lie_in_the_window_and_count_nothing_twice(days, models, newest, lead, seed):
    times = times_of(days)
    busy = np.random.default_rng(seed).random(len(times))
    found = chosen(times, busy, step_s=STEP_S, models=models, newest_days=newest, lead_days=lead)
    end = 0
    for one in found.stretches:
        assert 0 <= one.begin <= one.counts < one.end <= len(times)
        assert one.counts >= end
        assert one.end - one.counts <= SPAN_DAYS * DAY
        end = one.end
    assert not len(times) or end == len(times)
    fits = work_s(models, len(found.stretches), length_s=found.length * STEP_S) <= WORK_S
    assert newest is not None or fits or len(found.stretches) == 1


# ---- what a cut changes


def case(load, days, *, ran=6.0):
    return Case(
        key="one",
        load=load,
        ran=np.full(len(load), ran),
        step_s=STEP_S,
        start_up_s=120.0,
        minimum=1,
        maximum=12,
        late_after_s=10.0,
        late_share=0.01,
        days=days,
    )


def test_stretches_count_what_lies_in_them_and_nothing_of_their_lead():
    points = 72
    load = 2.0 + np.sin(np.arange(points) / 12.0)
    cut = Days(points, (Stretch(0, 12, 36), Stretch(36, 48, 72)), "")
    (found,) = play([case(load, cut)])
    assert np.isfinite(found.ours).tolist() == cut.counted.tolist()
    assert syncs_of([case(load, cut)]) == 36 * 20
    # A load that is over before anything counts leaves no late work behind.
    early = np.where(np.arange(points) < 3, 40.0, 0.5)
    (calm,) = play([case(early, Days(points, (Stretch(0, 36, 72),), ""))])
    assert calm.lateness.late_share == 0.0


def test_a_cut_window_comes_to_what_the_whole_one_does():
    points = 96
    load = 3.0 + 1.5 * np.sin(np.arange(points) / 15.0)
    whole = Days(points, (Stretch(0, 24, 96),), "")
    cut = Days(points, (Stretch(0, 24, 60), Stretch(36, 60, 96)), "")
    (one,), (other,) = play([case(load, whole)]), play([case(load, cut)])
    assert np.nansum(other.ours) == pytest.approx(np.nansum(one.ours), rel=0.03)
    assert other.lateness.late_share == pytest.approx(one.lateness.late_share, abs=0.005)


def test_more_than_fit_together_are_played_one_batch_after_the_other(monkeypatch):
    load = 2.0 + np.sin(np.arange(24) / 5.0)
    cut = Days(24, (Stretch(0, 0, 12), Stretch(0, 12, 24)), "")
    cases = [case(load * scale, cut) for scale in (1.0, 1.2, 1.4)]
    together = play(cases)
    monkeypatch.setattr(scaling, "ROWS_AT_ONCE", 4)
    told = []
    apart = play(cases, on_sync=told.append)
    assert told == list(range(syncs_of(cases)))
    assert len(told) == 2 * 24 * 20
    assert [one.ours.tolist() for one in apart] == [one.ours.tolist() for one in together]
    assert [one.lateness for one in apart] == [one.lateness for one in together]


def test_the_report_says_which_days_were_replayed():
    history = fleet.fleet(1.1)
    prepared = prepare(history, fleet.options())
    assert prepared.days.words == "the newest 0.2 of 1.1 days"
    assert prepare(history, fleet.options(replay_days=None)).days.words == "all 1.1 days"
