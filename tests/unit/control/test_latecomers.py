"""One object's call is never answered: the others' rounds go on, and it comes to its own end once, by itself."""

import asyncio
import gc
from typing import Any

import pytest

from optiinfra.cluster.status import Written
from optiinfra.cluster.targets import TargetFacts
from optiinfra.control.execute import execute
from optiinfra.control.keys import ObjectKey
from optiinfra.control.latecomers import PATIENCE, STEP_PATIENCE, apart
from optiinfra.control.memory import ObjectMemory
from optiinfra.control.targets import TargetTable
from optiinfra.control.work import Late, Rehearsed, Work
from optiinfra.domain.units import UnixTime
from optiinfra.errors import LeadershipLost
from tests.unit.control import virtual
from tests.unit.control.examples import NOW, decision, pod, ro, ro_body, service
from tests.unit.control.test_actuation import World as ActuationWorld
from tests.unit.control.test_promised_rounds import World


def test_who_takes_long_holds_no_place_and_goes_on():
    async def story():
        began, ended, hang = [], [], asyncio.Event()

        async def act(item):
            began.append(item)
            if item < 3:
                await hang.wait()
            ended.append(item)

        late = await apart(range(10), act, at_once=2)
        assert [item for item, _ in late] == [0, 1, 2]
        assert (began, ended) == (list(range(10)), list(range(3, 10)))
        assert virtual.now() == pytest.approx(2 * PATIENCE)
        hang.set()
        await asyncio.gather(*(task for _, task in late))
        assert sorted(ended) == list(range(10))

    virtual.run(story)


def test_a_step_waits_for_nobody_after_its_own_time():
    async def story():
        hang = asyncio.Event()

        async def act(_item):
            await hang.wait()

        late = await apart(range(500), act, at_once=1)
        assert len(late) == 500
        assert virtual.now() == pytest.approx(STEP_PATIENCE)
        hang.set()
        await asyncio.gather(*(task for _, task in late))

    virtual.run(story)


def test_alone_it_takes_what_time_it_takes():
    async def story():
        async def act(seconds):
            await asyncio.sleep(seconds)

        assert await apart([60.0], act, at_once=1, alone=True) == []
        assert virtual.now() == pytest.approx(60.0)

    virtual.run(story)


def test_a_failure_ends_the_step_and_leaves_no_task_behind():
    async def story():
        ended = []

        async def act(item):
            try:
                await asyncio.sleep(item)
            except asyncio.CancelledError:
                ended.append(item)
                raise
            raise RuntimeError("of its own")

        with pytest.raises(ExceptionGroup):
            await apart([100.0, 0.5], act, at_once=1)
        await asyncio.sleep(0.0)
        assert ended == [100.0], "who was late is ended with the step"

    virtual.run(story)


class HangingWorld(World):
    """Two objects; the server accepts the status of one, and says nothing to it."""

    def __init__(self) -> None:
        super().__init__()
        self.hung = self.registry.upsert("ResourceOptimization", ro_body("hung", interval="20s", uid="u2")).key
        self.loop.memories[self.hung] = ObjectMemory()
        self.answer, self.asked, self.forgotten = asyncio.Event(), 0, []
        self.loop.forget = self.forgotten.append
        write = self.sink.write

        async def hanging(resource: Any, key: Any, status: Any, **more: Any) -> Written:
            if key.name == "hung":
                self.asked += 1
                await self.answer.wait()
            return await write(resource, key, status, **more)

        self.sink.write = hanging  # type: ignore[method-assign]  # the same sink, with a server that hangs


def test_a_status_that_hangs_holds_up_no_other_object_and_is_sent_once():
    async def story():
        world = HangingWorld()
        for key in (world.key, world.hung):
            world.loop.run_now(key)
        running = asyncio.create_task(world.loop.run(world))
        await asyncio.sleep(PATIENCE + 0.5)
        for number in range(1, 4):  # the others' rounds come when they are asked for
            world.loop.run_now(world.key)
            await asyncio.sleep(1.0)
            assert len(world.sink.statuses) == 1 + number
        assert world.asked == 1
        assert world.loop.queue.due_in(world.hung) is None, "it is not handed out while its call is under way"
        world.answer.set()
        await asyncio.sleep(1.0)
        assert world.told["requested"], "what was promised to its caller is told"
        assert world.loop.queue.due_in(world.hung) is not None
        running.cancel()
        await asyncio.wait([running])

    virtual.run(story)


def test_what_was_deleted_while_its_call_hung_is_forgotten_once_more():
    async def story():
        world = HangingWorld()
        world.loop.run_now(world.hung)
        running = asyncio.create_task(world.loop.run(world))
        await asyncio.sleep(PATIENCE + 0.5)
        world.loop.vanished(world.hung)
        assert world.forgotten == [world.hung]
        world.answer.set()
        await asyncio.sleep(1.0)
        assert world.forgotten == [world.hung] * 2, "so that what the call took is given back"
        assert world.loop.queue.due_in(world.hung) is None
        running.cancel()
        await asyncio.wait([running])

    virtual.run(story)


def test_calls_under_way_end_with_the_rounds():
    async def story():
        world = HangingWorld()
        world.loop.run_now(world.hung)
        await world.until(5.0)
        await asyncio.sleep(0.1)
        assert all(task is asyncio.current_task() for task in asyncio.all_tasks())

    virtual.run(story)


def test_a_call_that_failed_before_anybody_waited_for_it_leaves_no_complaint_at_the_end():
    """The lead was lost within a round: the write of its late object was refused, and the rounds end at once."""

    async def story():
        complaints = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context["message"]))
        world = HangingWorld()

        async def fenced():
            raise LeadershipLost("the Lease could not be renewed in time")

        late = Late(Work("r", UnixTime(NOW), (world.hung,), previews={}), asyncio.create_task(fenced()))
        await asyncio.sleep(0.1)
        world.loop._follow(late)
        for follower in tuple(world.loop._late):
            follower.cancel()
        del late, follower
        await asyncio.sleep(0.1)
        gc.collect()
        assert complaints == []

    virtual.run(story)


class Actuator:
    """Carries out; for one object the server is silent for a while."""

    def __init__(self) -> None:
        self.done: list[ObjectKey] = []

    async def carry_out(self, made: Any, _target: Any) -> None:
        if made.key.name == "hung":
            await asyncio.sleep(5.0)
        self.done.append(made.key)


class NoResizer:
    def wanted(self, _service: Any) -> bool:
        return False


def test_an_order_that_hangs_leaves_the_round_and_goes_through_the_steps_that_are_left():
    async def story():
        hung, prompt = (service(ro(name), decision=decision(6), order=6) for name in ("hung", "svc"))
        work = Work("r", UnixTime(NOW), (hung.key, prompt.key), previews={}, services=[hung, prompt])
        went = []

        async def step(own):
            went.append((virtual.now(), own.keys, [made.key for made in own.services], own.alone))
            return own

        actuator = Actuator()
        left = await execute(work, actuator, NoResizer(), then=(step, step))  # type: ignore[arg-type]  # stand-ins
        assert left is work
        assert [made.key for made in work.services] == [prompt.key]
        assert actuator.done == [prompt.key]
        assert virtual.now() == pytest.approx(PATIENCE)
        (late,) = work.late
        assert late.work.kept is work.kept, "what is told is told to the round that was asked for"
        await late.task
        assert went == [(pytest.approx(5.0), (hung.key,), [hung.key], True)] * 2
        assert hung.targets[0].memory.ordered == 6

    virtual.run(story)


class SlowResizer(NoResizer):
    async def carry_out(self, _service: Any, *, now: UnixTime) -> None:
        await asyncio.sleep(5.0)
        assert now == NOW


def test_a_preview_that_comes_late_is_answered_late():
    async def story():
        made = service(ro("hung"), decision=decision(6), order=6)
        made.dry_run = True
        future: asyncio.Future[Rehearsed] = asyncio.get_running_loop().create_future()
        work = Work("r", UnixTime(NOW), (made.key,), previews={made.key: future}, services=[made])
        await execute(work, ActuationWorld().actuator(), SlowResizer())  # type: ignore[arg-type]  # a stand-in
        assert not future.done()
        await work.late[0].task
        assert future.result().published == (("hung", 6),)
        assert virtual.now() == pytest.approx(5.0)

    virtual.run(story)


class NoRules:
    async def refresh(self, _namespaces: Any) -> None: ...


class HangingUsage:
    """A metrics API that answers nobody, beside targets that can be read."""

    def __init__(self) -> None:
        self.asked, self.read_at = 0, []

    async def refresh(self, _namespace: str, _owners: Any) -> None:
        self.asked += 1
        await asyncio.Event().wait()

    async def read(self, **_: Any) -> TargetFacts:
        self.read_at.append(virtual.now())
        return TargetFacts("apps/v1", "Deployment", "inference", "vllm", "uid", "1", 2, 2, 2, "app=vllm")

    synced = True

    def nodes(self) -> dict[str, Any]:
        return {}

    def pods_of(self, _namespace: str, _selector: str) -> list[Any]:
        return [pod()]


def test_a_metrics_api_that_hangs_keeps_no_target_from_being_read():
    async def story():
        world, silent = World(), HangingUsage()
        world.loop.targets = TargetTable(reader=silent, clock=virtual.now)  # type: ignore[arg-type]  # a stand-in
        world.loop.usage = world.loop.inventory = silent
        world.loop.sizing_rules = NoRules()
        parts = [asyncio.create_task(run()) for run in (world.loop.upkeep, world.loop.keep_usage)]
        await asyncio.sleep(100.0)
        assert silent.asked == 1
        assert len(silent.read_at) >= 5, "once an interval of 20 s"
        for part in parts:
            part.cancel()
        await asyncio.wait(parts)

    virtual.run(story)
