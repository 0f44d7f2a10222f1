"""From settings to prices: which sources an installation has, in their order, over real sockets."""

import pytest

from optiinfra.control.assembly import price_board
from optiinfra.domain.prices import PriceFault, PriceSource
from optiinfra.domain.workload import NodeFacts
from optiinfra.errors import SettingsError
from optiinfra.settings import OperatorSettings, read_settings
from tests.unit.opencost_stub import asset, opencost
from tests.unit.prometheus_stub import prometheus

P5 = {"node.kubernetes.io/instance-type": "p5.48xlarge", "topology.kubernetes.io/region": "us-east-1"}
QUERIES = {f"max by (node) (node_{part}_hourly_cost)": {} for part in ("gpu", "cpu", "ram")}


def node(name: str) -> NodeFacts:
    return NodeFacts(name, "", "H100", 8.0, 190.0, 2e12, ready=True, unschedulable=False, labels=P5)


async def priced(settings: OperatorSettings):
    board = price_board(settings, None)  # type: ignore[arg-type]  # no ConfigMap is named, so nothing is asked of it
    if board.configured:
        await board.refresh()
    return board.price({name: node(name) for name in ("a", "b", "c")}, None).nodes


async def test_without_settings_only_list_prices_count():
    found = await priced(OperatorSettings())
    assert {one.origin.source for one in found.values()} == {PriceSource.LIST_PRICE}
    off = await priced(OperatorSettings(list_prices_enabled=False))
    assert {one.fault for one in off.values()} == {PriceFault.MISSING}


async def test_opencost_counts_before_prometheus_and_both_before_list_prices():
    total = {(("node", "a"),): lambda _: 50.0, (("node", "b"),): lambda _: 51.0}
    queries = QUERIES | {"max by (node) (node_total_hourly_cost)": total}
    with prometheus(queries=queries) as metrics:
        async with opencost(data={"a": asset("a", hour=40.0, gpus=8.0)}) as api:
            found = await priced(OperatorSettings(opencost_url=api.url, price_prometheus_url=metrics.url))
    assert [(found[name].origin.source, found[name].hour) for name in "abc"] == [
        (PriceSource.OPENCOST, pytest.approx(40.0)),
        (PriceSource.PROMETHEUS, pytest.approx(51.0)),
        (PriceSource.LIST_PRICE, pytest.approx(55.04)),
    ]
    assert found["a"].origin.as_of.startswith("20")


async def test_the_currency_of_opencost_is_the_setting_s():
    async with opencost(data={"a": asset("a", hour=40.0)}) as api:
        found = await priced(OperatorSettings(opencost_url=api.url, price_currency="EUR"))
    assert found["a"].fault is PriceFault.CURRENCY


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OPTIINFRA_OPENCOST_URL", "opencost:9003"),
        ("OPTIINFRA_PRICE_PROMETHEUS_URL", "ftp://x"),
        ("OPTIINFRA_PRICE_CURRENCY", "usd"),
        ("OPTIINFRA_LIST_PRICES_ENABLED", "perhaps"),
    ],
)
def test_a_wrong_setting_ends_the_start_with_its_name(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name):
        read_settings()
