"""One Lease and two writers."""

import socket
import time

import pytest

from optiinfra.cluster.client import ClientLimits, KubernetesClient
from optiinfra.cluster.errors import AlreadyExists, Conflict, Unavailable
from optiinfra.cluster.leases import LeaseRecord, Leases
from optiinfra.errors import LeadershipLost


@pytest.fixture
async def client(apiserver):
    async with KubernetesClient.from_environment(str(apiserver.kubeconfig)) as opened:
        yield opened


def leases(client, namespace, now=time.time):
    return Leases(client, namespace=namespace, name="operator", clock=now)


def record(holder, **more):
    return LeaseRecord(holder=holder, duration_seconds=15, transitions=0, **more)


async def test_a_lease_is_created_renewed_and_read_back(client, namespace):
    now = [1_795_000_000.0]
    store = leases(client, namespace, lambda: now[0])
    assert await store.read() is None
    first = await store.write(record("a", annotations={"optiinfra.io/kill-switch": "false"}), previous=None)
    now[0] += 5.0
    second = await store.write(record("a", annotations=first.annotations), previous=first)
    assert await store.read() == second
    assert (second.acquired, second.renewed) == (1_795_000_000.0, 1_795_000_005.0)
    assert second.annotations == {"optiinfra.io/kill-switch": "false"}
    now[0] += 5.0
    third = await store.write(record("b"), previous=second)
    assert (third.holder, third.acquired) == ("b", 1_795_000_010.0)


async def test_labels_of_whoever_installed_it_stay(client, namespace, apiserver):
    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
    labels = {"app.kubernetes.io/managed-by": "Helm"}
    apiserver.request("POST", path, {"metadata": {"name": "operator", "labels": labels}, "spec": {}})
    store = leases(client, namespace)
    first = await store.write(record("a"), previous=await store.read())
    await store.write(record("b"), previous=first)
    found = apiserver.request("GET", f"{path}/operator")
    assert (found["metadata"]["labels"], found["spec"]["holderIdentity"]) == (labels, "b")


async def test_of_two_writers_one_gets_a_conflict(client, namespace):
    store = leases(client, namespace)
    first = await store.write(record("a"), previous=None)
    with pytest.raises(AlreadyExists):
        await store.write(record("b"), previous=None)
    await store.write(record("a"), previous=first)
    with pytest.raises(Conflict):
        await store.write(record("b"), previous=first)
    assert (await store.read()).holder == "a"


async def test_a_lease_that_was_deleted_and_made_anew_is_not_overwritten(client, namespace):
    store = leases(client, namespace)
    first = await store.write(record("a"), previous=None)
    await client.delete(f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/operator")
    await store.write(record("b"), previous=None)
    with pytest.raises(Conflict):
        await store.write(record("a"), previous=first)


async def test_a_released_lease_has_no_holder(client, namespace):
    store = leases(client, namespace)
    held = await store.write(record("a"), previous=None)
    released = await store.write(LeaseRecord(holder="", duration_seconds=1, transitions=0), previous=held)
    assert released.holder == ""


async def test_a_lease_waits_for_nobody_and_is_not_stopped_by_its_own_hook(apiserver, namespace):
    def lost():
        raise LeadershipLost("no lease yet")

    limits = ClientLimits(rate=0.001, burst=1, concurrency=1)
    async with KubernetesClient.from_environment(str(apiserver.kubeconfig), limits=limits, before_write=lost) as busy:
        await busy.get("/version")
        store = leases(busy, namespace)
        started = time.monotonic()
        held = await store.write(record("a"), previous=await store.read())
        await store.write(record("a"), previous=held)
        assert time.monotonic() - started < 3.0


async def test_a_silent_server_is_given_up_within_the_requests_own_time(tmp_path):
    # Connections are taken by the kernel and never answered.
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        path = tmp_path / "kubeconfig"
        path.write_text(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{name: c, context: {cluster: c}}]\n"
            f"clusters: [{{name: c, cluster: {{server: 'http://127.0.0.1:{port}'}}}}]\n"
        )
        async with KubernetesClient.from_environment(str(path)) as opened:
            started = time.monotonic()
            with pytest.raises(Unavailable):
                await leases(opened, "n").read()
            assert time.monotonic() - started < 5.0
