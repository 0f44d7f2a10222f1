"""What a pod asks for as a whole: its quality-of-service class, its effective request, and what an HPA divides by.

The rules are Kubernetes' own and differ from each other: the class looks at every container, init containers too; the
scheduler takes the larger of what runs together and what an init container needs; an HPA on utilisation adds up the
containers that run and refuses when one has no request. Read from `pkg/apis/core/v1/helper/qos/qos.go` and
`pkg/controller/podautoscaler/replica_calculator.go` of Kubernetes 1.36. Changing a request is asked of a copy; nothing
is changed in place.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.workload import ContainerFacts, Place, PodFacts


class Resource(StrEnum):
    """The resources that requests and limits are sized of."""

    CPU = "cpu"
    MEMORY = "memory"


class QosClass(StrEnum):
    """Who is evicted first when a node runs out of memory, and who may have cores of his own."""

    GUARANTEED = "Guaranteed"
    BURSTABLE = "Burstable"
    BEST_EFFORT = "BestEffort"


@dataclass(frozen=True, slots=True)
class PodShape:
    """The containers of one pod and what they ask for."""

    containers: tuple[ContainerFacts, ...]
    first: tuple[ContainerFacts, ...] = ()
    """Init containers and native sidecars, in their order."""
    pod_level: ContainerFacts | None = None

    @property
    def running(self) -> tuple[ContainerFacts, ...]:
        """Containers that run side by side: native sidecars too."""
        return (*self.containers, *(one for one in self.first if one.place is Place.SIDECAR))


def shape_of(pod: PodFacts) -> PodShape:
    """Return the shape of a pod."""
    return PodShape(pod.containers, pod.init_containers, pod.pod_level)


def newest(pods: Iterable[PodFacts]) -> PodFacts | None:
    """Return the pod that was made last, and so after the newest template; None where none has containers."""
    whole = [pod for pod in pods if pod.containers and not pod.terminating]
    return max(whole, key=lambda pod: (pod.created, pod.name), default=None)


def request_of(container: ContainerFacts, resource: Resource) -> Value:
    """Return a container's request."""
    return container.cpu_request_cores if resource is Resource.CPU else container.memory_request_bytes


def limit_of(container: ContainerFacts, resource: Resource) -> Value:
    """Return a container's limit."""
    return container.cpu_limit_cores if resource is Resource.CPU else container.memory_limit_bytes


def changed(shape: PodShape, name: str, resource: Resource, *, request: float, limit: float | None = None) -> PodShape:
    """Return the shape with another request of one container; `limit` None leaves the limit as it is."""

    def other(container: ContainerFacts) -> ContainerFacts:
        if container.name != name:
            return container
        if resource is Resource.CPU:
            kept = container.cpu_limit_cores if limit is None else limit
            return replace(container, cpu_request_cores=request, cpu_limit_cores=kept)
        kept = container.memory_limit_bytes if limit is None else limit
        return replace(container, memory_request_bytes=request, memory_limit_bytes=kept)

    return replace(shape, containers=tuple(map(other, shape.containers)), first=tuple(map(other, shape.first)))


def qos_class(shape: PodShape) -> QosClass:
    """Return the class that the API server gives a pod of this shape."""
    if shape.pod_level is not None:
        return _class([shape.pod_level])
    return _class([*shape.containers, *shape.first])


def _class(containers: list[ContainerFacts]) -> QosClass:
    sums: dict[tuple[str, Resource], float] = {}
    complete = True
    for container in containers:
        for resource in Resource:
            request, limit = request_of(container, resource), limit_of(container, resource)
            for kind, value in (("request", request), ("limit", limit)):
                if not isinstance(value, Unknown) and value > 0.0:
                    sums[kind, resource] = sums.get((kind, resource), 0.0) + value
            complete &= not isinstance(limit, Unknown) and limit > 0.0
    if not sums:
        return QosClass.BEST_EFFORT
    requests = {resource for kind, resource in sums if kind == "request"}
    limits = {resource for kind, resource in sums if kind == "limit"}
    equal = all(_same(sums["request", one], sums.get(("limit", one))) for one in requests)
    return QosClass.GUARANTEED if complete and equal and requests == limits else QosClass.BURSTABLE


def _same(one: float, other: float | None) -> bool:
    # Quantities are read as floats: what is written alike is alike, but sums may differ in the last bit.
    return other is not None and abs(one - other) <= 1e-9 * max(one, other)


def effective_request(shape: PodShape, resource: Resource) -> float:
    """Return what the scheduler sets aside for a pod: cores or bytes; a request that is missing counts as none."""
    if shape.pod_level is not None and (whole := _known(request_of(shape.pod_level, resource))) > 0.0:
        return whole
    running = _sum(shape.containers, resource)
    sidecars = peak = 0.0
    for container in shape.first:
        asked = _known(request_of(container, resource))
        if container.place is Place.SIDECAR:
            sidecars += asked
            peak = max(peak, sidecars)
        else:
            peak = max(peak, sidecars + asked)
    return max(running + sidecars, peak)


def scaled_request(shape: PodShape, resource: Resource, *, container: str = "") -> Value:
    """Return what an HPA divides a pod's use by: the sum of what runs, or one container's request.

    Unknown where a request is missing: the controller then computes nothing (FailedGetResourceMetric).
    """
    if not container and shape.pod_level is not None:
        whole = request_of(shape.pod_level, resource)
        if not isinstance(whole, Unknown):
            return whole
    counted = [one for one in shape.running if not container or one.name == container]
    if not counted:
        return Unknown(UnknownReason.INVALID, f"the pod has no container {container}")
    total = 0.0
    for one in counted:
        request = request_of(one, resource)
        if isinstance(request, Unknown):
            return Unknown(UnknownReason.NOT_CONFIGURED, f"container {one.name} has no {resource} request")
        total += request
    return total


def _known(value: Value) -> float:
    return 0.0 if isinstance(value, Unknown) else value


def _sum(containers: Iterable[ContainerFacts], resource: Resource) -> float:
    return sum(_known(request_of(one, resource)) for one in containers)
