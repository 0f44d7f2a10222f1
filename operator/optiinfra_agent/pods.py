"""Which container holds which GPU: the kubelet's answer, put in terms of the GPUs that the driver knows.

By allocation, and by allocation only: a device id is resolved to the GPU it is on, or it is reported as unresolved. A
GPU that can be in several hands (replicas of time-slicing or MPS, MIG, or simply two containers) is `shared`, and
nobody is given a part of its load: who did what on it, the allocation does not tell. Forms of device ids:

    GPU-<uuid>            a whole GPU                       GPU-<uuid>::3       one replica of it
    MIG-<uuid>            a MIG device; the driver knows its GPU
    MIG-GPU-<uuid>/1/0    the same before driver 470        nvidia0/vgpu1, nvidia0/gi1, nvidia0   GKE, by minor number

Devices of claims (DRA) are named by driver, pool and device; which GPU that is, only the driver's ResourceSlices say,
so they are passed on as they are. Pods without devices are not repeated here. Blind to containers that see all GPUs by
NVIDIA_VISIBLE_DEVICES=all: nothing was allocated to them.
"""

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from optiinfra_agent.errors import SourceDeniedError, SourceError, SourceFailedError, SourceUnavailableError
from optiinfra_agent.podresources import Container, Devices, Pod, PodResources
from optiinfra_agent.procfs import read_text
from optiinfra_agent.snapshot import Allocation, Attribution, AttributionSource, Claim

log = logging.getLogger(__name__)

MAX_ALLOCATIONS = 1024
MAX_CLAIMS = 1024
MAX_RESOURCES = 32
UNRESOLVED_NAMED = 8
ALLOCATABLE_EVERY = 20
"""Passes between two questions for what could be allocated: it changes when a device plug-in does."""
MAX_MINORS = 64
_SHARED_RESOURCE = ".shared"
_REPLICA = "::"
_OLD_MIG = re.compile(r"MIG-(GPU-[0-9A-Fa-f-]+)/[0-9]+/[0-9]+")
_GKE = re.compile(r"nvidia([0-9]{1,3})(?:/(vgpu|gi)[0-9]+)?")
_MINOR = re.compile(r"^Device Minor:\s*([0-9]{1,3})\s*$", re.MULTILINE)
_UUID = re.compile(r"^GPU UUID:\s*(GPU-[0-9a-f-]+)\s*$", re.MULTILINE)
_FALL_BACK = "attribution falls back to the GPU requests of pods, which the operator sees"


@dataclass(frozen=True, slots=True)
class PodPass:
    """What one pass over the kubelet gave. `note` says what it did not give beside the list."""

    pods: tuple[Pod, ...]
    allocatable: tuple[Devices, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Known:
    """What the driver knows about this node's GPUs: minor number -> uuid, MIG uuid -> uuid of its GPU."""

    minors: Mapping[int, str]
    mig_parents: Mapping[str, str]


NOTHING = Known(minors={}, mig_parents={})


class PodCollector:
    """Asks the kubelet which container was given what."""

    def __init__(self, folder: Path | None, *, deadline_s: float) -> None:
        self._folder = folder
        self._client = None if folder is None else PodResources(folder, deadline_s=deadline_s)
        self._allocatable: tuple[Devices, ...] = ()
        self._note = ""
        self._passes = 0

    def collect(self) -> PodPass:
        """Return one pass, or raise the SourceError of the whole source."""
        if self._folder is None or self._client is None:
            raise SourceUnavailableError("switched off (tier 0)")
        try:
            is_there = self._folder.is_dir()
        except PermissionError as error:
            raise SourceDeniedError(f"{self._folder} may not be entered by this process") from error
        if not is_there:
            raise SourceUnavailableError(f"{self._folder} is not there: no kubelet, or not mounted (tier 0)")
        try:
            pods = self._client.list()
        except SourceUnavailableError as error:
            # The folder is there, so a kubelet should be: that is a fault (or a restart), and not just an absence.
            raise SourceFailedError(f"the kubelet does not answer: {error.reason}", code=error.code) from error
        _check(pods)
        if self._passes % ALLOCATABLE_EVERY == 0 or self._note:
            self._ask_allocatable()
        self._passes += 1
        return PodPass(pods=pods, allocatable=self._allocatable, note=self._note)

    def _ask_allocatable(self) -> None:
        assert self._client is not None
        try:
            self._allocatable, self._note = self._client.allocatable(), ""
        except SourceError as error:
            self._allocatable, self._note = (), f"allocatable devices are not known: {error.reason}"


def _check(pods: tuple[Pod, ...]) -> None:
    allocations = claims = 0
    for container in (container for pod in pods for container in pod.containers):
        claims += len(container.claims)
        for devices in container.devices:
            if any(is_gpu(devices.resource, one) or _GKE.fullmatch(one) for one in devices.ids[:1]):
                allocations += len({one.partition(_REPLICA)[0] for one in devices.ids})
    if allocations > MAX_ALLOCATIONS or claims > MAX_CLAIMS:
        raise SourceFailedError(
            f"{allocations} allocations and {claims} claims of GPUs;"
            f" more than {MAX_ALLOCATIONS} and {MAX_CLAIMS} are not believed"
        )


def attribute(taken: PodPass, known: Known) -> Attribution:
    """Return who holds what."""
    allocations: dict[tuple[str, str, str, str, str], Allocation] = {}
    claims: list[Claim] = []
    unresolved: list[str] = []
    for pod in taken.pods:
        for container in pod.containers:
            claims += _claims(pod, container)
            for devices in container.devices:
                for one in devices.ids:
                    held = _allocation(pod, container, devices.resource, one, known)
                    if held is not None:
                        key = (held.gpu_uuid, held.mig_uuid, held.namespace, held.pod, held.container)
                        allocations[key] = held
                    elif is_gpu(devices.resource, one):
                        unresolved.append(one)
    return Attribution(
        by=AttributionSource.KUBELET,
        reason=taken.note,
        allocations=_marked(allocations.values()),
        claims=tuple(claims),
        allocatable=_counts(taken.allocatable),
        unresolved=len(unresolved),
        unresolved_devices=tuple(unresolved[:UNRESOLVED_NAMED]),
        replicas=_replicas(taken, known),
    )


def unattributed(error: SourceError) -> Attribution:
    """Return what is said where the kubelet gave nothing."""
    return Attribution(by=AttributionSource.REQUESTS, reason=f"{error.reason}; {_FALL_BACK}")


def is_gpu(resource: str, device: str) -> bool:
    """Return whether a device is an NVIDIA GPU or a part of one, by its id or its resource."""
    return resource.startswith("nvidia.com/") or device.startswith(("GPU-", "MIG-"))


def mig_devices(taken: PodPass) -> frozenset[str]:
    """Return the MIG devices in use whose GPU the driver has to be asked for."""
    return frozenset(
        device.partition(_REPLICA)[0]
        for pod in taken.pods
        for container in pod.containers
        for devices in container.devices
        for device in devices.ids
        if device.startswith("MIG-") and not device.startswith("MIG-GPU-")
    )


def names_minors(taken: PodPass) -> bool:
    """Return whether a device is named by its GPU's minor number (GKE)."""
    return any(
        _GKE.fullmatch(device.partition(_REPLICA)[0])
        for pod in taken.pods
        for container in pod.containers
        for devices in container.devices
        for device in devices.ids
    )


def read_minors(procfs: Path) -> dict[int, str]:
    """Return minor number -> uuid from the driver's part of procfs; nothing where it has none.

    The driver answers these reads, so they may hang with it: only for a worker with a deadline.
    """
    found: dict[int, str] = {}
    try:
        folders = sorted((procfs / "driver" / "nvidia" / "gpus").iterdir())[:MAX_MINORS]
    except OSError:
        return found  # no driver, or one that keeps this from containers: the ids then stay unresolved, and are counted
    for folder in folders:
        try:
            text = read_text(folder / "information")
        except SourceError as error:
            log.debug("a GPU is not described", extra={"fields": {"reason": error.reason}})
            continue
        minor, uuid = _MINOR.search(text), _UUID.search(text)
        if minor and uuid:
            found[int(minor[1])] = uuid[1]
    return found


def _claims(pod: Pod, container: Container) -> Iterable[Claim]:
    for claim in container.claims:
        yield Claim(
            driver=claim.driver,
            pool=claim.pool,
            device=claim.device,
            claim=claim.claim,
            share=claim.share,
            namespace=pod.namespace,
            pod=pod.name,
            container=container.name,
        )


def _allocation(pod: Pod, container: Container, resource: str, device: str, known: Known) -> Allocation | None:
    base, _, replica = device.partition(_REPLICA)
    shared = bool(replica) or resource.endswith(_SHARED_RESOURCE)
    uuid, mig_uuid = "", ""
    old_mig, gke = _OLD_MIG.fullmatch(base), _GKE.fullmatch(base)
    if base.startswith("GPU-"):
        uuid = base
    elif old_mig:
        uuid, mig_uuid = old_mig[1], base
    elif base.startswith("MIG-"):
        uuid, mig_uuid = known.mig_parents.get(base, ""), base
    elif gke:
        uuid, shared = known.minors.get(int(gke[1]), ""), shared or gke[2] is not None
    if not uuid:
        return None
    return Allocation(
        gpu_uuid=uuid,
        namespace=pod.namespace,
        pod=pod.name,
        container=container.name,
        shared=shared or bool(mig_uuid),
        resource=resource,
        mig_uuid=mig_uuid,
    )


def _replicas(taken: PodPass, known: Known) -> dict[str, int]:
    """Return GPU -> how often the kubelet gives it out; those that it gives out once are left out.

    Taken ones count too: the list of what could be allocated is asked more rarely, and may be refused.
    """
    found: dict[str, set[str]] = {}
    held = (devices for pod in taken.pods for container in pod.containers for devices in container.devices)
    for devices in (*taken.allocatable, *held):
        for device in devices.ids:
            base, separator, _ = device.partition(_REPLICA)
            gke = _GKE.fullmatch(base)
            if separator and base.startswith("GPU-"):
                found.setdefault(base, set()).add(device)
            elif gke and gke[2] == "vgpu" and int(gke[1]) in known.minors:
                found.setdefault(known.minors[int(gke[1])], set()).add(device)
    return {uuid: len(ids) for uuid, ids in sorted(found.items())}


def _marked(allocations: Iterable[Allocation]) -> tuple[Allocation, ...]:
    # A GPU in the hands of two containers is shared, whatever its device plug-in calls it.
    held = sorted(allocations, key=lambda one: (one.gpu_uuid, one.namespace, one.pod, one.container, one.mig_uuid))
    count: dict[str, int] = {}
    for one in held:
        count[one.gpu_uuid] = count.get(one.gpu_uuid, 0) + 1
    return tuple(one if one.shared or count[one.gpu_uuid] == 1 else replace(one, shared=True) for one in held)


def _counts(devices: Iterable[Devices]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for one in devices:
        if any(is_gpu(one.resource, device) for device in one.ids):
            counts[one.resource] = counts.get(one.resource, 0) + len(one.ids)
    return dict(sorted(counts.items())[:MAX_RESOURCES])
