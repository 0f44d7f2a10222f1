"""The checkpoint of a ClusterResourceOptimization: pauses that outlast a restart, within the common budget."""

import asyncio
from dataclasses import replace

import pytest

from optiinfra.cluster.checkpoints import CLUSTER_OWNER, STATE_LIMIT_BYTES, CheckpointRecord
from optiinfra.cluster.document import Key
from optiinfra.cluster.errors import Unavailable
from optiinfra.control import cluster_checkpoint
from optiinfra.control.checkpoint import Checkpointer
from optiinfra.control.keys import ObjectKey
from optiinfra.control.memory import ObjectMemory
from optiinfra.control.registry import Registry
from optiinfra.domain.idle import verdicts
from optiinfra.domain.units import Seconds, UnixTime
from tests.unit.control import virtual
from tests.unit.control.examples import NOW, cro_body
from tests.unit.control.test_checkpoint import Store
from tests.unit.domain.made_up import GIB, agent, gpu, node, pod
from tests.unit.domain.test_idle_saved import fleet

KEY = ObjectKey("ClusterResourceOptimization", "", "cluster")
MINUTE = 60.0
HELD = (("GPU-0", "p1"),)


def lived(memory, *, since, minutes, busy_every=0):
    """Judge a GPU every minute; it works for a minute every so many."""
    found = ()
    for step in range(minutes):
        at = UnixTime(since + MINUTE * step)
        busy = 0.9 if busy_every and step % busy_every == 0 else 0.0
        reading = agent(at, gpu(used=70 * GIB, busy=busy), allocations=HELD)
        found = verdicts(
            node(reading, pods=(pod(),)), now=at, window=Seconds(1800.0), stale_after=Seconds(90.0), memory=memory.gpus
        )
    return found[0]


def checkpointer(store, memory):
    registry = Registry()
    registry.upsert("ClusterResourceOptimization", cro_body())
    return Checkpointer(
        store=store,
        registry=registry,
        memories={KEY: memory} if memory is not None else {},
        clock=lambda: NOW + virtual.now(),
        namespace="optiinfra",
    )


def saved(memory):
    async def story():
        store = Store()
        await checkpointer(store, memory).save_all()
        return store

    return virtual.run(story)


def test_pauses_outlast_a_restart():
    memory = ObjectMemory()
    lived(memory, since=NOW - 10 * 3600.0, minutes=10 * 60, busy_every=25)
    store = saved(memory)
    ((_, record, owner),) = store.written
    assert (record.key, record.owner_kind, owner) == (
        Key("optiinfra", "cluster.cluster.0"),
        CLUSTER_OWNER,
        "cluster/cuid",
    )
    assert len(record.state) <= STATE_LIMIT_BYTES

    async def restart():
        fresh = checkpointer(Store(records=(record,)), None)
        assert await fresh.restore() == 1
        return fresh.memories[KEY]

    again, cold = virtual.run(restart), ObjectMemory()
    # Twenty minutes quiet after a restart: its own pauses say that work is expected, who knows none of them does not.
    warm_verdict = lived(again, since=NOW + 120.0, minutes=20)
    cold_verdict = lived(cold, since=NOW + 120.0, minutes=20)
    pauses = {one.signal: one.value for one in warm_verdict.evidence}["pauses_known"]
    assert pauses >= 20.0
    assert {one.signal: one.value for one in cold_verdict.evidence}["pauses_known"] == 0.0
    assert warm_verdict.reason == "WorkExpected"


def test_nothing_is_written_twice_and_only_parts_that_changed():
    memory = ObjectMemory()
    memory.gpus.relearn(fleet(800), at=NOW)

    async def story():
        store = Store()
        saver = checkpointer(store, memory)
        await saver.save_all()
        first = len(store.written)
        await saver.save_all()
        assert len(store.written) == first > 1
        memory.gpus.forget("gpu-node-0003", fleet(32)[-1].gpu)
        await saver.save_all()
        return store, first

    store, first = virtual.run(story)
    assert len(store.written) == first + 1
    times = [at for at, _, _ in store.written]
    assert all(sum(1 for other in times if at <= other < at + 0.99) <= 5 for at in times)


def test_what_could_not_be_written_is_tried_again():
    memory = ObjectMemory()
    memory.gpus.relearn(fleet(8), at=NOW)

    async def story():
        store = Store(error=Unavailable("down"))
        saver = checkpointer(store, memory)
        await saver.save_all()
        store.error = None
        await saver.save_all()
        await saver.save_all()
        return store

    assert len(virtual.run(story).written) == 2


@pytest.mark.parametrize(
    ("change", "known"),
    [
        ({}, 8),
        ({"owner_uid": "another"}, 0),
        ({"version": 9}, 0),
        ({"state": b"nonsense"}, 0),
    ],
)
def test_only_what_is_ours_and_whole_comes_back(change, known):
    memory = ObjectMemory()
    memory.gpus.relearn(fleet(8), at=NOW)
    record = replace(saved(memory).written[0][1], **change)

    async def story():
        fresh = checkpointer(Store(records=(record,)), None)
        await fresh.restore()
        return fresh.memories[KEY]

    assert len(virtual.run(story).gpus) == known


def test_a_part_left_over_from_a_larger_fleet_gives_way():
    old, new = ObjectMemory(), ObjectMemory()
    old.gpus.relearn(fleet(8, gaps=2), at=NOW)
    new.gpus.relearn(fleet(8, gaps=5), at=NOW)
    records = [
        replace(one, key=Key("optiinfra", name), time=at)
        for memory, name, at in ((old, "cluster.cluster.1", NOW - 9e4), (new, "cluster.cluster.0", NOW))
        for one in cluster_checkpoint.records_of(KEY, memory, namespace="optiinfra", uid="cuid", now=NOW)
    ]
    memory = ObjectMemory()
    assert cluster_checkpoint.restore(records, memory)
    assert {len(one.lengths) for one in memory.gpus.learned()} == {5}


@pytest.mark.parametrize("name", ["c", "c" * 50, "c" * 63])
def test_names_fit_their_schema(name):
    memory = ObjectMemory()
    memory.gpus.relearn(fleet(800), at=NOW)
    key = ObjectKey("ClusterResourceOptimization", "", name)
    found = cluster_checkpoint.records_of(key, memory, namespace="optiinfra", uid="u", now=NOW)
    assert len({one.key for one in found}) == len(found) > 1
    assert all(len(one.key.name) <= 63 for one in found)


def test_records_of_services_are_left_to_services():
    record = CheckpointRecord(Key("inference", "svc"), 1, UnixTime(NOW), b"x")

    async def story():
        fresh = checkpointer(Store(records=(record,)), None)
        assert await asyncio.wait_for(fresh.restore(), 10) == 0
        return set(fresh.memories)

    assert virtual.run(story) == {ObjectKey("ResourceOptimization", "inference", "svc")}
