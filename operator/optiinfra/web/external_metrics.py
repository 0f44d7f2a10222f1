"""`external.metrics.k8s.io/v1beta1`: the decided replicas as the metric `optiinfra_desired_replicas`.

The HPA controller reads it through the API server's aggregation layer. The caller proves to be the API server with
its front-proxy client certificate (verified by TLS against the requestheader CA, the name checked here); whom it
speaks for stands in headers that are believed only then, and a SubjectAccessReview decides. A service for which the
operator is unsure is absent from the answer, so that the HPA says so instead of following an old number.

It serves nothing else: no custom metrics, no other external metric, no writes.
"""

import logging
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol
from urllib.parse import unquote

from aiohttp import web

from optiinfra.cluster.errors import ClusterError
from optiinfra.web.ports import Caller, Decision, Reviewer

_LOG = logging.getLogger(__name__)
_GROUP_VERSION = "external.metrics.k8s.io/v1beta1"
METRIC = "optiinfra_desired_replicas"
NAME_LABEL = "optiinfra.io/name"
_CALLER = web.RequestKey("caller", Caller)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class RequestHeaders(Protocol):
    """The API server's front-proxy configuration, as `optiinfra.cluster.access` reads it."""

    @property
    def allowed_names(self) -> Sequence[str]:
        """Common names a front proxy may have; empty allows any that the CA signed."""

    @property
    def username_headers(self) -> Sequence[str]:
        """Headers that carry the user."""

    @property
    def group_headers(self) -> Sequence[str]:
        """Headers that carry the groups."""

    @property
    def extra_header_prefixes(self) -> Sequence[str]:
        """Prefixes of headers that carry further attributes."""


@dataclass(frozen=True, slots=True)
class ExternalMetrics:
    """The API as an aiohttp application."""

    decisions: Callable[[str], Awaitable[Sequence[Decision]]]
    """Published decisions of a namespace; asks the leader when this replica does not lead."""
    permit: Callable[[Caller, str, str], Awaitable[bool]]
    """(caller, namespace, metric) -> may read."""
    headers: RequestHeaders

    def application(self) -> web.Application:
        """Assemble the application."""

        @web.middleware
        async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._authenticate(request, handler)

        app = web.Application(client_max_size=4096, middlewares=[authenticate])
        base = "/apis/external.metrics.k8s.io/v1beta1"
        app.router.add_get(base, self._resources)
        app.router.add_get(base + "/namespaces/{namespace}/{metric}", self._values)
        return app

    async def _authenticate(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        caller = self._caller(request)
        if caller is None:
            return _status(401, "Unauthorized", "only the API server's front proxy may call this API")
        request[_CALLER] = caller
        return await handler(request)

    def _caller(self, request: web.Request) -> Caller | None:
        # TLS has verified the chain (CERT_OPTIONAL against the requestheader CA); without a certificate peercert is
        # empty. Only after this check may any X-Remote header be believed.
        certificate = request.transport.get_extra_info("peercert") if request.transport else None
        if not certificate:
            return None
        names = [value for rdn in certificate.get("subject", ()) for key, value in rdn if key == "commonName"]
        if self.headers.allowed_names and not set(names) & set(self.headers.allowed_names):
            return None
        user = next((request.headers[name] for name in self.headers.username_headers if name in request.headers), "")
        if not user:
            return None
        groups = tuple(value for name in self.headers.group_headers for value in request.headers.getall(name, ()))
        extra: dict[str, tuple[str, ...]] = {}
        for name, value in request.headers.items():
            for prefix in self.headers.extra_header_prefixes:
                if name.lower().startswith(prefix.lower()):
                    key = unquote(name[len(prefix) :].lower())
                    extra[key] = (*extra.get(key, ()), value)
        return Caller(user=user, groups=groups, extra=extra)

    async def _resources(self, _request: web.Request) -> web.Response:
        return web.json_response(
            {
                "kind": "APIResourceList",
                "apiVersion": "v1",
                "groupVersion": _GROUP_VERSION,
                "resources": [
                    {
                        "name": METRIC,
                        "singularName": "",
                        "namespaced": True,
                        "kind": "ExternalMetricValueList",
                        "verbs": ["get"],
                    }
                ],
            }
        )

    async def _values(self, request: web.Request) -> web.Response:
        namespace, metric = request.match_info["namespace"], request.match_info["metric"]
        try:
            permitted = await self.permit(request[_CALLER], namespace, metric)
        except ClusterError as error:
            return _status(503, "ServiceUnavailable", f"the API server could not be asked who may read: {error}")
        if not permitted:
            return _status(403, "Forbidden", f"{request[_CALLER].user} may not get {metric} in namespace {namespace}")
        if metric != METRIC:
            return _status(404, "NotFound", f"the only external metric here is {METRIC}")
        try:
            wanted = _selected_names(",".join(request.query.getall("labelSelector", ())))
        except ValueError as error:
            return _status(400, "BadRequest", str(error))
        items = [
            _item(decision) for decision in await self.decisions(namespace) if wanted is None or decision.name in wanted
        ]
        return web.json_response(
            {"kind": "ExternalMetricValueList", "apiVersion": _GROUP_VERSION, "metadata": {}, "items": items}
        )


def _item(decision: Decision) -> dict[str, Any]:
    return {
        "metricName": METRIC,
        "metricLabels": {NAME_LABEL: decision.name},
        "timestamp": datetime.fromtimestamp(decision.decided_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "value": str(decision.replicas),
    }


def _selected_names(selector: str) -> set[str] | None:
    """Names that a label selector picks: only equality on our one label is understood; None means all.

    Raises:
        ValueError: for anything else. Ignoring a term would add up the replicas of several services.
    """
    names: set[str] | None = None
    for term in filter(None, (part.strip() for part in selector.split(","))):
        key, separator, value = term.partition("==") if "==" in term else term.partition("=")
        if not separator or key.strip() != NAME_LABEL or not value.strip():
            raise ValueError(f"labelSelector '{term}' is not understood; use {NAME_LABEL}=<name of the service>")
        names = {value.strip()} if names is None else names & {value.strip()}
    return names


def _status(code: int, reason: str, message: str) -> web.Response:
    return web.json_response(
        {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": message, "code": code},
        status=code,
    )


def tls_context(*, certificate_file: str, key_file: str, client_authority: str) -> ssl.SSLContext:
    """TLS for the aggregation layer: our certificate, and client certificates of the requestheader CA (PEM text)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate_file, key_file)
    context.load_verify_locations(cadata=client_authority)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


def reviewed(reviewer: Reviewer) -> Callable[[Caller, str, str], Awaitable[bool]]:
    """Authorise readers of a metric by SubjectAccessReview, as other metrics servers do."""

    async def permit(caller: Caller, namespace: str, metric: str) -> bool:
        return await reviewer.authorize(
            caller,
            verb="get",
            group="external.metrics.k8s.io",
            resource=metric,
            namespace=namespace,
            name="",
            subresource="",
        )

    return permit
