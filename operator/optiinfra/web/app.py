"""The operator's HTTP application on port 8080: health, metrics, agents, rounds and status, with `/docs`."""

from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from optiinfra import __version__
from optiinfra.web import agents, health, optimize, patches, savings
from optiinfra.web.agents import AgentTable
from optiinfra.web.authentication import Gate
from optiinfra.web.leader import follower_proxy
from optiinfra.web.ports import Forwarder, OperatorView, Reviewer
from optiinfra.web.problems import CLOSED, OPEN

_BODY_LIMIT = 64 << 10


async def _bound_body(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Refuse bodies without a length or with too much of it, whatever the method, before anybody reads them."""
    needed = request.method in {"POST", "PUT", "PATCH"} or "transfer-encoding" in request.headers
    length = request.headers.get("content-length", "" if needed else "0")
    if not _is_bounded(length) or "transfer-encoding" in request.headers:
        return JSONResponse({"detail": f"send Content-Length of at most {_BODY_LIMIT} bytes"}, status_code=413)
    return await call_next(request)


def _is_bounded(length: str) -> bool:
    # Digits of other scripts and numbers of thousands of digits would both raise in int().
    return length.isascii() and length.isdigit() and len(length) <= 9 and int(length) <= _BODY_LIMIT


def create_app(*, operator: OperatorView, reviewer: Reviewer | None, forwarder: Forwarder | None) -> FastAPI:
    """Assemble the application.

    Args:
        operator: the operator as seen from outside.
        reviewer: who checks tokens; None switches authentication off (tests only).
        forwarder: how a follower reaches the leader; None when there is only one replica.
    """
    app = FastAPI(
        title="OptiInfra",
        version=__version__,
        description="Finds and removes waste in clusters that serve LLMs. All but health and metrics need a token.",
    )
    app.state.operator = operator
    app.state.gate = Gate(reviewer)
    app.state.agents = AgentTable()
    app.state.agents.show()
    app.include_router(health.router, responses=OPEN)
    for closed in (agents, optimize, patches, savings):
        app.include_router(closed.router, responses=CLOSED)
    app.middleware("http")(follower_proxy(operator, forwarder))
    app.middleware("http")(_bound_body)
    return app
