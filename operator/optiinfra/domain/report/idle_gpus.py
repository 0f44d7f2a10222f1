"""GPUs that did nothing, step by step: who held them meanwhile, and for how long.

A GPU is at work in a step in which its activity (SM activity where profiled, else the driver's utilisation; the
busiest sample where the mean hides it) was above the operator's own line, `IdlePolicy.quiet_utilization` of a step's
mean or `idle_utilization` of its busiest sample. Short pauses belong to serving: idle time counts from
`IdlePolicy.horizon` on without a break. What a step does not tell is not idle.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from optiinfra.domain.idle import IdlePolicy
from optiinfra.domain.readings import Unknown
from optiinfra.domain.report.frames import FloatArray
from optiinfra.domain.report.history import BoolArray, GpuHistory

POLICY = IdlePolicy()


@dataclass(frozen=True, slots=True, eq=False)
class GpuDoing:
    """What one GPU did."""

    gpu: GpuHistory
    known: BoolArray
    """(points,) whether its activity was measured."""
    idle: BoolArray
    """(points,) whether it did nothing, for long."""
    activity: FloatArray
    """(points,) NaN where not measured."""

    @property
    def last_work(self) -> int:
        """Return the last point at which it worked; -1 if never."""
        worked = np.flatnonzero(self.known & ~self.idle)
        return int(worked[-1]) if worked.size else -1


def doing(gpus: Sequence[GpuHistory], *, step_s: float) -> tuple[GpuDoing, ...]:
    """Judge every GPU."""
    return tuple(_doing(gpu, step_s=step_s) for gpu in gpus)


def _doing(gpu: GpuHistory, *, step_s: float) -> GpuDoing:
    points = len(gpu.present)
    activity = gpu.activity
    if isinstance(activity, Unknown):
        nothing = np.zeros(points, dtype=np.bool_)
        return GpuDoing(gpu, nothing, nothing, np.full(points, np.nan))
    highest = gpu.utilization_highest
    known: BoolArray = np.isfinite(activity)
    with np.errstate(invalid="ignore"):
        quiet = known & (activity <= POLICY.quiet_utilization)
        if not isinstance(highest, Unknown):
            quiet &= ~(highest > POLICY.idle_utilization)
    return GpuDoing(gpu, known, lasting(quiet, least=max(1, round(POLICY.horizon / step_s))), activity)


def lasting(quiet: BoolArray, *, least: int) -> BoolArray:
    """Keep the stretches that are at least so many points long."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], quiet, [False]]).astype(np.int8)))
    kept = np.zeros(len(quiet), dtype=np.bool_)
    for first, last in edges.reshape(-1, 2):
        if last - first >= least:
            kept[first:last] = True
    return kept


def idle_held(doings: Sequence[GpuDoing], *, points: int) -> dict[str, tuple[FloatArray, list[GpuDoing]]]:
    """Return for each holder (namespace/workload) how many of its GPUs were idle over time, and which ever were."""
    found: dict[str, tuple[FloatArray, list[GpuDoing]]] = {}
    for one in doings:
        for holding in one.gpu.holdings:
            idle = one.idle & holding.held
            if not idle.any():
                continue
            total, members = found.setdefault(holding.key, (np.zeros(points), []))
            total += idle
            members.append(one)
    return found
