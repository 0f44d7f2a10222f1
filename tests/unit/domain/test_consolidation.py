"""Consolidation: which GPU nodes could be emptied, and that no pod is ever without a place."""

from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optiinfra.domain.consolidation import NodeReason, plan
from optiinfra.domain.units import UnixTime
from optiinfra.domain.workload import NodeFacts, PodFacts

NOW = UnixTime(1.7e9)
GIB = 2.0**30


def pod(name, gpus=1.0, *, cpu=4.0, memory=16.0, blockers=(), terminating=False, phase="Running"):
    return PodFacts(
        name=name,
        uid=f"uid-{name}",
        ip="10.0.0.1",
        node="",
        phase=phase,
        ready=True,
        terminating=terminating,
        created=UnixTime(0.0),
        became_ready=UnixTime(0.0),
        gpus=gpus,
        blockers=blockers,
        cpu_request_cores=cpu,
        memory_request_bytes=memory * GIB,
        namespace="inference",
    )


def node(name, *pods, gpus=8.0, cpu=96.0, memory=768.0, pool="h100", model="H100", ready=True, cordoned=False):
    return NodeFacts(
        name=name,
        pool=pool,
        gpu_model=model,
        gpus=gpus,
        cpu_cores=cpu,
        memory_bytes=memory * GIB,
        ready=ready,
        unschedulable=cordoned,
        pods=pods,
    )


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
        ([node("a", pod("a1", blockers=("PDB",))), node("b", pod("b1"))], NodeReason.BLOCKED_PODS),
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


def test_nodes_without_gpus_are_not_its_business():
    assert plan([node("a", gpus=0.0)], now=NOW, max_moves=5).freed == ()


pods = st.builds(
    lambda gpus, cpu, memory, blockers, terminating, phase: (gpus, cpu, memory, blockers, terminating, phase),
    st.sampled_from([0.0, 0.5, 1.0, 2.0, 4.0]),
    st.floats(0.0, 40.0),
    st.floats(0.0, 300.0),
    st.sampled_from([(), (), (), ("PDB",), ("DaemonSet",)]),
    st.sampled_from([False, False, False, True]),
    st.sampled_from(["Running", "Running", "Succeeded"]),
)


@st.composite
def clusters(draw):
    nodes = []
    for index in range(draw(st.integers(1, 8))):
        here, left = [], [8.0, 96.0, 768.0]
        for number, (gpus, cpu, memory, blockers, terminating, phase) in enumerate(draw(st.lists(pods, max_size=6))):
            want = [gpus, cpu, memory]
            if phase == "Running":
                if any(w > have for w, have in zip(want, left, strict=True)):
                    continue
                left = [have - w for w, have in zip(want, left, strict=True)]
            name = f"p{index}-{number}"
            here.append(
                pod(name, gpus, cpu=cpu, memory=memory, blockers=blockers, terminating=terminating, phase=phase)
            )
        nodes.append(
            node(
                f"n{index}",
                *here,
                pool=draw(st.sampled_from(["x", "y"])),
                ready=draw(st.sampled_from([True, True, True, False])),
                cordoned=draw(st.sampled_from([False, False, False, True])),
            )
        )
    return nodes


@settings(max_examples=150)
@given(clusters(), st.integers(0, 20))
def test_the_plan_can_be_carried_out(nodes, max_moves):
    result = plan(nodes, now=NOW, max_moves=max_moves)
    by_name = {n.name: n for n in nodes}
    freed = {f.node for f in result.freed}
    assert len(result.moves) <= max_moves
    assert len({move.pod_uid for move in result.moves}) == len(result.moves)
    assert freed | {refusal.node for refusal in result.refusals} == set(by_name)
    assert not freed & {refusal.node for refusal in result.refusals}
    moved = {move.pod_uid: move for move in result.moves}
    for move in result.moves:
        source, target = by_name[move.source], by_name[move.target]
        assert move.source in freed
        assert move.target not in freed
        assert (source.pool, source.gpu_model) == (target.pool, target.gpu_model)
        assert target.ready
        assert not target.unschedulable
    load = defaultdict(lambda: [0.0, 0.0, 0.0])
    for here in nodes:
        for p in here.pods:
            if p.phase == "Succeeded" or (here.name in freed and "DaemonSet" in p.blockers):
                continue
            if here.name in freed:
                assert p.uid in moved
                assert p.blockers == ()
            else:
                assert p.uid not in moved
            at = moved[p.uid].target if p.uid in moved else here.name
            wanted = (p.gpus, p.cpu_request_cores, p.memory_request_bytes)
            load[at] = [sum(pair) for pair in zip(load[at], wanted, strict=True)]
    for name, used in load.items():
        size = (by_name[name].gpus, by_name[name].cpu_cores, by_name[name].memory_bytes)
        assert all(u <= s * (1 + 1e-9) + 1e-5 for u, s in zip(used, size, strict=True))
