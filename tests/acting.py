"""What the tests of acting on a real node share: a node with metrics and an audit log, objects, and who wrote what.

`Space` is a namespace with one workload `svc` of stand-in engines and one ResourceOptimization of the same name.
"""

import contextlib
import datetime as dt
import json

import pytest
import yaml

from hack.binaries import ensure
from hack.chart_checks import CHART, helm
from hack.cluster.errors import ApiError
from hack.cluster.sessions import session_folder
from hack.node.cluster import NodeCluster
from tests import stand_in
from tests.engine_pages import MERGE, OWN_RESOURCES
from tests.operator_process import eventually
from tests.real_node import SPACE, ready_operators, started, where

ACCOUNT = f"system:serviceaccount:{SPACE}:optiinfra-operator"
LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{SPACE}/leases/optiinfra-operator"
TOPIC = "Acting on a real node"
SLOW = {"slots": 4, "tokens": 10, "cpu_ms": 2, "pause_ms": 100}
"""Four requests at once, one second each, hardly any CPU: as with a GPU, what is full is not what CPU shows."""
SMALL = {"requests": {"cpu": "200m", "memory": "48Mi"}, "limits": {"cpu": "300m", "memory": "96Mi"}}
BUSY_RATE, CALM_RATE = 6.0, 0.4
"""Requests a second: half as much again as one of them serves, and a tenth of that."""
_WRITES = {"create", "update", "patch", "delete", "deletecollection"}
QUICK = {
    "OPTIINFRA_INTERVAL_SECONDS": "2",
    "OPTIINFRA_SCRAPE_INTERVAL_SECONDS": "2",
    "OPTIINFRA_STALE_AFTER_SECONDS": "15",
    "OPTIINFRA_SIGNAL_WINDOW_SECONDS": "20",
    "OPTIINFRA_TICK_SECONDS": "1",
    "OPTIINFRA_HOLD_SECONDS": "3",
}
"""Decisions in seconds instead of minutes; the Lease keeps its own times."""


@contextlib.contextmanager
def acting_node(images, *, simulated=()):
    """Start a node of one's own, with images loaded; afterwards the machine has to be as it was."""
    if not images:
        pytest.skip("acts, and looks at it from the machine: not in a user's cluster")
    cluster = NodeCluster(session_folder("acting"), simulated=simulated, metrics_server=True, audit=True, say=print)
    with started(cluster, images):
        yield cluster


def install(node, *settings, **environment):
    """Install the chart with actuation and quick decisions, and wait for both operators; it goes with the node."""
    variables = [f"operator.environment.{name}={value}" for name, value in (QUICK | environment).items()]
    words = [word for each in ("actuation.enabled=true", *settings) for word in ("--set", each)]
    words += [word for each in variables for word in ("--set-string", each)]
    helm(ensure(["helm"])["helm"], "install", "optiinfra", str(CHART), *where(node), "--create-namespace", *words)
    return ready_operators(node, seconds=240)


class Space:
    """One namespace; everything in it goes with it."""

    def __init__(self, node, name):
        self.node, self.name = node, name
        node.kubectl("create", "namespace", name)

    def remove(self):
        self.node.kubectl("delete", "namespace", self.name, "--wait=true")

    # what is there

    def path(self, group_version, plural, name=""):
        base = f"/apis/{group_version}" if "/" in group_version else f"/api/{group_version}"
        return f"{base}/namespaces/{self.name}/{plural}" + (f"/{name}" if name else "")

    def get(self, group_version, plural, name=""):
        return self.node.request("GET", self.path(group_version, plural, name))

    def serve(self, *, replicas=1, resources=SMALL, **engine):
        """Start the engines and whoever asks them, and wait until all are ready."""
        stand_in.prepare(self.node, self.name)
        stand_in.engines(self.node, self.name, replicas=replicas, resources=resources, **engine)
        return self.wait_ready(replicas)

    def send(self, rate, *targets):
        stand_in.send(self.node, self.name, rate, *targets)

    def engines(self):
        """Return the pods of the engines that are not on their way out."""
        found = self.node.request("GET", f"{self.path('v1', 'pods')}?labelSelector=app=svc")["items"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def replicas(self):
        """Return how many replicas are ordered, and how many are ready."""
        found = self.get("apps/v1", "deployments", "svc")
        return found["spec"]["replicas"], found.get("status", {}).get("readyReplicas", 0)

    def wait_ready(self, count, *, seconds=240):
        def ready():
            assert self.replicas() == (count, count), (self.replicas(), self.why())
            return True

        return eventually(ready, seconds=seconds, what=f"{self.name}: {count} replicas are ordered and ready")

    def why(self):
        """Return what helps to see why something did not come, in short."""
        with contextlib.suppress(ApiError):
            status = self.status()
            conditions = {one["type"]: f"{one['status']} {one['reason']}" for one in status.get("conditions", ())}
            return {"conditions": conditions, "desired": status.get("desiredReplicas"), "hpas": self.hpas()}
        return {"hpas": self.hpas()}

    # HPAs

    def apply(self, *documents, server_side=False):
        words = ["apply", "--namespace", self.name, "-f", "-"] + (["--server-side"] if server_side else [])
        self.node.kubectl(*words, input=yaml.safe_dump_all(documents))

    def hpa(self, name="svc"):
        return self.get("autoscaling/v2", "horizontalpodautoscalers", name)

    def hpas(self):
        items = self.get("autoscaling/v2", "horizontalpodautoscalers")["items"]
        return {item["metadata"]["name"]: item["spec"].get("minReplicas") for item in items}

    # the object

    def optimize(self, **spec):
        """Make a ResourceOptimization of the workload."""
        body = {
            "apiVersion": "optiinfra.io/v1alpha1",
            "kind": "ResourceOptimization",
            "metadata": {"name": "svc"},
            "spec": {
                "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "svc"},
                "mode": "Auto",
                "engine": {"port": stand_in.ENGINE_PORT},
                "insights": {"enabled": False},
                # Generous: the machine may be busy with other things, and a slow token forbids every fall.
                "objectives": {"timeToFirstTokenP95": "10s", "interTokenLatencyP95": "2s", "queueDelay": "10s"},
                "policy": {"cooldown": "1s", "verifyWindow": "30s"},
                **spec,
            },
        }
        self.node.request("POST", self.path("optiinfra.io/v1alpha1", "resourceoptimizations"), body)

    def change(self, spec):
        path = self.path("optiinfra.io/v1alpha1", "resourceoptimizations", "svc")
        self.node.request("PATCH", path, {"spec": spec}, content_type=MERGE)

    def forget(self):
        """Delete the object."""
        self.node.request("DELETE", self.path("optiinfra.io/v1alpha1", "resourceoptimizations", "svc"))

    def status(self):
        return self.get("optiinfra.io/v1alpha1", "resourceoptimizations", "svc").get("status", {})

    def condition(self, kind):
        return next((one for one in self.status().get("conditions", ()) if one["type"] == kind), {})

    def wait_effective(self, *reasons, seconds=120):
        def effective():
            found = self.condition("ActuationEffective")
            assert (found.get("status"), found.get("reason") in reasons) == ("True", True), found
            return found

        return eventually(effective, seconds=seconds, what=f"{self.name}: what was decided is what runs")

    # who wrote what

    def written(self):
        """Return the resources that the operator wrote in this namespace, with their subresources."""
        found = {}
        for event in writes(self.node):
            about = event["objectRef"]
            if about.get("namespace") == self.name:
                name = "/".join(part for part in (about["resource"], about.get("subresource", "")) if part)
                found[name] = found.get(name, 0) + 1
        return found

    def assert_written(self, *more):
        """The operator wrote what is its own, what is named, and nothing else."""
        extra = set(self.written()) - OWN_RESOURCES - set(more)
        assert not extra, self.written()


def hpa(*metrics, name="svc", maximum=3, **spec):
    """Return an HPA of the workload as people write one: quick to fall, so that a test need not wait five minutes."""
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "svc"}
    fall = {"stabilizationWindowSeconds": 0, "tolerance": "0"}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name},
        "spec": {
            "scaleTargetRef": target,
            "maxReplicas": maximum,
            "metrics": list(metrics),
            "behavior": {"scaleUp": {"tolerance": "0"}, "scaleDown": fall},
            **spec,
        },
    }


def on_cpu(percent):
    target = {"type": "Utilization", "averageUtilization": percent}
    return {"type": "Resource", "resource": {"name": "cpu", "target": target}}


PUBLISHED = {
    "type": "External",
    "external": {
        "metric": {"name": "optiinfra_desired_replicas", "selector": {"matchLabels": {"optiinfra.io/name": "svc"}}},
        "target": {"type": "AverageValue", "averageValue": "1"},
    },
}
"""The published count, as docs/how-to/act.md tells people to write it."""


def writes(node):
    """Return the audit log's events of what the operator wrote with success, oldest first."""
    found = []
    for line in node.audit_log.read_text().splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue  # being written
        done = event["verb"] in _WRITES and event.get("responseStatus", {}).get("code", 500) < 300
        if done and event["user"]["username"] == ACCOUNT:
            found.append(event)
    return found


def pod_of(event):
    """Return the name of the pod whose token was used."""
    return event["user"]["extra"]["authentication.kubernetes.io/pod-name"][0]


def seconds_of(event):
    """Return when an event's answer was sent, as a Unix time."""
    return dt.datetime.fromisoformat(event["stageTimestamp"]).timestamp()
