"""What an adviser answers (`Advice`), and what is left of it once everything in it was checked (`Insight`)."""

from dataclasses import dataclass
from enum import StrEnum

from optiinfra.analysis.vocabulary import PlanStepKind
from optiinfra.api.reasons import Reason


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a recommendation matters, in words."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class PlanStep:
    """One step of an action plan: its kind is of a closed set, the text only words it."""

    kind: PlanStepKind
    text: str


@dataclass(frozen=True, slots=True)
class ActionPlan:
    """The steps for one recommendation, in order."""

    id: str
    steps: tuple[PlanStep, ...]


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where an answer comes from, recorded with every insight."""

    adviser: str
    """`deterministic` or `groq`."""
    model: str = ""
    """Empty when no model was asked."""
    prompt_hash: str = ""
    """SHA-256 of everything that was sent. Empty when nothing was."""
    tokens_in: int = 0
    tokens_out: int = 0
    attempts: int = 0
    """Calls made; 0 for a cached or deterministic answer."""
    cached: bool = False


@dataclass(frozen=True, slots=True)
class Advice:
    """An adviser's answer, of the right shape but not yet trusted: its texts and ids are checked by the workflow."""

    summary: str
    ranking: tuple[str, ...]
    explanations: tuple[Explanation, ...]
    plans: tuple[ActionPlan, ...]
    provenance: Provenance


class DropReason(StrEnum):
    """Why a sentence of a model was left out."""

    UNGIVEN_NUMBER = "ungiven_number"
    UNKNOWN_ID = "unknown_id"
    LINK = "link"


@dataclass(frozen=True, slots=True)
class Dropped:
    """How many sentences were left out for one reason."""

    reason: DropReason
    sentences: int


@dataclass(frozen=True, slots=True)
class Insight:
    """Text and ranking about recommendations that already exist. Texts are escaped and bounded: ready to show."""

    summary: str
    ranking: tuple[str, ...]
    """Every candidate's id exactly once, most worthwhile first."""
    explanations: tuple[Explanation, ...]
    plans: tuple[ActionPlan, ...]
    provenance: Provenance
    dropped: tuple[Dropped, ...] = ()


@dataclass(frozen=True, slots=True)
class InsightReport:
    """The end of one run: an insight always, and whether a language model stands behind it."""

    insight: Insight
    available: bool
    """Value of the condition `InsightsAvailable`."""
    reason: Reason
    """Reason of that condition."""
    message: str
    """Message of that condition: one line, no foreign text."""
    outcome: str
    """Label for metrics: `ok`, `cached`, `nothing_to_ask`, or the outcome of the AdviserError."""
    tokens_in: int = 0
    tokens_out: int = 0
    """Tokens that this run cost, also when the answer was refused."""
