"""Events (events.k8s.io/v1) about our objects, without flooding: the same words about the same object count up.

Within ten minutes a repeat becomes part of a series, and the series is written at most once a minute. What is
remembered is bounded, oldest forgotten first. An Event is a courtesy: a failed write is logged and told to the caller
as `FAILED`, and never stops what it is about.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from optiinfra.cluster.client import KubernetesClient, PatchKind
from optiinfra.cluster.document import rfc3339, text
from optiinfra.cluster.errors import Absent, ClusterError
from optiinfra.domain.units import UnixTime

_LOGGER = logging.getLogger(__name__)

SERIES_WINDOW_S = 600.0
SERIES_WRITE_PERIOD_S = 60.0
_REMEMBERED = 4096
_NOTE_LIMIT = 1024
_CONTROLLER = "optiinfra.io/operator"


class EventType(StrEnum):
    """The two types that Kubernetes knows."""

    NORMAL = "Normal"
    WARNING = "Warning"


class EventOutcome(StrEnum):
    """What became of an Event."""

    WRITTEN = "Written"
    SERIES = "Series"
    SUPPRESSED = "Suppressed"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True)
class ObjectReference:
    """What an Event is about."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str


@dataclass(slots=True)
class _Series:
    path: str
    count: int
    last_seen: float
    last_written: float


class EventRecorder:
    """Writes Events."""

    def __init__(self, client: KubernetesClient, *, instance: str, clock: Callable[[], float]) -> None:
        """`instance` is the pod's name; `clock` gives Unix seconds."""
        self._client = client
        self._instance = instance[:128]
        self._clock = clock
        self._series: OrderedDict[tuple[str, str, str, str], _Series] = OrderedDict()
        self._number = 0

    async def record(
        self, regarding: ObjectReference, *, event_type: EventType, reason: str, action: str, note: str
    ) -> EventOutcome:
        """Record an Event; `reason` and `action` are CamelCase words, `note` is for people."""
        now = self._clock()
        note = note.encode()[:_NOTE_LIMIT].decode("utf-8", "ignore")
        identity = (regarding.uid, event_type.value, reason, note)
        series = self._series.get(identity)
        try:
            if series is not None and now - series.last_seen < SERIES_WINDOW_S:
                return await self._repeat(identity, series, now)
            return await self._first(identity, regarding, action=action, now=now)
        except ClusterError as error:
            _LOGGER.warning("event %s about %s/%s not written: %s", reason, regarding.kind, regarding.name, error)
            return EventOutcome.FAILED

    async def _first(
        self, identity: tuple[str, str, str, str], regarding: ObjectReference, *, action: str, now: float
    ) -> EventOutcome:
        _, event_type, reason, note = identity
        # Events about cluster-scoped objects live in "default": the API server accepts no other place.
        namespace = regarding.namespace or "default"
        self._number += 1
        name = f"{regarding.name[:200]}.{int(now * 1e6):x}{self._number % 0xFFFF:04x}"
        collection = f"/apis/events.k8s.io/v1/namespaces/{namespace}/events"
        body = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "eventTime": rfc3339(UnixTime(now)),
            "type": event_type,
            "reason": reason,
            "action": action,
            "note": note,
            "reportingController": _CONTROLLER,
            "reportingInstance": self._instance,
            "regarding": {
                "apiVersion": regarding.api_version,
                "kind": regarding.kind,
                "namespace": regarding.namespace,
                "name": regarding.name,
                "uid": regarding.uid,
            },
        }
        written = await self._client.create(collection, body)
        path = f"{collection}/{text(written, 'metadata', 'name') or name}"
        self._series[identity] = _Series(path, count=1, last_seen=now, last_written=now)
        self._series.move_to_end(identity)
        while len(self._series) > _REMEMBERED:
            self._series.popitem(last=False)
        return EventOutcome.WRITTEN

    async def _repeat(self, identity: tuple[str, str, str, str], series: _Series, now: float) -> EventOutcome:
        series.count += 1
        series.last_seen = now
        self._series.move_to_end(identity)
        if now - series.last_written < SERIES_WRITE_PERIOD_S:
            return EventOutcome.SUPPRESSED
        series.last_written = now
        body = {"series": {"count": series.count, "lastObservedTime": rfc3339(UnixTime(now))}}
        try:
            await self._client.patch(series.path, body, kind=PatchKind.MERGE)
        except Absent:
            # Events live for an hour by default; the next occurrence starts a new one.
            del self._series[identity]
            return EventOutcome.SUPPRESSED
        return EventOutcome.SERIES
