"""What was learned of a fleet's GPUs as bytes: pauses and power at rest, in parts of bounded size.

A part holds some nodes whole, chosen by a hash of their names, so that news of one GPU change one part. Pauses are kept
to about 1 % of their length and the minute of their end, power to the watt: that is what the analysis can tell apart,
and what changes less is written less often. Where all parts together are too small, the oldest pauses of every GPU go
first, and then GPUs of which nothing but their name is known.

    header    magic, version, number of GPUs, Unix minute of the newest end
    per GPU   node and uuid (text), worked, gaps, floors; then per gap log(length) and minutes before the newest end
"""

import math
import struct
import zlib
from collections.abc import Sequence
from typing import Final

import numpy as np

from optiinfra.domain.histogram import InvalidCheckpointError, inflate
from optiinfra.domain.idle.gaps import RING
from optiinfra.domain.idle.samples import Learned

MOST_PARTS: Final = 16
_MAGIC: Final = b"OIGI"
_VERSION: Final = 1
_HEADER: Final = struct.Struct("<4sBHQII")
"""Magic, version, GPUs, minute of the newest end, bytes of the names, bytes of all."""
_ROW: Final = struct.Struct("<BBHH")
_GAP: Final = struct.Struct("<eH")
_NO_WATTS: Final = 65_535
_MOST_MINUTES: Final = 65_535
_UNPACKED_LIMIT: Final = 1 << 20
_NAME: Final = 40
"""Bytes of a GPU's name."""
_LEAST_PACKED: Final = 0.4
"""Nothing is packed into less than this share; what cannot fit is not tried."""
_LONGEST: Final = 3.0e6
"""Seconds; longer gaps than a month are kept as one."""


def packed(learned: Sequence[Learned], *, limit: int) -> tuple[bytes, ...]:
    """Return the parts, each of at most `limit` bytes; at most `MOST_PARTS`, and none for an empty fleet."""
    if not learned:
        return ()
    for parts, gaps in ((1, RING), (2, RING), (4, RING), (8, RING), (16, RING), (16, 8), (16, 2), (16, 0)):
        pairs = sum(min(gaps, len(one.lengths)) for one in learned)
        if _LEAST_PACKED * (_NAME * len(learned) + _GAP.size * pairs) > parts * limit:
            continue
        states = [_part(share, gaps) for share in _shares(learned, parts)]
        if all(len(state) <= limit for state in states):
            return tuple(states)
    return tuple(_fitting(share, limit) for share in _shares(learned, MOST_PARTS))


def unpacked(state: bytes) -> tuple[Learned, ...]:
    """Read one part back. Raises InvalidCheckpointError."""
    if len(state) < _HEADER.size:
        raise InvalidCheckpointError(f"idle checkpoint: {len(state)} bytes are too few; begin with none")
    magic, version, count, minute, names_size, size = _HEADER.unpack_from(state)
    if magic != _MAGIC or version != _VERSION or not names_size <= size <= _UNPACKED_LIMIT:
        raise InvalidCheckpointError("idle checkpoint: not of this version; begin with none")
    raw = inflate(state[_HEADER.size :], size=size, what="idle")
    try:
        names = raw[:names_size].decode().split("\n") if names_size else []
        if len(names) != 2 * count:
            raise InvalidCheckpointError("idle checkpoint: names and GPUs differ in number; begin with none")
        place, found = names_size, list[Learned]()
        for number in range(count):
            worked, gaps, empty, filled = _ROW.unpack_from(raw, place)
            place += _ROW.size
            pairs = [_GAP.unpack_from(raw, place + _GAP.size * one) for one in range(gaps)]
            place += _GAP.size * gaps
            lengths = tuple(math.exp(log) for log, _ in pairs)
            if gaps > RING or not all(0.0 < one <= 2.0 * _LONGEST for one in lengths):
                raise InvalidCheckpointError("idle checkpoint: impossible pauses; begin with none")
            ends = tuple(60.0 * (minute - ago) for _, ago in pairs)
            node, gpu = names[2 * number : 2 * number + 2]
            found.append(Learned(node, gpu, worked > 0, _watts(empty), _watts(filled), lengths, ends))
    except (struct.error, UnicodeDecodeError, OverflowError) as error:
        raise InvalidCheckpointError(f"idle checkpoint: {error}; begin with none") from error
    return tuple(found)


def _shares(learned: Sequence[Learned], parts: int) -> list[list[Learned]]:
    shares: list[list[Learned]] = [[] for _ in range(parts)]
    for one in learned:
        shares[zlib.crc32(one.node.encode()) % parts].append(one)
    return shares


def _fitting(share: Sequence[Learned], limit: int) -> bytes:
    """Return as many GPUs as fit, those first of which most is known."""
    ranked = sorted(share, key=lambda one: (-len(one.lengths), math.isnan(one.floor_filled), one.node, one.gpu))
    low, high = 0, len(ranked)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if len(_part(ranked[:middle], 0)) <= limit else (low, middle - 1)
    return _part(ranked[:low], 0)


def _part(share: Sequence[Learned], most: int) -> bytes:
    ends = [end for one in share for end in one.ends if math.isfinite(end)]
    minute = int(max(ends, default=0.0) // 60.0)
    names = "\n".join(name for one in share for name in (one.node, one.gpu)).encode()
    rows = bytearray(names)
    for one in share:
        known = [
            (math.log(min(max(length, 1.0), _LONGEST)), minute - int(end // 60.0))
            for length, end in zip(one.lengths, one.ends, strict=True)
            if math.isfinite(length) and math.isfinite(end)
        ]
        kept = [(log, ago) for log, ago in known if ago <= _MOST_MINUTES][-most:] if most else []
        rows += _ROW.pack(int(one.worked), len(kept), _whole(one.floor_empty), _whole(one.floor_filled))
        for log, ago in kept:
            rows += _GAP.pack(float(np.float16(log)), ago)
    return _HEADER.pack(_MAGIC, _VERSION, len(share), minute, len(names), len(rows)) + zlib.compress(bytes(rows), 9)


def _whole(watts: float) -> int:
    return _NO_WATTS if math.isnan(watts) else int(min(max(round(watts), 0), _NO_WATTS - 1))


def _watts(whole: int) -> float:
    return math.nan if whole == _NO_WATTS else float(whole)
