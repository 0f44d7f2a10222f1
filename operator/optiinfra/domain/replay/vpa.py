"""The Vertical Pod Autoscaler's recommender as a baseline, to its last constant, over whole histories at once.

Source: kubernetes/autoscaler, vertical-pod-autoscaler 1.8.1, `pkg/recommender/model/{aggregations_config,container,
aggregate_container_state}.go`, `pkg/recommender/util/{histogram,decaying_histogram}.go` and
`pkg/recommender/logic/{recommender,estimator}.go`, with the flags' defaults. `python -m bench vpa` checks it against
the published program itself. It is a yardstick: nothing in the operator decides with it. Not modelled, because no
history of usage shows them: the updater, limits and policies of a VPA object, and the recommender's rule that a
histogram forgets its outermost buckets once they weigh less than a 10,000th (after 100 half-lives; no percentile moves
by it). After 50 days the newest memory peak weighs as much as all before it together: whether the lower bound follows
it is then a matter of the last bits of their sums, there as here. Targets and upper bounds know no such doubt.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from optiinfra.domain.histogram import CPU_BUCKETS, DAY, MEMORY_BUCKETS, Buckets
from optiinfra.domain.replay.usage import FloatArray, IntArray, Requests, Usage, exceeded

HALF_LIFE: Final = DAY
"""--cpu-histogram-decay-half-life and --memory-histogram-decay-half-life."""
MEMORY_INTERVAL: Final = DAY
"""--memory-aggregation-interval: of each, only the peak counts; the first begins with the first sample."""
TARGET_SHARE: Final = 0.9
LOWER_SHARE: Final = 0.5
UPPER_SHARE: Final = 0.95
MARGIN: Final = 0.15
"""--recommendation-margin-fraction."""
UPPER_CONFIDENCE: Final = (1.0, 1.0)
"""(multiplier, exponent): bound x (1 + multiplier / confidence)^exponent."""
LOWER_CONFIDENCE: Final = (0.001, -2.0)
CONFIDENCE_INTERVAL: Final = DAY
MINUTE: Final = 60.0
POD_LEAST_MILLICORES: Final = 25.0
POD_LEAST_BYTES: Final = 250.0 * 1024.0 * 1024.0
"""--pod-recommendation-min-memory-mb counts mebibytes."""
OUT_OF_MEMORY_RATIO: Final = 1.2
OUT_OF_MEMORY_LEAST: Final = 100.0 * 1024.0 * 1024.0
MILLI: Final = 1000.0
"""CPU is counted in whole millicores and memory in whole bytes; what is over is cut off at every step."""
MOST: Final = 1e14
"""MaxResourceAmount, in millicores or bytes."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Recommendations of one resource: each array is (decisions,), cores or bytes, NaN where nothing was measured."""

    target: FloatArray
    lower: FloatArray
    upper: FloatArray


@dataclass(frozen=True, slots=True)
class Recommendations:
    """What the recommender would have written into a VPA object at each of `time`."""

    time: FloatArray
    cpu: Bounds
    memory: Bounds

    @property
    def requests(self) -> Requests:
        """The targets, which is what the updater and the admission controller put into pods."""
        return Requests(self.time, self.cpu.target, self.memory.target)


@dataclass(frozen=True, slots=True)
class Kill:
    """A container that was ended for want of memory."""

    time: float
    request_bytes: float
    """What it had requested; a kill is noted as more than this and more than the interval's highest use."""


def recommend(
    usage: Usage,
    *,
    at: FloatArray,
    containers: int = 1,
    kills: Sequence[Kill] = (),
    out_of_memory: bool = False,
    initial_bytes: float = np.inf,
) -> Recommendations:
    """Recommend at each of `at` (growing) from the samples and `kills` before it.

    `containers` is the number in the pod, among which the pod's least amounts are divided. With `out_of_memory` each
    target is taken to be the memory limit until the next decision (`initial_bytes` before the first): where use exceeds
    it, the container is killed, at most once between two decisions, and the recommender learns of it. It then sees the
    use that the trace shows above the limit, which a real one would not: the replay does not flatter the others.
    """
    confidence = _confidence(usage, at)
    millicores = np.trunc(POD_LEAST_MILLICORES / containers)
    cpu = _estimates(_cpu_percentiles(usage, at), confidence, least=millicores)
    least = np.trunc(POD_LEAST_BYTES / containers)
    if out_of_memory:
        percentiles = _with_own_kills(usage, at, confidence, kills, least=least, initial=initial_bytes)
    else:
        percentiles = _memory_percentiles(usage, at, kills)
    memory = _estimates(percentiles, confidence, least=least)
    return Recommendations(at, Bounds(*(values / MILLI for values in cpu)), Bounds(*memory))


def out_of_memory_sample(used_bytes: float) -> float:
    """Return what a memory kill is noted as; `used_bytes` is the larger of the request and the interval's peak."""
    return float(max(used_bytes + OUT_OF_MEMORY_LEAST, np.trunc(used_bytes * OUT_OF_MEMORY_RATIO)))


def _buckets(values: FloatArray, buckets: Buckets) -> IntArray:
    """`Buckets.find` for many values."""
    steps = np.log(values * (buckets.growth - 1.0) / buckets.first + 1.0) / np.log(buckets.growth)
    found: IntArray = np.where(values < buckets.first, 0, np.minimum(steps, buckets.count - 1)).astype(np.int64)
    return found


@lru_cache(maxsize=4)
def _ends(buckets: Buckets) -> FloatArray:
    """Return where each bucket ends; the open last one counts with its start."""
    starts = np.array([buckets.start(bucket) for bucket in range(buckets.count)])
    return np.append(starts[1:], starts[-1])


def _percentiles(weights: FloatArray, buckets: Buckets) -> FloatArray:
    """Return (3, decisions): the ends of the buckets with target, lower and upper; NaN where a histogram is empty.

    `weights` is (decisions, buckets).
    """
    sums = np.cumsum(weights, axis=1)
    total = sums[:, -1]
    filled = weights > 0.0
    first = filled.argmax(axis=1)
    last = weights.shape[1] - 1 - filled[:, ::-1].argmax(axis=1)
    ends, found = _ends(buckets), []
    for share in (TARGET_SHARE, LOWER_SHARE, UPPER_SHARE):
        reached = (sums >= (share * total)[:, None]).argmax(axis=1)
        found.append(np.where(total > 0.0, ends[np.clip(reached, first, last)], np.nan))
    return np.array(found)


def _confidence(usage: Usage, at: FloatArray) -> FloatArray:
    """Days of evidence, by CPU samples alone: the shorter of their span and their number at one a minute."""
    time = usage.time[np.isfinite(usage.cpu_cores)]
    count = np.searchsorted(time, at, side="left")
    if not len(time):
        return np.zeros(len(at))
    span = time[np.maximum(count, 1) - 1] - time[0]
    days: FloatArray = np.minimum(span / CONFIDENCE_INTERVAL, count / (CONFIDENCE_INTERVAL / MINUTE))
    return days


def _cpu_percentiles(usage: Usage, at: FloatArray) -> FloatArray:
    """Return (3, decisions) percentiles of CPU, millicores before they are cut to whole ones."""
    known = np.isfinite(usage.cpu_cores)
    time = usage.time[known]
    # A sample's weight is told as of the decision that first sees it, and halved a day from there on.
    seen = np.searchsorted(at, time, side="right")
    within = seen < len(at)
    seen, time = seen[within], time[within]
    values = np.trunc(usage.cpu_cores[known][within] * MILLI) / MILLI
    weights = np.exp2((time - at[seen]) / HALF_LIFE)
    shape = (len(at), CPU_BUCKETS.count)
    cells = seen * CPU_BUCKETS.count + _buckets(values, CPU_BUCKETS)
    filled: FloatArray = np.bincount(cells, weights=weights, minlength=shape[0] * shape[1]).astype(np.float64)
    histograms = filled.reshape(shape)
    for decision in range(1, len(at)):
        histograms[decision] += histograms[decision - 1] * 0.5 ** ((at[decision] - at[decision - 1]) / HALF_LIFE)
    return _percentiles(histograms, CPU_BUCKETS) * MILLI


class _Peaks:
    """The histogram of memory peaks, one an interval, as the recommender adds and takes them back."""

    def __init__(self, began: float | None) -> None:
        """`began` is the time of the first sample; without any, the first kill is."""
        self.weights = np.zeros(MEMORY_BUCKETS.count)
        self._began = began
        self._end = 0
        self._usage = 0.0
        self._kill = 0.0

    def add(self, value: float, *, interval: int, kill: bool = False) -> None:
        """Note the highest of some samples of an interval (its number, from 1), or a kill."""
        highest = max(self._usage, self._kill)
        if interval > self._end:
            self.weights *= 0.5 ** (interval - self._end)
            self._end = interval
            self._usage = self._kill = 0.0
        elif value <= highest or highest == 0.0:
            # An interval that begins with a use of exactly 0 keeps it: the recommender takes it for "no peak yet".
            return
        else:
            bucket = MEMORY_BUCKETS.find(highest)
            self.weights[bucket] = max(0.0, self.weights[bucket] - 1.0)
        self.weights[MEMORY_BUCKETS.find(value)] += 1.0
        if kill:
            self._kill = value
        else:
            self._usage = value

    def add_kill(self, kill: Kill) -> None:
        """Note a kill; the highest use counts as of now, whichever interval it is of."""
        self._began = kill.time if self._began is None else self._began
        interval = int((kill.time - self._began) // MEMORY_INTERVAL) + 1
        used = max(np.trunc(kill.request_bytes), self._usage)
        self.add(out_of_memory_sample(used), interval=interval, kill=True)


@dataclass(frozen=True, slots=True)
class _Interval:
    """The part of an interval that lies before one decision and after the one before."""

    decision: int
    interval: int
    peak: float


def _intervals(usage: Usage, at: FloatArray) -> tuple[float | None, list[_Interval]]:
    """Return when the first interval begins, if any, and the peaks, in the order in which decisions see them."""
    known = np.isfinite(usage.memory_bytes)
    time, values = usage.time[known], np.trunc(usage.memory_bytes[known])
    if not len(time):
        return None, []
    interval = np.floor((time - time[0]) / MEMORY_INTERVAL).astype(np.int64) + 1
    begins = np.searchsorted(interval, interval, side="left")
    values = np.where(values[begins] > 0.0, values, 0.0)
    seen = np.searchsorted(at, time, side="right")
    starts = np.flatnonzero(np.diff(interval, prepend=0) + np.diff(seen, prepend=seen[0]))
    peaks = np.maximum.reduceat(values, starts)
    parts = [
        _Interval(int(seen[start]), int(interval[start]), float(peak))
        for start, peak in zip(starts, peaks, strict=True)
    ]
    return float(time[0]), parts


def _memory_percentiles(usage: Usage, at: FloatArray, kills: Sequence[Kill]) -> FloatArray:
    """Return (3, decisions) percentiles of the memory peaks, bytes."""
    histograms = [peaks.weights.copy() for _, peaks in _filled(usage, at, kills)]
    return _percentiles(np.reshape(histograms, (len(at), MEMORY_BUCKETS.count)), MEMORY_BUCKETS)


def _with_own_kills(
    usage: Usage, at: FloatArray, confidence: FloatArray, kills: Sequence[Kill], *, least: float, initial: float
) -> FloatArray:
    """As `_memory_percentiles`, with the kills that the targets themselves would have led to."""
    found = np.full((3, len(at)), np.nan)
    request, previous = initial, -np.inf
    for decision, peaks in _filled(usage, at, kills):
        killed = exceeded(usage, begin=previous, end=float(at[decision]), request=request)
        if killed is not None:
            time, used = killed
            peaks.add_kill(Kill(time, max(request, used)))
        found[:, decision] = _percentiles(peaks.weights[None, :], MEMORY_BUCKETS)[:, 0]
        target = _estimates(found[:, [decision]], confidence[[decision]], least=least)[0][0]
        request, previous = (request if np.isnan(target) else float(target)), float(at[decision])
    return found


def _filled(usage: Usage, at: FloatArray, kills: Sequence[Kill]) -> Iterator[tuple[int, _Peaks]]:
    """Yield each decision with the histogram as it then is; what the caller adds to it stays.

    Of what comes between two decisions the kills are noted last.
    """
    began, parts = _intervals(usage, at)
    peaks, waiting, done = _Peaks(began), sorted(kills, key=lambda kill: kill.time), 0
    for decision, now in enumerate(at.tolist()):
        while done < len(parts) and parts[done].decision <= decision:
            peaks.add(parts[done].peak, interval=parts[done].interval)
            done += 1
        while waiting and waiting[0].time < now:
            peaks.add_kill(waiting.pop(0))
        yield decision, peaks


def _estimates(percentiles: FloatArray, confidence: FloatArray, *, least: float) -> tuple[FloatArray, ...]:
    """Percentile, margin, confidence, least amount: cut to whole units after each. Returns target, lower, upper."""
    whole = np.trunc(percentiles)
    target, lower, upper = whole + np.trunc(whole * MARGIN)
    with np.errstate(divide="ignore"):
        widened = [
            np.trunc(np.minimum(bound * (1.0 + multiplier / confidence) ** exponent, MOST))
            for bound, (multiplier, exponent) in ((lower, LOWER_CONFIDENCE), (upper, UPPER_CONFIDENCE))
        ]
    return tuple(np.where(np.isnan(values), np.nan, np.maximum(values, least)) for values in (target, *widened))
