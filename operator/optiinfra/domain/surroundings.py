"""What an engine's page does not say: its GPUs, its host, its replicas that are still starting.

The same page means different things on a busy and on an idle GPU. Whoever has an agent, a DCGM page or the API server
fills in what they know; everything else stays unknown, and the verdict says what it lacked. Nothing is judged here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from optiinfra.domain.readings import Unknown, UnknownReason, Value

_NOT_MEASURED = Unknown(UnknownReason.NOT_MEASURED)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What was measured around a service's engines, over the same window as its pages."""

    gpu_utilization: Value = _NOT_MEASURED
    """Mean share of time with a kernel running. Near 1 for any active decode: weak evidence of load."""
    gpu_sm_active: Value = _NOT_MEASURED
    """Mean share of multiprocessors at work, where the hardware tells."""
    gpu_tensor_active: Value = _NOT_MEASURED
    """Mean share of time that tensor pipes work."""
    gpu_dram_active: Value = _NOT_MEASURED
    """Mean share of time that memory is read or written."""
    gpu_memory_usage: Value = _NOT_MEASURED
    """Of the fullest GPU, ratio."""
    gpu_clock_throttled: Value = _NOT_MEASURED
    """Share of the window in which clocks were held down by heat or power; of the GPU where it was most."""
    gpu_heat_throttled: Value = _NOT_MEASURED
    """The same by heat alone, which is always a fault; a limit on power is often on purpose."""
    pcie_busy: Value = _NOT_MEASURED
    """Use of the busiest GPU's PCIe link in its busier direction, ratio."""
    container_cpu: Value = _NOT_MEASURED
    """Of the busiest replica: CPU used over its limit (or over its node's cores without one), ratio."""
    cpu_throttled: Value = _NOT_MEASURED
    """Share of scheduling periods in which the container was held back by its CPU limit."""
    node_cpu: Value = _NOT_MEASURED
    """Mean use of the CPU of the nodes, ratio."""
    cpu_pressure: Value = _NOT_MEASURED
    """PSI: share of time in which something in the engine's container, else on its node, waited for a CPU."""
    memory_pressure: Value = _NOT_MEASURED
    """PSI of the engine's container alone: share of time in which something in it waited for memory."""
    io_pressure: Value = _NOT_MEASURED
    """The same of disks."""
    network_busy: Value = _NOT_MEASURED
    """Use of the busiest interface or link over its speed, ratio."""
    starting_replicas: Value = _NOT_MEASURED
    """Replicas that were asked for and are not ready."""
    places: Mapping[str, str] = field(default_factory=dict)
    """Where a quantity was found, in words, by the name of its field here: node, and GPU or container."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Who measured it, by the name of its field; "agent" where it is not said."""
