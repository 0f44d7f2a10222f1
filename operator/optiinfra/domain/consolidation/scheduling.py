"""How the scheduler fills nodes, seen from its own placements: does it spread pods, or does it pack them?

Nobody can ask a scheduler for its profile, and the same half-empty nodes come from spreading as from a fleet that
shrank. So each placement is looked at by itself: when a pod with GPUs was given its node, how full was that node among
those that had room for it? Rank 0 is the emptiest of them and 1 the fullest; spreading (NodeResourcesFit with
LeastAllocated, the default) comes to 0, packing (MostAllocated, or RequestedToCapacityRatio) to 1, and chance to one
half. The default profile scores CPU and memory alone: pods that ask for much GPU and little else are placed by chance.

Placements are looked at in their order, with the pods that were there before. Pods that have gone since are not seen,
which blurs the ranks towards one half and turns no one into the other; so only a clear mean is a verdict. Pods whose
own rules decide (groups, spread, affinity), choices between nodes equally full, and pods placed in one second, whose
order nobody knows, say nothing and are left out.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np

from optiinfra.domain.consolidation.inputs import counts
from optiinfra.domain.consolidation.terrain import Terrain
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.workload import NodeFacts

LEAST_PLACEMENTS: Final = 12
MOST_PLACEMENTS: Final = 500
"""The latest placements that are looked at."""
_CLEAR: Final = 0.3
"""Means below it are spreading, means above one minus it packing."""
_EQUAL: Final = 1e-9


class HabitKind(StrEnum):
    """What the placements look like."""

    SPREADS = "Spreads"
    PACKS = "Packs"
    MIXED = "Mixed"


@dataclass(frozen=True, slots=True)
class Habit:
    """What the latest placements show."""

    kind: HabitKind
    placements: int
    fullness: float
    """Mean rank of the chosen node among those with room, by the share of GPUs taken: 0 emptiest, 1 fullest."""


def habit_of(nodes: Sequence[NodeFacts]) -> Habit | Unknown:
    """Judge the scheduler by the placements of the pods with GPUs that are there now."""
    usable = [node for node in nodes if node.gpus > 0.0 and node.ready and not node.unschedulable]
    terrain = Terrain(usable)
    size = np.array([node.gpus for node in usable])
    placed = sorted(
        (
            (pod.scheduled if pod.scheduled is not None else pod.created, pod.uid, pod, index)
            for index, node in enumerate(usable)
            for pod in node.pods
            if counts(pod) and pod.gpus > 0.0
        ),
        key=lambda one: one[:2],
    )
    taken = np.zeros(len(usable))
    ranks: list[float] = []
    first = len(placed) - MOST_PLACEMENTS
    at_once = Counter(moment for moment, *_ in placed)
    for number, (moment, _, pod, index) in enumerate(placed):
        rules = pod.rules
        own = pod.group or rules.spread or rules.affinity or rules.anti_affinity
        if number >= first and not own and at_once[moment] == 1:
            room = terrain.own_rules(pod) & terrain.alike(index, gpus=True) & (size - taken >= pod.gpus - _EQUAL)
            full = taken[room] / size[room]
            chosen = taken[index] / size[index]
            emptier, fuller = int((full < chosen - _EQUAL).sum()), int((full > chosen + _EQUAL).sum())
            if emptier + fuller:
                ranks.append(emptier / (emptier + fuller))
        taken[index] += pod.gpus
    if len(ranks) < LEAST_PLACEMENTS:
        text = f"{len(ranks)} of {LEAST_PLACEMENTS} placements with a choice between emptier and fuller nodes"
        return Unknown(UnknownReason.TOO_FEW_SAMPLES, text)
    mean = float(np.mean(ranks))
    kind = HabitKind.SPREADS if mean < _CLEAR else HabitKind.PACKS if mean > 1.0 - _CLEAR else HabitKind.MIXED
    return Habit(kind, len(ranks), mean)
