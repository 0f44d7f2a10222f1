"""The next best class beside a verdict, and what would have to be true for it: how people argue with a verdict.

Each class has the one or two that it is most easily taken for; the clue that tells them apart is named with its bound
and with what was measured, so that somebody who knows better can say so. Nothing is decided here.
"""

from optiinfra.domain.clues import (
    DRAM_LIMIT,
    GPU_LOW,
    KV_CROWDED,
    KV_FULL,
    RETRIEVE_SHARE,
    SM_LOW,
    TENSOR_LIMIT,
    Clues,
    GpuState,
    at_least,
    known,
    share,
)
from optiinfra.domain.diagnosis import Alternative
from optiinfra.domain.evidence import Bottleneck
from optiinfra.domain.readings import Unknown


def of(clues: Clues, verdict: Bottleneck, reason: str) -> Alternative | None:
    """Return the class that a definite verdict is nearest to; None for Unknown."""
    match verdict:
        case Bottleneck.BATCH:
            return _beside_batch(clues)
        case Bottleneck.KV_CACHE:
            return _beside_kv_cache(clues)
        case Bottleneck.COMPUTE:
            return _beside_compute(clues)
        case Bottleneck.QUEUE:
            return _beside_queue(clues, reason)
        case Bottleneck.HOST:
            text = f"the GPUs would have to be busy (multiprocessors at work {SM_LOW:.0%} or more of the time)"
            return Alternative(Bottleneck.COMPUTE, f"{text}; they are {_activity(clues)}.")
        case Bottleneck.NETWORK:
            text = f"fetching keys and values would have to take less than {RETRIEVE_SHARE:.0%} of a first token"
            return Alternative(Bottleneck.COMPUTE, f"{text}, with the objective still missed.")
        case Bottleneck.COLD_START:
            other = Bottleneck.KV_CACHE if clues.signals.replicas_reporting and clues.kv_short else Bottleneck.BATCH
            return Alternative(other, "the queue would have to remain once the starting replicas serve.")
        case Bottleneck.IDLE:
            return Alternative(Bottleneck.HEALTHY, "a request would have to run or wait.")
        case Bottleneck.HEALTHY:
            return _beside_healthy(clues)
    return None


def _beside_batch(clues: Clues) -> Alternative:
    limit, source = clues.limit
    if at_least(clues.kv_peak, KV_CROWDED):
        text = f"the KV cache would have to be {KV_FULL:.0%} full, or requests preempted; it was {share(clues.kv_peak)}"
        return Alternative(Bottleneck.KV_CACHE, f"{text}.")
    if source == "inferred":
        text = f"the engine would have to admit more than the {known(limit):g} requests that were seen to run"
        return Alternative(Bottleneck.QUEUE, f"{text}; name its batch limit to be sure.")
    text = f"the GPUs would have to be used up (tensor pipes {TENSOR_LIMIT:.0%}, or memory {DRAM_LIMIT:.0%})"
    return Alternative(Bottleneck.COMPUTE, f"{text}; they are {_activity(clues)}.")


def _beside_kv_cache(clues: Clues) -> Alternative:
    limit = clues.limit[0]
    reached = "its batch limit" if isinstance(limit, Unknown) else f"its batch limit of {limit:g}"
    text = f"the KV cache would have to be below {KV_FULL:.0%} while a replica runs {reached}"
    runs = clues.signals.running_per_replica_max
    ran = "" if isinstance(runs, Unknown) else f"; it ran at most {runs:g}"
    return Alternative(Bottleneck.BATCH, f"{text}, with nothing preempted{ran}.")


def _beside_compute(clues: Clues) -> Alternative:
    if clues.batch_full:
        text = "the GPUs would have to have room, so that a larger batch yields more"
        return Alternative(Bottleneck.BATCH, f"{text}; they are {_activity(clues)}.")
    if clues.waits:
        text = "the GPUs would have to have room while steps use up their token budget, or admission holds back"
        return Alternative(Bottleneck.QUEUE, f"{text}; they are {_activity(clues)}.")
    text = f"multiprocessors would have to be at work less than {SM_LOW:.0%} of the time (utilisation {GPU_LOW:.0%})"
    return Alternative(Bottleneck.HOST, f"{text}; they are {_activity(clues)}.")


def _beside_queue(clues: Clues, reason: str) -> Alternative:
    limit = clues.limit[0]
    if reason == "UnevenLoad":
        return Alternative(Bottleneck.BATCH, "the other replicas would have to be full too.")
    if reason == "StepTokens":
        return Alternative(Bottleneck.COMPUTE, f"the GPUs would have to be used up; they are {_activity(clues)}.")
    if reason in {"KVTransfer", "Deferred"}:
        return Alternative(Bottleneck.NETWORK, "the remote cache, or the link to it, would have to be slow.")
    if clues.gpu in {GpuState.UNMEASURED, GpuState.LOW}:
        text = "the host's CPU would have to be saturated while the GPUs wait"
        return Alternative(Bottleneck.HOST, f"{text}; they are {_activity(clues)}.")
    at = "reached, and it is not known" if isinstance(limit, Unknown) else f"reached: {limit:g} a replica"
    return Alternative(Bottleneck.BATCH, f"the batch limit would have to be {at}.")


def _beside_healthy(clues: Clues) -> Alternative:
    """Name the limit that is nearest, as a share of it."""
    signals, objectives, limit = clues.signals, clues.objectives, clues.limit[0]
    near: list[tuple[float, Bottleneck, str]] = []
    if not isinstance(limit, Unknown) and limit > 0.0:
        text = f"requests would have to wait with {limit:g} running in a replica; {clues.running:.3g} run"
        near.append((clues.running / limit, Bottleneck.BATCH, text))
    if not isinstance(clues.kv_live, Unknown):
        text = f"requests would have to wait with the KV cache {KV_FULL:.0%} full; it is {clues.kv_live:.0%}"
        near.append((clues.kv_live / KV_FULL, Bottleneck.KV_CACHE, text))
    for name, value, bound in (
        ("time to first token", signals.time_to_first_token_p95, objectives.time_to_first_token_p95),
        ("inter-token latency", signals.inter_token_latency_p95, objectives.inter_token_latency_p95),
    ):
        if not isinstance(value, Unknown) and bound > 0.0:
            text = f"{name} p95 would have to miss a promise, as of {bound:g} s; it is {value:.2g} s"
            near.append((min(value / bound, 1.0), Bottleneck.COMPUTE, text))
    if not near:
        return Alternative(Bottleneck.IDLE, "no request would have to run.")
    _, verdict, text = max(near, key=lambda one: one[0])
    return Alternative(verdict, f"{text}.")


def _activity(clues: Clues) -> str:
    around = clues.surroundings
    named = (
        ("multiprocessors", around.gpu_sm_active),
        ("tensor pipes", around.gpu_tensor_active),
        ("memory", around.gpu_dram_active),
        ("utilisation", around.gpu_utilization),
    )
    parts = [f"{name} {value:.0%}" for name, value in named if not isinstance(value, Unknown)]
    return ", ".join(parts) or "not measured"
