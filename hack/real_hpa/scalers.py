"""Deployments on simulated nodes with a HorizontalPodAutoscaler each, and what the real controller made of them.

The HPAs read one external metric with AverageValue, as an adapter's users write them. The pods are real objects that
the scheduler places and KWOK starts, because the controller counts them; what they would serve is the caller's model.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from hack.cluster import Cluster
from hack.cluster.errors import ClusterError
from hack.real_hpa.clock import SPEED
from hack.real_hpa.metrics_api import LABEL, METRIC

READY_SECONDS: Final = 120.0
Behavior = Mapping[str, Any]
"""`spec.behavior` as people write it, in seconds of the trace."""
DEFAULT_BEHAVIOR: Final[dict[str, Any]] = {
    "scaleUp": {
        "stabilizationWindowSeconds": 0,
        "selectPolicy": "Max",
        "policies": [
            {"type": "Pods", "value": 4, "periodSeconds": 15},
            {"type": "Percent", "value": 100, "periodSeconds": 15},
        ],
    },
    "scaleDown": {
        "stabilizationWindowSeconds": 300,
        "selectPolicy": "Max",
        "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}],
    },
}
"""What the API's documentation gives as the defaults; written out, the controller takes another path through its code
than for an HPA without `behavior`."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Replica counts of one Deployment at one moment."""

    asked: int
    """spec.replicas."""
    running: int
    """status.replicas: pods there are, ready or not; what the controller takes for the present number."""


class RealScalers:
    """The Deployments and HPAs of one namespace."""

    def __init__(self, cluster: Cluster, *, namespace: str) -> None:
        self._cluster = cluster
        self._deployments = f"/apis/apps/v1/namespaces/{namespace}/deployments"
        self._scalers = f"/apis/autoscaling/v2/namespaces/{namespace}/horizontalpodautoscalers"

    def deploy(self, name: str, *, replicas: int) -> None:
        """Create a Deployment."""
        pod = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "engine", "image": "none"}]}}
        self._cluster.request(
            "POST",
            self._deployments,
            {
                "metadata": {"name": name},
                "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": pod},
            },
        )

    def wait_for_pods(self) -> None:
        """Wait until every Deployment has as many pods as it asks for."""

        def complete() -> bool:
            return all(seen.running == seen.asked for seen in self.seen().values())

        _wait("the pods of all Deployments", complete)

    def scale_with(
        self, name: str, *, minimum: int, maximum: int, average: float, behavior: Behavior | None = None
    ) -> None:
        """Create the HPA of a Deployment on our metric; `average` is its AverageValue, `behavior` in trace seconds."""
        spec: dict[str, Any] = {
            "minReplicas": minimum,
            "maxReplicas": maximum,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "metrics": [
                {
                    "type": "External",
                    "external": {
                        "metric": {"name": METRIC, "selector": {"matchLabels": {LABEL: name}}},
                        "target": {"type": "AverageValue", "averageValue": f"{round(average * 1000.0)}m"},
                    },
                }
            ],
        }
        if behavior is not None:
            spec["behavior"] = compressed(behavior)
        self._cluster.request("POST", self._scalers, {"metadata": {"name": name}, "spec": spec})

    def stop(self, name: str) -> None:
        """Delete an HPA; the Deployment stays as it is."""
        self._cluster.request("DELETE", f"{self._scalers}/{name}")

    def look(self, name: str) -> Seen:
        """Read one Deployment from the API server."""
        return _seen(self._cluster.request("GET", f"{self._deployments}/{name}"))

    def seen(self) -> dict[str, Seen]:
        """Read all Deployments in one request."""
        items = self._cluster.request("GET", self._deployments)["items"]
        return {item["metadata"]["name"]: _seen(item) for item in items}

    def conditions(self, name: str) -> dict[str, str]:
        """Return the reasons of the HPA's conditions, by type."""
        status = self._cluster.request("GET", f"{self._scalers}/{name}").get("status", {})
        return {item["type"]: item["reason"] for item in status.get("conditions", ())}


def compressed(behavior: Behavior) -> dict[str, Any]:
    """Return a `behavior` with every time divided by the speed; a policy's period is at least the second that it is."""

    def shorter(name: str, value: Any) -> Any:
        if name in {"periodSeconds", "stabilizationWindowSeconds"}:
            if value % SPEED:
                raise ClusterError(f"{name} {value} is no multiple of {SPEED} s: the API knows whole seconds only")
            return value // SPEED
        if isinstance(value, Mapping):
            return {key: shorter(key, each) for key, each in value.items()}
        if isinstance(value, list):
            return [shorter("", each) for each in value]
        return value

    result: dict[str, Any] = shorter("", json.loads(json.dumps(behavior)))
    return result


def _seen(deployment: Mapping[str, Any]) -> Seen:
    return Seen(int(deployment["spec"]["replicas"]), int(deployment.get("status", {}).get("replicas", 0)))


def _wait(what: str, is_there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not is_there():
        if time.monotonic() > deadline:
            raise ClusterError(f"{what}: not there after {READY_SECONDS:.0f} s")
        time.sleep(0.1)
