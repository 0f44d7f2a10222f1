"""What a model service promises: the objectives that decisions keep. Parsed at the door from `spec.objectives`."""

from dataclasses import dataclass

from optiinfra.domain.units import Ratio, Seconds


@dataclass(frozen=True, slots=True)
class Objectives:
    """The service's promises. The defaults are those of the custom resource."""

    time_to_first_token_p95: Seconds = Seconds(2.0)
    inter_token_latency_p95: Seconds = Seconds(0.1)
    queue_delay: Seconds = Seconds(10.0)
    """Work that waits longer than this counts as late."""
    late_share: Ratio = Ratio(0.01)
    """Share of the work that may be late."""
