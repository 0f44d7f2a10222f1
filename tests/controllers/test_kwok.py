"""The simulated nodes and pods: schedulable GPUs, an address for each pod, start-up time, quick deletion."""

import datetime as dt
import ipaddress
import json
import time

import pytest

GPUS = "nvidia.com/gpu"


def deployment(name, *, replicas=1, gpus=0, start_up=None):
    annotations = {} if start_up is None else {"kwok.x-k8s.io/start-up": start_up}
    container = {"name": "engine", "image": "none"}
    if gpus:
        container["resources"] = {"limits": {GPUS: gpus}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}, "annotations": annotations},
                "spec": {"containers": [container]},
            },
        },
    }


class Workbench:
    def __init__(self, cluster, namespace):
        self.cluster = cluster
        self.namespace = namespace

    def apply(self, manifest):
        self.cluster.kubectl("apply", f"--namespace={self.namespace}", "--filename=-", input=json.dumps(manifest))

    def pods(self, app):
        path = f"/api/v1/namespaces/{self.namespace}/pods?labelSelector=app%3D{app}"
        return self.cluster.request("GET", path)["items"]

    def wait_for_pods(self, app, accepts, *, count=1, seconds=30):
        deadline = time.monotonic() + seconds
        while True:
            pods = self.pods(app)
            if len(pods) == count and all(accepts(pod) for pod in pods):
                return pods
            assert time.monotonic() < deadline, [pod.get("status") for pod in pods]
            time.sleep(0.1)


@pytest.fixture
def bench(control_plane, namespace):
    return Workbench(control_plane, namespace)


def is_ready(pod):
    return any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"].get("conditions", []))


def test_nodes_are_ready_and_show_their_gpus(control_plane):
    nodes = control_plane.request("GET", "/api/v1/nodes")["items"]
    assert len(nodes) == 4
    for node in nodes:
        assert node["status"]["allocatable"][GPUS] == "8"
        assert node["metadata"]["labels"]["nvidia.com/gpu.product"]
        assert node["metadata"]["labels"]["node.kubernetes.io/instance-type"]
        assert not node["spec"].get("taints")


def test_every_pod_gets_a_loopback_address_of_its_own(control_plane, bench):
    bench.apply(deployment("many", replicas=5))
    pods = bench.wait_for_pods("many", is_ready, count=5)
    addresses = {pod["status"]["podIP"] for pod in pods}
    assert len(addresses) == 5
    assert all(ipaddress.ip_address(each) in ipaddress.ip_network(control_plane.pod_cidr) for each in addresses)


def test_gpus_are_counted_by_the_scheduler(bench):
    bench.apply(deployment("whole", replicas=5, gpus=8))

    def four_run():
        pods = bench.pods("whole")
        return sum(map(is_ready, pods)) == 4 and any(unschedulable(pod) for pod in pods)

    def unschedulable(pod):
        conditions = pod["status"].get("conditions", [])
        return any(each.get("reason") == "Unschedulable" and GPUS in each["message"] for each in conditions)

    deadline = time.monotonic() + 30
    while not four_run():
        assert time.monotonic() < deadline, [pod["status"] for pod in bench.pods("whole")]
        time.sleep(0.2)


def test_a_pod_runs_unready_on_its_address_while_it_starts_up(bench):
    bench.apply(deployment("slow", start_up="6s"))
    started = bench.wait_for_pods("slow", lambda pod: pod["status"].get("podIP"))[0]["status"]
    assert started["phase"] == "Running"
    assert not is_ready({"status": started})
    assert not started["containerStatuses"][0]["ready"]
    pod = bench.wait_for_pods("slow", is_ready)[0]
    assert pod["status"]["podIP"] == started["podIP"]
    took = ready_seconds(pod)
    assert 5 <= took <= 20, took


def ready_seconds(pod):
    """Read from the pod itself how long it took: what the test's own clock saw is of no interest."""
    changed = next(each["lastTransitionTime"] for each in pod["status"]["conditions"] if each["type"] == "Ready")
    return seconds_of(changed) - seconds_of(pod["status"]["startTime"])


def seconds_of(text):
    return dt.datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize("start_up", [None, "", "soon"])
def test_a_pod_without_a_start_up_time_is_ready_at_once(bench, start_up):
    bench.apply(deployment("quick", start_up=start_up))
    assert ready_seconds(bench.wait_for_pods("quick", is_ready)[0]) <= 3


def test_a_long_start_up_does_not_hold_up_deletion(bench):
    bench.apply(deployment("endless", start_up="1h"))
    bench.wait_for_pods("endless", lambda pod: pod["status"].get("podIP"))
    bench.cluster.kubectl("delete", "deployment", "endless", f"--namespace={bench.namespace}")
    bench.wait_for_pods("endless", lambda _: True, count=0, seconds=15)


def test_scaling_down_frees_the_gpus(bench):
    bench.apply(deployment("big", replicas=4, gpus=8))
    bench.wait_for_pods("big", is_ready, count=4, seconds=60)
    bench.apply(deployment("big", replicas=1, gpus=8))
    bench.wait_for_pods("big", is_ready, count=1)
    bench.apply(deployment("next", replicas=3, gpus=8))
    bench.wait_for_pods("next", is_ready, count=3)


def test_the_horizontal_autoscaler_acts_within_its_short_period(bench):
    bench.apply(deployment("floor"))
    bench.wait_for_pods("floor", is_ready)
    bench.apply(
        {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "floor"},
            "spec": {
                "minReplicas": 3,
                "maxReplicas": 5,
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "floor"},
                "metrics": [
                    {
                        "type": "Resource",
                        "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}},
                    }
                ],
            },
        }
    )
    bench.wait_for_pods("floor", is_ready, count=3, seconds=30)
