"""Start-up times of real pods on the simulated nodes: what the operator's mirror and memory make of known delays."""

import asyncio
import contextlib
import datetime as dt
import json
import time

import pytest

from optiinfra.cluster.client import KubernetesClient
from optiinfra.cluster.inventory import Inventory
from optiinfra.domain.readings import Unknown
from optiinfra.domain.start_up import StartUpMemory
from optiinfra.domain.start_up_summary import Stage

ROUNDED = 1.0
"""The API's times are whole seconds. Above a known delay there is no bound: the machine may be busy."""


GATE = "example.com/quota"


def deployment(name, *, start_up, replicas=1, selector=None, gates=()):
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}, "annotations": {"kwok.x-k8s.io/start-up": start_up}},
                "spec": {
                    "containers": [{"name": "engine", "image": "none"}],
                    "nodeSelector": selector or {},
                    "schedulingGates": [{"name": gate} for gate in gates],
                },
            },
        },
    }


@pytest.fixture
async def inventory(control_plane, namespace):
    async with KubernetesClient.from_environment(str(control_plane.kubeconfig)) as client:
        mirrors = Inventory(client, namespaces=[namespace])
        task = asyncio.create_task(mirrors.run())
        try:
            async with asyncio.timeout(30):
                await mirrors.wait_synced()
            yield mirrors
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


@pytest.fixture
def apply(control_plane, namespace):
    def applied(manifest):
        control_plane.kubectl("apply", f"--namespace={namespace}", "--filename=-", input=json.dumps(manifest))

    return applied


async def watch(memory, inventory, namespace, app, *, until, seconds=60):
    """Observe once a second, as rounds do less often, until the summary is as wanted."""
    deadline = time.monotonic() + seconds
    while True:
        memory.observe(inventory.pods_of(namespace, f"app={app}"), now=time.time())
        found = memory.summary(time.time())
        if until(found):
            return found
        assert time.monotonic() < deadline, found
        await asyncio.sleep(1.0)


@pytest.fixture
def moments(control_plane, namespace):
    """Read from the pods themselves what the API says, by the names of their conditions."""

    def read(app):
        path = f"/api/v1/namespaces/{namespace}/pods?labelSelector=app%3D{app}"
        found = []
        for pod in control_plane.request("GET", path)["items"]:
            times = {each["type"]: each["lastTransitionTime"] for each in pod["status"]["conditions"]}
            times["created"] = pod["metadata"]["creationTimestamp"]
            for container in pod["status"].get("containerStatuses", []):
                times["started"] = container["state"]["running"]["startedAt"]
            found.append({name: dt.datetime.fromisoformat(time).timestamp() for name, time in times.items()})
        return found

    return read


def median(found, stage):
    value = found.stages[stage].p50
    assert not isinstance(value, Unknown), found
    return value


async def test_a_known_delay_is_measured_as_the_time_to_load(inventory, apply, namespace, moments):
    memory = StartUpMemory()
    apply(deployment("slow", start_up="8s", replicas=3))
    young = await watch(memory, inventory, namespace, "slow", until=lambda found: found.starting == 3)
    assert young.samples == 0
    found = await watch(memory, inventory, namespace, "slow", until=lambda found: found.samples == 3)
    told = moments("slow")
    assert median(found, Stage.LOAD) == sorted(pod["Ready"] - pod["started"] for pod in told)[1]
    assert median(found, Stage.LOAD) >= 8.0 - ROUNDED
    assert found.p95 == max(pod["Ready"] - pod["created"] for pod in told)
    assert found.stages[Stage.LOAD].samples == 3
    assert median(found, Stage.NODE) == 0.0
    assert found.longest_stage[0] is Stage.LOAD
    assert (found.starting, found.pending, found.stock_outs) == (0, 0, 0)

    # What became ready is not counted again, by this leader or by the next one.
    memory.observe(inventory.pods_of(namespace, "app=slow"), now=time.time())
    again = StartUpMemory.from_bytes(memory.to_bytes())
    again.observe(inventory.pods_of(namespace, "app=slow"), now=time.time())
    assert again.summary(time.time()) == memory.summary(time.time()) == found


async def test_the_wait_for_a_node_is_measured_beside_the_start(control_plane, inventory, apply, namespace, moments):
    memory = StartUpMemory()
    label = f"optiinfra.example/{namespace}"
    apply(deployment("late", start_up="4s", selector={label: "yes"}))
    asked = time.time()
    waiting = await watch(
        memory, inventory, namespace, "late", until=lambda found: found.pending == 1 and time.time() > asked + 12.0
    )
    assert waiting.stages[Stage.NODE].waiting == 1
    (before,) = moments("late")
    control_plane.kubectl("label", "node", "gpu-1", f"{label}=yes")
    try:
        found = await watch(memory, inventory, namespace, "late", until=lambda found: found.samples == 1)
    finally:
        control_plane.kubectl("label", "node", "gpu-1", f"{label}-")
    (after,) = moments("late")
    assert median(found, Stage.NODE) == after["PodScheduled"] - before["PodScheduled"] >= 12.0 - ROUNDED
    assert median(found, Stage.PENDING) == before["PodScheduled"] - before["created"]
    assert median(found, Stage.LOAD) == after["Ready"] - after["started"] >= 4.0 - ROUNDED
    assert found.once_there.p50 == after["Ready"] - after["PodScheduled"]
    assert found.p50 == after["Ready"] - after["created"]


async def test_the_wait_behind_a_gate_is_no_wait_for_a_node(control_plane, inventory, apply, namespace, moments):
    """The scheduler keeps the gate's time in its condition: only what was seen tells them apart."""
    memory = StartUpMemory()
    label = f"optiinfra.example/{namespace}"
    apply(deployment("gated", start_up="1s", selector={label: "yes"}, gates=[GATE]))
    asked = time.time()
    await watch(memory, inventory, namespace, "gated", until=lambda _: time.time() > asked + 8.0)
    (pod,) = inventory.pods_of(namespace, "app=gated")
    assert pod.unschedulable_since is None
    opened = time.time()
    patch = '[{"op": "remove", "path": "/spec/schedulingGates"}]'
    control_plane.kubectl("patch", "pod", pod.name, f"--namespace={namespace}", "--type=json", f"--patch={patch}")
    await watch(memory, inventory, namespace, "gated", until=lambda _: time.time() > opened + 6.0)
    (pod,) = inventory.pods_of(namespace, "app=gated")
    assert pod.unschedulable_since is not None
    assert pod.unschedulable_since < opened - 4.0, "the condition now tells the shortage alone: read it from there"
    control_plane.kubectl("label", "node", "gpu-2", f"{label}=yes")
    try:
        found = await watch(memory, inventory, namespace, "gated", until=lambda found: found.samples == 1)
    finally:
        control_plane.kubectl("label", "node", "gpu-2", f"{label}-")
    (told,) = moments("gated")
    pending, node = median(found, Stage.PENDING), median(found, Stage.NODE)
    assert pending + node == told["PodScheduled"] - told["created"]
    assert pending >= 8.0 - ROUNDED
    assert node >= 6.0 - ROUNDED


async def test_a_pod_that_never_gets_ready_shows_while_it_waits(inventory, apply, namespace):
    memory = StartUpMemory()
    apply(deployment("quick", start_up="1s"))
    await watch(memory, inventory, namespace, "quick", until=lambda found: found.samples == 1)
    before = memory.summary(time.time()).p95
    apply(deployment("quick", start_up="1h"))
    found = await watch(memory, inventory, namespace, "quick", until=lambda found: found.p95 >= before + 8.0)
    assert found.total.at_least
    assert found.starting == 1
    assert found.samples == 1
