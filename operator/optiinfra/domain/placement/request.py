"""What one pod asks for, in whole numbers, so that taking and giving back leaves exactly what was there before.

A pod asks for whole GPUs, for a share of one GPU, or for none. A share lies inside one device: Kubernetes has no pod
whose halves come from two GPUs. Requests are equal by value, so that all replicas of a workload are one request.
"""

from dataclasses import dataclass
from typing import Final

from optiinfra.errors import OptiInfraError

WHOLE_GPU: Final = 1_000
"""Thousandths of a GPU in one device."""
MOST_GPUS: Final = 64
"""GPUs of one pod or one node; the largest machines sold have 16."""
_MOST_CPU_MILLI: Final = 1 << 40
_MOST_BYTES: Final = 1 << 60


class PlacementError(OptiInfraError):
    """A request, node or placement that cannot be; the message names the field and what is allowed."""


@dataclass(frozen=True, slots=True)
class Request:
    """Requests of one pod, all containers together. Raises PlacementError."""

    cpu_milli: int
    memory_bytes: int
    gpus: int = 0
    gpu_milli: int = 0
    """Of each GPU: 1000 for whole ones, less only for a share of a single one; 0 without GPUs."""
    gpu_models: tuple[str, ...] = ()
    """Models that will do, sorted; empty for any."""

    def __post_init__(self) -> None:
        if not 0 <= self.cpu_milli <= _MOST_CPU_MILLI:
            raise PlacementError(f"cpu_milli {self.cpu_milli}: 0 to {_MOST_CPU_MILLI} is expected")
        if not 0 <= self.memory_bytes <= _MOST_BYTES:
            raise PlacementError(f"memory_bytes {self.memory_bytes}: 0 to {_MOST_BYTES} is expected")
        if not 0 <= self.gpus <= MOST_GPUS:
            raise PlacementError(f"gpus {self.gpus}: 0 to {MOST_GPUS} is expected")
        if self.gpus == 0 and self.gpu_milli != 0:
            raise PlacementError(f"gpu_milli {self.gpu_milli} without GPUs: 0 is expected")
        if self.gpus == 1 and not 0 < self.gpu_milli <= WHOLE_GPU:
            raise PlacementError(f"gpu_milli {self.gpu_milli}: 1 to {WHOLE_GPU} is expected")
        if self.gpus > 1 and self.gpu_milli != WHOLE_GPU:
            raise PlacementError(f"gpu_milli {self.gpu_milli} of {self.gpus} GPUs: only a single GPU can be shared")
        if tuple(sorted(set(self.gpu_models))) != self.gpu_models:
            raise PlacementError(f"gpu_models {self.gpu_models}: sorted names without repetition are expected")

    @property
    def total_gpu_milli(self) -> int:
        """All GPUs together, in thousandths."""
        return self.gpus * self.gpu_milli

    @property
    def shares(self) -> bool:
        """Whether the pod takes less than one whole GPU."""
        return self.gpus == 1 and self.gpu_milli < WHOLE_GPU
