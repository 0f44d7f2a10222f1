"""What one replica serves, learned from the service itself: work per second at the objective. Never configured.

Three sources, the best one that there is. Measured: while work waited all through a tick, or tokens came later than
promised, what each replica served is what it can serve. Step times: `pace` tells how a step grows with its batch, so
the throughput at the largest batch that slots, KV cache and the promised inter-token latency allow follows from the
one now. Occupancy: where neither is known, throughput is taken to grow with the square root of the batch, which lies
between a memory-bound engine (linear) and a compute-bound one (flat). All of it moves with the shape of the requests,
so old ticks fade. What was proven, a rate that was served within the objectives, is always believed.

It refuses to make a number from a GPU's name, and says which source a number has.
"""

import math
import struct
from dataclasses import astuple, dataclass, replace
from enum import StrEnum
from typing import Final

from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.histogram import InvalidCheckpointError
from optiinfra.domain.objectives import Objectives
from optiinfra.domain.pace import Pace
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.replica_load import USABLE_SHARE, LoadSample
from optiinfra.domain.signals import ServiceSignals
from optiinfra.domain.units import Ratio, Seconds

LEAST_TICKS: Final = 8.0
"""Saturated ticks from which the measured capacity counts alone: two minutes in all."""
SATURATED_KEPT: Final = 1.0 - 1.0 / 240.0
"""Memory of saturated ticks: an hour of them."""
ESTIMATE_KEPT: Final = 1.0 - 1.0 / 960.0
"""Memory of estimates: four hours."""
PROVEN_KEPT: Final = 1.0 - 1.0 / 5760.0
"""Memory of the highest rate served: a day."""
SHAPE_KEPT: Final = 1.0 - 1.0 / 40.0
"""Memory of a request's work: ten minutes."""
LEAST_REQUESTS: Final = 5.0
"""Requests from which their mean work is told."""
BUSY_SHARE: Final = 0.5
"""A tick is saturated when what waits at both of its ends would keep the replicas busy for this share of it."""
_SMOOTH: Final = 0.25
_LEAST_USE: Final = 0.05
_LEAST: Final = 1e-9
_MAGIC: Final = b"OICP"
_FORMAT: Final = struct.Struct("<4sB9d")
_VERSION: Final = 1
_MOST: Final = 1e15


class Basis(StrEnum):
    """Where a capacity comes from."""

    MEASURED = "Measured"
    """Served while work waited, or while tokens came later than promised."""
    STEP_TIMES = "StepTimes"
    """Extrapolated by the time of a step at the largest batch that is allowed."""
    OCCUPANCY = "Occupancy"
    """Guessed from the share of the batch and of the KV cache that is used; said, and corrected as soon as possible."""
    NONE = "None"


@dataclass(frozen=True, slots=True)
class ReplicaCapacity:
    """What is known of one replica's capacity."""

    work: Value
    """Work per second (prompt tokens + 4 x generated ones) at the objective."""
    basis: Basis
    proven: float
    """Highest rate of a replica that was served for a minute: it can do at least this."""
    confidence: Ratio


@dataclass(frozen=True, slots=True)
class CapacityMemory:
    """What was learned of one workload; fits a checkpoint."""

    saturated_sum: float = 0.0
    saturated_ticks: float = 0.0
    estimate_sum: float = 0.0
    estimate_weight: float = 0.0
    paced_weight: float = 0.0
    """Part of the estimates' weight that rests on step times."""
    proven: float = 0.0
    smooth: float = 0.0
    work: float = 0.0
    """Decayed work served, for the work of a request."""
    requests: float = 0.0
    """Decayed requests that it belongs to: those that finished, and half of those that run more than before."""

    @property
    def request_work(self) -> Value:
        """Mean work of a request."""
        if self.requests < LEAST_REQUESTS or self.work <= _LEAST:
            return Unknown(UnknownReason.TOO_FEW_SAMPLES, "hardly a request was finished yet")
        return self.work / self.requests

    @property
    def capacity(self) -> ReplicaCapacity:
        """Return the best that is known."""
        if self.saturated_ticks >= LEAST_TICKS:
            known = self.saturated_sum / self.saturated_ticks
            return ReplicaCapacity(known, Basis.MEASURED, self.proven, Ratio(0.95))
        if self.estimate_weight > _LEAST:
            known = max(self.estimate_sum / self.estimate_weight, self.proven)
            paced = self.paced_weight / self.estimate_weight >= BUSY_SHARE
            if self.saturated_ticks > 0.0:
                # What was measured for less than two minutes counts by its length.
                share = self.saturated_ticks / LEAST_TICKS
                known += (self.saturated_sum / self.saturated_ticks - known) * share
            basis = Basis.STEP_TIMES if paced else Basis.OCCUPANCY
            return ReplicaCapacity(known, basis, self.proven, Ratio(0.8 if paced else 0.6))
        detail = "no replica was busy yet, so nobody knows what one can serve"
        return ReplicaCapacity(Unknown(UnknownReason.TOO_FEW_SAMPLES, detail), Basis.NONE, self.proven, Ratio(0.3))

    def to_bytes(self) -> bytes:
        """Return a checkpoint."""
        return _FORMAT.pack(_MAGIC, _VERSION, *astuple(self))

    @classmethod
    def from_bytes(cls, data: bytes) -> "CapacityMemory":
        """Read a checkpoint back. Raises InvalidCheckpointError."""
        if len(data) != _FORMAT.size:
            raise InvalidCheckpointError(f"capacity checkpoint: {len(data)} bytes cannot be one; begin with none")
        magic, version, *values = _FORMAT.unpack(data)
        if magic != _MAGIC or version != _VERSION:
            raise InvalidCheckpointError("capacity checkpoint: not of this version; begin with none")
        if not all(math.isfinite(value) and 0.0 <= value <= _MOST for value in values):
            raise InvalidCheckpointError("capacity checkpoint: impossible values; begin with none")
        return cls(*values)


def observed(
    memory: CapacityMemory,
    one: LoadSample,
    before: LoadSample | None,
    *,
    settings: EngineSettings,
    pace: Pace,
    objectives: Objectives,
    signals: ServiceSignals,
    tick: Seconds,
) -> CapacityMemory:
    """Learn from one tick; what is not known teaches nothing.

    Args:
        memory: what was known.
        one: the tick.
        before: the one before it; None at first and after a gap.
        settings: of the engines.
        pace: how their steps grow with the batch.
        objectives: what is promised.
        signals: of the window; for the inter-token latency, and for the prompts that come with a generated token.
        tick: length of a tick.
    """
    if isinstance(one.served, Unknown) or not one.whole or one.served < 0.0:
        return memory
    if not isinstance(one.finished, Unknown):
        # Work is counted while requests run. Of those that run more than before about half is done.
        more = one.finished * tick + 0.5 * _more_running(one, before)
        memory = replace(
            memory,
            work=memory.work * SHAPE_KEPT + one.served * tick,
            requests=max(0.0, memory.requests * SHAPE_KEPT + more),
        )
    rate = one.served / one.reporting
    smooth = memory.smooth + (rate - memory.smooth) * _SMOOTH
    memory = replace(memory, smooth=smooth, proven=max(memory.proven * PROVEN_KEPT, smooth))
    if rate <= _LEAST:
        return memory
    late = _late_for_its_batch(one, signals, pace=pace, promised=objectives.inter_token_latency_p95)
    if late or (_queued(memory, one, tick=tick) and before is not None and _queued(memory, before, tick=tick)):
        return replace(
            memory,
            saturated_sum=memory.saturated_sum * SATURATED_KEPT + rate,
            saturated_ticks=memory.saturated_ticks * SATURATED_KEPT + 1.0,
        )
    use, paced = used_share(one, settings, pace=pace, objectives=objectives, prompts=prompts_per_token(signals))
    if isinstance(use, Unknown):
        return memory
    # An estimate is rate / share in use. Busy ticks say more than idle ones, the extrapolation is shorter: they count
    # by the share in use, which leaves the rate itself.
    return replace(
        memory,
        estimate_sum=memory.estimate_sum * ESTIMATE_KEPT + rate * (1.0 if paced else USABLE_SHARE),
        estimate_weight=memory.estimate_weight * ESTIMATE_KEPT + use,
        paced_weight=memory.paced_weight * ESTIMATE_KEPT + (use if paced else 0.0),
    )


def _late_for_its_batch(one: LoadSample, signals: ServiceSignals, *, pace: Pace, promised: Seconds) -> bool:
    """Tell whether tokens come later than promised, and would come in time from half the batch.

    Where they would not, as where a single chunk of a prompt takes longer than was promised, more replicas do not help:
    a capacity learned from such ticks would fall with every replica that is added, and ask for the next one.
    """
    p95, mean, batch = signals.inter_token_latency_p95, signals.inter_token_latency_mean, one.running_each
    line = _line(pace, prompts=prompts_per_token(signals))
    if isinstance(p95, Unknown) or isinstance(mean, Unknown) or isinstance(batch, Unknown) or line is None:
        return False
    if p95 <= promised or mean <= 0.0 or batch < 2.0:
        return False
    return (line[0] + line[1] * batch / 2.0) * max(1.0, p95 / mean) <= promised


def _more_running(one: LoadSample, before: LoadSample | None) -> float:
    if before is None or isinstance(one.running, Unknown) or isinstance(before.running, Unknown):
        return 0.0
    return one.running - before.running if before.reporting == one.reporting else 0.0


def _queued(memory: CapacityMemory, one: LoadSample, *, tick: Seconds) -> bool:
    """Tell whether the requests that wait would keep the replicas busy for half a tick."""
    work = memory.request_work
    if isinstance(one.waiting, Unknown) or isinstance(work, Unknown) or isinstance(one.served, Unknown):
        return False
    return one.waiting >= 1.0 and one.waiting * work >= BUSY_SHARE * one.served * tick


def prompts_per_token(signals: ServiceSignals) -> float:
    """Prompt tokens that are computed for each generated token; 0 where that is not known."""
    generated, prompts = signals.generation_token_rate, signals.prompt_computed_rate
    if isinstance(prompts, Unknown):
        prompts = signals.prompt_token_rate
    if isinstance(generated, Unknown) or isinstance(prompts, Unknown) or generated <= _LEAST:
        return 0.0
    return max(0.0, prompts / generated)


def used_share(
    one: LoadSample, settings: EngineSettings, *, pace: Pace, objectives: Objectives, prompts: float = 0.0
) -> tuple[Value, bool]:
    """Share of a replica's throughput that is in use, and whether step times tell it.

    Throughput at a batch B is B / (a + b B), a and b of `pace`; where prompts are a variable of their own (c), each
    request of the batch brings its share of them: b + c x prompt tokens per generated token. The largest batch is what
    slots, KV cache and the promised inter-token latency allow.
    """
    batch = one.running_each
    if isinstance(batch, Unknown):
        return batch, False
    if batch < 1.0:
        return Unknown(UnknownReason.TOO_FEW_SAMPLES, "less than one request runs on a replica"), False
    bounds = []
    if not isinstance(settings.batch_limit, Unknown) and settings.batch_limit >= 1.0:
        bounds.append(float(settings.batch_limit))
    if not isinstance(one.kv_cache, Unknown) and one.kv_cache >= _LEAST_USE:
        bounds.append(batch / one.kv_cache)
    line = _line(pace, prompts=prompts)
    promised = objectives.inter_token_latency_p95
    # A promise that two requests at once cannot keep bounds nothing: no number of replicas would keep it.
    if line is not None and math.isfinite(promised) and line[0] + 2.0 * line[1] <= promised and line[1] > 0.0:
        bounds.append((promised - line[0]) / line[1])
    if not bounds:
        return Unknown(UnknownReason.NOT_MEASURED, "neither batch limit nor KV cache usage is known"), False
    largest = max(batch, min(bounds))
    if line is None:
        return min(1.0, max(_LEAST_USE, math.sqrt(batch / largest))), False
    base, slope = line
    now, most = batch / (base + slope * batch), largest / (base + slope * largest)
    return min(1.0, max(_LEAST_USE, now / most)), True


def _line(pace: Pace, *, prompts: float) -> tuple[float, float] | None:
    """(a, b) of a step's time by its batch, at the careful end of what is known; None where it is not."""
    base, slope, each = pace.base, pace.slope_upper, pace.prompt_slope
    if not pace.identified or isinstance(base, Unknown) or isinstance(slope, Unknown):
        return None
    slope += 0.0 if isinstance(each, Unknown) else max(0.0, each) * prompts
    return (base, slope) if base + slope > 0.0 else None
