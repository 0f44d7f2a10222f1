"""An opportunity before its money is known: what it claims of whose GPUs, and everything else about it."""

from dataclasses import dataclass
from typing import Final

from optiinfra.domain.evidence import Evidence, Proposal, RecommendationType
from optiinfra.domain.report.frames import FloatArray
from optiinfra.domain.report.money import Account
from optiinfra.domain.report.report import Fact
from optiinfra.domain.units import Ratio

MOST_FACTS: Final = 12


@dataclass(frozen=True, slots=True, eq=False)
class Draft:
    """What is proposed, and the GPUs that it would have freed."""

    type: RecommendationType
    reason: str
    subject: str
    title: str
    message: str
    setting: str
    current: str
    proposed: str
    confidence: Ratio
    claims: tuple[tuple[Account, FloatArray], ...] = ()
    apart: bool = False
    """Whether these are other GPUs than those of any other draft, so that claims of one holder add up."""
    evidence: tuple[Fact, ...] = ()
    sources: tuple[str, ...] = ()
    worse: tuple[str, ...] = ()
    risk: str = ""
    verification: str = ""
    undo: str = ""
    patch: str = ""
    """Text of a ready patch; empty where none can be written."""
    advice: str = ""
    """What to write where, where no patch can be."""
    cpu_cores: float = 0.0
    memory_bytes: float = 0.0


def of_proposal(
    proposal: Proposal, *, subject: str, title: str, sources: tuple[str, ...], advice: str = "", patch: str = ""
) -> Draft:
    """Return a proposal of the operator's own rules as a draft without claims on GPUs."""
    return Draft(
        type=proposal.type,
        reason=proposal.reason,
        subject=subject,
        title=title,
        message=proposal.message,
        setting=proposal.setting,
        current=proposal.current,
        proposed=proposal.proposed,
        confidence=proposal.confidence,
        evidence=facts_of(proposal.evidence),
        sources=sources,
        risk=proposal.risk,
        verification=proposal.verification,
        undo=proposal.undo,
        patch=patch or proposal.patch,
        advice=advice,
        cpu_cores=proposal.savings.cpu_cores_freed,
        memory_bytes=proposal.savings.memory_bytes_freed,
    )


def facts_of(evidence: tuple[Evidence, ...]) -> tuple[Fact, ...]:
    """Return evidence for people, the first ones."""
    return tuple(Fact(one.signal, one.value, one.unit, one.statistic, one.source) for one in evidence[:MOST_FACTS])
