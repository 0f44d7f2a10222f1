"""What GPUs can do: memory, bandwidth and arithmetic by type, for rooflines. One table, with its sources.

A GPU that is not in the table is unknown: a guessed bandwidth would become a wrong promise.
"""

from dataclasses import dataclass

from optiinfra.domain.readings import Value


@dataclass(frozen=True, slots=True)
class GpuModel:
    """The datasheet of one GPU; dense figures, without sparsity."""

    name: str
    """Short name: "H100-SXM", "L40S" ..."""
    generation: str
    """Ampere, Ada, Hopper, Blackwell ..."""
    compute_capability: float
    """8.0, 8.9, 9.0 ...; 0 for GPUs of other makers."""
    memory_bytes: float
    bandwidth: float
    """Bytes per second."""
    flops_16: float
    """Dense operations per second in bfloat16 or float16."""
    flops_8: Value
    """In 8-bit floating point; unknown (UNSUPPORTED) where there is none."""
    ops_int8: Value
    flops_4: Value
    """In 4-bit floating point."""
