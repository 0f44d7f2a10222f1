"""What the bench of placements runs: lists filled by a rule, clusters at part load, and one that is as large as wanted.

Rules are the operator's own (`optiinfra.domain.placement`), through the code of `optiinfra replay consolidation`; only
random placement is made here, for nobody should use it.
"""

import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from optiinfra.cli.replay_consolidation import MAKERS, OURS, replay
from optiinfra.cli.replay_openb import read_nodes, read_pods
from optiinfra.domain.placement.arrivals import Arrival, inflate
from optiinfra.domain.placement.best import giving_back
from optiinfra.domain.placement.churn import Churned, churn
from optiinfra.domain.placement.cluster import Cluster, Node
from optiinfra.domain.placement.drain import Residents, drain
from optiinfra.domain.placement.fill import active_utilization, fill, gpu_capacity
from optiinfra.domain.placement.rules import RULES, fullest_device
from optiinfra.domain.placement.scheduler import MakeRule, Scheduler

SEEDS: Final = tuple(range(42, 52))
RANDOM: Final = "random"
FGD: Final = "fgd"


@dataclass(frozen=True, slots=True)
class Full:
    """One list, one rule: means over the seeds, in percent of all GPUs."""

    at_100: float
    end: float
    seconds: float
    """CPU of one run."""
    seeds: int
    """Runs."""


@dataclass(frozen=True, slots=True)
class Part:
    """One load: utilisation of the GPUs on nodes in use (percent) and moves for each pod that came."""

    active: float
    moves: float


def pod_lists(folder: Path) -> dict[str, list[Arrival]]:
    """Read the pod lists of a folder by their names, `openb_pod_list_NAME.csv[.gz]`."""
    found = {}
    for path in sorted(folder.rglob("openb_pod_list_*.csv*")):
        found[path.name.removeprefix("openb_pod_list_").partition(".")[0]] = read_pods(path)
    return found


def node_list(folder: Path) -> list[Node]:
    """Read all nodes of a folder's list. Raises FileNotFoundError."""
    for path in sorted(folder.rglob("openb_node_list_all_node.csv*")):
        return read_nodes(path)
    raise FileNotFoundError(f"no openb_node_list_all_node.csv below {folder}")


def full_load(nodes: Sequence[Node], pods: Sequence[Arrival], *, rule: str, seeds: Sequence[int] = SEEDS) -> Full:
    """Fill to 130 % with every seed."""
    found = []
    seconds = 0.0
    for seed in seeds:
        if rule == RANDOM:
            found.append(_random_fill(nodes, pods, seed=seed))
            continue
        replayed = replay(nodes, pods, load=1.3, seed=seed, rule=rule)
        seconds += replayed.cpu_s / len(seeds)
        found.append((replayed.filled.allocated_at_100 or 0.0, replayed.filled.allocated_end))
    at_100, end = np.mean(found, axis=0)
    return Full(100.0 * float(at_100), 100.0 * float(end), seconds, len(seeds))


def part_load(
    nodes: Sequence[Node], pods: Sequence[Arrival], *, rule: str, load: float, moves: float, seeds: Sequence[int]
) -> Part:
    """Fill to a part load; drain once at the end where moves are allowed."""
    found = []
    for seed in seeds:
        replayed = replay(nodes, pods, load=load, seed=seed, rule=rule, moves_per_pod=moves)
        found.append((active_utilization(replayed.cluster) or 0.0, replayed.drained.moves / len(replayed.arrivals)))
    active, moved = np.mean(found, axis=0)
    return Part(100.0 * float(active), float(moved))


def churned(
    nodes: Sequence[Node],
    pods: Sequence[Arrival],
    *,
    rule: str,
    load: float,
    moves: float,
    hours: int = 72,
    lifetime_h: float = 24.0,
    seeds: Sequence[int],
) -> Part:
    """Let pods come and go after filling to a part load, with hourly drains where moves are allowed."""
    found: list[Churned] = []
    for seed in seeds:
        cluster = Cluster(nodes)
        make: MakeRule = giving_back if rule == OURS else MAKERS[rule]
        scheduler = Scheduler(cluster, make)
        residents = Residents(len(cluster))
        arrivals = inflate(pods, gpu_milli=gpu_capacity(cluster), load=load, seed=seed)
        for index, placement in enumerate(fill(scheduler, arrivals).placements):
            if placement is not None:
                residents.put(index, placement)
        found.append(
            churn(scheduler, residents, pods, hours=hours, lifetime_h=lifetime_h, moves_per_pod=moves, seed=seed)
        )
    return Part(
        100.0 * float(np.mean([one.active_utilization for one in found])),
        float(np.mean([one.moves_per_pod for one in found])),
    )


@dataclass(frozen=True, slots=True)
class Large:
    """Time and memory at a large size."""

    nodes: int
    pods: int
    place_s: float
    """CPU to place all pods one by one."""
    drain_s: float
    """CPU of one pass that empties nodes with up to a tenth of the pods."""
    emptied: int
    moves: int
    peak_mib: float
    """Resident memory of the process at its highest."""


def large(nodes: Sequence[Node], pods: Sequence[Arrival], *, node_count: int = 5_000, pod_count: int = 50_000) -> Large:
    """Repeat the lists to a size, fill by the rule, end every second pod, and empty nodes."""
    many = [
        Node(f"{node.name}-{index}", node.cpu_milli, node.memory_bytes, node.gpus, node.gpu_model)
        for index, node in ((i, nodes[i % len(nodes)]) for i in range(node_count))
    ]
    draw = np.random.default_rng(1)
    cluster = Cluster(many)
    scheduler = Scheduler(cluster, giving_back)
    residents = Residents(len(cluster))
    began = time.process_time()
    for index in range(pod_count):
        placement = scheduler.arrive(pods[int(draw.integers(len(pods)))].request)
        if placement is not None:
            residents.put(index, placement)
    placed = time.process_time() - began
    for pod in sorted(residents.places)[::2]:
        cluster.remove(residents.take(pod))
    began = time.process_time()
    done = drain(scheduler.placer, residents, budget=pod_count // 10)
    return Large(
        node_count,
        pod_count,
        placed,
        time.process_time() - began,
        done.nodes,
        done.moves,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0,
    )


def _random_fill(nodes: Sequence[Node], pods: Sequence[Arrival], *, seed: int) -> tuple[float, float]:
    """Place every pod on a random node that has room, a share on its fullest device."""
    cluster = Cluster(nodes)
    capacity = gpu_capacity(cluster)
    draw = np.random.default_rng((seed, 2))
    asked = allocated = 0
    at_100 = 0.0
    for arrival in inflate(pods, gpu_milli=capacity, load=1.3, seed=seed):
        request = arrival.request
        room = np.flatnonzero(cluster.fits(request))
        if len(room):
            node = int(draw.choice(room))
            device = int(fullest_device(cluster, request, np.array([node]))[0])
            cluster.place(request, node, (device,) if request.shares else cluster.whole_devices(node, request.gpus))
            allocated += request.total_gpu_milli
        asked += request.total_gpu_milli
        if not at_100 and asked >= capacity:
            at_100 = allocated / capacity
    return at_100, allocated / capacity


BASELINES: Final[tuple[str, ...]] = (RANDOM, *(name.replace(" ", "-").lower() for name in RULES))
