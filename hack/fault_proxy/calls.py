"""What a request to the API server is about, read from its first line: verb, resource, namespace, name.

The words are those of the audit log, so that what the proxy counts can be held against it. Reviews are POSTs that store
nothing; they are no writes.
"""

from dataclasses import dataclass
from typing import Self
from urllib.parse import parse_qsl, urlsplit

_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass(frozen=True, slots=True)
class Call:
    """One request."""

    verb: str
    """get, list, watch, create, update, patch, delete or review."""
    resource: str
    """As the audit log has it, "horizontalpodautoscalers" or "resourceoptimizations/status"; empty for discovery."""
    namespace: str
    name: str
    path: str
    query: str

    @classmethod
    def of(cls, method: str, target: str) -> Self:
        """Read a request line's method and target."""
        parts = urlsplit(target)
        query = dict(parse_qsl(parts.query))
        resource, namespace, name, subresource = _split(parts.path)
        verb = _VERBS.get(method, "get" if name else "list")
        if verb == "create" and resource.endswith("reviews"):
            verb = "review"
        elif verb == "list" and query.get("watch", "") in {"1", "true"}:
            verb = "watch"
        elif verb == "delete" and not name:
            verb = "deletecollection"
        full = f"{resource}/{subresource}" if subresource else resource
        return cls(verb, full, namespace, name, parts.path, parts.query)

    @property
    def write(self) -> bool:
        """Whether it changes what is stored."""
        return self.verb in {"create", "update", "patch", "delete", "deletecollection"}

    def __str__(self) -> str:
        """Name it in one line."""
        return f"{self.verb} {self.resource or self.path} {self.namespace}/{self.name}".rstrip("/ ")


def _split(path: str) -> tuple[str, str, str, str]:
    """Return (resource, namespace, name, subresource); all empty for what is not about a resource."""
    parts = [part for part in path.split("/") if part]
    if not parts or parts[0] not in {"api", "apis"}:
        return "", "", "", ""
    rest = parts[2:] if parts[0] == "api" else parts[3:]
    namespace = ""
    if len(rest) >= 3 and rest[0] == "namespaces":
        namespace, rest = rest[1], rest[2:]
    padded = [*rest, "", "", ""]
    return padded[0], namespace, padded[1], padded[2]
