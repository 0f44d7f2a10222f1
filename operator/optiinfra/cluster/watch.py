"""A reflector: one collection, listed in pages and then watched, held as parsed facts.

Each object is parsed and its JSON dropped at once, so memory is that of the facts. When the server says 410, the
collection is listed again and whatever vanished in the gap is reported as deleted: a watch alone never tells. Facts
that compare equal are the same facts: no callback. An object that cannot be parsed is kept in `rejected`, not in
`items`: consumers can tell "absent" from "unreadable". Until the first list ends, `synced` is False.
"""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Generic, TypeVar

from optiinfra.cluster.client import KubernetesClient
from optiinfra.cluster.document import JsonObject, Key, decode, integer, key_of, mapping, text
from optiinfra.cluster.errors import ClusterError, Expired, Malformed, Unavailable
from optiinfra.cluster.pacing import Backoff

T = TypeVar("T")

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WatchTimes:
    """How long one watch may last, and how long it may be silent."""

    server_s: int = 40
    client_s: float = 60.0
    idle_s: float = 48.0
    """A healthy server says something within `server_s`, if only that the watch is over; one that is silent for longer
    is dead, though its connection be open (a load balancer dropped it). With the usual five minutes and a bookmark a
    minute a mirror was measured to stay blind for two and a half. The next watch goes on where this one was: it costs
    one call, and no list."""
    retry_base_s: float = 0.5
    retry_ceiling_s: float = 30.0


_EVENT_LIMIT_BYTES = 8 * 1024 * 1024
_REJECTED_LIMIT = 1000


class Reflector(Generic[T]):
    """Mirrors one collection. `run()` goes on until it is cancelled."""

    def __init__(
        self,
        client: KubernetesClient,
        path: str,
        *,
        parse: Callable[[JsonObject], T],
        on_change: Callable[[Key, T | None, T | None], None] | None = None,
        label_selector: str = "",
        field_selector: str = "",
        page_size: int = 250,
        times: WatchTimes | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self.last_error: ClusterError | None = None
        """Why the last attempt failed; None while all is well."""
        self.last_activity: float | None = None
        """When the server last said anything (monotonic); None before the first list."""
        self.last_try = clock()
        """When this mirror itself last did anything: one that stopped trying is broken, whatever the server does."""
        self.relists = 0
        self._client = client
        self._parse = parse
        self._on_change = on_change
        selectors = {"labelSelector": label_selector, "fieldSelector": field_selector}
        self._query = {name: value for name, value in selectors.items() if value}
        self._page_size = page_size
        self._times = times or WatchTimes()
        self._clock = clock
        self._items: dict[Key, T] = {}
        self._rejected: dict[Key, str] = {}
        self._synced = asyncio.Event()
        self._resource_version = ""
        self._heard = False
        """Whether this try has brought an event: a connection that broke afterwards was a good one."""

    @property
    def items(self) -> Mapping[Key, T]:
        """What is known now; a live, read-only view."""
        return MappingProxyType(self._items)

    @property
    def rejected(self) -> Mapping[Key, str]:
        """Objects that exist and could not be parsed, with the reason."""
        return MappingProxyType(self._rejected)

    @property
    def synced(self) -> bool:
        """Whether the collection has been listed completely at least once."""
        return self._synced.is_set()

    async def wait_synced(self) -> None:
        """Wait for the first complete list; bound it with asyncio.timeout."""
        await self._synced.wait()

    async def run(self) -> None:
        """List and watch until cancelled. Failures are kept in `last_error` and tried again with growing delays."""
        backoff = Backoff(base_s=self._times.retry_base_s, ceiling_s=self._times.retry_ceiling_s)
        while True:
            began = self.last_try = self._clock()
            self._heard = False
            try:
                if not self._resource_version:
                    await self._list()
                if await self._watch():
                    backoff.reset()
                self.last_error = None
            except Expired:
                self._resource_version = ""
                _LOGGER.info("the watch of %s expired; listing again", self.path)
                # A server that expires every watch at once must not be asked for full lists without a pause.
                await asyncio.sleep(self._rest_of(backoff.next_s(), began))
            except ClusterError as error:
                self.last_error = error
                if self._heard:
                    backoff.reset()
                asked = min(error.retry_after_s or 0.0, self._times.retry_ceiling_s)
                delay = max(self._rest_of(backoff.next_s(), began), asked)
                _LOGGER.warning("watching %s failed, trying again in %.1f s: %s", self.path, delay, error)
                await asyncio.sleep(delay)

    def _rest_of(self, delay: float, began: float) -> float:
        """Return what is left of a delay between two tries: one that was silent for long has waited long enough."""
        return max(delay - (self._clock() - began), min(delay, self._times.retry_base_s))

    async def _list(self) -> None:
        fresh: dict[Key, T] = {}
        rejected: dict[Key, str] = {}
        version = ""
        page_size = self._page_size
        for page_size in (self._page_size, self._page_size, 0):
            fresh.clear()
            rejected.clear()
            try:
                async for page in self._client.pages(self.path, query=self._query, page_size=page_size):
                    self.last_try = self._clock()
                    for item in page.items:
                        self._take(item, fresh, rejected)
                    version = page.resource_version
            except Expired:
                if page_size == 0:
                    raise
                continue
            break
        self.relists += 1
        self.last_activity = self._clock()
        self.last_error = None
        before = self._items
        # The new state is in place before anybody is told, so that a callback sees one consistent collection.
        self._items = fresh
        self._rejected = rejected
        self._resource_version = version
        for key, old in before.items():
            if key not in fresh:
                self._report(key, old, None)
        for key, new in fresh.items():
            old_or_none = before.get(key)
            if old_or_none != new:
                self._report(key, old_or_none, new)
        self._synced.set()

    def _take(self, item: JsonObject, fresh: dict[Key, T], rejected: dict[Key, str]) -> None:
        key = key_of(item)
        try:
            parsed = self._parse(item)
        except Malformed as error:
            if len(rejected) < _REJECTED_LIMIT:
                rejected[key] = error.message
            return
        old = self._items.get(key)
        # Equal facts share one object: a relist of an idle fleet costs no lasting memory.
        fresh[key] = old if old is not None and old == parsed else parsed

    async def _watch(self) -> bool:
        """Watch once; returns whether anything was heard."""
        query = {
            **self._query,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._resource_version,
            # Spread, so that a restart of the server is not followed by all watches ending at the same moment.
            "timeoutSeconds": str(max(1, int(self._times.server_s * random.uniform(0.8, 1.0)))),  # noqa: S311  jitter
        }
        async with self._client.stream(
            self.path, query=query, timeout_s=self._times.client_s, idle_s=self._times.idle_s
        ) as chunks:
            self.last_error = None
            self.last_activity = self.last_try = self._clock()
            async for line in _lines(chunks):
                self.last_activity = self.last_try = self._clock()
                self._event(decode(line, what=f"event of {self.path}"))
                self._heard = True
        return self._heard

    def _event(self, event: JsonObject) -> None:
        kind = text(event, "type")
        item = mapping(event, "object")
        if kind == "ERROR":
            code = integer(item, "code")
            failure = Expired if code == 410 else Unavailable
            # A watch that breaks half-way may have lost events: only a new list is certain.
            self._resource_version = ""
            raise failure(text(item, "message") or "watch error", verb="watch", path=self.path, code=code)
        version = text(item, "metadata", "resourceVersion")
        if kind in {"ADDED", "MODIFIED"}:
            self._upsert(item)
        elif kind == "DELETED":
            key = key_of(item)
            self._rejected.pop(key, None)
            old = self._items.pop(key, None)
            if old is not None:
                self._report(key, old, None)
        elif kind != "BOOKMARK":
            raise Malformed(f"unknown event type {kind[:32]!r}", verb="watch", path=self.path)
        if version:
            self._resource_version = version

    def _upsert(self, item: JsonObject) -> None:
        key = key_of(item)
        old = self._items.get(key)
        try:
            new = self._parse(item)
        except Malformed as error:
            if len(self._rejected) < _REJECTED_LIMIT:
                self._rejected[key] = error.message
            if self._items.pop(key, None) is not None:
                self._report(key, old, None)
            return
        self._rejected.pop(key, None)
        if old is None or old != new:
            self._items[key] = new
            self._report(key, old, new)

    def _report(self, key: Key, old: T | None, new: T | None) -> None:
        if self._on_change is not None:
            self._on_change(key, old, new)


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Split a stream into lines of bounded length; a last line without its end is incomplete and dropped."""
    rest = bytearray()
    async for chunk in chunks:
        rest += chunk
        if b"\n" in chunk:
            *complete, tail = bytes(rest).split(b"\n")
            rest = bytearray(tail)
            for line in complete:
                if line:
                    yield line
        if len(rest) > _EVENT_LIMIT_BYTES:
            raise Malformed(f"a watch event of more than {_EVENT_LIMIT_BYTES} bytes")
