"""How much of its GPUs a workload uses, over days: activity as a histogram, memory and KV tokens as daily peaks.

Kept for a workload, not for a GPU: pods come and go, and what they need stays. Samples of pods that are loading count
for memory, because a load may need more than what follows, and not for activity, because compiling kernels is no
serving. Multiprocessor activity says how much of the GPU works; utilisation only says that something does, so that it
bounds activity from above and nothing else. What was not measured is counted as dark: a use that was hardly seen is
unknown.
"""

import math
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from optiinfra.domain.histogram import InvalidCheckpointError, inflate
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.units import Ratio, Seconds, UnixTime

DAY: Final = 86_400.0
BINS: Final = 50
"""Of two per cent each."""
HALF_LIFE: Final = Seconds(7.0 * DAY)
DAYS: Final = 14
LEAST_SPAN: Final = Seconds(DAY)
MOST_DARK: Final = Ratio(0.2)
"""Share of moments without a measurement from which use counts as unknown."""
SM_KNOWN: Final = Ratio(0.9)
"""Share of samples with multiprocessor activity from which it is believed."""
_LOAD_APART: Final = 600.0
_ROWS: Final = 4
_SM, _DUTY, _MEMORY, _KV = range(_ROWS)
_MAGIC: Final = b"OIGU"
_VERSION: Final = 1
_HEADER: Final = struct.Struct("<4sBddddqqqqH")


@dataclass(frozen=True, slots=True)
class GpuMoment:
    """One GPU of the workload at one moment."""

    sm_active: Value
    utilization: Value
    memory_bytes: Value
    loading: bool = False
    """Its pod is not ready yet."""


@dataclass(frozen=True, slots=True)
class GpuUse:
    """What a workload uses of one GPU."""

    span: Seconds
    samples: int
    activity_p99: float
    activity_most: float
    """Largest of the last days."""
    bound: bool
    """True when only utilisation was measured: activity lies at or below these."""
    memory_peak: Value
    """Bytes; loads included, where one was seen."""
    kv_tokens_peak: Value
    """KV tokens that one replica held at most."""
    loads: int
    """Starts of pods that were seen."""
    dark: float
    """Share of moments without a measurement."""


class GpuUseHistory:
    """Use of the GPUs of one workload."""

    def __init__(self) -> None:
        self._weights: npt.NDArray[np.float64] = np.zeros((2, BINS))
        self._reference = 0.0
        self._first = self._last = self._loaded = 0.0
        self._samples = self._with_sm = self._dark = self._loads = 0
        self._days: dict[int, npt.NDArray[np.float64]] = {}

    @property
    def last(self) -> UnixTime | None:
        """When it was last measured; None when never."""
        return UnixTime(self._last) if self._last > 0.0 else None

    def observe(self, moments: Iterable[GpuMoment], *, time: UnixTime, kv_tokens: Value) -> bool:
        """Note all GPUs of the workload at one moment; False when it is not after the last one."""
        if time <= self._last:
            return False
        for moment in moments:
            self._note(moment, time)
        if not isinstance(kv_tokens, Unknown):
            self._peak(_KV, kv_tokens, time)
        self._last = time
        self._first = self._first or time
        return True

    def summary(self) -> GpuUse | Unknown:
        """Return what is known, or why nothing is."""
        span = Seconds(self._last - self._first)
        seen = self._samples + self._dark
        if not self._samples:
            return Unknown(UnknownReason.NOT_MEASURED, "no agent tells what its GPUs do")
        if span < LEAST_SPAN:
            text = f"its GPUs were watched for {span / 3600.0:.1f} of {LEAST_SPAN / 3600.0:.0f} hours"
            return Unknown(UnknownReason.TOO_FEW_SAMPLES, text)
        if self._dark > MOST_DARK * seen:
            text = f"its GPUs were not measured in {self._dark / seen:.0%} of the moments"
            return Unknown(UnknownReason.NOT_MEASURED, text)
        by_sm = self._with_sm >= SM_KNOWN * self._samples
        row = _SM if by_sm else _DUTY
        return GpuUse(
            span=span,
            samples=self._samples,
            activity_p99=_quantile(self._weights[row], 0.99),
            activity_most=self._most(row, 0.0),
            bound=not by_sm,
            memory_peak=self._most_or_unknown(_MEMORY, "its GPU memory was not measured"),
            kv_tokens_peak=self._most_or_unknown(_KV, "the KV tokens that it holds were not measured"),
            loads=self._loads,
            dark=self._dark / seen,
        )

    def _note(self, moment: GpuMoment, time: UnixTime) -> None:
        if not isinstance(moment.memory_bytes, Unknown):
            self._peak(_MEMORY, moment.memory_bytes, time)
        if moment.loading:
            if time - self._loaded > _LOAD_APART:
                self._loads += 1
            self._loaded = time
            return
        known = False
        for row, value in ((_SM, moment.sm_active), (_DUTY, moment.utilization)):
            if isinstance(value, Unknown):
                continue
            share = min(1.0, max(0.0, value))
            self._weights[row, min(BINS - 1, int(share * BINS))] += self._weight(time)
            self._peak(row, share, time)
            known = True
        self._with_sm += int(not isinstance(moment.sm_active, Unknown))
        self._samples += int(known)
        self._dark += int(not known)

    def _peak(self, row: int, value: float, time: UnixTime) -> None:
        day = int(time // DAY)
        peaks = self._days.get(day)
        if peaks is None:
            peaks = self._days[day] = np.full(_ROWS, -1.0)
            for old in sorted(self._days)[:-DAYS]:
                del self._days[old]
        peaks[row] = max(float(peaks[row]), value)

    def _most(self, row: int, default: float) -> float:
        return max((float(peaks[row]) for peaks in self._days.values() if peaks[row] >= 0.0), default=default)

    def _most_or_unknown(self, row: int, why: str) -> Value:
        found = self._most(row, -1.0)
        return found if found >= 0.0 else Unknown(UnknownReason.NOT_MEASURED, why)

    def _weight(self, time: UnixTime) -> float:
        """Return the weight of a sample now: weights grow instead of old ones being multiplied down each time."""
        if not self._reference:
            self._reference = time
        halvings = (time - self._reference) / HALF_LIFE
        if halvings > 20.0:
            self._weights *= 2.0**-halvings
            self._reference, halvings = time, 0.0
        return float(2.0**halvings)

    def to_bytes(self) -> bytes:
        """Return a checkpoint, at most about a kilobyte."""
        days = sorted(self._days)[-DAYS:]
        header = _HEADER.pack(
            _MAGIC,
            _VERSION,
            self._first,
            self._last,
            self._loaded,
            self._reference,
            self._samples,
            self._with_sm,
            self._dark,
            self._loads,
            len(days),
        )
        numbers = np.concatenate([self._weights.ravel(), *([float(day), *self._days[day]] for day in days)])
        return header + zlib.compress(numbers.astype("<f4").tobytes(), 9)

    @classmethod
    def from_bytes(cls, data: bytes) -> "GpuUseHistory":
        """Read a checkpoint back. Raises InvalidCheckpointError."""
        if len(data) < _HEADER.size:
            raise InvalidCheckpointError(f"GPU use checkpoint: {len(data)} bytes are too few; begin with none")
        magic, version, first, last, loaded, reference, samples, with_sm, dark, loads, days = _HEADER.unpack_from(data)
        times, counts = (first, last, loaded, reference), (samples, with_sm, dark, loads)
        if magic != _MAGIC or version != _VERSION or days > DAYS:
            raise InvalidCheckpointError("GPU use checkpoint: not of this version; begin with none")
        if not all(map(math.isfinite, times)) or last < first or min(counts) < 0 or with_sm > samples:
            raise InvalidCheckpointError("GPU use checkpoint: impossible values; begin with none")
        size = 2 * BINS + days * (_ROWS + 1)
        raw = inflate(data[_HEADER.size :], size=4 * size, what="GPU use")
        numbers = np.frombuffer(raw, dtype="<f4").astype(np.float64)
        if not np.all(np.isfinite(numbers)) or np.any(numbers[: 2 * BINS] < 0.0):
            raise InvalidCheckpointError("GPU use checkpoint: impossible numbers; begin with none")
        use = cls()
        use._weights = numbers[: 2 * BINS].reshape(2, BINS).copy()
        use._first, use._last, use._loaded, use._reference = times
        use._samples, use._with_sm, use._dark, use._loads = counts
        for row in numbers[2 * BINS :].reshape(days, _ROWS + 1):
            use._days[int(row[0])] = row[1:].copy()
        return use


def _quantile(weights: npt.NDArray[np.float64], share: float) -> float:
    """Return the upper end of the bin below which a share of the weight lies."""
    sums = np.cumsum(weights)
    if sums[-1] <= 0.0:
        return 0.0
    return float(min(BINS, int(np.searchsorted(sums, share * sums[-1])) + 1)) / BINS
