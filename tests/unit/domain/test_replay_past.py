"""A recorded past: other steps, unknown ends and middles, and a replica's capacity learned from it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optiinfra.domain.history import Column, LoadHistory
from optiinfra.domain.readings import Unknown
from optiinfra.domain.replay.past import SERVICE_S, PastError, from_history, learned_capacity, recorded
from optiinfra.domain.units import Seconds

NAN = np.nan


def array(*values):
    return np.array(values, dtype=np.float64)


def same(got, *expected):
    assert np.array_equal(got, array(*expected), equal_nan=True), got


def test_longer_steps_are_repeated_and_what_is_missing_stays_missing():
    past = recorded(array(1, NAN, 3), step_s=15.0, ready=array(2, 2, NAN))
    same(past.work, 1, 1, 1, NAN, NAN, NAN, 3, 3, 3)
    same(past.ready, 2, 2, 2, 2, 2, 2, NAN, NAN, NAN)
    assert np.isnan(past.waiting).all()
    assert past.unknown_share == pytest.approx(1 / 3)


def test_shorter_steps_are_averaged_over_what_is_known():
    past = recorded(array(1, 3, NAN, 5, 5, NAN, NAN, NAN, NAN, NAN, 2, 2, 2, 2, 2), step_s=1.0)
    same(past.work, 3.5, NAN, 2)


def test_unknown_ends_are_cut_off_from_all_columns():
    past = recorded(array(NAN, NAN, 4, NAN, 4, NAN), step_s=5.0, ready=array(1, 2, 3, 4, 5, 6))
    same(past.work, 4, NAN, 4)
    same(past.ready, 3, 4, 5)


@pytest.mark.parametrize(
    ("work", "step", "said"),
    [
        (array(NAN, NAN), 5.0, "no load is known"),
        (array(NAN, 1.0, NAN), 5.0, "only 5 s of load are known"),
        (array(1.0, -1.0), 5.0, "work: there are negative"),
        (array(1.0, np.inf), 5.0, "work: there are negative or infinite"),
        (array(1.0, 1.0), 7.0, "a step of 7 s; it must be a multiple or a part of 5 s"),
        (np.ones(10), 1e6, "longer than 58 days"),
    ],
)
def test_what_cannot_be_replayed_is_named(work, step, said):
    with pytest.raises(PastError, match=said):
        recorded(work, step_s=step)


def history(points):
    kept = LoadHistory(step=Seconds(15.0))
    kept._data = np.full((len(Column), max(64, len(points))), NAN, dtype=np.float32)
    for at, (work, ready, waiting, running) in enumerate(points):
        kept._data[[Column.WORK_RATE, Column.READY, Column.WAITING, Column.RUNNING], at] = work, ready, waiting, running
    kept._end, kept._newest = len(points), 1000 + len(points)
    return kept


def test_a_history_gives_its_columns_with_its_gaps():
    past = from_history(history([(100, 2, 0, 3), (NAN, 2, NAN, NAN), (300, 2, 5, 9)]))
    same(past.work[::3], 100, NAN, 300)
    same(past.ready[::3], 2, 2, 2)
    same(past.waiting[::3], 0, NAN, 5)
    same(past.running[::3], 3, NAN, 9)


def test_an_empty_history_says_so():
    with pytest.raises(PastError, match="not yet seen at work"):
        from_history(LoadHistory())


def busy(ticks, *, waiting, rate=900.0, ready=3.0, running=24.0):
    ones = np.ones(ticks)
    return recorded(ones * rate, step_s=15.0, ready=ones * ready, waiting=ones * waiting, running=ones * running)


def test_a_queue_that_outlasts_its_ticks_shows_what_a_replica_serves():
    # As many wait as run: a queue of SERVICE_S seconds of work, more than half a tick.
    assert SERVICE_S > 7.5
    learned = learned_capacity(busy(20, waiting=24.0))
    assert learned.value == pytest.approx(300.0)


def test_a_short_queue_shows_only_a_lower_bound():
    for waiting in (0.0, 10.0):
        learned = learned_capacity(busy(60, waiting=waiting))
        assert isinstance(learned.value, Unknown)
        assert learned.at_least == pytest.approx(300.0, rel=0.01)
        assert "at least" in learned.value.detail


def test_two_minutes_of_queue_are_needed():
    assert isinstance(learned_capacity(busy(8, waiting=100.0)).value, Unknown)


@given(st.lists(st.tuples(*[st.one_of(st.just(NAN), st.floats(0, 1e4))] * 4), min_size=3, max_size=40))
def test_learning_never_makes_a_number_of_nothing(points):
    columns = np.array(points).T
    try:
        past = recorded(columns[0], step_s=15.0, ready=columns[1], waiting=columns[2], running=columns[3])
    except PastError:
        return
    learned = learned_capacity(past)
    assert np.isfinite(learned.at_least)
    assert isinstance(learned.value, Unknown) or learned.value >= learned.at_least > 0.0
    if np.isnan(past.ready).all():
        assert learned.at_least == 0.0


def test_the_share_of_waiting_is_of_the_time_in_which_it_is_known():
    ones = np.ones(4)
    past = recorded(ones, step_s=5.0, waiting=array(0, 2, NAN, NAN))
    assert past.waited_share == 0.5
    assert isinstance(recorded(ones, step_s=5.0).waited_share, Unknown)
