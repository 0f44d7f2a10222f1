"""Targets of any kind, our own objects, statuses, checkpoints and usage on a real API server."""

import asyncio
import contextlib
import time
from dataclasses import replace

import pytest

from optiinfra.api import crd
from optiinfra.cluster.checkpoints import CheckpointRecord, Checkpoints
from optiinfra.cluster.client import KubernetesClient, PatchKind
from optiinfra.cluster.document import Key, text
from optiinfra.cluster.errors import Absent, Conflict, Invalid, Malformed, TargetWithoutScale
from optiinfra.cluster.objects import Objects, Resources
from optiinfra.cluster.status import StatusWriter, Written
from optiinfra.cluster.targets import Targets
from optiinfra.cluster.usage import Usage
from optiinfra.domain.readings import Unknown, UnknownReason


@pytest.fixture
async def client(apiserver):
    async with KubernetesClient.from_environment(str(apiserver.kubeconfig)) as opened:
        yield opened


@pytest.fixture(scope="module")
def our_kinds(apiserver):
    for document in crd.rendered().values():
        apiserver.kubectl("apply", "--server-side", "-f", "-", input=document)
    for plural in ("resourceoptimizations", "clusterresourceoptimizations", "optimizationcheckpoints"):
        apiserver.kubectl("wait", "--for=condition=Established", f"crd/{plural}.optiinfra.io", "--timeout=30s")


def workload(kind="Deployment", **spec):
    template = {
        "metadata": {"labels": {"app": "d", "tier": "x"}},
        "spec": {"containers": [{"name": "c", "image": "x"}]},
    }
    selector = {
        "matchLabels": {"app": "d"},
        "matchExpressions": [{"key": "tier", "operator": "In", "values": ["x", "y"]}],
    }
    more = {"serviceName": "s"} if kind == "StatefulSet" else {}
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": "d"},
        "spec": {"selector": selector, "template": template, **more, **spec},
    }


@contextlib.asynccontextmanager
async def running(targets):
    task = asyncio.create_task(targets.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet"])
async def test_a_mirrored_target_reads_as_a_live_one_and_costs_no_call(apiserver, namespace, kind):
    calls = []
    async with KubernetesClient.from_environment(
        str(apiserver.kubeconfig), observe=lambda *call: calls.append(call[:2])
    ) as client:
        path = f"/apis/apps/v1/namespaces/{namespace}/{kind.lower()}s"
        await client.create(path, workload(kind, replicas=3))
        status = {"status": {"replicas": 3, "readyReplicas": 2}}
        await client.patch(f"{path}/d/status", status, kind=PatchKind.MERGE)
        targets = Targets(client)

        async def read():
            return await targets.read(api_version="apps/v1", kind=kind, namespace=namespace, name="d")

        live = await read()
        assert (live.desired_replicas, live.replicas, live.ready_replicas) == (3, 3, 2)
        assert live.selector == "app=d,tier in (x,y)"
        assert (live.api_version, live.kind, live.namespace, live.name) == ("apps/v1", kind, namespace, "d")
        async with running(targets):
            async with asyncio.timeout(20):
                while True:
                    calls.clear()
                    mirrored = await read()
                    if not [call for call in calls if call[0] == "get"]:
                        break
                    await asyncio.sleep(0.05)
            assert mirrored == live
            body = {"spec": {"replicas": 0}}
            await client.patch(f"{path}/d", body, kind=PatchKind.MERGE)
            async with asyncio.timeout(20):
                while (await read()).desired_replicas != 0:  # noqa: ASYNC110  a mirror has no event for one object
                    await asyncio.sleep(0.05)
            with pytest.raises(Absent):
                await targets.read(api_version="apps/v1", kind=kind, namespace=namespace, name="gone")


async def test_a_replica_count_that_nobody_set_is_the_servers_default(client, namespace):
    await client.create(f"/apis/apps/v1/namespaces/{namespace}/deployments", workload())
    facts = await Targets(client).read(api_version="apps/v1", kind="Deployment", namespace=namespace, name="d")
    assert (facts.desired_replicas, facts.ready_replicas) == (1, 0)


GROUPS = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "groups.serving.example"},
    "spec": {
        "group": "serving.example",
        "scope": "Namespaced",
        "names": {"plural": "groups", "singular": "group", "kind": "Group", "listKind": "GroupList"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
                "subresources": {
                    "status": {},
                    "scale": {
                        "specReplicasPath": ".spec.workers.count",
                        "statusReplicasPath": ".status.groups",
                        "labelSelectorPath": ".status.hpaSelector",
                    },
                },
            }
        ],
    },
}


async def test_a_custom_kind_is_found_by_discovery_even_when_it_comes_later(apiserver, client, namespace):
    now = [0.0]
    targets = Targets(client, clock=lambda: now[0])

    async def read(kind="Group"):
        return await targets.read(api_version="serving.example/v1", kind=kind, namespace=namespace, name="g")

    with pytest.raises(Absent):
        await read()
    await client.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", GROUPS)
    try:
        apiserver.kubectl("wait", "--for=condition=Established", "crd/groups.serving.example", "--timeout=30s")
        body = {
            "apiVersion": "serving.example/v1",
            "kind": "Group",
            "metadata": {"name": "g"},
            "spec": {"workers": {"count": 5}, "replicas": 99, "selector": "not a label selector"},
        }
        async with asyncio.timeout(20):
            while True:
                try:
                    await client.create(f"/apis/serving.example/v1/namespaces/{namespace}/groups", body)
                    break
                except Absent:
                    await asyncio.sleep(0.1)
        status = {"status": {"groups": 4, "hpaSelector": "group=g"}}
        await client.patch(
            f"/apis/serving.example/v1/namespaces/{namespace}/groups/g/status", status, kind=PatchKind.MERGE
        )
        now[0] += 31.0
        facts = await read()
        assert (facts.desired_replicas, facts.replicas, facts.ready_replicas) == (5, 4, None)
        assert facts.selector == "group=g"
        with pytest.raises(Absent):
            await read("Nothing")
    finally:
        await client.delete("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/groups.serving.example")


async def test_a_kind_without_scale_can_never_be_scaled(client, namespace):
    targets = Targets(client)
    with pytest.raises(TargetWithoutScale) as caught:
        await targets.read(api_version="v1", kind="ConfigMap", namespace=namespace, name="c")
    assert "ConfigMap" in str(caught.value)


@pytest.mark.parametrize(
    ("api_version", "name"),
    [("apps/v1/../../v1", "d"), ("apps", "d"), ("apps/v1", "../../../x"), ("apps/v1", "D"), ("", "d")],
)
async def test_a_target_reference_that_cannot_be_is_refused(client, namespace, api_version, name):
    with pytest.raises((Invalid, Absent)):
        await Targets(client).read(api_version=api_version, kind="Deployment", namespace=namespace, name=name)


# Our own objects


def optimization(name="llama"):
    return {
        "apiVersion": "optiinfra.io/v1alpha1",
        "kind": "ResourceOptimization",
        "metadata": {"name": name},
        "spec": {"targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}},
    }


RO = Resources.RESOURCE_OPTIMIZATION


@pytest.fixture
async def created(client, namespace, our_kinds):
    async with asyncio.timeout(20):
        while True:
            try:
                return await client.create(RO.value.collection(namespace), optimization())
            except Absent:
                await asyncio.sleep(0.1)


def fences(document):
    metadata = document["metadata"]
    return {
        "uid": metadata["uid"],
        "generation": metadata["generation"],
        "resource_version": metadata["resourceVersion"],
        "previous": document.get("status", {}),
    }


async def test_a_status_is_written_once_and_only_what_differs(client, namespace, created):
    writer, key = StatusWriter(client), Key(namespace, "llama")
    status = {"observedGeneration": 1, "conditions": []}
    first = await writer.write(RO, key, status, **fences(created))
    assert first.changed
    document = await client.get(RO.value.path(key))
    assert document["status"] == status
    second = await writer.write(RO, key, status, **fences(document))
    assert second == Written(document["metadata"]["resourceVersion"], changed=False)
    await writer.write(RO, key, {"conditions": []}, **fences(document))
    assert (await client.get(RO.value.path(key)))["status"] == {"conditions": []}


async def test_a_label_that_changed_meanwhile_does_not_stop_a_status(client, namespace, created):
    key = Key(namespace, "llama")
    await client.patch(RO.value.path(key), {"metadata": {"labels": {"a": "b"}}}, kind=PatchKind.MERGE)
    assert (await StatusWriter(client).write(RO, key, {"observedGeneration": 1}, **fences(created))).changed
    assert (await client.get(RO.value.path(key)))["status"]["observedGeneration"] == 1


async def test_a_status_of_an_older_spec_or_of_a_replaced_object_does_not_land(client, namespace, created):
    key, writer = Key(namespace, "llama"), StatusWriter(client)
    await client.patch(RO.value.path(key), {"spec": {"suspend": True}}, kind=PatchKind.MERGE)
    with pytest.raises(Conflict):
        await writer.write(RO, key, {"observedGeneration": 1}, **fences(created))
    await client.delete(RO.value.path(key))
    with pytest.raises(Absent):
        await writer.write(RO, key, {"observedGeneration": 1}, **fences(created))
    await client.create(RO.value.collection(namespace), optimization())
    with pytest.raises(Conflict):
        await writer.write(RO, key, {"observedGeneration": 1}, **fences(created))
    assert "status" not in await client.get(RO.value.path(key))


async def test_our_objects_are_listed_within_their_scope(client, namespace, created):
    everywhere = await Objects(client).list_all(RO)
    assert namespace in {text(document, "metadata", "namespace") for document in everywhere}
    assert await Objects(client, namespaces=["default"]).list_all(RO) == []
    scoped = Objects(client, namespaces=[namespace])
    assert [text(document, "metadata", "name") for document in await scoped.list_all(RO)] == ["llama"]
    assert await scoped.list_all(Resources.CLUSTER_RESOURCE_OPTIMIZATION) == []
    (mirror,) = scoped.reflectors(RO, parse=lambda document: text(document, "metadata", "uid"))
    task = asyncio.create_task(mirror.run())
    async with asyncio.timeout(20):
        await mirror.wait_synced()
    assert mirror.items == {Key(namespace, "llama"): created["metadata"]["uid"]}
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_a_checkpoint_survives_and_belongs_to_its_object(client, namespace, created):
    checkpoints, key = Checkpoints(client, namespaces=[namespace]), Key(namespace, "llama")
    owner = {"owner_name": "llama", "owner_uid": created["metadata"]["uid"]}
    assert await checkpoints.read(key) is None
    for state in (b"first", bytes(range(256)) * 48):
        record = CheckpointRecord(key, 1, float(int(time.time())), state, **owner)
        await checkpoints.write(record, **owner)
        assert await checkpoints.read(key) == record
    document = await Objects(client).get(Resources.OPTIMIZATION_CHECKPOINT, key)
    assert document["metadata"]["ownerReferences"][0]["uid"] == created["metadata"]["uid"]
    with pytest.raises(Malformed):
        await checkpoints.write(replace(record, state=b"x" * 12_289), **owner)
    assert await checkpoints.list() == ((record,), ())


async def test_where_no_metrics_are_served_usage_is_unknown_and_not_empty(client, namespace):
    usage = await Usage(client).pods(namespace)
    assert isinstance(usage, Unknown)
    assert usage.reason is UnknownReason.NOT_CONFIGURED


POD_METRICS = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {
        "name": "pods.metrics.k8s.io",
        "annotations": {"api-approved.kubernetes.io": "unapproved, stands in for metrics-server"},
    },
    "spec": {
        "group": "metrics.k8s.io",
        "scope": "Namespaced",
        "names": {"plural": "pods", "singular": "pod", "kind": "PodMetrics", "listKind": "PodMetricsList"},
        "versions": [
            {
                "name": "v1beta1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}


async def test_usage_is_read_where_it_is_served(apiserver, client, namespace):
    crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    await client.create(crds, POD_METRICS)
    try:
        apiserver.kubectl("wait", "--for=condition=Established", "crd/pods.metrics.k8s.io", "--timeout=30s")
        usage = Usage(client)
        async with asyncio.timeout(20):
            while isinstance(await usage.pods(namespace), Unknown):  # noqa: ASYNC110  discovery lags behind
                await asyncio.sleep(0.1)
        path = f"/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods"
        metrics = {
            "apiVersion": "metrics.k8s.io/v1beta1",
            "kind": "PodMetrics",
            "metadata": {"name": "p"},
            "timestamp": "2026-11-21T14:00:00Z",
            "window": "1m15.5s",
            "containers": [
                {"name": "a", "usage": {"cpu": "250000000n", "memory": "1048576Ki"}},
                {"name": "b", "usage": {"cpu": "-1"}},
            ],
        }
        await client.create(path, metrics)
        found = await usage.pods(namespace)
        assert not isinstance(found, Unknown)
        assert found["p"].window_s == 75.5
        assert (found["p"].containers["a"].cpu_cores, found["p"].containers["a"].memory_bytes) == (0.25, 2.0**30)
        assert isinstance(found["p"].containers["b"].cpu_cores, Unknown)
        assert isinstance(found["p"].containers["b"].memory_bytes, Unknown)
        await client.create(path, metrics | {"metadata": {"name": "q"}, "timestamp": "yesterday"})
        broken = await usage.pods(namespace)
        assert isinstance(broken, Unknown)
        assert broken.reason is UnknownReason.INVALID
    finally:
        await client.delete(f"{crds}/pods.metrics.k8s.io")
