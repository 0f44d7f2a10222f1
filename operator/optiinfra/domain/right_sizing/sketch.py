"""CPU use of one container as two histograms that forget at different speeds.

The fast one (half a day) knows the level of now, the slow one (a fortnight) how high the container gets at times. Half
of each told the next day's over-time better than any single half-life or percentile did (docs/design). Buckets grow by
4 %, from two millicores on, so that side-cars are told apart. Weights are relative to the beginning of the running day.
"""

import math
import struct
import zlib
from typing import Final

import numpy as np
import numpy.typing as npt

from optiinfra.domain.histogram import DAY, Buckets, InvalidCheckpointError, inflate

FloatArray = npt.NDArray[np.float64]
BUCKETS: Final = Buckets(first=0.002, largest=512.0, growth=1.04)
"""Cores."""
COUNT: Final = BUCKETS.count
EDGES: Final[FloatArray] = np.array([BUCKETS.start(bucket + 1) for bucket in range(COUNT)])
"""Upper end of each bucket."""
FAST_DAYS: Final = 0.5
SLOW_DAYS: Final = 14.0
_SCALE: Final = 65_535.0
_HEADER: Final = struct.Struct("<dd")
_GROWTH: Final = math.log(BUCKETS.growth)


class CpuSketch:
    """Weights of CPU samples; each array is (buckets,)."""

    __slots__ = ("fast", "slow")

    def __init__(self) -> None:
        self.fast: FloatArray = np.zeros(COUNT)
        self.slow: FloatArray = np.zeros(COUNT)

    @property
    def empty(self) -> bool:
        """True when nothing was added."""
        return not bool(self.slow.any())

    def add(self, cores: float, *, since_midnight: float) -> None:
        """Add one sample, at seconds after the beginning of the running day."""
        bucket = BUCKETS.find(cores)
        days = since_midnight / DAY
        self.fast[bucket] += 2.0 ** (days / FAST_DAYS)
        self.slow[bucket] += 2.0 ** (days / SLOW_DAYS)

    def add_many(self, cores: FloatArray, *, since_midnight: FloatArray) -> None:
        """Add samples of the running day; none may be unknown."""
        found = np.floor(np.log(cores * (BUCKETS.growth - 1.0) / BUCKETS.first + 1.0) / _GROWTH)
        buckets = np.clip(found, 0, COUNT - 1).astype(np.int64)
        days = since_midnight / DAY
        self.fast += np.bincount(buckets, 2.0 ** (days / FAST_DAYS), COUNT)
        self.slow += np.bincount(buckets, 2.0 ** (days / SLOW_DAYS), COUNT)

    def pass_days(self, days: float) -> None:
        """Let whole days go by: what was added counts less."""
        # Each keeps its shape however long nothing comes, so weights stay far above what a float loses.
        self.fast = _lighter(self.fast, days / FAST_DAYS)
        self.slow = _lighter(self.slow, days / SLOW_DAYS)

    def to_bytes(self) -> bytes:
        """Return both, weights as shares of the largest one in 16 bits; at most 0.9 KiB."""
        parts, tops = [], []
        for weights in (self.fast, self.slow):
            top = float(weights.max())
            tops.append(top)
            # Rounded up, so that no sample vanishes; what was read back stays as it is.
            shares = np.ceil(weights / top * _SCALE - 1e-6) if top > 0.0 else np.zeros(COUNT)
            parts.append(shares.astype("<u2").tobytes())
        return _HEADER.pack(*tops) + zlib.compress(b"".join(parts), 9)

    @classmethod
    def from_bytes(cls, data: bytes) -> "CpuSketch":
        """Read a checkpoint back. Raises InvalidCheckpointError."""
        if len(data) < _HEADER.size:
            raise InvalidCheckpointError(f"CPU checkpoint: {len(data)} bytes are too few; begin with none")
        tops = _HEADER.unpack_from(data)
        if not all(math.isfinite(top) and 0.0 <= top < 1e12 for top in tops):
            raise InvalidCheckpointError("CPU checkpoint: impossible weights; begin with none")
        raw = np.frombuffer(inflate(data[_HEADER.size :], size=4 * COUNT, what="CPU"), dtype="<u2")
        sketch = cls()
        sketch.fast = raw[:COUNT] / _SCALE * tops[0]
        sketch.slow = raw[COUNT:] / _SCALE * tops[1]
        return sketch


def _lighter(weights: FloatArray, halvings: float) -> FloatArray:
    lighter = weights * 2.0 ** -min(halvings, 40.0)
    total = float(lighter.sum())
    return np.asarray(lighter * (1e-6 / total) if 0.0 < total < 1e-6 else lighter)
