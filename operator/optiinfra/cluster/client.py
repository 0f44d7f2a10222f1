"""The one wrapper around every call to the API server.

It owns time-outs, concurrency, the rate limit, retries, errors and measurement, so that no caller has its own idea of
them. Only reads are retried: a write whose answer was lost may have happened, and only its caller can tell. The hook
`before_write` runs after all waiting, immediately before the bytes leave: a leader whose lease has run out while the
call queued writes nothing. Paths are raw ("/apis/autoscaling/v2/..."), bodies and answers are JSON.
"""

import asyncio
import copy
import inspect
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from enum import StrEnum
from types import TracebackType
from typing import Self, TypeAlias

import aiohttp
import orjson

from optiinfra.cluster import rehearsal as rehearsals
from optiinfra.cluster.connections import Connections
from optiinfra.cluster.credentials import Credentials
from optiinfra.cluster.document import Json, JsonObject, decode, objects, text
from optiinfra.cluster.errors import ClusterError, Expired, Invalid, Malformed, Throttled, Unavailable, error_of
from optiinfra.cluster.pacing import Backoff, TokenBucket

FIELD_MANAGER = "optiinfra"
_ERROR_BODY_LIMIT = 64 * 1024
_PATH = re.compile(r"/[-A-Za-z0-9_.:/]{1,2048}\Z")

Observe: TypeAlias = Callable[[str, str, int, float], None]
"""Called after every attempt with verb, resource, HTTP code (0: no answer) and seconds."""

BeforeWrite: TypeAlias = Callable[[], Awaitable[None] | None]
"""Raises to stop a write."""


class PatchKind(StrEnum):
    """The content types of a PATCH. There is no default: the server's differ by the shape of the body."""

    MERGE = "application/merge-patch+json"
    JSON = "application/json-patch+json"


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """How much of the API server one process may take."""

    rate: float = 50.0
    """Calls a second, on average."""
    burst: int = 200
    """Enough for the first statuses of a hundred objects beside all lists of the start."""
    concurrency: int = 16
    """Calls in flight; watches are not counted."""
    timeout_s: float = 10.0
    write_timeout_s: float = 5.0
    """A write that was accepted and is not answered keeps its object waiting so long, and no longer: whether it was
    done is seen in the next round."""
    list_timeout_s: float = 30.0
    read_attempts: int = 4
    retry_base_s: float = 0.25
    retry_ceiling_s: float = 5.0
    """A Retry-After above this is not waited for: the caller gets `Throttled` and decides."""
    answer_limit_bytes: int = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list; emptied when the next one is asked for."""

    items: list[JsonObject]
    resource_version: str


@dataclass(frozen=True, slots=True)
class _Call:
    verb: str
    method: str
    path: str
    query: Mapping[str, str]
    body: bytes | None = None
    content_type: str = "application/json"
    timeout_s: float = 10.0
    write: bool = False
    retried: bool = False
    urgent: bool = False
    limit_bytes: int = 0


class KubernetesClient:
    """Raw JSON calls to one API server. Use as an async context manager."""

    def __init__(
        self,
        *,
        credentials: Credentials,
        limits: ClientLimits | None = None,
        observe: Observe | None = None,
        before_write: BeforeWrite | None = None,
    ) -> None:
        self.limits = limits or ClientLimits()
        self.before_write = before_write
        """May be set later: the lease that it asks needs a client first."""
        self._credentials = credentials
        self._observe = observe
        self._bucket = TokenBucket(rate=self.limits.rate, burst=self.limits.burst)
        self._slots = asyncio.Semaphore(self.limits.concurrency)
        self._connections = Connections()
        self._session: aiohttp.ClientSession | None = None
        self._urgent: aiohttp.ClientSession | None = None
        """For Leases alone: a try must not get one of many idle connections that a dead load balancer left open, each
        of which costs a time-out."""

    @classmethod
    def from_environment(
        cls,
        kubeconfig: str | None = None,
        *,
        limits: ClientLimits | None = None,
        observe: Observe | None = None,
        before_write: BeforeWrite | None = None,
    ) -> Self:
        """Use this kubeconfig, else the pod's service account, else $KUBECONFIG or ~/.kube/config."""
        return cls(credentials=Credentials(kubeconfig), limits=limits, observe=observe, before_write=before_write)

    async def __aenter__(self) -> Self:
        await self._credentials.load()
        self._session, self._urgent = self._new_session(), self._new_session()
        return self

    def _new_session(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            limit=0,
            ssl=self._credentials.ssl_context or True,
            keepalive_timeout=60.0,
            socket_factory=self._connections.open,
        )
        return aiohttp.ClientSession(
            connector=connector, trust_env=False, cookie_jar=aiohttp.DummyCookieJar(), read_bufsize=2**18
        )

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None and self._urgent is not None:
            await self._session.close()
            await self._urgent.close()
            await self._connections.end()
            self._session = self._urgent = None

    def fenced(self, before_write: BeforeWrite) -> Self:
        """Return the same open client with another hook, for writes that may be stopped while others go on."""
        other = copy.copy(self)
        other.before_write = before_write
        return other

    # reads

    async def get(
        self,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        urgent: bool = False,
        limit_bytes: int = 0,
    ) -> JsonObject:
        """Read one object. `urgent` skips the queue and the retries: only leases are.

        A larger answer than `limit_bytes` (0: the client's own limit) raises `Malformed`.
        """
        timeout_s = timeout_s or self.limits.timeout_s
        call = _Call("get", "GET", path, query or {}, timeout_s=timeout_s, retried=not urgent, urgent=urgent)
        answer = await self._request(replace(call, limit_bytes=limit_bytes))
        if (rehearsal := rehearsals.current()) is not None:
            rehearsal.read(path, answer)
        return answer

    async def pages(
        self,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        page_size: int = 500,
    ) -> AsyncIterator[Page]:
        """Read a list page by page; raises `Expired` when it outlives its snapshot. A page size of 0 means all."""
        parameters = dict(query or {})
        if page_size:
            parameters["limit"] = str(page_size)
        while True:
            call = _Call("list", "GET", path, dict(parameters), timeout_s=self.limits.list_timeout_s, retried=True)
            answer = await self._request(call)
            token = text(answer, "metadata", "continue")
            page = Page(objects(answer, "items"), text(answer, "metadata", "resourceVersion"))
            del answer
            yield page
            # Only one page may live at a time, and the reader still holds this one.
            page.items.clear()
            if not token:
                return
            parameters["continue"] = token

    async def list(
        self, path: str, *, query: Mapping[str, str] | None = None, page_size: int = 500
    ) -> list[JsonObject]:
        """Read a whole list; when it expires between two pages, read it again in one piece."""
        try:
            return [item async for page in self.pages(path, query=query, page_size=page_size) for item in page.items]
        except Expired:
            return [item async for page in self.pages(path, query=query, page_size=0) for item in page.items]

    @asynccontextmanager
    async def stream(
        self, path: str, *, query: Mapping[str, str], timeout_s: float, idle_s: float
    ) -> AsyncGenerator[AsyncIterator[bytes]]:
        """Open a watch and yield its chunks; raises `Unavailable` on a break or after `idle_s` of silence."""
        await self._bucket.take()
        call = _Call("watch", "GET", path, query)
        times = aiohttp.ClientTimeout(total=timeout_s, sock_connect=self.limits.timeout_s, sock_read=idle_s)
        started = time.monotonic()
        code = 0
        try:
            async with self._open(call, times=times, force_refresh=False) as response:
                code = response.status
                self._measure(call, code, started)
                if code != 200:
                    raise await _error(call, response)
                yield response.content.iter_any()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if not code:
                self._measure(call, 0, started)
            raise Unavailable(_network(error), verb=call.verb, path=path) from error

    # reviews: POSTs that store nothing

    async def review(self, path: str, body: Json) -> JsonObject:
        """Ask a question that is put as a POST (TokenReview, SubjectAccessReview): retried like a read, no fence."""
        return await self._request(
            _Call("review", "POST", path, {}, orjson.dumps(body), timeout_s=self.limits.timeout_s, retried=True)
        )

    # writes

    async def create(
        self,
        path: str,
        body: Json,
        *,
        query: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        urgent: bool = False,
    ) -> JsonObject:
        """Create an object in the collection at `path`."""
        parameters = {"fieldManager": FIELD_MANAGER, **(query or {})}
        return await self._write("create", "POST", path, parameters, body, timeout_s=timeout_s, urgent=urgent)

    async def replace(
        self, path: str, body: Json, *, timeout_s: float | None = None, urgent: bool = False
    ) -> JsonObject:
        """Replace an object that is wholly ours (a Lease). The body must carry resourceVersion: it is the fence."""
        parameters = {"fieldManager": FIELD_MANAGER}
        return await self._write("update", "PUT", path, parameters, body, timeout_s=timeout_s, urgent=urgent)

    async def patch(
        self, path: str, body: Json, *, kind: PatchKind, query: Mapping[str, str] | None = None
    ) -> JsonObject:
        """Send a merge patch or a JSON patch."""
        parameters = {"fieldManager": FIELD_MANAGER, **(query or {})}
        return await self._write("patch", "PATCH", path, parameters, body, content_type=kind.value)

    async def apply(
        self, path: str, body: Json, *, force: bool = False, query: Mapping[str, str] | None = None
    ) -> JsonObject:
        """Server-side apply as manager `optiinfra`; without force a field of another manager raises `Conflict`."""
        parameters = {"fieldManager": FIELD_MANAGER, "force": "true" if force else "false", **(query or {})}
        return await self._write("apply", "PATCH", path, parameters, body, content_type="application/apply-patch+yaml")

    async def delete(
        self,
        path: str,
        *,
        uid: str = "",
        resource_version: str = "",
        propagation: str = "Background",
    ) -> JsonObject:
        """Delete one object, if it still is the one with this uid and resourceVersion (`Conflict` otherwise)."""
        preconditions = {"uid": uid, "resourceVersion": resource_version}
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": propagation,
            "preconditions": {name: value for name, value in preconditions.items() if value},
        }
        return await self._write("delete", "DELETE", path, {}, body)

    # transport

    async def _write(
        self,
        verb: str,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Json,
        *,
        content_type: str = "application/json",
        timeout_s: float | None = None,
        urgent: bool = False,
    ) -> JsonObject:
        seconds = timeout_s or min(self.limits.write_timeout_s, self.limits.timeout_s)
        payload = orjson.dumps(body)
        return await self._request(
            _Call(verb, method, path, query, payload, content_type, timeout_s=seconds, write=True, urgent=urgent)
        )

    async def _request(self, call: _Call) -> JsonObject:
        if call.write and (rehearsal := rehearsals.current()) is not None:
            return rehearsal.write(call.method, call.path, call.query, call.content_type, call.body)
        backoff = Backoff(base_s=self.limits.retry_base_s, ceiling_s=self.limits.retry_ceiling_s)
        for remaining in range(self.limits.read_attempts - 1, -1, -1):
            try:
                return await self._attempt(call)
            except (Unavailable, Throttled) as error:
                asked = error.retry_after_s or 0.0
                if not call.retried or not remaining or asked > self.limits.retry_ceiling_s:
                    raise
                await asyncio.sleep(max(asked, backoff.next_s()))
        raise Unavailable("no attempts allowed", verb=call.verb, path=call.path)

    async def _attempt(self, call: _Call) -> JsonObject:
        if call.urgent:
            return await self._send(call)
        await self._bucket.take()
        async with self._slots:
            return await self._send(call)

    async def _send(self, call: _Call, *, force_refresh: bool = False) -> JsonObject:
        started = time.monotonic()
        code = 0
        try:
            times = aiohttp.ClientTimeout(total=call.timeout_s)
            async with self._open(call, times=times, force_refresh=force_refresh) as response:
                code = response.status
                if code < 300:
                    data = await _read(response, limit=call.limit_bytes or self.limits.answer_limit_bytes, call=call)
                    return decode(data, what=f"answer to {call.verb} {call.path}")
                error = await _error(call, response)
        except (aiohttp.ClientError, TimeoutError, OSError) as failure:
            raise Unavailable(_network(failure), verb=call.verb, path=call.path, code=code) from failure
        finally:
            self._measure(call, code, started)
        if code == 401 and not force_refresh:
            # The token was rotated or revoked since it was read: the server did nothing, so even a write may go again.
            return await self._send(call, force_refresh=True)
        raise error

    @asynccontextmanager
    async def _open(
        self, call: _Call, *, times: aiohttp.ClientTimeout, force_refresh: bool
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        session = self._urgent if call.urgent else self._session
        if session is None:
            raise Unavailable("the client is not open: use `async with`", verb=call.verb, path=call.path)
        if not _PATH.match(call.path) or "/." in call.path or "//" in call.path:
            # Names come from users' specs; one with dots and slashes would lead to another object.
            raise Invalid(f"{call.path[:256]!r} is not a path of the API", verb=call.verb)
        headers = {
            "Accept": "application/json",
            "Accept-Encoding": "identity",  # in the cluster, bytes are cheaper than the server's processor time
            "User-Agent": FIELD_MANAGER,
            **await self._credentials.headers(force=force_refresh),
        }
        if call.body is not None:
            headers["Content-Type"] = call.content_type
        if call.write and not call.urgent and self.before_write is not None:
            # The last thing before the bytes leave: even reading the credentials may have taken long.
            verdict = self.before_write()
            if inspect.isawaitable(verdict):
                await verdict
        async with session.request(
            call.method,
            self._credentials.host + call.path,
            params=call.query,
            data=call.body,
            headers=headers,
            timeout=times,
            allow_redirects=False,
            proxy=self._credentials.proxy,
            server_hostname=self._credentials.server_hostname,
        ) as response:
            yield response

    def _measure(self, call: _Call, code: int, started: float) -> None:
        if self._observe is not None:
            self._observe(call.verb, resource_of(call.path), code, time.monotonic() - started)


def resource_of(path: str) -> str:
    """Name the resource of a path, for measurement: "pods", "deployments/scale"; never a namespace or a name."""
    parts = path.strip("/").split("/")
    parts = parts[2:] if parts[0] == "api" else parts[3:]
    if len(parts) >= 3 and parts[0] == "namespaces":
        parts = parts[2:]
    if not parts:
        return "discovery"
    return f"{parts[0]}/{parts[2]}" if len(parts) >= 3 else parts[0]


async def _read(response: aiohttp.ClientResponse, *, limit: int, call: _Call) -> bytes:
    data = bytearray()
    async for chunk in response.content.iter_any():
        data += chunk
        if len(data) > limit:
            response.close()
            raise Malformed(f"answer of more than {limit} bytes", verb=call.verb, path=call.path, code=response.status)
    return bytes(data)


async def _error(call: _Call, response: aiohttp.ClientResponse) -> ClusterError:
    data = await response.content.read(_ERROR_BODY_LIMIT)
    status: JsonObject | None = None
    try:
        status = decode(data, what="status")
    except Malformed:
        status = None  # a proxy or an aggregated server answered; its text is shown instead
    return error_of(
        verb=call.verb,
        path=call.path,
        code=response.status,
        status=status,
        text=data.decode("utf-8", "replace")[:512],
        retry_after_s=_retry_after(response.headers.get("Retry-After", "")),
    )


def _retry_after(header: str) -> float | None:
    if header.isascii() and header.strip().isdigit():
        return float(header.strip()[:9])
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def _network(error: BaseException) -> str:
    return "no answer in time" if isinstance(error, TimeoutError) else f"no answer: {error!r}"
