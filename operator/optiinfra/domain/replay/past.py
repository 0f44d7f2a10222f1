"""What was recorded of one service, on the replay's steps: load, ready replicas, requests that waited and ran.

It may come from a file, from a Prometheus-compatible server or from the operator's own checkpoint. What was not
measured is NaN here, because arrays cannot hold reasons; nothing is filled in. The work of engines' counters is the
work that was *served*: while requests waited, more was asked for than is recorded, and `waited_share` tells how often.

What a replica serves at most is learned with `optiinfra.domain.scaler.capacity`, which wants the backlog in units of
work. A record tells requests; one that waits is counted as `SERVICE_S` seconds of what one that runs gets, the same
assumption that the baselines make. It matters only for telling whether a queue outlasted a step. The operator itself
sees requests finish and engines' step times, and knows better.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from optiinfra.domain.history import Column, LoadHistory, stack
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.replay.fluid import STEP_S, STEPS_PER_SYNC, FloatArray
from optiinfra.domain.scaler.capacity import Capacities
from optiinfra.domain.scaler.observation import Observation
from optiinfra.errors import OptiInfraError

SERVICE_S: Final = 8.0
"""Seconds of service that a waiting request is taken to need."""
MOST_STEPS: Final = 1_000_000
"""Steps of 5 s: 58 days."""
LEAST_S: Final = 2.0 * STEP_S


class PastError(OptiInfraError):
    """A record that cannot be replayed; the message says what is wrong with it and what to do."""


@dataclass(frozen=True, slots=True)
class Past:
    """A recorded past on steps of `STEP_S`; every array is (steps,), NaN where it was not measured."""

    work: FloatArray
    """Work per second."""
    ready: FloatArray
    """Replicas that served."""
    waiting: FloatArray
    """Requests that waited for room."""
    running: FloatArray
    """Requests in service."""

    @property
    def days(self) -> float:
        """Length."""
        return len(self.work) * STEP_S / 86_400.0

    @property
    def unknown_share(self) -> float:
        """Share of the steps whose load is not known."""
        return float(1.0 - np.isfinite(self.work).mean())

    @property
    def waited_share(self) -> Value:
        """Share of the steps, among those where it is known, in which requests waited."""
        known = np.isfinite(self.waiting)
        if not known.any():
            return Unknown(UnknownReason.NOT_MEASURED, "the source does not tell how many requests waited")
        return float((self.waiting[known] > 0.0).mean())


@dataclass(frozen=True, slots=True)
class LearnedCapacity:
    """What one replica serves."""

    value: Value
    """Work per second; unknown while no queue lasted long enough."""
    at_least: float
    """Lower bound: the most that was seen, 0 where nothing was."""


def recorded(
    work: FloatArray,
    *,
    step_s: float,
    ready: FloatArray | None = None,
    waiting: FloatArray | None = None,
    running: FloatArray | None = None,
) -> Past:
    """Bring columns on equal steps to `STEP_S` and cut unknown ends off the load. Raises `PastError`.

    Longer steps are repeated, shorter ones averaged over what is known of them. A step must be a multiple or a part of
    `STEP_S`.
    """
    for name, values in (("work", work), ("ready", ready), ("waiting", waiting), ("running", running)):
        if values is not None and (np.isinf(values) | (values < 0.0)).any():
            raise PastError(f"{name}: there are negative or infinite values; a rate or a number of things is expected")
    if len(work) * step_s > MOST_STEPS * STEP_S:
        raise PastError(f"longer than {MOST_STEPS * STEP_S / 86_400:.0f} days; cut the load")
    known = np.flatnonzero(np.isfinite(work))
    if not known.size:
        raise PastError("no load is known at any time")
    ends = slice(int(known[0]), int(known[-1]) + 1)
    length_s = (ends.stop - ends.start) * step_s
    if length_s < LEAST_S:
        raise PastError(f"only {length_s:g} s of load are known; {LEAST_S:g} s are needed")
    missing = np.full(len(work), np.nan)
    columns = (missing if values is None else values for values in (work, ready, waiting, running))
    return Past(*(_on_steps(values[ends], step_s=step_s) for values in columns))


def _on_steps(values: FloatArray, *, step_s: float) -> FloatArray:
    ratio = step_s / STEP_S if step_s >= STEP_S else STEP_S / step_s
    count = round(ratio)
    if abs(ratio - count) > 1e-6:
        raise PastError(f"a step of {step_s:g} s; it must be a multiple or a part of {STEP_S:g} s")
    if step_s >= STEP_S:
        return np.repeat(values, count)
    parts = values[: len(values) // count * count].reshape(-1, count)
    known = np.isfinite(parts)
    sums = np.where(known, parts, 0.0).sum(axis=1)
    return np.where(known.any(axis=1), sums / np.maximum(known.sum(axis=1), 1), np.nan)


def from_history(history: LoadHistory) -> Past:
    """Return the kept load of one workload. Raises `PastError` where nothing is known."""
    newest = history.newest
    if newest is None:
        raise PastError("no history is kept: the service was not yet seen at work, or its state left no room")
    rows = stack([history], now=newest, steps=len(history))[:, 0].astype(np.float64)
    return recorded(
        rows[Column.WORK_RATE],
        step_s=history.step,
        ready=rows[Column.READY],
        waiting=rows[Column.WAITING],
        running=rows[Column.RUNNING],
    )


def learned_capacity(past: Past) -> LearnedCapacity:
    """Learn what one replica serves, tick by tick, from those in which work waited throughout."""
    ticks = len(past.work) // STEPS_PER_SYNC
    served, ready, waiting, running = (
        values[STEPS_PER_SYNC - 1 :: STEPS_PER_SYNC][:ticks]
        for values in (past.work, past.ready, past.waiting, past.running)
    )
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        backlog = np.where(waiting == 0.0, 0.0, served * SERVICE_S * waiting / running)
    backlog[~np.isfinite(backlog)] = np.nan
    capacities = Capacities.empty(1)
    for at in range(ticks):
        now = slice(at, at + 1)
        capacities.observe(Observation(arrived=served[now], served=served[now], backlog=backlog[now], ready=ready[now]))
    return LearnedCapacity(capacities.of(0), float(capacities.highest[0]))
