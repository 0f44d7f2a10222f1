"""How requests held against what was used: reservation, over-time, throttled days, days of a kill for memory.

A request holds from its midnight until the next one. Days without a request or without a sample count nowhere. All
figures are quotients of sums over container-days or samples, so that they can be recomputed from the file of decisions
and the file of use, and so that intervals come from drawing containers again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
import numpy.typing as npt

from optiinfra.domain.histogram import DAY
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.replay.usage import FloatArray, Requests, Usage

THROTTLED: Final = 0.1
"""Share of a day's samples above the request that makes it a throttled day."""
BEST_OVER_TIME: Final = 0.013
"""Over-time that perfect knowledge of the coming day is allowed."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What one container was given before anybody sized it."""

    cpu_cores: float
    memory_bytes: float


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums of each container; each array is (containers,)."""

    cpu_days: FloatArray
    cpu_requested: FloatArray
    """Core-days requested."""
    cpu_used: FloatArray
    cpu_provisioned: FloatArray
    """Core-days given, NaN where that is not known."""
    samples: FloatArray
    above: FloatArray
    throttled: FloatArray
    memory_days: FloatArray
    memory_requested: FloatArray
    memory_used: FloatArray
    memory_provisioned: FloatArray
    killed: FloatArray

    def drawn(self, rows: npt.NDArray[np.int64]) -> "Sums":
        """Return the sums of these containers; some may come twice."""
        return Sums(*(getattr(self, one.name)[rows] for one in fields(self)))


@dataclass(frozen=True, slots=True)
class SizingFigures:
    """What one rule came to. Shares are of one; a figure without a day that counts is an `Unknown`."""

    containers: int
    cpu_days: float
    memory_days: float
    cpu_request_cores: Value
    """Mean of a container-day."""
    memory_request_bytes: Value
    cpu_slack: Value
    """1 - used / requested."""
    memory_slack: Value
    cpu_provisioned: Value
    """Requested / provisioned."""
    memory_provisioned: Value
    cpu_over_time: Value
    """Share of the samples above the request."""
    throttled_days: Value
    oom_days_per_100: Value
    """Of 100 container-days, those whose peak exceeds the request."""


def sums(usages: Sequence[Usage], requests: Sequence[Requests], capacities: Sequence[Capacity | None]) -> Sums:
    """Hold each container's requests against its use."""
    table = np.array([_row(*one) for one in zip(usages, requests, capacities, strict=True)]).reshape(-1, 12)
    return Sums(*table.T)


def figures(of: Sums) -> SizingFigures:
    """Return the quotients."""
    cpu_days, memory_days, samples = float(of.cpu_days.sum()), float(of.memory_days.sum()), float(of.samples.sum())
    cpu, memory = float(of.cpu_requested.sum()), float(of.memory_requested.sum())
    return SizingFigures(
        containers=len(of.cpu_days),
        cpu_days=cpu_days,
        memory_days=memory_days,
        cpu_request_cores=_quotient(cpu, cpu_days),
        memory_request_bytes=_quotient(memory, memory_days),
        cpu_slack=_quotient(cpu - float(of.cpu_used.sum()), cpu),
        memory_slack=_quotient(memory - float(of.memory_used.sum()), memory),
        cpu_provisioned=_quotient(cpu, float(of.cpu_provisioned.sum())),
        memory_provisioned=_quotient(memory, float(of.memory_provisioned.sum())),
        cpu_over_time=_quotient(float(of.above.sum()), samples),
        throttled_days=_quotient(float(of.throttled.sum()), cpu_days),
        oom_days_per_100=_quotient(100.0 * float(of.killed.sum()), memory_days),
    )


def perfect(usage: Usage, *, over_time: float = BEST_OVER_TIME) -> Requests:
    """Return what somebody would request who knows the coming day: the least CPU that keeps its over-time, its peak."""
    at = usage.midnights()
    edges = np.searchsorted(usage.time, np.append(at, at[-1:] + DAY), side="left")
    cpu, memory = np.full(len(at), np.nan), np.full(len(at), np.nan)
    for day in range(len(at)):
        span = slice(edges[day], edges[day + 1])
        cores, used = (values[span][np.isfinite(values[span])] for values in (usage.cpu_cores, usage.memory_bytes))
        if len(cores):
            cpu[day] = np.quantile(cores, 1.0 - over_time, method="higher")
        if len(used):
            memory[day] = used.max()
    return Requests(at, cpu, memory)


def _row(usage: Usage, requests: Requests, capacity: Capacity | None) -> list[float]:
    edges = np.searchsorted(usage.time, np.append(requests.time, requests.time[-1:] + DAY), side="left")
    if len(edges) < 2:
        return [0.0] * 12
    cpu = _cpu(usage.cpu_cores, requests.cpu_cores, edges)
    memory = _memory(usage.memory_bytes, requests.memory_bytes, edges)
    given = Capacity(np.nan, np.nan) if capacity is None else capacity
    return [*cpu[:3], cpu[0] * given.cpu_cores, *cpu[3:], *memory[:3], memory[0] * given.memory_bytes, memory[3]]


def _cpu(used: FloatArray, requested: FloatArray, edges: npt.NDArray[np.int64]) -> list[float]:
    known, above = np.isfinite(used), np.nan_to_num(used)
    of_day = np.repeat(requested, np.diff(edges))
    inside = slice(edges[0], edges[-1])
    over = (above[inside] > of_day) & known[inside]
    count = _per_day(known[inside], edges)
    counted = (count > 0) & np.isfinite(requested)
    over_days = _per_day(over, edges)
    mean = _per_day(above[inside], edges) / np.maximum(count, 1)
    return [
        float(counted.sum()),
        float(requested[counted].sum()),
        float(mean[counted].sum()),
        float(count[counted].sum()),
        float(over_days[counted].sum()),
        float((over_days[counted] > THROTTLED * count[counted]).sum()),
    ]


def _memory(used: FloatArray, requested: FloatArray, edges: npt.NDArray[np.int64]) -> list[float]:
    known = np.isfinite(used)
    inside = slice(edges[0], edges[-1])
    of_day = np.repeat(requested, np.diff(edges))
    count = _per_day(known[inside], edges)
    counted = (count > 0) & np.isfinite(requested)
    killed = _per_day((np.nan_to_num(used[inside]) > of_day) & known[inside], edges) > 0
    mean = _per_day(np.nan_to_num(used[inside]), edges) / np.maximum(count, 1)
    return [
        float(counted.sum()),
        float(requested[counted].sum()),
        float(mean[counted].sum()),
        float((killed & counted).sum()),
    ]


def _per_day(values: npt.NDArray[np.bool_] | FloatArray, edges: npt.NDArray[np.int64]) -> FloatArray:
    """Sum between edges; a day without samples is 0."""
    total = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    return np.asarray(np.diff(total[edges - edges[0]]))


def _quotient(above: float, below: float) -> Value:
    if not below > 0.0:
        return Unknown(UnknownReason.NOT_MEASURED, "no day counts, or what was provisioned is not known")
    return above / below
