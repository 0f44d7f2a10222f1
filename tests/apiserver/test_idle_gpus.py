"""Idle GPUs from end to end: a real operator on a real API server reads a node agent and names who holds what.

The agent is a document served on a pod's address, with four GPUs: two work, one is kept by a pod that nobody calls, one
is free. Spans are the shortest that the settings allow; the rules are those of the built-in ones.
"""

import contextlib
import os
import time

import pytest

from tests.engine_pages import EnginePages, Json, Scene, ready_pod
from tests.operator_process import eventually, free_port, install

pytestmark = pytest.mark.timeout(280)

CLUSTER_OBJECTS = "/apis/optiinfra.io/v1alpha1/clusterresourceoptimizations"
GIB = 2.0**30


def gpu(number, *, used, busy, watts):
    return {
        "uuid": f"GPU-{number}",
        "index": number,
        "model": "NVIDIA H100 80GB HBM3",
        "pci_bus_id": f"0000:0{number}:00.0",
        "memory_total_bytes": 80 * GIB,
        "memory_used_bytes": used * GIB,
        "utilization_ratio": busy,
        "power_watts": watts,
        "power_limit_watts": 700.0,
        "energy_joules_total": watts * time.time(),
        "mig_enabled": False,
        "unknown": {},
    }


def snapshot(node, namespace, own, busy):
    now = time.time()
    source = {"state": "ok", "reason": "", "time": now, "duration_s": 0.001}
    held = {"namespace": namespace, "container": "vllm", "shared": False}
    return {
        "version": 1,
        "simulated": True,
        "time": now,
        "node": node,
        "agent": {"id": "agent-0", "version": "0", "started": now - 60.0},
        "sources": dict.fromkeys(("nvml", "cpu", "memory", "pressure", "pod_resources"), source),
        "cpu": {"cores": 8, "busy_seconds_total": now, "utilization_ratio": 0.1, "load1": 1.0},
        "memory": {"total_bytes": 64 << 30, "available_bytes": 32 << 30, "used_bytes": 32 << 30},
        "pressure": {},
        "gpus": [
            gpu(0, used=60.0, busy=0.8, watts=500.0),
            gpu(1, used=70.0, busy=busy["forgotten"], watts=500.0 if busy["forgotten"] else 115.0),
            gpu(2, used=0.3, busy=0.0, watts=70.0),
            gpu(3, used=60.0, busy=0.8, watts=500.0),
        ],
        "allocations": [
            {"gpu_uuid": "GPU-0", "pod": "working-0", **held},
            {"gpu_uuid": "GPU-1", "pod": "forgotten-0", **held},
            {"gpu_uuid": "GPU-3", "pod": "agent-0", **held, "namespace": own},
        ],
    }


@pytest.fixture(scope="module")
def world(apiserver, tmp_path_factory):
    folder, prefix = tmp_path_factory.mktemp("idle"), f"idle-{os.getpid()}"
    with contextlib.ExitStack() as stack:
        pages = stack.enter_context(EnginePages(free_port()))
        installation = stack.enter_context(install(apiserver, folder=folder, namespace=f"{prefix}-operator"))
        port = free_port()
        operator = installation.operator(
            OPTIINFRA_INTERVAL_SECONDS="1",
            OPTIINFRA_STALE_AFTER_SECONDS="6",
            OPTIINFRA_IDLE_SPAN_SECONDS="30",
            OPTIINFRA_AGENT_INTERVAL_SECONDS="1",
            OPTIINFRA_AGENT_PORT=str(port),
        )
        made = Scene(apiserver, installation, operator, pages, prefix)
        stack.callback(made.remove)
        stack.callback(operator.kill)
        made.busy, made.node = {"forgotten": 0.0}, f"{prefix}-node"
        resources = {"nvidia.com/gpu": "4", "cpu": "32", "memory": "64Gi", "pods": "20"}
        apiserver.request("POST", "/api/v1/nodes", {"metadata": {"name": made.node}, "status": {"capacity": resources}})
        stack.callback(apiserver.request, "DELETE", f"/api/v1/nodes/{made.node}")
        namespace = made.namespace("a")
        for pod in ("working-0", "forgotten-0"):
            ready_pod(apiserver, namespace, pod, made.address(), labels={"app": pod}, node=made.node)
        body = {
            "apiVersion": "optiinfra.io/v1alpha1",
            "kind": "ClusterResourceOptimization",
            "metadata": {"name": prefix},
            "spec": {"prices": {"gpuHour": "3.5"}, "idleGpus": {"window": "1m"}},
        }
        apiserver.request("POST", CLUSTER_OBJECTS, body)
        stack.callback(apiserver.request, "DELETE", f"{CLUSTER_OBJECTS}/{prefix}")
        accounts = f"/api/v1/namespaces/{installation.namespace}/serviceaccounts"
        apiserver.request("POST", accounts, {"metadata": {"name": "default"}})
        agents = stack.enter_context(EnginePages(port))
        address = made.address()
        agents.serve(address, Json(lambda: snapshot(made.node, namespace, installation.namespace, made.busy)))
        labels = dict(part.split("=") for part in operator.environment["OPTIINFRA_AGENT_SELECTOR"].split(","))
        ready_pod(apiserver, installation.namespace, "agent-0", address, labels=labels, node=made.node)
        pods = f"/api/v1/namespaces/{installation.namespace}/pods"
        stack.callback(apiserver.request, "DELETE", f"{pods}/agent-0?gracePeriodSeconds=0")
        operator.start().wait_ready()
        yield made


def status(world):
    return world.cluster.request("GET", f"{CLUSTER_OBJECTS}/{world.prefix}").get("status", {})


def idle(world):
    return {one["uuid"]: one for one in (status(world).get("idleGpus") or {}).get("gpus", ())}


def test_idle_gpus_are_named_with_holder_time_and_price_and_the_busy_one_is_not(world):
    before = time.time()
    eventually(lambda: len(idle(world)) == 2, seconds=120, what="two GPUs are idle")
    found = idle(world)
    assert set(found) == {"GPU-1", "GPU-2"}
    namespace = world.made["a"]
    forgotten, free = found["GPU-1"], found["GPU-2"]
    assert forgotten["holders"] == [f"{namespace}/forgotten-0"]
    assert forgotten["state"] == "IdleHeldMemory"
    assert free["state"] == "IdleUnallocated"
    assert "holders" not in free or free["holders"] == []
    for one in (forgotten, free):
        assert one["perHour"]["value"] == 3.5
        assert one["since"] <= time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(before + 60.0))
        assert 0.8 <= one["confidence"] <= 1.0
    said = status(world)
    assert said["summary"]["idleGpus"] == 2
    advice = [one for one in said["recommendations"] if one["type"] == "IdleGPU"]
    assert [one["reason"] for one in advice] == ["Stop"]
    assert advice[0]["savings"]["gpus"] == 1
    assert advice[0]["savings"]["perMonth"] == pytest.approx(3.5 * 730, rel=0.01)
    assert "Unallocated" in {one["reason"] for one in said["refusals"]}


def test_one_busy_sample_takes_the_verdict_back(world):
    eventually(lambda: "GPU-1" in idle(world), seconds=120, what="the GPU is idle")
    world.busy["forgotten"] = 0.9
    eventually(lambda: "GPU-1" not in idle(world), seconds=20, what="the verdict is taken back")
    assert not [one for one in status(world).get("recommendations", ()) if one["type"] == "IdleGPU"]
