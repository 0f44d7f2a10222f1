"""Policy has the last word: no order leaves the plan beyond any limit, whatever was decided, approved or ordered."""

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from optiinfra.control.plan import last_word, plan
from optiinfra.control.work import Fleet, Work
from optiinfra.domain.label_rules import LabelOperator, LabelRule
from optiinfra.domain.pod_rules import DisruptionBudget
from optiinfra.domain.policy import Axis, PolicyState
from optiinfra.domain.replica_shape import ReplicaShape
from optiinfra.domain.shrink_budget import Amount, ShrinkLimits
from optiinfra.domain.units import Seconds, UnixTime
from tests.unit.control.examples import NOW, decision, facts, limits, pod, ro, service, time_text

MODES = st.sampled_from(["Recommend", "Approve", "Auto"])
CLOSED = {"days": ["Sun"], "start": "01:00", "duration": "1h", "timeZone": "UTC"}  # NOW is a Friday
FREEZE = {"from": time_text(NOW - 60), "until": time_text(NOW + 60)}
POLICIES: list[dict[str, Any]] = [
    {},
    {},
    {"maintenanceWindows": [CLOSED]},
    {"blackoutWindows": [FREEZE]},
    {"blackoutWindows": [FREEZE | {"includes": ["ScaleUp"]}]},
]
ENVELOPE = {"lowest": 0, "highest": 60, "maxStep": 60}


def budget(allowed: int) -> DisruptionBudget:
    selector = (LabelRule("app", LabelOperator.IN, frozenset({"vllm"})),)
    return DisruptionBudget(namespace="inference", name="vllm", selector=selector, allowed=allowed, expected=10)


@st.composite
def situations(draw):
    current = draw(st.integers(0, 20))
    minimum = draw(st.integers(0, 12))
    mode = {"scaleUp": draw(MODES), "scaleDown": draw(MODES)}
    approval = {
        "id": "rec-1",
        "at": time_text(NOW - 60),
        "subject": "vllm",
        "state": "Standing",
        "envelope": ENVELOPE,
        "until": time_text(NOW + 3600),
    }
    approved = draw(st.booleans())
    obj = ro(
        modes=mode,
        policy=draw(st.sampled_from(POLICIES)),
        poolRef={"name": "h100"},
        annotations={"optiinfra.io/approve": "rec-1"} if approved else {},
        status={"usedApprovals": [approval]} if approved else {},
    )
    gpus = draw(st.sampled_from([0.0, 1.0, 8.0]))
    pods = tuple(pod(f"vllm-{number}", gpus=gpus, labels={"app": "vllm"}) for number in range(current))
    work = service(obj, decision=decision(draw(st.integers(0, 40)), current=current))
    target = work.targets[0]
    target.facts = facts(current, pods=pods, ready_replicas=draw(st.integers(0, current)))
    target.limits = limits(
        minimum=minimum,
        maximum=minimum + draw(st.integers(0, 30)),
        max_replica_step=draw(st.integers(1, 6)),
        max_gpu_step=draw(st.sampled_from([4, 16, 64])),
        gpus_per_replica=gpus,
        cooldown=Seconds(300.0),
        rise_cooldown=Seconds(draw(st.sampled_from([0.0, 60.0]))),
        min_available=draw(st.integers(0, 6)),
    )
    if approved:
        work.approvals = obj.status.used_approvals
    memory = target.memory
    memory.recalled = True
    memory.shape = ReplicaShape(1, gpus) if current else None
    memory.ordered = draw(st.none() | st.integers(0, 30))
    memory.ordered_at = NOW - draw(st.sampled_from([1.0, 100.0]))
    times = {axis: draw(st.none() | st.sampled_from([10.0, 400.0])) for axis in Axis}
    state = PolicyState()
    for axis, ago in times.items():
        if ago is not None:
            state = state.changed(axis, at=UnixTime(NOW - ago))
    memory.policy = replace(state, in_flight=draw(st.sampled_from(["", "", "a1"])))
    gpu_budget = draw(st.none() | st.integers(0, 100))
    fleet = Fleet(
        gpu_budgets={} if gpu_budget is None else {"h100": float(gpu_budget)},
        shrink_limits=ShrinkLimits(replicas=draw(st.none() | st.integers(0, 4)), gpus=draw(st.none() | st.just(16.0))),
        disruption_budgets={"inference": (budget(draw(st.integers(0, 5))),)} if draw(st.booleans()) else {},
    )
    return work, fleet


@given(situations())
def test_no_order_ever_leaves_the_plan_beyond_any_limit(situation):
    work, fleet = situation
    target = work.targets[0]
    ordered, state, bounds = target.memory.ordered, target.memory.policy, target.limits
    batch = Work(round_id="r", at=NOW, keys=(work.key,), services=[work], fleet=fleet)
    plan(batch, actuation_enabled=True, stop=None)
    order, current = target.order, target.decision.current
    modes = work.settings.modes
    if order is None:
        return
    assert bounds.minimum <= order <= bounds.maximum
    assert target.clamped is not None
    if not bounds.minimum <= current <= bounds.maximum:
        return  # the scaler itself brings it within the user's limits at once, so nothing else can hold
    assert abs(order - current) <= bounds.step
    assert abs(order - current) * bounds.gpus_per_replica <= bounds.max_gpu_step
    if order > current:
        assert str(modes.scale_up) != "Recommend"
        assert target.gates.scale_up is None
        budget_gpus = fleet.gpu_budgets.get("h100")
        known = max(current, ordered or 0)
        if budget_gpus is not None and bounds.gpus_per_replica and order > known:
            assert order * bounds.gpus_per_replica <= budget_gpus
        if order > max(current, ordered or 0):
            at = state.at(Axis.SCALE_UP)
            assert at is None or NOW - at >= bounds.rise_cooldown
    if order < current:
        assert str(modes.scale_down) != "Recommend"
        assert target.gates.scale_down is None
        most = fleet.shrink_limits.allowed(99, each=Amount(1, 1, bounds.gpus_per_replica), in_flight=Amount())
        assert current - order <= most
        if ordered is not None and ordered <= order:
            return  # it was ordered before, under the limits of then, and only stands
        assert not state.in_flight
        for axis in Axis:
            at = state.at(axis)
            assert at is None or NOW - at >= bounds.rest(Axis.SCALE_DOWN, after=axis)
        if bounds.min_available:
            assert target.facts.ready_replicas - (current - order) >= bounds.min_available
        for one in fleet.disruption_budgets.get("inference", ()):
            assert current - order <= one.allowed


@given(situations(), st.integers(0, 60))
def test_a_count_to_go_back_to_is_within_one_step_and_the_users_limits(situation, count):
    target = situation[0].targets[0]
    value = last_word(target, count)
    assert target.limits.minimum <= value <= target.limits.maximum
    if target.limits.minimum <= target.facts.desired_replicas <= target.limits.maximum:
        assert abs(value - target.facts.desired_replicas) <= target.limits.step


@given(situations())
def test_a_number_that_was_changed_says_which_limit_did_it(situation):
    work, fleet = situation
    target = work.targets[0]
    plan(Work(round_id="r", at=NOW, keys=(work.key,), services=[work], fleet=fleet), actuation_enabled=True, stop=None)
    if target.clamped.value != target.decision.desired and not target.clamped.reasons:
        # The one thing that changes a number without a limit: a rise of a moment ago is not reduced.
        assert target.memory.ordered == target.clamped.value
    assert set(target.memory.limited) == {str(reason.limit) for reason in target.clamped.reasons}
