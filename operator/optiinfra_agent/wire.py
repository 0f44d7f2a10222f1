"""The wire format of Protocol Buffers, as far as the kubelet's PodResources needs it.

Written here because the alternatives are heavier than what they replace: the `protobuf` package and its generated
modules weigh more than the whole rest of this client, for messages of four fields. Only varints and length-delimited
fields carry something we read; the two fixed widths are skipped, groups are refused (proto3 has none).

Everything is bounded by the message that is read: a length that points past the end is an error and never an
allocation, and values are slices of the message, not copies. It knows no message: that is `podresources`.
"""

from collections.abc import Iterator
from typing import TypeAlias

from optiinfra_agent.errors import WireError

View: TypeAlias = memoryview
Field: TypeAlias = tuple[int, int | View]

TEXT_LIMIT = 512
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_FIXED = {_FIXED64: 8, _FIXED32: 4}
_VARINT_BYTES = 10
_UNSIGNED_64 = (1 << 64) - 1
_FIELD_LIMIT = 1 << 29


def fields(message: View) -> Iterator[Field]:
    """Yield number and value of each field: an int for a varint, a slice for what has a length."""
    position, end = 0, len(message)
    while position < end:
        key, position = varint(message, position)
        number, kind = key >> 3, key & 7
        if not 0 < number < _FIELD_LIMIT:
            raise WireError(f"field number {number} at byte {position}")
        if kind == _VARINT:
            value, position = varint(message, position)
            yield number, value
        elif kind == _LENGTH:
            length, position = varint(message, position)
            if length > end - position:
                raise WireError(f"field {number} of {length} bytes where {end - position} are left")
            yield number, message[position : position + length]
            position += length
        elif kind in _FIXED:
            position += _FIXED[kind]
            if position > end:
                raise WireError(f"field {number} is cut off")
        else:
            raise WireError(f"field {number} of wire type {kind}")


def varint(message: View, position: int) -> tuple[int, int]:
    """Return one unsigned varint of at most 64 bits, and the position behind it."""
    value = 0
    for count in range(_VARINT_BYTES):
        if position >= len(message):
            raise WireError("a number is cut off")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return value & _UNSIGNED_64, position
    raise WireError(f"a number of more than {_VARINT_BYTES} bytes")


def signed(value: int) -> int:
    """Return an int64 that came as an unsigned varint."""
    return value - (1 << 64) if value >> 63 else value


def text(value: int | View) -> str:
    """Return a string field."""
    if isinstance(value, int):
        raise WireError("a number where a string was expected")
    if len(value) > TEXT_LIMIT:
        raise WireError(f"a string of {len(value)} bytes; more than {TEXT_LIMIT} is not believed")
    try:
        return str(value, "utf-8")
    except UnicodeDecodeError as error:
        raise WireError("a string that is not UTF-8") from error


def inner(value: int | View) -> View:
    """Return the bytes of a message field."""
    if isinstance(value, int):
        raise WireError("a number where a message was expected")
    return value


def numbers(value: int | View) -> Iterator[int]:
    """Yield a repeated number field in either form: one by one, or packed."""
    if isinstance(value, int):
        yield value
        return
    position = 0
    while position < len(value):
        number, position = varint(value, position)
        yield number


def string_field(number: int, value: str) -> bytes:
    """Encode one string field; empty ones are left out, as proto3 does."""
    data = value.encode()
    if not data:
        return b""
    return encode_varint(number << 3 | _LENGTH) + encode_varint(len(data)) + data


def encode_varint(value: int) -> bytes:
    """Encode one unsigned varint."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
