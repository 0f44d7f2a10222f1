"""The server: uvicorn's settings, and bounds on connections that uvicorn does not have.

uvicorn starts no timer for a client that connects and stays silent, and its concurrency limit answers 503 to
everybody, the kubelet included, once enough of them are there. So a connection has a total time between two finished
answers, and when there are too many the oldest is cut: a flood throws out its own connections.
"""

import asyncio
import socket
from typing import Any, cast

import uvicorn
from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, Scope
from uvicorn.protocols.http.h11_impl import H11Protocol

from optiinfra_agent.server import CERTIFIED, Application
from optiinfra_agent.stop import Stop
from optiinfra_agent.tls import Tls

_KEEP_ALIVE_S = 20  # longer than a usual scrape interval, so that scrapers keep their connection
REQUEST_S = 25.0
_HEADERS_LIMIT = 16 * 1024
_GRACE_S = 1


def make_server(
    application: Application, *, connections: int, request_s: float = REQUEST_S, tls: Tls | None = None
) -> uvicorn.Server:
    """Return the server, ready for `serve(sockets=[...])`."""
    config = uvicorn.Config(
        application,
        http=type("Protocol", (BoundedProtocol,), {"most": connections, "request_s": request_s, "tls": tls}),
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_GRACE_S,
        h11_max_incomplete_event_size=_HEADERS_LIMIT,
        proxy_headers=False,
    )
    if tls is not None:
        # uvicorn would make a context of its own from the files and keep their certificate for ever.
        config.load()
        config.ssl = tls.context
    return uvicorn.Server(config)


def certified(application: ASGI3Application) -> ASGI3Application:
    """Return the application as it answers a client that showed a certificate of the client CA."""

    async def answer(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        cast("dict[str, object]", scope)[CERTIFIED] = True
        await application(scope, receive, send)

    return answer


class BoundedProtocol(H11Protocol):
    """uvicorn's HTTP protocol with a total time for each request and a bound on open connections."""

    most = 64
    request_s = REQUEST_S
    tls: Tls | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._deadline: asyncio.TimerHandle | None = None
        self.since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Take a connection, at the cost of the oldest one if there are too many."""
        super().connection_made(transport)
        if self.tls is not None:
            self.tls.look()
            if transport.get_extra_info("peercert"):
                # Present only of a certificate that the client CA has signed.
                self.app = certified(self.app)
        self._arm()
        if len(self.connections) > self.most:
            others = [one for one in self.connections if isinstance(one, BoundedProtocol) and one is not self]
            oldest = min(others, key=lambda one: one.since)
            # Out of the set at once: its end is reported only in the loop's next turn, and until then a burst of
            # new connections would choose the same one again and again.
            self.connections.discard(oldest)
            oldest.transport.abort()

    def on_response_complete(self) -> None:
        """Give the next request its own time."""
        self._arm()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of the timer with the connection."""
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def _arm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self.since = self.loop.time()
        # Abort, not close: close waits for a client that does not read.
        self._deadline = self.loop.call_later(self.request_s, self.transport.abort)


async def serve(
    application: Application, *, listener: socket.socket, connections: int, tls: Tls | None, stop: Stop
) -> None:
    """Serve the pages until a signal ends them."""
    server = make_server(application, connections=connections, tls=tls)
    stop.attach(server)
    if not stop.requested:
        await server.serve(sockets=[listener])
