"""The series of a played fleet's clusters: kube-state-metrics, cAdvisor and node-exporter, for what models run on.

Besides the models each node runs DAEMONS small pods, as GPU nodes do: they hold no GPU, they are what KRR asks about as
well, and they keep a node from looking empty. CPU of an engine's container follows its batch; memory grows to its
working set and stays. Labels are those of the exporters' own pages after a usual scrape (`honor_labels` for
kube-state-metrics).
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from optiinfra_sim.history_fleet import STEP_S, Fleet, Pod
from optiinfra_sim.history_models import CLUSTERS, TARGET
from optiinfra_sim.history_series import Series, series
from optiinfra_sim.history_traffic import Array

CORES: Final = 192
MEMORY_BYTES: Final = 2048 * 2**30
INSTANCE_TYPE: Final = "p5.48xlarge"
REGION: Final = "us-east-1"
DAEMONS: Final = (
    ("kube-system", "kube-proxy", 0.1, 0.15),
    ("kube-system", "cilium", 0.2, 0.6),
    ("gpu-operator", "nvidia-dcgm-exporter", 0.1, 0.3),
    ("monitoring", "node-exporter", 0.05, 0.06),
    ("logging", "fluent-bit", 0.1, 0.12),
)
"""Namespace, name, cores used, GiB used."""
GIB: Final = float(2**30)
PLAYED_CORES: Final = 16
"""Of so many cores one is played."""
ENGINE_CORES_REQUESTED: Final = 8.0
ENGINE_GIB_REQUESTED: Final = 64.0
PHASES: Final = ("Pending", "Running", "Succeeded", "Failed", "Unknown")


@dataclass(frozen=True, slots=True)
class SmallPod:
    """A pod of a DaemonSet."""

    cluster: str
    node: str
    namespace: str
    owner: str
    name: str
    cores: float
    gib: float


def small_pods(fleet: Fleet) -> Iterator[SmallPod]:
    """Yield the small pods of every node."""
    cluster_of = {gpu.node: gpu.cluster for gpu in fleet.gpus}
    for node in fleet.nodes:
        for namespace, owner, cores, gib in DAEMONS:
            suffix = hashlib.sha256(f"{node}/{owner}".encode()).hexdigest()
            own = "".join("bcdfghjklmnpqrst"[int(letter, 16)] for letter in suffix[:5])
            yield SmallPod(cluster_of[node], node, namespace, owner, f"{owner}-{own}", cores, gib)


def cluster_series(fleet: Fleet) -> Iterator[Series]:
    """Yield everything but engines and GPUs."""
    points = len(fleet.times)
    yield from _nodes(fleet)
    for model in fleet.models:
        labels = _state(model.plan.cluster) | {"namespace": model.plan.namespace}
        owned = {"owner_kind": "Deployment", "owner_name": model.plan.workload, "owner_is_controller": "true"}
        yield series("kube_replicaset_owner", {**labels, **owned, "replicaset": model.replica_set}, np.ones(points))
        own = {**labels, "deployment": model.plan.workload}
        yield series("kube_deployment_spec_replicas", own, model.held)
        yield series("kube_deployment_status_replicas_available", own, model.serving)
        if model.plan.scaled:
            scaler = {**labels, "horizontalpodautoscaler": model.plan.workload}
            target = {"scaletargetref_kind": "Deployment", "scaletargetref_name": model.plan.workload}
            metric = {"metric_name": "requests_per_second", "metric_target_type": "average"}
            for name, told, values in (
                ("spec_min_replicas", {}, np.ones(points)),
                ("spec_max_replicas", {}, np.full(points, float(model.plan.replicas))),
                ("status_desired_replicas", {}, model.held),
                ("info", {**target, "scaletargetref_api_version": "apps/v1"}, np.ones(points)),
                ("spec_target_metric", metric, np.full(points, TARGET)),
            ):
                yield series(f"kube_horizontalpodautoscaler_{name}", {**scaler, **told}, values)
    for pod in fleet.pods:
        yield from _pod_state(fleet, pod)
        yield from _engine_use(fleet, pod)
    for number, small in enumerate(small_pods(fleet)):
        yield from _small(fleet, small, number)


def _state(cluster: str) -> dict[str, str]:
    return {"cluster": cluster, "job": "kube-state-metrics", "instance": f"10.{20 + CLUSTERS.index(cluster)}.9.9:8080"}


def _nodes(fleet: Fleet) -> Iterator[Series]:
    points = len(fleet.times)
    cluster_of = {gpu.node: gpu.cluster for gpu in fleet.gpus}
    for number, node in enumerate(fleet.nodes):
        cluster = cluster_of[node]
        labels = {**_state(cluster), "node": node}
        address = node.removeprefix("ip-").split(".")[0].replace("-", ".")
        info = {
            "internal_ip": address,
            "provider_id": f"aws:///us-east-1a/i-0{number:016x}",
            "os_image": "Bottlerocket",
        }
        yield series("kube_node_info", {**labels, **info}, np.ones(points))
        told = {
            "label_node_kubernetes_io_instance_type": INSTANCE_TYPE,
            "label_topology_kubernetes_io_region": REGION,
            "label_topology_kubernetes_io_zone": f"{REGION}a",
            "label_karpenter_sh_capacity_type": "on-demand",
            "label_karpenter_sh_nodepool": f"h100-{cluster[-1]}",
            "label_nvidia_com_gpu_product": "NVIDIA-H100-80GB-HBM3",
        }
        yield series("kube_node_labels", {**labels, **told}, np.ones(points))
        for resource, unit, amount in (
            ("cpu", "core", float(CORES)),
            ("memory", "byte", float(MEMORY_BYTES)),
            ("pods", "integer", 110.0),
            ("nvidia_com_gpu", "integer", 8.0),
        ):
            own = {**labels, "resource": resource, "unit": unit}
            yield series("kube_node_status_capacity", own, np.full(points, amount))
            yield series(
                "kube_node_status_allocatable", own, np.full(points, amount * (0.98 if unit in {"core", "byte"} else 1))
            )
        for condition in ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure"):
            for status in ("true", "false", "unknown"):
                value = float(status == ("true" if condition == "Ready" else "false"))
                own = {**labels, "condition": condition, "status": status}
                yield series("kube_node_status_condition", own, np.full(points, value))
        yield series("kube_node_spec_unschedulable", labels, np.zeros(points))
        taint = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
        yield series("kube_node_spec_taint", {**labels, **taint}, np.ones(points))
        yield from _node_use(fleet, node, cluster, number)


def _node_use(fleet: Fleet, node: str, cluster: str, number: int) -> Iterator[Series]:
    points = len(fleet.times)
    draw = np.random.default_rng((fleet.seed, 11, number))
    cores = sum(cores for _, _, cores, _ in DAEMONS) + 3.0 + np.zeros(points)
    memory = np.full(points, 30.0 * GIB)
    for pod in fleet.pods:
        if pod.node == node:
            cores[pod.serving : pod.last] += _cores(pod)
            memory[pod.serving : pod.last] += _working_set(pod)
    cores = cores * (1.0 + draw.normal(0.0, 0.02, points))
    kubelet = _kubelet(cluster, node) | {"id": "/"}
    yield series("container_cpu_usage_seconds_total", {**kubelet, "cpu": "total"}, np.cumsum(cores) * STEP_S)
    yield series("container_memory_working_set_bytes", kubelet, np.round(memory))
    exporter = {"cluster": cluster, "job": "node-exporter", "instance": f"{node}:9100"}
    yield series("node_uname_info", {**exporter, "nodename": node, "sysname": "Linux"}, np.ones(points))
    yield series("node_memory_MemTotal_bytes", exporter, np.full(points, float(MEMORY_BYTES)))
    yield series("node_memory_MemAvailable_bytes", exporter, np.round(MEMORY_BYTES - memory))
    # A few cores are played; the others, and the other modes, are ballast.
    for core in range(0, CORES, PLAYED_CORES):
        idle = np.cumsum(np.maximum(0.0, 1.0 - cores / CORES)) * STEP_S
        yield series("node_cpu_seconds_total", {**exporter, "cpu": str(core), "mode": "idle"}, np.round(idle, 2))


def _kubelet(cluster: str, node: str) -> dict[str, str]:
    told = {"job": "kubelet", "metrics_path": "/metrics/cadvisor", "instance": f"{node}:10250", "node": node}
    return {"cluster": cluster, **told}


def _pod_state(fleet: Fleet, pod: Pod) -> Iterator[Series]:
    plan = pod.model.plan
    uid = hashlib.sha256(pod.name.encode()).hexdigest()
    own = {
        **_state(plan.cluster),
        "namespace": plan.namespace,
        "pod": pod.name,
        "uid": f"{uid[:8]}-{uid[8:12]}-4{uid[13:16]}",
    }
    owner = {"created_by_kind": "ReplicaSet", "created_by_name": pod.model.replica_set}
    resources = {
        "cpu": ("core", ENGINE_CORES_REQUESTED * plan.size.gpus),
        "memory": ("byte", ENGINE_GIB_REQUESTED * GIB * plan.size.gpus),
        "nvidia_com_gpu": ("integer", float(plan.size.gpus)),
    }
    image = {"vllm": "vllm/vllm-openai:v0.32.0", "sglang": "lmsysorg/sglang:v0.5.10", "tgi": "huggingface/tgi:3.3.5"}
    kind = plan.settings.kind.value
    yield from _told(
        fleet, own, pod.node, owner, ("ReplicaSet", pod.model.replica_set), kind, image[kind], resources,
        first=pod.first, last=pod.last, address=pod.address, serving=pod.serving,
    )  # fmt: skip


def _told(
    fleet: Fleet,
    own: Mapping[str, str],
    node: str,
    created: Mapping[str, str],
    owner: tuple[str, str],
    container: str,
    image: str,
    resources: Mapping[str, tuple[str, float]],
    *,
    first: int,
    last: int,
    address: str,
    serving: int,
) -> Iterator[Series]:
    ones = np.ones(last - first)
    yield series(
        "kube_pod_info", {**own, **created, "node": node, "pod_ip": address, "host_network": "false"}, ones, first=first
    )
    owned = {"owner_kind": owner[0], "owner_name": owner[1], "owner_is_controller": "true"}
    yield series("kube_pod_owner", {**own, **owned}, ones, first=first)
    yield series("kube_pod_created", own, np.full(len(ones), float(fleet.times[first])), first=first)
    for phase in PHASES:
        pending = np.arange(first, last) < serving
        value = pending if phase == "Pending" else ~pending if phase == "Running" else np.zeros(len(ones))
        yield series("kube_pod_status_phase", {**own, "phase": phase}, value.astype(np.float64), first=first)
    inside = {**own, "container": container}
    yield series("kube_pod_container_info", {**inside, "image": image, "image_spec": image}, ones, first=first)
    yield series("kube_pod_container_status_restarts_total", inside, 0 * ones, first=first)
    ready = (np.arange(first, last) >= serving).astype(np.float64)
    yield series("kube_pod_container_status_ready", inside, ready, first=first)
    for kind in ("requests", "limits"):
        for resource, (unit, amount) in resources.items():
            if kind == "limits" and resource == "cpu":
                continue
            told = {**inside, "node": node, "resource": resource, "unit": unit}
            yield series(f"kube_pod_container_resource_{kind}", told, amount * ones, first=first)


def _cores(pod: Pod) -> Array:
    span = slice(pod.serving, pod.last)
    course = pod.model.course
    cores: Array = 0.3 + 1.1 * course.busy[span] + 0.02 * course.batch[span]
    return cores


def _working_set(pod: Pod) -> Array:
    age = np.arange(pod.last - pod.serving) * STEP_S / 3600.0
    weights = pod.model.plan.size.weights_gib
    grown: Array = (6.0 + 0.25 * weights + 2.0 * (1.0 - np.exp(-age / 24.0))) * GIB
    return grown


def _engine_use(fleet: Fleet, pod: Pod) -> Iterator[Series]:
    if pod.serving >= pod.last:
        return
    plan = pod.model.plan
    draw = np.random.default_rng((fleet.seed, 13, *pod.name.encode()))
    cores = _cores(pod) * np.maximum(0.1, 1.0 + draw.normal(0.0, 0.05, pod.last - pod.serving))
    memory = _working_set(pod) * (1.0 + draw.normal(0.0, 0.002, len(cores)))
    own = _kubelet(plan.cluster, pod.node) | {"namespace": plan.namespace, "pod": pod.name}
    yield from _used(own, plan.settings.kind.value, cores, memory, first=pod.serving)


def _used(own: Mapping[str, str], container: str, cores: Array, memory: Array, *, first: int) -> Iterator[Series]:
    digest = hashlib.sha256(own["pod"].encode()).hexdigest()
    slice_ = f"/kubepods.slice/kubepods-pod{digest[:12]}.slice"
    # cAdvisor has a cgroup for the pod, with an empty container, beside the one of each container.
    for told in (
        {"id": slice_},
        {"id": f"{slice_}/cri-containerd-{digest}.scope", "container": container, "image": container, "name": digest},
    ):
        labels = {**own, **told}
        yield series(
            "container_cpu_usage_seconds_total", {**labels, "cpu": "total"}, np.cumsum(cores) * STEP_S, first=first
        )
        yield series("container_memory_working_set_bytes", labels, np.round(memory), first=first)
    yield series("container_oom_events_total", labels, np.zeros(len(cores)), first=first)


def _small(fleet: Fleet, small: SmallPod, number: int) -> Iterator[Series]:
    points = len(fleet.times)
    draw = np.random.default_rng((fleet.seed, 17, number))
    uid = hashlib.sha256(small.name.encode()).hexdigest()[:12]
    own = {**_state(small.cluster), "namespace": small.namespace, "pod": small.name, "uid": uid}
    created = {"created_by_kind": "DaemonSet", "created_by_name": small.owner}
    resources = {"cpu": ("core", 4 * small.cores), "memory": ("byte", 2 * small.gib * GIB)}
    yield from _told(
        fleet, own, small.node, created, ("DaemonSet", small.owner), small.owner, f"{small.owner}:1", resources,
        first=0, last=points, address="", serving=0,
    )  # fmt: skip
    cores = small.cores * np.maximum(0.1, 1.0 + draw.normal(0.0, 0.1, points))
    memory = small.gib * GIB * (1.0 + draw.normal(0.0, 0.01, points))
    used = _kubelet(small.cluster, small.node) | {"namespace": small.namespace, "pod": small.name}
    yield from _used(used, small.owner, cores, memory, first=0)
