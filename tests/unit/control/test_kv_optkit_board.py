"""KV-OptKit's answer beside our advice: shown, renewed, and silent where nobody runs it."""

import asyncio

from optiinfra.control.kv_optkit import PlanBoard
from optiinfra.domain.kv_optkit_plan import KVOptKitPlan, PlannedAction
from optiinfra.domain.readings import Unknown, UnknownReason
from tests.unit.control import virtual

PLAN = KVOptKitPlan((PlannedAction.EVICT,), 0.1, 0.0, simulated=True, version="0.5.3")
AWAY = Unknown(UnknownReason.UNREACHABLE, "refused")


def test_no_server_no_note():
    board = PlanBoard(None)
    virtual.run(board.run)
    assert board.notes() == ()


def test_a_server_that_was_not_asked_yet_is_said_to_have_no_plan():
    async def never():
        raise AssertionError

    assert PlanBoard(never).notes()[0].reason == "KVOptKitUnavailable"


def test_the_note_follows_the_server_at_most_once_a_minute():
    answers, asked, reasons = [AWAY, PLAN, AWAY], [], []

    async def read():
        asked.append(virtual.now())
        return answers[min(len(asked), len(answers)) - 1]

    async def story():
        board = PlanBoard(read)
        task = asyncio.create_task(board.run())
        for moment in (1.0, 61.0, 121.0):
            await asyncio.sleep(moment - virtual.now())
            reasons.append(board.notes()[0].reason)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    virtual.run(story)
    assert reasons == ["KVOptKitUnavailable", "KVOptKitPlan", "KVOptKitUnavailable"]
    assert asked == [0.0, 60.0, 120.0]
