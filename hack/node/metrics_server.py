"""metrics-server beside a node: what it is started with, and what the cluster has to know of it.

It runs in the node's network and not in a pod, so that no image is needed; the aggregation layer reaches it through a
Service whose one endpoint is the node's own address, with a certificate for the Service's name. It has the rights that
its own manifests give and no others, and reads the kubelets' /metrics/resource. Simulated nodes say nothing there:
their pods have no metrics, and an HPA on CPU of theirs says that it knows none.
"""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from hack.node.configurations import NODE_ADDRESS

NAME: Final = "metrics-server"
USER: Final = "metrics-server"
SPACE: Final = "kube-system"
HOST: Final = f"{NAME}.{SPACE}.svc"
"""What the API server asks for in its certificate."""
PORT: Final = 10260
"""In the node's network, where nobody else listens on it."""
RESOLUTION: Final = "10s"
"""As often as metrics-server reads kubelets at the most; the default is 15s."""
API: Final = "v1beta1.metrics.k8s.io"
API_PATH: Final = f"/apis/apiregistration.k8s.io/v1/apiservices/{API}"
_RBAC: Final = "/apis/rbac.authorization.k8s.io/v1"


def command(program: Path, *, kubeconfig: Path, keys: Path, certificate: Path, key: Path) -> list[str]:
    """Return its command line. `keys` is the folder with the cluster's certificate authority."""
    return [
        str(program),
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        f"--bind-address={NODE_ADDRESS}",
        f"--secure-port={PORT}",
        f"--tls-cert-file={certificate}",
        f"--tls-private-key-file={key}",
        f"--kubelet-certificate-authority={keys / 'ca.crt'}",
        "--kubelet-preferred-address-types=InternalIP",
        "--kubelet-use-node-status-port",
        "--kubelet-request-timeout=5s",
        f"--metric-resolution={RESOLUTION}",
    ]


def is_available(service: dict[str, Any]) -> bool:
    """Whether the aggregation layer reaches it, by its APIService as read."""
    conditions = service.get("status", {}).get("conditions", [])
    return any(each["type"] == "Available" and each["status"] == "True" for each in conditions)


def objects(authority: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what has to be created, as paths and bodies. `authority` signed its serving certificate."""
    rules = [
        {"apiGroups": [""], "resources": ["nodes/metrics"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["pods", "nodes"], "verbs": ["get", "list", "watch"]},
    ]
    yield f"{_RBAC}/clusterroles", {"metadata": {"name": "system:metrics-server"}, "rules": rules}
    for name, role in (
        ("system:metrics-server", "system:metrics-server"),
        ("metrics-server:system:auth-delegator", "system:auth-delegator"),
    ):
        yield f"{_RBAC}/clusterrolebindings", _binding(name, "ClusterRole", role)
    yield (
        f"{_RBAC}/namespaces/{SPACE}/rolebindings",
        _binding("metrics-server-auth-reader", "Role", "extension-apiserver-authentication-reader"),
    )
    yield (
        f"/api/v1/namespaces/{SPACE}/services",
        {"metadata": {"name": NAME}, "spec": {"ports": [{"name": "https", "port": 443, "targetPort": PORT}]}},
    )
    yield (
        f"/apis/discovery.k8s.io/v1/namespaces/{SPACE}/endpointslices",
        {
            "metadata": {"name": f"{NAME}-node", "labels": {"kubernetes.io/service-name": NAME}},
            "addressType": "IPv4",
            "ports": [{"name": "https", "port": PORT, "protocol": "TCP"}],
            "endpoints": [{"addresses": [NODE_ADDRESS], "conditions": {"ready": True}}],
        },
    )
    yield (
        API_PATH.rpartition("/")[0],
        {
            "metadata": {"name": API},
            "spec": {
                "group": "metrics.k8s.io",
                "version": "v1beta1",
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                "service": {"name": NAME, "namespace": SPACE, "port": 443},
                "caBundle": base64.b64encode(authority.read_bytes()).decode(),
            },
        },
    )


def _binding(name: str, kind: str, role: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": USER}],
    }
