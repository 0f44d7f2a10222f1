"""The chart as users install it, on a real node with images that were built from the Dockerfile; minutes, and root.

What KWOK cannot show: the pods of operator and agents with their own rights, a real kubelet's sockets, a real host.
On a user's cluster (`make e2e`) everything runs that needs no more than its API server.
"""

import json
import os
import time
from pathlib import Path

import pytest

from hack.binaries import ensure
from hack.images import build
from hack.node import gpus as fake
from hack.node.cluster import NAME
from tests.operator_process import eventually
from tests.real_node import (
    AGENTS,
    GPUS,
    PATIENCE,
    SPACE,
    TOPIC,
    all_ready,
    consumer,
    container_of,
    inside,
    lives,
    memory,
    metrics,
    needs_machine,
    on_machine,
    pods,
    pressure,
    ready_agent,
    ready_agents,
    ready_operators,
    release,
    rolled_out,
    run_pod,
    seconds_to_ready,
    snapshot,
    upgrade,
    usage,
    value,
    warm,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]


def pytest_generate_tests(metafunc):
    """Install by both versions of Helm where installing is what is tested, else by the newer one."""
    if "installed" in metafunc.fixturenames:
        versions = ["helm", "helm4"] if metafunc.function in BY_BOTH else ["helm4"]
        metafunc.parametrize("installed", versions, indirect=True, scope="module")


@pytest.fixture(scope="module")
def installed(request, node, gpus):
    """Install the chart with default values; when that began is part of the answer."""
    program = ensure([request.param])[request.param]
    with release(program, node) as began:
        yield program, began


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
    program, began = installed
    agents = ready_agents(node, every=0.1)
    agents_ready = time.monotonic() - began
    operators = ready_operators(node, every=0.1)
    operators_ready = time.monotonic() - began
    for pod in (*agents, *operators):
        assert container_of(pod)["restartCount"] == 0
    which = program.name
    figures.add(TOPIC, f"{which} install until the agent is Ready", round(agents_ready, 1), "s")
    figures.add(TOPIC, f"{which} install until two operators are Ready", round(operators_ready, 1), "s")
    slowest = max(seconds_to_ready(pod) for pod in operators)
    figures.add(TOPIC, f"{which} operator's container started until Ready", slowest, "s")
    if not on_machine(node):
        return
    busiest = max(usage(node, pod).cpu_seconds for pod in operators)
    figures.add(TOPIC, f"{which} CPU of an operator until all were Ready", round(busiest, 1), "s")
    for target, image in images.items():
        figures.add(TOPIC, f"image of the {target}", round(image.size / 1e6), "MB")
        assert image.size <= build.NEEDED[target]
    for component, found in (("operator", operators), ("agent", agents)):
        used = max(usage(node, pod).working_set for pod in found)
        figures.add(TOPIC, f"working set of the {component} after its start", round(used / 2**20), "MiB")


def test_one_operator_leads_and_reads_the_agent(installed, node):
    ready_operators(node)
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

    eventually(read_by_the_leader, seconds=PATIENCE, what="the leader has read the agent")


def test_an_agent_of_the_default_tier_sees_the_host_and_may_do_nothing(installed, node):
    pod = ready_agent(node)
    rights = inside(node, pod, RIGHTS)
    assert rights["uid"] == 0
    assert (rights["capabilities"], rights["bounding"], rights["no_new_privileges"]) == (0, 0, 1)
    assert rights["seccomp"] == 2, "a filter"
    assert (rights["root"], rights["socket_folder"]) == (READ_ONLY, READ_ONLY)
    assert not rights["api_token"]
    assert {"/host/cgroup", "/host/pod-resources"} <= set(rights["host"])
    assert rights["processes"] < 10, "its own only"
    info = node.request("GET", f"/api/v1/nodes/{pod['spec']['nodeName']}")
    handlers = info["status"].get("runtimeHandlers", [])
    if any(each.get("features", {}).get("recursiveReadOnlyMounts") for each in handlers):
        assert rights["writable_groups"] == []

    found = eventually(lambda: warm(snapshot(node, pod)), seconds=PATIENCE, what="containers are read")
    assert found["privilege"]["tier"] == 1
    assert found["sources"]["pod_resources"]["state"] == "ok"
    known = {pod["metadata"]["uid"] for pod in node.request("GET", "/api/v1/pods")["items"]}
    assert set(found["pods"]) <= known
    assert pod["metadata"]["uid"] in found["pods"]


def test_what_an_agent_says_is_what_the_machine_and_the_kernel_say(installed, node):
    needs_machine(node, "its own files are read beside it")
    pod = ready_agent(node)
    before = pressure()
    found = eventually(lambda: warm(snapshot(node, pod)), seconds=PATIENCE, what="containers are read")
    assert found["memory"]["total_bytes"] == memory("MemTotal")
    assert found["cpu"]["cores"] == os.cpu_count()
    assert found["cpu"]["busy_seconds_total"] == pytest.approx(busy_seconds(), abs=120)
    if before is not None:
        assert found["sources"]["pressure"]["state"] == "ok"

    def agrees():
        used = usage(node, pod)
        latest = snapshot(node, pod)
        (row,) = latest["pods"][pod["metadata"]["uid"]]
        said = dict(zip(latest["container_fields"], row, strict=False))
        assert said["working_set_bytes"] == pytest.approx(used.working_set, rel=0.15)
        assert said["cpu_seconds_total"] == pytest.approx(used.cpu_seconds, abs=3)
        return True

    # It reads containers twice a minute, and a program of another test may have run in this very container.
    eventually(agrees, seconds=PATIENCE, what="the agent says of itself what the kernel counts")


@pytest.mark.parametrize("tier", [0, 2])
def test_each_tier_gives_what_it_says_and_no_more(installed, node, tier):
    program, _ = installed
    upgrade(program, node, f"agent.tier={tier}")
    space = SPACE if tier == 0 else AGENTS

    def moved():
        pod = rolled_out(node)[0]
        assert pod["metadata"]["namespace"] == space
        assert bool(pod["spec"].get("hostPID")) == (tier == 2)
        return pod

    pod = eventually(moved, seconds=PATIENCE, what=f"the agent of tier {tier} is ready")
    rights = inside(node, pod, RIGHTS)
    assert (rights["capabilities"], rights["no_new_privileges"], rights["seccomp"]) == (0, 1, 2)
    assert rights["root"] == READ_ONLY
    found = snapshot(node, pod)
    if on_machine(node) or tier == 0:
        # This node's processes are in a namespace of their own, as those of kind are: the driver of a real GPU would
        # number them otherwise, so the agent does not take it for the host's, and says so.
        assert found["privilege"]["tier"] == min(tier, 1)
        assert tier == 0 or "not in the host's PID namespace" in found["privilege"]["missing"]["2"]
        assert not on_machine(node) or found["memory"]["total_bytes"] == memory("MemTotal")
    if tier == 0:
        assert rights["uid"] == 65532
        assert rights["host"] == []
        assert found["sources"]["pod_resources"]["state"] == "unavailable"
        assert found["sources"]["containers"]["state"] == "unavailable"
    else:
        assert rights["uid"] == 0
        assert rights["processes"] > 5, "those of the node, too"


def busy_seconds():
    words = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    user, nice, system, _idle, _waiting, irq, softirq, steal = (int(word) for word in words[:8])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def test_gpus_are_attributed_to_the_containers_that_hold_them(installed, node, gpus, work):
    needs_machine(node, "its GPUs, its driver and its container runtime are doubles")
    program, _ = installed
    upgrade(program, node, "agent.runtimeClassName=nvidia")
    holder = run_pod(node, work, consumer("holder", gpus=1))

    def holders():
        (agent,) = rolled_out(node)
        found = snapshot(node, agent)
        assert found["sources"]["nvml"]["state"] == "ok", found["sources"]["nvml"]
        assert found["attribution"]["by"] == "kubelet"
        assert [gpu["uuid"] for gpu in found["gpus"]] == GPUS
        assert {gpu["utilization_ratio"] for gpu in found["gpus"]} == {0.37}
        (one,) = found["allocations"]
        return one

    found = eventually(holders, seconds=PATIENCE, what="one GPU has a holder")
    assert (found["namespace"], found["pod"], found["container"]) == (work, "holder", "main")
    given = inside(node, holder, "import json, os; print(json.dumps(os.environ['NVIDIA_VISIBLE_DEVICES']))")
    assert given in json.dumps(found)

    node.restart("kubelet")
    eventually(lambda: fake.allocatable(node, NAME) == 2, seconds=PATIENCE, what="the plugin has registered again")
    after = eventually(holders, seconds=PATIENCE, what="the holder is still known after a restart of the kubelet")
    assert after == found


def test_an_agent_that_is_killed_comes_back(installed, node, figures):
    needs_machine(node, "a process of it is killed")
    pod = ready_agent(node)
    before = container_of(pod)["restartCount"]
    began = time.monotonic()
    node.run("/usr/bin/pkill", "-KILL", "-f", "/opt/optiinfra/bin/optiinfra-agent")

    def again():
        (found,) = all_ready(node, "agent", 1)
        assert container_of(found)["restartCount"] > before
        return found

    eventually(again, seconds=PATIENCE, what="the agent is ready again")
    figures.add(TOPIC, "killed agent Ready again after", round(time.monotonic() - began, 1), "s")


def test_an_agent_without_enough_memory_is_ended_and_said_to_be(installed, node, figures):
    """The kernel ends it at its limit; the node and the other pods do not notice."""
    program, _ = installed
    before = lives(ready_operators(node))

    def ended():
        reasons = set()
        for pod in pods(node, "agent"):
            for status in pod["status"].get("containerStatuses", []):
                for state in (status["state"], status["lastState"]):
                    reasons.add(state.get("terminated", {}).get("reason"))
        assert "OOMKilled" in reasons, reasons
        return True

    try:
        upgrade(program, node, "agent.resources.limits.memory=16Mi", "agent.resources.requests.memory=16Mi")
        eventually(ended, seconds=PATIENCE, what="the kernel ended it")
        assert lives(ready_operators(node)) == before
    finally:
        upgrade(program, node, "agent.resources.limits.memory=64Mi", "agent.resources.requests.memory=64Mi")
    pod = ready_agent(node)
    eventually(lambda: warm(snapshot(node, pod)), seconds=PATIENCE, what="it works within 64Mi")
    assert container_of(pod)["restartCount"] == 0
    if on_machine(node):
        figures.add(TOPIC, "most memory of an agent limited to 64 MiB", round(usage(node, pod).peak / 2**20), "MiB")


def test_agents_register_with_a_token_of_their_own_audience(installed, node):
    agent = ready_agent(node)

    def registered():
        return [
            text
            for pod in pods(node, "operator")
            if value(text := metrics(node, pod), "optiinfra_agents", state="Registered")
        ]

    assert len(eventually(registered, seconds=PATIENCE, what="the leader knows the agent")) == 1
    program = (
        "import base64, json; token = open('/var/run/secrets/optiinfra/token').read().split('.')[1]; "
        "print(base64.urlsafe_b64decode(token + '=' * (-len(token) % 4)).decode())"
    )
    claims = inside(node, agent, program)
    assert claims["aud"] == ["optiinfra"]
    call = (
        "import json, os, ssl, urllib.request, urllib.error\n"
        "token = open('/var/run/secrets/optiinfra/token').read()\n"
        "headers = {'Authorization': 'Bearer ' + token}\n"
        "address = os.environ['KUBERNETES_SERVICE_HOST'] + ':' + os.environ['KUBERNETES_SERVICE_PORT']\n"
        "request = urllib.request.Request(f'https://{address}/api/v1/pods', headers=headers)\n"
        "try:\n"
        "    code = urllib.request.urlopen(request, timeout=10, context=ssl._create_unverified_context()).status\n"
        "except urllib.error.HTTPError as error:\n"
        "    code = error.code\n"
        "print(json.dumps(code))\n"
    )
    assert inside(node, agent, call) == 401, "the API server does not take it"


def test_a_running_pod_is_resized_in_place(node, work):
    pod = run_pod(node, work, consumer("resized", cpu="100m"))
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


BY_BOTH = {test_default_values_give_a_running_operator_and_agents, test_one_operator_leads_and_reads_the_agent}
