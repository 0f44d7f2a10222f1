"""Dynamic resource allocation (DRA): which GPU a claimed device is, and which pod holds it; mirrored.

A ResourceClaim names what was allocated by driver, pool and device, and the driver's ResourceSlices say which GPU that
is. Only both together tell whose a GPU is, and neither a node's agent nor a pod alone can. Devices count as GPUs by
their attribute `uuid` (GPU-..., or MIG-... with the GPU that it is a part of), as NVIDIA's driver publishes them;
other devices are none. Claims of administrators (`adminAccess`: monitors, this project's agent among them) use no
device up.

Nothing waits for this mirror: clusters without DRA, and rights that were not given, leave GPUs to the kubelet's own
word. The newest API version that the server has is read: v1 (Kubernetes 1.34), v1beta2 or v1beta1.
"""

import asyncio
import logging
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from optiinfra.cluster.client import KubernetesClient
from optiinfra.cluster.document import JsonObject, Key, flag, integer, mapping, objects, text
from optiinfra.cluster.errors import Absent, ClusterError
from optiinfra.cluster.watch import Reflector
from optiinfra.domain.agent_readings import HeldDevice, PhysicalDevice
from optiinfra.domain.workload import NodeFacts, PodFacts

_LOG = logging.getLogger(__name__)
_GROUP: Final = "/apis/resource.k8s.io"
_VERSIONS: Final = ("v1", "v1beta2", "v1beta1")
_LOOK_AGAIN: Final = 600.0
"""Seconds until a server that had no DRA is asked again: it may have been upgraded."""
CLAIMED: Final = "resource.k8s.io/gpus"
"""Name under which claimed GPUs are counted beside the resources of device plug-ins."""
_DEVICE_LIMIT: Final = 256

DeviceName = tuple[str, str, str]
"""Driver, pool, device."""


@dataclass(frozen=True, slots=True)
class SliceRecord:
    """One ResourceSlice."""

    driver: str
    pool: str
    generation: int
    node: str
    """Empty where its devices are not of one node."""
    devices: tuple[tuple[str, PhysicalDevice], ...]
    """Name and GPU of each device that is one."""


@dataclass(frozen=True, slots=True)
class ClaimRecord:
    """One ResourceClaim that was allocated."""

    devices: tuple[DeviceName, ...]
    pods: tuple[tuple[str, str], ...]
    """Name and uid of the pods that it is reserved for."""


def parse_slice(document: JsonObject) -> SliceRecord:
    """Parse a resource.k8s.io ResourceSlice of any version."""
    spec = mapping(document, "spec")
    found: list[tuple[str, PhysicalDevice]] = []
    for device in objects(spec, "devices")[:_DEVICE_LIMIT]:
        # Until v1beta2 what is told of a device lay one level deeper.
        told = mapping(device, "basic") or device
        attributes = {name.rpartition("/")[2]: value for name, value in mapping(told, "attributes").items()}
        uuid = _text(attributes, "uuid")
        if uuid:
            gpu = _text(attributes, "parentUUID") or uuid
            found.append((text(device, "name"), PhysicalDevice(gpu, _text(attributes, "productName"), gpu != uuid)))
    return SliceRecord(
        driver=sys.intern(text(spec, "driver")),
        pool=sys.intern(text(spec, "pool", "name")),
        generation=integer(spec, "pool", "generation"),
        node=sys.intern(text(spec, "nodeName")),
        devices=tuple(found),
    )


def _text(attributes: JsonObject, name: str) -> str:
    value = attributes.get(name)
    return sys.intern(text(value, "string")[:128]) if isinstance(value, dict) else ""


def parse_claim(document: JsonObject) -> ClaimRecord:
    """Parse a resource.k8s.io ResourceClaim of any version."""
    results = objects(document, "status", "allocation", "devices", "results")
    return ClaimRecord(
        devices=tuple(
            (text(one, "driver"), text(one, "pool"), text(one, "device"))
            for one in results
            if not flag(one, "adminAccess")
        ),
        pods=tuple(
            (text(one, "name"), text(one, "uid"))
            for one in objects(document, "status", "reservedFor")
            if text(one, "resource") == "pods" and not text(one, "apiGroup")
        ),
    )


class ResourceSlices:
    """Mirrors both kinds and joins them. `run()` goes on until cancelled."""

    def __init__(self, client: KubernetesClient, *, on_change: Callable[[], None]) -> None:
        self._client = client
        self._on_change = on_change
        self._slices: Reflector[SliceRecord] | None = None
        self._claims: Reflector[ClaimRecord] | None = None
        self._problem = ""
        self._devices: dict[DeviceName, tuple[str, PhysicalDevice]] | None = None
        self._held: dict[str, tuple[HeldDevice, ...]] | None = None

    async def run(self) -> None:
        """Find out what the server has, and mirror it until cancelled."""
        while True:
            version = await self._version()
            if version:
                await self._mirror(version)
            await asyncio.sleep(_LOOK_AGAIN)

    async def _version(self) -> str:
        try:
            group = await self._client.get(_GROUP)
        except Absent:
            self._problem = ""
            return ""
        except ClusterError as error:
            self._problem = f"{_GROUP}: {error}"
            _LOG.warning("DRA not asked for", extra={"error": str(error)})
            return ""
        served = {text(one, "version") for one in objects(group, "versions")}
        return next((version for version in _VERSIONS if version in served), "")

    async def _mirror(self, version: str) -> None:
        self._problem = ""
        self._slices = Reflector(
            self._client, f"{_GROUP}/{version}/resourceslices", parse=parse_slice, on_change=self._slice_changed
        )
        self._claims = Reflector(
            self._client, f"{_GROUP}/{version}/resourceclaims", parse=parse_claim, on_change=self._claim_changed
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(self._slices.run(), name="mirror resource slices")
            group.create_task(self._claims.run(), name="mirror resource claims")

    def _slice_changed(self, *_change: object) -> None:
        self._devices = self._held = None
        self._on_change()

    def _claim_changed(self, *_change: object) -> None:
        self._held = None
        self._on_change()

    def problems(self) -> tuple[str, ...]:
        """Say in words why a mirror fails now."""
        failing = (
            f"{mirror.path}: {mirror.last_error}"
            for mirror in (self._slices, self._claims)
            if mirror is not None and mirror.last_error is not None
        )
        return (self._problem, *failing) if self._problem else tuple(failing)

    @property
    def known(self) -> bool:
        """Whether slices and claims were listed: without them nobody's claims can be resolved."""
        return all(mirror is not None and mirror.synced for mirror in (self._slices, self._claims))

    def device(self, driver: str, pool: str, name: str) -> PhysicalDevice | None:
        """Return the GPU that a claimed device is; None where no slice says."""
        found = self._by_device().get((driver, pool, name))
        return None if found is None else found[1]

    def held(self, pod_uid: str) -> tuple[HeldDevice, ...]:
        """Return the GPUs that a pod holds by its claims."""
        if self._held is None:
            self._held = self._by_pod()
        return self._held.get(pod_uid, ())

    def joined(self, facts: PodFacts) -> PodFacts:
        """Return a pod's facts with the GPUs of its claims counted."""
        held = self.held(facts.uid)
        if not held:
            return facts
        count = float(len(held))
        rules = replace(facts.rules, resources=(*facts.rules.resources, (CLAIMED, count)))
        return replace(facts, gpus=facts.gpus + count, rules=rules, claimed=held)

    def joined_node(self, node: NodeFacts) -> NodeFacts:
        """Return a node with the GPUs that it offers by DRA; those of a device plug-in are the same GPUs."""
        here = [device for on, device in self._by_device().values() if on == node.name]
        if not here:
            return node
        gpus = float(len({device.gpu_uuid for device in here}))
        models = {device.model for device in here if device.model}
        return replace(
            node,
            gpus=max(node.gpus, gpus),
            gpu_model=node.gpu_model or (models.pop() if len(models) == 1 else ""),
            resources=(*node.resources, (CLAIMED, gpus)),
        )

    def _by_device(self) -> Mapping[DeviceName, tuple[str, PhysicalDevice]]:
        if self._devices is None:
            self._devices = {}
            records = self._slices.items.values() if self._slices is not None else ()
            newest: dict[tuple[str, str], int] = defaultdict(int)
            for one in records:
                newest[one.driver, one.pool] = max(newest[one.driver, one.pool], one.generation)
            for one in records:
                # A driver replaces the slices of a pool one by one; those of an older generation no longer hold.
                if one.generation == newest[one.driver, one.pool]:
                    self._devices |= {(one.driver, one.pool, name): (one.node, gpu) for name, gpu in one.devices}
        return self._devices

    def _by_pod(self) -> dict[str, tuple[HeldDevice, ...]]:
        found: dict[str, list[HeldDevice]] = defaultdict(list)
        claims: Mapping[Key, ClaimRecord] = self._claims.items if self._claims is not None else {}
        for record in claims.values():
            for driver, pool, name in record.devices:
                gpu = self.device(driver, pool, name)
                for _, uid in record.pods if gpu is not None else ():
                    assert gpu is not None
                    found[uid].append(HeldDevice(gpu, shared=len(record.pods) > 1))
        return {uid: tuple(held) for uid, held in found.items()}
