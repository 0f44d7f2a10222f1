"""The kubelet's PodResources API, version v1: which container was given which devices, CPUs and claims.

GA since Kubernetes 1.28 (`k8s.io/kubelet/pkg/apis/podresources/v1/api.proto`, whose field numbers are the constants
below). The socket is found in a mounted *directory*: a mounted socket would be the dead one after the kubelet's next
restart. What is not read here (memory blocks, CDI names, topology of memory) is skipped; unknown fields too, so that
a newer kubelet is no fault. Get needs the feature gate KubeletPodResourcesGet on kubelets before 1.34; without it
the kubelet answers an error, and that is what the caller gets.

Bounded: 16 MiB a response, the kubelet's own limit, and counts of what may be in it; whatever goes beyond is refused
as a whole, because a list that lacks pods would be believed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from optiinfra_agent import unary
from optiinfra_agent.errors import SourceFailedError, WireError
from optiinfra_agent.wire import View, fields, inner, numbers, signed, string_field, text

SOCKET = "kubelet.sock"
RESPONSE_LIMIT = 16 << 20
MAX_PODS = 2048
MAX_CONTAINERS = 8192
MAX_DEVICES = 65_536
_SERVICE = "/v1.PodResourcesLister/"

Message = TypeVar("Message")


@dataclass(frozen=True, slots=True)
class Devices:
    """Devices of one resource, as the device plug-in names them, and the NUMA nodes they are near to."""

    resource: str
    ids: tuple[str, ...]
    numa_nodes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ClaimedDevice:
    """One device of a ResourceClaim (DRA); which GPU it is, the driver's ResourceSlice says. `share` may be empty."""

    claim_namespace: str
    claim: str
    driver: str
    pool: str
    device: str
    share: str = ""


@dataclass(frozen=True, slots=True)
class Container:
    """What one container was given. `exclusive_cpus` counts the CPUs that nobody else may use."""

    name: str
    devices: tuple[Devices, ...] = ()
    claims: tuple[ClaimedDevice, ...] = ()
    exclusive_cpus: int = 0


@dataclass(frozen=True, slots=True)
class Pod:
    """The containers of one pod. The API gives no pod UID."""

    namespace: str
    name: str
    containers: tuple[Container, ...] = ()


class PodResources:
    """A client of the kubelet on this node."""

    def __init__(self, folder: Path, *, deadline_s: float) -> None:
        self._socket = folder / SOCKET
        self._deadline_s = deadline_s

    def list(self) -> tuple[Pod, ...]:
        """Return every pod on the node, those without devices too."""
        return _decoded(decode_list, self._call("List", b""))

    def get(self, *, namespace: str, name: str) -> Pod:
        """Return one pod. A pod the kubelet does not know is a SourceFailedError with gRPC's code."""
        request = string_field(1, name) + string_field(2, namespace)
        return _decoded(decode_get, self._call("Get", request))

    def allocatable(self) -> tuple[Devices, ...]:
        """Return all devices that the kubelet could give out, taken or not."""
        return _decoded(decode_allocatable, self._call("GetAllocatableResources", b""))

    def _call(self, method: str, request: bytes) -> bytes:
        return unary.call(
            self._socket, _SERVICE + method, request, deadline_s=self._deadline_s, limit_bytes=RESPONSE_LIMIT
        )


class _Budget:
    """Counts what one response holds, and refuses what no node has."""

    def __init__(self) -> None:
        self._left = {"pods": MAX_PODS, "containers": MAX_CONTAINERS, "devices": MAX_DEVICES}

    def spend(self, what: str) -> None:
        self._left[what] -= 1
        if self._left[what] < 0:
            raise WireError(f"more {what} than any node has")


def _decoded(decode: Callable[[bytes], Message], body: bytes) -> Message:
    try:
        return decode(body)
    except WireError as error:
        raise SourceFailedError(f"the kubelet's answer is not understood: {error}") from error


def decode_list(body: bytes) -> tuple[Pod, ...]:
    """Decode a ListPodResourcesResponse."""
    budget = _Budget()
    return tuple(_pod(inner(value), budget) for number, value in fields(memoryview(body)) if number == 1)


def decode_get(body: bytes) -> Pod:
    """Decode a GetPodResourcesResponse."""
    for number, value in fields(memoryview(body)):
        if number == 1:
            return _pod(inner(value), _Budget())
    raise WireError("an answer without a pod")


def decode_allocatable(body: bytes) -> tuple[Devices, ...]:
    """Decode an AllocatableResourcesResponse; CPUs and memory are left out."""
    budget = _Budget()
    return tuple(_devices(inner(value), budget) for number, value in fields(memoryview(body)) if number == 1)


def _pod(message: View, budget: _Budget) -> Pod:
    budget.spend("pods")
    name = namespace = ""
    containers: list[Container] = []
    for number, value in fields(message):
        if number == 1:
            name = text(value)
        elif number == 2:
            namespace = text(value)
        elif number == 3:
            containers.append(_container(inner(value), budget))
    if not name or not namespace:
        raise WireError("a pod without name or namespace")
    return Pod(namespace=namespace, name=name, containers=tuple(containers))


def _container(message: View, budget: _Budget) -> Container:
    budget.spend("containers")
    name = ""
    devices: list[Devices] = []
    claims: list[ClaimedDevice] = []
    cpus = 0
    for number, value in fields(message):
        if number == 1:
            name = text(value)
        elif number == 2:
            devices.append(_devices(inner(value), budget))
        elif number == 3:
            cpus += sum(1 for _ in numbers(value))
        elif number == 5:
            claims += _claim(inner(value), budget)
    return Container(name=name, devices=tuple(devices), claims=tuple(claims), exclusive_cpus=cpus)


def _devices(message: View, budget: _Budget) -> Devices:
    resource = ""
    ids: list[str] = []
    nodes: tuple[int, ...] = ()
    for number, value in fields(message):
        if number == 1:
            resource = text(value)
        elif number == 2:
            budget.spend("devices")
            ids.append(text(value))
        elif number == 3:
            nodes = tuple(_numa_node(inner(node)) for field, node in fields(inner(value)) if field == 1)
    return Devices(resource=resource, ids=tuple(ids), numa_nodes=nodes)


def _numa_node(message: View) -> int:
    for number, value in fields(message):
        if number == 1 and isinstance(value, int):
            return signed(value)
    return 0


def _claim(message: View, budget: _Budget) -> list[ClaimedDevice]:
    name = namespace = ""
    resources: list[View] = []
    for number, value in fields(message):
        if number == 2:
            name = text(value)
        elif number == 3:
            namespace = text(value)
        elif number == 4:
            resources.append(inner(value))
    claimed: list[ClaimedDevice] = []
    for resource in resources:
        budget.spend("devices")
        texts = {number: text(value) for number, value in fields(resource) if number in {2, 3, 4, 5}}
        claimed.append(
            ClaimedDevice(
                claim_namespace=namespace,
                claim=name,
                driver=texts.get(2, ""),
                pool=texts.get(3, ""),
                device=texts.get(4, ""),
                share=texts.get(5, ""),
            )
        )
    return claimed
