"""What a model service promises: the objectives that decisions keep. Parsed at the door from `spec.objectives`.

A latency that nobody promised is infinite: it is never missed and bounds nothing, and `said` says so in words.
"""

from dataclasses import dataclass
from math import inf, isinf
from typing import Final

from optiinfra.domain.units import Ratio, Seconds

NOT_PROMISED: Final = Seconds(inf)
"""An objective that nobody gave."""


@dataclass(frozen=True, slots=True)
class Objectives:
    """The service's promises. The defaults are those of the custom resource."""

    time_to_first_token_p95: Seconds = Seconds(2.0)
    inter_token_latency_p95: Seconds = Seconds(0.1)
    queue_delay: Seconds = Seconds(10.0)
    """Work that waits longer than this counts as late."""
    late_share: Ratio = Ratio(0.01)
    """Share of the work that may be late."""


def said(objective: Seconds) -> str:
    """Say what was promised, to stand in brackets behind the signal."""
    return "no objective was given" if isinf(objective) else f"promised {objective:g} s"
