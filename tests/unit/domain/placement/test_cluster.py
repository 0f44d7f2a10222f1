"""No device, CPU or memory is ever given twice, and what is given back is exactly what was taken."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optiinfra.domain.placement.cluster import Cluster, Node, Placement
from optiinfra.domain.placement.demand import Demand, LearnedDemand
from optiinfra.domain.placement.placer import Placer
from optiinfra.domain.placement.request import PlacementError, Request
from optiinfra.domain.placement.rules import FIRST_FIT
from tests.unit.domain.placement import worlds
from tests.unit.domain.placement.worlds import GIB, share, whole


def state(cluster: Cluster) -> tuple[bytes, ...]:
    return tuple(
        array.tobytes()
        for array in (cluster.free_cpu, cluster.free_memory, cluster.free_pods, cluster.free_gpu, cluster.pods)
    )


def held(cluster: Cluster, placements: list[Placement]) -> None:
    """Add up by hand what the pods hold, and compare with what the nodes offer and with what is called free."""
    for index, node in enumerate(cluster.nodes):
        here = [one for one in placements if one.node == index]
        cpu = sum(one.request.cpu_milli for one in here)
        memory = sum(one.request.memory_bytes for one in here)
        assert cpu <= node.cpu_milli
        assert cluster.free_cpu[index] == node.cpu_milli - cpu
        assert memory <= node.memory_bytes
        assert cluster.free_memory[index] == node.memory_bytes - memory
        assert len(here) <= node.pods
        assert cluster.pods[index] == len(here)
        for device in range(node.gpus):
            used = sum(one.request.gpu_milli for one in here if device in one.devices)
            assert used <= 1_000
            assert cluster.free_gpu[index, device] == 1_000 - used


@given(worlds.nodes(), st.lists(worlds.requests(), max_size=40), st.randoms(use_true_random=False))
@settings(max_examples=80, deadline=None)
def test_nothing_is_given_twice_and_giving_back_restores(nodes, requests, random):
    cluster = Cluster(nodes)
    placer = Placer(cluster, FIRST_FIT)
    before = state(cluster)
    placements: list[Placement] = []
    for request in requests:
        room = bool(cluster.fits(request).any())
        placement = placer.place(request)
        assert (placement is not None) == room
        if placement is not None:
            placements.append(placement)
            assert cluster.accepts(request)[placement.node]
        held(cluster, placements)
    full = state(cluster)
    if placements:
        one = random.choice(placements)
        cluster.remove(one)
        assert cluster.place(one.request, one.node, one.devices) == one
        assert state(cluster) == full
    random.shuffle(placements)
    for placement in placements:
        cluster.remove(placement)
    assert state(cluster) == before


@given(worlds.nodes(), st.lists(worlds.requests(), max_size=20), worlds.requests())
@settings(max_examples=60, deadline=None)
def test_a_smaller_pod_fits_where_a_larger_one_does_and_room_only_grows_when_pods_end(nodes, requests, request):
    cluster = Cluster(nodes)
    placer = Placer(cluster, FIRST_FIT)
    placements = [found for one in requests if (found := placer.place(one)) is not None]
    fits = cluster.fits(request)
    smaller = Request(
        request.cpu_milli // 2,
        request.memory_bytes // 2,
        request.gpus,
        request.gpu_milli // 2 if request.shares and request.gpu_milli > 1 else request.gpu_milli,
    )
    assert (cluster.fits(smaller) >= fits).all()
    for placement in placements:
        cluster.remove(placement)
        later = cluster.fits(request)
        assert (later >= fits).all()
        fits = later


def test_two_halves_of_different_devices_are_not_a_gpu():
    cluster = Cluster([worlds.node("a", gpus=2)])
    cluster.place(share(500), 0, (0,))
    cluster.place(share(500), 0, (1,))
    assert not cluster.fits(whole(1))[0]
    assert not cluster.fits(share(510))[0]
    assert cluster.fits(share(500))[0]


@pytest.mark.parametrize(
    ("request_", "devices", "words"),
    [
        (whole(2), (0,), "2 different devices"),
        (whole(2), (0, 0), "2 different devices"),
        (whole(1), (2,), "device 2 has no room"),
        (whole(1), (-1,), "device -1 has no room"),
        (share(600), (1,), "device 1 has no room"),
        (whole(1, cpu=99_000), (0,), "does not fit"),
        (whole(1, memory=999 * GIB), (0,), "does not fit"),
        (whole(1, models=("H100",)), (0,), "does not fit"),
    ],
)
def test_a_place_that_is_not_there_is_refused_and_nothing_changes(request_, devices, words):
    cluster = Cluster([worlds.node("a", gpus=2)])
    cluster.place(share(500), 0, (1,))
    before = state(cluster)
    with pytest.raises(PlacementError, match=words):
        cluster.place(request_, 0, devices)
    assert state(cluster) == before


def test_what_was_never_placed_cannot_be_removed():
    cluster = Cluster([worlds.node("a", gpus=1)])
    with pytest.raises(PlacementError, match="not placed there"):
        cluster.remove(Placement(whole(1), 0, (0,)))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ((-1, 0), "cpu_milli"),
        ((0, -1), "memory_bytes"),
        ((0, 0, 65, 1000), "gpus 65"),
        ((0, 0, 0, 500), "without GPUs"),
        ((0, 0, 1, 0), "gpu_milli 0"),
        ((0, 0, 1, 1001), "gpu_milli 1001"),
        ((0, 0, 2, 500), "only a single GPU can be shared"),
        ((0, 0, 1, 1000, ("T4", "A10")), "sorted"),
    ],
)
def test_requests_that_cannot_be_are_refused(fields, words):
    with pytest.raises(PlacementError, match=words):
        Request(*fields)


def test_nodes_that_cannot_be_are_refused():
    with pytest.raises(PlacementError, match="one name"):
        Cluster([Node("a", 1, 1), Node("a", 1, 1)])
    with pytest.raises(PlacementError, match="node a"):
        Cluster([Node("a", -1, 1)])


def test_the_log_says_what_changed_until_it_has_been_forgotten():
    cluster = Cluster([worlds.node("a", gpus=1), worlds.node("b", gpus=1)])
    start = cluster.log_position
    placement = cluster.place(whole(1), 1, (0,))
    changed = cluster.changed_since(start)
    assert changed is not None
    assert changed.tolist() == [1]
    for _ in range(2_000):
        cluster.remove(placement)
        cluster.place(whole(1), 1, (0,))
    assert cluster.changed_since(start) is None
    later = cluster.changed_since(cluster.log_position)
    assert later is not None
    assert not len(later)


def test_demand_does_not_depend_on_the_order_and_is_renewed_at_doubling_sizes():
    kinds = [whole(1), share(500), whole(1), Request(1, 1)]
    assert Demand.of(kinds) == Demand.of(reversed(kinds))
    assert Demand.of(kinds).kinds[0] == (whole(1), 2)
    assert Demand.of(kinds).weight == 4
    learned = LearnedDemand()
    renewed = [count for count in range(1, 100) if learned.observe(whole(1))]
    assert renewed == [8, 16, 32, 64]
    assert learned.current.weight == 64


def test_an_empty_cluster_has_no_room():
    placer = Placer(Cluster([]), FIRST_FIT)
    assert placer.place(whole(1)) is None
    assert str(placer.why_not(whole(1))) == "no nodes"
    assert np.all(~Cluster([]).fits(whole(1)))
