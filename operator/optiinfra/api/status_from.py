"""From what the domain found to what the status shows: bounded, rounded, with every unknown's reason.

Texts that are too long are cut with an ellipsis rather than refused: a status that cannot be written helps nobody.
Ratios are rounded to steps of 0.05, other numbers to four digits, so that noise is not a change.
"""

import math
from typing import Final

from optiinfra.api.scalars import Duration, Time
from optiinfra.api.v1alpha1.status_parts import (
    MAX_EFFECTS,
    MAX_EVIDENCE,
    AlternativeStatus,
    BottleneckStatus,
    EffectStatus,
    EvidenceStatus,
    InsightStatus,
    Measured,
    RecommendationStatus,
    RefusalStatus,
    SavingsStatus,
    Severity,
    TrackRecordStatus,
)
from optiinfra.domain.bottleneck import Diagnosis
from optiinfra.domain.evidence import Effect, Evidence, Past, Proposal, Refusal, Savings
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.units import UnixTime

RATIO_STEP: Final = 0.05
_DIGITS: Final = 4
_MAX_WINDOW: Final = 99_999 * 3600
_GIB: Final = 1024**3


def round_ratio(ratio: float) -> float:
    """Round a share to steps of 0.05."""
    return round(round(ratio / RATIO_STEP) * RATIO_STEP, 2)


def round_number(number: float) -> float:
    """Round to four significant digits."""
    rounded = float(f"{number:.{_DIGITS}g}")
    return rounded if math.isfinite(rounded) else number  # the largest floats round up to infinity


def cut(text: str, limit: int) -> str:
    """Cut a text to a limit, with an ellipsis."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def to_unknown(unknown: Unknown) -> str:
    """Write why something is not known: reason first, then detail."""
    return cut(f"{unknown.reason}: {unknown.detail}" if unknown.detail else str(unknown.reason), 256)


def to_percent(value: Value) -> int | str:
    """Write a ratio as percent in steps of 5, or the reason why it is not known."""
    known = _finite(value)
    return str(known.reason) if isinstance(known, Unknown) else round(round_ratio(known) * 100)


def to_measured(value: Value) -> Measured:
    """Write a number, or why there is none."""
    known = _finite(value)
    if isinstance(known, Unknown):
        return Measured(unknown=to_unknown(known))
    return Measured(value=round_number(known))


def to_evidence(evidence: Evidence) -> EvidenceStatus:
    """Write one fact."""
    known = _finite(evidence.value)
    return EvidenceStatus(
        value=None if isinstance(known, Unknown) else round_number(known),
        unknown=to_unknown(known) if isinstance(known, Unknown) else None,
        signal=cut(evidence.signal, 64),
        unit=cut(evidence.unit, 64),
        window=Duration.of(min(max(evidence.window, 0.0), _MAX_WINDOW)),
        source=cut(evidence.source, 64),
        statistic=cut(evidence.statistic, 64),
        place=cut(evidence.place, 256) or None,
    )


def to_effect(effect: Effect) -> EffectStatus:
    """Write what a change is predicted to do to one signal."""
    return EffectStatus(
        signal=cut(effect.signal, 64),
        unit=cut(effect.unit, 64),
        before=to_measured(effect.before),
        lower=to_measured(effect.lower),
        expected=to_measured(effect.expected),
        upper=to_measured(effect.upper),
        basis=cut(effect.basis, 256),
    )


def to_savings(savings: Savings) -> SavingsStatus:
    """Write what a change would save."""
    return SavingsStatus(
        gpus=round_number(savings.gpus_freed),
        cpu_cores=round_number(savings.cpu_cores_freed),
        memory_gib=round_number(savings.memory_bytes_freed / _GIB),
        per_month=None if savings.per_month is None else round_number(savings.per_month),
    )


def to_recommendation(
    proposal: Proposal,
    *,
    identifier: str,
    issued: UnixTime,
    expires: UnixTime,
    severity: Severity = Severity.INFO,
    insight: InsightStatus | None = None,
) -> RecommendationStatus:
    """Write a proposal with its id, issue and expiry."""
    return RecommendationStatus(
        id=identifier,
        type=proposal.type,
        reason=cut(proposal.reason, 64),
        message=cut(proposal.message, 1024),
        severity=severity,
        setting=cut(proposal.setting, 256),
        current=cut(proposal.current, 256),
        proposed=cut(proposal.proposed, 256),
        lower=cut(proposal.lower, 256),
        upper=cut(proposal.upper, 256),
        direction=proposal.direction,
        confidence=round_ratio(min(max(proposal.confidence, 0.0), 1.0)),
        subject=cut(proposal.subject, 253),
        evidence=tuple(to_evidence(fact) for fact in proposal.evidence[:MAX_EVIDENCE]),
        savings=to_savings(proposal.savings),
        # a cut patch would be a wrong patch
        patch=proposal.patch if len(proposal.patch) <= 4096 else "",
        effects=tuple(to_effect(effect) for effect in proposal.effects[:MAX_EFFECTS]),
        risk=cut(proposal.risk, 512),
        verification=cut(proposal.verification, 512),
        undo=cut(proposal.undo, 512),
        issued_at=Time.of(issued),
        expires_at=Time.of(expires),
        insight=insight,
        track_record=None if proposal.past is None else to_track_record(proposal.past),
    )


def to_track_record(past: Past) -> TrackRecordStatus:
    """Write what became of earlier actions."""
    return TrackRecordStatus(
        verified=past.verified,
        regressed=past.regressed,
        unknown=past.unclear,
        message=cut(past.message, 1024),
        rests_until=None if past.rests_until is None else Time.of(past.rests_until),
    )


def to_bottleneck(diagnosis: Diagnosis, *, since: UnixTime) -> BottleneckStatus:
    """Write the bottleneck that was diagnosed."""
    other = diagnosis.alternative
    alternative = None if other is None else AlternativeStatus(type=other.bottleneck, message=cut(other.message, 512))
    return BottleneckStatus(
        type=diagnosis.bottleneck,
        confidence=round_ratio(min(max(diagnosis.confidence, 0.0), 1.0)),
        reason=cut(diagnosis.reason, 64),
        message=cut(diagnosis.message, 1024),
        since=Time.of(since),
        alternative=alternative,
        evidence=tuple(to_evidence(fact) for fact in diagnosis.evidence[:MAX_EVIDENCE]),
    )


def to_refusal(refusal: Refusal) -> RefusalStatus:
    """Write what was considered and not proposed."""
    return RefusalStatus(type=refusal.type, reason=cut(refusal.reason, 64), message=cut(refusal.message, 1024))


def _finite(value: Value) -> Value:
    """JSON knows no infinity; a number that is none is an unknown with its reason."""
    if isinstance(value, Unknown) or math.isfinite(value):
        return value
    return Unknown(UnknownReason.INVALID, "not a finite number")
