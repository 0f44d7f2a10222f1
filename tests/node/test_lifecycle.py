"""What befalls an installation on a real node: memory runs out, the node is lost and comes back, the release goes.

A killed agent, a restarted kubelet and what `helm uninstall` leaves of default values are in test_real_node.py.
"""

import time

import pytest

from hack.binaries import ensure
from hack.cluster.errors import ClusterError
from hack.node.cluster import NAME
from tests import real_node
from tests.engine_pages import Page
from tests.held_floor import Watching
from tests.node_engines import Engines, quick
from tests.operator_process import eventually
from tests.real_node import AGENTS, SPACE, TOPIC

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1500)]

BUSY = Page(running=60, waiting=400, kv_cache_usage=0.5)
MAXIMUM = 2
CLUSTER_OBJECTS = "/apis/optiinfra.io/v1alpha1/clusterresourceoptimizations"
ACTING = ("actuation.enabled=true", "agent.runtimeClassName=nvidia")


@pytest.fixture(scope="module")
def installed(node, gpus):
    """One release for the tests that change its values; the GPUs come first, as they stay."""
    program = ensure(["helm4"])["helm4"]
    with real_node.release(program, node):
        real_node.ready_agent(node)
        real_node.ready_operators(node)
        yield program


@pytest.fixture
def cluster_object(node, installed):
    """The one object of the whole cluster."""
    kind = {"apiVersion": "optiinfra.io/v1alpha1", "kind": "ClusterResourceOptimization"}
    pool = {"name": "all", "nodeSelector": {"kubernetes.io/hostname": NAME}, "prices": {"gpuHour": "2.50"}}
    body = kind | {"metadata": {"name": "cluster"}, "spec": {"pools": [pool]}}
    node.request("POST", CLUSTER_OBJECTS, body)
    yield lambda: node.request("GET", f"{CLUSTER_OBJECTS}/cluster").get("status", {})
    node.request("DELETE", f"{CLUSTER_OBJECTS}/cluster")


def condition(status, kind):
    return next((each for each in status.get("conditions", ()) if each["type"] == kind), {})


HUNGRY = """
import os
kept = os.memfd_create("charged to this container, and to no process")
block = bytes(1 << 20)
while True:
    os.write(kept, block)
"""


def test_an_agent_that_the_kernel_ends_at_its_limit_comes_back(installed, node, figures):
    """Memory of its container runs out at the limit of 64 MiB; the largest process of it is the agent itself."""
    real_node.needs_machine(node, "memory of its container is used up")
    limit = ("agent.resources.limits.memory=64Mi", "agent.resources.requests.memory=64Mi")
    real_node.upgrade(installed, node, *limit)

    def limited():
        (pod,) = real_node.all_ready(node, "agent", 1)
        assert pod["spec"]["containers"][0]["resources"]["limits"]["memory"] == "64Mi"
        return pod

    pod = eventually(limited, seconds=180, what="the agent has the limit")
    eventually(lambda: real_node.warm(real_node.snapshot(node, pod)), seconds=90, what="it works within it")
    before = real_node.container_of(pod)["restartCount"]
    others = {one["metadata"]["uid"]: real_node.container_of(one) for one in real_node.ready_operators(node)}
    began = time.monotonic()
    with pytest.raises(ClusterError):  # it is ended together with the container
        real_node.inside(node, pod, HUNGRY)

    def again():
        (found,) = real_node.all_ready(node, "agent", 1)
        status = real_node.container_of(found)
        assert status["restartCount"] > before, status
        assert status["lastState"]["terminated"]["reason"] == "OOMKilled", status["lastState"]
        return found

    found = eventually(again, seconds=180, what="the agent is ready again")
    assert found["metadata"]["uid"] == pod["metadata"]["uid"], "the same pod"
    figures.add(TOPIC, "agent ended at its limit of 64 MiB Ready again after", round(time.monotonic() - began, 1), "s")
    eventually(lambda: real_node.warm(real_node.snapshot(node, found)), seconds=90, what="it works again")
    for one in real_node.ready_operators(node):
        assert real_node.container_of(one)["restartCount"] == others[one["metadata"]["uid"]]["restartCount"]


def node_is_ready(node):
    conditions = node.request("GET", f"/api/v1/nodes/{NAME}")["status"]["conditions"]
    return next(each["status"] for each in conditions if each["type"] == "Ready") == "True"


@pytest.mark.timeout(1200)
def test_a_lost_node_is_named_nothing_is_taken_from_it_and_it_comes_back(
    installed, node, gpus, work, cluster_object, figures
):
    """The kubelet is silent for minutes; engines, agent and operators run on, but nobody can say so."""
    real_node.needs_machine(node, "its kubelet is ended")
    real_node.upgrade(installed, node, *quick(*ACTING))
    engines = Engines(node, work)
    engines.start(BUSY, gpus=1)
    engines.hpa_made(maximum=MAXIMUM)
    engines.optimize(mode="Auto", scaling={"actuation": "Floor"}, policy={"cooldown": "1s"})
    held = engines.held(MAXIMUM)

    def well():
        assert engines.condition("Ready").get("status") == "True", engines.status().get("conditions")
        assert engines.condition("ActuationEffective").get("status") == "True", engines.status().get("conditions")
        assert engines.condition("Degraded").get("status") == "False", engines.condition("Degraded")
        assert condition(cluster_object(), "MetricsAvailable").get("status") == "True", cluster_object()
        return True

    eventually(well, seconds=240, what="all is well before")
    restarts = {pod["metadata"]["uid"]: real_node.container_of(pod)["restartCount"] for pod in engines.ready()}
    with Watching(engines.hpa) as watching:
        node._running().process("kubelet").stop(grace=10)
        began = time.monotonic()
        try:
            eventually(lambda: not node_is_ready(node), seconds=180, what="the control plane gives the node up")
            figures.add(
                TOPIC, "node given up by Kubernetes after its kubelet's end", round(time.monotonic() - began), "s"
            )
            lost = time.monotonic()

            def said():
                measured = engines.condition("MetricsAvailable")
                assert (measured["status"], measured["reason"]) == ("False", "NodesNotReady"), measured
                assert NAME in measured["message"]
                of_all = condition(cluster_object(), "MetricsAvailable")
                assert of_all["status"] == "False", of_all
                assert NAME in of_all["message"], of_all
                return True

            eventually(said, seconds=180, what="both objects name the node")
            figures.add(TOPIC, "the objects name a lost node after", round(time.monotonic() - lost, 1), "s")

            def unknown():
                status = cluster_object()
                for advice in (engines.status().get("recommendations", []), status.get("recommendations", [])):
                    assert not [one for one in advice if one.get("type") in {"ScaleDown", "Consolidate", "Drain"}]
                assert status["summary"].get("emptyableNodes") != 1, status["summary"]
                assert engines.asked() == MAXIMUM

            # Longer than what is measured stays fresh, and than replicas are held: three looks, 20 s apart.
            for _ in range(3):
                unknown()
                time.sleep(20.0)
            unknown()
            silent = round(time.monotonic() - began)
        finally:
            node.restart("kubelet")
        eventually(lambda: node_is_ready(node), seconds=120, what="the node is back")
        back = time.monotonic()
        eventually(well, seconds=240, what="all is well by itself")
        figures.add(
            TOPIC, "all is well again after a lost node came back after", round(time.monotonic() - back, 1), "s"
        )
        eventually(lambda: len(engines.ready()) == MAXIMUM, seconds=60, what="the engines are ready")
    looks = watching.judge(MAXIMUM)
    figures.add(TOPIC, "seconds that a lost node was silent", silent, "s")
    figures.add(TOPIC, "looks at a held floor meanwhile, all of which saw it held", looks)
    assert engines.hpa()["metadata"]["annotations"] == held["metadata"]["annotations"]
    after = {pod["metadata"]["uid"]: real_node.container_of(pod)["restartCount"] for pod in engines.ready()}
    assert after == restarts, "no engine was touched"
    # A restarted kubelet calls no pod ready before its first look.
    agent = real_node.ready_agent(node)

    def attributed():
        found = real_node.snapshot(node, agent)
        assert found["attribution"]["by"] == "kubelet", found["attribution"]
        assert {one["namespace"] for one in found["allocations"]} == {work}
        assert len(found["allocations"]) == MAXIMUM
        return True

    eventually(attributed, seconds=120, what="GPUs belong to their containers as before")


def test_network_policies_apply_and_everything_works(installed, node, figures):
    """Whether they are enforced is up to the cluster's network; the bridge of this node enforces none."""
    monitoring = "networkPolicy.scrapeFrom[0].namespaceSelector.matchLabels.kubernetes\\.io/metadata\\.name=monitoring"
    real_node.upgrade(installed, node, monitoring)
    for space, component in ((SPACE, "operator"), (AGENTS, "agent")):
        path = f"/apis/networking.k8s.io/v1/namespaces/{space}/networkpolicies/optiinfra-{component}"
        labels = node.request("GET", path)["spec"]["podSelector"]["matchLabels"]
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        chosen = node.request("GET", f"/api/v1/namespaces/{space}/pods?labelSelector={selector}")["items"]
        names = {pod["metadata"]["name"] for pod in chosen}
        assert names == {pod["metadata"]["name"] for pod in real_node.pods(node, component)}

    def works():
        texts = [real_node.metrics(node, pod) for pod in real_node.all_ready(node, "operator", 2)]
        assert any(real_node.value(text, "optiinfra_scrapes_total", outcome="ok", source="agent") for text in texts)
        assert any(real_node.value(text, "optiinfra_agents", state="Registered") for text in texts)
        return True

    eventually(works, seconds=180, what="agents register and are read")
