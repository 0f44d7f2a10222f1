"""A load under all rules: the tuned HPA and the plan are chosen as they are described, whatever the memory allows."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from optiinfra.domain.readings import Unknown
from optiinfra.domain.replay import comparison
from optiinfra.domain.replay.baselines import HpaRate
from optiinfra.domain.replay.comparison import SWEPT, TARGETS, Setup, compare
from optiinfra.domain.replay.figures import Ledger
from optiinfra.domain.replay.fluid import play

STAGES = []


@contextmanager
def stage(label, syncs):
    seen = []
    yield seen.append
    STAGES.append((label, syncs, len(seen)))


def setup(load, **given):
    load = np.asarray(load, dtype=np.float64)
    known = np.isfinite(load)
    facts = {"start_up_s": 120.0, "minimum": 1, "maximum": 100, "initial": 10} | given
    return Setup(load=np.where(known, load, 0.0)[None], known=known, **facts)


def wave(steps=1440):
    draw = np.random.default_rng(3)
    return 8.0 + 4.0 * np.sin(np.arange(steps) / 120.0) + draw.normal(0.0, 0.3, steps)


def swept(given):
    fleet = given.fleet(len(SWEPT))
    play(fleet, HpaRate(np.array(SWEPT)))
    return dict(zip(SWEPT, Ledger.of(fleet).figures(), strict=True))


def test_the_tuned_hpa_is_the_cheapest_that_held_with_no_more_incidents_than_the_usual_one():
    given = setup(wave())
    done = compare(given, stage=stage)
    figures = swept(given)
    held = {
        target: one for target, one in figures.items() if one.late10 <= 0.01 and one.incidents <= figures[0.7].incidents
    }
    cheapest = min(held, key=lambda target: held[target].cost)
    assert done.tuned.target == cheapest
    assert done.tuned.figures == figures[cheapest]
    assert [run.figures for run in done.plain] == [figures[target] for target in TARGETS]


def test_the_plan_that_knew_the_future_is_cheaper_than_all_that_did_not():
    done = compare(setup(wave()), stage=stage)
    assert done.plan.late10 <= 0.01
    assert 1.0 <= done.plan.cost < min(done.tuned.figures.cost, done.ours.figures.cost)


def test_small_memory_changes_nothing(monkeypatch):
    given = setup(wave(720))
    whole = compare(given, stage=stage)
    monkeypatch.setattr(comparison, "MOST_CELLS", 1)
    parts = compare(given, stage=stage)
    assert parts.tuned == whole.tuned
    assert parts.plan == whole.plan
    assert [run.figures for run in parts.plain] == [run.figures for run in whole.plain]


def test_where_nothing_held_it_says_so():
    load = np.tile(np.r_[np.full(180, 1.0), np.full(60, 60.0)], 6)
    done = compare(setup(load, start_up_s=900.0, maximum=30), stage=stage)
    assert isinstance(done.tuned, Unknown)
    assert isinstance(done.plan, Unknown)
    assert "keeps 1.00% late" in done.plan.detail


def test_a_plan_over_more_than_two_weeks_is_left_out(monkeypatch):
    monkeypatch.setattr(comparison, "PLAN_DAYS", 0.01)
    done = compare(setup(wave(360)), stage=stage)
    assert "not searched on more than" in done.plan.detail


def test_a_gap_is_no_cold_start_for_anybody():
    load = wave()
    load[600:840] = np.nan
    done = compare(setup(load), stage=stage)
    # The gap is longer than the start-up; none of its steps is counted.
    assert done.plan.late10 <= 0.01
    for run in (done.ours, *done.plain):
        assert run.ready[600:840].min() >= 3.0
        assert run.figures.worst_hour < 0.5


def test_a_stricter_objective_is_judged_with_its_own_delay():
    given = setup(wave(), late_after_s=30.0)
    done = compare(given, stage=stage)
    assert done.ours.late <= done.ours.figures.late10
    assert replace(given, late_after_s=10.0).late_after_s == 10.0


def test_progress_is_told_with_every_sync():
    STAGES.clear()
    given = setup(wave(360))
    compare(given, stage=stage)
    assert STAGES[0] == ("the decision", 120, 120)
    assert all(syncs == told == 120 for _, syncs, told in STAGES)
    assert len(STAGES) >= 3


@pytest.mark.parametrize("steps", [2, 3, 4, 5])
def test_the_shortest_loads_are_compared(steps):
    done = compare(setup(np.full(steps, 5.0)), stage=stage)
    assert done.ours.figures.cost > 0.0
