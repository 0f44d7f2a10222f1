"""One object of any kind as it stands, found by discovery: what a patch is worked out on.

Read when a person asks for a patch, and at no other time; nothing is kept. What it reads is handed on as it is, so who
asks must have been allowed to.
"""

import re

from optiinfra.cluster.client import KubernetesClient
from optiinfra.cluster.document import JsonObject, objects, text
from optiinfra.cluster.errors import Absent, Invalid

_GROUP_VERSION = re.compile(r"(?:[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?/)?v[0-9][a-z0-9]*\Z")
_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?\Z")
_LIMIT = 4 << 20


async def read_manifest(
    client: KubernetesClient, *, api_version: str, kind: str, namespace: str, name: str
) -> JsonObject:
    """Read one namespaced object.

    Raises:
        Invalid: group, version or a name is none.
        Absent: the kind or the object does not exist.
        ClusterError: the API server refused or did not answer.
    """
    if not _GROUP_VERSION.match(api_version) or not _NAME.match(name) or not _NAME.match(namespace):
        raise Invalid(f"{api_version} {kind} {namespace}/{name} names no object")
    base = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
    listed = objects(await client.get(base, limit_bytes=_LIMIT), "resources")
    plural = next(
        (text(one, "name") for one in listed if text(one, "kind") == kind and "/" not in text(one, "name")), ""
    )
    if not plural:
        raise Absent(f"the server has no kind {kind} in {api_version}", verb="get", path=base)
    return await client.get(f"{base}/namespaces/{namespace}/{plural}/{name}", limit_bytes=_LIMIT)
