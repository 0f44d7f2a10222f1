"""Where the load goes while a new replica starts: a short, damped trend that has to prove itself on the history.

A forecast may only add capacity: falling load is predicted as staying. Before it is believed it is run over the last
two hours of the same history; when its points were worse there than simply repeating the last level, it switches
itself off and says so. Its margin is the 80 % quantile of how far the load came out above it, so that it errs on the
dear side and not on the late one. It refuses to speak from few samples, and knows nothing of days and weeks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from optiinfra.domain.history import Column, FloatArray, LoadHistory, stack
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.units import Ratio, Seconds, UnixTime

Array = npt.NDArray[np.float64]

STEPS: Final = 480
"""History that is looked at and back-tested on, in steps (two hours of 15 s)."""
LEAST_POINTS: Final = 8
"""Back-tests needed before a forecast is given at all."""
COVERED_SHARE: Final = 0.8
"""Share of the back-tests whose load the margin covers."""
_LEVEL_STEPS: Final = 4
_TREND_STEPS: Final = 12
_DAMPING: Final = 0.97
"""The trend loses 3 % a step: ramps end."""
_MOST_GAP: Final = 4
"""Steps over which the last value stands in for a missing one; it keeps intervals of up to a minute usable."""
_MOST_HORIZON: Final = 240
_MOST_GROWTH: Final = 2.0
"""Three minutes of trend say no more than a doubling; what is more shows when it comes."""
_LEAST_LOAD: Final = 8.0
"""Requests from which the doubling is counted when there are fewer."""
_TIE: Final = 1.02
"""A forecast this little worse than the last level counts as equal: at the foot of a ramp both are still the same."""
_HALF_LIFE: Final = 80.0
"""Steps after which a back-test counts half: what a morning shows is worth more than last night."""
_CHUNK: Final = 256


@dataclass(frozen=True, slots=True)
class Forecast:
    """Requests in flight expected at the end of the horizon. `value` is never below `last`."""

    value: float
    """With the margin; equal to `last` when the forecast is off or the load does not rise."""
    last: float
    """Mean of the last minute."""
    slope: float
    """Change per second that the trend assumes; 0 when there is no clear rise."""
    margin: float
    """Part of `value` that is there because forecasts err."""
    horizon: Seconds
    active: bool
    """False when the back-test was worse than repeating the last level."""
    error: Ratio
    """Back-tested mean absolute error without margin, as a share of the mean load."""
    baseline_error: Ratio
    """The same of repeating the last level."""
    short_share: Ratio
    """Share of the back-tests in which the load came out above the forecast with its margin."""
    points: int
    """Number of back-tests."""

    @property
    def growth(self) -> float:
        """How many times the last level is expected; 1 when there was none."""
        return self.value / self.last if self.last > 0.0 else 1.0


def forecast(
    history: LoadHistory, *, now: UnixTime, horizon: Seconds, waiting_weight: float = 1.0
) -> Forecast | Unknown:
    """Forecast the requests in flight `horizon` from now.

    `waiting_weight` is the share at which waiting requests count as load: a backlog is the sum of what was not served
    earlier, so its growth is not the growth of the load.
    """
    return forecast_fleet([history], now=now, horizons=[horizon], waiting_weights=[waiting_weight])[0]


def forecast_fleet(
    histories: Sequence[LoadHistory],
    *,
    now: UnixTime,
    horizons: Sequence[Seconds],
    waiting_weights: Sequence[float] | None = None,
) -> tuple[Forecast | Unknown, ...]:
    """Forecast many workloads at once, each with its own horizon."""
    results: list[Forecast | Unknown] = []
    for first in range(0, len(histories), _CHUNK):
        part = histories[first : first + _CHUNK]
        results += forecast_stacked(
            stack(part, now=now, steps=STEPS),
            steps=[history.step for history in part],
            horizons=horizons[first : first + _CHUNK],
            waiting_weights=np.array(
                [1.0] * len(part) if waiting_weights is None else waiting_weights[first:][:_CHUNK]
            ),
        )
    return tuple(results)


def forecast_stacked(
    stacked: FloatArray, *, steps: Sequence[Seconds], horizons: Sequence[Seconds], waiting_weights: Array
) -> list[Forecast | Unknown]:
    """Forecast workloads whose histories are stacked already (`history.stack` with `STEPS`)."""
    load = stacked[Column.RUNNING].astype(np.float64) + waiting_weights[:, None] * stacked[Column.WAITING]
    filled = _fill_gaps(load)
    ahead = np.array(
        [min(_MOST_HORIZON, max(1, math.ceil(horizon / step))) for horizon, step in zip(horizons, steps, strict=True)],
        dtype=np.int64,
    )
    level = _sliding_sums(filled, _LEVEL_STEPS, [1.0 / _LEVEL_STEPS] * _LEVEL_STEPS)
    slope = _clear_slope(filled)
    # The level is centred 1.5 steps ago; the trend has to bridge that as well.
    reach = (_LEVEL_STEPS - 1) / 2.0 + _DAMPING * (1.0 - _DAMPING**ahead) / (1.0 - _DAMPING)
    predicted = level + slope * reach[:, None]
    test = _BackTest.run(level=level, predicted=predicted, rising=slope > 0.0, ahead=ahead)
    results: list[Forecast | Unknown] = []
    for row, (step, horizon) in enumerate(zip(steps, horizons, strict=True)):
        last = float(level[row, -1])
        points = int(test.points[row])
        if not math.isfinite(last) or not math.isfinite(predicted[row, -1]):
            known = bool(np.isfinite(load[row]).any())
            reason = UnknownReason.STALE if known and points else UnknownReason.TOO_FEW_SAMPLES
            results.append(Unknown(reason, f"no unbroken load of the last {_TREND_STEPS * step:.0f} s"))
            continue
        if points < LEAST_POINTS:
            results.append(Unknown(UnknownReason.TOO_FEW_SAMPLES, f"{points} of {LEAST_POINTS} back-tests"))
            continue
        active = bool(test.error[row] <= _TIE * test.baseline[row] + 1e-6)
        rises = active and slope[row, -1] > 0.0
        point = float(predicted[row, -1])
        value = last
        if rises:
            value = min(
                point + float(test.margin[row]) * math.sqrt(max(point, 1.0)), _MOST_GROWTH * max(last, _LEAST_LOAD)
            )
        results.append(
            Forecast(
                value=value,
                last=last,
                slope=float(slope[row, -1] / step) if rises else 0.0,
                margin=max(0.0, value - point) if rises else 0.0,
                horizon=horizon,
                active=active,
                error=Ratio(float(test.error[row])),
                baseline_error=Ratio(float(test.baseline[row])),
                short_share=Ratio(float(test.short_share[row])),
                points=points,
            )
        )
    return results


@dataclass(frozen=True, slots=True)
class _BackTest:
    """How the forecast would have done, one entry a workload."""

    points: npt.NDArray[np.int64]
    error: Array
    baseline: Array
    margin: Array
    """In units of the square root of the forecast: counts scatter that way."""
    short_share: Array

    @classmethod
    def run(
        cls, *, level: Array, predicted: Array, rising: npt.NDArray[np.bool_], ahead: npt.NDArray[np.int64]
    ) -> "_BackTest":
        width = level.shape[1]
        later = np.arange(width)[None, :] + ahead[:, None]
        actual = np.take_along_axis(level, np.minimum(later, width - 1), axis=1)
        valid = (later < width) & np.isfinite(actual) & np.isfinite(predicted)
        points = valid.sum(axis=1)
        age = (width - 1 - np.arange(width)) / _HALF_LIFE
        weight = np.where(valid, 2.0**-age, 0.0)
        mass = np.maximum(weight.sum(axis=1), 1e-12)
        actual, predicted, level = (np.where(valid, values, 0.0) for values in (actual, predicted, level))
        mean = np.maximum((weight * actual).sum(axis=1) / mass, 1e-9)
        error = (weight * np.abs(actual - predicted)).sum(axis=1) / mass / mean
        baseline = (weight * np.abs(actual - level)).sum(axis=1) / mass / mean
        above = (actual - predicted) / np.sqrt(np.maximum(predicted, 1.0))
        # The margin is used while load rises, so it is learned there as soon as there were rises enough.
        in_rise = valid & rising
        learned = np.where((in_rise.sum(axis=1) >= LEAST_POINTS)[:, None], in_rise, valid)
        margin = np.maximum(_row_quantile(above, learned, COVERED_SHARE), 0.0)
        short = learned & (above > margin[:, None] + 1e-9)
        short_share = short.sum(axis=1) / np.maximum(learned.sum(axis=1), 1)
        return cls(points=points, error=error, baseline=baseline, margin=margin, short_share=short_share)


def _row_quantile(values: Array, mask: npt.NDArray[np.bool_], share: float) -> Array:
    """Quantile of the masked values of each row, the next larger value; 0 for a row without any."""
    ordered = np.sort(np.where(mask, values, np.inf), axis=1)
    counts = mask.sum(axis=1)
    index = np.maximum(np.ceil(share * counts).astype(np.int64) - 1, 0)
    picked = np.take_along_axis(ordered, index[:, None], axis=1)[:, 0]
    return np.where(counts > 0, picked, 0.0)


def _fill_gaps(values: Array) -> Array:
    """Carry the last known value over short gaps, never backwards: a back-test must not see the future."""
    columns = np.arange(values.shape[1])[None, :]
    source = np.maximum.accumulate(np.where(np.isfinite(values), columns, -1), axis=1)
    filled = np.take_along_axis(values, np.maximum(source, 0), axis=1)
    return np.where((source >= 0) & (columns - source <= _MOST_GAP), filled, np.nan)


def _sliding_sums(values: Array, width: int, weights: Sequence[float]) -> Array:
    """Weighted sum of each value and the `width` - 1 before it, oldest first; NaN where one of them is missing."""
    result = np.full(values.shape, np.nan)
    size = values.shape[1] - width + 1
    total = np.zeros((values.shape[0], size))
    for offset, weight in enumerate(weights):
        total += weight * values[:, offset : offset + size]
    result[:, width - 1 :] = total
    return result


def _clear_slope(values: Array) -> Array:
    """Least-squares change per step over the last three minutes, less its standard error, and never negative."""
    width = _TREND_STEPS
    offsets = np.arange(width) - (width - 1) / 2.0
    spread = float((offsets**2).sum())
    slope = _sliding_sums(values, width, (offsets / spread).tolist())
    ones = [1.0] * width
    # Differences from a level of their own keep the sums of squares from cancelling.
    centre = np.where(np.isfinite(values), values, 0.0).mean(axis=1)[:, None]
    total = _sliding_sums(values - centre, width, ones)
    squares = _sliding_sums((values - centre) ** 2, width, ones)
    rest = np.maximum(squares - total**2 / width - slope**2 * spread, 0.0)
    error = np.sqrt(rest / (width - 2) / spread)
    return np.where(np.isfinite(slope), np.maximum(slope - error, 0.0), np.nan)
