"""GPUs: every one that an exporter saw, by its UUID, with what was measured of it and who held it.

Several exporters may see the same GPU; of each quantity the first that knows it counts: dcgm-exporter, in either
dialect, then our agent. A GPU that is cut (MIG) is its instances: the whole would count their work twice. Exporters
that name no UUID tell GPUs apart by node and index.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.report.frames import FloatArray
from optiinfra.domain.report.history import BoolArray, Course, GpuHistory, GpuSource
from optiinfra.domain.report.joining_frames import Answers, larger
from optiinfra.domain.report.joining_holders import Holders
from optiinfra.domain.report.joining_places import Places

COURSES: Final = (
    "utilization",
    "utilization_highest",
    "sm_active",
    "tensor_active",
    "dram_active",
    "memory_used",
    "power",
)
_PARTS: Final = (
    ("sm_active", "part_sm_active"),
    ("dram_active", "part_dram_active"),
    ("memory_used", "part_memory_used"),
)
_SOURCES: Final = ("dcgm", "agent")
_NOT_MEASURED: Final = Unknown(UnknownReason.NOT_MEASURED, "no exporter measures it")
_NO_TOTAL: Final = Unknown(UnknownReason.NOT_MEASURED, "no exporter tells its memory")
GpuKey = tuple[str, str]
"""UUID, and instance of a cut GPU or ""."""


@dataclass(slots=True)
class Seen:
    """A GPU while it is put together."""

    uuid: str
    instance: str
    node: str = ""
    model: str = ""
    profile: str = ""
    source: GpuSource = GpuSource.DCGM
    courses: dict[str, FloatArray] = field(default_factory=dict)
    there: BoolArray | None = None
    """(points,) when its utilisation was told, however absurd; None where it never was."""
    memory: dict[str, float] = field(default_factory=dict)
    """Newest totals: memory_total, memory_free, memory_reserved."""


def seen_gpus(answers: Answers, places: Places) -> dict[GpuKey, Seen]:
    """Read every GPU of every exporter."""
    found: dict[GpuKey, Seen] = {}
    for source in _SOURCES:
        _values(answers, places, source, found)
        _models(answers, places, source, found)
    _cut_by_agent(answers, places, found)
    whole = {uuid for uuid, instance in found if instance}
    return {key: one for key, one in found.items() if key[1] or key[0] not in whole}


def gpu_key(labels: Mapping[str, str], places: Places) -> GpuKey:
    """Return which GPU a series is about."""
    uuid = labels.get("UUID") or labels.get("uuid") or ""
    if not uuid and labels.get("gpu"):
        uuid = f"{places.of(labels)}/gpu{labels['gpu']}"
    return uuid, labels.get("GPU_I_ID", "")


def gpu_history(answers: Answers, seen: Seen, holders: Holders) -> GpuHistory:
    """Return what is known of one GPU."""
    # Utilisation is read step by step; what is read by the hour would let a GPU begin too early and end too late.
    present = answers.never() if seen.there is None else seen.there
    for course in seen.courses.values() if seen.there is None else ():
        present = present | np.isfinite(course)
    source = "agent" if seen.source is GpuSource.AGENT else "dcgm"
    courses: dict[str, Course] = {
        name: answers.where(f"{source}.{name}", seen.courses[name], seen.there)
        if name in seen.courses
        else _NOT_MEASURED
        for name in COURSES
    }
    holdings, by = holders.of((seen.uuid, seen.instance))
    power = courses["power"]
    energy: Value = Unknown(UnknownReason.NOT_MEASURED, "no exporter measures its power")
    if not isinstance(power, Unknown):
        energy = float(np.nansum(power)) * answers.step_s
    return GpuHistory(
        uuid=seen.uuid,
        node=seen.node,
        model=seen.model,
        instance=seen.instance,
        profile=seen.profile,
        source=seen.source,
        memory_total_bytes=_total(seen),
        utilization=courses["utilization"],
        sm_active=courses["sm_active"],
        tensor_active=courses["tensor_active"],
        dram_active=courses["dram_active"],
        memory_used_bytes=courses["memory_used"],
        power_watts=power,
        energy_joules=energy,
        holdings=holdings,
        holder_source=by,
        utilization_highest=courses["utilization_highest"],
        present=present,
    )


def _values(answers: Answers, places: Places, source: str, found: dict[GpuKey, Seen]) -> None:
    mine: set[tuple[GpuKey, str]] = set()
    for name in COURSES:
        rows = answers.rows(f"{source}.{name}")
        for row, (labels, values, _) in enumerate(answers.each(f"{source}.{name}")):
            one = _seen(labels, places, source, found) if np.isfinite(values).any() else None
            if one is None:
                continue
            if rows is not None and name == "utilization":
                one.there = rows.there[row] if one.there is None else one.there | rows.there[row]
            key = (one.uuid, one.instance), name
            if key in mine:
                # The same GPU under another host name, or from a copy of the server.
                one.courses[name] = larger(one.courses[name], values)
            elif name not in one.courses:
                one.courses[name] = values
                mine.add(key)
    for name in ("memory_total", "memory_free", "memory_reserved"):
        for labels, _, newest in answers.each(f"{source}.{name}"):
            one = found.get(gpu_key(labels, places))
            if one is not None and np.isfinite(newest) and newest > 0.0:
                one.memory.setdefault(name, newest)


def _models(answers: Answers, places: Places, source: str, found: dict[GpuKey, Seen]) -> None:
    for labels, _, newest in answers.each(f"{source}.models"):
        one = found.get(gpu_key(labels, places))
        if one is None:
            continue
        one.model = one.model or labels.get("modelName", "") or labels.get("model", "")
        one.profile = one.profile or labels.get("GPU_I_PROFILE", "")
        if source == "dcgm" and newest == 1.0:
            one.source = GpuSource.DCGM_SCALED
        node = places.of(labels)
        if node in places.names or not one.node:
            one.node = node


def _cut_by_agent(answers: Answers, places: Places, found: dict[GpuKey, Seen]) -> None:
    """Add the parts of cut GPUs that the agent sees, unless dcgm-exporter sees them."""
    by_dcgm = {uuid for uuid, instance in found if instance}
    parts: dict[str, Seen] = {}
    for labels, _, _ in answers.each("agent.parts"):
        whole = found.get((labels["uuid"], ""))
        if labels["uuid"] in by_dcgm or not labels["mig_uuid"]:
            continue
        one = parts.setdefault(
            labels["mig_uuid"],
            Seen(labels["uuid"], labels["gpu_instance"] or labels["mig_uuid"], source=GpuSource.AGENT),
        )
        one.profile = labels["profile"]
        one.node = whole.node if whole is not None else places.of(labels)
        one.model = whole.model if whole is not None else ""
        found[one.uuid, one.instance] = one
    for name, question in _PARTS:
        for labels, values, _ in answers.each(f"agent.{question}"):
            part = parts.get(labels["mig_uuid"])
            if part is not None:
                part.courses[name] = larger(part.courses.get(name, answers.unknown()), values)
    for labels, _, newest in answers.each("agent.part_memory_total"):
        part = parts.get(labels["mig_uuid"])
        if part is not None and np.isfinite(newest):
            part.memory["memory_total"] = newest


def _seen(labels: Mapping[str, str], places: Places, source: str, found: dict[GpuKey, Seen]) -> Seen | None:
    key = gpu_key(labels, places)
    if not key[0]:
        return None
    one = found.get(key)
    if one is None:
        one = found[key] = Seen(*key, source=GpuSource.AGENT if source == "agent" else GpuSource.DCGM)
    node = places.of(labels)
    if node and (not one.node or (node in places.names and one.node not in places.names)):
        one.node = node
    return one


def _total(seen: Seen) -> Value:
    total = seen.memory.get("memory_total")
    if total is not None:
        return total
    free, used = seen.memory.get("memory_free"), seen.courses.get("memory_used")
    if free is None or used is None or not np.isfinite(used).any():
        return _NO_TOTAL
    last = float(used[np.isfinite(used)][-1])
    return free + last + seen.memory.get("memory_reserved", 0.0)
