"""Prices from OpenCost and from a Prometheus that scrapes it, over real sockets, with all that can be wrong."""

import pytest
from aiohttp import web

from optiinfra.cluster.price_opencost import MOST_NODES, read_opencost
from optiinfra.cluster.price_prometheus import read_prometheus
from optiinfra.domain.price_resolution import LiveNode, LivePrices
from optiinfra.domain.prices import PriceSource
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.units import UnixTime
from tests.unit.opencost_stub import asset, opencost
from tests.unit.prometheus_stub import prometheus, refusal

NOW = UnixTime(1_800_000_000.0)


async def ask(stub, path="", **limits):
    return await read_opencost(stub.url + path, currency="USD", as_of="2026-11-21", **limits)


async def test_a_node_costs_what_it_cost_over_its_own_minutes():
    data = {
        "x/Node/a": asset("a", hour=40.0, gpus=8.0),
        "x/Node/b": asset("b", hour=2.0, minutes=90.0),
        "x/Disk/d": {"type": "Disk", "properties": {"name": "d"}, "totalCost": 5.0},
    }
    async with opencost(data=data) as stub:
        found = await ask(stub)
    assert isinstance(found, LivePrices)
    assert (found.source, found.currency, found.as_of) == (PriceSource.OPENCOST, "USD", "2026-11-21")
    assert found.detail == stub.url
    assert set(found.nodes) == {"a", "b"}
    a, b = found.nodes["a"], found.nodes["b"]
    assert a.hour == pytest.approx(40.0)
    assert a.units.gpu == pytest.approx(4.0)
    assert a.units.cpu_core == pytest.approx(4.0 / 192)
    assert a.units.memory_gib == pytest.approx(4.0 / 2048)
    assert (b.hour, b.units.gpu) == (pytest.approx(2.0), None)
    assert stub.asked == ["/assets?window=24h&filter=assetType:%22node%22"]


async def test_kubecosts_list_of_steps_and_its_path_are_understood():
    async with opencost(data=[{"k": asset("a", hour=3.0)}, {"k": asset("b", hour=4.0)}]) as stub:
        found = await ask(stub, "/model")
    assert isinstance(found, LivePrices)
    assert {name: node.hour for name, node in found.nodes.items()} == {"a": 3.0, "b": 4.0}


async def test_a_step_that_has_just_begun_does_not_take_the_price_away():
    steps = [{"k": asset("a", hour=3.0)}, {"k": asset("a", hour=9.0, minutes=1.0)}]
    async with opencost(data=steps) as stub:
        assert (await ask(stub)).nodes["a"].hour == pytest.approx(3.0)
    async with opencost(data=[*steps, {"k": asset("a", hour=4.0)}]) as stub:
        assert (await ask(stub)).nodes["a"].hour == pytest.approx(4.0)


async def test_a_name_of_two_clusters_is_nobody_s_price():
    other = asset("a", hour=4.0)
    other["properties"] = other["properties"] | {"cluster": "cluster-two"}
    async with opencost(data={"x": asset("a", hour=3.0), "y": other, "z": asset("b", hour=1.0)}) as stub:
        found = await ask(stub)
    assert "in two clusters" in str(found.nodes["a"])
    assert found.nodes["b"].hour == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"totalCost": "40"}, UnknownReason.INVALID),
        ({"totalCost": None}, UnknownReason.INVALID),
        ({"totalCost": True}, UnknownReason.INVALID),
        ({"minutes": 0.0}, UnknownReason.TOO_FEW_SAMPLES),
        ({"minutes": 2.0}, UnknownReason.TOO_FEW_SAMPLES),
    ],
)
async def test_a_node_that_cannot_be_is_unknown_and_the_others_are_not(parts, reason):
    async with opencost(data={"a": asset("a", hour=1.0, **parts), "b": asset("b", hour=2.0)}) as stub:
        found = await ask(stub)
    assert isinstance(found, LivePrices)
    assert found.nodes["a"].reason is reason
    assert found.nodes["b"].hour == pytest.approx(2.0)


async def test_a_price_of_zero_is_passed_on_to_be_refused():
    async with opencost(data={"a": asset("a", hour=0.0)}) as stub:
        found = await ask(stub)
    assert found.nodes["a"] == LiveNode(0.0)


@pytest.mark.parametrize(
    ("answer", "reason", "words"),
    [
        (lambda: web.Response(status=500, text="boom"), UnknownReason.INVALID, "HTTP 500"),
        (lambda: web.Response(status=404), UnknownReason.INVALID, "name its API, port 9003"),
        (lambda: web.Response(status=403), UnknownReason.REFUSED, "asks for permission"),
        (lambda: web.Response(status=302, headers={"Location": "http://x/"}), UnknownReason.INVALID, "HTTP 302"),
        (lambda: web.Response(text="<html>"), UnknownReason.INVALID, "something else than JSON"),
        (lambda: web.Response(text="[]"), UnknownReason.INVALID, "no JSON object"),
        (lambda: web.json_response({"data": "no"}), UnknownReason.INVALID, "no assets in data"),
        (lambda: web.json_response({"data": [1]}), UnknownReason.INVALID, "no assets in data"),
        (lambda: web.json_response({"data": {}}), UnknownReason.TOO_FEW_SAMPLES, "knows no node yet"),
        (lambda: web.json_response({"data": {"a": {"type": "Node"}}}), UnknownReason.TOO_FEW_SAMPLES, "no node yet"),
        (
            lambda: web.Response(body=b"\x1f\x8b", headers={"Content-Encoding": "gzip"}),
            UnknownReason.INVALID,
            "encoding that was not asked for",
        ),
        (lambda: web.Response(body=b" " * 70_000), UnknownReason.INVALID, "more than 65536 bytes"),
    ],
)
async def test_whatever_opencost_answers_is_prices_or_a_reason(answer, reason, words):
    async with opencost(scripted=[answer()]) as stub:
        found = await ask(stub, limit_bytes=65_536)
    assert isinstance(found, Unknown)
    assert found.reason is reason
    assert words in found.detail
    assert found.detail.startswith(f"OpenCost at {stub.url}")


async def test_a_slow_an_absent_and_an_endless_opencost():
    async with opencost(delay_s=5.0) as stub:
        slow = await ask(stub, timeout_s=0.1)
    assert (slow.reason, "within 0.1 s" in slow.detail) == (UnknownReason.UNREACHABLE, True)
    gone = await ask(stub)
    assert gone.reason is UnknownReason.UNREACHABLE
    many = {str(i): asset(str(i), hour=1.0) for i in range(MOST_NODES + 1)}
    async with opencost(data=many) as stub:
        endless = await ask(stub, limit_bytes=1 << 30)
    assert (endless.reason, "nodes" in endless.detail) == (UnknownReason.INVALID, True)


@pytest.mark.parametrize("url", ["", "opencost:9003", "ftp://x", "http://", "http://[x", "http://x/" + "y" * 2000])
async def test_an_address_that_is_none(url):
    found = await read_opencost(url, currency="USD", as_of="")
    assert found.reason is UnknownReason.NOT_CONFIGURED


async def test_a_password_in_the_address_is_not_shown():
    found = await read_opencost("http://me:secret@127.0.0.1:1", currency="USD", as_of="")
    assert "secret" not in str(found)


# Prometheus


def series(**nodes):
    return {(("node", name),): (lambda _, value=value: value) for name, value in nodes.items()}


def metrics(total, **parts):
    names = {"gpu": "node_gpu_hourly_cost", "cpu": "node_cpu_hourly_cost", "ram": "node_ram_hourly_cost"}
    queries = {f"max by (node) ({names[key]})": series(**values) for key, values in parts.items()}
    empty = {f"max by (node) ({name})": {} for name in names.values()}
    return empty | queries | {"max by (node) (node_total_hourly_cost)": series(**total)}


async def ask_prometheus(stub, **what):
    given = {"token_file": None, "currency": "EUR", "as_of": "2026-11-21", "now": NOW} | what
    return await read_prometheus(stub.url, **given)


async def test_opencosts_metrics_are_read_by_node():
    queries = metrics({"a": 40.0, "b": 2.0}, gpu={"a": 4.0, "b": 0.0}, cpu={"a": 0.02}, ram={"a": 0.002})
    with prometheus(queries=queries) as stub:
        found = await ask_prometheus(stub)
    assert isinstance(found, LivePrices)
    assert (found.source, found.currency) == (PriceSource.PROMETHEUS, "EUR")
    assert found.nodes["a"].hour == 40.0
    assert (found.nodes["a"].units.gpu, found.nodes["a"].units.memory_gib) == (4.0, 0.002)
    assert (found.nodes["b"].hour, found.nodes["b"].units.gpu) == (2.0, None)
    assert len(stub.asked) == 4


async def test_a_server_without_opencost_says_what_is_missing():
    with prometheus(queries=metrics({})) as stub:
        found = await ask_prometheus(stub)
    assert found.reason is UnknownReason.NOT_MEASURED
    assert "has no node_total_hourly_cost: does it scrape OpenCost" in found.detail


async def test_a_server_that_refuses_or_fails_is_a_reason(tmp_path):
    token = tmp_path / "token"
    token.write_text("right")
    with prometheus(queries=metrics({"a": 1.0}), token="right") as stub:
        assert isinstance(await ask_prometheus(stub, token_file=token), LivePrices)
        refused = await ask_prometheus(stub)
    assert refused.reason is UnknownReason.REFUSED
    with prometheus(scripted=[refusal(400, "bad_data", "no such thing")]) as stub:
        assert (await ask_prometheus(stub)).reason is UnknownReason.INVALID
    with prometheus(scripted=[web.Response(text="<html>")]) as stub:
        assert (await ask_prometheus(stub)).reason is UnknownReason.INVALID
    assert (await ask_prometheus(stub)).reason is UnknownReason.UNREACHABLE
    missing = await ask_prometheus(stub, token_file=tmp_path / "none")
    assert missing.reason is UnknownReason.NOT_CONFIGURED
    assert "token file" in missing.detail


async def test_what_is_no_number_is_no_price():
    with prometheus(queries=metrics({"a": float("nan"), "b": 1.0})) as stub:
        found = await ask_prometheus(stub)
    assert set(found.nodes) == {"b"}
