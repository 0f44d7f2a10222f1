"""Everything that the demonstration starts, in order, and ends, whatever happens.

Cluster, chart, services, simulator, operator, agent. Operator and agent are the real programs, run on this machine
because the simulated nodes run no containers: with the environment that the chart gives to its pods, read back from
the cluster, and with tokens of the chart's own ServiceAccounts, so that its RBAC is what holds. Only addresses and
paths of files differ from a pod.
"""

import base64
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from hack.cluster import Cluster, Node
from hack.demo import http
from hack.demo.errors import DemoError
from hack.demo.ports import Ports
from hack.demo.programs import Programs
from hack.demo.watch import INFERENCE, OPTIINFRA

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
CHART = ROOT / "charts" / "optiinfra"
SCENARIO = EXAMPLES / "demo-scenario.yaml"
VALUES = EXAMPLES / "demo" / "values.yaml"
OBJECTS = ("workloads.yaml", "optimizations.yaml", "cluster.yaml")
NODES = tuple(Node(name=f"gpu-{number}", gpus=8) for number in range(1, 5))
AUDIENCE = "optiinfra"
RELEASE = "optiinfra"
VIEWER = "demo-viewer"
BUSY = "chat"
HELM_SECONDS = 120.0
START_SECONDS = 30.0
_BIN = Path(sys.executable).parent

Say = Callable[[str], None]


@dataclass
class Stage:
    """One demonstration's cluster and processes."""

    folder: Path
    ports: Ports
    say: Say
    keep: bool = False
    cluster_folder: Path | None = None
    """Where the cluster lies; a part of `folder` when left out."""
    cluster: Cluster = field(init=False)
    programs: Programs = field(init=False)

    def __post_init__(self) -> None:
        self.cluster = Cluster(self.cluster_folder or self.folder / "cluster", nodes=NODES, audit=True, say=self.say)
        self.programs = Programs(self.folder / "programs", outlive=self.keep)

    @property
    def record(self) -> Path:
        """What the simulator writes down each second."""
        return self.folder / "replicas.jsonl"

    @property
    def _keys(self) -> Path:
        return self.folder / "keys"

    # ---- up

    def up(self) -> None:
        """Start everything but the load."""
        started = time.monotonic()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.cluster.up(owned=not self.keep)
        for namespace in (OPTIINFRA, INFERENCE):
            self.cluster.kubectl("create", "namespace", namespace)
        self._install()
        self._apply()
        self._start_simulator()
        self.start_operator()
        self._wait("the operator's HTTP server", lambda: bool(self.health()))
        self._start_agent()
        self.say(f"all started after {time.monotonic() - started:.0f} s")

    def _install(self) -> None:
        settings = {
            "service.httpPort": self.ports.http,
            "externalMetrics.port": self.ports.external_metrics,
            "agent.port": self.ports.agent,
        }
        version = self.helm("version", "--short").strip()
        arguments = [f"--set={name}={value}" for name, value in settings.items()]
        self.helm("install", RELEASE, str(CHART), f"--namespace={OPTIINFRA}", f"--values={VALUES}", *arguments)
        self.say(f"Helm {version} installed the chart")

    def helm(self, *arguments: str) -> str:
        """Run helm as administrator; its own files stay in the demonstration's folder."""
        own = {f"HELM_{kind}_HOME": str(self.folder / "helm" / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}
        command = [str(self.cluster.binary("helm")), *arguments]
        environment = dict(os.environ) | own | {"KUBECONFIG": str(self.cluster.kubeconfig)}
        try:
            answer = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=HELM_SECONDS, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise DemoError(f"helm {arguments[0]}: not done after {HELM_SECONDS:.0f} s") from error
        if answer.returncode:
            raise DemoError(f"helm {arguments[0]}: {answer.stderr.strip()}")
        return answer.stdout

    def _apply(self) -> None:
        for name in OBJECTS:
            text = (EXAMPLES / "demo" / name).read_text(encoding="utf-8")
            objects = with_engine_port(list(yaml.safe_load_all(text)), port=self.ports.engine)
            self.cluster.kubectl("apply", "--filename=-", input=yaml.safe_dump_all(objects, sort_keys=False))
        # A person who looks: may list what the chart's own view role shows, and holds a token for the HTTP API.
        self.cluster.kubectl("create", "serviceaccount", VIEWER, f"--namespace={OPTIINFRA}")
        role = f"--clusterrole={OPTIINFRA}:{RELEASE}:view"
        subject = f"--serviceaccount={OPTIINFRA}:{VIEWER}"
        self.cluster.kubectl("create", "clusterrolebinding", VIEWER, role, subject)

    def _start_simulator(self) -> None:
        command = [
            str(_BIN / "optiinfra-sim"),
            "serve",
            str(SCENARIO),
            f"--kubeconfig={self.cluster.kubeconfig}",
            f"--engine-port={self.ports.engine}",
            f"--agent-port={self.ports.agent}",
            f"--control-port={self.ports.control}",
            f"--record={self.record}",
        ]
        self.programs.start("simulator", command, {})
        self._wait("the simulator", lambda: bool(self.simulator_state()))

    def start_operator(self) -> None:
        """Start the operator as its chart would: environment, ServiceAccount, certificate."""
        deployment = f"/apis/apps/v1/namespaces/{OPTIINFRA}/deployments/{RELEASE}-operator"
        environment = self._environment_of(deployment) | {
            "OPTIINFRA_KUBECONFIG": str(self.cluster.service_account_kubeconfig(OPTIINFRA, f"{RELEASE}-operator")),
            "OPTIINFRA_NAMESPACE": OPTIINFRA,
            "OPTIINFRA_POD_NAME": f"{RELEASE}-operator",
            "OPTIINFRA_POD_IP": "127.0.0.1",
            "OPTIINFRA_PROXY_TOKEN_FILE": str(self._token_file("operator", f"{RELEASE}-operator")),
        }
        secret = self.cluster.request("GET", f"/api/v1/namespaces/{OPTIINFRA}/secrets/{RELEASE}-external-metrics")
        for variable, key in (("CERTIFICATE", "tls.crt"), ("KEY", "tls.key")):
            path = self._secret_file(key, base64.b64decode(secret["data"][key]))
            environment[f"OPTIINFRA_TLS_{variable}_FILE"] = str(path)
        self.programs.start("operator", [str(_BIN / "optiinfra"), "operator"], environment)

    def _start_agent(self) -> None:
        daemon_set = f"/apis/apps/v1/namespaces/{OPTIINFRA}/daemonsets/{RELEASE}-agent"
        environment = self._environment_of(daemon_set) | {
            "NODE_NAME": socket.gethostname(),
            "OPTIINFRA_AGENT_LISTEN_PORT": str(self.ports.real_agent),
            "OPTIINFRA_AGENT_ENDPOINT": f"http://127.0.0.1:{self.ports.real_agent}",
            "ORCHESTRATOR_URL": f"http://127.0.0.1:{self.ports.http}",
            "ORCHESTRATOR_TOKEN_FILE": str(self._token_file("agent", f"{RELEASE}-agent")),
        }
        self.programs.start("agent", [str(_BIN / "optiinfra-agent")], environment)

    def _environment_of(self, path: str) -> dict[str, str]:
        """The plain variables of a chart's workload; what refers to the pod itself is left to the caller."""
        container = self.cluster.request("GET", path)["spec"]["template"]["spec"]["containers"][0]
        return {item["name"]: item["value"] for item in container["env"] if "value" in item}

    def _token_file(self, name: str, account: str) -> Path:
        token = self.cluster.service_account_token(OPTIINFRA, account, AUDIENCE)
        return self._secret_file(f"{name}.token", token.encode())

    def _secret_file(self, name: str, content: bytes) -> Path:
        self._keys.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._keys / name
        path.touch(mode=0o600)
        path.write_bytes(content)
        return path

    def _wait(self, what: str, is_there: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            self.programs.demand()
            try:
                if is_there():
                    return
                reason = "not ready yet"
            except DemoError as error:
                reason = str(error)
            if time.monotonic() > deadline:
                raise DemoError(
                    f"{what}: not there after {START_SECONDS:.0f} s ({reason}); logs: {self.programs.folder}"
                )
            time.sleep(0.2)

    # ---- while it runs

    def simulator_state(self) -> dict[str, Any]:
        """What the simulator says of its services."""
        state: dict[str, Any] = http.call(self.ports.control, "/sim/v1/state")
        return state

    def health(self) -> dict[str, Any]:
        """What the operator says of itself, whether well or not."""
        health: dict[str, Any] = http.call(self.ports.http, "/health/detailed", accept=(200, 503))
        return health

    def begin_load(self) -> None:
        """Let the busy service's requests begin."""
        http.call(self.ports.control, f"/sim/v1/begin/{BUSY}", method="POST")

    def agents(self) -> list[dict[str, Any]]:
        """The agents that the operator lists, asked for with the viewer's token."""
        token = self.cluster.service_account_token(OPTIINFRA, VIEWER, AUDIENCE)
        agents: list[dict[str, Any]] = http.call(self.ports.http, "/api/v1/agents", token=token)
        return agents

    def real_snapshot(self) -> dict[str, Any]:
        """What the real agent measured on this machine."""
        snapshot: dict[str, Any] = http.call(self.ports.real_agent, "/v1/snapshot")
        return snapshot

    # ---- down

    def down(self) -> None:
        """End everything that `up` started."""
        try:
            self.programs.stop()
        finally:
            self.cluster.down()
            shutil.rmtree(self._keys, ignore_errors=True)


def with_engine_port(objects: list[Mapping[str, Any]], *, port: int) -> list[dict[str, Any]]:
    """Return the objects with the engines' port of this run, in containers and in ResourceOptimizations."""
    result = []
    for item in objects:
        changed = dict(item)
        if changed["kind"] == "ResourceOptimization" and port != 8000:
            changed["spec"] = {**changed["spec"], "engine": {"port": port}}
        result.append(changed)
    return result
