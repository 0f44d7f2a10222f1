"""A stand-in for Groq's API on loopback, at /openai/v1/chat/completions, with the ways in which it fails.

It answers a question from what the question lists (the candidates' ids are read from the prompt), so that a valid
answer needs no script. It records every request with headers and body, and refuses what the real service would refuse
in strict mode: a wrong key, no strict JSON schema, a schema that is not closed and all-required.

    async with GroqStub(mode=Mode.OK) as stub:
        settings = AdviserSettings(endpoint=stub.url, key_file=...)   # the key is stub.key
        stub.mode = Mode.RATE_LIMITED                                 # may change between calls
        stub.script = [Mode.ERROR, Mode.OK]                           # or call by call, before `mode` applies
"""

import asyncio
import json
import re
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

from aiohttp import web

PATH = "/openai/v1/chat/completions"
KEY = "gsk_stub_0123456789abcdef_secret"


class Mode(StrEnum):
    """How the stub answers."""

    OK = "ok"
    UNKNOWN_IDS = "unknown_ids"
    NOT_JSON = "not_json"
    WRONG_SCHEMA = "wrong_schema"
    HOSTILE = "hostile"  # right shape; its texts hold links, invented numbers, invisible characters, markup
    CUT_OFF = "cut_off"
    EMPTY = "empty"  # a 200 without choices
    HTML = "html"  # a 200 of some proxy
    BAD_REQUEST = "400"
    UNAUTHORIZED = "401"
    NOT_FOUND = "404"
    RATE_LIMITED = "429"
    ERROR = "500"
    RESET = "reset"
    REDIRECT = "redirect"
    HANG = "hang"
    HUGE = "huge"
    DRIP = "drip"


@dataclass
class Recorded:
    headers: dict[str, str]
    body: dict[str, Any]
    raw: str


@dataclass
class GroqStub:
    mode: Mode = Mode.OK
    key: str = KEY
    retry_after: str | None = "0.05"
    path: str = PATH
    script: list[Mode] = field(default_factory=list)
    requests: list[Recorded] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    sent_bytes: int = 0
    port: int = 0
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def calls(self) -> int:
        return len(self.requests)

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post(self.path, self._handle)
        self._stopping = asyncio.Event()
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        raw = await request.text()
        body = json.loads(raw)
        self.asked.set()
        self.requests.append(Recorded(dict(request.headers), body, raw))
        if request.headers.get("Authorization") != f"Bearer {self.key}":
            # The real service repeats the key in this message: it must not get into our logs or status.
            return _error(401, f"Invalid API Key: {request.headers.get('Authorization')}", "invalid_api_key")
        complaint = _complaint(body)
        if complaint:
            self.complaints.append(complaint)
            return _error(400, complaint, "invalid_request")
        return await self._answer(self.script.pop(0) if self.script else self.mode, request, body)

    async def _answer(self, mode: Mode, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        ids = re.findall(r"^- (r\d+): ", body["messages"][-1]["content"], re.MULTILINE)
        echo = body["messages"][-1]["content"]  # services do repeat the question in their errors
        match mode:
            case Mode.BAD_REQUEST:
                return _error(400, f"Failed to validate JSON: {echo}", "json_validate_failed")
            case Mode.UNAUTHORIZED:
                return _error(401, f"Invalid API Key: {self.key}", "invalid_api_key")
            case Mode.NOT_FOUND:
                return _error(404, f"The model `{body['model']}` does not exist", "model_not_found")
            case Mode.RATE_LIMITED:
                headers = {} if self.retry_after is None else {"Retry-After": self.retry_after}
                return _error(429, "Rate limit reached", "rate_limit_exceeded", headers)
            case Mode.ERROR:
                return _error(500, f"Internal error for {self.key}", "internal")
            case Mode.HTML:
                return web.Response(text="<html>log in first</html>", content_type="text/html")
            case Mode.EMPTY:
                return web.json_response({"id": "x", "object": "chat.completion", "model": body["model"]})
            case Mode.REDIRECT:
                return web.Response(status=307, headers={"Location": f"{self.url}/elsewhere"})
            case Mode.RESET:
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
            case Mode.HANG:
                await self._stopping.wait()
                return web.Response()
            case Mode.HUGE:
                return await self._stream(request, chunk=b" " * 65_536, pause=0.0, count=4_096)
            case Mode.DRIP:
                return await self._stream(request, chunk=b" ", pause=0.05, count=10_000)
            case _:
                return web.json_response(_completion(body["model"], *_content(mode, ids)))

    async def _stream(self, request: web.Request, *, chunk: bytes, pause: float, count: int) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        for _ in range(count):
            if self._stopping.is_set():
                break
            try:
                await response.write(chunk)
            except ConnectionError:
                break
            self.sent_bytes += len(chunk)
            await asyncio.sleep(pause)
        return response


def _complaint(body: dict[str, Any]) -> str:
    answer_format = body.get("response_format") or {}
    if answer_format.get("type") != "json_schema" or answer_format["json_schema"].get("strict") is not True:
        return "response_format must be json_schema with strict: true"
    if body.get("stream"):
        return "streaming is not expected"
    return _schema_complaint(answer_format["json_schema"]["schema"])


def _schema_complaint(schema: dict[str, Any]) -> str:
    """What strict mode refuses: open objects, optional properties, bounds, references."""
    allowed = {"type", "properties", "required", "additionalProperties", "items", "enum"}
    if set(schema) - allowed:
        return f"unsupported in strict mode: {sorted(set(schema) - allowed)}"
    if schema["type"] == "object":
        if schema.get("additionalProperties") is not False or set(schema["required"]) != set(schema["properties"]):
            return "every object must be closed and all its properties required"
        return next(filter(None, map(_schema_complaint, schema["properties"].values())), "")
    return _schema_complaint(schema["items"]) if schema["type"] == "array" else ""


def _content(mode: Mode, ids: list[str]) -> tuple[str, str]:
    answer: dict[str, Any] = {
        "summary": "The service holds more than it needs. Start with the first candidate.",
        "ranking": ids[::-1],
        "explanations": [{"id": one, "text": f"Candidate {one} is supported by its numbers."} for one in ids],
        "steps": [{"id": one, "kind": "ReviewEvidence", "text": "Read the evidence."} for one in ids],
    }
    match mode:
        case Mode.UNKNOWN_IDS:
            answer["ranking"] = [*ids, "r77"]
        case Mode.WRONG_SCHEMA:
            answer["steps"] = [{"id": ids[0], "kind": "DeleteNamespace", "text": "Do it."}]
        case Mode.NOT_JSON:
            return "Sure! Here is the ranking you asked for: r1 first.", "stop"
        case Mode.CUT_OFF:
            return json.dumps(answer)[:40], "length"
        case Mode.HOSTILE:
            answer["summary"] = (
                "Good \u202eevil\u202c <b>news</b>\u200b here\x00. It becomes 73% faster. "
                "See https://evil.example/x now. Candidate r99 is better. " + "All is well. " * 80
            )
            answer["explanations"][0]["text"] = "It is seventy times faster."
    return json.dumps(answer), "stop"


def _completion(model: str, content: str, finish: str) -> dict[str, Any]:
    return {
        "id": "chatcmpl-stub",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": finish}],
        "usage": {"prompt_tokens": 900, "completion_tokens": 300, "total_tokens": 1200},
    }


def _error(status: int, message: str, code: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"error": {"message": message, "code": code}}, status=status, headers=headers)
