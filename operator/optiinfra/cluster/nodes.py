"""A node of the API as facts: its capacity for pods and its GPUs.

Capacity is the allocatable part: what the kubelet keeps for itself is nobody's to plan with. Pods, pools and agents'
readings are joined elsewhere.
"""

import sys

from optiinfra.cluster.document import JsonObject, flag, key_of, labels_of, mapping, objects, text
from optiinfra.cluster.pod_moving import DO_NOT_DISRUPT
from optiinfra.cluster.pod_rules import named_resources
from optiinfra.cluster.quantities import gpus_in, quantity_in
from optiinfra.domain.pod_rules import Taint, TaintEffect
from optiinfra.domain.workload import NodeFacts

GPU_MODEL_LABELS = ("nvidia.com/gpu.product", "amd.com/gpu.product-name", "beta.amd.com/gpu.product-name")

SCALE_DOWN_DISABLED = "cluster-autoscaler.kubernetes.io/scale-down-disabled"
_MOST_PODS = 110.0
"""The kubelet's default, where a node does not say."""


def parse_node(document: JsonObject) -> NodeFacts:
    """Parse a v1 Node; pool, pods and agent are left empty."""
    labels = labels_of(document, "metadata", "labels")
    allocatable = mapping(document, "status", "allocatable") or mapping(document, "status", "capacity")
    ready = any(
        text(condition, "type") == "Ready" and text(condition, "status") == "True"
        for condition in objects(document, "status", "conditions")
    )
    limit = quantity_in(allocatable, "pods")
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
        taints=tuple(_taint(entry) for entry in objects(document, "spec", "taints")),
        resources=named_resources(allocatable),
        pod_limit=_MOST_PODS if limit is None else limit,
        protection=_protection(document),
    )


def _taint(entry: JsonObject) -> Taint:
    effect = text(entry, "effect")
    # An effect that is not known yet repels, for all that can be said.
    known = TaintEffect(effect) if effect in set(TaintEffect) else TaintEffect.NO_SCHEDULE
    return Taint(sys.intern(text(entry, "key")), sys.intern(text(entry, "value")), known)


def _protection(document: JsonObject) -> str:
    annotations = mapping(document, "metadata", "annotations")
    if annotations.get(SCALE_DOWN_DISABLED) == "true":
        return SCALE_DOWN_DISABLED
    # Karpenter knows only "true" on nodes; what else is written there was meant as something.
    return DO_NOT_DISRUPT if annotations.get(DO_NOT_DISRUPT, "false") != "false" else ""
