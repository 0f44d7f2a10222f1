"""What an action is expected to do, said before it is done, so that nobody can be wise after the event.

Replicas ready within the time that the workload's own pods took to start (95th percentile), the latencies and the
queue within the objectives, the load no higher than what was measured and forecast, and the GPUs that are
given back or taken, with their money where a price is known.
A latency gets no expected value, only its bound: how fast a smaller fleet is going to be is not foreseen here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Final

from optiinfra.domain.evidence import Effect, Savings
from optiinfra.domain.objectives import Objectives
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.units import Seconds
from optiinfra.domain.verification.trail import Block

LOAD_MARGIN: Final = 0.25
"""Share by which the load may exceed what was measured and forecast before it counts as another load."""
LOAD_DEVIATIONS: Final = 3.0
"""The same in standard deviations of the load before, where that is more."""
_NOT_FORESEEN: Final = Unknown(UnknownReason.UNSUPPORTED, "only its bound is foreseen")
_NONE: Final = Unknown(UnknownReason.UNSUPPORTED, "there is none")


@dataclass(frozen=True, slots=True)
class Expectation:
    """What is expected of a change of the count of replicas."""

    from_replicas: int
    to_replicas: int
    objectives: Objectives
    ready_within: Seconds
    """Until the count is reached and all of it is ready."""
    verify_window: Seconds
    """How long it is watched once it is ready."""
    demand: Value
    """Mean of what was asked for before: tokens per second, or requests where their length is not known."""
    demand_upper: Value
    """Most that may be asked for while the expectation is held to."""
    savings: Savings = Savings()
    effects: tuple[Effect, ...] = ()
    """The same for people, most important first."""


def expect(
    before: Sequence[Block],
    *,
    from_replicas: int,
    to_replicas: int,
    objectives: Objectives,
    growth: float,
    ready_within: Seconds,
    ready_basis: str,
    verify_window: Seconds,
    savings: Savings,
    currency: str = "",
) -> Expectation:
    """Say what is expected. `growth` is the forecast load over the present one; less than 1 counts as 1."""
    demand, upper = _demand(before, growth=max(1.0, growth) if math.isfinite(growth) else 1.0)
    effects = [
        Effect("replicas_ready", "", float(from_replicas), float(to_replicas), float(to_replicas), float(to_replicas)),
        Effect(
            "seconds_until_ready",
            "seconds",
            Unknown(UnknownReason.NOT_MEASURED, "nothing was asked for yet"),
            0.0,
            _NOT_FORESEEN,
            float(ready_within),
            ready_basis,
        ),
        *(
            _bound(before, name, attribute, limit)
            for name, attribute, limit in (
                ("time_to_first_token_p95", "time_to_first_token", objectives.time_to_first_token_p95),
                ("inter_token_latency_p95", "inter_token_latency", objectives.inter_token_latency_p95),
                ("queue_time_p95", "queue_time", objectives.queue_delay),
            )
        ),
        _load(demand, upper, before=from_replicas, after=to_replicas),
    ]
    if savings.gpus_freed:
        freed = savings.gpus_freed
        effects.append(Effect("gpus_freed", "", 0.0, freed, freed, freed, "GPUs of one replica x replicas given back"))
    if savings.per_month:
        money = savings.per_month
        effects.append(Effect("saved_per_month", currency, 0.0, money, money, money, "once the capacity is given back"))
    return Expectation(
        from_replicas, to_replicas, objectives, ready_within, verify_window, demand, upper, savings, tuple(effects)
    )


def _demand(before: Sequence[Block], *, growth: float) -> tuple[Value, Value]:
    known = [value for block in before if not isinstance(value := block.demand, Unknown)]
    if not known:
        missing = Unknown(UnknownReason.NOT_MEASURED, "what came in is not measured")
        return missing, missing
    mean = fmean(known)
    spread = LOAD_DEVIATIONS * stdev(known) if len(known) > 1 else 0.0
    return mean, mean * growth + max(LOAD_MARGIN * mean * growth, spread)


def _bound(before: Sequence[Block], name: str, attribute: str, limit: Seconds) -> Effect:
    values = [value for block in before if not isinstance(value := getattr(block, attribute), Unknown)]
    was: Value = fmean(values) if values else Unknown(UnknownReason.NOT_MEASURED, "no window before the action has it")
    upper: Value = Unknown(UnknownReason.NOT_CONFIGURED, "no objective was given") if math.isinf(limit) else limit
    return Effect(name, "seconds", was, 0.0, _NOT_FORESEEN, upper, "the objective")


def _load(demand: Value, upper: Value, *, before: int, after: int) -> Effect:
    """Say what each replica is going to be asked for; with none left there is none."""
    unit = "tokens/s"
    basis = "what came in before, no more than the forecast allows"

    def each(value: Value, replicas: int) -> Value:
        if isinstance(value, Unknown):
            return value
        return value / replicas if replicas else _NONE

    return Effect("load_per_replica", unit, each(demand, before), 0.0, each(demand, after), each(upper, after), basis)
