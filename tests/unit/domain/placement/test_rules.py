"""Scores say what their formulas say, whatever is kept from earlier, and choose as the rules promise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optiinfra.domain.placement.best import BestRule, giving_back
from optiinfra.domain.placement.cluster import Cluster
from optiinfra.domain.placement.demand import Demand
from optiinfra.domain.placement.fragmentation import FragmentationRule
from optiinfra.domain.placement.placer import Placer
from optiinfra.domain.placement.request import Request
from optiinfra.domain.placement.rules import RULES
from optiinfra.domain.placement.scheduler import Scheduler
from tests.unit.domain.placement import worlds
from tests.unit.domain.placement.worlds import GIB, node, share, whole

MAKERS = {
    "best": BestRule,
    "giving back": giving_back,
    "fgd": FragmentationRule,
    **{name: (lambda _cluster, _demand, rule=rule: rule) for name, rule in RULES.items()},
}


@pytest.mark.parametrize("name", MAKERS)
@given(worlds.nodes(), st.lists(worlds.requests(), min_size=1, max_size=25), st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_what_is_kept_chooses_as_what_is_fresh(name, nodes, requests, random):
    cluster = Cluster(nodes)
    demand = Demand.of(requests)
    kept = Placer(cluster, MAKERS[name](cluster, demand))
    placements = []
    for _ in range(40):
        request = random.choice(requests)
        allowed = np.array([random.random() < 0.8 for _ in nodes])
        fresh = Placer(cluster, MAKERS[name](cluster, demand)).choose(request, allowed)
        assert kept.choose(request, allowed) == fresh
        placement = kept.place(request, allowed)
        if placement is not None:
            assert allowed[placement.node]
            placements.append(placement)
        if placements and random.random() < 0.4:
            cluster.remove(placements.pop(random.randrange(len(placements))))


def usable(cluster: Cluster, demand: Demand, index: int, *, free_cpu: int, free_memory: int, free: list[int]) -> float:
    """Usable GPU of a node by the words of the paper, one kind after the other."""
    total = 0.0
    for request, weight in demand.kinds:
        if not request.gpus:
            continue
        enough = [one for one in free if one >= request.gpu_milli]
        fits = (
            (not request.gpu_models or cluster.nodes[index].gpu_model in request.gpu_models)
            and free_cpu >= request.cpu_milli
            and free_memory >= request.memory_bytes
            and len(enough) >= request.gpus
        )
        total += weight * sum(enough) if fits else 0.0
    return total


@given(worlds.nodes(), st.lists(worlds.requests(), min_size=3, max_size=20), worlds.requests())
@settings(max_examples=80, deadline=None)
def test_fgd_takes_the_node_and_device_whose_fragmentation_grows_least(nodes, requests, request):
    cluster = Cluster(nodes)
    demand = Demand.of(requests)
    placer = Placer(cluster, FragmentationRule(cluster, demand))
    for one in requests[:8]:
        placer.place(one)
    lost = {}
    for index in np.flatnonzero(cluster.fits(request)):
        free = [int(one) for one in cluster.free_gpu[index] if one >= 0]
        now = {"free_cpu": int(cluster.free_cpu[index]), "free_memory": int(cluster.free_memory[index])}
        then = {
            "free_cpu": now["free_cpu"] - request.cpu_milli,
            "free_memory": now["free_memory"] - request.memory_bytes,
        }
        devices = [(device,) for device, one in enumerate(free) if one >= request.gpu_milli] if request.shares else [()]
        for chosen in devices:
            taken = chosen if request.shares else cluster.whole_devices(index, request.gpus)
            after = [one - (request.gpu_milli if device in taken else 0) for device, one in enumerate(free)]
            lost[int(index), chosen] = usable(cluster, demand, index, **now, free=free) - usable(
                cluster, demand, index, **then, free=after
            )
    choice = placer.choose(request)
    if not lost:
        assert choice is None
        return
    assert choice is not None
    assert lost[choice.node, choice.devices if request.shares else ()] == pytest.approx(min(lost.values()))


def test_ties_go_to_the_tightest_node_then_to_the_first():
    cluster = Cluster([node("a", gpus=4), node("b", gpus=2), node("c", gpus=2)])
    for make in (BestRule, FragmentationRule):
        choice = Placer(cluster, make(cluster, Demand(()))).choose(whole(1))
        assert choice is not None
        assert choice.node == 1


def test_a_share_goes_where_its_remainder_is_of_use():
    """530 thousandths take a second share of 470; 600 would leave 130 that nobody asks for."""
    demand = Demand.of([share(470)] * 5 + [whole(1)] * 5)
    cluster = Cluster([node("a", gpus=2)])
    cluster.place(share(400), 0, (0,))
    cluster.place(share(530), 0, (1,))
    choice = Placer(cluster, BestRule(cluster, demand)).choose(share(470))
    assert choice is not None
    assert choice.devices == (1,)


def test_gpus_beside_little_cpu_are_left_to_pods_that_need_little():
    """FGD sees four free GPUs as usable as long as one pod fits; filling up counts the cores."""
    modest, hungry = whole(1, cpu=8_000), whole(1, cpu=12_000)
    cluster = Cluster([node("lean", gpus=4, cpu=30_000), node("rich", gpus=4, cpu=96_000)])
    demand = Demand.of([modest] * 5 + [hungry] * 5)
    published = Placer(cluster, FragmentationRule(cluster, demand)).choose(hungry)
    assert published is not None
    assert cluster.nodes[published.node].name == "lean"
    placer = Placer(cluster, BestRule(cluster, demand))
    places = [placer.place(hungry), placer.place(modest)]
    assert [cluster.nodes[one.node].name for one in places if one is not None] == ["rich", "lean"]


def test_a_scarce_model_is_kept_for_those_who_have_no_choice():
    common = [node(f"t4-{index}", gpus=4, model="T4") for index in range(8)]
    cluster = Cluster([node("a100", gpus=4, model="A100"), *common])
    demand = Demand.of([whole(1, models=("A100",))] * 2 + [whole(1)] * 8)
    choice = Placer(cluster, BestRule(cluster, demand)).choose(whole(1))
    assert choice is not None
    assert cluster.nodes[choice.node].gpu_model == "T4"


def test_where_nodes_can_be_given_back_a_node_in_use_is_filled_first():
    demand = Demand.of([whole(2, cpu=8_000)] * 5 + [whole(1, cpu=8_000)])
    cluster = Cluster([node("used", gpus=8, cpu=64_000), node("empty", gpus=1, cpu=8_000)])
    cluster.place(whole(2, cpu=8_000), 0, (0, 1))
    filling = Placer(cluster, BestRule(cluster, demand)).choose(whole(1, cpu=8_000))
    saving = Placer(cluster, BestRule(cluster, demand, opening=2_000.0)).choose(whole(1, cpu=8_000))
    assert filling is not None
    assert filling.node == 1
    assert saving is not None
    assert saving.node == 0


def test_spreading_spreads_and_packing_packs():
    spread, packed = Cluster([node("a", gpus=4), node("b", gpus=4)]), Cluster([node("a", gpus=4), node("b", gpus=4)])
    for _ in range(2):
        Placer(spread, RULES["LeastAllocated"]).place(whole(1))
        Placer(packed, RULES["MostAllocated"]).place(whole(1))
    assert spread.pods.tolist() == [1, 1]
    assert sorted(packed.pods.tolist()) == [0, 2]


def test_what_keeps_a_pod_away_is_counted_once_for_each_node():
    cluster = Cluster(
        [
            node("masked", gpus=2),
            node("model", gpus=2, model="T4"),
            node("gpus"),
            node("cpu", gpus=2, cpu=500),
            node("memory", gpus=2, memory=GIB // 2),
            node("pods", gpus=2, pods=0),
        ]
    )
    found = Placer(cluster, FragmentationRule(cluster, Demand(()))).why_not(
        whole(2, models=("", "A100")), np.arange(6) > 0
    )
    assert (found.forbidden, found.gpu_model, found.gpus, found.cpu, found.memory, found.pods) == (1, 1, 1, 1, 1, 1)
    assert "too little memory" in str(found)


def test_a_stream_gives_the_same_places_again():
    stream = [whole(1 + index % 2, cpu=3_000) if index % 3 else share(470) for index in range(200)]
    runs = []
    for _ in range(2):
        cluster = Cluster([node(f"n{index}", gpus=4) for index in range(20)])
        scheduler = Scheduler(cluster, BestRule)
        runs.append([scheduler.arrive(request) for request in stream])
    assert runs[0] == runs[1]


def test_a_demand_without_gpus_does_not_disturb():
    cluster = Cluster([node("a", gpus=1)])
    for make in (BestRule, FragmentationRule):
        assert Placer(cluster, make(cluster, Demand.of([Request(1, 1)]))).place(Request(1, 1)) is not None
