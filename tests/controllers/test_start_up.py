"""Start-up times of real pods on the simulated nodes: what the operator's mirror and memory make of known delays."""

import asyncio
import contextlib
import json
import time

import pytest

from optiinfra.cluster.client import KubernetesClient
from optiinfra.cluster.inventory import Inventory
from optiinfra.domain.readings import Unknown
from optiinfra.domain.start_up import StartUpMemory
from optiinfra.domain.start_up_summary import Stage

TOLERANCE = 2.0
"""Seconds: the API's times are whole ones, and each stage lies between two of them."""


def deployment(name, *, start_up, replicas=1, selector=None):
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}, "annotations": {"kwok.x-k8s.io/start-up": start_up}},
                "spec": {"containers": [{"name": "engine", "image": "none"}], "nodeSelector": selector or {}},
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


def is_near(value, wanted):
    return not isinstance(value, Unknown) and wanted - TOLERANCE <= value <= wanted + TOLERANCE


async def test_a_known_delay_is_measured_as_the_time_to_load(inventory, apply, namespace):
    memory = StartUpMemory()
    apply(deployment("slow", start_up="8s", replicas=3))
    young = await watch(memory, inventory, namespace, "slow", until=lambda found: found.starting == 3)
    assert young.samples == 0
    found = await watch(memory, inventory, namespace, "slow", until=lambda found: found.samples == 3)
    load = found.stages[Stage.LOAD]
    assert is_near(load.p50, 8.0), load
    assert load.samples == 3
    assert load.p50 <= found.p50 <= load.p50 + 3 * TOLERANCE
    assert is_near(found.stages[Stage.NODE].p50, 0.0)
    assert found.longest_stage[0] is Stage.LOAD
    assert (found.starting, found.pending, found.stock_outs) == (0, 0, 0)

    # What became ready is not counted again, by this leader or by the next one.
    memory.observe(inventory.pods_of(namespace, "app=slow"), now=time.time())
    again = StartUpMemory.from_bytes(memory.to_bytes())
    again.observe(inventory.pods_of(namespace, "app=slow"), now=time.time())
    assert again.summary(time.time()) == memory.summary(time.time()) == found


async def test_the_wait_for_a_node_is_measured_beside_the_start(control_plane, inventory, apply, namespace):
    memory = StartUpMemory()
    label = f"optiinfra.example/{namespace}"
    apply(deployment("late", start_up="4s", selector={label: "yes"}))
    asked = time.time()
    await watch(
        memory, inventory, namespace, "late", until=lambda found: found.pending == 1 and time.time() > asked + 12.0
    )
    assert memory.summary(time.time()).stages[Stage.NODE].waiting == 1
    control_plane.kubectl("label", "node", "gpu-1", f"{label}=yes")
    came = time.time()
    try:
        found = await watch(memory, inventory, namespace, "late", until=lambda found: found.samples == 1)
    finally:
        control_plane.kubectl("label", "node", "gpu-1", f"{label}-")
    assert is_near(found.stages[Stage.NODE].p50, came - asked)
    assert is_near(found.stages[Stage.LOAD].p50, 4.0)
    assert is_near(found.once_there.p50, 4.0)
    assert found.p50 == found.stages[Stage.PENDING].p50 + found.stages[Stage.NODE].p50 + found.once_there.p50


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
