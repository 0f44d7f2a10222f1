"""What a plain HPA would run on the same load: the counterfactual for workloads whose scaler follows the operator.

The scaler lets plain HPAs live through each workload's own load beside it (`domain.scaler.references`), with the same
start-up times and limits, because incidents are measured against them; the one of target 0.7 is asked here. It knows
nothing of the workload's own HPA, whose target may have been another one: the method is named with each claim.
"""

from typing import Final

from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.scaler.rows import state_of
from optiinfra.domain.scaler.tuning import REFERENCE, TICKS_PER_HOUR
from optiinfra.domain.scaling import ScalerMemory

LEAST_TICKS: Final = TICKS_PER_HOUR
"""Ticks of known load before anything is claimed: all scalers begin with what ran, which says nothing about them."""


def plain_hpa_replicas(memory: ScalerMemory) -> Value:
    """Return the replicas that a plain HPA of target 0.7 asks for now, or why that is not known."""
    if memory.row is None:
        return Unknown(UnknownReason.TOO_FEW_SAMPLES, "the load was not heard yet")
    state = state_of([memory.row])
    seen = int(state.load.seen[0])
    if seen < LEAST_TICKS:
        text = f"the load is known for {seen} of {LEAST_TICKS} ticks: then a plain HPA is compared with"
        return Unknown(UnknownReason.TOO_FEW_SAMPLES, text)
    if int(state.unknown[0]) > 0:
        return Unknown(UnknownReason.STALE, "the load is not known now")
    return float(state.references.pipeline.replicas[0, REFERENCE])
