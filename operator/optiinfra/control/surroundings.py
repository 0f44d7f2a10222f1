"""What surrounds a service's engines, from what the agents and the API server say about its pods and nodes.

A quantity that no source of this cluster measures stays unknown; nothing is derived from something else here. What
the node agents say of containers goes before metrics.k8s.io, which averages over a minute and knows no throttling. A
service on GPUs of several models has no GPU model: what holds for one would be promised for the other.
"""

from collections.abc import Mapping
from typing import Final

from optiinfra.control.usage import METRICS_API
from optiinfra.control.work import TargetWork
from optiinfra.domain import gpu_models, gpus
from optiinfra.domain.gpu_models import GpuModel
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.surroundings import Surroundings
from optiinfra.domain.surroundings_agents import (
    Found,
    OwnContainer,
    ServiceNode,
    measured,
    throttling,
    waiting_for_memory,
)
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.domain.utilization import Utilization
from optiinfra.domain.workload import GpuFacts, NodeFacts, WorkloadFacts

_USAGE_LASTS: Final = Seconds(180.0)
"""metrics.k8s.io is read once a minute and averages over up to another."""
_CONTAINER_WINDOW: Final = Seconds(180.0)
"""Agents read containers more rarely than GPUs, and a rate needs two readings."""
_NO_LIMIT: Final = Unknown(UnknownReason.UNSUPPORTED, "the engine's container has no CPU limit")


def surround(
    target: TargetWork, nodes: Mapping[str, NodeFacts], *, now: UnixTime, window: Seconds, stale_after: Seconds
) -> None:
    """Put together what the verdict on a target, and its sizes, need besides its pages."""
    facts, use = target.facts, target.utilization
    assert facts is not None
    assert use is not None
    own = _service_nodes(target, facts, nodes, now=now, window=window, stale_after=stale_after)
    around = measured(own)
    target.throttled, target.pressed = throttling(own), waiting_for_memory(own)
    by_api = container_cpu(target, now=now)
    sources: dict[str, str] = {}
    if isinstance(around["container_cpu"].value, Unknown) and not isinstance(by_api, Unknown):
        around["container_cpu"] = Found(by_api)
        sources["container_cpu"] = target.busiest_source or METRICS_API
    target.surroundings = Surroundings(
        gpu_utilization=use.gpu_ratio_mean,
        gpu_sm_active=use.sm_active_mean,
        gpu_memory_usage=use.gpu_memory_ratio,
        node_cpu=use.node_cpu_ratio,
        starting_replicas=float(max(0, facts.desired_replicas - facts.ready_replicas)),
        places={name: one.place for name, one in around.items() if one.place},
        sources=sources,
        **{name: one.value for name, one in around.items()},
    )


def _service_nodes(
    target: TargetWork,
    facts: WorkloadFacts,
    nodes: Mapping[str, NodeFacts],
    *,
    now: UnixTime,
    window: Seconds,
    stale_after: Seconds,
) -> list[ServiceNode]:
    """Return the nodes of a target's running pods, with the GPUs and the engines' containers that are its own."""
    held = frozenset(target.utilization.gpu_uuids) if target.utilization is not None else frozenset[str]()
    engine = target.settings.container
    by_node: dict[str, dict[tuple[str, str], OwnContainer]] = {}
    by_name: dict[str, dict[tuple[str, str, str], OwnContainer]] = {}
    for pod in facts.pods:
        if not pod.node or pod.phase != "Running":
            continue
        own, named = by_node.setdefault(pod.node, {}), by_name.setdefault(pod.node, {})
        limits = {one.name: one.cpu_limit_cores for one in pod.containers}
        for name, limit in limits.items():
            namespace = pod.namespace or facts.namespace
            named[namespace, pod.name, name] = OwnContainer(pod.name, name, limit, serves=name == engine)
        for identifier, name in pod.container_ids:
            limit = limits.get(name, _NO_LIMIT)
            own[pod.uid, identifier] = OwnContainer(pod.name, name, limit, serves=name == engine)
    found: list[ServiceNode] = []
    for name, own in sorted(by_node.items()):
        node = nodes.get(name)
        readings = () if node is None else gpus.recent(node, now=now, window=window)
        if readings and now - readings[-1].time > stale_after:
            readings = ()
        longer = gpus.recent(node, now=now, window=_CONTAINER_WINDOW) if node is not None and readings else ()
        found.append(ServiceNode(name, readings, held, longer=longer, containers=own, named=by_name[name]))
    return found


def container_cpu(target: TargetWork, *, now: UnixTime) -> Value:
    """Return the CPU that the engine's container uses of its limit, in the busiest pod."""
    name = target.settings.container
    measured = target.busiest.get(name)
    if measured is None or now - measured[0] > _USAGE_LASTS:
        return Unknown(UnknownReason.NOT_MEASURED, "no recent use of the engine's container is known")
    pods = target.facts.pods if target.facts is not None else ()
    limit = next((one.cpu_limit_cores for pod in pods for one in pod.containers if one.name == name), _NO_LIMIT)
    if isinstance(limit, Unknown) or limit <= 0.0:
        return _NO_LIMIT
    return min(1.0, measured[1] / limit)


def gpu_of(facts: WorkloadFacts, utilization: Utilization, nodes: Mapping[str, NodeFacts]) -> GpuModel | Unknown:
    """Return the model of the GPUs that the service's pods run on."""
    names: set[str] = set()
    for name in {pod.node for pod in facts.pods if pod.node and pod.gpus > 0}:
        node = nodes.get(name)
        if node is None:
            continue
        held = {gpu.model for gpu in _gpus(node) if gpu.uuid in utilization.gpu_uuids}
        names |= held or {gpu.model for gpu in _gpus(node)} or ({node.gpu_model} if node.gpu_model else set())
    if not names:
        return Unknown(UnknownReason.NOT_MEASURED, "neither an agent nor a node label tells the GPU's model")
    if len(names) > 1:
        return Unknown(UnknownReason.UNSUPPORTED, f"the service runs on {len(names)} models of GPUs")
    return gpu_models.recognise(names.pop())


def _gpus(node: NodeFacts) -> tuple[GpuFacts, ...]:
    return node.agent[-1].gpus if node.agent else ()
