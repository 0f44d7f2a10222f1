"""Engines for a real node: a Deployment of pods that serve one page of vLLM, its HPA, and the object that names it.

The image is the agent's, which is there anyway.
"""

from dataclasses import dataclass
from typing import Any

from hack.node import engine_pods
from hack.node.engine_pods import PORT
from tests.engine_pages import APPLY, MERGE, Page, Scene, hpa_path
from tests.operator_process import eventually
from tests.real_node import IMAGES, PYTHON, VERSION, is_ready

QUICK = {
    "OPTIINFRA_INTERVAL_SECONDS": "2",
    "OPTIINFRA_SCRAPE_INTERVAL_SECONDS": "2",
    "OPTIINFRA_SIGNAL_WINDOW_SECONDS": "10",
    "OPTIINFRA_STALE_AFTER_SECONDS": "15",
    "OPTIINFRA_TICK_SECONDS": "1",
    "OPTIINFRA_HOLD_SECONDS": "3",
}
"""Settings of an operator that is to decide within seconds."""


def quick(*settings: str) -> tuple[str, ...]:
    """Return chart settings, with those of a quick operator."""
    return (*settings, *(f"operator.environment.{name}={value}" for name, value in QUICK.items()))


@dataclass(frozen=True)
class Engines:
    """One service in a namespace of its own."""

    node: Any
    namespace: str
    name: str = "svc"

    def start(self, page: Page, *, replicas: int = 1, gpus: int = 0) -> None:
        """Make the Deployment and wait until all its pods are ready."""
        body = engine_pods.config_map(self.name, page.text())
        self.node.request("POST", f"/api/v1/namespaces/{self.namespace}/configmaps", body)
        image = f"{IMAGES['agent']}:{VERSION}"
        pods = engine_pods.deployment(self.name, image=image, python=PYTHON, replicas=replicas, gpus=gpus)
        self.node.request("POST", self._deployments, pods)
        eventually(lambda: len(self.ready()) == replicas, seconds=120, what=f"{replicas} engines are ready")

    def hpa_made(self, *, maximum: int) -> None:
        """Make the user's HPA as GitOps does, which leaves minReplicas to nobody."""
        body = {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": self.name},
            "spec": {
                "maxReplicas": maximum,
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": self.name},
            },
        }
        path = f"{hpa_path(self.namespace, self.name)}?fieldManager=argocd"
        self.node.request("PATCH", path, body, content_type=APPLY)

    def optimize(self, **spec: Any) -> dict[str, Any]:
        """Make the object; it only recommends unless `spec` says otherwise."""
        target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": self.name}
        body = {
            "apiVersion": "optiinfra.io/v1alpha1",
            "kind": "ResourceOptimization",
            "metadata": {"name": self.name},
            "spec": {"targetRef": target, "engine": {"port": PORT}, "insights": {"enabled": False}, **spec},
        }
        made: dict[str, Any] = self.node.request("POST", Scene.path(self.namespace), body)
        return made

    def change(self, **spec: Any) -> None:
        """Merge into the object's spec."""
        path = Scene.path(self.namespace, self.name)
        self.node.request("PATCH", path, {"spec": spec}, content_type=MERGE)

    def serve(self, page: Page) -> None:
        """Let every ready pod serve another page."""
        for pod in self.ready():
            name = f"{pod['metadata']['name']}:{PORT}"
            text = ("--raw", f"/api/v1/namespaces/{self.namespace}/pods/{name}/proxy/metrics", "-f", "-")
            self.node.kubectl("replace", *text, input=page.text())

    # what is there

    @property
    def _deployments(self) -> str:
        return f"/apis/apps/v1/namespaces/{self.namespace}/deployments"

    def ready(self) -> list[dict[str, Any]]:
        """Pods that are ready."""
        path = f"/api/v1/namespaces/{self.namespace}/pods?labelSelector=app={self.name}"
        return [pod for pod in self.node.request("GET", path)["items"] if is_ready(pod)]

    def asked(self) -> int:
        """Replicas of the Deployment's spec."""
        asked: int = self.node.request("GET", f"{self._deployments}/{self.name}")["spec"]["replicas"]
        return asked

    def hpa(self) -> dict[str, Any]:
        """The user's HPA."""
        found: dict[str, Any] = self.node.request("GET", hpa_path(self.namespace, self.name))
        return found

    def status(self) -> dict[str, Any]:
        """The object's status."""
        found: dict[str, Any] = self.node.request("GET", Scene.path(self.namespace, self.name)).get("status", {})
        return found

    def condition(self, kind: str) -> dict[str, Any]:
        """One of its conditions; empty while it is not told."""
        return next((each for each in self.status().get("conditions", ()) if each["type"] == kind), {})

    def held(self, floor: int, *, seconds: float = 180.0) -> dict[str, Any]:
        """Wait until the HPA is held at a floor and as many pods are ready."""

        def reached() -> dict[str, Any]:
            found = self.hpa()
            assert found["spec"].get("minReplicas") == floor, (found["spec"], self.status().get("conditions"))
            assert len(self.ready()) == floor
            return found

        return eventually(reached, seconds=seconds, what=f"{self.name} is held at {floor}")
