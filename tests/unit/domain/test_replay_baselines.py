"""Baselines against the closed forms of their documented rules."""

import numpy as np
import pytest

from optiinfra.domain.replay import hindsight
from optiinfra.domain.replay.baselines import HpaRate, HpaUtilization, KedaInFlight, Kpa, Stabilized
from optiinfra.domain.replay.baselines_llm import DynamoLoad, WvaV1, WvaV2
from optiinfra.domain.replay.baselines_predictive import HoltWinters, Linear, PredictiveHpa
from optiinfra.domain.replay.figures import Ledger
from optiinfra.domain.replay.fluid import Fleet, play


def run(load, policy, *, initial=4, start_up_s=60.0):
    load = np.atleast_2d(np.asarray(load, dtype=np.float64))
    fleet = Fleet(
        load,
        start_up_s=np.full(len(load), start_up_s),
        initial=np.full(len(load), initial),
        minimum=np.full(len(load), 1),
        maximum=np.full(len(load), 1000),
    )
    return play(fleet, policy)


TARGET = np.array([0.7])


def settled(level, policy, **given):
    return int(run(np.full(720, level), policy, **given).asked[0, -1])


@pytest.mark.parametrize(("level", "expected"), [(2.8, 4), (3.06, 4), (3.1, 5), (2.55, 4), (2.5, 4), (2.0, 3)])
def test_hpa_on_the_rate_is_ceil_of_total_over_target_outside_ten_per_cent(level, expected):
    assert settled(level, HpaRate(TARGET)) == expected


def test_hpa_sees_a_minute_that_is_fifteen_seconds_old():
    load = np.full(360, 2.8)
    load[120:] = 5.6
    asked = run(load, HpaRate(TARGET)).asked[0]
    # At 600 s the load doubles. 30 s later 15 s of the minute are new: a quarter of the rise, outside the tolerance.
    assert asked[40:42].tolist() == [4, 4]
    assert asked[42] == np.ceil((0.75 * 2.8 + 0.25 * 5.6) / 0.7)
    assert asked[45] == 8


def test_hpa_shrinks_to_the_highest_of_five_minutes():
    load = np.full(720, 5.6)
    load[360:] = 1.4
    asked = run(load, HpaRate(TARGET), initial=8).asked[0]
    # The last minute of 5.6 is out of sight 75 s after the fall; 300 s later its recommendation is.
    fell = int(np.flatnonzero(asked < 8)[0])
    assert 120 + 20 <= fell <= 120 + 26
    assert asked[-1] == 2


def test_the_stabilisation_window_is_twenty_syncs():
    stabilized, one = Stabilized(), np.array([1])
    seen = [int(stabilized(np.array([9 if sync == 0 else 1]), sync=sync, current=one)[0]) for sync in range(25)]
    assert seen == [9] * 20 + [1] * 5


def test_what_runs_at_first_counts_as_a_recommendation():
    stabilized, four = Stabilized(), np.array([4])
    seen = [int(stabilized(np.array([1]), sync=sync, current=four)[0]) for sync in range(25)]
    assert seen == [4] * 19 + [1] * 6


@pytest.mark.parametrize(("level", "expected"), [(2.8, 4), (3.9, 6), (1.0, 2)])
def test_hpa_on_utilisation_agrees_with_the_rate_below_saturation(level, expected):
    assert settled(level, HpaUtilization(TARGET)) == expected


def test_hpa_on_utilisation_climbs_in_steps_because_a_share_is_at_most_one():
    asked = run(np.full(720, 20.0), HpaUtilization(TARGET), start_up_s=15.0).asked[0]
    assert asked[0] == np.ceil(4 / 0.7)
    # The queue of the climb has to be served first; then the rate decides.
    assert asked.max() > np.ceil(20.0 / 0.7) - 2


def test_keda_counts_what_waits():
    assert settled(2.8, KedaInFlight(TARGET)) == 4
    load = np.full(360, 2.8)
    load[120:130] = 30.0
    assert run(load, KedaInFlight(TARGET)).asked[0].max() > run(load, HpaRate(TARGET)).asked[0].max() / 2


def test_kpa_panics_at_twice_the_target_and_does_not_shrink_in_panic():
    load = np.full(360, 2.0)
    load[120:126] = 20.0
    asked = run(load, Kpa(np.array([0.7]))).asked[0]
    peak = int(asked.argmax())
    assert asked.max() >= 8
    assert (np.diff(asked[peak : peak + 4]) >= 0).all()
    assert asked[-1] == 3


def test_predictive_linear_extrapolates_its_counts():
    model = Linear()
    for count in (1, 2, 3, 4, 5):
        assert model(np.array([count]), 0).tolist() == [count]
    # Six counts on a line, one a sync: 300 s ahead are 20 counts more.
    assert model(np.array([6]), 0).tolist() == [26]


def test_predictive_hpa_only_adds():
    load = 4.0 + 2.0 * np.sin(np.arange(2880) / 200.0)
    reactive, predictive = run(load, HpaRate(TARGET)), run(load, PredictiveHpa(TARGET, Linear()))
    assert (predictive.asked >= reactive.asked).all()
    assert predictive.asked.sum() > reactive.asked.sum()


def test_holt_winters_repeats_a_day_exactly():
    model = HoltWinters()
    day = np.round(10 + 5 * np.sin(2 * np.pi * np.arange(288) / 288)).astype(int)
    counts = np.tile(day, 3)
    said = [int(model(np.array([counts[index]]), index * 20)[0]) for index in range(len(counts))]
    assert said[600:860] == counts[601:861].tolist()


def test_wva_adds_one_when_spare_runs_out_and_takes_one_when_the_rest_would_have_spare():
    grown = run(np.full(720, 6.0), WvaV1(), initial=6).asked[0]
    assert set(np.diff(grown)) <= {0.0, 1.0}
    # 6 x 0.85 / n is at most 0.70 from eight replicas on.
    assert grown[-1] == 8
    shrunk = run(np.full(720, 1.0), WvaV1(), initial=8).asked[0]
    assert set(np.diff(shrunk)) <= {0.0, -1.0}
    assert 2 <= shrunk[-1] <= 3


def test_wva_v2_asks_for_demand_over_its_thresholds():
    # Use = 0.85 x load; capacity 0.80: demand = 1.0625 x load; up at 0.85, down below 0.70.
    assert settled(6.0, WvaV2(), initial=6) == np.ceil(6.0 * 1.0625 / 0.85)
    assert settled(1.0, WvaV2(), initial=8) == 2


def test_dynamo_moves_one_at_a_time_and_only_when_nothing_starts():
    asked = run(np.full(720, 6.0), DynamoLoad(), initial=3, start_up_s=60.0).asked[0]
    changed = np.flatnonzero(np.diff(asked))
    assert set(np.diff(asked)) <= {0.0, 1.0}
    assert (np.diff(changed) >= 4).all()
    assert asked[-1] >= 6


def test_the_known_future_plan_is_ready_in_time_and_bridges_short_gaps():
    load = np.full((1, 720), 2.0)
    load[0, 240:480] = 6.0
    load[0, 340:350] = 1.0
    plan = hindsight.known_future(load, start_up_s=180.0, width_s=60.0, margin=0.0)
    fleet = run(load, hindsight.Plan(plan), initial=2, start_up_s=180.0)
    figures = Ledger.of(fleet).figures()[0]
    assert figures.late10 == 0.0
    assert fleet.asked[0, 70] == 6, "asked for a start-up before it is needed"
    assert fleet.serving[0, 345] == 6, "a gap of 50 s is not worth a start-up"
    assert fleet.asked[0, -1] == 2


def test_a_static_plan_is_a_fixed_number():
    fleet = run(
        np.full(60, 2.0), hindsight.Plan(hindsight.static(np.zeros((1, 60)), replicas=np.array([3]))), initial=3
    )
    assert set(fleet.asked[0]) == {3.0}
