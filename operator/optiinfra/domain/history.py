"""What a workload's load was: a bounded series on fixed steps that survives a restart in at most 16 KiB.

Steps are fixed so that windows are slices and a fleet is a matrix. What was not measured stays missing: inside it is
NaN, and nothing that leaves this module is. A step in which not all ready replicas reported is missing too, because a
partial sum looks like falling load. Values are kept as measured (float32); only the checkpoint rounds them, to 1/65534
of a column's peak, and whole numbers not at all.
"""

import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from optiinfra.domain.histogram import InvalidCheckpointError, inflate
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.signals import ServiceSignals
from optiinfra.domain.units import Seconds, UnixTime

FloatArray = npt.NDArray[np.float32]

POINTS: Final = 1440
"""Steps kept: six hours of 15 s."""
DEFAULT_STEP: Final = Seconds(15.0)
CLOCK_TOLERANCE: Final = Seconds(300.0)
"""An observation older than the newest by more than this means that the clock was put right: begin anew."""
MOST_BYTES: Final = 16 * 1024

_QUIET_GAP: Final = Seconds(60.0)
_MAGIC: Final = b"OILH"
_VERSION: Final = 1
_HEADER: Final = struct.Struct("<4sBdqH5d")
_MISSING: Final = 65_535
_TOP: Final = 65_534
_FIRST_SIZE: Final = 64


class Column(IntEnum):
    """What is kept of every step."""

    RUNNING = 0
    WAITING = 1
    """Without those that more capacity would not start."""
    KV_CACHE_USAGE = 2
    """Mean over replicas, ratio."""
    WORK_RATE = 3
    READY = 4


@dataclass(frozen=True, slots=True)
class Series:
    """Known values of one column, oldest first; steps that were not measured are left out."""

    times: tuple[UnixTime, ...]
    values: tuple[float, ...]


class LoadHistory:
    """The load of one workload, at most `POINTS` steps of it."""

    def __init__(self, *, step: Seconds = DEFAULT_STEP) -> None:
        if not 1.0 <= step <= 300.0:
            raise ValueError(f"history step must be between 1 s and 300 s, got {step!r}")
        self._step = step
        self._data: FloatArray = np.full((len(Column), _FIRST_SIZE), np.nan, dtype=np.float32)
        self._end = 0
        self._newest = -1

    @property
    def step(self) -> Seconds:
        """Length of one step."""
        return self._step

    @property
    def newest(self) -> UnixTime | None:
        """Start of the newest step; None while nothing was observed."""
        return UnixTime(self._newest * self._step) if self._end else None

    def __len__(self) -> int:
        return min(self._end, POINTS)

    def observe(self, signals: ServiceSignals, ready: int) -> bool:
        """Note what was measured; the last observation within a step counts. False when it was too old to be kept."""
        slot = math.floor(signals.time / self._step)
        if self._end and slot < self._newest:
            if self._newest * self._step - signals.time <= CLOCK_TOLERANCE:
                return False
            self._clear()
        self._advance(slot)
        whole = 0 < min(signals.replicas_expected, ready) <= signals.replicas_reporting
        at = self._end - 1
        values = (signals.running, servable_waiting(signals), signals.kv_cache_usage_mean, signals.work_rate)
        for row, value in enumerate(values):
            if whole and not isinstance(value, Unknown):
                if not math.isfinite(value) or value < 0.0:
                    raise ValueError(f"history: {Column(row).name} must be finite and not negative, got {value!r}")
                self._data[row, at] = value
        self._data[Column.READY, at] = ready
        return True

    def fill_before(self, times: npt.NDArray[np.float64], values: npt.NDArray[np.float64]) -> int:
        """Note a past that was measured by somebody else, where nothing was observed here; returns the steps noted.

        `times` is (points,), rising; `values` is (columns, points) in the order of `Column`, NaN where unknown. What is
        after the oldest step that is known here, or before the steps that are kept, is left out.
        """
        slots = np.floor(times / self._step).astype(np.int64)
        newest = self._newest if self._end else int(slots.max(initial=-1))
        kept = self._data[:, max(0, self._end - POINTS) : self._end] if self._end else self._data[:, :0]
        known = np.flatnonzero(np.isfinite(kept).any(axis=0))
        oldest = newest - kept.shape[1] + 1 + int(known[0]) if known.size else newest + 1
        wanted = (slots < oldest) & (slots > newest - POINTS) & np.isfinite(values).any(axis=0)
        if not wanted.any():
            return 0
        slots, values = slots[wanted], values[:, wanted]
        first = min(int(slots[0]), newest - kept.shape[1] + 1)
        data: FloatArray = np.full((len(Column), max(newest - first + 1, _FIRST_SIZE)), np.nan, dtype=np.float32)
        data[:, newest - first + 1 - kept.shape[1] : newest - first + 1] = kept
        for row in range(len(Column)):
            whole = np.isfinite(values[row]) & (values[row] >= 0.0)
            data[row, slots[whole] - first] = values[row][whole]
        self._data, self._newest, self._end = data, newest, newest - first + 1
        return int(slots.size)

    def latest(self, column: Column) -> Value:
        """Return the newest known value of a column."""
        values = self._data[column, max(0, self._end - POINTS) : self._end]
        known = np.flatnonzero(np.isfinite(values))
        if not known.size:
            return Unknown(UnknownReason.TOO_FEW_SAMPLES, f"no {column.name.lower()} in the history")
        return float(values[known[-1]])

    def series(self, column: Column, *, since: UnixTime = UnixTime(0.0)) -> Series:
        """Known values of a column whose step began at or after `since`."""
        first = max(0, self._end - POINTS)
        values = self._data[column, first : self._end]
        slots = np.arange(values.size) + (self._newest - values.size + 1)
        times = slots * self._step
        known = np.isfinite(values) & (times >= since)
        return Series(
            times=tuple(UnixTime(time) for time in times[known].tolist()), values=tuple(values[known].tolist())
        )

    def quiet_span(self, *, now: UnixTime) -> Seconds:
        """Return for how long, up to now, nothing ran or waited; 0 when that is not known without a gap of a minute."""
        running, waiting = self.series(Column.RUNNING), self.series(Column.WAITING)
        if not running.times or running.times != waiting.times or now - running.times[-1] > _QUIET_GAP:
            return Seconds(0.0)
        since, later = now, now
        for time, runs, waits in zip(
            reversed(running.times), reversed(running.values), reversed(waiting.values), strict=True
        ):
            if runs > 0.0 or waits > 0.0 or later - time > _QUIET_GAP:
                break
            since = later = time
        return Seconds(now - since)

    def window(self, *, now: UnixTime, steps: int) -> FloatArray:
        """Return the last `steps` steps up to now, one row a column, NaN where missing: for `stack` only."""
        result: FloatArray = np.full((len(Column), steps), np.nan, dtype=np.float32)
        if not self._end:
            return result
        behind = math.floor(now / self._step) - self._newest
        kept = min(self._end, POINTS)
        # Position in `result` just after the newest kept step; a clock behind the history shows only what is past.
        right = steps - behind
        left = right - kept
        source_right = self._end - max(0, right - steps)
        source_left = self._end - kept + max(0, -left)
        if source_left < source_right and right > 0:
            result[:, max(0, left) : min(steps, right)] = self._data[:, source_left:source_right]
        return result

    def to_bytes(self) -> bytes:
        """Return a checkpoint of at most `MOST_BYTES`, versioned and compressed."""
        values = self._data[:, max(0, self._end - POINTS) : self._end].astype(np.float64)
        codes = np.full(values.shape, _MISSING, dtype="<u2")
        scales = []
        for row in range(len(Column)):
            known = np.isfinite(values[row])
            peak = float(values[row][known].max(initial=0.0))
            whole = peak <= _TOP and bool(np.all(values[row][known] == np.floor(values[row][known])))
            scale = 1.0 if whole else peak / _TOP
            codes[row, known] = np.round(values[row][known] / scale).astype("<u2")
            scales.append(scale)
        changes = np.diff(codes, axis=1, prepend=np.zeros((len(Column), 1), dtype="<u2")).astype("<u2")
        # High and low bytes apart: the high ones are nearly all alike and compress away.
        raw = changes.reshape(-1).view(np.uint8).reshape(-1, 2).T.tobytes()
        header = _HEADER.pack(_MAGIC, _VERSION, self._step, self._newest, values.shape[1], *scales)
        return header + zlib.compress(raw, 9)

    @classmethod
    def from_bytes(cls, data: bytes) -> "LoadHistory":
        """Read a checkpoint back. Raises InvalidCheckpointError."""
        if not _HEADER.size < len(data) <= MOST_BYTES:
            raise InvalidCheckpointError(f"history checkpoint: {len(data)} bytes cannot be one; begin with none")
        magic, version, step, newest, count, *scales = _HEADER.unpack_from(data)
        if magic != _MAGIC or version != _VERSION:
            raise InvalidCheckpointError("history checkpoint: not of this version; begin with none")
        good = all(math.isfinite(scale) and scale >= 0.0 for scale in scales)
        # "not <=" also refuses a NaN step.
        if not good or not 1.0 <= step <= 300.0 or count > POINTS or not -1 <= newest < 2**40:
            raise InvalidCheckpointError("history checkpoint: impossible header; begin with none")
        raw = inflate(data[_HEADER.size :], size=count * len(Column) * 2, what="history")
        changes = np.frombuffer(raw, dtype=np.uint8).reshape(2, -1).T.copy().reshape(-1).view("<u2")
        codes = np.cumsum(changes.reshape(len(Column), count), axis=1, dtype=np.uint64) % 65_536
        values = codes.astype(np.float64) * np.asarray(scales)[:, None]
        values[codes == _MISSING] = np.nan
        if np.any(values > np.finfo(np.float32).max):
            raise InvalidCheckpointError("history checkpoint: impossible values; begin with none")
        history = cls(step=Seconds(step))
        history._data = np.full((len(Column), max(count, _FIRST_SIZE)), np.nan, dtype=np.float32)
        history._data[:, :count] = values
        history._end = count
        history._newest = newest
        return history

    def _clear(self) -> None:
        self._data[:] = np.nan
        self._end = 0

    def _advance(self, slot: int) -> None:
        """Make room up to `slot`, as missing steps; amortised, because old steps move only when the array is full."""
        steps = slot - self._newest if self._end else 1
        if steps >= POINTS:
            self._clear()
            steps = 1
        self._newest = slot
        if self._end + steps > self._data.shape[1]:
            kept = min(self._end, POINTS)
            size = min(2 * (kept + steps), POINTS + POINTS // 4)
            data: FloatArray = np.full((len(Column), max(size, kept + steps)), np.nan, dtype=np.float32)
            data[:, :kept] = self._data[:, self._end - kept : self._end]
            self._data, self._end = data, kept
        self._end += steps


def servable_waiting(signals: ServiceSignals) -> Value:
    """Waiting requests that more capacity would start: all, less the deferred ones where an engine tells them."""
    if isinstance(signals.waiting, Unknown) or isinstance(signals.deferred, Unknown):
        return signals.waiting
    return max(0.0, signals.waiting - signals.deferred)


def stack(histories: Sequence[LoadHistory], *, now: UnixTime, steps: int) -> FloatArray:
    """Many histories as one array (column, workload, step), the newest step last, NaN where nothing was measured.

    It is for vectorised code inside the domain, which has to mask the NaN itself.
    """
    result: FloatArray = np.empty((len(Column), len(histories), steps), dtype=np.float32)
    for index, history in enumerate(histories):
        result[:, index, :] = history.window(now=now, steps=steps)
    return result
