"""The plain scalers: the HPA against Kubernetes' formula, and all against one another."""

import pytest

from optiinfra_sim.compare import (
    Decision,
    Load,
    PlainHpa,
    under_decisions,
    under_hpa,
    under_static,
    under_static_peak,
)
from optiinfra_sim.errors import ScenarioError
from optiinfra_sim.scenario import read_scenario
from optiinfra_sim.settings import EngineSettings
from optiinfra_sim.trace import Arrival


def hpa(**changes):
    return PlainHpa(**{"target": 10.0, "min_replicas": 1, "max_replicas": 50} | changes)


def decide(scaler, now, replicas, in_flight):
    return scaler.decide(now=now, replicas=replicas, in_flight=in_flight)


@pytest.mark.parametrize(
    ("replicas", "in_flight", "wanted"),
    [
        (4, [10, 10, 10, 10], 4),
        (4, [11, 11, 11, 11], 4),  # within the tolerance of 10 %
        (4, [12, 12, 12, 12], 5),  # ceil(4 x 1.2)
        (4, [40, 0, 0, 0], 4),
        (4, [30, 30, 30, 30], 8),  # asked for 12; a rise is at most the greater of 4 pods and 100 %
        (2, [90, 90], 6),
        (4, [], 4),  # no metric at all: no decision
        (2, [40], 4),  # one starting: it counts with 0, ceil(40 / 2 / 10 x 2)
        (2, [11.5], 2),  # up by the ready one, down with the starting one: turned around, no move
        (4, [1, 1], 4),  # falling, the two starting ones count with the target: ceil(0.55 x 4), held by the window
    ],
)
def test_one_sync_of_the_hpa(replicas, in_flight, wanted):
    assert decide(hpa(), 0.0, replicas, in_flight) == wanted


def test_the_hpa_falls_only_after_the_stabilisation_window():
    scaler = hpa()
    assert decide(scaler, 0.0, 6, [10] * 6) == 6
    for now in range(15, 300, 15):
        assert decide(scaler, float(now), 6, [1] * 6) == 6
    assert decide(scaler, 300.0, 6, [1] * 6) == 1


def test_the_hpa_s_rise_is_limited_per_period_not_per_sync():
    scaler = hpa(sync_seconds=5.0)
    assert decide(scaler, 0.0, 2, [100] * 2) == 6
    assert decide(scaler, 5.0, 6, [100] * 6) == 6  # 4 were added in this period already
    assert decide(scaler, 16.0, 6, [100] * 6) == 12


def test_the_hpa_keeps_its_bounds():
    assert decide(hpa(max_replicas=3), 0.0, 2, [100, 100]) == 3
    assert decide(hpa(min_replicas=2, stabilisation_seconds=0.0), 100.0, 3, [0, 0, 0]) == 2


SETTINGS = EngineSettings(
    max_num_seqs=8,
    max_num_batched_tokens=512,
    max_model_len=1024,
    num_blocks=400,
    step_seconds=0.02,
    sequence_seconds=0.001,
    prefill_token_seconds=0.0001,
)


@pytest.fixture
def wave():
    """A wave: one replica is enough at first, then about four are needed, then one again."""
    arrivals, at = [], 0.0
    while at < 300:
        arrivals.append(Arrival(at, 100, 100))
        at += 0.1 if 100 <= at < 200 else 0.6
    return Load(
        settings=SETTINGS,
        arrivals=arrivals,
        startup_seconds=10.0,
        horizon_seconds=330.0,
        initial_replicas=1,
        min_replicas=1,
        max_replicas=10,
        gpus_per_replica=2,
    )


def test_static_costs_its_count_over_the_horizon(wave):
    outcome = under_static(wave, replicas=3)
    assert outcome.replica_seconds == pytest.approx(3 * 330)
    assert outcome.gpu_hours == pytest.approx(3 * 330 * 2 / 3600)
    assert outcome.series == (Decision(0.0, 3),)


def test_the_static_peak_is_the_smallest_count_that_holds(wave):
    peak = under_static_peak(wave)
    assert peak.late_share <= 0.01
    assert under_static(wave, replicas=peak.peak_replicas - 1).late_share > 0.01


def test_the_hpa_costs_less_than_the_peak_and_does_better_than_one_replica(wave):
    scaled = under_hpa(wave, target=4.0)
    assert scaled.peak_replicas > 2
    assert scaled.late_share < under_static(wave, replicas=1).late_share
    assert scaled.replica_seconds < under_static(wave, replicas=scaled.peak_replicas).replica_seconds
    assert scaled.finished == scaled.arrived


def test_decisions_that_were_taken_run_through_the_same_model(wave):
    scaled = under_hpa(wave, target=4.0)
    again = under_decisions(wave, scaled.series)
    assert again.series == scaled.series
    assert again.replica_seconds == pytest.approx(scaled.replica_seconds)
    assert again.late_share == pytest.approx(scaled.late_share)
    assert again.ttft_p95 == pytest.approx(scaled.ttft_p95)


def test_everything_repeats_exactly(wave):
    assert under_hpa(wave, target=4.0) == under_hpa(wave, target=4.0)


def test_nonsense_is_refused(wave):
    with pytest.raises(ScenarioError, match="target"):
        under_hpa(wave, target=0)
    with pytest.raises(ScenarioError, match="negative"):
        under_decisions(wave, [Decision(0.0, -1)])


def test_the_demo_needs_two_replicas_first_six_later_and_no_fixed_small_number(demo_scenario):
    load = read_scenario(demo_scenario).simulated("chat").load(folder=demo_scenario.parent)
    assert under_static(load, replicas=2).late_share > 0.5
    assert under_static(load, replicas=6).ttft_p95 < 2.0
    calm = [arrival for arrival in load.arrivals if arrival.at < 35]
    start = Load(
        settings=load.settings,
        arrivals=calm,
        startup_seconds=load.startup_seconds,
        horizon_seconds=40.0,
        initial_replicas=2,
        min_replicas=1,
        max_replicas=8,
        gpus_per_replica=1,
    )
    assert under_static(start, replicas=2).ttft_p95 < 2.0
    in_time = under_decisions(load, [Decision(0.0, 2), Decision(45.0, 4), Decision(65.0, 6), Decision(160.0, 3)])
    assert in_time.late_share < 0.01
    assert in_time.replica_seconds < under_static(load, replicas=6).replica_seconds * 0.75
