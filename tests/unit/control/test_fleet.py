"""Limits over all objects: who gets the GPUs of a short pool, and how much falls at one time."""

from dataclasses import replace

import pytest

from optiinfra.api.reasons import Reason
from optiinfra.control.fleet import SETTLING, WISH_LASTS, survey
from optiinfra.control.keys import ObjectKey
from optiinfra.control.memory import ObjectMemory
from optiinfra.control.plan import plan
from optiinfra.control.pool_limits import within_limits
from optiinfra.control.registry import Registry
from optiinfra.control.work import ClusterWork, Fleet, Problem, ServiceWork, Work
from optiinfra.domain.policy import Axis
from optiinfra.domain.replica_shape import ReplicaShape
from optiinfra.domain.shrink_budget import Amount, ShrinkLimits
from optiinfra.domain.units import UnixTime
from tests.unit.control.examples import NOW, cro, cro_body, decision, facts, limits, pod, ro, ro_body, service

POOLS = {"h100": 40.0}


def member(name: str, desired: int, *, current: int = 4, gpus: float = 2.0, minimum: int = 1, **spec) -> ServiceWork:
    """An object of pool h100 in mode Auto whose replicas have two GPUs each."""
    obj = ro(name, uid=name, mode="Auto", poolRef={"name": "h100"}, **spec)
    work = service(obj, decision=decision(desired, current=current))
    target = work.targets[0]
    pods = tuple(pod(f"{name}-{number}", gpus=gpus) for number in range(current))
    target.facts = facts(current, name=name, pods=pods)
    target.limits = limits(minimum=minimum, maximum=40, max_replica_step=40, max_gpu_step=400, gpus_per_replica=gpus)
    if current:
        target.memory.shape = ReplicaShape(1, gpus)
    return work


def run(*services: ServiceWork, at: float = NOW, cluster: ClusterWork | None = None, **fleet) -> Work:
    works = list(services)
    batch = Work(round_id="r", at=UnixTime(at), keys=tuple(w.key for w in works), services=works, fleet=Fleet(**fleet))
    batch.clusters = [cluster] if cluster is not None else []
    return plan(batch, actuation_enabled=True, stop=None)


def orders(*services: ServiceWork, **how) -> list[int | None]:
    run(*services, **how)
    return [work.targets[0].order for work in services]


def limited(work: ServiceWork) -> list[str]:
    return [str(reason.limit) for reason in work.targets[0].clamped.reasons]


def test_a_pool_that_is_large_enough_changes_nothing():
    a, b = member("a", 8), member("b", 12)
    assert orders(a, b, gpu_budgets=POOLS) == [8, 12]
    assert limited(a) == limited(b) == []


def test_a_short_pool_goes_to_the_higher_priority_first():
    chat, batch = member("chat", 14, priority=200), member("batch", 14, priority=50)
    assert orders(chat, batch, gpu_budgets=POOLS) == [14, 6]
    assert limited(batch) == ["PoolBudget"]
    message = batch.targets[0].clamped.reasons[0].message
    assert "pool h100: 16 of 40 GPUs" in message
    assert "priority 50 gets 6 replicas" in message


def test_equal_priorities_share_what_is_left_and_weights_count():
    assert orders(member("a", 20), member("b", 20), gpu_budgets=POOLS) == [10, 10]
    assert orders(member("a", 20, weight=3), member("b", 20), gpu_budgets=POOLS) == [15, 5]


def test_the_budget_takes_nothing_from_what_runs():
    high, low = member("high", 20, current=2, priority=200), member("low", 18, current=18, priority=1)
    assert orders(high, low, gpu_budgets=POOLS) == [2, 18]
    assert limited(high) == ["PoolBudget"]
    assert limited(low) == []


def test_the_users_minimum_stands_above_the_budget_because_the_scaler_enforces_it_anyway():
    needed = member("a", 12, current=4, minimum=6)
    assert orders(needed, gpu_budgets={"h100": 8.0}) == [6]


def test_another_pool_and_no_pool_are_not_bound():
    assert orders(member("a", 20), gpu_budgets={"a100": 4.0}) == [20]
    free = service(ro("free", uid="f", mode="Auto"), decision=decision(8))
    assert orders(free, gpu_budgets={"": 0.0, "h100": 0.0}) == [8]


def test_replicas_that_are_going_away_still_hold_their_gpus():
    leaving = member("a", 2, current=2)
    pods = tuple(pod(f"a-{number}", gpus=2.0, terminating=number >= 2) for number in range(10))
    leaving.targets[0].facts = replace(leaving.targets[0].facts, pods=pods)
    other = member("b", 20, current=4)
    assert orders(leaving, other, gpu_budgets=POOLS) == [2, 10], "20 of 40 GPUs are still in use by a"


def test_what_was_ordered_is_held_already():
    first, second = member("a", 16), member("b", 16)
    assert orders(first, second, gpu_budgets=POOLS) == [10, 10]
    for work in (first, second):
        work.targets[0].memory.ordered = work.targets[0].order
    again = [member("a", 16), member("b", 16)]
    for work, before in zip(again, (first, second), strict=True):
        work.targets[0].memory.ordered = before.targets[0].order
        work.targets[0].memory.ordered_at = NOW - 60.0
    assert orders(*again, gpu_budgets=POOLS, at=NOW + 60.0) == [10, 10], "the scaler has not followed yet"


def test_without_a_replica_nobody_knows_its_gpus_and_it_waits():
    asleep = member("a", 3, current=0, minimum=0)
    assert orders(asleep, gpu_budgets=POOLS) == [0]
    assert "no replica was seen yet" in asleep.targets[0].clamped.reasons[-1].message
    asleep.targets[0].memory.shape = ReplicaShape(1, 2.0)
    assert orders(asleep, gpu_budgets=POOLS) == [3], "a replica was seen before"


def test_those_that_may_not_act_reserve_nothing():
    idle = member("a", 20, priority=900, suspend=True)
    recommended = member("c", 20, priority=900, modes={"scaleUp": "Recommend", "scaleDown": "Recommend"})
    wanting = member("b", 12)
    assert orders(idle, recommended, wanting, gpu_budgets=POOLS) == [None, None, 12]
    rehearsed = member("d", 20, priority=900)
    rehearsed.dry_run = True
    other = member("e", 12)
    run(rehearsed, other, gpu_budgets=POOLS)
    assert other.targets[0].order == 12


def known(*names: str, spec=None, **cluster) -> tuple[Registry, dict[ObjectKey, ObjectMemory]]:
    registry = Registry()
    for name in names:
        registry.upsert("ResourceOptimization", ro_body(name, uid=name, mode="Auto", poolRef={"name": "h100"}))
    pools = [{"name": "h100", "nodeSelector": {"gpu": "h100"}, "gpuBudget": 40}]
    registry.upsert("ClusterResourceOptimization", cro_body(pools=pools, **cluster))
    return registry, {}


def surveyed(registry, memories, *services, at=NOW):
    work = Work(round_id="r", at=UnixTime(at), keys=tuple(one.key for one in services), services=list(services))
    work.fleet = survey(work, registry, memories, lambda: ())
    return work


def test_an_object_of_another_round_counts_with_what_it_holds_and_wants():
    registry, memories = known("high", "low")
    high = member("high", 16, priority=200)
    first = surveyed(registry, memories, high)
    first.fleet = replace(first.fleet, unread={})
    plan(first, actuation_enabled=True, stop=None)
    memories[high.key] = high.memory
    low = member("low", 16)
    second = surveyed(registry, memories, low)
    plan(second, actuation_enabled=True, stop=None)
    assert high.targets[0].order == 16
    assert low.targets[0].order == 4
    # A wish that nobody repeats is forgotten after a while; what is held never is.
    high.targets[0].memory.ordered = None
    late = surveyed(registry, memories, member("low", 16), at=NOW + WISH_LASTS + 1.0)
    plan(late, actuation_enabled=True, stop=None)
    assert late.services[0].targets[0].order == 16, "20 replicas of two GPUs: four are held by the other"


def test_until_every_object_of_the_pool_was_read_nobody_grows_and_it_says_who_is_missing():
    registry, memories = known("a", "b")
    a = member("a", 16)
    work = surveyed(registry, memories, a)
    plan(work, actuation_enabled=True, stop=None)
    assert a.targets[0].order == 4
    assert "what ro/inference/b holds" in limits_text(a)
    gone = member("b", 4)
    gone.targets[0].facts = None
    gone.targets[0].problem = gone.problem = Problem(Reason.TARGET_NOT_FOUND, "it does not exist", stalled=True)
    both = surveyed(registry, memories, member("a", 16), gone)
    plan(both, actuation_enabled=True, stop=None)
    assert both.services[0].targets[0].order == 16, "what does not exist holds nothing"
    silent = member("b", 4)
    silent.targets[0].facts = None
    silent.targets[0].problem = silent.problem = Problem(Reason.API_ERROR, "no answer")
    silent.targets[0].memory.standing = None
    third = surveyed(registry, memories, member("a", 16), silent)
    plan(third, actuation_enabled=True, stop=None)
    assert third.services[0].targets[0].order == 4


def limits_text(work: ServiceWork) -> str:
    return "; ".join(reason.message for reason in work.targets[0].clamped.reasons)


def test_the_cluster_object_tells_who_waits_and_who_holds_too_much():
    def judged(*services, budget):
        cluster = ClusterWork(ObjectKey("ClusterResourceOptimization", "", "cluster"), cro(), ObjectMemory())
        run(*services, gpu_budgets={"h100": budget}, cluster=cluster)
        wanted = within_limits(cluster)
        return str(wanted.status), wanted.reason, wanted.message

    assert judged(member("a", 8), budget=40.0)[:2] == ("True", Reason.SUCCEEDED)
    status, reason, message = judged(member("a", 8), member("b", 16), budget=40.0)
    assert (status, reason) == ("True", Reason.POOL_SHORT)
    assert "8 more wanted by inference/b" in message
    assert judged(member("a", 8, current=8), budget=10.0)[:2] == ("False", Reason.POOL_OVER_GPU_BUDGET)


# falls


def test_no_more_falls_at_one_time_than_the_cluster_allows():
    services = [member(name, 1, current=4) for name in ("a", "b", "c")]
    assert orders(*services, shrink_limits=ShrinkLimits(replicas=4)) == [1, 3, 4]
    assert [limited(work) for work in services] == [[], ["ShrinkBudget"], ["ShrinkBudget"]]
    assert "maxReplicas 4; 4 replicas, 4 pods and 8 GPUs" in limits_text(services[2])


def test_falls_are_counted_in_gpus_and_pods_too():
    assert orders(member("a", 1, current=4, gpus=8.0), shrink_limits=ShrinkLimits(gpus=20.0)) == [2]
    assert orders(member("a", 1, current=4), shrink_limits=ShrinkLimits(pods=1)) == [3]
    assert orders(member("a", 1, current=4), shrink_limits=ShrinkLimits(replicas=0)) == [4]


def test_who_waited_longest_comes_first():
    first, second = member("a", 2), member("b", 2)
    first.targets[0].memory.policy = first.targets[0].memory.policy.changed(Axis.SCALE_DOWN, at=UnixTime(NOW - 1000))
    assert orders(first, second, shrink_limits=ShrinkLimits(replicas=2)) == [4, 2]


def test_a_fall_counts_until_it_was_verified_and_not_for_ever():
    a, b = member("a", 2), member("b", 2)
    budget = ShrinkLimits(replicas=2)
    assert orders(a, b, shrink_limits=budget) == [2, 4]
    memory = a.targets[0].memory
    memory.ordered, memory.ordered_at = 2, NOW
    memory.policy = memory.policy.changed(Axis.SCALE_DOWN, at=NOW, in_flight="act-1")
    assert orders(a, b, shrink_limits=budget) == [2, 4], "it is not followed yet"
    a.targets[0].decision, a.targets[0].facts = decision(2, current=2), facts(2)
    assert orders(a, b, shrink_limits=budget) == [2, 4], "it is not verified yet"
    memory.policy = replace(memory.policy, in_flight="")
    assert orders(a, b, shrink_limits=budget) == [2, 2]
    unfollowed = member("a", 2)
    unfollowed.targets[0].memory.falling = replace(b.targets[0].memory.falling, until=UnixTime(NOW + SETTLING))
    assert orders(unfollowed, member("c", 2), shrink_limits=budget)[1] == 4


def test_a_fall_that_is_taken_back_frees_its_place():
    a, b = member("a", 2), member("b", 2)
    budget = ShrinkLimits(replicas=2)
    run(a, b, shrink_limits=budget)
    a.targets[0].decision = decision(4, current=4)
    assert orders(a, b, shrink_limits=budget) == [4, 2]
    assert a.targets[0].memory.falling is None


def test_a_fall_of_another_round_counts():
    falling = Amount(2, 2, 4.0)
    assert orders(member("a", 1), shrink_limits=ShrinkLimits(replicas=3), falling=falling) == [3]


@pytest.mark.parametrize("desired", [1, 2, 3])
def test_the_maximum_of_the_user_is_enforced_at_once_whatever_the_budget(desired):
    work = member("a", desired, current=6)
    work.targets[0].limits = limits(maximum=3, gpus_per_replica=2.0)
    assert orders(work, shrink_limits=ShrinkLimits(replicas=0)) == [3]
