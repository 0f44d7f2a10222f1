"""Errors that the driver reports as Xid events, counted by GPU and number since the agent's start.

The driver keeps no history: an event is seen by who listened when it came. So the events of every GPU are registered
once a session, and each collection takes whatever waits, without waiting itself. A driver without events, or without
the right to them, makes the counts unknown and never zero: "no Xid seen" is said only by who would have seen one.

At most 64 events are taken in one pass, the rest in the next; at most 32 numbers are kept for a GPU, and what is more
is counted under 0, which is no Xid.
"""

import ctypes
from collections.abc import Mapping
from typing import Any, Final

from optiinfra_agent.errors import ValueUnknownError
from optiinfra_agent.nvml import TIMEOUT, NvmlSession
from optiinfra_agent.snapshot import Unknown, XidCounts

MAX_EVENTS: Final = 64
MAX_NUMBERS: Final = 32
OTHERS: Final = 0
_XID: Final = 0x8


class XidListener:
    """Listens for the events of every GPU. For one thread: the one that owns the session."""

    def __init__(self, session: NvmlSession) -> None:
        self._session = session
        self._opening = -1
        self._events: Any = None
        self._registered: dict[str, Unknown | None] = {}
        self._uuids: dict[int | None, str] = {}
        self._counts: dict[str, dict[int, int]] = {}

    def collect(self, handles: Mapping[str, Any]) -> Mapping[str, XidCounts]:
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
            return dict.fromkeys(handles, refused)
        self._take()
        return {uuid: refused or self._shown(uuid) for uuid, refused in self._registered.items()}

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
            try:
                self._session.call("nvmlDeviceRegisterEvents", handle, _XID, self._events)
                self._registered[uuid] = None
            except ValueUnknownError as error:
                self._registered[uuid] = Unknown(error.reason)
        return None

    def _take(self) -> None:
        for _ in range(MAX_EVENTS):
            try:
                event = self._session.call("nvmlEventSetWait_v2", self._events, 0)
            except ValueUnknownError as error:
                if error.code != TIMEOUT:
                    self._registered = dict.fromkeys(self._registered, Unknown(error.reason))
                return
            # By its handle: to ask a GPU that has just fallen off the bus for its identity would fail.
            uuid = self._uuids.get(_address(event.device))
            if uuid is None or event.eventType != _XID:
                continue
            counts = self._counts.setdefault(uuid, {})
            number = int(event.eventData)
            kept = number if number in counts or len(counts) < MAX_NUMBERS else OTHERS
            counts[kept] = counts.get(kept, 0) + 1

    def _shown(self, uuid: str) -> XidCounts:
        return tuple(sorted(self._counts.get(uuid, {}).items()))


def _address(handle: Any) -> int | None:
    return ctypes.cast(handle, ctypes.c_void_p).value
