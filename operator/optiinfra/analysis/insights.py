"""One insight as a LangGraph workflow: gather -> ask -> validate -> report, for one object, on a queue of its own.

Never part of a round: LangGraph's steps are barriers, and a model that takes seconds would hold a rollback back.
Gather makes the deterministic answer first, so that there is one whatever happens; ask is the only step that may leave
the process; validate lets through what can be verified; report says which of the two answers stands, and why.
A failed adviser is an outcome, not an exception: `run` raises only for mistakes in this process.
"""

from collections.abc import Callable
from typing import Any, Final, TypedDict, cast

from langgraph.graph import END, START, StateGraph

from optiinfra.analysis.advice import Advice, Insight, InsightReport
from optiinfra.analysis.adviser import Adviser
from optiinfra.analysis.deterministic import NAME as DETERMINISTIC
from optiinfra.analysis.deterministic import DeterministicAdviser
from optiinfra.analysis.errors import AdviserError, NotConfigured
from optiinfra.analysis.isolation import untraced
from optiinfra.analysis.request import InsightRequest
from optiinfra.analysis.validation import validate
from optiinfra.api.reasons import Reason

STEPS: Final = ("gather", "ask", "validate", "report")


class _State(TypedDict):
    request: InsightRequest
    baseline: Insight | None
    advice: Advice | None
    insight: Insight | None
    failure: AdviserError | None
    report: InsightReport | None


class InsightsWorkflow:
    """The compiled workflow. Build it once; `run` may be called concurrently."""

    def __init__(
        self,
        adviser: Adviser,
        *,
        observe: Callable[[str, float], None],
        clock: Callable[[], float],
    ) -> None:
        self._adviser = adviser
        self._baseline = DeterministicAdviser()
        self._observe = observe
        self._clock = clock
        graph: StateGraph[_State] = StateGraph(_State)
        # "report" is a key of the state, and LangGraph wants node names that differ from keys: hence the prefix.
        for name, node in zip(STEPS, (self._gather, self._ask, self._validate, self._report), strict=True):
            graph.add_node(f"step_{name}", cast("Any", self._timed(name, node)))
        graph.add_edge(START, "step_gather")
        graph.add_conditional_edges(
            "step_gather",
            lambda state: "step_ask" if state["request"].candidates else "step_report",
            ["step_ask", "step_report"],
        )
        graph.add_conditional_edges(
            "step_ask",
            lambda state: "step_report" if state["failure"] else "step_validate",
            ["step_validate", "step_report"],
        )
        graph.add_edge("step_validate", "step_report")
        graph.add_edge("step_report", END)
        self._graph = graph.compile()

    async def run(self, request: InsightRequest) -> InsightReport:
        """Return the insight that stands, and what to say about it."""
        state = _State(request=request, baseline=None, advice=None, insight=None, failure=None, report=None)
        with untraced():
            end = await self._graph.ainvoke(state)
        return cast("InsightReport", end["report"])

    async def aclose(self) -> None:
        """Let go of the adviser's connections."""
        await self._adviser.aclose()

    def _timed(self, name: str, node: Callable[[_State], Any]) -> Callable[[_State], Any]:
        async def timed(state: _State) -> dict[str, Any]:
            started = self._clock()
            try:
                return cast("dict[str, Any]", await node(state))
            finally:
                self._observe(name, self._clock() - started)

        return timed

    async def _gather(self, state: _State) -> dict[str, Any]:
        request = state["request"]
        return {"baseline": validate(request, self._baseline.answer(request))}

    async def _ask(self, state: _State) -> dict[str, Any]:
        try:
            return {"advice": await self._adviser.advise(state["request"])}
        except AdviserError as failure:
            return {"failure": failure}

    async def _validate(self, state: _State) -> dict[str, Any]:
        advice = cast("Advice", state["advice"])
        try:
            return {"insight": validate(state["request"], advice)}
        except AdviserError as failure:
            failure.tokens_in, failure.tokens_out = advice.provenance.tokens_in, advice.provenance.tokens_out
            return {"failure": failure}

    async def _report(self, state: _State) -> dict[str, Any]:
        baseline, insight, failure = cast("Insight", state["baseline"]), state["insight"], state["failure"]
        if failure is not None:
            return {"report": _failed(baseline, failure)}
        if self._adviser.name == DETERMINISTIC:
            return {"report": _failed(baseline, NotConfigured("no language model is configured"))}
        if insight is None:
            return {
                "report": InsightReport(
                    insight=baseline,
                    available=True,
                    reason=Reason.NOTHING_TO_EXPLAIN,
                    message="Nothing is recommended, so the language model was not asked.",
                    outcome="nothing_to_ask",
                )
            }
        source = insight.provenance
        return {
            "report": InsightReport(
                insight=insight,
                available=True,
                reason=Reason.SUCCEEDED,
                message=f"Ranked and explained by {source.adviser}.",
                outcome="cached" if source.cached else "ok",
                tokens_in=source.tokens_in,
                tokens_out=source.tokens_out,
            )
        }


def _failed(baseline: Insight, failure: AdviserError) -> InsightReport:
    return InsightReport(
        insight=baseline,
        available=False,
        reason=failure.reason,
        message=f"{str(failure)[:300]}; the deterministic ranking is shown.",
        outcome=failure.outcome,
        tokens_in=failure.tokens_in,
        tokens_out=failure.tokens_out,
    )
