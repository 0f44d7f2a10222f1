"""Usage of one container as arrays, and what a rule that sizes it once a day would have requested.

Rules decide at given moments, usually midnights, and see only what was sampled before them. In the arrays NaN stands
for what is not known, as gaps do in the rest of the replay; where a single number leaves them it is an `Unknown`.
Nothing is filled in: a moment without a sample is no sample of zero.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from optiinfra.domain.histogram import DAY
from optiinfra.domain.readings import Unknown, UnknownReason, Value

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


class UsageError(ValueError):
    """Samples that cannot be: times that do not grow, negative or infinite use, arrays of different lengths."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Samples of one container, oldest first: each array is (samples,), NaN where one of the two was not measured."""

    time: FloatArray
    """Seconds since any midnight, growing."""
    cpu_cores: FloatArray
    memory_bytes: FloatArray

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        shapes = {self.time.shape, self.cpu_cores.shape, self.memory_bytes.shape}
        if len(shapes) != 1 or self.time.ndim != 1:
            raise UsageError(f"usage: time, cpu_cores and memory_bytes must be equally long, got {sorted(shapes)}")
        if not np.isfinite(self.time).all() or (np.diff(self.time) <= 0.0).any():
            raise UsageError("usage: times must be finite and grow: sort the samples and drop repeated ones")
        for name, values in (("cpu_cores", self.cpu_cores), ("memory_bytes", self.memory_bytes)):
            if np.isinf(values).any() or (values < 0.0).any():
                raise UsageError(f"usage: {name} must not be negative or infinite; leave unknown samples empty")

    def midnights(self) -> FloatArray:
        """Return the midnights at which there is a past: after the first sample and not after the last one's day."""
        if not len(self.time):
            return np.zeros(0)
        first = np.floor(self.time[0] / DAY) + 1.0
        last = np.floor(self.time[-1] / DAY)
        return np.arange(first, last + 1.0) * DAY


@dataclass(frozen=True, slots=True)
class Requests:
    """What one rule would have requested: each array is (decisions,), NaN where it had nothing to go by."""

    time: FloatArray
    cpu_cores: FloatArray
    memory_bytes: FloatArray

    def cpu(self, decision: int) -> Value:
        """Return one decision's CPU request, cores."""
        return _value(self.cpu_cores[decision])

    def memory(self, decision: int) -> Value:
        """Return one decision's memory request, bytes."""
        return _value(self.memory_bytes[decision])


def exceeded(usage: Usage, *, begin: float, end: float, request: float) -> tuple[float, float] | None:
    """Return when memory first exceeded a request in [begin, end) and the peak of that span; None when it did not."""
    span = slice(*np.searchsorted(usage.time, [begin, end], side="left"))
    memory = usage.memory_bytes[span]
    above = np.flatnonzero(memory > request)
    return (float(usage.time[span][above[0]]), float(np.nanmax(memory))) if len(above) else None


def _value(number: np.float64) -> Value:
    if np.isnan(number):
        return Unknown(UnknownReason.TOO_FEW_SAMPLES, "nothing was measured before this decision")
    return float(number)
