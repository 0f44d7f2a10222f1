"""Simulated nodes beside a real one: agents run where there is a machine, and of the others nothing is made up.

KWOK plays two nodes of eight GPUs and their pods, which it calls ready although nothing runs in them. Agents are kept
to the real node by the chart's own value, as in a cluster where some nodes cannot run them. What is not measured has to
stay unknown, with a reason, and nobody may be called idle for it.
"""

import time

import pytest

from hack.cluster.nodes import Node
from hack.node.cluster import NAME
from tests.acting import TOPIC, Space, acting_node, install
from tests.engine_pages import deployment
from tests.operator_process import eventually
from tests.real_node import AGENTS, all_ready, ready_agent

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1200)]
SIMULATED = ("gpu-1", "gpu-2")
LABEL = "agents=here"
"""Of the nodes that the chart's own value keeps the agents to."""
CLUSTERS = "/apis/optiinfra.io/v1alpha1/clusterresourceoptimizations"
TOLERANT = [{"key": "nvidia.com/gpu", "operator": "Exists"}]
WATCHED = 90.0
"""Seconds for which the operator looks at nodes of which it is told nothing: longer than all its windows here."""


@pytest.fixture(scope="module")
def node(images):
    """Start a real node with two simulated ones, and install the chart."""
    with acting_node(images, simulated=[Node(name=name, taint=True) for name in SIMULATED]) as made:
        made.kubectl("label", "node", NAME, LABEL)
        install(made, f"agent.nodeSelector.{LABEL}", OPTIINFRA_IDLE_SPAN_SECONDS="30")
        yield made


@pytest.fixture(scope="module")
def cluster(node):
    """Make a pool of the simulated nodes, and a service of two pods with four GPUs each on them."""
    space = Space(node, "simulated")
    body = deployment("svc", replicas=2, gpus=4)
    body["spec"]["template"]["spec"]["tolerations"] = TOLERANT
    node.request("POST", space.path("apps/v1", "deployments"), body)
    space.wait_ready(2)
    pool = {
        "name": "simulated",
        "nodeSelector": {"nvidia.com/gpu.present": "true"},
    }
    spec = {
        "pools": [pool],
        "prices": {"gpuHour": "2.50"},
        "defaults": {"interval": "5s"},
        "consolidation": {"window": "1m"},
        "idleGpus": {"window": "1m"},
    }
    kind = {"apiVersion": "optiinfra.io/v1alpha1", "kind": "ClusterResourceOptimization"}
    node.request("POST", CLUSTERS, kind | {"metadata": {"name": "all"}, "spec": spec})
    space.optimize(mode="Recommend")
    yield space
    node.request("DELETE", f"{CLUSTERS}/all")
    space.remove()


def status(node):
    return node.request("GET", f"{CLUSTERS}/all").get("status", {})


def daemon_set(node):
    return node.request("GET", f"/apis/apps/v1/namespaces/{AGENTS}/daemonsets/optiinfra-agent")["status"]


def test_agents_are_expected_on_the_real_node_alone(node):
    pod = ready_agent(node)
    assert pod["spec"]["nodeName"] == NAME
    found = daemon_set(node)
    assert (found["desiredNumberScheduled"], found["numberReady"], found["numberMisscheduled"]) == (1, 1, 0)
    names = {each["metadata"]["name"] for each in node.request("GET", "/api/v1/nodes")["items"]}
    assert names == {NAME, *SIMULATED}


def test_what_nobody_measures_is_unknown_with_a_reason(node, cluster, figures):
    def looked():
        found = status(node)
        assert found.get("summary", {}).get("gpus") == 16, found.get("summary")
        return found

    eventually(looked, seconds=120, what="the operator sees the simulated nodes")
    began = time.monotonic()
    while time.monotonic() - began < WATCHED:
        found = status(node)
        assert found["summary"]["idleGpus"] == "NotMeasured", found["summary"]
        assert not [one for one in found.get("recommendations", ()) if one["type"] == "IdleGPU"], found
        time.sleep(5)
    figures.add(TOPIC, "simulated nodes looked at without calling a GPU idle", len(SIMULATED), "")

    def told():
        conditions = {one["type"]: one for one in status(node)["conditions"]}
        assert conditions["Degraded"]["status"] == "False", conditions
        measured = conditions["MetricsAvailable"]
        assert (measured["status"], measured["reason"]) == ("False", "AgentUnreachable"), measured
        assert all(name in measured["message"] for name in SIMULATED), measured
        return True

    # While the real node's agent answers too late, as under load, nobody knows yet whether any runs.
    eventually(told, seconds=120, what="it names the nodes without an agent")

    condition = cluster.condition("MetricsAvailable")
    assert condition["status"] == "False", condition
    assert condition["message"], condition
    ours = cluster.status()
    assert not ours.get("recommendations"), ours


def test_agents_that_are_only_played_are_told_as_silent(node, cluster):
    """The agents go to all nodes that have the label, and KWOK calls two of them ready: they answer nobody."""
    node.kubectl("label", "node", *SIMULATED, LABEL)
    eventually(lambda: daemon_set(node).get("numberReady") == 3, seconds=180, what="KWOK plays two agents")

    def told():
        conditions = {one["type"]: one for one in status(node)["conditions"]}
        found = conditions["MetricsAvailable"]
        assert (found["status"], found["reason"]) == ("False", "AgentUnreachable"), found
        return found

    found = eventually(told, seconds=180, what="they are asked in vain, and it is said")
    assert found["message"]
    assert status(node)["summary"]["idleGpus"] == "NotMeasured"
    assert ready_real_agent(node)["spec"]["nodeName"] == NAME


def ready_real_agent(node):
    (pod,) = [one for one in all_ready(node, "agent", 3) if one["spec"]["nodeName"] == NAME]
    return pod
