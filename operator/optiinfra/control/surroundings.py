"""What was measured around a service's engines, from what the agents and the API server say about its pods and nodes.

A quantity that no source of this cluster measures stays unknown; nothing is derived from something else here.
"""

from optiinfra.domain.surroundings import Surroundings
from optiinfra.domain.utilization import Utilization
from optiinfra.domain.workload import WorkloadFacts


def surroundings_of(utilization: Utilization, facts: WorkloadFacts) -> Surroundings:
    """Put together what the verdict on a service needs besides its pages."""
    return Surroundings(
        gpu_utilization=utilization.gpu_ratio_mean,
        gpu_sm_active=utilization.sm_active_mean,
        gpu_memory_usage=utilization.gpu_memory_ratio,
        node_cpu=utilization.node_cpu_ratio,
        starting_replicas=float(max(0, facts.desired_replicas - facts.ready_replicas)),
    )
