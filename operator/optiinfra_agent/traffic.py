"""How many requests the agent has answered and how long that took: for its own metrics, and for the heartbeat.

One thread notes, others read: what is read is one reference to a pair, so count and time always belong together. It
keeps sums and no distribution: at four scrapes a minute a histogram would say nothing that the mean does not.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answered:
    """What has been answered since the start."""

    requests: int = 0
    seconds: float = 0.0

    @property
    def mean_s(self) -> float | None:
        """Mean time of an answer; None before the first one."""
        return self.seconds / self.requests if self.requests else None


class Traffic:
    """Counts answers."""

    def __init__(self) -> None:
        self.answered = Answered()

    def note(self, seconds: float) -> None:
        """Count an answer that took so long. For the thread of the pages only."""
        before = self.answered
        self.answered = Answered(before.requests + 1, before.seconds + seconds)
