"""Our own kinds as raw JSON: read, list, mirror. Parsing them belongs to `optiinfra.api`.

Which paths exist and which scope applies is decided here once, so that nobody above builds a path.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from optiinfra.cluster.client import KubernetesClient
from optiinfra.cluster.document import JsonObject, Key
from optiinfra.cluster.errors import Invalid
from optiinfra.cluster.watch import Reflector

T = TypeVar("T")

GROUP = "optiinfra.io"
API_VERSION = "optiinfra.io/v1alpha1"
_BASE = "/apis/optiinfra.io/v1alpha1"


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind as the API server names it."""

    kind: str
    plural: str
    namespaced: bool

    def collection(self, namespace: str = "") -> str:
        """Return the path of all objects, or of a namespace's."""
        if namespace and not self.namespaced:
            raise Invalid(f"{self.kind} is cluster-scoped and has no namespace (got {namespace!r})")
        return f"{_BASE}/namespaces/{namespace}/{self.plural}" if namespace else f"{_BASE}/{self.plural}"

    def path(self, key: Key) -> str:
        """Return the path of one object."""
        if self.namespaced and not key.namespace:
            raise Invalid(f"{self.kind} {key.name!r} needs a namespace")
        return f"{self.collection(key.namespace)}/{key.name}"


class Resources(Enum):
    """The kinds of this operator."""

    RESOURCE_OPTIMIZATION = Resource("ResourceOptimization", "resourceoptimizations", namespaced=True)
    CLUSTER_RESOURCE_OPTIMIZATION = Resource(
        "ClusterResourceOptimization", "clusterresourceoptimizations", namespaced=False
    )
    OPTIMIZATION_CHECKPOINT = Resource("OptimizationCheckpoint", "optimizationcheckpoints", namespaced=True)


class Objects:
    """Reads our objects."""

    def __init__(self, client: KubernetesClient, *, namespaces: Sequence[str] = ()) -> None:
        """No namespaces means all of them."""
        self._client = client
        self._namespaces = tuple(namespaces)

    async def get(self, resource: Resources, key: Key) -> JsonObject:
        """Read one object; `Absent` when it does not exist."""
        return await self._client.get(resource.value.path(key))

    async def list_all(self, resource: Resources) -> list[JsonObject]:
        """Read all objects of a kind within the scope; a cluster-scoped kind is empty in scope Namespaces."""
        found: list[JsonObject] = []
        for path in self._paths(resource.value):
            found.extend(await self._client.list(path))
        return found

    def reflectors(
        self,
        resource: Resources,
        *,
        parse: Callable[[JsonObject], T],
        on_change: Callable[[Key, T | None, T | None], None] | None = None,
    ) -> list[Reflector[T]]:
        """Build one mirror for the cluster, or one for each namespace of the scope. The caller runs them."""
        return [Reflector(self._client, path, parse=parse, on_change=on_change) for path in self._paths(resource.value)]

    def _paths(self, resource: Resource) -> list[str]:
        if not self._namespaces:
            return [resource.collection()]
        return [resource.collection(namespace) for namespace in self._namespaces] if resource.namespaced else []
