"""The objects of the comparison: workloads, the VPA objects over them, and what is read from those.

The workloads are ReplicaSets: their pods carry just the template's labels, under which the history is found again (the
hash that a Deployment adds has dashes in its name, which kube-state-metrics writes otherwise). The VPA objects are in
mode Off, so that nothing but the recommender is asked.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hack.real_vpa.series import Series
from optiinfra.cluster.quantities import quantity


@dataclass(frozen=True, slots=True)
class Workload:
    """One ReplicaSet of one pod; each of its series is a container."""

    name: str
    series: tuple[Series, ...]
    request_bytes: int | None = None
    """Memory request of each container; what a kill is counted from when it is more than the use."""


@dataclass(frozen=True, slots=True)
class Kill:
    """A container that is killed for memory KILL_SECONDS after its `number`-th sample (from 0) of the live part."""

    number: int
    workload: str
    container: str


@dataclass(frozen=True, slots=True)
class Recommended:
    """What a VPA object says about one container: (target, lower, upper)."""

    cpu_cores: tuple[float, float, float]
    memory_bytes: tuple[float, float, float]


def labels_of(workload: str) -> dict[str, str]:
    """Return the labels of a workload's pods."""
    return {"app": workload}


def replica_set(workload: Workload) -> dict[str, Any]:
    """Return the ReplicaSet of a workload."""
    resources = {} if workload.request_bytes is None else {"requests": {"memory": str(workload.request_bytes)}}
    containers = [{"name": one.container, "image": "none", "resources": resources} for one in workload.series]
    return {
        "metadata": {"name": workload.name},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels_of(workload.name)},
            "template": {"metadata": {"labels": labels_of(workload.name)}, "spec": {"containers": containers}},
        },
    }


def autoscaler(name: str) -> dict[str, Any]:
    """Return the VPA object of a workload."""
    return {
        "apiVersion": "autoscaling.k8s.io/v1",
        "kind": "VerticalPodAutoscaler",
        "metadata": {"name": name},
        "spec": {
            "targetRef": {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": name},
            "updatePolicy": {"updateMode": "Off"},
        },
    }


def recommendations(autoscaler: Mapping[str, Any]) -> dict[str, Recommended]:
    """Return what a VPA object says, by container; nothing where it says nothing yet."""
    found = {}
    recommendation = autoscaler.get("status", {}).get("recommendation", {})
    for one in recommendation.get("containerRecommendations", ()):
        parts = [one["target"], one["lowerBound"], one["upperBound"]]
        cpu, memory = ([quantity(part[name]) for part in parts] for name in ("cpu", "memory"))
        found[one["containerName"]] = Recommended((cpu[0], cpu[1], cpu[2]), (memory[0], memory[1], memory[2]))
    return found
