"""Consolidation: which GPU nodes could be emptied, and that no pod is ever without a place."""

import pytest

from optiinfra.domain.consolidation import ClusterFacts, DrainPolicy, NodeReason, PodReason, Serving
from optiinfra.domain.consolidation import plan as plan_for
from optiinfra.domain.label_rules import LabelOperator, LabelRule
from optiinfra.domain.pod_rules import (
    DisruptionBudget,
    NodeTerm,
    PodGroup,
    PodRules,
    PodTerm,
    SpreadRule,
    Taint,
    TaintEffect,
    Toleration,
)
from optiinfra.domain.readings import Unknown, UnknownReason
from tests.unit.domain.drain_checker import complaints
from tests.unit.domain.drained import NOW, node, pod


def plan(nodes, *, now=NOW, max_moves=10, headroom=0.0, standing=None, **given):
    cluster = ClusterFacts(nodes=nodes, **given)
    policy = DrainPolicy(max_moves=max_moves, headroom=headroom, standing=standing or {})
    result = plan_for(cluster, policy, now=now)
    assert complaints(cluster, policy, result, now=now) == []
    return result


def reasons(result):
    return {refusal.node: refusal.reason for refusal in result.refusals}


def test_the_emptiest_node_moves_to_the_one_it_fills_best():
    result = plan(
        [node("a", pod("a1")), node("b", pod("b1", 5.0)), node("c", pod("c1", 7.0))],
        now=NOW,
        max_moves=10,
    )
    assert [(move.pod, move.source, move.target) for move in result.moves] == [("a1", "a", "c")]
    assert [freed.node for freed in result.freed] == ["a"]
    assert result.gpus_freed == 8.0
    assert reasons(result) == {"b": NodeReason.NO_ROOM, "c": NodeReason.RECEIVES_PODS}


def test_an_empty_node_is_free_at_once_and_takes_nothing():
    result = plan(
        [node("a"), node("b", pod("b1", 4.0)), node("c", pod("c1", 3.0), pod("agent", 0.0, blockers=("DaemonSet",)))],
        now=NOW,
        max_moves=10,
    )
    assert {freed.node: freed.moves for freed in result.freed} == {"a": 0, "c": 1}
    assert [(move.pod, move.target) for move in result.moves] == [("c1", "b")]


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([node("a", pod("a1", blockers=("BarePod",))), node("b", pod("b1"))], NodeReason.BLOCKED_PODS),
        ([node("a", pod("a1"), protection="karpenter.sh/do-not-disrupt"), node("b", pod("b1"))], NodeReason.PROTECTED),
        (
            [
                node("a", pod("a1"), taints=(Taint("ToBeDeletedByClusterAutoscaler", "", TaintEffect.NO_SCHEDULE),)),
                node("b", pod("b1")),
            ],
            NodeReason.UNSCHEDULABLE,
        ),
        ([node("a", pod("a1")), node("b", pod("b1"), pod_limit=1.0)], NodeReason.NO_ROOM),
        ([node("a", pod("a1", terminating=True)), node("b", pod("b1"))], NodeReason.TERMINATING_PODS),
        ([node("a", pod("a1"), ready=False), node("b", pod("b1"))], NodeReason.NOT_READY),
        ([node("a", pod("a1"), cordoned=True), node("b", pod("b1"))], NodeReason.UNSCHEDULABLE),
        ([node("a", pod("a1")), node("b", pod("b1", 8.0))], NodeReason.NO_ROOM),
        ([node("a", pod("a1", cpu=50.0)), node("b", pod("b1", cpu=50.0))], NodeReason.NO_ROOM),
        ([node("a", pod("a1", memory=500.0)), node("b", pod("b1", memory=500.0))], NodeReason.NO_ROOM),
        ([node("a", pod("a1")), node("b", pod("b1"), pool="spot")], NodeReason.NO_ROOM),
        ([node("a", pod("a1")), node("b", pod("b1"), model="A100")], NodeReason.NO_ROOM),
        ([node("a", pod("a1")), node("b", pod("b1", 2.0), ready=False)], NodeReason.NO_ROOM),
        ([node("a", pod("a1")), node("b", pod("b1", 2.0), cordoned=True)], NodeReason.NO_ROOM),
    ],
)
def test_a_node_that_stays_says_why(nodes, expected):
    result = plan(nodes, now=NOW, max_moves=10)
    assert reasons(result)["a"] is expected
    assert all(refusal.message for refusal in result.refusals)


def test_all_pods_of_a_node_or_none():
    # The three-GPU pod finds no second place, so the one-GPU pod must not be left half way.
    result = plan(
        [node("a", pod("a1", 3.0), pod("a2", 3.0)), node("b", pod("b1", 5.0)), node("c", pod("c1", 7.0))],
        now=NOW,
        max_moves=10,
    )
    assert result.moves == ()
    assert reasons(result)["a"] is NodeReason.NO_ROOM


def test_no_more_moves_than_allowed():
    nodes = [node(f"n{i}", *[pod(f"p{i}-{j}", 1.0) for j in range(i % 3 + 1)]) for i in range(12)]
    result = plan(nodes, now=NOW, max_moves=5)
    assert len(result.moves) <= 5
    assert NodeReason.MAX_MOVES in reasons(result).values()
    assert plan(nodes, now=NOW, max_moves=0).moves == ()


def test_finished_pods_neither_hold_nor_fill_a_node():
    result = plan(
        [node("a", pod("job", 8.0, phase="Succeeded")), node("b", pod("b1", 2.0))],
        now=NOW,
        max_moves=5,
    )
    assert [freed.node for freed in result.freed] == ["a"]


def test_nodes_without_gpus_are_its_business_only_in_a_pool():
    assert plan([node("a", gpus=0.0, pool="")], now=NOW, max_moves=5).freed == ()
    assert len(plan([node("a", gpus=0.0, pool="batch")], now=NOW, max_moves=5).freed) == 1


STAYS = {"blockers": ("BarePod",)}


def rule(key, *values, operator=LabelOperator.IN):
    return LabelRule(key, operator, frozenset(values))


def budget(app, allowed, **given):
    values = {"expected": 4, "healthy": 4, "desired": 4 - allowed} | given
    return DisruptionBudget("inference", f"{app}-budget", (rule("app", app),), allowed, **values)


def stateful(name, **given):
    return pod(name, owner=("StatefulSet", name.rpartition("-")[0]), **given)


def held(result, name):
    """Why the pods of a node hold it."""
    return [one.reason for refusal in result.refusals if refusal.node == name for one in refusal.pods]


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ({"blockers": ("BarePod",)}, PodReason.BARE_POD),
        ({"blockers": ("BatchJob",)}, PodReason.BATCH_JOB),
        ({"blockers": ("LocalStorage",)}, PodReason.LOCAL_STORAGE),
        ({"blockers": ("LocalVolume",)}, PodReason.LOCAL_VOLUME),
        ({"blockers": ("UnknownVolume",)}, PodReason.UNKNOWN_VOLUME),
        ({"blockers": ("DoNotDisrupt",)}, PodReason.DO_NOT_DISRUPT),
        ({"protected_until": NOW + 1.0}, PodReason.DO_NOT_DISRUPT),
        ({"rules": PodRules(unreadable=("it claims devices",))}, PodReason.UNREADABLE_RULES),
        ({"rules": PodRules(scheduler="volcano")}, PodReason.OTHER_SCHEDULER),
        ({"ready": False, "became_ready": None}, PodReason.STARTING),
        ({"became_ready": None}, PodReason.UNMEASURED_START),
    ],
)
def test_a_pod_that_may_not_move_says_why_and_holds_its_node(what, reason):
    result = plan([node("a", pod("a1", **what)), node("b", pod("b1", 4.0))])
    assert held(result, "a") == [reason]
    assert "a1" in next(refusal.message for refusal in result.refusals if refusal.node == "a")
    assert result.moves == () or result.moves[0].pod == "b1"


def test_a_protection_that_is_over_holds_nothing():
    result = plan([node("a", pod("a1", protected_until=NOW - 1.0)), node("b", pod("b1", 4.0))])
    assert [freed.node for freed in result.freed] == ["a"]


def test_what_a_budget_allows_is_shared_by_the_whole_plan():
    llama = {"labels": {"app": "llama"}}
    nodes = [node("a", pod("a1", **llama)), node("b", pod("b1", 2.0, **llama)), node("c", pod("c1", 4.0, **STAYS))]
    assert [move.pod for move in plan(nodes, budgets=[budget("llama", 2)]).moves] == ["a1", "b1"]
    result = plan(nodes, budgets=[budget("llama", 1)])
    assert [move.pod for move in result.moves] == ["a1"]
    assert reasons(result)["b"] is NodeReason.DISRUPTION_BUDGET
    assert held(result, "b") == [PodReason.NO_BUDGET]
    assert plan(nodes, budgets=[budget("other", 0)]).moves


def test_one_budget_is_not_used_twice_on_one_node():
    llama = {"labels": {"app": "llama"}}
    nodes = [node("a", pod("a1", **llama), pod("a2", **llama)), node("c", pod("c1", 4.0))]
    assert reasons(plan(nodes, budgets=[budget("llama", 1)]))["a"] is NodeReason.DISRUPTION_BUDGET
    assert len(plan(nodes, budgets=[budget("llama", 2)]).moves) == 2


def test_budgets_are_asked_as_the_eviction_api_asks_them():
    def refused(budgets, **what):
        here = pod("a1", 0.0, labels={"app": "llama"}, **what)
        return held(plan([node("a", here), node("b", pod("b1", 4.0))], budgets=budgets), "a")

    assert refused([budget("llama", 1), budget("llama", 1)]) == [PodReason.SEVERAL_BUDGETS]
    assert refused([budget("llama", 1, current=False)]) == [PodReason.STALE_BUDGET]
    assert refused([budget("llama", 0)]) == [PodReason.NO_BUDGET]
    # A pod that does not run yet needs none, an unready one only while the others are too few.
    assert refused([budget("llama", 0)], phase="Pending", ready=False) == []
    assert refused([budget("llama", 0)], ready=False) == []
    assert refused([budget("llama", 0, healthy=3)], ready=False) == [PodReason.NO_BUDGET]
    assert refused([budget("llama", 0, healthy=3, evicts_unready=True)], ready=False) == []


def test_a_statefulset_goes_from_its_highest_ordinal_down_one_at_a_time():
    pods = [stateful("db-0", memory=64.0), stateful("db-2"), stateful("db-11", memory=1.0)]
    result = plan([node("a", *pods), node("b", pod("b1", 5.0))])
    assert [move.pod for move in result.moves] == ["db-11", "db-2", "db-0"]
    assert [move.step for move in result.moves] == [1, 2, 3]


def test_a_higher_ordinal_does_not_follow_a_lower_one():
    # a is emptier and goes first, so that db-0 is moved; then db-1 must wait for another plan.
    nodes = [node("a", stateful("db-0")), node("b", stateful("db-1", gpus=2.0)), node("c", pod("c1", 4.0, **STAYS))]
    result = plan(nodes)
    assert [move.pod for move in result.moves] == ["db-0"]
    assert reasons(result)["b"] is NodeReason.STATEFUL_ORDER


def grouped(name, where, **given):
    return pod(name, node=where, group=PodGroup("LeaderWorkerSet", "llama-0", 2), **given)


def test_a_group_moves_whole_even_from_nodes_that_stay():
    nodes = [
        node("a", grouped("g0", "a")),
        node("b", grouped("g1", "b"), pod("b1", 4.0)),
        node("c", pod("c1", 5.0)),
    ]
    result = plan(nodes)
    assert [freed.node for freed in result.freed] == ["a"]
    assert {move.pod for move in result.moves} == {"g0", "g1"}
    assert {move.step for move in result.moves} == {1}
    assert {move.group for move in result.moves} == {"LeaderWorkerSet/llama-0"}


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        ({"blockers": ("LocalStorage",)}, PodReason.BLOCKED_GROUP),
        ({"terminating": True}, PodReason.INCOMPLETE_GROUP),
        (None, PodReason.INCOMPLETE_GROUP),
    ],
)
def test_a_group_that_cannot_go_whole_stays(second, reason):
    others = [] if second is None else [grouped("g1", "b", **second)]
    result = plan([node("a", grouped("g0", "a")), node("b", *others, pod("b1", 4.0))])
    assert reasons(result)["a"] is NodeReason.POD_GROUP
    assert held(result, "a") == [reason]
    assert not {move.pod for move in result.moves} & {"g0", "g1"}


def test_no_budget_for_all_of_a_group_is_none_for_any():
    labels = {"labels": {"app": "llama"}}
    nodes = [node("a", grouped("g0", "a", **labels)), node("b", grouped("g1", "b", **labels), pod("b1", 4.0))]
    assert reasons(plan(nodes, budgets=[budget("llama", 1)]))["a"] is NodeReason.DISRUPTION_BUDGET


@pytest.mark.parametrize(
    ("rules", "given", "goes"),
    [
        (PodRules(), {}, True),
        (PodRules(), {"taints": (Taint("spot", "", TaintEffect.NO_SCHEDULE),)}, False),
        (PodRules(), {"taints": (Taint("spot", "", TaintEffect.PREFER_NO_SCHEDULE),)}, True),
        (
            PodRules(tolerations=(Toleration("spot", exists=True),)),
            {"taints": (Taint("spot", "", TaintEffect.NO_EXECUTE),)},
            True,
        ),
        (PodRules(node_selector=(rule("zone", "z1"),)), {"labels": {"zone": "z2"}}, False),
        (PodRules(node_selector=(rule("zone", "z1"),)), {"labels": {"zone": "z1"}}, True),
        (
            PodRules(node_terms=(NodeTerm((rule("zone", "z1"),)), NodeTerm((rule("zone", "z2"),)))),
            {"labels": {"zone": "z2"}},
            True,
        ),
        (PodRules(node_terms=(NodeTerm(),)), {}, False),
        (PodRules(node_terms=(NodeTerm(names=(rule("metadata.name", "a"),)),)), {}, False),
        (PodRules(node_selector=(rule("gen", "5", operator=LabelOperator.GREATER),)), {"labels": {"gen": "6"}}, True),
        (PodRules(node_selector=(rule("gen", "5", operator=LabelOperator.LESS),)), {}, False),
        (PodRules(resources=(("rdma/hca", 1.0), ("nvidia.com/gpu", 1.0))), {}, False),
        (
            PodRules(resources=(("rdma/hca", 1.0), ("nvidia.com/gpu", 1.0))),
            {"resources": (("rdma/hca", 4.0), ("nvidia.com/gpu", 8.0))},
            True,
        ),
        (PodRules(host_ports=("TCP/8080",)), {}, True),
    ],
)  # fmt: skip
def test_a_pod_goes_only_where_its_own_rules_let_it(rules, given, goes):
    result = plan([node("a", pod("a1", rules=rules)), node("b", pod("b1", 2.0, blockers=("BarePod",)), **given)])
    assert bool(result.moves) is goes


def test_a_port_of_the_host_is_taken_once():
    rules = PodRules(host_ports=("TCP/8080",))
    nodes = [node("a", pod("a1", rules=rules)), node("b", pod("b1", 2.0, rules=rules))]
    assert plan(nodes).moves == ()


def test_a_volume_goes_with_its_pod_only_where_it_can():
    zones = (NodeTerm((rule("zone", "z1"),)),)
    here = pod("a1", volume_terms=(zones,))
    there = pod("b1", 2.0, blockers=("BarePod",))
    assert not plan([node("a", here), node("b", there, labels={"zone": "z2"})]).moves
    assert plan([node("a", here), node("b", there, labels={"zone": "z1"})]).moves


def test_a_volume_of_one_node_at_a_time_holds_those_who_share_it():
    shared = {"claims": ("data",)}
    result = plan([node("a", pod("a1", **shared), pod("a2", **shared)), node("b", pod("b1", 4.0))])
    assert held(result, "a") == [PodReason.SHARED_VOLUME, PodReason.SHARED_VOLUME]


LLAMA = {"labels": {"app": "llama"}}


def term(key="kubernetes.io/hostname"):
    return PodTerm(key, (rule("app", "llama"),), frozenset({"inference"}))


def test_pods_that_repel_each_other_are_not_put_together():
    apart = PodRules(anti_affinity=(term(),))
    nodes = [node("a", pod("a1", rules=apart, **LLAMA)), node("b", pod("b1", 2.0, rules=apart, **LLAMA))]
    assert plan(nodes).moves == ()
    assert plan([*nodes, node("c", pod("c1", 7.0))]).moves[0].target == "c"


def test_a_pod_is_not_put_beside_one_that_repels_it():
    apart = PodRules(anti_affinity=(term("zone"),))
    nodes = [
        node("a", pod("a1", **LLAMA), labels={"zone": "z1"}),
        node("b", pod("b1", 2.0, rules=apart), labels={"zone": "z2"}),
    ]
    assert [move.pod for move in plan(nodes).moves] == []


def test_a_pod_that_wants_company_follows_it():
    near = PodRules(affinity=(term("zone"),))
    nodes = [
        node("a", pod("a1", rules=near), labels={"zone": "z1"}),
        node("b", pod("b1", 2.0, blockers=("BarePod",)), labels={"zone": "z2"}),
        node("c", pod("c1", 5.0, **LLAMA), labels={"zone": "z1"}),
    ]
    assert [(move.pod, move.target) for move in plan(nodes).moves] == [("a1", "c")]


def test_spread_that_forbids_is_kept():
    spread = PodRules(spread=(SpreadRule("zone", 1, (rule("app", "llama"),)),))
    nodes = [
        node("a", pod("a1", rules=spread, **LLAMA), labels={"zone": "z1"}),
        node("b", pod("b1", 2.0, rules=spread, **LLAMA), labels={"zone": "z2"}),
        node("c", pod("c1", 4.0), labels={"zone": "z1"}),
    ]
    # a1 may only stay in z1: two in z2 and none in z1 are a skew of two.
    assert [(move.pod, move.target) for move in plan(nodes).moves if move.pod == "a1"] == [("a1", "c")]
    assert reasons(plan([nodes[0], nodes[1]]))["a"] is NodeReason.NO_ROOM


def test_headroom_stays_free_on_what_remains():
    nodes = [node("a", pod("a1", 4.0)), node("b", pod("b1", 4.0)), node("c", pod("c1", 4.0), pod("c2", 4.0))]
    assert len(plan(nodes).freed) == 1
    result = plan(nodes, headroom=0.1)
    assert result.freed == ()
    assert reasons(result)["a"] is NodeReason.HEADROOM
    assert len(plan(nodes, headroom=0.0).freed) == 1


def test_a_pod_that_waits_keeps_the_room_that_it_could_have():
    nodes = [node("a", pod("a1", 4.0)), node("b", pod("b1", 4.0))]
    assert len(plan(nodes).freed) == 1
    result = plan(nodes, waiting=[pod("w", 2.0, phase="Pending", ready=False, priority=10)])
    assert result.freed == ()
    assert result.reserved.keys() == {"inference/w"}


def test_a_waiting_pod_of_a_daemonset_holds_no_node():
    nodes = [node("a", pod("a1", 4.0)), node("b", pod("b1", 4.0))]
    agent = pod("agent", 0.0, phase="Pending", ready=False, blockers=("DaemonSet",), owner=("DaemonSet", "agent"))
    result = plan(nodes, waiting=[agent])
    assert len(result.freed) == 1
    assert result.reserved == {}


def test_the_highest_priority_is_placed_first():
    here = node("a", pod("low", 4.0), pod("high", 2.0, priority=1000))
    assert [move.pod for move in plan([here, node("b", pod("b1", 2.0, **STAYS))]).moves] == ["high", "low"]


def test_shares_of_one_gpu_stay_inside_one_gpu():
    half = [pod(f"h{n}", 0.6, devices=(n,)) for n in range(2)]
    nodes = [node("a", pod("a1", 0.5, devices=(0,)), gpus=2.0), node("b", *half, gpus=2.0)]
    # 0.8 of a GPU is free on b, in two parts.
    assert [move.pod for move in plan(nodes).moves] == []
    free = [node("a", pod("a1", 0.4, devices=(0,)), gpus=2.0), node("b", *half, gpus=2.0)]
    assert [move.pod for move in plan(free).moves] == ["a1"]


def test_no_share_comes_to_a_gpu_of_which_nobody_knows_who_is_on_it():
    nodes = [node("a", pod("a1", 0.4, devices=(0,)), gpus=2.0), node("b", pod("b1", 0.5), gpus=2.0)]
    assert [move.source for move in plan(nodes).moves] == ["b"]


def test_instances_of_a_partitioned_gpu_are_counted_by_name():
    mig = "nvidia.com/mig-1g.10gb"
    small = {"rules": PodRules(resources=((mig, 1.0),))}
    offered = {"resources": ((mig, 7.0),), "gpus": 7.0}
    nodes = [
        node("a", pod("a1", 1.0, **small), **offered),
        node("b", pod("b1", 2.0, rules=PodRules(resources=((mig, 2.0),))), **offered),
    ]
    assert [(move.pod, move.target) for move in plan(nodes).moves] == [("a1", "b")]
    other = {"resources": (("nvidia.com/mig-2g.20gb", 3.0),), "gpus": 3.0}
    assert plan([nodes[0], node("b", **other)]).moves == ()


def test_the_price_is_the_share_of_the_node_that_loads_instead_of_serving():
    servers = [pod("a1", 4.0, start_up=900.0), pod("a2", 2.0, start_up=1800.0)]
    serving = {
        "uid-a1": Serving(start_up=900.0, busy=0.5),
        "uid-a2": Serving(start_up=Unknown(UnknownReason.NOT_MEASURED), busy=Unknown(UnknownReason.NOT_MEASURED)),
    }
    (freed,) = plan([node("a", *servers), node("b", pod("b1", 2.0, blockers=("BarePod",)))], serving=serving).freed
    # Half the node for 900 s at half load, a quarter for 1800 s at a load that nobody knows: fully.
    assert freed.price == pytest.approx(0.5 * 0.25 * 1.5 + 0.25 * 0.5 * 2.0)
    assert (freed.unready, freed.warm, freed.unmeasured) == (2700.0, 2, 0)
    assert set(freed.alone) == {"inference/ReplicaSet/owner-of-a1", "inference/ReplicaSet/owner-of-a2"}


def test_of_two_nodes_alike_the_one_that_is_cheaper_to_move_goes():
    nodes = [
        node("a", pod("a1", 2.0, start_up=900.0)),
        node("b", pod("b1", 2.0, start_up=30.0)),
        node("c", pod("c1", 5.0)),
    ]
    assert [freed.node for freed in plan(nodes, max_moves=1).freed] == ["b"]


def test_a_plan_does_not_change_its_mind():
    nodes = [
        node("a", pod("a1", 2.0, start_up=900.0)),
        node("b", pod("b1", 2.0, start_up=30.0)),
        node("c", pod("c1", 5.0)),
    ]
    assert [freed.node for freed in plan(nodes, standing={"a": 600.0}, max_moves=1).freed] == ["a"]


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([node("a", pod("x")), node("b", pod("x"))], "on two nodes"),
        ([node("a", pod("x")), node("a", pod("y"))], "there twice"),
    ],
)
def test_a_torn_picture_gives_no_plan(nodes, words):
    result = plan_for(ClusterFacts(nodes=nodes), DrainPolicy(max_moves=10), now=NOW)
    assert (result.freed, result.moves, result.refusals) == ((), (), ())
    assert words in result.problems[0].message


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (node("a", pod("x", -1.0)), "no amount"),
        (node("a", pod("x", cpu=float("nan"))), "no amount"),
        (node("a", pod("x", 1.5)), "only a single GPU can be shared"),
        (node("a", pod("x", 9.0)), "its pods request 9 GPUs and it has 8"),
        (node("a", pod("x", cpu=97.0)), "cores and it has 96"),
        (node("a", pod("x"), model=""), "model of its 8 GPUs is not known"),
        (node("a", pod("x"), cpu=-1.0), "capacity is no amount"),
        (node("a", pod("x", 0.6), pod("y", 0.6), gpus=1.2, model="H100"), "do not fit together"),
    ],
)
def test_what_cannot_be_takes_its_node_out_and_says_so(bad, words):
    good = [node("b", pod("b1", 1.0)), node("c", pod("c1", 4.0))]
    result = plan_for(ClusterFacts(nodes=[bad, *good]), DrainPolicy(max_moves=10), now=NOW)
    assert reasons(result)["a"] is NodeReason.INVALID_DATA
    assert [problem.node for problem in result.problems] == ["a"]
    assert words in result.problems[0].message
    assert [(move.pod, move.target) for move in result.moves] == [("b1", "c")]
