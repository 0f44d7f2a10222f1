"""The HorizontalPodAutoscaler that actuation `Own` creates: built purely, applied and deleted with fences.

It follows our external metric alone. Scaling down has no stabilisation of its own because the operator already holds
before it publishes less; the maximum is always the user's, so a dead operator never caps a morning peak. Deleting it
leaves the replica count as it is. It is owned by its ResourceOptimization, so the garbage collector removes it, too.
"""

from dataclasses import dataclass

from optiinfra.cluster.client import KubernetesClient
from optiinfra.cluster.document import JsonObject, Key, text
from optiinfra.cluster.errors import Absent, AlreadyExists
from optiinfra.cluster.objects import API_VERSION, Resources
from optiinfra.cluster.scalers import hpa_path

METRIC = "optiinfra_desired_replicas"
NAME_LABEL = "optiinfra.io/name"
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
TOLERANCE_MINOR = 35
"""Kubernetes 1.x from which HPAs have a tolerance by default; older servers drop the field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnScaler:
    """Everything that decides what the HPA looks like."""

    namespace: str
    owner_name: str
    owner_uid: str
    target_api_version: str
    target_kind: str
    target_name: str
    min_replicas: int
    max_replicas: int
    server_minor: int
    metric_name: str = ""
    """Value of the metric's name label; empty: the owner's name. Variants of one service have one each."""
    name: str = ""
    """Empty: "optiinfra-" and the owner's name."""

    @property
    def key(self) -> Key:
        """Return the key of the HPA."""
        return Key(self.namespace, self.name or f"optiinfra-{self.owner_name}"[:253].rstrip("-."))


def build_own_scaler(scaler: OwnScaler) -> JsonObject:
    """Return the HPA as it is applied."""
    scale_up: JsonObject = {
        "stabilizationWindowSeconds": 0,
        "selectPolicy": "Max",
        "policies": [
            {"type": "Pods", "value": 4, "periodSeconds": 15},
            {"type": "Percent", "value": 100, "periodSeconds": 15},
        ],
    }
    scale_down: JsonObject = {"stabilizationWindowSeconds": 0}
    if scaler.server_minor >= TOLERANCE_MINOR:
        scale_up["tolerance"] = "0"
        scale_down["tolerance"] = "0"
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {
            "name": scaler.key.name,
            "namespace": scaler.namespace,
            "labels": {MANAGED_BY_LABEL: "optiinfra"},
            "ownerReferences": [
                {
                    "apiVersion": API_VERSION,
                    "kind": Resources.RESOURCE_OPTIMIZATION.value.kind,
                    "name": scaler.owner_name,
                    "uid": scaler.owner_uid,
                    "controller": True,
                    "blockOwnerDeletion": False,
                }
            ],
        },
        "spec": {
            "scaleTargetRef": {
                "apiVersion": scaler.target_api_version,
                "kind": scaler.target_kind,
                "name": scaler.target_name,
            },
            "minReplicas": scaler.min_replicas,
            "maxReplicas": scaler.max_replicas,
            "metrics": [
                {
                    "type": "External",
                    "external": {
                        "metric": {
                            "name": METRIC,
                            "selector": {"matchLabels": {NAME_LABEL: scaler.metric_name or scaler.owner_name}},
                        },
                        "target": {"type": "AverageValue", "averageValue": "1"},
                    },
                }
            ],
            "behavior": {"scaleUp": scale_up, "scaleDown": scale_down},
        },
    }


class OwnScalers:
    """Applies and deletes our HPAs."""

    def __init__(self, client: KubernetesClient) -> None:
        self._client = client

    async def apply(self, scaler: OwnScaler, *, uid: str = "") -> str:
        """Create the HPA, or bring the one with this uid to its wanted state; returns its uid.

        Never forced: where somebody else wrote one of our fields, `Conflict` names the field and the manager. Without
        a uid it is created, and an HPA that exists under the name raises `AlreadyExists` and is not touched.
        """
        path = hpa_path(scaler.namespace, scaler.key.name)
        body = build_own_scaler(scaler)
        if uid:
            body["metadata"]["uid"] = uid
        elif await self._exists(path):
            raise AlreadyExists("an HPA of this name exists and is not ours", verb="apply", path=path, code=409)
        # Created by apply, too: a POST would make us an Update manager, with whom our own later applies conflict.
        return text(await self._client.apply(path, body), "metadata", "uid")

    async def _exists(self, path: str) -> bool:
        try:
            await self._client.get(path)
        except Absent:
            return False
        return True

    async def delete(self, key: Key, *, uid: str, resource_version: str = "") -> bool:
        """Delete our HPA if it still is that one; False when it was gone already. The replica count stays."""
        try:
            await self._client.delete(hpa_path(key.namespace, key.name), uid=uid, resource_version=resource_version)
        except Absent:
            return False
        return True
