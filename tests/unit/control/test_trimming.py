"""Memory that bursts leave free goes back to the system: when, how often, and that nothing holds on to a round."""

import asyncio
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from optiinfra import metrics
from optiinfra.control.decisions import DecisionBoard
from optiinfra.control.keys import ObjectKey
from optiinfra.control.loop import ControlLoop
from optiinfra.control.queue import KeyedQueue
from optiinfra.control.registry import Registry
from optiinfra.control.trimming import LARGE_ROUND, PAUSE, Trimmer
from optiinfra.control.work import Work
from tests.unit.control import virtual
from tests.unit.control.examples import ro_body


class Heap:
    """Counts how often it is trimmed, at a time of its own."""

    def __init__(self, *, free: bool = True) -> None:
        self.free, self.trims, self.now = free, 0, 1000.0

    def trim(self) -> bool:
        self.trims += 1
        return self.free

    def trimmer(self) -> Trimmer:
        return Trimmer(trim=self.trim, clock=lambda: self.now)


def counted(burst: str, outcome: str) -> float:
    return metrics.MEMORY_TRIMS.labels(burst, outcome)._value.get()


def test_the_start_is_a_burst_and_small_rounds_are_none():
    heap, before = Heap(), counted("start", "given")
    trimmer = heap.trimmer()
    trimmer.after_round(LARGE_ROUND - 1)
    assert heap.trims == 0
    trimmer.after_start()
    assert heap.trims == 1
    assert counted("start", "given") == before + 1


def test_after_a_large_round_it_waits_for_the_next_burst_but_not_for_ever():
    heap = Heap()
    trimmer = heap.trimmer()
    trimmer.after_round(LARGE_ROUND)
    assert heap.trims == 1
    heap.now += PAUSE - 1.0
    trimmer.after_round(500)
    assert heap.trims == 1, "it was done a moment ago"
    heap.now += 1.0
    trimmer.after_round(500)
    assert heap.trims == 2


def test_what_gave_nothing_is_counted_apart_and_it_is_told_once(caplog: pytest.LogCaptureFixture):
    heap, before = Heap(free=False), counted("round", "nothing")
    trimmer = heap.trimmer()
    with caplog.at_level("INFO"):
        for _ in range(3):
            heap.now += PAUSE
            trimmer.after_round(LARGE_ROUND)
    assert counted("round", "nothing") == before + 3
    assert [record.message for record in caplog.records] == ["memory given back"]
    assert caplog.records[0].given is False


class Burden:
    """Something that a round makes."""


class Rounds:
    """Plays the workflow, and watches what its rounds made."""

    def __init__(self) -> None:
        self.made: list[weakref.ref[Burden]] = []

    async def run(self, work: Work) -> None:
        burden = Burden()
        self.made.append(weakref.ref(burden))
        work.services.append(burden)


def loop_of(bodies: int, *, trim: Callable[[], bool]) -> tuple[ControlLoop, list[ObjectKey]]:
    registry, queue = Registry(), KeyedQueue[Any](clock=virtual.now)
    keys = [registry.upsert("ResourceOptimization", ro_body(f"svc-{n}", uid=f"u{n}")).key for n in range(bodies)]
    loop = ControlLoop(
        registry=registry,
        memories={},
        queue=queue,
        targets=None,
        usage=None,
        sizing_rules=None,
        board=DecisionBoard(clock=virtual.now),
        inventory=None,
        forget=lambda _key: None,
        trimmer=Trimmer(trim=trim, clock=virtual.now),
    )
    return loop, keys


@pytest.mark.parametrize(("objects", "trims"), [(LARGE_ROUND, 1), (LARGE_ROUND - 1, 0)])
def test_nothing_of_a_round_is_held_while_the_next_one_is_waited_for(objects: int, trims: int):
    async def story() -> None:
        rounds, alive = Rounds(), []

        def trim() -> bool:
            gc.collect()
            alive.append([one() for one in rounds.made])
            return True

        loop, keys = loop_of(objects, trim=trim)
        for key in keys:
            loop.queue.add(key)
        task = asyncio.create_task(loop.run(rounds))
        await asyncio.sleep(1.0)
        gc.collect()
        assert len(rounds.made) == 1
        assert [one() for one in rounds.made] == [None]
        assert alive == [[None]] * trims
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    virtual.run(story)
