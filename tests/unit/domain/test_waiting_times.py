"""Quantiles of durations of which some have not ended: closed forms, and what more waiting must never do."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.waiting_times import quantiles, spread

DURATIONS = st.lists(st.integers(0, 4000).map(float), max_size=40)
SOME = st.lists(st.integers(0, 4000).map(float), min_size=1, max_size=40)
SHARES = (0.5, 0.95)


def both(ended, waiting=()):
    return quantiles(ended, waiting, shares=SHARES)


def test_nothing_that_ended_is_unknown_and_says_what_waits():
    found = spread([], [40.0, 50.0], what="a pod that became ready")
    assert found.p50 == Unknown(UnknownReason.TOO_FEW_SAMPLES, "a pod that became ready was not seen; 2 still to come")
    assert found.p95 == found.p50
    assert (found.samples, found.waiting, found.at_least) == (0, 2, True)
    assert spread([], [], what="it").p50 == Unknown(UnknownReason.TOO_FEW_SAMPLES, "it was not seen")


@pytest.mark.parametrize("count", range(1, 20))
def test_p95_of_few_is_the_longest(count):
    found = spread([float(n) for n in range(1, count + 1)], [], what="")
    assert found.p95 == count
    assert found.p50 == math.ceil(count / 2)
    assert found.samples == count
    assert not found.at_least


def test_p95_of_twenty_is_the_nineteenth():
    assert both([float(n) for n in range(1, 21)]) == [(10.0, False), (19.0, False)]


def test_the_estimator_of_kaplan_and_meier_in_closed_form():
    # Survival after 100: 3/4; after 110: 3/4 x 2/3 = 1/2; after 120: 1/4, and nobody knows beyond the one of 500.
    assert both([100.0, 110.0, 120.0], [500.0]) == [(110.0, False), (500.0, True)]
    # Freireich's 6-MP patients (1963), the textbook example: median 23 weeks, of 21 of whom 12 were still well.
    ended = [6.0, 6, 6, 7, 10, 13, 16, 22, 23]
    waiting = [6.0, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35]
    assert both(ended, waiting) == [(23.0, False), (35.0, True)]


@given(SOME)
def test_a_wait_that_has_just_begun_says_nothing(ended):
    assert both(ended, [min(ended) - 2.0, min(ended) - 1.0]) == both(ended)


@given(SOME)
def test_without_waits_it_is_the_nearest_rank(ended):
    ordered = sorted(ended)
    ranks = [ordered[math.ceil(share * len(ordered) - 1e-9) - 1] for share in SHARES]
    assert both(ended) == [(rank, False) for rank in ranks]


@given(SOME, DURATIONS, st.integers(0, 4000).map(float))
def test_one_more_wait_never_shortens(ended, waiting, more):
    for (before, _), (after, _) in zip(both(ended, waiting), both(ended, [*waiting, more]), strict=True):
        assert after >= before


@given(SOME, SOME, st.integers(0, 4000).map(float))
def test_waiting_longer_never_shortens(ended, waiting, longer):
    grown = [waiting[0] + longer, *waiting[1:]]
    for (before, _), (after, _) in zip(both(ended, waiting), both(ended, grown), strict=True):
        assert after >= before


@given(SOME, DURATIONS)
def test_it_is_ordered_bounded_and_indifferent_to_order(ended, waiting):
    (middle, _), (high, at_least) = both(ended, waiting)
    assert min(ended) <= middle <= high <= max([*ended, *waiting])
    assert both(ended[::-1], waiting[::-1]) == both(ended, waiting)
    assert not at_least or high == max(waiting)
