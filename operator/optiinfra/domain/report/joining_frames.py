"""Answers as the joining reads them: by question, with what cannot be taken out, counted.

Servers hand on whatever was scraped: a sentinel of DCGM (9223372036854775794), a percentage where a ratio belongs, a
negative count, samples from a clock that is ahead. Such a value is unknown here, as if it had not been measured, and
the number of them is told. Nothing is clipped but rounding.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from optiinfra.domain.report.frames import FloatArray, Frame
from optiinfra.domain.report.history import BoolArray

FUTURE_S: Final = 120.0
"""How far ahead of whoever asks a sample's time may be."""
_ROUNDING: Final = 0.05
"""Shares computed from two rates may leave 0 to 1 by so much: the rates are extrapolated apart."""
_RATIO: Final = 1.0 + _ROUNDING
_COUNT: Final = 1e6
_RATE: Final = 1e9
_SECONDS: Final = 1e5
_BYTES: Final = 1e15
_WATTS: Final = 5e3
_ANY: Final = 1e15
_LIMITS: Final[Mapping[str, float]] = {
    **dict.fromkeys(
        (
            "kv_usage",
            "kv_usage_highest",
            "kv_reserved",
            "prefix_hit_ratio",
            "prefix_hit_gauge",
            "external_hit_ratio",
            "ttft_late",
            "itl_late",
            "utilization",
            "utilization_highest",
            "sm_active",
            "tensor_active",
            "dram_active",
            "part_sm_active",
            "part_dram_active",
        ),
        _RATIO,
    ),
    **dict.fromkeys(
        ("running", "running_highest", "waiting", "waiting_highest", "serving", "models", "batch_limit", "resets"),
        _COUNT,
    ),
    **dict.fromkeys(
        ("prompt_tokens", "generation_tokens", "requests", "preemptions", "rejected", "failed", "aborted"), _RATE
    ),
    **dict.fromkeys(("ttft_mean", "itl_mean", "queue_mean", "latency_mean", "ttft_p95", "itl_p95", "cpu"), _SECONDS),
    **dict.fromkeys(("memory_used", "memory_free", "memory_total", "memory_reserved", "memory"), _BYTES),
    "power": _WATTS,
}
"""By field, the part of a question's name behind the first dot: the largest value that can be."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """The cleaned answer to one question."""

    question: str
    by: tuple[str, ...]
    keys: tuple[tuple[str, ...], ...]
    values: FloatArray
    """(rows, points); one point where only the newest was asked for."""
    there: BoolArray
    """(rows, points); where something came back, what cannot be among it."""

    def __len__(self) -> int:
        return len(self.keys)

    def labels(self, row: int) -> dict[str, str]:
        """Return the labels of a row, absent ones as ""."""
        return dict(zip(self.by, self.keys[row], strict=True))

    def newest(self, row: int) -> float:
        """Return the last known value of a row; NaN where there is none."""
        known = np.flatnonzero(np.isfinite(self.values[row]))
        return float(self.values[row, known[-1]]) if known.size else float("nan")


@dataclass(slots=True)
class Answers:
    """All answers, on one grid."""

    times: FloatArray
    step_s: float
    frames: Mapping[str, Frame]
    now: float
    absurd: dict[str, int] = field(default_factory=dict)
    """Values left out, by question."""
    future: int = 0
    """Values from after `now`."""
    known: BoolArray = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    """(points,) when anything at all was measured by an exporter of engines or GPUs."""
    _read: dict[str, Rows | None] = field(default_factory=dict)

    @property
    def points(self) -> int:
        """Length of the grid."""
        return len(self.times)

    def rows(self, name: str) -> Rows | None:
        """Return an answer, or None where nothing came back."""
        if name not in self._read:
            frame = self.frames.get(name)
            self._read[name] = None if frame is None or not frame.keys else self._clean(frame)
        return self._read[name]

    def has(self, *names: str) -> bool:
        """Tell whether one of some questions was answered with anything."""
        return any(self.rows(name) is not None for name in names)

    def each(self, name: str) -> Iterator[tuple[dict[str, str], FloatArray, float]]:
        """Yield labels, values and newest value of every row."""
        rows = self.rows(name)
        if rows is not None:
            for row in range(len(rows)):
                yield rows.labels(row), rows.values[row], rows.newest(row)

    def where(self, name: str, values: FloatArray, there: BoolArray | None) -> FloatArray:
        """Return an answer without the moments at which what it is about was not there.

        A value of a whole hour stands at all of its steps, those of a hole within that hour among them: there it would
        be told of what nobody measured. What was measured at each step says so itself.
        """
        frame = self.frames.get(name)
        if there is None or frame is None or not frame.question.coarse_s or frame.question.events:
            return values
        return np.where(there, values, np.nan)

    def on_grid(self, values: FloatArray) -> FloatArray:
        """Return values on the grid; those of a newest answer stand at its end."""
        if len(values) == self.points:
            return values
        course = self.unknown()
        if len(values):
            course[-1] = values[-1]
        return course

    def unknown(self) -> FloatArray:
        """Return a course of which nothing is known."""
        return np.full(self.points, np.nan)

    def never(self) -> BoolArray:
        """Return a mask that is never set."""
        return np.zeros(self.points, dtype=np.bool_)

    def _clean(self, frame: Frame) -> Rows:
        values = np.asarray(frame.values, dtype=np.float64)
        name = frame.question.name
        most = _LIMITS.get(name.partition(".")[2], _ANY)
        there = ~np.isnan(values)
        ahead = frame.times > self.now + FUTURE_S
        if ahead.any():
            late = np.isfinite(values) & ahead
            self.future += int(late.sum())
            values = np.where(ahead, np.nan, values)
            there &= ~ahead
        with np.errstate(invalid="ignore"):
            least = -_ROUNDING if most == _RATIO else -1e-9
            wrong = (values < least) | (values > most) | np.isinf(values)
        if wrong.any():
            self.absurd[name] = int(wrong.sum())
            values = np.where(wrong, np.nan, values)
        upper = 1.0 if most == _RATIO else most
        if values.size and (np.nanmin(values, initial=0.0) < 0.0 or np.nanmax(values, initial=0.0) > upper):
            values = np.clip(values, 0.0, upper)
        return Rows(name, frame.question.by, frame.keys, values, there)


def answers(frames: Iterable[Frame], *, now: float) -> Answers:
    """Put frames on the grid that they share."""
    given = {frame.question.name: frame for frame in frames}
    lengths = [frame for frame in given.values() if not frame.question.latest]
    longest = max(lengths, key=lambda frame: len(frame.times), default=None)
    times = np.zeros(0) if longest is None else longest.times
    step = float(times[1] - times[0]) if len(times) > 1 else 0.0
    return Answers(times=times, step_s=step, frames=given, now=now)


Join = Callable[[FloatArray, FloatArray], FloatArray]


def added(old: FloatArray, new: FloatArray) -> FloatArray:
    """Add what is known; unknown only where neither is."""
    return np.where(np.isnan(old), new, np.where(np.isnan(new), old, old + new))


def larger(old: FloatArray, new: FloatArray) -> FloatArray:
    """Return the larger of what is known."""
    return np.fmax(old, new)


def smaller(old: FloatArray, new: FloatArray) -> FloatArray:
    """Return the smaller of what is known."""
    return np.fmin(old, new)


def averaged(courses: Sequence[FloatArray]) -> FloatArray:
    """Return the mean of what is known at each moment."""
    stacked = np.stack(courses)
    known = np.isfinite(stacked)
    count = known.sum(axis=0)
    return np.where(count > 0, np.where(known, stacked, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan)


def present(values: FloatArray) -> npt.NDArray[np.bool_]:
    """Tell when a value is known and not zero."""
    return np.isfinite(values) & (values > 0.0)
