"""The books of a running operator: who changed what, nodes that go later, a new leader, and metrics."""

import asyncio
from dataclasses import replace

import pytest

from optiinfra import metrics
from optiinfra.api.conditions import ConditionStatus
from optiinfra.api.reasons import Reason
from optiinfra.api.scalars import Time
from optiinfra.api.v1alpha1 import ClusterLedgerStatus, LedgerStatus
from optiinfra.api.v1alpha1.action_status import ActionState, ActionStatus
from optiinfra.control.keys import ObjectKey
from optiinfra.control.memory import ObjectMemory
from optiinfra.control.recommend import recommendations_of
from optiinfra.control.registry import Registry
from optiinfra.control.report import InsightState, service_status
from optiinfra.control.savings import NO_CLUSTER, NO_NODES, SavingsBooks
from optiinfra.control.work import ClusterWork, Effect, Work
from optiinfra.domain.cost import PriceList
from optiinfra.domain.evidence import RecommendationType
from optiinfra.domain.prices import NodePrice, Origin, PriceSource
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.savings.reference import plain_hpa_replicas
from optiinfra.domain.units import UnixTime
from optiinfra.domain.workload import ContainerFacts, NodeFacts
from tests.unit.control.examples import NOW, cro_body, decision, facts, pod, proposal, ro, ro_body, scaler
from tests.unit.control.examples import service as service_of
from tests.unit.domain.scaling_service import SERVICE, SLOTS, STEP, born

GIB = 2.0**30
QUIET = InsightState(ConditionStatus.FALSE, Reason.DISABLED)
KEY = ObjectKey("ResourceOptimization", "inference", "svc")
CLUSTER = ObjectKey("ClusterResourceOptimization", "", "cluster")


def node(name, *pods, gpus=8.0, pool=""):
    return NodeFacts(name, pool, "H100", gpus, 64.0, 512 * GIB, ready=True, unschedulable=False, pods=tuple(pods))


def price(name, hour=40.0):
    return NodePrice(
        node=name,
        hour=hour,
        marginal_hour=hour,
        gpu_hour=hour / 8,
        cpu_core_hour=0.0,
        memory_gib_hour=0.0,
        origin=Origin(PriceSource.OBJECT),
        currency="USD",
        gpus=8.0,
        cpu_cores=64.0,
    )


class World:
    """One service on nodes, seen round by round; the clocks go on together."""

    def __init__(self, *, clustered=True, nodes=4):
        self.registry = Registry()
        self.at = float(NOW)
        self.registry.upsert("ResourceOptimization", ro_body())
        if clustered:
            self.registry.upsert("ClusterResourceOptimization", cro_body())
        self.nodes = [f"n{number}" for number in range(nodes)]
        self.prices = {}
        self.gpus = {}
        self.pools = {"": PriceList()}
        self.pool = ""
        self.books = SavingsBooks(registry=self.registry, clock=lambda: self.at)
        self.memory = ObjectMemory()
        self.actions = []

    def restart(self, status=None, cluster=None):
        """A new leader that knows nothing but the statuses."""
        self.books = SavingsBooks(registry=self.registry, clock=lambda: self.at + 1e6)
        for key, wanted in ((KEY, status), (CLUSTER, cluster)):
            known = self.registry.get(key)
            if known is not None and wanted is not None:
                shown = known.status.model_copy(update={"savings": type(wanted).model_validate(wanted.to_wire())})
                self.registry.replace(key, known.model_copy(update={"status": shown}))

    def order(self, before, after, *, identifier="act-1", state=ActionState.APPLIED):
        self.actions.append(
            ActionStatus(
                id=identifier,
                recommendation_id="rec-1",
                type=RecommendationType.REPLICAS,
                subject="vllm",
                state=state,
                from_=str(before),
                to=str(after),
                at=Time.of(self.at),
            )
        )
        self.memory.target("vllm").ordered = after

    def round(
        self,
        replicas,
        *,
        after=30.0,
        recommended=(),
        cores=4.0,
        gpus=1.0,
        effect=None,
        hpa=None,
        decided=None,
        **changes,
    ):
        """One round; returns what both statuses would show."""
        self.at += after
        container = ContainerFacts("vllm", cores, 8.0, 32 * GIB, 32 * GIB, 1.0)
        pods = tuple(
            pod(
                f"vllm-{number}",
                node=self.nodes[number % len(self.nodes)] if self.nodes else "elsewhere",
                cpu_request_cores=cores,
                memory_request_bytes=32 * GIB,
                containers=(container,),
                gpus=gpus,
            )
            for number in range(replicas)
        )
        service = service_of(
            ro(mode="Auto"), facts=facts(replicas, pods=pods, scaler=hpa, **changes), memory=self.memory.target("vllm")
        )
        status = service.obj.status.model_copy(update={"recommendations": tuple(recommended)})
        service.obj = service.obj.model_copy(update={"status": status})
        service.currency = "USD"
        service.actions = list(self.actions)
        service.targets[0].effect = effect
        service.targets[0].decision = decided
        seen = {
            name: node(name, *(p for p in pods if p.node == name), gpus=self.gpus.get(name, 8.0), pool=self.pool)
            for name in self.nodes
        }
        known = self.registry.get(CLUSTER)
        cluster = [ClusterWork(CLUSTER, known, ObjectMemory(), nodes=seen)] if known is not None else []
        work = Work("r", UnixTime(self.at), (KEY, CLUSTER), nodes=seen, services=[service], clusters=cluster)
        work.prices = self.pools
        work.node_prices = {name: self.prices.get(name, price(name)) for name in self.nodes}
        asyncio.run(self.books.observe(work))
        return service.ledger, (cluster[0].ledger if cluster else None)

    def rounds(self, seconds, replicas, **more):
        found = None, None
        for _ in range(int(seconds // 30)):
            found = self.round(replicas, **more)
        return found


def lines(period):
    return {(str(line.cause), str(line.basis), line.verified): line for line in period.lines}


def gpu_hours(ledger, **where):
    return sum(
        line.freed.gpu_hours - line.added.gpu_hours
        for line in ledger.total.lines
        if all(str(getattr(line, name)) == str(value) for name, value in where.items())
    )


def test_an_idle_service_has_no_books_to_show():
    world = World()
    assert world.rounds(300, 8)[0] is None


def test_an_action_that_frees_replicas_is_an_entry_with_its_id():
    world = World()
    world.round(16)
    world.order(16, 8)
    world.round(16)
    ledger, _ = world.round(8)
    (entry,) = ledger.entries
    assert (entry.cause, entry.by, entry.before, entry.after, entry.gpu_model) == ("Action", "act-1", 16, 8, "H100")
    ledger, _ = world.rounds(600, 8)
    assert gpu_hours(ledger, cause="Action") == pytest.approx(8 * 600 / 3600, abs=1e-5)
    assert ledger.per_month_realised == 0.0, "no node went"
    assert ledger.freed.gpus == 8.0
    assert ledger.free.gpus == 8.0


def test_money_appears_only_when_a_node_goes_and_only_for_what_is_verified():
    world = World()
    world.round(16)
    world.order(16, 8)
    world.round(8)
    ledger, _ = world.rounds(600, 8)
    assert all(line.freed.money == 0.0 for line in ledger.total.lines)
    world.nodes.remove("n3")
    world.round(8)
    world.actions[0] = world.actions[0].model_copy(update={"state": ActionState.VERIFIED})
    ledger, cluster = world.rounds(600, 8)
    assert ledger.per_month_realised == pytest.approx(40.0 * 730)
    assert cluster.per_month_realised == pytest.approx(40.0 * 730)
    mine = lines(ledger.total)["Action", "Measured", True].freed.money
    whole = lines(cluster.total)["Action", "Measured", True].freed.money
    assert mine == pytest.approx(40.0 * 600 / 3600, rel=0.06)
    assert whole == pytest.approx(mine, rel=0.06)
    (gone,) = [entry for entry in cluster.node_entries if entry.ended is None]
    assert (gone.name, gone.before, gone.after) == ("n3", 4, 3)
    assert [(share.object, share.fraction) for share in gone.shares] == [("inference/svc", 1.0)]
    assert (cluster.freed.gpus, cluster.free.gpus) == (8.0, 8.0)


def test_a_new_leader_goes_on_where_the_statuses_are():
    straight, broken = World(), World()
    for world in (straight, broken):
        world.round(16)
        world.order(16, 8, state=ActionState.VERIFIED)
        world.round(8)
        world.rounds(300, 8)
        world.nodes.remove("n3")
        shown = world.rounds(300, 8)
        if world is broken:
            world.restart(*shown)
        # The order is not remembered, but nothing changes any more.
        result = world.rounds(600, 8)
        if world is straight:
            wanted = result
    for mine, other in zip(result, wanted, strict=True):
        for key, line in lines(other.total).items():
            found = lines(mine.total)[key]
            # What was counted stays; the cluster skips at most a round of each object.
            assert found.freed.gpu_hours == pytest.approx(line.freed.gpu_hours, abs=8 * 31 / 3600)
            assert found.freed.money == pytest.approx(line.freed.money, abs=40.0 * 31 / 3600)
            assert found.freed.gpu_hours <= line.freed.gpu_hours + 1e-6, "never more"
    assert gpu_hours(result[0]) == pytest.approx(gpu_hours(wanted[0]), abs=1e-4)


def test_what_went_while_nobody_watched_is_not_claimed():
    world = World()
    world.round(16, generation=3)
    world.order(16, 8)
    shown = world.round(8, generation=4)
    world.restart(*shown)
    ledger, _ = world.round(8, after=7200.0, generation=6)
    assert gpu_hours(ledger) == 0.0
    assert ledger.unwatched_hours == pytest.approx(2.0, abs=0.01)
    world.restart(ledger)
    ledger, _ = world.round(8, after=7200.0, generation=6)
    assert gpu_hours(ledger) == pytest.approx(16.0, abs=0.01), "nobody touched its spec: that is proof"


def test_a_person_is_others_and_a_scaler_is_named():
    world = World()
    world.round(8)
    ledger, _ = world.round(6)
    assert [(entry.cause, entry.by) for entry in ledger.entries] == [("Others", "")]
    world = World()
    world.round(8, hpa=scaler())
    ledger, _ = world.round(6, hpa=scaler())
    assert [(entry.cause, entry.by) for entry in ledger.entries] == [("Scaler", "hpa")]
    assert ledger.freed.gpus == 0.0, "written down, not claimed"


def test_steps_on_the_way_to_an_order_are_the_order_s():
    world = World()
    world.round(10)
    world.order(10, 6)
    world.round(8)
    ledger, _ = world.round(6)
    assert sum(entry.amount for entry in ledger.entries if entry.cause == "Action") == 4
    ledger, _ = world.round(5)
    assert [entry.cause for entry in ledger.entries if entry.amount == 1] == ["Others"]


def test_a_rollback_ends_the_entry():
    world = World()
    world.round(10)
    world.order(10, 6)
    world.round(6)
    world.actions = [world.actions[0].model_copy(update={"state": ActionState.ROLLED_BACK})]
    world.memory.target("vllm").ordered = 10
    ledger, _ = world.round(10)
    assert [str(entry.end) for entry in ledger.entries] == ["RolledBack"]


def recommendation(**changes):
    made = proposal(**changes)
    return recommendations_of([("t", made)], (), object_uid="u", texts={}, now=NOW)


def test_a_size_that_was_recommended_is_adopted_and_another_is_not():
    wanted = recommendation(
        current="4", proposed="2", setting="containers[vllm].requests.cpu", type=RecommendationType.RESOURCES
    )
    for cores, cause in ((2.0, "Adopted"), (1.0, "Others")):
        world = World()
        world.round(8)
        ledger, _ = world.round(8, cores=cores, recommended=wanted)
        (entry,) = ledger.entries
        assert (entry.axis, entry.cause) == ("CPU", cause)
        assert entry.by == (wanted[0].id if cause == "Adopted" else "")
        assert entry.amount == 4.0 - cores


def test_a_share_of_a_gpu_that_is_no_counted_resource_is_not_taken_for_none():
    world = World()
    world.round(8)
    ledger, _ = world.round(8, gpus=0.0)
    assert ledger is None
    world.round(8, gpus=2.0)
    ledger, _ = world.round(8, gpus=1.0)
    assert [entry.axis for entry in ledger.entries if entry.ended is None] == []


def test_books_that_could_not_be_brought_up_to_date_are_kept():
    world = World()
    world.round(8)
    ledger, _ = world.round(6)
    service = service_of(ro(mode="Auto"))
    shown = service.obj.status.model_copy(update={"savings": ledger})
    service.obj = service.obj.model_copy(update={"status": shown})
    status = service_status(service, round_id="r", now=UnixTime(world.at), insight=QUIET)
    assert status.savings.entries == ledger.entries
    assert status.savings.bases == ledger.bases


async def test_books_that_fail_stop_no_round(monkeypatch, caplog):
    def broken(*_, **__):
        raise ZeroDivisionError("a mistake in the books")

    monkeypatch.setattr("optiinfra.control.savings.watch_nodes", broken)
    registry = Registry()
    registry.upsert("ClusterResourceOptimization", cro_body())
    work = Work("r", NOW, (), nodes={"n1": node("n1")}, prices={"": PriceList()})
    await SavingsBooks(registry=registry, clock=lambda: 0.0).observe(work)
    assert "not brought up to date" in caplog.text
    assert metrics.OBJECT_FAILURES.labels("savings", "ZeroDivisionError")._value.get() == 1.0


def test_replicas_that_a_person_set_as_recommended_are_adopted():
    world = World()
    world.round(8)
    wanted = recommendation(current="8", proposed="5")
    ledger, _ = world.round(5, recommended=wanted)
    assert [(entry.cause, entry.by) for entry in ledger.entries] == [("Adopted", wanted[0].id)]


def test_a_scaler_that_follows_is_compared_with_a_plain_hpa_or_says_why_not():
    world = World()
    follows = {"hpa": scaler(), "effect": Effect(effective=True, reason=Reason.SUCCEEDED)}
    world.round(8, **follows)
    world.order(8, 6)
    world.round(6, **follows)
    ledger, _ = world.round(6, **follows)
    assert [str(entry.cause) for entry in ledger.entries] == ["Scaler"]
    assert "plain HPA" in ledger.bases[0].no_counterfactual


@pytest.fixture(scope="module")
def lived_load():
    """What a scaler has learned of a load that keeps six replicas busy, after more than an hour."""
    rate = 6.0 * SLOTS / SERVICE
    return born([rate], ready=10).run([rate] * int(1.25 * 3600 / STEP)).memory


def test_a_scaler_that_follows_saves_what_a_plain_hpa_would_run_and_the_nodes_for_it(lived_load):
    world = World(nodes=1)
    follows = {"hpa": scaler(), "effect": Effect(effective=True, reason=Reason.SUCCEEDED), "decided": decision(7)}
    world.memory.target("vllm").scaler = lived_load
    reference = plain_hpa_replicas(lived_load)
    assert 8.0 < reference <= 11.0
    world.order(8, 7)
    world.round(7, **follows)
    ledger, _ = world.rounds(600, 7, **follows)
    (entry,) = ledger.entries
    assert (entry.cause, entry.basis, entry.by, entry.verified) == ("Action", "Counterfactual", "act-1", False)
    assert "HPA" in entry.method
    assert entry.amount == pytest.approx(reference - 7)
    assert ledger.per_month_counterfactual == 0.0, "no whole node of eight GPUs is missing for two or three replicas"
    assert ledger.per_month_realised == 0.0
    small = World(nodes=1)  # nodes of two GPUs, all of them full: one more would have had to be bought
    small.gpus = {"n0": 2.0}
    small.memory = world.memory
    small.actions = world.actions
    small.round(7, **follows)
    ledger, cluster = small.rounds(600, 7, **follows)
    assert cluster.nodes_not_bought == int((reference - 7) // 2)
    assert ledger.per_month_counterfactual == pytest.approx(40.0 * 730 * cluster.nodes_not_bought)
    money = lines(ledger.total)["Action", "Counterfactual", False].freed.money
    assert 0.0 < money <= 40.0 * cluster.nodes_not_bought * 600 / 3600
    assert lines(cluster.total)["Action", "Counterfactual", False].freed.money == pytest.approx(money, rel=0.1)


def test_without_prices_nodes_or_a_cluster_object_there_is_no_money_and_the_reason():
    world = World(clustered=False)
    world.round(8)
    ledger, cluster = world.round(6)
    assert (ledger.money_unknown, cluster) == (NO_CLUSTER, None)
    assert ledger.per_month_realised is None
    world = World(nodes=0)
    world.round(8)
    assert world.round(6)[0].money_unknown == NO_NODES
    world = World()
    nothing = Unknown(UnknownReason.NOT_CONFIGURED, "no price")
    world.prices = {name: replace(price(name), hour=nothing, marginal_hour=nothing) for name in world.nodes}
    world.round(8)
    assert "price" in world.round(6)[0].money_unknown


def test_gpus_that_vanish_while_a_plugin_restarts_are_no_nodes_that_went():
    world = World()
    world.round(16)
    world.order(16, 8)
    world.round(8)
    world.gpus = {"n2": 0.0, "n3": 0.0}
    world.rounds(300, 8)
    world.gpus = {}
    ledger, cluster = world.rounds(60, 8)
    assert cluster.node_entries == ()
    assert all(line.freed.money == 0.0 for line in ledger.total.lines)


def test_pools_that_are_defined_anew_let_no_node_go_or_come():
    world = World()
    world.round(16)
    world.order(16, 8)
    world.round(8)
    spec = {"pools": [{"name": "h100", "nodeSelector": {"pool": "h100"}}]}
    world.registry.upsert("ClusterResourceOptimization", {**cro_body(**spec), "status": {}})
    _, cluster = world.rounds(120, 8)
    assert [(shape.pool, shape.nodes) for shape in cluster.nodes] == [("", 4)], "that round did not know them yet"
    world.pools, world.pool = {"": PriceList(), "h100": PriceList()}, "h100"
    _, cluster = world.rounds(120, 8)
    assert [(shape.pool, shape.nodes) for shape in cluster.nodes] == [("h100", 4)]
    assert cluster.node_entries == ()
    assert all(line.freed.money == line.added.money == 0.0 for line in cluster.total.lines)


def test_a_node_whose_driver_comes_up_late_came_as_what_it_is():
    world = World()
    world.round(8)
    world.gpus = {"n9": 0.0}
    world.nodes.append("n9")
    world.round(8)
    world.gpus = {}
    _, cluster = world.rounds(60, 8)
    (entry,) = cluster.node_entries
    assert (entry.nodes, entry.shape.gpus, entry.per_hour) == (-1, 8.0, 40.0)


def test_a_round_of_a_fleet_is_soon_accounted_for():
    """Two thousand objects with books, one round of five hundred: no more than a step of a round may take."""
    registry = Registry()
    for number in range(2000):
        registry.upsert("ResourceOptimization", ro_body(f"svc-{number}", uid=f"uid-{number}"))
    registry.upsert("ClusterResourceOptimization", cro_body())
    books = SavingsBooks(registry=registry, clock=lambda: 0.0)
    work = Work("r", NOW, (), nodes={"n1": node("n1")})
    for at, replicas in ((0.0, 4), (30.0, 2)):
        services = []
        for number in range(500):
            key = ObjectKey("ResourceOptimization", "inference", f"svc-{number}")
            service = service_of(registry.get(key), facts=facts(replicas, pods=(pod(),)))
            service.key = key
            services.append(service)
        work = Work("r", UnixTime(NOW + at), (), nodes={"n1": node("n1")}, services=services)
        work.prices = {"": PriceList()}
        asyncio.run(books.observe(work))
    assert all(service.problem is None for service in services)
    assert all(service.ledger.entries[0].amount == 2 for service in services)


def test_an_object_made_anew_has_new_books_and_the_cluster_keeps_what_it_came_to():
    world = World()
    world.round(16)
    world.round(8)
    _, before = world.rounds(600, 8)
    world.books.forget(KEY)
    world.registry.upsert("ResourceOptimization", ro_body(uid="uid-2", version="11"))
    ledger, after = world.round(8)
    assert ledger is None
    assert gpu_hours(after) == pytest.approx(gpu_hours(before))


def test_metrics_count_what_the_books_do():
    def value(counter, *labels):
        return counter.labels(*labels)._value.get()

    hours = (metrics.SAVINGS_GPU_HOURS, "Others", "Measured", "freed")
    money = (metrics.SAVINGS_MONEY, "Others", "Measured", "freed", "USD")
    first = value(*hours), value(*money)
    world = World()
    world.round(16)
    world.round(8)
    world.nodes.remove("n3")
    world.books.shown(KEY, LedgerStatus(per_month_potential=100.0, gpus_potential=2.0, currency="USD"))
    ledger, cluster = world.rounds(600, 8)
    assert isinstance(cluster, ClusterLedgerStatus)
    assert value(*hours) - first[0] == pytest.approx(gpu_hours(ledger), abs=1e-4)
    told = sum(line.freed.money for line in cluster.total.lines)
    assert value(*money) - first[1] == pytest.approx(told, abs=1e-4)
    assert metrics.SAVINGS_POTENTIAL.labels("ResourceOptimization", "USD")._value.get() == 100.0
    assert metrics.SAVINGS_OPEN.labels("Others", "Measured")._value.get() == 1.0
