"""Idle and under-used GPUs: who holds a GPU and does nothing with it, since when, and what that costs.

`states` has the words, `fleet` the memory of what every GPU did (arrays), `step` works one sample more into it, `gaps`
has the probability that a quiet GPU stays quiet, `nodes` the verdicts for the operator, `services` those on whole model
services, `remedies` what can be done about it, and `replay` the same over a file with its figures. Nothing here acts.
"""

from optiinfra.domain.idle.fleet import IdleMemory
from optiinfra.domain.idle.nodes import idle_gpus, node_findings, verdicts
from optiinfra.domain.idle.services import workload_idle
from optiinfra.domain.idle.states import IDLE_STATES, GpuState, GpuVerdict, IdlePolicy

__all__ = [
    "IDLE_STATES",
    "GpuState",
    "GpuVerdict",
    "IdleMemory",
    "IdlePolicy",
    "idle_gpus",
    "node_findings",
    "verdicts",
    "workload_idle",
]
