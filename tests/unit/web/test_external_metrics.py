"""external.metrics.k8s.io over real TLS: who is believed, who may read, and what is answered."""

import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from aiohttp import web

from optiinfra.cluster.access import RequestHeaders
from optiinfra.web.external_metrics import ExternalMetrics, reviewed, tls_context
from optiinfra.web.ports import Caller, Decision
from tests.unit.web.certificates import Authority, Pair, client_context
from tests.unit.web.outside import Reviewer

BASE = "/apis/external.metrics.k8s.io/v1beta1"
METRIC = "optiinfra_desired_replicas"
VALUES = f"{BASE}/namespaces/inference/{METRIC}"
PROXY_HEADERS = {"X-Remote-User": "system:serviceaccount:kube-system:horizontal-pod-autoscaler"}
PUBLISHED = [Decision("inference", "svc", 5, 1_800_000_000.9), Decision("inference", "other", 0, 1_800_000_001.0)]


@dataclass(frozen=True)
class World:
    """Certificates of a cluster: the serving one, the front proxy's, and some that must not work."""

    serving_authority: Authority
    proxy_authority: Authority
    serving: Pair
    proxy: Pair
    impostor: Pair
    unnamed: Pair
    stranger: Pair


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    def authority(name: str) -> Authority:
        folder: Path = tmp_path_factory.mktemp(name)
        return Authority(name, folder)

    serving, proxy, other = authority("serving-ca"), authority("front-proxy-ca"), authority("some-other-ca")
    return World(
        serving_authority=serving,
        proxy_authority=proxy,
        serving=serving.sign("optiinfra.optiinfra.svc", server=True),
        proxy=proxy.sign("front-proxy-client"),
        impostor=proxy.sign("kubelet"),
        unnamed=proxy.sign(),
        stranger=other.sign("front-proxy-client"),
    )


@dataclass
class Api:
    """What stands behind the socket, as told by the test."""

    reviewer: Reviewer = field(default_factory=Reviewer)
    published: Sequence[Decision] = field(default_factory=lambda: list(PUBLISHED))
    allowed_names: tuple[str, ...] = ("front-proxy-client",)
    asked: list[str] = field(default_factory=list)

    async def decisions(self, namespace: str) -> Sequence[Decision]:
        self.asked.append(namespace)
        return [decision for decision in self.published if decision.namespace == namespace]

    @contextlib.asynccontextmanager
    async def serve(self, world: World, pair: Pair | None) -> AsyncIterator[httpx.AsyncClient]:
        headers = RequestHeaders(
            client_authority=world.proxy_authority.pem,
            allowed_names=self.allowed_names,
            username_headers=("X-Remote-User", "X-Other-User"),
            group_headers=("X-Remote-Group",),
            extra_header_prefixes=("X-Remote-Extra-",),
        )
        api = ExternalMetrics(decisions=self.decisions, permit=reviewed(self.reviewer), headers=headers)
        context = tls_context(
            certificate_file=str(world.serving.certificate),
            key_file=str(world.serving.key),
            client_authority=headers.client_authority,
        )
        runner = web.AppRunner(api.application(), access_log=None)
        await runner.setup()
        try:
            listener = socket.create_server(("127.0.0.1", 0))
            await web.SockSite(runner, listener, ssl_context=context).start()
            address = f"https://127.0.0.1:{listener.getsockname()[1]}"
            trust = client_context(world.serving_authority, pair)
            async with httpx.AsyncClient(base_url=address, verify=trust, trust_env=False) as client:
                client.headers.update(PROXY_HEADERS)
                yield client
        finally:
            await runner.cleanup()


@pytest.mark.parametrize("path", [BASE, VALUES, "/", "/metrics", f"{BASE}/namespaces/inference/other"])
async def test_without_a_client_certificate_nobody_is_believed(world, path):
    api = Api()
    async with api.serve(world, None) as client:
        answer = await client.get(path)
    assert answer.status_code == 401
    assert answer.json()["reason"] == "Unauthorized"
    assert answer.json()["kind"] == "Status"
    assert api.reviewer.authorized == []
    assert api.asked == []


async def test_a_certificate_of_another_authority_ends_the_connection(world):
    api = Api()
    async with api.serve(world, world.stranger) as client:
        with pytest.raises(httpx.TransportError):
            await client.get(VALUES)
    assert api.reviewer.authorized == []


@pytest.mark.parametrize("who", ["impostor", "unnamed"])
async def test_a_certificate_of_the_right_authority_with_another_name_is_not_believed(world, who):
    api = Api()
    async with api.serve(world, getattr(world, who)) as client:
        assert (await client.get(VALUES)).status_code == 401
    assert api.reviewer.authorized == []


async def test_without_allowed_names_any_certificate_of_the_authority_is_believed(world):
    async with Api(allowed_names=()).serve(world, world.impostor) as client:
        assert (await client.get(VALUES)).status_code == 200


async def test_the_front_proxy_has_to_say_for_whom_it_speaks(world):
    api = Api()
    async with api.serve(world, world.proxy) as client:
        del client.headers["X-Remote-User"]
        assert (await client.get(VALUES)).status_code == 401
        assert (await client.get(VALUES, headers={"X-Remote-User": ""})).status_code == 401
        assert (await client.get(VALUES, headers={"X-Other-User": "bob"})).status_code == 200
    assert api.reviewer.authorized[0]["caller"].user == "bob"


async def test_the_review_is_about_the_user_that_the_proxy_names(world):
    api = Api()
    async with api.serve(world, world.proxy) as client:
        headers = [
            ("X-Remote-User", "ada"),
            ("X-Remote-Group", "ml"),
            ("X-Remote-Group", "system:authenticated"),
            ("X-Remote-Extra-Scopes", "one"),
            ("X-Remote-Extra-Scopes", "two"),
            ("X-Remote-Extra-Acme.com%2Fproject", "p"),
        ]
        answer = await client.request("GET", VALUES, headers=httpx.Headers([*headers]))
        assert answer.status_code == 200
    (asked,) = api.reviewer.authorized
    caller = asked.pop("caller")
    assert caller == Caller(
        user=caller.user,
        groups=("ml", "system:authenticated"),
        extra={"scopes": ("one", "two"), "acme.com/project": ("p",)},
    )
    assert caller.user == "ada"
    assert asked == {
        "verb": "get",
        "group": "external.metrics.k8s.io",
        "resource": METRIC,
        "namespace": "inference",
        "name": "",
        "subresource": "",
    }


async def test_who_may_not_read_is_told_so_and_sees_nothing(world):
    api = Api(reviewer=Reviewer(refused={("get", METRIC)}))
    async with api.serve(world, world.proxy) as client:
        answer = await client.get(VALUES)
    assert answer.status_code == 403
    assert "horizontal-pod-autoscaler" in answer.json()["message"]
    assert METRIC in answer.json()["message"]
    assert api.asked == []


async def test_a_review_that_nobody_answers_is_503_and_not_a_permission(world):
    api = Api(reviewer=Reviewer(down=True))
    async with api.serve(world, world.proxy) as client:
        answer = await client.get(VALUES)
    assert answer.status_code == 503
    assert api.asked == []


async def test_the_values_are_those_of_the_namespace(world):
    async with Api().serve(world, world.proxy) as client:
        body = (await client.get(VALUES)).json()
    assert (body["kind"], body["apiVersion"]) == ("ExternalMetricValueList", "external.metrics.k8s.io/v1beta1")
    assert body["items"] == [
        {
            "metricName": METRIC,
            "metricLabels": {"optiinfra.io/name": "svc"},
            "timestamp": "2027-01-15T08:00:00Z",
            "value": "5",
        },
        {
            "metricName": METRIC,
            "metricLabels": {"optiinfra.io/name": "other"},
            "timestamp": "2027-01-15T08:00:01Z",
            "value": "0",
        },
    ]


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("", ["svc", "other"]),
        ("optiinfra.io/name=svc", ["svc"]),
        ("optiinfra.io/name==svc", ["svc"]),
        (" optiinfra.io/name = svc ", ["svc"]),
        ("optiinfra.io/name=absent", []),
        ("optiinfra.io/name=svc,optiinfra.io/name=svc", ["svc"]),
        ("optiinfra.io/name=svc,optiinfra.io/name=other", []),
        ("optiinfra.io/name=svc,", ["svc"]),
    ],
)
async def test_the_selector_picks_by_name_and_an_unknown_decision_is_an_empty_list(world, selector, names):
    async with Api().serve(world, world.proxy) as client:
        answer = await client.get(VALUES, params={"labelSelector": selector})
    assert answer.status_code == 200
    assert [item["metricLabels"]["optiinfra.io/name"] for item in answer.json()["items"]] == names


@pytest.mark.parametrize(
    "selector",
    [
        "app=svc",
        "optiinfra.io/name!=svc",
        "optiinfra.io/name in (svc)",
        "optiinfra.io/name",
        "!optiinfra.io/name",
        "optiinfra.io/name=",
        "optiinfra.io/name=svc,app=x",
        "=svc",
    ],
)
async def test_a_selector_that_is_not_understood_is_refused_and_never_ignored(world, selector):
    async with Api().serve(world, world.proxy) as client:
        answer = await client.get(VALUES, params={"labelSelector": selector})
    assert answer.status_code == 400
    assert "optiinfra.io/name=" in answer.json()["message"]


async def test_every_selector_of_the_query_counts(world):
    async with Api().serve(world, world.proxy) as client:
        params = [("labelSelector", "optiinfra.io/name=svc"), ("labelSelector", "optiinfra.io/name=other")]
        assert (await client.get(VALUES, params=params)).json()["items"] == []


async def test_while_nothing_is_decided_the_list_is_empty_and_not_zero(world):
    async with Api(published=[]).serve(world, world.proxy) as client:
        answer = await client.get(VALUES, params={"labelSelector": "optiinfra.io/name=svc"})
    assert (answer.status_code, answer.json()["items"]) == (200, [])


async def test_other_metrics_do_not_exist_here(world):
    async with Api().serve(world, world.proxy) as client:
        answer = await client.get(f"{BASE}/namespaces/inference/queue_depth")
        assert answer.status_code == 404
        assert METRIC in answer.json()["message"]
        assert (await client.get("/apis/custom.metrics.k8s.io/v1beta1")).status_code == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_nothing_can_be_written(world, method):
    async with Api().serve(world, world.proxy) as client:
        assert (await client.request(method, VALUES)).status_code == 405


async def test_the_discovery_document_names_the_one_metric(world):
    async with Api().serve(world, world.proxy) as client:
        body = (await client.get(BASE)).json()
    assert body["kind"] == "APIResourceList"
    assert body["groupVersion"] == "external.metrics.k8s.io/v1beta1"
    assert [(r["name"], r["namespaced"], r["verbs"]) for r in body["resources"]] == [(METRIC, True, ["get"])]


async def test_old_tls_is_not_spoken(world):
    context = tls_context(
        certificate_file=str(world.serving.certificate),
        key_file=str(world.serving.key),
        client_authority=world.proxy_authority.pem,
    )
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert context.verify_mode is ssl.CERT_OPTIONAL
