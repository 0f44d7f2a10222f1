"""A fluid model of services that queue: many independent runs in lockstep, one numpy row a run.

Work is counted in replica-seconds: one ready replica serves one a second. So a load is the number of busy replicas that
it would keep busy, and no capacity appears in the formulas. Steps are 5 s, orders are given every third step (a sync of
15 s). The queue is first in, first out, and what arrives in a step may be served in that step. A replica asked for is
paid from then on and serves after its start-up time; giving back takes the newest starting ones first, then ready ones
at once. Kubernetes' default rise limit holds for every rule: at most max(4, 100 %) more in 15 s.

It refuses to know latency, batches or KV caches (`optiinfra_sim` does), and it never shows a rule what is newer than
the rule's own lag: `View` is the only way in.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float64]
IntArray: TypeAlias = npt.NDArray[np.int64]
Recorded: TypeAlias = npt.NDArray[np.float32]

STEP_S: Final = 5.0
STEPS_PER_SYNC: Final = 3
SYNC_S: Final = STEP_S * STEPS_PER_SYNC
RISE_PODS: Final = 4
"""Kubernetes' default scale-up policy: the larger of four pods and 100 %, per 15 s."""


def rise_limited(asked: IntArray, current: IntArray) -> IntArray:
    """What of an order Kubernetes grants in one sync (`behavior.scaleUp` defaults of autoscaling/v2)."""
    granted: IntArray = np.minimum(asked, current + np.maximum(RISE_PODS, current))
    return granted


class Fleet:
    """The state of all runs: loads, replicas, queues. Created at second 0 with `initial` ready replicas."""

    def __init__(
        self,
        load: FloatArray,
        *,
        start_up_s: FloatArray,
        initial: IntArray,
        minimum: IntArray,
        maximum: IntArray,
    ) -> None:
        """Start the runs. `load` is (runs, steps): work offered per second of each step, in replicas."""
        runs, steps = load.shape
        self.load = load
        self.minimum, self.maximum = minimum, maximum
        self.start_up = np.ceil(start_up_s / STEP_S - 1e-9).astype(np.int64)
        """Start-up in steps, rounded up."""
        self.ready = np.clip(initial, minimum, maximum).astype(np.int64)
        self.starting = np.zeros(runs, dtype=np.int64)
        self.step = 0
        self.queue = np.zeros(runs)
        """Work that waits, replica-seconds."""
        self.backlog: Recorded = np.zeros((runs, steps), dtype=np.float32)
        """(runs, steps): the queue at the end of each step."""
        self.serving: Recorded = np.zeros((runs, steps), dtype=np.float32)
        """(runs, steps): ready replicas in each step."""
        self.asked: Recorded = np.zeros((runs, -(-steps // STEPS_PER_SYNC)), dtype=np.float32)
        """(runs, syncs): replicas paid for in each sync, ready and starting."""
        self.arrived = np.concatenate([np.zeros((runs, 1)), np.cumsum(load, axis=1)], axis=1)
        """(runs, steps + 1): cumulated load, steps x replicas."""
        self._ring = int(self.start_up.max()) + STEPS_PER_SYNC if runs else 1
        self._due = np.zeros((runs, self._ring), dtype=np.int64)
        self._rows = np.arange(runs)

    @property
    def replicas(self) -> IntArray:
        """Replicas paid for: ready and starting."""
        return self.ready + self.starting

    @property
    def syncs(self) -> int:
        """Number of syncs of the whole load."""
        return int(self.asked.shape[1])

    def order(self, asked: IntArray) -> None:
        """Ask for a number of replicas at the present moment; limits of the fleet and of Kubernetes apply."""
        current = self.replicas
        granted = rise_limited(np.clip(asked, self.minimum, self.maximum), current)
        change = granted - current
        more = np.flatnonzero(change > 0)
        if more.size:
            self._due[more, (self.step + self.start_up[more]) % self._ring] += change[more]
            self.starting[more] += change[more]
        less = np.flatnonzero(change < 0)
        if less.size:
            self._give_back(less, -change[less])

    def _give_back(self, rows: IntArray, number: IntArray) -> None:
        cancelled = np.minimum(number, self.starting[rows])
        some = cancelled > 0
        if some.any():
            picked, want = rows[some], cancelled[some]
            slots = (self.step + self.start_up[picked, None] - np.arange(self._ring)) % self._ring
            counts = self._due[picked[:, None], slots]
            newer = np.cumsum(counts, axis=1) - counts
            taken = np.clip(want[:, None] - newer, 0, counts)
            self._due[picked[:, None], slots] = counts - taken
            self.starting[picked] -= want
        self.ready[rows] -= number - cancelled

    def advance(self) -> None:
        """Live through one sync: up to three steps, fewer at the end of the load."""
        self.asked[:, self.step // STEPS_PER_SYNC] = self.replicas
        for _ in range(min(STEPS_PER_SYNC, self.load.shape[1] - self.step)):
            slot = self.step % self._ring
            self.ready += self._due[:, slot]
            self.starting -= self._due[:, slot]
            self._due[:, slot] = 0
            self.queue = np.maximum(self.queue + (self.load[:, self.step] - self.ready) * STEP_S, 0.0)
            self.backlog[:, self.step] = self.queue
            self.serving[:, self.step] = self.ready
            self.step += 1


@dataclass(frozen=True, slots=True)
class View:
    """What a rule may see of the runs at the present moment, `lag` steps late. Times before the start repeat it."""

    fleet: Fleet
    lag: int = STEPS_PER_SYNC

    @property
    def now(self) -> float:
        """Seconds since the start."""
        return self.fleet.step * STEP_S

    @property
    def sync(self) -> int:
        """Number of this sync, from 0."""
        return self.fleet.step // STEPS_PER_SYNC

    @property
    def newest(self) -> int:
        """End of the newest step that may be seen; 0 or less while nothing may be."""
        return self.fleet.step - self.lag

    def arrivals(self, steps: int) -> FloatArray:
        """Mean load of the newest `steps` steps, in replicas; of as many as there are; the first step at the start."""
        end = max(1, self.newest)
        start = max(0, end - steps)
        mean: FloatArray = (self.fleet.arrived[:, end] - self.fleet.arrived[:, start]) / (end - start)
        return mean

    def served(self, steps: int) -> FloatArray:
        """Mean work served in the newest `steps` steps, in replicas."""
        end = max(1, self.newest)
        start = max(0, end - steps)
        if self.newest < 1:
            return self.arrivals(steps)
        before = self.fleet.backlog[:, start - 1] if start else 0.0
        queued = (self.fleet.backlog[:, end - 1] - before) / STEP_S
        arrived = self.fleet.arrived[:, end] - self.fleet.arrived[:, start]
        mean: FloatArray = np.maximum((arrived - queued) / (end - start), 0.0)
        return mean

    def capacity(self, steps: int) -> FloatArray:
        """Mean number of ready replicas over the newest `steps` steps."""
        end = max(1, self.newest)
        if self.newest < 1:
            return self.fleet.ready.astype(np.float64)
        mean: FloatArray = self.fleet.serving[:, max(0, end - steps) : end].mean(axis=1, dtype=np.float64)
        return mean

    def backlog(self) -> FloatArray:
        """Work that waited at the newest visible moment, replica-seconds."""
        if self.newest < 1:
            return np.zeros(len(self.fleet.queue))
        return self.fleet.backlog[:, self.newest - 1].astype(np.float64)

    def observed_ready(self) -> FloatArray:
        """Ready replicas at the newest visible moment, before its step."""
        if self.newest < 1:
            return self.fleet.ready.astype(np.float64)
        return self.fleet.serving[:, self.newest].astype(np.float64)

    @property
    def ready(self) -> IntArray:
        """Ready replicas, which the API server knows without lag."""
        return self.fleet.ready

    @property
    def replicas(self) -> IntArray:
        """Replicas asked for."""
        return self.fleet.replicas


Policy: TypeAlias = Callable[[View], IntArray]
"""A rule for all rows at once: what it sees -> replicas asked for, (runs,)."""


def play(
    fleet: Fleet, policy: Policy, *, lag: int = STEPS_PER_SYNC, on_sync: Callable[[int], None] | None = None
) -> Fleet:
    """Play a rule to the end of the loads; the same fleet comes back, with everything recorded."""
    view = View(fleet, lag=lag)
    for sync in range(fleet.syncs):
        fleet.order(policy(view))
        fleet.advance()
        if on_sync is not None:
            on_sync(sync)
    return fleet


def first_replicas(load: FloatArray, *, minimum: IntArray) -> IntArray:
    """Default number at the start: the first minute's mean x 1.3, rounded up, at least the minimum."""
    minute = load[:, : round(60.0 / STEP_S)].mean(axis=1)
    initial: IntArray = np.maximum(np.ceil(minute * 1.3 - 1e-9).astype(np.int64), minimum)
    return initial
