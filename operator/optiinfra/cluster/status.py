"""Writing a status: only what differs, only to the object that was looked at.

The body is a merge patch on /status with uid and resourceVersion as fence. When the object changed meanwhile, it is
read once more: another uid or another generation means that the status describes something that is gone, and the write
is given up with `Conflict`; else (somebody touched a label) the patch is computed again and sent once.
"""

from dataclasses import dataclass, replace

from optiinfra.cluster.client import KubernetesClient, PatchKind
from optiinfra.cluster.document import JsonObject, Key, integer, mapping, text
from optiinfra.cluster.errors import AlreadyExists, Conflict
from optiinfra.cluster.objects import Resources


@dataclass(frozen=True, slots=True)
class Written:
    """The result of a write."""

    resource_version: str
    changed: bool
    """False when the server already had exactly this status and nothing was sent."""
    unseen: bool = False
    """Somebody changed the object (a label, an annotation) after the caller had read it and before this write."""


class StatusWriter:
    """Writes the status of our objects."""

    def __init__(self, client: KubernetesClient) -> None:
        self._client = client

    async def write(
        self,
        resource: Resources,
        key: Key,
        status: JsonObject,
        *,
        uid: str,
        generation: int,
        previous: JsonObject,
        resource_version: str,
    ) -> Written:
        """Make the status of the object `status`; `previous` is the one it has at `resource_version`.

        Fields of `previous` that `status` lacks are removed.

        Raises:
            Conflict: the object was replaced or its spec changed since it was read.
            Absent: the object is gone.
        """
        try:
            return await self._send(resource, key, status, previous, uid=uid, resource_version=resource_version)
        except AlreadyExists:
            raise
        except Conflict as conflict:
            current = await self._client.get(resource.value.path(key))
            if text(current, "metadata", "uid") != uid or integer(current, "metadata", "generation") != generation:
                raise Conflict(
                    "the object changed since it was read; its status is computed anew in the next round",
                    verb="patch",
                    path=resource.value.path(key),
                    code=409,
                ) from conflict
            written = await self._send(
                resource,
                key,
                status,
                mapping(current, "status"),
                uid=uid,
                resource_version=text(current, "metadata", "resourceVersion"),
            )
            return replace(written, unseen=True)

    async def _send(
        self,
        resource: Resources,
        key: Key,
        status: JsonObject,
        previous: JsonObject,
        *,
        uid: str,
        resource_version: str,
    ) -> Written:
        difference = merge_difference(previous, status)
        if not difference:
            return Written(resource_version, changed=False)
        body = {"metadata": {"uid": uid, "resourceVersion": resource_version}, "status": difference}
        answer = await self._client.patch(f"{resource.value.path(key)}/status", body, kind=PatchKind.MERGE)
        return Written(text(answer, "metadata", "resourceVersion"), changed=True)


def merge_difference(old: JsonObject, new: JsonObject) -> JsonObject:
    """Return the RFC 7386 merge patch that turns `old` into `new`; empty when they are equal."""
    patch: JsonObject = {name: None for name in old if name not in new or new[name] is None}
    for name, value in new.items():
        if value is None or (name in old and old[name] == value):
            continue
        before = old.get(name)
        if isinstance(before, dict) and isinstance(value, dict):
            patch[name] = merge_difference(before, value)
        else:
            patch[name] = value
    return patch
