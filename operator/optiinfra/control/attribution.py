"""Who holds which GPU of a node: what its agent was told, completed by what the API server says of claims (DRA).

The kubelet names a claimed device by driver, pool and device, and the driver's ResourceSlices say which GPU that is.
Where the agent may not ask the kubelet (tier 0), ResourceClaims still name their devices and pods. What is left after
that is what the pods request (`domain.gpus`), and whoever uses it says so.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from optiinfra.domain.agent_readings import Attribution, Attributor, PhysicalDevice
from optiinfra.domain.workload import AgentReading, GpuAllocation, NodeFacts

FindDevice = Callable[[str, str, str], PhysicalDevice | None]
"""Driver, pool and device -> the GPU that it is."""


class ClaimView(Protocol):
    """What is known of nodes and claims; `optiinfra.cluster.inventory` is the real one."""

    def nodes(self) -> Mapping[str, NodeFacts]:
        """All nodes with their pods."""

    def device(self, driver: str, pool: str, name: str) -> PhysicalDevice | None:
        """Return the GPU that a device claimed by DRA is."""


def completed(reading: AgentReading, view: ClaimView) -> AgentReading:
    """Return a reading whose allocations hold those by claims too."""
    told = reading.attribution is not None and reading.attribution.by is Attributor.KUBELET
    if not reading.claims and (told or reading.allocations):
        return reading
    return attributed(reading, view.nodes().get(reading.node), view.device)


def attributed(reading: AgentReading, node: NodeFacts | None, find: FindDevice) -> AgentReading:
    """Return a reading whose allocations hold those by claims too; `node` is None where nodes are not seen."""
    if reading.claims:
        return _resolved(reading, find)
    if reading.allocations or node is None:
        return reading
    claimed = tuple(_claimed(node))
    if not claimed:
        return reading
    why = reading.attribution.reason if reading.attribution is not None else ""
    return dataclasses.replace(reading, allocations=_marked(claimed), attribution=Attribution(Attributor.CLAIMS, why))


def _resolved(reading: AgentReading, find: FindDevice) -> AgentReading:
    found: list[GpuAllocation] = []
    unresolved = 0
    for claim in reading.claims:
        device = find(claim.driver, claim.pool, claim.device)
        if device is None:
            unresolved += 1
            continue
        found.append(GpuAllocation(device.gpu_uuid, claim.namespace, claim.pod, claim.container, shared=device.part))
    attribution = reading.attribution
    if unresolved:
        text = f"{unresolved} claimed devices are no GPUs, or no ResourceSlice tells which"
        by = Attributor.KUBELET if attribution is None else attribution.by
        attribution = Attribution(by, text)
    allocations = _marked((*reading.allocations, *found))
    return dataclasses.replace(reading, allocations=allocations, attribution=attribution)


def _claimed(node: NodeFacts) -> Iterable[GpuAllocation]:
    for pod in node.pods:
        for held in pod.claimed:
            yield GpuAllocation(
                held.device.gpu_uuid, pod.namespace, pod.name, "", shared=held.shared or held.device.part
            )


def _marked(allocations: tuple[GpuAllocation, ...]) -> tuple[GpuAllocation, ...]:
    """A GPU in several hands is shared, whoever said so."""
    hands: dict[str, set[tuple[str, str, str]]] = {}
    for one in allocations:
        hands.setdefault(one.gpu_uuid, set()).add((one.namespace, one.pod, one.container))
    unique = dict.fromkeys(allocations)
    return tuple(
        one if one.shared or len(hands[one.gpu_uuid]) == 1 else dataclasses.replace(one, shared=True) for one in unique
    )
