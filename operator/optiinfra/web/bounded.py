"""uvicorn's HTTP protocol with two bounds that uvicorn lacks: on the time of a request, and on open connections.

uvicorn starts no timer for a client that connects and says nothing or little, and its own limit of concurrency answers
503 to everybody, the kubelet's probes included, once enough of these are there: a few hundred silent connections from
any pod would have the operator restarted. Here a connection has a total time between two finished answers, and when
there are too many the one that is idle longest is cut, so a flood throws out its own. The agent's pages have the same
rule of their own, because the agent imports nothing of the operator.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_SECONDS = 30.0
"""For a whole request and its answer; above the longest wait of a handler, 25 s for a dry run."""
MOST_CONNECTIONS = 512


class BoundedProtocol(H11Protocol):
    """One connection."""

    request_seconds = REQUEST_SECONDS
    most = MOST_CONNECTIONS

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._deadline: asyncio.TimerHandle | None = None
        self.since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Take a connection, at the cost of the one that is idle longest if there are too many."""
        super().connection_made(transport)
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
        self._deadline = self.loop.call_later(self.request_seconds, self.transport.abort)
