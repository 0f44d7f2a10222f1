"""Identity and permission, as the API server says."""

import pytest

from optiinfra.cluster.access import Access, Attributes, Identity, ServiceReference
from optiinfra.cluster.client import KubernetesClient

METRICS = "/apis/apiregistration.k8s.io/v1/apiservices"


@pytest.fixture
async def client(apiserver):
    async with KubernetesClient.from_environment(str(apiserver.kubeconfig)) as opened:
        yield opened


@pytest.fixture
def robot(apiserver, namespace):
    apiserver.kubectl("create", "serviceaccount", "robot", "-n", namespace)
    return f"system:serviceaccount:{namespace}:robot"


async def test_a_token_of_our_audience_names_its_holder(apiserver, client, namespace, robot):
    token = apiserver.service_account_token(namespace, "robot", "optiinfra")
    identity = await Access(client).review_token(token)
    assert identity.user == robot
    assert "system:serviceaccounts" in identity.groups
    assert identity.uid


async def test_a_token_for_the_api_server_is_refused(apiserver, client, namespace, robot):
    assert await Access(client).review_token(apiserver.service_account_token(namespace, "robot")) is None


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "x" * 20_000, "\u2026"])
async def test_what_is_no_token_is_refused(client, token):
    assert await Access(client).review_token(token) is None


async def test_permission_follows_rbac(apiserver, client, namespace, robot):
    access = Access(client)
    identity = Identity(user=robot, groups=("system:serviceaccounts",))
    reading = Attributes("get", "", "configmaps", namespace)
    assert not (await access.may(identity, reading)).allowed
    apiserver.kubectl("create", "role", "reader", "-n", namespace, "--verb=get", "--resource=configmaps")
    apiserver.kubectl(
        "create", "rolebinding", "reader", "-n", namespace, "--role=reader", f"--serviceaccount={namespace}:robot"
    )
    assert (await access.may(identity, reading)).allowed
    assert not (await access.may(identity, Attributes("patch", "", "configmaps", namespace))).allowed
    assert not (
        await access.may(identity, Attributes("get", "", "configmaps", namespace, subresource="status"))
    ).allowed


async def test_what_this_process_may_do(apiserver, client, namespace, robot):
    patching = Attributes("patch", "autoscaling", "horizontalpodautoscalers", namespace)
    assert (await Access(client).may_i(patching)).allowed
    kubeconfig = apiserver.service_account_kubeconfig(namespace, "robot")
    async with KubernetesClient.from_environment(str(kubeconfig)) as restricted:
        assert not (await Access(restricted).may_i(patching)).allowed


async def test_the_front_proxy_and_the_version(apiserver, client):
    access = Access(client)
    headers = await access.request_headers()
    assert headers.client_authority == apiserver.front_proxy_ca.read_text()
    assert list(headers.allowed_names) == ["front-proxy-client"]
    assert list(headers.username_headers) == ["X-Remote-User"]
    assert list(headers.group_headers) == ["X-Remote-Group"]
    assert list(headers.extra_header_prefixes) == ["X-Remote-Extra-"]
    version = await access.server_version()
    assert (version.major, version.text.startswith(f"v1.{version.minor}.")) == (1, True)


async def test_who_owns_the_external_metrics(client):
    access = Access(client)
    assert await access.external_metrics_owner() is None
    name = "v1beta1.external.metrics.k8s.io"
    body = {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": name},
        "spec": {
            "group": "external.metrics.k8s.io",
            "version": "v1beta1",
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "insecureSkipTLSVerify": True,
            "service": {"namespace": "keda", "name": "keda-operator-metrics-apiserver"},
        },
    }
    await client.create(METRICS, body)
    try:
        assert await access.external_metrics_owner() == ServiceReference("keda", "keda-operator-metrics-apiserver")
    finally:
        await client.delete(f"{METRICS}/{name}")
