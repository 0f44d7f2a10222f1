"""The Groq adviser against an HTTP stub of the API: every way in which it answers, through the real client stack."""

import asyncio
import dataclasses
import itertools
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from optiinfra.analysis.advice import InsightReport
from optiinfra.analysis.breaker import BreakerPolicy, BreakerState
from optiinfra.analysis.errors import InvalidAnswer
from optiinfra.analysis.groq_adviser import GroqAdviser
from optiinfra.analysis.insights import InsightsWorkflow
from optiinfra.analysis.request import InsightRequest, candidate_of
from optiinfra.analysis.retry import RetryPolicy
from optiinfra.analysis.settings import AdviserSettings
from tests.groq_stub import KEY, GroqStub, Mode
from tests.unit.analysis.examples import candidate, request
from tests.unit.analysis.test_request import HOSTILE, hostile_proposal

RETRY = RetryPolicy(attempts=3, deadline=10.0, attempt_timeout=8.0, first_wait=0.01, longest_wait=0.2)
IMPATIENT = RetryPolicy(attempts=2, deadline=2.0, attempt_timeout=0.3, first_wait=0.01)


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclasses.dataclass
class Bench:
    """An adviser wired to the stub, and its clock."""

    stub: GroqStub
    settings: AdviserSettings
    clock: Clock
    adviser: GroqAdviser
    workflow: InsightsWorkflow

    async def ask(self, asked: InsightRequest | None = None) -> InsightReport:
        return await self.workflow.run(asked or request())

    def spent(self, object_id: str = "uid-1") -> int:
        return self.adviser.budget.spent(object_id, now=self.clock())

    def state(self) -> BreakerState:
        return self.adviser.breaker.state(now=self.clock())

    async def configure(self, **changes: object) -> None:
        await self.workflow.aclose()
        self.settings = dataclasses.replace(self.settings, **changes)
        self.adviser = GroqAdviser(self.settings, clock=self.clock, monotonic=self.clock)
        self.workflow = wired(self.adviser)


def wired(adviser: GroqAdviser) -> InsightsWorkflow:
    ticks = itertools.count()
    return InsightsWorkflow(adviser, observe=lambda _step, _seconds: None, clock=lambda: float(next(ticks)))


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    key_file = tmp_path / "key"
    key_file.write_text(KEY + "\n")
    async with GroqStub() as stub:
        settings = AdviserSettings(
            key_file=key_file, endpoint=stub.url, retry=RETRY, breaker=BreakerPolicy(failures=3, pause=60.0)
        )
        clock = Clock()
        adviser = GroqAdviser(settings, clock=clock, monotonic=clock)
        made = Bench(stub, settings, clock, adviser, wired(adviser))
        yield made
        await made.workflow.aclose()


async def test_a_valid_answer_is_ranked_explained_and_accounted(bench):
    report = await bench.ask()
    assert (report.available, report.outcome) == (True, "ok")
    assert report.insight.ranking == ("r2", "r1")
    assert report.insight.explanations[0].text == "Candidate r1 is supported by its numbers."
    source = report.insight.provenance
    assert (source.adviser, source.model, source.attempts) == ("groq", "openai/gpt-oss-20b", 1)
    assert len(source.prompt_hash) == 64
    assert (report.tokens_in, report.tokens_out) == (900, 300)
    assert bench.spent() == 1_200
    assert bench.stub.complaints == []


async def test_the_request_is_one_strict_bounded_question_with_the_key_of_the_file(bench):
    await bench.ask()
    [recorded] = bench.stub.requests
    assert recorded.headers["Authorization"] == f"Bearer {KEY}"
    assert recorded.body["response_format"]["json_schema"]["strict"] is True
    assert recorded.body["reasoning_effort"] == "low"
    assert recorded.body["max_tokens"] == bench.settings.max_answer_tokens
    assert [one["role"] for one in recorded.body["messages"]] == ["system", "user"]
    assert "tools" not in recorded.body


# mode, calls, outcome, does it count against the endpoint, what is charged in reservations (R) or tokens
FAILURES = [
    (Mode.UNKNOWN_IDS, 1, "unknown_ids", False, 1_200),
    (Mode.NOT_JSON, 1, "invalid_answer", False, 1_200),
    (Mode.WRONG_SCHEMA, 1, "invalid_answer", False, 1_200),
    (Mode.CUT_OFF, 1, "invalid_answer", False, 1_200),
    (Mode.BAD_REQUEST, 1, "invalid_answer", False, "1R"),
    (Mode.EMPTY, 1, "service_failed", True, "1R"),
    (Mode.HTML, 1, "service_failed", True, "1R"),
    (Mode.UNAUTHORIZED, 1, "authentication_failed", True, 0),
    (Mode.NOT_FOUND, 1, "service_failed", True, 0),
    (Mode.REDIRECT, 1, "service_failed", True, 0),
    (Mode.RATE_LIMITED, 3, "rate_limited", True, 0),
    (Mode.ERROR, 3, "service_failed", True, "3R"),
    (Mode.RESET, 3, "service_failed", True, 0),
    (Mode.HUGE, 1, "service_failed", True, "1R"),
]


@pytest.mark.parametrize(("mode", "calls", "outcome", "against", "charged"), FAILURES)
async def test_each_failure_has_its_outcome_calls_breaker_and_charge(bench, mode, calls, outcome, against, charged):
    await bench.configure(breaker=BreakerPolicy(failures=1, pause=60.0))
    bench.stub.mode = mode
    report = await bench.ask()
    assert (report.available, report.outcome) == (False, outcome)
    assert report.insight.provenance.adviser == "deterministic"
    assert bench.stub.calls == calls
    assert bench.state() is (BreakerState.OPEN if against else BreakerState.CLOSED)
    if isinstance(charged, str):
        reserved = bench.spent() / int(charged[0])
        assert reserved == int(reserved)
        assert reserved > bench.settings.max_answer_tokens
    else:
        assert bench.spent() == charged
    assert len(bench.adviser.cache) == 0


@pytest.mark.parametrize("mode", [Mode.HANG, Mode.DRIP])
async def test_a_server_that_never_finishes_is_left_after_the_deadline(bench, mode):
    await bench.configure(retry=IMPATIENT)
    bench.stub.mode = mode
    report = await bench.ask()
    assert (report.outcome, report.reason) == ("timed_out", "EndpointUnreachable")
    assert bench.stub.calls == 2


async def test_reading_stops_soon_after_the_bound(bench):
    bench.stub.mode = Mode.HUGE
    await bench.ask()
    assert bench.stub.sent_bytes < 16 << 20, "of the 256 MiB on offer"


@pytest.mark.parametrize("failure", [Mode.ERROR, Mode.RATE_LIMITED, Mode.RESET])
async def test_a_failure_that_passes_is_survived(bench, failure):
    bench.stub.script = [failure, failure]
    report = await bench.ask()
    assert (report.outcome, report.insight.provenance.attempts) == ("ok", 3)
    assert bench.stub.calls == 3
    assert bench.state() is BreakerState.CLOSED


async def test_a_long_retry_after_is_kept_by_the_breaker_instead_of_asking_again(bench):
    bench.stub.mode, bench.stub.retry_after = Mode.RATE_LIMITED, "120"
    assert (await bench.ask()).outcome == "rate_limited"
    assert bench.stub.calls == 1
    bench.clock.now += 119.0
    assert (await bench.ask()).outcome == "breaker_open"
    bench.clock.now += 1.0
    bench.stub.mode = Mode.OK
    assert (await bench.ask()).outcome == "ok"


async def test_the_breaker_opens_probes_once_and_closes_again(bench):
    bench.stub.mode = Mode.NOT_FOUND
    for _ in range(3):
        await bench.ask()
    report = await bench.ask()
    assert (report.reason, report.outcome) == ("EndpointUnreachable", "breaker_open")
    assert bench.stub.calls == 3
    assert bench.spent() == 0, "what was not asked is not charged"
    bench.clock.now += 60.0
    assert (await bench.ask()).outcome == "service_failed"
    assert (await bench.ask()).outcome == "breaker_open"
    assert bench.stub.calls == 4
    bench.clock.now += 120.0
    bench.stub.mode = Mode.OK
    assert (await bench.ask()).outcome == "ok"
    assert bench.state() is BreakerState.CLOSED


async def test_the_budget_of_the_object_stops_and_comes_back_the_next_utc_day(bench):
    bench.stub.mode = Mode.NOT_JSON
    asked = request(budget=7_000)  # one reservation is about 5 000, one answer 1 200
    outcomes = [(await bench.ask(asked)).outcome for _ in range(4)]
    assert outcomes == ["invalid_answer", "invalid_answer", "budget_exhausted", "budget_exhausted"]
    assert bench.stub.calls == 2
    bench.stub.mode = Mode.OK
    assert (await bench.ask(request(object_id="uid-2", budget=7_000))).outcome == "ok", "budgets are per object"
    assert (await bench.ask(request(candidate("r1", savings=5.0), budget=7_000))).outcome == "budget_exhausted"
    bench.clock.now += 86_400.0
    assert (await bench.ask(request(candidate("r1", savings=5.0), budget=7_000))).outcome == "ok"


async def test_the_identical_question_costs_one_call_until_it_is_old(bench):
    first = await bench.ask()
    second = await bench.ask()
    assert (second.outcome, second.tokens_in, second.tokens_out) == ("cached", 0, 0)
    assert second.insight.summary == first.insight.summary
    assert bench.stub.calls == 1
    assert (await bench.ask(request(candidate("r1", savings=5.0)))).outcome == "ok"
    bench.clock.now += bench.settings.cache_seconds
    assert (await bench.ask()).outcome == "ok"
    assert bench.stub.calls == 3


async def test_a_cached_answer_needs_neither_budget_nor_breaker(bench):
    await bench.ask()
    bench.stub.mode = Mode.NOT_FOUND
    for index in range(3):
        await bench.ask(request(candidate("r1", savings=float(index + 1))))
    assert bench.state() is BreakerState.OPEN
    assert (await bench.ask(request(budget=0))).outcome == "cached"


async def test_hostile_text_of_a_model_is_cleaned(bench):
    bench.stub.mode = Mode.HOSTILE
    insight = (await bench.ask()).insight
    assert insight.summary.startswith("Good evil &lt;b&gt;news&lt;/b&gt; here. All is well.")
    assert len(insight.summary) <= 501
    assert "r1" not in [one.id for one in insight.explanations], "its only sentence held a number of its own"
    assert sum(one.sentences for one in insight.dropped) == 4


async def test_names_labels_and_messages_of_an_object_never_leave(bench):
    asked = InsightRequest(object_id=HOSTILE, candidates=(candidate_of(hostile_proposal(), position=1),))
    assert (await bench.ask(asked)).outcome == "ok"
    [recorded] = bench.stub.requests
    assert HOSTILE not in recorded.raw
    assert HOSTILE not in str(recorded.headers)


@pytest.mark.parametrize("mode", list(Mode))
async def test_neither_key_nor_prompt_is_ever_logged_or_reported(bench, mode, caplog):
    caplog.set_level(logging.DEBUG)
    await bench.configure(retry=dataclasses.replace(IMPATIENT, attempts=1))
    bench.stub.mode = mode
    report = await bench.ask()
    assert KEY not in caplog.text
    assert KEY not in repr(report)
    assert "Bearer" not in repr(report)
    assert "IGNORE" not in report.message
    assert "\n" not in report.message


async def test_a_wrong_key_is_not_repeated_back_and_a_rotated_one_works_at_once(bench, caplog):
    caplog.set_level(logging.DEBUG)
    await bench.configure(breaker=BreakerPolicy(failures=1, pause=600.0))
    bench.settings.key_file.write_text("gsk_old_and_wrong")
    report = await bench.ask()
    assert (report.reason, bench.state()) == ("AuthenticationFailed", BreakerState.OPEN)
    assert "gsk_old_and_wrong" not in report.message + caplog.text
    bench.settings.key_file.write_text(KEY)
    assert (await bench.ask()).outcome == "ok", "what failed with the old key says nothing about the new one"


async def test_without_a_key_nothing_is_sent(bench):
    bench.settings.key_file.unlink()
    report = await bench.ask()
    assert (report.available, report.reason) == (False, "NotConfigured")
    assert bench.stub.calls == 0


async def test_another_path_serves_other_compatible_endpoints(tmp_path):
    key_file = tmp_path / "key"
    key_file.write_text(KEY)
    async with GroqStub(path="/serving/v1/chat/completions") as stub:
        settings = AdviserSettings(
            key_file=key_file,
            endpoint=f"{stub.url}/serving",
            completions_path="/v1/chat/completions",
            model="in-house/llama",
        )
        clock = Clock()
        workflow = wired(GroqAdviser(settings, clock=clock, monotonic=clock))
        assert (await workflow.run(request())).outcome == "ok"
        await workflow.aclose()
    assert stub.requests[0].body["response_format"]["json_schema"]["strict"] is True, "for any model"


async def test_a_cancelled_question_is_charged_and_frees_the_probe(bench):
    bench.stub.mode = Mode.HANG
    task = asyncio.create_task(bench.ask())
    await bench.stub.asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert bench.spent() > bench.settings.max_answer_tokens
    assert bench.state() is BreakerState.CLOSED


async def test_questions_at_the_same_time_share_one_client(bench):
    asked = [request(candidate("r1", savings=float(index + 1)), object_id=f"uid-{index}") for index in range(8)]
    reports = await asyncio.gather(*(bench.ask(one) for one in asked))
    assert {report.outcome for report in reports} == {"ok"}
    assert bench.stub.calls == 8


async def test_the_adviser_itself_raises_with_the_tokens_that_were_spent(bench):
    bench.stub.mode = Mode.NOT_JSON
    with pytest.raises(InvalidAnswer) as raised:
        await bench.adviser.advise(request())
    assert (raised.value.tokens_in, raised.value.tokens_out) == (900, 300)
    assert raised.value.__cause__ is None
