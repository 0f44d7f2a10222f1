"""What surrounds a service's engines, from what the agents and the API server say about its pods and nodes.

A quantity that no source of this cluster measures stays unknown; nothing is derived from something else here. A
service on GPUs of several models has no GPU model: what holds for one would be promised for the other.
"""

from collections.abc import Mapping
from typing import Final

from optiinfra.control.work import TargetWork
from optiinfra.domain import gpu_models
from optiinfra.domain.gpu_models import GpuModel
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.surroundings import Surroundings
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.domain.utilization import Utilization
from optiinfra.domain.workload import GpuFacts, NodeFacts, WorkloadFacts

_USAGE_LASTS: Final = Seconds(180.0)
"""metrics.k8s.io is read once a minute and averages over up to another."""
_NO_LIMIT: Final = Unknown(UnknownReason.UNSUPPORTED, "the engine's container has no CPU limit")


def surroundings_of(utilization: Utilization, facts: WorkloadFacts, *, container_cpu: Value) -> Surroundings:
    """Put together what the verdict on a service needs besides its pages."""
    return Surroundings(
        gpu_utilization=utilization.gpu_ratio_mean,
        gpu_sm_active=utilization.sm_active_mean,
        gpu_memory_usage=utilization.gpu_memory_ratio,
        container_cpu=container_cpu,
        node_cpu=utilization.node_cpu_ratio,
        starting_replicas=float(max(0, facts.desired_replicas - facts.ready_replicas)),
    )


def container_cpu(target: TargetWork, *, now: UnixTime) -> Value:
    """Return the CPU that the engine's container uses of its limit, in the busiest pod."""
    name = target.settings.container
    measured = target.busiest.get(name)
    if measured is None or now - measured[0] > _USAGE_LASTS:
        return Unknown(UnknownReason.NOT_MEASURED, "no recent use of the engine's container in metrics.k8s.io")
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
