"""One HTTP session with a Prometheus-compatible server: a call in, a body out, or an error that says what to do.

Bounded in connections, bytes and time; no redirects, which would carry the token elsewhere, no proxies from the
environment, no cookies. What the server refuses is told in its own words, without the token or the value of a header.
Answers are asked for as they are, because packing them costs the server more than a near network; where a large one
came slowly (a port-forward, a VPN), the next ones are asked for packed. Nothing is retried, and no answer understood.
"""

import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Final, Self

import aiohttp
from yarl import URL

from optiinfra.cluster.connections import Connections
from optiinfra.cluster.errors import ClusterError, Invalid, Malformed, Unavailable, Unconfigured
from optiinfra.cluster.prometheus_answer import error_words
from optiinfra.cluster.prometheus_range import QueryLimits
from optiinfra.cluster.prometheus_refusals import TooSlow
from optiinfra.cluster.prometheus_server import Access, PrometheusServer

_HEADERS: Final = {"Accept": "application/json", "User-Agent": "optiinfra"}
_LARGE: Final = 1 << 20
_SLOW_BYTES_A_SECOND: Final = 4 << 20
_GZIP: Final = 31
"""Window bits of zlib for a gzip stream."""
_GET_MOST: Final = 1_500
"""Longer queries go into the body: addresses are often cut at 2,000 characters on the way."""
_CERTIFICATE_WANTED: Final = ("CERTIFICATE_REQUIRED", "SSLV3_ALERT_BAD_CERTIFICATE", "ALERT_UNKNOWN_CA")
_NO_CERTIFICATE: Final = "it asks for a client certificate: give one, with its key"
_CERTIFICATE: Final = "it does not accept the client certificate: is it of the CA that it trusts, and not expired?"
_ENDED: Final = "it ended the connection without an answer: does it ask for a client certificate?"
_ENDED_ALL_THE_SAME: Final = "it ended the connection without an answer: does it accept this client certificate?"
_PLAIN: Final = "it does not speak TLS: write the address with http://"
_NO_NAME: Final = "its name is not known here: run inside the cluster, or use kubectl port-forward"
_NOBODY: Final = "nobody listens there (connection refused): is it running, and the port-forward open?"
_FOREIGN_CA: Final = (
    "its certificate is not signed by a CA that is trusted here: name it with --ca-file "
    "(of the operator: OPTIINFRA_PROMETHEUS_CA_FILE)"
)


@dataclass(frozen=True, slots=True)
class Reply:
    """A body, and what came with it."""

    body: bytes
    seconds: float
    """From the call to the last byte."""
    server_time: float | None
    """Unix seconds by the server's header `Date`, which counts whole seconds; None without one."""


class PrometheusHttp:
    """Calls to one server. Use as an async context manager; entering it reads files and raises `Unconfigured`."""

    def __init__(self, server: PrometheusServer, *, limits: QueryLimits) -> None:
        self.server = server
        self.base = server.url
        """Where the API is: the address, unless `prometheus_recognise` finds it below."""
        self._limits = limits
        self._access = Access(server)
        self._connections = Connections()
        self._session: aiohttp.ClientSession | None = None
        self._packed = False
        """Whether the way to the server is slow enough to be worth its packing."""

    async def __aenter__(self) -> Self:
        self._access.open()
        timeout_s = self._limits.timeout_s
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._limits.at_once, socket_factory=self._connections.open),
            trust_env=False,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=timeout_s, connect=min(10.0, timeout_s)),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            await self._connections.end()
            self._session = None

    async def call(self, path: str, given: Mapping[str, str]) -> Reply:
        """Ask `path` below the address. Raises `ClusterError` for everything but status 200."""
        assert self._session is not None, "use it as an async context manager"
        encoding = "gzip" if self._packed else "identity"
        headers = _HEADERS | self._access.headers() | {"Accept-Encoding": encoding}
        url = self.base.with_query(None).with_fragment(None) / path
        short = sum(len(value) for value in given.values()) <= _GET_MOST
        began = time.monotonic()
        try:
            async with self._session.request(
                "GET" if short else "POST",
                url,
                params=given if short else None,
                data=None if short else given,
                headers=headers,
                allow_redirects=False,
                ssl=self._access.tls,
            ) as response:
                body = await self._body(response, asked=encoding)
                if response.status != 200:
                    raise self._refused(response, body, path)
        except TimeoutError as error:
            raise self.error(TooSlow, f"no answer within {self._limits.timeout_s:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise self._unreached(error) from error
        return Reply(body, time.monotonic() - began, _date(response.headers.get("Date", "")))

    def error(
        self, kind: type[ClusterError] | None, text: str, *, code: int = 0, retry_after_s: float | None = None
    ) -> ClusterError:
        """Build an error of this server, without its secrets; `kind` None: by its HTTP code."""
        return self.server.error(kind, self._access.redacted(text), code=code, retry_after_s=retry_after_s)

    async def _body(self, response: aiohttp.ClientResponse, *, asked: str) -> bytes:
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in {"identity", "", asked}:
            raise self.error(Malformed, f"content encoding {encoding[:32]!r}, which was not asked for")
        unpack = zlib.decompressobj(_GZIP) if encoding == "gzip" else None
        began = time.monotonic()
        body = bytearray()
        async for chunk in response.content.iter_any():
            # A few bytes may unpack to gigabytes: never to more than one byte too many.
            body += chunk if unpack is None else self._unpacked(unpack, chunk, self._limits.bytes + 1 - len(body))
            if len(body) > self._limits.bytes:
                # Else the connection would be drained to be used again.
                response.close()
                text = f"the answer is too large: more than {self._limits.bytes >> 20} MiB; aggregate the query"
                raise self.error(Invalid, text, code=413)
        if unpack is not None and not unpack.eof:
            raise self.error(Unavailable, "the answer was cut off", code=response.status)
        if len(body) > _LARGE and len(body) < _SLOW_BYTES_A_SECOND * (time.monotonic() - began):
            self._packed = True
        return bytes(body)

    def _unpacked(self, unpack: "zlib._Decompress", chunk: bytes, most: int) -> bytes:
        try:
            return unpack.decompress(chunk, most)
        except zlib.error as error:
            raise self.error(Malformed, "the answer is not packed as it says (gzip)") from error

    def _unreached(self, error: Exception) -> ClusterError:
        """Say why no answer came about."""
        if isinstance(error, aiohttp.InvalidURL):
            return self.error(Unconfigured, "not an address: write it like http://prometheus:9090")
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            return self.error(Unconfigured, _FOREIGN_CA)
        text = f"{type(error).__name__}: {error}"
        if any(word in text for word in _CERTIFICATE_WANTED):
            return self.error(Unconfigured, _NO_CERTIFICATE if self.server.certificate_file is None else _CERTIFICATE)
        if isinstance(error, aiohttp.ClientConnectorSSLError):
            plain = "WRONG_VERSION_NUMBER" in text or "RECORD_LAYER_FAILURE" in text
            return self.error(Unconfigured if plain else Unavailable, _PLAIN if plain else text)
        if isinstance(error, aiohttp.ClientConnectorDNSError):
            return self.error(Unavailable, _NO_NAME)
        if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, ConnectionRefusedError):
            return self.error(Unavailable, _NOBODY)
        if isinstance(error, aiohttp.ServerDisconnectedError) and self.base.scheme == "https":
            # TLS 1.3 has no word for it before the first answer: the connection ends.
            return self.error(Unavailable, _ENDED if self.server.certificate_file is None else _ENDED_ALL_THE_SAME)
        return self.error(Unavailable, text)

    def _refused(self, response: aiohttp.ClientResponse, body: bytes, path: str) -> ClusterError:
        code = response.status
        if 300 <= code < 400:
            to = _place(response.headers.get("Location", ""))
            text = f"it redirects{to}, and redirects are not followed: name that address, or log in with a token"
            return self.error(Invalid, text, code=code)
        if code == 404:
            return self.error(Invalid, f"it has no /{path}: is a path missing in the address?", code=code)
        after = response.headers.get("Retry-After", "")
        retry = float(after) if after.isascii() and after.isdigit() and len(after) < 6 else None
        words = error_words(body)
        if code in {401, 403}:
            words = f"{self._denial(code, words)}; it says: {words}"
        elif code == 400 and "https server" in words.lower():
            return self.error(Unconfigured, "it speaks TLS: write the address with https://", code=code)
        return self.error(None, words, code=code, retry_after_s=retry)

    def _denial(self, code: int, words: str) -> str:
        """Say what to give to be let in."""
        server = self.server
        if "org id" in words.lower() or "tenant" in words.lower():
            return "it wants to know the tenant" if not server.tenant else "it does not let this tenant in"
        if server.token_file is not None:
            given = f"the token of {server.token_file}"
        elif server.password_file is not None:
            given = f"the password of {server.password_file}"
        else:
            given = "" if server.url.user is None else "the user of the address"
        if code == 403:
            return f"{given or 'whoever asks without a token'} may not read it: ask for the right to query"
        return f"{given} is not accepted: is it expired?" if given else "it wants a token or a user with a password"


def _place(location: str) -> str:
    """Where a redirect points, without what may be secret in it."""
    try:
        url = URL(location).with_query(None).with_fragment(None)
        url = url.with_user(None) if url.absolute else url
    except ValueError:
        return ""
    return f" to {str(url)[:200]}" if str(url) else ""


def _date(text: str) -> float | None:
    try:
        told = parsedate_to_datetime(text)
        # A date without a zone is one in UTC, never one of this machine's zone.
        return (told if told.tzinfo else told.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
