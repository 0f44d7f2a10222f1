"""Events of one watch on their way through the proxy: passed, lost, late, or merged.

What is lost is a gap: when the faults stop, the watch ends with 410 Gone, as a server's does that no longer has what
was missed, and the reader must list again. A merged watch shows of several events about one object only the last, so
that an object made and deleted in between was never there.
"""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable

from hack.fault_proxy import messages
from hack.fault_proxy.rules import WatchDelayed, WatchDropped, WatchFault, WatchGone, WatchMerged, WatchSilent

_LOOK = 0.1
GONE = json.dumps(
    {
        "type": "ERROR",
        "object": {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": "too old resource version (fault proxy)",
            "reason": "Expired",
            "code": 410,
        },
    }
).encode()


async def lines(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Split the chunks of a watch into events."""
    rest = b""
    async for data in messages.chunks(reader):
        *complete, rest = (rest + data).split(b"\n")
        for line in complete:
            if line:
                yield line


async def altered(
    events: AsyncIterator[bytes],
    fault: WatchFault,
    *,
    active: Callable[[], bool],
    seed: int,
    lost: Callable[[int], None],
) -> AsyncIterator[bytes]:
    """Yield what the reader of a watch gets to see while `active`, and afterwards; `lost` counts events."""
    match fault:
        case WatchGone():
            yield GONE
        case WatchSilent():
            async for _ in events:
                lost(1)
            await asyncio.Event().wait()
        case WatchDropped(share):
            async for event in _dropped(events, share, active=active, seed=seed, lost=lost):
                yield event
        case WatchDelayed(seconds):
            async for event in _late(events, seconds, merge=False, active=active, lost=lost):
                yield event
        case WatchMerged(seconds):
            async for event in _late(events, seconds, merge=True, active=active, lost=lost):
                yield event


async def _dropped(
    events: AsyncIterator[bytes], share: float, *, active: Callable[[], bool], seed: int, lost: Callable[[int], None]
) -> AsyncIterator[bytes]:
    chance = random.Random(seed)  # noqa: S311  repeatable chance, not a secret
    gap = False
    queue = _queued(events)
    try:
        while True:
            try:
                event = await asyncio.wait_for(queue.get(), _LOOK)
            except TimeoutError:
                event = b""
            if event is None:
                return
            if gap and not active():
                yield GONE
                return
            if not event:
                continue
            if active() and chance.random() < share:
                gap = True
                lost(1)
            elif not gap or not _bookmark(event):
                # A bookmark after a loss would move the reader past what it missed.
                yield event
    finally:
        queue.close()


async def _late(
    events: AsyncIterator[bytes],
    seconds: float,
    *,
    merge: bool,
    active: Callable[[], bool],
    lost: Callable[[int], None],
) -> AsyncIterator[bytes]:
    queue = _queued(events)
    waiting: list[tuple[float, bytes]] = []
    ended = False
    try:
        while waiting or not ended:
            try:
                event = await asyncio.wait_for(queue.get(), _LOOK) if not ended else b""
            except TimeoutError:
                event = b""
            if event is None:
                ended = True
            elif event:
                if merge:
                    before = len(waiting)
                    waiting = [entry for entry in waiting if _about(entry[1]) != _about(event)]
                    lost(before - len(waiting))
                waiting.append((time.monotonic() + seconds, event))
            now = time.monotonic()
            due = [entry for entry in waiting if entry[0] <= now or not active()]
            waiting = [entry for entry in waiting if entry not in due]
            for _, each in due:
                yield each
            if ended and waiting:
                await asyncio.sleep(_LOOK)
    finally:
        queue.close()


class _queued:  # noqa: N801  reads like the function it stands for
    """A queue that is filled from an iterator by a task; None is its end."""

    def __init__(self, events: AsyncIterator[bytes]) -> None:
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._task = asyncio.create_task(self._fill(events))

    async def _fill(self, events: AsyncIterator[bytes]) -> None:
        try:
            async for event in events:
                self._queue.put_nowait(event)
        except (OSError, messages.BrokenMessageError, asyncio.IncompleteReadError):
            return
        finally:
            self._queue.put_nowait(None)

    async def get(self) -> bytes | None:
        """Return the next event."""
        return await self._queue.get()

    def close(self) -> None:
        """End the task."""
        self._task.cancel()


def _bookmark(event: bytes) -> bool:
    return bool(json.loads(event)["type"] == "BOOKMARK")


def _about(event: bytes) -> str:
    found = json.loads(event)
    metadata = found["object"].get("metadata", {})
    if found["type"] == "BOOKMARK" or "name" not in metadata:
        return ""
    return f"{metadata.get('namespace', '')}/{metadata['name']}"
