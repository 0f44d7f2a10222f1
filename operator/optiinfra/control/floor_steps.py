"""The floor to hold now, for one target: pure, from its decision, its HPA and the limits of both.

In steps, never above the live maximum, never faster than the HPA's own `behavior.scaleUp`, never up while GPU pods
wait for a node, never down while the HPA cannot scale by itself. A maximum that the user gives holds at once, whatever
else would hold the floor up. Who may write it is not asked here.
"""

from dataclasses import dataclass

from optiinfra.api.reasons import EXPLANATIONS, Reason
from optiinfra.control.work import Effect, TargetWork
from optiinfra.domain.scaling import ScalingDecision
from optiinfra.domain.workload import ScalerFacts


@dataclass(frozen=True, slots=True)
class FloorStep:
    """What to hold."""

    value: int | None
    """None: nothing; the user's own minimum is enough."""
    effect: Effect | None = None
    """Why it is not what is wanted; None when nothing is in its way."""


def wanted_floor(target: TargetWork, scaler: ScalerFacts) -> int:
    """Return the floor that is asked for, before steps and rates."""
    assert isinstance(target.decision, ScalingDecision)
    # No more than was ordered: a person who approved six did not approve ten. What did harm by going comes back first.
    ordered = target.order if target.order is not None else scaler.min_replicas
    return min(max(min(target.decision.floor, ordered), target.restore or 0), maximum_of(target, scaler))


def maximum_of(target: TargetWork, scaler: ScalerFacts) -> int:
    """Return the user's maximum: the live one, narrowed by the object's."""
    return scaler.max_replicas if target.limits is None else min(scaler.max_replicas, target.limits.maximum)


def floor_step(target: TargetWork, scaler: ScalerFacts, *, step: int, highest: int | None = None) -> FloorStep:
    """Settle the floor to hold now. `highest` is the largest count that the HPA itself would set now."""
    assert target.facts is not None
    wanted = wanted_floor(target, scaler)
    held = scaler.min_replicas if scaler.held else None
    base = max(held or 0, scaler.min_replicas)
    if wanted > base:
        return _rise(target, scaler, wanted=wanted, step=step, highest=highest)
    if held is None:
        return FloorStep(None)
    maximum, original = maximum_of(target, scaler), scaler.original_min_replicas or 1
    if held > maximum:
        return FloorStep(max(maximum, min(original, scaler.max_replicas)))
    wanted = max(wanted, min(original, maximum))  # what the user has without us, whatever was decided
    if wanted < held and scaler.scaling_active is not True:
        text = f"{EXPLANATIONS[Reason.ONE_WAY_FLOOR]} ({scaler.scaling_active_reason or 'no condition yet'})"
        return FloorStep(held, Effect(effective=False, reason=Reason.ONE_WAY_FLOOR, message=text))
    return FloorStep(max(wanted, held - step))


def _rise(target: TargetWork, scaler: ScalerFacts, *, wanted: int, step: int, highest: int | None) -> FloorStep:
    assert target.facts is not None
    held = scaler.min_replicas if scaler.held else None
    base = max(held or 0, scaler.min_replicas)
    waiting = [pod.name for pod in target.facts.pods if pod.gpus > 0 and pod.phase == "Pending" and not pod.node]
    if waiting:
        text = f"{len(waiting)} pods with GPUs wait for a node, {waiting[0]} among them: the floor stays at {base}"
        return FloorStep(held, Effect(effective=False, reason=Reason.PODS_PENDING, message=text))
    value = min(wanted, max(base, target.facts.desired_replicas) + step)
    if highest is not None and highest < value:
        value = highest
    if value <= base:
        text = (
            f"behavior.scaleUp of HorizontalPodAutoscaler {scaler.name} allows no more than {base} replicas now; a "
            "floor is never raised faster than that"
        )
        return FloorStep(held, Effect(effective=None, reason=Reason.SCALING_IN_PROGRESS, message=text))
    return FloorStep(value)
