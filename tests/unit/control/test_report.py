"""The status after a round: what is unknown is never zero, and an idle object is written once."""

from dataclasses import fields, replace
from typing import Any

import pytest

from optiinfra.api.conditions import ConditionStatus
from optiinfra.api.reasons import Reason
from optiinfra.api.scalars import Time
from optiinfra.api.status_change import is_meaningful_change
from optiinfra.api.v1alpha1 import ResourceOptimizationStatus
from optiinfra.api.v1alpha1.action_status import MAX_ACTIONS, ActionState, ActionStatus
from optiinfra.control.cluster_report import cluster_status
from optiinfra.control.keys import ObjectKey
from optiinfra.control.memory import ObjectMemory
from optiinfra.control.report import InsightState, merge_actions, service_status
from optiinfra.control.work import ClusterWork, Effect, Problem, ServiceWork
from optiinfra.domain.cost import PriceList
from optiinfra.domain.evidence import RecommendationType
from optiinfra.domain.policy import Clamped, Limit, LimitReason
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.units import UnixTime
from optiinfra.domain.utilization import Utilization
from tests.unit.control.examples import (
    DEPLOYMENT,
    NOW,
    UNMEASURED,
    cro,
    decision,
    facts,
    pod,
    proposal,
    ro,
    scaler,
    service,
    signals,
)
from tests.unit.control.test_conditions import gpu_node

TALK = InsightState(ConditionStatus.FALSE, Reason.NOT_CONFIGURED)
UNHEARD = Unknown(UnknownReason.UNREACHABLE, "the agent does not answer")


def utilization(**changes: Any) -> Utilization:
    known: dict[str, Any] = {field.name: UNHEARD for field in fields(Utilization)}
    known |= {"measured": None, "gpus_expected": 4.0, "gpus_measured": 0, "gpu_uuids": (), "attributed_by": None}
    return Utilization(**(known | changes))


def status(work: ServiceWork, *, at: float = NOW, round_id: str = "r1") -> ResourceOptimizationStatus:
    made = service_status(work, round_id=round_id, now=UnixTime(at), insight=TALK)
    wire = made.to_wire()
    assert ResourceOptimizationStatus.model_validate(wire) == made, "what is written can be read again"
    return made


def typical(**changes: Any) -> ServiceWork:
    given: dict[str, Any] = {
        "signals": signals(),
        "utilization": utilization(gpu_ratio_mean=0.62, gpu_memory_ratio=0.9),
        "decision": decision(2),
        "clamped": Clamped(3, (LimitReason(Limit.MAX_REPLICA_STEP, "2 is more than 1 from 4"),)),
        "proposals": (proposal(),),
        "effect": Effect(effective=None, reason=Reason.RECOMMEND_ONLY),
        "facts": facts(scaler=scaler()),
    }
    return service(**(given | changes))


def test_a_typical_round_says_what_people_look_for():
    made = status(typical())
    assert made.observed_generation == 1
    assert (made.target, made.mode, made.effective) == ("vllm", "Recommend", "Unknown (RecommendOnly)")
    assert (made.replicas.current, made.replicas.desired, made.replicas.ready) == (4, 4, 4)
    assert made.desired.replicas == 3, "the number that policy left"
    assert (made.desired.rule, made.desired.reason) == ("Learned", "MaxReplicaStep")
    assert "limited: 2 is more than 1 from 4" in made.desired.message
    assert made.utilization.gpu_percent == 60
    assert made.utilization.kv_cache_percent == 50
    assert [item.proposed for item in made.recommendations] == ["2"]
    assert made.targets[0].scaler == "HorizontalPodAutoscaler/hpa"
    assert made.targets[0].uid == "uid-of-vllm"
    assert made.savings.summary == "2 GPUs"
    assert made.last_round.id == "r1"


def test_the_longest_names_still_make_a_status():
    longest = {"apiVersion": "apps/v1", "kind": "K" * 63, "name": "a" * 253}
    work = service(ro(targetRef=longest), problem=Problem(Reason.TARGET_NOT_FOUND, "m" * 5000, stalled=True))
    work.problem = work.targets[0].problem
    made = status(work)
    assert made.targets[0].target.startswith("K" * 63 + "/aaa")
    assert len(made.targets[0].target) == 253


def test_nothing_unknown_becomes_a_number():
    blind = signals(kv_cache_usage_max=UNMEASURED, running=UNMEASURED, waiting=UNMEASURED, replicas_reporting=0)
    made = status(typical(signals=blind, utilization=utilization(), decision=UNMEASURED, clamped=None, proposals=()))
    wire = made.to_wire()
    assert wire["utilization"]["gpuPercent"] == "Unreachable"
    assert wire["utilization"]["gpuMemoryPercent"] == "Unreachable"
    assert wire["utilization"]["kvCachePercent"] == "Unreachable"
    assert wire["utilization"]["batchPercent"] == "NotMeasured"
    assert "replicas" not in wire["desired"]
    assert "Unreachable" in wire["desired"]["unknown"]
    assert "savings" not in wire


def test_before_anything_was_measured_there_is_no_utilisation_at_all():
    made = status(service())
    assert (made.utilization, made.bottleneck, made.forecast, made.desired) == (None, None, None, None)
    assert made.effective == ""


def test_a_target_that_is_missing_has_no_replicas_rather_than_none_of_them():
    problem = Problem(Reason.TARGET_NOT_FOUND, "Deployment/vllm does not exist", stalled=True)
    work = service(facts=None, problem=problem)
    work.problem = problem
    made = status(work)
    assert made.replicas is None
    assert made.targets[0].replicas is None
    assert made.desired.replicas is None
    assert "does not exist" in made.desired.unknown


def test_pods_that_leave_are_not_counted():
    made = status(typical(facts=facts(2, pods=(pod("a"), pod("b"), pod("c", terminating=True)))))
    assert made.replicas.current == 2


# written once


def again(work: ServiceWork, before: ResourceOptimizationStatus) -> ServiceWork:
    """The next round of the same object: its status is what was written."""
    work.obj = work.obj.model_copy(update={"status": before})
    return work


@pytest.mark.parametrize("make", [typical, service, lambda: typical(decision=UNMEASURED, clamped=None)])
def test_an_idle_object_is_written_once(make):
    first = status(make())
    for rounds in range(1, 200):
        at = NOW + 30 * rounds
        second = status(again(make(), first), at=at, round_id=f"r{rounds}")
        assert not is_meaningful_change(first, second, now=UnixTime(at)), rounds


@pytest.mark.parametrize(
    "changes",
    [
        {"decision": decision(3), "clamped": Clamped(4, ())},
        {"decision": UNMEASURED, "clamped": None},
        {"effect": Effect(effective=False, reason=Reason.NOBODY_LISTENS)},
        {"proposals": ()},
        {"proposals": (proposal("4", "1"),)},
        {"signals": signals(replicas_reporting=0)},
        {"utilization": utilization()},
        {"problem": Problem(Reason.SEVERAL_SCALERS, "a, b")},
    ],
)
def test_what_changes_in_meaning_is_written_at_once(changes):
    first = status(typical())
    second = status(again(typical(**changes), first), at=NOW + 30)
    assert is_meaningful_change(first, second, now=UnixTime(NOW + 30))


def test_numbers_alone_wait_for_five_minutes():
    first = status(typical())
    busier = {"utilization": utilization(gpu_ratio_mean=0.81, gpu_memory_ratio=0.9)}
    for after, written in ((30, False), (299, False), (300, True)):
        second = status(again(typical(**busier), first), at=NOW + after)
        assert is_meaningful_change(first, second, now=UnixTime(NOW + after)) is written


# what stays


def test_advice_stands_while_there_are_no_fresh_facts_and_until_it_expires():
    first = status(typical())
    blind = service(facts=None, problem=Problem(Reason.API_ERROR, "x"))
    blind.problem = blind.targets[0].problem
    kept = status(again(blind, first), at=NOW + 600)
    assert kept.recommendations == first.recommendations
    assert kept.targets[0].uid == "uid-of-vllm", "who it was is still known"
    assert status(again(blind, first), at=NOW + 25 * 3600).recommendations == ()


def action(identifier: str, state: ActionState = ActionState.APPLIED, recommendation: str = "r") -> ActionStatus:
    return ActionStatus(
        id=identifier,
        recommendation_id=recommendation,
        type=RecommendationType.REPLICAS,
        state=state,
        from_="4",
        to="2",
        at=Time.of(NOW),
    )


def test_a_new_state_of_an_action_replaces_the_old_one_in_its_place():
    old = (action("a"), action("b"))
    merged = merge_actions(old, [action("a", ActionState.VERIFIED), action("c")])
    assert [(item.id, item.state) for item in merged] == [
        ("a", ActionState.VERIFIED),
        ("b", ActionState.APPLIED),
        ("c", ActionState.APPLIED),
    ]


def test_the_history_of_actions_is_bounded_and_keeps_the_newest():
    merged = merge_actions(tuple(action(f"a{number}") for number in range(40)), [action("newest")])
    assert len(merged) == MAX_ACTIONS
    assert merged[-1].id == "newest"


# variants


def test_variants_are_summed_and_a_missing_one_is_said():
    variants = [{"name": name, "targetRef": DEPLOYMENT | {"name": name}} for name in ("spot", "reserved")]
    work = service(ro(variants=variants))
    work.targets[0].decision = decision(6)
    work.targets[1].decision = decision(3)
    assert status(work).desired.replicas == 9
    work.targets[1].decision = UNMEASURED
    made = status(work)
    assert made.desired.replicas == 6
    assert "1 unknown" in made.desired.message
    assert made.targets[1].desired.replicas is None
    work.targets[0].decision = UNMEASURED
    assert status(work).desired.replicas is None


# nodes


def cluster(*nodes: Any, **spec: Any) -> ClusterWork:
    obj = cro(**spec)
    prices = {"": PriceList()} | {pool.name: PriceList(gpu_hour=4.0) for pool in obj.spec.pools}
    key = ObjectKey("ClusterResourceOptimization", "", "cluster")
    return ClusterWork(key, obj, ObjectMemory(), nodes={node.name: node for node in nodes}, prices=prices)


def test_gpus_nobody_measures_are_unknown_and_not_idle_and_not_busy():
    made = cluster_status(cluster(gpu_node("a"), gpu_node("b")), round_id="r", now=NOW)
    assert (made.summary.nodes, made.summary.gpus) == (2, 16.0)
    assert made.summary.idle_gpus == "NotMeasured"
    assert made.summary.gpu_percent == "NotMeasured"


def test_a_pool_has_its_price_and_an_unpriced_one_has_none():
    pools = [{"name": "h100", "nodeSelector": {"gpu": "h100"}}]
    node = replace(gpu_node("a"), pool="h100", gpus=8.0)
    made = cluster_status(cluster(node, pools=pools), round_id="r", now=NOW)
    assert made.pools[0].per_month >= 8 * 4.0 * 730
    unpriced = cluster(node, pools=pools)
    unpriced.prices = {"": PriceList(), "h100": PriceList()}
    pool = cluster_status(unpriced, round_id="r", now=NOW).pools[0]
    assert pool.per_month is None
    assert pool.gpus_idle is None
    empty = cluster_status(cluster(pools=pools), round_id="r", now=NOW).pools[0]
    assert (empty.nodes, empty.per_month) == (0, None)


def test_a_quiet_cluster_is_written_once():
    work = cluster(gpu_node("a"))
    first = cluster_status(work, round_id="r1", now=NOW)
    work.obj = work.obj.model_copy(update={"status": first})
    second = cluster_status(work, round_id="r2", now=UnixTime(NOW + 3600))
    assert not is_meaningful_change(first, second, now=UnixTime(NOW + 30))
