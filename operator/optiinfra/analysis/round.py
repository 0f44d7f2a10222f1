"""One round as a LangGraph workflow: collect -> analyze -> plan -> execute -> monitor -> report, over an opaque batch.

The workflow knows the order, the time-outs and what happens when a step raises; what the steps do is `control`'s.
Steps isolate their own objects: an exception that reaches this module is a failure of the whole step. After collect,
analyze or plan there is nothing to report, so it ends the round; after execute or monitor something may have been
written to the cluster, so the round goes on to report and raises at the end.

It keeps nothing between runs: no checkpointer, no cache. Time-outs are asyncio's, not LangGraph's, whose error is
retryable by default; nothing here is retried, because the next round is the retry.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypedDict, TypeVar, cast

from langgraph.graph import END, START, StateGraph

from optiinfra.analysis.errors import RoundFailed, StepTimedOut
from optiinfra.analysis.isolation import untraced

Work = TypeVar("Work")

STEPS: Final = ("collect", "analyze", "plan", "execute", "monitor", "report")


class RoundSteps(Protocol[Work]):
    """What a round does, step by step. Each step takes the batch and returns it."""

    async def collect(self, work: Work, /) -> Work:
        """Read snapshots; never the network."""
        ...

    async def analyze(self, work: Work, /) -> Work:
        """Let the domain judge, in a worker thread."""
        ...

    async def plan(self, work: Work, /) -> Work:
        """Let policy have the last word on every number."""
        ...

    async def execute(self, work: Work, /) -> Work:
        """Act. Skipped unless `wants_execution`."""
        ...

    async def monitor(self, work: Work, /) -> Work:
        """Judge earlier actions in their verify window and roll back."""
        ...

    async def report(self, work: Work, /) -> Work:
        """Write status where it changed."""
        ...

    def wants_execution(self, work: Work, /) -> bool:
        """Tell, after plan, whether anything is to be executed."""
        ...


@dataclass(frozen=True, slots=True)
class StepTimeouts:
    """Seconds that each step may take. Generous: a step bounds its own calls; these catch a step that hangs."""

    collect: float = 10.0
    analyze: float = 30.0
    plan: float = 10.0
    execute: float = 60.0
    monitor: float = 60.0
    report: float = 60.0


class _State(TypedDict):
    work: Any  # opaque: only the steps know what it is
    failures: tuple[tuple[str, Exception], ...]


class RoundWorkflow(Generic[Work]):
    """The compiled workflow. Build it once; `run` may be called concurrently with different batches."""

    def __init__(
        self,
        steps: RoundSteps[Work],
        *,
        observe: Callable[[str, float], None],
        clock: Callable[[], float],
        timeouts: StepTimeouts = StepTimeouts(),
    ) -> None:
        self._observe = observe
        self._clock = clock
        self._timeouts = timeouts
        graph: StateGraph[_State] = StateGraph(_State)
        for name in STEPS:
            graph.add_node(name, cast("Any", self._node(name, getattr(steps, name))))
        graph.add_edge(START, "collect")
        graph.add_edge("collect", "analyze")
        graph.add_edge("analyze", "plan")
        graph.add_conditional_edges(
            "plan",
            lambda state: "execute" if steps.wants_execution(state["work"]) else "monitor",
            ["execute", "monitor"],
        )
        graph.add_edge("execute", "monitor")
        graph.add_edge("monitor", "report")
        graph.add_edge("report", END)
        self._graph = graph.compile()

    async def run(self, work: Work) -> Work:
        """Run one round and return the batch as report left it.

        Raises:
            RoundFailed: a step raised or timed out. The cause is the first failure.
        """
        with untraced():
            state = await self._graph.ainvoke(_State(work=work, failures=()))
        failures: tuple[tuple[str, Exception], ...] = state["failures"]
        if failures:
            (step, cause), *also = failures
            raise RoundFailed(step=step, cause=cause, work=state["work"], also=tuple(also))
        return cast("Work", state["work"])

    def _node(
        self, name: str, step: Callable[[Work], Awaitable[Work]]
    ) -> Callable[[_State], Awaitable[dict[str, Any]]]:
        limit: float = getattr(self._timeouts, name)
        goes_on = name in {"execute", "monitor", "report"}

        async def node(state: _State) -> dict[str, Any]:
            started = self._clock()
            try:
                return {"work": await self._bounded(name, limit, step, state["work"])}
            except Exception as error:
                if not goes_on:
                    raise RoundFailed(step=name, cause=error, work=state["work"]) from error
                return {"failures": (*state["failures"], (name, error))}
            finally:
                self._observe(name, self._clock() - started)

        return node

    @staticmethod
    async def _bounded(name: str, limit: float, step: Callable[[Work], Awaitable[Work]], work: Work) -> Work:
        try:
            async with asyncio.timeout(limit) as bound:
                return await step(work)
        except TimeoutError as error:
            # A TimeoutError of the step's own is its failure, not ours.
            if bound.expired():
                raise StepTimedOut(step=name, limit=limit) from error
            raise
