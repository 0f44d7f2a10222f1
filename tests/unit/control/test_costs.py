"""What services and pools cost: in status, in conditions, in metrics; and when that is worth a write."""

from dataclasses import replace

import pytest

from optiinfra import metrics
from optiinfra.api.conditions import ConditionStatus, ConditionType
from optiinfra.api.reasons import Reason
from optiinfra.api.status_change import is_meaningful_change
from optiinfra.api.status_cost import to_cost
from optiinfra.control import costs
from optiinfra.control.cluster_report import cluster_status
from optiinfra.control.conditions import cluster_conditions, service_conditions
from optiinfra.control.keys import ObjectKey
from optiinfra.control.memory import ObjectMemory
from optiinfra.control.prices import PriceBoard
from optiinfra.control.registry import Registry
from optiinfra.control.report import InsightState, service_status
from optiinfra.control.work import ClusterWork, ServiceWork, Work
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.token_cost import Basis, Charge
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.domain.utilization import summarise
from optiinfra.domain.workload import NodeFacts
from tests.unit.control.examples import NOW, cro, facts, pod, ro_body, service, signals

P5 = {"node.kubernetes.io/instance-type": "p5.48xlarge", "topology.kubernetes.io/region": "us-east-1"}
TALK = InsightState(ConditionStatus.FALSE, Reason.NOT_CONFIGURED)


def node(name: str = "n", *, pool: str = "", **labels: str) -> NodeFacts:
    return NodeFacts(
        name, pool, "NVIDIA-H100-80GB-HBM3", 8.0, 190.0, 1900 * 2.0**30, ready=True, unschedulable=False, labels=labels
    )


def work_of(*nodes: NodeFacts, spec=None) -> Work:
    named = {one.name: one for one in nodes}
    priced = PriceBoard(clock=lambda: 0.0).price(named, spec)
    return Work("r", NOW, (), nodes=named, prices=priced.pools, node_prices=priced.nodes)


def served(*pods, **rates) -> ServiceWork:
    given = {"prompt_token_rate": 1000.0, "generation_token_rate": 250.0} | rates
    made = service(facts=replace(facts(), pods=pods), signals=signals(**given))
    made.currency = "USD"
    target = made.targets[0]
    used = summarise(target.facts, {}, now=NOW, window=Seconds(60.0), stale_after=Seconds(45.0))
    target.utilization = replace(used, gpu_ratio_mean=0.5)
    return made


def replica(name: str = "a", *, on: str = "n", gpus: float = 4.0, **changes):
    return pod(name, node=on, gpus=gpus, cpu_request_cores=40.0, memory_request_bytes=400 * 2.0**30, **changes)


def rounds(made: ServiceWork, work: Work, *, count: int = 30) -> ServiceWork:
    for index in range(count):
        costs.measure(made, work, now=UnixTime(NOW + 30.0 * index))
    return made


def condition(made, kind=ConditionType.PRICES_KNOWN):
    wanted = service_conditions(made, TALK) if isinstance(made, ServiceWork) else cluster_conditions(made)
    return next(one for one in wanted if one.type is kind)


def test_two_halves_of_a_node_cost_what_they_ask_for_of_it():
    made = rounds(served(replica("a"), replica("b")), work_of(node(**P5)))
    cost = made.cost
    assert 40.0 < cost.held < 55.04, "all GPUs, a part of the rest"
    assert cost.per_replica == pytest.approx(cost.held / 2)
    assert cost.held / 2 < cost.used < cost.held
    status = to_cost(cost)
    assert status.per_hour.value == pytest.approx(cost.held, rel=0.05)
    assert (status.currency, len(status.per_million_tokens)) == ("USD", 6)
    (source,) = status.sources
    assert (source.source, source.as_of, source.priced) == ("ListPrice", "2026-01-19", 2)
    assert condition(made).status is ConditionStatus.TRUE


def test_the_price_of_tokens_is_in_the_status_by_name():
    made = rounds(served(replica()), work_of(node(**P5)))
    status = to_cost(made.cost)
    found = {(one.basis, one.charge): one for one in status.per_million_tokens}
    weighted = found[Basis.WEIGHTED, Charge.HELD]
    assert weighted.prompt.value == pytest.approx(made.cost.held / (2000 * 3600) * 1e6, rel=0.05)
    assert found[Basis.GENERATED, Charge.HELD].generation.value == pytest.approx(
        made.cost.held / (250 * 3600) * 1e6, rel=0.05
    )
    assert "Unsupported" in found[Basis.GENERATED, Charge.HELD].prompt.unknown
    assert "NotMeasured" in found[Basis.TIME, Charge.HELD].prompt.unknown
    assert found[Basis.WEIGHTED, Charge.USED].prompt.value < weighted.prompt.value


@pytest.mark.parametrize(
    ("labels", "spec", "reason", "words"),
    [
        ({}, None, Reason.PRICE_MISSING, "nobody says what"),
        (P5 | {"karpenter.sh/capacity-type": "spot"}, None, Reason.PRICE_MISSING, "prices.spotFactor"),
        (P5, {"currency": "EUR"}, Reason.CURRENCY_MISMATCH, "nothing is converted"),
        (P5, {"prices": {"gpuHour": "0"}}, Reason.PRICE_INVALID, "a price of zero"),
    ],
)
def test_what_has_no_price_is_told_without_money_and_why(labels, spec, reason, words):
    parsed = cro(**spec).spec if spec else None
    made = rounds(served(replica()), work_of(node(**labels), spec=parsed))
    told = condition(made)
    assert (told.status, told.reason) == (ConditionStatus.FALSE, reason)
    assert words in told.message
    status = to_cost(made.cost)
    for amount in (status.per_hour, status.used_per_hour, status.per_replica_hour):
        assert amount.value is None
        assert amount.unknown
    for one in status.per_million_tokens:
        assert one.prompt.value is None
        assert one.generation.value is None
    # the node's own object says the same
    key = ObjectKey("ClusterResourceOptimization", "", "cluster")
    work = work_of(node(**labels), spec=parsed)
    cluster = ClusterWork(key, cro(**(spec or {})), ObjectMemory(), work.nodes, work.prices, work.node_prices)
    assert condition(cluster).reason is reason


def test_a_waiting_pod_costs_nothing_and_without_any_pod_nothing_is_known():
    work = work_of(node(**P5))
    one = rounds(served(replica("a")), work)
    two = rounds(served(replica("a"), replica("b", on="")), work)
    assert two.cost.held == pytest.approx(one.cost.held)
    none = rounds(served(replica("b", on="")), work)
    assert isinstance(none.cost.held, Unknown)
    assert (condition(none).status, condition(none).reason) == (ConditionStatus.UNKNOWN, Reason.NO_PODS)
    assert condition(service()).reason is Reason.NOT_YET_ANALYZED


def test_where_no_nodes_are_seen_gpus_have_no_price():
    made = rounds(served(replica()), work_of())
    assert "scope Namespaces" in str(made.cost.held)
    assert condition(made).reason is Reason.PRICE_MISSING


def test_tokens_that_nobody_counts_leave_the_cost():
    missing = Unknown(UnknownReason.UNREACHABLE, "no page")
    made = rounds(served(replica(), prompt_token_rate=missing), work_of(node(**P5)))
    assert not isinstance(made.cost.held, Unknown)
    assert all(
        "no page" in one.prompt.unknown or one.basis is Basis.GENERATED for one in to_cost(made.cost).per_million_tokens
    )


def status_of(made: ServiceWork, now: float):
    return service_status(made, round_id="r", now=UnixTime(now), insight=TALK)


def test_a_change_of_cost_alone_is_written_every_five_minutes_at_most():
    made = rounds(served(replica()), work_of(node(**P5)))
    old = status_of(made, NOW)
    assert old.cost is not None
    made.cost = replace(made.cost, held=made.cost.held * 1.5, used=made.cost.used * 1.5)
    new = status_of(made, NOW + 60.0)
    assert not is_meaningful_change(old, new, now=UnixTime(NOW + 299.0))
    assert is_meaningful_change(old, new, now=UnixTime(NOW + 301.0))
    gone = Unknown(UnknownReason.NOT_CONFIGURED, "x")
    made.cost = replace(made.cost, held=gone, used=gone, per_replica=gone)
    assert is_meaningful_change(old, status_of(made, NOW + 60.0), now=UnixTime(NOW + 61.0))


def test_a_price_of_today_instead_of_yesterday_is_no_news():
    made = rounds(served(replica()), work_of(node(**P5)))
    old = status_of(made, NOW)
    ((origin, count),) = made.cost.origins
    made.cost = replace(made.cost, origins=((replace(origin, as_of="2026-11-22"), count),))
    assert not is_meaningful_change(old, status_of(made, NOW + 86400.0), now=UnixTime(NOW + 86400.0))
    made.cost = replace(made.cost, origins=((replace(origin, detail="elsewhere"), count),))
    assert is_meaningful_change(old, status_of(made, NOW + 60.0), now=UnixTime(NOW + 60.0))


def test_noise_is_no_change():
    made = rounds(served(replica()), work_of(node(**P5)))
    old = status_of(made, NOW)
    made.cost = replace(made.cost, held=made.cost.held * 1.0001)
    assert not is_meaningful_change(old, status_of(made, NOW + 600.0), now=UnixTime(NOW + 600.0))


def test_a_pool_costs_what_its_nodes_cost_and_says_by_whose_prices():
    spec = {
        "pools": [
            {
                "name": "h100",
                "nodeSelector": {"gpu": "h100"},
                "prices": {"committed": {"share": "50%", "factor": "60%"}},
            }
        ]
    }
    obj = cro(**spec)
    nodes = [node("a", pool="h100", **P5), node("b", pool="h100", **P5), node("c", **P5)]
    work = work_of(*nodes, spec=obj.spec)
    key = ObjectKey("ClusterResourceOptimization", "", "cluster")
    cluster = ClusterWork(key, obj, ObjectMemory(), work.nodes, work.prices, work.node_prices)
    (pool,) = cluster_status(cluster, round_id="r", now=NOW).pools
    assert pool.per_month == pytest.approx(2 * 55.04 * 0.8 * 730, rel=0.001)
    assert [(one.source, one.priced) for one in pool.price_sources] == [("ListPrice", 2)]
    assert condition(cluster).status is ConditionStatus.TRUE
    costs.remember_pools(cluster)
    assert cluster.memory.pool_hours[("h100", "USD")] == pytest.approx(2 * 55.04 * 0.8)
    assert cluster.memory.pool_hours[("", "USD")] == pytest.approx(55.04)


def test_one_node_without_a_price_takes_the_pool_s_money_away():
    spec = {"pools": [{"name": "h100", "nodeSelector": {"gpu": "h100"}}]}
    obj = cro(**spec)
    nodes = [node("a", pool="h100", **P5), *(node(f"b{i}", pool="h100") for i in range(7))]
    work = work_of(*nodes, spec=obj.spec)
    key = ObjectKey("ClusterResourceOptimization", "", "cluster")
    cluster = ClusterWork(key, obj, ObjectMemory(), work.nodes, work.prices, work.node_prices)
    (pool,) = cluster_status(cluster, round_id="r", now=NOW).pools
    assert pool.per_month is None
    message = condition(cluster).message
    assert "node b0: nobody says" in message
    assert "the same holds for b1, b2, b3, b4 and 2 more" in message


def test_metrics_show_what_is_known_and_nothing_else():
    made = rounds(served(replica()), work_of(node(**P5)))
    missing = Unknown(UnknownReason.NOT_CONFIGURED, "x")
    costs.show([("inference", "svc", made.cost)], {("h100", "USD"): 12.5, ("l4", "USD"): missing})
    value = metrics.REGISTRY.get_sample_value
    names = {"namespace": "inference", "name": "svc", "currency": "USD"}
    assert value("optiinfra_service_cost_per_hour", names | {"charge": "Held"}) == pytest.approx(made.cost.held)
    tokens = names | {"charge": "Held", "basis": "Weighted", "kind": "generation"}
    assert value("optiinfra_service_cost_per_million_tokens", tokens) > 0.0
    assert value("optiinfra_service_cost_per_million_tokens", tokens | {"basis": "Time"}) is None
    assert value("optiinfra_pool_cost_per_hour", {"pool": "h100", "currency": "USD"}) == 12.5
    assert value("optiinfra_pool_cost_per_hour", {"pool": "l4", "currency": "USD"}) is None
    costs.show([], {})
    assert value("optiinfra_service_cost_per_hour", names | {"charge": "Held"}) is None


def test_a_cost_that_cannot_be_worked_out_leaves_no_old_number():
    made = rounds(served(replica()), work_of(node(**P5)))
    broken = work_of(node(**P5))
    broken.node_prices = None
    with pytest.raises(AttributeError):
        costs.measure(made, broken, now=UnixTime(NOW + 3600.0))
    assert made.cost is made.memory.cost is None


def test_what_is_gone_or_broken_has_no_series():
    made = rounds(served(replica()), work_of(node(**P5)))
    registry, key = Registry(), made.key
    registry.upsert("ResourceOptimization", ro_body())
    memories = {key: made.memory}
    labels = {"namespace": key.namespace, "name": key.name, "currency": "USD", "charge": "Held"}

    def shown():
        costs.show_known(registry, memories)
        return metrics.REGISTRY.get_sample_value("optiinfra_service_cost_per_hour", labels)

    assert shown() == pytest.approx(made.cost.held)
    registry.upsert("ResourceOptimization", ro_body(version="11", generation=2, mode="Sometimes"))
    assert shown() is None
    registry.upsert("ResourceOptimization", ro_body(version="12", generation=3))
    assert shown() is not None
    registry.remove(key)
    assert shown() is None


def test_a_group_of_pods_is_one_replica():
    members = (replica("vllm-0", on="n"), replica("vllm-0-1", on="n"))
    made = served(*members)
    target = made.targets[0]
    target.facts = replace(target.facts, kind="LeaderWorkerSet", name="vllm")
    rounds(made, work_of(node(**P5)))
    assert made.cost.per_replica == pytest.approx(made.cost.held)
