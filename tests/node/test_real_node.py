"""The chart as users install it, on a real node with images that were built from the Dockerfile; minutes, and root.

What KWOK cannot show: the pods of operator and agents with their own rights, a real kubelet's sockets, a real host.
Where the machine cannot carry a node the tests are skipped with the reason. OPTIINFRA_IMAGE_BASE names the base of the
images (`debian`, made here, unless it is set).
"""

import json
import os
import re
import time
from pathlib import Path

import pytest

from hack.binaries import bin_folder, ensure
from hack.chart_checks import CHART, helm
from hack.cluster.sessions import session_folder, sweep
from hack.images import build, tools
from hack.node.cluster import NodeCluster
from hack.node.requirements import unmet
from tests.operator_process import eventually

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]
SPACE, AGENTS = "optiinfra", "optiinfra-agent"
IMAGES = {"operator": "ghcr.io/optiinfra/optiinfra-operator", "agent": "ghcr.io/optiinfra/optiinfra-agent"}
VERSION = re.search(r"(?m)^appVersion: (\S+)$", (CHART / "Chart.yaml").read_text())[1]
TOPIC = "real node"
PYTHON = "/opt/optiinfra/bin/python"


@pytest.fixture(scope="module")
def images():
    """Build both, under the names that the chart's default values have."""
    missing = unmet([bin_folder(), build.FOLDER])
    if missing:
        pytest.skip(f"no real node here: {'; '.join(missing)}")
    tags = {target: f"{name}:{VERSION}" for target, name in IMAGES.items()}
    base = os.environ.get("OPTIINFRA_IMAGE_BASE", build.DEBIAN)
    tool = tools.find(None, say=print)
    return {image.target: image for image in build.build(tool, tags=tags, base=base, runtime=None, say=print)}


@pytest.fixture(scope="module")
def node(images):
    """Start a node and load both images; afterwards the machine has to be as it was."""
    sweep()
    cluster = NodeCluster(session_folder("node"), say=print)
    cluster.up(owned=True)
    try:
        for image in images.values():
            cluster.load(image.path)
        yield cluster
    finally:
        cluster.down(keep=bool(os.environ.get("OPTIINFRA_KEEP")))
    assert not [line for line in cluster.left if "optiinfra" in line or "node0" in line]


@pytest.fixture(scope="module", params=["helm", "helm4"])
def installed(request, node):
    """Install the chart with default values; how long it took is part of the answer."""
    program = ensure([request.param])[request.param]
    before = objects(node)
    started = time.monotonic()
    helm(program, "install", "optiinfra", str(CHART), *where(node), "--create-namespace")
    yield program, started
    helm(program, "uninstall", "optiinfra", *where(node), "--wait")

    def all_gone():
        assert sorted(objects(node) - before) == KEPT
        return True

    eventually(all_gone, seconds=120, what="everything of the release is gone")
    for name in (SPACE, AGENTS):
        node.kubectl("delete", "namespace", name, "--wait=true")


KEPT = sorted(
    [
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition", "", f"{name}.optiinfra.io")
        for name in ("clusterresourceoptimizations", "optimizationcheckpoints", "resourceoptimizations")
    ]
    + [("v1", "Namespace", "", space) for space in (AGENTS, SPACE)]
    + [("apiregistration.k8s.io/v1", "APIService", "", "v1alpha1.optiinfra.io")]  # of the definitions
)
"""What the documentation says stays after `helm uninstall`."""


def where(node):
    return ("--namespace", SPACE, "--kubeconfig", str(node.kubeconfig))


def pods(node, component):
    path = f"/api/v1/pods?labelSelector=app.kubernetes.io/component={component}"
    return node.request("GET", path)["items"]


def is_ready(pod):
    conditions = pod["status"].get("conditions", [])
    alive = "deletionTimestamp" not in pod["metadata"]
    return alive and any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def all_ready(node, component, count):
    found = pods(node, component)
    assert len(found) == count, [(pod["metadata"]["name"], pod["status"].get("phase")) for pod in found]
    assert all(is_ready(pod) for pod in found), [pod["status"].get("containerStatuses") for pod in found]
    return found


def page(node, pod, path, port):
    where = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}:{port}/proxy{path}"
    return node.request("GET", where)


def metrics(node, pod):
    name = pod["metadata"]["name"]
    return node.kubectl("get", "--raw", f"/api/v1/namespaces/{SPACE}/pods/{name}:8080/proxy/metrics")


def value(text, name, **labels):
    """Return a sample of a page of metrics; 0 when it is not there."""
    inner = ",".join(f'{key}="{labels[key]}"' for key in sorted(labels))
    match = re.search(rf"(?m)^{name}\{{{inner}\}} (\S+)$", text)
    return float(match[1]) if match else 0.0


def container_of(pod):
    (status,) = pod["status"]["containerStatuses"]
    return status


def inside(node, pod, program):
    """Run a Python program in a pod's container, which has no shell, and return what it prints as JSON."""
    space, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
    return json.loads(node.kubectl("exec", "--namespace", space, name, "--", PYTHON, "-c", program))


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


RIGHTS = """
import json, os
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
def refused(path):
    try:
        open(path, "w").close()
    except OSError as error:
        return error.errno
    return 0
mounts = [line.split() for line in open("/proc/self/mounts")]
folders = sorted({mount[1] for mount in mounts if mount[1].startswith("/host")})
groups = [mount for mount in mounts if mount[1].startswith("/host/cgroup") and mount[2].startswith("cgroup")]
print(json.dumps({
    "uid": os.getuid(),
    "capabilities": int(status["CapEff"], 16),
    "bounding": int(status["CapBnd"], 16),
    "no_new_privileges": int(status["NoNewPrivs"]),
    "seccomp": int(status["Seccomp"]),
    "root": refused("/probe"),
    "socket_folder": refused("/host/pod-resources/probe"),
    "shell": os.path.exists("/bin/sh"),
    "api_token": os.path.exists("/var/run/secrets/kubernetes.io"),
    "host": folders,
    "writable_groups": sorted({mount[1] for mount in groups if "rw" in mount[3].split(",")}),
    "processes": sum(name.isdigit() for name in os.listdir("/proc")),
}))
"""
READ_ONLY, MISSING, NO_RIGHT = 30, 2, 13


def test_default_values_give_a_running_operator_and_agents(installed, node, images, figures):
    program, started = installed
    agents = eventually(lambda: all_ready(node, "agent", 1), seconds=120, what="the agent is ready", every=0.1)
    agents_ready = time.monotonic() - started
    operators = eventually(lambda: all_ready(node, "operator", 2), seconds=120, what="two operators", every=0.1)
    operators_ready = time.monotonic() - started
    for pod in (*agents, *operators):
        assert container_of(pod)["restartCount"] == 0
    which = program.name
    figures.add(TOPIC, f"{which} install until the agent is Ready", round(agents_ready, 1), "s")
    figures.add(TOPIC, f"{which} install until two operators are Ready", round(operators_ready, 1), "s")
    for target, image in images.items():
        figures.add(TOPIC, f"image of the {target}", round(image.size / 1e6), "MB")
        assert image.size <= build.NEEDED[target]
    for component, found in (("operator", operators), ("agent", agents)):
        used = max(node.usage(container_of(pod)["containerID"]).working_set for pod in found)
        figures.add(TOPIC, f"working set of the {component} after its start", round(used / 2**20), "MiB")


def test_one_operator_leads_and_reads_the_agent(installed, node):
    eventually(lambda: all_ready(node, "operator", 2), seconds=120, what="two operators")
    lease = eventually(
        lambda: node.request("GET", f"/apis/coordination.k8s.io/v1/namespaces/{SPACE}/leases/optiinfra-operator"),
        seconds=60,
        what="a leader",
    )
    names = {pod["metadata"]["name"] for pod in pods(node, "operator")}
    assert any(lease["spec"]["holderIdentity"].startswith(name) for name in names)

    def read_by_the_leader():
        texts = [metrics(node, pod) for pod in pods(node, "operator")]
        return any(value(text, "optiinfra_scrapes_total", outcome="ok", source="agent") for text in texts)

    eventually(read_by_the_leader, seconds=120, what="the leader has read the agent")


def test_an_agent_of_the_default_tier_sees_the_host_and_may_do_nothing(installed, node):
    (pod,) = eventually(lambda: all_ready(node, "agent", 1), seconds=120, what="the agent is ready")
    rights = inside(node, pod, RIGHTS)
    assert rights["uid"] == 0
    assert (rights["capabilities"], rights["bounding"], rights["no_new_privileges"]) == (0, 0, 1)
    assert rights["seccomp"] == 2, "a filter"
    assert (rights["root"], rights["socket_folder"]) == (READ_ONLY, READ_ONLY)
    assert not rights["api_token"]
    assert {"/host/cgroup", "/host/pod-resources"} <= set(rights["host"])
    assert rights["processes"] < 10, "its own only"

    before = pressure()
    snapshot = eventually(lambda: warm(page(node, pod, "/v1/snapshot", 8003)), seconds=90, what="containers are read")
    assert snapshot["memory"]["total_bytes"] == 1024 * memory("MemTotal")
    assert snapshot["cpu"]["cores"] == os.cpu_count()
    assert snapshot["cpu"]["busy_seconds_total"] == pytest.approx(busy_seconds(), abs=120)
    assert snapshot["privilege"]["tier"] == 1
    assert snapshot["sources"]["pod_resources"]["state"] == "ok"
    if before is not None:
        assert snapshot["sources"]["pressure"]["state"] == "ok"
    known = {pod["metadata"]["uid"] for pod in node.request("GET", "/api/v1/pods")["items"]}
    assert set(snapshot["pods"]) <= known
    assert pod["metadata"]["uid"] in snapshot["pods"]
    used = node.usage(container_of(pod)["containerID"])
    (row,) = snapshot["pods"][pod["metadata"]["uid"]]
    said = dict(zip(snapshot["container_fields"], row, strict=False))
    assert said["working_set_bytes"] == pytest.approx(used.working_set, rel=0.25)
    assert said["cpu_seconds_total"] == pytest.approx(used.cpu_seconds, abs=5)


@pytest.mark.parametrize("tier", [0, 2])
def test_each_tier_gives_what_it_says_and_no_more(installed, node, tier):
    program, _ = installed
    helm(program, "upgrade", "optiinfra", str(CHART), *where(node), "--set", f"agent.tier={tier}")
    space = SPACE if tier == 0 else AGENTS

    def moved():
        (pod,) = all_ready(node, "agent", 1)
        assert pod["metadata"]["namespace"] == space
        assert bool(pod["spec"].get("hostPID")) == (tier == 2)
        return pod

    pod = eventually(moved, seconds=180, what=f"the agent of tier {tier} is ready")
    rights = inside(node, pod, RIGHTS)
    assert (rights["capabilities"], rights["no_new_privileges"], rights["seccomp"]) == (0, 1, 2)
    assert rights["root"] == READ_ONLY
    snapshot = page(node, pod, "/v1/snapshot", 8003)
    assert snapshot["privilege"]["tier"] == tier
    if tier == 0:
        assert rights["uid"] == 65532
        assert rights["host"] == []
        assert snapshot["sources"]["pod_resources"]["state"] == "unavailable"
        assert snapshot["sources"]["containers"]["state"] == "unavailable"
    else:
        assert rights["uid"] == 0
        assert rights["processes"] > 5, "those of the node, too"
    assert snapshot["memory"]["total_bytes"] == 1024 * memory("MemTotal")


def warm(snapshot):
    return snapshot if snapshot["sources"]["containers"]["state"] == "ok" and snapshot["pods"] else None


def memory(name):
    return int(re.search(rf"(?m)^{name}:\s+(\d+) kB$", Path("/proc/meminfo").read_text())[1])


def busy_seconds():
    words = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    user, nice, system, _idle, _waiting, irq, softirq, steal = (int(word) for word in words[:8])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def pressure():
    path = Path("/proc/pressure/cpu")
    return path.read_text() if path.exists() else None
