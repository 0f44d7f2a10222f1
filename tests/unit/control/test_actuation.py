"""Actuation: what is written for each order, what is refused, and what is said about it."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from optiinfra.api.reasons import Reason
from optiinfra.cluster.access import Attributes, Verdict
from optiinfra.cluster.document import Key
from optiinfra.cluster.errors import AlreadyExists, Conflict, Unavailable
from optiinfra.cluster.floor import FloorCase, FloorHeld, FloorRefusal, FloorReleased
from optiinfra.cluster.own_scaler import OwnScaler
from optiinfra.control.actuation import Actuator, ExternalMetricsState, published_name, wants_to_act
from optiinfra.control.decisions import DecisionBoard
from optiinfra.control.floor_keeper import FloorKeeper
from optiinfra.control.floor_steps import FloorStep, floor_step
from optiinfra.control.work import Effect, Problem, ServiceWork
from tests.unit.control.examples import (
    DEPLOYMENT,
    NOW,
    UNMEASURED,
    decision,
    facts,
    limits,
    pending,
    ro,
    scaler,
    service,
    time_text,
)

SERVED = ExternalMetricsState(served=True, message="")


@dataclass
class World:
    """Floors, our HPAs and permissions, scripted; every write is noted."""

    outcome: Any = None
    """What taking a floor comes to; None is success, an exception is raised."""
    own_error: Exception | None = None
    denied: frozenset[str] = frozenset()
    external: ExternalMetricsState = SERVED
    writes: list[tuple[Any, ...]] = field(default_factory=list)
    steps: list[int | None] = field(default_factory=list)
    asked: list[Attributes] = field(default_factory=list)

    async def take(
        self, key: Key, *, uid: str, value: int, force: bool = False, release_step: int | None = None
    ) -> FloorHeld | FloorRefusal:
        self.writes.append(("take", str(key), uid, value))
        self.steps.append(release_step)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome or FloorHeld(value, 1, "8")

    async def release(self, key: Key, *, uid: str = "", max_step: int | None = None) -> FloorReleased:
        self.writes.append(("release", str(key), uid, max_step))
        return FloorReleased(1, restored=True)

    async def give_way(self, key: Key, *, uid: str) -> FloorReleased:
        self.writes.append(("give way", str(key), uid))
        return FloorReleased(3, restored=False)

    async def apply(self, wanted: OwnScaler, *, uid: str = "") -> str:
        self.writes.append(("apply", wanted, uid))
        if self.own_error is not None:
            raise self.own_error
        return uid or "uid-of-ours"

    async def delete(self, key: Key, *, uid: str, resource_version: str = "") -> bool:
        self.writes.append(("delete", str(key), uid, resource_version))
        return True

    async def may_i(self, attributes: Attributes) -> Verdict:
        self.asked.append(attributes)
        return Verdict(attributes.verb not in self.denied, "")

    def actuator(self) -> Actuator:
        board = DecisionBoard(clock=lambda: 1000.0)
        return Actuator(
            board=board,
            floors=FloorKeeper(self),
            own=self,
            access=self,
            external=lambda: self.external,
            server_minor=36,
        )


async def carried_out(
    work: ServiceWork, world: World, actuator: Actuator | None = None
) -> tuple[Actuator, Effect | None]:
    actuator = actuator or world.actuator()
    for target in work.targets:
        await actuator.carry_out(work, target)
    published = actuator.board.get(work.key.namespace, work.key.name)
    actuator.board.expire()
    assert published is None or published.expires_at > 1000.0
    return actuator, work.targets[0].effect


def published(actuator: Actuator, name: str = "svc") -> int | None:
    found = actuator.board.get("inference", name)
    return None if found is None else found.replicas


@pytest.fixture(autouse=True)
def no_series_left():
    yield
    from optiinfra import metrics

    metrics.DESIRED_REPLICAS.clear()


def with_scaling(mode: str = "Auto", order: int | None = 6, **scaling: Any) -> ServiceWork:
    spec = {key: value for key, value in scaling.items() if key[0].islower() and key not in ("facts", "scalers")}
    extra = {key: scaling[key] for key in ("facts", "scalers") if key in scaling}
    desired = 6 if order is None else order
    return service(ro(mode=mode, scaling=spec), decision=decision(desired), order=order, **extra)


# Signal


async def test_signal_publishes_the_order_and_writes_nothing():
    world = World()
    actuator, effect = await carried_out(with_scaling(actuation="Signal"), world)
    assert published(actuator) == 6
    assert effect is None
    assert world.writes == []
    assert world.asked == []


async def test_without_an_order_the_series_disappears():
    world = World()
    actuator, _ = await carried_out(with_scaling(actuation="Signal"), world)
    await carried_out(with_scaling(actuation="Signal", order=None), world, actuator)
    assert published(actuator) is None


async def test_a_problem_or_missing_facts_withdraw_what_was_published():
    for broken in ({"problem": Problem(Reason.TARGET_NOT_FOUND, "x")}, {"facts": None}):
        world = World()
        actuator, _ = await carried_out(with_scaling(actuation="Signal"), world)
        work = with_scaling(actuation="Signal")
        for name, value in broken.items():
            setattr(work.targets[0], name, value)
        await carried_out(work, world, actuator)
        assert published(actuator) is None


async def test_a_published_order_outlives_a_few_missed_rounds_and_no_more():
    for interval, lifetime in (("5s", 30.0), ("60s", 180.0)):
        work = service(ro(mode="Auto", interval=interval), decision=decision(6), order=6)
        actuator, _ = await carried_out(work, World())
        found = actuator.board.get("inference", "svc")
        assert found is not None
        assert found.expires_at - found.decided_at == lifetime


async def test_each_variant_is_published_under_its_own_name():
    variants = [{"name": name, "targetRef": DEPLOYMENT | {"name": name}} for name in ("spot", "reserved")]
    work = service(ro(mode="Auto", variants=variants))
    for target, order in zip(work.targets, (3, 5), strict=True):
        target.decision, target.order = decision(order), order
    actuator, _ = await carried_out(work, World())
    assert (published(actuator, "svc.spot"), published(actuator, "svc.reserved")) == (3, 5)
    assert published(actuator) is None
    assert published_name(work, work.targets[0]) == "svc.spot"


# Own

OWN = {"actuation": "Own", "minReplicas": 2, "maxReplicas": 16}


def ours(**changes: Any):
    return scaler("optiinfra-svc", uid="uid-of-ours", owned_by_us=True, min_replicas=1, max_replicas=20, **changes)


async def test_own_publishes_and_then_creates_its_hpa_from_the_limits():
    world = World()
    work = with_scaling(**OWN)
    actuator, effect = await carried_out(work, world)
    assert published(actuator) == 6
    ((what, wanted, uid),) = world.writes
    assert (what, uid) == ("apply", "")
    assert (wanted.key, wanted.min_replicas, wanted.max_replicas) == (Key("inference", "optiinfra-svc"), 1, 20)
    assert (wanted.target_kind, wanted.target_name, wanted.owner_uid) == ("Deployment", "vllm", "uid-1")
    assert (wanted.metric_name, wanted.server_minor) == ("svc", 36)
    assert effect is None
    assert [asked.verb for asked in world.asked] == ["create", "patch"]
    assert {asked.resource for asked in world.asked} == {"horizontalpodautoscalers"}


async def test_own_writes_nothing_while_its_hpa_is_as_it_was_applied():
    world = World()
    actuator, _ = await carried_out(with_scaling(**OWN), world)
    world.writes.clear()
    await carried_out(with_scaling(**OWN, scalers=(ours(),)), world, actuator)
    assert world.writes == []
    await carried_out(with_scaling(**OWN, scalers=(ours(resource_version="9"),)), world, actuator)
    assert world.writes == []


async def test_own_mends_its_hpa_when_somebody_changed_it_or_the_limits_changed():
    world = World()
    actuator, _ = await carried_out(with_scaling(**OWN), world)
    world.writes.clear()
    await carried_out(with_scaling(**OWN, scalers=(replace(ours(), max_replicas=3),)), world, actuator)
    assert [write[0] for write in world.writes] == ["apply"]
    assert world.writes[0][2] == "uid-of-ours"
    world.writes.clear()
    work = with_scaling(**OWN, scalers=(ours(),))
    work.targets[0].limits = limits(maximum=12)
    await carried_out(work, world, actuator)
    assert world.writes[0][1].max_replicas == 12


async def test_after_a_restart_the_hpa_that_exists_is_taken_up_and_not_created_twice():
    world = World()
    await carried_out(with_scaling(**OWN, scalers=(ours(),)), world)
    assert [write[2] for write in world.writes] == ["uid-of-ours"]


async def test_own_never_asks_for_a_minimum_of_zero():
    world = World()
    work = with_scaling(**OWN)
    work.targets[0].limits = limits(minimum=0)
    await carried_out(work, world)
    assert world.writes[0][1].min_replicas == 1


async def test_own_gives_way_to_another_hpa():
    world = World()
    actuator, _ = await carried_out(with_scaling(**OWN), world)
    world.writes.clear()
    actuator, effect = await carried_out(with_scaling(**OWN, scalers=(ours(), scaler("theirs"))), world, actuator)
    assert world.writes == [("delete", "inference/optiinfra-svc", "uid-of-ours", "7")]
    assert published(actuator) is None
    assert effect is not None
    assert (effect.effective, effect.reason) == (False, Reason.SCALER_EXISTS)
    assert "theirs" in effect.message


async def test_own_refuses_while_its_metric_cannot_be_read():
    world = World(external=ExternalMetricsState(served=False, message="Service keda/keda owns it"))
    _, effect = await carried_out(with_scaling(**OWN), world)
    assert world.writes == []
    assert effect == Effect(effective=False, reason=Reason.METRIC_API_OWNED, message="Service keda/keda owns it")


@pytest.mark.parametrize("verb", ["create", "patch"])
async def test_own_without_permission_says_so_and_asks_again_only_later(verb):
    world = World(denied=frozenset({verb}))
    actuator, effect = await carried_out(with_scaling(**OWN), world)
    assert world.writes == []
    assert published(actuator) is None, "no number for an HPA that cannot be"
    assert effect is not None
    assert effect.reason is Reason.PERMISSION_MISSING
    assert verb in effect.message
    assert "actuation.enabled" in effect.message
    before = len(world.asked)
    await carried_out(with_scaling(**OWN), world, actuator)
    assert len(world.asked) == before


async def test_an_hpa_of_our_name_that_is_not_ours_is_left_alone():
    world = World(own_error=AlreadyExists("exists", code=409))
    _, effect = await carried_out(with_scaling(**OWN), world)
    assert effect is not None
    assert (effect.effective, effect.reason) == (False, Reason.SCALER_EXISTS)
    assert "optiinfra-svc" in effect.message


async def test_a_conflict_is_tried_in_the_next_round_and_an_error_is_told():
    for error, effective in ((Conflict("changed", code=409), None), (Unavailable("no answer"), False)):
        world = World(own_error=error)
        _, effect = await carried_out(with_scaling(**OWN), world)
        assert effect is not None
        assert (effect.effective, effect.reason) == (effective, Reason.API_ERROR)
        assert len(world.writes) == 1, "never twice in one round"


@pytest.mark.parametrize(("spec", "mode"), [({"suspend": True}, "Auto"), ({}, "Recommend")])
async def test_own_takes_its_hpa_away_when_it_may_not_act_any_more(spec, mode):
    world = World()
    work = service(ro(mode=mode, scaling=OWN, **spec), decision=decision(6), order=None, scalers=(ours(),))
    assert not wants_to_act(work)
    await carried_out(work, world)
    assert [write[0] for write in world.writes] == ["delete"]


async def test_own_without_an_order_keeps_its_hpa_and_withdraws_the_number():
    world = World()
    actuator, _ = await carried_out(with_scaling(**OWN), world)
    world.writes.clear()
    await carried_out(with_scaling(**OWN, order=None, scalers=(ours(),)), world, actuator)
    assert world.writes == []
    assert published(actuator) is None


async def test_what_another_actuation_left_is_taken_away():
    world = World()
    await carried_out(with_scaling(actuation="Signal", scalers=(ours(),)), world)
    assert [write[0] for write in world.writes] == ["delete"]
    world = World()
    held = scaler("hpa", held=True, original_min_replicas=1, min_replicas=6)
    await carried_out(with_scaling(actuation="Signal", scalers=(held,)), world)
    assert [write[0] for write in world.writes] == ["release"]


# Floor

HELD = {"held": True, "original_min_replicas": 1, "release_step": 4}


def floor_work(hpa, *, desired: int = 6, floor: int | None = None, order: int | None = 6, **more: Any) -> ServiceWork:
    spec = ro(mode=more.pop("mode", "Auto"), scaling={"actuation": "Floor"}, **more)
    work = service(spec, decision=decision(desired, floor=floor), order=order, scalers=(hpa,))
    work.targets[0].facts = facts(scaler=hpa)
    return work


async def test_floor_takes_the_minimum_of_the_users_hpa_and_publishes_nothing():
    world = World()
    actuator, effect = await carried_out(floor_work(scaler()), world)
    assert world.writes == [("take", "inference/hpa", "uid-of-hpa", 6)]
    assert published(actuator) is None
    assert effect is None


async def test_floor_writes_nothing_while_it_holds_what_it_wants():
    world = World()
    await carried_out(floor_work(scaler(**HELD, min_replicas=6)), world)
    assert world.writes == []


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (FloorCase.APPLY_MANAGER, Reason.FIELD_OWNED),
        (FloorCase.UPDATE_MANAGER, Reason.FIELD_OWNED),
        (FloorCase.CONTROLLER_OWNER, Reason.SCALER_OWNED_BY_CONTROLLER),
        (FloorCase.NOT_HELD, Reason.FLOOR_LOST),
    ],
)
async def test_a_refused_floor_is_told_with_its_remedy(case, reason):
    world = World(outcome=FloorRefusal(case, "helm", "remove minReplicas from the manifest of helm"))
    _, effect = await carried_out(floor_work(scaler()), world)
    assert effect is not None
    assert (effect.effective, effect.reason) == (False, reason)
    assert "remove minReplicas from the manifest of helm" in effect.message


async def test_floor_needs_the_permission_to_patch():
    world = World(denied=frozenset({"patch"}))
    _, effect = await carried_out(floor_work(scaler()), world)
    assert world.writes == []
    assert effect is not None
    assert effect.reason is Reason.PERMISSION_MISSING


async def test_floor_conflict_and_outage():
    for error, effective in ((Conflict("changed", code=409), None), (Unavailable("no answer"), False)):
        _, effect = await carried_out(floor_work(scaler()), World(outcome=error))
        assert effect is not None
        assert (effect.effective, effect.reason) == (effective, Reason.API_ERROR)


async def test_floor_without_an_order_or_a_decision_holds_still():
    held = scaler(held=True, min_replicas=6, original_min_replicas=1)
    world = World()
    await carried_out(floor_work(held, order=None), world)
    unsure = floor_work(held)
    unsure.targets[0].decision = UNMEASURED
    await carried_out(unsure, world)
    assert world.writes == []


def approved(hpa, *, state="Standing", **more):
    used = {
        "id": "r1",
        "at": time_text(NOW),
        "subject": "vllm",
        "state": state,
        "envelope": {"lowest": 2, "highest": 6, "maxStep": 4},
        "until": time_text(NOW + 60.0),
    }
    work = floor_work(hpa, mode="Approve", status={"usedApprovals": [used]}, **more)
    work.approvals = work.obj.status.used_approvals
    return work


@pytest.mark.parametrize("state", ["Expired", "Revoked"])
async def test_a_floor_goes_back_in_steps_when_what_was_approved_has_ended(state):
    world, held = World(), scaler(**HELD, min_replicas=6)
    _, effect = await carried_out(approved(held, state=state, order=None), world)
    assert world.writes == [("release", "inference/hpa", "uid-of-hpa", 4)]
    assert effect is not None
    assert (effect.effective, effect.reason) == (None, Reason.AWAITING_APPROVAL)
    assert "minReplicas 6 of HorizontalPodAutoscaler hpa goes back to 1" in effect.message


async def test_what_is_not_known_or_is_approved_is_held():
    world, held = World(), scaler(**HELD, min_replicas=6)
    unsure = approved(held, state="Expired", order=None)
    unsure.targets[0].decision = UNMEASURED
    await carried_out(unsure, world)
    await carried_out(approved(held), world)
    await carried_out(approved(scaler(), state="Expired", order=None), world)
    assert world.writes == []


async def test_nobody_gives_back_without_the_right_to():
    world = World(denied=frozenset({"patch"}))
    _, effect = await carried_out(approved(scaler(**HELD, min_replicas=6), state="Expired", order=None), world)
    assert world.writes == []
    assert effect is not None
    assert effect.reason is Reason.PERMISSION_MISSING


@pytest.mark.parametrize("more", [{"suspend": True}, {"mode": "Recommend"}])
async def test_floor_is_given_back_in_steps_when_it_may_not_act_any_more(more):
    world = World()
    held = scaler(held=True, min_replicas=6, original_min_replicas=1)
    await carried_out(floor_work(held, order=None, **more), world)
    assert world.writes == [("release", "inference/hpa", "uid-of-hpa", 4)]
    world.writes.clear()
    await carried_out(floor_work(scaler(), order=None, **more), world)
    assert world.writes == []


@pytest.mark.parametrize(
    ("hpa", "floor", "current", "step", "expected", "reason"),
    [
        # rising: in steps from what runs, never above the live maximum
        ({"min_replicas": 1}, 6, 4, 4, 6, None),
        ({"min_replicas": 1}, 12, 4, 4, 8, None),
        ({"min_replicas": 1}, 12, 10, 4, 12, None),
        ({"min_replicas": 1, "max_replicas": 5}, 12, 4, 4, 5, None),
        ({"min_replicas": 4} | HELD, 9, 4, 2, 6, None),
        # nothing to hold
        ({"min_replicas": 6}, 6, 6, 4, None, None),
        ({"min_replicas": 6}, 3, 6, 4, None, None),
        # falling: in steps, and only while the HPA itself is active
        ({"min_replicas": 8} | HELD, 8, 8, 4, 8, None),
        ({"min_replicas": 8} | HELD, 6, 8, 4, 6, None),
        ({"min_replicas": 8} | HELD, 1, 8, 4, 4, None),
        ({"min_replicas": 8, "scaling_active": False} | HELD, 1, 8, 4, 8, Reason.ONE_WAY_FLOOR),
        ({"min_replicas": 8, "scaling_active": None} | HELD, 7, 8, 4, 8, Reason.ONE_WAY_FLOOR),
        ({"min_replicas": 8, "scaling_active": False} | HELD, 10, 8, 4, 10, None),
    ],
)
def test_the_floor_moves_in_steps_within_the_hpas_own_limits(hpa, floor, current, step, expected, reason):
    work = floor_work(scaler(**hpa), desired=max(floor, 1), floor=floor, order=max(floor, 1))
    target = work.targets[0]
    target.facts = facts(current, scaler=scaler(**hpa))
    found = floor_step(target, scaler(**hpa), step=step)
    assert found.value == expected
    assert (found.effect.reason if found.effect else None) == reason


def test_the_floor_is_never_more_than_what_was_ordered_or_approved():
    work = floor_work(scaler(min_replicas=1), floor=10, order=6)
    assert floor_step(work.targets[0], scaler(min_replicas=1), step=20) == FloorStep(6)


def test_what_did_harm_by_going_comes_back_as_a_floor():
    held = scaler(**HELD, min_replicas=2)
    work = floor_work(held, floor=2, order=6)
    work.targets[0].restore = 6
    work.targets[0].facts = facts(4, scaler=held)
    assert floor_step(work.targets[0], held, step=4) == FloorStep(6)


def test_the_floor_does_not_rise_while_gpu_pods_wait_for_a_node():
    work = floor_work(scaler(**HELD, min_replicas=5), floor=9, order=9)
    target = work.targets[0]
    target.facts = facts(4, pods=(*facts(4).pods, pending()))
    found = floor_step(target, scaler(**HELD, min_replicas=5), step=4)
    assert found.value == 5
    assert found.effect is not None
    assert found.effect.reason is Reason.PODS_PENDING
    assert "vllm-9" in found.effect.message
    target.facts = facts(4, pods=(*facts(4).pods, pending(gpus=0.0)))
    assert floor_step(target, scaler(**HELD, min_replicas=5), step=4) == FloorStep(9)
