"""Rounds settle behind pages: which page brings a round forward, and which does not."""

import pytest
from yarl import URL

from optiinfra.cluster.fetch import Transport
from optiinfra.control.decisions import DecisionBoard
from optiinfra.control.loop import ControlLoop
from optiinfra.control.memory import ObjectMemory
from optiinfra.control.queue import KeyedQueue
from optiinfra.control.registry import Registry
from optiinfra.control.scraper import Source
from tests.unit.control.examples import ro_body


class World:
    """A loop of one object whose first decision was made; time stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 0.0
        self.queue = KeyedQueue(clock=lambda: self.now)
        registry = Registry()
        self.key = registry.upsert("ResourceOptimization", ro_body(interval="20s")).key
        memory = ObjectMemory()
        memory.target("vllm").decided = True
        self.loop = ControlLoop(
            registry=registry,
            memories={self.key: memory},
            queue=self.queue,
            targets=None,
            usage=None,
            sizing_rules=None,
            board=DecisionBoard(clock=lambda: self.now),
            inventory=None,
            forget=lambda _key: None,
        )

    def page(self, owner="object") -> None:
        address = URL("http://127.0.0.1:8000/metrics")
        owner = self.key if owner == "object" else owner
        self.loop.page_read(Source("engine", "pod-uid", address, 5.0, Transport(), owner))


@pytest.mark.parametrize(
    ("left", "after"), [(4.9, 0.2), (1.0, 0.2), (0.1, 0.1), (5.1, 5.1), (20.0, 20.0), (-1.0, -1.0)]
)
def test_a_page_brings_forward_only_what_is_nearly_due(left, after):
    world = World()
    world.now = 100.0
    world.queue.add(world.key, delay=20.0)
    world.now += 20.0 - left
    world.page()
    assert world.queue.due_in(world.key) == pytest.approx(after)


def test_a_page_asks_for_nothing_where_no_round_waits():
    world = World()
    world.page()
    assert world.queue.due_in(world.key) is None
    world.page(owner=None)
    assert len(world.queue) == 0


def test_an_object_made_anew_in_a_gap_of_the_watch_starts_from_nothing():
    world = World()
    loop, before = world.loop, ro_body(interval="20s")
    loop.seen("ResourceOptimization", before)
    loop.memories[world.key].uid = before["metadata"]["uid"]
    assert loop.memories[world.key].targets, "the same object keeps what is known of it"
    loop.seen("ResourceOptimization", {**before, "metadata": before["metadata"] | {"uid": "of-another"}})
    assert loop.memories[world.key].targets == {}
    assert loop.memories[world.key].uid == "of-another"


def test_what_a_checkpoint_gave_back_is_not_for_another_object_of_the_name():
    world = World()
    world.loop.registry.remove(world.key)
    world.loop.memories[world.key].uid = "of-the-one-before"  # restored before the object was seen
    world.loop.seen("ResourceOptimization", ro_body(interval="20s"))
    assert world.loop.memories[world.key].targets == {}
