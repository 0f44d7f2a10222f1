"""The `/metrics` page: the last snapshot in Prometheus text, plus the agent's own series.

Names carry the prefix `optiinfra_`, base units, `_total` on counters, ratios from 0 to 1. Hot series carry the uuid
alone; what describes a GPU sits in `optiinfra_gpu_info`, so that a driver update does not start every series anew.
Unknown means that the series is absent: no NaN, no 0. Names of node_exporter and DCGM are never used, because they
would count the same thing twice on a node that runs both. Who holds a GPU sits in `optiinfra_gpu_allocation_info`, with
`workload_` before the names of its labels: a `pod` of ours would become `exported_pod` beside the scraper's own. One
series for each GPU that a container holds, at most `pods.MAX_ALLOCATIONS`; a node that claims more is a failed source.
Containers' CPU and memory are in the snapshot only: the kubelet already exports them for Prometheus.

prometheus-client writes the text: measured, it adds 2.3 MiB to this process, and it knows escaping, OpenMetrics and the
metrics of the own process. What a collection measured is written once and kept until the next one; only ages and the
own process are written at each scrape.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import Literal

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from optiinfra_agent import dcgm
from optiinfra_agent.collection import Collection, Published
from optiinfra_agent.registration import Registration
from optiinfra_agent.snapshot import (
    Attribution,
    AttributionSource,
    GpuReading,
    MigReading,
    NumaReading,
    SourceState,
    Unknown,
)
from optiinfra_agent.traffic import Traffic

_PREFIX = "optiinfra_"
_OPEN_METRICS_END = b"# EOF\n"
_Kind = Literal["gauge", "counter"]

# name, field, kind, meaning
_GPU: tuple[tuple[str, str, _Kind, str], ...] = (
    ("gpu_utilization_ratio", "utilization_ratio", "gauge", "Share of the last sample window with a kernel running."),
    ("gpu_memory_utilization_ratio", "memory_utilization_ratio", "gauge", "Share of time memory was read or written."),
    ("gpu_sm_active_ratio", "sm_active_ratio", "gauge", "Mean share of streaming multiprocessors that were busy."),
    ("gpu_sm_occupancy_ratio", "sm_occupancy_ratio", "gauge", "Mean share of warps that were resident."),
    ("gpu_tensor_active_ratio", "tensor_active_ratio", "gauge", "Mean share of time the tensor cores were busy."),
    ("gpu_dram_active_ratio", "dram_active_ratio", "gauge", "Mean share of the memory bandwidth that was used."),
    ("gpu_memory_used_bytes", "memory_used_bytes", "gauge", "Memory in use, without what the driver reserves."),
    ("gpu_memory_total_bytes", "memory_total_bytes", "gauge", "Memory of the GPU."),
    ("gpu_memory_reserved_bytes", "memory_reserved_bytes", "gauge", "Memory that the driver reserves."),
    ("gpu_power_watts", "power_watts", "gauge", "Power draw."),
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
    ("gpu_bar1_total_bytes", "bar1_total_bytes", "gauge", "Memory that the CPU can map (BAR1)."),
    ("gpu_bar1_used_bytes", "bar1_used_bytes", "gauge", "Memory that the CPU has mapped (BAR1)."),
    ("gpu_ecc_corrected_errors", "ecc_corrected_errors", "gauge", "Memory errors corrected since the last reset."),
    ("gpu_ecc_uncorrected_errors", "ecc_uncorrected_errors", "gauge", "Memory errors not corrected since then."),
    ("gpu_remapped_rows_corrected", "remapped_rows_corrected", "gauge", "Rows remapped after corrected errors."),
    ("gpu_remapped_rows_uncorrected", "remapped_rows_uncorrected", "gauge", "Rows remapped after uncorrected ones."),
    ("gpu_remap_pending", "remap_pending", "gauge", "1 while rows wait for a reset to be remapped."),
    ("gpu_remap_failed", "remap_failed", "gauge", "1 once a row could not be remapped: replace the GPU."),
    ("gpu_recovery_action", "recovery_action", "gauge", "0 none, 1 reset, 2 reboot, 3 drain, 4 drain and reset."),
    ("gpu_mig_enabled", "mig_enabled", "gauge", "1 while the GPU is partitioned (MIG)."),
    ("gpu_processes", "processes", "gauge", "Compute processes on the GPU."),
)
_MIG = (
    ("gpu_mig_memory_total_bytes", "memory_total_bytes", "Memory of the part."),
    ("gpu_mig_memory_used_bytes", "memory_used_bytes", "Memory in use in the part."),
    ("gpu_mig_sm_active_ratio", "sm_active_ratio", "Mean share of the part's multiprocessors that were busy."),
    ("gpu_mig_sm_occupancy_ratio", "sm_occupancy_ratio", "Mean share of the part's warps that were resident."),
    ("gpu_mig_tensor_active_ratio", "tensor_active_ratio", "Mean share of time the part's tensor cores were busy."),
    ("gpu_mig_dram_active_ratio", "dram_active_ratio", "Mean share of the part's memory bandwidth that was used."),
)
# bit of the driver's mask: reason
_CLOCK_REASONS = (
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
_CPU: tuple[tuple[str, str, _Kind, str], ...] = (
    ("node_cpu_cores", "cores", "gauge", "CPU cores."),
    ("node_cpu_busy_seconds_total", "busy_seconds_total", "counter", "Busy CPU time since boot, over all cores."),
    ("node_cpu_utilization_ratio", "utilization_ratio", "gauge", "Busy share between the last two collections."),
    ("node_load1", "load1", "gauge", "Load average over one minute."),
)
_MEMORY: tuple[tuple[str, str, _Kind, str], ...] = (
    ("node_memory_total_bytes", "total_bytes", "gauge", "Memory of the node."),
    ("node_memory_available_bytes", "available_bytes", "gauge", "Memory that could still be given out."),
    ("node_memory_used_bytes", "used_bytes", "gauge", "Total minus available."),
    ("node_swap_total_bytes", "swap_total_bytes", "gauge", "Swap space."),
    ("node_swap_used_bytes", "swap_used_bytes", "gauge", "Swap space in use."),
)
_NETWORK: tuple[tuple[str, str, _Kind, str], ...] = (
    ("node_network_interfaces", "interfaces", "gauge", "Real network interfaces."),
    ("node_network_receive_bytes_total", "receive_bytes_total", "counter", "Bytes received over them."),
    ("node_network_transmit_bytes_total", "transmit_bytes_total", "counter", "Bytes sent over them."),
    ("node_network_errors_total", "errors_total", "counter", "Packets with errors."),
    ("node_network_dropped_total", "dropped_total", "counter", "Packets dropped."),
)
_DISKS: tuple[tuple[str, str, _Kind, str], ...] = (
    ("node_disks", "disks", "gauge", "Whole disks."),
    ("node_disk_read_bytes_total", "read_bytes_total", "counter", "Bytes read from them."),
    ("node_disk_written_bytes_total", "written_bytes_total", "counter", "Bytes written to them."),
    ("node_disk_busy_seconds_total", "busy_seconds_total", "counter", "Time with a request at a disk, over all."),
)
_MODES = ("user", "system", "steal", "idle", "iowait")
_PRESSURE = (
    ("cpu", "some", "cpu_some_ratio"),
    ("memory", "some", "memory_some_ratio"),
    ("memory", "full", "memory_full_ratio"),
    ("io", "some", "io_some_ratio"),
    ("io", "full", "io_full_ratio"),
)


class Exposition:
    """The page: the families of the last collection, kept as text, and before them those of the moment."""

    def __init__(
        self, *, collection: Collection, registration: Registration, traffic: Traffic, dcgm_names: bool = False
    ) -> None:
        self._collection = collection
        self._dcgm_names = dcgm_names
        self._moment = CollectorRegistry()
        self._moment.register(_Moment(collection, registration, traffic))
        ProcessCollector(registry=self._moment)
        self._kept: tuple[Published | None, dict[str, bytes]] = (None, {})

    def page(self, accept: str) -> tuple[bytes, str]:
        """Return the page and its type: OpenMetrics where the Accept header asks for it, else Prometheus' text."""
        write, content_type = choose_encoder(accept)
        published = self._collection.published
        if published is None:
            return write(self._moment), content_type
        # One reference of one moment: two scrapes at once may both write, and neither keeps the other's collection.
        of, texts = self._kept
        if of is not published:
            texts = {}
            self._kept = (published, texts)
        if content_type not in texts:
            measured = CollectorRegistry()
            measured.register(_Measured(published, dcgm_names=self._dcgm_names))
            texts[content_type] = write(measured)
        return write(self._moment).removesuffix(_OPEN_METRICS_END) + texts[content_type], content_type


class _Measured(Collector):
    """Families that stand until the next collection."""

    def __init__(self, published: Published, *, dcgm_names: bool) -> None:
        self._published = published
        self._dcgm_names = dcgm_names

    def collect(self) -> Iterator[Metric]:
        """Yield every family that has a value."""
        yield from _agent(self._published)
        snapshot = self._published.snapshot
        for reading, table in (
            (snapshot.cpu, _CPU),
            (snapshot.memory, _MEMORY),
            (snapshot.network, _NETWORK),
            (snapshot.disks, _DISKS),
        ):
            for name, field, kind, meaning in table:
                family = _family(name, meaning, kind, ())
                _add(family, (), getattr(reading, field))
                if family.samples:
                    yield family
        pressure = _family(
            "node_pressure_ratio",
            "Share of the last 10 s in which some or all tasks waited for a resource.",
            "gauge",
            ("resource", "kind"),
        )
        for resource, kind_of, field in _PRESSURE:
            _add(pressure, (resource, kind_of), getattr(snapshot.pressure, field))
        if pressure.samples:
            yield pressure
        modes = _family("node_cpu_seconds_total", "CPU time since boot by mode.", "counter", ("mode",))
        for mode in _MODES:
            _add(modes, (mode,), getattr(snapshot.cpu, f"{mode}_seconds_total"))
        if modes.samples:
            yield modes
        yield from _numa(snapshot.numa)
        yield from _gpus(snapshot.gpus, driver=snapshot.driver_version)
        yield from _parts(snapshot.mig_devices)
        yield from _attribution(snapshot.attribution)
        if self._dcgm_names:
            yield from dcgm.families(snapshot)


class _Moment(Collector):
    """Families that change without a collection: ages, and whether the orchestrator knows this agent."""

    def __init__(self, collection: Collection, registration: Registration, traffic: Traffic) -> None:
        self._collection = collection
        self._registration = registration
        self._traffic = traffic

    def describe(self) -> Iterable[Metric]:
        """Return nothing: which families there are depends on what was measured."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield every family that has a value."""
        state = self._registration.state
        if state.wanted:
            yield _single("agent_registered", "1 while the orchestrator knows this agent.", float(state.registered))
        answered = self._traffic.answered
        requests = _family("agent_requests_total", "Requests answered since the start.", "counter", ())
        requests.add_metric((), answered.requests)
        seconds = _family("agent_request_seconds_total", "Time spent on answering them.", "counter", ())
        seconds.add_metric((), answered.seconds)
        yield from (requests, seconds)
        published = self._collection.published
        if published is None:
            return
        now = time.monotonic()
        yield _single("agent_snapshot_age_seconds", "Age of the snapshot.", max(0.0, now - published.collected))
        ages = _family("agent_source_age_seconds", "Time since the last success.", "gauge", ("source",))
        for name in published.snapshot.sources:
            if name in published.succeeded:
                ages.add_metric((name.value,), max(0.0, now - published.succeeded[name]))
        yield ages


def _agent(published: Published) -> Iterator[Metric]:
    snapshot = published.snapshot
    info = InfoMetricFamily(_PREFIX + "agent", "Version and node of the agent.")
    info.add_metric((), {"version": snapshot.agent.version, "node": snapshot.node, "agent_id": snapshot.agent.id})
    yield info
    passes = _family("agent_collections_total", "Collections since the start.", "counter", ())
    passes.add_metric((), published.passes)
    yield passes
    success = _family("agent_source_success", "1 if the last reading succeeded.", "gauge", ("source",))
    states = _family("agent_source_state", "1 for the state the source is in.", "gauge", ("source", "state"))
    durations = _family("agent_source_duration_seconds", "Time the last reading took.", "gauge", ("source",))
    for name, report in snapshot.sources.items():
        success.add_metric((name.value,), float(report.state is SourceState.OK))
        states.add_metric((name.value, report.state.value), 1.0)
        durations.add_metric((name.value,), report.duration_s)
    yield from (success, states, durations)
    yield _single("agent_privilege_tier", "Highest tier of privilege that is there.", snapshot.privilege.tier)
    if published.nvml_code is not None:
        meaning = "Last NVML return code of the last collection that was an error, 0 if there was none."
        yield _single("agent_nvml_return_code", meaning, published.nvml_code)


def _family(name: str, meaning: str, kind: _Kind, labels: tuple[str, ...]) -> GaugeMetricFamily | CounterMetricFamily:
    family = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
    return family(_PREFIX + name, meaning, labels=labels)


def _single(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(_PREFIX + name, meaning, value=value)


def _add(family: GaugeMetricFamily | CounterMetricFamily, labels: tuple[str, ...], value: float | Unknown) -> None:
    if not isinstance(value, Unknown):
        family.add_metric(labels, float(value))


def _numa(numa: NumaReading) -> Iterator[Metric]:
    for name, field, meaning in (
        ("node_numa_memory_total_bytes", "memory_total_bytes", "Memory of the NUMA node."),
        ("node_numa_memory_free_bytes", "memory_free_bytes", "Memory of the NUMA node that nothing uses."),
    ):
        family = _family(name, meaning, "gauge", ("numa_node",))
        for node in numa.nodes:
            _add(family, (str(node.number),), getattr(node, field))
        if family.samples:
            yield family


def _gpus(gpus: tuple[GpuReading, ...], *, driver: str | Unknown) -> Iterator[Metric]:
    if not gpus:
        return
    info = InfoMetricFamily(_PREFIX + "gpu", "What the GPU is. Empty labels are not known.")
    for gpu in gpus:
        numa_node = gpu.numa_node if isinstance(gpu.numa_node, Unknown) else f"{gpu.numa_node:g}"
        texts = {"model": gpu.model, "driver": driver, "pci_bus_id": gpu.pci_bus_id, "numa_node": numa_node}
        labels = {name: "" if isinstance(text, Unknown) else text for name, text in texts.items()}
        info.add_metric((), {"uuid": gpu.uuid, "index": str(gpu.index), **labels})
    yield info
    for name, field, kind, meaning in _GPU:
        family = _family(name, meaning, kind, ("uuid",))
        for gpu in gpus:
            _add(family, (gpu.uuid,), getattr(gpu, field))
        if family.samples:
            yield family
    yield from _events(gpus)


def _events(gpus: tuple[GpuReading, ...]) -> Iterator[Metric]:
    limited = _family(
        "gpu_clock_event_seconds_total", "Time under a limit of the clocks.", "counter", ("uuid", "reason")
    )
    active = _family("gpu_clock_event_active", "1 for what holds the clocks now.", "gauge", ("uuid", "reason"))
    xids = _family("gpu_xid_errors_total", "Xid events since the agent's start.", "counter", ("uuid", "xid"))
    for gpu in gpus:
        for reason in fields(gpu.clock_event_seconds):
            _add(limited, (gpu.uuid, reason.name), getattr(gpu.clock_event_seconds, reason.name))
        if not isinstance(gpu.clock_event_reasons, Unknown):
            mask = int(gpu.clock_event_reasons)
            for bit, name in _CLOCK_REASONS:
                if mask & bit:
                    active.add_metric((gpu.uuid, name), 1.0)
        if not isinstance(gpu.xid_errors, Unknown):
            for number, count in gpu.xid_errors:
                xids.add_metric((gpu.uuid, str(number)), count)
    yield from (family for family in (limited, active, xids) if family.samples)


def _parts(parts: tuple[MigReading, ...]) -> Iterator[Metric]:
    if not parts:
        return
    info = InfoMetricFamily(_PREFIX + "gpu_mig_device", "Part of a partitioned GPU. An empty profile is not known.")
    for part in parts:
        profile = "" if isinstance(part.profile, Unknown) else part.profile
        labels = {"mig_uuid": part.uuid, "uuid": part.gpu_uuid, "profile": profile}
        info.add_metric((), {**labels, "gpu_instance": str(part.gpu_instance)})
    yield info
    for name, field, meaning in _MIG:
        family = _family(name, meaning, "gauge", ("mig_uuid",))
        for part in parts:
            _add(family, (part.uuid,), getattr(part, field))
        if family.samples:
            yield family


def _attribution(attribution: Attribution) -> Iterator[Metric]:
    if attribution.by is not AttributionSource.KUBELET:
        return  # not known, which is not the same as nobody
    held = InfoMetricFamily(_PREFIX + "gpu_allocation", "A container holds the GPU, or a part of it.")
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
    allocatable = _family("node_allocatable_devices", "GPUs or parts that can be allocated.", "gauge", ("resource",))
    for resource, count in attribution.allocatable.items():
        allocatable.add_metric((resource,), count)
    if allocatable.samples:
        yield allocatable
    meaning = "Allocated devices of which the GPU is not known."
    yield _single("agent_unresolved_devices", meaning, attribution.unresolved)
