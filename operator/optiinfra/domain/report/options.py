"""What the user says beside the history: objectives, start-up time, prices, limits of the replay."""

from dataclasses import dataclass, field
from typing import Final

from optiinfra.domain.objectives import Objectives
from optiinfra.domain.report.days import LEAD_DAYS
from optiinfra.domain.report.pricing import Prices

START_UP_S: Final = 180.0
"""From asking for a replica until it serves, where nobody says."""


@dataclass(frozen=True, slots=True)
class Options:
    """Everything that is not measured."""

    objectives: Objectives = field(default_factory=Objectives)
    promised: bool = False
    """Whether somebody gave the objectives of latency."""
    start_up_s: float = START_UP_S
    prices: Prices = field(default_factory=Prices)
    replay_days: float | None = None
    """The newest so many; None: as `days.chosen` chooses."""
    lead_days: float = LEAD_DAYS
    """Days that the scaler learns from before each stretch that counts."""
