"""Scaling: each rule alone, what blocks a fall, and a closed loop over a small fluid model of a service."""

import itertools
import math
from collections import deque
from dataclasses import dataclass, field, fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.evidence import Direction
from optiinfra.domain.forecast import Forecast
from optiinfra.domain.history import LoadHistory
from optiinfra.domain.policy import Limits, PolicyState, clamp
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.scaling import NeedMemory, Rule, ScalingInput, decide
from optiinfra.domain.signals import ServiceSignals
from optiinfra.domain.units import Seconds, UnixTime

NOW = UnixTime(1.5e9)
UNMEASURED = Unknown(UnknownReason.UNREACHABLE, "no page")
LIMIT_64 = EngineSettings(batch_limit=64.0, batch_limit_source="argument")


def signals(time=NOW, *, replicas=4, **values):
    known = {field_.name: UNMEASURED for field_ in fields(ServiceSignals)}
    known.update(
        time=time,
        window=Seconds(60.0),
        replicas_expected=replicas,
        replicas_reporting=replicas,
        running=128.0,
        waiting=0.0,
        running_max=128.0,
        waiting_max=0.0,
        kv_cache_usage_mean=0.3,
        kv_cache_usage_max=0.3,
    )
    known.update(values)
    return ServiceSignals(**known)


def situation(**given_values):
    """Four replicas, half of their slots used, quiet for ten minutes."""
    values = {
        "signals": signals(),
        "settings": LIMIT_64,
        "history": LoadHistory(),
        "current": 4,
        "ready": 4,
        "starting": 0,
        "minimum": 1,
        "maximum": 16,
        "start_up": Seconds(180.0),
        "memory": NeedMemory(UnixTime(NOW - 600.0), UnixTime(NOW - 15.0), ()),
    }
    values.update(given_values)
    return ScalingInput(**values)


def decided(**given_values):
    return decide([situation(**given_values)], now=NOW)[0]


def flight(running, waiting=0.0, **values):
    known = {"kv_cache_usage_mean": 0.05, "kv_cache_usage_max": 0.05, "waiting_max": waiting} | values
    return signals(running=running, running_max=running, waiting=waiting, **known)


@pytest.mark.parametrize(
    ("given_values", "desired", "rule"),
    [
        # 64 slots x 0.7 = 44.8 a replica
        ({"signals": flight(150.0)}, 4, Rule.STEADY),
        ({"signals": flight(200.0)}, 5, Rule.BATCH_SLOTS),
        ({"signals": flight(256.0, 100.0)}, 8, Rule.BATCH_SLOTS),
        ({"signals": flight(100.0)}, 3, Rule.SURPLUS),
        ({"signals": flight(0.0)}, 1, Rule.SURPLUS),
        ({"signals": flight(0.0), "current": 1, "ready": 1}, 1, Rule.AT_MINIMUM),
        ({"signals": flight(0.0, kv_cache_usage_mean=0.0, kv_cache_usage_max=0.0), "minimum": 0}, 0, Rule.SURPLUS),
        ({"signals": flight(0.0), "minimum": 3}, 3, Rule.AT_MINIMUM),
        ({"signals": flight(2000.0)}, 16, Rule.AT_MAXIMUM),
        ({"signals": flight(100.0, kv_cache_usage_mean=0.9, kv_cache_usage_max=0.9)}, 5, Rule.KV_CACHE),
        # 100 running fill 95 % of the KV cache, 50 more wait: they will want as much each.
        ({"signals": flight(100.0, 50.0, kv_cache_usage_mean=0.95)}, 8, Rule.KV_CACHE),
        ({"signals": flight(100.0, 0.0), "current": 1, "ready": 1}, 3, Rule.BATCH_SLOTS),
    ],
)
def test_the_rule_and_the_count(given_values, desired, rule):
    decision = decided(**given_values)
    assert (decision.desired, decision.rule) == (desired, rule)
    assert f"{desired} replicas ({rule})" in decision.message
    assert 0.0 < decision.confidence <= 1.0
    assert decision.lower <= decision.desired <= decision.upper


def test_a_backlog_is_cleared_in_time_and_replicas_that_start_already_count():
    # 256 run at 8 requests/s, arrivals are 12/s: in three minutes 4 x 180 = 720 more wait than the 60 that do now.
    queued = flight(256.0, 60.0, request_rate=8.0, waiting_slope=4.0, work_rate=800.0)
    alone = decided(signals=queued, maximum=64)
    assert alone.rule is Rule.QUEUE_DRAIN
    assert alone.desired == math.ceil((12.0 / 0.9 + 780.0 / 40.0) / 2.0 - 0.15)
    helped = decided(signals=queued, maximum=64, current=12, starting=8)
    assert helped.desired == 12
    assert {a.rule: a.replicas for a in helped.alternatives}[Rule.QUEUE_DRAIN] == 0


def test_waiting_requests_count_by_the_slot_time_they_need():
    # Each holds its slot for 256 / 64 = 4 s, so 100 of them are cleared within 40 s by ten slots.
    decision = decided(signals=flight(256.0, 100.0, request_rate=64.0))
    assert decision.rule is Rule.BATCH_SLOTS
    assert decision.need == pytest.approx((256.0 + 10.0) / 44.8)


def test_who_waits_for_the_next_step_is_no_backlog():
    # Just after idleness: one waits while 49 of 64 slots are free, and the first answers lag the first arrivals.
    first = flight(15.0, 1.0, request_rate=0.07, waiting_slope=1.0, work_rate=50.0, running_per_replica_max=8.0)
    decision = decided(signals=first, maximum=64)
    assert decision.rule is not Rule.QUEUE_DRAIN
    assert decision.desired <= decision.current


def test_a_full_kv_cache_makes_a_backlog_although_slots_are_free():
    full = flight(
        40.0, 60.0, request_rate=2.0, waiting_slope=4.0, work_rate=800.0, running_per_replica_max=10.0,
        kv_cache_usage_mean=0.5, kv_cache_usage_max=0.97,
    )  # fmt: skip
    assert decided(signals=full, maximum=64).rule is Rule.QUEUE_DRAIN


def test_requests_that_capacity_would_not_start_do_not_count():
    assert decided(signals=flight(150.0, 100.0, deferred=100.0)).desired == 4
    assert decided(signals=flight(150.0, 100.0, deferred=0.0)).desired == 6
    assert decided(signals=flight(20.0, 100.0, deferred=100.0, waiting_max=0.0)).desired == 1


def test_a_queue_that_the_history_shows_to_be_served_faster_needs_less():
    history = LoadHistory()
    for step in range(40):
        time = UnixTime(NOW - 3600.0 + step * 15.0)
        history.observe(signals(time, running=250.0, work_rate=4000.0), 4)
    # The window was mostly idle: 2 requests/s on four replicas, where the history shows ten times that.
    queued = flight(256.0, 60.0, request_rate=2.0, waiting_slope=1.0, work_rate=400.0)
    slow, fast = decided(signals=queued, maximum=64), decided(signals=queued, maximum=64, history=history)
    assert {a.rule: a.replicas for a in slow.alternatives}[Rule.QUEUE_DRAIN] > 4
    assert {a.rule: a.replicas for a in fast.alternatives}[Rule.QUEUE_DRAIN] == 0


@pytest.mark.parametrize(
    ("given_values", "word"),
    [
        ({"signals": flight(20.0, replicas_reporting=3)}, "3 of 4 replicas report"),
        ({"starting": 1}, "1 start"),
        ({"ready": 3}, "3 of 4 replicas are ready"),
        ({"memory": None}, "0 of 180 s"),
        ({"memory": NeedMemory(UnixTime(NOW - 170.0), UnixTime(NOW - 15.0), ())}, "170 of 180 s"),
        ({"memory": NeedMemory(UnixTime(NOW - 9000.0), UnixTime(NOW - 3000.0), ())}, "0 of 180 s"),
        ({"signals": flight(20.0, 4.0)}, "4 requests wait"),
        ({"signals": signals(running=20.0, waiting=UNMEASURED)}, "not known"),
        ({"signals": flight(20.0, inter_token_latency_p95=0.2)}, "inter-token latency"),
        ({"signals": flight(20.0, time_to_first_token_p95=2.5)}, "time to first token"),
        ({"signals": flight(20.0, queue_time_p95=10.5)}, "queue time"),
        ({"memory": NeedMemory(UnixTime(NOW - 900.0), UnixTime(NOW - 15.0), ((UnixTime(NOW - 100.0), 3.9),))}, "3.90"),
    ],
)
def test_what_blocks_a_fall_is_said(given_values, word):
    decision = decided(**({"signals": flight(20.0)} | given_values))
    assert (decision.desired, decision.rule) == (4, Rule.HOLD)
    assert word in decision.message


def test_a_peak_older_than_the_hold_window_is_forgotten():
    memory = NeedMemory(UnixTime(NOW - 900.0), UnixTime(NOW - 15.0), ((UnixTime(NOW - 181.0), 3.9),))
    assert decided(signals=flight(20.0), memory=memory).desired == 1


@pytest.mark.parametrize(
    ("peaks", "desired"),
    [
        ({}, 1),
        ({"running_max": 120.0}, 3),
        ({"running_max": 100.0, "waiting_max": 70.0}, 4),
        ({"kv_cache_usage_max": 0.6}, 4),
        ({"kv_cache_usage_max": 0.5}, 3),
    ],
)
def test_fewer_replicas_must_have_served_the_peaks_of_the_window(peaks, desired):
    seen = signals(
        running=20.0, **({"running_max": 20.0, "kv_cache_usage_mean": 0.1, "kv_cache_usage_max": 0.1} | peaks)
    )
    assert decided(signals=seen).desired == desired


@pytest.mark.parametrize("partial", [1, 2, 3])
def test_missing_replicas_block_a_fall_but_not_a_rise(partial):
    assert decided(signals=flight(10.0, replicas_reporting=partial)).desired == 4
    assert decided(signals=flight(300.0, replicas_reporting=partial)).desired == 7


@pytest.mark.parametrize(
    ("given_values", "reason"),
    [
        ({"signals": flight(100.0, replicas_reporting=0)}, UnknownReason.UNREACHABLE),
        ({"signals": replace(flight(100.0), time=UnixTime(NOW - 61.0))}, UnknownReason.STALE),
        (
            {"signals": flight(UNMEASURED, UNMEASURED, kv_cache_usage_mean=UNMEASURED)},
            UnknownReason.UNREACHABLE,
        ),
        (
            {"signals": flight(100.0, kv_cache_usage_mean=UNMEASURED), "settings": EngineSettings()},
            UnknownReason.UNREACHABLE,
        ),
    ],
)
def test_nothing_known_is_no_number(given_values, reason):
    decision = decided(**given_values)
    assert isinstance(decision, Unknown)
    assert decision.reason is reason
    assert decision.detail


def test_without_a_batch_limit_the_kv_cache_decides():
    seen = flight(100.0, kv_cache_usage_mean=0.9, kv_cache_usage_max=0.9)
    decision = decided(signals=seen, settings=EngineSettings())
    assert (decision.desired, decision.rule) == (5, Rule.KV_CACHE)
    assert decision.confidence < decided(signals=seen).confidence


def test_the_plateau_of_running_while_requests_wait_is_the_batch_limit():
    now_queued = flight(128.0, 40.0, running_per_replica_max=32.0)
    decision = decided(signals=now_queued, settings=EngineSettings())
    assert decision.desired == math.ceil(168.0 / (32.0 * 0.7) - 0.15)
    history = LoadHistory()
    history.observe(signals(UnixTime(NOW - 1800.0), running=128.0, waiting=40.0), 4)
    later = decided(signals=flight(110.0), settings=EngineSettings(), history=history)
    assert (later.desired, later.rule) == (5, Rule.BATCH_SLOTS)
    assert next(fact for fact in later.evidence if fact.signal == "batch_limit").source == "derived"


def climbing(start, per_step, *, steps=80, rise=30):
    history = LoadHistory()
    for step in range(steps):
        time = UnixTime(NOW - (steps - 1 - step) * 15.0)
        running = start + per_step * max(0, step - (steps - rise))
        history.observe(signals(time, running=running), 4)
    return history, running


def test_the_forecast_adds_and_can_be_turned_off():
    history, running = climbing(60.0, 4.0)
    decision = decided(signals=flight(running), history=history)
    assert isinstance(decision.forecast, Forecast)
    assert (decision.rule, decision.desired > 4) == (Rule.FORECAST, True)
    assert "become" in decision.message
    off = decided(signals=flight(running), history=history, forecast_enabled=False)
    assert isinstance(off.forecast, Unknown)
    assert off.desired == math.ceil(running / 44.8 - 0.15) < decision.desired


def test_the_forecast_works_through_the_kv_cache_without_a_batch_limit():
    history, running = climbing(60.0, 4.0)
    seen = flight(running, kv_cache_usage_mean=0.7, kv_cache_usage_max=0.7)
    decision = decided(signals=seen, history=history, settings=EngineSettings())
    assert (decision.rule, decision.desired > 4) == (Rule.FORECAST, True)


def test_a_floor_follows_the_need_not_the_count_and_stays_while_a_fall_is_blocked():
    assert decided(signals=flight(80.0), current=10, ready=10, memory=None).floor == 2
    assert decided(signals=flight(80.0), current=10, ready=10, memory=None, current_floor=5).floor == 5
    assert decided(signals=flight(80.0, replicas=10), current=10, ready=10, current_floor=5).floor == 2


def test_directions():
    assert decided(signals=flight(300.0)).direction is Direction.SCALE_UP
    assert decided(signals=flight(20.0)).direction is Direction.SCALE_DOWN
    assert decided(signals=flight(150.0)).direction is Direction.NONE


def test_a_fleet_gets_the_same_answers_as_its_members():
    history, running = climbing(60.0, 4.0)
    members = [
        situation(signals=flight(running), history=history),
        situation(signals=flight(20.0)),
        situation(signals=flight(100.0, replicas_reporting=0)),
        situation(signals=flight(256.0, 60.0, request_rate=8.0, waiting_slope=4.0), start_up=Seconds(30.0)),
        situation(signals=flight(100.0), settings=EngineSettings()),
    ] * 60
    assert decide(members, now=NOW) == tuple(decide([member], now=NOW)[0] for member in members[:5]) * 60
    assert decide([], now=NOW) == ()


measured = st.one_of(st.just(UNMEASURED), st.floats(0.0, 5000.0))
ratios = st.one_of(st.just(UNMEASURED), st.floats(0.0, 1.0))


@st.composite
def anything(draw):
    expected = draw(st.integers(0, 20))
    minimum = draw(st.integers(0, 10))
    return ScalingInput(
        signals=signals(
            UnixTime(NOW - draw(st.sampled_from([0.0, 30.0, 120.0]))),
            replicas_expected=expected,
            replicas_reporting=draw(st.integers(0, expected)),
            running=draw(measured),
            waiting=draw(measured),
            waiting_slope=draw(st.one_of(st.just(UNMEASURED), st.floats(-50.0, 50.0))),
            running_max=draw(measured),
            waiting_max=draw(measured),
            running_per_replica_max=draw(measured),
            kv_cache_usage_mean=draw(ratios),
            kv_cache_usage_max=draw(ratios),
            request_rate=draw(measured),
            work_rate=draw(measured),
            queue_time_p95=draw(measured),
        ),
        settings=EngineSettings(batch_limit=draw(st.one_of(st.just(UNMEASURED), st.floats(0.0, 512.0)))),
        history=draw(st.sampled_from([LoadHistory(), climbing(60.0, 4.0)[0]])),
        current=draw(st.integers(0, 40)),
        ready=draw(st.integers(0, 40)),
        starting=draw(st.integers(0, 5)),
        minimum=minimum,
        maximum=minimum + draw(st.integers(0, 40)),
        start_up=Seconds(draw(st.floats(0.0, 3600.0))),
        memory=draw(st.sampled_from([None, NeedMemory(UnixTime(NOW - 600.0), UnixTime(NOW - 15.0), ())])),
    )


@settings(max_examples=200, deadline=None)
@given(anything())
def test_whatever_is_measured_the_answer_is_sound(given_input):
    decision = decide([given_input], now=NOW)[0]
    if isinstance(decision, Unknown):
        return
    assert given_input.minimum <= decision.desired <= given_input.maximum
    assert given_input.minimum <= decision.floor <= given_input.maximum
    assert math.isfinite(decision.need)
    assert decision.held >= decision.need or math.isclose(decision.held, decision.need)
    if decision.desired < given_input.current and given_input.current <= given_input.maximum:
        assert not decision.shrink_blocked
        assert given_input.signals.replicas_reporting == given_input.signals.replicas_expected
    assert all(math.isfinite(alternative.replicas) for alternative in decision.alternatives)


# The closed loop. A fluid service: every ready replica has SLOTS slots, a request holds one for SERVICE seconds.

SLOTS = 32.0
SERVICE = 8.0
STEP = 5.0
LOOK = 15.0


@dataclass
class Service:
    """Requests in the system, replicas, and what a scaler saw of them."""

    ready: int
    start_up: float
    in_system: float = 0.0
    starting: list[float] = field(default_factory=list)
    seen: deque = field(default_factory=lambda: deque(maxlen=5))
    worst_delay: float = 0.0
    replica_seconds: float = 0.0
    served: float = 0.0

    @property
    def asked(self):
        return self.ready + len(self.starting)

    def step(self, time, rate):
        self.ready += sum(1 for due in self.starting if due <= time)
        self.starting = [due for due in self.starting if due > time]
        done = min(self.in_system, self.ready * SLOTS) / SERVICE * STEP
        self.in_system = max(0.0, self.in_system + rate * STEP - done)
        self.served += done
        waiting = max(0.0, self.in_system - self.ready * SLOTS)
        self.worst_delay = max(self.worst_delay, waiting / (self.ready * SLOTS / SERVICE))
        self.replica_seconds += self.asked * STEP

    def ask(self, time, replicas):
        while self.asked < replicas:
            self.starting.append(time + self.start_up)
        while self.asked > replicas:
            if self.starting:
                self.starting.pop()
            else:
                self.ready -= 1

    def look(self, time):
        running = min(self.in_system, self.ready * SLOTS)
        waiting = self.in_system - running
        self.seen.append((time, running, waiting, self.served))
        first, last = self.seen[0], self.seen[-1]
        span = last[0] - first[0]
        rate = (last[3] - first[3]) / span if span else UNMEASURED
        kv = 0.6 * running / (self.ready * SLOTS)
        return signals(
            UnixTime(time),
            replicas=self.ready,
            window=Seconds(span),
            running=running,
            waiting=waiting,
            waiting_slope=(last[2] - first[2]) / span if span else UNMEASURED,
            running_max=max(entry[1] for entry in self.seen),
            waiting_max=max(entry[2] for entry in self.seen),
            running_per_replica_max=running / self.ready,
            kv_cache_usage_mean=kv,
            kv_cache_usage_max=kv,
            request_rate=rate,
            work_rate=rate if isinstance(rate, Unknown) else 1000.0 * rate,
        )


def live(rates, *, ready, start_up, forecast=True, blind=lambda time: False, minimum=1):
    """Run the loop over requests per second (one value a STEP); gives the service and (time, asked) per look."""
    service = Service(ready=ready, start_up=start_up, in_system=rates[0] * SERVICE)
    history, memory, changed, asked = LoadHistory(), None, PolicyState(), []
    limits = Limits(minimum=minimum, maximum=40, cooldown=Seconds(120.0))
    for index, rate in enumerate(rates):
        time = NOW + index * STEP
        service.step(time, rate)
        if (index * STEP) % LOOK:
            continue
        seen = service.look(time)
        if blind(index * STEP):
            seen = replace(seen, running=UNMEASURED, waiting=UNMEASURED, kv_cache_usage_mean=UNMEASURED)
        history.observe(seen, service.ready)
        decision = decide(
            [
                ScalingInput(
                    signals=seen,
                    settings=EngineSettings(batch_limit=SLOTS, batch_limit_source="argument"),
                    history=history,
                    current=service.asked,
                    ready=service.ready,
                    starting=len(service.starting),
                    minimum=minimum,
                    maximum=40,
                    start_up=Seconds(start_up),
                    memory=memory,
                    forecast_enabled=forecast,
                )
            ],
            now=UnixTime(time),
        )[0]
        asked.append((index * STEP, service.asked))
        if isinstance(decision, Unknown):
            continue
        memory = decision.memory
        value = clamp(decision.desired, current=service.asked, limits=limits, state=changed, now=UnixTime(time)).value
        if value != service.asked:
            changed = PolicyState(last_change=UnixTime(time), last_direction=decision.direction)
            service.ask(time, value)
            asked[-1] = (index * STEP, value)
    return service, asked


def changes(asked):
    return sum(1 for (_, a), (_, b) in itertools.pairwise(asked) if a != b)


def steps(seconds):
    return int(seconds / STEP)


def hill(low, high, *, flat, climb):
    """Flat, up, flat, down, flat."""
    up = np.linspace(low, high, steps(climb))
    return np.concatenate(
        [np.full(steps(flat), low), up, np.full(steps(flat), high), up[::-1], np.full(steps(flat), low)]
    )


@pytest.mark.parametrize("start_up", [60.0, 180.0])
def test_it_rises_before_the_queue_hurts_and_falls_afterwards(start_up):
    # A ramp over 30 minutes from 3 to 12 replicas' worth of work; one replica serves 4 requests/s.
    rates = hill(8.0, 40.0, flat=1800, climb=1800)
    service, asked = live(rates, ready=4, start_up=start_up)
    assert service.worst_delay < 10.0
    assert max(count for _, count in asked) >= 14
    assert asked[-1][1] <= 4
    # Less than what holding the peak would have cost, and no more than twice what the work needed.
    assert service.replica_seconds < 0.75 * 15 * len(rates) * STEP
    assert service.replica_seconds < 2.0 * sum(rates) * STEP / (SLOTS / SERVICE)


def test_the_forecast_is_what_saves_a_steep_ramp():
    rates = hill(8.0, 60.0, flat=1800, climb=1800)
    with_forecast, _ = live(rates, ready=4, start_up=300.0)
    without, _ = live(rates, ready=4, start_up=300.0, forecast=False)
    assert with_forecast.worst_delay < without.worst_delay
    assert with_forecast.worst_delay < 10.0 < without.worst_delay


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("level", [9.0, 22.4, 44.8])
def test_constant_noisy_load_does_not_flap(seed, level):
    noise = np.random.default_rng(seed).normal(1.0, 0.1, steps(3 * 3600))
    ready = math.ceil(level * SERVICE / (SLOTS * 0.7))
    service, asked = live(level * np.maximum(noise, 0.0), ready=ready, start_up=120.0)
    assert changes(asked) <= 8
    counts = [count for time, count in asked if time > 1800.0]
    assert max(counts) - min(counts) <= 2
    assert service.worst_delay < 1.0


def test_unknown_data_changes_nothing():
    rates = np.full(steps(7200), 30.0)
    rates[steps(3600) :] = 2.0
    service, asked = live(rates, ready=12, start_up=60.0, blind=lambda time: time > 3000.0)
    after = [count for time, count in asked if time > 3000.0]
    assert len(set(after)) == 1
    assert service.asked == after[0]


def test_a_sudden_burst_is_cleared():
    rates = np.full(steps(5400), 8.0)
    rates[steps(1800) : steps(2400)] = 60.0
    service, asked = live(rates, ready=4, start_up=60.0)
    late = [count for time, count in asked if 1800.0 <= time <= 2000.0]
    assert max(late) >= 14
    assert service.in_system < 100.0
    assert asked[-1][1] <= 5
