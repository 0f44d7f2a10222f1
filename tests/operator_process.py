"""`optiinfra operator` as a real process under the chart's own ServiceAccount and RBAC.

    with install(cluster, folder=tmp_path, namespace="op", values={"actuation.enabled": "true"}) as installation:
        with installation.operator(OPTIINFRA_INTERVAL_SECONDS="1") as operator:
            operator.wait_ready()
            operator.series("optiinfra_desired_replicas")

The chart is rendered by Helm and applied without what would make pods. Each process listens on a loopback address of
its own, as a pod does; its environment is the chart's for the Deployment, with what names files or other addresses
replaced. Nothing of the caller's own OPTIINFRA_* settings reaches it, and it dies with this process.
"""

import base64
import contextlib
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import yaml

from hack.cluster.errors import ApiError

ROOT = Path(__file__).parents[1]
CHART = ROOT / "charts" / "optiinfra"
SERVICE_ACCOUNT = "optiinfra-operator"
_PODS = {"Deployment", "DaemonSet", "Job", "PodDisruptionBudget", "NetworkPolicy"}
_CLUSTER_KINDS = {
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "APIService": "/apis/apiregistration.k8s.io/v1/apiservices",
}
_FOREIGN = ("OPTIINFRA_", "ORCHESTRATOR_", "KUBECONFIG", "NODE_NAME")
_numbers = itertools.count(1)
T = TypeVar("T")


LEAST_PATIENCE = 60.0
"""Seconds: what takes two on a quiet machine takes thirty on a loaded one."""


def eventually(look: Callable[[], T | None], *, seconds: float, what: str, every: float = 0.2) -> T:
    """Return the first truthy answer of `look`; an AssertionError of its own is the reason when time is up.

    It waits for `seconds` or LEAST_PATIENCE, whichever is longer: a test that promises a time has to measure it.
    """
    seconds = max(seconds, LEAST_PATIENCE)
    deadline = time.monotonic() + seconds
    last: object = None
    while True:
        try:
            found = look()
            last = found
            if found:
                return found
        except AssertionError as error:
            last = error
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}; last seen: {last}")
        time.sleep(every)


def free_port() -> int:
    """Return a port that is free on every address."""
    with socket.socket() as probe:
        probe.bind(("0.0.0.0", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Answer:
    code: int
    text: str

    def json(self) -> Any:
        return json.loads(self.text)


def call(url: str, *, method: str = "GET", token: str = "", body: object = None, timeout: float = 10.0) -> Answer:
    """Send one request without any proxy."""
    headers = {"Content-Type": "application/json"} if body is not None else {}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers=headers, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=timeout) as response:
            return Answer(response.status, response.read().decode())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.read().decode())


@dataclass
class OperatorProcess:
    """One replica. Use as a context manager; leaving it kills what still runs."""

    name: str
    address: str
    port: int
    environment: dict[str, str]
    log: Path
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}"

    @property
    def identity(self) -> str:
        return f"{self.name}@{self.address}:{self.port}"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> Self:
        assert self.process is None or self.process.poll() is not None, "it runs already"
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(_FOREIGN)}
        local = {"NO_PROXY": "127.0.0.0/8,localhost", "no_proxy": "127.0.0.0/8,localhost", "PYTHONUNBUFFERED": "1"}
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _BOUND, str(Path(sys.executable).with_name("optiinfra")), "operator"],
                env=inherited | local | self.environment,
                cwd=self.log.parent,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    @property
    def credential(self) -> str:
        """What the audit log calls the token of this replica."""
        config = yaml.safe_load(Path(self.environment["OPTIINFRA_KUBECONFIG"]).read_text())
        claims = config["users"][0]["user"]["token"].split(".")[1]
        return f"JTI={json.loads(base64.urlsafe_b64decode(claims + '=' * (-len(claims) % 4)))['jti']}"

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def terminate(self, *, seconds: float = 15.0) -> int:
        """SIGTERM, as the kubelet sends it; returns the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(seconds)

    def kill(self) -> None:
        """SIGKILL, without any chance to say goodbye."""
        if self.process is not None:
            if self.process.poll() is None:
                self.process.kill()
            self.process.wait(10)

    def wait_exit(self, *, seconds: float) -> int:
        assert self.process is not None
        return self.process.wait(seconds)

    # what it says

    def get(self, path: str, *, token: str = "", timeout: float = 10.0) -> Answer:
        return call(self.url + path, token=token, timeout=timeout)

    def post(self, path: str, body: object, *, token: str = "") -> Answer:
        return call(self.url + path, method="POST", token=token, body=body)

    def wait_ready(self, *, seconds: float = 120.0) -> Self:
        def ready() -> bool:
            if not self.running:
                raise RuntimeError(f"the operator ended: {self.log.read_text()[-2000:]}")
            try:
                return self.get("/health/ready", timeout=3.0).code == 200
            except OSError:
                return False

        eventually(ready, seconds=seconds, what=f"{self.name} is ready; its log: {self.log}", every=0.1)
        return self

    def detailed(self) -> dict[str, Any]:
        found: dict[str, Any] = self.get("/health/detailed", timeout=5.0).json()
        return found

    @property
    def leading(self) -> bool:
        try:
            return self.running and bool(self.detailed()["leading"])
        except OSError:
            return False

    def metrics(self) -> str:
        return self.get("/metrics").text

    def series(self, name: str) -> dict[tuple[tuple[str, str], ...], float]:
        """Samples of one metric of its own, by sorted labels."""
        found = {}
        for line in self.metrics().splitlines():
            match = re.fullmatch(rf"{re.escape(name)}(?:\{{(.*)\}})? (\S+)", line)
            if match:
                labels = re.findall(r'(\w+)="([^"]*)"', match[1] or "")
                found[tuple(sorted(labels))] = float(match[2])
        return found

    def desired(self, namespace: str) -> dict[str, float]:
        """What it publishes for a namespace, by object."""
        return {
            dict(labels)["name"]: value
            for labels, value in self.series("optiinfra_desired_replicas").items()
            if dict(labels)["namespace"] == namespace
        }

    def records(self) -> list[dict[str, Any]]:
        """Every line of its log; one that is no JSON object is given as a record of level TEXT."""
        found = []
        for line in self.log.read_text().splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            found.append(record if isinstance(record, dict) else {"level": "TEXT", "message": line})
        return found

    def complaints(self) -> list[dict[str, Any]]:
        """What must not be in the log of a healthy operator: errors, tracebacks, lines that are no JSON.

        Kopf's own are left out: its watches fail, and say so, while the server renews CRDs or restarts.
        """
        bad = {"ERROR", "CRITICAL", "TEXT"}
        return [item for item in self.records() if item["level"] in bad and item.get("logger", "")[:5] != "kopf."]


# The kernel ends it with this process (PR_SET_PDEATHSIG): a killed test run leaves nothing behind.
_BOUND = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@dataclass
class Installation:
    """The chart's objects in a cluster, and the processes that run under them."""

    cluster: Any
    folder: Path
    namespace: str
    documents: list[dict[str, Any]]
    port: int
    external_port: int
    environment: dict[str, str]
    lease: str = "optiinfra-operator"
    _started: list[OperatorProcess] = field(default_factory=list)

    def operator(self, name: str = "", **environment: str) -> OperatorProcess:
        """A replica that is not started yet."""
        number = next(_numbers)
        name = name or f"optiinfra-operator-{number}"
        # Outside of what KWOK has given to pods so far, and not the same for two replicas.
        address = f"{self.cluster.pod_cidr.rsplit('.', 2)[0]}.255.{number % 200 + 20}"
        token = self.folder / f"{name}.token"
        token.write_text(self.token())
        # A token of its own, so that the audit log tells replicas apart.
        kubeconfig = self.folder / f"{name}.kubeconfig"
        kubeconfig.write_text(self.kubeconfig().read_text())
        own = {
            "OPTIINFRA_KUBECONFIG": str(kubeconfig),
            "OPTIINFRA_NAMESPACE": self.namespace,
            "OPTIINFRA_POD_NAME": name,
            "OPTIINFRA_POD_IP": address,
            "OPTIINFRA_HTTP_HOST": address,
            "OPTIINFRA_HTTP_PORT": str(self.port),
            "OPTIINFRA_PROXY_TOKEN_FILE": str(token),
        }
        if "OPTIINFRA_TLS_KEY_FILE" in self.environment:
            own |= self._tls()
        process = OperatorProcess(
            name, address, self.port, self.environment | own | environment, self.folder / f"{name}.log"
        )
        self._started.append(process)
        return process

    def kubeconfig(self) -> Path:
        path: Path = self.cluster.service_account_kubeconfig(self.namespace, SERVICE_ACCOUNT)
        return path

    def token(self, account: str = SERVICE_ACCOUNT, *, namespace: str = "", audience: str | None = "optiinfra") -> str:
        token: str = self.cluster.service_account_token(namespace or self.namespace, account, audience)
        return token

    def holder(self) -> str:
        """Who holds the Lease."""
        lease = self.cluster.request("GET", self.lease_path)
        return str(lease.get("spec", {}).get("holderIdentity") or "")

    @property
    def lease_path(self) -> str:
        return f"/apis/coordination.k8s.io/v1/namespaces/{self.namespace}/leases/{self.lease}"

    @property
    def switch_path(self) -> str:
        """The ConfigMap of the kill switch."""
        return f"/api/v1/namespaces/{self.namespace}/configmaps/optiinfra-control"

    def send_external_metrics_to(self, operator: OperatorProcess) -> None:
        """Let the API server ask this replica for external metrics."""
        path = f"/api/v1/namespaces/{self.namespace}/services/{SERVICE_ACCOUNT}"
        body = {"spec": {"externalName": operator.address}}
        self.cluster.request("PATCH", path, body, content_type="application/merge-patch+json")

    def _tls(self) -> dict[str, str]:
        secret = next(item for item in self.documents if item["kind"] == "Secret")
        files = {}
        for key in ("tls.crt", "tls.key"):
            files[key] = self.folder / key
            files[key].write_bytes(base64.b64decode(secret["data"][key]))
        return {
            "OPTIINFRA_TLS_CERTIFICATE_FILE": str(files["tls.crt"]),
            "OPTIINFRA_TLS_KEY_FILE": str(files["tls.key"]),
        }

    def remove(self) -> None:
        """End the processes and take away what is cluster-wide, then the namespace."""
        for process in self._started:
            process.kill()
        for item in self.documents:
            path = _CLUSTER_KINDS.get(item["kind"])
            if path is None and item["metadata"].get("namespace", self.namespace) != self.namespace:
                kind, version = item["kind"], item["apiVersion"]
                path = f"/apis/{version}/namespaces/{item['metadata']['namespace']}/{kind.lower()}s"
            if path is not None:
                with contextlib.suppress(ApiError):
                    self.cluster.request("DELETE", f"{path}/{item['metadata']['name']}")
        self.cluster.request("DELETE", f"/api/v1/namespaces/{self.namespace}")


@contextlib.contextmanager
def install(
    cluster: Any, *, folder: Path, namespace: str, values: Mapping[str, str] | None = None
) -> Iterator[Installation]:
    """Render the chart with Helm and apply it, without what would make pods."""
    external_port = free_port()
    chosen = {
        "service.type": "ExternalName",
        "service.externalName": "localhost",
        "externalMetrics.port": external_port,
        "externalMetrics.ownerChecked": "true",
        "agent.namespace": namespace,  # the simulated agents are pods there
    }
    command = [str(cluster.binary("helm")), "template", "optiinfra", str(CHART), "--namespace", namespace]
    for key, value in (chosen | dict(values or {})).items():
        command += ["--set-string" if key == "service.externalName" else "--set", f"{key}={value}"]
    rendered = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    documents = [item for item in yaml.safe_load_all(rendered) if item]
    applied = [item for item in documents if item["kind"] not in _PODS]
    cluster.kubectl("create", "namespace", namespace)
    order = sorted(applied, key=lambda item: item["kind"] != "CustomResourceDefinition")
    cluster.kubectl(
        "apply",
        "--server-side",
        "--force-conflicts",
        "--field-manager=helm",
        "-f",
        "-",
        input=yaml.safe_dump_all(order),
    )
    deployment = next(item for item in documents if item["kind"] == "Deployment")
    variables = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    environment = {entry["name"]: entry["value"] for entry in variables if "value" in entry}
    installation = Installation(cluster, folder, namespace, applied, free_port(), external_port, environment)
    try:
        for name in (item["metadata"]["name"] for item in applied if item["kind"] == "CustomResourceDefinition"):
            path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"
            eventually(lambda path=path: _established(cluster.request("GET", path)), seconds=10, what=name)
        yield installation
    finally:
        installation.remove()


def _established(definition: Mapping[str, Any]) -> bool:
    conditions = definition.get("status", {}).get("conditions", ())
    return any(entry["type"] == "Established" and entry["status"] == "True" for entry in conditions)
