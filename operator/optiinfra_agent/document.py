"""The snapshot as JSON: whole (`/v1/snapshot`, version 1), or a part of it under the same heading.

A value that was not measured becomes null, and the object's `unknown` map names the reason. Containers are rows and
not objects, because there are hundreds. Compact, and without NaN and infinity: `json` raises on them.
"""

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import fields, replace
from enum import StrEnum
from typing import Any, TypeAlias

from optiinfra_agent import value_sources
from optiinfra_agent.snapshot import (
    Allocation,
    Attribution,
    Claim,
    ClockSeconds,
    ContainerReading,
    CpuReading,
    DiskReading,
    GpuReading,
    GpuUser,
    Measured,
    MemoryReading,
    MigReading,
    NamedContainer,
    NetworkReading,
    NumaNode,
    OwnUsage,
    PressureReading,
    Reason,
    Sharing,
    Snapshot,
    SourceName,
    Unknown,
)

VERSION = 1
CONTAINER_FIELDS = ("id", "cpu_seconds_total", "memory_bytes", "working_set_bytes")
"""What a row of `pods` holds, in this order."""
NAMED_FIELDS = ("name", "cpu_seconds_total", "working_set_bytes")
"""What a row of `named_pods[].containers` holds, in this order."""
USER_FIELDS = ("gpu_index", "pod_uid", "container", "processes", "memory_bytes", "sm_ratio")
"""What a row of `gpu_users` holds, in this order."""
_OF_LIMITS = ("cpu_periods_total", "cpu_throttled_periods_total")
"""Behind those, on a node where a container has a CPU limit."""
_OF_PRESSURE = ("cpu_pressure_seconds_total", "memory_pressure_seconds_total", "io_pressure_seconds_total")
"""Behind those, each on a node where a container ever waited for it."""
_DIGITS = 4
"""Of a container's working set: half a thousandth, far below what changes between two readings."""
_FEW_DIGITS = 3
"""Of its memory with the pages of files, which the kernel drops when it likes."""
_MANY_SECONDS = 10_000
"""CPU seconds of a container that has worked for hours."""
_OF_CONTAINERS = ("pods", "named_pods")
_ZEROS = re.compile(r"(?<=[,\[])([1-9][0-9]*?)(0{3,})(?=[,\]])")
"""A whole number with zeros at its end, in a row: `6272000000` is `6272e6`, four bytes less and the same number."""
_NOT_SHOWN = frozenset({"from_elsewhere", "mps_processes"})
"""Of a GPU: the first is told by `value_sources`, the second by `sharing`, of the few that have any."""
_OF_OLDER = frozenset({"retired_pages_corrected", "retired_pages_uncorrected", "page_retirement_pending"})
"""Left out where unsupported: a GPU of Ampere and later remaps rows instead."""
_SELDOM = frozenset({"unavailable_events", "recovery_events"})
"""Left out while there were none; whether anybody listens, `xid_errors` and the capabilities say."""

_Row: TypeAlias = (
    CpuReading
    | MemoryReading
    | PressureReading
    | NetworkReading
    | DiskReading
    | NumaNode
    | OwnUsage
    | GpuUser
    | NamedContainer
    | Sharing
    | ClockSeconds
    | GpuReading
    | MigReading
    | ContainerReading
)


def _plain(reading: _Row, hidden: Collection[str] = ()) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    unknown: dict[str, str] = {}
    for field in fields(reading):
        value = getattr(reading, field.name)
        if field.name in hidden:
            continue
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
    # What is empty or false is left out: hundreds of these may be in one document.
    plain = {field.name: getattr(one, field.name) for field in fields(one)}
    return {name: value for name, value in plain.items() if value}


def _attribution(attribution: Attribution) -> dict[str, Any]:
    # What is empty or none is left out, as in sources.
    found = {
        "by": attribution.by.value,
        "reason": attribution.reason,
        "allocatable": dict(attribution.allocatable),
        "unresolved": attribution.unresolved,
        "unresolved_devices": list(attribution.unresolved_devices),
    }
    return {name: value for name, value in found.items() if value}


def _rows(readings: Iterable[_Row], columns: tuple[str, ...]) -> list[list[Any]]:
    # Rows and not objects: a hundred pods are 10 KiB less, and half of that still after gzip. What is unknown in a row
    # is null, and the row then ends with the reasons.
    rows = []
    for reading in readings:
        plain = _plain(reading)
        row = [plain[name] for name in columns]
        unknown = {name: why for name, why in plain.get("unknown", {}).items() if name in columns}
        if unknown:
            row.append(unknown)
        rows.append(row)
    return rows


def _columns(containers: tuple[ContainerReading, ...]) -> tuple[str, ...]:
    def ever(name: str) -> bool:
        return any(not isinstance(value := getattr(one, name), Unknown) and value > 0 for one in containers)

    limits = _OF_LIMITS if ever("cpu_periods_total") else ()
    return (*CONTAINER_FIELDS, *limits, *(name for name in _OF_PRESSURE if ever(name)))


def _pods(containers: tuple[ContainerReading, ...], columns: tuple[str, ...]) -> dict[str, list[list[Any]]]:
    pods: dict[str, list[ContainerReading]] = {}
    for container in containers:
        shown = replace(
            container,
            cpu_seconds_total=_spent(container.cpu_seconds_total),
            memory_bytes=_shortened(container.memory_bytes, _FEW_DIGITS),
            working_set_bytes=_shortened(container.working_set_bytes, _DIGITS),
            cpu_pressure_seconds_total=_rounded(container.cpu_pressure_seconds_total, 0),
            memory_pressure_seconds_total=_rounded(container.memory_pressure_seconds_total, 0),
            io_pressure_seconds_total=_rounded(container.io_pressure_seconds_total, 0),
        )
        pods.setdefault(container.pod_uid, []).append(shown)
    return {uid: _rows(some, columns) for uid, some in pods.items()}


def _named(containers: tuple[NamedContainer, ...]) -> dict[str, Any]:
    if not containers:
        return {}
    pods: dict[tuple[str, str], list[NamedContainer]] = {}
    for one in containers:
        shown = replace(
            one,
            cpu_seconds_total=_spent(one.cpu_seconds_total),
            working_set_bytes=_shortened(one.working_set_bytes, _DIGITS),
        )
        pods.setdefault((one.namespace, one.pod), []).append(shown)
    rows = [
        {"namespace": namespace, "pod": pod, "containers": _rows(some, NAMED_FIELDS)}
        for (namespace, pod), some in pods.items()
    ]
    return {"named_container_fields": NAMED_FIELDS, "named_pods": rows}


def _spent(value: Measured) -> Measured:
    """Round CPU seconds: to hundredths, to tenths where there are so many that a tenth is no share of a minute's."""
    return _rounded(value, 2 if isinstance(value, Unknown) or value < _MANY_SECONDS else 1)


def _rounded(value: Measured, places: int) -> Measured:
    return value if isinstance(value, Unknown) else round(value, places)


def _shortened(value: Measured, digits: int) -> Measured:
    # The digits behind are noise, and of all that is sent, what packs worst.
    return value if isinstance(value, Unknown) else round(int(value), digits - len(str(int(value))))


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
    return {"sources": {name.value: _source(snapshot, name) for name in snapshot.sources if name in names}}


def _source(snapshot: Snapshot, name: SourceName) -> dict[str, Any]:
    # Left out: a reason that is none, the time of the whole, which it is unless a source is read more rarely, and a
    # duration below a millisecond (`/metrics` has it to the microsecond).
    report = snapshot.sources[name]
    shown: dict[str, Any] = {"state": report.state.value}
    if report.reason:
        shown["reason"] = report.reason
    if report.time != snapshot.time:
        shown["time"] = report.time
    if took := round(report.duration_s, 3):
        shown["duration_s"] = took
    return shown


def _system(snapshot: Snapshot) -> dict[str, Any]:
    parts = {name: _plain(getattr(snapshot, name)) for name in ("cpu", "memory", "pressure", "network", "disks")}
    numa = [_plain(node) for node in snapshot.numa.nodes]
    return {**parts, "numa": numa, "agent_usage": _plain(snapshot.usage)}


def _hidden(gpu: GpuReading) -> Collection[str]:
    lacking = {name for name in _OF_OLDER if getattr(gpu, name) == Unknown(Reason.UNSUPPORTED)}
    none = {name for name in _SELDOM if isinstance(count := getattr(gpu, name), Unknown) or not count}
    return _NOT_SHOWN | lacking | none


def _gpus(snapshot: Snapshot) -> dict[str, Any]:
    driver = snapshot.driver_version
    sources, places = value_sources.listed(snapshot.gpus)
    gpus = [_plain(gpu, _hidden(gpu)) for gpu in snapshot.gpus]
    for gpu in gpus:
        if place := places[gpu["uuid"]]:
            gpu["value_sources"] = place
    users = _rows(snapshot.gpu_users, USER_FIELDS)
    return {
        "driver_version": None if isinstance(driver, Unknown) else driver,
        "gpus": gpus,
        "value_sources": sources,
        "mig_devices": [_plain(part) for part in snapshot.mig_devices],
        "sharing": [_plain(one) for one in snapshot.sharing],
        **({"gpu_users": users} if users else {}),
    }


def _held(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "attribution": _attribution(snapshot.attribution),
        "allocations": [_texts(one) for one in snapshot.attribution.allocations],
        "claims": [_texts(one) for one in snapshot.attribution.claims],
    }


def _containers(snapshot: Snapshot) -> dict[str, Any]:
    columns = _columns(snapshot.containers)
    by_id = {"container_fields": columns, "pods": _pods(snapshot.containers, columns)}
    return by_id | _named(snapshot.named_containers)


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
    return b"".join(pieces(snapshot, view))


def pieces(snapshot: Snapshot, view: View = View.SNAPSHOT) -> tuple[bytes, ...]:
    """Return the document of `to_json` cut where its kind changes: names and values first, rows of containers after.

    Joined they are the document; apart they pack better, because rows are made of digits.
    """
    sources, parts = _VIEWS[view]
    document = _heading(snapshot) | _sources(snapshot, sources)
    for part in parts:
        document |= part(snapshot)
    if view is View.SNAPSHOT:
        missing = {str(tier): reason for tier, reason in snapshot.privilege.missing.items()}
        document["privilege"] = {"tier": snapshot.privilege.tier, "missing": missing}
    rows = {name: document.pop(name) for name in _OF_CONTAINERS if name in document}
    found = [json.dumps(document, separators=(",", ":"), allow_nan=False).removesuffix("}")]
    for name, pods in rows.items():
        written = json.dumps(pods, separators=(",", ":"), allow_nan=False)
        short = _ZEROS.sub(lambda zeros: f"{zeros[1]}e{len(zeros[2])}", written)
        found.append(f',"{name}":{short}')
    found[-1] += "}"
    return tuple(piece.encode() for piece in found)
