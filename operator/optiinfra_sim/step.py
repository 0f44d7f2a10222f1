"""Work that an engine has begun: equal steps that are taken together because nothing changes between them."""

from dataclasses import dataclass, field

from optiinfra_sim.request import Request

WEIGHTS_SM_SHARE = 0.55
"""SM activity while a step waits for the weights: memory-bound."""
BUSY_SM_SHARE = 0.95
"""SM activity of the part of a step that grows with its sequences and tokens."""


@dataclass(slots=True)
class Step:
    """Work that has begun: ``repeat`` equal steps, one after the other."""

    start: float
    seconds: float
    repeat: int
    decoding: int
    sm_seconds: float
    """Of one of the steps."""
    chunks: list[tuple[Request, int]] = field(default_factory=list)

    @property
    def end(self) -> float:
        """When the last one is done."""
        return self.start + self.repeat * self.seconds

    def done(self, at: float) -> int:
        """How many are done by then; all but the last at most."""
        return min(int((at - self.start) / self.seconds * (1 + 1e-12)), self.repeat - 1)
