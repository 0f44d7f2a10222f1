"""A histogram that forgets: the sketch that right-sizing keeps instead of samples.

Buckets grow by 5 % and weights halve in a day, exactly as the Vertical Pod Autoscaler has them, so that its results
are a baseline that anyone can recompute. A few hundred floats stand for months of samples, and merge into a
checkpoint of at most about a kilobyte. It holds no idea of what a percentile is used for, and an empty histogram has
no percentile: the answer is an `Unknown`, not zero.
"""

import math
import struct
import zlib
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.units import Ratio, Seconds, UnixTime

DAY: Final = Seconds(86_400.0)
_MAGIC: Final = b"OIDH"
_VERSION: Final = 1
_HEADER: Final = struct.Struct("<4sBdddddH")
_MOST_BUCKETS: Final = 2_000
_MOST_HALVINGS: Final = 100.0
"""Weights grow by 2 per half-life past the reference; beyond this the reference moves, or floats would overflow."""
_LEAST_WEIGHT: Final = 0.001
"""Weights below this are taken for what a subtraction left over, as in the Vertical Pod Autoscaler."""


class InvalidCheckpointError(ValueError):
    """Saved bytes that cannot be read back: damaged, foreign or of another version. Begin with an empty history."""


@dataclass(frozen=True, slots=True)
class Buckets:
    """Exponential buckets: the first is `first` wide, each next one 5 % wider, up to `largest`."""

    first: float
    largest: float
    growth: float = 1.05

    @property
    def count(self) -> int:
        """Number of buckets; the last one is open."""
        return math.ceil(math.log(self.largest * (self.growth - 1.0) / self.first + 1.0) / math.log(self.growth)) + 1

    def start(self, bucket: int) -> float:
        """Lower end of a bucket, which is the upper end of the one before."""
        return self.first * (self.growth**bucket - 1.0) / (self.growth - 1.0)

    def find(self, value: float) -> int:
        """Return the bucket that holds a value."""
        if value < self.first:
            return 0
        bucket = math.floor(math.log(value * (self.growth - 1.0) / self.first + 1.0) / math.log(self.growth))
        return min(bucket, self.count - 1)


CPU_BUCKETS: Final = Buckets(first=0.01, largest=1000.0)
"""Cores."""
MEMORY_BUCKETS: Final = Buckets(first=1e7, largest=1e12)
"""Bytes."""


class DecayingHistogram:
    """Weighted values in exponential buckets; a sample's weight halves every `half_life`."""

    def __init__(self, buckets: Buckets, *, half_life: Seconds = DAY) -> None:
        self._buckets = buckets
        self._half_life = half_life
        self._count = buckets.count
        self._weights: npt.NDArray[np.float64] = np.zeros(self._count)
        self._reference = UnixTime(0.0)

    @property
    def empty(self) -> bool:
        """True when nothing that still weighs something was added."""
        return not bool(np.any(self._weights >= _LEAST_WEIGHT))

    def add(self, value: float, *, weight: float, time: UnixTime) -> None:
        """Add one sample. A value that is negative or not finite is an error of the caller, never a sample."""
        if not math.isfinite(value) or value < 0.0:
            raise ValueError(f"histogram sample must be finite and not negative, got {value!r}")
        self._weights[self._buckets.find(value)] += weight * self._decay(time)

    def subtract(self, value: float, *, weight: float, time: UnixTime) -> None:
        """Take back a sample that was added with the same value, weight and time."""
        bucket = self._buckets.find(value)
        self._weights[bucket] = max(0.0, float(self._weights[bucket]) - weight * self._decay(time))

    def percentile(self, share: Ratio) -> Value:
        """Upper end of the bucket below which `share` of the weight lies."""
        weights = np.where(self._weights >= _LEAST_WEIGHT, self._weights, 0.0)
        sums = np.cumsum(weights)
        if sums[-1] <= 0.0:
            return Unknown(UnknownReason.TOO_FEW_SAMPLES, "the histogram is empty")
        last = int(np.flatnonzero(weights)[-1])
        # A threshold of 0 would stop before the first sample; rounding may leave the last sum short of 100 %.
        first = int(np.flatnonzero(weights)[0])
        bucket = min(max(int(np.searchsorted(sums, share * float(weights.sum()))), first), last)
        return self._buckets.start(bucket + 1 if bucket < self._count - 1 else bucket)

    def to_bytes(self) -> bytes:
        """Return a checkpoint, versioned and compressed."""
        header = _HEADER.pack(
            _MAGIC,
            _VERSION,
            self._buckets.first,
            self._buckets.largest,
            self._buckets.growth,
            self._half_life,
            self._reference,
            self._count,
        )
        return header + zlib.compress(self._weights.astype("<f4").tobytes(), 9)

    @classmethod
    def from_bytes(cls, data: bytes) -> "DecayingHistogram":
        """Read a checkpoint back. Raises InvalidCheckpointError."""
        if len(data) < _HEADER.size:
            raise InvalidCheckpointError(f"histogram checkpoint: {len(data)} bytes are too few; begin with none")
        magic, version, first, largest, growth, half_life, reference, count = _HEADER.unpack_from(data)
        if magic != _MAGIC or version != _VERSION:
            raise InvalidCheckpointError("histogram checkpoint: not of this version; begin with none")
        numbers = (first, largest, growth, half_life, reference)
        plausible = all(map(math.isfinite, numbers)) and 0.0 < first < largest and 1.0 < growth <= 2.0
        if not plausible or half_life <= 0.0 or count > _MOST_BUCKETS or Buckets(first, largest, growth).count != count:
            raise InvalidCheckpointError("histogram checkpoint: impossible buckets; begin with none")
        weights = np.frombuffer(inflate(data[_HEADER.size :], size=count * 4, what="histogram"), dtype="<f4")
        if not np.all(np.isfinite(weights)) or np.any(weights < 0.0):
            raise InvalidCheckpointError("histogram checkpoint: impossible weights; begin with none")
        histogram = cls(Buckets(first, largest, growth), half_life=Seconds(half_life))
        histogram._weights = weights.astype(np.float64)
        histogram._reference = UnixTime(reference)
        return histogram

    def _decay(self, time: UnixTime) -> float:
        halvings = (time - self._reference) / self._half_life
        if halvings > _MOST_HALVINGS:
            # The new reference is a whole number of half-lives away, as in the Vertical Pod Autoscaler.
            moved = round(halvings)
            self._weights *= 2.0 ** -min(moved, 1000)
            self._reference = UnixTime(self._reference + moved * self._half_life)
            halvings = (time - self._reference) / self._half_life
        return float(2.0 ** max(halvings, -1000.0))


def inflate(data: bytes, *, size: int, what: str) -> bytes:
    """Decompress to exactly `size` bytes and not one more. Raises InvalidCheckpointError."""
    decompressor = zlib.decompressobj()
    try:
        raw = decompressor.decompress(data, size + 1)
    except zlib.error as error:
        raise InvalidCheckpointError(f"{what} checkpoint: damaged ({error}); begin with none") from error
    if len(raw) != size or not decompressor.eof or decompressor.unused_data:
        raise InvalidCheckpointError(f"{what} checkpoint: not {size} bytes inside; begin with none")
    return raw
