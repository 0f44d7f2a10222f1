"""A Prometheus-compatible server (Prometheus, Thanos, Mimir, VictoriaMetrics): ranges of one query, asked in pieces.

Such a server answers at most 11,000 points a series, and less where its samples or its time run out: a long range is
asked for in pieces, one after the other, and a piece that is too large for the server is halved. What it refuses for
another reason is told at once, in its own words. Bounded in points, bytes, series, time and tries; no redirects, which
would carry the token elsewhere, no proxies from the environment, no cookies. Neither the token nor the value of a
header ever stands in an error. What an answer means is in `prometheus_answer`.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import aiohttp
from yarl import URL

from optiinfra.cluster.connections import Connections
from optiinfra.cluster.errors import (
    ClusterError,
    Invalid,
    Malformed,
    Unavailable,
    Unconfigured,
    error_of,
)
from optiinfra.cluster.prometheus_answer import Matrix, Piece, RangeSeries, error_words, joined, matrix
from optiinfra.cluster.prometheus_range import (
    DEFAULT_LIMITS,
    QueryLimits,
    RangeQuery,
    RangeSize,
    TooSlow,
    worth_waiting,
)

_PATH: Final = "api/v1/query_range"
_LEAST_REDACTED: Final = 4
_GET_MOST: Final = 1_500
"""Longer queries go into the body: addresses are often cut at 2,000 characters on the way."""


@dataclass(frozen=True, slots=True)
class PrometheusServer:
    """Where it is and how to be let in."""

    url: URL
    """Base address, with a path where the server lives under one (Mimir: /prometheus)."""
    headers: tuple[tuple[str, str], ...] = ()
    """Sent with every call, such as X-Scope-OrgID; values are kept out of messages."""
    token_file: Path | None = None
    """Bearer token, read anew for each call because it rotates."""
    authority_file: Path | None = None
    """CA that signs the server's certificate; None: those that the system trusts."""

    @property
    def shown(self) -> str:
        """The address without what may be secret in it."""
        if not self.url.absolute:
            return "the server"
        return str(self.url.with_user(None).with_query(None).with_fragment(None)).rstrip("/")


@dataclass(frozen=True, slots=True)
class RangeAnswer:
    """All pieces together."""

    series: tuple[RangeSeries, ...]
    warnings: tuple[str, ...]
    """What the server said beside it: for example that a part of its stores did not answer."""
    calls: int


class Prometheus:
    """Asks one server. Use as an async context manager."""

    def __init__(
        self,
        server: PrometheusServer,
        *,
        limits: QueryLimits = DEFAULT_LIMITS,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._server = server
        self._limits = limits
        self._sleep = sleep
        self._connections = Connections()
        self._session: aiohttp.ClientSession | None = None
        self._tls: ssl.SSLContext | bool = True
        self._secrets: tuple[str, ...] = ()

    async def __aenter__(self) -> Self:
        self._check()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=1, socket_factory=self._connections.open),
            trust_env=False,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=self._limits.timeout_s, connect=min(10.0, self._limits.timeout_s)),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            await self._connections.end()
            self._session = None

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

    async def _ask(self, query: str, piece: Piece) -> Matrix:
        assert self._session is not None, "use it as an async context manager"
        headers = self._headers()
        given = {
            "query": query,
            "start": f"{piece.start:.3f}",
            "end": f"{piece.end:.3f}",
            "step": f"{piece.step:.3f}",
            "timeout": f"{max(1.0, self._limits.timeout_s - 1.0):.0f}s",
        }
        url = self._server.url.with_query(None).with_fragment(None) / _PATH
        short = len(query) <= _GET_MOST
        try:
            async with self._session.request(
                "GET" if short else "POST",
                url,
                params=given if short else None,
                data=None if short else given,
                headers=headers,
                allow_redirects=False,
                ssl=self._tls,
            ) as response:
                body = await self._body(response)
                if response.status != 200:
                    raise self._refused(response, body)
        except TimeoutError as error:
            raise self._error(TooSlow, f"no answer within {self._limits.timeout_s:g} s") from error
        except aiohttp.ClientConnectorCertificateError as error:
            text = "its certificate is not signed by a CA that is trusted here: name it with --ca-file"
            raise self._error(Unconfigured, text) from error
        except aiohttp.InvalidURL as error:
            raise self._error(Unconfigured, "not an address: write it like http://prometheus:9090") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise self._error(Unavailable, f"{type(error).__name__}: {error}") from error
        try:
            return matrix(body, piece, most_series=self._limits.series)
        except Malformed as error:
            raise self._error(Malformed, error.message) from error
        except Invalid as error:
            raise self._error(Invalid, error.message) from error

    def _check(self) -> None:
        """Read what is needed once, so that a wrong file is told before anything is asked."""
        server = self._server
        if server.url.scheme not in {"http", "https"} or not server.url.host:
            raise self._error(Unconfigured, "not an address: write it like http://prometheus:9090")
        if server.token_file is not None and server.url.user is not None:
            raise self._error(Unconfigured, "a token file and a user in the address: give one of them")
        if server.token_file is not None and any(name.lower() == "authorization" for name, _ in server.headers):
            raise self._error(Unconfigured, "a token file and a header Authorization: give one of them")
        for name, value in server.headers:
            if not name or not name.isascii() or any(c in "\r\n\0" for c in name + value) or " " in name:
                raise self._error(Unconfigured, f"the header {name[:64]!r} cannot be sent: write 'Name: value'")
        self._headers()
        if server.url.scheme == "https":
            try:
                self._tls = ssl.create_default_context(cafile=server.authority_file)
            except (OSError, ssl.SSLError) as error:
                text = f"CA file {server.authority_file} is not usable: {error}"
                raise self._error(Unconfigured, text) from error

    def _headers(self) -> dict[str, str]:
        server = self._server
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "optiinfra"}
        headers |= dict(server.headers)
        secrets = [value for _, value in server.headers]
        secrets += [server.url.password or ""]
        if server.token_file is not None:
            try:
                token = server.token_file.read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                text = f"token file {server.token_file} is not readable: {type(error).__name__}"
                raise self._error(Unconfigured, text) from error
            if not token or not token.isascii() or not token.isprintable() or " " in token:
                raise self._error(Unconfigured, f"token file {server.token_file} does not hold one token")
            headers["Authorization"] = f"Bearer {token}"
            secrets.append(token)
        self._secrets = tuple(sorted((one for one in secrets if len(one) >= _LEAST_REDACTED), key=len, reverse=True))
        return headers

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in {"identity", ""}:
            raise self._error(Malformed, f"content encoding {encoding[:32]!r}, which was not asked for")
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > self._limits.bytes:
                # Else the connection would be drained to be used again.
                response.close()
                text = f"the answer is too large: more than {self._limits.bytes >> 20} MiB; aggregate the query"
                raise self._error(Invalid, text, code=413)
        return bytes(body)

    def _refused(self, response: aiohttp.ClientResponse, body: bytes) -> ClusterError:
        code = response.status
        if 300 <= code < 400:
            return self._error(Invalid, "redirects are not followed: name the address it redirects to", code=code)
        if code == 404:
            return self._error(Invalid, f"it has no /{_PATH}: is a path missing in the address?", code=code)
        after = response.headers.get("Retry-After", "")
        retry = float(after) if after.isascii() and after.isdigit() and len(after) < 6 else None
        return self._error(None, error_words(body), code=code, retry_after_s=retry)

    def _error(
        self, kind: type[ClusterError] | None, text: str, *, code: int = 0, retry_after_s: float | None = None
    ) -> ClusterError:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        where = self._server.shown
        if kind is None:
            return error_of(verb="ask", path=where, code=code, status=None, text=text, retry_after_s=retry_after_s)
        return kind(text, verb="ask", path=where, code=code, retry_after_s=retry_after_s)
