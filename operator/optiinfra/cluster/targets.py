"""The target of an object, whatever its kind: resolved by discovery, read through its scale subresource.

Deployments and StatefulSets, which nearly all targets are, are mirrored once `run()` goes: a fleet of thousands asked
about twice a minute would otherwise cost the API server hundreds of reads a second. A mirror that is not fresh, or that
does not know the target, is not believed: then it is read live, as every other kind is. Discovery answers are kept for
ten minutes, so a CRD that is installed later is found without a restart. Of the pod template
only the names of its containers are read: what is injected into pods is not in it.
`Absent` means that the target (or its kind) does not exist; `TargetWithoutScale` that nothing can ever scale it.
"""

import asyncio
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from optiinfra.cluster.client import KubernetesClient
from optiinfra.cluster.document import (
    JsonObject,
    Key,
    flag,
    integer,
    integer_or_none,
    key_of,
    mapping,
    objects,
    text,
    texts,
)
from optiinfra.cluster.errors import Absent, Invalid, TargetWithoutScale
from optiinfra.cluster.labels import format_selector, selector_of
from optiinfra.cluster.watch import Reflector
from optiinfra.domain.workload import Rollout

DISCOVERY_KEPT_S = 600.0
DISCOVERY_MISS_KEPT_S = 30.0
MIRROR_FRESH_S = 180.0
"""A mirror hears something every 40 s, if only that its watch is over (`watch.WatchTimes`); after four times as long
without a word it is not believed, and the target is read itself."""
_WORDS_LIMIT = 512
_MIRRORED = {("apps/v1", "Deployment"): "deployments", ("apps/v1", "StatefulSet"): "statefulsets"}
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
    generation: int = 0
    """Of its spec; 0 where the kind does not say."""
    containers: tuple[str, ...] = ()
    """Names of all containers of its pod template; empty for kinds whose template is not known."""
    rollout: Rollout = field(default_factory=Rollout)
    """Nothing of it is known of kinds outside apps/v1."""


@dataclass(frozen=True, slots=True)
class _Kind:
    plural: str
    scalable: bool


class Targets:
    """Reads targets. `run()` is optional and makes reading cheap."""

    def __init__(
        self,
        client: KubernetesClient,
        *,
        namespaces: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """No namespaces means the whole cluster."""
        self._client = client
        self._clock = clock
        self._kinds: dict[str, tuple[float, dict[str, _Kind]]] = {}
        prefixes = [f"/namespaces/{namespace}" for namespace in namespaces] or [""]
        self._mirrors = {
            kind: [
                Reflector(client, f"/apis/apps/v1{prefix}/{plural}", parse=parse_workload, clock=clock)
                for prefix in prefixes
            ]
            for kind, plural in _MIRRORED.items()
        }

    async def run(self) -> None:
        """Mirror Deployments and StatefulSets until cancelled."""
        async with asyncio.TaskGroup() as group:
            for mirrors in self._mirrors.values():
                for mirror in mirrors:
                    group.create_task(mirror.run(), name=f"mirror {mirror.path}")

    async def wait_synced(self) -> None:
        """Wait until all was listed once; bound it with asyncio.timeout. Reading works without, at a call each."""
        for mirrors in self._mirrors.values():
            for mirror in mirrors:
                await mirror.wait_synced()

    async def read(self, *, api_version: str, kind: str, namespace: str, name: str) -> TargetFacts:
        """Read a target."""
        mirrored = self._mirrored(api_version, kind, Key(namespace, name))
        if mirrored is not None:
            return mirrored
        collection = await self._collection(api_version, kind, namespace)
        if not _NAME.match(name):
            raise Invalid(f"targetRef.name {name[:253]!r} cannot be the name of an object")
        document = await self._client.get(f"{collection}/{name}")
        scale = await self._client.get(f"{collection}/{name}/scale")
        if text(scale, "metadata", "uid") not in {"", text(document, "metadata", "uid")}:
            raise Absent(f"{kind} {namespace}/{name} was replaced while it was read", verb="get", path=collection)
        desired = integer_or_none(scale, "spec", "replicas")
        facts = parse_workload(document)
        return replace(
            facts,
            api_version=api_version,
            desired_replicas=1 if desired is None else desired,
            replicas=integer(scale, "status", "replicas"),
            selector=text(scale, "status", "selector") or facts.selector,
        )

    def _mirrored(self, api_version: str, kind: str, key: Key) -> TargetFacts | None:
        for mirror in self._mirrors.get((api_version, kind), ()):
            heard = mirror.last_activity
            fresh = mirror.synced and mirror.last_error is None and heard is not None
            if fresh and heard is not None and self._clock() - heard < MIRROR_FRESH_S and key in mirror.items:
                # Items of lists name neither apiVersion nor kind.
                return replace(mirror.items[key], api_version=api_version, kind=kind)
        return None

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


def parse_workload(document: JsonObject) -> TargetFacts:
    """Parse an object by the conventions of apps/v1; a kind with its own scale paths is corrected by its scale."""
    key = key_of(document)
    desired = integer_or_none(document, "spec", "replicas") if _is_apps(document) else None
    return TargetFacts(
        api_version=text(document, "apiVersion"),
        kind=text(document, "kind"),
        namespace=key.namespace,
        name=key.name,
        uid=text(document, "metadata", "uid"),
        resource_version=text(document, "metadata", "resourceVersion"),
        desired_replicas=1 if desired is None else desired,
        replicas=integer(document, "status", "replicas") if _is_apps(document) else 0,
        ready_replicas=_ready(document),
        selector=format_selector(selector_of(mapping(document, "spec", "selector"))) if _is_apps(document) else "",
        generation=integer(document, "metadata", "generation"),
        containers=_containers(document) if _is_apps(document) else (),
        rollout=_rollout(document) if _is_apps(document) else Rollout(),
    )


def _rollout(document: JsonObject) -> Rollout:
    """Read what the controller says of the pods: counts of both templates, and a Deployment's conditions."""
    status = mapping(document, "status")
    conditions = {text(one, "type"): one for one in objects(status, "conditions")}
    failure, progress = conditions.get("ReplicaFailure", {}), conditions.get("Progressing", {})
    revisions = text(status, "currentRevision"), text(status, "updateRevision")
    older = integer(status, "replicas") > integer(status, "updatedReplicas")
    # A StatefulSet with partitions or OnDelete keeps two revisions for good, and counts what it updated apart.
    rolling = revisions[0] != revisions[1] and older if any(revisions) else older
    return Rollout(
        rolling=rolling,
        paused=flag(document, "spec", "paused"),
        stuck=text(progress, "status") == "False" and text(progress, "reason") == "ProgressDeadlineExceeded",
        refused=text(failure, "message")[:_WORDS_LIMIT] if text(failure, "status") == "True" else "",
    )


def _containers(document: JsonObject) -> tuple[str, ...]:
    template = mapping(document, "spec", "template", "spec")
    written = [*objects(template, "containers"), *objects(template, "initContainers")]
    return tuple(sys.intern(text(one, "name")) for one in written)


def _is_apps(document: JsonObject) -> bool:
    # The items of a list carry neither apiVersion nor kind; only apps/v1 is listed here.
    return text(document, "apiVersion") in {"", "apps/v1"}


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
    return 0 if _is_apps(document) else None
