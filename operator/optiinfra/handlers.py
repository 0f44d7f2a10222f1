"""Kopf, and nothing but Kopf: an event on one of our kinds becomes one call. No logic lives here.

Only `on.event` is used. Kopf's timers and daemons would put a finalizer on every object (which then cannot be deleted
while the operator is down), its indices start up in quadratic time, and its change handlers write annotations; see
docs/architecture.md. Deletions inside a watch gap are not reported by Kopf either: the sweep in `control` finds them.
Leadership, retries and errors are not Kopf's business: peering is off, and handlers never raise.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, cast

import kopf

from optiinfra.settings import OperatorSettings, Scope

_LOG = logging.getLogger(__name__)


class Events(Protocol):
    """Who takes events; `optiinfra.control` is the real one."""

    def seen(self, kind: str, body: Mapping[str, Any]) -> None:
        """An object was added or changed, or existed already."""

    def gone(self, kind: str, body: Mapping[str, Any]) -> None:
        """An object was deleted."""


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
    settings.watching.inactivity_timeout = 70
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
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
    """Watch our kinds until `stop` is set."""
    kopf_settings = kopf.OperatorSettings()
    configure(kopf_settings)
    namespaced = settings.scope is Scope.NAMESPACES
    await kopf.operator(
        registry=registry(events, cluster_kind=not namespaced),
        settings=kopf_settings,
        clusterwide=not namespaced,
        namespaces=settings.watch_namespaces if namespaced else (),
        standalone=True,
        stop_flag=stop,
    )
    _LOG.info("watching ended")
