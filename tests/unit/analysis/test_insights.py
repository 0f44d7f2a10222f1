import itertools

import pytest

from optiinfra.analysis.advice import Explanation, InsightReport
from optiinfra.analysis.adviser import Adviser
from optiinfra.analysis.deterministic import DeterministicAdviser
from optiinfra.analysis.errors import (
    AuthenticationFailed,
    BreakerOpen,
    BudgetExhausted,
    InvalidAnswer,
    NotConfigured,
    RateLimited,
    ServiceFailed,
    TimedOut,
    UnknownIds,
)
from optiinfra.analysis.insights import STEPS, InsightsWorkflow
from optiinfra.analysis.request import InsightRequest
from optiinfra.api.reasons import Reason
from tests.unit.analysis.examples import Scripted, advice, request


async def run(adviser: Adviser, asked: InsightRequest, steps: list[str] | None = None) -> InsightReport:
    ticks = itertools.count()
    seen = steps if steps is not None else []
    workflow = InsightsWorkflow(
        adviser, observe=lambda step, _seconds: seen.append(step), clock=lambda: float(next(ticks))
    )
    try:
        return await workflow.run(asked)
    finally:
        await workflow.aclose()


async def test_without_a_model_the_condition_is_not_configured_and_the_insight_is_complete():
    report = await run(DeterministicAdviser(), request())
    assert (report.available, report.reason) == (False, "NotConfigured")
    assert report.insight.ranking == ("r1", "r2")
    assert {one.id for one in report.insight.explanations} == {"r1", "r2"}
    assert report.insight.summary.startswith("2 recommendations stand")


async def test_a_valid_answer_stands_with_its_provenance():
    steps: list[str] = []
    report = await run(Scripted(advice(explanations=(Explanation("r1", "It fits."),))), request(), steps)
    assert (report.available, report.reason, report.outcome) == (True, "Succeeded", "ok")
    assert report.insight.ranking == ("r2", "r1")
    assert (report.tokens_in, report.tokens_out) == (10, 5)
    assert steps == list(STEPS)


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (NotConfigured("why"), Reason.NOT_CONFIGURED),
        (AuthenticationFailed("why"), Reason.AUTHENTICATION_FAILED),
        (RateLimited("why"), Reason.RATE_LIMITED),
        (ServiceFailed("why"), Reason.ENDPOINT_UNREACHABLE),
        (TimedOut("why"), Reason.ENDPOINT_UNREACHABLE),
        (InvalidAnswer("why"), Reason.ANSWER_INVALID),
        (UnknownIds("why"), Reason.ANSWER_INVALID),
        (BudgetExhausted("why"), Reason.BUDGET_EXHAUSTED),
        (BreakerOpen("why", cause=Reason.AUTHENTICATION_FAILED), Reason.AUTHENTICATION_FAILED),
    ],
)
async def test_a_failing_adviser_is_an_outcome_and_the_deterministic_insight_stands(failure, reason):
    steps: list[str] = []
    report = await run(Scripted(failure), request(), steps)
    assert not report.available
    assert report.reason is reason
    assert report.outcome == failure.outcome
    assert report.message == "why; the deterministic ranking is shown."
    assert report.insight.provenance.adviser == "deterministic"
    assert report.insight.ranking == ("r1", "r2")
    assert "validate" not in steps


async def test_an_answer_about_something_else_is_refused_whole_and_its_tokens_are_counted():
    report = await run(Scripted(advice(ranking=("r1", "r2", "r9"))), request())
    assert (report.available, report.reason, report.outcome) == (False, "AnswerInvalid", "unknown_ids")
    assert report.insight.provenance.adviser == "deterministic"
    assert (report.tokens_in, report.tokens_out) == (10, 5)


async def test_with_no_candidates_nobody_is_asked():
    adviser = Scripted(advice())
    steps: list[str] = []
    report = await run(adviser, InsightRequest(object_id="uid", candidates=()), steps)
    assert adviser.asked == 0
    assert report.outcome == "nothing_to_ask"
    assert report.insight.summary == "Nothing is recommended."
    assert steps == ["gather", "report"]


async def test_a_mistake_in_this_process_is_raised():
    class Broken(Scripted):
        async def advise(self, request, /):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await run(Broken(advice()), request())
