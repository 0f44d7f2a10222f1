"""Claims and slices of DRA: which GPU a device is, who holds it, and what is no GPU of anybody's."""

import pytest

from optiinfra.cluster.pods import parse_pod
from optiinfra.cluster.resource_slices import ClaimRecord, SliceRecord, parse_claim, parse_slice
from optiinfra.domain.agent_readings import PhysicalDevice

GPU = {"uuid": {"string": "GPU-1"}, "productName": {"string": "NVIDIA H100"}, "type": {"string": "gpu"}}
MIG = {"gpu.nvidia.com/uuid": {"string": "MIG-5"}, "gpu.nvidia.com/parentUUID": {"string": "GPU-1"}}


def sliced(*devices, generation=1):
    return {
        "metadata": {"name": "s"},
        "spec": {
            "driver": "gpu.nvidia.com",
            "nodeName": "n1",
            "pool": {"name": "n1", "generation": generation, "resourceSliceCount": 1},
            "devices": list(devices),
        },
    }


@pytest.mark.parametrize("told", [{"attributes": GPU}, {"basic": {"attributes": GPU}}])
def test_a_slice_of_any_version(told):
    found = parse_slice(sliced({"name": "gpu-0", **told}))
    assert found == SliceRecord(
        "gpu.nvidia.com", "n1", 1, "n1", (("gpu-0", PhysicalDevice("GPU-1", "NVIDIA H100", part=False)),)
    )


def test_a_part_of_a_gpu_is_on_that_gpu_and_what_has_no_uuid_is_none():
    nic = {"name": "nic-0", "attributes": {"address": {"string": "0000:17:00.0"}}}
    odd = {"name": "odd", "attributes": {"uuid": {"int": 5}}}
    found = parse_slice(sliced({"name": "mig-0", "attributes": MIG}, nic, odd))
    assert found.devices == (("mig-0", PhysicalDevice("GPU-1", "", part=True)),)


def claim(*results, pods=(("vllm-1", "uid-1"),)):
    reserved = [{"resource": "pods", "name": name, "uid": uid} for name, uid in pods]
    allocation = {"devices": {"results": list(results)}}
    return {"metadata": {"name": "c", "namespace": "n"}, "status": {"allocation": allocation, "reservedFor": reserved}}


def result(device, **more):
    return {"request": "r", "driver": "gpu.nvidia.com", "pool": "n1", "device": device, **more}


def test_a_claim_names_devices_and_pods():
    found = parse_claim(claim(result("gpu-0"), result("gpu-1")))
    assert found == ClaimRecord(
        (("gpu.nvidia.com", "n1", "gpu-0"), ("gpu.nvidia.com", "n1", "gpu-1")), (("vllm-1", "uid-1"),)
    )


def test_who_only_watches_uses_nothing_up():
    assert parse_claim(claim(result("gpu-0", adminAccess=True))).devices == ()


def test_a_claim_that_waits_names_nothing():
    assert parse_claim({"metadata": {"name": "c"}, "status": {}}) == ClaimRecord((), ())


def test_a_pod_with_claims_is_left_where_it_is():
    body = {
        "metadata": {"name": "p", "namespace": "n", "uid": "u", "ownerReferences": [
            {"kind": "ReplicaSet", "name": "r", "controller": True}
        ]},
        "spec": {"containers": [{"name": "c"}], "resourceClaims": [{"name": "gpu"}]},
    }  # fmt: skip
    assert parse_pod(body).facts.blockers == ("ResourceClaim",)
