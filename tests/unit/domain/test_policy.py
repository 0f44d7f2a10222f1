"""Policy: limits that hold for every number, and who has to agree."""

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from optiinfra.domain.evidence import Direction
from optiinfra.domain.policy import (
    OPEN,
    Axis,
    Gates,
    Limit,
    LimitReason,
    Limits,
    Mode,
    Permit,
    PolicyState,
    Removable,
    Running,
    beyond_tolerance,
    clamp,
    delayed,
    permitted,
)
from optiinfra.domain.units import Seconds, UnixTime

NOW = UnixTime(1.7e9)
QUIET = PolicyState()
SHUT = LimitReason(Limit.MAINTENANCE_WINDOW, "no maintenance window is open")
BLACKOUT = LimitReason(Limit.BLACKOUT_WINDOW, "a blackout holds")
CLOSED = Gates(scale_down=SHUT, resize=SHUT)
FROZEN = Gates(scale_up=BLACKOUT, scale_down=BLACKOUT, resize=BLACKOUT)
REMOVABLE = st.none() | st.builds(Removable, replicas=st.integers(0, 5), why=st.just("a budget"))


def limits_of(draw):
    minimum = draw(st.integers(0, 50))
    return Limits(
        minimum=minimum,
        maximum=minimum + draw(st.integers(0, 100)),
        max_replica_step=draw(st.integers(1, 20)),
        max_gpu_step=draw(st.integers(1, 64)),
        gpus_per_replica=draw(st.sampled_from([0.0, 0.5, 1.0, 8.0, 16.0])),
        cooldown=Seconds(draw(st.sampled_from([0.0, 300.0]))),
        rise_cooldown=Seconds(draw(st.sampled_from([0.0, 0.0, 60.0]))),
        fall_cooldown=draw(st.sampled_from([None, Seconds(0.0), Seconds(900.0)])),
        resize_cooldown=draw(st.sampled_from([None, Seconds(900.0)])),
        min_available=draw(st.integers(0, 20)),
    )


@st.composite
def situations(draw):
    changed = draw(st.one_of(st.none(), st.floats(-100.0, 1000.0)))
    times = {
        name: None if (ago := draw(st.none() | st.floats(-100.0, 1000.0))) is None else UnixTime(NOW - ago)
        for name in ("raised", "lowered", "resized", "reconfigured")
    }
    state = PolicyState(
        last_change=None if changed is None else UnixTime(NOW - changed),
        last_direction=draw(st.sampled_from(Direction)),
        in_flight=draw(st.sampled_from(["", "a1"])),
        **times,
    )
    return {
        "current": draw(st.integers(0, 150)),
        "limits": limits_of(draw),
        "state": state,
        "now": NOW,
        "gates": draw(st.sampled_from([OPEN, CLOSED, FROZEN])),
        "running": draw(st.none() | st.builds(Running, ready=st.integers(0, 150), removable=REMOVABLE)),
    }


proposals = st.integers(-5, 400)


@given(proposals, situations())
def test_never_outside_minimum_and_maximum(proposed, situation):
    limits = situation["limits"]
    assert limits.minimum <= clamp(proposed, **situation).value <= limits.maximum


@given(proposals, situations())
def test_never_more_than_a_step_when_the_current_count_is_allowed(proposed, situation):
    limits, current = situation["limits"], situation["current"]
    assume(limits.minimum <= current <= limits.maximum)
    change = abs(clamp(proposed, **situation).value - current)
    assert change <= limits.max_replica_step
    assert change * limits.gpus_per_replica <= limits.max_gpu_step


@given(proposals, situations())
def test_clamping_twice_changes_nothing(proposed, situation):
    once = clamp(proposed, **situation)
    assert clamp(once.value, **situation).value == once.value


@given(proposals, situations())
def test_reasons_are_given_exactly_when_the_number_changed(proposed, situation):
    clamped = clamp(proposed, **situation)
    if clamped.value != proposed:
        assert clamped.reasons
    if not clamped.reasons:
        assert clamped.value == proposed
    for reason in clamped.reasons:
        assert reason.message


@given(proposals, situations())
def test_it_never_turns_a_rise_into_a_fall_or_back_unless_the_bounds_do(proposed, situation):
    limits, current = situation["limits"], situation["current"]
    assume(limits.minimum <= current <= limits.maximum)
    value = clamp(proposed, **situation).value
    assert (value - current) * (proposed - current) >= 0


@given(st.integers(1, 100), situations())
def test_a_rise_waits_for_nothing_but_what_was_written_down_for_rises(more, situation):
    situation["limits"] = replace(situation["limits"], rise_cooldown=Seconds(0.0))
    proposed = situation["current"] + more
    quiet = situation | {"state": QUIET, "gates": OPEN, "running": None}
    if situation["gates"].scale_up is None:
        assert clamp(proposed, **situation) == clamp(proposed, **quiet)


@given(st.integers(1, 100), situations())
def test_a_fall_leaves_what_must_stay_and_happens_only_when_nothing_holds_it_back(less, situation):
    limits, state = situation["limits"], situation["state"]
    current = situation["current"] = min(max(situation["current"], limits.minimum), limits.maximum)
    value = clamp(current - less, **situation).value
    if value >= current:
        return
    assert not state.in_flight
    assert situation["gates"].scale_down is None
    for axis in Axis:
        at = state.at(axis)
        assert at is None or max(0.0, NOW - at) >= limits.rest(Axis.SCALE_DOWN, after=axis)
    running = situation["running"]
    if running is not None:
        if limits.min_available:
            assert running.ready - (current - value) >= limits.min_available
        if running.removable is not None:
            assert current - value <= running.removable.replicas


@given(situations(), st.sampled_from([Axis.SCALE_DOWN, Axis.RESIZE]))
def test_one_axis_at_a_time_within_one_cooldown(situation, axis):
    limits, state = situation["limits"], situation["state"]
    if delayed(axis, limits=limits, state=state, now=NOW) is None:
        for other in Axis:
            at = state.at(other)
            assert other is axis or at is None or max(0.0, NOW - at) >= limits.cooldown


@pytest.mark.parametrize(
    ("proposed", "current", "value", "reasons"),
    [
        (5, 5, 5, []),
        (6, 5, 6, []),
        (12, 5, 9, [Limit.MAX_REPLICA_STEP]),
        (30, 14, 16, [Limit.MAX_REPLICA_STEP, Limit.MAXIMUM]),
        (1, 4, 2, [Limit.MINIMUM]),
        (2, 12, 8, [Limit.MAX_REPLICA_STEP]),
        (20, 20, 16, [Limit.MAXIMUM]),
        (0, 0, 2, [Limit.MINIMUM]),
    ],
)
def test_numbers_and_their_reasons(proposed, current, value, reasons):
    clamped = clamp(proposed, current=current, limits=Limits(minimum=2, maximum=16), state=QUIET, now=NOW)
    assert (clamped.value, [reason.limit for reason in clamped.reasons]) == (value, reasons)


@pytest.mark.parametrize(("gpus", "step"), [(0.0, 4), (1.0, 4), (4.0, 2), (8.0, 1), (16.0, 0), (0.25, 4)])
def test_the_step_counts_gpus(gpus, step):
    limits = Limits(minimum=0, maximum=100, max_gpu_step=8, gpus_per_replica=gpus)
    clamped = clamp(50, current=10, limits=limits, state=QUIET, now=NOW)
    assert clamped.value == 10 + step
    assert clamped.reasons[0].limit is (Limit.MAX_REPLICA_STEP if step == 4 else Limit.MAX_GPU_STEP)


@pytest.mark.parametrize(
    ("state", "gates", "limit"),
    [
        (PolicyState(last_change=UnixTime(NOW - 299.0), last_direction=Direction.SCALE_UP), OPEN, Limit.COOLDOWN),
        (PolicyState(last_change=UnixTime(NOW - 300.0), last_direction=Direction.SCALE_UP), OPEN, None),
        (PolicyState(last_change=UnixTime(NOW + 50.0), last_direction=Direction.SCALE_UP), OPEN, Limit.COOLDOWN),
        (PolicyState(in_flight="a1"), OPEN, Limit.ACTION_IN_FLIGHT),
        (PolicyState(), CLOSED, Limit.MAINTENANCE_WINDOW),
        (PolicyState(), FROZEN, Limit.BLACKOUT_WINDOW),
        (PolicyState(resized=UnixTime(NOW - 10.0)), OPEN, Limit.OTHER_AXIS),
        (PolicyState(reconfigured=UnixTime(NOW - 10.0)), OPEN, Limit.OTHER_AXIS),
        (PolicyState(reconfigured=UnixTime(NOW - 300.0)), OPEN, None),
        (PolicyState(), OPEN, None),
    ],
)
def test_a_fall_waits(state, gates, limit):
    limits = Limits(minimum=1, maximum=10)
    clamped = clamp(4, current=5, limits=limits, state=state, now=NOW, gates=gates)
    assert clamped.value == (4 if limit is None else 5)
    assert [reason.limit for reason in clamped.reasons] == ([] if limit is None else [limit])


@pytest.mark.parametrize(
    "wrong",
    [
        {"minimum": 5, "maximum": 4},
        {"minimum": -1, "maximum": 4},
        {"minimum": 1, "maximum": 4, "max_replica_step": 0},
        {"minimum": 1, "maximum": 4, "gpus_per_replica": -1.0},
        {"minimum": 1, "maximum": 4, "min_available": -1},
        {"minimum": 1, "maximum": 4, "fall_cooldown": -1.0},
    ],
)
def test_impossible_limits_are_refused(wrong):
    with pytest.raises(ValueError, match="limits"):
        Limits(**wrong)


@pytest.mark.parametrize(
    ("direction", "mode", "suspended", "gates", "permit", "reason"),
    [
        (Direction.SCALE_UP, Mode.RECOMMEND, False, OPEN, Permit.RECOMMEND, ""),
        (Direction.SCALE_UP, Mode.APPROVE, False, OPEN, Permit.APPROVE, ""),
        (Direction.SCALE_UP, Mode.AUTO, False, OPEN, Permit.AUTO, ""),
        (Direction.SCALE_UP, Mode.AUTO, False, CLOSED, Permit.AUTO, ""),
        (Direction.SCALE_UP, Mode.AUTO, True, OPEN, Permit.DENIED, "Suspended"),
        (Direction.SCALE_DOWN, Mode.AUTO, False, CLOSED, Permit.DENIED, "MaintenanceWindow"),
        (Direction.RESIZE, Mode.APPROVE, False, CLOSED, Permit.DENIED, "MaintenanceWindow"),
        (Direction.RESIZE, Mode.RECOMMEND, False, CLOSED, Permit.RECOMMEND, ""),
        (Direction.SCALE_UP, Mode.AUTO, False, FROZEN, Permit.DENIED, "BlackoutWindow"),
        (Direction.NONE, Mode.AUTO, False, OPEN, Permit.DENIED, "NoDirection"),
    ],
)
def test_who_has_to_agree(direction, mode, suspended, gates, permit, reason):
    permission = permitted(direction, mode=mode, suspended=suspended, gates=gates)
    assert (permission.permit, permission.reason) == (permit, reason)
    assert permission.acts is (permit in (Permit.APPROVE, Permit.AUTO))


@pytest.mark.parametrize(
    ("order", "current", "published"),
    [
        (21, 20, 23),  # 21 and 22 were measured to be ignored at 20 replicas
        (23, 20, 23),
        (30, 20, 30),
        (20, 20, 20),
        (19, 20, 20),  # within the band: a fall waits
        (18, 20, 20),
        (17, 20, 17),
        (3, 2, 3),  # small counts are far outside the band anyway
        (1, 2, 1),
    ],
)
def test_what_a_deaf_scaler_is_told(order, current, published):
    told = beyond_tolerance(order, current=current, tolerance_up=0.1, tolerance_down=0.1, maximum=40)
    assert told == published


def test_without_tolerance_the_count_is_published_as_it_is_and_the_maximum_is_never_exceeded():
    for order in (19, 20, 21):
        assert beyond_tolerance(order, current=20, tolerance_up=0.0, tolerance_down=0.0, maximum=40) == order
    assert beyond_tolerance(21, current=20, tolerance_up=0.1, tolerance_down=0.1, maximum=22) == 20


@given(st.integers(0, 300), st.integers(0, 300), st.floats(0.0, 0.5), st.integers(1, 300))
def test_a_rise_is_always_heard_or_not_published(order, current, tolerance, maximum):
    order = min(order, maximum)
    told = beyond_tolerance(order, current=current, tolerance_up=tolerance, tolerance_down=tolerance, maximum=maximum)
    assert told <= max(maximum, current)
    assert told == current or told >= order
    if order <= current:
        assert told in {order, current}


@pytest.mark.parametrize(
    ("ready", "allowed", "value", "limit"),
    [
        (6, None, 3, None),
        (5, None, 4, Limit.MIN_AVAILABLE),
        (4, None, 5, Limit.MIN_AVAILABLE),
        (3, None, 6, Limit.MIN_AVAILABLE),
        (2, None, 6, Limit.MIN_AVAILABLE),
        (6, 2, 4, Limit.POD_DISRUPTION_BUDGET),
        (6, 0, 6, Limit.POD_DISRUPTION_BUDGET),
        (6, 9, 3, None),
    ],
)
def test_a_fall_leaves_ready_replicas_and_what_budgets_let_go(ready, allowed, value, limit):
    removable = None if allowed is None else Removable(allowed, "PodDisruptionBudget vllm allows so many")
    clamped = clamp(
        3,
        current=6,
        limits=Limits(minimum=1, maximum=10, min_available=3),
        state=QUIET,
        now=NOW,
        running=Running(ready, removable),
    )
    assert clamped.value == value
    assert [reason.limit for reason in clamped.reasons] == ([] if limit is None else [limit])


def test_each_axis_rests_for_its_own_time_and_for_the_common_one_after_another():
    limits = Limits(
        minimum=1,
        maximum=10,
        cooldown=Seconds(60.0),
        rise_cooldown=Seconds(30.0),
        fall_cooldown=Seconds(600.0),
        resize_cooldown=Seconds(3600.0),
    )

    def waits(axis, **ago):
        times = {name: UnixTime(NOW - seconds) for name, seconds in ago.items()}
        found = delayed(axis, limits=limits, state=PolicyState(**times), now=NOW)
        return None if found is None else found.limit

    assert waits(Axis.SCALE_UP, raised=20.0) is Limit.COOLDOWN
    assert waits(Axis.SCALE_UP, raised=31.0, lowered=1.0, resized=1.0, reconfigured=1.0) is None
    assert waits(Axis.SCALE_DOWN, lowered=599.0) is Limit.COOLDOWN
    assert waits(Axis.SCALE_DOWN, lowered=601.0, raised=61.0, resized=61.0) is None
    assert waits(Axis.SCALE_DOWN, raised=59.0) is Limit.COOLDOWN
    assert waits(Axis.RESIZE, resized=3599.0) is Limit.COOLDOWN
    assert waits(Axis.RESIZE, raised=59.0) is Limit.OTHER_AXIS
    assert waits(Axis.RESIZE, raised=61.0) is None


def test_a_state_keeps_every_axis_and_the_latest_time_of_each():
    state = PolicyState(last_change=UnixTime(50.0), last_direction=Direction.SCALE_UP)
    state = state.changed(Axis.SCALE_DOWN, at=UnixTime(60.0), in_flight="a1").changed(Axis.SCALE_UP, at=UnixTime(40.0))
    assert [state.at(axis) for axis in Axis] == [50.0, 60.0, None, None]
    assert state.in_flight == "a1"
    assert state.changed(Axis.RESIZE, at=UnixTime(70.0), in_flight="").in_flight == ""
