"""The control loop of one leader: what is due goes through a round, and what a round says goes back into the queue.

It also keeps what rounds live on fresh: targets are re-read, sources of pages are named for the scraper, decisions
that nobody renewed expire. Everything here runs only while this replica leads; a follower keeps caches and nothing
else. It holds no logic about workloads.
"""

import asyncio
import logging
import random
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from optiinfra import metrics
from optiinfra.analysis.errors import RoundFailed
from optiinfra.analysis.round import RoundWorkflow
from optiinfra.api.conversion import INTERVAL, interval_of, to_targets
from optiinfra.api.errors import InvalidObject
from optiinfra.api.v1alpha1 import ResourceOptimization, TargetRef
from optiinfra.api.v1alpha1.status_parts import MAX_REQUESTED
from optiinfra.cluster.inventory import Inventory
from optiinfra.control import costs, trials
from optiinfra.control.decisions import DecisionBoard
from optiinfra.control.isolation import log_failure
from optiinfra.control.keys import Kind, ObjectKey
from optiinfra.control.memory import ObjectMemory
from optiinfra.control.promises import Promises
from optiinfra.control.queue import KeyedQueue
from optiinfra.control.registry import Broken, Registry
from optiinfra.control.sizing_rules import SizingRulesTable
from optiinfra.control.targets import TargetTable
from optiinfra.control.trimming import Trimmer
from optiinfra.control.usage import Owner, UsageTable
from optiinfra.control.work import Late, Rehearsed, Work
from optiinfra.domain.units import UnixTime

_LOG = logging.getLogger(__name__)
BATCH = 500
_KINDS: dict[str, Kind] = {
    "ResourceOptimization": "ResourceOptimization",
    "ClusterResourceOptimization": "ClusterResourceOptimization",
}
_FIRST_LOOK = 2.0
"""Seconds after which a new object gets its first status even when its target has not answered."""
_FIRST_PAGES = 0.5
"""Seconds that the pages of a service's other replicas have to come in before it is decided for the first time."""
_EARLY_ROUNDS = 16
"""What cannot be decided on so many pages is not decided on the next one either."""
_FRESH_PAGE = 0.2
"""Seconds between a page and the round that it brought forward; pages of other replicas come in meanwhile."""
_PULLED_FORWARD = 0.25
"""Share of its interval by which a page may bring a round forward."""
_BROKEN_INTERVAL = 300.0
_USAGE_INTERVAL = 60.0
_FIRST_USAGE = 2.0
"""Seconds to the next look while there is nobody to ask about: after a start, targets are read one by one."""
_COUNTS_INTERVAL = 10.0
_LATEST = 120.0
"""Seconds that the calls of one object may take in all; each of them has a shorter time-out of its own."""
_PROMISED_AGAIN = 1.0
"""Seconds until a round that was asked for and could not be told is made again."""


class Owned(Protocol):
    """A page's source, of which only the object matters here."""

    @property
    def owner(self) -> ObjectKey | None:
        """Whose engine it is; None for an agent's."""


@dataclass(slots=True)
class ControlLoop:
    """Queue, rounds and upkeep. `leading` gates everything that costs or changes something."""

    registry: Registry
    memories: dict[ObjectKey, ObjectMemory]
    queue: KeyedQueue[ObjectKey]
    targets: TargetTable
    usage: UsageTable
    sizing_rules: SizingRulesTable
    board: DecisionBoard
    inventory: Inventory
    forget: Callable[[ObjectKey], None]
    """Called when an object is gone, for the parts that remember it elsewhere."""
    interval_override: float | None = None
    leading: bool = False
    last_round: float = field(default_factory=time.monotonic)
    gap: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when deletions may have gone unseen; the sweep clears it."""
    tickets: dict[ObjectKey, tuple[str, ...]] = field(default_factory=dict)
    """Ids promised to callers of `/optimize/run` for the next round of an object."""
    promises: Promises = field(default_factory=Promises)
    previews: dict[ObjectKey, asyncio.Future[Rehearsed]] = field(default_factory=dict)
    """Those who asked what the next round of an object would do."""
    trimmer: Trimmer = field(default_factory=Trimmer)
    _reading: set[asyncio.Task[None]] = field(default_factory=set)
    _late: set[asyncio.Task[None]] = field(default_factory=set)

    # events

    def seen(self, kind: str, body: Mapping[str, Any]) -> None:
        """Take an object from the watch or the sweep."""
        try:
            change = self.registry.upsert(_KINDS[kind], body)
        except InvalidObject as error:
            _LOG.error("object without usable metadata", extra={"kind": kind, "error": str(error)})
            return
        if change.is_new:
            self._begin(change.key)
        metrics.OBJECTS.labels(kind).set(sum(1 for key in self.registry.all_keys() if key.kind == kind))
        if not change.needs_round:
            return
        if kind == "ClusterResourceOptimization":
            self._start(change.key)
            for key, _ in self.registry.services():  # its defaults and prices are everybody's
                self.queue.add(key, delay=random.uniform(0.0, 2.0))  # noqa: S311  spread
            return
        self._start(change.key)

    def gone(self, kind: str, body: Mapping[str, Any]) -> None:
        """Take a deletion from the watch."""
        metadata = body.get("metadata", {})
        key = ObjectKey(_KINDS[kind], metadata.get("namespace", ""), metadata["name"])
        known = self.registry.get(key)
        # A late deletion of a predecessor of the same name must not take its successor away.
        if known is None or known.metadata.uid == metadata.get("uid"):
            self.vanished(key)

    def vanished(self, key: ObjectKey) -> None:
        """Forget an object that exists no more; what it published disappears at once."""
        known = self.registry.get(key)
        if isinstance(known, ResourceOptimization):
            self.board.withdraw(key.namespace, key.name)
            for variant in known.spec.variants or ():
                self.board.withdraw(key.namespace, f"{key.name}.{variant.name}")
        self.registry.remove(key)
        self.queue.remove(key)
        self.memories.pop(key, None)
        self.promises.dropped(self.tickets.pop(key, ()))
        self.forget(key)
        metrics.OBJECTS.labels(key.kind).set(sum(1 for other in self.registry.all_keys() if other.kind == key.kind))

    def _begin(self, key: ObjectKey) -> None:
        """Let a new object start from nothing, whatever is remembered of an earlier one of its name."""
        known = self.registry.get(key)
        if known is None:
            return
        memory = self.memories.setdefault(key, ObjectMemory(uid=known.metadata.uid))
        if memory.uid in {"", known.metadata.uid}:
            memory.uid = known.metadata.uid
            return
        # Its predecessor went unseen, in a gap of the watch or while no operator ran.
        _LOG.info("an object was made anew under its name", extra={"object": str(key)})
        if key.kind == "ResourceOptimization":
            self.board.withdraw(key.namespace, key.name)
        self.memories[key] = ObjectMemory(uid=known.metadata.uid)
        self.promises.dropped(self.tickets.pop(key, ()))
        self.forget(key)

    def run_now(self, key: ObjectKey) -> str | None:
        """Put an object next in line; returns the id of its round, or None when there is no such object."""
        if self.registry.get(key) is None:
            return None
        ticket = self.tickets.get(key)
        if ticket is None:
            ticket = self.tickets[key] = (self.promises.new_id(),)
            self.promises.made(ticket[-1], key)
        self.queue.add(key, urgent=True)
        return ticket[-1]

    async def preview(self, key: ObjectKey, *, within: float) -> Rehearsed | None:
        """Work out what the next round of an object would do, and do nothing; None when there is no such object.

        Several who ask at once share one answer.

        Raises:
            TimeoutError: no round came to the object within so many seconds.
        """
        if self.registry.get(key) is None:
            return None
        future = self.previews.get(key)
        if future is None:
            future = self.previews[key] = asyncio.get_running_loop().create_future()
        self.queue.add(key, urgent=True)
        try:
            async with asyncio.timeout(within):
                return await asyncio.shield(future)
        finally:
            if self.previews.get(key) is future and not future.done():
                del self.previews[key]

    def page_read(self, source: Owned) -> None:
        """Take note of a page: first ones ask for a round, and later ones bring one forward that is nearly due."""
        memory = self.memories.get(source.owner) if source.owner is not None else None
        if memory is None or source.owner is None:
            return
        undecided = not all(target.decided for target in memory.targets.values())
        if undecided and memory.early_rounds < _EARLY_ROUNDS:
            memory.early_rounds += 1
            self.queue.add(source.owner, delay=_FIRST_PAGES)
            return
        # Rounds settle behind pages: what a page says would else be decided up to an interval after it was read.
        due_in = self.queue.due_in(source.owner)
        if due_in is not None and _FRESH_PAGE < due_in <= _PULLED_FORWARD * self.interval_of(source.owner):
            self.queue.add(source.owner, delay=_FRESH_PAGE)

    def visit_all(self, *, within: float) -> None:
        """Give every service a round within so many seconds, while this replica leads."""
        if self.leading:
            for key, _ in self.registry.services():
                self.queue.add(key, delay=random.uniform(0.0, within))  # noqa: S311  spread

    def relisted(self) -> None:
        """Take note that a kind was listed anew, so that deletions before it may have gone unseen."""
        self.gap.set()

    # leadership

    def lead(self) -> None:
        """Begin: every known object gets a round."""
        self.leading = True
        self.last_round = time.monotonic()
        for key in self.registry.all_keys():
            self._start(key)

    def _start(self, key: ObjectKey) -> None:
        if not self.leading:
            return
        references = self._references(key)
        if not references:
            self.queue.add(key)
            return
        # The first status waits for the target's answer, but not for long: then it says that it is being read.
        self.queue.add(key, delay=_FIRST_LOOK)
        for reference in references:
            self._read(key, reference)

    def _references(self, key: ObjectKey) -> list[TargetRef]:
        known = self.registry.get(key)
        if not isinstance(known, ResourceOptimization):
            return []
        if known.spec.target_ref is not None:
            return [known.spec.target_ref]
        return [variant.target_ref for variant in known.spec.variants or ()]

    def _read(self, key: ObjectKey, reference: TargetRef) -> None:
        async def read() -> None:
            before = self.targets.get(key.namespace, reference)
            was = None if before is None else (before.facts, type(before.error))
            await self.targets.refresh(key.namespace, reference)
            after = self.targets.get(key.namespace, reference)
            if after is not None and (after.facts, type(after.error)) != was:
                self.queue.add(key)

        task = asyncio.create_task(read(), name="read target")
        self._reading.add(task)
        task.add_done_callback(self._reading.discard)

    # rounds

    async def run(self, workflow: RoundWorkflow[Work]) -> None:
        """Take what is due through rounds, for ever; cancel to stop."""
        try:
            await self._rounds(workflow)
        finally:
            for task in self._late:
                task.cancel()

    async def _rounds(self, workflow: RoundWorkflow[Work]) -> None:
        while True:
            keys = await self.queue.next_batch(BATCH)
            # A call of its own: else what a round made, 100 KiB an object, would be held until the next one begins.
            await self._round(workflow, keys)
            self.trimmer.after_round(len(keys))

    async def _round(self, workflow: RoundWorkflow[Work], keys: Sequence[ObjectKey]) -> None:
        previews = {key: self.previews.pop(key) for key in keys if key in self.previews}
        # A round that only previews an object reports nothing of it: what was promised waits for the next one.
        tickets = {key: self.tickets.pop(key) for key in keys if key in self.tickets and key not in previews}
        work = Work(_round_id(), UnixTime(time.time()), tuple(keys), tickets, previews)
        try:
            await workflow.run(work)
            metrics.ROUNDS.labels("ok").inc()
        except RoundFailed as error:
            metrics.ROUNDS.labels("failed").inc()
            log_failure(_LOG, "round failed", error, round=work.round_id, step=error.step)
        finally:
            self.last_round = time.monotonic()
            metrics.ROUND_OBJECTS.inc(len(keys))
            metrics.LAST_ROUND.set(time.time())
            late = {key for one in work.late for key in one.work.keys}
            self._settle(work, [key for key in keys if key not in late])
            for one in work.late:
                self._follow(one)

    def _follow(self, late: Late) -> None:
        """Let an object that left its round come to its end, and only then have another one."""

        async def ended() -> None:
            try:
                async with asyncio.timeout(_LATEST):
                    await late.task
            except Exception as error:  # noqa: BLE001  the failure of that object; it is logged with its traceback
                metrics.ROUNDS.labels("failed").inc()
                log_failure(_LOG, "the round of an object failed", error, round=late.work.round_id)
            finally:
                self._settle(late.work, late.work.keys)
                for key in late.work.keys:
                    if self.registry.get(key) is None:
                        # It was deleted meanwhile, and what its last call took belongs to nobody now.
                        self.forget(key)

        # Ended by `run` before it could wait, or in the moment between: then nobody else asks how that call ended.
        late.task.add_done_callback(lambda done: None if done.cancelled() else done.exception())
        task = asyncio.create_task(ended(), name="late object")
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    def _settle(self, work: Work, keys: Collection[ObjectKey]) -> None:
        """Put objects back into the queue after their round, and keep what was promised about it."""
        for key in keys:
            future = work.previews.get(key)
            if future is not None and not future.done():
                future.set_result(Rehearsed(problem="the round did not come to it; ask again"))
        self._requeue(keys)
        self.promises.kept(one for key in keys if key in work.kept for one in work.tickets.get(key, ()))
        self._promise_again({key: work.tickets[key] for key in keys if key in work.tickets and key not in work.kept})
        for key in keys:
            if key in work.previews and key in self.tickets:
                self.queue.add(key, urgent=True)

    def _promise_again(self, tickets: Mapping[ObjectKey, tuple[str, ...]]) -> None:
        """Let the next round of an object keep what no status tells of: its write met another one, or failed."""
        for key, ticket in tickets.items():
            if self.registry.get(key) is None:
                self.promises.dropped(ticket)
                continue
            # Who asked meanwhile was promised an id of its own.
            every = (*ticket, *self.tickets.get(key, ()))
            self.promises.dropped(every[:-MAX_REQUESTED])
            self.tickets[key] = every[-MAX_REQUESTED:]
            self.queue.add(key, delay=_PROMISED_AGAIN)

    def _requeue(self, keys: Iterable[ObjectKey]) -> None:
        for key in keys:
            self.queue.done(key)
            if self.registry.get(key) is not None:
                # Never less than the interval, or rounds would run ahead of the pages that they settled behind.
                self.queue.add(key, delay=self.interval_of(key) * random.uniform(1.0, 1.1))  # noqa: S311  jitter

    def interval_of(self, key: ObjectKey) -> float:
        """Seconds between two rounds of an object."""
        known = self.registry.get(key)
        if known is None or isinstance(known, Broken):
            return _BROKEN_INTERVAL
        if self.interval_override is not None:
            return self.interval_override
        cluster = next((obj for _, obj in self.registry.clusters()), None)
        defaults = cluster.spec.defaults if cluster is not None else None
        if isinstance(known, ResourceOptimization):
            return interval_of(known.spec, defaults)
        return defaults.interval.seconds if defaults is not None and defaults.interval is not None else INTERVAL

    # upkeep

    async def upkeep(self) -> None:
        """Keep targets fresh and let decisions expire, for ever; cancel to stop."""
        counts_due = time.monotonic()
        while True:
            self.board.expire()
            metrics.QUEUE_DEPTH.set(len(self.queue))
            metrics.QUEUE_DUE.set(self.queue.due)
            for key, _ in self.registry.services():
                interval = self.interval_of(key)
                for reference in self._references(key):
                    if self.targets.age(key.namespace, reference) >= max(1.0, interval - 0.5):
                        self._read(key, reference)
            if time.monotonic() >= counts_due:
                counts_due = time.monotonic() + _COUNTS_INTERVAL
                self._count()
            await asyncio.sleep(0.5)

    async def keep_usage(self) -> None:
        """Keep usage fresh, for ever; cancel to stop.

        Apart from upkeep: a metrics API that hangs must not keep targets from being read.
        """
        while True:
            asked = await self._refresh_usage()
            await asyncio.sleep(_USAGE_INTERVAL if asked else _FIRST_USAGE)

    def _count(self) -> None:
        """Show what stands now; a kind that no object has any more disappears instead of staying at its last number."""
        findings = Counter(pair for memory in self.memories.values() for pair in memory.findings)
        recommended = Counter(kind for memory in self.memories.values() for kind in memory.recommended)
        metrics.FINDINGS.clear()
        metrics.RECOMMENDATIONS.clear()
        for (kind, reason), count in findings.items():
            metrics.FINDINGS.labels(kind, reason).set(count)
        for kind, count in recommended.items():
            metrics.RECOMMENDATIONS.labels(kind).set(count)
        costs.show_known(self.registry, self.memories)
        limited = Counter(
            name for memory in self.memories.values() for target in memory.targets.values() for name in target.limited
        )
        metrics.LIMITED.clear()
        for limit, count in limited.items():
            metrics.LIMITED.labels(limit).set(count)
        trials.show_known(self.memories)

    async def _refresh_usage(self) -> bool:
        """Read what pods use; False when no target with pods is known yet."""
        by_namespace: dict[str, dict[str, Owner]] = {}
        nodes = self.inventory.nodes() if self.inventory.synced else {}
        for key, obj in self.registry.services():
            if not obj.spec.right_sizing.enabled:
                continue
            for target in to_targets(obj.spec):
                known = self.targets.get(key.namespace, target.target_ref)
                if known is None or known.facts is None or not known.facts.selector:
                    continue
                if self.registry.acting(key, target.target_ref) != key:
                    continue
                owners = by_namespace.setdefault(key.namespace, {})
                for pod in self.inventory.pods_of(key.namespace, known.facts.selector):
                    owners[pod.name] = Owner(key, target.name, pod, nodes.get(pod.node))
        for namespace, owners in by_namespace.items():
            await self.usage.refresh(namespace, owners)
        await self.sizing_rules.refresh(tuple(by_namespace))
        return any(by_namespace.values())

    def forget_gone(self) -> None:
        """Drop what is remembered of objects and targets that are gone; part of the sweep."""
        alive = set(self.registry.all_keys())
        for key in [key for key in self.memories if key not in alive]:
            del self.memories[key]
        self.usage.forget_except(alive)
        self.targets.forget_except({(key.namespace, reference) for key in alive for reference in self._references(key)})


def _round_id() -> str:
    return uuid.uuid4().hex[:16]
