"""One gRPC call over a Unix socket: a request, a response, a status; a connection of its own each time.

Why not grpcio: measured, it costs 12 MiB and threads of its own on every node of a cluster, for one call of the kubelet
every few seconds. `h2` would cost 5 MiB and 0.3 s at the start. A unary call needs five kinds of frames (RFC 9113) and
the message prefix of gRPC, and that is all there is here: no second stream, no compression, no streaming, no TLS.

A connection for each call (0.2 ms) instead of one that is kept: a restarted kubelet is then nothing special, and
nothing is left open between two calls. There is no flow control to get wrong: the window announced is the largest
response that is accepted, and whoever sends more is cut off. One deadline covers connecting, sending and receiving,
whatever the other side does, dripping single bytes included.
"""

import contextlib
import socket
import struct
import time
from pathlib import Path
from typing import NoReturn

from optiinfra_agent.errors import (
    SourceDeniedError,
    SourceError,
    SourceFailedError,
    SourceStuckError,
    SourceUnavailableError,
    SourceUnsupportedError,
    WireError,
)
from optiinfra_agent.headers import BLOCK_LIMIT, decode_headers, encode_headers

NOT_FOUND = 5
PATH_LIMIT = 107
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _CONTINUATION = 0, 1, 3, 4, 6, 7, 9
_END_STREAM, _ACK, _END_HEADERS, _PADDED, _PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_STREAM = 1
_FRAME_LIMIT = 16_384
_FRAMES = 65_536
_READ = 65_536
_HEADER_TABLE, _PUSH, _WINDOW = 1, 2, 4
_DEFAULT_WINDOW = 65_535
_PREFIX = 5
_STATUSES: dict[int, type[SourceError]] = {
    4: SourceStuckError,
    7: SourceDeniedError,
    12: SourceUnsupportedError,
    14: SourceUnavailableError,
    16: SourceDeniedError,
}


def call(path: Path, method: str, request: bytes, *, deadline_s: float, limit_bytes: int) -> bytes:
    """Return the response message of one call, or raise the SourceError that says what stood in the way.

    A status other than OK is in the error's `code`. `limit_bytes` bounds the response.
    """
    end = time.monotonic() + deadline_s
    name = path.name
    if len(str(path)) > PATH_LIMIT:
        raise SourceFailedError(f"a socket's path has at most {PATH_LIMIT} characters, not {len(str(path))}: {path}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.settimeout(deadline_s)
            connection.connect(str(path))
            connection.sendall(_opening(method, request, deadline_s=deadline_s, limit_bytes=limit_bytes))
            return _Exchange(connection, end=end, limit_bytes=limit_bytes).response()
        except FileNotFoundError as error:
            raise SourceUnavailableError(f"{path} does not exist") from error
        except PermissionError as error:
            raise SourceDeniedError(f"{path} may not be opened by this process") from error
        except ConnectionRefusedError as error:
            raise SourceUnavailableError(f"nobody listens on {path}") from error
        except (TimeoutError, BlockingIOError) as error:
            raise SourceStuckError(f"{name} did not answer within {deadline_s:g} s") from error
        except (ConnectionResetError, BrokenPipeError) as error:
            # The same end of a connection, where the server had not read all that we sent.
            raise SourceFailedError("the connection was closed before the answer was complete") from error
        except OSError as error:
            raise SourceFailedError(f"{name}: {error.strerror or type(error).__name__}") from error
        except WireError as error:
            raise SourceFailedError(f"{name} does not speak gRPC: {error}") from error


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _opening(method: str, request: bytes, *, deadline_s: float, limit_bytes: int) -> bytes:
    window = limit_bytes + _PREFIX
    settings = struct.pack(">HIHIHI", _HEADER_TABLE, 0, _PUSH, 0, _WINDOW, window)
    headers = encode_headers(
        (
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", method.encode()),
            (b":authority", b"localhost"),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
            (b"grpc-timeout", b"%dm" % max(1, int(deadline_s * 1000))),
        )
    )
    message = struct.pack(">BI", 0, len(request)) + request
    parts = [_PREFACE, _frame(_SETTINGS, 0, 0, settings)]
    if window > _DEFAULT_WINDOW:
        parts.append(_frame(8, 0, 0, struct.pack(">I", window - _DEFAULT_WINDOW)))
    parts.append(_frame(_HEADERS, _END_HEADERS, _STREAM, headers))
    parts.append(_frame(_DATA, _END_STREAM, _STREAM, message))
    return b"".join(parts)


class _Exchange:
    """What has been received of one call."""

    def __init__(self, connection: socket.socket, *, end: float, limit_bytes: int) -> None:
        self._connection = connection
        self._end = end
        self._limit = limit_bytes
        self._buffer = bytearray()
        self._body = bytearray()
        self._headers: dict[bytes, bytes] = {}

    def response(self) -> bytes:
        for _ in range(_FRAMES):
            kind, flags, stream, payload = self._read_frame()
            if kind in {_SETTINGS, _PING} and not flags & _ACK:
                # A server that has gone leaves behind what it sent before, and that says more than a broken pipe.
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    self._connection.sendall(_frame(kind, _ACK, 0, payload if kind == _PING else b""))
            elif kind == _GOAWAY:
                self._refuse_goaway(payload)
            elif stream == _STREAM and self._take(kind, flags, payload):
                return self._message()
        raise WireError(f"more than {_FRAMES} frames for one response")

    def _take(self, kind: int, flags: int, payload: bytes) -> bool:
        if kind == _RESET:
            code = struct.unpack(">I", payload)[0] if len(payload) == 4 else -1
            raise SourceFailedError(f"the call was reset with HTTP/2 error {code}")
        if kind == _HEADERS:
            block = _unpadded(payload, flags)
            if flags & _PRIORITY:
                block = block[5:]
            self._headers.update(decode_headers(self._whole_block(block, flags)))
        elif kind == _DATA:
            self._body += _unpadded(payload, flags)
            # Asked of the announced length: beyond the window the server would wait, and nothing more would come.
            length = int.from_bytes(self._body[1:_PREFIX], "big") if len(self._body) >= _PREFIX else 0
            if max(length, len(self._body) - _PREFIX) > self._limit:
                raise SourceFailedError(f"a response of {length} bytes; at most {self._limit} are read")
        else:
            return False
        return bool(flags & _END_STREAM)

    def _whole_block(self, block: bytes, flags: int) -> bytes:
        while not flags & _END_HEADERS:
            kind, flags, stream, more = self._read_frame()
            if kind != _CONTINUATION or stream != _STREAM:
                raise WireError("a header block that is not continued")
            block += more
            if len(block) > BLOCK_LIMIT:
                raise WireError(f"headers of more than {BLOCK_LIMIT} bytes")
        return block

    def _message(self) -> bytes:
        status = self._headers.get(b"grpc-status")
        if status is None:
            http = self._headers.get(b":status", b"no").decode("ascii", "replace")[:8]
            raise WireError(f"no status of the call; HTTP status {http}")
        if status != b"0":
            self._raise_status(status)
        if len(self._body) < _PREFIX:
            raise WireError("a response without a message")
        compressed, length = struct.unpack(">BI", self._body[:_PREFIX])
        if compressed or length != len(self._body) - _PREFIX:
            raise WireError(f"a message of {length} bytes in a response of {len(self._body) - _PREFIX}")
        return bytes(memoryview(self._body)[_PREFIX:])

    def _raise_status(self, status: bytes) -> NoReturn:
        code = int(status) if status.isdigit() and len(status) < 4 else -1
        said = self._headers.get(b"grpc-message", b"").decode("ascii", "replace")
        said = "".join(letter if letter.isprintable() else "?" for letter in said[:120])
        error = _STATUSES.get(code, SourceFailedError)
        raise error(f"status {code} of gRPC: {said or 'no message'}", code=max(code, 0))

    def _refuse_goaway(self, payload: bytes) -> None:
        # A server that ends in order still answers streams up to the one it names; ours is the first.
        if len(payload) < 8:
            raise WireError("a frame that says good-bye is cut off")
        last, code = struct.unpack(">II", payload[:8])
        if code or last < _STREAM:
            raise SourceUnavailableError(f"the server ended the connection with HTTP/2 error {code}")

    def _read_frame(self) -> tuple[int, int, int, bytes]:
        head = self._read(9)
        length = int.from_bytes(head[:3], "big")
        if length > _FRAME_LIMIT:
            raise WireError(f"a frame of {length} bytes")
        return head[3], head[4], int.from_bytes(head[5:9], "big") & 0x7FFF_FFFF, self._read(length)

    def _read(self, count: int) -> bytes:
        while len(self._buffer) < count:
            left = self._end - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._connection.settimeout(left)
            received = self._connection.recv(_READ)
            if not received:
                raise SourceFailedError("the connection was closed before the answer was complete")
            self._buffer += received
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data


def _unpadded(payload: bytes, flags: int) -> bytes:
    if not flags & _PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise WireError("a frame with more padding than content")
    return payload[1 : len(payload) - payload[0]]
