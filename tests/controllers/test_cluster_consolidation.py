"""The operator itself, under the chart's rights, tells on a ClusterResourceOptimization which node could be emptied.

A real process, a real control plane, simulated nodes and pods. What it says is then done, through the eviction API and
by the real scheduler, and the operator sees the empty node.
"""

import contextlib
import os

import pytest

from tests.controllers.test_drain_plan import Site, bare, budget, workload
from tests.operator_process import eventually, install

pytestmark = pytest.mark.timeout(400)

OBJECTS = "/apis/optiinfra.io/v1alpha1/clusterresourceoptimizations"
NAME = "drains"


@pytest.fixture
def site(control_plane, namespace, tmp_path):
    made = Site(control_plane, namespace)
    with contextlib.ExitStack() as stack:
        stack.callback(made.close, set())
        installation = stack.enter_context(
            install(control_plane, folder=tmp_path, namespace=f"drains-{os.getpid()}-operator", values={})
        )
        # The object's own interval is that of every object: a round every two seconds.
        operator = installation.operator("drains", OPTIINFRA_INTERVAL_SECONDS="2")
        stack.callback(operator.kill)
        made.operator = operator
        made.at_end = stack.callback
        yield made


def status_of(cluster):
    return cluster.request("GET", f"{OBJECTS}/{NAME}").get("status", {})


def test_the_operator_tells_which_node_can_go_and_sees_it_empty(site, control_plane):
    keeper = site.names()[0]
    site.apply(
        bare("keeper", keeper),
        budget("llama", "llama", maxUnavailable=1),
        workload("Deployment", "llama", replicas=3, gpus=2),
    )
    site.started(4)
    body = {
        "apiVersion": "optiinfra.io/v1alpha1",
        "kind": "ClusterResourceOptimization",
        "metadata": {"name": NAME},
        "spec": {
            "prices": {"gpuHour": "2.50"},
            "pools": [{"name": "h100", "nodeSelector": {"nvidia.com/gpu.present": "true"}, "maxGpus": 16}],
            "defaults": {"interval": "5s"},
            "consolidation": {"window": "1m", "headroom": "10%"},
        },
    }
    with site.operator as operator:
        operator.wait_ready()
        control_plane.request("POST", OBJECTS, body)
        site.at_end(control_plane.request, "DELETE", f"{OBJECTS}/{NAME}")

        def planned():
            found = status_of(control_plane).get("consolidation", {})
            return found if any(node["proposed"] and node["pods"] for node in found.get("nodes", ())) else None

        shown = eventually(planned, seconds=150, what="a node is proposed that pods have to leave", every=1.0)
        status = status_of(control_plane)
        conditions = {each["type"]: each for each in status["conditions"]}
        assert (conditions["WithinLimits"]["status"], conditions["WithinLimits"]["reason"]) == (
            "False",
            "PoolOverLimit",
        )
        assert conditions["Degraded"]["status"] == "False"
        names = [node["name"] for node in shown["nodes"]]
        assert keeper not in names
        assert {held["reason"] for held in shown["held"]} & {"BlockedPods", "ReceivesPods"}
        told = {item["subject"]: item for item in status["recommendations"] if item["setting"] == "node"}
        assert set(told) <= set(names)
        assert all(item["savings"]["perMonth"] > 0 for item in told.values())
        # Follow the list from the top, for the nodes that are listed with it.
        for step in shown["steps"]:
            site.close(set(site.names()) - {step["to"]})
            site.evict(step["pod"])
            site.wait(lambda: site.all_ready(4))
        site.close(set(names))
        assert not [pod for pod in site.pods() if pod["spec"]["nodeName"] in names]

        def drained():
            held = status_of(control_plane).get("consolidation", {}).get("held", ())
            return any(each["reason"] == "Unschedulable" and each["nodes"] == len(names) for each in held)

        eventually(drained, seconds=60, what="the operator sees the cordoned nodes", every=1.0)
