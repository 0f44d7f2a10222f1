"""Checkpoints of what is kept of a container: versioned, bounded by construction, refused rather than guessed.

Daily values are logarithms in 16 bits (0.06 % apart), sketches as in `sketch`. Nothing but numbers is in it, and what
cannot be is an `InvalidCheckpointError`: begin with an empty history then.
"""

import math
import struct
from typing import Final

import numpy as np
import numpy.typing as npt

from optiinfra.domain.histogram import DAY, InvalidCheckpointError
from optiinfra.domain.right_sizing.record import LEVEL_DAYS, PEAK_DAYS, Advice, Judged, Kept
from optiinfra.domain.right_sizing.sketch import CpuSketch

FloatArray = npt.NDArray[np.float64]
LARGEST: Final = 1536
"""Bytes; what is written stays below 1.3 KiB."""
_MAGIC: Final = b"OIRU"
_VERSION: Final = 2
_HEADER: Final = struct.Struct("<4sBqddqdqqqddddddddddddH")
_STEP: Final = math.log(1e18) / 65_000.0
_NANO: Final = 1e9


def pack(kept: Kept) -> bytes:
    """Return the checkpoint."""
    sketch = kept.cpu.to_bytes()
    header = _HEADER.pack(
        _MAGIC,
        _VERSION,
        kept.day,
        kept.first,
        kept.last,
        kept.samples,
        kept.level_sum,
        kept.level_count,
        kept.above,
        kept.advice_day,
        kept.kill_bytes,
        kept.kill_time,
        kept.start_cpu,
        kept.start_memory,
        *_advice(kept.cpu_advice),
        *_advice(kept.memory_advice),
        kept.cpu_judged.exceeded,
        kept.cpu_judged.stated,
        kept.memory_judged.exceeded,
        kept.memory_judged.stated,
        len(sketch),
    )
    return header + _codes(kept.levels * _NANO) + _codes(kept.peaks) + sketch


def unpack(data: bytes) -> Kept:
    """Read a checkpoint back. Raises InvalidCheckpointError."""
    if not _HEADER.size <= len(data) <= LARGEST:
        raise InvalidCheckpointError(f"usage checkpoint: {len(data)} bytes cannot be one; begin with none")
    magic, version, *numbers, size = _HEADER.unpack_from(data)
    days = 2 * (LEVEL_DAYS + PEAK_DAYS)
    if magic != _MAGIC or version != _VERSION or len(data) != _HEADER.size + days + size:
        raise InvalidCheckpointError("usage checkpoint: damaged or not of this version; begin with none")
    day, first, last, samples, level_sum, level_count, above, advice_day, *rest = numbers
    kill_bytes, kill_time, start_cpu, start_memory, *advice = rest
    amounts = (first, last, level_sum, kill_bytes, kill_time, *advice[4:])
    starts = (start_cpu, start_memory, *advice[:4])
    plausible = (
        all(math.isfinite(amount) and amount >= 0.0 for amount in amounts)
        and all(math.isnan(start) or 0.0 <= start < math.inf for start in starts)
        and min(samples, level_count, above) >= 0
        and above <= level_count <= samples
        and first <= last
        and (day == -1 or day == math.floor(last / DAY))
        and -1 <= advice_day < 1 << 40
    )
    if not plausible:
        raise InvalidCheckpointError("usage checkpoint: impossible values; begin with none")
    begin = _HEADER.size
    levels = _values(data[begin : begin + 2 * LEVEL_DAYS]) / _NANO
    peaks = _values(data[begin + 2 * LEVEL_DAYS : begin + days])
    return Kept(
        day=day,
        first=first,
        last=last,
        samples=samples,
        cpu=CpuSketch.from_bytes(data[begin + days :]),
        levels=levels,
        peaks=peaks,
        level_sum=level_sum,
        level_count=level_count,
        above=above,
        kill_bytes=kill_bytes,
        kill_time=kill_time,
        start_cpu=start_cpu,
        start_memory=start_memory,
        advice_day=advice_day,
        cpu_advice=_given(advice[0], advice[1]),
        memory_advice=_given(advice[2], advice[3]),
        cpu_judged=Judged(advice[4], advice[5]),
        memory_judged=Judged(advice[6], advice[7]),
    )


def _advice(advice: Advice | None) -> tuple[float, float]:
    return (math.nan, math.nan) if advice is None else (advice.target, advice.exceedance)


def _given(target: float, exceedance: float) -> Advice | None:
    return None if math.isnan(target) or math.isnan(exceedance) else Advice(target, exceedance)


def _codes(values: FloatArray) -> bytes:
    """0 is unknown, 1 is 1 and less, each further code 0.06 % more."""
    known = np.isfinite(values)
    logarithms = np.log(np.maximum(np.where(known, values, 1.0), 1.0))
    codes = np.where(known, 1.0 + np.minimum(np.rint(logarithms / _STEP), 65_534.0), 0.0)
    return codes.astype("<u2").tobytes()


def _values(data: bytes) -> FloatArray:
    codes = np.frombuffer(data, dtype="<u2").astype(np.float64)
    return np.where(codes > 0.0, np.exp((codes - 1.0) * _STEP), np.nan)
