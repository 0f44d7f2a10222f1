"""The sweep: floors that nobody wants any more go back, in their own steps, and nothing else does."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from optiinfra.cluster.document import Key
from optiinfra.cluster.errors import Unavailable
from optiinfra.cluster.floor import FloorHeld, FloorReleased
from optiinfra.cluster.scalers import ScalerRecord
from optiinfra.control.registry import Registry
from optiinfra.control.release import USUAL_STEP, step_of
from optiinfra.control.sweep import Sweep
from tests.unit.control import virtual
from tests.unit.control.examples import ro_body, scaler

FLOOR = {"scaling": {"actuation": "Floor"}}


def held(name: str = "hpa", *, target: str = "vllm", namespace: str = "inference", **facts: Any) -> ScalerRecord:
    found = scaler(name, **({"held": True, "min_replicas": 9, "original_min_replicas": 1} | facts))
    return ScalerRecord(Key(namespace, name), found, "Deployment", target)


@dataclass
class World:
    """Objects at the API server, held HPAs, and what was given back."""

    bodies: list[dict[str, Any]] = field(default_factory=list)
    records: tuple[ScalerRecord, ...] = ()
    error: Exception | None = None
    registry: Registry = field(default_factory=Registry)
    released: list[tuple[str, int | None]] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)

    async def list_all(self, resource: Any) -> list[dict[str, Any]]:
        if self.error is not None:
            raise self.error
        return self.bodies

    def held_scalers(self) -> tuple[ScalerRecord, ...]:
        return self.records

    async def release(self, key: Key, *, uid: str = "", max_step: int | None = None) -> Any:
        self.released.append((key.name, max_step))
        return self.answers.pop(0) if self.answers else FloorReleased(1, restored=True)

    def seen(self, kind: Any, body: Any) -> None:
        self.registry.upsert(kind, body)

    def vanished(self, key: Any) -> None:
        self.registry.remove(key)

    def sweep(self, **changes: Any) -> Sweep:
        parts: dict[str, Any] = {"cluster_kind": False, "actuation_enabled": True} | changes
        return Sweep(lister=self, held=self, floor=self, registry=self.registry, events=self, **parts)


async def test_a_floor_without_an_object_goes_back():
    world = World(records=(held(),))
    await world.sweep().run_once()
    assert world.released == [("hpa", USUAL_STEP)]


async def test_a_floor_of_a_living_object_stays():
    world = World([ro_body(**FLOOR)], (held(), held("other", target="somebody-elses")))
    await world.sweep().run_once()
    assert world.released == [("other", USUAL_STEP)]


@pytest.mark.parametrize(("written", "step"), [(None, USUAL_STEP), (2, 2), (0, None)])
async def test_it_goes_back_in_the_steps_that_are_written_beside_it(written, step):
    record = held(release_step=written)
    assert step_of(record) == step
    world = World(records=(record,))
    await world.sweep().run_once()
    assert world.released == [("hpa", step)]


async def test_an_object_that_cannot_be_read_is_no_wish_to_give_back():
    broken = ro_body("broken", mode="Sometimes")
    world = World([broken], (held(), held("far", namespace="elsewhere")))
    await world.sweep().run_once()
    assert world.released == [("far", USUAL_STEP)]


async def test_before_all_objects_were_listed_nothing_goes_back():
    world = World(records=(held(),), error=Unavailable("no answer"))
    sweep = world.sweep()
    await sweep.run_once()
    await sweep.release_orphans()
    assert world.released == []
    world.error = None
    await sweep.run_once()
    assert len(world.released) == 1


async def test_another_step_is_due_while_one_was_not_the_last():
    world = World(records=(held(),), answers=[FloorHeld(5, 1, "9")])
    sweep = world.sweep()
    await sweep.run_once()
    assert sweep.unfinished
    await sweep.release_orphans()
    assert not sweep.unfinished


@pytest.mark.parametrize("changes", [{"actuation_enabled": False}, {"kill_switch": lambda: True}])
async def test_without_the_right_to_act_nothing_is_written(changes):
    world = World(records=(held(),))
    await world.sweep(**changes).run_once()
    assert world.released == []


def test_a_release_that_is_not_answered_keeps_no_other_floor_and_is_asked_once():
    async def story():
        world = World(records=(held("silent"), held("hpa")))
        answer, release = asyncio.Event(), world.release

        async def silent(key: Key, **more: Any) -> Any:
            if key.name == "silent" and not answer.is_set():
                world.released.append(("asked", None))
                await answer.wait()
            return await release(key, **more)

        world.release = silent  # type: ignore[method-assign]  # the same world, with a server that hangs
        sweep = world.sweep()
        await sweep.run_once()
        await sweep.release_orphans()
        assert world.released == [("asked", None), ("hpa", USUAL_STEP), ("hpa", USUAL_STEP)]
        assert sweep.unfinished
        answer.set()
        await asyncio.sleep(0.1)
        world.records = ()
        await sweep.release_orphans()
        assert world.released[3:] == [("silent", USUAL_STEP)]
        assert not sweep.unfinished

    virtual.run(story)
