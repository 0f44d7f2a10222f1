"""Pages of engines and agents, read by address from processes that nobody has to trust.

Bounded in bytes (before and after decompression), in time and in number; no redirects, no proxies from the
environment, no cookies. Every failure is a `FetchError` with the domain's Unknown: unreachable, refused, or invalid.
A page is returned as bytes: what it means is the reader's business.
"""

import asyncio
import ssl
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
from yarl import URL

from optiinfra.cluster.connections import Connections
from optiinfra.cluster.errors import FetchError
from optiinfra.domain.readings import Unknown, UnknownReason

_TLS_AGE_S = 300.0


@dataclass(frozen=True, slots=True)
class FetchedPage:
    """What came back."""

    body: bytes
    content_type: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Transport:
    """How to speak to a source."""

    scheme: str = "http"
    token_file: Path | None = None
    """Bearer token, read anew each time because it rotates."""
    authority_file: Path | None = None
    """CA that signs the source's certificate; None with https means that it is not checked (pods sign their own)."""
    certificate_file: Path | None = None
    """Certificate that we show, with its key in `key_file`; None where the source asks for none."""
    key_file: Path | None = None
    accept: str = "text/plain"

    @property
    def encoding(self) -> str:
        """How the page may be packed: an agent keeps its document packed; an engine would pack while it serves."""
        return "gzip" if self.accept == "application/json" else "identity"


def page_url(*, host: str, port: int, path: str, scheme: str = "http") -> URL:
    """Build the address of a page; the path (with an optional query) is user text and can name no other host."""
    if scheme not in {"http", "https"} or not path.startswith("/") or len(path) > 1024:
        url = f"{scheme[:16]}://{host}:{port}{path[:64]}"
        raise FetchError(Unknown(UnknownReason.INVALID, "not a valid scheme and path"), url=url)
    try:
        route, _, query = path.partition("?")
        return URL.build(scheme=scheme, host=host, port=port, path=route, query_string=query)
    except ValueError as error:
        reason = Unknown(UnknownReason.INVALID, f"not a valid address: {error}")
        raise FetchError(reason, url=f"{scheme}://{host}:{port}") from error


class Fetcher:
    """Reads pages. Use as an async context manager."""

    def __init__(self, *, concurrency: int = 64) -> None:
        self._concurrency = concurrency
        self._slots = asyncio.Semaphore(concurrency)
        self._contexts: dict[tuple[Path | None, Path | None], _Tls] = {}
        self._connections = Connections()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._concurrency, keepalive_timeout=30.0, socket_factory=self._connections.open
            ),
            trust_env=False,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            await self._connections.end()
            self._session = None

    async def fetch(
        self, url: URL, *, timeout_s: float, limit_bytes: int, transport: Transport | None = None
    ) -> FetchedPage:
        """Read one page; the time starts when a slot is free."""
        transport = transport or Transport()
        if self._session is None:
            raise FetchError(Unknown(UnknownReason.UNREACHABLE, "the fetcher is not open"), url=str(url))
        headers = {"Accept": transport.accept, "Accept-Encoding": transport.encoding, "User-Agent": "optiinfra"}
        headers |= _authorization(transport.token_file, url)
        async with self._slots:
            started = time.monotonic()
            try:
                async with self._session.get(
                    url,
                    headers=headers,
                    timeout=aiohttp.ClientTimeout(total=timeout_s),
                    allow_redirects=False,
                    ssl=self._tls(transport, url) if url.scheme == "https" else True,
                ) as response:
                    _check(response, url)
                    body = await _read(response, limit_bytes=limit_bytes, url=url)
            except TimeoutError as error:
                raise _unreachable(f"no complete answer within {timeout_s:g} s", url) from error
            except aiohttp.ClientPayloadError as error:
                raise _unreachable("the connection closed before the page ended", url) from error
            except aiohttp.ClientResponseError as error:
                raise _invalid(f"not HTTP: {error.message or error.status}", url) from error
            except (aiohttp.ClientError, OSError, ValueError) as error:
                raise _unreachable(f"{type(error).__name__}: {error}", url) from error
        if not body.strip():
            raise _invalid("the page is empty", url)
        return FetchedPage(body, response.content_type, time.monotonic() - started)

    def _tls(self, transport: Transport, url: URL) -> ssl.SSLContext:
        key = (transport.authority_file, transport.certificate_file)
        known = self._contexts.get(key)
        now = time.monotonic()
        # Certificates are replaced while a process runs; the CA's file and our own pair are read again with them.
        if known is None or now - known.made > _TLS_AGE_S:
            known = _Tls(_context(transport, url), now)
            self._contexts[key] = known
        return known.context


@dataclass(frozen=True, slots=True)
class _Tls:
    context: ssl.SSLContext
    made: float


def _context(transport: Transport, url: URL) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=transport.authority_file)
        if transport.certificate_file is not None:
            context.load_cert_chain(transport.certificate_file, transport.key_file)
    except (OSError, ValueError) as error:
        files = [str(file) for file in (transport.authority_file, transport.certificate_file) if file is not None]
        detail = f"TLS files {', '.join(files)} do not load: {error}"
        raise FetchError(Unknown(UnknownReason.NOT_CONFIGURED, detail), url=str(url)) from error
    # Pods are addressed by IP, which their certificates seldom name: the CA is the check.
    context.check_hostname = False
    if transport.authority_file is None:
        context.verify_mode = ssl.CERT_NONE
    return context


def _authorization(token_file: Path | None, url: URL) -> dict[str, str]:
    if token_file is None:
        return {}
    try:
        token = token_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        detail = f"token file {token_file} is not readable: {error}"
        raise FetchError(Unknown(UnknownReason.NOT_CONFIGURED, detail), url=str(url)) from error
    return {"Authorization": f"Bearer {token}"}


def _check(response: aiohttp.ClientResponse, url: URL) -> None:
    code = response.status
    if code == 200:
        if response.content_type in {"text/html", "application/xhtml+xml"}:
            raise _invalid("an HTML page, not metrics", url, code=code)
        return
    if code in {401, 403, 407}:
        raise FetchError(Unknown(UnknownReason.REFUSED, "the source asks for permission"), url=str(url), code=code)
    if 300 <= code < 400:
        raise _invalid("redirects are not followed", url, code=code)
    if code in {429, 502, 503, 504}:
        raise FetchError(Unknown(UnknownReason.UNREACHABLE, "the source is not ready"), url=str(url), code=code)
    raise _invalid("not a page", url, code=code)


async def _read(response: aiohttp.ClientResponse, *, limit_bytes: int, url: URL) -> bytes:
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in {"identity", "", "gzip", "deflate"}:
        raise _invalid(f"content encoding {encoding[:32]!r}", url)
    unpack = zlib.decompressobj(wbits=47) if encoding in {"gzip", "deflate"} else None
    page = bytearray()
    async for received in response.content.iter_any():
        chunk = received
        if unpack is not None:
            try:
                # One byte more than is allowed is enough to know; a bomb is never unpacked whole.
                chunk = unpack.decompress(received, limit_bytes - len(page) + 1)
            except zlib.error as error:
                raise _invalid(f"broken {encoding}: {error}", url) from error
        page += chunk
        if len(page) > limit_bytes:
            # Else the connection would be drained to be used again.
            response.close()
            raise _invalid(f"more than {limit_bytes} bytes", url)
    if unpack is not None and not unpack.eof:
        raise _invalid(f"the {encoding} stream is cut off", url)
    return bytes(page)


def _invalid(detail: str, url: URL, *, code: int = 0) -> FetchError:
    return FetchError(Unknown(UnknownReason.INVALID, detail), url=str(url), code=code)


def _unreachable(detail: str, url: URL) -> FetchError:
    return FetchError(Unknown(UnknownReason.UNREACHABLE, detail[:256]), url=str(url))
