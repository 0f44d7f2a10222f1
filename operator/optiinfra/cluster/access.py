"""Questions of identity and permission that only the API server can answer.

A token counts only if the server confirms it *for our audience*: a server that ignores audiences answers without
naming one, and that is a refusal here. Nothing is cached and nothing decided: callers do both.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import orjson

from optiinfra.cluster.client import KubernetesClient
from optiinfra.cluster.document import flag, mapping, text, texts
from optiinfra.cluster.errors import Absent, Malformed


class Subject(Protocol):
    """Whoever asks for something."""

    @property
    def user(self) -> str:
        """User name."""

    @property
    def groups(self) -> tuple[str, ...]:
        """Groups."""

    @property
    def extra(self) -> Mapping[str, tuple[str, ...]]:
        """Further attributes."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a token belongs to."""

    user: str
    groups: tuple[str, ...] = ()
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    uid: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether something is permitted, and the server's reason."""

    allowed: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Attributes:
    """What somebody wants to do."""

    verb: str
    group: str
    resource: str
    namespace: str = ""
    name: str = ""
    subresource: str = ""


@dataclass(frozen=True, slots=True)
class RequestHeaders:
    """How the API server's front proxy identifies itself and the user it speaks for."""

    client_authority: str
    """PEM of the CA that signs the proxy's client certificate."""
    allowed_names: Sequence[str]
    """Accepted common names; empty accepts any that the CA signed."""
    username_headers: Sequence[str]
    group_headers: Sequence[str]
    extra_header_prefixes: Sequence[str]


@dataclass(frozen=True, slots=True)
class ServiceReference:
    """A Service behind an APIService."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class ServerVersion:
    """The API server's version."""

    major: int
    minor: int
    text: str


class Access:
    """Asks the API server."""

    def __init__(self, client: KubernetesClient, *, audience: str = "optiinfra") -> None:
        self._client = client
        self._audience = audience

    async def review_token(self, token: str) -> Identity | None:
        """Return whose token this is, or None when it is not good for our audience."""
        if not token or len(token) > 16 * 1024:
            return None
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [self._audience]},
        }
        answer = await self._client.review("/apis/authentication.k8s.io/v1/tokenreviews", body)
        if not flag(answer, "status", "authenticated") or self._audience not in texts(answer, "status", "audiences"):
            return None
        extra = mapping(answer, "status", "user", "extra")
        return Identity(
            user=text(answer, "status", "user", "username"),
            groups=texts(answer, "status", "user", "groups"),
            extra={name: texts(extra, name) for name in extra},
            uid=text(answer, "status", "user", "uid"),
        )

    async def may(self, subject: Subject, attributes: Attributes) -> Verdict:
        """Ask whether somebody may do something (SubjectAccessReview)."""
        spec = {
            "user": subject.user,
            "groups": list(subject.groups),
            "extra": {name: list(values) for name, values in subject.extra.items()},
            "resourceAttributes": _attributes(attributes),
        }
        return await self._review("SubjectAccessReview", "subjectaccessreviews", spec)

    async def may_i(self, attributes: Attributes) -> Verdict:
        """Ask whether this process may do something (SelfSubjectAccessReview)."""
        spec = {"resourceAttributes": _attributes(attributes)}
        return await self._review("SelfSubjectAccessReview", "selfsubjectaccessreviews", spec)

    async def _review(self, kind: str, plural: str, spec: Mapping[str, object]) -> Verdict:
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec}
        answer = await self._client.review(f"/apis/authorization.k8s.io/v1/{plural}", body)
        allowed = flag(answer, "status", "allowed") and not flag(answer, "status", "denied")
        return Verdict(allowed, text(answer, "status", "reason") or text(answer, "status", "evaluationError"))

    async def request_headers(self) -> RequestHeaders:
        """Read the front proxy's configuration; `Absent` when the cluster has no aggregation layer."""
        path = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication"
        data = mapping(await self._client.get(path), "data")
        authority = text(data, "requestheader-client-ca-file")
        if not authority:
            raise Absent("the API server has no aggregation layer (no requestheader-client-ca-file)", path=path)

        def names(key: str) -> tuple[str, ...]:
            written = text(data, f"requestheader-{key}") or "[]"
            try:
                return texts({key: orjson.loads(written)}, key)
            except orjson.JSONDecodeError as error:
                raise Malformed(f"{path}: requestheader-{key} is not a JSON list") from error

        return RequestHeaders(
            client_authority=authority,
            allowed_names=names("allowed-names"),
            username_headers=names("username-headers"),
            group_headers=names("group-headers"),
            extra_header_prefixes=names("extra-headers-prefix"),
        )

    async def external_metrics_owner(self) -> ServiceReference | None:
        """Return the Service that serves external.metrics.k8s.io/v1beta1, or None when nobody claims it."""
        path = "/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.external.metrics.k8s.io"
        try:
            service = mapping(await self._client.get(path), "spec", "service")
        except Absent:
            return None
        return ServiceReference(text(service, "namespace"), text(service, "name"))

    async def server_version(self) -> ServerVersion:
        """Return the server's version; some distributions write the minor as "36+"."""
        answer = await self._client.get("/version")
        numbers = [re.match(r"[0-9]{1,4}", text(answer, part)) for part in ("major", "minor")]
        if numbers[0] is None or numbers[1] is None:
            raise Malformed(f"the server calls its version {text(answer, 'gitVersion')[:64]!r}", path="/version")
        return ServerVersion(int(numbers[0][0]), int(numbers[1][0]), text(answer, "gitVersion"))


def _attributes(attributes: Attributes) -> dict[str, str]:
    written = {
        "verb": attributes.verb,
        "group": attributes.group,
        "resource": attributes.resource,
        "namespace": attributes.namespace,
        "name": attributes.name,
        "subresource": attributes.subresource,
    }
    return {name: value for name, value in written.items() if value}
