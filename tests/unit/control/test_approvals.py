"""Approvals: which id counts, for what and how long, what is refused with which words, and what is remembered of it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from optiinfra.api.scalars import Time
from optiinfra.api.v1alpha1 import APPROVE_ANNOTATION
from optiinfra.api.v1alpha1.action_status import ActionState, ActionStatus
from optiinfra.api.v1alpha1.status_parts import MAX_APPROVALS, ApprovalState, EnvelopeStatus, UsedApproval
from optiinfra.control import approvals
from optiinfra.control.recommend import recommendations_of
from optiinfra.control.work import ServiceWork
from optiinfra.domain.evidence import Direction, RecommendationType
from optiinfra.domain.units import UnixTime
from tests.unit.control.examples import NOW, proposal, ro, service, time_text

DAY = 24 * 3600.0


def item(identifier: str, *, expires: float = NOW + 3600, **changes: Any) -> dict[str, Any]:
    return {
        "id": identifier,
        "type": "Replicas",
        "reason": "Learned",
        "message": "m",
        "setting": "replicas",
        "current": "4",
        "proposed": "2",
        "lower": "2",
        "upper": "4",
        "direction": "ScaleDown",
        "confidence": 0.9,
        "subject": "vllm",
        "envelope": {"lowest": 2, "highest": 4, "maxStep": 4},
        "issuedAt": time_text(NOW - 60),
        "expiresAt": time_text(expires),
    } | changes


def work(annotation: str, *items: dict[str, Any], used: Any = (), at: float = NOW, **spec: Any) -> ServiceWork:
    status = {"recommendations": list(items), "usedApprovals": list(used)}
    made = service(ro(annotations={APPROVE_ANNOTATION: annotation}, status=status, **(spec or {"mode": "Approve"})))
    assert made.obj.status_error == ""
    approvals.read(made, now=UnixTime(at))
    return made


def refused(made: ServiceWork) -> dict[str, str]:
    return {one.id: one.why for one in made.refused_approvals}


def after(made: ServiceWork, annotation: str, *, at: float, actions: tuple[ActionStatus, ...] = ()) -> ServiceWork:
    """The same object in a later round: only its status was kept, as after a restart."""
    made.actions = list(actions)
    offered = [one.id for one in made.obj.status.recommendations]
    kept = approvals.book(made, offered=offered, now=UnixTime(at))
    status = made.obj.status.model_copy(update={"used_approvals": kept})
    metadata = made.obj.metadata.model_copy(update={"annotations": {APPROVE_ANNOTATION: annotation}})
    later = service(made.obj.model_copy(update={"status": status, "metadata": metadata}))
    approvals.read(later, now=UnixTime(at))
    return later


@pytest.mark.parametrize(
    ("annotation", "approved"),
    [("", set()), (" , ,", set()), ("r1", {"r1"}), (" r1 ,r2,", {"r1", "r2"}), ("r1,r1", {"r1"})],
)
def test_ids_that_stand_are_approved(annotation, approved):
    made = work(annotation, item("r1"), item("r2"), item("r3"))
    assert set(made.approved) == approved
    assert refused(made) == {}


def test_an_approved_count_becomes_an_envelope_for_a_day():
    (one,) = work("r1", item("r1")).approvals
    assert (one.state, one.subject) == (ApprovalState.STANDING, "vllm")
    assert one.envelope == EnvelopeStatus(lowest=2, highest=4, max_step=4)
    assert one.until is not None
    assert one.until.unix == NOW + DAY


@pytest.mark.parametrize(
    ("annotation", "word"),
    [
        ("r9", "unknown"),
        ("R1", "unknown"),
        ("old", "expired"),
        ("advice", "never applies"),
        ("up", "modes.scaleUp to Approve"),
        ("size", "modes.resize to Approve"),
    ],
)
def test_what_approves_nothing_is_refused_by_id_with_the_reason(annotation, word):
    made = work(
        annotation,
        item("r1"),
        item("old", expires=NOW - 1),
        item("advice", type="KVCache", direction="Resize"),
        item("up", direction="ScaleUp"),
        item("size", type="Resources", direction="Resize"),
        modes={"scaleDown": "Approve"},
    )
    assert made.approved == frozenset()
    assert word in refused(made)[annotation]


def test_in_mode_auto_no_approval_is_needed_and_none_is_used_up():
    made = work("r1", item("r1"), mode="Auto")
    assert (made.approved, made.approvals, refused(made)) == (frozenset(), (), {})


def test_while_suspended_nothing_is_used():
    made = work("r1", item("r1"), mode="Approve", suspend=True)
    assert (made.approved, made.approvals, refused(made)) == (frozenset(), (), {})


def test_an_envelope_survives_a_restart_and_ends_after_a_day():
    first = work("r1", item("r1"))
    later = after(first, "r1", at=NOW + 3600)
    assert [one.state for one in later.approvals] == [ApprovalState.STANDING]
    assert later.approvals == first.approvals, "its day began with the approval"
    assert refused(later) == {}
    over = after(later, "r1", at=NOW + DAY + 1)
    assert [one.state for one in over.approvals] == [ApprovalState.EXPIRED]
    assert "ended" in refused(over)["r1"]


def test_taken_out_of_the_annotation_it_is_revoked_and_does_not_come_back():
    first = work("r1", item("r1"))
    gone = after(first, "", at=NOW + 60)
    assert [one.state for one in gone.approvals] == [ApprovalState.REVOKED]
    assert gone.approvals[0].removed_at is not None
    again = after(gone, "r1", at=NOW + 120)
    assert again.approved == frozenset()
    assert [one.state for one in again.approvals] == [ApprovalState.REVOKED]
    assert "revoked" in refused(again)["r1"]


def test_a_change_that_was_applied_once_uses_its_id_up():
    resize = item("r1", type="Resources", direction="Resize", setting="containers[a].requests.cpu", envelope=None)
    del resize["envelope"]
    first = work("r1", resize)
    assert first.approved == {"r1"}
    assert first.approvals == (), "nothing stands: it is used by the action"
    action = ActionStatus(
        id="a1",
        recommendation_id="r1",
        type=RecommendationType.RESOURCES,
        state=ActionState.APPLIED,
        from_="2",
        to="1",
        at=Time.of(NOW),
    )
    used = after(first, "r1", at=NOW + 1, actions=(action,))
    assert [(one.id, one.state) for one in used.approvals] == [("r1", ApprovalState.USED)]
    assert (used.approved, refused(used)) == (frozenset(), {}), "that it stayed in the annotation is no mistake"
    back = after(after(used, "", at=NOW + 2), "r1", at=NOW + 3)
    assert back.approved == frozenset()
    assert "used at" in refused(back)["r1"]


def test_a_dry_run_uses_nothing():
    made = work("r1", item("r1"))
    made.dry_run = True
    assert approvals.book(made, offered=["r1"], now=NOW) == ()


def test_the_annotation_and_the_book_are_bounded_and_no_id_that_is_shown_is_forgotten():
    assert len(refused(work(",".join(f"r{number}" for number in range(5000))))) <= 64
    assert max(len(one) for one in refused(work("x" * 5000))) <= 32
    old = [{"id": "r1", "at": time_text(NOW - 10), "removedAt": time_text(NOW - 9)}]
    old += [{"id": f"u{number}", "at": time_text(NOW), "removedAt": time_text(NOW)} for number in range(63)]
    made = work("r2", item("r1"), item("r2"), used=old)
    found = approvals.book(made, offered=["r1", "r2"], now=NOW)
    assert len(found) == MAX_APPROVALS
    assert {"r1", "r2"} <= {one.id for one in found}
    assert "u0" not in {one.id for one in found}


# what an id allows, and for how long it is the same


def issued(current: str, proposed: str, *, old: Any = (), at: float = NOW, ended: Any = (), **changes: Any) -> Any:
    direction = Direction.SCALE_UP if int(proposed) > int(current) else Direction.SCALE_DOWN
    return recommendations_of(
        [("t1", proposal(current, proposed, direction=direction, **changes))],
        old,
        object_uid="u1",
        texts={},
        now=UnixTime(at),
        steps={"t1": 3},
        ended=ended,
    )


def test_a_count_keeps_its_id_while_it_lies_inside_what_would_be_approved():
    first = issued("8", "3")
    assert first[0].envelope == EnvelopeStatus(lowest=3, highest=8, max_step=3)
    same = issued("8", "5", old=first, at=NOW + 30)
    assert (same[0].id, same[0].proposed, same[0].envelope) == (first[0].id, "3", first[0].envelope)
    followed = issued("6", "4", old=same, at=NOW + 60)
    assert followed[0].id == first[0].id, "the way there belongs to it"
    assert issued("8", "2", old=first, at=NOW + 30)[0].id != first[0].id, "that is more than was shown"
    assert issued("9", "5", old=first, at=NOW + 30)[0].id != first[0].id
    assert issued("4", "6", old=first, at=NOW + 30)[0].id != first[0].id, "another direction"


def test_an_id_that_works_no_more_is_replaced():
    first = issued("8", "3")
    again = issued("8", "3", old=first, at=NOW + 60, ended={first[0].id})
    assert again[0].id != first[0].id


def test_the_envelope_reaches_as_far_as_the_analysis_agrees_and_never_back_over_the_present_count():
    rise = approvals.envelope_of(proposal("4", "6", direction=Direction.SCALE_UP), step=2)
    assert rise == EnvelopeStatus(lowest=4, highest=6, max_step=2)
    assert approvals.envelope_of(proposal("2 cores", "1 core"), step=2) is None
    assert approvals.envelope_of(proposal(type=RecommendationType.KV_CACHE), step=2) is None


@given(
    st.lists(st.sampled_from(["", "r1", "r1,r9", "r9"]), min_size=1, max_size=8),
    st.lists(st.floats(1, 20 * 3600), min_size=8, max_size=8),
)
@hypothesis_settings(deadline=None)
def test_an_id_stands_once_whatever_is_done_to_the_annotation(annotations, gaps):
    at = float(NOW)
    made = work(annotations[0], item("r1", expires=NOW + 30 * DAY))
    stood = [bool(_standing(made))]
    for annotation, gap in zip(annotations[1:], gaps, strict=False):
        at += gap
        made = after(made, annotation, at=at)
        stood.append(bool(_standing(made)))
    changes = sum(1 for before, now in zip([False, *stood], stood, strict=False) if now and not before)
    assert changes <= 1


def _standing(made: ServiceWork) -> list[UsedApproval]:
    return [one for one in made.approvals if one.state is ApprovalState.STANDING]
