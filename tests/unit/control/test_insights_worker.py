"""The insights worker: one question at a time, only about something new, and no rush after a failure."""

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from optiinfra.analysis.advice import Explanation, Insight, InsightReport, Provenance
from optiinfra.analysis.request import InsightRequest
from optiinfra.api.conditions import ConditionStatus
from optiinfra.api.conversion import effective
from optiinfra.api.reasons import Reason
from optiinfra.control.insights import InsightsWorker
from optiinfra.control.keys import ObjectKey
from optiinfra.control.recommend import recommendations_of
from optiinfra.control.work import ServiceWork
from tests.unit.control import virtual
from tests.unit.control.examples import NOW, proposal, ro, service

TRUE, FALSE, UNKNOWN = ConditionStatus.TRUE, ConditionStatus.FALSE, ConditionStatus.UNKNOWN
SOURCE = Provenance(adviser="scripted", model="gpt-test", tokens_in=10, tokens_out=5)


def answer(*ids: str, available: bool = True, reason: str = "Succeeded") -> InsightReport:
    insight = Insight(
        summary="s",
        ranking=tuple(ids),
        explanations=tuple(Explanation(id=item, text=f"why {item}") for item in ids),
        plans=(),
        provenance=SOURCE,
        dropped=(),
    )
    return InsightReport(
        insight=insight,
        available=available,
        reason=reason,  # type: ignore[arg-type]  # the worker reads it as text
        message="said",
        outcome="ok" if available else "unreachable",
        tokens_in=10,
        tokens_out=5,
    )


@dataclass
class Workflow:
    """Answers, or fails, as told."""

    answers: list[InsightReport] = field(default_factory=list)
    seconds: float = 1.0
    asked: list[tuple[float, InsightRequest]] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    async def run(self, request: InsightRequest) -> InsightReport:
        self.asked.append((virtual.now(), request))
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        await asyncio.sleep(self.seconds)
        self.at_once -= 1
        return self.answers.pop(0) if self.answers else answer(*(item.id for item in request.candidates))


def work(name: str = "svc", *proposed: str, **spec: Any) -> tuple[ServiceWork, tuple[Any, ...]]:
    made = service(ro(name, uid=f"uid-{name}", **spec))
    made.targets[0].proposals = tuple(proposal("9", count) for count in proposed or ("2",))
    items = recommendations_of(
        [("t", item) for item in made.targets[0].proposals], (), object_uid=f"uid-{name}", texts={}, now=NOW
    )
    return made, items


def story(tell: Callable[[InsightsWorker, Workflow, list[ObjectKey]], Any], *, configured: bool = True) -> Any:
    async def told() -> Any:
        workflow, answered = Workflow(), list[ObjectKey]()
        worker = InsightsWorker(
            workflow=workflow,  # type: ignore[arg-type]  # scripted
            configured=configured,
            clock=lambda: NOW,
            answered=answered.append,
        )
        running = asyncio.create_task(worker.run())
        try:
            return await tell(worker, workflow, answered)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    return virtual.run(told)


def test_texts_and_ranks_come_back_by_recommendation():
    async def tell(worker, workflow, answered):
        made, items = work("svc", "2", "3")
        assert worker.state(made.key, made.settings).status is UNKNOWN
        workflow.answers = [answer("r2", "r1")]
        worker.consider(made, items)
        await asyncio.sleep(5.0)
        state = worker.state(made.key, made.settings)
        assert (state.status, state.reason) == (TRUE, Reason.SUCCEEDED)
        assert [(state.texts[item.id].text, state.texts[item.id].rank) for item in items] == [
            ("why r1", 2),
            ("why r2", 1),
        ]
        assert {text.model for text in state.texts.values()} == {"gpt-test"}
        assert answered == [made.key], "its next round shows them"

    story(tell)


def test_the_same_recommendations_are_asked_about_once():
    async def tell(worker, workflow, answered):
        made, items = work("svc", "2", "3")
        for _ in range(10):
            worker.consider(made, items)
            await asyncio.sleep(5.0)
        worker.consider(made, tuple(reversed(items)))
        await asyncio.sleep(5.0)
        assert len(workflow.asked) == 1
        worker.consider(*work("svc", "4"))
        await asyncio.sleep(5.0)
        assert len(workflow.asked) == 2

    story(tell)


@pytest.mark.parametrize(
    ("configured", "spec", "reason"),
    [
        (False, {}, Reason.NOT_CONFIGURED),
        (True, {"insights": {"enabled": False}}, Reason.DISABLED),
        (False, {"insights": {"enabled": False}}, Reason.DISABLED),
    ],
)
def test_without_an_endpoint_or_a_wish_nothing_is_asked_and_the_condition_says_so(configured, spec, reason):
    async def tell(worker, workflow, answered):
        made, items = work(**spec)
        worker.consider(made, items)
        await asyncio.sleep(60.0)
        assert workflow.asked == []
        state = worker.state(made.key, made.settings)
        assert (state.status, state.reason, state.texts) == (FALSE, reason, {})

    story(tell, configured=configured)


def test_without_recommendations_nothing_is_asked():
    async def tell(worker, workflow, answered):
        made, _ = work()
        worker.consider(made, ())
        await asyncio.sleep(60.0)
        assert workflow.asked == []

    story(tell)


def test_one_question_at_a_time_the_oldest_first():
    async def tell(worker, workflow, answered):
        for number in range(5):
            worker.consider(*work(f"svc-{number}"))
        await asyncio.sleep(30.0)
        assert [key.name for key in answered] == [f"svc-{number}" for number in range(5)]
        assert workflow.most_at_once == 1

    story(tell)


def test_a_newer_question_of_an_object_replaces_the_one_that_waits():
    async def tell(worker, workflow, answered):
        worker.consider(*work("first"))
        await asyncio.sleep(0.1)
        worker.consider(*work("svc", "2"))
        worker.consider(*work("svc", "3"))
        await asyncio.sleep(30.0)
        assert len(workflow.asked) == 2

    story(tell)


def test_a_failure_is_told_and_asked_again_later_and_later():
    async def tell(worker, workflow, answered):
        made, items = work()
        workflow.seconds = 0.0
        workflow.answers = [answer(available=False, reason="EndpointUnreachable")] * 9
        worker.consider(made, items)
        await asyncio.sleep(1.0)
        state = worker.state(made.key, made.settings)
        assert (state.status, state.reason, state.message) == (FALSE, Reason.ENDPOINT_UNREACHABLE, "said")
        for _ in range(5000):
            worker.consider(made, items)
            await asyncio.sleep(1.0)
        times = [at for at, _ in workflow.asked]
        gaps = [round(later - earlier) for earlier, later in itertools.pairwise(times)]
        assert gaps == [30, 60, 120, 240, 480, 900, 900, 900, 900][: len(gaps)]
        assert len(gaps) >= 7

    story(tell)


def test_after_a_success_failures_are_forgotten():
    async def tell(worker, workflow, answered):
        made, items = work()
        workflow.seconds = 0.0
        workflow.answers = [answer(available=False, reason="RateLimited"), answer("r1")]
        worker.consider(made, items)
        await asyncio.sleep(40.0)
        assert worker.state(made.key, made.settings).status is TRUE
        workflow.answers = [answer(available=False, reason="RateLimited")]
        worker.consider(*work("svc", "3"))
        await asyncio.sleep(40.0)
        assert [round(at) for at, _ in workflow.asked] == [0, 30, 40, 70]

    story(tell)


def test_an_object_that_is_gone_is_neither_asked_about_again_nor_remembered():
    async def tell(worker, workflow, answered):
        made, items = work()
        workflow.answers = [answer(available=False, reason="EndpointUnreachable")]
        worker.consider(made, items)
        await asyncio.sleep(5.0)
        answered.clear()
        worker.forget(made.key)
        await asyncio.sleep(3600.0)
        assert len(workflow.asked) == 1
        assert worker.state(made.key, made.settings).status is UNKNOWN
        assert answered == []

    story(tell)


def test_an_answer_for_an_object_that_went_meanwhile_is_thrown_away():
    async def tell(worker, workflow, answered):
        made, items = work()
        worker.consider(made, items)
        await asyncio.sleep(0.5)
        worker.forget(made.key)
        await asyncio.sleep(5.0)
        assert worker.state(made.key, made.settings).status is UNKNOWN
        assert answered == [], "nobody asks for a round of what is gone"

    story(tell)


def test_a_reason_nobody_knows_is_not_repeated_to_people():
    async def tell(worker, workflow, answered):
        made, items = work()
        workflow.answers = [answer(available=False, reason="ThePasswordIs")]
        worker.consider(made, items)
        await asyncio.sleep(5.0)
        assert worker.state(made.key, made.settings).reason is Reason.ANSWER_INVALID

    story(tell)


def test_the_question_holds_numbers_and_opaque_ids_and_no_names():
    async def tell(worker, workflow, answered):
        made, items = work("secret-project", "2", "3", "4")
        worker.consider(made, items)
        await asyncio.sleep(5.0)
        request = workflow.asked[0][1]
        assert [item.id for item in request.candidates] == ["r1", "r2", "r3"]
        assert "secret" not in repr(request).replace("uid-secret-project", "")
        assert "vllm" not in repr(request)

    story(tell)


def test_a_long_list_is_cut_and_many_objects_are_bounded():
    async def tell(worker, workflow, answered):
        worker.consider(*work("svc", *(str(number) for number in range(10, 40))))
        await asyncio.sleep(5.0)
        assert len(workflow.asked[0][1].candidates) == 16
        workflow.seconds = 1e6
        for number in range(1100):
            worker.consider(*work(f"svc-{number}"))
        assert len(worker._waiting) <= 1000

    story(tell)
    assert effective(ro().spec).insights_enabled
