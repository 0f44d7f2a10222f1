"""Names of GPU, CPU and network families, by who exports them: DCGM in two dialects, our agent, node-exporter.

| quantity | DCGM up to 4.8 | DCGM from 4.9 | agent |
|---|---|---|---|
| utilisation | DCGM_FI_DEV_GPU_UTIL, percent | DCGM_FI_DEV_GPU_UTIL_RATIO | gpu_utilization_ratio |
| SM, tensor, DRAM active | DCGM_FI_PROF_*_ACTIVE | DCGM_FI_PROF_*_UTIL_RATIO | SM only |
| memory | DCGM_FI_DEV_FB_*, MiB | DCGM_FI_DEV_FB_*_BYTES | gpu_memory_*_bytes |
| clocks held down | DCGM_FI_DEV_CLOCK_THROTTLE_REASONS, bits | *_THROTTLE_SECONDS_TOTAL | - |

The exporter configures families by hand, so both dialects may stand on one page: of one quantity the first name of its
row is read. DCGM's `*_VIOLATION` counters are left out, because their unit (microseconds, nanoseconds) depends on the
version. Sources: dcgm-exporter's default counters, DCGM's field identifiers, the agent's own `metrics`.
"""

from dataclasses import dataclass
from typing import Final

from optiinfra.domain.surroundings_readings import GpuQuantity, NodeQuantity

_MIB: Final = float(2**20)
_PERCENT: Final = 0.01


@dataclass(frozen=True, slots=True)
class Row:
    """One quantity of a GPU and the families that carry it, in base units first."""

    quantity: GpuQuantity
    names: tuple[tuple[str, float], ...]
    """Family and what its values are multiplied by."""
    largest: float
    """Larger values, after scaling, are a sentinel or nonsense: 9223372036854775794 is DCGM's word for unsupported."""
    summed: bool = False
    """All families of the row are added up (causes of one effect)."""


_RATIO: Final = 1.01
_BYTES: Final = 1e14
_BITS: Final = float(2**32)
_SECONDS: Final = 1e12
GPU_ROWS: Final = (
    Row(
        GpuQuantity.UTILIZATION,
        (
            ("DCGM_FI_DEV_GPU_UTIL_RATIO", 1.0),
            ("DCGM_FI_DEV_GPU_UTIL", _PERCENT),
            ("optiinfra_gpu_utilization_ratio", 1.0),
        ),
        _RATIO,
    ),
    Row(
        GpuQuantity.SM_ACTIVE,
        (
            ("DCGM_FI_PROF_SM_UTIL_RATIO", 1.0),
            ("DCGM_FI_PROF_SM_ACTIVE", 1.0),
            ("optiinfra_gpu_sm_active_ratio", 1.0),
        ),
        _RATIO,
    ),
    Row(
        GpuQuantity.TENSOR_ACTIVE,
        (("DCGM_FI_PROF_TENSOR_UTIL_RATIO", 1.0), ("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", 1.0)),
        _RATIO,
    ),
    Row(
        GpuQuantity.DRAM_ACTIVE,
        (("DCGM_FI_PROF_DRAM_UTIL_RATIO", 1.0), ("DCGM_FI_PROF_DRAM_ACTIVE", 1.0)),
        _RATIO,
    ),
    Row(
        GpuQuantity.MEMORY_USED,
        (
            ("DCGM_FI_DEV_FB_USED_BYTES", 1.0),
            ("DCGM_FI_DEV_FB_USED", _MIB),
            ("optiinfra_gpu_memory_used_bytes", 1.0),
        ),
        _BYTES,
    ),
    Row(
        GpuQuantity.MEMORY_FREE,
        (("DCGM_FI_DEV_FB_FREE_BYTES", 1.0), ("DCGM_FI_DEV_FB_FREE", _MIB)),
        _BYTES,
    ),
    Row(
        GpuQuantity.MEMORY_TOTAL,
        (
            ("DCGM_FI_DEV_FB_CAPACITY_BYTES", 1.0),
            ("DCGM_FI_DEV_FB_TOTAL", _MIB),
            ("optiinfra_gpu_memory_total_bytes", 1.0),
        ),
        _BYTES,
    ),
    Row(
        GpuQuantity.MEMORY_RESERVED,
        (
            ("DCGM_FI_DEV_FB_RESERVED_BYTES", 1.0),
            ("DCGM_FI_DEV_FB_RESERVED", _MIB),
            ("optiinfra_gpu_memory_reserved_bytes", 1.0),
        ),
        _BYTES,
    ),
    Row(
        GpuQuantity.CLOCK_EVENTS,
        (("DCGM_FI_DEV_CLOCKS_EVENT_REASONS", 1.0), ("DCGM_FI_DEV_CLOCK_THROTTLE_REASONS", 1.0)),
        _BITS,
    ),
    Row(
        GpuQuantity.THROTTLED_SECONDS,
        (
            ("DCGM_FI_DEV_GPU_POWER_THROTTLE_SECONDS_TOTAL", 1.0),
            ("DCGM_FI_DEV_GPU_THERMAL_THROTTLE_SECONDS_TOTAL", 1.0),
        ),
        _SECONDS,
        summed=True,
    ),
)
UUID_LABELS: Final = ("UUID", "uuid", "gpu")
"""Labels that name a GPU, best first."""
INSTANCE_LABEL: Final = "GPU_I_ID"

NODE_ROWS: Final = (
    (NodeQuantity.CPU_BUSY_SECONDS, "optiinfra_node_cpu_busy_seconds_total"),
    (NodeQuantity.CPU_CORES, "optiinfra_node_cpu_cores"),
    (NodeQuantity.CPU_RATIO, "optiinfra_node_cpu_utilization_ratio"),
    (NodeQuantity.CPU_WAITING_SECONDS, "node_pressure_cpu_waiting_seconds_total"),
)
"""Families of one series each."""
CPU_SECONDS: Final = "node_cpu_seconds_total"
IDLE_MODES: Final = frozenset({"idle", "iowait"})
AGENT_PRESSURE: Final = "optiinfra_node_pressure_ratio"


@dataclass(frozen=True, slots=True)
class LinkNames:
    """Families of one kind of network link; told apart by all their labels together."""

    received: str
    sent: str
    speed: str


LINKS: Final = (
    LinkNames("node_network_receive_bytes_total", "node_network_transmit_bytes_total", "node_network_speed_bytes"),
    LinkNames(
        "node_infiniband_port_data_received_bytes_total",
        "node_infiniband_port_data_transmitted_bytes_total",
        "node_infiniband_rate_bytes_per_second",
    ),
)
FAMILIES: Final = frozenset(
    [name for row in GPU_ROWS for name, _ in row.names]
    + [name for _, name in NODE_ROWS]
    + [CPU_SECONDS, AGENT_PRESSURE]
    + [name for link in LINKS for name in (link.received, link.sent, link.speed)]
)
