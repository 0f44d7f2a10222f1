"""Nodes and GPUs out of a metrics server's series: dcgm-exporter's, our agent's, node-exporter's.

Series are sorted by node first (labels name it, each exporter in its own way); what of a node was scraped last is then
read by the tables of `gpu_tables`, as from a page. Who holds a GPU is told by dcgm-exporter's labels, which it takes
from the kubelet. What is not exported stays unknown, and nothing is carried over from an earlier scrape.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from optiinfra.domain.agent_readings import Attribution, Attributor
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.surroundings_readings import GpuQuantity, GpuReading, NodeQuantity
from optiinfra.domain.units import UnixTime
from optiinfra.domain.workload import AgentReading, GpuAllocation, GpuFacts
from optiinfra.engines import gpu_page
from optiinfra.engines import gpu_tables as tables
from optiinfra.engines.errors import PageError
from optiinfra.engines.series import NAME
from optiinfra.engines.text import Labels

Sampled = tuple[Labels, Sequence[float], Sequence[float]]
"""Labels with the name among them, times and values, oldest first."""
NODE_LABELS: Final = ("node", "Hostname", "kubernetes_node", "nodename", "exported_node")
"""Labels that name a node, best first."""
_POWER: Final = ("DCGM_FI_DEV_POWER_USAGE", "optiinfra_gpu_power_watts")
_ENERGY: Final = (("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", 1e-3), ("optiinfra_gpu_energy_joules_total", 1.0))
_MEMORY: Final = (
    ("node_memory_MemTotal_bytes", "node_memory_MemAvailable_bytes"),
    ("optiinfra_node_memory_total_bytes", "optiinfra_node_memory_available_bytes"),
)
_MODEL: Final = ("modelName", "model")
_INFO: Final = "optiinfra_gpu_info"
_GPU_FAMILIES: Final = tuple(sorted(name for row in tables.GPU_ROWS for name, _ in row.names))
GPU_NAMES: Final = (*_GPU_FAMILIES, *_POWER, *(name for name, _ in _ENERGY), _INFO)
NODE_NAMES: Final = (
    *(name for _, name in tables.NODE_ROWS),
    tables.CPU_SECONDS,
    *(name for pair in _MEMORY for name in pair),
)
VERSION: Final = "metrics server"
"""Stands where an agent's version would."""


def by_node(
    series: Iterable[Sampled], *, nodes: Mapping[str, object], node_of_pod: Callable[[str, str], str]
) -> dict[str, list[Sampled]]:
    """Sort series by the node that they are of; those of no known node are left out.

    `node_of_pod` gives the node of the exporter's own pod, by namespace and name; empty where it is not known.
    """
    found: dict[str, list[Sampled]] = {}
    for one in series:
        labels = dict(one[0])
        node = next((labels[name] for name in NODE_LABELS if labels.get(name) in nodes), "")
        # dcgm-exporter's pod and namespace are those of the GPU's holder, which runs on the same node.
        node = node or node_of_pod(labels.get("namespace", ""), labels.get("pod", ""))
        if node in nodes:
            found.setdefault(node, []).append(one)
    return found


def reading_of(node: str, series: Sequence[Sampled], *, skew: float = 0.0) -> AgentReading:
    """Return a node's newest scrapes as an agent's snapshot would tell them. Raises `PageError` where nothing is."""
    newest = _newest(series)
    if not newest:
        raise PageError("no sample of the node")
    at = UnixTime(max(times[-1] for _, times, _ in newest.values()) - skew)
    page = [(dict(labels)[NAME], labels, values[-1]) for labels, _, values in newest.values()]
    seen = gpu_page.read_series(page, at=at)
    facts = {one.uuid: one for one in seen.gpus}
    cores, busy = _cpu(seen.node, newest.values())
    total, available = _memory(page)
    allocations = _allocations(page)
    told = Attribution(Attributor.KUBELET, "as dcgm-exporter says") if allocations else None
    return AgentReading(
        time=at,
        node=node,
        agent_version=VERSION,
        cpu_cores=cores,
        cpu_utilization_ratio=busy,
        memory_total_bytes=total,
        memory_available_bytes=available,
        gpus=tuple(_gpu(one, page) for one in facts.values()),
        gpu_source=1.0 if facts else Unknown(UnknownReason.NOT_MEASURED, "no series of its GPUs"),
        allocations=allocations,
        attribution=told,
    )


def _newest(series: Sequence[Sampled]) -> dict[Labels, Sampled]:
    """Leave out what was not in its family's last scrapes: a GPU that went, a holder of before."""
    last: dict[str, float] = {}
    for labels, times, _ in series:
        name = dict(labels)[NAME]
        last[name] = max(last.get(name, 0.0), times[-1] if times else 0.0)
    return {one[0]: one for one in series if one[1] and one[1][-1] >= last[dict(one[0])[NAME]] - 1.0}


def _gpu(gpu: GpuReading, page: Sequence[tuple[str, Labels, float]]) -> GpuFacts:
    own = [(name, dict(labels), value) for name, labels, value in page if _uuid(dict(labels)) == gpu.uuid]
    model = next((labels[key] for _, labels, _ in own for key in _MODEL if labels.get(key)), "")
    power = next((value for name, _, value in own if name in _POWER and 0.0 <= value < 1e5), None)
    energy = next((v * scale for n, s in _ENERGY for name, _, v in own for scale in (s,) if name == n), None)
    values = gpu.values
    used = values.get(GpuQuantity.MEMORY_USED)
    parts = [values.get(one) for one in (GpuQuantity.MEMORY_FREE, GpuQuantity.MEMORY_USED)]
    total = values.get(GpuQuantity.MEMORY_TOTAL)
    if total is None and None not in parts:
        total = sum(one for one in parts if one is not None) + values.get(GpuQuantity.MEMORY_RESERVED, 0.0)
    return GpuFacts(
        uuid=gpu.uuid,
        model=model[:128],
        memory_total_bytes=_known(total, "its memory's size"),
        memory_used_bytes=_known(used, "its memory in use"),
        utilization_ratio=_known(values.get(GpuQuantity.UTILIZATION), "its utilisation"),
        power_watts=_known(power, "its power"),
        power_limit_watts=_known(None, "its power limit"),
        energy_joules=_known(energy, "its energy"),
        sm_active_ratio=_known(values.get(GpuQuantity.SM_ACTIVE), "activity of its multiprocessors"),
        tensor_active_ratio=_known(values.get(GpuQuantity.TENSOR_ACTIVE), "activity of its tensor cores"),
        dram_active_ratio=_known(values.get(GpuQuantity.DRAM_ACTIVE), "activity of its memory"),
    )


def _known(value: float | None, what: str) -> Value:
    return (
        Unknown(UnknownReason.NOT_MEASURED, f"the metrics server has no series of {what}") if value is None else value
    )


def _uuid(labels: Mapping[str, str]) -> str:
    name = next((labels[label] for label in tables.UUID_LABELS if labels.get(label)), "")
    instance = labels.get(tables.INSTANCE_LABEL, "")
    return f"{name}/{instance}" if instance else name


def _allocations(page: Sequence[tuple[str, Labels, float]]) -> tuple[GpuAllocation, ...]:
    found: dict[tuple[str, str, str, str], None] = {}
    for name, labels, _ in page:
        given = dict(labels)
        if not name.startswith("DCGM_"):
            continue
        # With `honor_labels: false` the exporter's own pod has the short names.
        prefix = "exported_" if given.get("exported_pod") else ""
        pod = given.get(f"{prefix}pod", "")
        # Without a holder the exporter sets no container, and the labels are those of its own target.
        container = given.get(f"{prefix}container", "")
        if pod and container and not (prefix == "" and given.get("container", "").endswith("exporter")):
            found[_uuid(given), given.get(f"{prefix}namespace", ""), pod, container] = None
    hands: dict[str, int] = {}
    for uuid, *_ in found:
        hands[uuid] = hands.get(uuid, 0) + 1
    return tuple(GpuAllocation(*one, shared=hands[one[0]] > 1) for one in found)


def _cpu(now: Mapping[NodeQuantity, float], series: Iterable[Sampled]) -> tuple[Value, Value]:
    cores = now.get(NodeQuantity.CPU_CORES)
    ratio = now.get(NodeQuantity.CPU_RATIO)
    known = _known(cores, "its cores")
    if ratio is not None or cores is None or cores <= 0.0:
        return known, _known(ratio, "its CPU")
    busy, spans = 0.0, []
    for labels, times, values in series:
        given = dict(labels)
        if given[NAME] != tables.CPU_SECONDS or given.get("mode") in tables.IDLE_MODES or len(times) < 2:
            continue
        if values[-1] < values[0]:
            return known, Unknown(UnknownReason.TOO_FEW_SAMPLES, "its CPU counters began anew")
        busy += values[-1] - values[0]
        spans.append(times[-1] - times[0])
    if not spans:
        return known, Unknown(UnknownReason.TOO_FEW_SAMPLES, "its CPU counters were scraped once")
    return known, min(1.0, busy / max(spans) / cores)


def _memory(page: Sequence[tuple[str, Labels, float]]) -> tuple[Value, Value]:
    values = {name: value for name, _, value in page if value >= 0.0}
    for total, available in _MEMORY:
        if total in values:
            return values[total], _known(values.get(available), "its free memory")
    return _known(None, "its memory"), _known(None, "its free memory")
