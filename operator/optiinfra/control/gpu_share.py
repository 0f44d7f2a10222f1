"""What a target's pods do with their GPUs, remembered over days, and the share of a GPU that this comes to.

Every round notes the newest reading of the GPUs that the target's pods hold. A pod whose GPUs cannot be told apart
from others', or whose node's agent is silent, is noted as dark, so that use that was hardly seen stays unknown.
"""

import dataclasses
from collections.abc import Mapping
from typing import Final

from optiinfra.control.work import ServiceWork, TargetWork
from optiinfra.domain import gpu_share, gpus
from optiinfra.domain.advice import AdviceInput
from optiinfra.domain.evidence import Proposal, Refusal
from optiinfra.domain.gpu_use import GpuMoment, GpuUseHistory
from optiinfra.domain.kv_capacity import capacity
from optiinfra.domain.pod_shape import newest
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.resource_patch import WorkloadName
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.domain.workload import GpuFacts, NodeFacts, PodFacts

_AHEAD: Final = 3600.0
"""Seconds by which a history may lie ahead of the clock; beyond, the clock was set back and the history begins anew."""
_LOOK_BACK: Final = Seconds(600.0)


def observe(target: TargetWork, nodes: Mapping[str, NodeFacts], *, now: UnixTime, stale_after: Seconds) -> None:
    """Note what the GPUs of a target's running pods do now."""
    facts = target.facts
    assert facts is not None
    pods = [pod for pod in facts.pods if pod.gpus > 0 and pod.node and pod.phase == "Running" and not pod.terminating]
    if not pods:
        return
    history = target.memory.gpu_use
    if history.last is not None and history.last > now + _AHEAD:
        history = target.memory.gpu_use = GpuUseHistory()
    moments = [moment for pod in pods for moment in _moments(pod, facts.namespace, nodes, now, stale_after)]
    history.observe(moments, time=now, kv_tokens=_kv_tokens(target))


def _moments(
    pod: PodFacts, namespace: str, nodes: Mapping[str, NodeFacts], now: UnixTime, stale_after: Seconds
) -> list[GpuMoment]:
    loading = not pod.ready and not pod.lost_readiness
    found = _held(pod, namespace, nodes, now, stale_after)
    if isinstance(found, Unknown):
        return [GpuMoment(found, found, found, loading=loading)]
    return [
        GpuMoment(gpu.sm_active_ratio, gpu.utilization_ratio, gpu.memory_used_bytes, loading=loading) for gpu in found
    ]


def _held(
    pod: PodFacts, namespace: str, nodes: Mapping[str, NodeFacts], now: UnixTime, stale_after: Seconds
) -> list[GpuFacts] | Unknown:
    node = nodes.get(pod.node)
    if node is None:
        return Unknown(UnknownReason.NOT_MEASURED, f"nothing is known of node {pod.node}")
    reading = gpus.latest(node, now=now, window=_LOOK_BACK, stale_after=stale_after)
    if isinstance(reading, Unknown):
        return reading
    uuids = gpus.held_by({(pod.namespace or namespace, pod.name)}, node, reading)
    if isinstance(uuids, Unknown):
        return uuids
    return [gpu for gpu in reading.gpus if gpu.uuid in uuids]


def _kv_tokens(target: TargetWork) -> Value:
    """Return the KV tokens that the fullest replica holds now."""
    signals = target.signals
    assert signals is not None
    tokens = capacity(signals, target.settings)
    if isinstance(tokens, Unknown):
        return tokens
    usage = signals.kv_cache_usage_max
    return usage if isinstance(usage, Unknown) else usage * tokens


def advise(service: ServiceWork, target: TargetWork, given: AdviceInput) -> list[Proposal | Refusal]:
    """Return a smaller share for each container with GPUs, or why there is none."""
    facts, signals = target.facts, target.signals
    assert facts is not None
    assert signals is not None
    pod = newest(facts.pods)
    if pod is None:
        return []
    answers = (
        gpu_share.advise(
            gpu_share.ShareCase(
                workload=WorkloadName(facts.kind, facts.name, facts.namespace),
                container=container,
                gpu=given.gpu,
                use=target.memory.gpu_use.summary(),
                replicas=max(1, facts.ready_replicas),
                settings=target.settings,
                model=given.model,
                objectives=given.objectives,
                inter_token_latency=signals.inter_token_latency_p95,
                first_token=signals.time_to_first_token_p95,
                pool_tokens=capacity(signals, target.settings),
                prices=service.prices,
            )
        )
        for container in pod.containers
        if container.gpus > 0
    )
    # Its subject is the target, as that of replicas is: the ledger counts what one subject frees only once.
    return [
        dataclasses.replace(answer, subject=target.target.name) if isinstance(answer, Proposal) else answer
        for answer in answers
        if answer is not None
    ]
