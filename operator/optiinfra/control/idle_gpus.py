"""Idle GPUs in a cluster's round: what engines say is joined, every GPU judged, and what stood long enough proposed.

`engines_of` runs in collect, which sees the pages; `judge` and `propose` run in the analysis and touch nothing but the
work. What is learned of GPUs (pauses, power floors) lives in the object's memory and outlasts a restart in its
checkpoints (`cluster_checkpoint`); since when each is idle begins anew, because nobody watched meanwhile, unless a
metrics server did (`gpu_past`).
"""

from collections.abc import Iterable, Mapping

from optiinfra.api.v1alpha1 import ResourceOptimization
from optiinfra.control import gpu_past
from optiinfra.control.keys import ObjectKey
from optiinfra.control.snapshots import SnapshotStore
from optiinfra.control.work import ClusterWork
from optiinfra.domain.evidence import Proposal
from optiinfra.domain.idle.holders import EngineWord
from optiinfra.domain.idle.nodes import Watch, bad_reading, fleet_verdicts, node_findings
from optiinfra.domain.idle.remedies import Given, remedies, workload_of
from optiinfra.domain.idle.states import IDLE_STATES, GpuState, GpuVerdict, IdlePolicy
from optiinfra.domain.readings import EngineReading, Signal, Unknown
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.domain.workload import NodeFacts, PodFacts

_SLEEP_FLAG = "--enable-sleep-mode"
_FRESH_S = 90.0
"""Pages older than this say nothing of an engine's work now."""
_AROUND_S = 60.0
Services = Mapping[tuple[str, str, str], str]


def services_of(known: Iterable[tuple[ObjectKey, ResourceOptimization]]) -> dict[tuple[str, str, str], str]:
    """Return the workloads that objects look after: (namespace, kind, name) -> name of the object."""
    found: dict[tuple[str, str, str], str] = {}
    for key, obj in known:
        refs = [obj.spec.target_ref] if obj.spec.target_ref else [one.target_ref for one in obj.spec.variants or ()]
        for ref in refs:
            found[key.namespace, str(ref.kind), str(ref.name)] = key.name
    return found


def engines_of(
    nodes: Iterable[NodeFacts], snapshots: SnapshotStore, services: Services, *, now: UnixTime
) -> dict[str, EngineWord]:
    """Return what the engines of all pods with GPUs say of their work, by namespace/name of the pod."""
    found: dict[str, EngineWord] = {}
    for node in nodes:
        for pod in node.pods:
            if pod.gpus <= 0.0:
                continue
            pages = snapshots.pages({pod.name: pod.uid}).get(pod.name)
            if pages and now - pages[-1].time <= _FRESH_S:
                found[f"{pod.namespace}/{pod.name}"] = _word(pod, pages, services)
    return found


def _word(pod: PodFacts, pages: tuple[EngineReading, ...], services: Services) -> EngineWord:
    newest, oldest = pages[-1], pages[0]
    busy = any(
        not isinstance(value, Unknown) and value > 0.0
        for page in pages
        for value in (page.gauge(Signal.REQUESTS_RUNNING), page.gauge(Signal.REQUESTS_WAITING))
    )
    for signal in (Signal.GENERATION_TOKENS, Signal.PROMPT_TOKENS):
        before, after = oldest.counters.get(signal), newest.counters.get(signal)
        busy = busy or (before is not None and after is not None and after > before)
    workload = workload_of(pod)
    arguments = [argument for container in pod.containers for argument in container.arguments]
    return EngineWord(
        time=newest.time,
        span=Seconds(newest.time - oldest.time + _AROUND_S),
        working=busy,
        sleeping=newest.gauge(Signal.SLEEPING) == 1.0,
        can_sleep=any(argument.split("=")[0] == _SLEEP_FLAG for argument in arguments),
        service=services.get((workload.namespace, workload.kind, workload.name), ""),
    )


def judge(cluster: ClusterWork, *, now: UnixTime, stale_after: Seconds, policy: IdlePolicy) -> None:
    """Judge every GPU, and remember since when each was idle or under-used."""
    window = cluster.obj.spec.idle_gpus.window.seconds
    memory = cluster.memory.gpus
    memory.policy = policy
    gpu_past.take(memory, cluster.memory.gpu_past)
    watch = Watch(
        now=now,
        window=window,
        stale_after=stale_after,
        policy=policy,
        engines=cluster.engines,
        prices=cluster.prices,
    )
    by_node = fleet_verdicts(tuple(cluster.nodes.values()), watch, memory)
    for name in cluster.nodes:
        judged = by_node.get(name, ())
        cluster.verdicts += judged
        cluster.findings += node_findings(judged)
    cluster.doubts += _doubts(cluster)
    # Snapshots reach back half an hour; a longer window is remembered round by round. Whatever is not surely idle,
    # missing data too, begins anew.
    cluster.idle = _stood(
        cluster.memory.idle_since,
        {one.uuid: _since(one, now) for one in cluster.verdicts if one.state in IDLE_STATES},
        window=window,
        now=now,
    )
    cluster.under_used = _stood(
        cluster.memory.under_used_since,
        {one.uuid: now for one in cluster.verdicts if one.state is GpuState.UNDER_USED},
        window=window,
        now=now,
    )


def _since(verdict: GpuVerdict, now: UnixTime) -> float:
    return now if isinstance(verdict.since, Unknown) else verdict.since


def _stood(known: dict[str, float], found: Mapping[str, float], *, window: float, now: float) -> frozenset[str]:
    """Bring the times since when something holds up to date; return what has held for the window."""
    for gone in [uuid for uuid in known if uuid not in found or known[uuid] > now]:
        del known[gone]
    for uuid, first in found.items():
        # A history that was read meanwhile may know of an earlier beginning.
        known[uuid] = min(known.get(uuid, first), first)
    return frozenset(uuid for uuid, first in known.items() if now - first >= window)


def _doubts(cluster: ClusterWork) -> tuple[str, ...]:
    """Say which readings cannot have been measured, and which agents live in the future."""
    wrong = [one for one in cluster.verdicts if one.reason == "BadReading"]
    if not wrong:
        return ()
    first = wrong[0]
    readings = cluster.nodes[first.node].agent
    why = next((bad_reading(gpu) for gpu in readings[-1].gpus if gpu.uuid == first.uuid), "") if readings else ""
    more = f", and {len(wrong) - 1} GPUs more" if len(wrong) > 1 else ""
    return (f"GPU {first.uuid} of node {first.node}: {why}{more}",)


def propose(cluster: ClusterWork) -> list[Proposal]:
    """Propose what to do about GPUs that were idle or under-used for the whole window."""
    lasting = cluster.idle | cluster.under_used
    proposals, refusals = remedies(
        [one for one in cluster.verdicts if one.uuid in lasting],
        Given(
            nodes=cluster.nodes,
            engines=cluster.engines,
            services=cluster.services,
            prices=cluster.prices,
            freed_nodes=frozenset(cluster.due),
        ),
    )
    cluster.refusals += refusals
    return list(proposals)
