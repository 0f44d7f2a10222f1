"""Conditions: what kstatus concludes from them, and when their times move."""

import pytest

from optiinfra.api.conditions import Condition, ConditionStatus, ConditionType, Wanted, merge
from optiinfra.api.reasons import EXPLANATIONS, Reason
from optiinfra.api.scalars import Time

T, F, U = ConditionStatus.TRUE, ConditionStatus.FALSE, ConditionStatus.UNKNOWN
READY, RECONCILING, STALLED = ConditionType.READY, ConditionType.RECONCILING, ConditionType.STALLED


def kstatus(obj):
    """What Flux and cli-utils conclude, in the order of their generic.go."""
    if obj["metadata"].get("deletionTimestamp"):
        return "Terminating"
    if obj["status"].get("observedGeneration") != obj["metadata"]["generation"]:
        return "InProgress"
    states = {condition["type"]: condition["status"] for condition in obj["status"]["conditions"]}
    if states.get("Reconciling") == "True":
        return "InProgress"
    if states.get("Stalled") == "True":
        return "Failed"
    if states.get("Ready") == "False":
        return "InProgress"
    return "Current"


@pytest.mark.parametrize(
    ("observed", "ready", "reconciling", "stalled", "verdict"),
    [
        (1, U, T, F, "InProgress"),  # the very first write
        (1, F, T, F, "InProgress"),
        (1, T, F, F, "Current"),
        (1, F, F, F, "InProgress"),
        (1, F, F, T, "Failed"),
        (1, F, T, T, "InProgress"),
        (0, T, F, F, "InProgress"),  # a new generation that no round has seen
    ],
)
def test_kstatus_table(observed, ready, reconciling, stalled, verdict):
    conditions = merge(
        [],
        [
            Wanted(READY, ready, Reason.COLLECTING),
            Wanted(RECONCILING, reconciling, Reason.COLLECTING),
            Wanted(STALLED, stalled, Reason.COLLECTING),
        ],
        generation=observed,
        now=1000.0,
    )
    status = {"observedGeneration": observed, "conditions": [condition.to_wire() for condition in conditions]}
    assert kstatus({"metadata": {"generation": 1}, "status": status}) == verdict


def test_time_moves_only_with_the_status():
    first = merge([], [Wanted(READY, F, Reason.COLLECTING)], generation=1, now=1000)
    same = merge(first, [Wanted(READY, F, Reason.NO_PODS)], generation=2, now=2000)
    assert same[0].last_transition_time == Time.of(1000)
    assert (same[0].reason, same[0].observed_generation) == ("NoPods", 2)
    changed = merge(same, [Wanted(READY, T, Reason.SUCCEEDED)], generation=2, now=3000)
    assert changed[0].last_transition_time == Time.of(3000)


def test_order_is_that_of_kstatus_whatever_comes_first():
    wanted = [Wanted(kind, T, Reason.SUCCEEDED) for kind in reversed(ConditionType)]
    assert [condition.type for condition in merge([], wanted, generation=1, now=0)] == list(ConditionType)


def test_what_nobody_mentions_stays():
    before = merge([], [Wanted(STALLED, T, Reason.TARGET_NOT_FOUND)], generation=1, now=1)
    after = merge(before, [Wanted(READY, F, Reason.TARGET_NOT_FOUND)], generation=2, now=2)
    assert after[1] == before[0]


def test_message_is_the_reasons_own_sentence_with_its_remedy_unless_given():
    (condition,) = merge([], [Wanted(READY, F, Reason.SEVERAL_SCALERS)], generation=1, now=0)
    assert condition.message.endswith("Delete all but one.")
    (condition,) = merge([], [Wanted(READY, F, Reason.SEVERAL_SCALERS, "a and b")], generation=1, now=0)
    assert condition.message == "a and b"


def test_long_message_is_cut_not_refused():
    (condition,) = merge([], [Wanted(READY, F, Reason.API_ERROR, "x" * 5000)], generation=1, now=0)
    assert len(condition.message) == 1024
    assert condition.message.endswith("…")


def test_every_reason_has_a_sentence_and_every_failure_a_remedy():
    assert set(EXPLANATIONS) == set(Reason)
    for reason, explanation in EXPLANATIONS.items():
        assert explanation.sentence.endswith("."), reason
        assert len(str(explanation)) < 300
        assert reason.value[0].isupper()
        assert reason.value.isalnum()


def test_condition_reads_what_it_wrote():
    (condition,) = merge([], [Wanted(READY, T, Reason.SUCCEEDED)], generation=1, now=0)
    assert Condition.model_validate(condition.to_wire()) == condition
