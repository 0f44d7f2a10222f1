"""What the driver reports as events, counted by GPU since the agent's start: Xids, unavailability, recovery actions.

The driver keeps no history: an event is seen by who listened when it came. So the events of every GPU are registered
once a session, and each collection takes whatever waits, without waiting itself. A driver without events, or without
the right to them, makes the counts unknown and never zero: "no Xid seen" is said only by who would have seen one. The
two younger kinds are asked for where the driver says that the GPU has them: a mask with one kind too many is refused
whole, and the Xids with it.

At most 64 events are taken in one pass, the rest in the next; at most 32 numbers of Xids are kept for a GPU, and
what is more is counted under 0, which is no Xid.
"""

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from optiinfra_agent.errors import ValueUnknownError
from optiinfra_agent.nvml import TIMEOUT, NvmlSession
from optiinfra_agent.snapshot import Measured, Reason, Unknown, XidCounts

MAX_EVENTS: Final = 64
MAX_NUMBERS: Final = 32
OTHERS: Final = 0
XID: Final = 0x8
UNAVAILABLE: Final = 0x4000
"""NVML_EVENT_TYPE_GPU_UNAVAILABLE_ERROR, of newer drivers."""
RECOVERY: Final = 0x8000
"""nvmlEventTypeGpuRecoveryAction: what the driver asks for has changed (the field `recovery_action` says to what)."""
_WANTED: Final = XID | UNAVAILABLE | RECOVERY
_UNSUPPORTED: Final = Unknown(Reason.UNSUPPORTED)


@dataclass(frozen=True, slots=True)
class GpuEvents:
    """What one GPU reported since the agent's start, or why that cannot be known."""

    xids: XidCounts
    unavailable: Measured
    recovery: Measured


class EventListener:
    """Listens for the events of every GPU. For one thread: the one that owns the session."""

    def __init__(self, session: NvmlSession) -> None:
        self._session = session
        self._opening = -1
        self._events: Any = None
        self._registered: dict[str, Unknown | int] = {}
        self._uuids: dict[int | None, str] = {}
        self._xids: dict[str, dict[int, int]] = {}
        self._others: dict[tuple[str, int], int] = {}

    def collect(self, handles: Mapping[str, Any]) -> Mapping[str, GpuEvents]:
        """Return the counts by GPU, or why they cannot be known; raise a SourceError.

        `handles` are the GPUs that answer (uuid -> handle). Of a GPU that was lost since, the counts are returned as
        well: its last Xid is why.
        """
        if self._opening != self._session.openings:
            # The set of events went with the library that was closed. What came in between was seen by nobody.
            self._events, self._registered, self._uuids = None, {}, {}
            self._opening = self._session.openings
        refused = self._register(handles)
        if refused is not None:
            return dict.fromkeys(handles, GpuEvents(refused, refused, refused))
        self._take()
        return {uuid: self._shown(uuid, types) for uuid, types in self._registered.items()}

    def _register(self, handles: Mapping[str, Any]) -> Unknown | None:
        try:
            if self._events is None:
                self._events = self._session.call("nvmlEventSetCreate")
        except ValueUnknownError as error:
            return Unknown(error.reason)
        for uuid, handle in handles.items():
            place = _address(handle)
            if uuid in self._registered and self._uuids.get(place) == uuid:
                continue
            self._uuids[place] = uuid
            types = self._types(handle)
            try:
                self._session.call("nvmlDeviceRegisterEvents", handle, types, self._events)
                self._registered[uuid] = types
            except ValueUnknownError as error:
                self._registered[uuid] = Unknown(error.reason)
        return None

    def _types(self, handle: Any) -> int:
        """Return which of the wanted kinds a GPU has; Xids are tried in any case."""
        try:
            return int(self._session.call("nvmlDeviceGetSupportedEventTypes", handle)) & _WANTED | XID
        except ValueUnknownError:
            return XID

    def _take(self) -> None:
        for _ in range(MAX_EVENTS):
            try:
                event = self._session.call("nvmlEventSetWait_v2", self._events, 0)
            except ValueUnknownError as error:
                if error.code != TIMEOUT:
                    self._registered = dict.fromkeys(self._registered, Unknown(error.reason))
                return
            # By its handle: to ask a GPU that has just fallen off the bus for its identity would fail.
            uuid, kind = self._uuids.get(_address(event.device)), int(event.eventType)
            if uuid is None or kind not in {XID, UNAVAILABLE, RECOVERY}:
                continue
            if kind != XID:
                self._others[uuid, kind] = self._others.get((uuid, kind), 0) + 1
                continue
            counts = self._xids.setdefault(uuid, {})
            number = int(event.eventData)
            kept = number if number in counts or len(counts) < MAX_NUMBERS else OTHERS
            counts[kept] = counts.get(kept, 0) + 1

    def _shown(self, uuid: str, types: Unknown | int) -> GpuEvents:
        if isinstance(types, Unknown):
            return GpuEvents(types, types, types)
        unavailable, recovery = (
            self._others.get((uuid, kind), 0) if types & kind else _UNSUPPORTED for kind in (UNAVAILABLE, RECOVERY)
        )
        return GpuEvents(tuple(sorted(self._xids.get(uuid, {}).items())), unavailable, recovery)


def _address(handle: Any) -> int | None:
    return ctypes.cast(handle, ctypes.c_void_p).value
