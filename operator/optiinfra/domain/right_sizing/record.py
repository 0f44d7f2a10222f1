"""The numbers kept of one container, and how each measurement changes them. No checks here: `usage` is the door."""

import math
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from optiinfra.domain.histogram import DAY
from optiinfra.domain.right_sizing.sketch import CpuSketch

FloatArray = npt.NDArray[np.float64]
PEAK_DAYS: Final = 63
"""Nine weeks of daily memory peaks: two of what happens once a month."""
LEVEL_DAYS: Final = 28
"""Four weeks of daily means of CPU."""
KILL_DAYS: Final = 14.0
"""A kill is evidence for a fortnight; if it was right, that day's peak stays for nine weeks anyway."""
JUDGED_KEPT: Final = 0.98
"""What a day leaves of the sums of advice judged: a half-life of five weeks."""


@dataclass(frozen=True, slots=True)
class Advice:
    """A target that was given, and how often it was said to be exceeded."""

    target: float
    exceedance: float


@dataclass(slots=True)
class Judged:
    """Advice against what happened: sums over days, the older the lighter."""

    exceeded: float = 0.0
    stated: float = 0.0


def _unknown(days: int) -> FloatArray:
    return np.full(days, math.nan)


@dataclass(slots=True)
class Kept:
    """Everything of one container. Arrays hold a value a day, the running day last, NaN where nothing was measured."""

    day: int = -1
    """Running day, counted from 1970; -1 before the first measurement."""
    first: float = 0.0
    last: float = 0.0
    samples: int = 0
    cpu: CpuSketch = field(default_factory=CpuSketch)
    levels: FloatArray = field(default_factory=lambda: _unknown(LEVEL_DAYS))
    """Mean CPU use, cores."""
    peaks: FloatArray = field(default_factory=lambda: _unknown(PEAK_DAYS))
    """Highest memory use, bytes."""
    level_sum: float = 0.0
    level_count: int = 0
    above: int = 0
    """Of the running day's CPU samples, those above what was advised."""
    kill_bytes: float = 0.0
    kill_time: float = 0.0
    start_cpu: float = math.nan
    start_memory: float = math.nan
    cpu_advice: Advice | None = None
    memory_advice: Advice | None = None
    advice_day: int = -1
    """The day from whose beginning (or a later moment) the advice holds."""
    cpu_judged: Judged = field(default_factory=Judged)
    memory_judged: Judged = field(default_factory=Judged)

    def reach(self, time: float) -> None:
        """Let the time come; a new day closes the old one."""
        day = math.floor(time / DAY)
        if self.day < 0:
            self.day, self.first = day, time
        elif day > self.day:
            self._close()
            passed = day - self.day
            self.levels = _moved(self.levels, passed)
            self.peaks = _moved(self.peaks, passed)
            self.cpu.pass_days(float(passed))
            self.day = day
        self.last = time

    def note_cpu(self, cores: float) -> None:
        """Add a CPU sample at the time that was reached."""
        self.cpu.add(cores, since_midnight=self.last - self.day * DAY)
        self.samples += 1
        self.level_sum += cores
        self.level_count += 1
        self.levels[-1] = self.level_sum / self.level_count
        if self.cpu_advice is not None and cores > self.cpu_advice.target:
            self.above += 1

    def note_peak(self, used: float) -> None:
        """Add a memory sample: only the highest of a day stays."""
        if not used <= self.peaks[-1]:
            self.peaks[-1] = used

    def note_many(self, times: FloatArray, cpu: FloatArray, memory: FloatArray) -> None:
        """Add samples of the running day, NaN = unknown."""
        known = np.isfinite(cpu)
        if known.any():
            cores = cpu[known]
            self.cpu.add_many(cores, since_midnight=times[known] - self.day * DAY)
            self.samples += len(cores)
            self.level_sum += float(cores.sum())
            self.level_count += len(cores)
            self.levels[-1] = self.level_sum / self.level_count
            if self.cpu_advice is not None:
                self.above += int((cores > self.cpu_advice.target).sum())
        if np.isfinite(memory).any():
            self.note_peak(float(np.nanmax(memory)))
        self.last = float(times[-1])

    def note_start(self, *, cpu: float, memory: float) -> None:
        """Add what it used while starting."""
        if not cpu <= self.start_cpu and not math.isnan(cpu):
            self.start_cpu = cpu
        if not memory <= self.start_memory and not math.isnan(memory):
            self.start_memory = memory

    def note_kill(self, needed: float, *, time: float) -> None:
        """Add a kill for memory; an older one that asked for more stands until it is forgotten."""
        if self.kill_time <= 0.0 or time - self.kill_time > KILL_DAYS * DAY or needed >= self.kill_bytes:
            self.kill_bytes, self.kill_time = needed, max(time, self.kill_time)

    def advise(self, *, cpu: Advice | None, memory: Advice | None, time: float) -> None:
        """Keep a day's first advice: a later one knows the day already, and would be judged too well."""
        day = math.floor(time / DAY)
        if day <= self.advice_day:
            return
        if day > self.day:
            # The day before is over, though no sample of the new one came yet: its advice is judged, not the new one.
            self._judge_day()
        self.cpu_advice, self.memory_advice, self.advice_day = cpu, memory, day

    def _close(self) -> None:
        """Judge the day's advice and begin sums anew."""
        self._judge_day()
        self.level_sum, self.level_count, self.above = 0.0, 0, 0

    def _judge_day(self) -> None:
        if self.advice_day > self.day:
            return
        if self.cpu_advice is not None and self.level_count:
            _judge(self.cpu_judged, self.above / self.level_count, self.cpu_advice.exceedance)
        if self.memory_advice is not None and not math.isnan(self.peaks[-1]):
            _judge(self.memory_judged, float(self.peaks[-1] > self.memory_advice.target), self.memory_advice.exceedance)
        self.level_sum, self.level_count, self.above = 0.0, 0, 0


def _judge(sums: Judged, exceeded: float, stated: float) -> None:
    sums.exceeded = sums.exceeded * JUDGED_KEPT + exceeded
    sums.stated = sums.stated * JUDGED_KEPT + stated


def _moved(values: FloatArray, days: int) -> FloatArray:
    """Shift by days; the new ones are unknown."""
    kept = np.full(len(values), math.nan)
    if days < len(values):
        kept[: len(values) - days] = values[days:]
    return kept
