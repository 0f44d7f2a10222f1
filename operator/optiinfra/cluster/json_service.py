"""One call of a small JSON service that somebody else runs: KV-OptKit, OpenCost.

Nobody has to trust it: bounded in time and bytes, no redirects, no proxies from the environment, no cookies, no
encoding that was not asked for. Whatever is not a JSON object in time is a `NoAnswer` with the reason; what the object
means is the caller's business. Connections are not kept: these services are asked every few minutes.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import orjson
from yarl import URL

from optiinfra.cluster.connections import Connections
from optiinfra.domain.readings import UnknownReason

_HEADERS: Final = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "optiinfra"}


class NoAnswer(Exception):  # noqa: N818  a state, named as people say it
    """The service gave nothing that can be used, and why."""

    def __init__(self, reason: UnknownReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class JsonService:
    """A service that can be asked, while its context is open."""

    session: aiohttp.ClientSession
    limit_bytes: int

    async def call(
        self,
        method: str,
        url: URL,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        remedies: Mapping[int, str] | None = None,
    ) -> dict[str, Any]:
        """Return the JSON object that it answers; raise NoAnswer. `remedies` say what a status of it means."""
        data = None if body is None else orjson.dumps(body)
        headers = {} if body is None else {"Content-Type": "application/json"}
        where = f"{method} {url.path}"
        async with self.session.request(
            method, url, params=query, data=data, headers=headers, allow_redirects=False
        ) as response:
            if response.status in (remedies or {}):
                raise NoAnswer(UnknownReason.INVALID, (remedies or {})[response.status])
            if response.status in {401, 403}:
                raise NoAnswer(UnknownReason.REFUSED, f"{where} asks for permission (HTTP {response.status})")
            if response.status != 200:
                raise NoAnswer(UnknownReason.INVALID, f"{where} answered HTTP {response.status}")
            if response.headers.get("Content-Encoding", "identity").strip().lower() not in {"", "identity"}:
                raise NoAnswer(UnknownReason.INVALID, f"{where} answered in an encoding that was not asked for")
            content = bytearray()
            async for chunk in response.content.iter_any():
                content += chunk
                if len(content) > self.limit_bytes:
                    # Else the connection would be drained to be used again.
                    response.close()
                    raise NoAnswer(UnknownReason.INVALID, f"{where} answered more than {self.limit_bytes} bytes")
        try:
            document = orjson.loads(bytes(content))
        except orjson.JSONDecodeError as error:
            what = "nothing" if not content.strip() else "something else than JSON"
            raise NoAnswer(UnknownReason.INVALID, f"{where} answered {what}") from error
        if not isinstance(document, dict):
            raise NoAnswer(UnknownReason.INVALID, f"{where} answered no JSON object")
        return document


@asynccontextmanager
async def json_service(*, timeout_s: float, limit_bytes: int) -> AsyncIterator[JsonService]:
    """Open a service for one or a few calls, which together take at most `timeout_s`; raise NoAnswer for silence."""
    connections = Connections()
    try:
        async with (
            asyncio.timeout(timeout_s),
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=1, socket_factory=connections.open),
                trust_env=False,
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=_HEADERS,
            ) as session,
        ):
            yield JsonService(session, limit_bytes)
    except TimeoutError as error:
        raise NoAnswer(UnknownReason.UNREACHABLE, f"no complete answer within {timeout_s:g} s") from error
    except (aiohttp.ClientError, OSError) as error:
        raise NoAnswer(UnknownReason.UNREACHABLE, f"{type(error).__name__}: {error}") from error
    finally:
        await connections.end()


def service_url(text: str) -> URL:
    """Return the address of a service as a person wrote it; raise NoAnswer where it is none."""
    try:
        url = URL(text)
    except ValueError as error:
        raise NoAnswer(UnknownReason.NOT_CONFIGURED, f"not a valid address: {error}") from error
    if url.scheme not in {"http", "https"} or not url.host or len(text) > 1024:
        raise NoAnswer(UnknownReason.NOT_CONFIGURED, "not an http or https address")
    return url.with_query(None).with_fragment(None)
