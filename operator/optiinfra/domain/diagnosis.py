"""What a verdict is: a class of bottleneck, how sure it is, why, on what evidence, and what else it could have been.

A verdict is made by `bottleneck.diagnose`, and kept from flapping by `verdicts.settle`. Nothing is judged here.
"""

from dataclasses import dataclass

from optiinfra.domain.evidence import Bottleneck, Evidence, Finding, FindingType
from optiinfra.domain.readings import Value
from optiinfra.domain.units import Ratio

LASTING_IDLE = "NoWork"
"""Reason of an `Idle` verdict that has lasted long enough to give capacity back."""
QUIET_NOW = "NoWorkYet"
"""Reason of an `Idle` verdict that has not."""


@dataclass(frozen=True, slots=True)
class Alternative:
    """The next best class, and what would have to be true for it."""

    bottleneck: Bottleneck
    message: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The verdict, and what it rests on."""

    bottleneck: Bottleneck
    confidence: Ratio
    reason: str
    """CamelCase reason code."""
    message: str
    evidence: tuple[Evidence, ...]
    batch_limit: Value
    """Of one replica: from the settings, else inferred from the plateau, else not known."""
    batch_limit_source: str
    """One of "argument", "page", "inferred", or empty."""
    alternative: Alternative | None = None
    """None only where the verdict itself is `Unknown`."""
    provisional: bool = False
    """Whether it rests on one page: what is, not what lasts."""

    def finding(self) -> Finding:
        """Return the verdict as a finding; also for Healthy and Unknown, whose reason is worth showing."""
        return Finding(FindingType.BOTTLENECK, self.reason, self.message, self.confidence, self.evidence)

    @property
    def idle_for_long(self) -> bool:
        """Tell whether nothing was done for as long as it takes to give capacity back, not only at this moment."""
        return self.bottleneck is Bottleneck.IDLE and self.reason == LASTING_IDLE
