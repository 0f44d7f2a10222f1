"""Passes one small request of a follower on to the leader, and its answer back.

The caller's own headers travel (its token is checked again over there); ours add nothing. Bounded in time and size, no
redirects, one attempt: whether to ask again is the caller's decision.
"""

from collections.abc import Mapping
from types import TracebackType
from typing import Self

import aiohttp
from yarl import URL

from optiinfra.cluster.connections import Connections
from optiinfra.cluster.errors import FetchError
from optiinfra.domain.readings import Unknown, UnknownReason

TIMEOUT_S = 10.0
ANSWER_LIMIT_BYTES = 32 * 1024 * 1024


class LeaderProxy:
    """Forwards requests. Use as an async context manager."""

    def __init__(self, *, timeout_s: float = TIMEOUT_S, limit_bytes: int = ANSWER_LIMIT_BYTES) -> None:
        self._timeout_s = timeout_s
        self._limit_bytes = limit_bytes
        self._connections = Connections()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=32, socket_factory=self._connections.open),
            trust_env=False,
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

    async def forward(
        self, method: str, address: str, path_and_query: str, *, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, str, bytes]:
        """Return status, content type and body of the leader's answer, or raise FetchError."""
        url = f"http://{address}{path_and_query}"
        if self._session is None or not path_and_query.startswith("/"):
            raise _unreachable("the proxy is not open, or the path is not absolute", url)
        try:
            # The path is passed on as it came, neither decoded nor encoded anew.
            async with self._session.request(
                method,
                URL(url, encoded=True),
                headers=headers,
                data=body or None,
                timeout=aiohttp.ClientTimeout(total=self._timeout_s),
                allow_redirects=False,
            ) as response:
                answer = bytearray()
                async for chunk in response.content.iter_any():
                    answer += chunk
                    if len(answer) > self._limit_bytes:
                        response.close()
                        reason = Unknown(UnknownReason.INVALID, f"an answer of more than {self._limit_bytes} bytes")
                        raise FetchError(reason, url=url)
                return response.status, response.content_type, bytes(answer)
        except TimeoutError as error:
            raise _unreachable(f"no answer within {self._timeout_s:g} s", url) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _unreachable(f"{type(error).__name__}: {error}", url) from error


def _unreachable(detail: str, url: str) -> FetchError:
    return FetchError(Unknown(UnknownReason.UNREACHABLE, detail[:256]), url=url)
