"""A round that was promised to a caller: its id is in the status, whatever meets the round, and stays there."""

import asyncio
import contextlib
from typing import Any

from optiinfra.api.conditions import ConditionStatus
from optiinfra.api.reasons import Reason
from optiinfra.cluster.errors import Conflict
from optiinfra.cluster.status import Written
from optiinfra.control.decisions import DecisionBoard
from optiinfra.control.keys import ObjectKey
from optiinfra.control.loop import ControlLoop
from optiinfra.control.memory import ObjectMemory
from optiinfra.control.promises import Promises, PromiseState
from optiinfra.control.queue import KeyedQueue
from optiinfra.control.registry import Broken, Registry
from optiinfra.control.report import InsightState, service_status
from optiinfra.control.steps import Steps
from optiinfra.control.work import BrokenWork, Rehearsed, Work
from optiinfra.control.writer import Reporter
from optiinfra.domain.units import UnixTime
from tests.unit.control import virtual
from tests.unit.control.examples import NOW, ro_body, service, signals

TALK = InsightState(ConditionStatus.FALSE, Reason.NOT_CONFIGURED)


class Sink:
    """Takes statuses down; as many writes meet another one first as `conflicts` says."""

    def __init__(self, conflicts: int = 0) -> None:
        self.conflicts, self.statuses = conflicts, []

    async def write(self, _resource: Any, _key: Any, status: Any, **_: Any) -> Written:
        if self.conflicts > 0:
            self.conflicts -= 1
            raise Conflict("it was changed", verb="patch", path="svc", code=409)
        self.statuses.append(status)
        return Written(resource_version=str(100 + len(self.statuses)), changed=True)


class World:
    """A loop whose rounds only report."""

    def __init__(self, *, conflicts: int = 0) -> None:
        self.queue: KeyedQueue[Any] = KeyedQueue(clock=virtual.now)
        self.registry = Registry()
        self.key = self.registry.upsert("ResourceOptimization", ro_body(interval="20s")).key
        self.sink = Sink(conflicts)
        self.reporter = Reporter(sink=self.sink, registry=self.registry)
        self.rounds: list[str] = []
        self.fails = 0
        self.loop = ControlLoop(
            registry=self.registry,
            memories={self.key: ObjectMemory()},
            queue=self.queue,
            targets=None,
            usage=None,
            sizing_rules=None,
            board=DecisionBoard(clock=virtual.now),
            inventory=None,
            forget=lambda _key: None,
        )

    async def run(self, work: Work) -> None:
        """Play the workflow."""
        steps = Steps.__new__(Steps)
        for part in ("savings", "events", "insights", "actuator"):
            setattr(steps, part, Nobody())
        steps.reporter = self.reporter
        for key in work.keys:
            self.rounds.append(work.id_for(key))
            known = self.registry.get(key)
            if key in work.previews:
                work.previews[key].set_result(Rehearsed())
            elif isinstance(known, Broken):
                work.broken.append(BrokenWork(key, known))
            else:
                item = service(known)
                item.targets[0].signals = signals()
                work.services.append(item)
        await steps.report(work)

    async def until(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.loop.run(self)  # type: ignore[arg-type]  # it stands in for the workflow

    @property
    def told(self) -> Any:
        return self.sink.statuses[-1]["lastRound"]


class Nobody:
    """Plays the parts that a report tells."""

    async def observe(self, _work: Any) -> None: ...

    def shown(self, *_: Any) -> None: ...

    def consider(self, *_: Any) -> None: ...

    def state(self, *_: Any) -> InsightState:
        return TALK

    def get(self, *_: Any) -> None: ...

    async def record(self, *_: Any, **__: Any) -> None: ...

    @property
    def board(self) -> "Nobody":
        return self


def test_a_promised_round_is_told_and_later_rounds_do_not_hide_it():
    async def story():
        world = World()
        promised = world.loop.run_now(world.key)
        await world.until(1.0)
        assert world.told["id"] == promised
        again = world.loop.run_now(world.key)
        await world.until(1.0)
        assert (world.told["id"], world.told["requested"]) == (again, [promised, again])
        # Another round has something to say before the caller has looked.
        known = world.registry.get(world.key)
        status = service_status(service(known, signals=None), round_id="later", now=UnixTime(NOW + 1), insight=TALK)
        changed = status.model_copy(update={"target": "another"})
        assert await world.reporter.report(world.key, known, changed, now=UnixTime(NOW + 1))
        assert (world.told["id"], world.told["requested"]) == ("later", [promised, again])

    virtual.run(story)


def test_a_write_that_met_another_one_breaks_no_promise():
    async def story():
        world = World(conflicts=2)
        promised = world.loop.run_now(world.key)
        await world.until(0.5)
        other = world.loop.run_now(world.key)
        assert other == promised, "the round that is promised is still to come"
        await world.until(10.0)
        assert world.told["requested"] == [promised]
        assert world.rounds[:3] == [promised] * 3

    virtual.run(story)


def test_a_preview_takes_no_promise_away():
    async def story():
        world = World()
        world.loop.previews[world.key] = asyncio.get_running_loop().create_future()
        promised = world.loop.run_now(world.key)
        await world.until(1.0)
        assert world.told["id"] == promised
        assert len(world.rounds) == 2

    virtual.run(story)


def test_only_so_many_are_kept():
    async def story():
        world = World()
        promised = []
        for _ in range(10):
            promised.append(world.loop.run_now(world.key))
            await world.until(1.0)
        assert world.told["requested"] == promised[-8:]

    virtual.run(story)


def test_an_object_that_cannot_be_read_tells_its_round_too():
    async def story():
        world = World()
        body = ro_body(interval="20s", mode="Never")
        world.loop.seen("ResourceOptimization", body)
        promised = world.loop.run_now(world.key)
        await world.until(1.0)
        assert list(world.told["requested"]) == [promised]

    virtual.run(story)


def test_a_promise_ends_with_its_object():
    async def story():
        world = World(conflicts=1000)
        world.loop.run_now(world.key)
        await world.until(3.0)
        world.registry.remove(world.key)
        await world.until(30.0)
        assert world.loop.tickets == {}
        assert len(world.queue) == 0

    virtual.run(story)


def test_what_became_of_a_promise_can_be_asked():
    async def story():
        world = World(conflicts=2)

        def state(of):
            known = world.registry.get(world.key)
            named = known.status.last_round.requested if known.status.last_round is not None else ()
            return world.loop.promises.state(of, world.key, named=named).state

        first = world.loop.run_now(world.key)
        assert state(first) is PromiseState.PENDING
        await world.until(0.5)
        assert state(first) is PromiseState.PENDING, "no status tells of it yet"
        await world.until(10.0)
        assert state(first) is PromiseState.DONE
        for _ in range(9):
            world.loop.run_now(world.key)
            await world.until(1.0)
        assert first not in world.told["requested"]
        assert state(first) is PromiseState.DONE, "though newer ones took its place"
        other = ObjectKey("ResourceOptimization", "inference", "another")
        assert world.loop.promises.state(first, other, named=()).state is PromiseState.LOST

    virtual.run(story)


def test_a_later_leader_says_that_it_does_not_keep_what_an_earlier_one_promised():
    earlier, later = Promises(), Promises()
    key = ObjectKey("ResourceOptimization", "inference", "svc")
    kept, lost = earlier.new_id(), earlier.new_id()
    for one in (kept, lost):
        earlier.made(one, key)
    assert later.state(kept, key, named=(kept,)).state is PromiseState.DONE, "the status tells, whoever asks"
    answer = later.state(lost, key, named=(kept,))
    assert answer.state is PromiseState.LOST
    assert "ask again" in answer.message
    assert "this leader did not give it" in answer.message


def test_promises_of_an_object_that_went_are_lost():
    async def story():
        world = World(conflicts=1000)
        first = world.loop.run_now(world.key)
        await world.until(3.0)
        assert world.loop.promises.state(first, world.key, named=()).state is PromiseState.PENDING
        world.loop.vanished(world.key)
        assert world.loop.promises.state(first, world.key, named=()).state is PromiseState.LOST

    virtual.run(story)


def test_of_done_promises_so_many_are_remembered():
    promises, key = Promises(), ObjectKey("ResourceOptimization", "inference", "svc")
    ids = [promises.new_id() for _ in range(4097)]
    for one in ids:
        promises.made(one, key)
    promises.kept(ids)
    assert promises.state(ids[0], key, named=()).state is PromiseState.LOST
    assert promises.state(ids[1], key, named=()).state is PromiseState.DONE
    assert all(len(one) == 16 for one in ids)
    assert len(set(ids)) == len(ids)
