"""Statuses to the API server: only what is worth a write, fenced, counted, and never twice the same.

A write that meets a changed object is given up; the next round computes it anew. What the server answered is put back
into the registry at once, so that the echo of our own write asks for nothing.
"""

import logging
from typing import Protocol

from optiinfra import metrics
from optiinfra.api.status_change import is_meaningful_change
from optiinfra.api.v1alpha1 import (
    ClusterResourceOptimization,
    ClusterResourceOptimizationStatus,
    ObjectMeta,
    ResourceOptimization,
    ResourceOptimizationStatus,
)
from optiinfra.api.v1alpha1.status_parts import MAX_REQUESTED, RoundStatus
from optiinfra.cluster.document import Json, Key
from optiinfra.cluster.errors import Absent, ClusterError, Conflict
from optiinfra.cluster.objects import Resources
from optiinfra.cluster.status import Written
from optiinfra.control.keys import Kind, ObjectKey
from optiinfra.control.registry import Registry
from optiinfra.domain.units import UnixTime

_LOG = logging.getLogger(__name__)

_RESOURCES: dict[Kind, Resources] = {
    "ResourceOptimization": Resources.RESOURCE_OPTIMIZATION,
    "ClusterResourceOptimization": Resources.CLUSTER_RESOURCE_OPTIMIZATION,
}


class StatusSink(Protocol):
    """Writes one status; `optiinfra.cluster.status` is the real one."""

    async def write(
        self,
        resource: Resources,
        key: Key,
        status: Json,
        *,
        uid: str,
        generation: int,
        previous: Json,
        resource_version: str,
    ) -> Written:
        """Make the status what it should be, or raise."""


def _told(now: RoundStatus | None, before: RoundStatus | None, *, asked: tuple[str, ...]) -> RoundStatus | None:
    """Keep the rounds that callers were promised: the next round, a moment later, must not hide them from who polls."""
    if now is None:
        return None
    done = (*(before.requested if before is not None else ()), *asked)
    return now.model_copy(update={"requested": done[-MAX_REQUESTED:]})


class Reporter:
    """Writes statuses that changed."""

    def __init__(self, *, sink: StatusSink, registry: Registry) -> None:
        self._sink = sink
        self._registry = registry

    async def report(
        self,
        key: ObjectKey,
        obj: ResourceOptimization | ClusterResourceOptimization,
        status: ResourceOptimizationStatus | ClusterResourceOptimizationStatus,
        *,
        now: UnixTime,
        asked: tuple[str, ...] = (),
    ) -> bool:
        """Write a status if it is worth it, or if somebody asked for this round; tells whether it was written.

        `asked` are the ids that callers were promised this round under.
        """
        old = obj.status
        told = _told(status.last_round, old.last_round, asked=asked)
        status = status.model_copy(update={"last_round": told})
        if not asked and not is_meaningful_change(old, status, now=now):
            metrics.STATUS_WRITES.labels(key.kind, "unchanged").inc()
            return False
        previous = {} if obj.status_error else old.to_wire()
        written = await self.send(key, obj.metadata, status.to_wire(), previous=previous)
        if written is None:
            return False
        known = self._registry.get(key)
        if known is obj:
            # What somebody else changed meanwhile comes with its event: the version of it must not be taken for seen.
            version = obj.metadata.resource_version if written.unseen else written.resource_version
            metadata = obj.metadata.model_copy(update={"resource_version": version})
            fresh = obj.model_copy(update={"metadata": metadata, "status": status, "status_error": ""})
            self._registry.replace(key, fresh)
        return True

    async def send(self, key: ObjectKey, metadata: ObjectMeta, status: Json, *, previous: Json) -> Written | None:
        """Send a status as it is; None when it was not written."""
        outcome = "written"
        try:
            return await self._sink.write(
                _RESOURCES[key.kind],
                Key(key.namespace, key.name),
                status,
                uid=metadata.uid,
                generation=metadata.generation,
                previous=previous,
                resource_version=metadata.resource_version,
            )
        except Absent:
            outcome = "gone"
        except Conflict:
            outcome = "conflict"
        except ClusterError as error:
            outcome = "failed"
            _LOG.warning("status not written", extra={"object": str(key), "error": str(error)})
        finally:
            metrics.STATUS_WRITES.labels(key.kind, outcome).inc()
        return None
