"""Scaling of whole services: loads from engines' ticks, the scaler's decision, the what-if, and what survives."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.evidence import Direction
from optiinfra.domain.histogram import InvalidCheckpointError
from optiinfra.domain.pace import Pace
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.replica_capacity import Basis
from optiinfra.domain.scaler.decision import ScalerReason
from optiinfra.domain.scaling import ScalerMemory, ScalingDecision, ScalingInput, decide
from optiinfra.domain.scaling_rules import Rule, rule_of
from optiinfra.domain.units import Seconds, UnixTime
from tests.unit.domain.scaling_service import (
    CAPACITY,
    LINEAR,
    LOOK,
    NOW,
    SERVICE,
    SLOTS,
    STEP,
    UNMEASURED,
    born,
    sample,
    signals,
)


def steps(seconds):
    return int(seconds / STEP)


def hill(low, high, *, flat, climb):
    """Flat, up, flat, down, flat."""
    up = np.linspace(low, high, steps(climb))
    return np.concatenate(
        [np.full(steps(flat), low), up, np.full(steps(flat), high), up[::-1], np.full(steps(flat), low)]
    )


def changes(asked):
    return sum(1 for (_, a), (_, b) in itertools.pairwise(asked) if a != b)


@pytest.mark.parametrize("start_up", [60.0, 180.0])
def test_it_rises_before_the_queue_hurts_and_falls_afterwards(start_up):
    # A ramp over 30 minutes from 2 to 10 replicas' worth of work; one replica serves 4 requests/s.
    rates = hill(8.0, 40.0, flat=900, climb=1500)
    life = born(rates, ready=4, start_up=start_up).run(rates)
    assert life.service.worst_delay < 10.0
    assert max(count for _, count in life.asked) <= 17
    assert life.asked[-1][1] <= 10
    assert life.service.replica_seconds < 1.9 * sum(rates) * STEP / (SLOTS / SERVICE)


def test_the_forecast_is_what_saves_a_steep_ramp():
    rates = hill(8.0, 60.0, flat=600, climb=1200)
    with_forecast = born(rates, ready=4, start_up=300.0).run(rates)
    without = born(rates, ready=4, start_up=300.0, forecast=False).run(rates)
    assert with_forecast.service.worst_delay < without.service.worst_delay


@pytest.mark.parametrize("level", [9.0, 44.8])
def test_constant_noisy_load_does_not_flap(level):
    noise = np.random.default_rng(1).normal(1.0, 0.1, steps(3600))
    rates = level * np.maximum(noise, 0.0)
    life = born(rates, ready=math.ceil(level * SERVICE / (SLOTS * 0.7)), start_up=120.0).run(rates)
    assert changes(life.asked) <= 6
    assert life.service.worst_delay < 1.0


def test_unknown_load_changes_nothing_and_says_why():
    rates = np.full(steps(5400), 30.0)
    rates[steps(2700) :] = 2.0
    life = born(rates, ready=10).run(rates, blind=lambda time: time > 2400.0)
    assert len({count for time, count in life.asked if time > 2400.0}) == 1
    assert isinstance(life.decisions[-1], Unknown)
    assert life.decisions[-1].reason is UnknownReason.UNREACHABLE


def test_a_sudden_burst_is_cleared_and_given_back():
    rates = np.full(steps(5400), 8.0)
    rates[steps(900) : steps(1500)] = 60.0
    life = born(rates, ready=4).run(rates)
    # The backlog of a start-up is cleared in time, not in proportion: 15 replicas would serve the burst alone.
    assert max(count for time, count in life.asked if 900.0 <= time <= 1100.0) > 16
    assert life.service.in_system < 100.0
    assert life.asked[-1][1] <= 5
    assert any(isinstance(one, ScalingDecision) and one.rule is Rule.QUEUE_DRAIN for one in life.decisions)


def test_capacity_is_learned_while_work_waits():
    rates = np.full(steps(1800), 40.0)
    life = born(rates, ready=4, maximum=6).run(rates)
    learned = life.decisions[-1].capacity
    assert learned.basis is Basis.MEASURED
    assert learned.work == pytest.approx(CAPACITY, rel=0.03)
    assert life.decisions[-1].rule is Rule.AT_MAXIMUM


def test_an_idle_service_gives_all_but_the_minimum_back_once_its_load_is_known():
    # What ran at the beginning somebody chose; that counts less and less for an hour.
    rates = np.zeros(steps(4200))
    life = born(rates, ready=6).run(rates)
    assert life.asked[-1][1] == 1
    first = life.decisions[0]
    assert (first.desired, first.rule) == (6, Rule.PRIOR) or first.rule is Rule.HOLD
    early = [one for (time, _), one in zip(life.asked, life.decisions, strict=True) if time < 150.0]
    assert all(one.desired == 6 for one in early)


def test_without_step_times_it_goes_down_in_small_steps():
    rates = np.full(steps(3600), 1.6)
    life = born(rates, ready=10, pace=Pace()).run(rates)
    counts = [count for _, count in life.asked]
    assert counts[-1] < 10
    assert all(a - b <= max(1, a // 5) for a, b in itertools.pairwise(counts))
    assert life.decisions[-1].capacity.basis is Basis.OCCUPANCY
    assert "guess" in life.decisions[-1].message


# What is not a load


def decided(**values):
    rates = np.full(steps(900), 16.0)
    life = born(rates, ready=8).run(rates)
    time = UnixTime(NOW + life.looked)
    life.service.step(time, 16.0)
    return life.look(time, follow=False, **values)


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"replicas_reporting": 7}, "7 of 8 replicas report"),
        ({"waiting": 20.0}, "20 requests wait"),
        ({"waiting": UNMEASURED}, "requests in flight are not known"),
        ({"inter_token_latency_p95": 0.2}, "inter-token latency p95 is 0.2 s"),
        ({"time_to_first_token_p95": 5.0}, "time to first token p95 is 5 s"),
    ],
)
def test_what_blocks_a_fall_is_said(changed, word):
    rates = np.concatenate([np.full(steps(900), 16.0), np.full(steps(1800), 4.0)])
    life = born(rates, ready=8).run(rates)
    time = UnixTime(NOW + life.looked)
    life.service.step(time, 4.0)
    life.service.ask(time, 8)
    life.service.ready, life.service.starting = 8, []
    given = life.input(hold=Seconds(0.0))
    decision = decide([replace(given, signals=replace(given.signals, **changed))], now=time)[0].decision
    if isinstance(decision, Unknown):
        pytest.fail(str(decision))
    assert decision.desired == 8
    assert any(word in reason for reason in decision.shrink_blocked), decision.shrink_blocked


def test_a_replica_that_is_not_ready_blocks_a_fall():
    decision = decided(ready=7, current=8)
    assert "7 of 8 replicas are ready" in decision.shrink_blocked
    assert decision.desired >= 8


def test_paused_means_what_runs():
    decision = decided(paused=True)
    assert (decision.desired, decision.rule) == (decision.current, Rule.PAUSED)


def test_more_by_hand_is_respected_for_a_while():
    decision = decided(current=20, ready=20)
    assert decision.desired == 20


def test_missing_replicas_are_not_falling_load():
    rates = np.full(steps(1800), 30.0)
    life = born(rates, ready=10).run(rates)
    time = UnixTime(NOW + life.looked)
    life.service.step(time, 30.0)
    whole = life.service.sample()
    half = replace(whole, reporting=5, running=whole.running / 2, served=whole.served / 2, arrived=whole.arrived / 2)
    before = life.decisions[-1].load.replicas
    partial = life.input(samples=(half,))
    decision = decide([replace(partial, signals=replace(partial.signals, replicas_reporting=5))], now=time)[0].decision
    assert decision.load.replicas == pytest.approx(before)


def test_nobody_reports():
    given = born([8.0], ready=4)
    given.service.step(NOW, 8.0)
    silent = given.input(signals=signals(replicas_reporting=0), samples=(sample(reporting=0),))
    outcome = decide([silent], now=NOW)[0]
    assert isinstance(outcome.decision, Unknown)
    assert outcome.decision.reason is UnknownReason.UNREACHABLE
    assert outcome.decision.detail == "none of 4 replicas reports"


def test_nothing_that_limits_is_known():
    life = born([8.0], ready=4)
    life.service.step(NOW, 8.0)
    lost = sample(running=UNMEASURED, served=UNMEASURED, finished=UNMEASURED, arrived=UNMEASURED, kv_cache=UNMEASURED)
    decision = decide([life.input(samples=(lost,), settings=EngineSettings())], now=NOW)[0].decision
    assert isinstance(decision, Unknown)
    assert "no page" in decision.detail


# Time


def test_asking_twice_within_a_tick_answers_the_same():
    rates = np.full(steps(1800), 30.0)
    life = born(rates, ready=10).run(rates)
    time = UnixTime(NOW + life.looked)
    life.service.step(time, 30.0)
    given = life.input()
    first = decide([given], now=time)[0]
    again = decide([replace(given, memory=first.memory, samples=())], now=UnixTime(time + 4.0))[0]
    assert again.decision.desired == first.decision.desired
    assert again.decision.load.replicas == pytest.approx(first.decision.load.replicas)
    assert again.memory.tick == first.memory.tick


def test_the_ticks_that_are_due():
    memory = ScalerMemory()
    assert memory.ticks_due(now=NOW, tick=Seconds(15.0)) == (NOW,)
    life = born([8.0], ready=4).run([8.0])
    known = life.memory
    assert known.ticks_due(now=UnixTime(NOW + 3.0), tick=Seconds(15.0)) == ()
    assert known.ticks_due(now=UnixTime(NOW + 31.0), tick=Seconds(15.0)) == (NOW + 16.0, NOW + 31.0)
    assert len(known.ticks_due(now=UnixTime(NOW + 7200.0), tick=Seconds(15.0))) == 4
    # The clock was set back: the present is read again.
    assert known.ticks_due(now=UnixTime(NOW - 3600.0), tick=Seconds(15.0)) == (NOW - 3600.0,)


@pytest.mark.parametrize("jump", [3600.0, -3600.0, 86_400.0])
def test_a_gap_or_a_clock_step_is_survived(jump):
    rates = np.full(steps(3600), 30.0)
    life = born(rates, ready=10).run(rates)
    before = life.asked[-1][1]
    time = UnixTime(NOW + life.looked + jump)
    life.service.seen.clear()
    life.service.step(UnixTime(time - STEP), 30.0)
    life.service.step(time, 30.0)
    decision = life.look(time, follow=False)
    assert abs(decision.desired - before) <= 1


def test_a_shorter_tick_is_the_same_life_faster():
    """Every time of the scaler is counted in ticks: with ticks of 3 s, five times faster, decisions are alike."""
    rates = hill(8.0, 40.0, flat=300, climb=600)

    def counts(pace_of_time):
        life = born(rates, ready=4, start_up=90.0)
        answers = []
        for index, rate in enumerate(rates):
            life.service.step(UnixTime(NOW + index * STEP), rate)
            if index % 3:
                continue
            one, seen = life.service.sample(), life.service.signals()
            moment = UnixTime(NOW + index * STEP / pace_of_time)
            given = life.input(
                signals=replace(seen, time=moment),
                samples=(replace(one, time=moment),),
                tick=Seconds(LOOK / pace_of_time),
                hold=Seconds(0.0),
                start_up_p50=Seconds(90.0 / pace_of_time),
                start_up_p95=Seconds(90.0 / pace_of_time),
                objectives=replace(life.input().objectives, queue_delay=Seconds(10.0 / pace_of_time)),
            )
            outcome = decide([given], now=moment)[0]
            life.memory = outcome.memory
            answers.append(outcome.decision.desired)
            life.service.ask(NOW + index * STEP, outcome.decision.desired)
        return answers

    # Windows of 20 ticks begin at other moments, so that a step may come a little earlier or later.
    usual, fast = np.array(counts(1.0)), np.array(counts(5.0))
    assert np.abs(usual - fast).max() <= 2
    assert np.mean(usual != fast) <= 0.4


def test_a_restart_goes_on_where_it_was():
    rates = hill(8.0, 40.0, flat=600, climb=900)
    life = born(rates, ready=4)
    for cut in range(0, len(rates), steps(300)):
        life.run(rates[cut : cut + steps(300)])
        time = UnixTime(NOW + life.looked)
        life.service.step(time, rates[min(cut + steps(300), len(rates) - 1)])
        reborn = ScalerMemory.from_bytes(life.memory.to_bytes())
        kept = decide([life.input()], now=time)[0].decision
        fresh = decide([life.input(memory=reborn)], now=time)[0].decision
        assert abs(kept.desired - fresh.desired) <= 1
        life.looked += STEP if life.looked % LOOK else LOOK


def test_a_checkpoint_is_small_and_a_damaged_one_is_refused():
    rates = np.full(steps(3600), 30.0)
    data = born(rates, ready=10).run(rates).memory.to_bytes()
    assert len(data) < 16_384
    assert ScalerMemory.from_bytes(b"").row is None
    for wrong in (data[:-3], data[:40], b"x" * len(data)):
        with pytest.raises(InvalidCheckpointError):
            ScalerMemory.from_bytes(wrong)


# Fleets


def test_a_fleet_gets_the_same_answers_as_its_members():
    inputs = []
    for number in range(6):
        rates = np.full(steps(600), 6.0 + 5.0 * number)
        life = born(rates, ready=2 + number, forecast=number % 2 == 0).run(rates)
        life.service.step(UnixTime(NOW + 600.0), rates[0] * 1.5)
        inputs.append(life.input(tick=Seconds(15.0)))
    together = decide(inputs, now=UnixTime(NOW + 600.0))
    for given_input, outcome in zip(inputs, together, strict=True):
        alone = decide([given_input], now=UnixTime(NOW + 600.0))[0]
        one, other = alone.decision, outcome.decision
        assert (one.desired, one.floor, one.rule, one.message) == (
            other.desired,
            other.floor,
            other.rule,
            other.message,
        )
        assert one.need == pytest.approx(other.need, rel=1e-5)
        assert one.capacity == other.capacity


def test_more_load_never_asks_for_less():
    rates = np.full(steps(1200), 20.0)
    life = born(rates, ready=8).run(rates)
    time = UnixTime(NOW + life.looked)
    life.service.step(time, 20.0)
    one = life.service.sample()
    answers = []
    for factor in (0.5, 0.8, 1.0, 1.2, 1.5, 2.0, 4.0):
        more = replace(one, arrived=one.arrived * factor, served=one.served, waiting=max(0.0, factor - 1.0) * 50.0)
        answers.append(decide([life.input(samples=(more,))], now=time)[0].decision.desired)
    assert answers == sorted(answers)


def test_every_reason_of_the_scaler_has_a_rule():
    others = {Rule.HOLD, Rule.PEAKS, Rule.MIX, Rule.NO_REQUESTS, Rule.ASLEEP, Rule.WAKING}
    assert {rule_of(reason) for reason in ScalerReason} == set(Rule) - others


VALUE = st.one_of(st.just(UNMEASURED), st.floats(0.0, 1e6))
SHARE = st.one_of(st.just(UNMEASURED), st.floats(0.0, 1.0))


@st.composite
def anything(draw):
    minimum = draw(st.integers(0, 5))
    replicas = draw(st.integers(0, 20))
    reporting = draw(st.integers(0, replicas))
    measured = {name: draw(VALUE) for name in ("running", "waiting", "running_max", "waiting_max", "work_rate")}
    heard = {name: draw(VALUE) for name in ("running", "waiting", "served", "finished", "arrived")}
    return ScalingInput(
        signals=signals(replicas=replicas, replicas_reporting=reporting, kv_cache_usage_max=draw(SHARE), **measured),
        samples=tuple(
            sample(UnixTime(NOW - 15.0 * back), expected=replicas, reporting=reporting, kv_cache=draw(SHARE), **heard)
            for back in reversed(range(draw(st.integers(0, 3))))
        ),
        fresh=draw(st.sampled_from([None, sample(running=512.0, waiting=300.0)])),
        settings=EngineSettings(batch_limit=draw(st.one_of(st.just(UNMEASURED), st.floats(0.0, 512.0)))),
        current=draw(st.integers(0, 40)),
        ready=draw(st.integers(0, 40)),
        minimum=minimum,
        maximum=minimum + draw(st.integers(0, 40)),
        start_up_p50=Seconds(draw(st.floats(0.0, 3600.0))),
        start_up_p95=Seconds(draw(st.floats(0.0, 3600.0))),
        memory=ScalerMemory(),
        pace=draw(st.sampled_from([LINEAR, Pace()])),
        hold=Seconds(draw(st.sampled_from([0.0, 180.0]))),
        current_floor=draw(st.integers(0, 50)),
        paused=draw(st.booleans()),
    )


@settings(max_examples=150, deadline=None)
@given(st.lists(anything(), min_size=1, max_size=3))
def test_whatever_is_measured_the_answer_is_sound(inputs):
    outcomes = decide(inputs, now=NOW)
    assert len(outcomes) == len(inputs)
    for given_input, outcome in zip(inputs, outcomes, strict=True):
        decision = outcome.decision
        if isinstance(decision, Unknown):
            assert decision.detail
            continue
        assert given_input.minimum <= decision.desired <= given_input.maximum
        assert given_input.minimum <= decision.floor <= given_input.maximum
        assert math.isfinite(decision.need)
        assert math.isfinite(decision.load.replicas)
        assert decision.lower <= decision.desired <= decision.upper
        assert 0.0 <= decision.confidence <= 1.0
        if decision.desired < given_input.current and given_input.current <= given_input.maximum:
            assert not decision.shrink_blocked
            assert given_input.signals.replicas_reporting == given_input.signals.replicas_expected
        assert (decision.direction is Direction.NONE) == (decision.desired == decision.current)


def test_a_queue_before_full_replicas_need_not_wait_for_a_tick():
    rates = np.full(steps(1800), 16.0)
    life = born(rates, ready=6).run(rates)
    time = UnixTime(NOW + life.looked)
    life.service.step(time, 16.0)
    ready = life.service.ready
    first = decide([life.input()], now=time)[0]
    full = sample(reporting=ready, expected=ready, running=SLOTS * ready, waiting=60.0 * ready)
    soon = UnixTime(time + 5.0)
    urgent = decide([life.input(memory=first.memory, samples=(), fresh=full)], now=soon)[0]
    assert urgent.decision.rule is Rule.QUEUE_DRAIN
    assert ready < urgent.decision.desired <= ready + max(4, ready)
    assert urgent.decision.need > ready
    assert urgent.decision.load.backlog > 0.0
    assert "replica-seconds of work wait" in urgent.decision.message
    # It was an order of ours: while what it asked for starts it stands, and nobody else is taken to have given it.
    count = urgent.decision.desired
    busy = signals(replicas=ready, running=SLOTS * ready, waiting=60.0 * ready)
    later = life.input(signals=busy, samples=(full,), fresh=full, current=count, ready=ready, memory=urgent.memory)
    stands = decide([later], now=UnixTime(time + 15.0))[0].decision
    assert stands.desired >= count
    assert stands.rule is not Rule.CHANGED_BY_OTHERS


@pytest.mark.parametrize(
    "changed",
    [
        {"running": 40.0},  # room: who waits is taken in by the next step
        {"waiting": 3.0},  # hardly anybody
        {"reporting": 1},  # not everybody was heard
    ],
)
def test_what_is_no_queue_before_full_replicas_waits_for_its_tick(changed):
    rates = np.full(steps(1800), 16.0)
    life = born(rates, ready=6).run(rates)
    ready = life.service.ready
    known = {"reporting": ready, "expected": ready, "running": SLOTS * ready, "waiting": 200.0} | changed
    given = life.input(samples=(), fresh=sample(**known))
    decision = decide([given], now=UnixTime(NOW + life.looked - STEP))[0].decision
    assert decision.desired <= given.current


def test_who_has_heard_nothing_yet_listens_again_in_the_same_tick():
    life = born([8.0], ready=4)
    life.service.step(NOW, 8.0)
    silent = life.input(signals=signals(replicas_reporting=0), samples=(sample(reporting=0),))
    first = decide([silent], now=NOW)[0]
    soon = UnixTime(NOW + 3.0)
    assert first.memory.ticks_due(now=soon, tick=Seconds(15.0)) == (soon,)
    again = decide([life.input(memory=first.memory)], now=soon)[0]
    assert isinstance(again.decision, ScalingDecision)
    assert again.memory.tick > 0


def test_an_order_that_policy_or_a_mix_changed_is_still_ours():
    rates = np.full(steps(1800), 30.0)
    life = born(rates, ready=10).run(rates)
    time = UnixTime(NOW + life.looked)
    life.service.step(time, 30.0)
    more = life.service.asked + 3
    mixed = decide([life.input(current=more, ready=more, ordered=more)], now=time)[0].decision
    by_hand = decide([life.input(current=more, ready=more)], now=time)[0].decision
    assert mixed.rule is not Rule.CHANGED_BY_OTHERS
    assert by_hand.rule is Rule.CHANGED_BY_OTHERS
