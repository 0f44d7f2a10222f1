"""What must have happened: every claim of the demonstration as a check on what was seen. Pure.

A check that fails says what was seen instead. None of them looks at the clock or at the cluster.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hack.demo.play import History, Outage
from hack.demo.waste import freeable_nodes, idle_holders
from hack.demo.watch import METRIC, Service, Sight

BUSY, IDLE, SHORT = "chat", "embed-idle", "summarize"
PEAK_REPLICAS = 4
LATE_SHARE = 0.05
OPERATOR = "system:serviceaccount:optiinfra:optiinfra-operator"
WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})
REVIEWS = frozenset({"tokenreviews", "subjectaccessreviews", "selfsubjectaccessreviews"})


@dataclass(frozen=True, slots=True)
class Check:
    """One claim."""

    claim: str
    holds: bool
    seen: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is read once, at the end."""

    scaler_events: tuple[str, ...]
    """Messages of the HPA controller's SuccessfulRescale events."""
    agents: tuple[Mapping[str, Any], ...]
    snapshot: Mapping[str, Any]
    """Of the real agent."""
    real_agent: str
    """Its id."""
    cpus: int
    """Of this machine."""
    writes: Mapping[tuple[str, str, str], int]
    """(verb, resource, namespace/name) -> how often the operator's ServiceAccount asked for it, from the audit log."""
    cluster: Mapping[str, Any]
    """Status of the ClusterResourceOptimization."""


def judge(history: History, facts: Facts) -> list[Check]:
    """Check everything."""
    return [
        _scaler_created(history),
        _rose(history),
        _fell(history),
        _published(history, facts.scaler_events),
        _survived(history),
        _went_on(history),
        _idle(history),
        _idle_gpus(history),
        _holders(facts),
        _nodes_to_free(facts),
        _short_of_cache(history),
        _agent(facts),
        _nothing_written(history, facts),
    ]


def _scaler_created(history: History) -> Check:
    seen = [sight.scaler for sight in history.sights if sight.scaler is not None]
    good = [scaler for scaler in seen if scaler.active and scaler.owner == f"ResourceOptimization/{BUSY}"]
    said = f"{good[0].name}, owned by {good[0].owner}, {good[0].reason}" if good else str(seen[-1] if seen else "none")
    return Check("the operator created the HorizontalPodAutoscaler, and it is active", bool(good), said)


def _rose(history: History) -> Check:
    claim = f"replicas rose to {PEAK_REPLICAS} or more before {LATE_SHARE:.0%} of the requests were late"
    late_before = 0.0
    for sight in history.begun:
        assert sight.trace is not None
        late_before = max(late_before, sight.trace.late_share)
        if BUSY in sight.services and sight.services[BUSY].replicas >= PEAK_REPLICAS:
            said = (
                f"{PEAK_REPLICAS} replicas at {sight.trace.seconds:.0f} s of the load, {late_before:.1%} late by then"
            )
            return Check(claim, late_before <= LATE_SHARE, said)
    return Check(claim, holds=False, seen=f"at most {max(history.counts, default=0)} replicas")


def _fell(history: History) -> Check:
    seen = history.counts or [0]
    said = f"{max(seen)} at the peak, {seen[-1]} at the end"
    return Check("replicas fell again after the load", history.fell, said)


def _published(history: History, events: Sequence[str]) -> Check:
    claim = "the HPA controller read the decisions from external.metrics.k8s.io and scaled by them"
    read = [sight.scaler for sight in history.sights if sight.scaler is not None and sight.scaler.reads == METRIC]
    ups = [event for event in events if METRIC in event]
    downs = [event for event in events if "below target" in event]
    said = f"{len(ups)} rescales up by {METRIC}, {len(downs)} down; currentMetrics {'shows' if read else 'lacks'} it"
    return Check(claim, bool(read and ups and downs), said)


def _survived(history: History) -> Check:
    claim = "the operator was killed, and a new process led again"
    outage = history.outage
    if outage is None:
        return Check(claim, holds=False, seen="it was never killed: replicas did not rise")
    if outage.leading_at is None or outage.restarted_at is None:
        return Check(claim, holds=False, seen=f"pid {outage.killed_pid} killed; pid {outage.new_pid} never led")
    said = (
        f"pid {outage.killed_pid} killed {outage.trace_seconds:.0f} s into the load; pid {outage.new_pid} led "
        f"{outage.leading_at - outage.restarted_at:.0f} s after its start"
    )
    return Check(claim, outage.new_pid != outage.killed_pid, said)


def _went_on(history: History) -> Check:
    claim = "the HPA held the replicas meanwhile, and scaling went on afterwards"
    outage = history.outage
    if outage is None or outage.metric_back_at is None:
        return Check(claim, holds=False, seen="the metric never came back")
    after = _after(history.begun, outage)
    more = max(after, default=0) > outage.replicas
    held = min(outage.replicas_meanwhile, default=0) >= outage.replicas
    reasons = ", ".join(sorted(outage.scaler_reasons)) or "none seen"
    said = (
        f"{outage.without_metric:.0f} s without the metric: {_span(outage.replicas_meanwhile)} replicas (at the kill "
        f"{outage.replicas}), HPA: {reasons}; afterwards up to {max(after, default=0)}"
    )
    return Check(claim, more and held, said)


def _after(sights: Sequence[Sight], outage: Outage) -> list[int]:
    assert outage.metric_back_at is not None
    return [s.services[BUSY].replicas for s in sights if BUSY in s.services and s.at > outage.metric_back_at]


def _span(numbers: set[int]) -> str:
    low, high = min(numbers, default=0), max(numbers, default=0)
    return str(low) if low == high else f"{low} to {high}"


def _last(history: History, name: str) -> Service | None:
    return history.sights[-1].services.get(name) if history.sights else None


def _idle(history: History) -> Check:
    claim = f"{IDLE}: fewer replicas are recommended, with what that saves"
    service = _last(history, IDLE)
    if service is None:
        return Check(claim, holds=False, seen="not seen")
    moves = [text.split() for text in service.recommendations if text.startswith("Replicas ")]
    down = [move for move in moves if int(move[3]) < int(move[1])]
    return Check(claim, bool(down) and "USD" in service.savings, f"{_listed(service)}; {service.savings} a month")


def _idle_gpus(history: History) -> Check:
    seen = history.sights[-1].idle_gpus if history.sights else "nothing"
    said = f"{seen} idle GPUs, {history.sights[-1].emptyable_nodes if history.sights else '?'} nodes could be emptied"
    return Check("the ClusterResourceOptimization counts idle GPUs", seen.isdigit() and int(seen) > 0, said)


def _holders(facts: Facts) -> Check:
    claim = f"it names {IDLE} as a holder of idle GPUs, with what they cost"
    found = idle_holders(facts.cluster)
    named = [one for one in found if one.holder.endswith(f"/{IDLE}") and one.per_hour]
    said = ", ".join(f"{one.gpus} by {one.holder or 'nobody'}" for one in found) or "no idle GPU is named"
    return Check(claim, bool(named), said)


def _nodes_to_free(facts: Facts) -> Check:
    claim = "it names nodes that could go, with a place for every pod that would move"
    nodes = freeable_nodes(facts.cluster)
    said = ", ".join(f"{node.name} ({node.gpus:g} GPUs, {node.pods} pods to move)" for node in nodes) or "none"
    return Check(claim, bool(nodes) and all(len(node.moves) == node.pods for node in nodes), said)


def _short_of_cache(history: History) -> Check:
    claim = f"{SHORT}: the bottleneck is KVCache, with advice"
    service = _last(history, SHORT)
    if service is None:
        return Check(claim, holds=False, seen="not seen")
    said = f"{service.bottleneck or 'no bottleneck'}; {_listed(service)}"
    return Check(claim, service.bottleneck == "KVCache" and bool(service.recommendations), said)


def _listed(service: Service) -> str:
    return ", ".join(service.recommendations) or "no recommendation"


def _agent(facts: Facts) -> Check:
    listed = [agent for agent in facts.agents if agent.get("agent_id") == facts.real_agent]
    cores = facts.snapshot.get("cpu", {}).get("cores")
    memory = facts.snapshot.get("memory", {}).get("total_bytes") or 0
    real = cores is not None and not facts.snapshot.get("simulated", False) and memory > 0
    gpus = facts.snapshot.get("gpus") or []
    where = "registered (again, after the operator's restart)" if listed else "not registered"
    said = f"{facts.real_agent}: {where}; measured {cores} cores, {memory / 2**30:.1f} GiB, {len(gpus)} GPUs"
    claim = "the real agent is registered at the operator and measures this machine"
    return Check(claim, bool(listed) and real and cores == facts.cpus, said)


def _nothing_written(history: History, facts: Facts) -> Check:
    claim = f"nothing was written to {IDLE} and {SHORT}, nor to any Deployment"
    touched = [
        name
        for name in (IDLE, SHORT)
        if len({(s.services[name].generation, s.services[name].replicas) for s in history.sights if name in s.services})
        != 1
    ]
    forbidden = {key: number for key, number in facts.writes.items() if not _harmless(key)}
    by_resource: Counter[str] = Counter()
    for (_, resource, _), number in facts.writes.items():
        by_resource[resource] += number
    if not by_resource["horizontalpodautoscalers"]:
        return Check(claim, holds=False, seen="the audit log shows no write of the operator to any scaler")
    said = "the operator wrote, by the audit log: " + ", ".join(f"{n} {name}" for name, n in by_resource.most_common())
    if touched or forbidden:
        said = f"changed: {touched}; written: {forbidden}"
    return Check(claim, not touched and not forbidden, said)


def _harmless(key: tuple[str, str, str]) -> bool:
    """Whether a write concerns only what is the operator's own: statuses, checkpoints, Events, Lease, its HPA."""
    _, resource, name = key
    if resource == "horizontalpodautoscalers":
        return name.endswith(f"-{BUSY}")
    own = ("resourceoptimizations/status", "clusterresourceoptimizations/status", "optimizationcheckpoints")
    return resource in {*own, "events", "leases"}
