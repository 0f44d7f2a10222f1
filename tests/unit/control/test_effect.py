"""Whether a decision has an effect: "published but nobody listens" must never look green."""

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optiinfra.api.conditions import ConditionStatus, ConditionType
from optiinfra.api.reasons import Reason
from optiinfra.control.conditions import service_conditions
from optiinfra.control.effect import effect_of
from optiinfra.control.report import InsightState
from optiinfra.control.work import Effect, Problem
from optiinfra.domain.scaling_rules import Rule
from optiinfra.domain.units import UnixTime
from optiinfra.domain.workload import Rollout
from tests.unit.control.examples import NOW, UNMEASURED, decision, facts, pending, pod, ro, scaler, service

TALK = InsightState(ConditionStatus.FALSE, Reason.NOT_CONFIGURED)
LONG_AGO, JUST_NOW = NOW - 61.0, NOW - 10.0


def judged(
    *, current: int = 4, order: int | None = 4, since: float = LONG_AGO, spec: Any = None, **more: Any
) -> Effect | None:
    given = {"mode": "Auto"} | (spec or {})
    hpa = more.pop("hpa", None)
    changes = more.pop("so", {})
    work = service(ro(**given), order=order, decision=more.pop("decision", decision(order or 4)), **more)
    target = work.targets[0]
    if target.facts is not None:
        target.facts = facts(current, scaler=hpa, **changes)
    target.memory.ordered, target.memory.ordered_at = order, since
    target.memory.apart_since = since
    return effect_of(work, target, now=NOW)


def pods(count: int, *more: Any) -> dict[str, Any]:
    """So many ready replicas, and these pods beside them."""
    return {"ready_replicas": count, "pods": (*(pod(f"vllm-{number}") for number in range(count)), *more)}


NO_ROOM = "0/4 nodes are available: 4 Insufficient nvidia.com/gpu."
QUOTA = 'pods "vllm-5" is forbidden: exceeded quota: team, requested: pods=1, used: pods=4, limited: pods=4'
RULES = 'admission webhook "rules.example.com" denied the request'
STARTING = pod("vllm-8", ready=False, created=UnixTime(NOW - 100.0), phase="Running")
LATE = pod("vllm-8", ready=False, created=UnixTime(NOW - 900.0), phase="Running")
ROLLING = Rollout(rolling=True)


@pytest.mark.parametrize(
    ("how", "effective", "reason", "words"),
    [
        ({}, True, Reason.SUCCEEDED, ""),
        ({"since": JUST_NOW}, True, Reason.SUCCEEDED, ""),
        ({"order": 6, "since": JUST_NOW}, None, Reason.SCALING_IN_PROGRESS, ""),
        ({"order": 6}, False, Reason.NOBODY_LISTENS, "no scaler"),
        ({"current": 8, "order": 6}, False, Reason.NOBODY_LISTENS, "no scaler"),
        ({"order": 6, "hpa": scaler(scaling_active=False)}, False, Reason.SCALER_INACTIVE, "hpa"),
        (
            {"order": 6, "hpa": scaler(scaling_active=False, scaling_active_reason="ScalingDisabled")},
            False,
            Reason.PAUSED,
            "ScalingDisabled",
        ),
        ({"order": 6, "hpa": scaler(desired_replicas=6)}, None, Reason.SCALING_IN_PROGRESS, ""),
        ({"order": 6, "hpa": scaler(desired_replicas=6), "since": NOW - 700.0}, False, Reason.NOBODY_LISTENS, "hpa"),
        ({"order": 6, "hpa": scaler(desired_replicas=4)}, False, Reason.NOBODY_LISTENS, "wants 4"),
        (
            {"order": 6, "hpa": scaler(desired_replicas=4, controller_owner="ScaledObject/theirs")},
            False,
            Reason.NOBODY_LISTENS,
            "ScaledObject/theirs",
        ),
        ({"order": 6, "hpa": scaler(scaling_active=None)}, False, Reason.NOBODY_LISTENS, "hpa"),
        ({"order": 6, "hpa": scaler(max_replicas=4)}, False, Reason.AT_LIMIT, "hpa allows at most 4"),
        ({"order": 2, "hpa": scaler(min_replicas=4)}, False, Reason.AT_LIMIT, "hpa keeps at least 4"),
        ({"order": 2, "hpa": scaler(desired_replicas=4)}, None, Reason.SCALING_IN_PROGRESS, "minutes back"),
        ({"order": 2, "hpa": scaler(), "since": NOW - 400.0}, False, Reason.NOBODY_LISTENS, "wants 4"),
        ({"current": 20, "order": 19, "hpa": scaler(desired_replicas=20)}, None, Reason.WITHIN_TOLERANCE, "ignores"),
        ({"so": pods(3, pending(unschedulable=NO_ROOM))}, False, Reason.PODS_PENDING, "Insufficient nvidia.com/gpu"),
        ({"so": pods(3, pending())}, False, Reason.PODS_PENDING, "not said why"),
        ({"so": pods(3, pending()), "since": JUST_NOW}, None, Reason.SCALING_IN_PROGRESS, "3 of 4"),
        ({"so": pods(4, pending(terminating=True))}, True, Reason.SUCCEEDED, ""),
        ({"so": pods(3) | {"rollout": Rollout(refused=QUOTA)}}, False, Reason.QUOTA_EXCEEDED, "exceeded quota: team"),
        ({"so": pods(3) | {"rollout": Rollout(refused=RULES)}}, False, Reason.PODS_REFUSED, "rules.example.com"),
        ({"so": pods(3) | {"kind": "StatefulSet"}}, False, Reason.PODS_REFUSED, "3 of 4 pods exist"),
        ({"so": pods(3, LATE) | {"rollout": ROLLING}}, None, Reason.ROLLOUT_IN_PROGRESS, "in progress"),
        (
            {"so": pods(3, LATE) | {"rollout": Rollout(rolling=True, stuck=True)}},
            False,
            Reason.ROLLOUT_IN_PROGRESS,
            "stuck",
        ),
        ({"so": pods(3, LATE) | {"rollout": Rollout(rolling=True, paused=True)}}, False, Reason.PAUSED, "half-way"),
        ({"so": pods(4) | {"rollout": Rollout(rolling=True, paused=True)}}, True, Reason.SUCCEEDED, ""),
        ({"so": pods(3, STARTING)}, None, Reason.SCALING_IN_PROGRESS, "180 s"),
        ({"so": pods(3, LATE)}, False, Reason.REPLICAS_NOT_READY, "vllm-8"),
        ({"so": pods(3, replace(STARTING, lost_readiness=True))}, False, Reason.REPLICAS_NOT_READY, "vllm-8"),
        ({"so": pods(5)}, None, Reason.SCALING_IN_PROGRESS, "ending"),
        ({"order": None}, None, Reason.AWAITING_APPROVAL, ""),
        ({"order": None, "decision": UNMEASURED}, None, Reason.NOT_PUBLISHED, ""),
        ({"spec": {"suspend": True}}, None, Reason.SUSPENDED, ""),
        ({"spec": {"mode": "Recommend"}, "order": None}, None, Reason.RECOMMEND_ONLY, ""),
        ({"spec": {"suspend": True, "mode": "Recommend"}, "order": None}, None, Reason.SUSPENDED, ""),
    ],
)
def test_what_was_decided_is_compared_with_what_runs(how, effective, reason, words):
    effect = judged(**how)
    assert effect is not None
    assert (effect.effective, effect.reason) == (effective, reason), effect.message
    assert words in effect.message


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


@pytest.mark.parametrize(
    ("spec", "hpa", "whose"),
    [
        ({}, scaler(max_replicas=20), "HorizontalPodAutoscaler hpa allows at most 20"),
        ({"scaling": {"maxReplicas": 20}}, None, "spec.scaling.maxReplicas is 20"),
        ({}, None, "nobody gave a maximum"),
    ],
)
def test_a_maximum_says_whose_it_is(spec, hpa, whose):
    more = replace(decision(20), rule=Rule.AT_MAXIMUM)
    effect = judged(current=20, order=20, decision=more, hpa=hpa, spec=spec)
    assert effect is not None
    assert (effect.effective, effect.reason) == (True, Reason.AT_LIMIT)
    assert whose in effect.message


SCALERS = (
    None,
    scaler(),
    scaler(desired_replicas=6),
    scaler(scaling_active=False),
    scaler(scaling_active=None),
    scaler(max_replicas=4),
    scaler(min_replicas=4),
    scaler(tolerance_up=0.0, tolerance_down=0.0),
)
ROLLOUTS = tuple(
    Rollout(rolling=rolling, paused=paused, stuck=stuck, refused=refused)
    for rolling, paused, stuck, refused in product((False, True), (False, True), (False, True), ("", QUOTA, RULES))
    if rolling or not stuck
)
EXTRA = (None, pending(), pending(unschedulable=NO_ROOM), STARTING, LATE, pending(terminating=True))


def test_inert_is_never_green():
    """Over all combinations of facts: what is not as decided for longer than patience is False or Unknown, and why."""
    seen = {True: 0, False: 0, None: 0}
    decided = {order: decision(order) for order in (2, 4, 6)}
    made = [pods(ready, *(() if extra is None else (extra,))) for ready, extra in product((0, 4, 6), EXTRA)]
    worlds = [facts(asked, rollout=rollout, **so) for asked, rollout, so in product((2, 4, 6), ROLLOUTS, made)]
    for actuation, spec in SPECS.items():
        work = service(ro(mode="Auto", **spec))
        target = work.targets[0]
        for order, hpa, world in product((2, 4, 6), SCALERS, worlds):
            if actuation == "Floor" and hpa is None:
                continue
            object.__setattr__(world, "scaler", hpa)  # frozen, and copying it sixty thousand times takes its time
            target.facts, asked, ready = world, world.desired_replicas, world.ready_replicas
            target.order, target.decision = order, decided[order]
            target.memory.ordered_at = target.memory.apart_since = LONG_AGO
            effect = effect_of(work, target, now=NOW)
            assert effect is not None
            seen[effect.effective] += 1
            runs = ready >= order <= asked if actuation == "Floor" else ready == order == asked
            assert (effect.effective is True) is runs, (actuation, order, world, effect)
            assert runs or (effect.message and effect.reason is not Reason.SUCCEEDED), effect
    assert min(seen.values()) > 500


SPECS = {
    name: {"scaling": {"actuation": name, "minReplicas": 1, "maxReplicas": 20}} for name in ("Signal", "Floor", "Own")
}


@given(
    st.lists(st.sampled_from([True, False, None, "nothing"]), min_size=2, max_size=4),
)
def test_the_condition_is_true_only_where_every_variant_follows(effects):
    variants = [
        {"name": f"v{number}", "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": f"d{number}"}}
        for number in range(len(effects))
    ]
    work = service(ro(mode="Auto", targetRef=None, variants=variants))
    for target, effective in zip(work.targets, effects, strict=True):
        target.effect = None if effective == "nothing" else Effect(effective=effective, reason=Reason.NOBODY_LISTENS)
    found = next(one for one in service_conditions(work, TALK) if one.type is ConditionType.ACTUATION_EFFECTIVE)
    wanted = {True: ConditionStatus.TRUE, False: ConditionStatus.FALSE, None: ConditionStatus.UNKNOWN}
    verdict = False if False in effects else (True if set(effects) == {True} else None)
    assert found.status is wanted[verdict]
    assert found.reason


def test_what_stays_apart_is_not_excused_by_a_decision_that_changes_all_the_time():
    work = service(ro(mode="Auto"), order=6, decision=decision(6))
    target = work.targets[0]
    for second in range(0, 400, 10):
        target.memory.ordered_at = NOW + second
        effect = effect_of(work, target, now=UnixTime(NOW + second))
    assert effect is not None
    assert (effect.effective, effect.reason) == (False, Reason.NOBODY_LISTENS)
