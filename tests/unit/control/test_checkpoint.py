"""Checkpoints: histories that come back, damage that costs nothing else, and a budget that holds."""

import asyncio
import itertools
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optiinfra.cluster.checkpoints import STATE_LIMIT_BYTES, CheckpointRecord
from optiinfra.cluster.document import Key
from optiinfra.cluster.errors import ClusterError, Unavailable
from optiinfra.control.checkpoint import VERSION, Checkpointer, pack, unpack
from optiinfra.control.keys import ObjectKey
from optiinfra.control.memory import ObjectMemory
from optiinfra.control.registry import Registry
from optiinfra.control.sizing import hear
from optiinfra.control.usage import UsageSample
from optiinfra.domain.gpu_use import GpuMoment
from optiinfra.domain.histogram import InvalidCheckpointError
from optiinfra.domain.history import Column
from optiinfra.domain.scaling import decide
from optiinfra.domain.units import UnixTime
from tests.unit.control import virtual
from tests.unit.control.examples import NOW, pod, ro_body, scaling_input, signals
from tests.unit.domain.test_saved_trials import trial

KEY = ObjectKey("ResourceOptimization", "inference", "svc")


def remembered(*names: str, points: int = 50, seed: int = 7, noise: bool = False) -> ObjectMemory:
    memory = ObjectMemory()
    random = Random(seed)
    for number, name in enumerate(names or ("vllm",)):
        target = memory.target(name)
        for step in range(points):
            at = UnixTime(NOW + 15 * step)
            load = float((step * seed + number * 13) % 97) + step / 7 + (random.uniform(0.0, 9e3) if noise else 0.0)
            target.history.observe(signals(time=at, running=load, waiting=float(step % 5), work_rate=load * 31.7), 4)
        target.start_up.observe([pod(created=UnixTime(NOW - 3600), became_ready=UnixTime(NOW - 3539))], now=NOW)
        outcome = decide([scaling_input(memory=target.scaler, running=40.0 + number)], now=NOW)[0]
        target.scaler = outcome.memory
    return memory


def restored(state: bytes, *, version: int = VERSION) -> ObjectMemory:
    memory = ObjectMemory()
    unpack(state, memory, version=version)
    return memory


def test_what_is_packed_comes_back():
    memory = remembered("spot", "reserved")
    found = restored(pack(memory))
    assert set(found.targets) == {"spot", "reserved"}
    for name, target in found.targets.items():
        before = memory.target(name)
        assert len(target.history) == len(before.history)
        assert target.history.newest == before.history.newest
        assert target.history.series(Column.RUNNING).values == pytest.approx(
            before.history.series(Column.RUNNING).values, rel=0.05
        )
        assert target.start_up.summary(NOW).p50 == before.start_up.summary(NOW).p50 == 61.0
        assert target.scaler.tick == before.scaler.tick > 0
        assert target.scaler.capacity == before.scaler.capacity
        assert target.scaler.to_bytes() == before.scaler.to_bytes()


def sized(memory: ObjectMemory, *containers: str, samples: int = 200, step: float = 60.0) -> ObjectMemory:
    target = memory.target("vllm")
    for seed, name in enumerate(containers):
        random, times = Random(seed), [UnixTime(NOW + step * number) for number in range(samples)]
        readings = [
            UsageSample(name, time, random.uniform(0.1, 4.0), random.uniform(1e8, 9e9), starting=False)
            for time in times
        ]
        hear(target, readings, (), now=times[-1])
    target.kills = {"engine": NOW}
    target.gpu_use.observe([GpuMoment(0.3, 0.6, 20e9)], time=NOW, kv_tokens=1000.0)
    return memory


def test_what_containers_use_comes_back_with_kills_and_gpus():
    before = sized(remembered(), "engine", "proxy").target("vllm")
    after = restored(pack(sized(remembered(), "engine", "proxy"))).target("vllm")
    assert set(after.usage) == {"engine", "proxy"}
    for name, history in after.usage.items():
        assert (history.samples, history.last) == (before.usage[name].samples, before.usage[name].last)
    assert after.kills == {"engine": NOW}
    assert after.gpu_use.to_bytes() == before.gpu_use.to_bytes()


def test_a_target_whose_engines_were_never_heard_keeps_what_it_uses():
    assert set(restored(pack(sized(ObjectMemory(), "app"))).target("vllm").usage) == {"app"}


def test_use_gives_way_before_the_history_of_the_load():
    memory = sized(remembered(points=200, noise=True), *map(str, range(24)), samples=600, step=7200.0)
    state = pack(memory)
    assert len(state) <= STATE_LIMIT_BYTES
    target = restored(state).target("vllm")
    assert len(target.history) == len(memory.target("vllm").history)
    assert 0 < len(target.usage) < 24


def test_use_that_was_kept_in_another_way_is_left_out_and_nothing_else():
    state = orjson.loads(zlib.decompress(pack(sized(remembered(), "engine"))))
    state["targets"]["vllm"]["usage"]["engine"] = "T0lSVQ=="
    state["targets"]["vllm"]["gpuUse"] = "T0lSVQ=="
    target = restored(zlib.compress(orjson.dumps(state))).target("vllm")
    assert target.usage == {}
    assert target.gpu_use.last is None
    assert len(target.history)


def test_the_same_memory_packs_to_the_same_bytes():
    assert pack(remembered()) == pack(remembered())
    assert pack(remembered()) != pack(remembered(points=51))


def test_an_empty_history_is_not_worth_a_byte_and_comes_back_as_nothing():
    memory = ObjectMemory()
    memory.target("vllm")
    assert restored(pack(memory)).targets == {}


def test_a_state_of_an_older_operator_has_the_history_alone():
    old = {"history": GOOD["history"], "startups": [61.2]}
    target = restored(packed({"targets": {"a": old}})).target("a")
    assert len(target.history) == 50
    assert target.scaler.row is None


def test_what_was_learned_is_kept_where_histories_do_not_fit():
    memory = remembered(*(f"variant-{number}" for number in range(8)), points=1500, noise=True)
    found = restored(pack(memory))
    assert any(not len(target.history) for target in found.targets.values())
    assert all(target.scaler.row is not None for target in found.targets.values())


def test_what_does_not_fit_is_left_out_largest_first():
    memory = remembered(*(f"variant-{number}" for number in range(8)), points=1500, noise=True)
    small = memory.target("small")
    for step in range(3):
        small.history.observe(signals(time=UnixTime(NOW + 15 * step)), 4)
    state = pack(memory)
    assert len(state) <= STATE_LIMIT_BYTES
    assert not all(len(target.history) for target in restored(state).targets.values())
    assert "small" in restored(state).targets


@pytest.mark.parametrize("version", [0, VERSION + 1, -1])
def test_another_version_begins_anew(version):
    with pytest.raises(InvalidCheckpointError, match="version"):
        restored(pack(remembered()), version=version)


def packed(content: Any) -> bytes:
    return zlib.compress(orjson.dumps(content))


GOOD = orjson.loads(zlib.decompress(pack(remembered())))["targets"]["vllm"]


@pytest.mark.parametrize(
    "state",
    [
        b"",
        b"not zlib",
        pack(remembered())[:-20],
        b"\x00" + pack(remembered()),
        zlib.compress(b"not json"),
        packed([]),
        packed({}),
        packed({"targets": []}),
        packed({"targets": {"a": None}}),
        packed({"targets": {"a": {"history": "?"}}}),
        packed({"targets": {"a": {"history": "AAAA"}}}),
        packed({"targets": {"a": {"history": 5}}}),
        packed({"targets": {"a": {}}}),
        packed({"targets": {"a": GOOD | {"startUp": None}}}),
        packed({"targets": {"a": GOOD | {"startUp": "soon"}}}),
        packed({"targets": {"a": GOOD | {"startUp": "AAAA"}}}),
        packed({"targets": {"a": GOOD | {"pace": "AAAA"}}}),
        packed({"targets": {"a": GOOD | {"scaler": None}}}),
        packed({"targets": {"a": GOOD | {"scaler": "AAAA"}}}),
        packed({"targets": {"a": GOOD | {"scaler": GOOD["scaler"][:-40]}}}),
    ],
)
def test_a_damaged_state_is_one_error_and_leaves_nothing_half_restored(state):
    memory = ObjectMemory()
    with pytest.raises(InvalidCheckpointError):
        unpack(state, memory, version=VERSION)
    assert memory.targets == {}


def test_one_damaged_target_does_not_leave_the_other_half_of_the_truth():
    memory = ObjectMemory()
    with pytest.raises(InvalidCheckpointError):
        unpack(packed({"targets": {"good": GOOD, "worse": {"history": "AAAA"}}}), memory, version=VERSION)
    assert memory.targets == {}


def test_a_state_that_unpacks_to_gigabytes_is_refused_before_it_does():
    bomb = zlib.compress(b" " * (64 << 20), 9)
    assert len(bomb) < 100_000
    with pytest.raises(InvalidCheckpointError, match="262144 bytes"):
        restored(bomb)


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_no_bytes_raise_anything_else(noise):
    for state in (noise, zlib.compress(noise)):
        with pytest.raises(InvalidCheckpointError):
            restored(state)


@settings(deadline=None)
@given(st.integers(0, 2000), st.integers(0, 255))
def test_one_changed_byte_is_noticed_or_harmless(position, value):
    state = bytearray(pack(remembered(points=20)))
    state[position % len(state)] = value
    try:
        found = restored(bytes(state))
    except InvalidCheckpointError:
        return
    assert set(found.targets) == {"vllm"}


# the budget


@dataclass
class Store:
    """Checkpoints of a cluster; writes are noted with their virtual time."""

    records: tuple[CheckpointRecord, ...] = ()
    broken: tuple[tuple[Key, str], ...] = ()
    error: ClusterError | None = None
    written: list[tuple[float, CheckpointRecord, str]] = field(default_factory=list)

    async def list(self) -> tuple[tuple[CheckpointRecord, ...], tuple[tuple[Key, str], ...]]:
        if self.error is not None:
            raise self.error
        return self.records, self.broken

    async def write(self, record: CheckpointRecord, *, owner_name: str, owner_uid: str) -> None:
        self.written.append((virtual.now(), record, f"{owner_name}/{owner_uid}"))
        if self.error is not None:
            raise self.error


def checkpointer(store: Store, memories: Mapping[str, ObjectMemory]) -> Checkpointer:
    registry = Registry()
    for name in memories:
        registry.upsert("ResourceOptimization", ro_body(name, uid=f"uid-of-{name}"))
    by_key = {ObjectKey("ResourceOptimization", "inference", name): memory for name, memory in memories.items()}
    return Checkpointer(store=store, registry=registry, memories=by_key, clock=lambda: NOW + virtual.now())


def test_at_most_five_a_second_are_written():
    async def story() -> Store:
        store = Store()
        await checkpointer(store, {f"svc-{number}": remembered(points=3) for number in range(20)}).save_all()
        return store

    times = [at for at, _, _ in virtual.run(story).written]
    assert len(times) == 20
    for position in range(len(times) - 5):
        assert times[position + 5] - times[position] >= 0.99


def test_a_checkpoint_belongs_to_its_object():
    async def story() -> Store:
        store = Store()
        await checkpointer(store, {"svc": remembered()}).save_all()
        return store

    ((_, record, owner),) = virtual.run(story).written
    assert owner == "svc/uid-of-svc"
    assert (record.key, record.version) == (Key("inference", "svc"), VERSION)


def test_what_did_not_change_is_not_written_again_and_an_object_that_is_gone_not_at_all():
    async def story() -> Store:
        store = Store()
        memory = remembered()
        saver = checkpointer(store, {"svc": memory})
        await saver.save_all()
        await saver.save_all()
        assert len(store.written) == 1
        memory.target("vllm").history.observe(signals(time=UnixTime(NOW + 9999)), 4)
        await saver.save_all()
        saver.registry.remove(KEY)
        memory.target("vllm").history.observe(signals(time=UnixTime(NOW + 19999)), 4)
        await saver.save_all()
        return store

    assert len(virtual.run(story).written) == 2


def test_in_the_long_run_an_object_is_written_at_most_every_half_hour():
    async def story() -> Store:
        store = Store()
        memories = {f"svc-{number}": remembered(points=3) for number in range(4)}
        saver = checkpointer(store, memories)
        running = asyncio.create_task(saver.run())
        for minute in range(6 * 60):
            for memory in memories.values():
                memory.target("vllm").history.observe(signals(time=UnixTime(NOW + 600 + 60 * minute)), 4)
            await asyncio.sleep(60.0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return store

    written: dict[str, list[float]] = {}
    for at, record, _ in virtual.run(story).written:
        written.setdefault(record.key.name, []).append(at)
    assert len(written) == 4
    for times in written.values():
        assert 12 <= len(times) <= 17
        pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert all(pause >= 1800.0 for pause in pauses[5:]), "in the long run"
        assert times[0] <= 120.0, "what is learned in the first minutes is not lost to a kill"
        assert pauses == sorted(pauses) or all(later > 0.8 * earlier for earlier, later in itertools.pairwise(pauses))


def test_a_change_of_replicas_is_written_within_minutes_and_not_each_time():
    async def story() -> Store:
        store = Store()
        memory = remembered(points=3)
        saver = checkpointer(store, {"svc": memory})
        memory.checkpoint_pause, memory.checkpointed_at = 1800.0, NOW
        running = asyncio.create_task(saver.run())
        for minute in range(30):
            target = memory.target("vllm")
            target.history.observe(signals(time=UnixTime(NOW + 600 + 60 * minute)), 4)
            target.ordered_at = NOW + 60.0 * minute  # a workload that is scaled every minute
            await asyncio.sleep(60.0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return store

    times = [at for at, _, _ in virtual.run(story).written]
    assert 300.0 <= times[0] <= 420.0
    assert 4 <= len(times) <= 6


def test_a_resize_under_verification_is_written_at_the_next_look_until_it_is_saved():
    async def story() -> Store:
        store = Store()
        memory = remembered(points=3)
        saver = checkpointer(store, {"svc": memory})
        memory.checkpoint_pause, memory.checkpointed_at, memory.saved_at = 1800.0, NOW, NOW
        running = asyncio.create_task(saver.run())
        await asyncio.sleep(100.0)
        assert store.written == []
        target = memory.target("vllm")
        target.resize_trial, target.trial_changed_at = trial(), NOW + 100.0
        store.error = Unavailable("no answer")
        await asyncio.sleep(50.0)
        store.error = None
        await asyncio.sleep(600.0)
        target.resize_trial, target.trial_changed_at = None, NOW + virtual.now()
        await asyncio.sleep(600.0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return store

    written = virtual.run(story).written
    times = [at for at, _, _ in written]
    assert all(100.0 <= at <= 180.0 for at in times[:-1])
    assert 2 <= len(times) <= 7, "tried again while it was not saved, and once when it ended"
    assert times[-1] == pytest.approx(750.0, abs=20.0)
    assert restored(written[-2][1].state).target("vllm").resize_trial.id == "r-1"
    assert restored(written[-1][1].state).target("vllm").resize_trial is None


def test_a_trial_that_cannot_be_read_costs_nothing_else():
    memory = remembered()
    memory.target("vllm").resize_trial = trial()
    state = orjson.loads(zlib.decompress(pack(memory)))
    state["targets"]["vllm"]["resizeTrial"]["before"] = "of another version"
    target = restored(zlib.compress(orjson.dumps(state))).target("vllm")
    assert target.resize_trial is None
    assert len(target.history)


def test_a_target_of_which_a_trial_alone_is_known_is_kept():
    memory = ObjectMemory()
    memory.target("vllm").resize_trial = trial()
    assert restored(pack(memory)).target("vllm").resize_trial.others == ("b", "c")


def test_a_clock_that_is_set_back_stops_no_checkpoints():
    async def story() -> Store:
        store = Store()
        memory = remembered(points=3)
        saver = checkpointer(store, {"svc": memory})
        memory.checkpoint_pause, memory.checkpointed_at = 1800.0, NOW + 86400.0
        running = asyncio.create_task(saver.run())
        await asyncio.sleep(2400.0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return store

    assert len(virtual.run(story).written) == 1


def test_a_write_that_fails_is_not_repeated_at_once_and_stops_nobody():
    async def story() -> Store:
        store = Store(error=Unavailable("no answer"))
        memories = {name: remembered() for name in ("a", "b")}
        saver = checkpointer(store, memories)
        await saver.save_all()
        assert len(store.written) == 2
        assert saver._due() == []
        assert all(memory.checkpointed_digest == "" for memory in memories.values())
        return store

    virtual.run(story)


# restoring


def record(name: str = "svc", *, state: bytes | None = None, version: int = VERSION) -> CheckpointRecord:
    state = pack(remembered()) if state is None else state
    return CheckpointRecord(key=Key("inference", name), version=version, time=UnixTime(NOW - 60), state=state)


def test_a_new_leader_goes_on_where_the_old_one_was_and_writes_nothing_new():
    async def story() -> None:
        store = Store(
            records=(record(), record("bad", state=b"?"), record("future", version=99)), broken=((Key("a", "b"), "x"),)
        )
        saver = checkpointer(store, {"svc": ObjectMemory(), "bad": ObjectMemory(), "future": ObjectMemory()})
        assert await saver.restore() == 1
        assert len(saver.memories[KEY].target("vllm").history) == 50
        assert saver.memories[ObjectKey("ResourceOptimization", "inference", "bad")].targets == {}
        await saver.save_all()
        assert store.written == []

    virtual.run(story)


def test_restoring_twice_does_not_undo_what_was_learned_since():
    async def story() -> None:
        saver = checkpointer(Store(records=(record(),)), {"svc": ObjectMemory()})
        await saver.restore()
        history = saver.memories[KEY].target("vllm").history
        history.observe(signals(time=UnixTime(NOW + 99999)), 4)
        assert await saver.restore() == 0
        assert saver.memories[KEY].target("vllm").history is history

    virtual.run(story)


def test_an_object_made_anew_under_its_name_does_not_inherit():
    async def story() -> None:
        theirs = replace(record(), owner_uid="uid-of-the-one-before")
        saver = checkpointer(Store(records=(theirs,)), {"svc": ObjectMemory(uid="uid-of-svc")})
        assert await saver.restore() == 0
        assert saver.memories[KEY].targets == {}
        ours = replace(record(), owner_uid="uid-of-svc")
        saver = checkpointer(Store(records=(ours,)), {"svc": ObjectMemory(uid="uid-of-svc")})
        assert await saver.restore() == 1

    virtual.run(story)


def test_checkpoints_that_cannot_be_listed_cost_history_and_nothing_else():
    async def story() -> None:
        saver = checkpointer(Store(error=Unavailable("no answer")), {"svc": ObjectMemory()})
        assert await saver.restore() == 0

    virtual.run(story)


def test_a_memory_that_grows_while_it_is_packed_is_packed_anyway():
    class Growing(dict[str, Any]):
        """Iterating over it while a round adds a target is what happens in two threads."""

        def items(self) -> Any:
            for number, pair in enumerate(list(super().items())):
                self[f"new-{number}"] = ObjectMemory().target("x")
                yield pair

    memory = remembered()
    memory.targets = Growing(memory.targets)
    assert "vllm" in restored(pack(memory)).targets
