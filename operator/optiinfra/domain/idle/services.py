"""Idle services: the engines' own word first, contradicted by GPUs that work.

A service is judged by what its engines say of requests and tokens; its GPUs may only contradict. Whatever is missing
makes the answer `Unknown`. A service that shares its GPUs is under-used and never an idle GPU: others may work there,
and whether a GPU is idle is judged of the GPU as a whole (`nodes`).
"""

from optiinfra.domain.evidence import Evidence, Finding, FindingType
from optiinfra.domain.idle.states import BUILT_IN, IdlePolicy
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.signals import ServiceSignals
from optiinfra.domain.units import Ratio, Seconds
from optiinfra.domain.utilization import Utilization


def workload_idle(
    signals: ServiceSignals,
    utilization: Utilization,
    *,
    minimum_span: Seconds = Seconds(600.0),
    policy: IdlePolicy = BUILT_IN,
) -> Finding | Unknown | None:
    """Judge a service: a finding when it is idle or hardly used, None when it works, `Unknown` when it cannot be said.

    The engines' own word comes first; GPUs that work for an engine without requests contradict it, and then nothing is
    found.
    """
    blocked = _cannot_say(signals, minimum_span)
    if blocked is not None:
        return blocked
    busiest = utilization.gpu_ratio_max
    evidence = (
        Evidence("requests_running", signals.running_max, "", signals.window, "engine", "max"),
        Evidence("requests_waiting", signals.waiting_max, "", signals.window, "engine", "max"),
        Evidence("generation_tokens", signals.generation_token_rate, "tokens/s", signals.window, "engine", "rate"),
        Evidence("busy_share", signals.busy_share, "ratio", signals.window, "engine"),
        Evidence("gpu_utilization", busiest, "ratio", signals.window, "agent", "max"),
    )
    minutes = f"{signals.window / 60:.0f} min"
    held = f", while {utilization.gpus_expected:g} GPUs are held" if utilization.gpus_expected else ""
    if not any(_number(value) for value in (signals.running_max, signals.waiting_max, signals.generation_token_rate)):
        if not isinstance(busiest, Unknown) and busiest > policy.idle_utilization:
            return Unknown(UnknownReason.INVALID, f"the engines report no work, and a GPU was {busiest:.0%} busy")
        sure = 0.7 if isinstance(busiest, Unknown) else 0.95
        message = f"No request ran or waited in the last {minutes}{held}."
        if utilization.shared_by:
            message = f"{message} It shares them by {utilization.shared_by}: that says nothing of what others do there."
            return Finding(FindingType.UNDER_USED, "ServiceIdle", message, Ratio(sure), evidence)
        return Finding(FindingType.IDLE_GPU, "ServiceIdle", message, Ratio(sure), evidence)
    share = _number(signals.busy_share)
    if share < 0.2 and _number(signals.waiting_max) == 0.0:
        message = f"Requests ran in {share:.0%} of the last {minutes}{held}."
        return Finding(FindingType.UNDER_USED, "ServiceRarelyBusy", message, Ratio(0.7), evidence)
    return None


def _cannot_say(signals: ServiceSignals, minimum_span: Seconds) -> Unknown | None:
    if signals.replicas_reporting < signals.replicas_expected or signals.replicas_reporting == 0:
        detail = f"{signals.replicas_reporting} of {signals.replicas_expected} replicas report"
        return Unknown(UnknownReason.NOT_MEASURED, detail)
    if signals.window < minimum_span:
        detail = f"pages cover {signals.window:.0f} s, {minimum_span:.0f} s are needed"
        return Unknown(UnknownReason.TOO_FEW_SAMPLES, detail)
    for value in (signals.running_max, signals.waiting_max, signals.generation_token_rate, signals.busy_share):
        if isinstance(value, Unknown):
            return value
    return None


def _number(value: Value) -> float:
    assert not isinstance(value, Unknown)
    return value
