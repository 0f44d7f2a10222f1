"""The keyed, deduplicating, delaying queue between events and rounds.

Kopf's own queues hold one worker per object and its timers put a finalizer on each (so that an object cannot be
deleted while the operator is down); here an event costs one dictionary entry. A key is in the queue at most once, at
the earliest time anybody asked for; a key that is being processed is not handed out again until it is done, and a
request that came meanwhile is kept. The queue knows nothing about objects: it must not decide whether work is needed.
"""

import asyncio
import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=object)


@dataclass(slots=True)
class _Entry:
    due: float
    urgent: bool
    token: int


@dataclass(slots=True)
class KeyedQueue(Generic[Key]):
    """Keys with a due time. Not thread-safe: one event loop owns it."""

    clock: Callable[[], float]
    """Monotonic seconds."""
    _entries: dict[Key, _Entry] = field(default_factory=dict)
    _heap: list[tuple[bool, float, int, Key]] = field(default_factory=list)
    _active: set[Key] = field(default_factory=set)
    _again: dict[Key, _Entry] = field(default_factory=dict)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _counter: int = 0

    def add(self, key: Key, *, delay: float = 0.0, urgent: bool = False) -> None:
        """Ask for a round of `key` after `delay` seconds; `urgent` means now, and before everything else that is due.

        The earliest request wins: a later one never postpones an earlier one.
        """
        due = self.clock() + (0.0 if urgent else max(0.0, delay))
        table = self._again if key in self._active else self._entries
        current = table.get(key)
        if current is not None and current.due <= due and (current.urgent or not urgent):
            return
        self._counter += 1
        entry = _Entry(due=min(due, current.due) if current else due, urgent=urgent, token=self._counter)
        table[key] = entry
        if table is self._entries:
            self._push(key, entry)

    def _push(self, key: Key, entry: _Entry) -> None:
        # An urgent key sorts before all others; it is due at once, so it can never hide a due one behind it.
        heapq.heappush(self._heap, (not entry.urgent, entry.due, entry.token, key))
        self._wake.set()

    def remove(self, key: Key) -> None:
        """Forget a key that is waiting. One that is being processed finishes first and is then not repeated."""
        self._entries.pop(key, None)
        self._again.pop(key, None)

    def _pop_due(self, limit: int) -> list[Key]:
        now = self.clock()
        batch: list[Key] = []
        while self._heap and len(batch) < limit:
            _, due, token, key = self._heap[0]
            entry = self._entries.get(key)
            if entry is None or entry.token != token:
                heapq.heappop(self._heap)  # superseded or removed
                continue
            if due > now:
                break
            heapq.heappop(self._heap)
            del self._entries[key]
            self._active.add(key)
            batch.append(key)
        return batch

    async def next_batch(self, limit: int) -> Sequence[Key]:
        """Wait until something is due and return at most `limit` keys, each of which must be given back to `done`."""
        while True:
            self._wake.clear()
            batch = self._pop_due(limit)
            if batch:
                return batch
            # Strictly after clear(): an add() between the look and the wait sets the event and is not lost.
            timeout = max(0.0, self._heap[0][1] - self.clock()) if self._heap else None
            try:
                async with asyncio.timeout(timeout):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def due_in(self, key: Key) -> float | None:
        """Seconds until a waiting key is due; None for one that does not wait (unknown, or being processed)."""
        entry = self._entries.get(key)
        return None if entry is None else entry.due - self.clock()

    def done(self, key: Key) -> None:
        """Say that a key of a batch was processed; a request that came meanwhile takes effect now."""
        self._active.discard(key)
        entry = self._again.pop(key, None)
        if entry is not None:
            self._entries[key] = entry
            self._push(key, entry)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def due(self) -> int:
        """How many keys are due now (a scan: for metrics, not for hot paths)."""
        now = self.clock()
        return sum(1 for entry in self._entries.values() if entry.due <= now)
