"""A scaling decision in words and in facts: one sentence that a person on call understands, and its evidence.

Nothing is decided here. Numbers are rounded for reading; the decision itself carries them whole.
"""

from typing import Final

from optiinfra.domain.evidence import Evidence
from optiinfra.domain.readings import Unknown, Value
from optiinfra.domain.replica_capacity import Basis, ReplicaCapacity
from optiinfra.domain.replica_load import ReplicaLoad, Resource
from optiinfra.domain.scaler.decision import Decision, Infeasibility
from optiinfra.domain.scaling_rules import Rule
from optiinfra.domain.shrink import WhatIf
from optiinfra.domain.signals import ServiceSignals
from optiinfra.domain.units import Seconds

_BY: Final = {
    Resource.WORK: "by tokens",
    Resource.BATCH_SLOTS: "by batch slots",
    Resource.KV_CACHE: "by KV cache",
}
_INSTANT: Final = Seconds(0.0)


def message(
    rule: Rule,
    learned: Decision,
    load: ReplicaLoad,
    capacity: ReplicaCapacity,
    *,
    signals: ServiceSignals,
    desired: int,
    blocked: tuple[str, ...],
    what_if: WhatIf,
    minimum: int,
    maximum: int,
) -> str:
    """Say the decision in a sentence."""
    flight = (
        f"{_text(signals.running)} requests run, {_text(signals.waiting)} wait on {signals.replicas_reporting} "
        f"replicas and keep {load.replicas:.1f} busy ({_BY[load.resource]})"
    )
    match rule:
        case Rule.QUEUE_DRAIN:
            waits = f"{load.backlog:.0f} replica-seconds of work wait" if load.backlog >= 1.0 else "none waits yet"
            why = f"{waits}, and {learned.need:.1f} are needed to clear what will by the time a new replica serves"
        case Rule.HOLD:
            why = "; ".join(blocked) if blocked else f"{what_if.binding} needs {what_if.lowest}"
            why = f"{learned.desired} would do, but {why}"
        case Rule.PEAKS:
            why = f"{learned.desired} would do on average; the last window's peak of {what_if.binding} needs {desired}"
        case Rule.AT_MAXIMUM:
            why = f"{learned.need:.1f} would be needed, the maximum is {maximum}"
        case Rule.AT_MINIMUM:
            why = f"{learned.need:.1f} are needed, the minimum is {minimum}"
        case Rule.COLLAPSE_HELD:
            why = "a steady load vanished within the hour; its capacity is kept for its return"
        case Rule.CHANGED_BY_OTHERS:
            why = "somebody else asked for more, which is respected for five minutes"
        case Rule.PAUSED:
            why = "scaling is paused"
        case Rule.PRIOR:
            why = f"{learned.need:.1f} are needed by what did best elsewhere: this load is known for too short a time"
        case _:
            why = f"{learned.need:.1f} are needed by what did best on this load ({learned.rule})"
    guess = "; what one replica serves is a guess yet" if capacity.basis is Basis.OCCUPANCY else ""
    return f"{desired} replicas ({rule}): {flight}; {why}{guess}"


def at_rest(rule: Rule, *, current: int, start_up: Seconds) -> str:
    """Say what is decided while no replica can be heard."""
    if rule is Rule.ASLEEP:
        return f"0 replicas ({rule}): none runs, and whoever sees the queue asks for the first one"
    return (
        f"{current} replicas ({rule}): the first after zero starts, which takes {start_up:.0f} s at its 95th percentile"
    )


def _text(value: Value) -> str:
    return "an unknown number" if isinstance(value, Unknown) else f"{value:.0f}"


def evidence(
    load: ReplicaLoad,
    capacity: ReplicaCapacity,
    learned: Decision,
    *,
    signals: ServiceSignals,
    start_up: Seconds,
) -> tuple[Evidence, ...]:
    """Return the facts that a decision rests on."""
    facts = [
        Evidence("requests_running", signals.running, "", _INSTANT, "engine", "sum"),
        Evidence("requests_waiting", signals.waiting, "", _INSTANT, "engine", "sum"),
        Evidence("kv_cache_usage", signals.kv_cache_usage_mean, "ratio", _INSTANT, "engine", "mean"),
        Evidence("load", load.replicas, "replicas", _INSTANT, "derived"),
        Evidence("replica_capacity", capacity.work, "work/s", _INSTANT, "derived", str(capacity.basis)),
        Evidence("load_forecast", learned.forecast, "replicas", start_up, "derived"),
        Evidence("late_share", learned.late_share, "ratio", Seconds(172_800.0), "derived"),
        Evidence("start_up", float(start_up), "seconds", _INSTANT, "kubernetes", "p95"),
    ]
    return tuple(facts)


def infeasibility(found: Infeasibility) -> str:
    """Say why the objective is not held, and what would help."""
    return (
        f"the objective is not held at a bearable price: {found.late_share:.1%} of two days' work was late. The safest "
        f"rule would leave {found.best_late_share:.1%} late at cost {found.best_cost:.2g} (1 is always busy); with a "
        f"quarter of the start-up time {found.shorter_start_late_share:.1%}, with {found.spares} warm spares "
        f"{found.spares_late_share:.1%}; or relax objectives.lateShare"
    )
