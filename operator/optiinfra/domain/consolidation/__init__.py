"""Consolidation: which nodes could be emptied, in which order, by moving whom; and why the others stay.

`inputs` is what a plan is made from, `results` what it says, `drain.plan` makes it. `terrain`, `neighbours` and `room`
are the cluster as arrays; `permits` knows who may be moved, `price` what it costs. Pure: nothing is moved here.
"""

from optiinfra.domain.consolidation.drain import plan
from optiinfra.domain.consolidation.inputs import STAYS_WITH_NODE, ClusterFacts, DrainPolicy, Serving
from optiinfra.domain.consolidation.price import WORTH
from optiinfra.domain.consolidation.results import (
    ConsolidationPlan,
    DataProblem,
    FreedNode,
    Move,
    NodeReason,
    NodeRefusal,
    PodReason,
    PodRefusal,
)

__all__ = [
    "STAYS_WITH_NODE",
    "WORTH",
    "ClusterFacts",
    "ConsolidationPlan",
    "DataProblem",
    "DrainPolicy",
    "FreedNode",
    "Move",
    "NodeReason",
    "NodeRefusal",
    "PodReason",
    "PodRefusal",
    "Serving",
    "plan",
]
