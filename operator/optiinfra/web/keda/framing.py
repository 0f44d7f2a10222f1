"""gRPC's own few bytes on top of HTTP/2: the message prefix, the time-out header, status messages in trailers.

After https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md. Compressed messages are refused: we announce no
compression, so nobody may send one.
"""

import re
import struct
from collections.abc import Mapping
from urllib.parse import quote

from optiinfra.web.keda.status import CallError, Code

CONTENT_TYPE = "application/grpc"
PREFIX = 5
_UNITS: Mapping[str, float] = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")
_MESSAGE_LENGTH = 1024

Headers = list[tuple[str, str]]


def seconds_allowed(header: str | None, *, most: float) -> float:
    """Return how long a call may take: what the caller allows (`grpc-timeout`), at most `most`.

    Raises:
        CallError: the header is not one.
    """
    if header is None:
        return most
    match = _TIMEOUT.fullmatch(header)
    if match is None:
        raise CallError(Code.INVALID_ARGUMENT, "grpc-timeout is not understood")
    return min(most, int(match[1]) * _UNITS[match[2]])


def pack(message: bytes) -> bytes:
    """Put the prefix before a message."""
    return struct.pack(">BI", 0, len(message)) + message


def unpack(body: bytes) -> bytes:
    """Return the one message that a request consists of, or raise CallError."""
    if len(body) < PREFIX:
        raise CallError(Code.INVALID_ARGUMENT, "the request has no message")
    compressed, length = struct.unpack(">BI", body[:PREFIX])
    if compressed:
        raise CallError(Code.UNIMPLEMENTED, "compressed messages are not read")
    if length != len(body) - PREFIX:
        raise CallError(Code.INVALID_ARGUMENT, f"a message of {length} bytes was announced, {len(body) - PREFIX} came")
    return body[PREFIX:]


def opening() -> Headers:
    """Headers before the first message."""
    return [(":status", "200"), ("content-type", CONTENT_TYPE)]


def closing(code: Code, message: str = "") -> Headers:
    """Trailers of a call."""
    trailers = [("grpc-status", str(int(code)))]
    if message:
        # Percent-encoded as the protocol wants it: printable ASCII but "%" stays.
        trailers.append(("grpc-message", quote(message[:_MESSAGE_LENGTH], safe=" !\"#$&'()*+,/:;<=>?@[\\]^`{|}")))
    return trailers
