"""Exponential buckets for values of unknown size, and what all checkpoints of histories share.

Buckets grow by 5 % by default, exactly as the Vertical Pod Autoscaler has them, so that its baseline can be recomputed;
right-sizing has finer ones (`optiinfra.domain.right_sizing.sketch`). Weights and what they are used for live there.
"""

import math
import zlib
from dataclasses import dataclass
from typing import Final

from optiinfra.domain.units import Seconds

DAY: Final = Seconds(86_400.0)


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
