"""The raw samples that a Prometheus-compatible server holds of a short window: each with the time it was scraped at.

Asked as an instant query of a range selector (`x[1m]`), which Prometheus, Thanos, Mimir and VictoriaMetrics answer with
samples as they were stored: nothing is interpolated, and nothing older is carried over. What is NaN comes back as NaN:
here it is what a page said, and its reader decides. Native histograms have no samples of this kind and are left out,
counted. Answers are bounded in bytes, series and samples.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from optiinfra.cluster.errors import Invalid, Malformed
from optiinfra.cluster.prometheus_answer import Labels, error_words, read_document, told_warnings
from optiinfra.cluster.prometheus_http import PrometheusHttp

_PATH: Final = "api/v1/query"
MOST_SERIES: Final = 20_000
MOST_SAMPLES: Final = 400_000
_MOST_LABELS: Final = 64


@dataclass(frozen=True, slots=True)
class RawSeries:
    """One series and its samples in the window, oldest first."""

    labels: Labels
    """Sorted by name; `__name__` is among them."""
    times: tuple[float, ...]
    """Unix seconds of the scrapes, by the server's clock."""
    values: tuple[float, ...]
    """NaN where the page said so."""


@dataclass(frozen=True, slots=True)
class RawWindow:
    """The answer to one selector."""

    series: tuple[RawSeries, ...]
    samples: int
    native_histograms: int
    """Series that are histograms of the native kind: nothing is read of them."""
    server_time: float | None
    """The server's clock as it answered, in whole seconds; None where it does not say."""
    warnings: tuple[str, ...]


async def ask_window(http: PrometheusHttp, selector: str, *, seconds: float, timeout_s: float) -> RawWindow:
    """Ask for the samples of the last `seconds` of every series that a selector picks.

    Raises `ClusterError` with the server's words.
    """
    given = {"query": f"{selector}[{max(1, round(seconds))}s]", "timeout": f"{max(1.0, timeout_s - 1.0):.0f}s"}
    reply = await http.call(_PATH, given)
    try:
        return _window(reply.body, server_time=reply.server_time)
    except (Malformed, Invalid) as error:
        raise http.error(type(error), error.message, code=error.code) from error


def _window(body: bytes, *, server_time: float | None) -> RawWindow:
    document = read_document(body)
    if document.get("status") != "success":
        raise Malformed(f"status {str(document.get('status'))[:32]!r}: {error_words(body)}")
    data = document.get("data")
    found = data.get("result") if isinstance(data, dict) and data.get("resultType") == "matrix" else None
    if not isinstance(found, list):
        raise Malformed("the answer is no matrix")
    if len(found) > MOST_SERIES:
        raise Invalid(f"too many series came back: {len(found)}, at most {MOST_SERIES}", code=422)
    series: list[RawSeries] = []
    native = samples = 0
    for one in found:
        if not isinstance(one, Mapping):
            raise Malformed("a series that is no object")
        if "values" not in one and "histograms" in one:
            native += 1
            continue
        series.append(_series(one))
        samples += len(series[-1].times)
        if samples > MOST_SAMPLES:
            raise Invalid(f"too many samples came back: more than {MOST_SAMPLES}", code=422)
    return RawWindow(tuple(series), samples, native, server_time, told_warnings(document))


def _series(one: Mapping[str, Any]) -> RawSeries:
    try:
        labels = tuple(sorted((str(name), str(value)) for name, value in one["metric"].items()))
        times = tuple(float(point[0]) for point in one["values"])
        values = tuple(float(point[1]) for point in one["values"])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise Malformed(f"a series without metric and values: {type(error).__name__}") from error
    if len(labels) > _MOST_LABELS:
        raise Malformed(f"a series of {len(labels)} labels")
    rising = all(time < later for time, later in pairwise(times))
    if not rising or not all(0.0 < time < 1e12 for time in times):
        raise Malformed("the samples of a series are not in the order of time")
    return RawSeries(labels, times, values)
