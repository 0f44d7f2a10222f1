"""What the tests of a real node share: installing the chart and leaving nothing, looking into pods, and pods to watch.

A `node` is a `hack.node.cluster.NodeCluster` that the fixture of tests/node/conftest.py has started, or a user's
cluster (`hack.cluster.remote`) with `make e2e`; one serves all files of a run. Each file installs the chart itself, by
`release`, which also sees to it that nothing of it stays. What only the machine of the node can show asks `on_machine`.
"""

import contextlib
import datetime as dt
import json
import os
import re
import time
from pathlib import Path

import pytest

from hack.chart_checks import CHART, helm
from hack.cluster.remote import RemoteCluster
from hack.cluster.sessions import sweep
from tests.operator_process import eventually

SPACE, AGENTS = "optiinfra", "optiinfra-agent"
"""The namespaces of the operator and of agents with a view of the host, with the chart's default values."""
IMAGES = {"operator": "ghcr.io/optiinfra/optiinfra-operator", "agent": "ghcr.io/optiinfra/optiinfra-agent"}
VERSION = re.search(r"(?m)^appVersion: (\S+)$", (CHART / "Chart.yaml").read_text())[1]
PYTHON = "/opt/optiinfra/bin/python"
TOPIC = "real node"
"""Of figures."""
PATIENCE = 300.0
"""Seconds for pods to get ready or go: a machine that is busy with other work starves them, and no time is judged."""
GPUS = [f"GPU-{number:08d}-0000-4000-8000-{number:012d}" for number in range(2)]
"""As the stand-in for the driver's library names them."""
KEPT = sorted(
    [
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition", "", f"{name}.optiinfra.io")
        for name in ("clusterresourceoptimizations", "optimizationcheckpoints", "resourceoptimizations")
    ]
    + [("v1", "Namespace", "", space) for space in (AGENTS, SPACE)]
    + [("apiregistration.k8s.io/v1", "APIService", "", "v1alpha1.optiinfra.io")]  # of the definitions
)
"""What the documentation says stays after `helm uninstall`."""


def on_machine(node):
    """Tell whether the node is of this machine: its files, control groups and programs can be looked at and changed."""
    return not isinstance(node, RemoteCluster)


def needs_machine(node, why):
    """Skip the rest of a test in a user's cluster, where this cannot be done from outside."""
    if not on_machine(node):
        pytest.skip(f"{why}: only on a node of this machine")


@contextlib.contextmanager
def started(cluster, images):
    """Start a node of this machine, with images loaded; afterwards the machine has to be as it was."""
    sweep()
    cluster.up(owned=True)
    try:
        for image in images.values():
            cluster.load(image.path)
        yield cluster
    finally:
        cluster.down(keep=bool(os.environ.get("OPTIINFRA_KEEP")))
    assert not [line for line in cluster.left if "optiinfra" in line or "node0" in line]


# ---- the chart


def where(node):
    """Return Helm's options for the release's place."""
    return ("--namespace", SPACE, "--kubeconfig", str(node.kubeconfig))


def upgrade(program, node, *settings, chart=CHART):
    """Upgrade the release to the chart with these settings (`agent.tier=0`) and default values otherwise."""
    helm(program, "upgrade", "optiinfra", str(chart), *where(node), "--reset-values", *_set(settings))


@contextlib.contextmanager
def release(program, node, *settings, chart=CHART):
    """Install the chart with these settings and yield when that began, by time.monotonic().

    At the end it is uninstalled, and only what is documented may stay, which is then removed as well.
    """
    before = ours_or_lasting(node)
    began = time.monotonic()
    try:
        helm(program, "install", "optiinfra", str(chart), *where(node), "--create-namespace", *_set(settings))
        yield began
    finally:
        helm(program, "uninstall", "optiinfra", *where(node), "--wait", "--ignore-not-found")

    def all_gone():
        left = sorted(ours_or_lasting(node) - before)
        assert left == KEPT, left
        return True

    eventually(all_gone, seconds=PATIENCE, what="everything of the release is gone")
    definitions = [name for _, kind, _, name in KEPT if kind == "CustomResourceDefinition"]
    node.kubectl("delete", "customresourcedefinition", *definitions)
    node.kubectl("delete", "namespace", SPACE, AGENTS, "--wait=true")
    eventually(lambda: not ours_or_lasting(node) - before, seconds=60, what="what the chart keeps is gone, too")


def _set(settings):
    # A variable of a process is text, also where it looks like a number.
    return [word for each in settings for word in ("--set-string" if ".environment." in each else "--set", each)]


def objects(node):
    """List what is in the cluster besides what comes and goes by itself."""
    kinds = node.kubectl("api-resources", "--verbs=list", "--output=name").split()
    passing = {"events", "events.events.k8s.io", "leases.coordination.k8s.io", "componentstatuses"}
    names = ",".join(kind for kind in kinds if kind not in passing)
    lines = node.kubectl("get", names, "--all-namespaces", "--ignore-not-found", "--output=json")
    found = set()
    for item in json.loads(lines)["items"]:
        meta = item["metadata"]
        if (item["kind"], meta["name"]) in {("ServiceAccount", "default"), ("ConfigMap", "kube-root-ca.crt")}:
            continue  # of every namespace
        found.add((item["apiVersion"], item["kind"], meta.get("namespace", ""), meta["name"]))
    return found


def ours_or_lasting(node):
    """List these without the pods of others, which come and go with the replicas of whatever made them."""
    return {item for item in objects(node) if item[1] != "Pod" or item[2] in {SPACE, AGENTS}}


# ---- pods


def pods(node, component):
    """List the chart's pods of a component (`operator`, `agent`)."""
    path = f"/api/v1/pods?labelSelector=app.kubernetes.io/component={component}"
    return node.request("GET", path)["items"]


def is_ready(pod):
    conditions = pod["status"].get("conditions", [])
    alive = "deletionTimestamp" not in pod["metadata"]
    return alive and any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def all_ready(node, component, count):
    """Return the pods of a component; an AssertionError when there are others than `count`, or one is not ready."""
    found = pods(node, component)
    assert len(found) == count, [(pod["metadata"]["name"], pod["status"].get("phase")) for pod in found]
    assert all(is_ready(pod) for pod in found), [pod["status"].get("containerStatuses") for pod in found]
    return found


def lives(found):
    """Return how often the container of each of these pods has been started anew, by the pod's name."""
    return {pod["metadata"]["name"]: container_of(pod)["restartCount"] for pod in found}


def rolled_out(node):
    """Return the agents once each node that is to have one has the newest, and all are ready; else AssertionError."""
    path = "/apis/apps/v1/daemonsets?labelSelector=app.kubernetes.io/component=agent"
    (found,) = node.request("GET", path)["items"]
    status = found["status"]
    assert status.get("observedGeneration") == found["metadata"]["generation"], "the controller has not seen it yet"
    wanted = status["desiredNumberScheduled"]
    assert wanted, "no node is to have one"
    assert status.get("updatedNumberScheduled", 0) == wanted, status
    return all_ready(node, "agent", wanted)


def ready_agents(node, *, seconds=PATIENCE, every=0.2):
    """Wait for the agents of all nodes."""
    return eventually(lambda: rolled_out(node), seconds=seconds, what="the agents are ready", every=every)


def ready_agent(node, *, seconds=PATIENCE):
    """Wait for the agents of all nodes, of which a node of ours has one; return the first."""
    return ready_agents(node, seconds=seconds)[0]


def ready_operators(node, *, seconds=PATIENCE, every=0.2):
    """Wait for both operators, of the newest version: during a rollout two may be ready of which one goes next."""

    def rolled():
        path = "/apis/apps/v1/deployments?labelSelector=app.kubernetes.io/component=operator"
        (found,) = node.request("GET", path)["items"]
        status = found["status"]
        assert status.get("observedGeneration") == found["metadata"]["generation"], "the controller has not seen it yet"
        assert status.get("updatedReplicas", 0) == status.get("replicas", 0) == found["spec"]["replicas"], status
        return all_ready(node, "operator", 2)

    return eventually(rolled, seconds=seconds, what="two operators are ready", every=every)


def container_of(pod):
    (status,) = pod["status"]["containerStatuses"]
    return status


def usage(node, pod):
    """Read what a pod's only container uses from its control group."""
    return node.usage(container_of(pod)["containerID"])


def seconds_to_ready(pod):
    """Return whole seconds between the start of a pod's container and its condition Ready."""
    began = dt.datetime.fromisoformat(container_of(pod)["state"]["running"]["startedAt"])
    (ready,) = [each for each in pod["status"]["conditions"] if each["type"] == "Ready"]
    return (dt.datetime.fromisoformat(ready["lastTransitionTime"]) - began).total_seconds()


def inside(node, pod, program):
    """Run a Python program in a pod's container, which has no shell, and return what it prints as JSON."""
    space, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
    return json.loads(node.kubectl("exec", "--namespace", space, name, "--", PYTHON, "-c", program))


def consumer(name, *, gpus=0, cpu="100m", memory="64Mi"):
    """Return a pod that does nothing, with the image that is there anyway."""
    limits = {"cpu": cpu, "memory": memory} | ({"nvidia.com/gpu": gpus} if gpus else {})
    container = {
        "name": "main",
        "image": f"{IMAGES['agent']}:{VERSION}",
        "command": [PYTHON, "-c", "import signal; signal.pause()"],
        "resources": {"limits": limits},
    }
    spec = {
        "containers": [container],
        "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": False,
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def run_pod(node, space, pod):
    """Create a pod and wait until it is ready."""
    node.request("POST", f"/api/v1/namespaces/{space}/pods", pod)
    path = f"/api/v1/namespaces/{space}/pods/{pod['metadata']['name']}"

    def running():
        found = node.request("GET", path)
        assert is_ready(found), found["status"]
        return found

    return eventually(running, seconds=PATIENCE, what=f"{pod['metadata']['name']} runs")


# ---- what operator and agent say


def page(node, pod, path, port):
    """Get a page of JSON of a pod through the API server."""
    meta = pod["metadata"]
    return node.request("GET", f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}:{port}/proxy{path}")


def snapshot(node, pod):
    """Return what an agent measures now."""
    return page(node, pod, "/v1/snapshot", 8003)


def warm(found):
    """Return a snapshot once containers have been read, else None."""
    return found if found["sources"]["containers"]["state"] == "ok" and found["pods"] else None


def metrics(node, pod):
    """Return an operator's page of metrics."""
    name = pod["metadata"]["name"]
    return node.kubectl("get", "--raw", f"/api/v1/namespaces/{SPACE}/pods/{name}:8080/proxy/metrics")


def value(text, name, **labels):
    """Return a sample of a page of metrics; 0 when it is not there."""
    inner = ",".join(f'{key}="{labels[key]}"' for key in sorted(labels))
    match = re.search(rf"(?m)^{name}\{{{inner}\}} (\S+)$", text)
    return float(match[1]) if match else 0.0


# ---- what the machine itself says


def memory(name):
    """Return a line of /proc/meminfo in bytes."""
    return 1024 * int(re.search(rf"(?m)^{name}:\s+(\d+) kB$", Path("/proc/meminfo").read_text())[1])


def pressure():
    """Return the machine's pressure of CPU, None where the kernel counts none."""
    path = Path("/proc/pressure/cpu")
    return path.read_text() if path.exists() else None
