"""DRA on a real API server: a GPU that a claim allocated is its pod's, and rights that were not given break nothing."""

import asyncio
import contextlib

from optiinfra.cluster.client import KubernetesClient
from optiinfra.cluster.inventory import Inventory

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
