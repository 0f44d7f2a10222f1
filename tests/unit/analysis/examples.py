"""Requests and advisers that several tests use."""

from optiinfra.analysis.advice import ActionPlan, Advice, Explanation, PlanStep, Provenance
from optiinfra.analysis.errors import AdviserError
from optiinfra.analysis.request import InsightCandidate, InsightRequest, NamedNumber
from optiinfra.analysis.vocabulary import NumberName, PlanStepKind, ReasonCode, Unit
from optiinfra.domain.evidence import Bottleneck, Direction, RecommendationType
from optiinfra.domain.units import Money, Ratio


def candidate(
    id: str = "r1",  # noqa: A002  the field's own name
    *,
    type: RecommendationType = RecommendationType.REPLICAS,  # noqa: A002  same
    direction: Direction = Direction.SCALE_DOWN,
    reason: ReasonCode = ReasonCode.LEARNED,
    confidence: float = 0.9,
    savings: float | None = 21_900.0,
    numbers: tuple[NamedNumber, ...] = (
        NamedNumber(NumberName.CURRENT, 8),
        NamedNumber(NumberName.PROPOSED, 5),
        NamedNumber(NumberName.KV_CACHE_USAGE, 0.314159, Unit.RATIO),
    ),
) -> InsightCandidate:
    return InsightCandidate(
        id=id,
        type=type,
        reason=reason,
        direction=direction,
        confidence=Ratio(confidence),
        numbers=numbers,
        savings_per_month=None if savings is None else Money(savings),
    )


def request(
    *candidates: InsightCandidate,
    object_id: str = "uid-1",
    bottleneck: Bottleneck = Bottleneck.HEALTHY,
    signals: tuple[NamedNumber, ...] = (NamedNumber(NumberName.REQUESTS_WAITING, 17),),
    budget: int = 50_000,
) -> InsightRequest:
    return InsightRequest(
        object_id=object_id,
        candidates=candidates or (candidate("r1"), candidate("r2", savings=100.0)),
        signals=signals,
        bottleneck=bottleneck,
        daily_token_budget=budget,
    )


def advice(
    *,
    summary: str = "All is well.",
    ranking: tuple[str, ...] = ("r2", "r1"),
    explanations: tuple[Explanation, ...] = (),
    plans: tuple[ActionPlan, ...] = (ActionPlan("r1", (PlanStep(PlanStepKind.APPROVE, "Approve it."),)),),
) -> Advice:
    source = Provenance(adviser="scripted", model="m", tokens_in=10, tokens_out=5)
    return Advice(summary, ranking, explanations, plans, source)


class Scripted:
    """An adviser that answers, or fails, as told."""

    name = "scripted"

    def __init__(self, answer: Advice | AdviserError) -> None:
        self.answer = answer
        self.asked = 0

    async def advise(self, request: InsightRequest, /) -> Advice:
        self.asked += 1
        if isinstance(self.answer, AdviserError):
            raise self.answer
        return self.answer

    async def aclose(self) -> None:
        pass
