"""Dry runs: worked out by the real actuator on copies, and nothing of it is remembered, published or sent."""

import asyncio

import pytest

from optiinfra.api.reasons import Reason
from optiinfra.cluster.rehearsal import MOST_WRITES, current, rehearsing
from optiinfra.control.execute import execute
from optiinfra.control.rehearse import to_status
from optiinfra.control.resize import Resizer
from optiinfra.control.work import BrokenWork, Rehearsed, ServiceWork, Work
from optiinfra.domain.units import UnixTime
from tests.unit.control.examples import NOW, decision, ro, service
from tests.unit.control.test_actuation import World


def dry(**spec: object) -> ServiceWork:
    made = service(ro(mode="Auto", **spec), decision=decision(6), order=6)
    made.dry_run = True
    return made


def resizer(world: World) -> Resizer:
    return Resizer(pods=None, access=world, enabled=False)  # type: ignore[arg-type]  # modes.resize is Recommend


async def carried_out(made: ServiceWork, world: World, *, preview: bool) -> tuple[Work, object]:
    actuator = world.actuator()
    actuator.board.publish(made.key.namespace, made.key.name, replicas=4, lifetime=60.0)
    future: asyncio.Future[Rehearsed] = asyncio.get_running_loop().create_future()
    work = Work("r", UnixTime(NOW), (made.key,), previews={made.key: future} if preview else {}, services=[made])
    await execute(work, actuator, resizer(world))
    return work, (future.result() if preview else actuator.board.get(made.key.namespace, made.key.name))


async def test_a_preview_answers_and_leaves_everything_as_it_is():
    made, world = dry(), World()
    made.targets[0].memory.ordered = 4
    work, answer = await carried_out(made, world, preview=True)
    assert isinstance(answer, Rehearsed)
    assert answer.published == (("svc", 6),)
    assert [(one.current, one.order) for one in answer.targets] == [(4, 6)]
    assert work.services == [], "nothing is monitored or reported about it in this round"
    assert made.targets[0].memory.ordered == 4
    assert made.actions == []
    assert current() is None


async def test_with_the_annotation_what_was_published_is_taken_back_and_the_status_shows_what_would_be():
    made, world = dry(), World()
    work, published = await carried_out(made, world, preview=False)
    assert published is None
    assert work.services == [made]
    effect = made.targets[0].effect
    assert effect is not None
    assert (effect.effective, effect.reason) == (None, Reason.DRY_RUN)
    assert made.rehearsed is not None
    shown = to_status(made.rehearsed, now=NOW)
    assert [(one.name, one.replicas) for one in shown.published] == [("svc", 6)]


async def test_a_preview_of_what_cannot_be_acted_on_says_so():
    made = dry()
    broken = BrokenWork(made.key, type("B", (), {"field": "spec.x", "remedy": "correct it"})())  # type: ignore[arg-type]  # two fields
    future: asyncio.Future[Rehearsed] = asyncio.get_running_loop().create_future()
    work = Work("r", UnixTime(NOW), (made.key,), previews={made.key: future}, broken=[broken])
    world = World()
    await execute(work, world.actuator(), resizer(world))
    assert future.result().problem == "spec.x: correct it"
    assert work.broken == []


def test_a_rehearsal_is_bounded_and_answers_as_far_as_the_next_write_needs():
    with rehearsing() as rehearsal:
        assert current() is rehearsal
        rehearsal.read("/x", {"metadata": {"uid": "u", "labels": {"a": "b"}}, "spec": {"minReplicas": 1}})
        answer = rehearsal.write("PATCH", "/x", {"force": "false"}, "t", b'{"spec": {"minReplicas": 3}}')
        assert answer == {"metadata": {"uid": "u", "labels": {"a": "b"}}, "spec": {"minReplicas": 3}}
        assert rehearsal.write("DELETE", "/x", {}, "t", b"{}") == {}
        for _ in range(2 * MOST_WRITES):
            rehearsal.write("PATCH", "/x", {}, "t", b"[]")
    assert (len(rehearsal.writes), rehearsal.more) == (MOST_WRITES, MOST_WRITES + 2)
    assert rehearsal.writes[0].path == "/x?force=false"
    assert current() is None


async def test_a_rehearsal_is_of_its_own_task_alone():
    with rehearsing():
        seen = await asyncio.create_task(_current())
    assert seen is not None
    with pytest.raises(RuntimeError), rehearsing():
        raise RuntimeError
    assert await _current() is None


async def _current() -> object:
    return current()
