"""A double of `external.metrics.k8s.io`: the API server sends the controller's questions here, a function answers them.

It stands behind the aggregation layer as an adapter does (APIService, TLS, the front proxy's client certificate is
demanded). It knows one label selector, `workload=NAME`. Where the function has no answer the list is empty, which the
controller reports as a metric that failed; nothing is made up and no old value is repeated.
"""

import base64
import http.server
import json
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import parse_qs, urlsplit

from hack.cluster import Cluster
from hack.cluster.errors import ApiError, ClusterError

GROUP: Final = "external.metrics.k8s.io"
VERSION: Final = "v1beta1"
LABEL: Final = "workload"
METRIC: Final = "asked"
READY_SECONDS: Final = 90.0
_BASE: Final = f"/apis/{GROUP}/{VERSION}"
_SERVICE: Final = "metrics-double"


@dataclass(frozen=True, slots=True)
class Question:
    """One question of the controller."""

    workload: str
    at: float
    """time.monotonic() when it arrived."""


Answer = Callable[[Question], float | None]
"""The metric's total for a workload; None: there is none now."""


class MetricsApi:
    """The server and its registration; a context manager. `answer` is called in threads, one at a time a workload."""

    def __init__(self, cluster: Cluster, *, namespace: str, answer: Answer) -> None:
        self._cluster, self._namespace = cluster, namespace
        self._server = _Server(answer)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        pair = cluster.serving_certificate(f"{_SERVICE}.{namespace}.svc")
        tls.load_cert_chain(pair.certificate, pair.key)
        tls.load_verify_locations(cluster.front_proxy_ca)
        tls.verify_mode = ssl.CERT_REQUIRED
        # The handshake belongs into the connection's own thread, not into the one that accepts.
        self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics-double", daemon=True)

    @property
    def failures(self) -> list[str]:
        """What went wrong while answering; a caller looks at it before it believes anything."""
        return self._server.failures

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._register()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cluster.request("DELETE", f"/apis/apiregistration.k8s.io/v1/apiservices/{VERSION}.{GROUP}")
        self._stop()

    def _stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _register(self) -> None:
        port = self._server.server_port
        # A Service of type ExternalName is the only kind that leads to loopback.
        self._cluster.request(
            "POST",
            f"/api/v1/namespaces/{self._namespace}/services",
            {
                "metadata": {"name": _SERVICE},
                "spec": {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]},
            },
        )
        self._cluster.request(
            "POST",
            "/apis/apiregistration.k8s.io/v1/apiservices",
            {
                "metadata": {"name": f"{VERSION}.{GROUP}"},
                "spec": {
                    "group": GROUP,
                    "version": VERSION,
                    "groupPriorityMinimum": 100,
                    "versionPriority": 100,
                    "service": {"name": _SERVICE, "namespace": self._namespace, "port": port},
                    "caBundle": base64.b64encode(self._cluster.ca.read_bytes()).decode(),
                },
            },
        )
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                self._cluster.request("GET", _BASE)
            except (ApiError, ClusterError) as error:
                if time.monotonic() > deadline:
                    raise ClusterError(f"{GROUP} is not served after {READY_SECONDS:.0f} s: {error}") from error
                time.sleep(0.1)
            else:
                return


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, answer: Answer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.failures: list[str] = []

    def handle_error(self, request: object, client_address: object) -> None:
        """Connections end when the API server ends; that is not a failure of an answer."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        at = time.monotonic()
        url = urlsplit(self.path)
        if url.path.rstrip("/") == _BASE:
            self._say(HTTPStatus.OK, _RESOURCES)
            return
        selector = ",".join(parse_qs(url.query).get("labelSelector", ()))
        key, _, workload = selector.partition("=")
        if url.path.rpartition("/")[2] != METRIC or key != LABEL or not workload:
            reason = f"{url.path}?{url.query}: only {METRIC} with the label selector {LABEL}=NAME is known"
            self._say(HTTPStatus.NOT_FOUND, {"kind": "Status", "apiVersion": "v1", "message": reason})
            return
        try:
            total = self.server.answer(Question(workload, at))
        except Exception as error:  # noqa: BLE001 - an answer may fail in any way; the caller reads it in `failures`
            self.server.failures.append(f"{workload}: {type(error).__name__}: {error}")
            self._say(HTTPStatus.INTERNAL_SERVER_ERROR, {"kind": "Status", "apiVersion": "v1", "message": str(error)})
            return
        self._say(HTTPStatus.OK, values(workload, total))

    def _say(self, code: HTTPStatus, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - named as in the standard library
        """Write no log: there is one question a second and HPA."""


_RESOURCES: Final[dict[str, Any]] = {
    "kind": "APIResourceList",
    "apiVersion": "v1",
    "groupVersion": f"{GROUP}/{VERSION}",
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


def values(workload: str, total: float | None) -> dict[str, Any]:
    """Return the answer's body; totals are told to a thousandth, which is as precise as the controller reads them."""
    items = []
    if total is not None:
        items = [
            {
                "metricName": METRIC,
                "metricLabels": {LABEL: workload},
                "timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "value": f"{round(total * 1000.0)}m",
            }
        ]
    return {"kind": "ExternalMetricValueList", "apiVersion": f"{GROUP}/{VERSION}", "metadata": {}, "items": items}
