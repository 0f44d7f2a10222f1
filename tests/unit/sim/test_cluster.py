"""Pods and nodes as the API server writes them."""

import pytest

from optiinfra_sim.cluster import ClusterFollower, parse_node, parse_pod
from optiinfra_sim.errors import FollowError


def raw_pod(**status):
    return {
        "metadata": {"uid": "u1", "namespace": "inference", "name": "chat-1", "labels": {"app": "chat", "x": "y"}},
        "spec": {
            "nodeName": "gpu-1",
            "containers": [
                {"name": "vllm", "resources": {"limits": {"nvidia.com/gpu": "2"}}},
                {"name": "side"},
            ],
        },
        "status": {
            "phase": "Running",
            "podIP": "127.20.0.1",
            "startTime": "2026-11-21T10:00:00Z",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-21T10:00:07Z"}],
        }
        | status,
    }


def test_a_ready_pod():
    pod = parse_pod(raw_pod())
    assert (pod.uid, pod.namespace, pod.node, pod.address) == ("u1", "inference", "gpu-1", "127.20.0.1")
    assert pod.ready_since - pod.started == 7
    assert [(container.name, container.gpus) for container in pod.containers] == [("vllm", 2), ("side", 0)]
    assert pod.carries({"app": "chat"})
    assert not pod.carries({"app": "chat", "other": "label"})
    assert not pod.terminating
    assert not pod.is_agent


def test_a_pod_that_is_not_ready_has_no_moment_of_readiness():
    assert parse_pod(raw_pod(conditions=[{"type": "Ready", "status": "False"}])).ready_since is None
    assert parse_pod(raw_pod(conditions=[])).ready_since is None


@pytest.mark.parametrize("status", [{"podIP": ""}, {"phase": "Failed"}, {"phase": "Succeeded"}, {"startTime": None}])
def test_pods_that_cannot_serve_are_left_out(status):
    assert parse_pod(raw_pod(**status)) is None


def test_a_terminating_pod_and_an_agent():
    raw = raw_pod()
    raw["metadata"]["deletionTimestamp"] = "2026-11-21T10:01:00Z"
    raw["metadata"]["labels"] = {"app.kubernetes.io/component": "agent"}
    pod = parse_pod(raw)
    assert pod.terminating
    assert pod.is_agent


def test_nodes():
    gpu = parse_node(
        {
            "metadata": {
                "name": "gpu-1",
                "labels": {"nvidia.com/gpu.product": "NVIDIA-L4", "nvidia.com/gpu.memory": "24576"},
            },
            "status": {"capacity": {"cpu": "64", "nvidia.com/gpu": "8"}},
        }
    )
    assert (gpu.gpus, gpu.cores, gpu.gpu_model, gpu.gpu_memory_bytes) == (8, 64, "NVIDIA-L4", 24 * 2**30)
    plain = parse_node({"metadata": {"name": "n"}, "status": {"capacity": {"cpu": "3920m"}}})
    assert (plain.gpus, plain.cores, plain.gpu_model, plain.gpu_memory_bytes) == (0, 0, None, None)


async def test_an_unusable_kubeconfig_is_one_error(tmp_path):
    path = tmp_path / "config"
    path.write_text("kind: Config\n")
    with pytest.raises(FollowError, match="cannot be used"):
        await ClusterFollower(kubeconfig=path, on_view=print).run()
