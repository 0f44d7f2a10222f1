"""The sweep writes nothing without having asked whether it may."""

import asyncio

import pytest

from optiinfra.cluster.access import Verdict
from optiinfra.cluster.document import Key
from optiinfra.cluster.errors import Denied
from optiinfra.cluster.floor import FloorReleased
from optiinfra.control.asking_floor import AskingFloor


class World:
    """Floors, permissions and a clock, and what happened in which order."""

    def __init__(self, *, allowed: bool) -> None:
        self.allowed, self.now, self.happened = allowed, 0.0, []

    async def may_i(self, attributes):
        self.happened.append(("asked", attributes.verb, attributes.resource, attributes.namespace))
        return Verdict(self.allowed, "")

    async def release(self, key, *, uid="", max_step=None):
        self.happened.append(("released", key.namespace, uid, max_step))
        return FloorReleased(value=1, restored=True)


def give(world: World, floor: AskingFloor, namespace: str = "inference") -> None:
    asyncio.run(floor.release(Key(namespace, "hpa"), uid="u", max_step=4))


def asking(world: World) -> AskingFloor:
    return AskingFloor(world, world, clock=lambda: world.now)


def test_it_asks_once_a_minute_and_namespace_and_before_the_write():
    world = World(allowed=True)
    floor = asking(world)
    give(world, floor)
    give(world, floor)
    give(world, floor, "other")
    world.now = 61.0
    give(world, floor)
    kinds = [step[0] for step in world.happened]
    assert kinds == ["asked", "released", "released", "asked", "released", "asked", "released"]
    assert world.happened[0] == ("asked", "patch", "horizontalpodautoscalers", "inference")
    assert world.happened[1] == ("released", "inference", "u", 4)


def test_without_the_right_nothing_is_written_and_the_error_says_what_to_set():
    world = World(allowed=False)
    with pytest.raises(Denied, match=r"inference; set actuation\.enabled"):
        give(world, asking(world))
    assert [step[0] for step in world.happened] == ["asked"]
