"""What a request that had to wait found: how many ran in each replica while it waited.

An engine that has places for L requests and nothing else in short supply makes nobody wait while a place is free. So
whoever waits there finds exactly L running, however briefly, and the mean over minutes says little: a burst of seconds
fills the batch, is queued, and is gone, while the mean over its step stays far below L. What a metrics server keeps
can still tell, by what holds in each step in which requests waited. With p the share of the step in which any did,

- the fullest replica reached L, which the highest value of the step tells;
- the mean of the step is at least p L, since all places were taken for so long. p itself is not kept, but the mean
  queue is at most p times the highest one: their ratio is no more than p, and what is asked for is never too much.

A step that fails had requests waiting beside free places, here or in another replica; its mean is what they found.
Steps count by the requests that waited in them, so that the answer is that of most who waited. Nothing here judges:
it is arithmetic on means and highest values, and what is not known stays so.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from optiinfra.domain.clues import STEADY
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.report.frames import FloatArray
from optiinfra.domain.report.history import Course, Load

LEVEL: Final = 0.995
"""Share of the most that ever ran from which a step stands at the ceiling."""
WAITS: Final = 0.1
"""Requests that wait there at least, as a share of those that run."""
FREE_BLOCKS: Final = 0.85
"""KV cache usage below which blocks are not what holds them."""
LEAST_LEVEL: Final = 6
"""Steps at the ceiling from which it is one."""
PILED: Final = 0.5
"""Share of the steps with a queue that stand at it. Without a limit the most is what a few steps reach; a limit is
where they pile up."""
_MOST: Final = 1e9


def ceiling(load: Load, *, missing: Unknown) -> Value:
    """Return the batch limit, where requests waited, blocks were free, and replicas again and again ran just so many.

    Args:
        load: of the whole window.
        missing: what is returned where it cannot be told.
    """
    highest, waiting = load.running_highest, load.waiting
    told = (one for one in (load.kv_usage_highest, load.kv_usage, load.kv_reserved) if not isinstance(one, Unknown))
    usage = next(told, None)
    if isinstance(highest, Unknown) or isinstance(waiting, Unknown) or usage is None:
        return missing
    known = np.isfinite(highest)
    if not known.any():
        return missing
    most = float(highest[known].max())
    with np.errstate(invalid="ignore"):
        queued = known & (waiting >= np.maximum(1.0, most * WAITS)) & (usage < FREE_BLOCKS)
        level = queued & (highest >= most * LEVEL)
    enough = int(level.sum()) >= max(LEAST_LEVEL, PILED * int(queued.sum()))
    return round(most) if most >= 1.0 and enough else missing


def found_by_waiting(load: Load, serving: Course) -> tuple[Course, FloatArray]:
    """Return how many ran in each replica while requests waited, and how many waited in all of them.

    Both are (points,); the first is NaN where nothing waited or something is not measured, the second 0 there.
    """
    running, highest, waiting = load.running, load.running_highest, load.waiting
    if isinstance(serving, Unknown):
        return serving, np.zeros(0)
    for one in (running, highest, waiting):
        if isinstance(one, Unknown):
            return one, np.zeros(len(serving))
    assert not isinstance(running, Unknown)
    assert not isinstance(highest, Unknown)
    assert not isinstance(waiting, Unknown)
    replicas = np.maximum(serving, 1.0)
    known = np.isfinite(running) & np.isfinite(highest) & np.isfinite(replicas) & (np.nan_to_num(waiting) > 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = running / replicas
        kept = mean >= highest * _waited_share(waiting, load.waiting_highest) * (1.0 - STEADY)
        found: FloatArray = np.where(known, np.where(kept, highest, np.minimum(mean, highest)), np.nan)
    return found, np.where(known, np.clip(np.nan_to_num(waiting), 0.0, _MOST), 0.0)


def _waited_share(waiting: FloatArray, most: Course) -> FloatArray:
    """Return the least share of each step, (points,), in which requests waited; all of it where the most is unknown."""
    if isinstance(most, Unknown):
        return np.ones(len(waiting))
    with np.errstate(invalid="ignore", divide="ignore"):
        share: FloatArray = np.clip(waiting / most, 0.0, 1.0)
    return np.where(np.isfinite(share), share, 1.0)


def joined(found: Course, waited: FloatArray, windows: list[slice]) -> list[Value]:
    """Return what those who waited found in each window, the mean over them."""
    if isinstance(found, Unknown):
        return [found] * len(windows)
    told: list[Value] = []
    for window in windows:
        weights: npt.NDArray[np.float64] = waited[window]
        total = float(weights.sum())
        if total <= 0.0:
            told.append(Unknown(UnknownReason.NOT_MEASURED, "nothing waited in this hour"))
        else:
            told.append(float((np.nan_to_num(found[window]) * weights).sum() / total))
    return told
