"""What a new leader goes on with: each object's load, what was learned of it and of our actions, in its checkpoint.

Written rarely (in the long run at most every 30 minutes an object, five a second in all, only when it changed) because
5,000 objects of 16 KiB a cycle were measured to grow etcd by 90 MiB. What is young is written sooner, after one minute,
three, seven and so on, and so is what a change of replicas taught: a process that is killed must not lose most of what
it knows. A resize under verification is written at the next look (`_LOOK`): when it begins, moves on and ends. A
checkpoint belongs to one uid; one that cannot be read costs history, nothing else: the operator starts that object anew
and says so.
"""

import asyncio
import base64
import binascii
import contextlib
import hashlib
import logging
import random
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import orjson

from optiinfra import metrics
from optiinfra.cluster.checkpoints import CLUSTER_OWNER, STATE_LIMIT_BYTES, CheckpointRecord
from optiinfra.cluster.document import Key
from optiinfra.cluster.errors import ClusterError
from optiinfra.control import cluster_checkpoint
from optiinfra.control.keys import ObjectKey
from optiinfra.control.memory import MOST_CONTAINERS, ObjectMemory, Pressed, TargetMemory
from optiinfra.control.registry import Registry
from optiinfra.domain.gpu_use import GpuUseHistory
from optiinfra.domain.histogram import InvalidCheckpointError
from optiinfra.domain.history import LoadHistory
from optiinfra.domain.pace import PaceHistory
from optiinfra.domain.policy import Axis
from optiinfra.domain.right_sizing import UsageHistory
from optiinfra.domain.scaling import ScalerMemory
from optiinfra.domain.start_up import StartUpMemory
from optiinfra.domain.units import UnixTime
from optiinfra.domain.verification import ResizeTrial, TrackRecord
from optiinfra.domain.verification import saved as trials_saved

_LOG = logging.getLogger(__name__)
VERSION = 1
_INTERVAL = 1800.0
_FIRST = 60.0
_AFTER_CHANGE = 300.0
"""Shortest pause when replicas were ordered since the last checkpoint."""
_LOOK = 15.0
_JITTER = 0.2
_PAUSE = 0.2
_UNPACKED_LIMIT = 256 << 10
_PLACE = 512
_Trial = TypeVar("_Trial")
_NO_HISTORY = base64.b64encode(LoadHistory().to_bytes()).decode()


class CheckpointStore(Protocol):
    """Reads and writes checkpoints; `optiinfra.cluster.checkpoints` is the real one."""

    async def list(self) -> tuple[tuple[CheckpointRecord, ...], tuple[tuple[Key, str], ...]]:
        """Return all readable checkpoints, and why others are not."""

    async def write(self, record: CheckpointRecord, *, owner_name: str, owner_uid: str) -> None:
        """Create or replace a checkpoint."""


def pack(memory: ObjectMemory) -> bytes:
    """Pack what is worth keeping.

    What does not fit is left out: what containers use first, then load histories, the largest of each kind first.
    """
    targets: dict[str, dict[str, Any]] = {
        name: _packed(target)
        for name, target in tuple(memory.targets.items())  # a round may add a target meanwhile, in another thread
        if len(target.history) or target.usage or target.record.records or target.resize_trial or target.trial
    }
    while True:
        packed = zlib.compress(orjson.dumps({"targets": targets}, option=orjson.OPT_SORT_KEYS), 6)
        if len(packed) <= STATE_LIMIT_BYTES or not targets:
            return packed
        used = [(len(state), name, one) for name in targets for one, state in targets[name]["usage"].items()]
        if used:
            _, name, container = max(used)
            del targets[name]["usage"][container]
            continue
        largest = max(targets, key=lambda name: len(targets[name]["history"]))
        if targets[largest]["history"] == _NO_HISTORY:
            del targets[largest]
        else:
            targets[largest]["history"] = _NO_HISTORY


def _packed(target: TargetMemory) -> dict[str, Any]:
    return {
        "history": _text(target.history.to_bytes()),
        "startUp": _text(target.start_up.to_bytes()),
        "pace": _text(target.pace.to_bytes()),
        "scaler": _text(target.scaler.to_bytes()),
        "usage": {name: _text(history.to_bytes()) for name, history in tuple(target.usage.items())},
        "kills": dict(target.kills),
        "pressed": {name: [one.at, one.share, one.place] for name, one in tuple(target.pressed.items())},
        "trial": None if (kept := _kept_trial(target)) is None else trials_saved.packed_action(kept),
        "resizeTrial": None if target.resize_trial is None else trials_saved.packed(target.resize_trial),
        "changed": {str(axis): at for axis in Axis if (at := target.policy.at(axis)) is not None},
        "track": target.record.to_dict(),
        "gpuUse": _text(target.gpu_use.to_bytes()) if target.gpu_use.last is not None else "",
    }


def _kept_trial(target: TargetMemory) -> trials_saved.KeptTrial | None:
    trial = target.trial
    if trial is None:
        return target.kept_trial  # nobody looked at it yet
    return trials_saved.KeptTrial(
        id=trial.action.id,
        rule=trial.rule,
        direction=trial.direction,
        actuation=trial.actuation,
        started=trial.started,
        expectation=trial.expectation,
        before=trial.before,
        begun=trial.begun,
    )


def _text(state: bytes) -> str:
    return base64.b64encode(state).decode()


@dataclass(frozen=True, slots=True)
class _Sizes:
    """What is kept about sizes, and of what is being judged."""

    usage: dict[str, UsageHistory]
    kills: dict[str, float]
    gpu_use: GpuUseHistory
    pressed: dict[str, Pressed]
    resize: ResizeTrial | None
    trial: trials_saved.KeptTrial | None


def _sizes(saved: Mapping[str, Any]) -> _Sizes:
    """Read what right-sizing keeps; what an older operator kept of a container in another way is left out."""
    usage: dict[str, UsageHistory] = {}
    for name, state in saved.get("usage", {}).items():
        with contextlib.suppress(InvalidCheckpointError):
            usage[str(name)] = UsageHistory.from_bytes(base64.b64decode(state, validate=True))
    kills = {str(name): float(time) for name, time in saved.get("kills", {}).items()}
    gpu_use = GpuUseHistory()
    if saved.get("gpuUse"):
        with contextlib.suppress(InvalidCheckpointError):
            gpu_use = GpuUseHistory.from_bytes(base64.b64decode(saved["gpuUse"], validate=True))
    pressed = {
        str(name): Pressed(float(at), float(share), str(place)[:_PLACE])
        for name, (at, share, place) in tuple(saved.get("pressed", {}).items())[:MOST_CONTAINERS]
    }
    return _Sizes(
        usage,
        kills,
        gpu_use,
        pressed,
        _trial(saved.get("resizeTrial"), trials_saved.unpacked),
        _trial(saved.get("trial"), trials_saved.unpacked_action),
    )


def _trial(saved: Any, read: Callable[[Any], _Trial]) -> _Trial | None:
    """Read a trial; one that cannot be read is told as lost, where its action stands."""
    if saved is not None:
        with contextlib.suppress(KeyError, ValueError, TypeError, AttributeError):
            return read(saved)
    return None


def unpack(state: bytes, memory: ObjectMemory, *, version: int) -> None:
    """Fill a memory from a packed state.

    Raises:
        InvalidCheckpointError: the state is not one of ours.
    """
    if version != VERSION:
        raise InvalidCheckpointError(f"checkpoint of version {version}, this is {VERSION}; begin with none")
    inflater = zlib.decompressobj()
    found: dict[str, tuple[LoadHistory, StartUpMemory, PaceHistory, ScalerMemory]] = {}
    sizes: dict[str, _Sizes] = {}
    records: dict[str, TrackRecord] = {}
    changed: dict[str, dict[Axis, UnixTime]] = {}
    try:
        raw = inflater.decompress(state, _UNPACKED_LIMIT)
        if inflater.unconsumed_tail:
            raise ValueError(f"more than {_UNPACKED_LIMIT} bytes unpacked")  # noqa: TRY301  one error with the rest
        for name, saved in orjson.loads(raw)["targets"].items():
            history = LoadHistory.from_bytes(base64.b64decode(saved["history"], validate=True))
            # An older operator of this version kept nothing but the history.
            start_up = (
                StartUpMemory.from_bytes(base64.b64decode(saved["startUp"], validate=True))
                if "startUp" in saved
                else StartUpMemory()
            )
            pace = base64.b64decode(saved["pace"], validate=True) if "pace" in saved else PaceHistory().to_bytes()
            scaler = ScalerMemory.from_bytes(base64.b64decode(saved.get("scaler", ""), validate=True))
            found[str(name)] = history, start_up, PaceHistory.from_bytes(pace), scaler
            sizes[str(name)] = _sizes(saved)
            changed[str(name)] = {Axis(axis): UnixTime(float(at)) for axis, at in saved.get("changed", {}).items()}
            records[str(name)] = TrackRecord.from_dict(saved["track"]) if "track" in saved else TrackRecord()
    except (
        zlib.error,
        orjson.JSONDecodeError,
        binascii.Error,
        KeyError,
        TypeError,
        AttributeError,
        ValueError,
    ) as error:
        raise InvalidCheckpointError(f"checkpoint: {error}; begin with none") from error
    for name, (history, start_up, pace_history, learned) in found.items():  # all or nothing
        target = memory.target(name)
        target.history, target.start_up, target.pace, target.scaler = history, start_up, pace_history, learned
        own = sizes[name]
        target.usage, target.kills, target.gpu_use = own.usage, own.kills, own.gpu_use
        target.pressed, target.resize_trial, target.kept_trial = own.pressed, own.resize, own.trial
        for axis, at in changed[name].items():
            target.policy = target.policy.changed(axis, at=at)
        target.record = records[name]


@dataclass(slots=True)
class Checkpointer:
    """Restores at the start of leadership and saves within the budget."""

    store: CheckpointStore
    registry: Registry
    memories: dict[ObjectKey, ObjectMemory]
    clock: Callable[[], float]
    namespace: str = ""
    """The operator's own, for the checkpoints of objects that have none."""

    async def restore(self) -> int:
        """Read all checkpoints once; returns how many objects got their history back."""
        try:
            records, broken = await self.store.list()
        except ClusterError as error:
            _LOG.warning("checkpoints not read; histories start anew", extra={"error": str(error)})
            metrics.CHECKPOINTS.labels("unreadable").inc()
            return 0
        for name, why in broken:
            _LOG.warning("checkpoint not usable", extra={"checkpoint": str(name), "error": why})
            metrics.CHECKPOINTS.labels("broken").inc()
        restored = self._restore_clusters(records)
        for record in records:
            if record.owner_kind == CLUSTER_OWNER:
                continue
            key = ObjectKey("ResourceOptimization", record.key.namespace, record.key.name)
            memory = self.memories.setdefault(key, ObjectMemory())
            if memory.restored:
                continue
            if memory.uid and record.owner_uid not in {"", memory.uid}:
                _LOG.info("checkpoint of an earlier object left alone", extra={"checkpoint": str(record.key)})
                metrics.CHECKPOINTS.labels("other_object").inc()
                continue
            memory.restored = True
            memory.uid = memory.uid or record.owner_uid
            try:
                unpack(record.state, memory, version=record.version)
            except InvalidCheckpointError as error:
                _LOG.warning("checkpoint not usable", extra={"checkpoint": str(record.key), "error": str(error)})
                metrics.CHECKPOINTS.labels("broken").inc()
                continue
            memory.checkpointed_at = record.time
            memory.checkpoint_pause = _INTERVAL
            memory.checkpointed_digest = _digest(record.state)
            metrics.CHECKPOINTS.labels("restored").inc()
            restored += 1
        return restored

    def _restore_clusters(self, records: Iterable[CheckpointRecord]) -> int:
        parts: dict[str, list[CheckpointRecord]] = {}
        for record in records:
            if record.owner_kind == CLUSTER_OWNER:
                parts.setdefault(record.owner_name, []).append(record)
        restored = 0
        for name, own in parts.items():
            key = ObjectKey("ClusterResourceOptimization", "", name)
            known, memory = self.registry.get(key), self.memories.setdefault(key, ObjectMemory())
            newest = max(own, key=lambda one: one.time)
            uid = known.metadata.uid if known is not None else memory.uid or newest.owner_uid
            living = [one for one in own if one.owner_uid in {"", uid}]
            if memory.restored or not cluster_checkpoint.restore(living, memory):
                continue
            memory.restored, memory.uid = True, uid
            memory.checkpointed_at, memory.checkpoint_pause = max(one.time for one in living), _INTERVAL
            restored += 1
        return restored

    async def run(self) -> None:
        """Save for ever what is due; cancel to stop."""
        while True:
            await self.save(self._due())
            await asyncio.sleep(_LOOK)

    async def save_all(self) -> None:
        """Save what changed, before leadership is given up; the caller bounds the time."""
        await self.save(self._known().items())

    def _known(self) -> Mapping[ObjectKey, ObjectMemory]:
        return {key: memory for key, memory in self.memories.items() if memory.targets or len(memory.gpus)}

    def _due(self) -> list[tuple[ObjectKey, ObjectMemory]]:
        now = self.clock()
        due = []
        for key, memory in self._known().items():
            if not memory.checkpoint_pause:
                memory.checkpoint_pause, memory.checkpointed_at = _FIRST, now
            # A clock that was set back must not keep anybody waiting until it has come round again.
            memory.checkpointed_at = min(memory.checkpointed_at, now)
            pause = memory.checkpoint_pause
            targets = tuple(memory.targets.values())
            if any(memory.checkpointed_at < target.ordered_at <= now for target in targets):
                pause = min(pause, _AFTER_CHANGE)
            if any(memory.saved_at < target.trial_changed_at <= now for target in targets):
                pause = 0.0  # what a resize is judged by cannot be measured again
            spread = 1.0 + _JITTER * (hash(key) % 100) / 100.0
            if now - memory.checkpointed_at >= pause * spread:
                due.append((key, memory))
        random.shuffle(due)  # under a full budget nobody is always the last
        return due

    async def save(self, items: Iterable[tuple[ObjectKey, ObjectMemory]]) -> None:
        """Save these objects, at most five a second."""
        for key, memory in items:
            known = self.registry.get(key)
            if known is None:
                continue
            if key.kind == "ClusterResourceOptimization":
                await self._save_cluster(key, memory, uid=known.metadata.uid)
                continue
            began = self.clock()  # what changes while it is packed and sent is the next one's
            state = await asyncio.to_thread(pack, memory)
            digest = _digest(state)
            if digest == memory.checkpointed_digest:
                memory.checkpointed_at = memory.saved_at = self.clock()
                metrics.CHECKPOINTS.labels("unchanged").inc()
                continue
            now = UnixTime(self.clock())
            record = CheckpointRecord(key=Key(key.namespace, key.name), version=VERSION, time=now, state=state)
            try:
                await self.store.write(record, owner_name=key.name, owner_uid=known.metadata.uid)
            except ClusterError as error:
                metrics.CHECKPOINTS.labels("failed").inc()
                _LOG.warning("checkpoint not written", extra={"object": str(key), "error": str(error)})
            else:
                memory.checkpointed_digest, memory.saved_at = digest, began
                memory.checkpoint_pause = min(_INTERVAL, max(_FIRST, 2.0 * memory.checkpoint_pause))
                metrics.CHECKPOINTS.labels("written").inc()
            memory.checkpointed_at = now
            await asyncio.sleep(_PAUSE)

    async def _save_cluster(self, key: ObjectKey, memory: ObjectMemory, *, uid: str) -> None:
        """Save the parts of one object's checkpoint that changed."""
        now = UnixTime(self.clock())
        records = await asyncio.to_thread(
            cluster_checkpoint.records_of, key, memory, namespace=self.namespace, uid=uid, now=now
        )
        before = memory.checkpointed_digest.split(",")
        after: list[str] = []
        for place, record in enumerate(records):
            digest, known = _digest(record.state), before[place] if place < len(before) else ""
            if digest == known:
                metrics.CHECKPOINTS.labels("unchanged").inc()
            elif await self._write(record, owner_name=key.name, owner_uid=uid):
                known = digest
                memory.checkpoint_pause = min(_INTERVAL, max(_FIRST, 2.0 * memory.checkpoint_pause))
            after.append(known)
        memory.checkpointed_digest, memory.checkpointed_at = ",".join(after), now

    async def _write(self, record: CheckpointRecord, *, owner_name: str, owner_uid: str) -> bool:
        try:
            await self.store.write(record, owner_name=owner_name, owner_uid=owner_uid)
        except ClusterError as error:
            metrics.CHECKPOINTS.labels("failed").inc()
            _LOG.warning("checkpoint not written", extra={"checkpoint": str(record.key), "error": str(error)})
            return False
        else:
            metrics.CHECKPOINTS.labels("written").inc()
            return True
        finally:
            await asyncio.sleep(_PAUSE)


def _digest(state: bytes) -> str:
    return hashlib.sha256(state).hexdigest()
