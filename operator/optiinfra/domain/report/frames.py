"""Questions to a metrics server, and the answers as arrays on one grid of time.

A question is a query with two places to fill: `$matchers`, label matchers that whoever asks adds to each selector (the
user's namespaces and labels, or one part of a question that was split because it was too large), and `$window`, the
range of rates. Its answer is one row a series, keyed by the labels that the question names; what was not measured is
NaN, inside these arrays only: what is told of them is a number or an Unknown with its reason.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Question:
    """One query over the whole range of time."""

    name: str
    """Unique and stable, such as `vllm.generation_tokens`; reports cite it."""
    promql: str
    """With `{$matchers}` or `{x="y",$matchers}` in each selector and `[$window]` in each range."""
    by: tuple[str, ...]
    """Labels of an answer's series, in the order in which rows are keyed; a label that is absent is ""."""
    metrics: tuple[str, ...]
    """Names of the series it reads: they are counted before it is asked, and without any it is not asked."""
    split_by: str = "namespace"
    """Label by which it may be cut into parts when it would read too many series; "" if it may not be."""
    latest: bool = False
    """Only its newest point matters: it may be asked once, at the end of the range, and its frame then has that one."""
    coarse_s: float = 0.0
    """Seconds from one moment at which it is evaluated to the next, and its `$window`, where the grid's own step is
    finer. Its frame is on the grid all the same: each value stands at all points for which it was measured."""
    events: bool = False
    """It counts what happened within its window: asked coarsely, a count stands at the last point of its window, and
    0 at the others, so that the sum over points stays the sum."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What came back to one question."""

    question: Question
    keys: tuple[tuple[str, ...], ...]
    """One a row, values of `question.by`; sorted, none twice."""
    times: FloatArray
    """(points,) Unix seconds on equal steps, the same for all frames of a report but those of `latest` questions."""
    values: FloatArray
    """(rows, points); NaN where nothing was measured."""
    samples: int
    """Samples that the server read for it, by its own statistics; 0 where it has none."""
    link: str = ""
    """Where a browser shows the same query; "" where there is no address to show."""
    warnings: tuple[str, ...] = ()
    """What the server said beside the answer."""
