"""Kopf, and nothing but Kopf: an event on one of our kinds becomes one call. No logic lives here.

Only `on.event` is used. Kopf's timers and daemons would put a finalizer on every object (which then cannot be deleted
while the operator is down), its indices start up in quadratic time, and its change handlers write annotations; see
docs/architecture.md. Deletions inside a watch gap are not reported by Kopf either: each list that it makes asks for a
sweep, which finds them.
Leadership, retries and errors are not Kopf's business: peering is off, and handlers never raise.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, cast

import kopf

from optiinfra import metrics
from optiinfra.settings import OperatorSettings, Scope

_LOG = logging.getLogger(__name__)
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 15.0
_FAREWELL = 5.0


class Events(Protocol):
    """Who takes events; `optiinfra.control` is the real one."""

    def seen(self, kind: str, body: Mapping[str, Any]) -> None:
        """An object was added or changed, or existed already."""

    def gone(self, kind: str, body: Mapping[str, Any]) -> None:
        """An object was deleted."""

    def relisted(self) -> None:
        """A whole kind was listed: what was deleted in the gap before it is told by nobody."""


class _NothingCompared(kopf.DiffBaseStorage):
    """Kopf compares each body with the one handled last, at two deep copies an event; nobody here asks what changed."""

    def build(self, *, body: kopf.Body, extra_fields: Iterable[Any] | None = None) -> kopf.BodyEssence:  # noqa: ARG002
        return cast("kopf.BodyEssence", {})

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:  # noqa: ARG002
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        """Write nothing: no annotation of Kopf's ever lands on an object."""


def configure(settings: kopf.OperatorSettings) -> None:
    """Set Kopf up as docs/architecture.md explains; each value differs from the default for a measured reason."""
    # As of the mirrors (cluster/watch.py): a stream that is silent for longer than the server lets it live is dead.
    settings.watching.server_timeout = 40
    settings.watching.inactivity_timeout = 48
    settings.watching.client_timeout = 60
    settings.watching.connect_timeout = 15
    settings.watching.reconnect_backoff = 1.0  # the default of 0.1 s is a hot loop against a broken server
    settings.watching.chunk_size = 500
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 10
    settings.networking.enforce_retry_after = True
    settings.queueing.worker_limit = None  # any limit below the number of objects can hang for ever (kopf #1243)
    settings.queueing.idle_timeout = 0.5
    settings.execution.max_workers = 2
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.peering.standalone = True
    settings.persistence.finalizer = "optiinfra.io/unused"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix="optiinfra.io", v1=False)
    settings.persistence.diffbase_storage = _NothingCompared()
    settings.process.ultimate_exiting_timeout = 25


def registry(events: Events, *, cluster_kind: bool) -> kopf.OperatorRegistry:
    """Register one event handler a kind."""
    handlers = kopf.OperatorRegistry()

    @kopf.on.login(registry=handlers)
    def login(**arguments: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_with_service_account(**arguments) or kopf.login_with_kubeconfig(**arguments)

    def take(kind: str, event: Mapping[str, Any]) -> None:
        body = event["object"]
        if event["type"] is None:
            events.relisted()
        if event["type"] == "DELETED":
            events.gone(kind, body)
        else:
            events.seen(kind, body)

    @kopf.on.event("optiinfra.io", "v1alpha1", "resourceoptimizations", registry=handlers)
    async def service(event: Mapping[str, Any], **_: Any) -> None:
        take("ResourceOptimization", event)

    if cluster_kind:

        @kopf.on.event("optiinfra.io", "v1alpha1", "clusterresourceoptimizations", registry=handlers)
        async def cluster(event: Mapping[str, Any], **_: Any) -> None:
            take("ClusterResourceOptimization", event)

    return handlers


async def run(events: Events, settings: OperatorSettings, *, stop: asyncio.Event) -> None:
    """Watch our kinds until `stop` is set; a Kopf that ended by itself is started again.

    Kopf has a thread and an event loop of its own. It ends for good on answers that an API server gives now and then (a
    list whose snapshot expired, an error within a watch), and at its end it cancels every task of its loop that it did
    not start: in ours those would be the rounds.
    """
    loop = asyncio.get_running_loop()
    bridge = _Bridge(events, loop)
    pause = _FIRST_PAUSE
    while not stop.is_set():
        watch = _Watch(bridge, settings, loop)
        began = loop.time()
        try:
            error = await watch.run(stop)
        finally:
            watch.flag.set()
        if stop.is_set():
            break
        _LOG.warning(
            "watching our objects ended and is started again", extra={"error": f"{error!r}"[:512], "pause": pause}
        )
        metrics.OBJECT_FAILURES.labels("watch", "restarted").inc()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await stop.wait()
        pause = _FIRST_PAUSE if loop.time() - began > _LONGEST_PAUSE else min(2.0 * pause, _LONGEST_PAUSE)
    _LOG.info("watching ended")


class _Bridge:
    """Events from Kopf's thread to the loop in which everything else lives."""

    def __init__(self, events: Events, loop: asyncio.AbstractEventLoop) -> None:
        self._events = events
        self._loop = loop

    def seen(self, kind: str, body: Mapping[str, Any]) -> None:
        self._call(self._events.seen, kind, body)

    def gone(self, kind: str, body: Mapping[str, Any]) -> None:
        self._call(self._events.gone, kind, body)

    def relisted(self) -> None:
        self._call(self._events.relisted)

    def _call(self, work: Callable[..., None], *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):  # our loop is over, and nobody asks any more
            self._loop.call_soon_threadsafe(work, *arguments)


class _Watch:
    """One life of Kopf. The thread is no reason for the process to stay: a lost Lease has to end it at once."""

    def __init__(self, events: Events, settings: OperatorSettings, loop: asyncio.AbstractEventLoop) -> None:
        self.flag = threading.Event()
        self._events = events
        self._settings = settings
        self._loop = loop
        self._ended: asyncio.Future[BaseException | None] = loop.create_future()

    async def run(self, stop: asyncio.Event) -> BaseException | None:
        """Return when it has ended, or some seconds after `stop`; what ended it, if anything did."""
        threading.Thread(target=self._run, name="kopf", daemon=True).start()
        stopped = asyncio.create_task(stop.wait())
        try:
            waiting: tuple[asyncio.Future[Any], ...] = (stopped, self._ended)
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            self.flag.set()
            await asyncio.wait({self._ended}, timeout=_FAREWELL)
        finally:
            stopped.cancel()
        return self._ended.result() if self._ended.done() else None

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            asyncio.run(self._watch())
        except BaseException as failure:  # noqa: BLE001  whatever ends it is told in the other thread
            error = failure
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._tell, error)

    def _tell(self, error: BaseException | None) -> None:
        if not self._ended.done():
            self._ended.set_result(error)

    async def _watch(self) -> None:
        kopf_settings = kopf.OperatorSettings()
        configure(kopf_settings)
        namespaced = self._settings.scope is Scope.NAMESPACES
        await kopf.operator(
            registry=registry(self._events, cluster_kind=not namespaced),
            settings=kopf_settings,
            clusterwide=not namespaced,
            namespaces=self._settings.watch_namespaces if namespaced else (),
            standalone=True,
            stop_flag=self.flag,
        )
