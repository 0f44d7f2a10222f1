"""Evidence beside a recommendation: the same digits as the model that steps through everything, in closed form."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.replay.baselines import HpaRate
from optiinfra.domain.replay.evidence import (
    EvidenceError,
    HpaOutcome,
    Outcome,
    ReplayEvidence,
    decided_again,
    replay_evidence,
)
from optiinfra.domain.replay.figures import Ledger
from optiinfra.domain.replay.fluid import Fleet, play
from optiinfra.domain.replay.learned import Learned

NOBODY = Unknown(UnknownReason.NOT_MEASURED, "the operator did not decide")
TARGETS = (0.5, 0.7, 0.9)


def stepped(load, policy_of, *, runs=1, start_up_s=180.0, minimum=1, maximum=100, initial=10):
    fleet = Fleet(
        np.repeat(np.repeat(load, 3)[None], runs, axis=0),
        start_up_s=np.full(runs, start_up_s),
        initial=np.full(runs, initial),
        minimum=np.full(runs, minimum),
        maximum=np.full(runs, maximum),
    )
    play(fleet, policy_of(fleet))
    return fleet, Ledger.of(fleet).figures()


def agree(outcome, figures, *, ticks):
    assert outcome.cost == pytest.approx(figures.cost)
    assert outcome.late10 == pytest.approx(figures.late10, abs=1e-6)  # the stepped queue is kept in single precision
    assert outcome.incidents == round(figures.incidents * ticks * 15.0 / 86_400.0 / 30.0)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    ticks=st.integers(1, 700),
    start_up_s=st.sampled_from([1.0, 5.0, 62.0, 180.0, 600.0]),
    minimum=st.integers(1, 4),
    room=st.integers(0, 60),
    initial=st.integers(0, 30),
    roughness=st.floats(0.0, 1.5),
)
@example(seed=0, ticks=400, start_up_s=180.0, minimum=1, room=5, initial=1, roughness=1.5)
def test_a_plain_hpa_comes_to_what_the_stepped_model_says(seed, ticks, start_up_s, minimum, room, initial, roughness):
    draw = np.random.default_rng(seed)
    load = np.abs(draw.uniform(0.0, 25.0) + np.cumsum(draw.normal(0.0, roughness, ticks)))
    limits = {"start_up_s": start_up_s, "minimum": minimum, "maximum": max(1, minimum + room), "initial": initial}
    _, figures = stepped(load, lambda _: HpaRate(np.array(TARGETS)), runs=3, **limits)
    for target, told in zip(TARGETS, figures, strict=True):
        found = replay_evidence(load, current_target=target, decided=NOBODY, targets=(0.6,), **limits)
        assert found.current.target == target
        agree(found.current.outcome, told, ticks=ticks)
        assert found.hours == pytest.approx(ticks / 240.0)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**31), ticks=st.integers(1, 300), start_up_s=st.sampled_from([5.0, 180.0]))
def test_what_was_decided_comes_to_what_the_stepped_model_says(seed, ticks, start_up_s):
    draw = np.random.default_rng(seed)
    load = draw.uniform(0.0, 12.0, ticks)
    wanted = draw.integers(1, 20, ticks)
    limits = {"start_up_s": start_up_s, "minimum": 1, "maximum": 100, "initial": 7}
    fleet, figures = stepped(load, lambda _: lambda view: wanted[view.sync : view.sync + 1], **limits)
    found = replay_evidence(load, current_target=NOBODY, decided=fleet.asked[0].astype(int), **limits)
    agree(found.ours, figures[0], ticks=ticks)
    assert found.current is NOBODY
    assert found.saving is NOBODY


def wave(ticks=1440, noise=0.3):
    draw = np.random.default_rng(7)
    return 9.0 + 4.0 * np.sin(np.arange(ticks) / 150.0) + draw.normal(0.0, noise, ticks)


def evidence(load, **given):
    limits = {"start_up_s": 120.0, "minimum": 1, "maximum": 100, "current_target": 0.5, "decided": NOBODY}
    return replay_evidence(load, **(limits | given))


def test_the_best_target_is_the_cheapest_that_holds():
    load = wave()
    found = evidence(load)
    assert found.best.target > 0.5
    assert found.best.outcome.late10 <= 0.01
    assert found.best.outcome.incidents <= found.current.outcome.incidents
    assert found.saving == pytest.approx(1.0 - found.best.outcome.cost / found.current.outcome.cost)
    for target in (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9):
        one = evidence(load, current_target=target).current.outcome
        holds = one.late10 <= 0.01 and one.incidents <= found.current.outcome.incidents
        assert not holds or one.cost >= found.best.outcome.cost


def test_where_no_target_holds_there_is_no_best_one():
    load = np.tile(np.r_[np.full(60, 1.0), np.full(20, 40.0)], 12)
    found = evidence(load, start_up_s=600.0)
    assert isinstance(found.best, Unknown)
    assert found.current.outcome.incidents > 0
    assert found.saving is found.best


def test_gaps_are_lived_through_and_not_counted():
    load = wave()
    load[400:640] = np.nan
    found = evidence(load)
    assert found.hours == pytest.approx(5.0)
    assert found.current.outcome.late10 == 0.0
    whole = evidence(np.where(np.isnan(load), 0.0, load))
    # Taken for a quiet hour, it would have been a cold start.
    assert whole.current.outcome.incidents > 0


def test_the_operator_s_own_decision_can_be_played_again():
    load = wave(240)
    limits = {"start_up_s": 60.0, "minimum": 1, "maximum": 100, "initial": 12}
    asked = decided_again(load, **limits)
    fleet, figures = stepped(load, Learned, **limits)
    assert asked.tolist() == fleet.asked[0].tolist()
    agree(replay_evidence(load, current_target=NOBODY, decided=asked, **limits).ours, figures[0], ticks=240)


def test_a_recommendation_can_carry_it():
    told = ReplayEvidence(24.0, Outcome(1.1, 0.001, 0), HpaOutcome(0.5, Outcome(2.1, 0.0, 0)), NOBODY).as_evidence()
    assert [one.signal for one in told] == [
        "replay_hpa_at_current_target",
        "replay_hpa_at_current_target_cost",
        "replay_hpa_at_current_target_late10",
        "replay_hpa_at_current_target_incidents",
        "replay_hpa_at_best_target_cost",
        "replay_operator_cost",
        "replay_operator_late10",
        "replay_operator_incidents",
    ]
    assert [one.value for one in told] == [0.5, 2.1, 0.0, 0.0, NOBODY, 1.1, 0.001, 0.0]
    assert {one.source for one in told} == {"derived"}
    assert {one.window for one in told} == {0.0, 86_400.0}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"load": np.zeros((2, 2))}, "load_in_replicas: shape"),
        ({"load": np.zeros(0)}, "load_in_replicas: shape"),
        ({"load": np.zeros(50_000)}, "load_in_replicas: shape"),
        ({"load": np.full(5, np.nan)}, "load_in_replicas: at least one known value"),
        ({"load": np.array([1.0, -1.0])}, "load_in_replicas: at least one known value, and none below zero"),
        ({"start_up_s": 0.0}, "start_up_s"),
        ({"minimum": 5, "maximum": 4}, "minimum"),
        ({"current_target": 0.0}, "current_target"),
        ({"current_target": 50.0}, "current_target"),
        ({"targets": (0.5, 70.0)}, "targets"),
        ({"decided": [1, 2]}, "decided: 2 ticks for a load of 3"),
    ],
)
def test_arguments_that_cannot_be_are_named(given, said):
    with pytest.raises(EvidenceError, match=said):
        evidence(given.pop("load", np.ones(3)), **given)
