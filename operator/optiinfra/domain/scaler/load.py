"""What is kept of a workload's load, and the features that every shadow reads: level, trend, held maxima, collapse.

All loads are in replicas: work per second over what one replica serves. A trend counts only as far as it exceeds its
own noise, over three minutes or over five samples, whichever is clearer. A steady load that collapses within an hour is
more often an outage upstream than lost customers, so its capacity is kept for its return; two collapses in a row that
did not return turn that off until one does.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from optiinfra.domain.scaler.tuning import GAINS, HOLDS, TICKS_PER_HOUR, WINDOW_TICKS, Tuning

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

RECENT: Final = 20
LEVEL_TICKS: Final = 4
TREND_TICKS: Final = 12
FAST_TICKS: Final = 5
YOUNG_TICKS: Final = 8
"""A trend is looked for only then."""
LAG_TICKS: Final = 2.5
"""From the middle of the newest minute to the moment of the decision."""
WINDOWS: Final = 16
_STEADY: Final = slice(4, 16)
"""Windows, newest first, whose lowest one was the steady level before a collapse: 20 to 80 minutes ago."""
_LEAST_STEADY: Final = 0.5
_RETURNED: Final = 0.5
_LOST_MOST: Final = 2
_READY_AGAIN: Final = -2 * TICKS_PER_HOUR
"""Value of `until` from which a new collapse may be seen: two hours after one was given up."""


def clear_trend(loads: Floats, *, noise: float) -> Floats:
    """Slope of least squares in replicas a tick, less `noise` standard errors; `loads` newest first, (workloads,)."""
    ticks = loads.shape[1]
    centred = (np.arange(ticks, dtype=np.float32) - (ticks - 1) / 2.0)[None, :] * np.float32(-1.0)
    spread = float((centred**2).sum())
    slope = (centred * loads).sum(axis=1) / np.float32(spread)
    rest = loads - loads.mean(axis=1, keepdims=True) - slope[:, None] * centred
    error = np.sqrt((rest**2).sum(axis=1) / np.float32((ticks - 2) * spread))
    clear: Floats = (slope - np.float32(noise) * error).astype(np.float32)
    return clear


@dataclass(frozen=True, slots=True)
class Features:
    """What is known of the load at one tick; all (workloads, ...)."""

    level: Floats
    slope: Floats
    """Replicas a tick; never negative."""
    mean: Floats
    """Mean of the last day."""
    held: Floats
    """(workloads, gains x holds): maxima of the forecast."""
    now: Floats
    """(workloads, gains): the load when the decision is taken."""
    later: Floats
    """(workloads, gains): the load when what is ordered now is ready."""
    least: Floats
    """Never ask for less: half the last hour, the level before a collapse, or a young service's highest level."""
    collapsed: Bools


@dataclass(slots=True)
class LoadMemory:
    """The past of the loads of a fleet; every array has the workload first."""

    seen: Ints
    """Ticks since the beginning."""
    recent: Floats
    """(workloads, RECENT): ring of loads by tick."""
    forecasts: Floats
    """(workloads, gains, longest hold): ring of forecasts by tick."""
    window: Floats
    """Sum of the running five minutes."""
    window_ticks: Floats
    windows: Floats
    """(workloads, WINDOWS): means of five minutes, newest first."""
    mean: Floats
    highest: Floats
    """Highest level since the beginning, or what the first replicas were meant for."""
    before: Floats
    """Level before the present collapse; 0 while there is none."""
    until: Ints
    """Ticks that the collapse's capacity is still kept."""
    lost: Ints
    """Collapses in a row that did not return."""

    @classmethod
    def empty(cls, workloads: int) -> "LoadMemory":
        """Nothing seen yet."""

        def zeros(*shape: int) -> Floats:
            return np.zeros((workloads, *shape), dtype=np.float32)

        def counts() -> Ints:
            return np.zeros(workloads, dtype=np.int64)

        return cls(
            seen=counts(),
            recent=zeros(RECENT),
            forecasts=zeros(len(GAINS), HOLDS[-1]),
            window=zeros(),
            window_ticks=zeros(),
            windows=zeros(WINDOWS),
            mean=zeros(),
            highest=zeros(),
            before=zeros(),
            until=np.full(workloads, _READY_AGAIN, dtype=np.int64),
            lost=counts(),
        )

    def observe(
        self, load: Floats, *, tick: int, start_ticks: Ints, tuning: Tuning, trending: Bools | None = None
    ) -> Features:
        """Take in one tick and read the features. `load` is finite; what was not measured is the caller's matter.

        Where `trending` is false the slope is told, but not extrapolated.
        """
        first = self.seen == 0
        if first.any():
            self.recent[first] = load[first, None]
            self.windows[first] = load[first, None]
            self.mean[first] = load[first]
        self.recent[:, tick % RECENT] = load
        self.seen += 1
        share = np.maximum(1.0 / (tuning.mean_hours * TICKS_PER_HOUR), 1.0 / self.seen).astype(np.float32)
        self.mean += (load - self.mean) * share
        self._count_window(load, tick=tick)
        newest = (tick - np.arange(TREND_TICKS)) % RECENT
        level = self.recent[:, newest[:LEVEL_TICKS]].mean(axis=1)
        slope = self._slope(self.recent[:, newest], tuning=tuning)
        gains = np.array(GAINS, dtype=np.float32)
        ahead = start_ticks.astype(np.float32) + np.float32(LAG_TICKS + 1.0)
        trend = gains[None, :] * (slope if trending is None else np.where(trending, slope, np.float32(0.0)))[:, None]
        later = level[:, None] + trend * ahead[:, None]
        # The first samples are single ticks, which stray: what they foresaw is forgotten once there is a minute.
        self.forecasts[self.seen == LEVEL_TICKS] = 0.0
        self.forecasts[:, :, tick % HOLDS[-1]] = later
        kept = self._collapse(level, tuning=tuning)
        hour = self.windows[:, : 3600 // 300].mean(axis=1)
        # The first samples are single ticks, no level.
        self.highest = np.maximum(self.highest, np.where(self.seen < LEVEL_TICKS, 0.0, level)).astype(np.float32)
        youth = np.maximum(1.0 - self.seen / (tuning.young_floor_hours * TICKS_PER_HOUR), 0.0).astype(np.float32)
        least = np.maximum(np.float32(tuning.hour_floor) * hour, kept)
        return Features(
            level=level,
            slope=slope,
            mean=self.mean.copy(),
            held=self._held(tick),
            now=level[:, None] + trend * np.float32(LAG_TICKS),
            later=later,
            least=np.maximum(least, youth * self.highest),
            collapsed=kept > 0.0,
        )

    def stride(self, ticks: int, *, tick: int) -> None:
        """Go on `ticks` ticks after `tick` as if the load had stayed; backwards, if the clock was set back."""
        last = self.recent[:, tick % RECENT].copy()
        for ring, stayed in ((self.recent, last[:, None]), (self.forecasts, last[:, None, None])):
            size = ring.shape[-1]
            if ticks < 0:
                ring[...] = np.roll(ring, ticks, axis=-1)
            else:
                ring[..., (tick + 1 + np.arange(min(ticks, size))) % size] = stayed
        if ticks > 0:
            passed = min(ticks // WINDOW_TICKS, WINDOWS)
            self.windows = np.roll(self.windows, passed, axis=1)
            self.windows[:, :passed] = last[:, None]
            self.until = np.maximum(self.until - ticks, _READY_AGAIN)
        self.window[:] = 0.0
        self.window_ticks[:] = 0.0

    def _count_window(self, load: Floats, *, tick: int) -> None:
        self.window += load
        self.window_ticks += 1.0
        if tick % WINDOW_TICKS == WINDOW_TICKS - 1:
            self.windows[:, 1:] = self.windows[:, :-1].copy()
            self.windows[:, 0] = self.window / np.maximum(self.window_ticks, 1.0)
            self.window[:] = 0.0
            self.window_ticks[:] = 0.0

    def _slope(self, loads: Floats, *, tuning: Tuning) -> Floats:
        """Return the clearer of two trends, newest sample first; never negative, none while young."""
        slow = clear_trend(loads, noise=tuning.noise)
        fast = clear_trend(loads[:, :FAST_TICKS], noise=tuning.fast_noise)
        clear = np.maximum(np.maximum(slow, fast), 0.0)
        return np.where(self.seen < YOUNG_TICKS, 0.0, clear).astype(np.float32)

    def _held(self, tick: int) -> Floats:
        """Maxima over the hold times, nested: each adds to the one before."""
        maxima = []
        highest: Floats | None = None
        begin = 0
        for hold in HOLDS:
            slots = (tick - np.arange(begin, hold)) % HOLDS[-1]
            part = self.forecasts[:, :, slots].max(axis=2)
            highest = part if highest is None else np.maximum(highest, part)
            maxima.append(highest)
            begin = hold
        return np.stack(maxima, axis=2).reshape(len(self.seen), -1)

    def _collapse(self, level: Floats, *, tuning: Tuning) -> Floats:
        """Capacity kept for a load that vanished; 0 where none did."""
        away = self.before > 0.0
        returned = away & (level > _RETURNED * self.before)
        given_up = away & ~returned & (self.until <= 0)
        self.lost = np.where(returned, 0, self.lost + given_up)
        self.before[returned | given_up] = 0.0
        steady = self.windows[:, _STEADY].min(axis=1)
        known = self.seen > WINDOWS * WINDOW_TICKS
        new = known & ~away & (level < tuning.collapse_share * steady) & (steady > _LEAST_STEADY)
        new &= self.lost < _LOST_MOST
        # After a hold was given up the windows still remember the old level for a while.
        new &= self.until <= _READY_AGAIN
        self.until = np.maximum(self.until - 1, _READY_AGAIN)
        self.until[new] = tuning.collapse_hold_ticks
        self.until[returned] = _READY_AGAIN
        self.before = np.where(new, steady, self.before).astype(np.float32)
        return self.before.copy()
