"""The operator among other writers: one namespace a case, with a workload, its HPA by somebody's tool, and an object.

    with neighbourhood(control_plane, folder) as street:
        ground = street.ground("apply")
        ground.hpa_by_kubectl("apply", minReplicas=2)
        ground.optimize()
        ground.wait("False", "FieldOwned")
        ground.settle()

The control plane is real: the HPA controller scales on `metrics.k8s.io`, which a double serves (every workload needs
one replica by its own metric), KWOK runs the pods, and each pod's engine page says that four are needed. Writes are
counted from the API server's audit log, by field manager; replica counts are followed all the time.
"""

import contextlib
import itertools
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from hack.cluster.aggregated import AggregatedApi, Reply, Request
from hack.cluster.errors import ApiError, ClusterError
from tests.engine_pages import APPLY, MERGE, OWN_RESOURCES, EnginePages, Page, Scene, deployment, hpa_path
from tests.operator_process import OperatorProcess, eventually, free_port, install

BUSY = Page(running=60, waiting=400, kv_cache_usage=0.5)
MAXIMUM = 4
QUIET_SECONDS = 8.0
"""Eight rounds of the operator and a sync of the HPA controller."""
PATIENCE = 120.0
HELD = "optiinfra.io/held"
_WRITES = {"create", "update", "patch", "delete", "deletecollection"}
_POLL = 0.4
_METRICS = "metrics.k8s.io/v1beta1"
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Write:
    """One write of anybody to an HPA or a workload of a namespace."""

    at: str
    user: str
    manager: str
    verb: str
    resource: str
    name: str
    code: int

    @property
    def landed(self) -> bool:
        return self.code < 300


class Audit:
    """The audit log, read on from where it was."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset, self._lock = path, path.stat().st_size, threading.Lock()
        self._found: dict[str, list[Write]] = {}

    def writes(self, namespace: str) -> list[Write]:
        with self._lock:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        break  # it is being written
                    self._offset += len(line)
                    self._take(line)
            return list(self._found.get(namespace, ()))

    def _take(self, line: bytes) -> None:
        if not any(verb in line for verb in (b'"patch"', b'"update"', b'"create"', b'"delete"', b'"deletecollection"')):
            return
        entry = json.loads(line)
        reference = entry.get("objectRef", {})
        if entry["verb"] not in _WRITES or not reference.get("namespace"):
            return
        resource = "/".join(part for part in (reference["resource"], reference.get("subresource", "")) if part)
        query = parse_qs(urlsplit(entry["requestURI"]).query)
        manager = query.get("fieldManager", [entry.get("userAgent", "").partition("/")[0]])[0]
        self._found.setdefault(reference["namespace"], []).append(
            Write(
                entry["requestReceivedTimestamp"],
                entry["user"]["username"],
                manager,
                entry["verb"],
                resource,
                reference.get("name", ""),
                entry.get("responseStatus", {}).get("code", 0),
            )
        )


@dataclass
class Street:
    """Everything that the cases share."""

    cluster: Any
    folder: Path
    scene: Scene
    audit: Audit
    pods: dict[str, list[str]] = field(default_factory=dict)
    """Names of running pods by namespace, as last seen."""
    counts: dict[str, list[int]] = field(default_factory=dict)
    """Replicas that were asked for, by namespace: every value that was seen, in order."""
    faults: list[str] = field(default_factory=list)
    grounds: list["Ground"] = field(default_factory=list)
    operators: dict[str, OperatorProcess] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)

    def ground(self, case: str) -> "Ground":
        name = f"{self.scene.prefix}-{case}"
        self.cluster.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        made = Ground(self, name)
        self.grounds.append(made)
        body = deployment("svc", replicas=1, gpus=0)
        body["spec"]["template"]["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "10m", "memory": "16Mi"}}
        self.cluster.request("POST", f"/apis/apps/v1/namespaces/{name}/deployments", body)
        return made

    def attend(self) -> None:
        """Serve a page at every pod, and follow the replica counts, until told to stop."""
        while not self._stop.wait(_POLL):
            try:
                self._attend()
            except ClusterError as error:
                self.faults.append(str(error))

    def _attend(self) -> None:
        prefix = f"{self.scene.prefix}-"
        running: dict[str, list[str]] = {}
        for pod in self.cluster.request("GET", "/api/v1/pods?labelSelector=app%3Dsvc")["items"]:
            namespace, address = pod["metadata"]["namespace"], pod.get("status", {}).get("podIP")
            if not namespace.startswith(prefix) or not address or "deletionTimestamp" in pod["metadata"]:
                continue
            running.setdefault(namespace, []).append(pod["metadata"]["name"])
            if address not in self.scene.pages.behaviours:
                self.scene.pages.serve(address, BUSY)
        self.pods = running
        for item in self.cluster.request("GET", "/apis/apps/v1/deployments")["items"]:
            namespace = item["metadata"]["namespace"]
            if not namespace.startswith(prefix):
                continue
            seen = self.counts.setdefault(namespace, [])
            if not seen or seen[-1] != item["spec"]["replicas"]:
                seen.append(item["spec"]["replicas"])

    def usage(self, request: Request) -> Reply:
        """Half a core for each workload, however many pods it has: by that metric one replica is enough."""
        parts = request.path.split("/")
        namespace = parts[1] if parts[0] == "namespaces" else ""
        pods = self.pods.get(namespace, [])
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        items = [
            {
                "metadata": {"name": name, "namespace": namespace},
                "timestamp": stamp,
                "window": "1s",
                "containers": [{"name": "vllm", "usage": {"cpu": f"{500 // len(pods)}m", "memory": "16Mi"}}],
            }
            for name in pods
        ]
        return HTTPStatus.OK, {"kind": "PodMetricsList", "apiVersion": _METRICS, "metadata": {}, "items": items}

    def stop(self) -> None:
        self._stop.set()


@dataclass
class Ground:
    """One case: a namespace with a workload, and what is done there."""

    street: Street
    namespace: str
    seen: int = 0
    """How many of our writes were counted already."""

    @property
    def cluster(self) -> Any:
        return self.street.cluster

    # ---- the other side

    def manifest(self, name: str = "theirs", **spec: Any) -> dict[str, Any]:
        cpu = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "AverageValue", "averageValue": "1"}}}
        return {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "svc"},
                "maxReplicas": MAXIMUM,
                "metrics": [cpu],
                "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}},
                **spec,
            },
        }

    def kubectl(self, *arguments: str, body: Mapping[str, Any] | None = None) -> str:
        given = None if body is None else json.dumps(body)
        said: str = self.cluster.kubectl("-n", self.namespace, *arguments, input=given)
        return said

    def by_kubectl(self, *verb: str, **spec: Any) -> None:
        """kubectl apply, create, replace ... of the manifest."""
        self.kubectl(*verb, "-f", "-", body=self.manifest(**spec))

    def by_apply(self, manager: str, *, force: bool = False, name: str = "theirs", **spec: Any) -> None:
        """Server-side apply of a manager, as GitOps tools do it."""
        body = self.manifest(name, **spec)
        path = f"{hpa_path(self.namespace, name)}?fieldManager={manager}&force={str(force).lower()}"
        self.cluster.request("PATCH", path, body, content_type=APPLY)

    def helm(self, program: str, verb: str, *arguments: str, **values: Any) -> str:
        """helm install or upgrade of a chart with the HPA, or another verb."""
        command = [str(self.cluster.binary(program)), verb, "theirs", *arguments]
        if verb in ("install", "upgrade"):
            command.append(str(self._chart()))
        for key, value in values.items():
            command += ["--set", f"{key}={value}"]
        command += ["--namespace", self.namespace, "--kubeconfig", str(self.cluster.kubeconfig)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
        assert done.returncode == 0, f"helm {verb}: {done.stdout}{done.stderr}"
        return done.stdout

    def _chart(self) -> Path:
        chart = self.street.folder / f"chart-{self.namespace}"
        if not chart.exists():
            (chart / "templates").mkdir(parents=True)
            (chart / "Chart.yaml").write_text("apiVersion: v2\nname: theirs\nversion: 1.0.0\n")
            body = self.manifest()
            del body["metadata"]["namespace"]
            body["metadata"]["annotations"] = {"example.com/round": "ROUND"}
            body["spec"]["minReplicas"] = "MINIMUM"
            text = json.dumps(body, indent=1).replace('"ROUND"', '"{{ .Values.round | default 1 }}"')
            line = next(line for line in text.splitlines() if "MINIMUM" in line)
            text = text.replace(f",\n{line}", '{{ with .Values.minimum }},\n"minReplicas": {{ . }}{{ end }}')
            (chart / "templates" / "hpa.yaml").write_text(text)
        return chart

    @contextlib.contextmanager
    def again_and_again(self, what: Callable[[], None], *, every: float = 1.0) -> Iterator[None]:
        """Do something again and again meanwhile, as tools that heal do; what fails is told."""
        stop, failures = threading.Event(), []

        def loop() -> None:
            while not stop.wait(every):
                try:
                    what()
                except (ClusterError, AssertionError) as error:
                    failures.append(str(error))

        thread = threading.Thread(target=loop, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(60)
        assert not failures, failures[:3]

    def live(self, name: str = "theirs") -> dict[str, Any]:
        found: dict[str, Any] = self.cluster.request("GET", hpa_path(self.namespace, name))
        return found

    def minimum(self, name: str = "theirs") -> int:
        value: int = self.live(name)["spec"]["minReplicas"]
        return value

    def patch(self, spec: Mapping[str, Any], *, name: str = "theirs", manager: str = "kubectl-edit") -> None:
        path = f"{hpa_path(self.namespace, name)}?fieldManager={manager}"
        self.cluster.request("PATCH", path, {"spec": spec}, content_type=MERGE)

    # ---- our side

    def optimize(self, name: str = "svc", **spec: Any) -> None:
        scaling = {"actuation": "Floor"} | spec.pop("scaling", {})
        policy = {"cooldown": "10s", "verifyWindow": "30s"}
        target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "svc"}
        self.street.scene.optimize(self.namespace, name, target=target, scaling=scaling, policy=policy, **spec)

    def change(self, spec: Mapping[str, Any], name: str = "svc") -> None:
        self.street.scene.change(self.namespace, spec, name)

    def status(self, name: str = "svc") -> dict[str, Any]:
        return self.street.scene.status(self.namespace, name)

    def condition(self, kind: str = "ActuationEffective", name: str = "svc") -> dict[str, str]:
        return self.street.scene.condition(self.namespace, kind, name)

    def wait(
        self, status: str, *reasons: str, names: str = "", kind: str = "ActuationEffective", name: str = "svc"
    ) -> dict[str, str]:
        """Wait for a condition, whose message names the other side."""

        def there() -> dict[str, str]:
            found = self.condition(kind, name)
            assert found.get("status") == status, found
            assert found["reason"] in reasons, found
            assert names in found["message"], found
            return found

        return eventually(there, seconds=PATIENCE, what=f"{self.namespace}: {kind} {status} {reasons}", every=0.5)

    def wait_minimum(self, value: int, name: str = "theirs") -> None:
        def there() -> bool:
            assert self.minimum(name) == value, self.live(name)["spec"]
            return True

        eventually(there, seconds=PATIENCE, what=f"{self.namespace}: minReplicas {value}", every=0.5)

    def wait_replicas(self, value: int) -> None:
        path = f"/apis/apps/v1/namespaces/{self.namespace}/deployments/svc"

        def there() -> bool:
            assert self.cluster.request("GET", path)["spec"]["replicas"] == value
            return True

        eventually(there, seconds=PATIENCE, what=f"{self.namespace}: {value} replicas", every=0.5)

    def ours(self) -> list[Write]:
        """All writes of our operators to what is not their own, that landed."""
        return [
            write
            for write in self.street.audit.writes(self.namespace)
            if write.landed and "optiinfra-operator" in write.user and write.resource not in OWN_RESOURCES
        ]

    def refused(self) -> list[Write]:
        """What our operators tried and the API server refused."""
        return [
            write
            for write in self.street.audit.writes(self.namespace)
            if not write.landed and "optiinfra-operator" in write.user and write.resource not in OWN_RESOURCES
        ]

    def fresh(self) -> list[Write]:
        """Our writes since this was last asked."""
        found = self.ours()
        fresh, self.seen = found[self.seen :], len(found)
        return fresh

    def all_writes(self) -> list[Write]:
        """All writes of anybody in the namespace that landed."""
        return [write for write in self.street.audit.writes(self.namespace) if write.landed]

    def by_manager(self) -> dict[str, int]:
        """Writes of everybody to HPAs of the namespace that landed, by field manager; statuses left out."""
        counted: dict[str, int] = {}
        for write in self.street.audit.writes(self.namespace):
            if write.landed and write.resource == "horizontalpodautoscalers":
                counted[write.manager] = counted.get(write.manager, 0) + 1
        return counted

    def settle(self, seconds: float = QUIET_SECONDS) -> None:
        """Wait for a while in which we write nothing and the replica count stays; that it comes is the claim."""
        deadline = time.monotonic() + PATIENCE
        state, since = self._state(), time.monotonic()
        while time.monotonic() - since < seconds:
            assert time.monotonic() < deadline, f"never still for {seconds:g} s; last: {state}"
            time.sleep(_POLL)
            if (now := self._state()) != state:
                state, since = now, time.monotonic()

    def _state(self) -> tuple[int, list[int]]:
        return len(self.ours()), list(self.street.counts.get(self.namespace, ()))

    def reversals(self) -> int:
        """How often the replica count turned around."""
        counts = self.street.counts.get(self.namespace, [])
        steps = [after > before for before, after in itertools.pairwise(counts)]
        return sum(1 for before, after in itertools.pairwise(steps) if before != after)


TIMES = {
    "OPTIINFRA_INTERVAL_SECONDS": "1",
    "OPTIINFRA_SCRAPE_INTERVAL_SECONDS": "1",
    "OPTIINFRA_STALE_AFTER_SECONDS": "20",
    "OPTIINFRA_SIGNAL_WINDOW_SECONDS": "10",
    "OPTIINFRA_TICK_SECONDS": "1",
    "OPTIINFRA_HOLD_SECONDS": "3",
}


@contextlib.contextmanager
def neighbourhood(cluster: Any, folder: Path, *, values: Mapping[str, str] | None = None) -> Iterator[Street]:
    """One operator that may act everywhere, and a street of cases."""
    prefix = f"street-{os.getpid()}-{next(_numbers)}"
    with contextlib.ExitStack() as stack:
        pages = stack.enter_context(EnginePages(free_port()))
        chosen = {"actuation.enabled": "true", "externalMetrics.enabled": "true"} | dict(values or {})
        installation = stack.enter_context(
            install(cluster, folder=folder, namespace=f"{prefix}-operator", values=chosen)
        )
        operator = installation.operator(**TIMES)
        scene = Scene(cluster, installation, operator, pages, prefix)
        street = Street(cluster, folder, scene, Audit(cluster.audit_log), operators={"first": operator})
        resources = [{"name": "pods", "singularName": "", "namespaced": True, "kind": "PodMetrics", "verbs": ["list"]}]
        stack.enter_context(
            AggregatedApi(
                cluster,
                namespace=installation.namespace,
                group_version=_METRICS,
                resources=resources,
                answer=street.usage,
                service="usage-double",
            )
        )
        attendant = threading.Thread(target=street.attend, daemon=True)
        stack.callback(_leave, street)
        stack.callback(operator.kill)
        stack.callback(attendant.join, 20)
        stack.callback(street.stop)
        attendant.start()
        installation.send_external_metrics_to(operator)
        operator.start().wait_ready(seconds=90)
        yield street


def _leave(street: Street) -> None:
    for ground in street.grounds:
        with contextlib.suppress(ApiError):
            street.cluster.request("DELETE", f"/api/v1/namespaces/{ground.namespace}")


@contextlib.contextmanager
def second_operator(ground: Ground) -> Iterator[OperatorProcess]:
    """Another installation of the chart, which sees the namespace of one case and nothing else."""
    street = ground.street
    folder = street.folder / f"second-{ground.namespace}"
    folder.mkdir()
    values = {
        "actuation.enabled": "true",
        "crds.install": "false",
        "scope": "Namespaces",
        "watchNamespaces": f"{{{ground.namespace}}}",
        "agent.enabled": "false",
    }
    name = f"second-{next(_numbers)}-{os.getpid()}"
    with install(street.cluster, folder=folder, namespace=name, values=values) as installation:
        operator = installation.operator(**TIMES).start()
        try:
            yield operator.wait_ready(seconds=90)
        finally:
            operator.kill()
