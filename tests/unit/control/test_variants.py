"""Targets of one role, decided alone and then mixed: what they need together, prices, stock, and what is left alone."""

from dataclasses import replace

import pytest

from optiinfra.control.variants import mixed_targets
from optiinfra.domain.cost import PriceList
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.replica_capacity import Basis, ReplicaCapacity
from optiinfra.domain.replica_load import ReplicaLoad, Resource
from optiinfra.domain.scaler.tuning import DEFAULT
from optiinfra.domain.scaler.variant import MixLimit, MixReason, PriceBasis
from optiinfra.domain.scaling import ScalingDecision
from optiinfra.domain.scaling_rules import Rule
from optiinfra.domain.units import Ratio, Seconds, UnixTime
from optiinfra.domain.workload import NodeFacts
from tests.unit.control.examples import NOW, facts, limits, pending, pod, ro, service

POOLS = {"spot": PriceList(gpu_hour=1.0), "rest": PriceList(gpu_hour=3.0)}
NODES = {
    name: NodeFacts(
        name=name,
        pool=name,
        gpu_model="H100",
        gpus=8.0,
        cpu_cores=64.0,
        memory_bytes=2.0**40,
        ready=True,
        unschedulable=False,
    )
    for name in POOLS
}
NOT_LEARNED = Unknown(UnknownReason.TOO_FEW_SAMPLES, "never busy")


def target_ref(name):
    return {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}


def variants(*parts):
    return ro(variants=[{"name": name, "targetRef": target_ref(name), **rest} for name, rest in parts])


def two(**spot):
    return variants(("rest", {}), ("spot", {"capacityType": "Spot", **spot}))


def decided(desired, *, current=4, capacity=1000.0, load=None, backlog=0.0, need=None, **changes):
    """A decision of a target whose load is nine tenths of its need, where nothing else is said."""
    need = desired - 0.4 if need is None else need
    busy = need * 0.9 if load is None else load
    made = ScalingDecision(
        desired=desired,
        current=current,
        floor=desired,
        rule=Rule.LEARNED,
        message="",
        confidence=Ratio(0.9),
        evidence=(),
        need=need,
        load=ReplicaLoad(busy, backlog, Resource.WORK, ((Resource.WORK, busy),)),
        capacity=ReplicaCapacity(capacity, Basis.MEASURED, 0.0, Ratio(0.95)),
        learned=None,
        history=Seconds(86_400.0),
        start_up=Seconds(180.0),
    )
    return replace(made, **changes)


def given(obj, **decisions):
    made = service(obj)
    for work in made.targets:
        name = work.target.name
        work.decision = decisions.get(name)
        if work.decision is not None and not isinstance(work.decision, Unknown):
            running(work, work.decision.current)
    return made


def running(work, replicas, *, node=None):
    name = work.target.name
    work.facts = facts(
        replicas, name=name, pods=tuple(pod(f"{name}-{number}", node=node or name) for number in range(replicas))
    )


def mixed(made, **more):
    return mixed_targets(made, NODES, now=NOW, prices=POOLS, **more)


def test_work_goes_to_the_cheaper_nodes_as_far_as_its_share_and_the_rest_stays_until_it_is_ready():
    made = given(two(maxShare="40%"), rest=decided(5, current=5), spot=decided(1, current=1))
    found = mixed(made)
    assert {name: one.choice.settled for name, one in found.items()} == {"rest": 4, "spot": 2}
    assert found["spot"].desired == 2
    assert found["rest"].desired == 5
    assert found["rest"].choice.reason is MixReason.UNTIL_READY
    assert found["rest"].mix.basis is PriceBasis.PRICE
    # Pods without requests of CPU and memory cost their GPU: four at 3 and two at 1.
    assert found["rest"].mix.price == pytest.approx(14.0)


def test_a_target_that_is_alone_in_its_role_or_not_decided_keeps_its_own_decision():
    assert mixed(given(ro(), vllm=decided(4))) is None
    assert mixed(given(two(), rest=decided(4), spot=None)) is None
    assert mixed(given(two(), rest=decided(4), spot=NOT_LEARNED)) is None
    assert mixed(given(two(), rest=decided(4), spot=decided(2, rule=Rule.PAUSED))) is None
    nothing = given(two(), rest=decided(4, capacity=NOT_LEARNED), spot=decided(2, capacity=NOT_LEARNED))
    assert mixed(nothing) is None


def test_prefill_and_decode_are_mixed_apart():
    obj = variants(
        ("pre-a", {"role": "Prefill"}),
        ("pre-b", {"role": "Prefill"}),
        ("dec-a", {"role": "Decode"}),
    )
    made = given(
        obj, **{"pre-a": decided(4, current=4), "pre-b": decided(2, current=2), "dec-a": decided(9, current=3)}
    )
    found = mixed(made)
    assert set(found) == {"pre-a", "pre-b"}
    assert found["pre-a"].mix.need == found["pre-b"].mix.need <= 6000.0


def test_a_load_that_moved_is_not_asked_for_twice():
    # The rest's decision still holds the four replicas it had; its load of this moment is nine tenths of one.
    made = given(
        two(),
        rest=decided(4, current=1, need=4.4, load=0.9),
        spot=decided(4, current=4, need=3.4, load=3.1),
    )
    need = mixed(made)["spot"].mix.need
    assert need <= 5000.0
    queued = given(
        two(),
        rest=decided(4, current=1, need=4.4, load=0.9, backlog=60.0),
        spot=decided(4, current=4, need=3.4, load=3.1),
    )
    assert mixed(queued)["spot"].mix.need == pytest.approx(7800.0 - 150.0)


def test_nothing_is_given_back_that_a_decision_knows_a_reason_to_keep():
    def total(**changes):
        made = given(
            two(),
            rest=decided(1, current=6, need=1.0, **changes),
            spot=decided(1, current=2, need=1.0),
        )
        return mixed(made)["rest"].mix.need

    free = total()
    assert free == pytest.approx(2000.0 + DEFAULT.shrink_slack_share * 8000.0)
    assert total(shrink_blocked=("requests wait",)) == pytest.approx(7000.0)
    peaks = given(
        two(),
        rest=decided(5, current=6, need=1.0, load=0.9, rule=Rule.PEAKS),
        spot=decided(1, current=2, need=1.0),
    )
    assert mixed(peaks)["rest"].mix.need == pytest.approx(6000.0)


def test_a_count_that_somebody_set_is_respected():
    made = given(
        two(),
        rest=decided(6, current=6, need=1.0, rule=Rule.CHANGED_BY_OTHERS),
        spot=decided(2, current=2, need=1.0),
    )
    assert mixed(made)["rest"].desired == 6
    made.targets[0].memory.ordered = 6
    assert mixed(made)["rest"].desired < 6


def test_pods_that_find_no_node_make_a_variant_stocked_out_after_five_minutes():
    def waiting(seconds):
        made = given(two(), rest=decided(4, current=4), spot=decided(4, current=4))
        spot = made.targets[1]
        waits = pending("spot-9", created=UnixTime(NOW - 4000), unschedulable_since=UnixTime(NOW - seconds))
        spot.facts = replace(spot.facts, pods=(*spot.facts.pods[:2], waits, waits), ready_replicas=2)
        return mixed(made)["spot"].choice

    assert waiting(301.0).reason is MixReason.STOCKED_OUT
    assert (waiting(301.0).settled, waiting(301.0).desired) == (2, 4)
    assert waiting(200.0).reason is not MixReason.STOCKED_OUT


def test_what_nobody_can_weigh_yet_does_not_grow_but_its_lack_is_asked_of_the_others():
    made = given(
        two(),
        rest=decided(4, current=4, need=3.9),
        spot=decided(4, current=2, capacity=NOT_LEARNED),
    )
    found = mixed(made)
    assert found["spot"].desired == 2
    assert found["spot"].choice.reason is MixReason.CAPACITY_UNKNOWN
    assert found["rest"].mix.need == pytest.approx(5900.0 - 150.0)
    assert found["rest"].desired == 6


def test_a_guessed_capacity_sizes_its_own_target_and_moves_no_work():
    guess = ReplicaCapacity(5000.0, Basis.OCCUPANCY, 900.0, Ratio(0.6))
    made = given(two(), rest=decided(4, current=4), spot=decided(2, current=2))
    made.targets[1].decision = replace(made.targets[1].decision, capacity=guess)
    found = mixed(made)
    assert {name: one.desired for name, one in found.items()} == {"rest": 4, "spot": 2}
    for work in made.targets:
        work.decision = replace(work.decision, capacity=guess)
    assert mixed(made) is None


def test_without_prices_gpus_are_compared():
    made = given(two(), rest=decided(4, current=4), spot=decided(2, current=2))
    found = mixed_targets(made, {}, now=NOW)
    assert found["rest"].mix.basis is PriceBasis.GPUS
    assert isinstance(found["rest"].mix.price, Unknown)


def test_a_group_of_pods_is_one_replica():
    made = given(two(), rest=decided(2, current=2), spot=decided(2, current=2))
    rest = made.targets[0]
    pods = [pod(f"rest-{group}{worker}", node="rest", gpus=8.0) for group in range(2) for worker in ("", "-1")]
    rest.facts = replace(rest.facts, kind="LeaderWorkerSet", pods=tuple(pods))
    found = mixed(made)
    # Each of its replicas is sixteen GPUs at 3 an hour, each of the other's one at 1.
    assert found["rest"].mix.settled == {"rest": 2, "spot": 2}
    assert found["rest"].mix.price == pytest.approx(2 * 48.0 + 2 * 1.0)


def test_limits_hold_and_a_need_that_they_do_not_allow_says_so():
    made = given(two(), rest=decided(9, current=4, need=9.0), spot=decided(2, current=2))
    for work in made.targets:
        work.limits = limits(maximum=4)
    found = mixed(made)
    assert {name: one.desired for name, one in found.items()} == {"rest": 4, "spot": 4}
    assert [one.limit for one in found["rest"].mix.shortfalls] == [MixLimit.MAXIMUM]


def test_a_move_ends_soon_and_serves_all_along():
    """Load follows the ready replicas; each decision holds for forty minutes the most that its target ever had."""
    offered, start_up = 4000.0, 6
    asked, due, past = {"rest": 6, "spot": 1}, {"rest": [], "spot": []}, {"rest": [], "spot": []}
    most = changed = 0
    for step in range(160):
        ready = {name: asked[name] - len(waits) for name, waits in due.items()}
        each = offered / sum(ready.values()) / 1000.0
        decisions = {}
        for name, count in ready.items():
            past[name] = [*past[name], each * count][-80:]
            need = 1.1 * max(past[name])
            decisions[name] = decided(
                max(1, round(need + 0.5)), current=asked[name], need=need, load=each * count, rule=Rule.LEARNED
            )
        made = given(variants(("rest", {}), ("spot", {})), **decisions)
        for work in made.targets:
            work.facts = replace(work.facts, ready_replicas=ready[work.target.name])
        found = mixed(made)
        for name, one in found.items():
            # What is taken away is what is not ready yet, first.
            gone = max(0, asked[name] - one.desired)
            due[name] = sorted(moment for moment in due[name] if moment > step)[: max(0, len(due[name]) - gone)]
            due[name] += [step + start_up] * max(0, one.desired - asked[name])
            changed = changed if asked[name] == one.desired else step
            asked[name] = one.desired
        most = max(most, sum(asked.values()))
        serving = sum(asked[name] - len(waits) for name, waits in due.items())
        assert serving * 1000.0 >= 1.1 * offered * (1.0 - 1e-6)
    # All but the dear one's minimum went to the cheap nodes: 4.4 replicas are needed.
    assert asked == {"rest": 1, "spot": 4}
    assert most <= 11
    assert changed <= 20
