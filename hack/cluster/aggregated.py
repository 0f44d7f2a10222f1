"""An API group that a test serves itself: the API server sends the group's requests here, a function answers them.

It stands behind the aggregation layer as an adapter does: an APIService, TLS with a certificate for the service's name,
and the front proxy's client certificate is demanded. It makes nothing up: what the function does not know is answered
as the function says, and an answer that fails is kept in `failures` and told as an error of the server.
"""

import base64
import http.server
import json
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import parse_qs, urlsplit

from hack.cluster.cluster import Cluster
from hack.cluster.errors import ApiError, ClusterError

READY_SECONDS: Final = 90.0


@dataclass(frozen=True, slots=True)
class Request:
    """One question to the group."""

    path: str
    """Below /apis/GROUP/VERSION/; never empty: discovery is answered here."""
    query: Mapping[str, str]
    """Parameters; of a repeated one, all values with commas between."""
    user: str
    """Who asks, as the API server knows them."""
    at: float
    """time.monotonic() when it arrived."""


Reply = tuple[HTTPStatus, dict[str, Any]]
Answer = Callable[[Request], Reply]


def refusal(message: str) -> Reply:
    """Return the answer to a question that nobody here understands."""
    return HTTPStatus.NOT_FOUND, {"kind": "Status", "apiVersion": "v1", "message": message}


class AggregatedApi:
    """The server and its registration; a context manager. `answer` is called in a thread for each connection."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        namespace: str,
        group_version: str,
        resources: list[dict[str, Any]],
        answer: Answer,
        service: str = "metrics-double",
    ) -> None:
        self._cluster, self._namespace, self._service = cluster, namespace, service
        self._group, _, self._version = group_version.partition("/")
        listed = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources}
        self._server = _Server(f"/apis/{group_version}", listed, answer)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        pair = cluster.serving_certificate(f"{service}.{namespace}.svc")
        tls.load_cert_chain(pair.certificate, pair.key)
        tls.load_verify_locations(cluster.front_proxy_ca)
        tls.verify_mode = ssl.CERT_REQUIRED
        # The handshake belongs into the connection's own thread, not into the one that accepts.
        self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._server.serve_forever, name=service, daemon=True)

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
        path = f"/apis/apiregistration.k8s.io/v1/apiservices/{self._version}.{self._group}"
        self._cluster.request("DELETE", path)
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
                "metadata": {"name": self._service},
                "spec": {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]},
            },
        )
        self._cluster.request(
            "POST",
            "/apis/apiregistration.k8s.io/v1/apiservices",
            {
                "metadata": {"name": f"{self._version}.{self._group}"},
                "spec": {
                    "group": self._group,
                    "version": self._version,
                    "groupPriorityMinimum": 100,
                    "versionPriority": 100,
                    "service": {"name": self._service, "namespace": self._namespace, "port": port},
                    "caBundle": base64.b64encode(self._cluster.ca.read_bytes()).decode(),
                },
            },
        )
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                self._cluster.request("GET", f"/apis/{self._group}/{self._version}")
            except (ApiError, ClusterError) as error:
                if time.monotonic() > deadline:
                    raise ClusterError(f"{self._group} is not served after {READY_SECONDS:.0f} s: {error}") from error
                time.sleep(0.1)
            else:
                return


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, base: str, resources: dict[str, Any], answer: Answer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.base, self.resources, self.answer = base, resources, answer
        self.failures: list[str] = []

    def handle_error(self, request: object, client_address: object) -> None:
        """Connections end when the API server ends; that is not a failure of an answer."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        at = time.monotonic()
        url = urlsplit(self.path)
        path = url.path.removeprefix(self.server.base).strip("/")
        if not path:
            self._say(HTTPStatus.OK, self.server.resources)
            return
        query = {name: ",".join(values) for name, values in parse_qs(url.query).items()}
        # Only the front proxy gets here, and it takes away what a client itself says in this header.
        request = Request(path, query, self.headers.get("X-Remote-User", ""), at)
        try:
            code, body = self.server.answer(request)
        except Exception as error:  # noqa: BLE001 - an answer may fail in any way; the caller reads it in `failures`
            self.server.failures.append(f"{path}: {type(error).__name__}: {error}")
            code = HTTPStatus.INTERNAL_SERVER_ERROR
            body = {"kind": "Status", "apiVersion": "v1", "message": str(error)}
        self._say(code, body)

    def _say(self, code: HTTPStatus, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - named as in the standard library
        """Write no log: there are several questions a second."""
