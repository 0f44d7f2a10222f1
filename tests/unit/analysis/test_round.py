import asyncio
import itertools
from dataclasses import dataclass, field

import pytest

from optiinfra.analysis.errors import RoundFailed, StepTimedOut
from optiinfra.analysis.round import STEPS, RoundWorkflow, StepTimeouts

GENEROUS = StepTimeouts()


@dataclass
class Batch:
    acts: bool = True
    seen: list[str] = field(default_factory=list)


class Steps:
    """Records the order, and fails or hangs where told."""

    def __init__(self, *, fails: dict[str, Exception] | None = None, hangs: str = "") -> None:
        self.fails = fails or {}
        self.hangs = hangs
        self.reached = asyncio.Event()

    async def _step(self, name: str, work: Batch) -> Batch:
        work.seen.append(name)
        if name == self.hangs:
            self.reached.set()
            await asyncio.Event().wait()
        if name in self.fails:
            raise self.fails[name]
        return work

    async def collect(self, work: Batch) -> Batch:
        return await self._step("collect", work)

    async def analyze(self, work: Batch) -> Batch:
        return await self._step("analyze", work)

    async def plan(self, work: Batch) -> Batch:
        return await self._step("plan", work)

    async def execute(self, work: Batch) -> Batch:
        return await self._step("execute", work)

    async def monitor(self, work: Batch) -> Batch:
        return await self._step("monitor", work)

    async def report(self, work: Batch) -> Batch:
        return await self._step("report", work)

    def wants_execution(self, work: Batch) -> bool:
        return work.acts


def workflow(steps: Steps, *, timeouts: StepTimeouts = GENEROUS, durations: list | None = None):
    ticks = itertools.count()
    record = durations if durations is not None else []
    return RoundWorkflow(
        steps,
        observe=lambda step, seconds: record.append((step, seconds)),
        clock=lambda: float(next(ticks)),
        timeouts=timeouts,
    )


async def test_steps_run_in_order_and_each_is_timed():
    durations: list[tuple[str, float]] = []
    batch = await workflow(Steps(), durations=durations).run(Batch())
    assert batch.seen == list(STEPS)
    assert durations == [(step, 1.0) for step in STEPS]


async def test_execute_is_skipped_when_nothing_is_to_be_executed():
    batch = await workflow(Steps()).run(Batch(acts=False))
    assert batch.seen == ["collect", "analyze", "plan", "monitor", "report"]


@pytest.mark.parametrize("step", ["collect", "analyze", "plan"])
async def test_a_failure_before_anything_was_written_ends_the_round(step):
    cause = KeyError("x")
    batch = Batch()
    with pytest.raises(RoundFailed) as raised:
        await workflow(Steps(fails={step: cause})).run(batch)
    assert raised.value.step == step
    assert raised.value.__cause__ is cause
    assert raised.value.work is batch
    assert batch.seen[-1] == step


@pytest.mark.parametrize("step", ["execute", "monitor"])
async def test_a_failure_after_something_may_be_written_still_reports(step):
    durations: list[tuple[str, float]] = []
    batch = Batch()
    cause = RuntimeError("the API server went away")
    with pytest.raises(RoundFailed, match=f"'{step}' failed: RuntimeError") as raised:
        await workflow(Steps(fails={step: cause}), durations=durations).run(batch)
    assert batch.seen == list(STEPS)
    assert raised.value.__cause__ is cause
    assert [name for name, _ in durations] == list(STEPS), "a failing step is timed too"


async def test_the_first_of_several_failures_is_the_cause_and_the_others_are_kept():
    fails = {"execute": RuntimeError("a"), "monitor": ValueError("b"), "report": OSError("c")}
    with pytest.raises(RoundFailed) as raised:
        await workflow(Steps(fails=fails)).run(Batch())
    assert raised.value.step == "execute"
    assert [step for step, _ in raised.value.also] == ["monitor", "report"]


async def test_a_step_that_hangs_is_ended_and_named():
    batch = Batch()
    with pytest.raises(RoundFailed) as raised:
        await workflow(Steps(hangs="monitor"), timeouts=StepTimeouts(monitor=0.01)).run(batch)
    assert isinstance(raised.value.__cause__, StepTimedOut)
    assert "StepTimeouts.monitor" in str(raised.value.__cause__)
    assert batch.seen[-1] == "report"


async def test_a_timeout_of_the_steps_own_is_not_taken_for_ours():
    with pytest.raises(RoundFailed) as raised:
        await workflow(Steps(fails={"execute": TimeoutError("theirs")})).run(Batch())
    assert not isinstance(raised.value.__cause__, StepTimedOut)


async def test_cancelling_a_round_cancels_it():
    batch = Batch()
    steps = Steps(hangs="execute")
    task = asyncio.create_task(workflow(steps).run(batch))
    await steps.reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert "report" not in batch.seen


async def test_one_workflow_serves_several_batches_at_once_without_mixing_them():
    compiled = workflow(Steps())
    batches = await asyncio.gather(*(compiled.run(Batch(acts=index % 2 == 0)) for index in range(20)))
    assert [("execute" in batch.seen) for batch in batches] == [index % 2 == 0 for index in range(20)]
    assert all(len(batch.seen) == (6 if batch.acts else 5) for batch in batches)
