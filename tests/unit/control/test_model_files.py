"""Models' files beside the rounds: when they are read, what stands when they cannot be, and who hears of a change."""

import asyncio
import logging

import pytest

from optiinfra.control.model_files import AT_ONCE, INTERVAL, ModelFileTable
from optiinfra.control.registry import Registry
from optiinfra.domain.model_facts import ModelFacts
from optiinfra.domain.readings import Unknown, UnknownReason
from tests.unit.control import virtual
from tests.unit.control.examples import ro_body

FACTS = ModelFacts(layers=32.0)
ABSENT = Unknown(UnknownReason.NOT_CONFIGURED, "it does not exist")
SILENT = Unknown(UnknownReason.UNREACHABLE, "no answer in time")


class World:
    def __init__(self, *names):
        self.now, self.generation = 0.0, 0
        self.answers, self.asked, self.changed = {}, [], []
        self.registry = Registry()
        for number, name in enumerate(names):
            self.put(f"svc-{number}", name)
        self.table = ModelFileTable(self, self.registry, lambda: self.now, lambda key: self.changed.append(key.name))

    def put(self, obj, name):
        self.generation += 1
        model = {"configMapRef": {"name": name}} if name else {}
        body = ro_body(
            obj, uid=f"uid-{obj}", generation=self.generation, version=str(10 + self.generation), model=model
        )
        self.registry.upsert("ResourceOptimization", body)

    async def read(self, *, namespace, name, key):
        assert (namespace, key) == ("inference", "config.json")
        self.asked.append(name)
        return self.answers.get(name, FACTS)

    def seen(self, obj="svc-0"):
        known = next(one for key, one in self.registry.services() if key.name == obj)
        return self.table.of("inference", known.spec.model.config_map_ref)

    async def refresh(self, *, after=INTERVAL):
        self.now += after
        await self.table.refresh()


async def test_a_file_is_read_once_for_all_that_name_it_and_again_after_five_minutes():
    world = World("llama", "llama", "")
    assert world.seen().facts == ModelFacts()
    assert world.seen().notes == ()
    await world.refresh(after=0.0)
    assert world.seen().facts == world.seen("svc-1").facts == FACTS
    assert world.seen("svc-2").facts == ModelFacts()
    await world.refresh(after=INTERVAL - 1.0)
    assert world.asked == ["llama"]
    await world.refresh(after=1.0)
    assert world.asked == ["llama", "llama"]
    assert world.changed == ["svc-0", "svc-1"]


async def test_what_cannot_be_read_says_where_and_why_once(caplog):
    world = World("llama")
    world.answers["llama"] = ABSENT
    with caplog.at_level(logging.INFO):
        await world.refresh()
        await world.refresh()
        (note,) = world.seen().notes
        assert (note.type, note.reason) == ("KVCache", "ModelFileUnreadable")
        for part in ("ConfigMap llama", "key config.json", "spec.model.configMapRef", "it does not exist"):
            assert part in note.message
        assert world.seen().facts == ModelFacts()
        del world.answers["llama"]
        await world.refresh()
    assert (world.seen().facts, world.seen().notes) == (FACTS, ())
    assert [record.message for record in caplog.records] == ["model file not read", "model file read"]
    assert world.changed == ["svc-0", "svc-0"]


async def test_no_answer_is_no_news_but_a_file_that_is_gone_is():
    world = World("llama")
    await world.refresh()
    world.answers["llama"] = SILENT
    await world.refresh()
    assert world.seen().facts == FACTS
    world.answers["llama"] = ABSENT
    await world.refresh()
    assert world.seen().facts == ModelFacts()
    assert len(world.seen().notes) == 1


async def test_a_server_that_never_answered_is_said():
    world = World("llama")
    world.answers["llama"] = SILENT
    await world.refresh()
    assert "no answer in time (Unreachable)" in world.seen().notes[0].message


async def test_another_name_is_another_file_and_the_old_one_is_forgotten():
    world = World("llama")
    await world.refresh()
    world.put("svc-0", "qwen")
    assert world.seen().facts == ModelFacts()
    await world.refresh(after=1.0)
    assert world.asked == ["llama", "qwen"]
    world.put("svc-0", "llama")
    await world.refresh(after=1.0)
    assert world.asked == ["llama", "qwen", "llama"]


async def test_a_fleet_is_read_a_few_at_a_time_and_nobody_is_left_out():
    names = [f"model-{number:02}" for number in range(3 * AT_ONCE)]
    world = World(*names)
    for batch in range(1, 4):
        await world.refresh()  # by now all are due again: the oldest go first
        assert len(world.asked) == batch * AT_ONCE
    assert sorted(world.asked) == names


def test_a_slow_server_is_waited_for_by_nobody_else():
    world = World("llama")
    reading = world.read

    async def slow(**what):
        await asyncio.sleep(30.0)
        return await reading(**what)

    world.read = slow

    async def story():
        task = asyncio.create_task(world.table.run())
        await asyncio.sleep(10.0)
        assert world.seen().facts == ModelFacts()
        await asyncio.sleep(25.0)
        assert world.seen().facts == FACTS
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    virtual.run(story)
