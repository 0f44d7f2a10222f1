"""Idle GPUs, one by one, and idle services."""

from optiinfra.domain.idle.services import (
    IDLE_STATES,
    GpuState,
    GpuVerdict,
    IdlePolicy,
    idle_gpus,
    node_findings,
    verdicts,
    workload_idle,
)

__all__ = [
    "IDLE_STATES",
    "GpuState",
    "GpuVerdict",
    "IdlePolicy",
    "idle_gpus",
    "node_findings",
    "verdicts",
    "workload_idle",
]
