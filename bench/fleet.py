"""A fleet for the operator to look after, on a real API server without controllers.

Each ResourceOptimization has a Deployment and a pod of its own. No controller and no kubelet runs: both are written
as they would have left them, so that the machine's cores are left to what is measured. The pods have loopback
addresses, at which `bench.pages` answers with a real engine's page. The audit log tells what the operator did to the
API server and when, to the microsecond, without anybody asking the operator.
"""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_network
from pathlib import Path
from typing import IO, Any, Self

from hack.cluster import Cluster

NAMESPACE = "inference"
OPERATOR_NAMESPACE = "optiinfra"
USER = "optiinfra-bench"
WRITES = frozenset({"create", "update", "patch", "delete"})
_CRDS = Path(__file__).parent.parent / "crds"
_OBJECTS = f"/apis/optiinfra.io/v1alpha1/namespaces/{NAMESPACE}/resourceoptimizations"
_BATCH = 8
"""Largest batch of the recorded engine: with it a full page shows a need for more replicas."""


@dataclass(frozen=True, slots=True)
class Request:
    """One answered request of the operator, from the audit log."""

    at: float
    """Unix time at which the answer was complete."""
    verb: str
    resource: str
    """With its subresource: "resourceoptimizations/status"."""
    name: str
    code: int


def free_port() -> int:
    """Return a port of the loopback that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        return int(reserved.getsockname()[1])


def wait_until(condition: Callable[[], bool], *, seconds: float, what: str, pause: float = 0.05) -> None:
    """Return once the condition holds; raise TimeoutError when it does not in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(pause)


class Fleet:
    """Objects, Deployments, pods and their pages."""

    def __init__(self, cluster: Cluster, *, size: int, interval: float) -> None:
        """The cluster is up; nothing is written yet."""
        self.cluster = cluster
        self.names = [f"service-{number:04d}" for number in range(size)]
        hosts = ip_network(cluster.pod_cidr).hosts()
        self.addresses = {name: str(next(hosts)) for name in self.names}
        self.port = free_port()
        self._interval = interval
        self._pages: subprocess.Popen[str] | None = None

    def build(self) -> None:
        """Write everything but the ResourceOptimizations."""
        for path in sorted(_CRDS.glob("*.yaml")):
            self.cluster.kubectl("apply", "--server-side", "-f", str(path))
        self.cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        for namespace in (NAMESPACE, OPERATOR_NAMESPACE):
            self.cluster.kubectl("create", "namespace", namespace)
        self.cluster.kubectl("create", "serviceaccount", "default", f"--namespace={NAMESPACE}")
        self._apply([part for name in self.names for part in (self._deployment(name), self._pod(name))])
        # Statuses belong to controllers and kubelets; nobody plays them here but this loop.
        for name in self.names:
            self._patch_status(f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{name}", _DEPLOYED)
            self._patch_status(f"/api/v1/namespaces/{NAMESPACE}/pods/{name}", self._running(name))

    def create_objects(self) -> None:
        """Write the ResourceOptimizations, without any status."""
        self._apply([self._object(name) for name in self.names])

    def delete_objects(self) -> None:
        """Delete the ResourceOptimizations."""
        self.cluster.request("DELETE", _OBJECTS)
        wait_until(lambda: not self.objects(), seconds=30, what="objects deleted", pause=0.5)

    def objects(self) -> list[dict[str, Any]]:
        """Read the ResourceOptimizations."""
        items: list[dict[str, Any]] = self.cluster.request("GET", _OBJECTS)["items"]
        return items

    def _apply(self, items: list[dict[str, Any]]) -> None:
        body = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
        self.cluster.kubectl("create", "-f", "-", input=body)

    def _patch_status(self, path: str, status: dict[str, Any]) -> None:
        content = {"status": status}
        self.cluster.request("PATCH", f"{path}/status", content, content_type="application/merge-patch+json")

    def _object(self, name: str) -> dict[str, Any]:
        return {
            "apiVersion": "optiinfra.io/v1alpha1",
            "kind": "ResourceOptimization",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {
                "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
                "mode": "Auto",
                "interval": f"{self._interval:g}s",
                "engine": {"port": self.port},
                "scaling": {"minReplicas": 1, "maxReplicas": 8},
            },
        }

    def _deployment(self, name: str) -> dict[str, Any]:
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": {"app": name}},
                "template": {"metadata": {"labels": {"app": name}}, "spec": _POD},
            },
        }

    def _pod(self, name: str) -> dict[str, Any]:
        metadata = {"name": name, "namespace": NAMESPACE, "labels": {"app": name}}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {**_POD, "nodeName": "bench"}}

    def _running(self, name: str) -> dict[str, Any]:
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        address = self.addresses[name]
        return {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "startTime": moment,
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": moment}],
        }

    # pages

    @contextmanager
    def pages(self) -> Iterator[Self]:
        """Serve the pages while the context is open."""
        command = [sys.executable, "-m", "bench.pages", str(self.port), *self.addresses.values()]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as self._pages:
            assert self._pages.stdout is not None
            if self._pages.stdout.readline() != "ready\n":
                raise RuntimeError("the page server did not start")
            try:
                yield self
            finally:
                assert self._pages.stdin is not None
                self._pages.stdin.close()

    def switch(self, name: str, state: str) -> float:
        """Let a service's page be `busy` or `idle`; returns from when on."""
        assert self._pages is not None
        assert self._pages.stdin is not None
        assert self._pages.stdout is not None
        self._pages.stdin.write(f"{state} {self.addresses[name]}\n")
        self._pages.stdin.flush()
        return float(self._pages.stdout.readline().split()[2])


class AuditLog:
    """What one user asked of the API server, read on from where it was read last."""

    def __init__(self, path: Path, user: str) -> None:
        """Begin with the first entry."""
        self._file: IO[bytes] = path.open("rb")
        self._user = user
        self._rest = b""
        self.requests: list[Request] = []

    def read_on(self) -> list[Request]:
        """Return everything so far."""
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        for line in lines:
            event = json.loads(line)
            if event["user"]["username"] != self._user or event["stage"] != "ResponseComplete":
                continue
            reference = event.get("objectRef", {})
            resource = "/".join(reference[part] for part in ("resource", "subresource") if reference.get(part))
            self.requests.append(
                Request(
                    at=datetime.fromisoformat(event["stageTimestamp"]).timestamp(),
                    verb=event["verb"],
                    resource=resource or event["requestURI"],
                    name=reference.get("name", ""),
                    code=event["responseStatus"]["code"],
                )
            )
        return self.requests

    def close(self) -> None:
        """Close the file."""
        self._file.close()


_DEPLOYED = {"observedGeneration": 1, "replicas": 1, "readyReplicas": 1, "availableReplicas": 1, "updatedReplicas": 1}
_POD = {
    "containers": [
        {
            "name": "vllm",
            "image": "vllm/vllm-openai:v0.32.0",
            "args": ["--model", "m", "--max-num-seqs", str(_BATCH)],
            "resources": {"requests": {"cpu": "4", "memory": "32Gi"}, "limits": {"nvidia.com/gpu": "1"}},
        }
    ]
}
