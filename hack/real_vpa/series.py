"""What the doubles tell of one container: its samples on the wall clock, and which of them have been told.

Nothing is filled in. What was told is kept as it was told, with the time that it was told for: whoever checks the
recommender's arithmetic has to start from the recommender's own input.
"""

import bisect
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Sample:
    """Use of one container; None where it was not measured."""

    time: float
    """Wall clock, seconds since 1970."""
    cpu_cores: float | None
    memory_bytes: float | None


@dataclass(frozen=True)
class Series:
    """Samples of one container of one workload, oldest first."""

    workload: str
    container: str
    samples: tuple[Sample, ...]
    told: list[Sample] = field(default_factory=list)
    """CPU and memory of a moment may be told apart; then there are two of the same time."""

    def latest(self, *, at: float, within: float) -> Sample | None:
        """Return the newest sample that is at most `within` seconds old."""
        position = bisect.bisect_right(self.samples, at, key=lambda sample: sample.time)
        sample = self.samples[position - 1] if position else None
        return sample if sample is not None and sample.time > at - within else None
