"""Nodes: what they have, what was requested and used of it, and their pods at the end of the window.

Without kube-state-metrics a node is only what its GPUs and its own exporters tell; what is not told is Unknown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.report.frames import FloatArray
from optiinfra.domain.report.history import BoolArray, Course, GpuHistory, NodeHistory, PodNow
from optiinfra.domain.report.joining_frames import Answers, added, larger
from optiinfra.domain.report.joining_owners import Owners
from optiinfra.domain.report.joining_places import Places

_NO_STATE: Final = Unknown(UnknownReason.NOT_MEASURED, "only kube-state-metrics tells it")
_NO_USE: Final = Unknown(UnknownReason.NOT_MEASURED, "neither cAdvisor's root cgroup nor a node exporter tells it")
_LABELS: Final = {
    "label_node_kubernetes_io_instance_type": "node.kubernetes.io/instance-type",
    "label_beta_kubernetes_io_instance_type": "beta.kubernetes.io/instance-type",
    "label_topology_kubernetes_io_region": "topology.kubernetes.io/region",
    "label_topology_kubernetes_io_zone": "topology.kubernetes.io/zone",
    "label_karpenter_sh_capacity_type": "karpenter.sh/capacity-type",
    "label_eks_amazonaws_com_capacity_type": "eks.amazonaws.com/capacityType",
    "label_cloud_google_com_gke_spot": "cloud.google.com/gke-spot",
    "label_kubernetes_azure_com_scalesetpriority": "kubernetes.azure.com/scalesetpriority",
    "label_karpenter_sh_nodepool": "karpenter.sh/nodepool",
    "label_eks_amazonaws_com_nodegroup": "eks.amazonaws.com/nodegroup",
    "label_cloud_google_com_gke_nodepool": "cloud.google.com/gke-nodepool",
    "label_kubernetes_azure_com_agentpool": "kubernetes.azure.com/agentpool",
    "label_nvidia_com_gpu_product": "nvidia.com/gpu.product",
    "label_nvidia_com_gpu_memory": "nvidia.com/gpu.memory",
}
"""As kube-state-metrics writes a label -> as Kubernetes does."""
_TYPES: Final = ("node.kubernetes.io/instance-type", "beta.kubernetes.io/instance-type")
_POOLS: Final = (
    "karpenter.sh/nodepool",
    "eks.amazonaws.com/nodegroup",
    "cloud.google.com/gke-nodepool",
    "kubernetes.azure.com/agentpool",
)
_SPOT: Final = (("cloud.google.com/gke-spot", "true"), ("kubernetes.azure.com/scalesetpriority", "spot"))
_CAPACITY: Final = ("karpenter.sh/capacity-type", "eks.amazonaws.com/capacityType")
_WHOLE: Final = frozenset({"nvidia_com_gpu", "amd_com_gpu"})
_OTHER: Final = frozenset({"cpu", "memory", "pods"})


@dataclass(slots=True)
class _Node:
    """A node while it is put together."""

    capacity: dict[str, FloatArray] = field(default_factory=dict)
    allocatable: dict[str, FloatArray] = field(default_factory=dict)
    requested: dict[str, FloatArray] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    used: dict[str, FloatArray] = field(default_factory=dict)
    taints: list[tuple[str, str, str]] = field(default_factory=list)
    flags: dict[str, bool] = field(default_factory=dict)


def nodes(answers: Answers, places: Places, owners: Owners, gpus: Sequence[GpuHistory]) -> tuple[NodeHistory, ...]:
    """Join all nodes: those that kube-state-metrics names, else those with GPUs."""
    found: dict[str, _Node] = {name: _Node() for name in places.names}
    for gpu in gpus:
        if gpu.node:
            found.setdefault(gpu.node, _Node())
    _amounts(answers, found)
    _facts(answers, found)
    _use(answers, places, found)
    pods = _pods(answers, owners)
    mine: dict[str, list[GpuHistory]] = {}
    for gpu in gpus:
        mine.setdefault(gpu.node, []).append(gpu)
    told = answers.has("state.gpu_requests", "state.node_requests", "state.capacity")
    return tuple(
        _history(answers, name, found[name], mine.get(name, []), pods.get(name, ()), told=told)
        for name in sorted(found)
    )


def _amounts(answers: Answers, found: Mapping[str, _Node]) -> None:
    for question, field_name in (("state.capacity", "capacity"), ("state.allocatable", "allocatable")):
        for labels, values, _ in answers.each(question):
            node = found.get(labels["node"])
            if node is not None:
                into: dict[str, FloatArray] = getattr(node, field_name)
                into[labels["resource"]] = larger(into.get(labels["resource"], answers.unknown()), values)
    for question in ("state.node_requests", "state.gpu_requests"):
        for labels, values, _ in answers.each(question):
            node = found.get(labels["node"])
            if node is not None:
                resource = labels["resource"] if labels["resource"] in _OTHER else "gpus"
                amount = answers.on_grid(values)
                node.requested[resource] = added(node.requested.get(resource, answers.unknown()), amount)


def _facts(answers: Answers, found: Mapping[str, _Node]) -> None:
    last: dict[str, int] = {}
    for labels, values, _ in answers.each("state.node_labels"):
        node = found.get(labels["node"])
        seen = np.flatnonzero(np.isfinite(values))
        if node is None or not seen.size or int(seen[-1]) < last.get(labels["node"], -1):
            continue
        last[labels["node"]] = int(seen[-1])
        node.labels = {name: labels[label] for label, name in _LABELS.items() if labels.get(label)}
    for question in ("state.unschedulable", "state.node_ready"):
        for labels, _, newest in answers.each(question):
            node = found.get(labels["node"])
            if node is not None and np.isfinite(newest):
                node.flags[question] = newest > 0.0
    for labels, _, newest in answers.each("state.taints"):
        node = found.get(labels["node"])
        if node is not None and newest > 0.0:
            node.taints.append((labels["key"], labels["value"], labels["effect"]))


def _use(answers: Answers, places: Places, found: Mapping[str, _Node]) -> None:
    for resource, questions in (
        ("cpu", ("root.cpu", "agent_node.cpu")),
        ("memory", ("root.memory", "exporter.memory")),
    ):
        for question in questions:
            filled: set[str] = set()
            for labels, values, _ in answers.each(question):
                name = places.of(labels)
                node = found.get(name)
                if node is None or (resource in node.used and name not in filled):
                    continue
                filled.add(name)
                node.used[resource] = larger(node.used.get(resource, answers.unknown()), values)


def _pods(answers: Answers, owners: Owners) -> dict[str, tuple[PodNow, ...]]:
    requests: dict[tuple[str, str], dict[str, float]] = {}
    for labels, _, newest in answers.each("state.pod_requests"):
        if np.isfinite(newest):
            requests.setdefault((labels["namespace"], labels["pod"]), {})[labels["resource"]] = newest
    created = {
        (labels["namespace"], labels["pod"]): newest
        for labels, _, newest in answers.each("state.pod_created")
        if np.isfinite(newest)
    }
    phases = {
        (labels["namespace"], labels["pod"]): labels["phase"]
        for labels, _, newest in answers.each("state.pod_phase")
        if newest > 0.0
    }
    found: dict[str, list[PodNow]] = {}
    for labels, _, newest in answers.each("state.pods"):
        key = labels["namespace"], labels["pod"]
        if not labels["node"] or not np.isfinite(newest):
            continue
        wanted = requests.get(key, {})
        gpus = {name: amount for name, amount in wanted.items() if name not in _OTHER}
        owner = owners.of(labels["namespace"], labels["workload"])
        bare = labels.get("created_by_kind", "") in {"", "<none>"}
        kind = owner.kind or ("" if bare else labels["created_by_kind"])
        found.setdefault(labels["node"], []).append(
            PodNow(
                namespace=key[0],
                name=key[1],
                node=labels["node"],
                uid=labels["uid"],
                workload=owner.name,
                owner_kind=kind,
                phase=phases.get(key, ""),
                cpu_request_cores=wanted.get("cpu", 0.0),
                memory_request_bytes=wanted.get("memory", 0.0),
                gpus=sum(gpus.values()),
                created=created.get(key, _NO_STATE),
                gpu_resource=_resource(max(gpus, key=lambda name: gpus[name])) if gpus else "",
                priority_class=labels["priority_class"],
            )
        )
    return {node: tuple(sorted(pods, key=lambda pod: (pod.namespace, pod.name))) for node, pods in found.items()}


def _history(
    answers: Answers,
    name: str,
    node: _Node,
    gpus: Sequence[GpuHistory],
    pods: tuple[PodNow, ...],
    *,
    told: bool,
) -> NodeHistory:
    present: BoolArray = answers.never()
    for amount in node.capacity.values():
        present = present | np.isfinite(amount)
    for gpu in gpus:
        present = present | gpu.present
    number: Value = float(len({gpu.uuid for gpu in gpus})) if gpus else _NO_STATE
    labels = node.labels

    def course(values: Mapping[str, FloatArray], resource: str, unknown: Unknown) -> Course:
        return values.get(resource, unknown)

    def requested(resource: str) -> Course:
        if resource in node.requested and resource != "gpus":
            return node.requested[resource]
        if resource in node.requested:
            # While the node exists, no series means that nothing is requested.
            return np.where(np.isnan(node.requested[resource]) & present, 0.0, node.requested[resource])
        return np.where(present, 0.0, np.nan) if told and resource == "gpus" else _NO_STATE

    spot = any(labels.get(label) == value for label, value in _SPOT)
    return NodeHistory(
        name=name,
        gpus=_gpus(node.capacity, number),
        gpus_allocatable=_gpus(node.allocatable, _NO_STATE),
        cpu_cores=_newest(node.capacity, "cpu"),
        cpu_cores_allocatable=_newest(node.allocatable, "cpu"),
        memory_bytes=_newest(node.capacity, "memory"),
        memory_bytes_allocatable=_newest(node.allocatable, "memory"),
        pod_limit=_newest(node.allocatable, "pods"),
        gpu_model=next((gpu.model for gpu in gpus if gpu.model), labels.get("nvidia.com/gpu.product", "")),
        instance_type=_first(labels, _TYPES),
        region=labels.get("topology.kubernetes.io/region", ""),
        zone=labels.get("topology.kubernetes.io/zone", ""),
        capacity_type=_first(labels, _CAPACITY).lower().replace("_", "-") or ("spot" if spot else ""),
        pool=_first(labels, _POOLS),
        labels=labels,
        unschedulable=node.flags.get("state.unschedulable", _NO_STATE),
        ready=node.flags.get("state.node_ready", _NO_STATE),
        taints=tuple(sorted(node.taints)),
        present=present,
        cpu_used_cores=course(node.used, "cpu", _NO_USE),
        memory_used_bytes=course(node.used, "memory", _NO_USE),
        cpu_requested_cores=requested("cpu"),
        memory_requested_bytes=requested("memory"),
        gpus_requested=requested("gpus"),
        pods=pods,
    )


def _gpus(amounts: Mapping[str, FloatArray], otherwise: Value) -> Value:
    """Return whole GPUs; the parts of cut ones count by themselves where no whole ones are left."""
    whole = [_last(values) for name, values in amounts.items() if name in _WHOLE]
    parts = [_last(values) for name, values in amounts.items() if name not in _WHOLE | _OTHER]
    if sum(whole) > 0.0:
        return sum(whole)
    if parts and sum(parts) > 0.0:
        return otherwise if not isinstance(otherwise, Unknown) else sum(parts)
    return 0.0 if amounts else otherwise


def _newest(amounts: Mapping[str, FloatArray], resource: str) -> Value:
    values = amounts.get(resource)
    return _NO_STATE if values is None or not np.isfinite(values).any() else _last(values)


def _last(values: FloatArray) -> float:
    known = values[np.isfinite(values)]
    return float(known[-1]) if known.size else 0.0


def _first(labels: Mapping[str, str], names: Sequence[str]) -> str:
    return next((labels[name] for name in names if labels.get(name)), "")


def _resource(name: str) -> str:
    """Return a resource as Kubernetes writes it: nvidia_com_mig_1g_10gb is nvidia.com/mig-1g.10gb."""
    vendor, _, rest = name.partition("_com_")
    if not rest:
        return name
    if rest.startswith("mig_"):
        rest = "mig-" + rest.removeprefix("mig_").replace("_", ".")
    return f"{vendor.replace('_', '.')}.com/{rest.replace('_', '.') if not rest.startswith('mig-') else rest}"
