"""Verification: what counts as harm after an action, and what does not."""

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optiinfra.domain.evidence import Direction
from optiinfra.domain.objectives import Objectives
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.signals import ServiceSignals
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.domain.verification import Outcome, judge

NOW = UnixTime(1.7e9)
UNMEASURED = Unknown(UnknownReason.UNREACHABLE, "no page")
PROMISED = Objectives()


def signals(time, **values):
    known = {field.name: UNMEASURED for field in fields(ServiceSignals)}
    known.update(
        time=time,
        window=Seconds(60.0),
        replicas_expected=3,
        replicas_reporting=3,
        running=30.0,
        waiting=0.0,
        preemption_rate=0.0,
        time_to_first_token_p95=0.5,
        inter_token_latency_p95=0.04,
        queue_time_p95=0.1,
    )
    known.update(values)
    return ServiceSignals(**known)


BEFORE = signals(NOW)
AFTER = signals(UnixTime(NOW + 120.0))
DOWN, UP, RESIZE = Direction.SCALE_DOWN, Direction.SCALE_UP, Direction.RESIZE


@pytest.mark.parametrize(
    ("before", "after", "direction", "outcome", "reason"),
    [
        ({}, {}, DOWN, Outcome.VERIFIED, "ObjectivesKept"),
        ({}, {}, UP, Outcome.VERIFIED, "ObjectivesKept"),
        ({}, {"time": UnixTime(NOW + 30.0)}, DOWN, Outcome.TOO_EARLY, "WindowOverlaps"),
        ({}, {"window": Seconds(0.0)}, DOWN, Outcome.TOO_EARLY, "OneSample"),
        ({}, {"time_to_first_token_p95": 2.5}, DOWN, Outcome.REGRESSED, "TimeToFirstToken"),
        ({}, {"inter_token_latency_p95": 0.11}, DOWN, Outcome.REGRESSED, "InterTokenLatency"),
        ({}, {"queue_time_p95": 11.0}, RESIZE, Outcome.REGRESSED, "QueueTime"),
        ({"queue_time_p95": 12.0}, {"queue_time_p95": 11.0}, DOWN, Outcome.VERIFIED, "ObjectivesKept"),
        ({"queue_time_p95": UNMEASURED}, {"queue_time_p95": 11.0}, DOWN, Outcome.REGRESSED, "QueueTime"),
        ({"queue_time_p95": UNMEASURED}, {"queue_time_p95": 11.0}, UP, Outcome.VERIFIED, "ObjectivesKept"),
        ({}, {"waiting": 3.0}, DOWN, Outcome.VERIFIED, "ObjectivesKept"),
        ({}, {"waiting": 4.0}, DOWN, Outcome.REGRESSED, "QueueGrew"),
        ({"waiting": 20.0}, {"waiting": 40.0}, DOWN, Outcome.VERIFIED, "ObjectivesKept"),
        ({"waiting": 20.0}, {"waiting": 41.0}, DOWN, Outcome.REGRESSED, "QueueGrew"),
        ({}, {"waiting": 40.0}, UP, Outcome.VERIFIED, "ObjectivesKept"),
        ({}, {"preemption_rate": 0.5}, DOWN, Outcome.REGRESSED, "Preemptions"),
        ({"preemption_rate": 0.4}, {"preemption_rate": 0.5}, DOWN, Outcome.VERIFIED, "ObjectivesKept"),
        ({}, {"replicas_reporting": 0}, DOWN, Outcome.UNKNOWN, "NoData"),
        ({}, {"replicas_reporting": 2}, DOWN, Outcome.UNKNOWN, "ReplicasMissing"),
        ({}, {"replicas_reporting": 2}, UP, Outcome.TOO_EARLY, "ReplicasStarting"),
        ({}, {"replicas_reporting": 2, "queue_time_p95": 11.0}, DOWN, Outcome.REGRESSED, "QueueTime"),
        ({}, {"waiting": UNMEASURED}, DOWN, Outcome.UNKNOWN, "NoData"),
    ],
)
def test_the_verdict(before, after, direction, outcome, reason):
    verdict = judge(replace(BEFORE, **before), replace(AFTER, **after), PROMISED, direction=direction)
    assert (verdict.outcome, verdict.reason) == (outcome, reason)
    assert verdict.message


def test_harm_names_the_numbers():
    verdict = judge(BEFORE, replace(AFTER, time_to_first_token_p95=2.5), PROMISED, direction=DOWN)
    assert verdict.roll_back
    for number in ("2.5 s", "0.5 s", "2 s"):
        assert number in verdict.message
    assert [fact.value for fact in verdict.evidence] == [0.5, 2.5]


values = st.one_of(st.just(UNMEASURED), st.floats(0.0, 100.0))
after_signals = st.builds(
    lambda run, wait, ttft, itl, queue, preempt, reporting: replace(
        AFTER,
        running=run,
        waiting=wait,
        time_to_first_token_p95=ttft,
        inter_token_latency_p95=itl,
        queue_time_p95=queue,
        preemption_rate=preempt,
        replicas_reporting=reporting,
    ),
    *[values] * 6,
    st.integers(0, 3),
)


@given(after_signals)
def test_a_rise_is_never_rolled_back(after):
    assert not judge(BEFORE, after, PROMISED, direction=UP).roll_back


@given(after_signals, st.sampled_from([UP, DOWN, RESIZE]))
def test_what_was_not_measured_never_counts_as_good(after, direction):
    verdict = judge(BEFORE, after, PROMISED, direction=direction)
    if verdict.outcome is Outcome.VERIFIED:
        assert after.replicas_reporting == after.replicas_expected
        assert not isinstance(after.waiting, Unknown)
        assert not isinstance(after.running, Unknown)
    assert verdict.roll_back is (verdict.outcome is Outcome.REGRESSED and direction is not UP)
