"""How the time of an engine step grows with its batch: step = a + b x batch, fitted on the engine's own history.

The fit is what batch-size advice rests on. Where history does not identify b (the batch hardly moved), it is unknown
and advice proposes the smallest step from which it could be learned.
"""

from dataclasses import dataclass

from optiinfra.domain.readings import Unknown, UnknownReason, Value

_NOT_FITTED = Unknown(UnknownReason.TOO_FEW_SAMPLES, "the batch has not varied enough to tell what a request costs")


@dataclass(frozen=True, slots=True)
class Pace:
    """The fit, of one replica. Seconds, and seconds a request in the batch."""

    base: Value = _NOT_FITTED
    """a."""
    slope: Value = _NOT_FITTED
    """b."""
    slope_lower: Value = _NOT_FITTED
    slope_upper: Value = _NOT_FITTED
    """95 % interval of b."""
    samples: int = 0
    batch_lowest: float = 0.0
    batch_highest: float = 0.0
    """Range of batch sizes that the fit saw; beyond it is extrapolation."""
