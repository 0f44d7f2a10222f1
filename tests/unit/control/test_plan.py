"""Orders: what may be published or written now, by mode, approval, limits and switches."""

from dataclasses import replace
from typing import Any

import pytest

from optiinfra.api.reasons import Reason
from optiinfra.api.v1alpha1 import ResourceOptimizationStatus
from optiinfra.control.plan import plan
from optiinfra.control.recommend import recommendations_of
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
    proposal,
    ro,
    scaler,
    service,
    time_text,
)


def planned(
    work: ServiceWork, *, actuation_enabled: bool = True, kill_switch: bool = False, at: float = NOW
) -> ServiceWork:
    batch = Work(round_id="r", at=UnixTime(at), keys=(work.key,), services=[work])
    assert plan(batch, actuation_enabled=actuation_enabled, kill_switch=kill_switch) is batch
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
    ("spec", "how", "dry_run"),
    [
        ({"suspend": True}, {}, False),
        ({}, {"kill_switch": True}, False),
        ({"scaling": {"actuation": "Own", "minReplicas": 1, "maxReplicas": 20}}, {"actuation_enabled": False}, False),
        ({"scaling": {"actuation": "Floor"}}, {"actuation_enabled": False}, False),
        ({}, {}, True),
    ],
)
def test_suspension_switches_and_a_dry_run_stop_every_order(desired, mode, spec, how, dry_run):
    work = service(ro(mode=mode, **spec), decision=decision(desired))
    work.dry_run = dry_run
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


def approvable(mode: dict[str, Any], *, desired: int, current: int = 4, **target: Any) -> ServiceWork:
    """A service whose status shows the recommendation of the decision; `approved` is for the test to set."""
    direction = Direction.SCALE_UP if desired > current else Direction.SCALE_DOWN
    items = recommendations_of(
        [("uid-of-vllm", proposal(str(current), str(desired), direction=direction))],
        (),
        object_uid="uid-1",
        texts={},
        now=UnixTime(NOW - 60),
    )
    obj = ro(**mode)
    obj = obj.model_copy(update={"status": obj.status.model_copy(update={"recommendations": items})})
    return service(obj, decision=decision(desired, current=current), **target)


def approve(work: ServiceWork) -> ServiceWork:
    work.approved = frozenset(item.id for item in work.obj.status.recommendations)
    return work


def test_in_approve_mode_the_approval_is_the_order():
    assert order(approvable({"mode": "Approve"}, desired=6)) is None
    assert order(approve(approvable({"mode": "Approve"}, desired=6))) == 6
    assert order(approve(approvable({"mode": "Approve"}, desired=2))) == 2


def test_an_approval_of_something_else_orders_nothing():
    work = approvable({"mode": "Approve"}, desired=6)
    work.approved = frozenset({"another"})
    assert order(work) is None


@pytest.mark.parametrize(
    ("modes", "desired"),
    [
        ({"scaleUp": "Auto", "scaleDown": "Recommend"}, 2),
        ({"scaleUp": "Recommend", "scaleDown": "Auto"}, 6),
    ],
)
def test_a_direction_in_recommend_mode_is_never_applied_even_when_approved(modes, desired):
    assert order(approve(approvable({"modes": modes}, desired=desired))) == 4


def test_an_approved_fall_in_recommend_mode_does_not_ride_on_an_approvable_rise():
    work = approve(approvable({"modes": {"scaleUp": "Approve", "scaleDown": "Recommend"}}, desired=2))
    work.targets[0].decision = decision(6)
    assert order(work) is None


def test_policy_has_the_last_word_on_an_approved_number_too():
    assert order(approve(approvable({"mode": "Approve"}, desired=18))) == 8, "in steps"
    assert order(approve(approvable({"mode": "Approve"}, desired=8, limits=limits(maximum=6)))) == 6
    cooling = approve(approvable({"mode": "Approve"}, desired=2))
    cooling.targets[0].memory.policy = PolicyState(last_change=UnixTime(NOW - 10), last_direction=Direction.SCALE_UP)
    assert order(cooling) in (4, None), "an approved fall waits for the cooldown"
    window = {"days": ["Sun"], "start": "01:00", "duration": "1h", "timeZone": "UTC"}
    closed = {"mode": "Approve", "policy": {"maintenanceWindows": [window]}}
    assert order(approve(approvable(closed, desired=2))) in (4, None), "and for a window"


def used(
    *,
    to: str,
    seconds_ago: float,
    state: str = "Applied",
    current: int = 4,
    desired: int,
    mode: str = "Approve",
    subject: str = DEPLOYMENT["name"],
):
    """A service on which an approval was used earlier; its recommendation is gone from the status."""
    at = time_text(NOW - seconds_ago)
    status = {
        "usedApprovals": [{"id": "rec-1", "at": at}],
        "actions": [
            {
                "id": "act-1",
                "recommendationId": "rec-1",
                "type": "Replicas",
                "subject": subject,
                "state": state,
                "from": "2",
                "to": to,
                "at": at,
            }
        ],
    }
    return service(ro(mode=mode, status=status), decision=decision(desired, current=current))


def test_an_approved_order_stands_for_as_long_as_the_approval_holds():
    assert order(used(to="4", seconds_ago=3600, desired=4)) == 4
    assert order(used(to="4", seconds_ago=3600, desired=4, state="Verified")) == 4
    assert order(used(to="4", seconds_ago=25 * 3600, desired=4)) is None
    assert order(used(to="6", seconds_ago=60, desired=6)) == 6, "the scaler has not followed yet"


def test_an_approval_of_one_target_orders_no_other():
    assert order(used(to="4", seconds_ago=60, desired=4, subject="another")) is None


@pytest.mark.parametrize("state", ["RolledBack", "Refused", "Failed"])
def test_what_was_undone_or_refused_is_no_order(state):
    assert order(used(to="6", seconds_ago=60, desired=6, state=state)) is None


def test_an_old_approved_rise_does_not_shrink_what_is_needed_now():
    # Somebody scaled to 6 by hand since, and the measurements say that 6 are needed.
    assert order(used(to="4", seconds_ago=3600, current=6, desired=6)) in (6, None)
    assert order(used(to="4", seconds_ago=3600, current=6, desired=8)) in (6, None)


def test_a_standing_approval_is_nothing_once_the_mode_is_recommend_or_the_measurements_are_gone():
    assert order(used(to="4", seconds_ago=60, desired=4, mode="Recommend")) is None
    work = used(to="4", seconds_ago=60, desired=4)
    work.targets[0].decision = UNMEASURED
    assert order(work) is None


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
    plan(batch, actuation_enabled=True, kill_switch=False)
    assert good.targets[0].order == 6


def test_status_is_only_read():
    work = approve(approvable({"mode": "Approve"}, desired=6))
    before = work.obj.status
    planned(work)
    assert work.obj.status == before
    assert isinstance(before, ResourceOptimizationStatus)
    assert replace(scaler(), held=True).held
