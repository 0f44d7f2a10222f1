"""What is kept of one container's use: sketches and daily peaks instead of samples, over all pods of its workload.

CPU lies in two decaying histograms and 28 daily means, memory in the peaks of 63 days; kills for memory and what it
used while starting are kept apart, because they say something else and are forgotten sooner. What was advised is
remembered with how often it was exceeded, so that stated probabilities can be held against what happened. About 1 KiB
a container as a checkpoint. Days are UTC days. It reads no clock and judges nothing.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from optiinfra.domain.histogram import DAY
from optiinfra.domain.readings import Unknown, Value
from optiinfra.domain.right_sizing import checkpoint
from optiinfra.domain.right_sizing.record import Advice, Kept
from optiinfra.domain.units import Bytes, Seconds, UnixTime

FloatArray = npt.NDArray[np.float64]
MOST_CORES: Final = 1e6
MOST_BYTES: Final = 1e18
START_UP: Final = Seconds(600.0)
"""A sample of a container that started more recently than this belongs to its start (`ContainerUsage.starting`)."""
MINUTES_PER_DAY: Final = 1440.0
_OUT_OF_MEMORY_FACTOR: Final = 1.2
_OUT_OF_MEMORY_LEAST: Final = 100.0 * 1024.0**2


class InvalidUsageError(ValueError):
    """A measurement that cannot be: negative, not finite, or beyond any machine. Hand in an `Unknown` instead."""


@dataclass(frozen=True, slots=True)
class ContainerUsage:
    """What one container was measured to use at one moment."""

    time: UnixTime
    cpu_cores: Value
    memory_bytes: Value
    """Working set."""
    starting: bool = False
    """It started less than `START_UP` ago: its use is kept apart."""


class UsageHistory:
    """Use of one container over all pods of its workload."""

    __slots__ = ("kept",)

    def __init__(self) -> None:
        self.kept = Kept()
        """Read by the estimators; changed here only."""

    @property
    def samples(self) -> int:
        """Number of moments at which CPU was measured."""
        return self.kept.samples

    @property
    def lifespan(self) -> Seconds:
        """From the first measurement to the last."""
        return Seconds(self.kept.last - self.kept.first)

    @property
    def last(self) -> UnixTime | None:
        """When it was last measured; None when never."""
        return UnixTime(self.kept.last) if self.kept.day >= 0 else None

    @property
    def confidence(self) -> float:
        """Days of evidence as the Vertical Pod Autoscaler counts them: span, or samples at one a minute if fewer."""
        return min(self.lifespan / DAY, self.samples / MINUTES_PER_DAY)

    def observe(self, usage: ContainerUsage) -> bool:
        """Note a measurement. False when it held nothing known or is older than the last. Raises InvalidUsageError."""
        cpu = math.nan if isinstance(usage.cpu_cores, Unknown) else _plausible("cpu_cores", usage.cpu_cores, MOST_CORES)
        memory = (
            math.nan
            if isinstance(usage.memory_bytes, Unknown)
            else _plausible("memory_bytes", usage.memory_bytes, MOST_BYTES)
        )
        time = _plausible("time", usage.time, 1e12)
        if (math.isnan(cpu) and math.isnan(memory)) or time < self.kept.last:
            return False
        self.kept.reach(time)
        if usage.starting:
            self.kept.note_start(cpu=cpu, memory=memory)
            return True
        if not math.isnan(cpu):
            self.kept.note_cpu(cpu)
        if not math.isnan(memory):
            self.kept.note_peak(memory)
        return True

    def observe_many(self, times: FloatArray, cpu_cores: FloatArray, memory_bytes: FloatArray) -> int:
        """Note samples of one container at once; each array is (samples,), oldest first, NaN = unknown.

        Returns how many were taken; older ones than the last are left out. Raises InvalidUsageError.
        """
        if not times.shape == cpu_cores.shape == memory_bytes.shape or times.ndim != 1:
            raise InvalidUsageError("usage: times, cpu_cores and memory_bytes must be equally long")
        for name, values, most in (("cpu_cores", cpu_cores, MOST_CORES), ("memory_bytes", memory_bytes, MOST_BYTES)):
            if np.isinf(values).any() or (values < 0.0).any() or (values > most).any():
                raise InvalidUsageError(f"usage: {name} must lie between 0 and {most:g}; leave unknown samples empty")
        if not np.isfinite(times).all() or (np.diff(times) < 0.0).any() or (len(times) and not 0 <= times[0] < 1e12):
            raise InvalidUsageError("usage: times must be finite, not negative and oldest first")
        taken = (np.isfinite(cpu_cores) | np.isfinite(memory_bytes)) & (times >= self.kept.last)
        times, cpu_cores, memory_bytes = times[taken], cpu_cores[taken], memory_bytes[taken]
        days = np.floor(times / DAY)
        for begin in np.flatnonzero(np.diff(days, prepend=-1.0)):
            same = slice(int(begin), int(begin) + int((days[begin:] == days[begin]).sum()))
            self.kept.reach(float(times[begin]))
            self.kept.note_many(times[same], cpu_cores[same], memory_bytes[same])
        return int(taken.sum())

    def observe_out_of_memory(self, *, time: UnixTime, used: Bytes) -> None:
        """Note that the container was killed for memory while it used (or was allowed) this much.

        It needs more than that, by the Vertical Pod Autoscaler's own step; taken from what was used and never from what
        was advised, so that repeated kills at one limit do not inflate it. Raises InvalidUsageError.
        """
        size = _plausible("used", used, MOST_BYTES)
        at = _plausible("time", time, 1e12)
        needed = min(max(size * _OUT_OF_MEMORY_FACTOR, size + _OUT_OF_MEMORY_LEAST), MOST_BYTES)
        if at >= self.kept.last:
            self.kept.reach(at)
        self.kept.note_kill(needed, time=at)

    def advised(self, *, cpu: Advice | None, memory: Advice | None, time: UnixTime) -> None:
        """Remember a day's first advice, so that it can be held against what is used; None: nothing was advised."""
        self.kept.advise(cpu=cpu, memory=memory, time=_plausible("time", time, 1e12))

    def to_bytes(self) -> bytes:
        """Return a checkpoint, versioned; at most 1.5 KiB."""
        return checkpoint.pack(self.kept)

    @classmethod
    def from_bytes(cls, data: bytes) -> "UsageHistory":
        """Read a checkpoint back. Raises InvalidCheckpointError."""
        history = cls()
        history.kept = checkpoint.unpack(data)
        return history


def _plausible(name: str, value: float, most: float) -> float:
    if not 0.0 <= value <= most:
        raise InvalidUsageError(f"usage: {name} must lie between 0 and {most:g}, got {value!r}; say Unknown instead")
    return float(value)
