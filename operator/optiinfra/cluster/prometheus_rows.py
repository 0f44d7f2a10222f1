"""The answer to one piece of a question, as rows of numbers on the piece's steps.

A fleet's history is tens of millions of points. An object for each costs a microsecond and two hundred bytes, so the
numbers of a series are read as one flat list and everything around them as a small document of its own. Servers that
write their JSON in another form are read the slow way, to the same result. NaN and infinite values are no measurement
and stay NaN, like what is missing. Series that are the same but for labels that were not asked for become one row, the
largest value at each step, and are counted.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson

from optiinfra.cluster.errors import Invalid, Malformed
from optiinfra.cluster.prometheus_answer import Piece, error_words, read_document, told_warnings
from optiinfra.domain.report.frames import FloatArray

_BEGIN: Final = b'"values":[['
_END: Final = b"]]"
_PLACE: Final = b'"values":0'
_NOISE: Final = b'[]" \n\r\t'
_NO_NUMBERS: Final = (b"+Inf", b"-Inf", b"Inf", b"NaN")

Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rows:
    """What came back to one piece."""

    keys: tuple[Key, ...]
    values: FloatArray
    """(rows, points of the piece); NaN where nothing was measured."""
    samples: int | None
    """That the server read for it, by its statistics; None where it has none."""
    warnings: tuple[str, ...]
    merged: int
    """Series that had the labels of another one."""


def rows(body: bytes, piece: Piece, *, by: Key, most_series: int) -> Rows:
    """Read an answer to a range query. Raises `Malformed` or `Invalid`."""
    frame, numbers = _apart(body)
    document = read_document(frame)
    if document.get("status") != "success":
        raise Malformed(f"status {str(document.get('status'))[:32]!r}: {error_words(body)}")
    data = document.get("data")
    if not isinstance(data, dict) or data.get("resultType") != "matrix" or not isinstance(data.get("result"), list):
        raise Malformed("the answer is no matrix")
    found = data["result"]
    if len(found) > most_series:
        raise Invalid(f"{len(found)} series came back, at most {most_series} are expected; aggregate the query")
    at: dict[Key, int] = {}
    values: list[FloatArray] = []
    taken = merged = 0
    for one in found:
        key, points = _series(one, by)
        if points is None:
            if taken >= len(numbers):
                raise Malformed("a series without points")
            points = _flat(numbers[taken])
            taken += 1
        row = _on_steps(points, piece)
        if key in at:
            merged += 1
            values[at[key]] = np.fmax(values[at[key]], row)
        else:
            at[key] = len(values)
            values.append(row)
    if taken != len(numbers):
        raise Malformed("points that belong to no series")
    block = np.stack(values) if values else np.empty((0, piece.points), dtype=np.float64)
    return Rows(tuple(at), block, _samples(data), told_warnings(document), merged)


def _apart(body: bytes) -> tuple[bytes, list[bytes]]:
    """Cut the points of each series out: inside a JSON string the mark would have its quotes escaped."""
    around: list[bytes] = []
    numbers: list[bytes] = []
    place = 0
    while (begin := body.find(_BEGIN, place)) >= 0:
        end = body.find(_END, begin)
        if end < 0:
            raise Malformed("the answer is not JSON: is it a Prometheus-compatible server?")
        around += (body[place:begin], _PLACE)
        numbers.append(body[begin + len(_BEGIN) : end])
        place = end + len(_END)
    around.append(body[place:])
    return b"".join(around), numbers


def _series(one: Any, by: Key) -> tuple[Key, FloatArray | None]:
    try:
        labels = one["metric"]
        key = tuple(str(labels.get(name, "")) for name in by)
        if "histograms" in one and "values" not in one:
            raise Invalid("native histograms came back; ask for a number, for example histogram_count(rate(...))")
        points = one["values"]
    except (KeyError, TypeError, AttributeError) as error:
        raise Malformed(f"a series without metric and values: {type(error).__name__}") from error
    if points == 0:
        return key, None
    try:
        listed = [(float(time), float(value)) for time, value in points]
    except (TypeError, ValueError) as error:
        raise Malformed(f"points that are no numbers: {type(error).__name__}") from error
    return key, np.array(listed, dtype=np.float64).reshape(-1, 2)


def _flat(text: bytes) -> FloatArray:
    """(points, 2): times and values out of `1,"2"],[3,"4"`."""
    bare = text.translate(None, _NOISE)
    try:
        numbers = _numbers(bare)
    except orjson.JSONDecodeError:
        for word in _NO_NUMBERS:
            bare = bare.replace(word, b"null")
        try:
            numbers = _numbers(bare)
        except (orjson.JSONDecodeError, ValueError, TypeError) as error:
            raise Malformed("points that are no numbers") from error
    except (ValueError, TypeError) as error:
        raise Malformed("points that are no numbers") from error
    if len(numbers) % 2 or text.count(b"],[") != len(numbers) // 2 - 1:
        raise Malformed("points that are no pairs of time and value")
    return numbers.reshape(-1, 2)


def _numbers(bare: bytes) -> FloatArray:
    return np.array(orjson.loads(b"[" + bare + b"]"), dtype=np.float64)


def _on_steps(points: FloatArray, piece: Piece) -> FloatArray:
    row: FloatArray = np.full(piece.points, np.nan)
    if not len(points):
        return row
    times, values = points[:, 0], points[:, 1]
    if not np.isfinite(times).all():
        raise Malformed("a point without a time")
    if len(times) > piece.points:
        raise Malformed(f"{len(times)} points for a range of {piece.points}")
    places = np.rint((times - piece.start) / piece.step).astype(np.int64)
    if places[0] < 0 or places[-1] >= piece.points:
        raise Malformed("points outside of the range came back")
    if (np.diff(places) <= 0).any():
        raise Malformed("the points of a series are not in the order of time")
    row[places] = np.where(np.isfinite(values), values, np.nan)
    return row


def _samples(data: dict[str, Any]) -> int | None:
    stats = data.get("stats")
    counted = stats.get("samples") if isinstance(stats, dict) else None
    total = counted.get("totalQueryableSamples") if isinstance(counted, dict) else None
    return total if isinstance(total, int) and not isinstance(total, bool) and total >= 0 else None
