"""The HTTP transport below the SDK: it puts the key on, aims at the right path and bounds what is read.

The key is added here, below LangChain and the SDK, so that none of their objects, dumps or debug logs ever holds it.
Redirects are not followed (the key would travel along), compressed answers are refused (a small one may be huge), and
reading stops at the bound, whatever the server announced. Imported only when a call is made: it imports httpx.
"""

from collections.abc import AsyncIterator
from typing import Final, cast

import httpx

from optiinfra.analysis.errors import ResponseRefused
from optiinfra.analysis.key import KeyFile
from optiinfra.analysis.settings import GROQ_PATH, AdviserSettings

CONNECT_SECONDS: Final = 5.0


class _BoundedStream(httpx.AsyncByteStream):
    def __init__(self, stream: httpx.AsyncByteStream, limit: int) -> None:
        self._stream = stream
        self._limit = limit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        read = 0
        async for chunk in self._stream:
            read += len(chunk)
            if read > self._limit:
                raise ResponseRefused(f"the response is larger than {self._limit} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


class GuardedTransport(httpx.AsyncBaseTransport):
    """Sends what the SDK made, with the key of this moment, to the configured path; bounds the answer."""

    def __init__(self, settings: AdviserSettings, inner: httpx.AsyncBaseTransport) -> None:
        self._path = settings.completions_path
        self._limit = settings.max_response_bytes
        self._key = KeyFile(settings.key_file)
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request.

        Raises:
            ResponseRefused: the response is too large or compressed.
            NotConfigured: the key file went away.
        """
        path = request.url.path
        if path.endswith(GROQ_PATH):
            request.url = request.url.copy_with(path=path.removesuffix(GROQ_PATH) + self._path)
        request.headers["authorization"] = f"Bearer {self._key.read()}"
        request.headers["accept-encoding"] = "identity"
        response = await self._inner.handle_async_request(request)
        if response.headers.get("content-encoding", "identity") != "identity":
            await response.aclose()
            raise ResponseRefused("the response is compressed although that was not accepted")
        stream = cast("httpx.AsyncByteStream", response.stream)
        return httpx.Response(
            response.status_code,
            headers=response.headers,
            stream=_BoundedStream(stream, self._limit),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()


def build_http_client(settings: AdviserSettings) -> httpx.AsyncClient:
    """Build the client. The time-out here is a second net; the attempt's own is in `retry`."""
    inner = httpx.AsyncHTTPTransport(
        proxy=settings.proxy or None, limits=httpx.Limits(max_connections=4, keepalive_expiry=30.0)
    )
    return httpx.AsyncClient(
        transport=GuardedTransport(settings, inner),
        timeout=httpx.Timeout(settings.retry.attempt_timeout + 1.0, connect=CONNECT_SECONDS),
        follow_redirects=False,
        trust_env=False,
    )
