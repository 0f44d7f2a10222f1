"""Predicts the prefix-hit ratio at another cache size from an engine's own counters: no engine tells block hashes.

What is visible: tokens looked up and tokens hit, window by window; the size; when the cache was empty. A cache that
keeps things for T seconds shows which share of tokens comes back within T. That share is seen at several T without
any experiment: while an empty cache fills, T grows from nothing; and T shrinks when load rises. vLLM's residency
histograms (`--kv-cache-metrics`) show its shape below T, and how long T is. What comes back after more than T is seen
by nobody: there, only the shapes that explain what was seen are carried on, weighed by how well they do, and the
interval says how far they disagree. An interval too wide to act on makes a forecast "not predictable".

Three mechanisms are kept beside the trivial one, so that their errors can be compared (`python -m bench.kv_cache`);
advice uses `BEST`. Nothing is promised about a workload that changes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from optiinfra.domain.readings import EngineReading, Histogram, Signal, Unknown, UnknownReason, Value
from optiinfra.domain.reuse_curves import FloatArray, ReuseCurves, curves

LEAST_WINDOWS: Final = 4
WIDEST: Final = 0.2
"""Widest interval, in hit ratio, on which somebody can act."""
TEMPER: Final = 0.25
"""Weight of an observation. Below 1, because neighbouring windows repeat each other and no curve is the true one."""
PRIOR_MEDIAN: Final = 100.0
"""Seconds after which people and programs usually come back to a conversation; a weak prior."""
PRIOR_SPREAD: Final = 1.5
"""Of its logarithm: from 8 s to 20 min within 90 %."""
FILLING_NOISE: Final = 0.2
"""Relative to the mean hit ratio, while a cache fills: a young service has young conversations."""
STEADY_NOISE: Final = 0.1
RESIDENCE_NOISE: Final = 0.15
GAP_WEIGHT: Final = 20.0
"""As how many independent observations a histogram of gaps counts: the blocks of one prompt return together."""
SHORTEST_GAP: Final = 2.0
"""Seconds; shorter gaps are simultaneous requests with the same beginning."""
_FILLING_PARTS: Final = 6
_STEADY_PARTS: Final = 4
_LEAST_NOISE: Final = 2e-3
_EXPONENTS: Final = np.linspace(0.0, 1.5, 151)


FACTORS: Final = (0.5, 2.0, 5.0)
"""Half a cache (can it shrink), twice (8-bit keys and values), and one with host memory of four times its size."""


class Mechanism(StrEnum):
    """How a hit ratio is carried to another size."""

    UNCHANGED = "Unchanged"
    """It stays what it is: the trivial one, to compare with."""
    POWER_LAW = "PowerLaw"
    """A power of the size, fitted to how the ratio rose while the cache filled."""
    WORKING_SET = "WorkingSet"
    """Reuse curves, weighed by the counters."""
    RESIDENCY = "Residency"
    """The same, with the engine's residency histograms besides."""


BEST: Final = Mechanism.WORKING_SET
"""Residency histograms should know more and do not: vLLM reports a block's gaps only once it is evicted and only from
its third use on, so that what is used most is missing; the bench shows what that costs."""


@dataclass(frozen=True, slots=True)
class ReuseWindow:
    """What one engine counted between two pages."""

    start: float
    """Seconds, on any clock."""
    end: float
    queried: float
    """Tokens looked up."""
    hit: float
    generated: float = 0.0
    """Tokens generated: they are cached too."""


@dataclass(frozen=True, slots=True)
class ReuseHistory:
    """Consecutive windows of one engine with one cache."""

    windows: tuple[ReuseWindow, ...]
    capacity: float
    """Tokens."""
    empty_at: float | None = None
    """When the cache was empty, on the windows' clock; None when that is long ago or not known."""
    gaps: Histogram | None = None
    """Growth of vllm:kv_block_reuse_gap_seconds over the windows."""
    idle: Histogram | None = None
    """Growth of vllm:kv_block_idle_before_evict_seconds over the windows."""

    @property
    def hit_ratio(self) -> float:
        """Hits over look-ups; 0 where nothing was looked up."""
        queried = sum(one.queried for one in self.windows)
        return sum(one.hit for one in self.windows) / queried if queried > 0.0 else 0.0


@dataclass(frozen=True, slots=True)
class HitForecast:
    """The hit ratio that would have been, over the same windows, with another capacity."""

    capacity: float
    lower: float
    expected: float
    upper: float
    mechanism: Mechanism

    @property
    def predictable(self) -> bool:
        """Whether the interval is narrow enough to act on."""
        return self.upper - self.lower <= WIDEST


def windows_of(readings: Sequence[EngineReading]) -> tuple[ReuseWindow, ...]:
    """Return the windows between consecutive pages of one engine, oldest first; a restart begins a new one."""
    found = []
    for earlier, later in pairwise(readings):
        queried = _grown(earlier, later, Signal.PREFIX_CACHE_QUERIES)
        hit = _grown(earlier, later, Signal.PREFIX_CACHE_HITS)
        if queried is None or hit is None or later.time <= earlier.time:
            continue
        generated = _grown(earlier, later, Signal.GENERATION_TOKENS) or 0.0
        found.append(ReuseWindow(earlier.time, later.time, queried, min(hit, queried), generated))
    return tuple(found)


def predict_from_pages(
    pages: Mapping[str, Sequence[EngineReading]], *, capacity: Value, factors: Sequence[float] = FACTORS
) -> tuple[HitForecast, ...] | Unknown:
    """Return forecasts at multiples of the present capacity (tokens), from the replica that looked most tokens up.

    Args:
        pages: each replica's pages, oldest first.
        capacity: of one replica.
        factors: what to multiply it with.
    """
    if isinstance(capacity, Unknown):
        return capacity
    busiest = max((windows_of(readings) for readings in pages.values()), key=_queried, default=())
    if not busiest:
        return Unknown(UnknownReason.NOT_MEASURED, "no replica counts look-ups in its prefix cache")
    return predict(ReuseHistory(busiest, capacity), [capacity * factor for factor in factors])


def predict(
    history: ReuseHistory, capacities: Sequence[float], *, mechanism: Mechanism = BEST
) -> tuple[HitForecast, ...] | Unknown:
    """Return the hit ratio at other capacities (tokens), in their order."""
    busy = [one for one in history.windows if one.queried > 0.0 and one.end > one.start]
    if len(busy) < LEAST_WINDOWS:
        return Unknown(UnknownReason.TOO_FEW_SAMPLES, f"{len(busy)} windows with look-ups, {LEAST_WINDOWS} are needed")
    if history.capacity <= 0.0 or min(capacities, default=1.0) <= 0.0:
        return Unknown(UnknownReason.INVALID, "a cache of no tokens")
    if mechanism is Mechanism.UNCHANGED:
        ratio = history.hit_ratio
        return tuple(HitForecast(one, ratio, ratio, ratio, mechanism) for one in capacities)
    parts = _parts(history, busy)
    if mechanism is Mechanism.POWER_LAW:
        return _power_law(history, parts, capacities)
    family = curves()
    weights = _weights(family, history, parts, residency=mechanism is Mechanism.RESIDENCY)
    return tuple(_forecast(family, weights, parts, history, one, mechanism) for one in capacities)


@dataclass(frozen=True, slots=True)
class _Part:
    """Windows alike: of one stretch of filling, or of one level of load."""

    filling: bool
    queried: float
    hit: float
    noise: float
    """Standard error of the hit ratio, from its scatter."""
    ages: tuple[float, ...]
    """Seconds since the cache was empty, early, middle and late in the part; infinite when not known."""
    rate: float
    """Tokens looked up per second while what is cached now was written."""
    generated: float
    occupied: float
    """Tokens written since the cache was empty."""


def _parts(history: ReuseHistory, busy: Sequence[ReuseWindow]) -> list[_Part]:
    queried = np.array([one.queried for one in busy])
    hit = np.array([one.hit for one in busy])
    generated = np.array([one.generated for one in busy])
    seconds = np.array([one.end - one.start for one in busy])
    middle = np.array([(one.end + one.start) / 2.0 for one in busy])
    written = np.cumsum(queried - hit + generated)
    known = history.empty_at is not None
    age = middle - history.empty_at if history.empty_at is not None else np.full(len(busy), math.inf)
    filling = (written < history.capacity) if known else np.zeros(len(busy), dtype=bool)
    # The rate at which the present contents were written: back to when a capacity less had been.
    back = np.searchsorted(written, written - history.capacity, side="right")
    sums = [np.concatenate([[0.0], np.cumsum(one)]) for one in (queried, generated, seconds)]
    index = np.arange(len(busy))
    spans = sums[2][index + 1] - sums[2][back]
    rates = (sums[0][index + 1] - sums[0][back]) / spans
    made = (sums[1][index + 1] - sums[1][back]) / spans

    def part(chosen: npt.NDArray[np.signedinteger], *, is_filling: bool) -> _Part:
        total, ratios = float(queried[chosen].sum()), hit[chosen] / queried[chosen]
        return _Part(
            filling=is_filling,
            queried=total,
            hit=float(hit[chosen].sum()),
            noise=float(np.std(ratios)) / math.sqrt(len(chosen)) if len(chosen) > 2 else 0.05,
            ages=tuple(float(one) for one in np.quantile(age[chosen], (0.1, 0.5, 0.9))) if known else (math.inf,),
            rate=float(queried.sum() / seconds.sum()) if is_filling else float(rates[chosen].mean()),
            generated=float(generated.sum() / seconds.sum()) if is_filling else float(made[chosen].mean()),
            occupied=float(written[chosen].mean()),
        )

    young, steady = np.flatnonzero(filling), np.flatnonzero(~filling)
    by_load = steady[np.argsort(rates[steady], kind="stable")]
    found = []
    if len(young):
        stretches = np.array_split(young, min(_FILLING_PARTS, max(1, len(young) // 4)))
        found += [part(one, is_filling=True) for one in stretches]
    if len(steady):
        levels = np.array_split(by_load, min(_STEADY_PARTS, max(1, len(steady) // 8)))
        found += [part(one, is_filling=False) for one in levels]
    return found


def _weights(family: ReuseCurves, history: ReuseHistory, parts: Sequence[_Part], *, residency: bool) -> FloatArray:
    """Return the weight of each curve: its prior, times how well it explains what was counted."""
    score = np.zeros(len(family.median))
    for part in parts:
        ratio = part.hit / part.queried
        # Few hits while the cache fills may mean short memory, or conversations that have only begun.
        doubt = FILLING_NOISE * max(ratio, history.hit_ratio) if part.filling else STEADY_NOISE * ratio
        variance = max(part.noise, _LEAST_NOISE) ** 2 + doubt**2
        score -= (ratio - _hits(family, part, history.capacity)) ** 2 / 2.0 / variance
    score = score * TEMPER - ((np.log(family.median) - math.log(PRIOR_MEDIAN)) / PRIOR_SPREAD) ** 2 / 2.0
    if residency:
        queried = sum(one.queried for one in parts)
        rate = sum(one.rate * one.queried for one in parts) / queried
        generated = sum(one.generated * one.queried for one in parts) / queried
        kept = family.residence(history.capacity, rate=rate, generated=generated)
        score += _gap_score(family, history.gaps, kept) + _idle_score(history.idle, kept)
    weights = np.exp(score - score.max())
    return np.asarray(weights / weights.sum())


def _hits(family: ReuseCurves, part: _Part, capacity: float) -> FloatArray:
    kept = family.residence(capacity, rate=part.rate, generated=part.generated)
    # Nothing older than the cache itself can hit.
    return np.asarray(np.mean([family.returned(np.minimum(kept, age)) for age in part.ages], axis=0))


def _gap_score(family: ReuseCurves, gaps: Histogram | None, kept: FloatArray) -> FloatArray | float:
    """Score the curves' shape below the residence time against the gaps that the engine saw."""
    if gaps is None or gaps.count <= 0.0:
        return 0.0
    counts = np.diff(np.concatenate([[0.0], gaps.cumulative]))
    edges = [bound for bound in gaps.bounds if bound >= SHORTEST_GAP]
    counts = counts[len(gaps.bounds) - len(edges) :][1:]
    total = float(counts.sum())
    if len(edges) < 2 or total <= 0.0:
        return 0.0
    below = np.array([family.came_back(np.minimum(edge, kept)) for edge in edges])
    share = np.maximum(np.diff(below, axis=0), 0.0) + 1e-4
    share /= share.sum(axis=0)
    return np.asarray(min(1.0, GAP_WEIGHT / total) * (counts[:, None] * np.log(share)).sum(axis=0))


def _idle_score(idle: Histogram | None, kept: FloatArray) -> FloatArray | float:
    """Score the curves' residence time against how long evicted blocks had been idle."""
    if idle is None or idle.count <= 0.0 or idle.total <= 0.0:
        return 0.0
    measured = idle.total / idle.count
    return np.asarray(-(((np.log(np.maximum(kept, 1e-9)) - math.log(measured)) / RESIDENCE_NOISE) ** 2) / 2.0 * TEMPER)


def _forecast(
    family: ReuseCurves,
    weights: FloatArray,
    parts: Sequence[_Part],
    history: ReuseHistory,
    capacity: float,
    mechanism: Mechanism,
) -> HitForecast:
    """Carry each part's measured ratio over as the curves say, so that its level stays the measured one."""
    hits = np.zeros(len(weights))
    for part in parts:
        now, then = _hits(family, part, history.capacity), _hits(family, part, capacity)
        hits += np.minimum(part.hit * then / np.maximum(now, 1e-4), part.queried)
    ratios = np.clip(hits / sum(part.queried for part in parts), 0.0, 1.0)
    order = np.argsort(ratios)
    sums = np.cumsum(weights[order])
    bounds = [float(ratios[order][min(int(np.searchsorted(sums, share)), len(sums) - 1)]) for share in (0.05, 0.95)]
    expected = float((weights * ratios).sum())
    return HitForecast(capacity, min(bounds[0], expected), expected, max(bounds[1], expected), mechanism)


def _power_law(
    history: ReuseHistory, parts: Sequence[_Part], capacities: Sequence[float]
) -> tuple[HitForecast, ...] | Unknown:
    """Carry the steady ratio over as a power of the size."""
    young = [one for one in parts if one.filling and one.occupied > 0.0]
    steady = [one for one in parts if not one.filling]
    if not young or not steady:
        return Unknown(UnknownReason.TOO_FEW_SAMPLES, "a power law needs a cache that was seen to fill")
    level = sum(one.hit for one in steady) / sum(one.queried for one in steady)
    misfit = np.zeros(len(_EXPONENTS))
    for one in young:
        scale = max(one.noise, FILLING_NOISE * level, 0.01)
        misfit += ((one.hit / one.queried - level * (one.occupied / history.capacity) ** _EXPONENTS) / scale) ** 2
    weights = np.exp(-(misfit - misfit.min()) / 2.0)
    weights /= weights.sum()
    sums = np.cumsum(weights)
    found = []
    for capacity in capacities:
        ratios = np.minimum(history.hit_ratio * (capacity / history.capacity) ** _EXPONENTS, 1.0)
        low, high = (float(ratios[min(int(np.searchsorted(sums, share)), len(sums) - 1)]) for share in (0.05, 0.95))
        expected = float((weights * ratios).sum())
        found.append(HitForecast(capacity, min(low, high), expected, max(low, high), Mechanism.POWER_LAW))
    return tuple(found)


def _queried(windows: Sequence[ReuseWindow]) -> float:
    return sum(one.queried for one in windows)


def _grown(earlier: EngineReading, later: EngineReading, signal: Signal) -> float | None:
    before, after = earlier.counters.get(signal), later.counters.get(signal)
    if before is None or after is None:
        return None
    return after - before if after >= before else after
