"""Whether a decision has an effect: "published but nobody listens" must never look green."""

from typing import Any

import pytest

from optiinfra.api.reasons import Reason
from optiinfra.control.monitor import effect_of
from optiinfra.control.work import Effect, Problem
from tests.unit.control.examples import NOW, UNMEASURED, decision, facts, pending, pod, ro, scaler, service

LONG_AGO, JUST_NOW = NOW - 61.0, NOW - 10.0


def judged(
    *, current: int = 4, order: int | None = 4, since: float = LONG_AGO, spec: Any = None, **more: Any
) -> Effect | None:
    given = {"mode": "Auto"} | (spec or {})
    hpa = more.pop("hpa", None)
    extra_pods = more.pop("pods", ())
    work = service(ro(**given), order=order, decision=more.pop("decision", decision(order or 4)), **more)
    target = work.targets[0]
    if target.facts is not None:
        base = facts(current)
        target.facts = facts(current, scaler=hpa, pods=(*base.pods, *extra_pods))
    target.memory.ordered, target.memory.ordered_at = order, since
    return effect_of(work, target, now=NOW)


@pytest.mark.parametrize(
    ("how", "effective", "reason"),
    [
        ({}, True, Reason.SUCCEEDED),
        ({"since": JUST_NOW}, True, Reason.SUCCEEDED),
        ({"current": 4, "order": 6, "since": JUST_NOW}, None, Reason.SCALING_IN_PROGRESS),
        ({"current": 4, "order": 6}, False, Reason.NOBODY_LISTENS),
        ({"current": 8, "order": 6}, False, Reason.NOBODY_LISTENS),
        ({"current": 4, "order": 6, "hpa": scaler(scaling_active=False)}, False, Reason.SCALER_INACTIVE),
        ({"current": 4, "order": 6, "hpa": scaler(desired_replicas=6)}, None, Reason.SCALING_IN_PROGRESS),
        ({"current": 4, "order": 6, "hpa": scaler(desired_replicas=4)}, False, Reason.NOBODY_LISTENS),
        ({"current": 4, "order": 6, "hpa": scaler(scaling_active=None)}, False, Reason.NOBODY_LISTENS),
        ({"pods": (pending(),)}, False, Reason.PODS_PENDING),
        ({"pods": (pending(),), "since": JUST_NOW}, True, Reason.SUCCEEDED),
        ({"pods": (pending(terminating=True),)}, True, Reason.SUCCEEDED),
        ({"pods": (pod("starting", phase="Pending", ready=False),)}, True, Reason.SUCCEEDED),
        ({"order": None}, None, Reason.AWAITING_APPROVAL),
        ({"order": None, "decision": UNMEASURED}, None, Reason.NOT_PUBLISHED),
        ({"spec": {"suspend": True}}, None, Reason.SUSPENDED),
        ({"spec": {"mode": "Recommend"}, "order": None}, None, Reason.RECOMMEND_ONLY),
        ({"spec": {"suspend": True, "mode": "Recommend"}, "order": None}, None, Reason.SUSPENDED),
    ],
)
def test_what_was_decided_is_compared_with_what_runs(how, effective, reason):
    effect = judged(**how)
    assert effect is not None
    assert (effect.effective, effect.reason) == (effective, reason)


def test_a_problem_is_the_effect_and_without_facts_there_is_nothing_to_say():
    problem = Problem(Reason.SEVERAL_SCALERS, "a, b all target it")
    assert judged(problem=problem) == Effect(effective=False, reason=problem.reason, message=problem.message)
    assert judged(facts=None) is None


@pytest.mark.parametrize(("current", "effective"), [(6, True), (9, True), (4, False)])
def test_a_floor_is_followed_by_as_many_or_more(current, effective):
    spec = {"scaling": {"actuation": "Floor"}}
    effect = judged(current=current, order=6, spec=spec, hpa=scaler())
    assert effect is not None
    assert effect.effective is effective


def test_who_is_inactive_is_named_with_its_reason():
    effect = judged(order=6, hpa=scaler("web", scaling_active=False, scaling_active_reason="FailedGetExternalMetric"))
    assert effect is not None
    assert "web" in effect.message
    assert "FailedGetExternalMetric" in effect.message
