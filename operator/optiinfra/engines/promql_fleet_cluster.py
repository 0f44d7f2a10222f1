"""What to ask kube-state-metrics: owners, requests, replicas, scalers, nodes, and the pods of the end of the window.

Requests of pods that ended (Succeeded, Failed) stay published and are left out. kube-state-metrics publishes the labels
of nodes only where it is told to; what is asked for here are the labels that say what a node costs.
"""

from collections.abc import Iterator
from typing import Final

from optiinfra.domain.report.frames import Question
from optiinfra.domain.report.joining_found import Found, Spelling
from optiinfra.engines.promql_fleet_parts import (
    FACTS_S,
    HOURLY_S,
    REVISION,
    WORKLOAD,
    largest,
    last_told,
    own_labels,
    question,
    replaced,
    select,
    together,
    with_label,
    with_workload,
)

STATE_NAMES: Final = (
    "kube_node_info",
    "kube_node_status_capacity",
    "kube_node_labels",
    "kube_pod_info",
    "kube_pod_owner",
    "kube_pod_container_info",
    "kube_pod_container_resource_requests",
    "kube_deployment_spec_replicas",
    "kube_statefulset_replicas",
    "kube_horizontalpodautoscaler_spec_max_replicas",
)
"""By which it is found, and by which it is seen what it was told to leave out."""
GPU_RESOURCES: Final = "nvidia_com_gpu.*|nvidia_com_mig_.*|amd_com_gpu|gpu_intel_com_.*"
"""As kube-state-metrics writes them: nvidia.com/gpu, nvidia.com/gpu.shared, nvidia.com/mig-1g.10gb."""
NODE_RESOURCES: Final = f"cpu|memory|pods|{GPU_RESOURCES}"
NODE_LABELS: Final = (
    ("label_node_kubernetes_io_instance_type", "node.kubernetes.io/instance-type"),
    ("label_beta_kubernetes_io_instance_type", "beta.kubernetes.io/instance-type"),
    ("label_topology_kubernetes_io_region", "topology.kubernetes.io/region"),
    ("label_topology_kubernetes_io_zone", "topology.kubernetes.io/zone"),
    ("label_karpenter_sh_capacity_type", "karpenter.sh/capacity-type"),
    ("label_eks_amazonaws_com_capacity_type", "eks.amazonaws.com/capacityType"),
    ("label_cloud_google_com_gke_spot", "cloud.google.com/gke-spot"),
    ("label_kubernetes_azure_com_scalesetpriority", "kubernetes.azure.com/scalesetpriority"),
    ("label_karpenter_sh_nodepool", "karpenter.sh/nodepool"),
    ("label_eks_amazonaws_com_nodegroup", "eks.amazonaws.com/nodegroup"),
    ("label_cloud_google_com_gke_nodepool", "cloud.google.com/gke-nodepool"),
    ("label_kubernetes_azure_com_agentpool", "kubernetes.azure.com/agentpool"),
    ("label_nvidia_com_gpu_product", "nvidia.com/gpu.product"),
    ("label_nvidia_com_gpu_memory", "nvidia.com/gpu.memory"),
)
"""As kube-state-metrics writes them, and as Kubernetes does."""
_ENDED: Final = "kube_pod_status_phase"
_ENDINGS: Final = 'phase=~"Succeeded|Failed"'
_REQUESTS: Final = "kube_pod_container_resource_requests"
_LIMITS: Final = "kube_pod_container_resource_limits"
_HPA: Final = "kube_horizontalpodautoscaler"


def cluster_questions(found: Found) -> Iterator[Question]:
    """Yield what to ask kube-state-metrics, if it is there."""
    if not found.has(*STATE_NAMES):
        return
    asker = _Asker(found)
    yield from asker.owners()
    yield from asker.requests()
    yield from asker.replicas()
    yield from asker.scalers()
    yield from asker.nodes()
    yield from asker.pods_now()


class _Asker:
    def __init__(self, found: Found) -> None:
        self.spelling: Spelling = found.state
        self.space = self.spelling.namespace[-1]
        self.node = self.spelling.node
        self.only = _namespaces(found, self.space)

    def owners(self) -> Iterator[Question]:
        """Who owns pods: by workload as the pods' names have it, and by ReplicaSet."""
        labels = (*own_labels(self.spelling), "owner_kind", "owner_name")
        owned = with_workload(largest(last_told("kube_pod_owner", *self.only), labels), self.spelling)
        by: tuple[str, ...] = (*WORKLOAD, "owner_kind", "owner_name")
        yield self._question("owners", together("count", owned, by), ["kube_pod_owner"], by=by, latest=True)
        labels = (*self.spelling.namespace, "replicaset", "owner_kind", "owner_name")
        sets = with_workload(
            largest(select("kube_replicaset_owner", 'owner_name!=""', *self.only), labels),
            _only_namespace(self.spelling),
        )
        sets = replaced(sets, target="workload", source="replicaset", pattern=REVISION)
        yield self._question(
            "replicaset_owners", together("count", sets, by), ["kube_replicaset_owner"], by=by, latest=True
        )

    def requests(self) -> Iterator[Question]:
        """GPUs over time by workload and node; CPU and memory by node, and of containers, the newest."""
        own = (*own_labels(self.spelling), *self.spelling.container, *self.node, "resource")
        gpus = self._not_ended(largest(select(_REQUESTS, f'resource=~"{GPU_RESOURCES}"'), own))
        by: tuple[str, ...] = (*WORKLOAD, "node", "resource")
        text = together("sum", with_label(with_workload(gpus, self.spelling), "node", self.node), by)
        yield self._question("gpu_requests", text, [_REQUESTS], by=by, coarse_s=FACTS_S)
        others = self._not_ended(largest(select(_REQUESTS, 'resource=~"cpu|memory"'), own))
        by = ("node", "resource")
        text = together("sum", with_label(others, "node", self.node), by)
        # Of all namespaces and none of its rows: nothing to split or limit it by.
        yield question("state.node_requests", text, metrics=[_REQUESTS], by=by, split_by="", latest=True)
        by = (*WORKLOAD, "container", "resource")
        for field, name in (("container_requests", _REQUESTS), ("container_limits", _LIMITS)):
            held = largest(select(name, *self.only), own)
            named = with_label(with_workload(held, self.spelling), "container", self.spelling.container)
            yield self._question(field, together("max", named, by), [name], by=by, latest=True)
        images = largest(
            select("kube_pod_container_info", *self.only),
            (*own_labels(self.spelling), *self.spelling.container, "image"),
        )
        named = with_label(with_workload(images, self.spelling), "container", self.spelling.container)
        by = (*WORKLOAD, "container", "image")
        yield self._question(
            "images", together("count", named, by), ["kube_pod_container_info"], by=by, coarse_s=HOURLY_S
        )

    def replicas(self) -> Iterator[Question]:
        """What workloads were told to run, and what was available."""
        for field, name, label, kind in (
            ("spec_replicas", "kube_deployment_spec_replicas", "deployment", "Deployment"),
            ("available", "kube_deployment_status_replicas_available", "deployment", "Deployment"),
            ("spec_replicas", "kube_statefulset_replicas", "statefulset", "StatefulSet"),
            ("available", "kube_statefulset_status_replicas_ready", "statefulset", "StatefulSet"),
        ):
            named = replaced(self._in_namespace(select(name, *self.only)), target="workload", source=label)
            yield self._question(f"{field}.{kind}", together("max", named), [name])

    def scalers(self) -> Iterator[Question]:
        """HorizontalPodAutoscalers, KEDA's among them."""
        label = "horizontalpodautoscaler"
        by = ("namespace", label)
        for field, name, latest in (
            ("scaler_min", f"{_HPA}_spec_min_replicas", True),
            ("scaler_max", f"{_HPA}_spec_max_replicas", True),
            ("scaler_desired", f"{_HPA}_status_desired_replicas", False),
        ):
            inner = self._in_namespace(select(name, *self.only))
            yield self._question(field, together("max", inner, by), [name], by=by, latest=latest)
        for field, name, labels in (
            ("scaler_targets", f"{_HPA}_info", ("scaletargetref_kind", "scaletargetref_name")),
            ("scaler_metrics", f"{_HPA}_spec_target_metric", ("metric_name", "metric_target_type")),
        ):
            told = (*by, *labels)
            text = together("max", self._in_namespace(select(name, *self.only)), told)
            yield self._question(field, text, [name], by=told, latest=True)

    def nodes(self) -> Iterator[Question]:
        """What nodes have and are."""
        for field, name in (("capacity", "kube_node_status_capacity"), ("allocatable", "kube_node_status_allocatable")):
            by = ("node", "resource")
            yield self._of_nodes(field, name, by, f'resource=~"{NODE_RESOURCES}"')
        yield self._of_nodes("node_labels", "kube_node_labels", ("node", *(label for label, _ in NODE_LABELS)))
        yield self._of_nodes("node_addresses", "kube_node_info", ("node", "internal_ip", "provider_id"), latest=True)
        yield self._of_nodes("unschedulable", "kube_node_spec_unschedulable", ("node",), latest=True)
        ready = 'condition="Ready",status="true"'
        yield self._of_nodes("node_ready", "kube_node_status_condition", ("node",), ready, latest=True)
        yield self._of_nodes("taints", "kube_node_spec_taint", ("node", "key", "value", "effect"), latest=True)

    def pods_now(self) -> Iterator[Question]:
        """The pods of the end of the window."""
        labels = ("namespace", "workload", "pod", "node", "uid", "priority_class", "created_by_kind", "created_by_name")
        told = (*own_labels(self.spelling), *self.node, *labels[4:])
        named = self._of_pods(largest(select("kube_pod_info"), told))
        yield self._question("pods", together("max", named, labels), ["kube_pod_info"], by=labels, latest=True)
        by: tuple[str, ...] = ("namespace", "pod", "resource")
        own = (*own_labels(self.spelling), *self.spelling.container, "resource")
        held = self._not_ended(largest(select(_REQUESTS, f'resource=~"cpu|memory|{GPU_RESOURCES}"'), own))
        yield self._question("pod_requests", together("sum", self._of_pods(held), by), [_REQUESTS], by=by, latest=True)
        by = ("namespace", "pod")
        created = largest(select("kube_pod_created"), own_labels(self.spelling))
        yield self._question(
            "pod_created", together("max", self._of_pods(created), by), ["kube_pod_created"], by=by, latest=True
        )
        by = ("namespace", "pod", "phase")
        phase = f"{largest(select('kube_pod_status_phase'), (*own_labels(self.spelling), 'phase'))} == 1"
        yield self._question(
            "pod_phase", together("max", self._of_pods(f"({phase})"), by), [_ENDED], by=by, latest=True
        )

    def _not_ended(self, expression: str) -> str:
        own = ",".join(own_labels(self.spelling))
        ended = largest(f"{select(_ENDED, _ENDINGS)} == 1", own_labels(self.spelling))
        return f"({expression} unless on ({own}) {ended})"

    def _in_namespace(self, expression: str) -> str:
        return with_label(expression, "namespace", self.spelling.namespace)

    def _of_pods(self, expression: str) -> str:
        named = with_label(with_workload(expression, self.spelling), "pod", self.spelling.pod)
        return with_label(named, "node", self.node)

    def _of_nodes(self, field: str, name: str, by: tuple[str, ...], *matchers: str, latest: bool = False) -> Question:
        text = together("max", with_label(select(name, *matchers), "node", self.node), by)
        coarse = 0.0 if latest else FACTS_S
        return question(f"state.{field}", text, metrics=[name], by=by, split_by="", latest=latest, coarse_s=coarse)

    def _question(
        self,
        field: str,
        promql: str,
        metrics: list[str],
        *,
        by: tuple[str, ...] = WORKLOAD,
        latest: bool = False,
        coarse_s: float = 0.0,
    ) -> Question:
        return question(
            f"state.{field}", promql, metrics=metrics, by=by, split_by=self.space, latest=latest, coarse_s=coarse_s
        )


def _only_namespace(spelling: Spelling) -> Spelling:
    return Spelling(namespace=spelling.namespace, pod=())


def _namespaces(found: Found, label: str) -> tuple[str, ...]:
    """Return the matcher that keeps a question to the namespaces with model servers or GPUs."""
    if not found.namespaces:
        return ()
    return (f'{label}=~"{"|".join(found.namespaces)}"',)
