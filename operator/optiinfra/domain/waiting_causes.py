"""Why requests wait: the rows of the decision table in `bottleneck` that have a queue, first one that holds first."""

from typing import Final

from optiinfra.domain.clues import (
    KV_BESIDE_BATCH,
    KV_FULL,
    Clues,
    CpuState,
    GpuState,
    above,
    at_least,
    count,
    known,
    share,
)
from optiinfra.domain.drafts import Draft, compute, gpus, host, sentence, starved, unknown
from optiinfra.domain.evidence import Bottleneck
from optiinfra.domain.readings import Unknown

STARTING_SHARE: Final = 0.25
"""Starting replicas, for each one that reports, from which a queue is left to them."""


def with_queue(clues: Clues) -> Draft:
    """Say what keeps requests waiting."""
    for rule in (_starting, _held_back, _uneven, kv_cache, _batch):
        draft = rule(clues)
        if draft is not None:
            return draft
    return _room(clues)


def _starting(clues: Clues) -> Draft | None:
    signals, starting = clues.signals, clues.surroundings.starting_replicas
    if above(signals.sleeping, 0.0) and known(signals.sleeping) >= clues.replicas:
        return Draft(
            Bottleneck.COLD_START,
            0.8,
            "EngineAsleep",
            f"{count(clues.waiting)} requests wait for an engine that sleeps.",
        )
    if isinstance(starting, Unknown) or starting <= 0.0:
        return None
    takes_in = starting * max(clues.running, 1.0)
    if starting < STARTING_SHARE * clues.replicas and takes_in < clues.waiting:
        return None
    return Draft(
        Bottleneck.COLD_START,
        0.8,
        "ReplicasStarting",
        f"{count(clues.waiting)} requests wait while {starting:.0f} replicas start beside {clues.replicas} that serve.",
    )


def _held_back(clues: Clues) -> Draft | None:
    waiting = count(clues.waiting)
    if clues.adapters_full and not clues.batch_full:
        return Draft(
            Bottleneck.QUEUE,
            0.8,
            "LoraBudget",
            f"{waiting} requests wait, and all {clues.signals.lora_running:g} places for LoRA adapters are taken.",
        )
    if not clues.deferred:
        return None
    if clues.remote is not None:
        return Draft(Bottleneck.NETWORK, 0.85, "KVTransfer", f"{waiting} requests wait: {clues.remote[1]}.")
    if above(clues.signals.external_hit_ratio, 0.0) and not above(clues.signals.lora_waiting, 0.0):
        text = f"{waiting} requests wait for keys and values that a cache outside the engine holds."
        return Draft(Bottleneck.NETWORK, 0.7, "KVTransfer", text)
    if clues.settings.role:
        return Draft(
            Bottleneck.QUEUE, 0.75, "KVTransfer", f"{waiting} requests wait for keys and values from elsewhere."
        )
    return Draft(
        Bottleneck.QUEUE,
        0.8,
        "Deferred",
        f"{waiting} requests wait held back by LoRA budget, KV transfer or grammar, not by capacity.",
    )


def _uneven(clues: Clues) -> Draft | None:
    if not clues.uneven:
        return None
    if clues.batch_full:
        fill = clues.crowd / known(clues.limit[0])
        where = f"at a full replica while batches are {fill:.0%} full on average"
    else:
        mean = share(clues.signals.kv_cache_usage_mean)
        where = f"at a replica whose KV cache is full while those of all are {mean} full on average"
    return Draft(Bottleneck.QUEUE, 0.6, "UnevenLoad", f"{count(clues.waiting)} requests wait {where}.")


def kv_cache(clues: Clues) -> Draft | None:
    """Say KVCache where the next request does not fit, and a free place in the batch would not help it."""
    live, peak = clues.kv_live, clues.kv_peak
    sure_limit = clues.batch_full and clues.limit[1] != "inferred"
    if sure_limit and not clues.preempts and not at_least(live, KV_BESIDE_BATCH):
        return None
    below = not clues.batch_full
    lately = below and clues.waited and at_least(peak, KV_FULL)
    if not clues.kv_short and not lately and not (clues.preempts and (below or at_least(live, KV_FULL))):
        return None
    parts = []
    if clues.waits:
        parts.append(f"{count(clues.waiting)} requests wait")
    if clues.preempts:
        parts.append(f"requests are preempted ({known(clues.signals.preemption_rate) * 60:.2g} a minute)")
    if not isinstance(peak, Unknown):
        what = "of the tokens are reserved" if clues.kv_reserved_only else "of the KV cache was used"
        highest = peak if isinstance(live, Unknown) else max(peak, live)
        parts.append(f"up to {highest:.0%} {what}")
    full = clues.kv_short or at_least(peak, KV_FULL)
    sure = 0.95 if clues.preempts and full else 0.85 if full and not clues.kv_reserved_only else 0.7
    if sure_limit and not clues.preempts:
        sure = 0.65
    reason = "Preemptions" if clues.preempts else "KVReserved" if clues.kv_reserved_only else "KVCacheFull"
    return Draft(Bottleneck.KV_CACHE, sure, reason, sentence(parts))


def _batch(clues: Clues) -> Draft | None:
    limit, source = clues.limit
    if not clues.batch_full or isinstance(limit, Unknown):
        return None
    inferred = " (inferred from where running requests level off)" if source == "inferred" else ""
    full = (
        f"{count(clues.waiting)} requests wait while {clues.crowd:.0f} run, at the batch limit of {limit:g}{inferred}"
    )
    if clues.gpu is GpuState.AT_LIMIT:
        return compute(clues, 0.8, f"{full}, and the GPUs are used up ({gpus(clues)}): a larger batch would not help")
    if clues.gpu is GpuState.LOW and clues.cpu is CpuState.SATURATED:
        return Draft(
            Bottleneck.HOST,
            0.75,
            "CPUStarvation",
            f"{full}, yet the GPUs wait for the host ({gpus(clues)}; {host(clues)}).",
        )
    sure = {"argument": 0.9, "page": 0.9}.get(source, 0.65)
    if isinstance(clues.kv_peak, Unknown):
        sure -= 0.3
    elif clues.kv_short:
        sure -= 0.2
    if clues.gpu is GpuState.BUSY and at_least(clues.surroundings.gpu_utilization, 0.9):
        sure -= 0.1
    usage = (
        "how full the KV cache is, is not known"
        if isinstance(clues.kv_peak, Unknown)
        else (f"the KV cache is at most {clues.kv_peak:.0%} full")
    )
    return Draft(Bottleneck.BATCH, sure, "BatchLimitReached", f"{full}; {usage}.")


def _room(clues: Clues) -> Draft:
    """Say what else keeps requests waiting, where neither KV cache nor batch does."""
    signals, limit = clues.signals, clues.limit[0]
    waiting = f"{count(clues.waiting)} requests wait although batch and KV cache have room"
    if isinstance(clues.kv_live, Unknown):
        return unknown("KVCacheUnknown", f"Requests wait, and whether the KV cache is full is {clues.kv_live}.")
    if clues.remote is not None:
        return Draft(Bottleneck.NETWORK, 0.75, clues.remote[0], f"{waiting}: {clues.remote[1]}.")
    waits_for_host = starved(clues, f"{waiting}; ")
    if waits_for_host is not None:
        return waits_for_host
    if clues.gpu is GpuState.AT_LIMIT:
        return compute(clues, 0.75, f"{waiting}, and the GPUs are used up ({gpus(clues)})")
    if clues.steps_saturate:
        return compute(
            clues, 0.65 if clues.gpu is GpuState.BUSY else 0.55, f"{waiting}, and steps are long with prompts"
        )
    if clues.steps_capped:
        used, budget = known(signals.step_tokens_mean), clues.settings.step_tokens
        text = "they still stay small" if isinstance(budget, Unknown) else f"that is their budget of {budget:.0f}"
        return Draft(
            Bottleneck.QUEUE,
            0.55 if isinstance(budget, Unknown) else 0.7,
            "StepTokens",
            f"{waiting}: steps take in {used:.0f} tokens each, and {text}.",
        )
    if above(signals.rejection_rate, 0.0):
        return Draft(Bottleneck.QUEUE, 0.7, "Admission", f"{waiting}, and others are refused at the door.")
    highest = signals.running_per_replica_max
    if isinstance(limit, Unknown) and not above(highest, clues.running + 1.0):
        return unknown(
            "BatchLimitUnknown",
            "Requests wait while the KV cache has room, and the batch limit is not known; "
            "name it in the engine's arguments.",
        )
    sure = 0.45 if isinstance(limit, Unknown) else 0.6
    return Draft(Bottleneck.QUEUE, sure, "Blocked", f"{waiting} (host CPU, step tokens, admission).")
