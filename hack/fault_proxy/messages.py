"""HTTP/1.1 messages on asyncio streams: heads, bodies, and chunks of an answer that does not end.

As much of the protocol as kube-apiserver and aiohttp speak with each other, and no more: no pipelining, no trailers, no
upgrades. A message outside of it raises `BrokenMessageError`, which ends the connection.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

HEAD_LIMIT = 64 * 1024
BODY_LIMIT = 64 * 1024 * 1024
_BODILESS = {"204", "304"}


class BrokenMessageError(Exception):
    """What came is not HTTP/1.1 as it is spoken here."""


@dataclass(frozen=True, slots=True)
class Head:
    """A first line and its headers, names in lower case."""

    first: tuple[str, str, str]
    headers: tuple[tuple[str, str], ...]

    def header(self, name: str) -> str:
        """Return a header, or an empty text."""
        return next((value for key, value in self.headers if key == name), "")

    @property
    def chunked(self) -> bool:
        """Whether the body comes in chunks."""
        return self.header("transfer-encoding").lower() == "chunked"

    def encode(self, *, without: frozenset[str] = frozenset(), extra: tuple[tuple[str, str], ...] = ()) -> bytes:
        """Write it again, without some headers and with extra ones."""
        lines = [" ".join(self.first)]
        kept = (pair for pair in self.headers if pair[0] not in without)
        lines += [f"{name}: {value}" for name, value in (*kept, *extra)]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def read_head(reader: asyncio.StreamReader) -> Head | None:
    """Read the start of a message; None when the other side has closed between two messages."""
    try:
        data = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if not error.partial:
            return None
        raise BrokenMessageError("the connection ended within a head") from error
    except asyncio.LimitOverrunError as error:
        raise BrokenMessageError(f"a head of more than {HEAD_LIMIT} bytes") from error
    first, *lines = data.decode("latin-1").split("\r\n")[:-2]
    words = first.split(" ", 2)
    if len(words) < 2:
        raise BrokenMessageError(f"not a first line: {first[:80]!r}")
    pairs = (line.partition(":") for line in lines)
    headers = tuple((name.strip().lower(), value.strip()) for name, _, value in pairs)
    return Head((words[0], words[1], words[2] if len(words) == 3 else ""), headers)


def bodiless(head: Head) -> bool:
    """Whether an answer has no body whatever its headers say."""
    return head.first[1] in _BODILESS or head.first[1].startswith("1")


async def read_body(reader: asyncio.StreamReader, head: Head) -> bytes:
    """Read a whole body; an answer without a length and chunks ends with its connection."""
    if head.chunked:
        data = bytearray()
        async for chunk in chunks(reader):
            data += chunk
            if len(data) > BODY_LIMIT:
                raise BrokenMessageError(f"a body of more than {BODY_LIMIT} bytes")
        return bytes(data)
    length = head.header("content-length")
    if not length and head.first[0].startswith("HTTP/"):
        return await reader.read(BODY_LIMIT)
    if int(length or "0") > BODY_LIMIT:
        raise BrokenMessageError(f"a body of {length} bytes")
    return await reader.readexactly(int(length or "0"))


async def chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Yield the chunks of a body until the last."""
    while True:
        size = int((await reader.readline()).split(b";")[0].strip() or b"0", 16)
        data = await reader.readexactly(size + 2)
        if size == 0:
            return
        yield data[:-2]


def chunk(data: bytes) -> bytes:
    """Write one chunk; an empty one is the last."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def answer(code: int, reason: str, body: bytes, *, extra: tuple[tuple[str, str], ...] = ()) -> bytes:
    """Write a whole answer of JSON."""
    headers = (("content-type", "application/json"), ("content-length", str(len(body))), *extra)
    return Head(("HTTP/1.1", str(code), reason), headers).encode() + body
