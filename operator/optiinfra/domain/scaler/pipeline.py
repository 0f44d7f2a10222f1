"""Replicas that are ready, starting and due, for many simulated scalers at once.

An array of counts by due tick, plus two sums that make the future cheap: how many start, and how many ticks they still
need in all. Because an order only ever adds at the far end and giving back takes the newest first, the capacity that a
start-up time will bring is closed-form: `H x replicas - ticks still needed`. A change of the start-up time needs no
migration: what was ordered keeps its due tick.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from optiinfra.domain.scaler.tuning import MOST_START_TICKS

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Counts = npt.NDArray[np.uint16]

RING = MOST_START_TICKS + 2
"""Slots of the ring of due ticks."""
MOST_REPLICAS = 60_000
"""What a count can hold; limits above it are cut."""


@dataclass(slots=True)
class Pipeline:
    """Replicas of (workloads, scalers) simulated scalers."""

    replicas: Floats
    """Asked for: ready and starting."""
    starting: Floats
    wanting: Floats
    """Sum over the starting ones of the ticks until they are ready."""
    due: Counts
    """(workloads, RING, scalers): how many become ready in a tick, by tick modulo RING."""

    @classmethod
    def of(cls, replicas: Ints, *, scalers: int) -> "Pipeline":
        """All replicas ready, `replicas` of each workload for each of its scalers."""
        full = np.repeat(replicas.astype(np.float32)[:, None], scalers, axis=1)
        due = np.zeros((len(replicas), RING, scalers), dtype=np.uint16)
        return cls(full, np.zeros_like(full), np.zeros_like(full), due)

    @property
    def ready(self) -> Floats:
        """Ready replicas."""
        return self.replicas - self.starting

    def order(self, target: Floats, *, tick: int, start: Ints) -> None:
        """Ask for `target` at a tick; `start` is the start-up in ticks, (workloads, scalers)."""
        change = target - self.replicas
        if (change > 0.0).any():
            rows, columns = np.nonzero(change > 0.0)
            added, ticks = change[rows, columns], start[rows, columns]
            self.due[rows, (tick + ticks) % RING, columns] += added.astype(np.uint16)
            self.starting[rows, columns] += added
            self.wanting[rows, columns] += added * ticks
        less = (change < 0.0) & (self.starting > 0.0)
        if less.any():
            rows, columns = np.nonzero(less)
            self._cancel(rows, columns, change, tick=tick)
        self.replicas = target

    def _cancel(self, rows: Ints, columns: Ints, change: Floats, *, tick: int) -> None:
        """Take back starting replicas, newest first."""
        ahead = np.arange(RING - 1, -1, -1)
        slots = (tick + ahead) % RING
        counts = self.due[rows[:, None], slots[None, :], columns[:, None]].astype(np.float32)
        want = np.minimum(-change[rows, columns], self.starting[rows, columns])
        newer = np.cumsum(counts, axis=1) - counts
        taken = np.clip(want[:, None] - newer, 0.0, counts)
        self.due[rows[:, None], slots[None, :], columns[:, None]] = (counts - taken).astype(np.uint16)
        self.starting[rows, columns] -= want
        self.wanting[rows, columns] -= (taken * ahead).sum(axis=1)

    def begin(self, *, tick: int) -> None:
        """Let those become ready that are due in this tick; ticks are begun in order, each once."""
        slot = tick % RING
        arrived = self.due[:, slot]
        if arrived.any():
            self.starting -= arrived
            self.due[:, slot] = 0

    def end(self) -> None:
        """One tick has passed for all that start."""
        self.wanting -= self.starting

    def settle(self) -> None:
        """Let all that starts be ready: nobody looked for longer than a start-up."""
        self.starting[:] = 0.0
        self.wanting[:] = 0.0
        self.due[:] = 0

    def future(self, start: Floats) -> Floats:
        """Replica-ticks that serve within the next `start` ticks if nothing more is ordered."""
        return start * self.replicas - self.wanting
