"""The stream of pods of a replay: a list in random order, with random duplicates until enough GPU is asked for.

As in the FGD paper's evaluation: all pods of the list once, in random order, then pods drawn from the list with
replacement, until what is asked for reaches the load. A list that asks for more is cut there. The nth use of a name is
called NAME~n, so that every row of the placements file is told apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from optiinfra.domain.placement.request import PlacementError, Request

MOST_ARRIVALS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Arrival:
    """One pod that asks for a place."""

    name: str
    request: Request


def inflate(pods: Sequence[Arrival], *, gpu_milli: int, load: float, seed: int) -> list[Arrival]:
    """Return pods in order of arrival.

    Args:
        pods: The list; names must differ.
        gpu_milli: GPUs of the cluster, in thousandths.
        load: What the arrivals ask for, as a share of the cluster's GPUs; the last pod may go beyond it.
        seed: Of the order and of the duplicates.

    Raises:
        PlacementError: The pods ask for no GPU, or for so little that there would be too many.
    """
    wanted = load * gpu_milli
    per_list = sum(pod.request.total_gpu_milli for pod in pods)
    if wanted > 0.0 and (per_list == 0 or len(pods) * wanted / per_list > MOST_ARRIVALS):
        raise PlacementError(
            f"the list asks for {per_list / 1000:g} GPUs: a load of {load:g} would take more than {MOST_ARRIVALS} pods"
        )
    draw = np.random.default_rng(seed)
    found: list[Arrival] = []
    asked = 0
    for index in draw.permutation(len(pods)):
        if asked >= wanted:
            return found
        found.append(pods[index])
        asked += pods[index].request.total_gpu_milli
    uses: dict[str, int] = {}
    while asked < wanted:
        pod = pods[int(draw.integers(len(pods)))]
        uses[pod.name] = uses.get(pod.name, 1) + 1
        found.append(Arrival(f"{pod.name}~{uses[pod.name]}", pod.request))
        asked += pod.request.total_gpu_milli
    return found
