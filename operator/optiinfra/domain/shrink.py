"""What would happen with fewer replicas: the last question before capacity is given back.

The peaks of the signals' window must fit what would be left, by batch slots, KV cache and latency, with every replica
heard and nothing waiting. Where the capacity of a replica was never proven, one goes down in small steps, so that each
step proves the next. It knows nothing of holds, cooldowns and windows, which are the scaler's and policy's.
"""

import math
from dataclasses import dataclass
from typing import Final

from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.history import servable_waiting
from optiinfra.domain.objectives import Objectives
from optiinfra.domain.pace import Pace
from optiinfra.domain.readings import Unknown, Value
from optiinfra.domain.replica_capacity import Basis, ReplicaCapacity
from optiinfra.domain.replica_load import USABLE_SHARE
from optiinfra.domain.signals import ServiceSignals
from optiinfra.domain.units import Seconds

LATENCY_SHARE: Final = 0.8
"""Share of a promised latency that may be used up with fewer replicas."""
STEPS: Final = {Basis.OCCUPANCY: 0.2, Basis.STEP_TIMES: 0.5, Basis.NONE: 0.2}
"""Share of the replicas that may go at once while the capacity was not measured; at least one."""
IDLE_SHARE: Final = 0.05
"""Of the proven rate: a replica that serves less has nothing to prove."""


@dataclass(frozen=True, slots=True)
class WhatIf:
    """The answer."""

    lowest: int
    """Fewest replicas that the peaks of the window fit."""
    blocked: tuple[str, ...]
    """Why nothing may be given back at all now; empty when something may."""
    binding: str = ""
    """What asks for the lowest count, in words."""


def what_if(
    signals: ServiceSignals,
    settings: EngineSettings,
    *,
    current: int,
    ready: int,
    objectives: Objectives,
    pace: Pace,
    capacity: ReplicaCapacity,
) -> WhatIf:
    """Tell how far a service could shrink."""
    blocked = _blocks(signals, settings, current=current, ready=ready, objectives=objectives)
    reporting = max(1, signals.replicas_reporting)
    running, kv_cache = signals.running_max, signals.kv_cache_usage_max
    bounds: list[tuple[int, str]] = [(0, "nothing")]
    if not isinstance(settings.batch_limit, Unknown) and not isinstance(running, Unknown):
        waiting = 0.0 if isinstance(signals.waiting_max, Unknown) else signals.waiting_max
        bounds.append((_whole((running + waiting) / (USABLE_SHARE * max(1.0, settings.batch_limit))), "batch slots"))
    if not isinstance(kv_cache, Unknown):
        spare = signals.kv_cache_evictable
        held = max(0.0, kv_cache - (0.0 if isinstance(spare, Unknown) else spare))
        bounds.append((_whole(held * reporting / USABLE_SHARE), "the KV cache"))
    bounds.append((_by_token_latency(signals, pace=pace, objectives=objectives), "the inter-token latency"))
    first = _in_proportion(signals, signals.time_to_first_token_p95, promised=objectives.time_to_first_token_p95)
    bounds.append((first, "the time to first token"))
    bounds.append((_by_proof(signals, current=current, capacity=capacity), "that more was never proven"))
    lowest, binding = max(bounds, key=lambda bound: bound[0])
    return WhatIf(lowest, blocked, binding)


def _whole(replicas: float) -> int:
    return math.ceil(replicas - 1e-9)


def _by_token_latency(signals: ServiceSignals, *, pace: Pace, objectives: Objectives) -> int:
    """Fewest replicas at which tokens still come in time.

    A step grows with the batch at most in proportion; where `pace` knows how, at the upper end of what it knows. Steps
    are means and the promise is a 95th percentile: they are compared by the ratio that is measured now.
    """
    promised, running = objectives.inter_token_latency_p95, signals.running_max
    p95, mean = signals.inter_token_latency_p95, signals.inter_token_latency_mean
    if math.isinf(promised) or isinstance(running, Unknown) or running <= 0.0:
        return 0
    base, slope = pace.base, pace.slope_upper
    if pace.identified and not isinstance(base, Unknown) and not isinstance(slope, Unknown):
        if slope <= 0.0:
            return 0
        spread = 1.0
        if not isinstance(p95, Unknown) and not isinstance(mean, Unknown) and mean > 0.0:
            spread = max(1.0, p95 / mean)
        batch = (LATENCY_SHARE * promised / spread - base) / slope
        if batch >= 1.0:
            return _whole(running / batch)
    return _in_proportion(signals, p95, promised=promised)


def _in_proportion(signals: ServiceSignals, latency: Value, *, promised: Seconds) -> int:
    """Fewest replicas for a latency that grows at most as much as the load of each does."""
    if isinstance(latency, Unknown) or math.isinf(promised):
        return 0
    return _whole(signals.replicas_reporting * latency / (LATENCY_SHARE * promised))


def _by_proof(signals: ServiceSignals, *, current: int, capacity: ReplicaCapacity) -> int:
    """Fewest replicas to go to before the capacity of one was measured."""
    share = STEPS.get(capacity.basis)
    served = signals.work_rate
    if share is None or isinstance(served, Unknown):
        return 0
    if served / max(1, signals.replicas_reporting) <= IDLE_SHARE * capacity.proven or served <= 0.0:
        return 0
    return current - max(1, math.floor(current * share))


def _blocks(
    signals: ServiceSignals, settings: EngineSettings, *, current: int, ready: int, objectives: Objectives
) -> tuple[str, ...]:
    reasons = []
    if isinstance(settings.batch_limit, Unknown) and isinstance(signals.kv_cache_usage_max, Unknown):
        reasons.append(f"neither batch limit nor KV cache usage is known ({signals.kv_cache_usage_max.reason})")
    if signals.replicas_reporting < signals.replicas_expected:
        reasons.append(f"{signals.replicas_reporting} of {signals.replicas_expected} replicas report")
    if ready < current:
        reasons.append(f"{ready} of {current} replicas are ready")
    waiting: Value = servable_waiting(signals)
    if isinstance(signals.running, Unknown) or isinstance(waiting, Unknown):
        reasons.append("requests in flight are not known")
    elif waiting >= max(1, signals.replicas_reporting):
        reasons.append(f"{waiting:.0f} requests wait")
    for name, value, limit in (
        ("time to first token", signals.time_to_first_token_p95, objectives.time_to_first_token_p95),
        ("inter-token latency", signals.inter_token_latency_p95, objectives.inter_token_latency_p95),
        ("queue time", signals.queue_time_p95, objectives.queue_delay),
    ):
        if not isinstance(value, Unknown) and value > limit:
            reasons.append(f"{name} p95 is {value:.3g} s, more than {limit:.3g} s")
    return tuple(reasons)
