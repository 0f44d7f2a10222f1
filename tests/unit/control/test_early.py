"""A new leader that has read nothing yet leaves the status of before: for a bounded time, and of the same spec only."""

from dataclasses import replace

import pytest

from optiinfra.api.conditions import ConditionStatus
from optiinfra.api.reasons import Reason
from optiinfra.control.early import LONGEST, too_early
from optiinfra.control.memory import ObjectMemory
from optiinfra.control.report import InsightState, service_status
from optiinfra.control.work import Problem
from optiinfra.domain.units import UnixTime
from tests.unit.control.examples import NOW, UNMEASURED, decision, facts, service, signals

TALK = InsightState(ConditionStatus.FALSE, Reason.NOT_CONFIGURED)
BEING_READ = {"problem": Problem(Reason.COLLECTING, "being read"), "facts": None, "signals": None}
NO_PAGE_YET = {"signals": None}
WELL = {"signals": signals(), "decision": decision(4)}
FAILING = {"facts": replace(facts(), page_errors={"a": UNMEASURED}), "signals": signals(replicas_reporting=0)}


def in_round(at=NOW, *, before=None, memory=None, generation=None, **target):
    """An object in a round of a process, whose status says what an earlier process knew."""
    work = service(**target)
    if before is not None:
        work.obj = work.obj.model_copy(
            update={"status": service_status(before, round_id="r", now=UnixTime(NOW), insight=TALK)}
        )
    if generation is not None:
        metadata = work.obj.metadata.model_copy(update={"generation": generation})
        work.obj = work.obj.model_copy(update={"metadata": metadata})
    work.memory = memory or ObjectMemory()
    return work


def judged(work, *, at=NOW):
    status = service_status(work, round_id="r", now=UnixTime(at), insight=TALK)
    return too_early(work, status, now=UnixTime(at))


@pytest.mark.parametrize("target", [BEING_READ, NO_PAGE_YET])
@pytest.mark.parametrize("before", [WELL, FAILING])
def test_what_was_said_stands_while_nothing_is_known(target, before):
    assert judged(in_round(before=service(**before), **target))


@pytest.mark.parametrize("target", [WELL, FAILING, {"problem": Problem(Reason.API_ERROR, "no"), "facts": None}])
def test_what_is_known_is_told_at_once(target):
    assert not judged(in_round(before=service(**WELL), **target))


def test_an_object_of_which_nothing_was_said_is_told_that_it_is_being_read():
    assert not judged(in_round(**BEING_READ))
    assert not judged(in_round(before=service(**BEING_READ), **BEING_READ))


def test_another_spec_is_not_what_was_judged():
    assert not judged(in_round(before=service(**WELL), generation=99, **BEING_READ))


def test_it_ends_by_itself_and_begins_anew():
    memory = ObjectMemory()
    unread = in_round(before=service(**WELL), memory=memory, **NO_PAGE_YET)
    assert judged(unread, at=NOW)
    assert judged(unread, at=NOW + LONGEST - 1.0)
    assert not judged(unread, at=NOW + LONGEST)
    assert not judged(in_round(before=service(**WELL), memory=memory, **WELL), at=NOW + LONGEST)
    assert judged(unread, at=NOW + 10.0 * LONGEST), "pods of a rollout that took all at once"
    assert not judged(unread, at=NOW), "a clock that was set back keeps nothing"
