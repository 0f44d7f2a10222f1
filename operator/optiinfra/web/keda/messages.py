"""The messages of KEDA's `externalscaler.proto`, read and written without a protobuf library.

Six flat messages need four of protobuf's wire rules; the runtime of protobuf would cost the operator more memory than
the whole of this package. Unknown fields are skipped, as protobuf demands, and repeated single fields take the last
value. The tests check every message against protobuf's own encoder, from KEDA's published file.

Limits are those of the connection: a message is complete and bounded before it is read here.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LARGEST_FIELD = (1 << 29) - 1


class MessageError(ValueError):
    """Bytes that are no such message."""


@dataclass(frozen=True, slots=True)
class ScaledObjectRef:
    """Who asks: the ScaledObject, and the metadata of its trigger."""

    name: str = ""
    namespace: str = ""
    scaler_metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GetMetricsRequest:
    """A question for the value of one metric."""

    scaled_object_ref: ScaledObjectRef = ScaledObjectRef()
    metric_name: str = ""


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """A metric, and its value at which one replica is right."""

    metric_name: str
    target_size: int


@dataclass(frozen=True, slots=True)
class MetricValue:
    """The value of a metric."""

    metric_name: str
    value: int


def read_scaled_object_ref(data: bytes) -> ScaledObjectRef:
    """Read a ScaledObjectRef, or raise MessageError."""
    name = namespace = ""
    metadata: dict[str, str] = {}
    for number, value in _fields(data):
        if number == 1:
            name = _text(value)
        elif number == 2:
            namespace = _text(value)
        elif number == 3:
            entry = {1: "", 2: ""}
            for part, text in _fields(_bytes(value)):
                if part in entry:
                    entry[part] = _text(text)
            metadata[entry[1]] = entry[2]
    return ScaledObjectRef(name, namespace, metadata)


def read_get_metrics_request(data: bytes) -> GetMetricsRequest:
    """Read a GetMetricsRequest, or raise MessageError."""
    reference, metric = b"", ""
    for number, value in _fields(data):
        if number == 1:
            reference += _bytes(value)  # parts of one message, sent in several fields, are one after the other
        elif number == 2:
            metric = _text(value)
    return GetMetricsRequest(read_scaled_object_ref(reference), metric)


def write_is_active(*, active: bool) -> bytes:
    """Write an IsActiveResponse."""
    return b"\x08\x01" if active else b""


def write_metric_specs(specs: Sequence[MetricSpec]) -> bytes:
    """Write a GetMetricSpecResponse: the target as integer, which is deprecated but all that old KEDAs read, and float.

    A KEDA that knows the float prefers it.
    """
    return b"".join(
        _part(1, _part(1, spec.metric_name.encode()) + _integer(2, spec.target_size) + _double(3, spec.target_size))
        for spec in specs
    )


def write_metric_values(values: Sequence[MetricValue]) -> bytes:
    """Write a GetMetricsResponse, with integer and float as above; zero is the absence of both fields."""
    return b"".join(
        _part(1, _part(1, value.metric_name.encode()) + _integer(2, value.value) + _double(3, value.value))
        for value in values
    )


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Every field of a message: its number, with the integer or the bytes that it has."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if not 1 <= number <= _LARGEST_FIELD:
            raise MessageError(f"field number {number}")
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if kind == _BYTES:
            length, at = _varint(data, at)
        elif kind in {_FIXED64, _FIXED32}:
            length = 8 if kind == _FIXED64 else 4
        else:
            raise MessageError(f"field {number} has the unknown wire type {kind}")
        if length > len(data) - at:
            raise MessageError(f"field {number} is cut off")
        yield number, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for count in range(10):
        if at + count >= len(data):
            raise MessageError("an integer is cut off")
        byte = data[at + count]
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at + count + 1
    raise MessageError("an integer is longer than 10 bytes")


def _bytes(value: bytes | int) -> bytes:
    if isinstance(value, int):
        raise MessageError("an integer where text was expected")
    return value


def _text(value: bytes | int) -> str:
    try:
        return _bytes(value).decode()
    except UnicodeDecodeError as error:
        raise MessageError("text that is not UTF-8") from error


def _write_varint(value: int) -> bytes:
    value &= 0xFFFF_FFFF_FFFF_FFFF  # negative numbers as protobuf's int64 has them
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _part(number: int, content: bytes) -> bytes:
    return _write_varint(number << 3 | _BYTES) + _write_varint(len(content)) + content


def _integer(number: int, value: int) -> bytes:
    return _write_varint(number << 3) + _write_varint(value) if value else b""


def _double(number: int, value: float) -> bytes:
    return _write_varint(number << 3 | _FIXED64) + struct.pack("<d", value) if value else b""
