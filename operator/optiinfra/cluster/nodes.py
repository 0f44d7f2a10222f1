"""A node of the API as facts: its capacity for pods and its GPUs.

Capacity is the allocatable part: what the kubelet keeps for itself is nobody's to plan with. Pods, pools and agents'
readings are joined elsewhere.
"""

from optiinfra.cluster.document import JsonObject, flag, key_of, labels_of, mapping, objects, text
from optiinfra.cluster.quantities import gpus_in, quantity_in
from optiinfra.domain.workload import NodeFacts

GPU_MODEL_LABELS = ("nvidia.com/gpu.product", "amd.com/gpu.product-name", "beta.amd.com/gpu.product-name")


def parse_node(document: JsonObject) -> NodeFacts:
    """Parse a v1 Node; pool, pods and agent are left empty."""
    labels = labels_of(document, "metadata", "labels")
    allocatable = mapping(document, "status", "allocatable") or mapping(document, "status", "capacity")
    ready = any(
        text(condition, "type") == "Ready" and text(condition, "status") == "True"
        for condition in objects(document, "status", "conditions")
    )
    return NodeFacts(
        name=key_of(document).name,
        pool="",
        gpu_model=next((labels[label] for label in GPU_MODEL_LABELS if label in labels), ""),
        gpus=gpus_in(allocatable),
        cpu_cores=quantity_in(allocatable, "cpu") or 0.0,
        memory_bytes=quantity_in(allocatable, "memory") or 0.0,
        ready=ready,
        unschedulable=flag(document, "spec", "unschedulable"),
        labels=labels,
    )
