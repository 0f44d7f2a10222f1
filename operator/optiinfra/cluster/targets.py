"""The target of an object, whatever its kind: resolved by discovery, read through its scale subresource.

Discovery answers are kept for ten minutes, so a CRD that is installed later is found without a restart. The pod
template is never read. `Absent` means that the target (or its kind) does not exist; `TargetWithoutScale` that nothing
can ever scale it.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from optiinfra.cluster.client import KubernetesClient
from optiinfra.cluster.document import JsonObject, integer, integer_or_none, mapping, objects, text, texts
from optiinfra.cluster.errors import Absent, Invalid, TargetWithoutScale
from optiinfra.cluster.labels import format_labels, selector_of

DISCOVERY_KEPT_S = 600.0
DISCOVERY_MISS_KEPT_S = 30.0
_GROUP_VERSION = re.compile(r"(?:[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?/)?v[0-9][a-z0-9]*\Z")
_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?\Z")


@dataclass(frozen=True, slots=True)
class TargetFacts:
    """A scalable object as it stands."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str
    resource_version: str
    desired_replicas: int
    """spec.replicas of its scale; 1 where it was never set, as the API server takes it."""
    replicas: int
    """status.replicas of its scale: those that exist."""
    ready_replicas: int | None
    """None when the kind does not say; then the pods tell."""
    selector: str
    """Label selector of its pods; empty when the kind does not say."""


@dataclass(frozen=True, slots=True)
class _Kind:
    plural: str
    scalable: bool


class Targets:
    """Reads targets."""

    def __init__(self, client: KubernetesClient, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._clock = clock
        self._kinds: dict[str, tuple[float, dict[str, _Kind]]] = {}

    async def read(self, *, api_version: str, kind: str, namespace: str, name: str) -> TargetFacts:
        """Read a target."""
        collection = await self._collection(api_version, kind, namespace)
        if not _NAME.match(name):
            raise Invalid(f"targetRef.name {name[:253]!r} cannot be the name of an object")
        document = await self._client.get(f"{collection}/{name}")
        scale = await self._client.get(f"{collection}/{name}/scale")
        if text(scale, "metadata", "uid") not in {"", text(document, "metadata", "uid")}:
            raise Absent(f"{kind} {namespace}/{name} was replaced while it was read", verb="get", path=collection)
        desired = integer_or_none(scale, "spec", "replicas")
        return TargetFacts(
            api_version=api_version,
            kind=kind,
            namespace=namespace,
            name=name,
            uid=text(document, "metadata", "uid"),
            resource_version=text(document, "metadata", "resourceVersion"),
            desired_replicas=1 if desired is None else desired,
            replicas=integer(scale, "status", "replicas"),
            ready_replicas=_ready(document),
            selector=text(scale, "status", "selector") or _own_selector(document),
        )

    async def _collection(self, api_version: str, kind: str, namespace: str) -> str:
        if not _GROUP_VERSION.match(api_version):
            raise Invalid(f"targetRef.apiVersion {api_version[:253]!r} is not a group/version (example: apps/v1)")
        base = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
        found = (await self._discover(base)).get(kind)
        if found is None:
            raise Absent(f"the server has no kind {kind!r} in {api_version}", verb="get", path=base, code=404)
        if not found.scalable:
            raise TargetWithoutScale(f"{kind} ({api_version}) has no scale subresource", verb="get", path=base)
        return f"{base}/namespaces/{namespace}/{found.plural}"

    async def _discover(self, base: str) -> dict[str, _Kind]:
        kept = self._kinds.get(base)
        if kept is not None and kept[0] > self._clock():
            return kept[1]
        try:
            kinds = _kinds_of(await self._client.get(base))
            until = self._clock() + DISCOVERY_KEPT_S
        except Absent:
            kinds = {}
            until = self._clock() + DISCOVERY_MISS_KEPT_S
        if len(self._kinds) > 256:
            self._kinds.clear()
        self._kinds[base] = (until, kinds)
        return kinds


def _kinds_of(discovery: JsonObject) -> dict[str, _Kind]:
    resources = objects(discovery, "resources")
    scalable = {text(entry, "name") for entry in resources}
    return {
        text(entry, "kind"): _Kind(text(entry, "name"), scalable=f"{text(entry, 'name')}/scale" in scalable)
        for entry in resources
        if "/" not in text(entry, "name") and entry.get("namespaced") is True and "get" in texts(entry, "verbs")
    }


def _ready(document: JsonObject) -> int | None:
    status = mapping(document, "status")
    if "readyReplicas" in status:
        return integer(status, "readyReplicas")
    # Workloads of apps/v1 omit the field while it is zero; other kinds may not know it at all.
    return 0 if text(document, "apiVersion") == "apps/v1" else None


def _own_selector(document: JsonObject) -> str:
    selector = mapping(document, "spec", "selector")
    labels = mapping(selector, "matchLabels")
    if not labels or selector_of(selector).requirements[len(labels) :]:
        return ""
    return format_labels({key: str(value) for key, value in labels.items()})
