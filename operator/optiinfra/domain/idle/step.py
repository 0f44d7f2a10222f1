"""One sample of many GPUs worked into their columns: what breaks a quiet time, what a gap is, what power rest takes.

A column is what `fleet` keeps of a GPU; the rows are named here. NaN stands for "not known" inside the arrays, so that
comparisons with it are false, which every rule below relies on.
"""

from enum import IntEnum, auto
from typing import Final

import numpy as np

from optiinfra.domain.idle.gaps import SHORTEST, Flags, Floats
from optiinfra.domain.idle.samples import Samples, Sight
from optiinfra.domain.idle.states import IdlePolicy

_STEADY_SHARE: Final = 0.8
_STEADY_SAMPLES: Final = 5.0
_BACKGROUND: Final = 16.0
"""Samples over which a background of small activity is learned."""
_LOADING_BYTES: Final = 512.0 * 2**20
_LOADING_SHARE: Final = 0.05
"""Memory that grows within minutes by more than both together is being filled: a model loads. A leak is slower."""
_TRANSFER: Final = 100e6
"""Bytes a second over PCIe above which something is moved to or from the GPU."""
_POWER_STEADY: Final = 0.15
_POWER_NOISE_W: Final = 15.0
_POWER_ABOVE: Final = 0.35
"""Power above floor x (1 + this), and above floor + noise, contradicts counters that show nothing."""
_FLOOR_RISE_S: Final = 86_400.0
_USE_S: Final = 1_200.0
"""Time constant of the share of time with high activity."""
_INTERVAL_RISE: Final = 1.1
_ONE_QUIET: Final = 1.5
"""Sampling intervals; what lasted longer held a sample without work."""


class Row(IntEnum):
    """Rows of the state; a GPU is a column."""

    LAST = 0
    FIRST = auto()
    INTERVAL = auto()
    QUIET_SINCE = auto()
    QUIET_COUNT = auto()
    QUIET_PEAK = auto()
    BROKEN_BY = auto()
    CLOCK = auto()
    WORKED = auto()
    DARK_SINCE = auto()
    USED = auto()
    WATCHED = auto()
    NOISE_COUNT = auto()
    NOISE_SHARE = auto()
    NOISE_MEAN = auto()
    MEMORY = auto()
    MEMORY_AT = auto()
    BUCKET_AT = auto()
    MEMORY_LOW = auto()
    MEMORY_LOW_BEFORE = auto()
    POWER_LOW = auto()
    POWER_LOW_BEFORE = auto()
    POWER_HIGH = auto()
    POWER_HIGH_BEFORE = auto()
    POWER_QUIET_HIGH = auto()
    FLOOR_EMPTY = auto()
    FLOOR_FILLED = auto()
    SM_KNOWN = auto()
    GAPS = auto()
    IDLE = auto()


def tolerance(interval: Floats, policy: IdlePolicy) -> Floats:
    """Longest time between two samples that is no hole: one reading may be missed."""
    return np.maximum(policy.largest_gap, 2.05 * np.where(np.isfinite(interval), interval, 0.0))


class Step:
    """One sample of some GPUs, worked into their columns (changed in place)."""

    def __init__(self, state: Floats, samples: Samples, policy: IdlePolicy) -> None:
        self.state, self.samples, self.policy = state, samples, policy
        self.gap = samples.time - state[Row.CLOCK]

    def run(self) -> Flags:
        """Change the columns; return whose gap ended here and is worth remembering."""
        with np.errstate(invalid="ignore"):
            hole = self._times()
            activity = np.fmax(self.samples.duty, self.samples.sm_active)
            calm = self._calm(activity)
            loading = self._memory()
            moving = self.samples.transfer > _TRANSFER
            work = (np.isfinite(activity) & ~calm) | self.samples.working
            contradicted = self._contradicted(calm)
            dark = (np.isnan(activity) | contradicted) & ~work & ~loading & ~moving
            self._use(activity)
            self._quiet(hole, activity, dark=dark, contradicted=contradicted, work=work, loading=loading | moving)
            self._floor(calm & ~work & ~loading & ~moving & ~contradicted)
            return self._clock(hole, dark=dark, work=work | loading | moving)

    def _times(self) -> Flags:
        """Learn the interval, from below: it falls at once, and rises slowly."""
        state, time = self.state, self.samples.time
        passed = time - state[Row.LAST]
        before = state[Row.INTERVAL]
        longest = np.where(np.isnan(before), self.policy.longest_interval, tolerance(before, self.policy))
        hole: Flags = passed > np.minimum(longest, 2.0 * self.policy.longest_interval)
        hole |= before > self.policy.longest_interval
        grown = np.minimum(passed, np.where(np.isnan(before), np.inf, before * _INTERVAL_RISE))
        state[Row.INTERVAL] = np.where(np.isnan(passed), before, grown)
        state[Row.FIRST] = np.where(np.isnan(state[Row.FIRST]), time, state[Row.FIRST])
        state[Row.LAST] = time
        self.passed = np.where(np.isnan(passed), 0.0, passed)
        fresh = np.isnan(state[Row.BUCKET_AT]) | hole
        turn = fresh | (time - state[Row.BUCKET_AT] >= self.policy.minimum_span / 2.0)
        for low, previous in (
            (Row.MEMORY_LOW, Row.MEMORY_LOW_BEFORE),
            (Row.POWER_LOW, Row.POWER_LOW_BEFORE),
            (Row.POWER_HIGH, Row.POWER_HIGH_BEFORE),
        ):
            state[previous] = np.where(fresh, np.nan, np.where(turn, state[low], state[previous]))
            state[low] = np.where(turn, np.nan, state[low])
        state[Row.BUCKET_AT] = np.where(turn, time, state[Row.BUCKET_AT])
        return hole

    def _calm(self, activity: Floats) -> Flags:
        """Whether activity is nothing, or the small and steady background of this GPU."""
        state, policy = self.state, self.policy
        interval = np.where(np.isnan(state[Row.INTERVAL]), 0.0, state[Row.INTERVAL])
        nothing = (activity <= policy.quiet_utilization) & (activity * interval <= policy.quiet_work)
        low = activity <= policy.idle_utilization
        small = low & ~nothing
        state[Row.NOISE_COUNT] += low
        weight = low / np.clip(state[Row.NOISE_COUNT], 1.0, _BACKGROUND)
        state[Row.NOISE_SHARE] += weight * (small - state[Row.NOISE_SHARE])
        first = small & (state[Row.NOISE_MEAN] == 0.0)
        moved = np.where(
            first,
            activity,
            np.where(
                small,
                state[Row.NOISE_MEAN] + (activity - state[Row.NOISE_MEAN]) / _BACKGROUND,
                state[Row.NOISE_MEAN],
            ),
        )
        near = np.abs(activity - state[Row.NOISE_MEAN]) <= np.maximum(0.01, 0.5 * state[Row.NOISE_MEAN])
        state[Row.NOISE_MEAN] = moved
        steady = (state[Row.NOISE_SHARE] > _STEADY_SHARE) & (state[Row.NOISE_COUNT] >= _STEADY_SAMPLES) & near
        calm: Flags = nothing | (small & steady)
        return calm

    def _memory(self) -> Flags:
        """Whether memory is being filled: more than the least of the last minutes."""
        state, memory = self.state, self.samples.memory
        known = np.isfinite(memory)
        least = np.fmin(state[Row.MEMORY_LOW], state[Row.MEMORY_LOW_BEFORE])
        loading: Flags = memory > least * (1.0 + _LOADING_SHARE) + _LOADING_BYTES
        state[Row.MEMORY_LOW] = np.fmin(state[Row.MEMORY_LOW], memory)
        state[Row.MEMORY] = np.where(known, memory, state[Row.MEMORY])
        state[Row.MEMORY_AT] = np.where(known, self.samples.time, state[Row.MEMORY_AT])
        return loading

    def _floors(self) -> tuple[Flags, Floats]:
        state = self.state
        filled = ~(state[Row.MEMORY] <= self.policy.empty_memory)
        return filled, np.where(filled, state[Row.FLOOR_FILLED], state[Row.FLOOR_EMPTY])

    def _ceiling(self) -> Floats:
        limit = self.samples.power_limit
        return np.where(np.isnan(limit), self.policy.power_veto_watts, self.policy.power_veto * limit)

    def _contradicted(self, calm: Flags) -> Flags:
        """Whether power says that a GPU works whose counters say nothing."""
        power = self.samples.power
        _, floor = self._floors()
        above = power > floor + np.maximum(_POWER_NOISE_W, _POWER_ABOVE * floor)
        learned = np.isfinite(floor) & np.isnan(self.samples.power_limit)
        contradicted: Flags = calm & (above | (~learned & (power > self._ceiling())))
        return contradicted

    def _use(self, activity: Floats) -> None:
        """Keep the share of time with high activity: by the multiprocessors where they are measured."""
        state, policy = self.state, self.policy
        fade = np.exp(-self.passed / _USE_S)
        use = np.where(np.isnan(self.samples.sm_active), activity, self.samples.sm_active)
        weight = np.where(np.isnan(use), 0.0, np.clip(self.passed, 1.0, policy.largest_gap))
        state[Row.USED] = state[Row.USED] * fade + weight * (use >= policy.under_used_utilization)
        state[Row.WATCHED] = state[Row.WATCHED] * fade + weight
        state[Row.SM_KNOWN] = np.where(np.isnan(activity), state[Row.SM_KNOWN], np.isfinite(self.samples.sm_active))

    def _quiet(
        self, hole: Flags, activity: Floats, *, dark: Flags, contradicted: Flags, work: Flags, loading: Flags
    ) -> None:
        state, time = self.state, self.samples.time
        broken = dark | work | loading
        why = np.where(hole, float(Sight.GAP), state[Row.BROKEN_BY])
        why = np.where(dark, float(Sight.DARK), why)
        why = np.where(contradicted, float(Sight.POWER), why)
        why = np.where(loading, float(Sight.LOADING), why)
        why = np.where(work, float(Sight.WORK), why)
        state[Row.BROKEN_BY] = why
        begins = ~broken & (hole | np.isnan(state[Row.QUIET_SINCE]))
        state[Row.QUIET_SINCE] = np.where(broken, np.nan, np.where(begins, time, state[Row.QUIET_SINCE]))
        state[Row.QUIET_COUNT] = np.where(broken, 0.0, np.where(begins, 1.0, state[Row.QUIET_COUNT] + 1.0))
        for row, value in ((Row.QUIET_PEAK, activity), (Row.POWER_QUIET_HIGH, self.samples.power)):
            state[row] = np.where(broken, np.nan, np.where(begins, value, np.fmax(state[row], value)))

    def _floor(self, certain: Flags) -> None:
        """Learn what the GPU draws when it surely does nothing."""
        state, power, time = self.state, self.samples.power, self.samples.time
        high_before, low_before = state[Row.POWER_HIGH_BEFORE], state[Row.POWER_LOW_BEFORE]
        state[Row.POWER_LOW] = np.where(certain, np.fmin(state[Row.POWER_LOW], power), np.nan)
        state[Row.POWER_HIGH] = np.where(certain, np.fmax(state[Row.POWER_HIGH], power), np.nan)
        state[Row.POWER_LOW_BEFORE] = np.where(certain, low_before, np.nan)
        state[Row.POWER_HIGH_BEFORE] = np.where(certain, high_before, np.nan)
        low = np.fmin(state[Row.POWER_LOW], state[Row.POWER_LOW_BEFORE])
        high = np.fmax(state[Row.POWER_HIGH], state[Row.POWER_HIGH_BEFORE])
        long_enough = time - state[Row.QUIET_SINCE] >= self.policy.minimum_span / 2.0
        steady = high - low <= _POWER_STEADY * low + _POWER_NOISE_W / 2.0
        learn = certain & long_enough & steady & np.isfinite(power) & (high <= self._ceiling())
        filled, floor = self._floors()
        middle = 0.5 * (low + high)
        rise = 1.0 - np.exp(-self.passed / _FLOOR_RISE_S)
        moved = np.where(np.isnan(floor) | (middle < floor), middle, floor + rise * (middle - floor))
        for row, where in ((Row.FLOOR_FILLED, filled), (Row.FLOOR_EMPTY, ~filled)):
            state[row] = np.where(learn & where, moved, state[row])

    def _clock(self, hole: Flags, *, dark: Flags, work: Flags) -> Flags:
        """Move the start of the present gap; return whose gap ended here."""
        state, time = self.state, self.samples.time
        first = np.isnan(state[Row.CLOCK])
        since = np.where(dark, np.where(np.isnan(state[Row.DARK_SINCE]), time, state[Row.DARK_SINCE]), np.nan)
        state[Row.DARK_SINCE] = since
        lost = hole | (time - since > tolerance(state[Row.INTERVAL], self.policy))
        # Two samples with work in a row are no gap, however far apart: one of them has to have been quiet.
        quiet_between = self.gap > _ONE_QUIET * state[Row.INTERVAL]
        ended: Flags = work & ~hole & ~first & quiet_between & (self.gap >= SHORTEST * self.policy.horizon)
        state[Row.CLOCK] = np.where(work | lost | first, time, state[Row.CLOCK])
        state[Row.WORKED] = np.where(work | (lost & ~first), 1.0, state[Row.WORKED])
        return ended
