"""`OptimizationCheckpoint` objects: one per workload, applied whole, owned by the object they belong to.

What is in the state is the domain's business: here it is bytes, sent as base64. An object of an unknown version or
with a broken state is `Malformed`: the caller starts anew and says so.
"""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass

from optiinfra.cluster.client import KubernetesClient
from optiinfra.cluster.document import JsonObject, Key, integer, key_of, objects, rfc3339, text, time_of
from optiinfra.cluster.errors import Absent, Malformed
from optiinfra.cluster.objects import API_VERSION, Objects, Resources
from optiinfra.domain.units import UnixTime

CLUSTER_OWNER = Resources.CLUSTER_RESOURCE_OPTIMIZATION.value.kind
STATE_LIMIT_BYTES = 12 * 1024
"""What fits into the 16 KiB of base64 that the schema allows."""


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    """One saved state."""

    key: Key
    version: int
    time: UnixTime
    state: bytes
    owner_uid: str = ""
    """Uid of the object that it belongs to: one that was made anew under the same name starts from nothing."""
    owner_kind: str = Resources.RESOURCE_OPTIMIZATION.value.kind
    owner_name: str = ""
    """Empty: as the checkpoint itself."""


class Checkpoints:
    """Reads and writes checkpoints."""

    def __init__(self, client: KubernetesClient, *, namespaces: Sequence[str] = ()) -> None:
        self._client = client
        self._objects = Objects(client, namespaces=namespaces)

    async def read(self, key: Key) -> CheckpointRecord | None:
        """Return a checkpoint, or None when there is none."""
        try:
            return _parse(await self._objects.get(Resources.OPTIMIZATION_CHECKPOINT, key))
        except Absent:
            return None

    async def list(self) -> tuple[tuple[CheckpointRecord, ...], tuple[tuple[Key, str], ...]]:
        """Return all readable checkpoints, and for the others why they are not."""
        readable: list[CheckpointRecord] = []
        broken: list[tuple[Key, str]] = []
        for document in await self._objects.list_all(Resources.OPTIMIZATION_CHECKPOINT):
            try:
                readable.append(_parse(document))
            except Malformed as error:
                broken.append((key_of(document), error.message))
        return tuple(readable), tuple(broken)

    async def write(self, record: CheckpointRecord, *, owner_name: str, owner_uid: str) -> None:
        """Create or replace a checkpoint. Forced: the object is wholly ours."""
        if len(record.state) > STATE_LIMIT_BYTES:
            raise Malformed(
                f"checkpoint {record.key} of {len(record.state)} bytes; at most {STATE_LIMIT_BYTES} are kept"
            )
        body = {
            "apiVersion": API_VERSION,
            "kind": Resources.OPTIMIZATION_CHECKPOINT.value.kind,
            "metadata": {
                "name": record.key.name,
                "namespace": record.key.namespace,
                "ownerReferences": [
                    {
                        "apiVersion": API_VERSION,
                        "kind": record.owner_kind,
                        "name": owner_name,
                        "uid": owner_uid,
                    }
                ],
            },
            "spec": {
                "version": record.version,
                "time": rfc3339(record.time),
                "state": base64.b64encode(record.state).decode("ascii"),
            },
        }
        await self._client.apply(Resources.OPTIMIZATION_CHECKPOINT.value.path(record.key), body, force=True)


def _parse(document: JsonObject) -> CheckpointRecord:
    key = key_of(document)
    taken = time_of(document, "spec", "time")
    if taken is None:
        raise Malformed(f"checkpoint {key} without spec.time")
    try:
        state = base64.b64decode(text(document, "spec", "state"), validate=True)
    except binascii.Error as error:
        raise Malformed(f"checkpoint {key}: spec.state is not base64: {error}") from error
    kinds = (Resources.RESOURCE_OPTIMIZATION.value.kind, CLUSTER_OWNER)
    owners = [one for one in objects(document, "metadata", "ownerReferences") if text(one, "kind") in kinds]
    version, owner = integer(document, "spec", "version"), owners[0] if owners else None
    if owner is None:
        return CheckpointRecord(key, version, taken, state)
    return CheckpointRecord(key, version, taken, state, text(owner, "uid"), text(owner, "kind"), text(owner, "name"))
