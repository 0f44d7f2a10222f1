"""In which way a GPU is in several hands: partitioned, by MPS, by time-slicing, or simply given to several containers.

The kubelet shows replicas and not what they are: the same device id (`UUID::3`) stands for MPS and for time-slicing.
The driver tells them apart: clients of MPS are in a list of their own, and MPS sets the compute mode to one process at
a time, which its server is. Time-slicing leaves the mode as it was. It matters: MPS gives each of n replicas one n-th
of memory and multiprocessors; time-slicing gives nobody a bound, and one container's memory may fail another.

Where the driver does not tell (an old one, or the lists are refused), it is *replicas*, not a guess.
"""

from collections import Counter
from collections.abc import Iterator, Mapping

from optiinfra_agent.gpu_clients import EXCLUSIVE_PROCESS
from optiinfra_agent.snapshot import Attribution, AttributionSource, GpuReading, Measured, SharedBy, Sharing, Unknown


def shared_gpus(
    gpus: tuple[GpuReading, ...], attribution: Attribution, compute_modes: Mapping[str, Measured]
) -> tuple[Sharing, ...]:
    """Return every GPU that is, or can be, in several hands."""
    return tuple(_shared(gpus, attribution, compute_modes))


def _shared(
    gpus: tuple[GpuReading, ...], attribution: Attribution, compute_modes: Mapping[str, Measured]
) -> Iterator[Sharing]:
    holders: Counter[str] = Counter()
    if attribution.by is AttributionSource.KUBELET:
        holders.update(one.gpu_uuid for one in attribution.allocations)
    for gpu in gpus:
        replicas = attribution.replicas.get(gpu.uuid, 0)
        clients = gpu.mps_processes
        by_mps = not isinstance(clients, Unknown) and clients > 0
        mode = compute_modes.get(gpu.uuid)
        by: SharedBy | None = None
        if gpu.mig_enabled is True:
            by = SharedBy.MIG
        elif by_mps or (replicas and mode == EXCLUSIVE_PROCESS):
            by = SharedBy.MPS
        elif replicas and (mode is None or isinstance(mode, Unknown)):
            by = SharedBy.REPLICAS
        elif replicas:
            by = SharedBy.TIME_SLICING
        elif holders[gpu.uuid] > 1:
            by = SharedBy.CONTAINERS
        if by is not None:
            yield Sharing(gpu_uuid=gpu.uuid, by=by, replicas=replicas, mps_processes=clients)
