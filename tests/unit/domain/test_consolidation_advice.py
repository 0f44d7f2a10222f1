"""What is advised beside the plan: seen spreading, the scheduler's profile, autoscalers, and who scales in first."""

import random

import pytest
import yaml

from optiinfra.domain.consolidation import ClusterFacts, DrainPolicy, plan
from optiinfra.domain.consolidation.advice import (
    DELETION_COST,
    PACKED_UTILIZATION,
    SPREAD_UTILIZATION,
    autoscaler_advice,
    deletion_cost_advice,
    scheduler_advice,
)
from optiinfra.domain.consolidation.scheduling import LEAST_PLACEMENTS, Habit, HabitKind, habit_of
from optiinfra.domain.pod_rules import NO_RULES, PodRules, PodTerm
from optiinfra.domain.readings import Unknown
from tests.unit.domain.drained import NOW, node, pod


def filled(choose, *, pods=40, nodes=8, rules=NO_RULES, every=1.0):
    """A cluster as a scheduler leaves it that chooses among the nodes with room by `choose(loads)`."""
    draw = random.Random(5)
    held: list[list] = [[] for _ in range(nodes)]
    loads = [0.0] * nodes
    for number in range(pods):
        gpus = draw.choice([1.0, 1.0, 2.0])
        fits = [index for index in range(nodes) if loads[index] + gpus <= 8.0]
        if not fits:
            break
        index = choose(draw, fits, loads)
        loads[index] += gpus
        held[index].append(pod(f"p{number}", gpus, scheduled=NOW + every * number, rules=rules))
    return [node(f"n{index}", *here) for index, here in enumerate(held)]


def spreading(_, fits, loads):
    return min(fits, key=lambda index: loads[index])


def packing(_, fits, loads):
    return max(fits, key=lambda index: loads[index])


def by_chance(draw, fits, _):
    return draw.choice(fits)


@pytest.mark.parametrize(
    ("choose", "kind"),
    [(spreading, HabitKind.SPREADS), (packing, HabitKind.PACKS), (by_chance, HabitKind.MIXED)],
)
def test_the_habit_shows_in_the_placements(choose, kind):
    found = habit_of(filled(choose, pods=30))
    assert isinstance(found, Habit)
    assert found.kind is kind
    assert found.placements >= LEAST_PLACEMENTS


def test_a_fleet_that_shrank_is_not_taken_for_spreading():
    """Half of a packed fleet goes: nodes are half empty, and the scheduler is not to blame."""
    draw = random.Random(3)
    nodes = filled(packing, pods=48)
    thinned = [node(each.name, *[p for p in each.pods if draw.random() < 0.5]) for each in nodes]
    found = habit_of(thinned)
    assert not (isinstance(found, Habit) and found.kind is HabitKind.SPREADS)


@pytest.mark.parametrize(
    "nodes",
    [
        [],
        filled(spreading, pods=6),
        filled(spreading, every=0.0),  # all in one second: nobody knows in which order
        filled(spreading, rules=PodRules(anti_affinity=(PodTerm("zone", (), None),))),  # their own rules spread them
    ],
)
def test_too_little_is_no_verdict(nodes):
    found = habit_of(nodes)
    assert isinstance(found, Unknown)
    assert scheduler_advice(found, nodes) == []


def test_packing_is_advised_where_spreading_is_seen_and_nodes_are_half_empty():
    nodes = filled(spreading, pods=20)
    (advice,) = scheduler_advice(habit_of(nodes), nodes)
    assert (advice.current, advice.proposed) == ("LeastAllocated", "MostAllocated")
    assert "29% / 48% / 66% with LeastAllocated" in advice.message
    profile = yaml.safe_load(advice.patch)
    (strategy,) = [
        each["args"]["scoringStrategy"]
        for each in profile["profiles"][1]["pluginConfig"]
        if each["name"] == "NodeResourcesFit"
    ]
    assert strategy["type"] == "MostAllocated"
    assert all(packed > spread for packed, spread in zip(PACKED_UTILIZATION, SPREAD_UTILIZATION, strict=True))
    assert len(advice.message) <= 1024
    assert max(len(advice.risk), len(advice.verification), len(advice.undo)) <= 512
    # Full nodes have nothing to gain.
    full = filled(spreading, pods=80)
    assert scheduler_advice(habit_of(full), full) == []


def test_a_scheduler_that_does_not_look_at_gpus_is_told_so():
    nodes = filled(by_chance, pods=30)
    (advice,) = scheduler_advice(habit_of(nodes), nodes)
    assert advice.reason == "SchedulerIgnoresGpus"
    assert "by chance" in advice.message
    packed = filled(packing, pods=30)
    assert scheduler_advice(habit_of(packed), packed) == []


def planned(nodes):
    return plan(ClusterFacts(nodes=nodes), DrainPolicy(max_moves=100), now=NOW)


def test_each_autoscaler_is_told_in_its_own_words():
    def advised(label):
        labels = {} if label is None else {label: "h100-pool"}
        nodes = [node("a", pod("a1"), labels=labels), node("b", pod("b1", 4.0), labels=labels)]
        return [(one.setting, one.subject) for one in autoscaler_advice(nodes, planned(nodes))]

    assert advised(None) == []
    assert advised("karpenter.sh/nodepool") == [("NodePool spec.disruption", "h100-pool")]
    (found,) = advised("cloud.google.com/gke-nodepool")
    assert found == ("cluster-autoscaler --scale-down-gpu-utilization-threshold", "h100-pool")


def test_replicas_on_nearly_empty_nodes_go_first_when_their_owner_scales_in():
    owner = {"owner": ("ReplicaSet", "llama-7f")}
    nodes = [
        node("a", pod("a1", **owner)),
        node("b", pod("b1", 4.0, blockers=("BarePod",)), pod("b2", **owner)),
        node("c", pod("c1", 2.0, owner=("StatefulSet", "db"))),
    ]
    (advice,) = deletion_cost_advice(nodes, planned(nodes))
    assert advice.subject == "inference/llama-7f"
    assert yaml.safe_load(advice.patch)["metadata"]["annotations"] == {DELETION_COST: "-100"}
    assert f"pod a1 {DELETION_COST}=-100" in advice.patch
    assert "b2" not in advice.patch
    # An owner with no pod elsewhere has no order to keep.
    assert deletion_cost_advice(nodes[:1], planned(nodes[:1])) == []
