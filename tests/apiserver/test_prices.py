"""The table of node prices in a ConfigMap of a real API server: read, corrected, missing, wrong; and in the operator.

The last test runs the operator under the chart's rights: a node's price in the status follows the ConfigMap.
"""

import contextlib
import os

import pytest

from optiinfra.cluster.client import KubernetesClient
from optiinfra.cluster.price_map import PriceMap
from optiinfra.control.prices import PriceBoard
from optiinfra.domain.price_table import PriceTable
from optiinfra.domain.prices import PriceFault, PriceSource
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.workload import NodeFacts
from tests.engine_pages import EnginePages, Page, Scene, make_namespace
from tests.operator_process import eventually, free_port, install

KIND = "ClusterResourceOptimization"
HEAD = "match,node_hour,gpu_hour,currency,as_of\n"


@pytest.fixture
async def client(apiserver):
    async with KubernetesClient.from_environment(str(apiserver.kubeconfig)) as opened:
        yield opened


@pytest.fixture
def put(apiserver, namespace):
    def create(verb="POST", **parts):
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "node-prices"}, **parts}
        path = f"/api/v1/namespaces/{namespace}/configmaps" + ("" if verb == "POST" else "/node-prices")
        apiserver.request(verb, path, body)

    return create


async def test_a_table_is_read_with_one_call(apiserver, namespace, put):
    put(data={"prices.csv": HEAD + "gpu=H100,,2.5,USD,2026-11-01\n", "other": "not looked at"})
    calls = []
    async with KubernetesClient.from_environment(
        str(apiserver.kubeconfig), observe=lambda *call: calls.append(call[:3])
    ) as observed:
        found = await PriceMap(observed, namespace=namespace, name="node-prices").read()
    assert isinstance(found, PriceTable)
    assert found.name == f"ConfigMap {namespace}/node-prices"
    assert (found.rows[0].gpu_hour, found.rows[0].as_of) == (2.5, "2026-11-01")
    assert calls == [("get", "configmaps", 200)]


@pytest.mark.parametrize(
    ("parts", "reason", "word"),
    [
        (None, UnknownReason.NOT_CONFIGURED, "it does not exist; create it with the key prices.csv"),
        ({}, UnknownReason.NOT_CONFIGURED, "it has no key prices.csv"),
        ({"binaryData": {"prices.csv": "/w=="}}, UnknownReason.NOT_CONFIGURED, "no key prices.csv"),
        ({"data": {"prices.csv": ""}}, UnknownReason.INVALID, "the table is empty"),
        ({"data": {"prices.csv": HEAD + "gpu=H100,,0,USD,\n"}}, UnknownReason.INVALID, "row 2: gpu_hour '0'"),
        ({"data": {"prices.csv": HEAD + "x" * 300_000}}, UnknownReason.INVALID, "larger than 256 KiB"),
        # Quotes are two bytes each in the answer.
        ({"data": {"prices.csv": HEAD, "more": '"' * 600_000}}, UnknownReason.INVALID, "ConfigMap of their own"),
    ],
)
async def test_what_cannot_be_used_says_why(client, namespace, put, parts, reason, word):
    if parts is not None:
        put(**parts)
    found = await PriceMap(client, namespace=namespace, name="node-prices").read()
    assert isinstance(found, Unknown)
    assert found.reason is reason
    assert word in found.detail
    assert found.detail.startswith(f"ConfigMap {namespace}/node-prices: ")


async def test_a_correction_is_seen_and_a_mistake_takes_the_prices_away(client, namespace, put):
    now = [0.0]
    board = PriceBoard(
        table=PriceMap(client, namespace=namespace, name="node-prices").read, clock=lambda: now[0], list_prices=False
    )
    node = NodeFacts("n", "", "NVIDIA-H100-80GB-HBM3", 8.0, 100.0, 1e12, ready=True, unschedulable=False)

    async def price():
        now[0] += 61.0
        await board.refresh()
        return board.price({"n": node}, None).nodes["n"]

    missing = await price()
    assert (missing.fault, "does not exist" in str(missing.hour)) == (PriceFault.SOURCE, True)
    put(data={"prices.csv": HEAD + "gpu=H100,30,,USD,\n"})
    assert (await price()).hour == pytest.approx(30.0)
    put("PUT", data={"prices.csv": HEAD + "gpu=H100,-30,,USD,\n"})
    wrong = await price()
    assert (wrong.fault, "row 2: node_hour '-30'" in str(wrong.hour)) == (PriceFault.SOURCE, True)
    put("PUT", data={"prices.csv": HEAD + "gpu=H100,31,,USD,2026-11-21\n"})
    right = await price()
    assert right.hour == pytest.approx(31.0)
    assert (right.origin.source, right.origin.as_of) == (PriceSource.CONFIG_MAP, "2026-11-21")


async def test_forbidden_says_which_value_of_the_chart_gives_the_right(apiserver, namespace, put):
    put(data={"prices.csv": HEAD + "gpu=H100,30,,USD,\n"})
    apiserver.kubectl("create", "serviceaccount", "operator", "-n", namespace)
    kubeconfig = apiserver.service_account_kubeconfig(namespace, "operator")
    async with KubernetesClient.from_environment(str(kubeconfig)) as client:
        found = await PriceMap(client, namespace=namespace, name="node-prices").read()
    assert isinstance(found, Unknown)
    assert found.reason is UnknownReason.REFUSED
    assert "prices.configMap in the chart's values" in found.detail


@pytest.mark.timeout(180)
def test_the_operator_prices_nodes_by_the_table_and_says_which_row_is_wrong(apiserver, tmp_path):
    name = f"prices-{os.getpid()}"
    pool = {"name": "h100", "nodeSelector": {"example.com/pool": name}}
    node = {
        "metadata": {"name": name, "labels": {"example.com/pool": name, "nvidia.com/gpu.product": "NVIDIA-H100"}},
        "status": {"allocatable": {"cpu": "100", "memory": "1000Gi", "nvidia.com/gpu": "8", "pods": "110"}},
    }

    def table(hour):
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "node-prices"},
            "data": {"prices.csv": HEAD + f"example.com/pool={name},{hour},,EUR,2026-11-21\n"},
        }

    maps = f"/api/v1/namespaces/{name}-operator/configmaps"
    kind = "/apis/optiinfra.io/v1alpha1/clusterresourceoptimizations"
    with contextlib.ExitStack() as stack:
        make_namespace(apiserver, name)
        pages = stack.enter_context(EnginePages(free_port()))
        installation = stack.enter_context(
            install(
                apiserver,
                folder=tmp_path,
                namespace=f"{name}-operator",
                values={"prices.configMap": "node-prices", "prices.listPrices": "false"},
            )
        )
        apiserver.request("POST", maps, table("30"))
        apiserver.request("POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", **node})
        stack.callback(apiserver.request, "DELETE", f"/api/v1/nodes/{name}")
        body = {"metadata": {"name": name}, "spec": {"currency": "EUR", "pools": [pool]}}
        apiserver.request("POST", kind, {"apiVersion": "optiinfra.io/v1alpha1", "kind": KIND, **body})
        stack.callback(apiserver.request, "DELETE", f"{kind}/{name}")
        operator = installation.operator(OPTIINFRA_INTERVAL_SECONDS="1", OPTIINFRA_SCRAPE_INTERVAL_SECONDS="1")
        scene = Scene(apiserver, installation, operator, pages, name)
        scene.made["services"] = name
        stack.callback(scene.remove)
        stack.callback(operator.kill)
        scene.engines(name, "svc", Page(), Page(), node=name)
        scene.optimize(name)
        operator.start().wait_ready()

        def status():
            return apiserver.request("GET", f"{kind}/{name}").get("status", {})

        def priced():
            (found,) = status().get("pools") or [{}]
            return found if found.get("perMonth") else None

        found = eventually(priced, seconds=60, what="a pool with a price")
        assert found["perMonth"] == pytest.approx(30.0 * 730, rel=0.001)
        (source,) = found["priceSources"]
        assert (source["source"], source["asOf"], source["priced"]) == ("ConfigMap", "2026-11-21", 1)
        assert source["detail"] == f"ConfigMap {name}-operator/node-prices, row 2"

        cost = eventually(lambda: scene.status(name).get("cost"), seconds=60, what="a service with a cost")
        assert cost["currency"] == "EUR"
        # two pods with a GPU each, of a node with eight: a little less than a quarter of it
        assert 0.15 * 30.0 < cost["perHour"]["value"] < 0.25 * 30.0
        assert cost["perReplicaHour"]["value"] == pytest.approx(cost["perHour"]["value"] / 2, rel=0.01)
        assert [(one["source"], one["priced"]) for one in cost["sources"]] == [("ConfigMap", 2)]
        assert {one["basis"] for one in cost["perMillionTokens"]} == {"Generated", "Weighted", "Time"}
        shown = eventually(lambda: operator.series("optiinfra_service_cost_per_hour"), seconds=40, what="the gauge")
        assert len(shown) == 1, "use is not measured here"

        apiserver.request("PUT", f"{maps}/node-prices", table("-30"))

        def refused():
            known = {one["type"]: one for one in status()["conditions"]}["PricesKnown"]
            return known if known["status"] == "False" and known["reason"] == "PricesUnreadable" else None

        told = eventually(refused, seconds=90, what="a wrong row in the condition")
        assert "row 2: node_hour '-30' is not an amount above 0" in told["message"]
        assert "perMonth" not in status()["pools"][0]

        def unpriced():
            return "row 2" in scene.status(name)["cost"]["perHour"].get("unknown", "")

        eventually(unpriced, seconds=20, what="a service without a cost")
        assert scene.condition(name, "PricesKnown")["reason"] == "PricesUnreadable"
        assert not operator.complaints()
