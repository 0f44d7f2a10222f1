"""What limits a service: the decision table over queue, KV cache, batch limit, GPU, host and network.

KV usage alone misses a full batch, and a queue alone cannot say which knob limits; the pair decides (measured on real
engines, see the recordings), and what GPUs and hosts say confirms or contradicts it. The first row that holds wins:

| requests wait | because | GPU, host, network | verdict (reason) |
|---|---|---|---|
| yes | the engine sleeps, or starting replicas will take a good part of them in | any | ColdStart |
| yes | most are deferred: adapters, transfer of keys and values, grammar | slow cache or link | Network |
| yes | the same | else | Queue (LoraBudget, KVTransfer, Deferred) |
| yes | one replica is full, the others are not | any | Queue (UnevenLoad) |
| yes | the next one does not fit into the KV cache, or running ones are preempted | any | KVCache |
| yes | the batch is at its limit | arithmetic or bandwidth used up | Compute: a larger batch would not help |
| yes | the same | GPU low and CPU saturated | Host |
| yes | the same | else | Batch; less sure at 90 % of NVML's utilisation |
| yes | batch and KV cache have room | slow cache or link | Network |
| yes | the same | GPU low, CPU saturated or not measured | Host |
| yes | the same | arithmetic or bandwidth used up | Compute |
| yes | the same, steps of many prompt tokens | not low, or not measured (less sure) | Compute (PrefillBound) |
| yes | the same, steps use up a small token budget | any | Queue (StepTokens) |
| yes | the same | else | Queue (Admission, Blocked) |
| no | requests are refused at the door | any | Batch or KVCache where that is full, else Queue (Admission) |
| no | running requests are preempted | any | KVCache |
| no | latency misses its objective | slow cache or link; GPU low; CPU saturated | Network; Host |
| no | the same | GPU busy, or not measured (less sure) | Compute (PrefillBound, DecodeBound) |
| no | work is served | any | Healthy |
| no | nothing runs | any | Idle, surer the longer it lasts; less sure on busy GPUs |

A KV cache that cached prefixes fill is not full: they go when they are in the way. A latency that nobody promised is
missed only where something besides the page confirms it. What is needed and not known makes the verdict `Unknown` and
is named; what only confirms makes it less sure. One window is judged here: `verdicts` compares windows.
"""

from typing import Final

from optiinfra.domain import runner_up
from optiinfra.domain.clues import (
    Clues,
    above,
    count,
)
from optiinfra.domain.diagnosis import Alternative, Diagnosis
from optiinfra.domain.drafts import Draft, unknown
from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.evidence import Bottleneck, Evidence
from optiinfra.domain.objectives import Objectives
from optiinfra.domain.readings import Unknown, Value
from optiinfra.domain.serving_states import without_queue
from optiinfra.domain.signals import ServiceSignals
from optiinfra.domain.surroundings import Surroundings
from optiinfra.domain.units import Ratio, Seconds
from optiinfra.domain.waiting_causes import with_queue

__all__ = ["Alternative", "Diagnosis", "batch_ratio", "diagnose"]

IDLE_SPAN: Final = Seconds(300.0)
"""A service is not called idle for good on less."""
_OF_ENGINES: Final = (
    ("deferred", "requests_deferred", "", "last", "engine"),
    ("kv_cache_reserved", "kv_cache_reserved", "ratio", "last", "engine"),
    ("kv_cache_evictable", "kv_cache_evictable", "ratio", "last", "engine"),
    ("step_tokens_mean", "step_tokens", "tokens", "mean", "engine"),
    ("lmcache_retrieve_p95", "lmcache_retrieve", "seconds", "p95", "engine"),
)
"""Signals that are evidence where they are known and not zero: field, name, unit, statistic, source."""
_OF_SURROUNDINGS: Final = (
    ("container_cpu", "container_cpu", "ratio", "max", "agent"),
    ("cpu_throttled", "cpu_throttled", "ratio", "max", "agent"),
    ("cpu_pressure", "cpu_pressure", "ratio", "max", "agent"),
    ("memory_pressure", "memory_pressure", "ratio", "max", "agent"),
    ("io_pressure", "io_pressure", "ratio", "max", "agent"),
    ("gpu_heat_throttled", "gpu_heat_throttled", "ratio", "max", "agent"),
    ("gpu_clock_throttled", "gpu_clock_throttled", "ratio", "max", "agent"),
    ("pcie_busy", "pcie_busy", "ratio", "max", "agent"),
    ("network_busy", "network_busy", "ratio", "max", "agent"),
    ("gpu_sm_active", "gpu_sm_active", "ratio", "mean", "agent"),
    ("gpu_tensor_active", "gpu_tensor_active", "ratio", "mean", "agent"),
    ("gpu_dram_active", "gpu_dram_active", "ratio", "mean", "agent"),
    ("starting_replicas", "starting_replicas", "", "last", "kubernetes"),
)
ONE_PAGE: Final = 0.5
"""What a verdict on a single page is worth: gauges say what is, not what lasts."""


def batch_ratio(signals: ServiceSignals, diagnosis: Diagnosis) -> Value:
    """Return how full the batches of the reporting replicas are now."""
    limit = diagnosis.batch_limit
    if isinstance(limit, Unknown):
        return limit
    if isinstance(signals.running, Unknown):
        return signals.running
    return min(1.0, signals.running / (limit * max(signals.replicas_reporting, 1)))


def diagnose(
    signals: ServiceSignals,
    settings: EngineSettings,
    objectives: Objectives,
    *,
    surroundings: Surroundings,
    quiet: Seconds = Seconds(0.0),
    idle_span: Seconds = IDLE_SPAN,
    promised: bool = True,
    pause: Seconds | None = None,
    held: Bottleneck | None = None,
) -> Diagnosis:
    """Judge one window of a service.

    Args:
        signals: of the window.
        settings: of its engines.
        objectives: what the service promises.
        surroundings: what was measured around its engines.
        quiet: for how long its history shows no work at all, where that reaches further back than the window.
        idle_span: shortest span without work from which idleness lasts.
        pause: shortest span without work that is called idle at all; the window where it is not given, so that a
            service with a request now and then is not called idle between them.
        held: the verdict that holds, if any: what lies at the edge is left where it is.
        promised: whether somebody set the objectives; assumed ones need something besides the page to be missed.
    """
    shortest = signals.window if pause is None else pause
    clues = Clues(signals, settings, objectives, surroundings, quiet, idle_span, shortest, promised, held)
    draft = _blocked(clues)
    if draft is None:
        draft = with_queue(clues) if _queues(clues) else without_queue(clues)
    return _diagnosis(clues, draft)


def _diagnosis(clues: Clues, draft: Draft) -> Diagnosis:
    signals, sure = clues.signals, draft.sure
    if 0 < signals.replicas_reporting < signals.replicas_expected:
        sure *= signals.replicas_reporting / signals.replicas_expected
    if signals.window <= 0.0:
        sure *= ONE_PAGE
    undecided = draft.bottleneck is Bottleneck.UNKNOWN
    limit, source = (clues.settings.batch_limit, clues.settings.batch_limit_source) if undecided else clues.limit
    return Diagnosis(
        draft.bottleneck,
        Ratio(round(min(max(sure, 0.0), 1.0), 2)),
        draft.reason,
        draft.message,
        _evidence(clues, limit, source),
        limit,
        source,
        None if undecided else runner_up.of(clues, draft.bottleneck, draft.reason),
        provisional=signals.window <= 0.0,
    )


# ---- what makes a verdict impossible


def _blocked(clues: Clues) -> Draft | None:
    """Return why nothing can be said at all."""
    signals, starting = clues.signals, clues.surroundings.starting_replicas
    if signals.replicas_reporting == 0 and signals.replicas_expected == 0:
        if above(starting, 0.0):
            return Draft(
                Bottleneck.COLD_START, 0.6, "NoReplicaReady", f"No replica is ready; {count(starting)} are starting."
            )
        return unknown("NoReplicas", "The service has no replicas.")
    if signals.replicas_reporting == 0:
        return unknown("NoPages", "No replica serves a metrics page that can be read.")
    if signals.replicas_reporting * 2 < signals.replicas_expected:
        return unknown(
            "TooFewReplicasReport",
            f"Only {signals.replicas_reporting} of {signals.replicas_expected} replicas serve a fresh page.",
        )
    for name, value in (("waiting", signals.waiting), ("running", signals.running)):
        if isinstance(value, Unknown):
            return unknown("QueueUnknown", f"The number of {name} requests is {value}.")
    return None


def _queues(clues: Clues) -> bool:
    """Tell whether requests wait: now, or for a good part of a window whose resource is still used up."""
    if clues.waits:
        return True
    return clues.waited and (clues.batches_full or clues.kv_short)


def _evidence(clues: Clues, limit: Value, source: str) -> tuple[Evidence, ...]:
    signals, around, span, instant = clues.signals, clues.surroundings, clues.signals.window, Seconds(0.0)
    always = (
        Evidence("requests_waiting", signals.waiting, "", instant, "engine"),
        Evidence("requests_running", signals.running, "", instant, "engine"),
        Evidence("requests_running_per_replica", signals.running_per_replica_max, "", span, "engine", "max"),
        Evidence("batch_limit", limit, "", instant, "derived" if source == "inferred" else "engine"),
        Evidence("kv_cache_usage", signals.kv_cache_usage_max, "ratio", span, "engine", "max"),
        Evidence("preemptions", signals.preemption_rate, "1/s", span, "engine", "rate"),
        Evidence("time_to_first_token", signals.time_to_first_token_p95, "seconds", span, "engine", "p95"),
        Evidence("inter_token_latency", signals.inter_token_latency_p95, "seconds", span, "engine", "p95"),
        Evidence("gpu_utilization", around.gpu_utilization, "ratio", span, "agent", "mean"),
    )
    measured = []
    # What holds something back comes first: a status has room for so many, and drops the last.
    for values, rows in ((around, _OF_SURROUNDINGS), (signals, _OF_ENGINES)):
        for field, name, unit, statistic, origin in rows:
            value = getattr(values, field)
            if not isinstance(value, Unknown) and value != 0.0:
                place = around.places.get(field, "") if values is around else ""
                source = around.sources.get(field, origin) if values is around else origin
                lasting = span if statistic != "last" else instant
                measured.append(Evidence(name, value, unit, lasting, source, statistic, place))
    return (*always, *measured)
