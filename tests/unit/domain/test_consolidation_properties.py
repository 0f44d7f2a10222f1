"""Whatever the cluster, a plan can be carried out: judged by a checker that shares no code with the planner."""

import dataclasses
import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optiinfra.domain.consolidation import ClusterFacts, DrainPolicy, plan
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
from tests.unit.domain.drain_checker import complaints
from tests.unit.domain.drained import GIB, NOW, cluster_of, node, pod

APPS = ("llama", "mixtral", "router", "cache")
KEYS = ("kubernetes.io/hostname", "zone", "rack")
SPOT = Taint("spot", "yes", TaintEffect.NO_SCHEDULE)


def selector(draw):
    if draw.random() < 0.1:
        return None
    operator = draw.choice([LabelOperator.IN, LabelOperator.IN, LabelOperator.NOT_IN, LabelOperator.EXISTS])
    values = frozenset(draw.sample(APPS, draw.randint(1, 2))) if operator is not LabelOperator.EXISTS else frozenset()
    return (LabelRule("app", operator, values),)


def pod_term(draw):
    namespaces = draw.choice([None, frozenset({"team-a"}), frozenset({"team-a", "team-b"})])
    return PodTerm(draw.choice(KEYS), selector(draw), namespaces)


def rules(draw):
    if draw.random() < 0.4:
        return PodRules()
    zone = LabelRule("zone", LabelOperator.IN, frozenset(draw.sample(["z1", "z2"], draw.randint(1, 2))))
    maybe = lambda share, value: (value,) if draw.random() < share else ()  # noqa: E731  a word for drawing
    return PodRules(
        tolerations=maybe(0.3, Toleration("spot", exists=True)),
        node_selector=maybe(0.1, LabelRule("zone", LabelOperator.IN, frozenset({draw.choice(["z1", "z2"])}))),
        node_terms=maybe(0.1, NodeTerm((zone,))),
        affinity=maybe(0.15, pod_term(draw)),
        anti_affinity=maybe(0.25, pod_term(draw)) + maybe(0.1, pod_term(draw)),
        spread=maybe(
            0.25,
            SpreadRule(
                draw.choice(KEYS),
                draw.randint(1, 3),
                selector(draw),
                draw.choice([1, 1, 3]),
                draw.random() < 0.7,
                draw.random() < 0.3,
            ),
        ),
        host_ports=maybe(0.05, "TCP/80"),
        scheduler=draw.choice(["default-scheduler"] * 20 + ["volcano"]),
    )


def made_pod(draw, name, templates, *, calm):
    """`calm`: hardly anything holds a pod, so that many move and their rules about each other matter."""
    free = 60 if calm else 12
    owner, template = draw.choice(templates)
    app = draw.choice(APPS)
    gpus = draw.choice([0.0, 0.0, 0.5, 1.0, 1.0, 2.0, 4.0])
    given = {
        "owner": owner,
        "rules": template,
        "labels": {"app": app},
        "namespace": draw.choice(["team-a", "team-b"]) if owner[0] != "StatefulSet" else "team-a",
        "priority": draw.choice([0, 0, 100]),
        "blockers": draw.choice([()] * free + [("DaemonSet",), ("BarePod",), ("LocalStorage",)]),
        "phase": draw.choice(["Running"] * free + ["Pending", "Succeeded"]),
        "ready": draw.random() < (0.98 if calm else 0.9),
        "lost_readiness": draw.random() < 0.5,
        "terminating": draw.random() < (0.0 if calm else 0.03),
        "claims": ("data",) if draw.random() < (0.01 if calm else 0.05) else (),
    }
    if owner[0] == "StatefulSet":
        name = f"{owner[1]}-{name.replace('p', '').replace('-', '')}"
    if draw.random() < 0.12:
        given["group"] = PodGroup("LeaderWorkerSet", f"g{draw.randint(0, 3)}")
    if given["blockers"] == ("DaemonSet",):
        given["rules"] = PodRules()
        given["group"] = None
    return pod(name, gpus, cpu=draw.uniform(0.0, 30.0), memory=draw.uniform(0.0, 200.0), **given)


def made_cluster(seed):
    draw = random.Random(seed)
    calm = draw.random() < 0.5
    templates = [(("ReplicaSet", f"r{n}"), rules(draw)) for n in range(4)]
    templates += [(("StatefulSet", f"s{n}"), rules(draw)) for n in range(2)]
    if draw.random() < 0.15:
        templates = templates[-1:]  # one StatefulSet all over the place
    nodes = []
    for index in range(draw.randint(2, 8)):
        name = f"n{index}"
        left = [8.0, 96.0, 768 * GIB]
        free = [1.0] * 8
        ports: set[str] = set()
        here = []
        for number in range(draw.randint(0, 4 if calm else 5)):
            one = dataclasses.replace(made_pod(draw, f"p{index}-{number}", templates, calm=calm), node=name)
            want = [one.gpus, one.cpu_request_cores, one.memory_request_bytes]
            if any(w > have for w, have in zip(want, left, strict=True)) or ports & set(one.rules.host_ports):
                continue
            fits = [n for n, part in enumerate(free) if part >= min(one.gpus, 1.0)]
            if one.gpus and len(fits) < one.gpus:
                continue
            if one.gpus:
                chosen = tuple([n for n in fits if free[n] == 1.0][: round(one.gpus)] if one.gpus >= 1 else fits[:1])
                if len(chosen) < one.gpus:
                    continue
                for device in chosen:
                    free[device] -= min(one.gpus, 1.0)
                known = draw.random() < 0.8
                one = dataclasses.replace(one, devices=chosen if known else ())
            left = [have - w for w, have in zip(want, left, strict=True)]
            ports |= set(one.rules.host_ports)
            here.append(one)
        labels = {"zone": draw.choice(["z1", "z2"])}
        if draw.random() < 0.8:
            labels["rack"] = draw.choice(["k1", "k2", "k3"])
        nodes.append(
            node(
                name,
                *here,
                pool=draw.choice(["x", "x", "x", "y"]),
                ready=draw.random() < 0.95,
                cordoned=draw.random() < 0.05,
                labels=labels,
                taints=(SPOT,) if draw.random() < 0.15 else (),
                pod_limit=float(draw.choice([4, 110])),
                protection="x" if draw.random() < 0.03 else "",
            )
        )
    waiting = [
        dataclasses.replace(
            made_pod(draw, f"w{n}", templates, calm=calm), phase="Pending", ready=False, group=None, blockers=()
        )
        for n in range(draw.choice([0, 0, 1, 2]))
    ]
    budgets = [
        DisruptionBudget(
            namespace,
            app,
            (LabelRule("app", LabelOperator.IN, frozenset({app})),),
            allowed=draw.randint(0, 2),
            expected=4,
            healthy=draw.randint(2, 4),
            desired=3,
            evicts_unready=draw.random() < 0.3,
            current=draw.random() < 0.9,
        )
        for namespace in ("team-a", "team-b")
        for app in APPS
        if draw.random() < 0.3
    ]
    policy = DrainPolicy(max_moves=draw.choice([1, 5, 100]), headroom=draw.choice([0.0, 0.0, 0.1, 0.3]))
    return cluster_of(*nodes, waiting=waiting, budgets=budgets), policy


@settings(max_examples=400)
@given(st.integers(0, 2**40))
def test_every_plan_can_be_carried_out(seed):
    cluster, policy = made_cluster(seed)
    result = plan(cluster, policy, now=NOW)
    assert complaints(cluster, policy, result, now=NOW) == []
    names = {item.name for item in cluster.nodes}
    freed = {item.node for item in result.freed}
    refused = {refusal.node for refusal in result.refusals}
    assert freed | refused == names
    assert not freed & refused
    assert all(refusal.message for refusal in result.refusals)
    assert {move.source for move in result.moves} <= names
    assert sum(item.moves for item in result.freed) == len(result.moves)
    assert plan(cluster, policy, now=NOW) == result


def spoiled(result, kind):
    """Make a plan that must not be made."""
    moves = list(result.moves)
    if kind == "to another place":
        moves[0] = dataclasses.replace(moves[0], target=result.freed[-1].node)
    elif kind == "left behind":
        moves = moves[1:]
    elif kind == "twice":
        moves.append(moves[0])
    return dataclasses.replace(result, moves=tuple(moves))


@pytest.mark.parametrize("kind", ["to another place", "left behind", "twice"])
def test_the_judge_refuses_a_spoiled_plan(kind):
    cluster = cluster_of(node("a", pod("a1")), node("b", pod("b1", 4.0)), node("c", pod("c1", 7.0)))
    policy = DrainPolicy(max_moves=10)
    good = plan(cluster, policy, now=NOW)
    assert complaints(cluster, policy, good, now=NOW) == []
    assert good.moves
    assert complaints(cluster, policy, spoiled(good, kind), now=NOW)


def test_the_judge_knows_every_rule():
    """A rule that the planner did not know would let a plan pass that the judge refuses; here the judge must refuse."""
    move_all = cluster_of(node("a", pod("a1", labels={"app": "llama"})), node("b", pod("b1", labels={"app": "llama"})))
    policy = DrainPolicy(max_moves=10)
    careless = plan(move_all, policy, now=NOW)
    assert len(careless.moves) == 1
    repelled = PodTerm("kubernetes.io/hostname", (LabelRule("app", LabelOperator.EXISTS),), None)
    changes = {
        "anti-affinity": {"rules": PodRules(anti_affinity=(repelled,))},
        "spread": {"rules": PodRules(spread=(SpreadRule("kubernetes.io/hostname", 1, repelled.selector),))},
        "budget": {"labels": {"app": "covered"}},
        "node affinity": {"rules": PodRules(node_selector=(LabelRule("zone", LabelOperator.EXISTS),))},
        "BarePod": {"blockers": ("BarePod",)},
        "gpus": {"gpus": 8.0},
        "terminating": {"terminating": True},
        "starts": {"ready": False},
        "torn": {"group": PodGroup("JobSet", "j")},
        "rdma": {"rules": PodRules(resources=(("rdma", 1.0),))},
    }
    budget = DisruptionBudget(
        "inference", "budget", (LabelRule("app", LabelOperator.IN, frozenset({"covered"})),), 0, 2
    )
    for word, change in changes.items():
        nodes = [
            dataclasses.replace(item, pods=tuple(dataclasses.replace(p, **change) for p in item.pods))
            for item in move_all.nodes
        ]
        cluster = ClusterFacts(nodes=nodes, budgets=[budget])
        found = complaints(cluster, policy, careless, now=NOW)
        assert any(word in complaint for complaint in found), (word, found)
        assert complaints(cluster, policy, plan(cluster, policy, now=NOW), now=NOW) == []


def most_emptyable(sizes, capacity):
    """How many nodes can be emptied at best, by trying everything; sizes are GPUs of the pods of each node."""
    count = len(sizes)
    for freed in range(count, 0, -1):
        for gone in itertools.combinations(range(count), freed):
            kept = [capacity - sum(sizes[n]) for n in range(count) if n not in gone]
            if _packs(sorted((size for n in gone for size in sizes[n]), reverse=True), kept):
                return freed
    return 0


def _packs(items, free):
    if not items:
        return True
    tried = set()
    for index, room in enumerate(free):
        if room >= items[0] and room not in tried:
            tried.add(room)
            free[index] -= items[0]
            if _packs(items[1:], free):
                free[index] += items[0]
                return True
            free[index] += items[0]
    return False


def test_it_frees_nearly_as_many_nodes_as_can_be():
    """Against an exhaustive search over 200 small clusters: how much of the best it reaches, and never more."""
    draw = random.Random(7)
    reached = best = 0
    for _ in range(200):
        sizes = []
        for _ in range(draw.randint(3, 6)):
            here: list[int] = []
            while sum(here) < draw.randint(1, 7) and len(here) < 4:
                size = draw.choice([1, 1, 2, 4])
                if sum(here) + size <= 8:
                    here.append(size)
            sizes.append(here)
        nodes = [
            node(f"n{i}", *[pod(f"p{i}-{j}", float(size)) for j, size in enumerate(here)])
            for i, here in enumerate(sizes)
        ]
        found = len(plan(cluster_of(*nodes), DrainPolicy(max_moves=100), now=NOW).freed)
        possible = most_emptyable(sizes, 8)
        assert found <= possible
        reached += found
        best += possible
    assert reached >= 0.95 * best, (reached, best)
