"""The families of GPUs, of their parts, and of who holds and uses them.

Hot series carry the uuid alone. What grows with something other than GPUs is bounded where it is read: allocations,
numbers of Xids, containers with processes on a GPU; which source gave a value is counted in GPUs and has no uuid.
"""

from collections.abc import Iterator
from dataclasses import fields

from prometheus_client.core import InfoMetricFamily, Metric

from optiinfra_agent import value_sources
from optiinfra_agent.families import PREFIX, Kind, add, family, single
from optiinfra_agent.snapshot import (
    Attribution,
    AttributionSource,
    GpuReading,
    GpuUser,
    MigReading,
    Sharing,
    Unknown,
)

# name, field, kind, meaning
GPU: tuple[tuple[str, str, Kind, str], ...] = (
    ("gpu_utilization_ratio", "utilization_ratio", "gauge", "Share of the last sample window with a kernel running."),
    ("gpu_memory_utilization_ratio", "memory_utilization_ratio", "gauge", "Share of time memory was read or written."),
    ("gpu_utilization_mean_ratio", "utilization_mean_ratio", "gauge", "Mean of all windows since the last collection."),
    ("gpu_utilization_max_ratio", "utilization_max_ratio", "gauge", "Largest window since the last collection."),
    ("gpu_sm_active_ratio", "sm_active_ratio", "gauge", "Mean share of streaming multiprocessors that were busy."),
    ("gpu_sm_occupancy_ratio", "sm_occupancy_ratio", "gauge", "Mean share of warps that were resident."),
    ("gpu_tensor_active_ratio", "tensor_active_ratio", "gauge", "Mean share of time the tensor cores were busy."),
    ("gpu_dram_active_ratio", "dram_active_ratio", "gauge", "Mean share of the memory bandwidth that was used."),
    ("gpu_memory_used_bytes", "memory_used_bytes", "gauge", "Memory in use, without what the driver reserves."),
    ("gpu_memory_total_bytes", "memory_total_bytes", "gauge", "Memory of the GPU."),
    ("gpu_memory_reserved_bytes", "memory_reserved_bytes", "gauge", "Memory that the driver reserves."),
    ("gpu_power_watts", "power_watts", "gauge", "Power draw, mean of a second on Ampere and later."),
    ("gpu_power_instant_watts", "power_instant_watts", "gauge", "Power draw of the moment."),
    ("gpu_power_limit_watts", "power_limit_watts", "gauge", "Power limit in force."),
    ("gpu_energy_joules_total", "energy_joules_total", "counter", "Energy since the driver was loaded."),
    ("gpu_temperature_celsius", "temperature_celsius", "gauge", "Temperature."),
    ("gpu_memory_temperature_celsius", "memory_temperature_celsius", "gauge", "Temperature of the memory."),
    ("gpu_sm_clock_hertz", "sm_clock_hertz", "gauge", "Clock of the streaming multiprocessors."),
    ("gpu_memory_clock_hertz", "memory_clock_hertz", "gauge", "Clock of the memory."),
    ("gpu_pcie_transmit_bytes_total", "pcie_transmit_bytes_total", "counter", "Bytes sent over PCIe."),
    ("gpu_pcie_receive_bytes_total", "pcie_receive_bytes_total", "counter", "Bytes received over PCIe."),
    ("gpu_nvlink_transmit_bytes_total", "nvlink_transmit_bytes_total", "counter", "Bytes sent over all NVLinks."),
    ("gpu_nvlink_receive_bytes_total", "nvlink_receive_bytes_total", "counter", "Bytes received over all NVLinks."),
    ("gpu_pcie_link_bytes_per_second", "pcie_link_bytes_per_second", "gauge", "Fastest PCIe link, in each direction."),
    ("gpu_bar1_total_bytes", "bar1_total_bytes", "gauge", "Memory that the CPU can map (BAR1)."),
    ("gpu_bar1_used_bytes", "bar1_used_bytes", "gauge", "Memory that the CPU has mapped (BAR1)."),
    ("gpu_ecc_corrected_errors", "ecc_corrected_errors", "gauge", "Memory errors corrected since the last reset."),
    ("gpu_ecc_uncorrected_errors", "ecc_uncorrected_errors", "gauge", "Memory errors not corrected since then."),
    ("gpu_remapped_rows_corrected", "remapped_rows_corrected", "gauge", "Rows remapped after corrected errors."),
    ("gpu_remapped_rows_uncorrected", "remapped_rows_uncorrected", "gauge", "Rows remapped after uncorrected ones."),
    ("gpu_remap_pending", "remap_pending", "gauge", "1 while rows wait for a reset to be remapped."),
    ("gpu_remap_failed", "remap_failed", "gauge", "1 once a row could not be remapped: replace the GPU."),
    ("gpu_retired_pages_corrected", "retired_pages_corrected", "gauge", "Pages retired for many corrected errors."),
    ("gpu_retired_pages_uncorrected", "retired_pages_uncorrected", "gauge", "Pages retired for an uncorrected one."),
    (
        "gpu_page_retirement_pending",
        "page_retirement_pending",
        "gauge",
        "1 while pages wait for a reset to be retired.",
    ),
    ("gpu_recovery_action", "recovery_action", "gauge", "0 none, 1 reset, 2 reboot, 3 drain, 4 drain and reset."),
    ("gpu_mig_enabled", "mig_enabled", "gauge", "1 while the GPU is partitioned (MIG)."),
    ("gpu_processes", "processes", "gauge", "Compute processes on the GPU."),
    ("gpu_mps_processes", "mps_processes", "gauge", "Of them, those below MPS."),
)
MIG = (
    ("gpu_mig_memory_total_bytes", "memory_total_bytes", "Memory of the part."),
    ("gpu_mig_memory_used_bytes", "memory_used_bytes", "Memory in use in the part."),
    ("gpu_mig_sm_active_ratio", "sm_active_ratio", "Mean share of the part's multiprocessors that were busy."),
    ("gpu_mig_sm_occupancy_ratio", "sm_occupancy_ratio", "Mean share of the part's warps that were resident."),
    ("gpu_mig_tensor_active_ratio", "tensor_active_ratio", "Mean share of time the part's tensor cores were busy."),
    ("gpu_mig_dram_active_ratio", "dram_active_ratio", "Mean share of the part's memory bandwidth that was used."),
)
# bit of the driver's mask: reason
CLOCK_REASONS = (
    (0x1, "idle"),
    (0x2, "applications_clocks"),
    (0x4, "power_cap"),
    (0x8, "hardware_slowdown"),
    (0x10, "sync_boost"),
    (0x20, "software_thermal"),
    (0x40, "hardware_thermal"),
    (0x80, "power_brake"),
    (0x100, "display_clocks"),
)


def gpus(gpus: tuple[GpuReading, ...], *, driver: str | Unknown) -> Iterator[Metric]:
    """Yield what is known of each GPU."""
    if not gpus:
        return
    info = InfoMetricFamily(PREFIX + "gpu", "What the GPU is. Empty labels are not known.")
    for gpu in gpus:
        numa_node = gpu.numa_node if isinstance(gpu.numa_node, Unknown) else f"{gpu.numa_node:g}"
        texts = {"model": gpu.model, "driver": driver, "pci_bus_id": gpu.pci_bus_id, "numa_node": numa_node}
        labels = {name: "" if isinstance(text, Unknown) else text for name, text in texts.items()}
        info.add_metric((), {"uuid": gpu.uuid, "index": str(gpu.index), **labels})
    yield info
    for name, field, kind, meaning in GPU:
        found = family(name, meaning, kind, ("uuid",))
        for gpu in gpus:
            add(found, (gpu.uuid,), getattr(gpu, field))
        if found.samples:
            yield found
    yield from _events(gpus)
    yield from _sources(gpus)


def _events(gpus: tuple[GpuReading, ...]) -> Iterator[Metric]:
    limited = family(
        "gpu_clock_event_seconds_total", "Time under a limit of the clocks.", "counter", ("uuid", "reason")
    )
    active = family("gpu_clock_event_active", "1 for what holds the clocks now.", "gauge", ("uuid", "reason"))
    xids = family("gpu_xid_errors_total", "Xid events since the agent's start.", "counter", ("uuid", "xid"))
    meaning = "Events of a GPU that became unavailable, or whose recovery action changed, since the agent's start."
    others = family("gpu_events_total", meaning, "counter", ("uuid", "event"))
    for gpu in gpus:
        for reason in fields(gpu.clock_event_seconds):
            add(limited, (gpu.uuid, reason.name), getattr(gpu.clock_event_seconds, reason.name))
        if not isinstance(gpu.clock_event_reasons, Unknown):
            mask = int(gpu.clock_event_reasons)
            for bit, name in CLOCK_REASONS:
                if mask & bit:
                    active.add_metric((gpu.uuid, name), 1.0)
        if not isinstance(gpu.xid_errors, Unknown):
            for number, count in gpu.xid_errors:
                xids.add_metric((gpu.uuid, str(number)), count)
        add(others, (gpu.uuid, "unavailable"), gpu.unavailable_events)
        add(others, (gpu.uuid, "recovery_action"), gpu.recovery_events)
    yield from (one for one in (limited, active, xids, others) if one.samples)


def parts(parts: tuple[MigReading, ...]) -> Iterator[Metric]:
    """Yield what is known of each part of a partitioned GPU."""
    if not parts:
        return
    info = InfoMetricFamily(PREFIX + "gpu_mig_device", "Part of a partitioned GPU. An empty profile is not known.")
    for part in parts:
        profile = "" if isinstance(part.profile, Unknown) else part.profile
        labels = {"mig_uuid": part.uuid, "uuid": part.gpu_uuid, "profile": profile}
        info.add_metric((), {**labels, "gpu_instance": str(part.gpu_instance)})
    yield info
    for name, field, meaning in MIG:
        found = family(name, meaning, "gauge", ("mig_uuid",))
        for part in parts:
            add(found, (part.uuid,), getattr(part, field))
        if found.samples:
            yield found


def attribution(attribution: Attribution) -> Iterator[Metric]:
    """Yield who holds what, and what could be given out."""
    if attribution.by is not AttributionSource.KUBELET:
        return  # not known, which is not the same as nobody
    held = InfoMetricFamily(PREFIX + "gpu_allocation", "A container holds the GPU, or a part of it.")
    for one in attribution.allocations:
        labels = {
            "uuid": one.gpu_uuid,
            "workload_namespace": one.namespace,
            "workload_pod": one.pod,
            "workload_container": one.container,
            "share": "mig" if one.mig_uuid else "shared" if one.shared else "exclusive",
            "mig_uuid": one.mig_uuid,
        }
        held.add_metric((), labels)
    if held.samples:
        yield held
    allocatable = family("node_allocatable_devices", "GPUs or parts that can be allocated.", "gauge", ("resource",))
    for resource, count in attribution.allocatable.items():
        allocatable.add_metric((resource,), count)
    if allocatable.samples:
        yield allocatable
    meaning = "Allocated devices of which the GPU is not known."
    yield single("agent_unresolved_devices", meaning, attribution.unresolved)


def sharing(shared: tuple[Sharing, ...]) -> Iterator[Metric]:
    """Yield in which way GPUs are in several hands."""
    info = InfoMetricFamily(PREFIX + "gpu_sharing", "The GPU is, or can be, in several hands.")
    replicas = family("gpu_replicas", "How often the kubelet gives the GPU out, if more than once.", "gauge", ("uuid",))
    for one in shared:
        info.add_metric((), {"uuid": one.gpu_uuid, "by": one.by.value})
        if one.replicas:
            replicas.add_metric((one.gpu_uuid,), one.replicas)
    yield from (found for found in (info, replicas) if found.samples)


def users(gpus: tuple[GpuReading, ...], users: tuple[GpuUser, ...]) -> Iterator[Metric]:
    """Yield what the processes of each container have of each GPU."""
    uuids = {gpu.index: gpu.uuid for gpu in gpus}
    labels = ("uuid", "workload_pod_uid", "workload_container_id")
    processes = family("gpu_workload_processes", "Processes of one container on the GPU.", "gauge", labels)
    memory = family("gpu_workload_memory_bytes", "Memory of the GPU that they hold.", "gauge", labels)
    active = family("gpu_workload_sm_ratio", "Mean share of the multiprocessors' time that they had.", "gauge", labels)
    for user in users:
        names = (uuids[user.gpu_index], user.pod_uid, user.container)
        add(processes, names, user.processes)
        add(memory, names, user.memory_bytes)
        add(active, names, user.sm_ratio)
    yield from (found for found in (processes, memory, active) if found.samples)


def _sources(gpus: tuple[GpuReading, ...]) -> Iterator[Metric]:
    meaning = "GPUs of which this source gives this value."
    found = family("gpu_value_sources", meaning, "gauge", ("value", "source"))
    for labels, count in value_sources.counted(gpus).items():
        found.add_metric(labels, count)
    yield found
