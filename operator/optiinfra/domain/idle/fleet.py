"""What every GPU did so far, as arrays: one sample of many GPUs at a time, a bounded row each, nothing recomputed.

A GPU's past is a column of `_Row` (times of work and of quiet, memory and power of the last minutes, power floors, a
background of heart-beats) and a ring of its last gaps (`gaps`). A sample costs the same whether it is the first or
the millionth, and ten thousand GPUs cost a few milliseconds. Inside the arrays NaN stands for "not known"; `Sight`
says outwards why nothing can be said.

What breaks a quiet time: work (activity, requests in the engine, memory being filled, bytes on PCIe), a moment whose
activity is not known, power that contradicts the counters, and a hole between two samples. A short dark moment does
not end the gap since the last work, a long one or a hole does: nobody knows what happened in it.

A power floor is learned only from minutes without any work in which power was steady and below half the limit, apart
for an empty and a filled memory (a context keeps clocks up). It falls at once and rises over days, so that a load
which the counters do not show is never taken for a floor.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from enum import IntEnum, auto
from typing import Final

import numpy as np
from numpy.typing import NDArray

from optiinfra.domain.idle.gaps import RING, SHORTEST, Flags, Floats, stays_idle
from optiinfra.domain.idle.samples import Judged, Learned, Samples, Sight
from optiinfra.domain.idle.states import IdlePolicy

__all__ = ["IdleMemory", "Judged", "Learned", "Samples", "Sight"]

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
_SURE: Final = np.array([0.9, 0.95, 0.98])
"""Highest confidence by how many of power and active multiprocessors agree with the share of busy time."""


class _Row(IntEnum):
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


_ZERO: Final = (
    _Row.QUIET_COUNT,
    _Row.BROKEN_BY,
    _Row.WORKED,
    _Row.USED,
    _Row.WATCHED,
    _Row.NOISE_COUNT,
    _Row.NOISE_SHARE,
    _Row.NOISE_MEAN,
    _Row.SM_KNOWN,
    _Row.GAPS,
    _Row.IDLE,
)
_KEPT_AT_A_JUMP: Final = (_Row.FLOOR_EMPTY, _Row.FLOOR_FILLED, _Row.GAPS, _Row.WORKED)


@dataclass(slots=True)
class IdleMemory:
    """The state of a fleet. It grows with the GPUs that are named, and forgets those that are dropped."""

    policy: IdlePolicy = field(default_factory=IdlePolicy)
    _columns: dict[tuple[str, str], int] = field(default_factory=dict)
    _free: list[int] = field(default_factory=list)
    _state: Floats = field(default_factory=lambda: np.full((len(_Row), 0), np.nan))
    _lengths: Floats = field(default_factory=lambda: np.full((RING, 0), np.nan))
    _ends: Floats = field(default_factory=lambda: np.full((RING, 0), np.nan))

    def __len__(self) -> int:
        return len(self._columns)

    def column(self, node: str, gpu: str) -> int:
        """Return a GPU's column, making it when it is new."""
        key = (node, gpu)
        found = self._columns.get(key)
        if found is None:
            if not self._free:
                self._grow()
            found = self._columns[key] = self._free.pop()
            self._clear(found)
        return found

    def known(self) -> Collection[tuple[str, str]]:
        """Return (node, gpu) of every GPU in it."""
        return self._columns.keys()

    def forget(self, node: str, gpu: str) -> None:
        """Drop a GPU with all that was learned of it."""
        self._free.append(self._columns.pop((node, gpu)))

    def last_time(self, node: str, gpu: str) -> float:
        """Return the time of a GPU's latest sample; NaN before the first."""
        column = self._columns.get((node, gpu))
        return float("nan") if column is None else float(self._state[_Row.LAST, column])

    def restart(self, columns: NDArray[np.intp]) -> None:
        """Begin anew with the times of some GPUs whose clock jumped; floors and gaps stay."""
        kept = {row: self._state[row, columns] for row in _KEPT_AT_A_JUMP}
        self._state[:, columns] = np.nan
        for row in _ZERO:
            self._state[row, columns] = 0.0
        for row, values in kept.items():
            self._state[row, columns] = values
        self._state[_Row.BROKEN_BY, columns] = float(Sight.GAP)

    def learned(self) -> list[Learned]:
        """Return what is worth keeping of each GPU, by node and uuid."""
        found: list[Learned] = []
        # A round may add GPUs meanwhile, in another thread.
        for (node, gpu), column in sorted(self._columns.items()):
            state, count = self._state[:, column], int(self._state[_Row.GAPS, column])
            # The ring's oldest gap lies where the next one would be put.
            places = [place % RING for place in range(max(0, count - RING), count)]
            found.append(
                Learned(
                    node,
                    gpu,
                    bool(state[_Row.WORKED] > 0.0),
                    float(state[_Row.FLOOR_EMPTY]),
                    float(state[_Row.FLOOR_FILLED]),
                    tuple(self._lengths[places, column].tolist()),
                    tuple(self._ends[places, column].tolist()),
                )
            )
        return found

    def relearn(self, learned: Iterable[Learned], *, at: float) -> None:
        """Take in what was known at a time; GPUs that were seen since then know it better themselves."""
        for one in learned:
            if (one.node, one.gpu) in self._columns:
                continue
            column, kept = self.column(one.node, one.gpu), min(RING, len(one.lengths))
            self._lengths[:kept, column] = one.lengths[len(one.lengths) - kept :]
            self._ends[:kept, column] = one.ends[len(one.ends) - kept :]
            self._state[_Row.GAPS, column] = kept
            self._state[_Row.WORKED, column] = float(one.worked)
            self._state[_Row.FLOOR_EMPTY, column] = one.floor_empty
            self._state[_Row.FLOOR_FILLED, column] = one.floor_filled
            # What happens until its next sample nobody sees: that is a hole like any other.
            self._state[_Row.LAST, column] = at
            self._state[_Row.BROKEN_BY, column] = float(Sight.GAP)

    def observe(self, samples: Samples) -> None:
        """Take one later sample of each of some GPUs; a sample that is not later than the last is left out."""
        last = self._state[_Row.LAST, samples.gpu]
        fresh = ~(samples.time <= last)
        if not fresh.all():
            samples = _part(samples, fresh)
        state = self._state[:, samples.gpu]
        step = _Step(state, samples, self.policy)
        ended = step.run()
        self._state[:, samples.gpu] = state
        if ended.any():
            self._remember(samples.gpu[ended], step.gap[ended], samples.time[ended])

    def judge(self, columns: NDArray[np.intp]) -> Judged:
        """Say what is known of some GPUs, each at its latest sample."""
        policy, state = self.policy, self._state[:, columns]
        now = state[_Row.LAST]
        quiet = now - state[_Row.QUIET_SINCE]
        interval = state[_Row.INTERVAL]
        with np.errstate(invalid="ignore"):
            needed = np.clip(np.rint(policy.minimum_span / interval), policy.fewest_samples, policy.minimum_samples)
            enough = (quiet >= policy.minimum_span - 1e-6) & (state[_Row.QUIET_COUNT] >= needed)
            seen = now - state[_Row.MEMORY_AT] <= _tolerance(interval, policy)
            empty = state[_Row.MEMORY] <= policy.empty_memory
        asked = np.flatnonzero(enough & seen)
        probability = np.full(now.shape, np.nan)
        elapsed = now - state[_Row.CLOCK]
        if asked.size:
            probability[asked] = stays_idle(
                elapsed=elapsed[asked],
                now=now[asked],
                lengths=self._lengths[:, columns[asked]],
                ends=self._ends[:, columns[asked]],
                empty=empty[asked],
                never_worked=~(state[_Row.WORKED, asked] > 0.0),
                horizon=policy.horizon,
            )
        wanted = policy.probability - policy.hysteresis * (state[_Row.IDLE] > 0.0)
        with np.errstate(invalid="ignore"):
            idle = probability >= wanted
        sight = np.where(enough, np.where(seen, Sight.EXPECTED, Sight.MEMORY), state[_Row.BROKEN_BY])
        self._state[_Row.IDLE, columns] = idle
        signals = (state[_Row.SM_KNOWN] > 0.0).astype(np.intp) + np.isfinite(state[_Row.POWER_QUIET_HIGH])
        with np.errstate(invalid="ignore", divide="ignore"):
            used = state[_Row.USED] / state[_Row.WATCHED]
        return Judged(
            sight=np.where(idle, Sight.IDLE, sight).astype(np.int8),
            probability=probability,
            confidence=np.minimum(probability, _SURE[signals]),
            quiet_since=state[_Row.QUIET_SINCE],
            elapsed=elapsed,
            used=used,
            peak=state[_Row.QUIET_PEAK],
            memory=state[_Row.MEMORY],
            empty=empty,
            power_high=state[_Row.POWER_QUIET_HIGH],
            floor=np.where(empty, state[_Row.FLOOR_EMPTY], state[_Row.FLOOR_FILLED]),
            gaps=np.minimum(state[_Row.GAPS], RING),
            interval=interval,
            worked=state[_Row.WORKED] > 0.0,
        )

    def _grow(self) -> None:
        size = self._state.shape[1]
        more = max(64, size)
        self._state = np.concatenate([self._state, np.full((len(_Row), more), np.nan)], axis=1)
        self._lengths = np.concatenate([self._lengths, np.full((RING, more), np.nan)], axis=1)
        self._ends = np.concatenate([self._ends, np.full((RING, more), np.nan)], axis=1)
        self._free.extend(range(size + more - 1, size - 1, -1))

    def _clear(self, column: int) -> None:
        self._state[:, column] = np.nan
        self._state[list(_ZERO), column] = 0.0
        self._lengths[:, column] = np.nan
        self._ends[:, column] = np.nan

    def _remember(self, columns: NDArray[np.intp], gap: Floats, end: Floats) -> None:
        place = self._state[_Row.GAPS, columns].astype(np.intp) % RING
        self._lengths[place, columns] = gap
        self._ends[place, columns] = end
        self._state[_Row.GAPS, columns] += 1.0


def _part(samples: Samples, chosen: Flags) -> Samples:
    return Samples(
        *(
            getattr(samples, name)[chosen]
            for name in (
                "gpu", "time", "duty", "memory", "power", "sm_active", "power_limit", "transfer", "working",
            )
        )
    )  # fmt: skip


def _tolerance(interval: Floats, policy: IdlePolicy) -> Floats:
    """Longest time between two samples that is no hole: one reading may be missed."""
    return np.maximum(policy.largest_gap, 2.05 * np.where(np.isfinite(interval), interval, 0.0))


class _Step:
    """One sample of some GPUs, worked into their columns (changed in place)."""

    def __init__(self, state: Floats, samples: Samples, policy: IdlePolicy) -> None:
        self.state, self.samples, self.policy = state, samples, policy
        self.gap = samples.time - state[_Row.CLOCK]

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
        passed = time - state[_Row.LAST]
        before = state[_Row.INTERVAL]
        longest = np.where(np.isnan(before), self.policy.longest_interval, _tolerance(before, self.policy))
        hole: Flags = passed > np.minimum(longest, 2.0 * self.policy.longest_interval)
        hole |= before > self.policy.longest_interval
        grown = np.minimum(passed, np.where(np.isnan(before), np.inf, before * _INTERVAL_RISE))
        state[_Row.INTERVAL] = np.where(np.isnan(passed), before, grown)
        state[_Row.FIRST] = np.where(np.isnan(state[_Row.FIRST]), time, state[_Row.FIRST])
        state[_Row.LAST] = time
        self.passed = np.where(np.isnan(passed), 0.0, passed)
        fresh = np.isnan(state[_Row.BUCKET_AT]) | hole
        turn = fresh | (time - state[_Row.BUCKET_AT] >= self.policy.minimum_span / 2.0)
        for low, previous in (
            (_Row.MEMORY_LOW, _Row.MEMORY_LOW_BEFORE),
            (_Row.POWER_LOW, _Row.POWER_LOW_BEFORE),
            (_Row.POWER_HIGH, _Row.POWER_HIGH_BEFORE),
        ):
            state[previous] = np.where(fresh, np.nan, np.where(turn, state[low], state[previous]))
            state[low] = np.where(turn, np.nan, state[low])
        state[_Row.BUCKET_AT] = np.where(turn, time, state[_Row.BUCKET_AT])
        return hole

    def _calm(self, activity: Floats) -> Flags:
        """Whether activity is nothing, or the small and steady background of this GPU."""
        state, policy = self.state, self.policy
        interval = np.where(np.isnan(state[_Row.INTERVAL]), 0.0, state[_Row.INTERVAL])
        nothing = (activity <= policy.quiet_utilization) & (activity * interval <= policy.quiet_work)
        low = activity <= policy.idle_utilization
        small = low & ~nothing
        state[_Row.NOISE_COUNT] += low
        weight = low / np.clip(state[_Row.NOISE_COUNT], 1.0, _BACKGROUND)
        state[_Row.NOISE_SHARE] += weight * (small - state[_Row.NOISE_SHARE])
        first = small & (state[_Row.NOISE_MEAN] == 0.0)
        moved = np.where(
            first,
            activity,
            np.where(
                small,
                state[_Row.NOISE_MEAN] + (activity - state[_Row.NOISE_MEAN]) / _BACKGROUND,
                state[_Row.NOISE_MEAN],
            ),
        )
        near = np.abs(activity - state[_Row.NOISE_MEAN]) <= np.maximum(0.01, 0.5 * state[_Row.NOISE_MEAN])
        state[_Row.NOISE_MEAN] = moved
        steady = (state[_Row.NOISE_SHARE] > _STEADY_SHARE) & (state[_Row.NOISE_COUNT] >= _STEADY_SAMPLES) & near
        calm: Flags = nothing | (small & steady)
        return calm

    def _memory(self) -> Flags:
        """Whether memory is being filled: more than the least of the last minutes."""
        state, memory = self.state, self.samples.memory
        known = np.isfinite(memory)
        least = np.fmin(state[_Row.MEMORY_LOW], state[_Row.MEMORY_LOW_BEFORE])
        loading: Flags = memory > least * (1.0 + _LOADING_SHARE) + _LOADING_BYTES
        state[_Row.MEMORY_LOW] = np.fmin(state[_Row.MEMORY_LOW], memory)
        state[_Row.MEMORY] = np.where(known, memory, state[_Row.MEMORY])
        state[_Row.MEMORY_AT] = np.where(known, self.samples.time, state[_Row.MEMORY_AT])
        return loading

    def _floors(self) -> tuple[Flags, Floats]:
        state = self.state
        filled = ~(state[_Row.MEMORY] <= self.policy.empty_memory)
        return filled, np.where(filled, state[_Row.FLOOR_FILLED], state[_Row.FLOOR_EMPTY])

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
        state[_Row.USED] = state[_Row.USED] * fade + weight * (use >= policy.under_used_utilization)
        state[_Row.WATCHED] = state[_Row.WATCHED] * fade + weight
        state[_Row.SM_KNOWN] = np.where(np.isnan(activity), state[_Row.SM_KNOWN], np.isfinite(self.samples.sm_active))

    def _quiet(
        self, hole: Flags, activity: Floats, *, dark: Flags, contradicted: Flags, work: Flags, loading: Flags
    ) -> None:
        state, time = self.state, self.samples.time
        broken = dark | work | loading
        why = np.where(hole, float(Sight.GAP), state[_Row.BROKEN_BY])
        why = np.where(dark, float(Sight.DARK), why)
        why = np.where(contradicted, float(Sight.POWER), why)
        why = np.where(loading, float(Sight.LOADING), why)
        why = np.where(work, float(Sight.WORK), why)
        state[_Row.BROKEN_BY] = why
        begins = ~broken & (hole | np.isnan(state[_Row.QUIET_SINCE]))
        state[_Row.QUIET_SINCE] = np.where(broken, np.nan, np.where(begins, time, state[_Row.QUIET_SINCE]))
        state[_Row.QUIET_COUNT] = np.where(broken, 0.0, np.where(begins, 1.0, state[_Row.QUIET_COUNT] + 1.0))
        for row, value in ((_Row.QUIET_PEAK, activity), (_Row.POWER_QUIET_HIGH, self.samples.power)):
            state[row] = np.where(broken, np.nan, np.where(begins, value, np.fmax(state[row], value)))

    def _floor(self, certain: Flags) -> None:
        """Learn what the GPU draws when it surely does nothing."""
        state, power, time = self.state, self.samples.power, self.samples.time
        high_before, low_before = state[_Row.POWER_HIGH_BEFORE], state[_Row.POWER_LOW_BEFORE]
        state[_Row.POWER_LOW] = np.where(certain, np.fmin(state[_Row.POWER_LOW], power), np.nan)
        state[_Row.POWER_HIGH] = np.where(certain, np.fmax(state[_Row.POWER_HIGH], power), np.nan)
        state[_Row.POWER_LOW_BEFORE] = np.where(certain, low_before, np.nan)
        state[_Row.POWER_HIGH_BEFORE] = np.where(certain, high_before, np.nan)
        low = np.fmin(state[_Row.POWER_LOW], state[_Row.POWER_LOW_BEFORE])
        high = np.fmax(state[_Row.POWER_HIGH], state[_Row.POWER_HIGH_BEFORE])
        long_enough = time - state[_Row.QUIET_SINCE] >= self.policy.minimum_span / 2.0
        steady = high - low <= _POWER_STEADY * low + _POWER_NOISE_W / 2.0
        learn = certain & long_enough & steady & np.isfinite(power) & (high <= self._ceiling())
        filled, floor = self._floors()
        middle = 0.5 * (low + high)
        rise = 1.0 - np.exp(-self.passed / _FLOOR_RISE_S)
        moved = np.where(np.isnan(floor) | (middle < floor), middle, floor + rise * (middle - floor))
        for row, where in ((_Row.FLOOR_FILLED, filled), (_Row.FLOOR_EMPTY, ~filled)):
            state[row] = np.where(learn & where, moved, state[row])

    def _clock(self, hole: Flags, *, dark: Flags, work: Flags) -> Flags:
        """Move the start of the present gap; return whose gap ended here."""
        state, time = self.state, self.samples.time
        first = np.isnan(state[_Row.CLOCK])
        since = np.where(dark, np.where(np.isnan(state[_Row.DARK_SINCE]), time, state[_Row.DARK_SINCE]), np.nan)
        state[_Row.DARK_SINCE] = since
        lost = hole | (time - since > _tolerance(state[_Row.INTERVAL], self.policy))
        # Two samples with work in a row are no gap, however far apart: one of them has to have been quiet.
        quiet_between = self.gap > _ONE_QUIET * state[_Row.INTERVAL]
        ended: Flags = work & ~hole & ~first & quiet_between & (self.gap >= SHORTEST * self.policy.horizon)
        state[_Row.CLOCK] = np.where(work | lost | first, time, state[_Row.CLOCK])
        state[_Row.WORKED] = np.where(work | (lost & ~first), 1.0, state[_Row.WORKED])
        return ended
