"""Everything that can go wrong at the door, as one tree below `OptiInfraError`.

    ClusterError
      Absent            404: no such object, or no such kind on this server
      Expired           410: the resourceVersion or the continue token is too old
      Conflict          409: the object changed, or another manager owns the field
        AlreadyExists   409 with reason AlreadyExists
      Invalid           400, 405, 406, 413, 415, 422: the server refuses what was said
      Denied            401, 403
      Throttled         429
      Unavailable       5xx, no connection, no answer in time
      Malformed         an answer that is not what it claims to be
      Unconfigured      no usable kubeconfig and no service account
      TargetWithoutScale  a target whose kind has no scale subresource
      FetchError        a page of an engine or an agent could not be read; carries the domain's Unknown

Nothing here is retried or logged: callers decide. A message is one line and names verb, path and what the server said.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optiinfra.domain.readings import Unknown
from optiinfra.errors import OptiInfraError

_MESSAGE_LIMIT = 1024


class ClusterError(OptiInfraError):
    """A call that did not succeed: the verb, the path, the HTTP code (0: no answer) and the server's own words."""

    def __init__(
        self, message: str, *, verb: str = "", path: str = "", code: int = 0, retry_after_s: float | None = None
    ) -> None:
        self.message = " ".join(message.split())[:_MESSAGE_LIMIT]
        self.verb = verb
        self.path = path
        self.code = code
        self.retry_after_s = retry_after_s
        where = f"{verb} {path}: " if verb or path else ""
        super().__init__(f"{where}{self.message}{f' (HTTP {code})' if code else ''}")


class Absent(ClusterError):  # noqa: N818  a state, named as people say it
    """There is no such object, or the server does not know the kind."""


class Expired(ClusterError):  # noqa: N818  a state, named as people say it
    """The resourceVersion or the continue token is too old: list again."""


@dataclass(frozen=True, slots=True)
class FieldConflict:
    """One field of a server-side apply that somebody else owns."""

    field: str
    """As the server writes it: ".spec.minReplicas"."""
    manager: str
    """The server's sentence: 'conflict with "kubectl" using autoscaling/v2'."""


class Conflict(ClusterError):  # noqa: N818  a state, named as people say it
    """The object changed since it was read, or a server-side apply met fields of other managers (`fields`)."""

    def __init__(self, message: str, *, fields: tuple[FieldConflict, ...] = (), **where: Any) -> None:
        super().__init__(message, **where)
        self.fields = fields


class AlreadyExists(Conflict):
    """An object of this name exists."""


class Invalid(ClusterError):  # noqa: N818  a state, named as people say it
    """The server refuses what was said; saying it again does not help."""


class Denied(ClusterError):  # noqa: N818  a state, named as people say it
    """Not authenticated, or not permitted."""


class Throttled(ClusterError):  # noqa: N818  a state, named as people say it
    """The server asks to come back later (`retry_after_s`)."""


class Unavailable(ClusterError):  # noqa: N818  a state, named as people say it
    """No answer in time, no connection, or a server error. A write may or may not have happened."""


class Malformed(ClusterError):  # noqa: N818  a state, named as people say it
    """An answer that is not what it claims to be."""


class Unconfigured(ClusterError):  # noqa: N818  a state, named as people say it
    """There is no usable kubeconfig and no service account."""


class TargetWithoutScale(ClusterError):  # noqa: N818  a state, named as people say it
    """The target's kind has no scale subresource, so no scaler can drive it."""


class FetchError(ClusterError):
    """A page of an engine or an agent could not be read."""

    def __init__(self, unknown: Unknown, *, url: str, code: int = 0) -> None:
        super().__init__(unknown.detail, verb="fetch", path=url, code=code)
        self.unknown = unknown


_BY_CODE: Mapping[int, type[ClusterError]] = {
    400: Invalid,
    401: Denied,
    403: Denied,
    404: Absent,
    405: Invalid,
    406: Invalid,
    410: Expired,
    413: Invalid,
    415: Invalid,
    422: Invalid,
    429: Throttled,
}


def error_of(
    *, verb: str, path: str, code: int, status: Mapping[str, Any] | None, text: str, retry_after_s: float | None
) -> ClusterError:
    """Build the error for an answer: `status` is the API Status object if the server sent one, else `text` is shown."""
    message = str((status or {}).get("message") or text or "no message")
    if code == 409:
        reason = (status or {}).get("reason")
        kind = AlreadyExists if reason == "AlreadyExists" else Conflict
        fields = _field_conflicts(status or {})
        return kind(message, fields=fields, verb=verb, path=path, code=code, retry_after_s=retry_after_s)
    kind_of_code = _BY_CODE.get(code, Unavailable if code >= 500 else Invalid)
    return kind_of_code(message, verb=verb, path=path, code=code, retry_after_s=retry_after_s)


def _field_conflicts(status: Mapping[str, Any]) -> tuple[FieldConflict, ...]:
    details = status.get("details")
    causes = details.get("causes") if isinstance(details, dict) else None
    if not isinstance(causes, list):
        return ()
    return tuple(
        FieldConflict(field=str(cause.get("field", "")), manager=str(cause.get("message", "")))
        for cause in causes[:32]
        if isinstance(cause, dict) and cause.get("reason") == "FieldManagerConflict"
    )
