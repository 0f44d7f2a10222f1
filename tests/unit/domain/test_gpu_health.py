"""GPUs that are not well: for how long, by which word of the driver, and what follows for idleness and drains."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optiinfra.domain.agent_readings import GpuFaults
from optiinfra.domain.consolidation import ClusterFacts, DrainPolicy, plan
from optiinfra.domain.gpu_health import CRITICAL_XIDS, STANDS, STANDS_UNTOLD, HealthMemory, finding
from optiinfra.domain.idle import GpuState, verdicts
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.domain.workload import NodeFacts
from tests.unit.domain.made_up import agent, gpu, node, pod

NOW = UnixTime(10_000.0)
UNTOLD = Unknown(UnknownReason.UNSUPPORTED, "an old driver")


def sick(*, uuid="GPU-0", xids=(), action=0.0, failed=0.0):
    return replace(gpu(uuid), faults=GpuFaults(xids, action, failed))


def judged(*readings, memory=None, now=NOW, gpus=1.0, pods=()):
    return (memory or HealthMemory()).of(node(*readings, gpus=gpus, pods=pods), now=now)


def reasons(*readings, **more):
    return [trouble.reason for trouble in judged(*readings, **more)]


@pytest.mark.parametrize(
    ("faults", "found"),
    [
        ({}, []),
        ({"xids": UNTOLD, "action": UNTOLD, "failed": UNTOLD}, []),
        ({"xids": ((31, 900), (13, 4), (43, 1), (63, 2), (94, 1))}, []),  # what applications do, and what was contained
        ({"xids": ((79, 1),)}, ["CriticalXid"]),
        ({"xids": ((79, 0),)}, []),
        ({"action": 2.0}, ["RecoveryNeeded"]),
        ({"action": 9.0}, ["RecoveryNeeded"]),
        ({"failed": 1.0}, ["RowRemapFailed"]),
        ({"xids": ((48, 3),), "action": 1.0}, ["RecoveryNeeded"]),  # one GPU, one word: the driver's own
    ],
)
def test_what_makes_a_gpu_unhealthy(faults, found):
    assert reasons(agent(NOW, sick(**faults))) == found


def test_an_event_of_unavailability_stands_as_an_xid_does():
    memory = HealthMemory()

    def found(at, events):
        faults = GpuFaults((), 0.0, 0.0, unavailable_events=events)
        return judged(agent(at, replace(gpu(), faults=faults)), memory=memory, now=UnixTime(at))

    assert found(NOW, UNTOLD) == ()
    (trouble,) = found(NOW + 15.0, 2.0)
    assert trouble.reason == "Unavailable"
    assert "reported it as unavailable, 2 times" in trouble.message
    assert [one.reason for one in found(NOW + 30.0, 2.0)] == ["Unavailable"]
    assert found(NOW + 15.0 + STANDS, 2.0) == ()
    assert [one.reason for one in found(NOW + 30.0 + STANDS, 3.0)] == ["Unavailable"]


def test_the_words_name_node_gpu_and_source():
    (trouble,) = judged(agent(NOW, sick(xids=((79, 2),), action=UNTOLD)))
    told = finding(trouble, ("inference/vllm-1",))
    assert told.message == (
        "GPU GPU-0 of node n1, held by inference/vllm-1: Xid 79 (a GPU that fell off the bus), 2 since its agent's "
        "start."
    )
    assert (told.evidence[0].place, told.evidence[0].source, told.evidence[0].value) == (
        "GPU GPU-0 of node n1", "agent", 2.0
    )  # fmt: skip


@pytest.mark.parametrize(("action", "stands"), [(0.0, STANDS), (UNTOLD, STANDS_UNTOLD)])
def test_an_xid_stands_until_it_did_not_come_back_for_long_enough(action, stands):
    memory = HealthMemory()
    for at in (NOW, NOW + 15.0, NOW + stands - 1.0):
        assert reasons(agent(at, sick(xids=((79, 1),), action=action)), memory=memory, now=at) == ["CriticalXid"]
    at = UnixTime(NOW + stands)
    assert reasons(agent(at, sick(xids=((79, 1),), action=action)), memory=memory, now=at) == []
    again = UnixTime(at + 15.0)
    assert reasons(agent(again, sick(xids=((79, 2),), action=action)), memory=memory, now=again) == ["CriticalXid"]


def test_an_agent_that_was_started_anew_ends_nothing():
    memory = HealthMemory()
    assert reasons(agent(NOW, sick(xids=((79, 3),))), memory=memory) == ["CriticalXid"]
    later = UnixTime(NOW + 60.0)
    assert reasons(agent(later, sick(xids=())), memory=memory, now=later) == ["CriticalXid"]


def test_a_silent_agent_ends_nothing_either():
    memory = HealthMemory()
    silent = agent(NOW, sick(action=1.0))
    for at in (NOW, NOW + 900.0):
        assert reasons(silent, memory=memory, now=UnixTime(at)) == ["RecoveryNeeded"]


def test_a_gpu_that_vanished_is_missed_while_its_node_still_offers_it():
    two = agent(NOW - 60.0, gpu("GPU-0"), gpu("GPU-1"))
    assert reasons(two, agent(NOW, gpu("GPU-0")), gpus=2.0) == ["Lost"]
    assert reasons(two, agent(NOW, gpu("GPU-0")), gpus=1.0) == []
    assert reasons(two, agent(NOW, source=UNTOLD), gpus=2.0) == []


def test_memory_is_kept_of_living_nodes_only():
    memory = HealthMemory()
    judged(agent(NOW, sick(xids=((79, 3),))), memory=memory)
    memory.forget_except({"n2"})
    assert not memory.counts
    assert not memory.grown


def test_an_unhealthy_gpu_is_never_idle():
    readings = [agent(NOW - 60.0 * at, gpu(watts=70.0)) for at in range(20, -1, -1)]
    quiet = node(*readings)
    (before,) = verdicts(quiet, now=NOW, window=Seconds(1800.0), stale_after=Seconds(120.0))
    ill = replace(quiet, troubles=judged(agent(NOW, sick(action=1.0))))
    (after,) = verdicts(ill, now=NOW, window=Seconds(1800.0), stale_after=Seconds(120.0))
    assert before.state is GpuState.IDLE_UNALLOCATED
    assert (after.state, after.reason) == (GpuState.UNKNOWN, "Unhealthy")


def _node(name: str, *pods, troubles=()) -> NodeFacts:
    return NodeFacts(
        name, "pool", "H100", 4.0, 64.0, 2.0**38, ready=True, unschedulable=False, pods=pods, troubles=troubles
    )


@pytest.mark.parametrize(("ill", "moved"), [(False, ("a", "b")), (True, ("b", "a"))])
def test_nothing_is_moved_onto_a_node_with_an_unhealthy_gpu(ill, moved):
    troubles = judged(agent(NOW, sick(action=1.0))) if ill else ()
    small = replace(pod("p1", gpus=1.0, node="a"), owner=("ReplicaSet", "vllm"))
    large = replace(pod("p2", gpus=2.0, node="b"), owner=("ReplicaSet", "other"))
    facts = ClusterFacts(nodes=(_node("a", small), _node("b", large, troubles=troubles)))
    found = plan(facts, DrainPolicy(max_moves=10), now=NOW)
    assert [(move.source, move.target) for move in found.moves] == [moved]


@given(
    st.lists(
        st.tuples(st.sampled_from([*CRITICAL_XIDS, 13, 31]), st.integers(0, 5)),
        max_size=6,
        unique_by=lambda one: one[0],
    ),
    st.floats(0.0, 2 * STANDS_UNTOLD),
)
def test_one_gpu_has_at_most_one_trouble_and_only_critical_xids_make_one(xids, later):
    memory = HealthMemory()
    first = judged(agent(NOW, sick(xids=tuple(xids))), memory=memory)
    assert len(first) == (1 if any(number in CRITICAL_XIDS and count for number, count in xids) else 0)
    at = UnixTime(NOW + later)
    second = judged(agent(at, sick(xids=tuple(xids))), memory=memory, now=at)
    assert len(second) <= len(first)
    assert bool(second) == (bool(first) and later < STANDS)
