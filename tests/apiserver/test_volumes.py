"""Volumes on a real API server: where they let a pod go, and what happens where nobody may read them."""

import asyncio
import contextlib

import pytest

from optiinfra.cluster.client import KubernetesClient
from optiinfra.cluster.inventory import Inventory
from optiinfra.domain.label_rules import LabelOperator, LabelRule

READ_ALL_BUT_VOLUMES = (
    "pods",
    "nodes",
    "horizontalpodautoscalers.autoscaling",
    "poddisruptionbudgets.policy",
)


def volume(name, zone=None, **source):
    affinity = {}
    if zone:
        rule = {"key": "zone", "operator": "In", "values": [zone]}
        affinity = {"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [rule]}]}}}
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}} | {
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"]} | affinity | source
    }


def claim(name, volume_name):
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}} | {
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
            "volumeName": volume_name,
            "storageClassName": "",
        }
    }


def pod(name, node, claims):
    volumes = [{"name": f"v{n}", "persistentVolumeClaim": {"claimName": each}} for n, each in enumerate(claims)]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}} | {
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "x"}], "volumes": volumes}
    }


@contextlib.asynccontextmanager
async def mirrored(kubeconfig):
    async with KubernetesClient.from_environment(str(kubeconfig)) as client:
        inventory = Inventory(client)
        task = asyncio.create_task(inventory.run())
        try:
            async with asyncio.timeout(30):
                await inventory.wait_synced()
            yield inventory
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


@pytest.fixture
def node(apiserver, namespace):
    apiserver.kubectl("create", "serviceaccount", "default", "-n", namespace)
    name = f"node-{namespace}"
    apiserver.request("POST", "/api/v1/nodes", {"metadata": {"name": name}})
    base = f"/api/v1/namespaces/{namespace}"
    csi = {"csi": {"driver": "disk.example.com", "volumeHandle": "x"}}
    for each in (
        volume(f"zonal-{namespace}", "z1", **csi),
        volume(f"local-{namespace}", "z1", hostPath={"path": "/data"}),
    ):
        apiserver.request("POST", "/api/v1/persistentvolumes", each)
    for kind in ("zonal", "local", "unbound"):
        made = apiserver.request(
            "POST", f"{base}/persistentvolumeclaims", claim(kind, "" if kind == "unbound" else f"{kind}-{namespace}")
        )
        if kind != "unbound":  # no controller binds them here
            made["status"] = {"phase": "Bound", "accessModes": ["ReadWriteOnce"]}
            apiserver.request("PUT", f"{base}/persistentvolumeclaims/{kind}/status", made)
        apiserver.request("POST", f"{base}/pods", pod(f"on-{kind}", name, [kind]))
    apiserver.request("POST", f"{base}/pods", pod("on-none", name, []))
    yield name
    apiserver.request("DELETE", f"/api/v1/nodes/{name}")
    for kind in ("zonal", "local"):
        apiserver.request("DELETE", f"/api/v1/persistentvolumes/{kind}-{namespace}")


async def settled(inventory, node, accepts):
    """Volumes are not waited for: a plan without their pods is still a plan."""
    async with asyncio.timeout(20):
        while not accepts({each.name: each for each in inventory.nodes()[node].pods}):  # noqa: ASYNC110  no event
            await asyncio.sleep(0.05)
    return {each.name: each for each in inventory.nodes()[node].pods}


async def test_a_volume_says_where_its_pod_may_go(apiserver, node):
    async with mirrored(apiserver.kubeconfig) as inventory:
        pods = await settled(inventory, node, lambda pods: pods["on-zonal"].volume_terms)
        (terms,) = pods["on-zonal"].volume_terms
        assert terms[0].labels == (LabelRule("zone", LabelOperator.IN, frozenset({"z1"})),)
        assert pods["on-zonal"].claims == ("zonal",)
        assert "UnknownVolume" not in pods["on-zonal"].blockers
        assert "LocalVolume" in pods["on-local"].blockers
        assert "UnknownVolume" in pods["on-unbound"].blockers
        assert pods["on-none"].blockers == ("BarePod",)
        assert inventory.problems() == ()


async def test_without_the_right_to_read_volumes_their_pods_stay_and_all_else_goes_on(apiserver, node, namespace):
    kubeconfig = apiserver.kubeconfig_for(f"reader-{namespace}")
    rules = [
        {"apiGroups": [group], "resources": [resource], "verbs": ["list", "watch"]}
        for resource, _, group in (each.partition(".") for each in READ_ALL_BUT_VOLUMES)
    ]
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    apiserver.request("POST", f"{rbac}/clusterroles", {"metadata": {"name": namespace}, "rules": rules})
    subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": f"reader-{namespace}"}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": namespace}
    binding = {"metadata": {"name": namespace}, "subjects": [subject], "roleRef": role}
    apiserver.request("POST", f"{rbac}/clusterrolebindings", binding)
    async with mirrored(kubeconfig) as inventory:
        assert inventory.synced
        pods = {each.name: each for each in inventory.nodes()[node].pods}
        assert all("UnknownVolume" in pods[f"on-{kind}"].blockers for kind in ("zonal", "local", "unbound"))
        assert pods["on-none"].blockers == ("BarePod",)
        async with asyncio.timeout(20):
            while not any("persistentvolume" in problem for problem in inventory.problems()):  # noqa: ASYNC110  no event
                await asyncio.sleep(0.05)
    apiserver.request("DELETE", f"{rbac}/clusterrolebindings/{namespace}")
    apiserver.request("DELETE", f"{rbac}/clusterroles/{namespace}")
