"""Followers answer too: calls to the API are passed on to the leader, which alone knows and decides.

The caller's own token travels with the call and the leader checks it again, so a follower grants nothing. Health,
metrics and documentation are always answered by the replica that was asked. When nobody leads the answer is 503 with
the reason, never an old answer of this replica.
"""

from collections.abc import Awaitable, Callable
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from optiinfra.cluster.errors import FetchError
from optiinfra.web.ports import Forwarder, OperatorView


def _is_ours(path: str) -> bool:
    return not path.startswith("/api/v1/") or path.startswith("/api/v1/health")


def _target(request: Request) -> str:
    """Path and query as they came: decoding them once more would make another request of them."""
    raw: bytes = request.scope.get("raw_path") or quote(request.scope["path"]).encode()
    query: bytes = request.scope["query_string"]
    return (raw + (b"?" + query if query else b"")).decode("ascii", "replace")


def follower_proxy(
    view: OperatorView, forwarder: Forwarder | None
) -> Callable[[Request, Callable[[Request], Awaitable[Response]]], Awaitable[Response]]:
    """Build the middleware that passes API calls on while this replica does not lead."""

    async def middleware(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        if view.leading or forwarder is None or _is_ours(request.url.path):
            return await call_next(request)
        if request.headers.get("x-optiinfra-forwarded"):
            return JSONResponse({"detail": "leadership is changing hands; try again in a few seconds"}, status_code=503)
        address = view.leader_address
        if not address:
            return JSONResponse(
                {"detail": "no replica leads at the moment; try again in a few seconds"}, status_code=503
            )
        headers = {"x-optiinfra-forwarded": "1"} | {
            name: value
            for name, value in request.headers.items()
            if name.lower() in {"authorization", "content-type", "accept"}
        }
        try:
            # The body is bounded: `app` refuses larger ones before this is asked.
            status, content_type, body = await forwarder.forward(
                request.method, address, _target(request), headers=headers, body=await request.body()
            )
        except FetchError as error:
            return JSONResponse({"detail": f"the leader did not answer: {error}"}, status_code=503)
        return Response(body, status_code=status, media_type=content_type)

    return middleware
