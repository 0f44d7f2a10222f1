"""In-place resize of one pod: the `resize` subresource, asked with fences and read back as the kubelet answers.

Kubernetes has it from 1.33 (beta, on by default) and 1.35 (stable); discovery says whether this server does. A resize
is a wish: the API server checks that the QoS class stays and writes it into the pod's spec, the kubelet then acts on
it, puts it off (`Deferred`), or says that it never can (`Infeasible`) in the condition PodResizePending. What they
really have stands in their statuses. Only CPU and memory of one named container are ever sent, with tests on the pod's
uid and version and on the container's name: a pod that changed meanwhile is read again, not overwritten. The pod
template is never touched.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from optiinfra.cluster.client import KubernetesClient, PatchKind
from optiinfra.cluster.document import JsonObject, Key, integer, mapping, objects, text, time_of
from optiinfra.cluster.errors import Conflict
from optiinfra.cluster.quantities import quantity, quantity_in
from optiinfra.domain.units import UnixTime

DISCOVERY_KEPT_S: Final = 600.0
PENDING: Final = "PodResizePending"
IN_PROGRESS: Final = "PodResizeInProgress"
DEFERRED: Final = "Deferred"
INFEASIBLE: Final = "Infeasible"
_FIELDS: Final = (("containers", "containerStatuses"), ("initContainers", "initContainerStatuses"))


@dataclass(frozen=True, slots=True)
class ContainerSize:
    """One container of a pod: what it shall have, and what it has."""

    field: str
    """containers or initContainers."""
    index: int
    requests: Mapping[str, str]
    limits: Mapping[str, str]
    restarts_for: frozenset[str]
    """Resources whose resize restarts the container (resizePolicy RestartContainer)."""
    has_requests: Mapping[str, str]
    """As its status says; empty where the kubelet does not say."""
    has_limits: Mapping[str, str]
    restarts: int


@dataclass(frozen=True, slots=True)
class PodSize:
    """One pod as it stands."""

    key: Key
    uid: str
    resource_version: str
    qos: str
    ready: bool
    terminating: bool
    containers: Mapping[str, ContainerSize]
    pending_reason: str
    """Reason of PodResizePending; empty while it is not pending."""
    pending_message: str
    progress_reason: str
    """Reason of PodResizeInProgress: "Error" where the kubelet tries in vain; empty otherwise."""
    progress_message: str
    in_progress: bool
    unready_since: UnixTime | None = None
    """When it lost readiness, as the kubelet dates it; None while it is ready, and where that is not said."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What one container's resource shall be; empty: as it is."""

    container: str
    resource: str
    request: str
    limit: str


class PodResizer:
    """Reads and resizes single pods."""

    def __init__(self, client: KubernetesClient, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._discovery = _Discovery(clock)

    async def supported(self) -> bool:
        """Tell whether the server has the subresource; asked again every ten minutes."""
        if self._discovery.due():
            listed = objects(await self._client.get("/api/v1"), "resources")
            self._discovery.learn(found=any(text(one, "name") == "pods/resize" for one in listed))
        return self._discovery.found

    async def read(self, key: Key) -> PodSize:
        """Read a pod live; `Absent` when it is gone."""
        return parse(await self._client.get(_path(key)))

    async def resize(self, pod: PodSize, wish: Wish) -> bool:
        """Ask for a size; False when the pod's spec has it already and nothing was sent.

        Raises:
            Conflict: the pod changed since it was read.
            Invalid: the API server refuses it (another QoS class, a pod that cannot be resized).
        """
        patch = operations(pod, wish)
        if not patch:
            return False
        await self._client.patch(f"{_path(pod.key)}/resize", patch, kind=PatchKind.JSON)
        return True


@dataclass(slots=True)
class _Discovery:
    clock: Callable[[], float]
    found: bool = False
    asked: float | None = field(default=None)

    def due(self) -> bool:
        return self.asked is None or self.clock() - self.asked >= DISCOVERY_KEPT_S

    def learn(self, *, found: bool) -> None:
        self.found, self.asked = found, self.clock()


def operations(pod: PodSize, wish: Wish) -> list[JsonObject]:
    """Return the JSON patch of a wish; empty where the spec says so already.

    Raises:
        Conflict: the pod has no such container any more.
    """
    container = pod.containers.get(wish.container)
    if container is None:
        raise Conflict(f"pod {pod.key} has no container {wish.container}", verb="patch", path=_path(pod.key), code=409)
    base = f"/spec/{container.field}/{container.index}"
    changes: list[JsonObject] = []
    for part, known, value in (
        ("requests", container.requests, wish.request),
        ("limits", container.limits, wish.limit),
    ):
        old = known.get(wish.resource)
        if value and (old is None or quantity(old) != quantity(value)):
            path = f"{base}/resources/{part}/{wish.resource}"
            changes.append({"op": "replace" if old is not None else "add", "path": path, "value": value})
    if not changes:
        return []
    return [
        {"op": "test", "path": "/metadata/uid", "value": pod.uid},
        {"op": "test", "path": "/metadata/resourceVersion", "value": pod.resource_version},
        {"op": "test", "path": f"{base}/name", "value": wish.container},
        *changes,
    ]


def asked(pod: PodSize, wish: Wish) -> bool:
    """Tell whether the pod's spec has what is wished."""
    container = pod.containers.get(wish.container)
    return container is not None and _has(container.requests, container.limits, wish)


def granted(pod: PodSize, wish: Wish) -> bool:
    """Tell whether the kubelet says that the container has what is wished, and nothing is under way."""
    container = pod.containers.get(wish.container)
    if container is None or pod.pending_reason or pod.in_progress:
        return False
    return _has(container.has_requests, container.has_limits, wish)


def _has(requests: Mapping[str, str], limits: Mapping[str, str], wish: Wish) -> bool:
    pairs = ((requests, wish.request), (limits, wish.limit))
    return all(not value or quantity_in(known, wish.resource) == quantity(value) for known, value in pairs)


def parse(document: JsonObject) -> PodSize:
    """Parse a v1 Pod."""
    spec, status = mapping(document, "spec"), mapping(document, "status")
    conditions = {text(one, "type"): one for one in objects(status, "conditions")}
    pending, progress = conditions.get(PENDING, {}), conditions.get(IN_PROGRESS, {})
    waits, acts = text(pending, "status") == "True", text(progress, "status") == "True"
    metadata, well = mapping(document, "metadata"), conditions.get("Ready", {})
    ready = text(well, "status") == "True"
    return PodSize(
        key=Key(text(metadata, "namespace"), text(metadata, "name")),
        uid=text(metadata, "uid"),
        resource_version=text(metadata, "resourceVersion"),
        qos=text(status, "qosClass"),
        ready=ready,
        terminating="deletionTimestamp" in metadata,
        containers=_containers(spec, status),
        pending_reason=(text(pending, "reason") or PENDING) if waits else "",
        pending_message=text(pending, "message")[:512] if waits else "",
        progress_reason=text(progress, "reason") if acts else "",
        progress_message=text(progress, "message")[:512] if acts else "",
        in_progress=acts,
        unready_since=None if ready else time_of(well, "lastTransitionTime"),
    )


def _containers(spec: JsonObject, status: JsonObject) -> dict[str, ContainerSize]:
    found: dict[str, ContainerSize] = {}
    for name_of_field, name_of_statuses in _FIELDS:
        statuses = {text(one, "name"): one for one in objects(status, name_of_statuses)}
        for index, one in enumerate(objects(spec, name_of_field)):
            name = text(one, "name")
            said = statuses.get(name, {})
            found[name] = ContainerSize(
                field=name_of_field,
                index=index,
                requests=mapping(one, "resources", "requests"),
                limits=mapping(one, "resources", "limits"),
                restarts_for=frozenset(
                    text(rule, "resourceName")
                    for rule in objects(one, "resizePolicy")
                    if text(rule, "restartPolicy") == "RestartContainer"
                ),
                has_requests=mapping(said, "resources", "requests"),
                has_limits=mapping(said, "resources", "limits"),
                restarts=integer(said, "restartCount"),
            )
    return found


def _path(key: Key) -> str:
    return f"/api/v1/namespaces/{key.namespace}/pods/{key.name}"
