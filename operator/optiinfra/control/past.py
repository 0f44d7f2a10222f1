"""What is asked of a target's past, and what a metrics server's history of it came to; `past_taking` says for whom."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from optiinfra.domain.right_sizing import UsageHistory
from optiinfra.domain.scaler_past import PastService
from optiinfra.domain.scaling import ScalerMemory
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.domain.workload import PodFacts


@dataclass(frozen=True, slots=True)
class Learned:
    """What a past came to."""

    scaler: ScalerMemory | None
    times: npt.NDArray[np.float64]
    """(points,) of the newest hours."""
    load: npt.NDArray[np.float64]
    """(columns, points), NaN where unknown."""
    usage: dict[str, UsageHistory]
    """By container."""
    since: UnixTime | None
    """Beginning of what was found; None where nothing was."""
    samples: int
    missing: tuple[str, ...]
    """What was asked for and is not there, in words."""
    at: UnixTime
    starts: tuple[PodFacts, ...] = ()
    """Pods that became ready in the days before, with the moments that kube-state-metrics tells."""


@dataclass(slots=True)
class Past:
    """One target's past: asked for, then learned, then taken."""

    namespace: str
    workload: str
    service: PastService
    tick: Seconds
    learned: Learned | None = None
    taken: bool = False
    starts: int = 0
    """Starts that were taken from it."""
