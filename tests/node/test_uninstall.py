"""`helm uninstall` of a release with everything switched on, on a real node: held values come back, nothing is left.

Also while the operator is dead: what gives back is a Job of the chart, a pod of its own. What default values leave is
in test_real_node.py; that objects and definitions stay until they are deleted is part of the comparison.
"""

import json
import time

import pytest

from hack.binaries import ensure
from hack.chart_checks import helm
from hack.cluster.errors import ApiError, ClusterError
from tests import real_node
from tests.engine_pages import MERGE, Page
from tests.held_floor import given_back
from tests.node_engines import Engines, quick
from tests.operator_process import eventually
from tests.real_node import SPACE, TOPIC

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]

BUSY = Page(running=60, waiting=400, kv_cache_usage=0.5)
MAXIMUM = 2


def everything(node):
    """List all objects of all kinds, the release's Leases among them; not the nodes' and the control plane's own."""
    found = real_node.objects(node)
    leases = node.request("GET", "/apis/coordination.k8s.io/v1/leases")["items"]
    own = {"kube-system", "kube-node-lease"}
    found |= {
        ("coordination.k8s.io/v1", "Lease", item["metadata"]["namespace"], item["metadata"]["name"])
        for item in leases
        if item["metadata"]["namespace"] not in own
    }
    return found


ALL = (
    "actuation.enabled=true",
    "actuation.resize=true",
    "actuation.fence=true",
    "externalMetrics.enabled=true",
    "kedaScaler.enabled=true",
    "kedaScaler.clientSecretNamespace=optiinfra",
    "modelConfigMaps.enabled=true",
)
FENCES = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding", "APIService", "ClusterRoleBinding")


@pytest.mark.parametrize("dead", [False, True], ids=["operator runs", "operator is dead"])
@pytest.mark.parametrize("which", ["helm", "helm4"])
def test_uninstalling_gives_everything_back_and_leaves_nothing(node, work, which, dead, figures):
    program, engines = ensure([which])[which], Engines(node, work)
    engines.start(BUSY)
    engines.hpa_made(maximum=MAXIMUM)
    before = everything(node)
    with real_node.release(program, node, *quick(*ALL)):
        real_node.ready_operators(node)
        engines.optimize(mode="Auto", scaling={"actuation": "Floor"}, policy={"cooldown": "1s"})
        engines.held(MAXIMUM)
        added = {kind for _, kind, _, _ in everything(node) - before}
        assert set(FENCES) <= added, added
        assert "Lease" in added
        if dead:
            end_operators(node)
        began = time.monotonic()
        helm(program, "uninstall", "optiinfra", *real_node.where(node), "--wait")
        took = time.monotonic() - began
        given_back(engines.hpa)
        assert engines.asked() == MAXIMUM
        node.request("DELETE", f"/apis/optiinfra.io/v1alpha1/namespaces/{work}/resourceoptimizations/svc")
        eventually(lambda: nothing_but_what_is_kept(node, before), seconds=120, what="nothing is left")
    state = "of a dead operator" if dead else "of a running operator"
    figures.add(TOPIC, f"{which} uninstall {state} with a held floor", round(took, 1), "s")


def end_operators(node):
    """Kill all of them for good, without a chance to say goodbye."""
    path = f"/apis/apps/v1/namespaces/{SPACE}/deployments/optiinfra-operator"
    image = [{"name": "operator", "image": "optiinfra.example/gone:1", "imagePullPolicy": "Never"}]
    body = {"spec": {"strategy": {"type": "Recreate", "rollingUpdate": None}}}
    node.request("PATCH", path, body, content_type=MERGE)
    node.kubectl("-n", SPACE, "set", "image", "deployment/optiinfra-operator", f"operator={image[0]['image']}")
    node.kubectl(
        "-n", SPACE, "delete", "pods", "-l", "app.kubernetes.io/component=operator", "--force", "--grace-period=0"
    )

    def dead():
        pods = real_node.pods(node, "operator")
        assert not any(real_node.is_ready(pod) for pod in pods)
        assert not any(status.get("state", {}).get("running") for pod in pods for status in statuses(pod))
        return bool(pods)

    eventually(dead, seconds=120, what="no operator runs, and none can")


def statuses(pod):
    return pod["status"].get("containerStatuses", [])


def nothing_but_what_is_kept(node, before):
    try:
        left = everything(node) - before
    except (ApiError, ClusterError, json.JSONDecodeError) as error:  # an API that is just going away
        raise AssertionError(str(error)) from error
    new = {item for item in left if item[1] != "Pod"}
    assert sorted(new) == real_node.KEPT, sorted(new)
    return True
