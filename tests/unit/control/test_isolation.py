"""A write that the Lease no longer allows is told as that, in one line, and counts as nobody's failure."""

import asyncio
import logging
from typing import Any

import pytest

from optiinfra import metrics
from optiinfra.analysis.errors import RoundFailed
from optiinfra.control.isolation import isolated, log_failure, lost_lead
from optiinfra.errors import LeadershipLost
from tests.unit.control import virtual
from tests.unit.control.examples import ro, service
from tests.unit.control.test_promised_rounds import World

LOST = LeadershipLost("the Lease could not be renewed in time")
LATER = (("report", LOST),)


class FailingWorld(World):
    """Every status meets the same error."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

        async def refused(*_: Any, **__: Any) -> None:
            raise self.error

        self.sink.write = refused  # type: ignore[assignment,method-assign]  # the same sink, behind a fence

    async def run(self, work: Any) -> None:
        try:
            await asyncio.create_task(super().run(work))  # each step of a real workflow is a task of its own
        except Exception as error:
            raise RoundFailed(step="report", cause=error, work=work) from error


def failures(step, kind):
    return metrics.OBJECT_FAILURES.labels(step, kind)._value.get()


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (LOST, True),
        (ExceptionGroup("of a step", [LOST, ExceptionGroup("inner", [LOST])]), True),
        (RoundFailed(step="execute", cause=LOST, work=None, also=LATER), True),
        (RoundFailed(step="execute", cause=ValueError("a mistake"), work=None, also=LATER), False),
        (ExceptionGroup("of a step", [LOST, ValueError("a mistake")]), False),
        (ValueError("a mistake"), False),
    ],
    ids=repr,
)
def test_a_lost_lead_is_told_from_a_mistake_beside_it(error, lost):
    assert lost_lead(error) is lost


def test_it_goes_on_to_whoever_runs_the_part():
    with pytest.raises(LeadershipLost), isolated(service(ro()), step="execute"):
        raise LOST


@pytest.mark.parametrize(("error", "level"), [(LOST, "WARNING"), (ValueError("a mistake"), "ERROR")], ids=repr)
def test_a_mistake_has_its_traceback_in_the_log_and_a_lost_lead_has_none(caplog, error, level):
    log_failure(logging.getLogger("optiinfra.test"), "round failed", error, step="report")
    (record,) = caplog.records
    assert (record.levelname, record.step, record.exc_info is None) == (level, "report", level == "WARNING")


def test_a_round_whose_lead_is_lost_leaves_one_line_and_goes_on_once_it_leads_again(caplog):
    async def story():
        world = FailingWorld(LOST)
        before = failures("report", "LeadershipLost")
        promised = world.loop.run_now(world.key)
        await world.until(1.0)
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert failures("report", "LeadershipLost") == before
        assert world.loop.queue.due_in(world.key) is not None
        del world.sink.write
        world.loop.run_now(world.key)
        await world.until(1.0)
        assert promised in world.told["requested"], "what was promised is still told"

    virtual.run(story)


def test_a_status_that_cannot_be_built_is_that_objects_failure(caplog):
    async def story():
        world = FailingWorld(ValueError("a mistake"))
        before = failures("report", "ValueError")
        world.loop.run_now(world.key)
        await world.until(0.5)
        await asyncio.sleep(0.0)
        assert [record.getMessage() for record in caplog.records] == ["report failed"]
        assert failures("report", "ValueError") == before + 1

    virtual.run(story)
