"""What to ask about the GPUs of a fleet, whoever measures them: dcgm-exporter in two dialects, or the node agent.

Values come one series a GPU, without the pod: pods come and go, and each would start a row of its own. Who holds a GPU
is a question apart, by workload. A GPU that two pods share is exported once a pod, with a literal 0 where no process is
mapped, so the largest counts. Means are over the window: a moment every five minutes sees nothing of short work.
Utilisation is read step by step, and tells when a GPU was there; all else is judged by the hour, holders are looked at
every twenty minutes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from optiinfra.domain.report.frames import Question
from optiinfra.domain.report.joining_found import Found, Spelling
from optiinfra.domain.surroundings_readings import GpuQuantity
from optiinfra.engines import gpu_tables
from optiinfra.engines.promql_fleet_parts import (
    FACTS_S,
    HOURLY_S,
    STEM,
    WORKLOAD,
    either,
    largest,
    last_told,
    over_window,
    question,
    replaced,
    select,
    with_workload,
)

GPU_LABELS: Final = ("UUID", "uuid", "gpu", "GPU_I_ID", "Hostname", "hostname", "node", "kubernetes_node", "nodename")
"""Who a value is about. `instance` is asked for with the models only: it moves with every start of an exporter."""
MODEL_LABELS: Final = (*GPU_LABELS, "modelName", "GPU_I_PROFILE", "instance")
AGENT_LABELS: Final = ("uuid", "node", "kubernetes_node", "nodename")
PART_LABELS: Final = ("mig_uuid", "node", "kubernetes_node", "nodename")
HOLDER_LABELS: Final = ("UUID", "uuid", "gpu", "GPU_I_ID", "Hostname", "hostname", "node")
AGENT_HOLDER_LABELS: Final = ("uuid", "mig_uuid", "share")
_EVERYTHING: Final = Found()
_FINE: Final = frozenset({"dcgm.utilization", "agent.utilization"})
_PREFIX: Final = "DCGM_"
_SCALED: Final = ("_RATIO", "_BYTES", "_WATTS")
"""What names of the dialect in base units end with."""
_POWER: Final = (("DCGM_FI_DEV_BOARD_POWER_WATTS", "DCGM_FI_DEV_POWER_USAGE"), "optiinfra_gpu_power_watts")
_ALLOCATION: Final = "optiinfra_gpu_allocation_info"
_AGENT_SPELLING: Final = Spelling(namespace=("workload_namespace",), pod=("workload_pod",))
_INFO: Final = "optiinfra_gpu_info"
_PART_INFO: Final = "optiinfra_gpu_mig_device_info"
_PARTS: Final = (
    ("part_sm_active", "optiinfra_gpu_mig_sm_active_ratio"),
    ("part_dram_active", "optiinfra_gpu_mig_dram_active_ratio"),
    ("part_memory_used", "optiinfra_gpu_mig_memory_used_bytes"),
    ("part_memory_total", "optiinfra_gpu_mig_memory_total_bytes"),
)
WANTED: Final = (
    ("utilization", GpuQuantity.UTILIZATION),
    ("sm_active", GpuQuantity.SM_ACTIVE),
    ("tensor_active", GpuQuantity.TENSOR_ACTIVE),
    ("dram_active", GpuQuantity.DRAM_ACTIVE),
    ("memory_used", GpuQuantity.MEMORY_USED),
)
TOTALS: Final = (
    ("memory_free", GpuQuantity.MEMORY_FREE),
    ("memory_reserved", GpuQuantity.MEMORY_RESERVED),
    ("memory_total", GpuQuantity.MEMORY_TOTAL),
)
"""The newest is enough."""


@dataclass(frozen=True, slots=True)
class _Name:
    name: str
    scale: float


def gpu_names() -> tuple[str, ...]:
    """Return the series by which exporters of GPUs are found."""
    rows = [row for row in gpu_tables.GPU_ROWS if row.quantity in {GpuQuantity.UTILIZATION, GpuQuantity.MEMORY_USED}]
    return (*(name for row in rows for name, _ in row.names), _ALLOCATION)


def gpu_questions(found: Found) -> Iterator[Question]:
    """Yield what to ask about GPUs, of each exporter that is there."""
    names = gpu_names()
    if found.has(*(name for name in names if name.startswith(_PREFIX))):
        yield from _dcgm(found)
    if found.has(*(name for name in names if not name.startswith(_PREFIX))):
        yield from _agent()


def _dcgm(found: Found) -> Iterator[Question]:
    scaled = found.has("DCGM_FI_DEV_GPU_UTIL_RATIO", "DCGM_FI_DEV_FB_USED_BYTES")
    for field, quantity in WANTED:
        listed = _names(quantity, dcgm=True, scaled=scaled, found=found)
        yield _question(f"dcgm.{field}", _values("avg_over_time", listed, GPU_LABELS), listed, GPU_LABELS)
    busy = _names(GpuQuantity.UTILIZATION, dcgm=True, scaled=scaled, found=found)
    yield _question("dcgm.utilization_highest", _values("max_over_time", busy, GPU_LABELS), busy, GPU_LABELS)
    power = [_Name(name, 1.0) for name in _POWER[0] if scaled or not name.endswith(_SCALED)]
    yield _question("dcgm.power", _values("avg_over_time", power, GPU_LABELS), power, GPU_LABELS)
    for field, quantity in TOTALS:
        listed = _names(quantity, dcgm=True, scaled=scaled, found=found)
        yield _question(f"dcgm.{field}", _values("last_over_time", listed, GPU_LABELS), listed, GPU_LABELS, latest=True)
    # Which dialect, model and instance: by a family that every exporter has. 1 where it is the scaled dialect's.
    kinds = " or ".join(
        f"0 * {largest(last_told(one.name), MODEL_LABELS)} + {0 if one.scale != 1.0 else 1}" for one in reversed(busy)
    )
    yield _question("dcgm.models", kinds, busy, MODEL_LABELS, latest=True)
    spelling = found.gpus
    by = (*HOLDER_LABELS, *spelling.namespace, "workload", *spelling.container)
    yield question(
        "dcgm.holders",
        f"count by ({','.join(by)}) ({_held([one.name for one in busy], spelling)})",
        metrics=[one.name for one in busy],
        by=by,
        split_by="instance",
        coarse_s=FACTS_S,
    )


def _agent() -> Iterator[Question]:
    for field, quantity in WANTED:
        if listed := _names(quantity, dcgm=False):
            yield _question(f"agent.{field}", _values("avg_over_time", listed, AGENT_LABELS), listed, AGENT_LABELS)
    highest = [_Name("optiinfra_gpu_utilization_max_ratio", 1.0)]
    yield _question("agent.utilization_highest", _values("max_over_time", highest, AGENT_LABELS), highest, AGENT_LABELS)
    power = [_Name(_POWER[1], 1.0)]
    yield _question("agent.power", _values("avg_over_time", power, AGENT_LABELS), power, AGENT_LABELS)
    total = _names(GpuQuantity.MEMORY_TOTAL, dcgm=False)
    yield _question(
        "agent.memory_total", _values("last_over_time", total, AGENT_LABELS), total, AGENT_LABELS, latest=True
    )
    info = [_Name(_INFO, 1.0)]
    labels = (*AGENT_LABELS, "model", "instance", "pod")
    yield _question("agent.models", largest(last_told(_INFO), labels), info, labels, latest=True)
    parts = (*PART_LABELS, "uuid", "profile", "gpu_instance")
    yield _question("agent.parts", largest(last_told(_PART_INFO), parts), [_Name(_PART_INFO, 1.0)], parts, latest=True)
    for field, name in _PARTS:
        yield _question(
            f"agent.{field}", _values("avg_over_time", [_Name(name, 1.0)], PART_LABELS), [_Name(name, 1.0)], PART_LABELS
        )
    spelled = with_workload(
        largest(
            select(_ALLOCATION), (*AGENT_HOLDER_LABELS, "workload_namespace", "workload_pod", "workload_container")
        ),
        _AGENT_SPELLING,
    )
    held = replaced(spelled, target="container", source="workload_container")
    by = (*AGENT_HOLDER_LABELS, *WORKLOAD, "container")
    yield question(
        "agent.holders",
        f"count by ({','.join(by)}) ({held})",
        metrics=[_ALLOCATION],
        by=by,
        split_by="instance",
        coarse_s=FACTS_S,
    )


def _held(names: list[str], spelling: Spelling) -> str:
    """Return series of GPUs with the workload of their holder. Joining tells which of several namespaces counts.

    Two hundred GPUs are looked at at each of thousands of steps, so that each series has one label replaced, no more;
    copies need not become one before, because whether anybody held a GPU is asked, not how often.
    """
    which = f'__name__=~"{"|".join(names)}"' if len(names) > 1 else ""
    name = names[0] if len(names) == 1 else ""
    parts, absent = [], ""
    for label in reversed(spelling.pod):
        matchers = [one for one in (which, absent, f'{label}!=""' if label != spelling.pod[0] else "") if one]
        parts.append(replaced(select(name, *matchers), target="workload", source=label, pattern=STEM))
        absent = f'{absent},{label}=""' if absent else f'{label}=""'
    return either(*parts)


def _names(quantity: GpuQuantity, *, dcgm: bool, scaled: bool = True, found: Found = _EVERYTHING) -> list[_Name]:
    """Return the families of a quantity, without those of the scaled dialect where nobody speaks it."""
    row = next(row for row in gpu_tables.GPU_ROWS if row.quantity is quantity)
    named = [_Name(name, scale) for name, scale in row.names if name.startswith(_PREFIX) is dcgm]
    named = [one for one in named if scaled or not one.name.endswith(_SCALED)]
    return [one for one in named if found.may_exist(one.name)] or named


def _values(function: str, names: list[_Name], labels: tuple[str, ...]) -> str:
    """Return one series a GPU, in base units; the best name of each GPU counts."""
    listed = []
    for one in names:
        text = largest(over_window(function, one.name), labels)
        listed.append(text if one.scale == 1.0 else f"{text} * {one.scale:.12g}")
    return either(*listed)


def _question(name: str, promql: str, names: list[_Name], by: tuple[str, ...], *, latest: bool = False) -> Question:
    coarse = 0.0 if latest or name in _FINE else HOURLY_S
    return question(
        name, promql, metrics=[one.name for one in names], by=by, split_by="instance", latest=latest, coarse_s=coarse
    )
