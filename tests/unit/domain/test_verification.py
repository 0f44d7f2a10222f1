"""Verification: what counts as harm after an action, what has another explanation, and what nobody can tell."""

import random
from dataclasses import fields, replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optiinfra.domain.evidence import Direction
from optiinfra.domain.readings import Unknown
from optiinfra.domain.signals import ServiceSignals
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.domain.verification import Candidate, Disturbance, Outcome, Trail, judge
from optiinfra.domain.verification.trail import MOST_BLOCKS
from tests.unit.domain.verified import (
    NOW,
    PROMISED,
    UNMEASURED,
    Noise,
    after,
    before,
    block,
    expectation,
    trial,
    watched,
)

DOWN, UP = Direction.SCALE_DOWN, Direction.SCALE_UP


@pytest.mark.parametrize(
    ("then", "now", "direction", "outcome", "reason"),
    [
        ({}, {}, DOWN, Outcome.VERIFIED, "ObjectivesKept"),
        ({}, {}, UP, Outcome.VERIFIED, "ObjectivesKept"),
        ({}, {"time_to_first_token": 6.0}, DOWN, Outcome.REGRESSED, "TimeToFirstToken"),
        ({}, {"inter_token_latency": 0.2}, DOWN, Outcome.REGRESSED, "InterTokenLatency"),
        ({}, {"queue_time": 15.0}, DOWN, Outcome.REGRESSED, "QueueTime"),
        ({}, {"queue_time": 15.0}, UP, Outcome.REGRESSED, "QueueTime"),
        ({"queue_time": 12.0}, {"queue_time": 11.0}, DOWN, Outcome.UNKNOWN, "StillMissed"),
        ({"queue_time": UNMEASURED}, {"queue_time": 15.0}, DOWN, Outcome.UNKNOWN, "StillMissed"),
        ({}, {"waiting": 2.0}, DOWN, Outcome.VERIFIED, "ObjectivesKept"),
        ({}, {"waiting": 30.0}, DOWN, Outcome.REGRESSED, "QueueGrew"),
        ({"waiting": 20.0}, {"waiting": 39.0}, DOWN, Outcome.VERIFIED, "ObjectivesKept"),
        ({"waiting": 20.0}, {"waiting": 90.0}, DOWN, Outcome.REGRESSED, "QueueGrew"),
        ({}, {"waiting": 90.0}, UP, Outcome.VERIFIED, "ObjectivesKept"),
        ({}, {"preemptions": 0.5}, DOWN, Outcome.REGRESSED, "Preemptions"),
        ({"preemptions": 0.4}, {"preemptions": 0.5}, DOWN, Outcome.VERIFIED, "ObjectivesKept"),
        ({}, {"reporting": 2}, DOWN, Outcome.UNKNOWN, "ReplicasMissing"),
        ({}, {"arrivals": 3.0}, DOWN, Outcome.UNKNOWN, "LoadFell"),
        ({}, {"time_to_first_token": 6.0, "arrivals": 20.0}, DOWN, Outcome.UNKNOWN, "LoadRose"),
        ({}, {"time_to_first_token": 6.0, "request_work": 2000.0}, DOWN, Outcome.UNKNOWN, "LoadRose"),
        ({}, {"time_to_first_token": 6.0, "arrivals": UNMEASURED}, DOWN, Outcome.UNKNOWN, "LoadNotKnown"),
        ({}, {"arrivals": 20.0}, DOWN, Outcome.VERIFIED, "ObjectivesKept"),
        ({"time_to_first_token": 1.95}, {"time_to_first_token": 2.05}, DOWN, Outcome.UNKNOWN, "StillMissed"),
        ({"time_to_first_token": 1.7}, {"time_to_first_token": 2.05}, DOWN, Outcome.UNKNOWN, "Unclear"),
    ],
)
def test_the_verdict(then, now, direction, outcome, reason):
    verdict = judge(trial(before(**then), after(**now), direction=direction))
    assert (verdict.outcome, verdict.reason) == (outcome, reason), verdict.message
    assert verdict.message
    assert verdict.control.startswith("none: ")
    assert verdict.roll_back is (outcome is Outcome.REGRESSED and direction is DOWN)


@pytest.mark.parametrize(
    ("changes", "outcome", "reason"),
    [
        ({"settled": False, "waits_for": "3 of 4 ready"}, Outcome.UNKNOWN, "NotReached"),
        ({"settled": False, "over": False, "waits_for": "3 of 4 ready"}, Outcome.TOO_EARLY, "NotReached"),
        ({"after": after(1), "over": False}, Outcome.TOO_EARLY, "TooFewWindows"),
        ({"after": after(2)}, Outcome.UNKNOWN, "TooFewWindows"),
        ({"after": ()}, Outcome.UNKNOWN, "TooFewWindows"),
        ({"over": False}, Outcome.TOO_EARLY, "Watching"),
        ({"disturbance": Disturbance("Rollout", "a rollout began")}, Outcome.UNKNOWN, "Rollout"),
    ],
)
def test_what_is_said_before_there_is_proof(changes, outcome, reason):
    verdict = judge(replace(trial(before(), after()), **changes))
    assert (verdict.outcome, verdict.reason) == (outcome, reason)


def test_something_else_that_happened_goes_before_harm():
    harmed = trial(before(), after(time_to_first_token=9.0))
    assert judge(harmed).roll_back
    moved = replace(harmed, disturbance=Disturbance("ReplicasMoved", "somebody set 7"))
    assert (judge(moved).outcome, judge(moved).roll_back) == (Outcome.UNKNOWN, False)


def test_harm_names_the_numbers_and_the_chance_of_noise():
    verdict = judge(trial(before(), after(time_to_first_token=6.0)))
    for number in ("6 s", "0.5 before", "at most 2;", "noise alone"):
        assert number in verdict.message
    told = next(one for one in verdict.compared if one.signal == "time_to_first_token_p95")
    assert (round(told.before, 3), round(told.after, 3), told.limit) == (0.5, 6.0, 2.0)
    assert told.chance < 1e-4


def test_gross_harm_does_not_wait_for_the_end_of_the_window():
    verdict, windows = watched(before(), after(time_to_first_token=8.0))
    assert verdict.roll_back
    assert windows <= 4


def test_a_load_that_was_forecast_is_no_excuse():
    earlier = before()
    grown = expectation(earlier, growth=1.6)
    harmed = after(time_to_first_token=6.0, arrivals=15.0)
    assert judge(trial(earlier, harmed)).reason == "LoadRose"
    assert judge(trial(earlier, harmed, expectation=grown)).roll_back


def test_what_a_sibling_saw_as_well_is_nobodys_doing():
    worse = after(time_to_first_token=6.0)
    sibling = Candidate("variant spot", before(), after(replicas=4, time_to_first_token=5.5))
    verdict = judge(trial(before(), worse, candidates=(sibling,)))
    assert (verdict.outcome, verdict.reason, verdict.control) == (Outcome.UNKNOWN, "SharedShift", "variant spot")
    calm = replace(sibling, after=after(replicas=4))
    assert judge(trial(before(), worse, candidates=(calm,))).roll_back


@pytest.mark.parametrize(
    ("candidate", "why"),
    [
        (Candidate("variant spot", before(), after(replicas=4), "a rollout was in progress"), "rollout"),
        (Candidate("variant spot", before(), after(replicas=5)), "its own replicas changed"),
        (Candidate("variant spot", before(), after(replicas=4, arrivals=14.0)), "changed to 140 %"),
        (Candidate("variant spot", before(arrivals=100.0), after(replicas=4, arrivals=100.0)), "not comparable"),
        (Candidate("variant spot", before(arrivals=UNMEASURED), after(replicas=4)), "not known"),
        (Candidate("variant spot", before(1), after(replicas=4)), "fewer than 2 windows"),
    ],
)
def test_a_control_that_is_not_comparable_is_none_and_says_why(candidate, why):
    verdict = judge(trial(before(), after(), candidates=(candidate,)))
    assert verdict.control.startswith("none: variant spot")
    assert why in verdict.control


values = st.one_of(st.just(UNMEASURED), st.floats(0.0, 100.0))
later = st.lists(
    st.builds(
        lambda *seen: dict(
            zip(
                ("time_to_first_token", "inter_token_latency", "queue_time", "waiting", "preemptions", "arrivals"),
                seen,
                strict=True,
            )
        ),
        *[values] * 6,
    ),
    max_size=9,
)


@given(later, st.booleans())
def test_a_rise_is_never_rolled_back(seen, over):
    blocks = tuple(block(number, **one) for number, one in enumerate(seen, 1))
    assert not judge(trial(before(), blocks, direction=UP, over=over)).roll_back


@given(later, st.sampled_from([UP, DOWN]), st.booleans())
def test_what_was_not_measured_never_counts_as_good_nor_as_bad(seen, direction, over):
    blocks = tuple(block(number, **one) for number, one in enumerate(seen, 1))
    verdict = judge(trial(before(), blocks, direction=direction, over=over))
    if verdict.outcome is Outcome.VERIFIED:
        assert len(blocks) >= 3
        assert not all(isinstance(one.after, Unknown) for one in verdict.compared)
        assert all(
            isinstance(one.after, Unknown) or isinstance(one.limit, Unknown) or one.after <= one.limit
            for one in verdict.compared
            if one.unit == "seconds"
        )
    if verdict.outcome is Outcome.REGRESSED:
        known = [one for one in verdict.compared if not isinstance(one.before, Unknown)]
        assert any(not isinstance(one.after, Unknown) and one.after > one.before for one in known)
    assert verdict.roll_back is (verdict.outcome is Outcome.REGRESSED and direction is DOWN)


LIMITS = (PROMISED.time_to_first_token_p95, PROMISED.inter_token_latency_p95, PROMISED.queue_delay)


def simulated(seed, *, level, effect, deviation, correlation, spikes=0.0, windows=12):
    """Play one action on noise; `level` is the typical latency as a share of its objective."""
    dice = random.Random(seed)
    noises = [Noise(dice, deviation=deviation, correlation=correlation, spikes=spikes) for _ in LIMITS]
    load = Noise(dice, deviation=0.08, correlation=correlation)

    def one(number, factor):
        seen = [limit * level * factor * noise.factor() for limit, noise in zip(LIMITS, noises, strict=True)]
        names = ("time_to_first_token", "inter_token_latency", "queue_time")
        return block(number, **dict(zip(names, seen, strict=True)), arrivals=10.0 * load.factor())

    earlier = tuple(one(number, 1.0) for number in range(1 - windows, 1))
    return watched(earlier, tuple(one(number, effect) for number in range(1, 10)))


def rate(count, outcome=Outcome.REGRESSED, **how):
    found = [simulated(seed, **how) for seed in range(count)]
    hits = [windows for verdict, windows in found if verdict.outcome is outcome]
    return len(hits) / count, (sum(hits) / len(hits) if hits else 0.0)


@pytest.mark.parametrize(("level", "deviation", "correlation"), [(0.6, 0.2, 0.3), (0.95, 0.2, 0.3), (0.8, 0.2, 0.6)])
def test_noise_is_seldom_called_harm(level, deviation, correlation):
    found, _ = rate(100, level=level, effect=1.0, deviation=deviation, correlation=correlation)
    assert found <= 0.10, "of a hundred actions that did nothing, three are expected to be called harmful at worst"


def test_latencies_that_double_past_the_objective_are_seen():
    found, windows = rate(60, level=0.7, effect=2.0, deviation=0.2, correlation=0.3)
    assert found >= 0.8
    assert windows <= 9.0


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_how_often_noise_is_called_harm_and_harm_is_seen(figures):
    worst = 0.0
    for level, deviation, correlation, spikes, windows in (
        (0.5, 0.2, 0.3, 0.0, 12),
        (0.8, 0.2, 0.3, 0.0, 12),
        (0.95, 0.2, 0.3, 0.0, 12),
        (0.95, 0.2, 0.6, 0.0, 12),
        (0.95, 0.2, 0.8, 0.0, 12),
        (0.95, 0.3, 0.3, 0.02, 12),
        (0.95, 0.2, 0.3, 0.0, 3),
    ):
        how = {"level": level, "deviation": deviation, "correlation": correlation, "spikes": spikes}
        found, _ = rate(400, effect=1.0, windows=windows, **how)
        worst = max(worst, found)
        name = (
            f"noise {deviation:g}, like neighbours {correlation:g}, spikes {spikes:g}, at {level:.0%} of the objective"
        )
        figures.add("verification", f"false alarms: {name}, {windows} windows before", 100.0 * found, "%")
    for effect in (1.25, 1.5, 2.0, 3.0, 5.0):
        found, took = rate(200, level=0.7, effect=effect, deviation=0.2, correlation=0.3)
        figures.add("verification", f"harm seen: latencies x {effect:g} from 70% of the objective", 100.0 * found, "%")
        figures.add("verification", f"windows until harm is seen: latencies x {effect:g}", took, "windows")
    assert worst <= 0.06


def signals(time, window=60.0, replicas=4, **values):
    known = {field.name: UNMEASURED for field in fields(ServiceSignals)}
    known |= {"time": UnixTime(time), "window": Seconds(window), "replicas_expected": replicas}
    return ServiceSignals(**(known | {"replicas_reporting": replicas} | values))


def test_windows_of_a_trail_do_not_overlap_and_are_bounded():
    trail = Trail()
    for number in range(400):
        trail.observe(signals(NOW + 20.0 * number), replicas=4)
    blocks = list(trail)
    assert len(blocks) == MOST_BLOCKS
    assert all(later.start >= earlier.time - 6.0 for earlier, later in pairwise(blocks))
    assert not trail.observe(signals(blocks[-1].time + 30.0), replicas=4)
    assert not trail.observe(signals(blocks[-1].time + 60.0, window=0.0), replicas=4)
    assert trail.observe(signals(NOW, replicas=4), replicas=4), "a clock that was set back begins anew"
    assert len(trail) == 1


def test_what_came_before_is_of_one_count_and_what_comes_after_lies_wholly_after():
    trail = Trail()
    for number in range(10):
        trail.observe(signals(NOW + 60.0 * number), replicas=4 if number > 3 else 5)
    assert [one.time for one in trail.before(UnixTime(NOW + 480.0), replicas=4)] == [
        NOW + 60.0 * n
        for n in range(5, 9)  # the count changed within the fourth
    ]
    assert trail.before(UnixTime(NOW + 480.0), replicas=3) == ()
    assert [one.time for one in trail.after(UnixTime(NOW + 400.0))] == [NOW + 480.0, NOW + 540.0]
