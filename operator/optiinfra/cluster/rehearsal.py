"""A rehearsal: writes that are written down instead of being sent, with the very bytes that would have left.

It stands at the one door through which every write goes (`optiinfra.cluster.client`), so that no writer has to know of
it and none can forget it. Reads go through: what would be written depends on what is there. Answers are made up as far
as the next write of the same object needs them: what an apply would merge. What a server's admission would say to a
write is not known, and no server is asked: a rehearsal leaves no trace in its audit log but reads.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlencode

from optiinfra.cluster.document import JsonObject, decode, mapping

MOST_WRITES: Final = 64
LONGEST_BODY: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class PlannedWrite:
    """One request as it would have been sent."""

    method: str
    path: str
    """With its query."""
    content_type: str
    field_manager: str
    """Empty for a deletion."""
    body: str
    """JSON; one of more than 64 KiB is cut and ends with an ellipsis."""


@dataclass(slots=True)
class Rehearsal:
    """What was written down so far."""

    writes: list[PlannedWrite] = field(default_factory=list)
    more: int = 0
    """Writes beyond the most that are kept."""
    _seen: dict[str, JsonObject] = field(default_factory=dict)

    def read(self, path: str, document: JsonObject) -> None:
        """Remember what an object looks like."""
        self._seen[path] = document

    def write(
        self, method: str, path: str, query: Mapping[str, str], content_type: str, body: bytes | None
    ) -> JsonObject:
        """Write a request down, and answer it."""
        text = (body or b"").decode()
        if len(self.writes) < MOST_WRITES:
            shown = text if len(text) <= LONGEST_BODY else f"{text[: LONGEST_BODY - 1]}…"
            whole = f"{path}?{urlencode(query)}" if query else path
            self.writes.append(PlannedWrite(method, whole, content_type, query.get("fieldManager", ""), shown))
        else:
            self.more += 1
        if method == "DELETE":
            return {}
        answer = copy.deepcopy(self._seen.get(path, {}))
        if text.startswith("{"):
            _merge(answer, decode(body or b"{}", what="body"))
        self._seen[path] = answer
        return answer


def _merge(document: JsonObject, change: JsonObject) -> None:
    for name, value in change.items():
        if isinstance(value, dict):
            below = mapping(document, name)
            document[name] = below
            _merge(below, value)
        else:
            document[name] = value


_CURRENT: ContextVar[Rehearsal | None] = ContextVar("rehearsal", default=None)


def current() -> Rehearsal | None:
    """Return the rehearsal of this task; None when writes are meant."""
    return _CURRENT.get()


@contextmanager
def rehearsing() -> Iterator[Rehearsal]:
    """Write down, instead of sending, what this task (and tasks that it starts) would write."""
    rehearsal = Rehearsal()
    token = _CURRENT.set(rehearsal)
    try:
        yield rehearsal
    finally:
        _CURRENT.reset(token)
