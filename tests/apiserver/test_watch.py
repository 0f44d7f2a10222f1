"""Mirrors on a real API server: what happens in a gap, in silence, and with what cannot be read."""

import asyncio
import contextlib

import pytest

from optiinfra.cluster.client import KubernetesClient
from optiinfra.cluster.document import Key, text
from optiinfra.cluster.errors import Denied, Malformed, Unavailable
from optiinfra.cluster.inventory import Inventory
from optiinfra.cluster.watch import Reflector, WatchTimes
from optiinfra.domain.label_rules import selects

FAST = WatchTimes(retry_base_s=0.05, retry_ceiling_s=0.3)


@pytest.fixture
async def client(apiserver):
    async with KubernetesClient.from_environment(str(apiserver.kubeconfig)) as opened:
        yield opened


@contextlib.asynccontextmanager
async def running(mirror):
    task = asyncio.create_task(mirror.run())
    try:
        async with asyncio.timeout(30):
            await mirror.wait_synced()
        yield mirror
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(condition, seconds=20.0):
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  the mirror has no event for "anything changed"
            await asyncio.sleep(0.02)


def maps(namespace):
    return f"/api/v1/namespaces/{namespace}/configmaps"


def config_map(name, value="1", **metadata):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, **metadata}, "data": {"x": value}}


def value_of(document):
    value = text(document, "data", "x")
    if value == "bad":
        raise Malformed("data.x is bad")
    return value


async def test_a_mirror_follows_creations_changes_and_deletions(client, namespace):
    changes = []
    await client.create(maps(namespace), config_map("a"))
    mirror = Reflector(
        client,
        maps(namespace),
        parse=value_of,
        on_change=lambda *change: changes.append(change),
        page_size=1,
        times=FAST,
    )
    assert not mirror.synced
    assert mirror.last_activity is None
    async with running(mirror):
        a, b = Key(namespace, "a"), Key(namespace, "b")
        assert mirror.items == {a: "1"}
        await client.create(maps(namespace), config_map("b"))
        await client.apply(f"{maps(namespace)}/a", config_map("a", "2"), force=True)
        await client.delete(f"{maps(namespace)}/b")
        await until(lambda: len(changes) == 4)
    assert changes == [(a, None, "1"), (b, None, "1"), (a, "1", "2"), (b, "1", None)]


async def test_a_change_of_nothing_that_matters_is_not_reported(client, namespace):
    changes = []
    mirror = Reflector(client, maps(namespace), parse=value_of, on_change=lambda *change: changes.append(change))
    async with running(mirror):
        await client.create(maps(namespace), config_map("a"))
        await client.apply(f"{maps(namespace)}/a", config_map("a", "1", labels={"l": "1"}), force=True)
        await client.create(maps(namespace), config_map("b"))
        await until(lambda: len(changes) == 2)
    assert [change[0].name for change in changes] == ["a", "b"]


async def test_what_vanished_while_nobody_watched_is_reported(apiserver, client, namespace):
    """The watch is down, objects are deleted, and the server forgets the history: 410."""
    for name in ("stays", "goes", "changes"):
        await client.create(maps(namespace), config_map(name))
    changes = []
    mirror = Reflector(
        client, maps(namespace), parse=value_of, on_change=lambda *change: changes.append(change), times=FAST
    )
    async with running(mirror):
        await until(lambda: len(changes) == 3)
    changes.clear()
    await client.delete(f"{maps(namespace)}/goes")
    await client.apply(f"{maps(namespace)}/changes", config_map("changes", "2"), force=True)
    await asyncio.to_thread(apiserver.restart_apiserver)
    # The revisions between must be gone from the new server's watch cache, too.
    await client.create(maps(namespace), config_map("new"))
    async with running(mirror):
        await until(lambda: len(changes) >= 3)
    assert mirror.relists == 2
    assert sorted((key.name, old, new) for key, old, new in changes) == [
        ("changes", "1", "2"),
        ("goes", "1", None),
        ("new", None, "1"),
    ]


async def test_a_mirror_outlives_a_restart_of_the_server(apiserver, client, namespace):
    mirror = Reflector(client, maps(namespace), parse=value_of, times=FAST)
    async with running(mirror):
        await asyncio.to_thread(apiserver.stop_apiserver)
        await until(lambda: isinstance(mirror.last_error, Unavailable))
        assert mirror.synced
        await asyncio.to_thread(apiserver.start_apiserver)
        await client.create(maps(namespace), config_map("a"))
        await until(lambda: Key(namespace, "a") in mirror.items)
        await until(lambda: mirror.last_error is None)


async def test_bookmarks_keep_a_quiet_mirror_known_to_be_alive(client, namespace):
    mirror = Reflector(
        client,
        maps(namespace),
        parse=value_of,
        times=WatchTimes(server_s=5, client_s=10.0, idle_s=8.0, retry_base_s=0.05),
    )
    async with running(mirror):
        heard = mirror.last_activity
        await until(lambda: mirror.last_activity > heard + 1.0)
        assert mirror.last_error is None
        assert mirror.relists == 1


async def test_silence_breaks_the_watch_and_nothing_is_lost(client, namespace):
    mirror = Reflector(
        client, maps(namespace), parse=value_of, times=WatchTimes(idle_s=0.3, retry_base_s=0.05, retry_ceiling_s=0.1)
    )
    async with running(mirror):
        await until(lambda: isinstance(mirror.last_error, Unavailable))
        await client.create(maps(namespace), config_map("a"))
        await until(lambda: Key(namespace, "a") in mirror.items)
        assert mirror.relists == 1


async def test_what_cannot_be_read_is_neither_there_nor_absent(client, namespace):
    await client.create(maps(namespace), config_map("a", "bad"))
    await client.create(maps(namespace), config_map("b"))
    mirror = Reflector(client, maps(namespace), parse=value_of, times=FAST)
    a, b = Key(namespace, "a"), Key(namespace, "b")
    async with running(mirror):
        assert mirror.items == {b: "1"}
        assert mirror.rejected == {a: "data.x is bad"}
        await client.apply(f"{maps(namespace)}/a", config_map("a", "2"), force=True)
        await client.apply(f"{maps(namespace)}/b", config_map("b", "bad"), force=True)
        await until(lambda: b in mirror.rejected)
        assert mirror.items == {a: "2"}
        await client.delete(f"{maps(namespace)}/b")
        await until(lambda: not mirror.rejected)


async def test_without_permission_a_mirror_is_never_synced_and_says_why(apiserver, namespace):
    kubeconfig = apiserver.kubeconfig_for("stranger")
    async with KubernetesClient.from_environment(str(kubeconfig)) as stranger:
        mirror = Reflector(stranger, maps(namespace), parse=value_of, times=FAST)
        task = asyncio.create_task(mirror.run())
        await until(lambda: isinstance(mirror.last_error, Denied))
        assert not mirror.synced
        inventory = Inventory(stranger)
        with pytest.raises(Unavailable):
            inventory.pods_of(namespace, "app=a")
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


# The inventory


def pod(name, namespace, *, node="", labels=None, gpus=0):
    resources = {"limits": {"nvidia.com/gpu": str(gpus)}} if gpus else {}
    spec = {"containers": [{"name": "c", "image": "x", "resources": resources}]}
    if node:
        spec["nodeName"] = node
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels or {}},
        "spec": spec,
    }


@pytest.fixture
async def populated(apiserver, client, namespace):
    apiserver.kubectl("create", "serviceaccount", "default", "-n", namespace)
    node = f"node-{namespace}"
    await client.create(
        "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node, "labels": {"pool": "h100"}}}
    )
    for number in range(3):
        labels = {"app": "llama", "tier": "a" if number else "b"}
        await client.create(
            f"/api/v1/namespaces/{namespace}/pods", pod(f"p{number}", namespace, node=node, labels=labels, gpus=2)
        )
    await client.create(f"/api/v1/namespaces/{namespace}/pods", pod("other", namespace, labels={"app": "other"}))
    yield node
    await client.delete(f"/api/v1/nodes/{node}")


async def test_pods_are_found_by_selector_and_joined_to_their_node(apiserver, client, namespace, populated):
    inventory = Inventory(client, pool_of=lambda labels: labels.get("pool", ""))
    async with running(inventory):
        assert [facts.name for facts in inventory.pods_of(namespace, "app=llama")] == ["p0", "p1", "p2"]
        assert [facts.name for facts in inventory.pods_of(namespace, "app=llama,tier!=b")] == ["p1", "p2"]
        assert [facts.name for facts in inventory.pods_of(namespace, "app in (llama,other),!x")] == [
            "other",
            "p0",
            "p1",
            "p2",
        ]
        assert [facts.name for facts in inventory.pods_of(namespace, "tier")] == ["p0", "p1", "p2"]
        assert inventory.pods_of("another", "app=llama") == ()
        assert inventory.pods_of(namespace, "") == ()
        node = inventory.nodes()[populated]
        assert node.pool == "h100"
        assert [(facts.name, facts.gpus) for facts in node.pods] == [("p0", 2.0), ("p1", 2.0), ("p2", 2.0)]
        await asyncio.to_thread(apiserver.kubectl, *f"delete pod p1 -n {namespace} --force --grace-period=0".split())
        await until(lambda: len(inventory.pods_of(namespace, "app=llama")) == 2)
        assert [facts.name for facts in inventory.nodes()[populated].pods] == ["p0", "p2"]
        assert inventory.problems() == ()


async def test_a_relabelled_pod_moves_in_the_index(client, namespace, populated):
    inventory = Inventory(client, namespaces=[namespace])
    async with running(inventory):
        path = f"/api/v1/namespaces/{namespace}/pods/p0"
        await client.apply(
            path,
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p0", "labels": {"app": "other"}}},
            force=True,
        )
        await until(lambda: len(inventory.pods_of(namespace, "app=other")) == 2)
        assert [facts.name for facts in inventory.pods_of(namespace, "app=llama")] == ["p1", "p2"]
        assert inventory.nodes() == {}


async def test_a_budget_says_what_it_allows_and_whom_it_covers(client, namespace, populated):
    budgets = f"/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets"
    await client.create(
        budgets,
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": "b"},
            "spec": {"minAvailable": 3, "selector": {"matchLabels": {"app": "llama"}}},
        },
    )

    async def status(allowed):
        budget = await client.get(f"{budgets}/b")
        budget["status"] = {"disruptionsAllowed": allowed, "expectedPods": 3, "currentHealthy": 3, "desiredHealthy": 3}
        await client.replace(f"{budgets}/b/status", budget)

    await status(0)
    inventory = Inventory(client)
    async with running(inventory):
        (budget,) = inventory.budgets()
        assert (budget.namespace, budget.name, budget.allowed, budget.expected) == (namespace, "b", 0, 3)
        assert selects(budget.selector, inventory.pods_of(namespace, "app=llama")[0].labels)
        assert not selects(budget.selector, inventory.pods_of(namespace, "app=other")[0].labels)
        assert not budget.current  # nobody set observedGeneration: the eviction API would refuse
        await status(1)
        await until(lambda: inventory.budgets()[0].allowed == 1)
