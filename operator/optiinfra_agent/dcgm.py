"""The same measurements under the names of dcgm-exporter before 4.9, for dashboards and alerts that ask for those.

Off by default: a node that runs dcgm-exporter as well would show every GPU twice. Names, units and labels are the
legacy ones (percent, MiB, MHz, millijoules; Grafana's dashboard 12239 and gpu-pruner use them), and a value that was
not measured is absent: never dcgm-exporter's 9223372036854775794. Who holds a GPU stands in `namespace`, `pod` and
`container`, as there, for a GPU that one container holds alone; for a shared one those labels stay empty, because
the GPU's figures are not that container's.

It has no DCGM_FI_DEV_XID_ERRORS, which is the number of the last Xid and not a count, and none of the rates that
dcgm-exporter makes itself (PCIe): `rate()` of our counters gives those.
"""

from collections.abc import Callable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric

from optiinfra_agent.snapshot import Allocation, GpuReading, Measured, Snapshot, Unknown

_MIB = 1024.0 * 1024.0
_LABELS = ("gpu", "UUID", "pci_bus_id", "device", "modelName", "Hostname", "namespace", "pod", "container")


def _field(name: str, *, times: float = 1.0) -> Callable[[GpuReading], Measured]:
    def read(gpu: GpuReading) -> Measured:
        value: Measured = getattr(gpu, name)
        return value if isinstance(value, Unknown) else value * times

    return read


def _free(gpu: GpuReading) -> Measured:
    total, used, reserved = gpu.memory_total_bytes, gpu.memory_used_bytes, gpu.memory_reserved_bytes
    if isinstance(total, Unknown):
        return total
    if isinstance(used, Unknown):
        return used
    return (total - used - (0.0 if isinstance(reserved, Unknown) else reserved)) / _MIB


# name, value, meaning
_GAUGES: tuple[tuple[str, Callable[[GpuReading], Measured], str], ...] = (
    ("DCGM_FI_DEV_SM_CLOCK", _field("sm_clock_hertz", times=1e-6), "SM clock frequency (in MHz)."),
    ("DCGM_FI_DEV_MEM_CLOCK", _field("memory_clock_hertz", times=1e-6), "Memory clock frequency (in MHz)."),
    ("DCGM_FI_DEV_GPU_TEMP", _field("temperature_celsius"), "GPU temperature (in C)."),
    ("DCGM_FI_DEV_MEMORY_TEMP", _field("memory_temperature_celsius"), "Memory temperature (in C)."),
    ("DCGM_FI_DEV_POWER_USAGE", _field("power_watts"), "Power draw (in W)."),
    ("DCGM_FI_DEV_GPU_UTIL", _field("utilization_ratio", times=100.0), "GPU utilization (in %)."),
    ("DCGM_FI_DEV_MEM_COPY_UTIL", _field("memory_utilization_ratio", times=100.0), "Memory utilization (in %)."),
    ("DCGM_FI_DEV_FB_FREE", _free, "Framebuffer memory free (in MiB)."),
    ("DCGM_FI_DEV_FB_USED", _field("memory_used_bytes", times=1 / _MIB), "Framebuffer memory used (in MiB)."),
    ("DCGM_FI_DEV_FB_RESERVED", _field("memory_reserved_bytes", times=1 / _MIB), "Framebuffer reserved (in MiB)."),
    ("DCGM_FI_PROF_SM_ACTIVE", _field("sm_active_ratio"), "Ratio of cycles an SM has a warp assigned."),
    ("DCGM_FI_PROF_SM_OCCUPANCY", _field("sm_occupancy_ratio"), "Ratio of warps resident on an SM."),
    ("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", _field("tensor_active_ratio"), "Ratio of cycles a tensor pipe is active."),
    ("DCGM_FI_PROF_DRAM_ACTIVE", _field("dram_active_ratio"), "Ratio of cycles the memory interface is active."),
)
_ENERGY = "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"


def families(snapshot: Snapshot) -> Iterator[Metric]:
    """Yield every family that has a value."""
    labels = {gpu.uuid: _labels(snapshot, gpu) for gpu in snapshot.gpus}
    for name, read, meaning in _GAUGES:
        gauge = GaugeMetricFamily(name, meaning, labels=_LABELS)
        for gpu in snapshot.gpus:
            value = read(gpu)
            if not isinstance(value, Unknown):
                gauge.add_metric(labels[gpu.uuid], round(value, 6))
        if gauge.samples:
            yield gauge
    # dcgm-exporter writes a counter without the suffix, which our writer would add: its readers ask for the bare name.
    energy = GaugeMetricFamily(_ENERGY, "Total energy consumption since boot (in mJ).", labels=_LABELS)
    for gpu in snapshot.gpus:
        if not isinstance(gpu.energy_joules_total, Unknown):
            energy.add_metric(labels[gpu.uuid], round(gpu.energy_joules_total * 1e3))
    if energy.samples:
        yield energy


def _labels(snapshot: Snapshot, gpu: GpuReading) -> tuple[str, ...]:
    holders = [one for one in snapshot.attribution.allocations if one.gpu_uuid == gpu.uuid]
    sole: Allocation | None = holders[0] if len(holders) == 1 and not holders[0].shared else None
    held = (sole.namespace, sole.pod, sole.container) if sole else ("", "", "")
    bus = "" if isinstance(gpu.pci_bus_id, Unknown) else gpu.pci_bus_id
    model = "" if isinstance(gpu.model, Unknown) else gpu.model
    return (str(gpu.index), gpu.uuid, bus, f"nvidia{gpu.index}", model, snapshot.node, *held)
