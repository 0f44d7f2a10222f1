"""Made-up nodes and pods for the tests of the drain planner."""

from optiinfra.domain.consolidation import ClusterFacts
from optiinfra.domain.units import UnixTime
from optiinfra.domain.workload import NodeFacts, PodFacts

NOW = UnixTime(1.7e9)
GIB = 2.0**30


def pod(name, gpus=1.0, *, cpu=4.0, memory=16.0, start_up=60.0, **given):
    """A ready pod of a Deployment that took a minute to start."""
    values = {
        "uid": f"uid-{name}",
        "ip": "10.0.0.1",
        "node": "",
        "phase": "Running",
        "ready": True,
        "terminating": False,
        "created": UnixTime(1000.0),
        "became_ready": UnixTime(1000.0 + start_up),
        "namespace": "inference",
        "owner": ("ReplicaSet", f"owner-of-{name}"),
    }
    return PodFacts(name=name, gpus=gpus, cpu_request_cores=cpu, memory_request_bytes=memory * GIB, **(values | given))


def node(name, *pods, gpus=8.0, cpu=96.0, memory=768.0, pool="h100", model="H100", ready=True, cordoned=False, **given):
    """A node with eight GPUs, and its name as hostname."""
    labels = {"kubernetes.io/hostname": name} | given.pop("labels", {})
    return NodeFacts(
        name=name,
        pool=pool,
        gpu_model=model if gpus else "",
        gpus=gpus,
        cpu_cores=cpu,
        memory_bytes=memory * GIB,
        ready=ready,
        unschedulable=cordoned,
        pods=pods,
        labels=labels,
        **given,
    )


def cluster_of(*nodes, **given):
    """All that a plan looks at."""
    return ClusterFacts(nodes=nodes, **given)
