"""A cumulative histogram with vLLM's own bucket bounds.

Plain counters instead of prometheus_client's: a simulated engine adds one value for thousands of tokens at
a time, and hundreds of engines live in one process without a registry each. It knows no labels and does not
render itself: ``pages`` does.
"""

import bisect
import itertools
from dataclasses import dataclass, field

TIME_TO_FIRST_TOKEN = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
    1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
INTER_TOKEN_LATENCY = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5,
    0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
REQUEST_PHASE = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0,
    50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip
ITERATION_TOKENS = (
    1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0,
)  # fmt: skip
PARALLEL_SAMPLES = (1.0, 2.0, 5.0, 10.0, 20.0)
PREEMPTIONS = (1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 20.0)
HTTP_FINE = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0,
    7.5, 10.0, 30.0, 60.0,
)  # fmt: skip
HTTP_COARSE = (0.1, 0.5, 1.0)


def token_bounds(max_model_len: int) -> tuple[float, ...]:
    """VLLM's 1-2-5 series of token counts, as far as the model's context reaches."""
    bounds: list[float] = []
    decade = 1
    while True:
        for bound in (decade, 2 * decade, 5 * decade):
            if bound > max_model_len:
                return tuple(bounds)
            bounds.append(float(bound))
        decade *= 10


@dataclass(slots=True)
class Histogram:
    """Counts per bucket (not yet cumulative), with the total and the sum."""

    bounds: tuple[float, ...]
    counts: list[int] = field(init=False)
    sum: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float, *, times: int = 1) -> None:
        """Add ``value``, as if it had been seen ``times`` times."""
        self.counts[bisect.bisect_left(self.bounds, value)] += times
        self.sum += value * times

    @property
    def count(self) -> int:
        """How many values were seen."""
        return sum(self.counts)

    def cumulative(self) -> list[int]:
        """What a page shows: every bucket with all that lies below it; the last one is +Inf."""
        return list(itertools.accumulate(self.counts))
