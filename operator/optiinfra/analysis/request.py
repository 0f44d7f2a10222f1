"""The question of one insight: candidates and numbers of one object, and nothing that a person wrote.

Redaction by construction: no field of an `InsightRequest` that reaches a prompt can hold free text. Words are enums of
`vocabulary` and of the domain, the rest is numbers and ids of the form `r1`. `object_id` is the key of the token
budget and never leaves the process. A value of the wrong kind is refused here, before anything else sees it.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from optiinfra.analysis.errors import RequestRefused
from optiinfra.analysis.vocabulary import NumberName, ReasonCode, Statistic, Unit
from optiinfra.domain.evidence import Bottleneck, Direction, Evidence, Proposal, RecommendationType
from optiinfra.domain.objectives import Objectives
from optiinfra.domain.readings import Unknown
from optiinfra.domain.units import Money, Ratio

MAX_CANDIDATES: Final = 16
MAX_NUMBERS: Final = 24
"""Numbers told for one candidate, and signals told for the object."""

MAX_VALUE: Final = 1e18
"""Larger ones are no measurement (an exabyte is 1e18 bytes)."""

_CANDIDATE_ID: Final = re.compile(r"r[1-9][0-9]{0,2}", re.ASCII)


def _require(value: object, kind: type[StrEnum], field: str) -> None:
    # A plain str equals a member of a StrEnum; only the type tells them apart.
    if type(value) is not kind:
        raise RequestRefused(f"{field} must be a {kind.__name__}, not {type(value).__name__}: free text is never told")


def _require_finite(value: object, field: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not _can_be_told(value):
        raise RequestRefused(f"{field} must be a finite number below {MAX_VALUE:g}; leave out what is unknown")


def _can_be_told(value: float) -> bool:
    return math.isfinite(value) and abs(value) < MAX_VALUE


@dataclass(frozen=True, slots=True)
class NamedNumber:
    """One number that may be told."""

    name: NumberName
    value: float
    unit: Unit = Unit.COUNT
    statistic: Statistic = Statistic.LAST

    def __post_init__(self) -> None:
        _require(self.name, NumberName, "number.name")
        _require(self.unit, Unit, "number.unit")
        _require(self.statistic, Statistic, "number.statistic")
        _require_finite(self.value, "number.value")


@dataclass(frozen=True, slots=True)
class InsightCandidate:
    """One recommendation of the deterministic analysis, as an adviser sees it."""

    id: str
    """`r1`, `r2` ...: given by position, so that it tells nothing about the object."""
    type: RecommendationType
    reason: ReasonCode
    direction: Direction
    confidence: Ratio
    numbers: tuple[NamedNumber, ...] = ()
    savings_per_month: Money | None = None
    """None when no price is configured; that is not the same as saving nothing."""

    def __post_init__(self) -> None:
        if not _CANDIDATE_ID.fullmatch(self.id):
            raise RequestRefused("candidate.id must be r1 to r999: any other text could carry a name")
        _require(self.type, RecommendationType, "candidate.type")
        _require(self.reason, ReasonCode, "candidate.reason")
        _require(self.direction, Direction, "candidate.direction")
        _require_finite(self.confidence, "candidate.confidence")
        if self.savings_per_month is not None:
            _require_finite(self.savings_per_month, "candidate.savings_per_month")
        if len(self.numbers) > MAX_NUMBERS:
            raise RequestRefused(f"candidate.numbers holds {len(self.numbers)}; tell at most {MAX_NUMBERS}")
        if not all(isinstance(number, NamedNumber) for number in self.numbers):
            raise RequestRefused("candidate.numbers must hold NamedNumber only")


@dataclass(frozen=True, slots=True)
class InsightRequest:
    """Everything that an adviser may know about one object."""

    object_id: str
    """Key of the token budget, for example the uid. Never told to anybody."""
    candidates: tuple[InsightCandidate, ...]
    signals: tuple[NamedNumber, ...] = ()
    bottleneck: Bottleneck = Bottleneck.UNKNOWN
    objectives: Objectives = Objectives()
    daily_token_budget: int = 50_000

    def __post_init__(self) -> None:
        if not self.object_id:
            raise RequestRefused("object_id is empty; give the object's uid")
        if len(self.candidates) > MAX_CANDIDATES:
            raise RequestRefused(f"candidates holds {len(self.candidates)}; ask about at most {MAX_CANDIDATES}")
        if len({candidate.id for candidate in self.candidates}) != len(self.candidates):
            raise RequestRefused("candidates must have different ids")
        if len(self.signals) > MAX_NUMBERS:
            raise RequestRefused(f"signals holds {len(self.signals)}; tell at most {MAX_NUMBERS}")
        if not all(isinstance(number, NamedNumber) for number in self.signals):
            raise RequestRefused("signals must hold NamedNumber only")
        _require(self.bottleneck, Bottleneck, "bottleneck")
        for field in ("time_to_first_token_p95", "inter_token_latency_p95", "queue_delay", "late_share"):
            _require_finite(getattr(self.objectives, field), f"objectives.{field}")
        if self.daily_token_budget < 0:
            raise RequestRefused("daily_token_budget must not be negative")

    @property
    def candidate_ids(self) -> tuple[str, ...]:
        """Ids of the candidates, in the order given."""
        return tuple(candidate.id for candidate in self.candidates)


def numbers_of(evidence: Iterable[Evidence]) -> tuple[NamedNumber, ...]:
    """Return what may be told: known values under listed names, units and statistics, at most MAX_NUMBERS."""
    told: dict[tuple[NumberName, Statistic], NamedNumber] = {}
    for item in evidence:
        name, unit, statistic = NumberName.of(item.signal), Unit.of(item.unit), Statistic.of(item.statistic)
        if name is None or unit is None or statistic is None:
            continue
        if isinstance(item.value, Unknown) or not _can_be_told(item.value):
            continue
        told.setdefault((name, statistic), NamedNumber(name, item.value, unit, statistic))
    return tuple(told.values())[:MAX_NUMBERS]


def candidate_of(proposal: Proposal, *, position: int) -> InsightCandidate:
    """Turn a proposal of the domain into a candidate. Its message, setting, subject and patch stay behind.

    Args:
        proposal: what the domain proposes.
        position: 1 for the first; the id becomes `r<position>`, and the caller keeps the mapping to its own ids.
    """
    numbers = [
        NamedNumber(name, value)
        for name, value in (
            (NumberName.CURRENT, _plain_number(proposal.current)),
            (NumberName.PROPOSED, _plain_number(proposal.proposed)),
            (NumberName.LOWER, _plain_number(proposal.lower)),
            (NumberName.UPPER, _plain_number(proposal.upper)),
        )
        if value is not None
    ]
    saved = (
        (NumberName.GPUS_FREED, proposal.savings.gpus_freed, Unit.GPUS),
        (NumberName.CPU_CORES_FREED, proposal.savings.cpu_cores_freed, Unit.CORES),
        (NumberName.MEMORY_BYTES_FREED, proposal.savings.memory_bytes_freed, Unit.BYTES),
    )
    numbers += [NamedNumber(name, value, unit) for name, value, unit in saved if value > 0 and _can_be_told(value)]
    return InsightCandidate(
        id=f"r{position}",
        type=proposal.type,
        reason=ReasonCode.of(proposal.reason),
        direction=proposal.direction,
        confidence=proposal.confidence,
        numbers=(*numbers, *numbers_of(proposal.evidence))[:MAX_NUMBERS],
        savings_per_month=proposal.savings.per_month,
    )


def _plain_number(text: str) -> float | None:
    """Return the number that the text is, if it is one ("4"); quantities and settings ("8Gi", "fp8") are not told."""
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", text, re.ASCII):
        return None
    return float(text)
