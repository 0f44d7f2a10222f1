"""How long a replica of a workload takes to start, measured on its own pods.

The scaler orders ahead by this time, so it is measured and never assumed here: where nothing was measured it is
unknown, and the caller's prior holds. What is still starting counts as longer than it has waited (`waiting_times`),
hence a stock-out or a slow registry is seen while it lasts and not when it is over.

A pod counts once. One that was restarted says nothing about a new one and is left out; one that went away before it
was ready counts for a day as longer than it waited; one that is met when it is ready already is believed where it
became ready within an hour, because the API tells only when it became ready last. The time before a pod had a node is
cut by what was seen while it had none: the API forgets that the scheduler found no room.

Whether Ready means anything is the user's: without a readiness probe a pod is ready as soon as its container runs.
"""

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from types import MappingProxyType
from typing import Final

from optiinfra.domain import groups
from optiinfra.domain.histogram import InvalidCheckpointError
from optiinfra.domain.readings import EngineReading, Signal
from optiinfra.domain.start_stages import LONGEST_STAGE, STAGES, Start, start_of
from optiinfra.domain.start_up_summary import ABANDONED_FOR, LONGEST, StartUp, end_of, summarise
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.domain.workload import PodFacts, WorkloadFacts

KEPT: Final = 32
"""Pods that became ready, and as many that did not."""
FORGOTTEN_AFTER: Final = Seconds(7 * 86400.0)
UNWATCHED: Final = Seconds(60.0)
"""A pod that was not looked at for longer, before it had a node, may have had no room without our seeing it."""
FIRST_TOKEN_WITHIN: Final = Seconds(900.0)
"""A replica that shows no token for longer had no request."""
MOST_BYTES: Final = 4096

_MAGIC: Final = b"OISU"
_VERSION: Final = 1
_HEADER: Final = struct.Struct("<4sBBB")
_RECORD: Final = struct.Struct(f"<IqIHB{len(STAGES)}H")
_NONE: Final = LONGEST_STAGE + 1
_READY: Final = 255
_LAST_TIME: Final = 2**40


@dataclass(slots=True)
class _Open:
    """A pod that has not been ready yet."""

    pod: PodFacts
    uid: int
    seen: UnixTime
    """When it was last looked at."""
    roomy_until: UnixTime
    """Up to when it was seen to have no node and no shortage; its creation where it never was."""
    shortage: UnixTime | None = None
    watched: bool = False

    def look(self, pod: PodFacts, now: UnixTime) -> None:
        """Note what the pod says now."""
        if pod.scheduled is None:
            if pod.unschedulable_since is None:
                self.roomy_until = now
            elif self.shortage is None:
                # A gate's time is kept by the condition when the gate goes: the shortage is younger than our last look.
                self.shortage = UnixTime(max(pod.unschedulable_since, min(self.roomy_until, now)))
        else:
            self.watched = pod.scheduled - self.roomy_until <= UNWATCHED
        self.pod, self.seen = pod, now

    def start(self, now: UnixTime) -> Start:
        """Return how far it came."""
        return start_of(self.pod, uid=self.uid, now=now, unschedulable_since=self.shortage, watched=self.watched)


class StartUpMemory:
    """The recent starts of one workload's pods: at most 32 that became ready, and 32 that did not."""

    def __init__(self) -> None:
        self._ready: dict[int, Start] = {}
        self._abandoned: dict[int, Start] = {}
        # By uid, as the next two; bounded by the pods there are.
        self._open: dict[str, _Open] = {}
        # Present pods that have nothing more to tell.
        self._settled: set[str] = set()
        # Ready pods whose first token was not seen yet.
        self._tokenless: dict[str, int] = {}
        # The last answer, and from when to when it holds.
        self._answer: tuple[UnixTime, UnixTime, StartUp] | None = None

    def __len__(self) -> int:
        return len(self._ready)

    def observe(
        self, pods: Sequence[PodFacts], *, now: UnixTime, first_tokens: Mapping[str, UnixTime] = MappingProxyType({})
    ) -> None:
        """Note what the pods say now. The same pods at the same moment may be observed twice.

        Args:
            pods: all pods of the workload (`replica_pods`), also those that are not ready.
            now: the moment of the observation.
            first_tokens: by pod, from `first_token_times`; may be left out.
        """
        present = {pod.uid for pod in pods}
        if not self._open and not self._tokenless and present <= self._settled:
            self._settled = present
            return
        for uid in [uid for uid in self._open if uid not in present]:
            self._abandon(self._open.pop(uid))
        self._settled &= present
        for pod in pods:
            if pod.uid not in self._settled:
                self._look(pod, now)
            if pod.uid in self._tokenless:
                self._await_token(pod, first_tokens.get(pod.name), now)
        for uid in [uid for uid in self._tokenless if uid not in present]:
            del self._tokenless[uid]
        self._forget(now)

    def learn(self, pods: Sequence[PodFacts], *, now: UnixTime) -> int:
        """Take in starts of before that somebody else watched; return how many. Those that are known stay as they are.

        Only pods count that became ready within an hour and were never restarted; whether there was room for them is
        not told, so that their time before they had a node is cut into nothing.
        """
        taken = 0
        for pod in pods:
            uid = _hash(pod.uid)
            known = uid in self._ready or uid in self._abandoned or pod.uid in self._open
            if known or pod.restarts > 0 or pod.became_ready is None or pod.became_ready < pod.created:
                continue
            start = start_of(pod, uid=uid, now=now, unschedulable_since=None, watched=False)
            if start.total <= LONGEST and now - end_of(start) < FORGOTTEN_AFTER:
                self._ready[uid] = start
                taken += 1
        _cut(self._ready)
        self._answer = None
        return taken

    def summary(self, now: UnixTime) -> StartUp:
        """Return what is known; cheap while nothing starts."""
        if self._answer is not None and self._answer[0] <= now < self._answer[1]:
            return self._answer[2]
        self._forget(now)
        found = summarise(
            list(self._ready.values()),
            [one.start(now) for one in self._open.values()],
            list(self._abandoned.values()),
            now=now,
        )
        if not self._open:
            ends = [end_of(start) for start in (*self._ready.values(), *self._abandoned.values())]
            changes = [end + span for end in ends for span in (ABANDONED_FOR, FORGOTTEN_AFTER) if end + span > now]
            self._answer = now, UnixTime(min(changes, default=math.inf)), found
        return found

    def _look(self, pod: PodFacts, now: UnixTime) -> None:
        known = self._open.get(pod.uid)
        uid = _hash(pod.uid) if known is None else known.uid
        self._answer = None
        if uid in self._ready or pod.restarts > 0 or pod.lost_readiness:
            self._open.pop(pod.uid, None)
            self._settled.add(pod.uid)
        elif pod.became_ready is not None:
            one = self._open.pop(pod.uid, None) or _Open(pod, uid, now, roomy_until=pod.created)
            one.look(pod, now)
            self._settled.add(pod.uid)
            start = one.start(now)
            if known is not None or (pod.became_ready >= pod.created and start.total <= LONGEST):
                self._keep(pod, start, now)
        elif pod.terminating:
            self._settled.add(pod.uid)
            if known is not None:
                self._abandon(self._open.pop(pod.uid))
        else:
            if known is None:
                self._abandoned.pop(uid, None)
                known = self._open[pod.uid] = _Open(pod, uid, now, roomy_until=pod.created)
            known.look(pod, now)

    def _keep(self, pod: PodFacts, start: Start, now: UnixTime) -> None:
        self._abandoned.pop(start.uid, None)
        self._ready[start.uid] = start
        _cut(self._ready)
        if start.uid in self._ready and now - end_of(start) <= FIRST_TOKEN_WITHIN:
            self._tokenless[pod.uid] = start.uid

    def _abandon(self, one: _Open) -> None:
        self._answer = None
        self._abandoned[one.uid] = one.start(one.seen)
        _cut(self._abandoned)

    def _await_token(self, pod: PodFacts, moment: UnixTime | None, now: UnixTime) -> None:
        uid = self._tokenless[pod.uid]
        start = self._ready.get(uid)
        if start is not None and moment is not None:
            self._ready[uid] = start.with_first_token(moment)
            self._answer = None
        if start is None or moment is not None or now - end_of(start) > FIRST_TOKEN_WITHIN:
            del self._tokenless[pod.uid]

    def _forget(self, now: UnixTime) -> None:
        for starts, span in ((self._ready, FORGOTTEN_AFTER), (self._abandoned, ABANDONED_FOR)):
            for uid in [uid for uid, start in starts.items() if now - end_of(start) >= span]:
                del starts[uid]

    def to_bytes(self) -> bytes:
        """Return a checkpoint of at most `MOST_BYTES`; of pods that start now the API tells what is needed."""
        records = [*self._ready.values(), *self._abandoned.values()]
        return _HEADER.pack(_MAGIC, _VERSION, len(self._ready), len(self._abandoned)) + b"".join(map(_pack, records))

    @classmethod
    def from_bytes(cls, data: bytes) -> "StartUpMemory":
        """Read a checkpoint back. Raises InvalidCheckpointError."""
        if not _HEADER.size <= len(data) <= MOST_BYTES:
            raise InvalidCheckpointError(f"start-up checkpoint: {len(data)} bytes cannot be one; begin with none")
        magic, version, ready, abandoned = _HEADER.unpack_from(data)
        if magic != _MAGIC or version != _VERSION:
            raise InvalidCheckpointError("start-up checkpoint: not of this version; begin with none")
        if max(ready, abandoned) > KEPT or len(data) != _HEADER.size + (ready + abandoned) * _RECORD.size:
            raise InvalidCheckpointError("start-up checkpoint: impossible header; begin with none")
        starts = [_unpack(values) for values in _RECORD.iter_unpack(data[_HEADER.size :])]
        for start in starts[:ready]:
            if start.current is not None:
                raise InvalidCheckpointError("start-up checkpoint: a pod both ready and not; begin with none")
        memory = cls()
        memory._ready = {start.uid: start for start in starts[:ready]}
        memory._abandoned = {start.uid: start for start in starts[ready:]}
        return memory


def replica_pods(facts: WorkloadFacts) -> tuple[PodFacts, ...]:
    """Return the pods whose start is that of a replica: all, but of a group only its leader, which is ready last."""
    if facts.kind != groups.KIND:
        return facts.pods
    return tuple(pod for pod in facts.pods if groups.group_of(pod.name, workload=facts.name)[1] == 0)


def first_token_times(pages: Mapping[str, Sequence[EngineReading]]) -> dict[str, UnixTime]:
    """Return when each pod's pages first showed generated tokens, where an earlier page of it showed none.

    Args:
        pages: by pod, oldest first, as `WorkloadFacts.pages` has them. The answer is as precise as they are frequent.
    """
    found: dict[str, UnixTime] = {}
    for pod, readings in pages.items():
        for earlier, later in pairwise(readings):
            before = earlier.counters.get(Signal.GENERATION_TOKENS, 0.0)
            if before > 0.0:
                break
            if later.counters.get(Signal.GENERATION_TOKENS, 0.0) > 0.0:
                found[pod] = later.time
                break
    return found


def _cut(starts: dict[int, Start]) -> None:
    """Leave the newest."""
    while len(starts) > KEPT:
        del starts[min(starts, key=lambda uid: end_of(starts[uid]))]


def _hash(uid: str) -> int:
    return int.from_bytes(blake2b(uid.encode(), digest_size=4).digest(), "little")


def _pack(start: Start) -> bytes:
    scheduled, *seconds = (
        _NONE if value is None else min(value, LONGEST_STAGE) for value in (start.scheduled, *start.seconds)
    )
    current = _READY if start.current is None else STAGES.index(start.current)
    return _RECORD.pack(start.uid, start.created, min(start.total, 2**32 - 1), scheduled, current, *seconds)


def _unpack(values: tuple[int, ...]) -> Start:
    uid, created, total, scheduled, current, *seconds = values
    if not abs(created) < _LAST_TIME or (current != _READY and current >= len(STAGES)):
        raise InvalidCheckpointError("start-up checkpoint: impossible values; begin with none")
    return Start(
        uid=uid,
        created=created,
        total=total,
        scheduled=None if scheduled == _NONE else scheduled,
        seconds=tuple(None if value == _NONE else value for value in seconds),
        current=None if current == _READY else STAGES[current],
    )
