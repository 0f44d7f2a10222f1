"""The moments of a pod's start, from statuses as kubelets of several ages write them."""

import copy

import pytest

from optiinfra.cluster.errors import Malformed
from optiinfra.cluster.pods import parse_pod

DAY = "2026-11-01T"


def condition(kind, time, status="True", reason=""):
    found = {"type": kind, "status": status, "lastTransitionTime": f"{DAY}{time}Z"}
    return found | ({"reason": reason} if reason else {})


def document(*conditions, statuses=(), containers=None, annotations=None, owner="ReplicaSet"):
    gpus = {"limits": {"nvidia.com/gpu": "1"}}
    return {
        "metadata": {
            "name": "llama-0",
            "namespace": "inference",
            "creationTimestamp": f"{DAY}10:00:00Z",
            "annotations": annotations or {},
            "ownerReferences": [{"kind": owner, "name": "o", "controller": True}],
        },
        "spec": {
            "nodeName": "gpu-1",
            "containers": containers or [{"name": "istio-proxy"}, {"name": "vllm", "resources": gpus}],
        },
        "status": {"phase": "Running", "conditions": list(conditions), "containerStatuses": list(statuses)},
    }


def running(name, time, **more):
    return {"name": name, "state": {"running": {"startedAt": f"{DAY}{time}Z"}}, **more}


# As a kubelet 1.36 writes a pod without init containers: initialised before its sandbox is there.
SERVING = document(
    condition("PodScheduled", "10:00:01"),
    condition("Initialized", "10:00:02"),
    condition("PodReadyToStartContainers", "10:00:04"),
    condition("ContainersReady", "10:03:00"),
    condition("Ready", "10:03:02"),
    condition("example.com/gate", "10:03:02"),
    statuses=[running("istio-proxy", "10:00:05"), running("vllm", "10:01:00", imageID="docker.io/v@sha256:abc")],
)


def moments(found):
    facts = parse_pod(found).facts
    names = ("scheduled", "initialised", "sandbox", "started", "containers_ready", "became_ready")
    values = {name: getattr(facts, name) for name in names}
    return {name: round(value - facts.created) for name, value in values.items() if value is not None}


def test_a_pod_that_serves():
    assert moments(SERVING) == {
        "scheduled": 1,
        "initialised": 2,
        "sandbox": 4,
        "started": 60,
        "containers_ready": 180,
        "became_ready": 182,
    }
    facts = parse_pod(SERVING).facts
    assert facts.image_id == "docker.io/v@sha256:abc"
    assert facts.unschedulable_since is None
    assert not facts.lost_readiness


def test_a_pod_that_says_nothing_yet():
    found = document()
    del found["status"]
    assert moments(found) == {}
    assert parse_pod(found).facts.image_id == ""


def test_a_pod_without_room():
    found = document(condition("PodScheduled", "10:00:03", "False", "Unschedulable"))
    facts = parse_pod(found).facts
    assert facts.unschedulable_since == facts.created + 3.0
    assert facts.scheduled is None


@pytest.mark.parametrize("reason", ["SchedulingGated", "SchedulerError", ""])
def test_a_pod_that_waits_for_something_else_has_no_shortage(reason):
    facts = parse_pod(document(condition("PodScheduled", "10:00:03", "False", reason))).facts
    assert facts.unschedulable_since is None
    assert facts.scheduled is None


def test_an_old_kubelet_tells_no_sandbox():
    found = document(condition("PodScheduled", "10:00:01"), condition("PodHasNetwork", "10:00:02"))
    assert moments(found) == {"scheduled": 1}


@pytest.mark.parametrize(("since", "lost"), [("10:00:02", False), ("10:01:00", False), ("10:09:00", True)])
def test_a_pod_that_was_ready_before_is_told_from_one_that_starts(since, lost):
    found = document(condition("Ready", since, "False"), statuses=[running("vllm", "10:01:00")])
    facts = parse_pod(found).facts
    assert facts.lost_readiness is lost
    assert facts.became_ready is None


def test_a_container_that_waits_has_not_started():
    waiting = {"name": "vllm", "state": {"waiting": {"reason": "ContainerCreating"}}, "imageID": ""}
    assert moments(document(statuses=[waiting, running("istio-proxy", "10:00:05")])) == {}


@pytest.mark.parametrize(
    ("containers", "annotations", "chosen"),
    [
        ([{"name": "proxy"}, {"name": "sim"}], {}, "proxy"),
        ([{"name": "proxy"}, {"name": "sim"}], {"kubectl.kubernetes.io/default-container": "sim"}, "sim"),
        ([{"name": "proxy"}, {"name": "sim"}], {"kubectl.kubernetes.io/default-container": "gone"}, "proxy"),
        (None, {"kubectl.kubernetes.io/default-container": "istio-proxy"}, "vllm"),
    ],
)
def test_the_container_that_serves_the_model(containers, annotations, chosen):
    starts = {"proxy": "10:00:05", "sim": "10:00:30", "istio-proxy": "10:00:05", "vllm": "10:01:00"}
    statuses = [running(name, time) for name, time in starts.items()]
    found = document(statuses=statuses, containers=containers, annotations=annotations)
    assert moments(found)["started"] == {"proxy": 5, "sim": 30, "vllm": 60}[chosen]


@pytest.mark.parametrize("owner", ["DaemonSet", "Node"])
def test_pods_that_belong_to_their_node_carry_no_moments(owner):
    found = copy.deepcopy(SERVING)
    found["metadata"]["ownerReferences"][0]["kind"] = owner
    assert moments(found) == {"became_ready": 182}


@pytest.mark.parametrize(
    "broken",
    [
        {"conditions": ["Ready"]},
        {"conditions": [{"type": 5}]},
        {"conditions": [{"type": "PodScheduled", "status": "True", "lastTransitionTime": "noon"}]},
        {"containerStatuses": [{"name": "vllm", "state": {"running": []}}]},
        {"containerStatuses": [{"name": "vllm", "imageID": 7}]},
    ],
)
def test_a_lie_is_refused_and_not_coerced(broken):
    found = copy.deepcopy(SERVING)
    found["status"] |= broken
    with pytest.raises(Malformed):
        parse_pod(found)


def test_equal_moments_share_their_number():
    one, other = (parse_pod(copy.deepcopy(SERVING)).facts for _ in range(2))
    assert one.started is other.started


def test_an_image_of_any_length_is_cut():
    found = document(statuses=[running("vllm", "10:01:00", imageID="x" * 10_000)])
    assert len(parse_pod(found).facts.image_id) == 512
