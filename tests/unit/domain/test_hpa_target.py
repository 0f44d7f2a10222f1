"""The target for the user's own HPA: replayed on the workload's own load, or refused with the reason."""

from dataclasses import replace

import numpy as np
import pytest

from optiinfra.domain.evidence import Proposal, Refusal
from optiinfra.domain.history import LoadHistory
from optiinfra.domain.hpa_target import load_in_replicas, propose
from optiinfra.domain.replica_capacity import Basis
from optiinfra.domain.units import Seconds, UnixTime
from tests.unit.control.examples import decision
from tests.unit.domain.scaling_service import NOW, signals


def kept(*, hours=5.0, step=15.0, level=16_000.0):
    history = LoadHistory(step=Seconds(step))
    for at in range(int(hours * 3600.0 / step)):
        wave = level * (1.0 + 0.5 * np.sin(at * step / 1200.0))
        history.observe(signals(UnixTime(NOW + at * step), work_rate=wave), 4)
    return history


def asked(history, **changes):
    given = decision(4)
    if changes:
        given = replace(given, capacity=replace(given.capacity, **changes))
    return propose(history, given, minimum=1, maximum=40, late_share=0.01, scaler="hpa", subject="vllm")


def test_the_cheapest_target_that_held_is_told_in_work_with_the_replay_beside_it():
    found = asked(kept())
    assert isinstance(found, Proposal)
    facts = {fact.signal: fact.value for fact in found.evidence}
    target = facts["replay_hpa_at_best_target"]
    assert float(found.proposed) == pytest.approx(target * 4000.0, rel=0.05)
    assert 1.0 < facts["replay_hpa_at_best_target_cost"] < 2.0
    assert facts["replay_hpa_at_best_target_late10"] <= 0.01
    assert "would have run the last 5.0 hours" in found.message
    assert "stabilisation 600 s" in found.message


@pytest.mark.parametrize(
    ("history", "changes", "reason"),
    [
        (kept(hours=2.0), {}, "TooFewSamples"),
        (LoadHistory(), {}, "TooFewSamples"),
        (kept(level=0.0), {}, "TooFewSamples"),
        (kept(), {"basis": Basis.OCCUPANCY}, "CapacityUnknown"),
    ],
)
def test_what_is_not_known_well_enough_is_refused(history, changes, reason):
    found = asked(history, **changes)
    assert isinstance(found, Refusal)
    assert found.reason == reason


@pytest.mark.parametrize("step", [5.0, 15.0, 30.0])
def test_histories_of_other_steps_are_the_same_load(step):
    load = load_in_replicas(kept(step=step, hours=1.0), capacity=4000.0)
    assert len(load) == pytest.approx(240, abs=1)
    assert np.nanmean(load) == pytest.approx(np.nanmean(load_in_replicas(kept(hours=1.0), capacity=4000.0)), rel=0.02)
