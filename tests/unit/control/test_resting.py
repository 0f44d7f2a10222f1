"""The way of a workload to zero replicas and back, round by round."""

from dataclasses import replace

import pytest

from optiinfra.control import replicas, resting
from optiinfra.control.replicas import ScalingTimes
from optiinfra.domain.readings import Signal, Unknown
from optiinfra.domain.scaling import ScalingDecision
from optiinfra.domain.scaling_rules import Rule
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.domain.workload import ScalerMetric
from tests.unit.control.examples import NOW, facts, limits, page, pod, ro, scaler, service, signals

TIMES = ScalingTimes(tick=Seconds(15.0), hold=Seconds(0.0), stale_after=Seconds(45.0))
KEDAS = scaler(controller_owner="ScaledObject/chat", min_replicas=1, metrics=(ScalerMetric(type="External"),) * 2)
ZERO = {"scaleToZero": {"enabled": True}, "startupTime": "2m"}


class Night:
    """Rounds of one object, half a minute apart, whose memory goes on."""

    def __init__(self, **scaling):
        self.at = float(NOW)
        self.work = service(ro(mode="Auto", scaling=ZERO | scaling))
        self.target = self.work.targets[0]
        self.served = 100.0

    def round(self, asked=1, ready=None, *, running=0.0, served=0.0, silent=False, pods=None, kedas=KEDAS, after=30.0):
        self.at += after
        self.served += served
        ready = asked if ready is None else ready
        names = [f"vllm-{number}" for number in range(ready)]
        pages = (
            {}
            if silent
            else {name: tuple(self._page(self.at - 5.0 * back, running) for back in (2, 1, 0)) for name in names}
        )
        known = facts(asked, ready_replicas=ready, pages=pages, scaler=kedas)
        known = replace(known, pods=tuple(pod(name) for name in names) if pods is None else pods)
        target = self.target
        target.facts = known
        heard = {"running": running, "running_max": running, "running_mean": running, "work_rate": 0.0, "waiting": 0.0}
        target.signals = signals(
            time=UnixTime(self.at), replicas_expected=ready, replicas_reporting=0 if silent else ready, **heard
        )
        target.limits = replicas.limits_of(self.work, target, known)
        given = replicas.scaling_input(self.work, target, known, TIMES, now=UnixTime(self.at))
        replicas.decide([(self.work, target, given)], now=UnixTime(self.at))
        target.memory.ordered = target.decision.desired if isinstance(target.decision, ScalingDecision) else None
        return target.decision

    def _page(self, at, running):
        counters = dict.fromkeys(
            (Signal.REQUESTS_FINISHED, Signal.PROMPT_TOKENS, Signal.GENERATION_TOKENS), self.served
        )
        gauges = {Signal.REQUESTS_RUNNING: running, Signal.REQUESTS_WAITING: 0.0, Signal.KV_CACHE_USAGE: 0.0}
        return replace(page(at), gauges=gauges, counters=counters)

    def quiet(self, rounds):
        decision = None
        for _ in range(rounds):
            decision = self.round()
        return decision


def test_down_to_zero_and_back():
    night = Night()
    assert night.quiet(20).desired == 1
    gone = night.round()
    assert (gone.desired, gone.rule) == (0, Rule.NO_REQUESTS)
    asleep = night.round(0)
    assert (asleep.desired, asleep.rule, asleep.direction.value) == (0, Rule.ASLEEP, "None")
    for _ in range(3):
        waking = night.round(1, 0)
        assert (waking.desired, waking.rule) == (1, Rule.WAKING)
    awake = night.round(1, running=3.0)
    assert (awake.desired, awake.rule not in {Rule.WAKING, Rule.NO_REQUESTS}) == (1, True)


def test_pods_that_still_end_wake_nobody():
    night = Night()
    night.quiet(21)
    gone = night.round(1, 0, pods=())  # our order was followed; the spec that was read is of before
    assert (gone.desired, gone.rule) == (0, Rule.ASLEEP)
    ending = night.round(0, 1)
    assert (ending.desired, ending.rule) == (0, Rule.ASLEEP)
    called = night.round(1, 0, pods=())  # now it is news
    assert (called.desired, called.rule) == (1, Rule.WAKING)


def test_a_first_replica_that_never_gets_ready_is_not_known():
    night = Night()
    night.round(0)
    started = (pod("vllm-0", ready=False, became_ready=None),)
    for _ in range(6):
        assert night.round(1, 0, pods=started).rule is Rule.WAKING
    assert isinstance(night.round(1, 0, pods=started), Unknown), "180 s: one and a half times a start have passed"
    assert isinstance(night.round(1, 0, pods=started), Unknown), "and it is no new start"


@pytest.mark.parametrize("how", [{"running": 1.0}, {"served": 1.0}])
def test_a_request_begins_the_quiet_anew(how):
    night = Night()
    night.quiet(15)
    night.round(**how)
    assert night.quiet(19).desired == 1
    assert night.quiet(3).desired == 0


def test_silence_is_no_quiet():
    night = Night()
    night.quiet(15)
    assert isinstance(night.round(silent=True), Unknown)
    assert night.quiet(20).desired == 1
    assert night.quiet(2).desired == 0


def test_rounds_that_are_far_apart_see_as_much():
    night = Night()
    assert night.round().desired == 1
    assert night.round(after=1200.0).desired == 0
    other = Night()
    other.round()
    assert other.round(after=1200.0, served=1.0).desired == 1


@pytest.mark.parametrize(
    "how",
    [
        {"kedas": None},
        {"kedas": scaler()},
        {"kedas": replace(KEDAS, metrics=(ScalerMetric(type="External"),))},
        {"kedas": replace(KEDAS, min_replicas=2)},
    ],
)
def test_nobody_goes_to_zero_who_would_not_come_back(how):
    night = Night()
    for _ in range(50):
        assert night.round(**how).desired >= 1


def test_own_never_goes_to_zero_whatever_stands_beside_it():
    night = Night(actuation="Own", minReplicas=0, maxReplicas=4)
    for _ in range(50):
        assert night.round().desired == 1
    assert isinstance(night.round(0, 0), Unknown)


def test_each_time_that_it_was_needed_again_it_waits_longer():
    night = Night()
    night.target.memory.record.woken = 1
    assert night.quiet(40).desired == 1
    assert night.quiet(2).desired == 0


def test_without_limits_nothing_is_said():
    night = Night()
    night.quiet(3)
    target = night.target
    target.limits = None
    assert (
        resting.observe(
            target, target.facts, current=1, start_up=Seconds(60.0), stale_after=Seconds(45.0), now=UnixTime(night.at)
        )
        is None
    )
    assert target.memory.quiet is None
    target.limits = limits()
