"""OpenAI's completion requests in, its answers and errors out: parsing, bounds and JSON, no I/O and no clock.

A simulated model says nothing: every token of its answer is the same word, and it generates exactly ``max_tokens`` of
them (or :data:`DEFAULT_ANSWER` where a chat names none, and stops). Text counts as one token for four characters, a
list of numbers as so many tokens; equal beginnings of prompts are equal blocks for the prefix cache. Fields that change
nothing here (temperature, seed, stop ...) are accepted and ignored; several answers or prompts a request are refused.
"""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from optiinfra_sim.blocks import Content
from optiinfra_sim.errors import ApiError

MAX_BODY_BYTES = 4 * 2**20
CHARACTERS_PER_TOKEN = 4
PIECE_TOKENS = 16
DEFAULT_COMPLETION = 16
"""OpenAI's own default of ``max_tokens`` for completions."""
DEFAULT_ANSWER = 256
WORD = " simulated"
_Tokens = Annotated[int, Field(ge=1, le=1_000_000)]
_Model = Annotated[str, Field(max_length=512)]


class _Options(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class StreamOptions(_Options):
    """What a stream says besides tokens."""

    include_usage: bool = False


class _Request(_Options):
    model: _Model | None = None
    max_tokens: _Tokens | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    best_of: Annotated[int, Field(ge=1)] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None


class CompletionRequest(_Request):
    """POST /v1/completions."""

    prompt: str | list[int] | list[str]


class Message(_Options):
    """One message of a chat; parts that are not text count nothing."""

    role: Annotated[str, Field(max_length=64)] = "user"
    content: str | list[dict[str, Any]] | None = None


class ChatRequest(_Request):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=10_000)]
    max_completion_tokens: _Tokens | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request as an engine wants it."""

    chat: bool
    content: Content
    prompt: int
    output: int
    limit: int
    stream: bool
    usage: bool
    """Whether a stream ends with the usage."""

    @property
    def reason(self) -> str:
        """How its answer ends."""
        return "length" if self.output == self.limit else "stop"


def parse(body: bytes, *, chat: bool, model: str, max_model_len: int) -> Asked:
    """Read and check one request; raises ApiError with the status and the text that an OpenAI client shows."""
    try:
        content = orjson.loads(body)
        request = (ChatRequest if chat else CompletionRequest).model_validate(content)
    except orjson.JSONDecodeError as error:
        raise ApiError(f"the body is not JSON: {error}", status=400) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"]) or "body"
        raise ApiError(f"{name}: {first['msg']}", status=400, parameter=name) from error
    if request.model not in {None, model}:
        raise ApiError(f"The model `{request.model}` does not exist.", status=404, parameter="model")
    for name, value in (("n", request.n), ("best_of", request.best_of)):
        if value is not None and value > 1:
            raise ApiError(f"{name} must be 1: one answer a request is simulated", status=400, parameter=name)
    pieces = _chat_pieces(request) if isinstance(request, ChatRequest) else _prompt_pieces(request)
    prompt = sum(tokens for _, tokens in pieces)
    limit = request.max_tokens or (request.max_completion_tokens if isinstance(request, ChatRequest) else None)
    room = max_model_len - prompt
    if room < (limit or 1):
        raise ApiError(
            f"This model's maximum context length is {max_model_len} tokens. However, you requested "
            f"{prompt + (limit or 1)} tokens ({prompt} in the prompt, {limit or 1} in the completion). "
            "Please reduce the length of the prompt or of the completion.",
            status=400,
            parameter="max_tokens" if limit else "messages" if chat else "prompt",
        )
    default = min(DEFAULT_ANSWER if chat else DEFAULT_COMPLETION, room)
    return Asked(
        chat=chat,
        content=tuple(pieces),
        prompt=prompt,
        output=limit or default,
        limit=limit or (room if chat else default),
        stream=bool(request.stream),
        usage=request.stream_options is not None and request.stream_options.include_usage,
    )


def _prompt_pieces(request: CompletionRequest) -> list[tuple[int, int]]:
    prompt = request.prompt
    if isinstance(prompt, str):
        return _text_pieces(prompt)
    if not prompt:
        raise ApiError("prompt: must not be empty", status=400, parameter="prompt")
    texts = [one for one in prompt if isinstance(one, str)]
    if len(texts) == 1:
        return _text_pieces(texts[0])
    if texts:
        raise ApiError("prompt: one prompt a request is simulated", status=400, parameter="prompt")
    numbers = [one for one in prompt if isinstance(one, int)]
    pieces = (numbers[begin : begin + PIECE_TOKENS] for begin in range(0, len(numbers), PIECE_TOKENS))
    return [(_identity(orjson.dumps(piece)), len(piece)) for piece in pieces]


def _chat_pieces(request: ChatRequest) -> list[tuple[int, int]]:
    pieces: list[tuple[int, int]] = []
    for message in request.messages:
        content = message.content
        if isinstance(content, list):
            content = "".join(str(part.get("text", "")) for part in content)
        pieces += _text_pieces(f"<{message.role}>{content or ''}")
    return pieces


def _text_pieces(text: str) -> list[tuple[int, int]]:
    size = PIECE_TOKENS * CHARACTERS_PER_TOKEN
    parts = [text[begin : begin + size] for begin in range(0, len(text), size)] or [" "]
    return [
        (_identity(part.encode("utf-8", "surrogatepass")), math.ceil(len(part) / CHARACTERS_PER_TOKEN))
        for part in parts
    ]


def _identity(piece: bytes) -> int:
    return zlib.crc32(piece) + (len(piece) << 32) + 1


def usage(asked: Asked, *, generated: int) -> dict[str, int]:
    """OpenAI's usage object."""
    return {
        "prompt_tokens": asked.prompt,
        "completion_tokens": generated,
        "total_tokens": asked.prompt + generated,
    }


def answer(asked: Asked, *, identity: str, created: int, model: str) -> dict[str, Any]:
    """The whole answer of a request that does not stream."""
    text = WORD * asked.output
    body = {"message": {"role": "assistant", "content": text}} if asked.chat else {"text": text}
    return _envelope(asked, identity=identity, created=created, model=model, streamed=False) | {
        "choices": [{"index": 0, **body, "logprobs": None, "finish_reason": asked.reason}],
        "usage": usage(asked, generated=asked.output),
    }


def chunk(asked: Asked, *, identity: str, created: int, model: str, tokens: int, last: bool) -> dict[str, Any]:
    """One event of a stream with so many new tokens."""
    text = WORD * tokens
    body: dict[str, Any] = {"delta": {"content": text}} if asked.chat else {"text": text}
    return _envelope(asked, identity=identity, created=created, model=model, streamed=True) | {
        "choices": [{"index": 0, **body, "logprobs": None, "finish_reason": asked.reason if last else None}],
    }


def usage_chunk(asked: Asked, *, identity: str, created: int, model: str) -> dict[str, Any]:
    """The event that ends a stream with ``include_usage``."""
    return _envelope(asked, identity=identity, created=created, model=model, streamed=True) | {
        "choices": [],
        "usage": usage(asked, generated=asked.output),
    }


def models(names: Sequence[str], *, created: int, max_model_len: int) -> dict[str, Any]:
    """GET /v1/models."""
    entry = {"object": "model", "created": created, "owned_by": "optiinfra-sim", "max_model_len": max_model_len}
    return {"object": "list", "data": [{"id": name, **entry} for name in names]}


def _envelope(asked: Asked, *, identity: str, created: int, model: str, streamed: bool) -> dict[str, Any]:
    kind = ("chat.completion.chunk" if streamed else "chat.completion") if asked.chat else "text_completion"
    return {"id": identity, "object": kind, "created": created, "model": model}
