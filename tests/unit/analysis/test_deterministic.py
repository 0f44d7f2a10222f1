import pytest

from optiinfra.analysis.deterministic import DeterministicAdviser, rank, shown
from optiinfra.analysis.validation import validate
from optiinfra.analysis.vocabulary import PlanStepKind, ReasonCode
from optiinfra.domain.evidence import Bottleneck, Direction, RecommendationType
from tests.unit.analysis.examples import candidate, request

GROW = candidate("r1", direction=Direction.SCALE_UP, savings=-2_000.0, reason=ReasonCode.QUEUE_DRAIN)
SAVE = candidate("r2", type=RecommendationType.IDLE_GPU, savings=9_000.0, confidence=0.6)
SURE = candidate("r3", type=RecommendationType.RESOURCES, savings=9_000.0, confidence=0.9)
UNPRICED = candidate("r4", type=RecommendationType.KV_CACHE, direction=Direction.RESIZE, savings=None)
ALL = (GROW, SAVE, SURE, UNPRICED)


def test_money_then_confidence_decide_and_unpriced_stands_between_saving_and_costing():
    assert rank(ALL, bottleneck=Bottleneck.HEALTHY) == ("r3", "r2", "r4", "r1")


def test_relief_of_a_live_bottleneck_comes_first():
    assert rank(ALL, bottleneck=Bottleneck.QUEUE) == ("r1", "r3", "r2", "r4")
    assert rank(ALL, bottleneck=Bottleneck.KV_CACHE) == ("r4", "r1", "r3", "r2")


@pytest.mark.parametrize("bottleneck", [Bottleneck.HEALTHY, Bottleneck.IDLE, Bottleneck.UNKNOWN])
def test_without_a_live_bottleneck_nothing_is_urgent(bottleneck):
    assert rank(ALL, bottleneck=bottleneck)[0] == "r3"


async def test_every_kind_of_candidate_is_explained_with_its_numbers_and_has_a_plan():
    for kind in RecommendationType:
        for reason in ReasonCode:
            asked = request(candidate("r1", type=kind, reason=reason))
            insight = validate(asked, await DeterministicAdviser().advise(asked))
            assert "from 8 to 5" in insight.explanations[0].text
            assert "kv cache usage 0.314 ratio" in insight.explanations[0].text
            assert "Saves 21900 a month." in insight.explanations[0].text
            assert insight.plans[0].steps[0].kind is PlanStepKind.REVIEW_EVIDENCE
            assert insight.plans[0].steps[-1].kind is PlanStepKind.ROLL_BACK_IF_WORSE


def test_without_a_price_no_money_is_mentioned():
    answer = DeterministicAdviser().answer(request(UNPRICED))
    assert "month" not in answer.summary + answer.explanations[0].text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.314159, "0.314"),
        (21_900.0, "21900"),
        (1234567.0, "1230000"),
        (1e-9, "0.000000001"),
        (-2.5, "-2.5"),
    ],
)
def test_numbers_are_shown_with_three_digits_and_no_exponent(value, text):
    assert shown(value) == text
