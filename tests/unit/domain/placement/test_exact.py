"""Beside the best there is: a solver that knows all pods at once says how far placements are from it on small clusters.

Needs the extra `exact`. The solver also judges feasibility: each of its constraints must hold for what was placed.
"""

import numpy as np
import pytest

from optiinfra.domain.placement.best import BestRule
from optiinfra.domain.placement.cluster import Cluster, Node, Placement
from optiinfra.domain.placement.demand import Demand
from optiinfra.domain.placement.placer import Placer
from optiinfra.domain.placement.request import Request
from tests.unit.domain.placement.worlds import GIB, node, share, whole

highspy = pytest.importorskip("highspy", reason="the extra `exact` is not installed")


def best_possible(nodes: list[Node], pods: list[Request]) -> int:
    """Most GPU (thousandths) that any placement of any choice of the pods allocates: a mixed integer program.

    put[p, n] = 1 where pod p is on node n; on[p, n, d] where it uses device d.
    """
    model = highspy.Highs()
    model.silent()
    put = {}
    on = {}
    for p, pod in enumerate(pods):
        for n, here in enumerate(nodes):
            if here.gpus < pod.gpus or (pod.gpus and pod.gpu_models and here.gpu_model not in pod.gpu_models):
                continue
            put[p, n] = model.addBinary()
            if pod.gpus:
                for d in range(here.gpus):
                    on[p, n, d] = model.addBinary()
                model.addConstr(sum(on[p, n, d] for d in range(here.gpus)) == pod.gpus * put[p, n])
    for p in range(len(pods)):
        if mine := [put[p, n] for n in range(len(nodes)) if (p, n) in put]:
            model.addConstr(sum(mine) <= 1)
    for n, here in enumerate(nodes):
        there = [p for p in range(len(pods)) if (p, n) in put]
        if not there:
            continue
        model.addConstr(sum(pods[p].cpu_milli / 1000 * put[p, n] for p in there) <= here.cpu_milli / 1000)
        model.addConstr(sum(pods[p].memory_bytes / GIB * put[p, n] for p in there) <= here.memory_bytes / GIB)
        for d in range(here.gpus):
            users = [p for p in there if pods[p].gpus]
            if users:
                model.addConstr(sum(pods[p].gpu_milli / 1000 * on[p, n, d] for p in users) <= 1)
    model.maximize(sum(pods[p].total_gpu_milli / 1000 * one for (p, _), one in put.items()))
    assert model.getModelStatus() == highspy.HighsModelStatus.kOptimal
    return round(1000 * model.getInfo().objective_function_value)


def drawn(seed: int) -> tuple[list[Node], list[Request]]:
    draw = np.random.default_rng(seed)
    nodes = [
        node(f"n{index}", gpus=int(draw.choice((1, 2, 4))), cpu=1_000 * int(draw.integers(12, 48)), model=str(model))
        for index, model in enumerate(draw.choice(("A100", "T4"), size=3))
    ]
    kinds = [
        share(470, cpu=3_000),
        share(320, cpu=3_000),
        share(810, cpu=3_000),
        whole(1, cpu=8_000),
        whole(1, cpu=12_000, models=("A100",)),
        whole(2, cpu=16_000),
    ]
    return nodes, [kinds[int(one)] for one in draw.integers(len(kinds), size=12)]


def placed_online(nodes: list[Node], pods: list[Request]) -> list[Placement]:
    cluster = Cluster(nodes)
    placer = Placer(cluster, BestRule(cluster, Demand.of(pods)))
    return [found for pod in pods if (found := placer.place(pod)) is not None]


def test_placing_one_by_one_is_never_above_the_best_and_near_it_on_average():
    shares = []
    for seed in range(8):
        nodes, pods = drawn(seed)
        reached = sum(one.request.total_gpu_milli for one in placed_online(nodes, pods))
        best = best_possible(nodes, pods)
        assert reached <= best
        shares.append(reached / best)
    assert np.mean(shares) > 0.88


def test_the_solver_knows_that_shares_do_not_span_devices():
    assert best_possible([node("a", gpus=2)], [share(600), share(600), share(600)]) == 1_200
    assert best_possible([node("a", gpus=1)], [share(470), share(530), whole(1)]) == 1_000
