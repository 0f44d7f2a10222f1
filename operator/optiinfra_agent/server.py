"""The agent's HTTP pages, as one small ASGI application on uvicorn.

    /                  name, version, capabilities and why some are missing
    /health            one word: healthy, degraded (200) or unhealthy (503)
    /health/detailed   the state of every source, of the collection and of the registration
    /health/ready      503 until the first snapshot, and while the last one is too old
    /health/live       503 once the collection has stopped: the kubelet then restarts the container
    /metrics           Prometheus text, or OpenMetrics where it is asked for
    /v1/snapshot       the JSON that the operator reads; `X-Snapshot-Age-Seconds` spares readers the clock skew
    /v1/gpus           of the snapshot: the GPUs and who holds them
    /v1/system         of the snapshot: CPU, memory, pressure
    /v1/pods           of the snapshot: containers, and the devices they hold
    /v1/config         the settings in force

Eleven fixed paths need no framework: measured, starlette would add 1.5 MiB (5 without compiled bytecode) and 0.1 s to
the start, for a dictionary of eleven entries.
Only GET and HEAD are answered, bodies are never read, no page waits for anything. With a token file every page but
/health* needs the token, with a client CA a certificate: probes and load balancers carry neither.
"""

import hmac
import json
import logging
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optiinfra_agent import __version__, health
from optiinfra_agent.collection import Collection, Published
from optiinfra_agent.document import View, pieces
from optiinfra_agent.registration import Registration
from optiinfra_agent.representation import (
    LEAST_BYTES,
    Headers,
    accepts_gzip,
    has_already,
    packed,
    packed_document,
    value_of,
)
from optiinfra_agent.settings import Settings, in_force
from optiinfra_agent.traffic import Traffic

if TYPE_CHECKING:
    from optiinfra_agent.metrics import Exposition

log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

CERTIFIED = "optiinfra.certified"
"""Key of an ASGI scope whose client showed a certificate of the client CA."""
_JSON = "application/json"
_TOKEN_LIMIT = 8192
_TOKEN_AGE_S = 10.0
_FAST = 1
"""Level of packing what is made for one reader."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, ready to send."""

    status: HTTPStatus
    body: bytes
    content_type: str = _JSON
    headers: tuple[tuple[str, str], ...] = ()


class TokenFile:
    """The static token, read again from time to time so that it can be rotated. Unreadable means: nobody enters."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._token = b""
        self._read_at: float | None = None

    def admits(self, authorization: bytes) -> bool:
        """Return whether an Authorization header carries the token, in time that does not depend on it."""
        token = self._current()
        scheme, _, given = authorization.partition(b" ")
        same = hmac.compare_digest(given.strip(), token)
        return same and bool(token) and scheme.lower() == b"bearer"

    def _current(self) -> bytes:
        now = self._clock()
        if self._read_at is None or now - self._read_at > _TOKEN_AGE_S:
            self._read_at = now
            try:
                with self._path.open("rb") as file:
                    token = file.read(_TOKEN_LIMIT + 1).strip()
            except OSError as error:
                log.exception("the token file cannot be read", extra={"fields": {"error": type(error).__name__}})
                token = b""
            self._token = token if len(token) <= _TOKEN_LIMIT else b""
        return self._token


class _Views:
    """The documents of one collection, each made when it is first asked for and kept until the next one."""

    def __init__(self, published: Published) -> None:
        self.published = published
        self.tag = f'W/"{published.snapshot.agent.started:.3f}-{published.passes}"'
        self._pieces: dict[View, tuple[bytes, ...]] = {View.SNAPSHOT: published.pieces}
        self._plain: dict[View, bytes] = {}
        self._packed: dict[View, bytes] = {}

    def plain(self, view: View) -> bytes:
        if view not in self._plain:
            self._plain[view] = b"".join(self.pieces(view))
        return self._plain[view]

    def packed(self, view: View) -> bytes:
        if view not in self._packed:
            self._packed[view] = packed_document(self.pieces(view))
        return self._packed[view]

    def pieces(self, view: View) -> tuple[bytes, ...]:
        if view not in self._pieces:
            self._pieces[view] = pieces(self.published.snapshot, view)
        return self._pieces[view]


class Application:
    """The ASGI application."""

    def __init__(
        self,
        *,
        collection: Collection,
        registration: Registration,
        token: TokenFile | None,
        settings: Settings,
        traffic: Traffic,
    ) -> None:
        self._collection = collection
        self._registration = registration
        self._traffic = traffic
        self._exposition: Exposition | None = None
        self._loading = threading.Lock()
        collection.follow(self._prepare)
        self._token = token
        self._settings = settings
        self._views: _Views | None = None
        self._pages: dict[str, Callable[[Headers], Answer]] = {
            "/": lambda _: self._root(),
            "/health": lambda _: self._health(),
            "/health/detailed": lambda _: self._detailed(),
            "/health/ready": lambda _: self._ready(),
            "/health/live": lambda _: self._live(),
            "/metrics": self._metrics,
            **{f"/v1/{view}": partial(self._view, view) for view in View},
            "/v1/config": lambda _: self._config(),
        }

    def warm_up(self, measured: threading.Event) -> None:
        """Load what writes `/metrics` once the first snapshot is there: nobody who waits for that waits for this."""
        measured.wait()
        self._loaded()

    def _loaded(self) -> "Exposition":
        with self._loading:
            if self._exposition is None:
                from optiinfra_agent.metrics import Exposition  # noqa: PLC0415 - a sixth of what the agent loads

                self._exposition = Exposition(
                    collection=self._collection,
                    registration=self._registration,
                    traffic=self._traffic,
                    dcgm_names=self._settings.dcgm_names,
                )
            return self._exposition

    def _prepare(self, published: Published) -> None:
        exposition = self._exposition
        if exposition is None:
            return
        try:
            exposition.prepare(published)
        except Exception:
            # A scrape writes the page itself then, and answers for it; the collection goes on.
            log.exception("the page of metrics was not prepared")

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request. Nothing is received: bodies are ignored."""
        del receive
        if scope["type"] != "http":
            raise RuntimeError(f"only HTTP is served here, not {scope['type']}")
        began = time.perf_counter()
        known = scope.get(CERTIFIED, False) or self._settings.tls_client_ca_file is None
        answer = self._answer(scope["method"], scope["path"], scope["headers"], certified=known)
        headers = [
            (b"x-content-type-options", b"nosniff"),
            *((name.encode(), value.encode()) for name, value in answer.headers),
        ]
        if answer.status is not HTTPStatus.NOT_MODIFIED:  # whose length would be the one that is not sent
            headers.append((b"content-type", answer.content_type.encode()))
            headers.append((b"content-length", str(len(answer.body)).encode()))
        # A document with a tag may be kept and has to be asked for again; nothing else may be kept.
        tagged = any(name == "etag" for name, _ in answer.headers)
        headers.append((b"cache-control", b"no-cache" if tagged else b"no-store"))
        await send({"type": "http.response.start", "status": int(answer.status), "headers": headers})
        body = b"" if scope["method"] == "HEAD" else answer.body
        await send({"type": "http.response.body", "body": body})
        self._traffic.note(time.perf_counter() - began)

    def _answer(self, method: str, path: str, headers: list[tuple[bytes, bytes]], *, certified: bool) -> Answer:
        page = self._pages.get(path)
        is_open = path == "/health" or path.startswith("/health/")
        if not certified and not is_open:
            return _error(HTTPStatus.FORBIDDEN, "connect with a client certificate of the agent's client CA")
        if self._token is not None and not is_open:
            given = [value for name, value in headers if name == b"authorization"]
            if len(given) != 1 or not self._token.admits(given[0]):
                return _error(
                    HTTPStatus.UNAUTHORIZED,
                    "send 'Authorization: Bearer' with the agent's token",
                    (("www-authenticate", "Bearer"),),
                )
        if page is None:
            return _error(HTTPStatus.NOT_FOUND, f"no such page; there are {', '.join(self._pages)}")
        if method not in {"GET", "HEAD"}:
            return _error(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD", (("allow", "GET, HEAD"),))
        return page(headers)

    def _root(self) -> Answer:
        able, missing = health.capabilities(self._collection.published)
        document = {
            "name": "optiinfra-agent",
            "version": __version__,
            "capabilities": list(able),
            "missing": missing,
        }
        return _json(HTTPStatus.OK, document)

    def _health(self) -> Answer:
        state = health.assess(self._collection)
        document = {"status": state.status, "reasons": list(state.reasons), "version": __version__}
        return _json(HTTPStatus.OK if state.serving else HTTPStatus.SERVICE_UNAVAILABLE, document)

    def _detailed(self) -> Answer:
        document = health.detail(self._collection, self._registration.state)
        serving = document["status"] != "unhealthy"
        return _json(HTTPStatus.OK if serving else HTTPStatus.SERVICE_UNAVAILABLE, document)

    def _ready(self) -> Answer:
        return _probe("ready", self._collection.readiness())

    def _live(self) -> Answer:
        return _probe("live", self._collection.liveness())

    def _metrics(self, headers: Headers) -> Answer:
        body, content_type = self._loaded().page(value_of(headers, b"accept"))
        vary = ("vary", "Accept, Accept-Encoding")
        if accepts_gzip(headers):
            body = packed(body, level=_FAST)
            return Answer(HTTPStatus.OK, body, content_type, (vary, ("content-encoding", "gzip")))
        return Answer(HTTPStatus.OK, body, content_type, (vary,))

    def _view(self, view: View, headers: Headers) -> Answer:
        published, age = self._collection.published, self._collection.age_s()
        if published is None or age is None:
            return _error(HTTPStatus.SERVICE_UNAVAILABLE, self._collection.readiness(), (("retry-after", "1"),))
        if self._views is None or self._views.published is not published:
            self._views = _Views(published)
        views = self._views
        # An old snapshot is served with its age: the reader decides, and /health/ready already says no.
        sent = (("x-snapshot-age-seconds", f"{age:.3f}"), ("etag", views.tag), ("vary", "Accept-Encoding"))
        if has_already(headers, views.tag):
            return Answer(HTTPStatus.NOT_MODIFIED, b"", headers=sent)
        if accepts_gzip(headers) and sum(map(len, views.pieces(view))) >= LEAST_BYTES:
            return Answer(HTTPStatus.OK, views.packed(view), headers=(*sent, ("content-encoding", "gzip")))
        return Answer(HTTPStatus.OK, views.plain(view), headers=sent)

    def _config(self) -> Answer:
        return _json(HTTPStatus.OK, {"version": __version__, "settings": in_force(self._settings)})


def _json(status: HTTPStatus, document: dict[str, Any]) -> Answer:
    return Answer(status=status, body=json.dumps(document).encode())


def _probe(word: str, problem: str) -> Answer:
    status = HTTPStatus.SERVICE_UNAVAILABLE if problem else HTTPStatus.OK
    return _json(status, {"status": f"not {word}" if problem else word, "reason": problem})


def _error(status: HTTPStatus, text: str, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    return Answer(status=status, body=json.dumps({"error": text}).encode(), headers=headers)
