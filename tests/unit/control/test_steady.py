"""Advice that says the same costs no writes; advice that says something else is shown at once."""

from dataclasses import replace

import pytest

from optiinfra.api.conditions import ConditionStatus
from optiinfra.api.reasons import Reason
from optiinfra.api.status_change import is_meaningful_change
from optiinfra.control import sizing
from optiinfra.control.keys import ObjectKey
from optiinfra.control.memory import TargetMemory
from optiinfra.control.report import InsightState, service_status
from optiinfra.control.steady import STANDS, steady
from optiinfra.domain.evidence import Evidence, RecommendationType, Refusal, Savings
from optiinfra.domain.units import Ratio, Seconds, UnixTime
from tests.unit.control.examples import NOW, proposal, signals
from tests.unit.control.test_sizing import answers, made, samples

KEY = ObjectKey("ResourceOptimization", "inference", "svc")


def size(samples=100.0, **changes):
    base = proposal("2000m", "500m", type=RecommendationType.RESOURCES, setting="containers[app].requests.cpu")
    fact = Evidence("samples", samples, "", Seconds(60.0), "kubernetes", "sum")
    return replace(base, evidence=(fact,), message=f"{samples:g} samples", **changes)


def test_what_only_rests_on_more_is_shown_as_before():
    memory = TargetMemory()
    (first,) = steady(KEY, memory, [size(100.0)], now=NOW)
    later = size(160.0, confidence=Ratio(0.95), lower="490m", upper="620m")
    assert steady(KEY, memory, [later], now=UnixTime(NOW + 3600.0)) == [first]
    assert steady(KEY, memory, [later], now=UnixTime(NOW + 2.0 * STANDS)) == [later]


@pytest.mark.parametrize(
    "change",
    [{"proposed": "700m"}, {"reason": "UnderRequested"}, {"patch": "other"}, {"savings": Savings(cpu_cores_freed=9.0)}],
)
def test_what_says_something_else_is_shown_at_once(change):
    memory = TargetMemory()
    steady(KEY, memory, [size()], now=NOW)
    other = size(101.0, **change)
    assert steady(KEY, memory, [other], now=UnixTime(NOW + 60.0)) == [other]


def test_what_is_not_said_any_more_is_forgotten_and_refusals_pass():
    memory = TargetMemory()
    steady(KEY, memory, [size()], now=NOW)
    refusal = Refusal(RecommendationType.RESOURCES, "SmallChange", "too small")
    assert steady(KEY, memory, [refusal], now=NOW) == [refusal]
    assert memory.told == {}


def test_a_clock_that_was_set_back_says_it_anew():
    memory = TargetMemory()
    steady(KEY, memory, [size()], now=NOW)
    later = size(5.0)
    assert steady(KEY, memory, [later], now=UnixTime(NOW - 3600.0)) == [later]


def test_hours_of_the_same_use_are_no_write():
    work = made()
    target, statuses = work.targets[0], []
    for hour in range(4):
        at = UnixTime(NOW + 3600.0 * hour)
        if hour:
            more = [one for one in samples(days=hour / 24.0, end=at) if one.time > NOW]
            sizing.hear(target.memory, more, (), now=at)
        target.signals = signals(time=at)
        told = steady(work.key, target.memory, answers(work, now=at), now=at)
        target.proposals = tuple(one for one in told if not isinstance(one, Refusal))
        insight = InsightState(ConditionStatus.UNKNOWN, Reason.NOT_CONFIGURED)
        statuses.append(service_status(work, round_id="r", now=at, insight=insight))
        work.obj = work.obj.model_copy(update={"status": statuses[0]})
    assert statuses[0].recommendations
    assert target.memory.usage["app"].samples > 8 * 288
    for hour, status in enumerate(statuses[1:], start=1):
        assert not is_meaningful_change(statuses[0], status, now=UnixTime(NOW + 3600.0 * hour)), hour
