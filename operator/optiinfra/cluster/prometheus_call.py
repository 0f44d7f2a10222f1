"""Calls that share one pace: the same call again where the server was only busy, and a count of what was asked.

Every call of a report goes through here, those that count series too, so that what is said about its cost is all of it.
"""

from collections.abc import Mapping
from typing import Final

from optiinfra.cluster.errors import ClusterError
from optiinfra.cluster.prometheus_answer import Piece
from optiinfra.cluster.prometheus_http import PrometheusHttp, Reply
from optiinfra.cluster.prometheus_pace import Pace
from optiinfra.cluster.prometheus_refusals import Helps, helps
from optiinfra.cluster.prometheus_rows import Key, Rows, rows
from optiinfra.domain.units import Seconds

_RANGE: Final = "api/v1/query_range"


class Caller:
    """Asks one server at the pace that it can bear."""

    def __init__(self, http: PrometheusHttp, pace: Pace, *, timeout: Seconds) -> None:
        self.http = http
        self.pace = pace
        self._timeout = f"{max(1.0, timeout - 1.0):.0f}s"
        self.calls = 0
        """All that were sent, the refused ones among them."""

    async def call(self, path: str, given: Mapping[str, str]) -> Reply:
        """Ask until there is an answer or waiting does not help. Raises `ClusterError`."""
        while True:
            try:
                async with self.pace.turn():
                    self.calls += 1
                    reply = await self.http.call(path, given)
            except ClusterError as error:
                if helps(error) is not Helps.WAIT:
                    raise
                await self.pace.busy(error)
            else:
                self.pace.answered()
                return reply

    async def range(self, query: str, piece: Piece) -> Reply:
        """Ask for a piece of a range."""
        given = {
            "query": query,
            "start": f"{piece.start:.3f}",
            "end": f"{piece.end:.3f}",
            "step": f"{piece.step:.3f}",
            "timeout": self._timeout,
            "stats": "all",
        }
        return await self.call(_RANGE, given)

    async def rows(self, query: str, piece: Piece, *, by: Key, most_series: int) -> Rows:
        """Ask for a small piece and read it here. Raises `ClusterError`."""
        reply = await self.range(query, piece)
        return self.read(reply, piece, by=by, most_series=most_series)

    def read(self, reply: Reply, piece: Piece, *, by: Key, most_series: int) -> Rows:
        """Read an answer; its errors name the server. Raises `ClusterError`."""
        try:
            return rows(reply.body, piece, by=by, most_series=most_series)
        except ClusterError as error:
            raise self.http.error(type(error), error.message) from error
