"""The chart as users install it, on a real node with images that were built from the Dockerfile; minutes, and root.

What KWOK cannot show: the pods of operator and agents with their own rights, a real kubelet's sockets, a real host.
Where the machine cannot carry a node the tests are skipped with the reason. OPTIINFRA_IMAGE_BASE names the base of the
images (`debian`, made here, unless it is set).
"""

import datetime as dt
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
from hack.node import gpus as fake
from hack.node.cluster import NAME, NodeCluster
from hack.node.requirements import unmet
from tests import nvml_stub
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


def usage(node, pod):
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
    "writable_groups": sorted(mount[1] for mount in groups if "rw" in mount[3].split(",")),
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
    slowest = max(seconds_to_ready(pod) for pod in operators)
    figures.add(TOPIC, f"{which} operator's container started until Ready", slowest, "s")
    busiest = max(usage(node, pod).cpu_seconds for pod in operators)
    figures.add(TOPIC, f"{which} CPU of an operator until all were Ready", round(busiest, 1), "s")
    for target, image in images.items():
        figures.add(TOPIC, f"image of the {target}", round(image.size / 1e6), "MB")
        assert image.size <= build.NEEDED[target]
    for component, found in (("operator", operators), ("agent", agents)):
        used = max(usage(node, pod).working_set for pod in found)
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
    (info,) = [each for each in node.request("GET", "/api/v1/nodes")["items"] if each["metadata"]["name"] == NAME]
    handlers = info["status"].get("runtimeHandlers", [])
    if any(each.get("features", {}).get("recursiveReadOnlyMounts") for each in handlers):
        assert rights["writable_groups"] == []

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

    def agrees():
        used = usage(node, pod)
        latest = page(node, pod, "/v1/snapshot", 8003)
        (row,) = latest["pods"][pod["metadata"]["uid"]]
        said = dict(zip(latest["container_fields"], row, strict=False))
        assert said["working_set_bytes"] == pytest.approx(used.working_set, rel=0.15)
        assert said["cpu_seconds_total"] == pytest.approx(used.cpu_seconds, abs=3)
        return True

    # It reads containers twice a minute, and the program above ran in this very container.
    eventually(agrees, seconds=120, what="the agent says of itself what the kernel counts")


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
    # This node's processes are in a namespace of their own, as those of kind are: the driver of a real GPU would number
    # them otherwise, so the agent does not take it for the host's, and says so.
    assert snapshot["privilege"]["tier"] == min(tier, 1)
    assert tier == 0 or "not in the host's PID namespace" in snapshot["privilege"]["missing"]["2"]
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


GPUS = [f"GPU-{number:08d}-0000-4000-8000-{number:012d}" for number in range(2)]
"""As the stand-in for the driver's library names them."""


@pytest.fixture(scope="module")
def gpus(installed, node, tmp_path_factory):
    """Give the node two GPUs that only the driver's library makes up."""
    folder = tmp_path_factory.mktemp("nvml")
    rules = folder / "rules"
    rules.mkdir()
    (rules / "nvml-rules").write_text("gpus 2\nvalue utilization -1 37\n")
    fake.give(node, GPUS, library=nvml_stub.build(folder / "library") / "libnvidia-ml.so.1", rules=rules)
    eventually(lambda: fake.allocatable(node, NAME) == 2, seconds=60, what="the kubelet offers two GPUs")
    yield rules
    node.request("DELETE", "/apis/node.k8s.io/v1/runtimeclasses/nvidia")


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


@pytest.fixture
def work(node):
    """Make a namespace for pods of the test's own."""
    name = "work"
    node.kubectl("create", "namespace", name)
    yield name
    node.kubectl("delete", "namespace", name, "--wait=true")


def started(node, space, pod):
    node.request("POST", f"/api/v1/namespaces/{space}/pods", pod)
    path = f"/api/v1/namespaces/{space}/pods/{pod['metadata']['name']}"

    def running():
        found = node.request("GET", path)
        assert is_ready(found), found["status"]
        return found

    return eventually(running, seconds=90, what=f"{pod['metadata']['name']} runs")


def test_gpus_are_attributed_to_the_containers_that_hold_them(installed, node, gpus, work):
    program, _ = installed
    helm(program, "upgrade", "optiinfra", str(CHART), *where(node), "--set", "agent.runtimeClassName=nvidia")
    holder = started(node, work, consumer("holder", gpus=1))

    def holders():
        (agent,) = all_ready(node, "agent", 1)
        snapshot = page(node, agent, "/v1/snapshot", 8003)
        assert snapshot["sources"]["nvml"]["state"] == "ok", snapshot["sources"]["nvml"]
        assert snapshot["attribution"]["by"] == "kubelet"
        assert [gpu["uuid"] for gpu in snapshot["gpus"]] == GPUS
        assert {gpu["utilization_ratio"] for gpu in snapshot["gpus"]} == {0.37}
        (one,) = snapshot["allocations"]
        return one

    found = eventually(holders, seconds=180, what="one GPU has a holder")
    assert (found["namespace"], found["pod"], found["container"]) == (work, "holder", "main")
    given = inside(node, holder, "import json, os; print(json.dumps(os.environ['NVIDIA_VISIBLE_DEVICES']))")
    assert given in json.dumps(found)

    node.restart("kubelet")
    eventually(lambda: fake.allocatable(node, NAME) == 2, seconds=90, what="the plugin has registered again")
    after = eventually(holders, seconds=180, what="the holder is still known after a restart of the kubelet")
    assert after == found


def test_an_agent_that_is_killed_comes_back(installed, node, figures):
    (pod,) = eventually(lambda: all_ready(node, "agent", 1), seconds=120, what="the agent is ready")
    before = container_of(pod)["restartCount"]
    began = time.monotonic()
    node.run("/usr/bin/pkill", "-KILL", "-f", "/opt/optiinfra/bin/optiinfra-agent")

    def again():
        (found,) = all_ready(node, "agent", 1)
        assert container_of(found)["restartCount"] > before
        return found

    eventually(again, seconds=120, what="the agent is ready again")
    figures.add(TOPIC, "killed agent Ready again after", round(time.monotonic() - began, 1), "s")


def test_an_agent_without_enough_memory_is_ended_and_said_to_be(installed, node, figures):
    """The kernel ends it at its limit; the node and the other pods do not notice."""
    program, _ = installed
    small = ("--set", "agent.resources.limits.memory=16Mi", "--set", "agent.resources.requests.memory=16Mi")
    helm(program, "upgrade", "optiinfra", str(CHART), *where(node), *small)

    def ended():
        reasons = set()
        for pod in pods(node, "agent"):
            for status in pod["status"].get("containerStatuses", []):
                for state in (status["state"], status["lastState"]):
                    reasons.add(state.get("terminated", {}).get("reason"))
        assert "OOMKilled" in reasons, reasons
        return True

    eventually(ended, seconds=120, what="the kernel ended it")
    assert all(is_ready(pod) for pod in pods(node, "operator"))
    limit = ("--set", "agent.resources.limits.memory=64Mi", "--set", "agent.resources.requests.memory=64Mi")
    helm(program, "upgrade", "optiinfra", str(CHART), *where(node), *limit)
    (pod,) = eventually(lambda: all_ready(node, "agent", 1), seconds=180, what="64Mi are enough")
    eventually(lambda: warm(page(node, pod, "/v1/snapshot", 8003)), seconds=90, what="it works within 64Mi")
    figures.add(TOPIC, "most memory of an agent limited to 64 MiB", round(usage(node, pod).peak / 2**20), "MiB")
    assert container_of(pod)["restartCount"] == 0


def test_agents_register_with_a_token_of_their_own_audience(installed, node):
    eventually(lambda: all_ready(node, "agent", 1), seconds=120, what="the agent is ready")

    def registered():
        return [
            text
            for pod in pods(node, "operator")
            if value(text := metrics(node, pod), "optiinfra_agents", state="Registered")
        ]

    assert len(eventually(registered, seconds=120, what="the leader knows the agent")) == 1
    (agent,) = all_ready(node, "agent", 1)
    program = (
        "import base64, json; token = open('/var/run/secrets/optiinfra/token').read().split('.')[1]; "
        "print(base64.urlsafe_b64decode(token + '=' * (-len(token) % 4)).decode())"
    )
    claims = inside(node, agent, program)
    assert claims["aud"] == ["optiinfra"]
    call = (
        "import json, ssl, urllib.request, urllib.error\n"
        "token = open('/var/run/secrets/optiinfra/token').read()\n"
        "headers = {'Authorization': 'Bearer ' + token}\n"
        "request = urllib.request.Request('https://10.96.0.1/api/v1/pods', headers=headers)\n"
        "try:\n"
        "    code = urllib.request.urlopen(request, timeout=10, context=ssl._create_unverified_context()).status\n"
        "except urllib.error.HTTPError as error:\n"
        "    code = error.code\n"
        "print(json.dumps(code))\n"
    )
    assert inside(node, agent, call) == 401, "the API server does not take it"


def test_a_running_pod_is_resized_in_place(node, work):
    pod = started(node, work, consumer("resized", cpu="100m"))
    path = f"/api/v1/namespaces/{work}/pods/resized"
    wanted = {"name": "main", "resources": {"limits": {"cpu": "200m"}, "requests": {"cpu": "200m"}}}
    node.request(
        "PATCH",
        f"{path}/resize",
        {"spec": {"containers": [wanted]}},
        content_type="application/strategic-merge-patch+json",
    )

    def resized():
        found = node.request("GET", path)
        (status,) = found["status"]["containerStatuses"]
        assert status["resources"]["limits"]["cpu"] == "200m", status
        return status

    status = eventually(resized, seconds=60, what="the kubelet has done it")
    assert (status["restartCount"], status["containerID"]) == (0, container_of(pod)["containerID"])
