"""The floor from round to round: taken once, given way with, and never faster than the user's own rules."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from optiinfra.api.reasons import Reason
from optiinfra.api.v1alpha1.status_parts import TakeoverStatus
from optiinfra.cluster.document import Key
from optiinfra.cluster.errors import Conflict, Unavailable
from optiinfra.cluster.floor import FloorHeld, FloorRefusal, FloorReleased
from optiinfra.control.floor_keeper import FloorKeeper
from optiinfra.control.report import service_status
from optiinfra.control.work import Effect, ServiceWork
from optiinfra.domain.scale_up_rules import RateKind, RatePolicy, ScaleUpRules, Select
from optiinfra.domain.units import Seconds, UnixTime
from tests.unit.control.examples import NOW, decision, facts, limits, ro, scaler, service
from tests.unit.control.test_report import TALK

KUBECTL = (("kubectl-client-side-apply", "Update"),)
OURS = (("optiinfra", "Apply"),)


@dataclass
class Hpa:
    """An HPA at the API server, and what we write there."""

    facts: Any = field(default_factory=lambda: scaler(min_replicas=2, max_replicas=20))
    error: Exception | None = None
    writes: list[tuple[Any, ...]] = field(default_factory=list)

    async def take(
        self, key: Key, *, uid: str, value: int, force: bool = False, release_step: int | None = None
    ) -> FloorHeld | FloorRefusal:
        self.writes.append(("forced" if force else "take", value))
        if self.error is not None:
            raise self.error
        original = self.facts.original_min_replicas or self.facts.min_replicas
        self.version("held", value, managers=OURS, original=original, step=release_step)
        return FloorHeld(value, original, self.facts.resource_version)

    async def give_way(self, key: Key, *, uid: str) -> FloorReleased:
        self.writes.append(("give way",))
        self.version("free", self.facts.min_replicas, managers=self.facts.min_replicas_managers)
        return FloorReleased(self.facts.min_replicas, restored=False)

    async def release(self, key: Key, *, uid: str = "", max_step: int | None = None) -> FloorReleased:
        self.writes.append(("release", max_step))
        self.version("free", self.facts.original_min_replicas or 1, managers=())
        return FloorReleased(1, restored=True)

    def version(self, state: str, value: int, *, managers: Any, original: int | None = None, step: Any = None) -> None:
        self.facts = replace(
            self.facts,
            resource_version=str(int(self.facts.resource_version) + 1),
            min_replicas=value,
            min_replicas_managers=managers,
            held=state == "held",
            original_min_replicas=original,
            release_step=step,
            floor_lost=False,
        )

    def written_by(self, manager: str, value: int, how: str = "Update") -> None:
        """Somebody writes minReplicas; our label stays where it was."""
        self.facts = replace(
            self.facts,
            resource_version=str(int(self.facts.resource_version) + 1),
            min_replicas=value,
            min_replicas_managers=((manager, how),),
            floor_lost=self.facts.held,
        )


@dataclass
class Story:
    """One object, its keeper and the HPA, round by round."""

    hpa: Hpa
    takeover: str = "Once"
    release: str = "Steps"
    wanted: int = 6
    replicas: int = 4
    now: float = NOW
    takeovers: tuple[TakeoverStatus, ...] = ()
    status_fails: bool = False
    maximum: int | None = None

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.keeper = FloorKeeper(self.hpa, clock=lambda: self.now)

    def work(self) -> ServiceWork:
        scaling: dict[str, Any] = {"actuation": "Floor", "takeover": self.takeover, "release": self.release}
        if self.maximum is not None:
            scaling["maxReplicas"] = self.maximum
        obj = ro(mode="Auto", scaling=scaling, policy={"cooldown": "5m"})
        obj = obj.model_copy(update={"status": obj.status.model_copy(update={"takeovers": self.takeovers})})
        work = service(obj, decision=decision(self.wanted), order=self.wanted, scalers=(self.hpa.facts,))
        work.targets[0].facts = facts(self.replicas, scaler=self.hpa.facts)
        work.targets[0].limits = limits(maximum=self.hpa.facts.max_replicas)
        return work

    async def round(self) -> Effect | None:
        work = self.work()
        self.now += 30.0
        effect = await self.keeper.keep(work, work.targets[0])
        if not self.status_fails:
            self.takeovers = service_status(work, round_id="r", now=UnixTime(self.now), insight=TALK).takeovers
        return effect


def theirs(**more: Any) -> Hpa:
    return Hpa(scaler(min_replicas=2, max_replicas=20, min_replicas_managers=KUBECTL, **more))


async def test_once_is_written_into_the_status_before_it_is_done():
    story = Story(theirs())
    effect = await story.round()
    assert effect is not None
    assert (effect.effective, effect.reason) == (False, Reason.FIELD_OWNED)
    assert story.hpa.writes == []
    (record,) = story.takeovers
    assert (record.name, record.scaler, record.value) == ("vllm", "hpa", 2)
    assert record.manager == "kubectl-client-side-apply"
    assert await story.round() is None
    assert story.hpa.writes == [("forced", 6)]
    assert await story.round() is None
    assert len(story.hpa.writes) == 1


async def test_nothing_is_forced_while_the_status_cannot_be_written():
    story = Story(theirs(), status_fails=True)
    for _ in range(5):
        await story.round()
    assert story.hpa.writes == []


async def test_what_is_lost_after_a_takeover_is_never_forced_again():
    story = Story(theirs())
    await story.round()
    await story.round()
    story.hpa.written_by("kubectl-client-side-apply", 3)
    effect = await story.round()
    assert effect is not None
    assert (effect.reason, story.hpa.writes[1:]) == (Reason.FLOOR_LOST, [("give way",)])
    for _ in range(5):
        effect = await story.round()
        assert effect is not None
        assert (effect.effective, effect.reason) == (False, Reason.FLOOR_LOST)
        assert "kubectl-client-side-apply" in effect.message
    assert len(story.hpa.writes) == 2


async def test_a_restart_between_announcement_and_write_forces_nothing():
    story = Story(theirs())
    await story.round()
    story.restart()
    effect = await story.round()
    assert effect is not None
    assert effect.reason is Reason.FLOOR_LOST
    assert story.hpa.writes == []


async def test_a_restart_after_the_takeover_does_not_arm_it_again():
    story = Story(theirs())
    await story.round()
    await story.round()
    story.restart()
    story.hpa.written_by("helm", 2)
    for _ in range(4):
        await story.round()
    assert story.hpa.writes == [("forced", 6), ("give way",)]


async def test_never_and_once_arm_it_again():
    story = Story(theirs())
    await story.round()
    await story.round()
    story.hpa.written_by("kubectl-edit", 3)
    await story.round()
    story.takeover = "Never"
    effect = await story.round()
    assert effect is not None
    assert effect.reason is Reason.FIELD_OWNED
    assert story.takeovers == ()
    story.takeover = "Once"
    await story.round()
    await story.round()
    assert story.hpa.writes == [("forced", 6), ("give way",), ("forced", 6)]
    assert story.takeovers[0].value == 3


@pytest.mark.parametrize(("error", "tries"), [(Conflict("changed", code=409), 3), (Unavailable("no answer"), 1)])
async def test_a_forced_write_whose_answer_is_lost_is_not_sent_again(error, tries):
    """A refusal is no write; silence may have been one."""
    story = Story(theirs())
    await story.round()
    story.hpa.error = error
    for _ in range(3):
        try:
            await story.round()
        except (Conflict, Unavailable):
            continue
    assert story.hpa.writes == [("forced", 6)] * tries


async def test_another_apply_manager_is_never_forced():
    story = Story(Hpa(scaler(min_replicas=2, min_replicas_managers=(("argocd", "Apply"),))))

    async def refuse(*_: Any, force: bool = False, **__: Any) -> FloorRefusal:
        from optiinfra.cluster.floor import refusal_of

        assert not force
        found = refusal_of(story.hpa.facts)
        assert found is not None
        return found

    story.hpa.take = refuse  # type: ignore[method-assign, assignment]  # the API server's answer
    for _ in range(3):
        effect = await story.round()
        assert effect is not None
        assert effect.reason is Reason.FIELD_OWNED
        assert "argocd" in effect.message
    assert story.takeovers == ()


async def test_a_mirror_that_is_behind_our_own_write_is_not_believed():
    story = Story(Hpa())
    await story.round()
    fresh, story.hpa.facts = story.hpa.facts, scaler(min_replicas=2, max_replicas=20, resource_version="7")
    effect = await story.round()
    assert effect is not None
    assert effect.reason is Reason.SCALING_IN_PROGRESS
    story.hpa.facts = fresh
    assert await story.round() is None
    assert len(story.hpa.writes) == 1


async def test_a_maximum_lowered_to_the_floor_is_given_way_to_at_once_and_rested_from():
    story = Story(Hpa())
    await story.round()
    await story.round()
    story.hpa.facts = replace(story.hpa.facts, max_replicas=6)
    effect = await story.round()
    assert effect is not None
    assert (effect.reason, story.hpa.writes[1:]) == (Reason.MAXIMUM_LOWERED, [("release", None)])
    for _ in range(8):
        effect = await story.round()
        assert effect is not None
        assert effect.reason is Reason.MAXIMUM_LOWERED
    assert len(story.hpa.writes) == 2
    story.now += 60.0
    await story.round()
    assert story.hpa.writes[2:] == [("take", 6)]


async def test_a_clock_that_is_set_back_makes_the_rest_no_longer_than_it_is():
    story = Story(Hpa())
    await story.round()
    await story.round()
    story.hpa.facts = replace(story.hpa.facts, max_replicas=6)
    await story.round()
    story.now -= 86400.0
    for _ in range(11):
        await story.round()
    assert story.hpa.writes[2:] == [("take", 6)]


async def test_a_maximum_that_is_raised_again_ends_the_rest():
    story = Story(Hpa())
    await story.round()
    await story.round()
    story.hpa.facts = replace(story.hpa.facts, max_replicas=6)
    await story.round()
    story.hpa.facts = replace(story.hpa.facts, max_replicas=10)
    await story.round()
    assert story.hpa.writes[2:] == [("take", 6)]


async def test_a_maximum_that_the_object_asked_for_itself_is_no_reason_to_give_way():
    story = Story(Hpa(), maximum=6)
    await story.round()
    story.hpa.facts = replace(story.hpa.facts, max_replicas=6)
    for _ in range(3):
        assert await story.round() is None
    assert story.hpa.writes == [("take", 6)]


async def test_a_floor_at_an_old_maximum_is_no_reason_to_give_way():
    story = Story(Hpa(scaler(min_replicas=2, max_replicas=6)))
    for _ in range(4):
        await story.round()
    assert story.hpa.writes == [("take", 6)]


async def test_the_users_own_pace_holds_the_floor():
    slow = ScaleUpRules((RatePolicy(RateKind.PODS, 1, Seconds(100.0)),))
    story = Story(Hpa(scaler(min_replicas=2, scale_up=slow)), wanted=8)
    await story.round()
    assert story.hpa.writes == [("take", 5)]
    story.replicas = 5
    effect = None
    for _ in range(3):
        effect = await story.round()
    assert effect is not None
    assert effect.reason is Reason.SCALING_IN_PROGRESS
    assert "behavior.scaleUp" in effect.message
    await story.round()
    await story.round()
    assert story.hpa.writes == [("take", 5), ("take", 6)]


async def test_who_forbids_to_scale_up_is_obeyed():
    story = Story(Hpa(scaler(min_replicas=2, scale_up=ScaleUpRules(select=Select.DISABLED))), replicas=2)
    for _ in range(5):
        await story.round()
    assert story.hpa.writes == []


@pytest.mark.parametrize(("release", "step", "written"), [("Steps", 4, 4), ("Immediate", None, 0)])
async def test_release_is_in_steps_unless_the_object_says_at_once(release, step, written):
    story = Story(Hpa(), release=release)
    await story.round()
    assert story.hpa.facts.release_step == written
    work = story.work()
    await story.keeper.give_back(work, work.targets[0], story.hpa.facts)
    assert story.hpa.writes[-1] == ("release", step)


async def test_a_controller_that_adopts_the_hpa_gets_it_back():
    story = Story(Hpa())
    await story.round()
    story.hpa.facts = replace(story.hpa.facts, controller_owner="ScaledObject/svc")
    effect = await story.round()
    assert effect is not None
    assert effect.reason is Reason.SCALER_OWNED_BY_CONTROLLER
    assert "ScaledObject/svc" in effect.message
    assert story.hpa.writes[1:] == [("release", None)]
