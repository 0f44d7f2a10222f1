"""One coordination.k8s.io Lease, read and written raw for the elector in `control`.

Every request has a short time-out of its own and skips the queue for the API server, because a lease that waits behind
other calls is lost. It is also the one write without the `before_write` hook: taking the lease is what arms the hook.
A replace carries the resourceVersion that was read, so that of two writers one gets `Conflict`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from optiinfra.cluster.client import KubernetesClient
from optiinfra.cluster.document import JsonObject, integer, labels_of, rfc3339, text, time_of
from optiinfra.cluster.errors import Absent
from optiinfra.domain.units import UnixTime

REQUEST_TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """A Lease as it stands."""

    holder: str
    duration_seconds: int
    transitions: int
    annotations: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """As they are read: whoever installed it finds it by them, and Helm 4 removes nothing without its own."""
    resource_version: str = ""
    uid: str = ""
    acquired: UnixTime | None = None
    """Kept from the previous record while the holder stays the same."""
    renewed: UnixTime | None = None


class Leases:
    """Reads and writes one Lease."""

    def __init__(self, client: KubernetesClient, *, namespace: str, name: str, clock: Callable[[], float]) -> None:
        """`clock` gives Unix seconds: they are shown to people only, no decision is taken by them."""
        self._client = client
        self._namespace = namespace
        self._name = name
        self._clock = clock
        self._collection = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"

    async def read(self) -> LeaseRecord | None:
        """Return the Lease, or None when there is none yet."""
        try:
            document = await self._client.get(
                f"{self._collection}/{self._name}", timeout_s=REQUEST_TIMEOUT_S, urgent=True
            )
        except Absent:
            return None
        return _parse(document)

    async def write(self, record: LeaseRecord, *, previous: LeaseRecord | None) -> LeaseRecord:
        """Create the Lease (previous None) or replace exactly that version; Conflict when somebody was faster."""
        now = UnixTime(self._clock())
        acquired = previous.acquired if previous is not None and previous.holder == record.holder else now
        metadata: JsonObject = {"name": self._name, "namespace": self._namespace}
        if record.annotations:
            metadata["annotations"] = dict(record.annotations)
        if previous is not None:
            metadata |= {"resourceVersion": previous.resource_version, "uid": previous.uid}
            if previous.labels:
                metadata["labels"] = dict(previous.labels)
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": {
                "holderIdentity": record.holder,
                "leaseDurationSeconds": record.duration_seconds,
                "leaseTransitions": record.transitions,
                "acquireTime": rfc3339(acquired or now),
                "renewTime": rfc3339(now),
            },
        }
        if previous is None:
            written = await self._client.create(self._collection, body, timeout_s=REQUEST_TIMEOUT_S, urgent=True)
        else:
            path = f"{self._collection}/{self._name}"
            written = await self._client.replace(path, body, timeout_s=REQUEST_TIMEOUT_S, urgent=True)
        return _parse(written)


def _parse(document: JsonObject) -> LeaseRecord:
    return LeaseRecord(
        holder=text(document, "spec", "holderIdentity"),
        duration_seconds=integer(document, "spec", "leaseDurationSeconds"),
        transitions=integer(document, "spec", "leaseTransitions"),
        annotations=labels_of(document, "metadata", "annotations"),
        labels=labels_of(document, "metadata", "labels"),
        resource_version=text(document, "metadata", "resourceVersion"),
        uid=text(document, "metadata", "uid"),
        acquired=time_of(document, "spec", "acquireTime"),
        renewed=time_of(document, "spec", "renewTime"),
    )
