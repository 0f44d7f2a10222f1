"""What is estimated of containers: behaviour that people would notice, and properties that must hold for any use."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.right_sizing import (
    ContainerUsage,
    SizingPolicy,
    SizingReason,
    UsageHistory,
    estimate,
    remember,
)

DAY = 86_400.0
GIB = 2.0**30
UNMEASURED = Unknown(UnknownReason.NOT_MEASURED)


def history_of(days, *, cpu=1.0, memory=GIB, step=300.0, begin=0.0):
    """Make a history; `cpu` and `memory` are numbers or functions of the time in days."""
    time = np.arange(begin * DAY, (begin + days) * DAY, step)
    cores, used = (np.array([of(t / DAY) if callable(of) else of for t in time], dtype=float) for of in (cpu, memory))
    history = UsageHistory()
    history.observe_many(time, cores, used)
    return history


def size(history, *, days, policy=None):
    (found,) = estimate([history], now=days * DAY, policy=policy)
    return found


def test_steady_use_gets_a_little_more_than_it_uses():
    found = size(history_of(14), days=14)
    assert 1.0 < found.cpu.target < 1.1
    assert GIB < found.memory.target < 1.6 * GIB
    assert found.cpu.reason is found.memory.reason is SizingReason.SETTLED
    assert found.memory.exceedance <= 0.01 + 1e-9


def test_what_is_not_known_is_said_and_never_sized():
    (found,) = estimate([UsageHistory()], now=DAY)
    assert found.cpu.reason is found.memory.reason is UnknownReason.NOT_MEASURED
    only_memory = UsageHistory()
    only_memory.observe(ContainerUsage(0.0, UNMEASURED, GIB))
    found = size(only_memory, days=1)
    assert isinstance(found.cpu, Unknown)
    assert found.memory.target > GIB


def test_old_and_future_measurements_are_refused_with_their_reason():
    history = history_of(3)
    assert size(history, days=40).cpu.reason is UnknownReason.STALE
    ahead = size(history, days=1)
    assert ahead.memory.reason is UnknownReason.INVALID
    assert "clock" in ahead.memory.detail


@pytest.mark.parametrize("hours", [0.0, 1.0, 12.0])
def test_a_young_container_is_sized_wide_and_says_so(hours):
    young, old = history_of(max(hours / 24.0, 0.003)), history_of(14)
    first = size(young, days=max(hours / 24.0, 0.003))
    known = size(old, days=14)
    for resource in ("cpu", "memory"):
        assert getattr(first, resource).reason is SizingReason.COLD_START
        assert getattr(first, resource).target > getattr(known, resource).target
        assert getattr(first, resource).confidence < 0.3 < getattr(known, resource).confidence


def test_a_container_with_growing_memory_gets_room_for_tomorrow():
    leak = history_of(12, memory=lambda day: GIB * (1.0 + 0.05 * day))
    found = size(leak, days=12).memory
    assert found.reason is SizingReason.GROWTH
    assert found.growth_per_day == pytest.approx(0.05 / 1.5, rel=0.1)
    assert found.target > GIB * (1.0 + 0.05 * 13)


def test_growing_cpu_is_followed_ahead_of_time():
    found = size(history_of(14, cpu=lambda day: 1.1**day), days=14).cpu
    assert found.reason is SizingReason.GROWTH
    assert found.target > 1.1**14.5


def test_a_weekly_peak_is_remembered_on_its_day():
    def use(day):
        return 4.0 if int(day) % 7 == 0 else 1.0

    history = history_of(28, cpu=use)
    before = size(history, days=28).cpu
    history.observe_many(*(values[-288:] for values in samples(use, 29)))
    after = size(history, days=29).cpu
    assert before.reason is SizingReason.WEEKLY_PEAK
    assert after.reason is not SizingReason.WEEKLY_PEAK
    assert before.target > 4.0


def samples(use, days):
    time = np.arange(0.0, days * DAY, 300.0)
    return time, np.array([use(t / DAY) for t in time]), np.full(len(time), GIB)


def test_a_kill_raises_memory_and_is_forgotten_again():
    history = history_of(20, memory=lambda day: GIB)
    quiet = size(history, days=20).memory
    history.observe_out_of_memory(time=20 * DAY, used=2.0 * GIB)
    raised = size(history, days=20).memory
    assert raised.reason is SizingReason.OUT_OF_MEMORY
    assert raised.target >= 2.4 * GIB
    time, cpu, memory = samples(lambda _: 1.0, 40)
    history.observe_many(time, cpu, memory)
    forgotten = size(history, days=40).memory
    assert forgotten.reason is SizingReason.SETTLED
    assert forgotten.target <= 1.05 * quiet.target


def test_repeated_kills_at_one_limit_do_not_inflate():
    history = history_of(5)
    for day in range(5, 60):
        history.observe_out_of_memory(time=day * DAY, used=GIB)
    assert size(history, days=60).memory.target < 2.0 * GIB


def test_what_it_used_while_starting_is_kept_apart():
    history = history_of(10)
    plain = size(history, days=10)
    assert isinstance(plain.memory.start_up_peak, Unknown)
    history.observe(ContainerUsage(10 * DAY - 1.0, 6.0, 5.0 * GIB, starting=True))
    found = size(history, days=10)
    assert found.cpu.target == plain.cpu.target
    assert found.memory.target == plain.memory.target
    assert (found.cpu.start_up_peak, found.memory.start_up_peak) == (6.0, 5.0 * GIB)
    assert found.cpu.limit >= 6.0
    assert found.memory.limit > 5.0 * GIB


def test_headroom_goes_where_it_buys_most():
    """One container has an edge, the other none: at one price of harm the second is left with more risk."""
    draw = np.random.default_rng(3)
    flat = history_of(20, cpu=lambda _: draw.uniform(0.95, 1.0))
    ragged = history_of(20, cpu=lambda _: draw.pareto(1.5) + 0.5)
    together = [one.cpu for one in estimate([flat, ragged], now=20 * DAY)]
    alone = [size(one, days=20).cpu for one in (flat, ragged)]
    assert together[0].exceedance <= alone[0].exceedance
    assert together[1].target < alone[1].target
    assert sum(one.target for one in together) < sum(one.target for one in alone)
    assert together[1].exceedance <= 0.14


def test_advice_that_was_exceeded_makes_the_next_one_careful():
    unlucky, lucky = history_of(20), history_of(20)
    before = size(unlucky, days=20)
    for day in range(20, 32):
        now = day * DAY
        for history, factor in ((unlucky, 3.0), (lucky, 1.0)):
            (found,) = estimate([history], now=now)
            remember(history, found, now=now)
            peak = found.memory.target * 1.01 if factor > 1.0 else GIB
            history.observe(ContainerUsage(now + 60.0, factor * found.cpu.target, peak))
    assert unlucky.kept.memory_judged.exceeded > 8.0
    assert lucky.kept.memory_judged.exceeded == 0.0
    assert size(unlucky, days=32).memory.uncalibrated < before.memory.uncalibrated


def test_only_a_days_first_advice_is_judged():
    history = history_of(5)
    (first,) = estimate([history], now=5 * DAY)
    remember(history, first, now=5 * DAY)
    history.observe(ContainerUsage(5 * DAY + 60.0, 1.0, 9.0 * GIB))
    (later,) = estimate([history], now=5 * DAY + 120.0)
    assert later.memory.target > 9.0 * GIB
    remember(history, later, now=5 * DAY + 120.0)
    history.observe(ContainerUsage(6 * DAY, 1.0, GIB))
    assert history.kept.memory_judged.exceeded == 1.0


def test_the_same_question_has_the_same_answer():
    history = history_of(9, cpu=lambda day: 1.0 + math.sin(day) ** 2)
    assert size(history, days=9) == size(history, days=9)


use = st.lists(
    st.tuples(
        st.integers(0, 40 * 24),
        st.one_of(st.none(), st.floats(0.0, 64.0)),
        st.one_of(st.none(), st.floats(0.0, 1e12)),
        st.booleans(),
    ),
    max_size=60,
)


def observed(entries):
    history = UsageHistory()
    for hour, cpu, memory, starting in entries:
        history.observe(
            ContainerUsage(
                hour * 3600.0,
                UNMEASURED if cpu is None else cpu,
                UNMEASURED if memory is None else memory,
                starting=starting,
            )
        )
    return history


@settings(max_examples=150, deadline=None)
@given(fleet=st.lists(use, min_size=1, max_size=4), kill=st.one_of(st.none(), st.floats(0.0, 1e12)))
def test_estimates_are_numbers_in_order_and_above_the_floor(fleet, kill):
    histories = [observed(entries) for entries in fleet]
    if kill is not None:
        histories[0].observe_out_of_memory(time=39 * DAY, used=kill)
    policy = SizingPolicy()
    for both in estimate(histories, now=41 * DAY, policy=policy):
        for one, least in ((both.cpu, policy.least_cpu), (both.memory, policy.least_memory)):
            if isinstance(one, Unknown):
                assert one.detail
                continue
            numbers = (one.lower, one.target, one.upper, one.limit, one.exceedance, one.confidence, one.days)
            assert all(math.isfinite(number) for number in numbers)
            assert least <= one.lower <= one.target <= one.upper <= one.limit
            assert 0.0 <= one.exceedance <= 1.0
            assert 0.0 <= one.confidence <= 1.0
            values = [value for _, value in one.percentiles]
            assert values == sorted(values)


@settings(max_examples=80, deadline=None)
@given(entries=use, factor=st.floats(1.1, 8.0))
def test_more_use_is_never_sized_lower(entries, factor):
    more = [
        (hour, cpu and cpu * factor, memory and memory * factor, starting) for hour, cpu, memory, starting in entries
    ]
    (less,), (greater,) = (estimate([observed(one)], now=41 * DAY) for one in (entries, more))
    for resource in ("cpu", "memory"):
        small, large = getattr(less, resource), getattr(greater, resource)
        assert isinstance(small, Unknown) == isinstance(large, Unknown)
        if not isinstance(small, Unknown):
            assert large.target >= small.target * 0.97


@settings(max_examples=80, deadline=None)
@given(entries=use, strict=st.floats(0.001, 0.01))
def test_less_harm_allowed_is_never_sized_lower(entries, strict):
    strictly = SizingPolicy(cpu_over_time=strict, memory_exceedance=strict)
    loosely = SizingPolicy(cpu_over_time=0.05, memory_exceedance=0.05)
    (careful,), (bold,) = (estimate([observed(entries)], now=41 * DAY, policy=one) for one in (strictly, loosely))
    for resource in ("cpu", "memory"):
        small, large = getattr(bold, resource), getattr(careful, resource)
        if not isinstance(small, Unknown):
            assert large.target >= small.target


@pytest.mark.parametrize(
    "change", [{"cpu_over_time": 0.0}, {"memory_exceedance": 0.2}, {"least_cpu": 0.0}, {"least_memory": math.inf}]
)
def test_a_policy_that_cannot_be_is_refused(change):
    with pytest.raises(ValueError, match="SizingPolicy"):
        SizingPolicy(**change)
