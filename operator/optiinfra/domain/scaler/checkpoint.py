"""One workload's learned state as bytes, so that a new leader goes on: at most 16 KiB, typically five.

Everything is kept that moves a decision: scores, held maxima, windows, queues, orders on the way. Arrays are packed in
their fixed order and compressed; scores travel as they are, because weights amplify small differences. The format has
a number: another version, another size or damage is refused, and the workload then begins with the prior, which says
so, rather than with half a memory.
"""

import struct
import zlib
from typing import Final

import numpy as np

from optiinfra.domain.scaler.state import FleetState, arrays, take
from optiinfra.errors import OptiInfraError

VERSION: Final = 5
MOST_BYTES: Final = 16_384
_HEADER: Final = struct.Struct("<4sHI")
_MAGIC: Final = b"OISC"


class CheckpointError(OptiInfraError):
    """A checkpoint cannot be read; the message says why. The remedy is to begin anew."""


def packed(state: FleetState, row: int) -> bytes:
    """One workload of a fleet; raises `CheckpointError` when it would not fit."""
    parts = [np.ascontiguousarray(array).tobytes() for array in arrays(take(state, slice(row, row + 1)))]
    body = b"".join(parts)
    data = _HEADER.pack(_MAGIC, VERSION, len(body)) + zlib.compress(body, 6)
    if len(data) > MOST_BYTES:
        raise CheckpointError(f"the state of the workload is {len(data)} bytes, more than {MOST_BYTES}")
    return data


def unpacked(data: bytes) -> FleetState:
    """One workload as a fleet of one; raises `CheckpointError` for anything that `packed` did not write."""
    if len(data) > MOST_BYTES or len(data) < _HEADER.size:
        raise CheckpointError(f"a checkpoint of {len(data)} bytes: between {_HEADER.size} and {MOST_BYTES} are read")
    magic, version, size = _HEADER.unpack_from(data)
    if magic != _MAGIC or version != VERSION:
        raise CheckpointError(f"a checkpoint of version {version}: only version {VERSION} is read")
    state = FleetState.of(np.ones(1, dtype=np.int64))
    expected = sum(array.nbytes for array in arrays(state))
    if size != expected:
        raise CheckpointError(f"a checkpoint of {size} bytes unpacked: {expected} are expected")
    unpacker = zlib.decompressobj()
    try:
        # One byte more than expected, so that the stream is read to its end, where its checksum is.
        body = unpacker.decompress(data[_HEADER.size :], expected + 1)
    except zlib.error as error:
        raise CheckpointError(f"the checkpoint is damaged: {error}") from error
    if len(body) != expected or not unpacker.eof or unpacker.unused_data:
        raise CheckpointError(f"the checkpoint is damaged: {len(body)} bytes instead of {expected}")
    offset = 0
    for array in arrays(state):
        array[...] = np.frombuffer(body, dtype=array.dtype, count=array.size, offset=offset).reshape(array.shape)
        offset += array.nbytes
    if not all(np.isfinite(array).all() for array in arrays(state) if array.dtype.kind == "f"):
        raise CheckpointError("the checkpoint holds values that are not numbers")
    return state
