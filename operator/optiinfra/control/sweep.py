"""The sweep: every ten minutes what is remembered is compared with what exists.

Watches lose deletions in their gaps, and a dead operator leaves floors behind. The sweep lists our objects, forgets
what is gone, brings back what was missed, and gives back floors that no living object wants.
"""

import asyncio
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from optiinfra.api.v1alpha1.scaling import Actuation
from optiinfra.cluster.document import Key
from optiinfra.cluster.errors import ClusterError
from optiinfra.cluster.objects import Resources
from optiinfra.cluster.scalers import ScalerRecord
from optiinfra.control.keys import Kind, ObjectKey
from optiinfra.control.latecomers import apart
from optiinfra.control.registry import Broken, Registry
from optiinfra.control.release import FloorGiver, orphans, release_one, step_of

_LOG = logging.getLogger(__name__)
_RELEASES_AT_ONCE = 8


class ObjectLister(Protocol):
    """Lists our objects; `optiinfra.cluster.objects` is the real one."""

    async def list_all(self, resource: Resources) -> list[dict[str, Any]]:
        """Return all objects of a kind in scope."""


class HeldView(Protocol):
    """Knows the HPAs that carry our label; `optiinfra.cluster.inventory` is the real one."""

    def held_scalers(self) -> tuple[ScalerRecord, ...]:
        """All of them."""


class Events(Protocol):
    """Takes objects as if they came from the watch."""

    def seen(self, kind: str, body: Mapping[str, Any]) -> None:
        """An object exists."""

    def vanished(self, key: ObjectKey) -> None:
        """An object exists no more."""


@dataclass(slots=True)
class Sweep:
    """Compares and mends."""

    lister: ObjectLister
    held: HeldView
    floor: FloorGiver
    registry: Registry
    events: Events
    cluster_kind: bool
    actuation_enabled: bool
    kill_switch: Callable[[], bool] = lambda: False
    """While it says true nothing is written, not even to give something back: `optiinfra release` does that then."""
    object_gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when an object vanished: what it held is given back at once, not at the next sweep."""
    unfinished: bool = False
    """A floor is given back in steps, and the last one was not the last."""
    listed: bool = False
    """All objects were listed at least once; before that, a floor without an object may only be one not seen yet."""
    _under_way: dict[Key, "asyncio.Task[None]"] = field(default_factory=dict)
    """Releases that are not answered yet."""

    async def run_once(self) -> None:
        """Sweep once. A list that fails leaves everything as it is: absence of an answer is not absence."""
        kinds: list[tuple[Kind, Resources]] = [("ResourceOptimization", Resources.RESOURCE_OPTIMIZATION)]
        if self.cluster_kind:
            kinds.append(("ClusterResourceOptimization", Resources.CLUSTER_RESOURCE_OPTIMIZATION))
        for kind, resource in kinds:
            try:
                bodies = await self.lister.list_all(resource)
            except ClusterError as error:
                _LOG.warning("sweep could not list", extra={"kind": kind, "error": str(error)})
                return
            self._compare(kind, bodies)
        self.listed = True
        await self.release_orphans()

    def _compare(self, kind: Kind, bodies: Sequence[Mapping[str, Any]]) -> None:
        alive: set[ObjectKey] = set()
        for body in bodies:
            metadata = body["metadata"]
            alive.add(ObjectKey(kind, metadata.get("namespace", ""), metadata["name"]))
            self.events.seen(kind, body)
        for key in self.registry.all_keys():
            if key.kind == kind and key not in alive:
                _LOG.info("an object vanished unseen", extra={"object": str(key)})
                self.events.vanished(key)

    async def release_orphans(self) -> None:
        """Give back floors that no living object wants, one step of each."""
        if not self.listed or not self.actuation_enabled or self.kill_switch():
            return
        unreadable = self._unreadable()
        # The spec that cannot be read may be the one that wants it: that is no wish to give it back.
        seen = [record for record in self.held.held_scalers() if record.key.namespace not in unreadable]
        held = orphans(seen, self._wanted)
        finished: list[bool] = []

        async def one(record: ScalerRecord) -> None:
            finished.append((await release_one(self.floor, record, max_step=step_of(record))).done)

        # An answer that does not come must not keep the other floors where they are.
        idle = [record for record in held if record.key not in self._under_way]
        for record, task in await apart(idle, one, at_once=_RELEASES_AT_ONCE):
            _LOG.warning("a release takes long; others go on", extra={"scaler": str(record.key)})
            self._under_way[record.key] = task
            task.add_done_callback(functools.partial(self._ended, record.key))
        self.unfinished = not all(finished) or bool(self._under_way)

    def _ended(self, key: Key, task: "asyncio.Task[None]") -> None:
        del self._under_way[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.error("release failed", extra={"scaler": str(key), "error": str(error)})

    def _wanted(self, record: ScalerRecord) -> bool:
        for key, obj in self.registry.services():
            if key.namespace != record.key.namespace or obj.metadata.deleting:
                continue
            spec = obj.spec
            targets = [(spec.target_ref, spec.scaling)] if spec.target_ref else []
            targets += [(v.target_ref, v.scaling or spec.scaling) for v in spec.variants or ()]
            for reference, scaling in targets:
                same = (reference.kind, reference.name) == (record.target_kind, record.target_name)
                if same and scaling.actuation is Actuation.FLOOR:
                    return True
        return False

    def _unreadable(self) -> set[str]:
        """Return the namespaces of objects whose spec cannot be acted on."""
        return {key.namespace for key in self.registry.all_keys() if isinstance(self.registry.get(key), Broken)}
