"""The simulated nodes: what a GPU node says about itself, for KWOK to keep alive.

Only facts that schedulers and the operator read. On our own control plane they carry no taint, so that
ordinary manifests run on them; in a user's cluster they carry the usual one of GPU nodes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hack.binaries.catalogue import KUBERNETES
from hack.cluster.components import KWOK_NODE_ANNOTATION

GPU_RESOURCE = "nvidia.com/gpu"
GPU_TAINT = {"key": GPU_RESOURCE, "value": "present", "effect": "NoSchedule"}
NODE_INFO = (
    "architecture",
    "bootID",
    "containerRuntimeVersion",
    "kernelVersion",
    "kubeProxyVersion",
    "machineID",
    "operatingSystem",
    "osImage",
    "systemUUID",
)
"""Required by the schema; KWOK fills what is empty."""
GPU_PRODUCT_LABEL = "nvidia.com/gpu.product"


@dataclass(frozen=True, kw_only=True)
class Node:
    """One simulated node."""

    name: str
    gpus: int = 8
    gpu_model: str = "NVIDIA-H100-80GB-HBM3"
    """Value of the label that NVIDIA's GPU feature discovery sets."""
    gpu_memory: int = 81559
    """Memory of one GPU in MiB, as GPU feature discovery tells it."""
    cpu: str = "192"
    memory: str = "2Ti"
    instance_type: str = "p5.48xlarge"
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    taint: bool = False


DEFAULT_NODES = tuple(Node(name=f"gpu-{number}") for number in range(1, 5))


def manifest(node: Node) -> dict[str, Any]:
    """Build the Node object; a node without GPUs shows neither resource nor GPU labels."""
    labels = {
        "kubernetes.io/arch": "amd64",
        "kubernetes.io/os": "linux",
        "kubernetes.io/hostname": node.name,
        "node.kubernetes.io/instance-type": node.instance_type,
    }
    resources = {"cpu": node.cpu, "memory": node.memory, "ephemeral-storage": "1Ti", "pods": "110"}
    if node.gpus:
        resources[GPU_RESOURCE] = str(node.gpus)
        labels |= {
            "nvidia.com/gpu.present": "true",
            "nvidia.com/gpu.count": str(node.gpus),
            GPU_PRODUCT_LABEL: node.gpu_model,
            "nvidia.com/gpu.memory": str(node.gpu_memory),
        }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": node.name,
            "labels": labels | dict(node.labels),
            "annotations": {KWOK_NODE_ANNOTATION: "fake"} | dict(node.annotations),
        },
        "spec": {"taints": [GPU_TAINT] if node.taint else []},
        "status": {
            "capacity": resources,
            "allocatable": resources,
            "nodeInfo": {"kubeletVersion": f"v{KUBERNETES}"} | dict.fromkeys(NODE_INFO, ""),
        },
    }


def is_usable(node: Mapping[str, Any]) -> bool:
    """Whether a Node object as read is Ready and lost the taints of a new node."""
    conditions = node.get("status", {}).get("conditions", [])
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
    taints = node.get("spec", {}).get("taints") or []
    return ready and not any(taint["key"].startswith("node.kubernetes.io/") for taint in taints)
