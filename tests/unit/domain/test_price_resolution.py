"""Whose price counts, what it is cut into, and what is no price at all."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optiinfra.domain.cost import hourly, node_hourly, pool_price_list
from optiinfra.domain.list_prices import LIST_PRICES
from optiinfra.domain.price_resolution import LiveNode, LivePrices, PoolPrices, PriceBook, price_nodes
from optiinfra.domain.price_split import Capacity, Parts, UnitPrices, split
from optiinfra.domain.price_table import read_table
from optiinfra.domain.prices import GIB, NodePrice, PriceFault, PriceSource, Terms, saved_by_removal
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.scaler.variant import CapacityType
from optiinfra.domain.workload import NodeFacts

H100 = "NVIDIA-H100-80GB-HBM3"
P5 = {"node.kubernetes.io/instance-type": "p5.48xlarge", "topology.kubernetes.io/region": "us-east-1"}
SPOT = {"karpenter.sh/capacity-type": "spot"}


def node(name: str = "a", *, gpus: float = 8.0, pool: str = "h100", labels: dict[str, str] | None = None) -> NodeFacts:
    return NodeFacts(
        name=name,
        pool=pool,
        gpu_model=H100 if gpus else "",
        gpus=gpus,
        cpu_cores=190.0,
        memory_bytes=1900 * GIB,
        ready=True,
        unschedulable=False,
        labels=P5 if labels is None else labels,
    )


def table(rows: str):
    return read_table("match,node_hour,gpu_hour,currency,as_of\n" + rows, name="ConfigMap o/p")


def live(source: PriceSource = PriceSource.OPENCOST, currency: str = "USD", **nodes: LiveNode | Unknown) -> LivePrices:
    return LivePrices(source, "http://opencost:9003", currency, "2026-11-21", nodes)


def own(gpu: float | None = None, cpu: float | None = None, gib: float | None = None, **terms: float) -> PoolPrices:
    return PoolPrices(UnitPrices(gpu, cpu, gib), "spec.pools[h100].prices", Terms(**terms))


def price(book: PriceBook, *, one: NodeFacts | None = None) -> NodePrice:
    one = one or node()
    return price_nodes([one], book)[one.name]


BOOKS = [
    (PriceBook(), PriceSource.LIST_PRICE, 55.04),
    (PriceBook(live=(live(PriceSource.PROMETHEUS, a=LiveNode(50.0)),)), PriceSource.PROMETHEUS, 50.0),
    (
        PriceBook(live=(live(a=LiveNode(45.0)), live(PriceSource.PROMETHEUS, a=LiveNode(50.0)))),
        PriceSource.OPENCOST,
        45.0,
    ),
    (
        PriceBook(live=(live(a=LiveNode(45.0)),), table=table("gpu=H100,30,,USD,2026-11-01\n")),
        PriceSource.CONFIG_MAP,
        30.0,
    ),
    (
        PriceBook(
            pools={"h100": own(gpu=2.0, cpu=0.01, gib=0.001)},
            live=(live(a=LiveNode(45.0)),),
            table=table("gpu=H100,30,,USD,\n"),
        ),
        PriceSource.OBJECT,
        8 * 2.0 + 190 * 0.01 + 1900 * 0.001,
    ),
]


@pytest.mark.parametrize(("book", "source", "hour"), BOOKS)
def test_the_first_source_that_knows_has_the_word(book, source, hour):
    found = price(book)
    assert found.origin.source is source
    assert found.hour == pytest.approx(hour)
    assert found.fault is None
    parts = node_hourly(found, gpus=8.0, cpu_cores=190.0, memory_bytes=1900 * GIB)
    assert parts == pytest.approx(found.hour)


def test_a_price_says_where_it_is_from_and_of_when():
    assert str(price(PriceBook()).origin) == "ListPrice (aws us-east-1 p5.48xlarge, on demand), as of 2026-01-19"
    assert str(price(PriceBook(table=table("gpu=h100,30,,USD,2026-11-01\n"))).origin) == (
        "ConfigMap (ConfigMap o/p, row 2), as of 2026-11-01"
    )
    assert "spec.pools[h100].prices" in str(price(PriceBook(pools={"h100": own(gpu=2.0)})).origin)


def test_a_source_that_does_not_know_the_node_leaves_the_word_to_the_next():
    book = PriceBook(table=table("gpu=L4,1,,USD,\n"), live=(live(other=LiveNode(9.0)),))
    assert price(book).origin.source is PriceSource.LIST_PRICE


@pytest.mark.parametrize(
    "book",
    [
        PriceBook(table=table("gpu=L4,0,,USD,\n")),
        PriceBook(live=(Unknown(UnknownReason.UNREACHABLE, "OpenCost at http://x: no answer within 10 s"),)),
    ],
)
def test_a_source_that_fails_is_not_replaced_by_a_lower_one(book):
    found = price(book)
    assert found.fault is PriceFault.SOURCE
    assert isinstance(found.hour, Unknown)
    assert isinstance(found.marginal_hour, Unknown)
    # the object's own price stands above it and is not touched
    assert price(replace(book, pools={"": own(gpu=2.0)})).hour == pytest.approx(16 + 190 * 0.031611 + 1900 * 0.004237)


def test_a_gpu_has_no_default_price():
    found = price(PriceBook(), one=node(labels={}))
    assert found.fault is PriceFault.MISSING
    assert "nobody says what NVIDIA-H100-80GB-HBM3 costs: set prices of its pool" in str(found.hour)
    elsewhere = price(PriceBook(), one=node(labels=P5 | {"topology.kubernetes.io/region": "eu-west-1"}))
    assert "no list price of p5.48xlarge in region eu-west-1" in str(elsewhere.hour)
    assert price(PriceBook(list_prices=False)).fault is PriceFault.MISSING


def test_cpu_and_memory_have_defaults_in_usd_only():
    plain = node(gpus=0.0, labels={})
    found = price(PriceBook(), one=plain)
    assert found.hour == pytest.approx(190 * 0.031611 + 1900 * 0.004237)
    assert found.origin.source is PriceSource.DEFAULT
    assert isinstance(found.gpu_hour, Unknown)
    spot = price(PriceBook(), one=replace(plain, labels=SPOT))
    assert spot.hour == pytest.approx(190 * 0.006655 + 1900 * 0.000892)
    assert price(PriceBook(currency="EUR"), one=plain).fault is PriceFault.CURRENCY


@pytest.mark.parametrize(
    "book",
    [
        PriceBook(currency="EUR"),
        PriceBook(currency="EUR", table=table("gpu=H100,30,,USD,\n")),
        PriceBook(currency="EUR", live=(live(a=LiveNode(9.0)),)),
        PriceBook(currency="EUR", pools={"": own(gpu=2.0)}),
    ],
)
def test_currencies_are_never_mixed(book):
    found = price(book)
    assert found.fault is PriceFault.CURRENCY
    assert isinstance(found.hour, Unknown)
    assert "EUR" in found.hour.detail
    assert "USD" in found.hour.detail


def test_everything_in_one_other_currency_is_fine():
    book = PriceBook(currency="EUR", pools={"": own(gpu=2.0, cpu=0.03, gib=0.004)})
    assert price(book).hour == pytest.approx(16 + 190 * 0.03 + 1900 * 0.004)
    assert price(PriceBook(currency="EUR", table=table("gpu=H100,30,,EUR,\n"))).hour == pytest.approx(30.0)


@pytest.mark.parametrize(
    "book",
    [
        PriceBook(pools={"": own(gpu=0.0)}),
        PriceBook(pools={"": own(gpu=2.0, cpu=0.0)}),
        PriceBook(live=(live(a=LiveNode(0.0)),)),
        PriceBook(live=(live(a=LiveNode(-4.0)),)),
        PriceBook(live=(live(a=LiveNode(1e9)),)),
        PriceBook(live=(live(a=Unknown(UnknownReason.INVALID, "not a number")),)),
        # the object's CPU and memory alone cost more than the whole node
        PriceBook(pools={"": own(cpu=1.0)}),
    ],
)
def test_a_price_that_cannot_be_is_none(book):
    found = price(book)
    assert found.fault is PriceFault.INVALID
    assert isinstance(found.hour, Unknown)


def test_the_objects_cpu_and_memory_take_part_in_the_split_of_another_price():
    found = price(PriceBook(pools={"": own(cpu=0.02, gib=0.002)}))
    assert found.origin.source is PriceSource.LIST_PRICE
    assert found.cpu_core_hour == pytest.approx(0.02)
    assert found.gpu_hour == pytest.approx((55.04 - 190 * 0.02 - 1900 * 0.002) / 8)


# spot, reserved, committed


def test_a_list_price_is_no_price_of_spot_without_a_factor():
    spot = node(labels=P5 | SPOT)
    found = price(PriceBook(), one=spot)
    assert found.fault is PriceFault.MISSING
    assert "prices.spotFactor" in str(found.hour)
    assert price(PriceBook(pools={"": own(spot_factor=0.4)}), one=spot).hour == pytest.approx(55.04 * 0.4)


def test_what_is_said_of_spot_itself_needs_no_factor():
    spot, pool = node(labels=P5 | SPOT), {"": own(spot_factor=0.4)}
    assert price(
        PriceBook(pools=pool, table=table("gpu=H100;capacity=spot,20,,USD,\n")), one=spot
    ).hour == pytest.approx(20.0)
    assert price(PriceBook(pools=pool, table=table("gpu=H100,50,,USD,\n")), one=spot).hour == pytest.approx(20.0)
    assert price(PriceBook(pools=pool, live=(live(a=LiveNode(21.0)),)), one=spot).hour == pytest.approx(21.0)
    # a table or an object that says one price for all says it for spot, too
    assert price(PriceBook(table=table("gpu=H100,50,,USD,\n")), one=spot).hour == pytest.approx(50.0)


def test_commitments_lower_the_average_and_not_the_margin():
    found = price(PriceBook(pools={"": own(committed_share=0.5, committed_factor=0.6)}))
    assert found.hour == pytest.approx(55.04 * 0.8)
    assert found.marginal_hour == pytest.approx(55.04)
    assert found.gpu_hour * 8 + found.cpu_core_hour * 190 + found.memory_gib_hour * 1900 == pytest.approx(55.04 * 0.8)
    spot = price(
        PriceBook(pools={"": own(spot_factor=0.5, committed_share=0.5, committed_factor=0.6)}),
        one=node(labels=P5 | SPOT),
    )
    assert (spot.hour, spot.committed_share) == (pytest.approx(55.04 * 0.5), 0.0)


def test_committed_gpus_are_a_share_of_what_the_pool_has():
    nodes = [node("a"), node("b"), node("c", labels=P5 | SPOT)]
    book = PriceBook(pools={"h100": own(spot_factor=0.5, committed_gpus=8.0, committed_factor=0.5)})
    found = price_nodes(nodes, book)
    assert found["a"].committed_share == pytest.approx(0.5)
    assert found["a"].hour == pytest.approx(55.04 * 0.75)
    assert found["c"].committed_share == 0.0


def test_committed_gpus_are_real_ones_where_several_pods_share_each():
    shared = replace(node("a", gpus=80.0), labels=P5 | {"nvidia.com/gpu.count": "8"})
    found = price_nodes([shared, node("b")], PriceBook(pools={"h100": own(committed_gpus=8.0)}))
    assert found["a"].committed_share == found["b"].committed_share == pytest.approx(0.5)


def test_a_reserved_node_is_paid_for_whether_it_is_there_or_not():
    found = price(PriceBook(), one=node(labels=P5 | {"karpenter.sh/capacity-type": "reserved"}))
    assert (found.marginal_hour, found.capacity) == (0.0, CapacityType.RESERVED)
    assert found.hour == pytest.approx(55.04)
    assert saved_by_removal([found], []) == 0.0


def test_what_removal_saves_stops_at_the_commitment():
    names = ["a", "b", "c", "d"]
    priced = price_nodes([node(name) for name in names], PriceBook(pools={"": own(committed_gpus=16.0)}))
    every = [priced[name] for name in names]
    assert saved_by_removal(every[:1], every[1:]) == pytest.approx(55.04)
    assert saved_by_removal(every[:2], every[2:]) == pytest.approx(2 * 55.04)
    assert saved_by_removal(every[:3], every[3:]) == pytest.approx(2 * 55.04)
    assert saved_by_removal(every, []) == pytest.approx(2 * 55.04)
    own_iron = price_nodes([node("a")], PriceBook(pools={"": own(committed_share=1.0)}))
    assert saved_by_removal(list(own_iron.values()), []) == 0.0
    assert saved_by_removal([], every) == 0.0


def test_spot_saves_its_own_price_beside_a_commitment():
    nodes = [node("a"), node("s", labels=P5 | SPOT)]
    found = price_nodes(nodes, PriceBook(pools={"": own(spot_factor=0.5, committed_share=1.0)}))
    assert saved_by_removal([found["s"]], [found["a"]]) == pytest.approx(55.04 / 2)


def test_what_removal_saves_is_unknown_with_an_unknown_price():
    found = price_nodes([node("a"), node("b", labels={})], PriceBook())
    assert isinstance(saved_by_removal([found["b"]], [found["a"]]), Unknown)
    assert saved_by_removal([found["a"]], [found["b"]]) == pytest.approx(55.04)


@given(
    committed=st.floats(0, 64),
    prices=st.lists(st.floats(0.5, 90), min_size=1, max_size=8),
    going=st.integers(0, 8),
)
def test_removal_never_saves_more_than_what_goes_costs(committed, prices, going):
    nodes = [node(str(i), labels={}) for i in range(len(prices))]
    rows = "".join(f"node={i},{price_:.4f},,USD,\n" for i, price_ in enumerate(prices))
    book = PriceBook(pools={"": own(committed_gpus=committed)}, table=table(rows))
    priced = list(price_nodes(nodes, book).values())
    gone, staying = priced[:going], priced[going:]
    saved = saved_by_removal(gone, staying)
    assert not isinstance(saved, Unknown)
    whole = sum(one.marginal_hour for one in gone)
    assert -1e-9 <= saved <= whole + 1e-6
    if committed >= 8 * len(prices):
        assert saved == pytest.approx(0.0, abs=1e-6)


# the split


@given(
    hour=st.floats(0.05, 500),
    gpus=st.integers(0, 16),
    cores=st.floats(1, 400),
    gib=st.floats(1, 4000),
    model=st.sampled_from([H100, "NVIDIA L4", "made up", ""]),
)
def test_parts_add_up_to_the_whole(hour, gpus, cores, gib, model):
    capacity = Capacity(float(gpus), model, cores, gib * GIB)
    parts = split(hour, capacity)
    assert isinstance(parts, Parts)
    assert parts.total(capacity) == pytest.approx(hour)
    assert parts.cpu_core > 0.0
    assert (parts.gpu > 0.0) is (gpus > 0)
    assert parts.cpu_core / parts.memory_gib == pytest.approx(0.031611 / 0.004237)


def test_most_of_an_h100_nodes_price_is_its_gpus():
    found = price(PriceBook())
    assert 0.6 < found.gpu_hour * 8 / 55.04 < 0.95


def test_nothing_cannot_be_paid_for():
    assert isinstance(split(5.0, Capacity(0.0, "", 0.0, 0.0)), Unknown)


def test_shared_gpus_are_a_part_of_a_real_one():
    shared = replace(node(gpus=80.0), labels={"nvidia.com/gpu.count": "8"})
    found = price(PriceBook(pools={"": own(gpu=2.0)}), one=shared)
    assert found.gpu_hour == pytest.approx(0.2)
    whole = price(PriceBook(table=table("gpu=H100,30,,USD,\n")), one=shared)
    plain = price(PriceBook(table=table("gpu=H100,30,,USD,\n")), one=node(labels={}))
    assert whole.gpu_hour * 80 == pytest.approx(plain.gpu_hour * 8)


def test_a_cost_systems_own_parts_are_kept_where_they_come_to_the_whole():
    told = LiveNode(60.0, UnitPrices(4.0, 0.08, 0.0068))
    found = price(PriceBook(live=(live(a=told),)))
    assert found.hour == pytest.approx(60.0)
    assert found.gpu_hour == pytest.approx(4.0, rel=0.01)
    off = price(PriceBook(live=(live(a=LiveNode(60.0, UnitPrices(0.95, 0.0316, 0.0042))),)))
    assert off.gpu_hour > 3.0  # its parts come to a third of the node: they are not its parts


# pools


def test_a_pools_prices_are_those_of_its_nodes():
    nodes = [node("a"), node("b", labels=P5 | SPOT)]
    book = PriceBook(pools={"h100": own(spot_factor=0.5)})
    priced = price_nodes(nodes, book)
    prices = pool_price_list(book, "h100", nodes, priced)
    assert prices.gpu_hour_of(H100) == pytest.approx((priced["a"].gpu_hour + priced["b"].gpu_hour) / 2)
    cost = hourly(prices, gpus=16.0, gpu_model=H100, cpu_cores=380.0, memory_bytes=3800 * GIB)
    assert cost == pytest.approx(55.04 * 1.5)


def test_a_model_with_a_node_that_has_no_price_has_none():
    nodes = [node("a"), node("b", labels={})]
    prices = pool_price_list(PriceBook(), "h100", nodes, price_nodes(nodes, PriceBook()))
    assert isinstance(prices.gpu_hour_of(H100), Unknown)
    assert "node b" in str(prices.gpu_hour_of(H100))


def test_a_pool_without_nodes_has_the_objects_prices_and_the_defaults():
    prices = pool_price_list(PriceBook(pools={"x": own(gpu=3.0)}), "x", [], {})
    assert (prices.gpu_hour, prices.cpu_core_hour) == (3.0, 0.031611)
    in_euro = pool_price_list(PriceBook(currency="EUR", pools={"x": own(gpu=3.0)}), "x", [], {})
    assert isinstance(in_euro.cpu_core_hour, Unknown)
    assert isinstance(hourly(in_euro, gpus=1.0, cpu_cores=1.0), Unknown)
    assert hourly(in_euro, gpus=1.0) == 3.0
    assert isinstance(pool_price_list(PriceBook(pools={"x": own(gpu=0.0)}), "x", [], {}).gpu_hour, Unknown)


@pytest.mark.parametrize("row", LIST_PRICES, ids=lambda row: f"{row.instance_type}-{row.region}")
def test_every_listed_instance_can_be_priced_and_cut(row):
    one = replace(
        node(gpus=float(row.gpus)),
        gpu_model="",
        cpu_cores=row.cpu_cores,
        memory_bytes=row.memory_gib * GIB,
        labels={
            "node.kubernetes.io/instance-type": row.instance_type,
            "topology.kubernetes.io/region": row.region,
        },
    )
    found = price(PriceBook(), one=one)
    assert found.hour == pytest.approx(row.hour)
    assert found.gpu_hour > 0.0


@pytest.mark.parametrize("terms", [{"spot_factor": 0.0}, {"committed_share": 1.2}, {"committed_gpus": -1.0}])
def test_impossible_terms_are_refused(terms):
    with pytest.raises(ValueError, match=r"must|between"):
        Terms(**terms)
