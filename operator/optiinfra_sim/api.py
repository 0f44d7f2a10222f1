"""The HTTP side of OpenAI's completions API, in real time, for ordinary load generators.

It hands requests to a :class:`Backend` and writes tokens as virtual time brings them, which must therefore follow the
clock. Everything from outside is bounded: body, tokens, requests at one time, seconds a request. A client that goes
away takes its request with it. Errors have OpenAI's form.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable
from typing import Any, Protocol

import orjson
from aiohttp import web

from optiinfra_sim import completions
from optiinfra_sim.completions import Asked
from optiinfra_sim.errors import ApiError, EngineError
from optiinfra_sim.request import Request
from optiinfra_sim.trace import Arrival

MAX_REQUESTS = 4096
LONGEST_SECONDS = 600.0
_TYPES = {400: "BadRequestError", 404: "NotFoundError", 408: "TimeoutError", 413: "PayloadTooLargeError"}


class Backend(Protocol):
    """Engines in real time. ``created`` is their Unix time of start."""

    @property
    def model_name(self) -> str:
        """What they serve."""

    @property
    def max_model_len(self) -> int:
        """Tokens that a prompt and its answer may have together."""

    @property
    def created(self) -> float:
        """Unix time of their start."""

    def submit(self, arrival: Arrival) -> Request:
        """Hand in a request now; raises EngineError where none can take it."""

    def generated(self, request: Request) -> int:
        """Tokens that it has got so far."""

    def abort(self, request: Request) -> None:
        """Forget it."""

    async def tick(self) -> None:
        """Wait until time has moved on."""


class CompletionsApi:
    """The routes of one listener; ``backend`` chooses by the request, None where nothing serves."""

    def __init__(self, backend: Callable[[web.Request], Backend | None]) -> None:
        self._backend = backend
        self._numbers = itertools.count(1)
        self._open = 0

    def routes(self) -> list[web.RouteDef]:
        """What to add to an application."""
        return [
            web.get("/v1/models", self._models),
            web.post("/v1/completions", self._completions),
            web.post("/v1/chat/completions", self._chat),
        ]

    async def _models(self, request: web.Request) -> web.StreamResponse:
        backend = self._backend(request)
        if backend is None:
            return _error(ApiError("no engine serves here", status=503))
        listed = completions.models(
            [backend.model_name], created=int(backend.created), max_model_len=backend.max_model_len
        )
        return web.json_response(listed, dumps=_dumps)

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        return await self._serve(request, chat=False)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._serve(request, chat=True)

    async def _serve(self, request: web.Request, *, chat: bool) -> web.StreamResponse:
        try:
            return await self._answer(request, chat=chat)
        except ApiError as error:
            return _error(error)
        except web.HTTPRequestEntityTooLarge:
            bound = f"the body is larger than {completions.MAX_BODY_BYTES} bytes"
            return _error(ApiError(bound, status=413))

    async def _answer(self, request: web.Request, *, chat: bool) -> web.StreamResponse:
        backend = self._backend(request)
        if backend is None:
            raise ApiError("no engine serves here", status=503)
        if self._open >= MAX_REQUESTS:
            raise ApiError(f"{MAX_REQUESTS} requests are open already: ask again later", status=503)
        # Counted before the first await: a thousand bodies under way are a thousand requests.
        self._open += 1
        try:
            async with asyncio.timeout(LONGEST_SECONDS):
                body = await request.read()
                asked = completions.parse(
                    body, chat=chat, model=backend.model_name, max_model_len=backend.max_model_len
                )
                return await self._generate(request, backend, asked)
        except TimeoutError as error:
            raise ApiError(f"no complete answer within {LONGEST_SECONDS:g} s", status=408) from error
        finally:
            self._open -= 1

    async def _generate(self, request: web.Request, backend: Backend, asked: Asked) -> web.StreamResponse:
        try:
            handed_in = backend.submit(
                Arrival(0.0, asked.prompt, asked.output, limit=asked.limit, content=asked.content)
            )
        except EngineError as error:
            raise ApiError(str(error), status=503) from error
        prefix = "chatcmpl" if asked.chat else "cmpl"
        envelope: dict[str, Any] = {
            "identity": f"{prefix}-simulated-{next(self._numbers)}",
            "created": int(time.time()),
            "model": backend.model_name,
        }
        try:
            if asked.stream:
                return await _stream(request, backend, asked, handed_in, envelope)
            while backend.generated(handed_in) < asked.output:
                await backend.tick()
            return web.json_response(completions.answer(asked, **envelope), dumps=_dumps)
        finally:
            # Answered in full there is nothing to forget; else the client or the time-out has ended it.
            if backend.generated(handed_in) < asked.output:
                backend.abort(handed_in)


async def _stream(
    request: web.Request, backend: Backend, asked: Asked, handed_in: Request, envelope: dict[str, Any]
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    told = 0
    # A stream that has begun can only be broken off: its status is sent.
    with contextlib.suppress(ConnectionResetError):
        while told < asked.output:
            await backend.tick()
            generated = backend.generated(handed_in)
            for token in range(told + 1, generated + 1):
                event = completions.chunk(asked, **envelope, tokens=1, last=token == asked.output)
                await response.write(_event(event))
            told = generated
        if asked.usage:
            await response.write(_event(completions.usage_chunk(asked, **envelope)))
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
    return response


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(content) + b"\n\n"


def _error(error: ApiError) -> web.Response:
    kind = _TYPES.get(error.status, "ServiceUnavailableError")
    content = {"message": str(error), "type": kind, "param": error.parameter, "code": error.status}
    return web.json_response({"error": content}, status=error.status, dumps=_dumps)


def _dumps(content: object) -> str:
    return orjson.dumps(content).decode()
