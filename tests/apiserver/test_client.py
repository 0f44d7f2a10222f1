"""The client on a real API server: who it is, what it retries, how errors look, and what stops a write."""

import asyncio
import contextlib
import subprocess
import sys
import time
from pathlib import Path

import pytest
from aiohttp import web

from optiinfra.cluster import credentials as credentials_module
from optiinfra.cluster.client import ClientLimits, KubernetesClient, PatchKind, resource_of
from optiinfra.cluster.errors import (
    Absent,
    AlreadyExists,
    Conflict,
    Denied,
    Expired,
    Invalid,
    Malformed,
    Throttled,
    Unavailable,
    Unconfigured,
)
from optiinfra.errors import LeadershipLost

WHO_AM_I = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
REVIEW = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}


@pytest.fixture
async def client(apiserver):
    async with KubernetesClient.from_environment(str(apiserver.kubeconfig)) as opened:
        yield opened


async def who_am_i(kubeconfig: Path | None) -> str:
    async with KubernetesClient.from_environment(str(kubeconfig) if kubeconfig else None) as opened:
        answer = await opened.review(WHO_AM_I, REVIEW)
    return answer["status"]["userInfo"]["username"]


def config_map(name, **data):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


# Who we are. kubernetes 36.0.0 silently sent no Authorization header in the cluster.


async def test_a_client_certificate_is_sent(apiserver):
    assert await who_am_i(apiserver.kubeconfig_for("jane")) == "jane"


async def test_a_token_of_a_kubeconfig_is_sent(apiserver, namespace):
    apiserver.kubectl("create", "serviceaccount", "robot", "-n", namespace)
    kubeconfig = apiserver.service_account_kubeconfig(namespace, "robot")
    assert await who_am_i(kubeconfig) == f"system:serviceaccount:{namespace}:robot"


@pytest.fixture
def in_a_pod(apiserver, namespace, tmp_path, monkeypatch):
    """The environment of a pod, with a mounted token."""
    apiserver.kubectl("create", "serviceaccount", "robot", "-n", namespace)
    host, port = apiserver.url.removeprefix("https://").split(":")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    token = tmp_path / "token"
    token.write_text(apiserver.service_account_token(namespace, "robot"))
    monkeypatch.setattr(credentials_module, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(credentials_module, "SERVICE_CERT_FILENAME", str(apiserver.ca))
    return token


async def test_the_service_account_of_the_pod_is_used(in_a_pod, namespace):
    assert await who_am_i(None) == f"system:serviceaccount:{namespace}:robot"


async def test_a_token_file_that_ends_in_a_newline_is_no_broken_header(in_a_pod, namespace):
    in_a_pod.write_text(in_a_pod.read_text() + "\n")
    assert await who_am_i(None) == f"system:serviceaccount:{namespace}:robot"


async def test_a_rotated_token_is_read_at_once_after_a_401(in_a_pod, namespace):
    good = in_a_pod.read_text()
    in_a_pod.write_text("not-a-token")
    async with KubernetesClient.from_environment() as opened:
        with pytest.raises(Denied) as caught:
            await opened.review(WHO_AM_I, REVIEW)
        assert caught.value.code == 401
        in_a_pod.write_text(good)
        answer = await opened.review(WHO_AM_I, REVIEW)
    assert answer["status"]["userInfo"]["username"].endswith(":robot")


@pytest.mark.parametrize(
    "content", [None, "not: [yaml", "{}", "apiVersion: v1\nkind: Config\ncurrent-context: gone\ncontexts: []"]
)
async def test_an_unusable_kubeconfig_is_one_clear_error(tmp_path, content):
    path = tmp_path / "kubeconfig"
    if content is not None:
        path.write_text(content)
    with pytest.raises(Unconfigured) as caught:
        await KubernetesClient.from_environment(str(path)).__aenter__()
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


# Errors


async def test_each_refusal_has_its_type(client, apiserver, namespace):
    maps = f"/api/v1/namespaces/{namespace}/configmaps"
    await client.create(maps, config_map("a", x="1"))
    with pytest.raises(AlreadyExists):
        await client.create(maps, config_map("a"))
    with pytest.raises(Absent) as absent:
        await client.get(f"{maps}/b")
    assert (absent.value.code, absent.value.verb, absent.value.path) == (404, "get", f"{maps}/b")
    assert 'configmaps "b" not found' in str(absent.value)
    with pytest.raises(Absent):
        await client.get("/apis/nothing.example/v1/things")
    with pytest.raises(Invalid):
        await client.create(maps, config_map("Not A Name"))
    body = {"metadata": {"resourceVersion": "1"}, "data": {"x": "2"}}
    with pytest.raises(Conflict) as stale:
        await client.patch(f"{maps}/a", body, kind=PatchKind.MERGE)
    assert not isinstance(stale.value, AlreadyExists)
    async with KubernetesClient.from_environment(str(apiserver.kubeconfig_for("nobody"))) as nobody:
        with pytest.raises(Denied) as denied:
            await nobody.get(maps)
    assert denied.value.code == 403


async def test_an_apply_conflict_names_field_and_manager(client, namespace):
    path = f"/api/v1/namespaces/{namespace}/configmaps/a"
    await client.apply(path, config_map("a", x="1"), query={"fieldManager": "argocd"})
    with pytest.raises(Conflict) as caught:
        await client.apply(path, config_map("a", x="2"))
    (field,) = caught.value.fields
    assert field.field == ".data.x"
    assert "argocd" in field.manager
    assert (await client.get(path))["data"]["x"] == "1"


@pytest.mark.parametrize(
    "path", ["/api/v1/namespaces/a/../../v1/pods", "api/v1", "/api/v1/pods?x=1", "/api/v1//pods", "/api/v1/%2e", "/"]
)
async def test_a_name_from_a_spec_leads_to_no_other_path(client, path):
    with pytest.raises((Invalid, Malformed)):
        await client.get(path)


async def test_delete_spares_an_object_that_was_replaced(client, namespace):
    maps = f"/api/v1/namespaces/{namespace}/configmaps"
    first = await client.create(maps, config_map("a"))
    await client.delete(f"{maps}/a", uid=first["metadata"]["uid"])
    second = await client.create(maps, config_map("a"))
    with pytest.raises(Conflict):
        await client.delete(f"{maps}/a", uid=first["metadata"]["uid"])
    with pytest.raises(Conflict):
        await client.delete(f"{maps}/a", resource_version="1")
    await client.delete(f"{maps}/a", uid=second["metadata"]["uid"])


# Lists


async def test_pages_join_to_the_whole_list(client, namespace):
    maps = f"/api/v1/namespaces/{namespace}/configmaps"
    await asyncio.gather(*(client.create(maps, config_map(f"m{number}")) for number in range(7)))
    pages = [[item["metadata"]["name"] for item in page.items] async for page in client.pages(maps, page_size=3)]
    assert [len(page) for page in pages] == [3, 3, 1]
    assert len({item["metadata"]["name"] for item in await client.list(maps, page_size=2)}) == 7


# What stops a write


async def test_the_hook_stops_writes_and_nothing_else(client, namespace):
    maps = f"/api/v1/namespaces/{namespace}/configmaps"
    await client.create(maps, config_map("a"))

    def lost():
        raise LeadershipLost("the deadline has passed")

    client.before_write = lost
    for write in (
        client.create(maps, config_map("b")),
        client.patch(f"{maps}/a", {"data": {"x": "1"}}, kind=PatchKind.MERGE),
        client.apply(f"{maps}/b", config_map("b")),
        client.replace(f"{maps}/a", config_map("a")),
        client.delete(f"{maps}/a"),
    ):
        with pytest.raises(LeadershipLost):
            await write
    assert [item["metadata"]["name"] for item in await client.list(maps)] == ["a"]
    await client.review(WHO_AM_I, REVIEW)


async def test_the_hook_is_asked_after_the_wait_for_a_slot(apiserver, namespace):
    maps = f"/api/v1/namespaces/{namespace}/configmaps"
    leading = True
    asked = []

    async def hook():
        asked.append(leading)
        if not leading:
            raise LeadershipLost("the deadline has passed")

    limits = ClientLimits(rate=2.0, burst=1)
    async with KubernetesClient.from_environment(str(apiserver.kubeconfig), limits=limits, before_write=hook) as opened:
        await opened.create(maps, config_map("a"))
        queued = asyncio.create_task(opened.create(maps, config_map("b")))
        await asyncio.sleep(0.1)
        assert asked == [True]
        leading = False
        with pytest.raises(LeadershipLost):
            await queued
    assert apiserver.kubectl("get", "configmap", "-n", namespace, "-o", "name").strip() == "configmap/a"


async def test_every_attempt_is_measured_without_names(apiserver, namespace):
    seen = []
    async with KubernetesClient.from_environment(
        str(apiserver.kubeconfig), observe=lambda *call: seen.append(call[:3])
    ) as opened:
        with contextlib.suppress(Absent):
            await opened.get(f"/apis/apps/v1/namespaces/{namespace}/deployments/d/scale")
        await opened.get(f"/api/v1/namespaces/{namespace}")
    assert seen == [("get", "deployments/scale", 404), ("get", "namespaces", 200)]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/api/v1/pods", "pods"),
        ("/api/v1/namespaces/n/pods/p", "pods"),
        ("/api/v1/nodes/n", "nodes"),
        ("/apis/optiinfra.io/v1alpha1/clusterresourceoptimizations/c/status", "clusterresourceoptimizations/status"),
        ("/apis/optiinfra.io/v1alpha1/namespaces/n/resourceoptimizations/r/status", "resourceoptimizations/status"),
        ("/apis/apps/v1", "discovery"),
        ("/version", "discovery"),
    ],
)
def test_the_name_of_a_resource(path, name):
    assert resource_of(path) == name


# Retries, against a server that really answers so


def _kubeconfig(folder, port):
    path = folder / "kubeconfig"
    path.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n"
        "contexts: [{name: c, context: {cluster: c, user: u}}]\n"
        f"clusters: [{{name: c, cluster: {{server: 'http://127.0.0.1:{port}'}}}}]\n"
        "users: [{name: u, user: {token: t}}]\n"
    )
    return path


@contextlib.asynccontextmanager
async def stub(tmp_path, answers):
    """An HTTP server that gives these answers in turn: (status, headers)."""
    calls = []

    async def handle(request):
        calls.append((request.method, time.monotonic()))
        status, headers = answers[min(len(calls), len(answers)) - 1]
        if status == 0:
            request.transport.close()
        return web.json_response({"kind": "Status", "message": "said so"}, status=status or 200, headers=headers)

    app = web.Application()
    app.router.add_route("*", "/{any:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    path = _kubeconfig(tmp_path, runner.addresses[0][1])
    limits = ClientLimits(retry_base_s=0.01, retry_ceiling_s=2.0, timeout_s=5.0)
    try:
        async with KubernetesClient.from_environment(str(path), limits=limits) as opened:
            yield opened, calls
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("failure", [500, 503, 429, 0])
async def test_reads_are_tried_again_and_writes_are_not(tmp_path, failure):
    async with stub(tmp_path, [(failure, {}), (failure, {}), (200, {})]) as (opened, calls):
        await opened.get("/api/v1/pods")
        assert len(calls) == 3
    async with stub(tmp_path, [(failure, {}), (200, {})]) as (opened, calls):
        with pytest.raises((Unavailable, Throttled)):
            await opened.create("/api/v1/pods", {})
        assert len(calls) == 1


@pytest.mark.parametrize("refusal", [400, 403, 404, 409, 410, 422])
async def test_a_refusal_is_not_asked_twice(tmp_path, refusal):
    async with stub(tmp_path, [(refusal, {})]) as (opened, calls):
        with pytest.raises((Invalid, Denied, Absent, Conflict, Expired)):
            await opened.get("/api/v1/pods")
        assert len(calls) == 1


async def test_retry_after_is_waited_for_up_to_the_ceiling(tmp_path):
    async with stub(tmp_path, [(429, {"Retry-After": "1"}), (200, {})]) as (opened, calls):
        await opened.get("/api/v1/pods")
        assert calls[1][1] - calls[0][1] >= 1.0
    async with stub(tmp_path, [(429, {"Retry-After": "3600"}), (200, {})]) as (opened, calls):
        with pytest.raises(Throttled) as caught:
            await opened.get("/api/v1/pods")
        assert caught.value.retry_after_s == 3600.0
        assert len(calls) == 1


async def test_a_server_that_stays_down_is_given_up(tmp_path):
    async with stub(tmp_path, [(503, {})]) as (opened, calls):
        with pytest.raises(Unavailable) as caught:
            await opened.get("/api/v1/pods")
        assert (caught.value.code, len(calls)) == (503, 4)


@pytest.mark.parametrize("body", [b"<html>", b"", b"[]", b"null"])
async def test_an_answer_that_is_not_an_object_is_malformed(tmp_path, body):
    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        kubeconfig = _kubeconfig(tmp_path, server.sockets[0].getsockname()[1])
        async with KubernetesClient.from_environment(str(kubeconfig)) as opened:
            with pytest.raises(Malformed):
                await opened.get("/api/v1/pods")


def test_importing_the_whole_layer_stays_light():
    """The operator may use 160 MiB in all; typed API groups alone would add 83 to the 75 to 80 that are needed."""
    script = (
        "import importlib, pkgutil, sys, optiinfra.cluster as c\n"
        "[importlib.import_module(m.name) for m in pkgutil.iter_modules(c.__path__, 'optiinfra.cluster.')]\n"
        "assert 'kubernetes.aio.client.api.core_v1_api' not in sys.modules\n"
        "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])\n"
    )
    root = Path(credentials_module.__file__).parents[2]
    out = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, env={"PYTHONPATH": str(root)}
    )
    assert int(out.stdout) < 100 * 1024
