"""A Prometheus-compatible server (Prometheus, Thanos, Mimir, VictoriaMetrics): ranges and moments of single queries.

Such a server answers at most 11,000 points a series, and less where its samples or its time run out: a long range is
asked for in pieces, one after the other, and a piece that is too large for the server is halved. What it refuses for
another reason is told at once, in its own words. Bounded in points, bytes, series, time and tries. How a call is made
is in `prometheus_http`, what an answer means in `prometheus_answer` and `prometheus_vector`; many questions over one
grid of time, gently, are `prometheus_ask`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from optiinfra.cluster.errors import ClusterError, Denied, Invalid, Malformed, Unconfigured
from optiinfra.cluster.prometheus_answer import Matrix, Piece, RangeSeries, joined, matrix
from optiinfra.cluster.prometheus_http import PrometheusHttp
from optiinfra.cluster.prometheus_range import DEFAULT_LIMITS, QueryLimits, RangeQuery, RangeSize, worth_waiting
from optiinfra.cluster.prometheus_server import PrometheusServer
from optiinfra.cluster.prometheus_vector import Vector, vector
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.units import Seconds, UnixTime

__all__ = ["Prometheus", "PrometheusServer", "RangeAnswer"]

_RANGE: Final = "api/v1/query_range"
_INSTANT: Final = "api/v1/query"
_LONGEST_DETAIL: Final = 256


@dataclass(frozen=True, slots=True)
class RangeAnswer:
    """All pieces together."""

    series: tuple[RangeSeries, ...]
    warnings: tuple[str, ...]
    """What the server said beside it: for example that a part of its stores did not answer."""
    calls: int


class Prometheus:
    """Asks one server. Use as an async context manager; entering it raises `Unconfigured` for a file or header."""

    def __init__(
        self,
        server: PrometheusServer,
        *,
        limits: QueryLimits = DEFAULT_LIMITS,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._limits = limits
        self._sleep = sleep
        self._http = PrometheusHttp(server, limits=limits)

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.__aexit__(kind, error, trace)

    async def query_range(self, query: RangeQuery, *, on_points: Callable[[int], None] | None = None) -> RangeAnswer:
        """Ask for a range, piece by piece; `on_points` is told how many more points are there.

        Raises:
            ClusterError: Invalid (the server refuses the query), Denied, Throttled, Unavailable, Malformed, or
                Unconfigured (the token or CA file). The message names the server and what it said.
        """
        limits = self._limits
        if query.points > limits.total_points:
            raise Invalid(f"{query.points} points are asked for, at most {limits.total_points}; use a longer step")
        pieces: list[Matrix] = []
        size = RangeSize(min(limits.points, query.points), least=limits.least_points)
        first, failures, calls = 0, 0, 0
        while first < query.points:
            piece = Piece(query.start + first * query.step, query.step, min(size.points, query.points - first))
            calls += 1
            try:
                pieces.append(await self._ask(query.query, piece))
            except ClusterError as error:
                failures += 1
                smaller = size.shrunk(error, asked=piece.points)
                most = limits.failures if error.code or smaller else limits.connection_failures
                if failures >= most or not (smaller or worth_waiting(error)):
                    raise
                await self._pause(error, failures=failures)
                continue
            failures = 0
            first += piece.points
            size.held()
            if on_points is not None:
                on_points(piece.points)
        series, warnings = joined(pieces)
        return RangeAnswer(series, warnings, calls)

    async def _pause(self, error: ClusterError, *, failures: int) -> None:
        """Wait as long as the server asks for, else longer each time; not where only the size was wrong."""
        if isinstance(error, Invalid):
            return
        asked = error.retry_after_s if error.retry_after_s is not None else 0.5 * 2.0 ** (failures - 1)
        await self._sleep(min(max(asked, 0.0), self._limits.longest_wait_s))

    async def instant(
        self, queries: Sequence[str], *, at: UnixTime, lookback: Seconds = Seconds(300.0)
    ) -> tuple[Vector | Unknown, ...]:
        """Ask for what is true at one moment: one answer a query, in their order; never raises for an answer.

        Meant for a few queries that each cover the whole fleet (`max by (namespace, pod) (...)`), not one an object;
        at most `limits.at_once` of them run at the same moment. One that fails is `Unknown` with the server's words,
        and leaves the others alone.

        Staleness: a series whose target went away has no row (Prometheus marks it stale within a scrape); one that
        was only not written lately has none either once its newest sample is older than `lookback`. That is asked for
        as `lookback_delta` (newer Prometheus, Thanos) and `max_lookback` (VictoriaMetrics); a server that knows
        neither uses its own, five minutes unless configured. Where less matters, let the query say it:
        `x and present_over_time(x[1m])`. A row is thus what was measured at most `lookback` before `Vector.at`.
        """
        slots = asyncio.Semaphore(self._limits.at_once)

        async def one(query: str) -> Vector | Unknown:
            async with slots:
                return await self._moment(query, at=at, lookback=lookback)

        return tuple(await asyncio.gather(*(one(query) for query in queries)))

    async def _moment(self, query: str, *, at: UnixTime, lookback: Seconds) -> Vector | Unknown:
        within = f"{max(1.0, lookback):.0f}s"
        given = {"query": query, "time": f"{at:.3f}", "lookback_delta": within, "max_lookback": within}
        failures = 0
        while True:
            try:
                return await self._vector(given, at=at)
            except ClusterError as error:
                failures += 1
                most = self._limits.failures if error.code else self._limits.connection_failures
                if failures >= most or not worth_waiting(error):
                    return Unknown(_reason(error), str(error)[:_LONGEST_DETAIL])
                await self._pause(error, failures=failures)

    async def _vector(self, given: dict[str, str], *, at: UnixTime) -> Vector:
        reply = await self._http.call(_INSTANT, given | {"timeout": self._timeout})
        try:
            return vector(reply.body, at=at, most_series=self._limits.series)
        except (Malformed, Invalid) as error:
            raise self._http.error(type(error), error.message) from error

    async def _ask(self, query: str, piece: Piece) -> Matrix:
        given = {
            "query": query,
            "start": f"{piece.start:.3f}",
            "end": f"{piece.end:.3f}",
            "step": f"{piece.step:.3f}",
            "timeout": self._timeout,
        }
        reply = await self._http.call(_RANGE, given)
        try:
            return matrix(reply.body, piece, most_series=self._limits.series)
        except (Malformed, Invalid) as error:
            raise self._http.error(type(error), error.message) from error

    @property
    def _timeout(self) -> str:
        """What the server is told: it gives up before the caller does."""
        return f"{max(1.0, self._limits.timeout_s - 1.0):.0f}s"


def _reason(error: ClusterError) -> UnknownReason:
    if isinstance(error, Denied):
        return UnknownReason.REFUSED
    if isinstance(error, Malformed | Invalid):
        return UnknownReason.INVALID
    return UnknownReason.NOT_CONFIGURED if isinstance(error, Unconfigured) else UnknownReason.UNREACHABLE
