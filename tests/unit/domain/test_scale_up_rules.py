"""How fast an HPA adds replicas: its own formula, and the history that it rests on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optiinfra.domain.scale_up_rules import (
    USUAL_RULES,
    Look,
    RateKind,
    RatePolicy,
    ScaleUpRules,
    Select,
    highest,
    remember,
)
from optiinfra.domain.units import Seconds, UnixTime

START = 1_800_000_000.0


def pods(value: int, period: float = 60.0) -> RatePolicy:
    return RatePolicy(RateKind.PODS, value, Seconds(period))


def percent(value: int, period: float = 60.0) -> RatePolicy:
    return RatePolicy(RateKind.PERCENT, value, Seconds(period))


def look(at: float, replicas: int, needed: int = 100) -> Look:
    return Look(UnixTime(START + at), replicas, needed)


def most(rules: ScaleUpRules, *looks: Look, at: float, current: int) -> int:
    return highest(rules, looks, now=UnixTime(START + at), current=current)


@pytest.mark.parametrize(
    ("policies", "select", "current", "expected"),
    [
        ((pods(2),), Select.MAX, 5, 7),
        ((percent(50),), Select.MAX, 5, 8),  # 7.5 is rounded up: else a small service would never grow
        ((percent(10),), Select.MAX, 20, 22),
        ((pods(2), percent(100)), Select.MAX, 5, 10),
        ((pods(2), percent(100)), Select.MIN, 5, 7),
        ((pods(9),), Select.DISABLED, 5, 5),
        ((), Select.MAX, 5, 5),
    ],
)
def test_the_formula(policies, select, current, expected):
    assert most(ScaleUpRules(policies, select), look(-300, current), at=0, current=current) == expected


def test_what_nobody_wrote_is_kubernetes_own():
    assert most(USUAL_RULES, look(-60, 2), at=0, current=2) == 6
    assert most(USUAL_RULES, look(-60, 8), at=0, current=8) == 16


def test_what_rose_within_the_period_counts_against_it():
    rules = ScaleUpRules((pods(3, 60.0),))
    seen = (look(-90, 2), look(-30, 5))
    assert most(rules, *seen, at=0, current=5) == 5, "three were added 30 seconds ago"
    assert most(rules, *seen, at=31, current=5) == 8


def test_a_need_has_to_stand_for_the_stabilisation_window():
    rules = ScaleUpRules((pods(10, 15.0),), stabilization=Seconds(30.0))
    assert most(rules, look(-60, 2, 2), look(-20, 2, 9), at=0, current=2) == 2
    assert most(rules, look(-60, 2, 2), look(-31, 2, 9), at=0, current=2) == 9
    assert most(rules, look(-60, 2, 2), look(-31, 2, 9), look(-10, 2, 6), at=0, current=2) == 6


def test_it_never_asks_for_a_fall():
    assert most(ScaleUpRules((pods(1),)), look(-90, 2), look(-5, 9), at=0, current=9) == 9


def test_the_first_look_counts_as_the_need_of_before():
    rules = ScaleUpRules((pods(10),), stabilization=Seconds(30.0))
    looks = remember((), look(0, 2, 9), rules=rules)
    assert most(rules, *looks, at=0, current=2) == 2
    assert most(rules, *looks, at=31, current=2) == 9


def test_a_clock_that_was_set_back_begins_anew():
    looks = remember((look(0, 2), look(100, 3)), look(-500, 3), rules=USUAL_RULES)
    assert looks == (look(-500, 3),)


policies = st.builds(
    RatePolicy,
    st.sampled_from(list(RateKind)),
    st.integers(1, 300),
    st.integers(1, 1800).map(lambda seconds: Seconds(float(seconds))),
)
rules = st.builds(
    ScaleUpRules,
    st.lists(policies, min_size=1, max_size=4).map(tuple),
    st.sampled_from(list(Select)),
    st.integers(0, 3600).map(lambda seconds: Seconds(float(seconds))),
)


@given(rules, st.lists(st.tuples(st.integers(1, 400), st.integers(0, 60), st.integers(0, 90)), max_size=30))
def test_forgetting_changes_no_answer(rules, steps):
    """What is dropped would not have been asked for; and a floor that keeps to the answer keeps every policy."""
    kept: tuple[Look, ...] = ()
    everything: list[Look] = []
    now = 0.0
    for after, replicas, needed in steps:
        now += after
        fresh = look(now, replicas, needed)
        kept = remember(kept, fresh, rules=rules)
        if not everything:
            everything.append(Look(fresh.time, replicas, min(replicas, needed)))
        everything.append(fresh)
        answer = most(rules, *kept, at=now, current=replicas)
        assert answer == most(rules, *everything, at=now, current=replicas)
        assert answer >= replicas


@given(st.integers(1, 40), st.integers(1, 20), st.integers(1, 8))
def test_a_floor_that_follows_never_outruns_a_policy(start, value, period):
    """Replicas that follow the answer at once never grow by more than the policy within any of its periods."""
    only = ScaleUpRules((pods(value, float(period)),))
    counts = [start]
    looks: tuple[Look, ...] = ()
    for second in range(4 * period):
        looks = remember(looks, look(second, counts[-1], 10_000), rules=only)
        counts.append(most(only, *looks, at=second, current=counts[-1]))
    for end in range(period, len(counts)):
        assert counts[end] - counts[end - period] <= value
