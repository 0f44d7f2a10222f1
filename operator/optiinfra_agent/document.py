"""The snapshot as JSON: whole (`/v1/snapshot`, version 1), or a part of it under the same heading.

A value that was not measured becomes null, and the object's `unknown` map names the reason. Containers are rows and
not objects, because there are hundreds. Compact, and without NaN and infinity: `json` raises on them.
"""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from enum import StrEnum
from typing import Any, TypeAlias

from optiinfra_agent.snapshot import (
    Allocation,
    Attribution,
    Claim,
    ClockSeconds,
    ContainerReading,
    CpuReading,
    DiskReading,
    GpuReading,
    MemoryReading,
    MigReading,
    NetworkReading,
    NumaNode,
    PressureReading,
    Snapshot,
    SourceName,
    Unknown,
)

VERSION = 1
CONTAINER_FIELDS = ("id", "cpu_seconds_total", "memory_bytes", "working_set_bytes")
"""What a row of `pods[].containers` holds, in this order."""

_Row: TypeAlias = (
    CpuReading
    | MemoryReading
    | PressureReading
    | NetworkReading
    | DiskReading
    | NumaNode
    | ClockSeconds
    | GpuReading
    | MigReading
    | ContainerReading
)


def _plain(reading: _Row) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    unknown: dict[str, str] = {}
    for field in fields(reading):
        value = getattr(reading, field.name)
        if isinstance(value, Unknown):
            plain[field.name] = None
            unknown[field.name] = value.reason.value
        elif isinstance(value, ClockSeconds):
            plain[field.name] = _plain(value)
        else:
            # A whole number needs no ".0": over eight GPUs that is half a KiB.
            plain[field.name] = int(value) if isinstance(value, float) and value.is_integer() else value
    if unknown:
        plain["unknown"] = unknown
    return plain


def _texts(one: Allocation | Claim) -> dict[str, Any]:
    # What is empty is left out: hundreds of these may be in one document.
    plain = {field.name: getattr(one, field.name) for field in fields(one)}
    return {name: value for name, value in plain.items() if value != ""}


def _attribution(attribution: Attribution) -> dict[str, Any]:
    return {
        "by": attribution.by.value,
        "reason": attribution.reason,
        "allocatable": dict(attribution.allocatable),
        "unresolved": attribution.unresolved,
        "unresolved_devices": list(attribution.unresolved_devices),
    }


def _pods(containers: tuple[ContainerReading, ...]) -> list[dict[str, Any]]:
    # Rows and not objects: a hundred pods are 10 KiB less, and half of that still after gzip. What is unknown in a row
    # is null, and the row then ends with the reasons.
    pods: dict[str, list[list[Any]]] = {}
    for container in containers:
        plain = _plain(container)
        row = [plain[name] for name in CONTAINER_FIELDS]
        if "unknown" in plain:
            row.append(plain["unknown"])
        pods.setdefault(container.pod_uid, []).append(row)
    return [{"uid": uid, "containers": rows} for uid, rows in pods.items()]


def _heading(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "version": VERSION,
        "time": snapshot.time,
        "node": snapshot.node,
        "agent": {
            "id": snapshot.agent.id,
            "version": snapshot.agent.version,
            "started": snapshot.agent.started,
        },
    }


def _sources(snapshot: Snapshot, names: Collection[SourceName]) -> dict[str, Any]:
    return {
        "sources": {
            name.value: {
                "state": report.state.value,
                "reason": report.reason,
                "time": report.time,
                "duration_s": report.duration_s,
            }
            for name, report in snapshot.sources.items()
            if name in names
        }
    }


def _system(snapshot: Snapshot) -> dict[str, Any]:
    parts = {name: _plain(getattr(snapshot, name)) for name in ("cpu", "memory", "pressure", "network", "disks")}
    return {**parts, "numa": [_plain(node) for node in snapshot.numa.nodes]}


def _gpus(snapshot: Snapshot) -> dict[str, Any]:
    driver = snapshot.driver_version
    return {
        "driver_version": None if isinstance(driver, Unknown) else driver,
        "gpus": [_plain(gpu) for gpu in snapshot.gpus],
        "mig_devices": [_plain(part) for part in snapshot.mig_devices],
    }


def _held(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "attribution": _attribution(snapshot.attribution),
        "allocations": [_texts(one) for one in snapshot.attribution.allocations],
        "claims": [_texts(one) for one in snapshot.attribution.claims],
    }


def _containers(snapshot: Snapshot) -> dict[str, Any]:
    return {"container_fields": CONTAINER_FIELDS, "pods": _pods(snapshot.containers)}


class View(StrEnum):
    """What is served of a snapshot; each under `/v1/` and its name."""

    SNAPSHOT = "snapshot"
    GPUS = "gpus"
    SYSTEM = "system"
    PODS = "pods"


_SYSTEM = frozenset(SourceName) - {SourceName.NVML, SourceName.POD_RESOURCES, SourceName.CONTAINERS}
_VIEWS: Mapping[View, tuple[frozenset[SourceName], tuple[Callable[[Snapshot], dict[str, Any]], ...]]] = {
    View.SNAPSHOT: (frozenset(SourceName), (_system, _gpus, _held, _containers)),
    View.GPUS: (frozenset({SourceName.NVML, SourceName.POD_RESOURCES}), (_gpus, _held)),
    View.SYSTEM: (_SYSTEM, (_system,)),
    View.PODS: (frozenset({SourceName.POD_RESOURCES, SourceName.CONTAINERS}), (_held, _containers)),
}


def to_json(snapshot: Snapshot, view: View = View.SNAPSHOT) -> bytes:
    """Return the snapshot, or a part of it under the same heading, as the compact JSON that the operator reads."""
    sources, parts = _VIEWS[view]
    document = _heading(snapshot) | _sources(snapshot, sources)
    for part in parts:
        document |= part(snapshot)
    if view is View.SNAPSHOT:
        missing = {str(tier): reason for tier, reason in snapshot.privilege.missing.items()}
        document["privilege"] = {"tier": snapshot.privilege.tier, "missing": missing}
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
