"""The end-to-end tests' way into a cluster that somebody else runs; another control plane plays that one."""

import json
import time

import pytest

from hack.cluster import Cluster, ClusterError, Node
from hack.cluster.foreign import ForeignCluster


@pytest.fixture
def theirs(tmp_path):
    with Cluster(tmp_path / "theirs", kwok=False) as cluster:
        yield cluster


def pod():
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "engine", "namespace": "default"},
        "spec": {
            "containers": [{"name": "engine", "image": "none", "resources": {"limits": {"nvidia.com/gpu": 2}}}],
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        },
    }


def test_it_brings_simulated_nodes_and_takes_them_away(theirs, tmp_path):
    nodes = [Node(name="gpu-1", gpus=2)]
    with ForeignCluster(theirs.kubeconfig, scratch=tmp_path, nodes=nodes) as cluster:
        assert cluster.pod_cidr != theirs.pod_cidr
        node = json.loads(cluster.kubectl("get", "node", "optiinfra-gpu-1", "--output=json"))
        assert [taint["key"] for taint in node["spec"]["taints"]] == ["nvidia.com/gpu"]
        cluster.kubectl("apply", "--filename=-", input=json.dumps(pod()))
        cluster.kubectl("wait", "pod/engine", "--for=condition=Ready", "--timeout=30s")
        address = cluster.kubectl("get", "pod", "engine", "--output=jsonpath={.status.podIP}")
        assert address.startswith(cluster.pod_cidr.removesuffix("0.0/16"))
        kubeconfig = cluster.service_account_kubeconfig("default", "default")
        with pytest.raises(ClusterError, match="system:serviceaccount:default:default"):
            cluster.kubectl("get", "nodes", f"--kubeconfig={kubeconfig}")
    deadline = time.monotonic() + 20
    while theirs.request("GET", "/api/v1/nodes")["items"]:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_kubeconfig_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ClusterError, match="OPTIINFRA_E2E_KUBECONFIG: no file"):
        ForeignCluster(tmp_path / "absent", scratch=tmp_path)
