"""A small JSON client of the API server for the cluster's own set-up, with the admin certificate.

Standard library only. It is not a general client: no watches, no retries, answers of bounded size. Tests of
the operator use their own clients.
"""

import http.client
import json
import ssl
from pathlib import Path
from typing import Any

from hack.cluster.certificates import Pair
from hack.cluster.errors import ApiError, ClusterError

TIMEOUT_SECONDS = 20.0
ANSWER_BYTES = 64 * 1024 * 1024


class Client:
    """Sends one request at a time to one API server."""

    def __init__(self, *, port: int, authority: Path, user: Pair) -> None:
        self._port = port
        self._tls = ssl.create_default_context(cafile=str(authority))
        self._tls.load_cert_chain(user.certificate, user.key)

    def request(
        self, method: str, path: str, body: object = None, *, content_type: str = "application/json"
    ) -> dict[str, Any]:
        """Send a request and return its JSON answer; raise ApiError on an answer that is not a success."""
        return document_of(f"{method} {path}", self.text(method, path, body, content_type=content_type))

    def text(self, method: str, path: str, body: object = None, *, content_type: str = "application/json") -> str:
        """Send a request and return its answer as text; raise ApiError when it is not a success."""
        connection = http.client.HTTPSConnection("127.0.0.1", self._port, timeout=TIMEOUT_SECONDS, context=self._tls)
        return exchange(connection, method, path, body, content_type=content_type)


def exchange(connection: http.client.HTTPConnection, method: str, path: str, body: object, *, content_type: str) -> str:
    """Send the one request of a connection, and close it; raise ApiError on an answer that is not a success."""
    try:
        content = None if body is None else json.dumps(body)
        headers = {"Accept": "application/json"} | ({} if body is None else {"Content-Type": content_type})
        connection.request(method, path, body=content, headers=headers)
        answer = connection.getresponse()
        text = answer.read(ANSWER_BYTES).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        raise ClusterError(f"{method} {path}: {error}") from error
    finally:
        connection.close()
    if answer.status >= 300:
        raise error_of(answer.status, answer.reason, text)
    return text


def document_of(asked: str, text: str) -> dict[str, Any]:
    """Return the JSON object that was answered; raise ClusterError when it is none."""
    try:
        answer = json.loads(text)
    except ValueError as error:
        raise ClusterError(f"{asked}: the answer is not JSON: {text[:200]}") from error
    if not isinstance(answer, dict):
        raise ClusterError(f"{asked}: the answer is not a JSON object: {text[:200]}")
    return answer


def error_of(code: int, reason: str, text: str) -> ApiError:
    """Return the error for an answer that is not a success."""
    try:
        status = json.loads(text)
        return ApiError(code, str(status.get("reason") or reason), str(status.get("message") or text))
    except (ValueError, AttributeError):
        return ApiError(code, reason, text[:500])
