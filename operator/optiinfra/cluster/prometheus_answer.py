"""What a Prometheus-compatible server answers to a range query, checked and brought to known points.

Only a matrix of floats is read. A point that is NaN or infinite is no measurement (0/0 while nothing happens, a rate of
nothing): it is left out and counted, like the points that are missing. An answer that is not what was asked for is
`Malformed`; one that cannot be used is `Invalid`, with the remedy.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson

from optiinfra.cluster.errors import Invalid, Malformed
from optiinfra.domain.units import Seconds, UnixTime

Labels = tuple[tuple[str, str], ...]
_MOST_WARNINGS: Final = 8
_LONGEST_WARNING: Final = 300
_LONGEST_LABELS: Final = 120


@dataclass(frozen=True, slots=True)
class Piece:
    """One call: `points` evaluations from `start` on."""

    start: float
    step: float
    points: int

    @property
    def end(self) -> float:
        """Time of the last evaluation."""
        return self.start + (self.points - 1) * self.step


@dataclass(frozen=True, slots=True)
class RangeSeries:
    """Known values of one series, oldest first; what was not measured is left out."""

    labels: Labels
    times: npt.NDArray[np.float64]
    values: npt.NDArray[np.float64]
    not_numbers: int
    """Points that were there and were no number."""

    @property
    def name(self) -> str:
        """As people write it, cut."""
        inner = ", ".join(f'{name}="{value}"' for name, value in self.labels)
        return f"{{{inner[:_LONGEST_LABELS]}{'...' if len(inner) > _LONGEST_LABELS else ''}}}"

    def on_grid(self, *, start: UnixTime, step: Seconds, points: int) -> npt.NDArray[np.float64]:
        """Return (points,) values, NaN where none is known: for arrays inside the domain only."""
        grid: npt.NDArray[np.float64] = np.full(points, np.nan)
        index = np.rint((self.times - start) / step).astype(np.int64)
        within = (index >= 0) & (index < points)
        grid[index[within]] = self.values[within]
        return grid


@dataclass(frozen=True, slots=True)
class Matrix:
    """The answer to one piece."""

    series: tuple[RangeSeries, ...]
    warnings: tuple[str, ...]


def matrix(body: bytes, piece: Piece, *, most_series: int) -> Matrix:
    """Read an answer. Raises `Malformed` or `Invalid`."""
    document = read_document(body)
    if document.get("status") != "success":
        raise Malformed(f"status {str(document.get('status'))[:32]!r}: {error_words(body)}")
    data = document.get("data")
    if not isinstance(data, dict) or data.get("resultType") != "matrix" or not isinstance(data.get("result"), list):
        raise Malformed("the answer is no matrix")
    found = data["result"]
    if len(found) > most_series:
        raise Invalid(f"{len(found)} series came back; aggregate the query, for example with sum()")
    told = told_warnings(document)
    return Matrix(tuple(_series(one, piece) for one in found), told)


def joined(pieces: Sequence[Matrix]) -> tuple[tuple[RangeSeries, ...], tuple[str, ...]]:
    """Join the pieces of one range, series by series, in the order of time."""
    parts: dict[Labels, list[RangeSeries]] = {}
    warnings: dict[str, None] = {}
    for piece in pieces:
        warnings |= dict.fromkeys(piece.warnings)
        for one in piece.series:
            parts.setdefault(one.labels, []).append(one)
    series = tuple(
        RangeSeries(
            labels,
            np.concatenate([one.times for one in several]),
            np.concatenate([one.values for one in several]),
            sum(one.not_numbers for one in several),
        )
        for labels, several in parts.items()
    )
    return series, tuple(warnings)[:_MOST_WARNINGS]


def error_words(body: bytes) -> str:
    """Return what the server says is wrong: its `error` field, else the beginning of a text that is no page."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        text = body[:300].decode("utf-8", errors="replace").strip()
        return "no message" if not text or text.startswith("<") else text
    words = document.get("error") or document.get("message") if isinstance(document, dict) else None
    return str(words or "no message")[:500]


def told_warnings(document: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what the server says beside its answer, bounded. Raises `Malformed`."""
    warnings = document.get("warnings") or []
    if not isinstance(warnings, list):
        raise Malformed("its warnings are no list")
    told = [" ".join(str(one).split())[:_LONGEST_WARNING] for one in warnings[:_MOST_WARNINGS]]
    if document.get("isPartial") is True:
        told.append("the answer is partial: some of its storage nodes did not answer")
    return tuple(told)


def read_document(body: bytes) -> dict[str, Any]:
    """Return the JSON object of an answer. Raises `Malformed`."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Malformed("the answer is not JSON: is it a Prometheus-compatible server?") from error
    if not isinstance(document, dict):
        raise Malformed("the answer is no object")
    return document


def _series(one: Any, piece: Piece) -> RangeSeries:
    try:
        labels = tuple(sorted((str(name), str(value)) for name, value in one["metric"].items()))
        if "histograms" in one and not one.get("values"):
            raise Invalid("native histograms came back; ask for a number, for example histogram_count(rate(...))")
        points = one["values"]
        if len(points) > piece.points:
            raise Malformed(f"{len(points)} points for a range of {piece.points}")
        times = np.array([float(point[0]) for point in points], dtype=np.float64)
        values = np.array([float(point[1]) for point in points], dtype=np.float64)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise Malformed(f"a series without metric and values: {type(error).__name__}") from error
    slack = 0.5 * piece.step
    if not np.isfinite(times).all() or (np.diff(times) <= 0.0).any():
        raise Malformed("the points of a series are not in the order of time")
    if len(times) and (times[0] < piece.start - slack or times[-1] > piece.end + slack or math.isnan(times[0])):
        raise Malformed("points outside of the range came back")
    known = np.isfinite(values)
    return RangeSeries(labels, times[known], values[known], int((~known).sum()))
