"""Small GET and POST calls to the demonstration's own servers on loopback, bounded in time and size."""

import http.client
import json
from collections.abc import Mapping
from typing import Any

from hack.demo.errors import DemoError

TIMEOUT_SECONDS = 3.0
MAX_ANSWER_BYTES = 8 * 2**20


def call(
    port: int, path: str, *, method: str = "GET", token: str | None = None, accept: tuple[int, ...] = (200,)
) -> Any:
    """Return the JSON answer of a server on 127.0.0.1; raise DemoError when there is none."""
    headers: Mapping[str, str] = {} if token is None else {"Authorization": f"Bearer {token}"}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request(method, path, headers=dict(headers))
        answer = connection.getresponse()
        body = answer.read(MAX_ANSWER_BYTES)
        status = answer.status
    except (OSError, http.client.HTTPException) as error:
        raise DemoError(f"{method} http://127.0.0.1:{port}{path}: {type(error).__name__}: {error}") from error
    finally:
        connection.close()
    if status not in accept:
        raise DemoError(f"{method} http://127.0.0.1:{port}{path}: HTTP {status}: {body[:300].decode(errors='replace')}")
    try:
        return json.loads(body)
    except ValueError as error:
        raise DemoError(f"{method} http://127.0.0.1:{port}{path}: the answer is not JSON") from error
