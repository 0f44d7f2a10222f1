"""DRA on a real API server: a GPU that a claim allocated is its pod's, and rights that were not given break nothing."""

import asyncio
import contextlib
from dataclasses import replace

from optiinfra.cluster.client import KubernetesClient
from optiinfra.cluster.inventory import Inventory
from optiinfra.control.attribution import completed
from optiinfra.domain.agent_readings import Attribution, Attributor, DeviceClaim
from optiinfra.domain.readings import Unknown
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.domain.utilization import summarise
from optiinfra.domain.workload import WorkloadFacts
from tests.unit.domain.made_up import agent, gpu

DRA = "/apis/resource.k8s.io/v1"
DRIVER = "gpu.nvidia.com"


def slice_of(node):
    attributes = {"uuid": {"string": "GPU-dra-1"}, "productName": {"string": "NVIDIA H100 80GB HBM3"}}
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": f"slice-{node}"},
        "spec": {
            "driver": DRIVER,
            "nodeName": node,
            "pool": {"name": node, "generation": 1, "resourceSliceCount": 1},
            "devices": [{"name": "gpu-0", "attributes": attributes}],
        },
    }


def claim():
    exactly = {"deviceClassName": DRIVER, "allocationMode": "ExactCount", "count": 1}
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": "gpu"},
        "spec": {"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}},
    }


def allocated(made, node, pod):
    result = {"request": "gpu", "driver": DRIVER, "pool": node, "device": "gpu-0"}
    reserved = {"resource": "pods", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}
    return made | {"status": {"allocation": {"devices": {"results": [result]}}, "reservedFor": [reserved]}}


async def test_a_claimed_gpu_belongs_to_its_pod(apiserver, namespace):
    node, base = f"node-{namespace}", f"/api/v1/namespaces/{namespace}"
    apiserver.kubectl("create", "serviceaccount", "default", "-n", namespace)
    apiserver.request("POST", "/api/v1/nodes", {"metadata": {"name": node}})
    apiserver.request("POST", f"{DRA}/resourceslices", slice_of(node))
    container = {"name": "c", "image": "x", "resources": {"claims": [{"name": "gpu"}]}}
    spec = {
        "nodeName": node,
        "containers": [container],
        "resourceClaims": [{"name": "gpu", "resourceClaimName": "gpu"}],
    }
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "vllm-1"}, "spec": spec}
    pod = apiserver.request("POST", f"{base}/pods", body)
    claims = f"{DRA}/namespaces/{namespace}/resourceclaims"
    made = apiserver.request("POST", claims, claim())
    apiserver.request("PUT", f"{claims}/gpu/status", allocated(made, node, pod))
    async with KubernetesClient.from_environment(str(apiserver.kubeconfig)) as client:
        inventory = Inventory(client, claims=True)
        task = asyncio.create_task(inventory.run())
        try:
            async with asyncio.timeout(30):
                await inventory.wait_synced()
            async with asyncio.timeout(30):
                while not inventory.pod(namespace, "vllm-1").claimed:  # noqa: ASYNC110  no event
                    await asyncio.sleep(0.1)
            facts, known = inventory.pod(namespace, "vllm-1"), inventory.nodes()[node]
            assert (facts.gpus, facts.claimed[0].device.gpu_uuid) == (1.0, "GPU-dra-1")
            assert "ResourceClaim" in facts.blockers
            assert (known.gpus, known.gpu_model, known.pods[0].gpus) == (1.0, "NVIDIA H100 80GB HBM3", 1.0)
            assert inventory.device(DRIVER, node, "gpu-0").gpu_uuid == "GPU-dra-1"
            apiserver.request("DELETE", f"{DRA}/resourceslices/slice-{node}")
            async with asyncio.timeout(30):
                while inventory.pod(namespace, "vllm-1").claimed:  # noqa: ASYNC110  no event
                    await asyncio.sleep(0.1)
            assert inventory.nodes()[node].gpus == 0.0
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


RBAC = "/apis/rbac.authorization.k8s.io/v1"


def limited(apiserver, name):
    """A user who may read all that the inventory mirrors, but nothing of DRA (`claims.enabled: false`, forgotten)."""
    rules = [
        {"apiGroups": ["", "apps", "autoscaling", "policy"], "resources": ["*"], "verbs": ["get", "list", "watch"]}
    ]
    apiserver.request("POST", f"{RBAC}/clusterroles", {"metadata": {"name": name}, "rules": rules})
    binding = {
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}],
    }
    apiserver.request("POST", f"{RBAC}/clusterrolebindings", binding)
    return apiserver.kubeconfig_for(name)


async def test_without_rights_to_slices_nothing_else_suffers_and_it_is_said(apiserver, namespace):
    node, base = f"node-{namespace}", f"/api/v1/namespaces/{namespace}"
    apiserver.kubectl("create", "serviceaccount", "default", "-n", namespace)
    apiserver.request("POST", "/api/v1/nodes", {"metadata": {"name": node}})
    apiserver.request("POST", f"{DRA}/resourceslices", slice_of(node))
    spec = {
        "nodeName": node,
        "containers": [{"name": "c", "image": "x"}],
        "resourceClaims": [{"name": "gpu", "resourceClaimName": "gpu"}],
    }
    apiserver.request("POST", f"{base}/pods", {"metadata": {"name": "vllm-1"}, "spec": spec})
    kubeconfig = limited(apiserver, f"limited-{namespace}")
    async with KubernetesClient.from_environment(str(kubeconfig)) as client:
        inventory = Inventory(client, claims=True)
        task = asyncio.create_task(inventory.run())
        try:
            async with asyncio.timeout(60):
                await inventory.wait_synced()  # not held up by what may not be read
                while len([one for one in inventory.problems() if "resource.k8s.io" in one]) < 2:  # noqa: ASYNC110  no event
                    await asyncio.sleep(0.1)
            said = "\n".join(inventory.problems())
            assert "resourceslices" in said
            assert "resourceclaims" in said
            assert "403" in said or "forbidden" in said.lower()
            assert inventory.pod(namespace, "vllm-1").name == "vllm-1"
            assert inventory.device(DRIVER, node, "gpu-0") is None
            # The kubelet told which device the pod holds; which GPU that is, nobody says: unknown, and never nobody's.
            held = DeviceClaim(DRIVER, node, "gpu-0", namespace, "vllm-1", "c")
            told = replace(
                agent(1000.0, gpu("GPU-dra-1", used=7e10, busy=0.9)),
                node=node,
                claims=(held,),
                attribution=Attribution(Attributor.KUBELET),
            )
            reading = completed(told, inventory)
            assert reading.allocations == ()
            assert "no ResourceSlice tells which" in reading.attribution.reason
            pod = replace(inventory.pod(namespace, "vllm-1"), phase="Running", gpus=1.0)
            facts = WorkloadFacts(namespace, "Deployment", "vllm", "u", 1, 1, pods=(pod,), scaler=None)
            known = {node: replace(inventory.nodes()[node], agent=(reading,), pods=(pod, replace(pod, name="other")))}
            found = summarise(facts, known, now=UnixTime(1000.0), window=Seconds(60.0), stale_after=Seconds(60.0))
            assert isinstance(found.gpu_ratio_mean, Unknown)
            assert found.gpu_uuids == ()
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
