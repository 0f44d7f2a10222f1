"""The board of prices: what is read when, what stands while a source is silent, and what an object says above them."""

import asyncio
import logging

import pytest

from optiinfra import metrics
from optiinfra.control.prices import KEEP_LIVE, LIVE_INTERVAL, RETRY_INTERVAL, PriceBoard, object_prices
from optiinfra.domain.price_resolution import LiveNode, LivePrices
from optiinfra.domain.price_table import read_table
from optiinfra.domain.prices import NO_TERMS, PriceFault, PriceSource, Terms
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.workload import NodeFacts
from tests.unit.control.examples import cro

DOWN = Unknown(UnknownReason.UNREACHABLE, "OpenCost at http://x: no answer")
WRONG = Unknown(UnknownReason.INVALID, "ConfigMap o/p: row 2: no price")


def table(hour: float):
    return read_table(f"match,node_hour,currency\nnode=*,{hour},USD\n", name="ConfigMap o/p")


def opencost(hour: float, as_of: str = "2026-11-21") -> LivePrices:
    return LivePrices(PriceSource.OPENCOST, "http://x", "USD", as_of, {"n": LiveNode(hour)})


def node(name: str = "n", *, pool: str = "", **labels: str) -> NodeFacts:
    return NodeFacts(name, pool, "H100", 8.0, 100.0, 1e12, ready=True, unschedulable=False, labels=labels)


class Scripted:
    """A source that answers what it is told to, and counts."""

    def __init__(self, answer):
        self.answer = answer
        self.calls = 0

    async def __call__(self):
        self.calls += 1
        return self.answer


class World:
    """A board with a clock and scripted sources."""

    def __init__(self, *, rows=None, live=None):
        self.now = 0.0
        self.rows = Scripted(rows) if rows is not None else None
        self.live = Scripted(live) if live is not None else None
        sources = [(PriceSource.OPENCOST, self.live)] if self.live else []
        self.board = PriceBoard(table=self.rows, live=sources, clock=lambda: self.now)
        self.nodes = {"n": node()}

    async def after(self, seconds: float):
        self.now += seconds
        await self.board.refresh()
        return self.board.price(self.nodes, None).nodes["n"]


async def test_nothing_configured_reads_nothing_and_ends():
    board = PriceBoard(clock=lambda: 0.0)
    assert not board.configured
    await board.run()
    assert board.price({}, None).nodes == {}


async def test_who_waits_for_the_first_answers_is_told():
    board = PriceBoard(table=Scripted(table(5.0)), clock=lambda: 0.0)
    task = asyncio.create_task(board.run())
    async with asyncio.timeout(5.0):
        await board.told.wait()
    task.cancel()
    assert board.price({"n": node()}, None).nodes["n"].hour == pytest.approx(5.0)


async def test_before_the_first_answer_there_is_no_price():
    world = World(rows=table(5.0))
    found = world.board.price(world.nodes, None).nodes["n"]
    assert (found.fault, "not read yet" in str(found.hour)) == (PriceFault.SOURCE, True)
    assert (await world.after(0.0)).hour == pytest.approx(5.0)


async def test_each_source_is_read_at_its_own_interval_and_sooner_after_a_failure():
    world = World(live=opencost(5.0))
    for _ in range(int(LIVE_INTERVAL)):
        await world.after(1.0)
    assert world.live.calls == 1
    world.live.answer = DOWN
    for _ in range(int(2 * RETRY_INTERVAL) + 5):
        await world.after(1.0)
    assert world.live.calls == 4


async def test_a_cost_system_s_word_stands_for_a_day_with_its_date():
    world = World(live=opencost(5.0))
    await world.after(0.0)
    world.live.answer = DOWN
    kept = await world.after(KEEP_LIVE - 1.0)
    assert (kept.hour, kept.origin.as_of) == (pytest.approx(5.0), "2026-11-21")
    gone = await world.after(RETRY_INTERVAL)
    assert (gone.fault, "no answer" in str(gone.hour)) == (PriceFault.SOURCE, True)
    world.live.answer = opencost(6.0, "2026-11-23")
    assert (await world.after(RETRY_INTERVAL)).hour == pytest.approx(6.0)


async def test_a_table_stands_while_the_server_is_silent_and_falls_by_a_wrong_row():
    world = World(rows=table(5.0))
    await world.after(0.0)
    world.rows.answer = DOWN
    assert (await world.after(1e7)).hour == pytest.approx(5.0)
    world.rows.answer = WRONG
    found = await world.after(61.0)
    assert (found.fault, "row 2" in str(found.hour)) == (PriceFault.SOURCE, True)


async def test_a_failing_source_is_told_once_and_shown_as_a_metric(caplog):
    world = World(live=DOWN)
    with caplog.at_level(logging.INFO):
        await world.after(0.0)
        await world.after(61.0)
        assert metrics.REGISTRY.get_sample_value("optiinfra_price_source_up", {"source": "OpenCost"}) == 0.0
        world.live.answer = opencost(5.0)
        await world.after(61.0)
        await world.after(601.0)
    assert [record.levelname for record in caplog.records if record.msg == "prices"] == ["WARNING", "INFO"]
    assert metrics.REGISTRY.get_sample_value("optiinfra_price_source_up", {"source": "OpenCost"}) == 1.0
    assert metrics.REGISTRY.get_sample_value("optiinfra_priced_nodes", {"source": "OpenCost"}) == 1.0


async def test_the_same_nodes_are_not_priced_twice_and_a_changed_label_is_seen():
    world = World(rows=read_table("match,node_hour,currency\ncapacity=spot,1,USD\nnode=*,5,USD\n", name="x"))
    await world.after(0.0)
    first = world.board.price(world.nodes, None)
    assert world.board.price(dict(world.nodes), None) is first
    world.nodes["n"] = node(**{"karpenter.sh/capacity-type": "spot"})
    assert world.board.price(world.nodes, None).nodes["n"].hour == pytest.approx(1.0)


async def test_a_node_that_comes_or_changes_is_priced_and_the_others_keep_their_price():
    rows = "match,node_hour,currency\nexample.com/tier=gold,9,USD\nnode=*,5,USD\n"
    world = World(rows=read_table(rows, name="x"))
    await world.after(0.0)
    world.nodes |= {"m": node("m")}
    before = world.board.price(world.nodes, None).nodes
    world.nodes["m"] = node("m", **{"example.com/tier": "gold"})
    after = world.board.price(world.nodes, None).nodes
    assert after["n"] is before["n"]
    assert (before["m"].hour, after["m"].hour) == (pytest.approx(5.0), pytest.approx(9.0))
    del world.nodes["n"]
    assert set(world.board.price(world.nodes, None).nodes) == {"m"}


def test_a_node_that_comes_changes_the_committed_share_of_all():
    board = PriceBoard(clock=lambda: 0.0)
    whole = spec(prices={"gpuHour": "2", "committed": {"gpus": 8, "factor": "50%"}})
    alone = board.price({"n": node()}, whole).nodes["n"]
    beside = board.price({"n": node(), "m": node("m")}, whole).nodes["n"]
    assert (alone.committed_share, beside.committed_share) == (1.0, 0.5)


def spec(**parts):
    return cro(**parts).spec


def test_a_pool_s_word_counts_before_the_object_s():
    found = object_prices(
        spec(
            prices={"gpuHour": "4", "cpuCoreHour": "0.05", "spotFactor": "40%", "committed": {"share": "50%"}},
            pools=[
                {
                    "name": "h100",
                    "nodeSelector": {"gpu": "h100"},
                    "prices": {"gpuHour": "9.5", "committed": {"gpus": 64, "factor": "55%"}},
                },
                {"name": "l4", "nodeSelector": {"gpu": "l4"}, "prices": {"spotFactor": "0.3"}},
            ],
        )
    )
    assert found["h100"].units.gpu == 9.5
    assert found["h100"].units.cpu_core == 0.05
    assert found["h100"].where == "spec.pools[h100].prices"
    assert found["h100"].terms == Terms(spot_factor=0.4, committed_gpus=64.0, committed_factor=0.55)
    assert found["l4"].terms == Terms(spot_factor=0.3, committed_share=0.5)
    assert found[""].terms == Terms(spot_factor=0.4, committed_share=0.5)


def test_a_number_of_gpus_for_the_object_is_none_of_a_pool():
    found = object_prices(spec(prices={"committed": {"gpus": 8}}, pools=[{"name": "a", "nodeSelector": {"x": "y"}}]))
    assert found[""].terms.committed_gpus == 8.0
    assert found["a"].terms == NO_TERMS


def test_zero_in_the_object_is_no_price():
    priced = PriceBoard(clock=lambda: 0.0).price({"n": node()}, spec(prices={"gpuHour": "0"}))
    found = priced.nodes["n"]
    assert (found.fault, "zero" in str(found.hour)) == (PriceFault.INVALID, True)
    assert isinstance(priced.pools[""].gpu_hour_of("H100"), Unknown)


def test_another_currency_takes_defaults_and_list_prices_away():
    labels = {"node.kubernetes.io/instance-type": "p5.48xlarge", "topology.kubernetes.io/region": "us-east-1"}
    board = PriceBoard(clock=lambda: 0.0)
    assert board.price({"n": node(**labels)}, None).nodes["n"].hour == pytest.approx(55.04)
    found = board.price({"n": node(**labels)}, spec(currency="EUR")).nodes["n"]
    assert found.fault is PriceFault.CURRENCY
    without = PriceBoard(clock=lambda: 0.0, list_prices=False).price({"n": node(**labels)}, None).nodes["n"]
    assert without.fault is PriceFault.MISSING
