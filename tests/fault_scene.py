"""What tests of faults share: a supervisor, the user's side of the cluster, and the final state to compare.

The operator reaches the API server through `hack.fault_proxy` only; everything here goes there directly. `Supervisor`
does what a kubelet does for a container that ended. `Neighbours` does what the controllers for HPAs and Deployments,
the kubelets and the garbage collector would: replicas follow the minimum or the operator's own HPA, as far as it reads
a count, each replica has a pod on which the engine answers, and what lost its owner is deleted.
"""

import contextlib
import itertools
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from hack.cluster.errors import ApiError, ClusterError
from hack.fault_proxy import FaultProxy
from tests.engine_pages import MERGE, EnginePages, Page, Scene, hpa_path, ready_pod
from tests.operator_process import OperatorProcess, eventually, free_port, install

ACCOUNT = "optiinfra-operator"
BUSY = Page(running=60, waiting=400, kv_cache_usage=0.5)
CALM = Page(running=2, kv_cache_usage=0.05)
MAXIMUM = 4
ENVIRONMENT = {
    "OPTIINFRA_INTERVAL_SECONDS": "1",
    "OPTIINFRA_SCRAPE_INTERVAL_SECONDS": "1",
    "OPTIINFRA_STALE_AFTER_SECONDS": "6",
    "OPTIINFRA_SIGNAL_WINDOW_SECONDS": "10",
    "OPTIINFRA_TICK_SECONDS": "1",
    "OPTIINFRA_HOLD_SECONDS": "3",
    "OPTIINFRA_RETRY_PERIOD_SECONDS": "0.5",
}
_PERIOD = 0.5
_UID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Worker:
    """Calls `turn` again and again in a thread until the block ends; a server that is away is no failure."""

    def __init__(self, period: float) -> None:
        self._period = period
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.failure: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def turn(self) -> None:
        raise NotImplementedError

    def _run(self) -> None:
        while not self._stop.wait(self._period):
            try:
                self.turn()
            except (ApiError, ClusterError, OSError):
                continue
            except BaseException as error:  # noqa: BLE001  told by the test, a thread cannot fail one
                self.failure = error
                return


class Supervisor(Worker):
    """Starts an operator again that ended."""

    def __init__(self, *operators: OperatorProcess) -> None:
        super().__init__(0.1)
        self.operators = operators
        self.exits: list[int] = []
        self.paused = False

    def turn(self) -> None:
        for operator in self.operators:
            process = operator.process
            if self.paused or process is None:
                continue
            code = process.poll()
            if code is not None:
                operator.start()  # raises where the machine has no process to give, and is tried again
                self.exits.append(code)

    def kill(self, operator: OperatorProcess) -> Callable[[], None]:
        """SIGKILL, without waiting: the supervisor does that."""

        def kill() -> None:
            if operator.process is not None and operator.process.poll() is None:
                operator.process.kill()

        return kill

    @property
    def by_itself(self) -> list[int]:
        """Exit codes of ends that nobody asked for."""
        return [code for code in self.exits if code != -9]


class Neighbours(Worker):
    """The controllers of a cluster that has none, for the namespaces of one scene."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(_PERIOD)
        self._scene = scene
        self._hosts = itertools.count(1)
        self.namespaces: list[str] = []
        """In which it works."""

    def turn(self) -> None:
        for namespace in tuple(self.namespaces):
            self._follow(namespace)

    def _follow(self, namespace: str) -> None:
        request = self._scene.cluster.request
        hpas = request("GET", hpa_path(namespace))["items"]
        objects = {item["metadata"]["uid"]: item for item in request("GET", self._scene.path(namespace))["items"]}
        for hpa in hpas:
            owners = hpa["metadata"].get("ownerReferences", ())
            if any(owner["uid"] not in objects for owner in owners):
                request("DELETE", hpa_path(namespace, hpa["metadata"]["name"]))
                continue
            wanted: int | None = hpa["spec"].get("minReplicas", 1)
            for owner in owners:
                wanted = objects[owner["uid"]].get("status", {}).get("desired", {}).get("replicas")
            self._scale(namespace, wanted, hpa)

    def _scale(self, namespace: str, wanted: int | None, hpa: dict[str, Any]) -> None:
        """Do what an HPA does; one that reads no metric (None) holds what runs."""
        request = self._scene.cluster.request
        name = hpa["spec"]["scaleTargetRef"]["name"]
        path = f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}"
        current = request("GET", path)["spec"]["replicas"]
        least, most = hpa["spec"].get("minReplicas", 1), hpa["spec"]["maxReplicas"]
        replicas = min(max(current if wanted is None else wanted, least), most)
        if current != replicas:
            request("PATCH", path, {"spec": {"replicas": replicas}}, content_type=MERGE)
        if hpa.get("status", {}).get("desiredReplicas") != replicas:
            condition = {"type": "ScalingActive", "status": "True", "reason": "ValidMetricFound"}
            status = {"currentReplicas": replicas, "desiredReplicas": replicas, "conditions": [condition]}
            where = hpa_path(namespace, hpa["metadata"]["name"])
            request("PATCH", f"{where}/status", {"status": status}, content_type=MERGE)
        pods = {item["metadata"]["name"] for item in request("GET", f"/api/v1/namespaces/{namespace}/pods")["items"]}
        wanted = {f"{name}-{number}" for number in range(replicas)}
        for missing in sorted(wanted - pods):
            ready_pod(self._scene.cluster, namespace, missing, self.address(), labels={"app": name}, node="engine-node")
        for extra in sorted(pods - wanted):
            request("DELETE", f"/api/v1/namespaces/{namespace}/pods/{extra}?gracePeriodSeconds=0")

    def address(self) -> str:
        """An address that no pod had before."""
        number = next(self._hosts)
        return f"{self._scene.cluster.pod_cidr.rsplit('.', 2)[0]}.{150 + number // 250}.{number % 250 + 1}"


@dataclass
class Audit:
    """What the operators' ServiceAccount wrote, from the API server's audit log, read on from where it was."""

    scene: Scene
    entries: list[dict[str, Any]] = field(default_factory=list)
    _offset: int = 0

    def read(self) -> list[dict[str, Any]]:
        """All writes so far, in the order in which they were answered; Leases are left out."""
        account = f"system:serviceaccount:{self.scene.installation.namespace}:{ACCOUNT}"
        with self.scene.cluster.audit_log.open("rb") as log:
            log.seek(self._offset)
            for line in log:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                if account.encode() not in line:
                    continue
                entry = json.loads(line)
                verbs = {"create", "update", "patch", "delete", "deletecollection"}
                reference = entry.get("objectRef", {})
                if entry["user"]["username"] != account or entry["verb"] not in verbs:
                    continue
                if reference.get("resource", "") == "leases" or reference.get("resource", "").endswith("reviews"):
                    continue
                self.entries.append(entry)
        return self.entries

    def landed(self, *, since: str = "", credential: str = "") -> list[str]:
        """Writes that the server carried out: verb, resource, namespace/name."""
        return [
            name_of(entry)
            for entry in self.read()
            if entry["responseStatus"]["code"] < 300
            and entry["requestReceivedTimestamp"] >= since
            and credential in json.dumps(entry["user"])
        ]


def name_of(entry: dict[str, Any]) -> str:
    """One line for an entry of the audit log."""
    reference = entry["objectRef"]
    parts = (reference["resource"], reference.get("subresource", ""))
    resource = "/".join(part for part in parts if part)
    return f"{entry['verb']} {resource} {reference.get('namespace', '')}/{reference.get('name', '')}"


def wait_quiet(audit: Audit, *, quiet: float, within: float) -> float:
    """Wait until nothing was written for `quiet` seconds; returns how long after the call the last write came."""
    started = last = time.monotonic()
    count = len(audit.read())
    while time.monotonic() - last < quiet:
        time.sleep(0.25)
        now = len(audit.read())
        if now != count:
            count, last = now, time.monotonic()
        recent = [name_of(entry) for entry in audit.entries[-12:]]
        assert last - started <= within, f"still writing {within:g} s after the faults: {recent}"
    return last - started


def state_of(scene: Scene, namespace: str) -> dict[str, Any]:
    """What a namespace comes to, without times, uids, versions, and names of the namespace."""
    request = scene.cluster.request
    found: dict[str, Any] = {"hpas": {}, "deployments": {}, "objects": {}}
    for item in request("GET", hpa_path(namespace))["items"]:
        metadata = item["metadata"]
        found["hpas"][metadata["name"]] = {
            "spec": item["spec"],
            "labels": metadata.get("labels", {}),
            "annotations": metadata.get("annotations", {}),
            "owners": sorted(f"{owner['kind']} {owner['name']}" for owner in metadata.get("ownerReferences", ())),
            "managers": sorted(
                _UID.sub(
                    "uid", f"{entry['manager']} {entry['operation']} {json.dumps(entry['fieldsV1'], sort_keys=True)}"
                )
                for entry in metadata.get("managedFields", ())
                if entry.get("subresource") != "status"
            ),
        }
    for item in request("GET", f"/apis/apps/v1/namespaces/{namespace}/deployments")["items"]:
        found["deployments"][item["metadata"]["name"]] = item["spec"]["replicas"]
    for item in request("GET", scene.path(namespace))["items"]:
        status = item.get("status", {})
        found["objects"][item["metadata"]["name"]] = {
            "spec": item["spec"],
            "annotations": item["metadata"].get("annotations", {}),
            "finalizers": item["metadata"].get("finalizers", []),
            "desired": {key: status.get("desired", {}).get(key) for key in ("replicas", "rule")},
            "conditions": {entry["type"]: (entry["status"], entry["reason"]) for entry in status.get("conditions", ())},
            "observed": status.get("observedGeneration") == item["metadata"]["generation"],
        }
    return found


def wait_state(scene: Scene, namespace: str, wanted: dict[str, Any], *, seconds: float) -> None:
    """Wait until a namespace has come to a state."""

    def same() -> bool:
        found = state_of(scene, namespace)
        assert found == wanted, json.dumps(difference(wanted, found), indent=1)
        return True

    eventually(same, seconds=seconds, what=f"{namespace} is as after a run without faults", every=0.5)


def difference(wanted: Any, found: Any) -> Any:
    """What differs between two documents, as [wanted, found] at its place."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        pairs = {key: (wanted.get(key), found.get(key)) for key in {*wanted, *found}}
        return {key: difference(*pair) for key, pair in sorted(pairs.items()) if pair[0] != pair[1]}
    return [wanted, found]


@dataclass
class FaultScene(Scene):
    """A scene whose operator sits behind the fault proxy, with what plays the rest of the cluster."""

    proxy: FaultProxy = field(init=False)
    audit: Audit = field(init=False)
    supervisor: Supervisor = field(init=False)
    neighbours: Neighbours = field(init=False)

    def begin(self, case: str, *, actuation: str = "Floor") -> str:
        """Make a service of one replica, and an object that may scale it to `MAXIMUM`; Floor has a user's HPA."""
        namespace = self.namespace(case)
        self.engines(namespace, "svc", None)
        scaling: dict[str, Any] = {"actuation": actuation}
        if actuation == "Floor":
            self.hpa(namespace, "theirs", manager="argocd", maxReplicas=MAXIMUM)
        else:
            scaling |= {"minReplicas": 1, "maxReplicas": MAXIMUM}
        self.neighbours.namespaces.append(namespace)
        policy = {"maxReplicaStep": 2, "cooldown": "1s", "verifyWindow": "30s"}
        self.optimize(namespace, scaling=scaling, policy=policy)
        return namespace

    def end(self, namespace: str) -> None:
        """Let the neighbours leave a namespace alone."""
        self.neighbours.namespaces.remove(namespace)

    def wait_condition(self, namespace: str, reason: str, *, replicas: int, seconds: float = 90.0) -> None:
        """Wait until `ActuationEffective` has a reason and the Deployment so many replicas."""

        def come() -> bool:
            path = f"/apis/apps/v1/namespaces/{namespace}/deployments/svc"
            found = self.condition(namespace, "ActuationEffective").get("reason", "")
            seen = (found, self.cluster.request("GET", path)["spec"]["replicas"])
            assert seen == (reason, replicas), seen
            return True

        eventually(come, seconds=seconds, what=f"{namespace}: {reason} with {replicas} replicas", every=0.5)

    def suspend(self, namespace: str) -> None:
        """What the user does to stop it."""
        self.change(namespace, {"suspend": True})

    def delete(self, namespace: str) -> None:
        """What the user does to be rid of it."""
        self.cluster.request("DELETE", self.path(namespace, "svc"))


@contextlib.contextmanager
def fault_scene(cluster: Any, *, folder: Path, prefix: str, **environment: str) -> Iterator[FaultScene]:
    """Install the operator behind a fault proxy, under a supervisor, and start it."""
    with contextlib.ExitStack() as stack:
        pages = stack.enter_context(EnginePages(free_port()))
        pages.serve("0.0.0.0", BUSY)
        values = {"actuation.enabled": "true", "externalMetrics.enabled": "true"}
        installation = stack.enter_context(
            install(cluster, folder=folder, namespace=f"{prefix}-operator", values=values)
        )
        proxy = stack.enter_context(FaultProxy(cluster, folder=folder))
        operator = installation.operator(**(ENVIRONMENT | environment))
        operator.environment["OPTIINFRA_KUBECONFIG"] = str(proxy.kubeconfig(installation.kubeconfig()))
        made = FaultScene(cluster, installation, operator, pages, prefix)
        stack.callback(made.remove)
        stack.callback(operator.kill)
        made.proxy, made.audit = proxy, Audit(made)
        made.supervisor = stack.enter_context(Supervisor(operator))
        proxy.kill = made.supervisor.kill(operator)
        made.neighbours = stack.enter_context(Neighbours(made))
        operator.start().wait_ready()
        installation.send_external_metrics_to(operator)
        yield made
        for worker in (made.supervisor, made.neighbours):
            if worker.failure is not None:
                raise worker.failure
