"""What the driver and the GPUs of this node can tell, each with the reason where they cannot.

A value may be missing for good (an older GPU, an older driver), for now (two samples are needed), or for lack of a
right; this says which, once for the node and not once a GPU. Each is judged by what the last collection really gave and
never by the name of a model. What the driver is not asked at every collection, it is asked anew at the start and after
every error (a *probe*): a GPU that was reset or a driver that was replaced may give more or less than before.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from optiinfra_agent.privilege import PROCESSES
from optiinfra_agent.snapshot import AttributionSource, Snapshot, SourceName, SourceState, Unknown

OF_GPUS: Final[Mapping[str, str]] = {
    "utilization": "utilization_ratio",
    "utilization_samples": "utilization_mean_ratio",
    "gpm": "sm_active_ratio",
    "memory": "memory_used_bytes",
    "memory_reserved": "memory_reserved_bytes",
    "power": "power_watts",
    "power_instant": "power_instant_watts",
    "energy": "energy_joules_total",
    "temperature": "temperature_celsius",
    "clock_events": "clock_event_reasons",
    "pcie_counters": "pcie_transmit_bytes_total",
    "nvlink_counters": "nvlink_transmit_bytes_total",
    "ecc": "ecc_uncorrected_errors",
    "row_remapping": "remapped_rows_uncorrected",
    "page_retirement": "retired_pages_uncorrected",
    "recovery_action": "recovery_action",
    "xid_events": "xid_errors",
    "unavailable_events": "unavailable_events",
    "recovery_events": "recovery_events",
    "mig_mode": "mig_enabled",
    "process_lists": "processes",
    "mps_process_lists": "mps_processes",
}
"""Capability -> the value of a GPU that shows it."""
OK: Final = "ok"
NAMES: Final = (*OF_GPUS, "processes_by_pod", "allocatable_devices")


@dataclass(frozen=True, slots=True)
class Capability:
    """One of them. `gpus` of the node's GPUs gave it; the state is `ok` if one did, else the reason of the first."""

    name: str
    state: str
    reason: str = ""
    gpus: int | None = None


def assess(snapshot: Snapshot) -> tuple[Capability, ...]:
    """Return every capability, in the order of `NAMES`."""
    report = snapshot.sources[SourceName.NVML]
    if report.state is SourceState.OK and snapshot.gpus:
        found = [_of_gpus(snapshot, name, value) for name, value in OF_GPUS.items()]
    else:
        found = [Capability(name, report.state.value, report.reason, 0) for name in OF_GPUS]
    return (*found, _processes_by_pod(snapshot), _allocatable(snapshot))


def _of_gpus(snapshot: Snapshot, name: str, value: str) -> Capability:
    values = [getattr(gpu, value) for gpu in snapshot.gpus]
    unknown = [one for one in values if isinstance(one, Unknown)]
    able = len(values) - len(unknown)
    return Capability(name, OK if able else unknown[0].reason.value, gpus=able)


def _processes_by_pod(snapshot: Snapshot) -> Capability:
    missing = snapshot.privilege.missing.get(PROCESSES, "")
    if missing:
        return Capability("processes_by_pod", "denied", missing)
    report = snapshot.sources[SourceName.NVML]
    return Capability("processes_by_pod", report.state.value, report.reason)


def _allocatable(snapshot: Snapshot) -> Capability:
    attribution = snapshot.attribution
    if attribution.by is AttributionSource.KUBELET and not attribution.reason:
        return Capability("allocatable_devices", OK)
    return Capability("allocatable_devices", "unavailable", attribution.reason)
