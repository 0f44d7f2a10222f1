"""The shadows: which simple scalers live beside a workload, and what is believed of them before they have lived.

Every combination of forecast gain, hold time and margin, and three that are never chosen: they tell what a shorter
start-up or warm spares would be worth where nothing causal holds the objective. The prior is a formula fitted to the
means over the open multi-day traces at start-ups of 60, 180 and 600 s.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from optiinfra.domain.scaler.tuning import GAINS, HOLDS, MARGINS

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Shadow:
    """One simple scaler: its need is the held maximum of a forecast plus a margin."""

    gain: float
    hold: int
    margin: float
    start_share: float = 1.0
    """Its start-up time, as a share of the real one."""
    spares: float = 0.0
    """Replicas added to the need, as a share of the mean load."""

    @property
    def name(self) -> str:
        """How the rule is shown to people."""
        trend = "trend" if self.gain else "level"
        return f"{trend}, held {self.hold * 15 // 60} min, {self.margin:+.0%}"


CHOICES: Final = tuple(Shadow(gain, hold, margin) for gain in GAINS for hold in HOLDS for margin in MARGINS)
WHAT_IFS: Final = (
    Shadow(0.9, 80, 0.3),
    Shadow(0.9, 80, 0.3, start_share=0.25),
    Shadow(0.9, 80, 0.3, spares=1.0),
)
"""The safest affordable rule as it is; with a quarter of the start-up; with as many warm spares as the mean load."""
SHADOWS: Final = CHOICES + WHAT_IFS
CHOSEN: Final = len(CHOICES)
COUNT: Final = len(SHADOWS)

GAIN_INDEX: Final[Ints] = np.array([GAINS.index(s.gain) for s in SHADOWS])
CELL: Final[Ints] = np.array([GAINS.index(s.gain) * len(HOLDS) + HOLDS.index(s.hold) for s in SHADOWS])
"""Index of each shadow's held maximum among (gain, hold)."""
MARGIN: Final[Floats] = np.array([s.margin for s in SHADOWS], dtype=np.float32)
SPARES: Final[Floats] = np.array([s.spares for s in SHADOWS], dtype=np.float32)
START_SHARE: Final[Floats] = np.array([s.start_share for s in SHADOWS], dtype=np.float32)
GAIN_OF: Final[Floats] = np.array([s.gain for s in SHADOWS], dtype=np.float32)
HOLD_OF: Final[Floats] = np.array([s.hold for s in SHADOWS], dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Prior:
    """Expected cost, late share and share of bad windows of each choice, (workloads, choices)."""

    cost: Floats
    late: Floats
    bad: Floats


def prior(start_ticks: Ints) -> Prior:
    """What is believed of the choices before they have lived, by start-up time in ticks, (workloads,)."""
    ticks = start_ticks.astype(np.float32)[:, None]
    margin, hold, gain = MARGIN[:CHOSEN], HOLD_OF[:CHOSEN], GAIN_OF[:CHOSEN]
    cost = 1.17 + 0.95 * margin + 0.025 * np.log2(1.0 + hold / 4.0) + gain * 0.013 * ticks
    late = 0.025 * (ticks / 12.0) ** 1.1 * np.exp(-5.0 * margin - 1.2 * gain) * (hold / 12.0) ** -0.5
    late = late.astype(np.float32)
    return Prior(cost.astype(np.float32), late, (1.4 * late).astype(np.float32))
