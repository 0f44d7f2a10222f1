"""Who holds a GPU, as far as anybody can know, and what their engines say.

The kubelet tells the node's agent which pods hold which GPU; with MIG or time-slicing these are several. Where it may
not be asked, the case of a single GPU pod on its node remains: it holds all GPUs where it requests as many, and the
filled ones where they are as many as it requests. A GPU that nobody requested and whose memory is filled is used by a
process outside Kubernetes, unless the agent sees the host's processes: then whose they are, uses it, given or not.
"""

from collections.abc import Collection
from dataclasses import dataclass

from optiinfra.domain import gpus
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.domain.workload import AgentReading, NodeFacts, PodFacts

_NAMED = 3


@dataclass(frozen=True, slots=True)
class Held:
    """The pods (namespace/name) that hold a GPU; none: nobody in Kubernetes does."""

    pods: tuple[str, ...] = ()
    shared_by: str = ""
    """In which way they share it, for people; empty where nobody says that it is shared."""

    def __str__(self) -> str:
        return f"{self._names()}, sharing it by {self.shared_by}," if self.shared_by and self.pods else self._names()

    def _names(self) -> str:
        if not self.pods:
            return "a process outside Kubernetes"
        if len(self.pods) == 1:
            return f"pod {self.pods[0]}"
        more = f" and {len(self.pods) - _NAMED} more" if len(self.pods) > _NAMED else ""
        return f"pods {', '.join(self.pods[:_NAMED])}{more}"


@dataclass(frozen=True, slots=True)
class EngineWord:
    """What the engine of one pod says of itself."""

    time: UnixTime
    """Of its newest page."""
    span: Seconds
    """How long around that time it counts."""
    working: bool
    """Requests ran or waited, or tokens were made, on its latest pages."""
    sleeping: bool = False
    """It sleeps: weights were moved out of the GPU or given up."""
    can_sleep: bool = False
    """It was started with sleep mode."""
    service: str = ""
    """namespace/name of the ResourceOptimization that looks after it; empty when none does."""
    has_scaler: bool = False
    """A HorizontalPodAutoscaler, or the operator, sets its number of replicas."""


def holders_of(uuid: str, node: NodeFacts, reading: AgentReading) -> Held | Unknown:
    """Return who holds a GPU by the agent's latest reading: who was given it, and who has processes on it."""
    pods = {f"{one.namespace}/{one.pod}" for one in reading.allocations if one.gpu_uuid == uuid}
    users = {one.pod_uid for one in reading.users if one.gpu_uuid == uuid and one.pod_uid}
    if users:
        # A pod that sees all GPUs (NVIDIA_VISIBLE_DEVICES=all) is given none, and uses them.
        names = {pod.uid: f"{pod.namespace}/{pod.name}" for pod in node.pods}
        if not pods and not users <= names.keys():
            return Unknown(UnknownReason.NOT_MEASURED, "not known (a pod that the API server does not show uses it)")
        pods |= {names[uid] for uid in users if uid in names}
    if pods:
        return Held(tuple(sorted(pods)), gpus.sharing_of(uuid, reading))
    requested = sum(pod.gpus for pod in node.pods)
    if requested <= 0.0:
        return Held()
    attributed = {one.gpu_uuid for one in reading.allocations}
    if len(attributed) >= requested:
        return Held()
    on_gpus = [pod for pod in node.pods if pod.gpus > 0]
    if len(on_gpus) == 1:
        only = Held((f"{on_gpus[0].namespace}/{on_gpus[0].name}",))
        shares = gpus.shared_out(node, reading)
        if shares and len(reading.gpus) > 1:
            return Unknown(UnknownReason.UNSUPPORTED, f"not known ({shares})")
        if requested >= len(reading.gpus):
            return only
        filled = gpus.filled_gpus(reading)
        if filled is not None and len(filled) == requested:
            return only if uuid in filled else Held()
    return Unknown(UnknownReason.UNSUPPORTED, "not known (agent without pod-resources)")


def pod_of(name: str, node: NodeFacts) -> PodFacts | None:
    """Return a pod of a node by namespace/name."""
    return next((one for one in node.pods if f"{one.namespace}/{one.name}" == name), None)


def warming_up(pods: Collection[str], node: NodeFacts, *, now: UnixTime, warm_up: Seconds) -> bool:
    """Whether one of the holders may still load its model."""
    for name in pods:
        holder = pod_of(name, node)
        if holder is None:
            continue
        since = holder.created if holder.became_ready is None else holder.became_ready
        if now - since < warm_up:
            return True
    return False
