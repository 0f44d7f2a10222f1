"""Giving floors back: in steps, only what is ours, and an end in any case."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from optiinfra.cluster.document import Key
from optiinfra.cluster.errors import Absent, Conflict, Unavailable
from optiinfra.cluster.floor import FloorCase, FloorHeld, FloorRefusal, FloorReleased
from optiinfra.cluster.scalers import ScalerRecord
from optiinfra.control.release import USUAL_STEP, delete_own, orphans, release_all, release_one, step_in_time
from tests.unit.control import virtual
from tests.unit.control.examples import scaler


@dataclass
class Floors:
    """HPAs with their floor and original; some answer in their own way."""

    values: dict[str, tuple[int, int]] = field(default_factory=dict)
    scripted: dict[str, list[Any]] = field(default_factory=dict)
    calls: list[tuple[float, str, str, int | None]] = field(default_factory=list)

    async def release(self, key: Key, *, uid: str = "", max_step: int | None = None) -> Any:
        self.calls.append((virtual.now(), key.name, uid, max_step))
        script = self.scripted.get(key.name)
        if script:
            answer = script.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        value, original = self.values[key.name]
        value = original if max_step is None else max(original, value - max_step)
        self.values[key.name] = (value, original)
        return FloorReleased(value, restored=True) if value == original else FloorHeld(value, original, "9")


def record(name: str) -> ScalerRecord:
    facts = scaler(name, held=True, min_replicas=9, original_min_replicas=1)
    return ScalerRecord(Key("inference", name), facts, "Deployment", f"of-{name}")


def released(floors: Floors, *names: str, max_step: int | None = 4, pause: float = 15.0):
    async def story() -> tuple[Any, float]:
        found = await release_all(floors, [record(name) for name in names], step=lambda _: max_step, pause=pause)
        return found, virtual.now()

    return virtual.run(story)


@pytest.mark.parametrize(
    ("floor", "written", "expected"),
    [(9, 4, 4), (9, 1, 1), (9, 0, None), (9, None, USUAL_STEP), (161, 1, 10), (17, 1, 1)],
)
def test_giving_everything_back_fits_into_an_uninstall(floor, written, expected):
    held = scaler(held=True, min_replicas=floor, original_min_replicas=1, release_step=written)
    assert step_in_time(ScalerRecord(Key("inference", "a"), held, "Deployment", "of-a")) == expected


def test_orphans_are_those_nobody_wants():
    records = [record("a"), record("b"), record("c")]
    assert orphans(records, lambda item: item.key.name == "b") == [records[0], records[2]]
    assert orphans([], lambda _: False) == []


def test_a_floor_is_given_back_in_steps_with_a_pause_between_them():
    floors = Floors({"a": (10, 1)})
    found, ended = released(floors, "a")
    assert [(item.done, item.outcome) for item in found] == [(True, "minReplicas 1")]
    assert [at for at, *_ in floors.calls] == pytest.approx([0.0, 15.0, 30.0])
    assert ended < 31.0, "no pause after the last step"
    assert {(uid, step) for _, _, uid, step in floors.calls} == {("uid-of-a", 4)}


def test_without_a_step_it_is_one_write():
    floors = Floors({"a": (10, 1), "b": (7, 2)})
    found, ended = released(floors, "a", "b", max_step=None)
    assert [item.outcome for item in found] == ["minReplicas 1", "minReplicas 2"]
    assert ended < 1.0


def test_who_is_done_is_not_asked_again_while_others_go_on():
    floors = Floors({"slow": (20, 1), "quick": (2, 1)})
    found, _ = released(floors, "slow", "quick")
    assert {item.key.name for item in found if item.done} == {"slow", "quick"}
    assert [name for _, name, _, _ in floors.calls].count("quick") == 1


def test_what_somebody_else_changed_is_kept_and_said():
    found, _ = released(Floors(scripted={"a": [FloorReleased(5, restored=False)]}), "a")
    assert found[0].done
    assert "changed by somebody else" in found[0].outcome
    assert "5" in found[0].outcome


def test_a_refusal_is_final_and_shows_its_remedy():
    refusal = FloorRefusal(FloorCase.NOT_HELD, "", "nothing to release")
    found, _ = released(Floors(scripted={"a": [refusal]}), "a")
    assert [(item.done, item.outcome) for item in found] == [(True, "nothing to release")]


@pytest.mark.parametrize("error", [Unavailable("no answer"), Conflict("changed", code=409)])
def test_an_error_is_tried_again(error):
    floors = Floors({"a": (2, 1)}, scripted={"a": [error]})
    found, _ = released(floors, "a")
    assert [(item.done, item.outcome) for item in found] == [(True, "minReplicas 1")]


def test_an_hpa_that_is_gone_needs_no_hundred_tries():
    floors = Floors(scripted={"a": [Absent("gone", code=404)] * 1000})
    found, _ = released(floors, "a")
    assert found[0].done
    assert len(floors.calls) == 1


def test_what_never_ends_ends_with_a_word_about_it():
    floors = Floors(scripted={"a": [Unavailable("no answer")] * 1000}, values={"b": (2, 1)})
    found, ended = released(floors, "a", "b")
    by_name = {item.key.name: item for item in found}
    assert by_name["b"].done
    assert not by_name["a"].done
    assert "not released" in by_name["a"].outcome
    assert ended <= 100 * 15.0


def test_one_step_of_the_sweep_tells_that_another_is_needed():
    async def story() -> Any:
        return await release_one(Floors({"a": (10, 1)}), record("a"), max_step=4)

    found = virtual.run(story)
    assert not found.done
    assert "minReplicas 6" in found.outcome


def own_record(name: str, *, ours: bool = True) -> ScalerRecord:
    return ScalerRecord(Key("inference", name), scaler(name, owned_by_us=ours), "Deployment", f"of-{name}")


async def test_only_what_is_really_ours_is_deleted_and_each_failure_is_said():
    deleted: list[tuple[str, str]] = []

    class Own:
        async def delete(self, key: Key, *, uid: str, resource_version: str = "") -> bool:
            if key.name == "stuck":
                raise Unavailable("no answer")
            deleted.append((key.name, uid))
            return True

    found = await delete_own(Own(), [own_record("a"), own_record("users", ours=False), own_record("stuck")])
    assert deleted == [("a", scaler("a").uid)]
    assert [(item.key.name, item.done) for item in found] == [("a", True), ("stuck", False)]
