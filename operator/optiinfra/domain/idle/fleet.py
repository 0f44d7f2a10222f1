"""What every GPU did so far, as arrays: one sample of many GPUs at a time, a bounded row each, nothing recomputed.

A GPU's past is a column of `Row` (times of work and of quiet, memory and power of the last minutes, power floors, a
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
from typing import Final

import numpy as np
from numpy.typing import NDArray

from optiinfra.domain.idle.gaps import RING, Flags, Floats, stays_idle
from optiinfra.domain.idle.samples import Before, Judged, Learned, Samples, Sight
from optiinfra.domain.idle.states import IdlePolicy
from optiinfra.domain.idle.step import Row, Step, tolerance

__all__ = ["IdleMemory", "Judged", "Learned", "Samples", "Sight"]

_SURE: Final = np.array([0.9, 0.95, 0.98])
"""Highest confidence by how many of power and active multiprocessors agree with the share of busy time."""


_ZERO: Final = (
    Row.QUIET_COUNT,
    Row.BROKEN_BY,
    Row.WORKED,
    Row.USED,
    Row.WATCHED,
    Row.NOISE_COUNT,
    Row.NOISE_SHARE,
    Row.NOISE_MEAN,
    Row.SM_KNOWN,
    Row.GAPS,
    Row.IDLE,
)
_KEPT_AT_A_JUMP: Final = (Row.FLOOR_EMPTY, Row.FLOOR_FILLED, Row.GAPS, Row.WORKED)


@dataclass(slots=True)
class IdleMemory:
    """The state of a fleet. It grows with the GPUs that are named, and forgets those that are dropped."""

    policy: IdlePolicy = field(default_factory=IdlePolicy)
    _columns: dict[tuple[str, str], int] = field(default_factory=dict)
    _free: list[int] = field(default_factory=list)
    _state: Floats = field(default_factory=lambda: np.full((len(Row), 0), np.nan))
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
        return float("nan") if column is None else float(self._state[Row.LAST, column])

    def restart(self, columns: NDArray[np.intp]) -> None:
        """Begin anew with the times of some GPUs whose clock jumped; floors and gaps stay."""
        kept = {row: self._state[row, columns] for row in _KEPT_AT_A_JUMP}
        self._state[:, columns] = np.nan
        for row in _ZERO:
            self._state[row, columns] = 0.0
        for row, values in kept.items():
            self._state[row, columns] = values
        self._state[Row.BROKEN_BY, columns] = float(Sight.GAP)

    def learned(self) -> list[Learned]:
        """Return what is worth keeping of each GPU, by node and uuid."""
        found: list[Learned] = []
        # A round may add GPUs meanwhile, in another thread.
        for (node, gpu), column in sorted(self._columns.items()):
            state, (lengths, ends) = self._state[:, column], self._pauses(column)
            found.append(
                Learned(
                    node,
                    gpu,
                    bool(state[Row.WORKED] > 0.0),
                    float(state[Row.FLOOR_EMPTY]),
                    float(state[Row.FLOOR_FILLED]),
                    tuple(lengths.tolist()),
                    tuple(ends.tolist()),
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
            self._state[Row.GAPS, column] = kept
            self._state[Row.WORKED, column] = float(one.worked)
            self._state[Row.FLOOR_EMPTY, column] = one.floor_empty
            self._state[Row.FLOOR_FILLED, column] = one.floor_filled
            # What happens until its next sample nobody sees: that is a hole like any other.
            self._state[Row.LAST, column] = at
            self._state[Row.BROKEN_BY, column] = float(Sight.GAP)

    def before(self, node: str, gpu: str) -> Before | None:
        """Return what was seen of a GPU, for a memory that goes on with it; None where nothing was."""
        column = self._columns.get((node, gpu))
        if column is None or np.isnan(self._state[Row.LAST, column]):
            return None
        state, (lengths, ends) = self._state[:, column], self._pauses(column)
        return Before(
            until=float(state[Row.LAST] + tolerance(state[Row.INTERVAL], self.policy)),
            quiet_since=float(state[Row.QUIET_SINCE]),
            quiet_count=float(state[Row.QUIET_COUNT]),
            quiet_peak=float(state[Row.QUIET_PEAK]),
            quiet_power=float(state[Row.POWER_QUIET_HIGH]),
            clock=float(state[Row.CLOCK]),
            worked=float(state[Row.WORKED]),
            floors=(float(state[Row.FLOOR_EMPTY]), float(state[Row.FLOOR_FILLED])),
            lengths=lengths,
            ends=ends,
        )

    def precede(self, earlier: "IdleMemory") -> int:
        """Take in what another memory saw of these GPUs up to about their first samples here; return of how many.

        Pauses that ended before the first one known here go in front of it, power at rest is taken where none was
        learned. A quiet time goes on from the other memory only where nothing here broke it since the first sample, and
        no hole lies between the two.
        """
        taken = 0
        for key, column in self._columns.items():
            before = earlier.before(*key)
            if before is None:
                continue
            taken += 1
            self._pauses_before(column, before.lengths, before.ends)
            state = self._state[:, column]
            state[Row.WORKED] = max(state[Row.WORKED], before.worked)
            for row, floor in zip((Row.FLOOR_EMPTY, Row.FLOOR_FILLED), before.floors, strict=True):
                state[row] = floor if np.isnan(state[row]) else state[row]
            unbroken = state[Row.QUIET_SINCE] <= state[Row.FIRST] <= before.until
            if not unbroken or not before.quiet_since < state[Row.QUIET_SINCE]:
                continue
            state[Row.QUIET_SINCE] = before.quiet_since
            state[Row.QUIET_COUNT] += before.quiet_count
            state[Row.CLOCK] = min(state[Row.CLOCK], before.clock)
            state[Row.QUIET_PEAK] = np.fmax(state[Row.QUIET_PEAK], before.quiet_peak)
            state[Row.POWER_QUIET_HIGH] = np.fmax(state[Row.POWER_QUIET_HIGH], before.quiet_power)
        return taken

    def _pauses(self, column: int) -> tuple[Floats, Floats]:
        """Return lengths and ends of a GPU's last gaps, oldest first."""
        count = int(self._state[Row.GAPS, column])
        # The ring's oldest gap lies where the next one would be put.
        places = [place % RING for place in range(max(0, count - RING), count)]
        return self._lengths[places, column], self._ends[places, column]

    def _pauses_before(self, column: int, lengths: Floats, ends: Floats) -> None:
        own_lengths, own_ends = self._pauses(column)
        older = np.ones(len(ends), dtype=np.bool_) if not len(own_ends) else ends < own_ends[0] - own_lengths[0]
        whole = [np.concatenate(pair)[-RING:] for pair in ((lengths[older], own_lengths), (ends[older], own_ends))]
        kept = len(whole[0])
        self._state[Row.GAPS, column] = kept
        self._lengths[:kept, column], self._ends[:kept, column] = whole

    def observe(self, samples: Samples) -> None:
        """Take one later sample of each of some GPUs; a sample that is not later than the last is left out."""
        last = self._state[Row.LAST, samples.gpu]
        fresh = ~(samples.time <= last)
        if not fresh.all():
            samples = _part(samples, fresh)
        state = self._state[:, samples.gpu]
        step = Step(state, samples, self.policy)
        ended = step.run()
        self._state[:, samples.gpu] = state
        if ended.any():
            self._remember(samples.gpu[ended], step.gap[ended], samples.time[ended])

    def judge(self, columns: NDArray[np.intp]) -> Judged:
        """Say what is known of some GPUs, each at its latest sample."""
        policy, state = self.policy, self._state[:, columns]
        now = state[Row.LAST]
        quiet = now - state[Row.QUIET_SINCE]
        interval = state[Row.INTERVAL]
        with np.errstate(invalid="ignore"):
            needed = np.clip(np.rint(policy.minimum_span / interval), policy.fewest_samples, policy.minimum_samples)
            enough = (quiet >= policy.minimum_span - 1e-6) & (state[Row.QUIET_COUNT] >= needed)
            seen = now - state[Row.MEMORY_AT] <= tolerance(interval, policy)
            empty = state[Row.MEMORY] <= policy.empty_memory
        asked = np.flatnonzero(enough & seen)
        probability = np.full(now.shape, np.nan)
        elapsed = now - state[Row.CLOCK]
        if asked.size:
            probability[asked] = stays_idle(
                elapsed=elapsed[asked],
                now=now[asked],
                lengths=self._lengths[:, columns[asked]],
                ends=self._ends[:, columns[asked]],
                empty=empty[asked],
                never_worked=~(state[Row.WORKED, asked] > 0.0),
                horizon=policy.horizon,
            )
        wanted = policy.probability - policy.hysteresis * (state[Row.IDLE] > 0.0)
        with np.errstate(invalid="ignore"):
            idle = probability >= wanted
        sight = np.where(enough, np.where(seen, Sight.EXPECTED, Sight.MEMORY), state[Row.BROKEN_BY])
        self._state[Row.IDLE, columns] = idle
        signals = (state[Row.SM_KNOWN] > 0.0).astype(np.intp) + np.isfinite(state[Row.POWER_QUIET_HIGH])
        with np.errstate(invalid="ignore", divide="ignore"):
            used = state[Row.USED] / state[Row.WATCHED]
        return Judged(
            sight=np.where(idle, Sight.IDLE, sight).astype(np.int8),
            probability=probability,
            confidence=np.minimum(probability, _SURE[signals]),
            quiet_since=state[Row.QUIET_SINCE],
            elapsed=elapsed,
            used=used,
            peak=state[Row.QUIET_PEAK],
            memory=state[Row.MEMORY],
            empty=empty,
            power_high=state[Row.POWER_QUIET_HIGH],
            floor=np.where(empty, state[Row.FLOOR_EMPTY], state[Row.FLOOR_FILLED]),
            gaps=np.minimum(state[Row.GAPS], RING),
            interval=interval,
            worked=state[Row.WORKED] > 0.0,
            before_first=state[Row.QUIET_SINCE] < state[Row.FIRST],
        )

    def _grow(self) -> None:
        size = self._state.shape[1]
        more = max(64, size)
        self._state = np.concatenate([self._state, np.full((len(Row), more), np.nan)], axis=1)
        self._lengths = np.concatenate([self._lengths, np.full((RING, more), np.nan)], axis=1)
        self._ends = np.concatenate([self._ends, np.full((RING, more), np.nan)], axis=1)
        self._free.extend(range(size + more - 1, size - 1, -1))

    def _clear(self, column: int) -> None:
        self._state[:, column] = np.nan
        self._state[list(_ZERO), column] = 0.0
        self._lengths[:, column] = np.nan
        self._ends[:, column] = np.nan

    def _remember(self, columns: NDArray[np.intp], gap: Floats, end: Floats) -> None:
        place = self._state[Row.GAPS, columns].astype(np.intp) % RING
        self._lengths[place, columns] = gap
        self._ends[place, columns] = end
        self._state[Row.GAPS, columns] += 1.0


def _part(samples: Samples, chosen: Flags) -> Samples:
    return Samples(
        *(
            getattr(samples, name)[chosen]
            for name in (
                "gpu", "time", "duty", "memory", "power", "sm_active", "power_limit", "transfer", "working",
            )
        )
    )  # fmt: skip
