"""What a Prometheus-compatible server answers to a query at one moment.

Only a vector of floats is read (a scalar is a vector of one row without labels). A value that is NaN or infinite is no
measurement: it is left out and counted. What is absent is absent: a row is never carried over from an earlier answer.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from optiinfra.cluster.errors import Invalid, Malformed
from optiinfra.cluster.prometheus_answer import Labels, error_words, read_document, told_warnings
from optiinfra.domain.units import UnixTime


@dataclass(frozen=True, slots=True)
class Vector:
    """Known values at one moment, in the order in which the server gave them."""

    at: UnixTime
    """When it was evaluated, by the server's answer; what was asked for where it is empty."""
    labels: tuple[Labels, ...]
    """(rows,), each sorted by name."""
    values: npt.NDArray[np.float64]
    """(rows,), finite."""
    not_numbers: int
    """Rows that were there and were no number: they are left out."""
    warnings: tuple[str, ...]
    """What the server said beside it: for example that a part of its stores did not answer."""

    def rows(self, *names: str) -> Iterator[tuple[tuple[str, ...], float]]:
        """Yield the values of these labels ("" where a row has none) and the value, row by row."""
        for labels, value in zip(self.labels, self.values.tolist(), strict=True):
            given = dict(labels)
            yield tuple(given.get(name, "") for name in names), value


def vector(body: bytes, *, at: UnixTime, most_series: int) -> Vector:
    """Read an answer. Raises `Malformed` or `Invalid`."""
    document = read_document(body)
    if document.get("status") != "success":
        raise Malformed(f"status {str(document.get('status'))[:32]!r}: {error_words(body)}")
    data = document.get("data")
    kind = data.get("resultType") if isinstance(data, dict) else None
    if not isinstance(data, dict) or kind not in {"vector", "scalar"} or not isinstance(data.get("result"), list):
        raise Malformed("the answer is no vector")
    found = data["result"] if kind == "vector" else [{"metric": {}, "value": data["result"]}]
    if len(found) > most_series:
        raise Invalid(f"{len(found)} series came back, at most {most_series}; aggregate the query")
    labels, values, times = [], [], []
    not_numbers = 0
    for one in found:
        named, time, value = _row(one)
        if not math.isfinite(value):
            not_numbers += 1
            continue
        labels.append(named)
        values.append(value)
        times.append(time)
    evaluated = UnixTime(max(times)) if times else at
    return Vector(evaluated, tuple(labels), np.array(values, dtype=np.float64), not_numbers, told_warnings(document))


def _row(one: Any) -> tuple[Labels, float, float]:
    try:
        if "histogram" in one and not one.get("value"):
            raise Invalid("native histograms came back; ask for a number, for example histogram_count(rate(...))")
        labels = tuple(sorted((str(name), str(value)) for name, value in one["metric"].items()))
        time, value = float(one["value"][0]), float(one["value"][1])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise Malformed(f"a row without metric and value: {type(error).__name__}") from error
    if not math.isfinite(time):
        raise Malformed("a row without a time")
    return labels, time, value
