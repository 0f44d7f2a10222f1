"""What the user says beside the history: objectives, start-up time, prices, limits of the replay."""

from dataclasses import dataclass, field
from typing import Final

from optiinfra.domain.objectives import Objectives
from optiinfra.domain.report.pricing import Prices

START_UP_S: Final = 180.0
"""From asking for a replica until it serves, where nobody says."""
MODEL_DAYS: Final = 120.0
"""Days of all models together that are replayed where nobody says how many: forty models for three days."""
LEAST_DAYS: Final = 3.0


@dataclass(frozen=True, slots=True)
class Options:
    """Everything that is not measured."""

    objectives: Objectives = field(default_factory=Objectives)
    promised: bool = False
    """Whether somebody gave the objectives of latency."""
    start_up_s: float = START_UP_S
    prices: Prices = field(default_factory=Prices)
    replay_days: float | None = None
    """None: as many as `MODEL_DAYS` allows, the newest ones."""

    def days(self, models: int, *, window: float) -> float:
        """Return how many days of each model are replayed."""
        if self.replay_days is not None:
            return min(window, self.replay_days)
        return min(window, max(LEAST_DAYS, MODEL_DAYS / max(1, models)))
