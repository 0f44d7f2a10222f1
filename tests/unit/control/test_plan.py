"""Orders: what may be published or written now, by mode, approval, limits and switches."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from optiinfra.api.reasons import Reason
from optiinfra.api.scalars import Time
from optiinfra.api.v1alpha1 import ResourceOptimizationStatus
from optiinfra.api.v1alpha1.status_parts import ApprovalState, EnvelopeStatus, UsedApproval
from optiinfra.control.kill_switch import Stop
from optiinfra.control.plan import plan
from optiinfra.control.work import Problem, ServiceWork, Work
from optiinfra.domain.evidence import Direction
from optiinfra.domain.policy import PolicyState
from optiinfra.domain.units import UnixTime
from tests.unit.control.examples import (
    DEPLOYMENT,
    NOW,
    UNMEASURED,
    decision,
    limits,
    ro,
    scaler,
    service,
)


def planned(
    work: ServiceWork, *, actuation_enabled: bool = True, stop: Stop | None = None, at: float = NOW
) -> ServiceWork:
    batch = Work(round_id="r", at=UnixTime(at), keys=(work.key,), services=[work])
    assert plan(batch, actuation_enabled=actuation_enabled, stop=stop) is batch
    return work


def order(work: ServiceWork, **how: Any) -> int | None:
    return planned(work, **how).targets[0].order


def with_mode(up: str, down: str, desired: int, **target: Any) -> ServiceWork:
    return service(ro(modes={"scaleUp": up, "scaleDown": down}), decision=decision(desired), **target)


@pytest.mark.parametrize(
    ("up", "down", "desired", "expected"),
    [
        ("Recommend", "Recommend", 6, None),
        ("Recommend", "Recommend", 2, None),
        ("Recommend", "Recommend", 4, None),
        ("Auto", "Auto", 6, 6),
        ("Auto", "Auto", 2, 2),
        ("Auto", "Auto", 4, 4),
        ("Auto", "Recommend", 6, 6),
        ("Auto", "Recommend", 2, 4),
        ("Auto", "Recommend", 4, 4),
        ("Auto", "Approve", 2, 4),
        ("Recommend", "Auto", 6, 4),
        ("Recommend", "Auto", 2, 2),
        ("Approve", "Approve", 6, None),
        ("Approve", "Approve", 2, None),
        ("Approve", "Approve", 4, None),
        ("Approve", "Recommend", 6, None),
    ],
)
def test_without_an_approval_only_auto_moves_anything(up, down, desired, expected):
    assert order(with_mode(up, down, desired)) == expected


@pytest.mark.parametrize("desired", [1, 2, 4, 6, 20])
@pytest.mark.parametrize("mode", ["Auto", "Approve"])
@pytest.mark.parametrize(
    ("spec", "how"),
    [
        ({"suspend": True}, {}),
        ({}, {"stop": Stop(Reason.KILL_SWITCH, "on")}),
        ({}, {"stop": Stop(Reason.KILL_SWITCH_UNREADABLE, "no answer")}),
        ({"scaling": {"actuation": "Own", "minReplicas": 1, "maxReplicas": 20}}, {"actuation_enabled": False}),
        ({"scaling": {"actuation": "Floor"}}, {"actuation_enabled": False}),
    ],
)
def test_suspension_and_switches_stop_every_order(desired, mode, spec, how):
    work = service(ro(mode=mode, **spec), decision=decision(desired))
    assert order(work, **how) is None


def test_signal_writes_nothing_and_needs_no_right_to():
    assert order(service(ro(mode="Auto"), decision=decision(6)), actuation_enabled=False) == 6


@pytest.mark.parametrize("unsure", [UNMEASURED, None])
def test_without_a_decision_there_is_no_order(unsure):
    assert order(service(ro(mode="Auto"), decision=unsure)) is None


def test_a_problem_of_the_target_or_of_the_object_is_no_order():
    problem = Problem(Reason.SEVERAL_SCALERS, "two")
    assert order(service(ro(mode="Auto"), decision=decision(6), problem=problem)) is None
    work = service(ro(mode="Auto"), decision=decision(6))
    work.problem = problem
    assert order(work) is None


def test_policy_has_the_last_word_on_the_number():
    assert order(service(ro(mode="Auto"), decision=decision(20))) == 8, "four at a time"
    assert order(service(ro(mode="Auto"), decision=decision(9), limits=limits(maximum=5))) == 5
    assert order(service(ro(mode="Auto"), decision=decision(1), limits=limits(minimum=3))) == 3
    heavy = limits(gpus_per_replica=16.0)
    assert order(service(ro(mode="Auto"), decision=decision(20), limits=heavy)) == 6


def test_a_fall_waits_for_the_cooldown_and_says_so():
    work = service(ro(mode="Auto"), decision=decision(2))
    work.targets[0].memory.policy = PolicyState(last_change=UnixTime(NOW - 10), last_direction=Direction.SCALE_UP)
    assert order(work) == 4
    assert [str(reason.limit) for reason in work.targets[0].clamped.reasons] == ["Cooldown"]


def test_a_fall_waits_for_a_maintenance_window_and_a_rise_does_not():
    # NOW is a Friday, 08:00 UTC
    window = {"days": ["Sun"], "start": "01:00", "duration": "1h", "timeZone": "UTC"}
    policy = {"maintenanceWindows": [window]}
    assert order(service(ro(mode="Auto", policy=policy), decision=decision(2))) == 4
    assert order(service(ro(mode="Auto", policy=policy), decision=decision(6))) == 6


def ordered(work: ServiceWork, count: int, *, seconds_ago: float = 15.0) -> ServiceWork:
    """As after a round that ordered a fall to this count."""
    memory = work.targets[0].memory
    memory.ordered, memory.ordered_at = count, NOW - seconds_ago
    memory.policy = PolicyState(
        last_change=UnixTime(NOW - seconds_ago), last_direction=Direction.SCALE_DOWN, in_flight="action"
    )
    return work


def test_a_fall_that_was_ordered_stands_until_the_scaler_has_followed():
    # Scalers look every 15 to 30 seconds: an order that is taken back in the next round is never seen by anybody.
    work = ordered(service(ro(mode="Auto"), decision=decision(2)), 2)
    assert order(work) == 2


def test_an_ordered_fall_gives_way_at_once_when_more_is_needed():
    assert order(ordered(service(ro(mode="Auto"), decision=decision(4)), 2)) == 4
    assert order(ordered(service(ro(mode="Auto"), decision=decision(3)), 2)) == 3
    assert order(ordered(service(ro(mode="Auto"), decision=decision(7)), 2)) == 7


def test_behind_an_ordered_fall_the_next_one_waits():
    assert order(ordered(service(ro(mode="Auto"), decision=decision(1)), 2)) == 2


def test_a_rise_that_was_just_ordered_is_not_reduced_in_the_middle_of_it():
    def rising(desired, *, seconds_ago):
        work = ordered(service(ro(mode="Auto"), decision=decision(desired)), 8)
        work.targets[0].memory.ordered_at = NOW - seconds_ago
        return order(work)

    assert rising(7, seconds_ago=1.0) == 8
    assert rising(10, seconds_ago=1.0) == 8, "more is heard at once, in steps of policy"
    assert rising(7, seconds_ago=31.0) == 7


# approvals


def envelope(
    lowest: int, highest: int, *, step: int = 4, subject: str = DEPLOYMENT["name"], identifier: str = "rec-1"
) -> UsedApproval:
    """An approval that stands."""
    return UsedApproval(
        id=identifier,
        at=Time.of(UnixTime(NOW - 60)),
        subject=subject,
        state=ApprovalState.STANDING,
        envelope=EnvelopeStatus(lowest=lowest, highest=highest, max_step=step),
        until=Time.of(UnixTime(NOW + 3600)),
    )


def approved(
    desired: int, *envelopes: UsedApproval, spec: dict[str, Any] | None = None, current: int = 4, **target: Any
) -> ServiceWork:
    """A service with approvals that stand."""
    work = service(ro(**(spec or {"mode": "Approve"})), decision=decision(desired, current=current), **target)
    work.approvals = envelopes
    return work


def test_in_approve_mode_an_approved_envelope_lets_the_operator_move_inside_it():
    assert order(approved(6)) is None
    assert order(approved(6, envelope(4, 8))) == 6
    assert order(approved(8, envelope(4, 8))) == 8, "and not to one point of it"
    assert order(approved(5, envelope(4, 8), current=7)) == 5, "both ways"
    assert order(approved(2, envelope(1, 4))) == 2


def test_it_never_leaves_the_envelope():
    assert order(approved(20, envelope(4, 6))) == 6
    assert order(approved(1, envelope(3, 4))) == 3


def test_the_step_of_the_envelope_holds_beside_that_of_policy():
    assert order(approved(8, envelope(4, 12, step=1))) == 5
    assert order(approved(12, envelope(4, 12, step=9))) == 8, "policy says four at a time"


def test_where_the_workload_left_the_envelope_it_is_held_and_not_brought_back():
    # Somebody scaled it by hand: nobody approved the way back.
    assert order(approved(4, envelope(1, 4), current=9)) == 9
    assert order(approved(12, envelope(1, 4), current=9)) == 9


def test_of_several_envelopes_the_newest_that_holds_the_present_count_decides():
    older, newer = envelope(1, 4, identifier="a"), envelope(2, 6, identifier="b")
    assert order(approved(1, older, newer)) == 2
    assert order(approved(6, older, envelope(8, 9, identifier="c"))) == 4


def test_an_approval_of_one_target_orders_no_other():
    assert order(approved(6, envelope(4, 8, subject="another"))) is None


@pytest.mark.parametrize("state", ["Used", "Expired", "Revoked"])
def test_what_ended_orders_nothing(state):
    over = envelope(4, 8).model_copy(update={"state": ApprovalState(state)})
    assert order(approved(6, over)) is None


@pytest.mark.parametrize(
    ("modes", "desired", "expected"),
    [
        ({"scaleUp": "Auto", "scaleDown": "Recommend"}, 2, 4),
        ({"scaleUp": "Recommend", "scaleDown": "Auto"}, 6, 4),
        ({"scaleUp": "Approve", "scaleDown": "Recommend"}, 2, 4),
        ({"scaleUp": "Recommend", "scaleDown": "Approve"}, 6, 4),
        ({"scaleUp": "Approve", "scaleDown": "Recommend"}, 6, 6),
        ({"scaleUp": "Approve", "scaleDown": "Auto"}, 2, 2),
        ({"scaleUp": "Auto", "scaleDown": "Approve"}, 2, 2),
        ({"scaleUp": "Recommend", "scaleDown": "Recommend"}, 6, None),
    ],
)
def test_a_direction_in_recommend_mode_is_never_moved_in_whatever_is_approved(modes, desired, expected):
    assert order(approved(desired, envelope(1, 9), spec={"modes": modes})) == expected


def test_policy_has_the_last_word_inside_an_envelope_too():
    wide = envelope(1, 20, step=20)
    assert order(approved(18, wide)) == 8, "in steps"
    assert order(approved(8, wide, limits=limits(maximum=6))) == 6
    cooling = approved(2, wide)
    cooling.targets[0].memory.policy = PolicyState(last_change=UnixTime(NOW - 10), last_direction=Direction.SCALE_UP)
    assert order(cooling) == 4, "an approved fall waits for the cooldown"
    window = {"days": ["Sun"], "start": "01:00", "duration": "1h", "timeZone": "UTC"}
    closed = {"mode": "Approve", "policy": {"maintenanceWindows": [window]}}
    assert order(approved(2, wide, spec=closed)) == 4, "and for a window"


def test_an_envelope_is_nothing_once_the_measurements_are_gone():
    work = approved(4, envelope(1, 8))
    work.targets[0].decision = UNMEASURED
    assert order(work) is None


@given(
    st.integers(0, 30),
    st.integers(0, 30),
    st.tuples(st.integers(0, 30), st.integers(0, 30)).map(sorted),
    st.integers(1, 8),
)
@hypothesis_settings(deadline=None)
def test_no_order_ever_leaves_what_was_approved(current, desired, counts, step):
    lowest, highest = counts
    work = approved(
        desired, envelope(lowest, highest, step=step), current=current, limits=limits(minimum=0, maximum=30)
    )
    found = order(work)
    assert found is not None
    assert found == current or (lowest <= found <= highest and abs(found - current) <= step)


def test_each_variant_has_an_order_of_its_own():
    variants = [{"name": name, "targetRef": DEPLOYMENT | {"name": name}} for name in ("spot", "reserved")]
    work = service(ro(mode="Auto", variants=variants))
    work.targets[0].decision, work.targets[1].decision = decision(6), UNMEASURED
    planned(work)
    assert [target.order for target in work.targets] == [6, None]


def test_one_failing_object_leaves_the_others_alone():
    bad, good = service(ro(mode="Auto")), service(ro("other", uid="u2", mode="Auto"), decision=decision(6))
    bad.problem = Problem(Reason.ANALYSIS_FAILED, "x")
    batch = Work(round_id="r", at=NOW, keys=(), services=[bad, good])
    plan(batch, actuation_enabled=True, stop=None)
    assert good.targets[0].order == 6


def test_status_is_only_read():
    work = approved(6, envelope(4, 8))
    before = work.obj.status
    planned(work)
    assert work.obj.status == before
    assert isinstance(before, ResourceOptimizationStatus)
    assert replace(scaler(), held=True).held
