"""Consolidation in the round: windows, prices of moving, doubts, limits of pools, and what the status shows."""

import dataclasses
import time

import pytest

from optiinfra.api.conditions import ConditionStatus, ConditionType
from optiinfra.api.reasons import Reason
from optiinfra.api.status_change import is_meaningful_change
from optiinfra.control import drain_planning
from optiinfra.control.analyze import AnalysisTimes, analyze
from optiinfra.control.cluster_report import cluster_status
from optiinfra.control.conditions import cluster_conditions
from optiinfra.control.consolidation import consolidate, serving_of, with_gpu_model
from optiinfra.control.keys import ObjectKey
from optiinfra.control.memory import ObjectMemory
from optiinfra.control.recommend import LIFETIME
from optiinfra.control.snapshots import SnapshotStore
from optiinfra.control.work import ClusterWork, Problem, Work
from optiinfra.domain.cost import PriceList
from optiinfra.domain.prices import NodePrice, Origin, PriceSource
from optiinfra.domain.readings import EngineKind, EngineReading, Signal, Unknown, UnknownReason
from optiinfra.domain.units import Seconds, UnixTime
from tests.unit.control.examples import NOW, cro
from tests.unit.domain.drained import node, pod

STAYS = {"blockers": ("BarePod",)}
TIMES = AnalysisTimes(
    window=Seconds(60.0), stale_after=Seconds(60.0), tick=Seconds(30.0), hold=Seconds(300.0), idle_span=Seconds(600.0)
)


def priced(name, hour, *, committed=0.0):
    value = hour
    return NodePrice(
        node=name,
        hour=value,
        marginal_hour=value,
        gpu_hour=value if isinstance(value, Unknown) else value / 8.0,
        cpu_core_hour=0.0,
        memory_gib_hour=0.0,
        origin=Origin(PriceSource.OBJECT),
        currency="USD",
        committed_share=committed,
        gpus=8.0,
        cpu_cores=96.0,
    )


class Rounds:
    """One cluster, round after round."""

    def __init__(self, *nodes, prices=None, **spec):
        self.nodes = {each.name: each for each in nodes}
        self.obj = cro(**spec)
        self.memory = ObjectMemory()
        self.prices = prices or {}

    def at(self, seconds, **changes):
        now = UnixTime(NOW + seconds)
        key = ObjectKey("ClusterResourceOptimization", "", "cluster")
        work = ClusterWork(key, self.obj, self.memory, self.nodes, {}, self.prices, **changes)
        work.proposals = tuple(consolidate(work, now=now))
        return work


def half_empty(start_up=60.0):
    return [node("a", pod("a1", 2.0, start_up=start_up)), node("b", pod("b1", 4.0, **STAYS))]


def subjects(work):
    return [item.subject for item in work.proposals if item.setting == "node"]


def test_a_node_is_proposed_once_it_was_emptyable_for_the_window():
    rounds = Rounds(*half_empty(), consolidation={"window": "10m"})
    assert subjects(rounds.at(0.0)) == []
    assert subjects(rounds.at(599.0)) == []
    assert subjects(rounds.at(600.0)) == ["a"]
    rounds.nodes["b"] = node("b", pod("b1", 7.0, **STAYS))
    assert subjects(rounds.at(630.0)) == []
    rounds.nodes["b"] = half_empty()[1]
    assert subjects(rounds.at(660.0)) == []
    assert subjects(rounds.at(1300.0)) == ["a"]


def test_a_server_that_is_dear_to_move_is_moved_only_after_the_node_stood_for_twice_its_price():
    # Half an hour to load on a quarter of the node, at a load that nobody knows: a quarter of an hour of the node.
    rounds = Rounds(*half_empty(start_up=1800.0), consolidation={"window": "1m"})
    rounds.at(0.0)
    assert subjects(rounds.at(1700.0)) == []
    work = rounds.at(1800.0)
    assert subjects(work) == ["a"]
    (found,) = [item for item in work.proposals if item.setting == "node"]
    evidence = {fact.signal: fact.value for fact in found.evidence}
    assert evidence["price_of_moving"] == pytest.approx(0.25)
    assert evidence["unready_seconds"] == 1800.0
    assert "1 model servers load again" in found.risk


def test_a_clock_that_jumps_proves_nothing():
    rounds = Rounds(*half_empty(), consolidation={"window": "1m"})
    rounds.at(0.0)
    back = rounds.at(-500.0)
    assert back.proposals == ()
    assert back.plan is None
    assert "clock went back" in back.doubts[0]
    assert degraded(back).reason is Reason.INVALID_DATA
    assert subjects(rounds.at(-460.0)) == []
    assert subjects(rounds.at(-300.0)) == ["a"]
    on = rounds.at(100_000.0)
    assert subjects(on) == []
    assert "clock went on" in on.doubts[0]
    assert subjects(rounds.at(100_070.0)) == ["a"]


UNHEARD = Problem(Reason.API_ERROR, "the API server has told nothing of /api/v1/nodes for two minutes")


def judged(rounds, seconds, **changes):
    """One round of the analysis, and the status after it."""
    key, now = ObjectKey("ClusterResourceOptimization", "", "cluster"), UnixTime(NOW + seconds)
    prices = {name: PriceList() for name in ("", "h100")}
    work = ClusterWork(key, rounds.obj, rounds.memory, rounds.nodes, prices, rounds.prices, **changes)
    analyze(Work("r", now, (key,), clusters=[work]), TIMES)
    status = cluster_status(work, round_id="r", now=now)
    rounds.obj = rounds.obj.model_copy(update={"status": status})
    return work, status


def test_nothing_is_planned_while_the_mirrors_of_nodes_hear_nothing():
    rounds = Rounds(*half_empty(), consolidation={"window": "1m"})
    judged(rounds, 0.0)
    work, before = judged(rounds, 60.0)
    assert subjects(work) == ["a"]
    assert before.consolidation.steps
    held, status = judged(rounds, 90.0, problem=UNHEARD)
    assert (held.plan, held.proposals, held.due) == (None, (), ())
    assert status.consolidation is None, "steps on what runs where are no plan any more"
    assert (before.summary.emptyable_nodes, status.summary.emptyable_nodes) == (1, "Stale"), "unknown is not zero"
    assert status.recommendations == before.recommendations, "what was said stands until it expires"
    found = {one.type: (one.status, one.reason) for one in status.conditions}
    assert found[ConditionType.READY] == (ConditionStatus.FALSE, Reason.API_ERROR)
    assert found[ConditionType.ANALYSIS_COMPLETE] == (ConditionStatus.FALSE, Reason.API_ERROR)
    assert found[ConditionType.DEGRADED] == (ConditionStatus.TRUE, Reason.API_ERROR)
    assert "/api/v1/nodes" in degraded(held).message
    expired, status = judged(rounds, 60.0 + LIFETIME, problem=UNHEARD)
    assert (expired.proposals, status.recommendations) == ((), ())


def test_what_was_not_seen_proves_nothing_about_a_window():
    rounds = Rounds(*half_empty(), consolidation={"window": "1m"})
    judged(rounds, 0.0)
    judged(rounds, 30.0, problem=UNHEARD)
    assert subjects(judged(rounds, 70.0)[0]) == []
    assert subjects(judged(rounds, 130.0)[0]) == ["a"]


def degraded(work):
    return next(one for one in cluster_conditions(work) if one.type is ConditionType.DEGRADED)


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([node("a", pod("x")), node("b", pod("x"))], "on two nodes"),
        ([node("a", pod("x", -1.0)), node("b", pod("b1", **STAYS))], "no amount from zero on"),
        ([node("a", pod("x", 9.0)), node("b", pod("b1", **STAYS))], "pods request 9 GPUs"),
        ([node("a", pod("x"), model=""), node("b", pod("b1", **STAYS))], "model of its 8 GPUs is not known"),
    ],
)
def test_bad_data_gives_a_condition_and_no_recommendation(nodes, words):
    rounds = Rounds(*nodes, consolidation={"window": "1m"})
    rounds.at(0.0)
    work = rounds.at(120.0)
    assert subjects(work) == []
    condition = degraded(work)
    assert (condition.status, condition.reason) == (ConditionStatus.TRUE, Reason.INVALID_DATA)
    assert words in condition.message


def test_what_is_saved_is_told_after_the_nodes_before_it():
    nodes = [node("a", pod("a1")), node("b", pod("b1", 2.0)), node("c", pod("c1", 4.0, **STAYS))]
    hours = {name: priced(name, 10.0) for name in "abc"}
    rounds = Rounds(*nodes, prices=hours, consolidation={"window": "1m", "headroom": "0%"})
    rounds.at(0.0)
    found = [item.savings.per_month for item in rounds.at(60.0).proposals if item.setting == "node"]
    assert found == [pytest.approx(7300.0, rel=0.01)] * 2
    # Two of the three nodes are paid for whatever happens: only the first one saves money.
    committed = {name: priced(name, 10.0, committed=2.0 / 3.0) for name in "abc"}
    rounds = Rounds(*nodes, prices=committed, consolidation={"window": "1m", "headroom": "0%"})
    rounds.at(0.0)
    first, second = [item.savings for item in rounds.at(60.0).proposals if item.setting == "node"]
    assert first.per_month == pytest.approx(7300.0, rel=0.01)
    assert second.per_month == pytest.approx(0.0, abs=1e-6)
    assert second.gpus_freed == 8.0
    unknown = {name: priced(name, Unknown(UnknownReason.NOT_CONFIGURED)) for name in "abc"}
    rounds = Rounds(*nodes, prices=unknown, consolidation={"window": "1m", "headroom": "0%"})
    rounds.at(0.0)
    assert [item.savings.per_month for item in rounds.at(60.0).proposals if item.setting == "node"] == [None, None]


def test_the_status_can_be_followed_from_the_top():
    nodes = [node(f"n{i:02}", *[pod(f"p{i}-{j}", 1.0) for j in range(i % 3)]) for i in range(60)]
    rounds = Rounds(*nodes, node("z", pod("z1", 1.0, **STAYS)), consolidation={"window": "1m"})
    first = cluster_status(rounds.at(0.0), round_id="r", now=UnixTime(NOW))
    assert first.consolidation.nodes == ()
    assert first.consolidation.nodes_left_out == first.summary.emptyable_nodes
    work = rounds.at(60.0)
    status = cluster_status(work, round_id="r", now=UnixTime(NOW + 60.0))
    shown = status.consolidation
    assert 0 < len(shown.nodes) <= 32
    assert len(shown.steps) == sum(item.pods for item in shown.nodes) <= 64
    assert [step.pod for step in shown.steps] == [move.pod for move in work.plan.moves[: len(shown.steps)]]
    assert {step.from_ for step in shown.steps} <= {item.name for item in shown.nodes}
    assert shown.nodes_left_out == len(work.plan.freed) - len(shown.nodes)
    assert sum(item.nodes for item in shown.held) == len(work.plan.refusals)
    # The same again is no write, and a new moment neither.
    rounds.obj = rounds.obj.model_copy(update={"status": status})
    again = cluster_status(rounds.at(90.0), round_id="r", now=UnixTime(NOW + 90.0))
    assert not is_meaningful_change(status, again, now=UnixTime(NOW + 90.0))


def test_without_a_plan_there_is_none_in_the_status():
    rounds = Rounds(node("a", pod("x")), node("b", pod("x")))
    assert cluster_status(rounds.at(0.0), round_id="r", now=UnixTime(NOW)).consolidation is None


@pytest.mark.parametrize(
    ("nodes", "spec", "counted", "of_the_pool"),
    [
        ([node("a")], {}, 1, 1),
        ([node("a")], {"consolidation": {"enabled": False}}, "NotConfigured", None),
        ([], {}, 0, 0),
    ],
)
def test_how_many_nodes_could_be_emptied_is_a_number_only_where_it_is_known(nodes, spec, counted, of_the_pool):
    rounds = Rounds(*nodes, pools=[{"name": "h100", "nodeSelector": {"pool": "h100"}}], **spec)
    _, status = judged(rounds, 0.0)
    assert status.summary.emptyable_nodes == counted
    assert status.pools[0].emptyable_nodes == of_the_pool


def limited(nodes, prices=None, **pool):
    given = {"name": "h100", "nodeSelector": {"pool": "h100"}} | pool
    work = Rounds(*nodes, prices=prices, pools=[given]).at(0.0)
    found = next(one for one in cluster_conditions(work) if one.type is ConditionType.WITHIN_LIMITS)
    return found.status, found.reason


def test_limits_of_pools_are_told():
    nodes = [node("a"), node("b")]
    hours = {name: priced(name, 10.0) for name in "ab"}
    unpriced = {"a": hours["a"], "b": priced("b", Unknown(UnknownReason.NOT_CONFIGURED))}
    yes, no = (ConditionStatus.TRUE, Reason.SUCCEEDED), ConditionStatus.FALSE
    assert limited(nodes) == yes
    assert limited(nodes, maxGpus=16) == yes
    assert limited(nodes, maxGpus=15) == (no, Reason.POOL_OVER_LIMIT)
    assert limited(nodes, hours, monthlyBudget=15000) == yes
    assert limited(nodes, hours, monthlyBudget=14000) == (no, Reason.POOL_OVER_BUDGET)
    # What is known is above the budget already, or it is not known whether all of it is.
    assert limited(nodes, unpriced, monthlyBudget=7000) == (no, Reason.POOL_OVER_BUDGET)
    assert limited(nodes, unpriced, monthlyBudget=8000) == (ConditionStatus.UNKNOWN, Reason.PRICE_MISSING)


def page(**gauges):
    values = {Signal[name.upper()]: value for name, value in gauges.items()}
    return EngineReading(time=UnixTime(NOW), engine=EngineKind.VLLM, version="", model="", gauges=values)


@pytest.mark.parametrize(
    ("gauges", "busy"),
    [
        ({"kv_cache_usage": 0.3}, 0.3),
        ({"kv_cache_usage": 0.3, "requests_running": 60.0, "batch_limit": 100.0}, 0.6),
        ({"kv_cache_usage": 0.3, "sleeping": 1.0}, 0.0),
        ({"requests_running": 60.0}, None),
    ],
)
def test_how_loaded_a_server_is_comes_from_its_newest_page(gauges, busy):
    snapshots = SnapshotStore()
    server = pod("a1")
    snapshots.page(server.uid, page(**gauges))
    nodes = [node("a", server, pod("idle", 0.0))]
    found = serving_of(nodes, snapshots, now=UnixTime(NOW + 10.0))
    assert found.keys() == {server.uid}
    assert isinstance(found[server.uid].busy, Unknown) if busy is None else found[server.uid].busy == busy
    assert serving_of(nodes, snapshots, now=UnixTime(NOW + 1000.0)) == {}


def test_the_model_of_gpus_is_taken_from_the_pool_where_no_label_tells_it():
    bare = node("a", model="")
    assert with_gpu_model(bare, "H100").gpu_model == "H100"
    assert with_gpu_model(node("a"), "A100").gpu_model == "H100"
    assert with_gpu_model(bare, "") == bare
    assert with_gpu_model(dataclasses.replace(bare, gpus=0.0), "H100").gpu_model == ""


def test_a_large_cluster_is_planned_beside_the_rounds(monkeypatch):
    monkeypatch.setattr(drain_planning, "AT_ONCE", 1)
    rounds = Rounds(*half_empty(), consolidation={"window": "1m"})
    first = rounds.at(0.0)
    assert first.plan is None
    assert cluster_status(first, round_id="r", now=UnixTime(NOW)).consolidation is None

    def planned(seconds):
        deadline = time.monotonic() + 20.0
        while True:
            work = rounds.at(seconds)
            if work.plan is not None and work.plan.time == NOW + seconds:
                return work
            assert time.monotonic() < deadline
            time.sleep(0.01)

    assert [node.node for node in planned(30.0).plan.freed] == ["a"]
    assert subjects(planned(30.0)) == []
    assert subjects(planned(95.0)) == ["a"]


def test_what_fails_beside_the_rounds_fails_in_a_round(monkeypatch):
    def broken(*_, **__):
        raise ArithmeticError("a plan that cannot be made")

    monkeypatch.setattr(drain_planning, "AT_ONCE", 1)
    monkeypatch.setattr(drain_planning, "plan", broken)
    rounds = Rounds(*half_empty())

    def fetch():
        deadline = time.monotonic() + 20.0
        while time.monotonic() < deadline:
            rounds.at(0.0)
            time.sleep(0.01)

    with pytest.raises(ArithmeticError, match="cannot be made"):
        fetch()
