"""The parts of the ensemble: pipelines against a slow model, prices, features, plain HPAs beside the shadows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optiinfra.domain.scaler.grid import CHOSEN, SHADOWS, prior
from optiinfra.domain.scaler.load import LoadMemory
from optiinfra.domain.scaler.order import late_part, order
from optiinfra.domain.scaler.pipeline import Pipeline
from optiinfra.domain.scaler.prices import Realised, prices
from optiinfra.domain.scaler.references import References
from optiinfra.domain.scaler.tuning import DEFAULT, REFERENCE, TARGETS

F4 = np.float32


@settings(max_examples=80, deadline=None)
@given(targets=st.lists(st.integers(0, 12), min_size=1, max_size=60), start=st.integers(1, 9), first=st.integers(0, 6))
def test_a_pipeline_is_a_list_of_ready_times(targets, start, first):
    pipeline = Pipeline.of(np.array([first]), scalers=1)
    ready_at = [-1] * first
    for tick, target in enumerate(targets):
        while len(ready_at) < target:
            ready_at.append(tick + start)
        while len(ready_at) > target:
            ready_at.remove(max(ready_at))
        pipeline.order(np.array([[target]], dtype=F4), tick=tick, start=np.array([[start]]))
        pipeline.begin(tick=tick)
        assert pipeline.ready[0, 0] == sum(moment <= tick for moment in ready_at)
        future = sum(max(0, min(start, tick + start - moment)) for moment in ready_at)
        assert pipeline.future(np.array([[start]], dtype=F4))[0, 0] == future
        pipeline.end()


def test_late_is_what_waits_longer_than_the_objective():
    def share(before, after):
        return float(late_part(before=F4(before), after=F4(after), ready=F4(2.0), objective_s=F4(10.0)))

    assert share(0.0, 19.0) == 0.0
    assert share(30.0, 30.0) == 1.0
    # The queue crosses 20 replica-seconds half way.
    assert share(10.0, 30.0) == pytest.approx(0.5, abs=1e-3)
    assert share(30.0, 10.0) == pytest.approx(0.5, abs=1e-3)


def priced(*, late=0.0, incidents=0.0, reference=0.0, age_hours=200.0):
    realised = Realised.empty(1)
    realised.late[:] = late * 240.0 * 48.0
    realised.work[:] = 240.0 * 48.0
    realised.incidents[:] = incidents
    return prices(
        realised,
        reference_incidents=np.array([reference], dtype=F4),
        mean=np.array([1.0], dtype=F4),
        seen=np.array([int(age_hours * 240)]),
        late_budget=np.array([0.01], dtype=F4),
        tuning=DEFAULT,
    )


def test_lateness_makes_lateness_dearer_and_there_is_an_end_to_it():
    none, some, much = (float(priced(late=share).late[0]) for share in (0.0, 0.01, 0.5))
    assert none < some < much
    assert much / none == pytest.approx(DEFAULT.late_price_most)


def test_incidents_are_priced_beside_those_of_the_plain_hpa():
    same, more, fewer = (priced(incidents=own, reference=8.0).incident[0] for own in (8.0, 20.0, 1.0))
    assert fewer < same < more
    assert fewer < DEFAULT.incident_price


def test_the_first_half_day_is_the_dearest():
    young, first, old = (float(priced(age_hours=hours).late[0]) for hours in (0.1, 12.0, 2000.0))
    assert first > young
    assert first > old


@pytest.mark.parametrize("start", [4, 12, 40, 64])
def test_the_prior_knows_that_headroom_costs_and_helps(start):
    believed = prior(np.array([start]))
    by_margin = [k for k, shadow in enumerate(SHADOWS[:CHOSEN]) if shadow.gain == 0.0 and shadow.hold == 12]
    assert (np.diff(believed.cost[0, by_margin]) > 0.0).all()
    assert (np.diff(believed.late[0, by_margin]) < 0.0).all()
    assert (believed.late > 0.0).all()


def observed(loads, *, start=12):
    memory = LoadMemory.empty(1)
    for tick, load in enumerate(loads):
        features = memory.observe(np.array([load], dtype=F4), tick=tick, start_ticks=np.array([start]), tuning=DEFAULT)
    return memory, features


def test_a_clean_ramp_is_extrapolated_and_a_noisy_level_is_not():
    _, ramp = observed([5.0 + 0.1 * tick for tick in range(60)])
    assert float(ramp.slope[0]) == pytest.approx(0.1, rel=1e-3)
    assert float(ramp.later[0, 1]) == pytest.approx(5.0 + 0.1 * 57.5 + 0.9 * 0.1 * 15.5, rel=1e-2)
    draw = np.random.default_rng(0)
    slopes = [float(observed(draw.normal(8.0, 1.0, 40))[1].slope[0]) for _ in range(40)]
    assert np.mean(np.array(slopes) > 0.0) < 0.25


def test_a_clean_bend_is_seen_before_three_minutes_are_over():
    _, bent = observed([5.0] * 60 + [5.0 + 0.1 * tick for tick in range(5)])
    assert float(bent.slope[0]) == pytest.approx(0.1, rel=1e-2)


def test_a_young_service_keeps_its_highest_level_less_and_less():
    high = [2.0] * 10 + [9.0] * 8
    floors = [float(observed(high + [2.0] * more)[1].least[0]) for more in (12, 60, 120, 200)]
    assert floors == sorted(floors, reverse=True)
    assert floors[0] > 7.0
    assert floors[-1] < 2.0


def asked(need, *, current):
    none = np.zeros(1, dtype=F4)
    target, _ = order(
        np.array([need], dtype=F4),
        queue=none,
        foreseen=none - 1.0,
        later=none,
        current=np.array([current], dtype=F4),
        minimum=none + 1.0,
        maximum=none + 1000.0,
        tuning=DEFAULT,
    )
    return float(target[0])


def test_replicas_are_given_back_in_lumps_and_all_that_are_free():
    assert asked(7.4, current=8.0) == 8.0
    assert asked(6.4, current=8.0) == 7.0
    assert asked(93.0, current=100.0) == 100.0
    assert asked(89.0, current=100.0) == 90.0
    assert asked(1.0, current=3.0) == 2.0
    assert asked(0.3, current=1.0) == 1.0


def test_a_falling_load_has_no_trend():
    assert float(observed([20.0 - 0.1 * tick for tick in range(60)])[1].slope[0]) == 0.0


def test_the_first_samples_are_not_held_for_forty_minutes():
    _, features = observed([30.0, 30.0, 30.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0])
    assert float(features.held.max()) < 24.0


def test_maxima_are_held_for_their_time_and_no_longer():
    memory, _ = observed([5.0] * 20 + [12.0] * 4 + [5.0] * 30)
    features = memory.observe(np.array([5.0], dtype=F4), tick=54, start_ticks=np.array([12]), tuning=DEFAULT)
    held = features.held[0, :5]
    assert held[0] == held[1] == pytest.approx(5.0)
    assert held[2] == held[3] == held[4] == pytest.approx(12.0)


def test_the_best_plain_target_is_the_cheapest_that_keeps_the_budget():
    references = References.of(np.array([4, 4]))
    references.work_sum[:] = 1000.0
    references.paid_sum[:] = [2000.0, 1700.0, 1400.0, 1250.0, 1100.0]
    references.late_sum[0] = [0.0, 0.0, 1.0, 5.0, 50.0]
    references.late_sum[1] = [50.0, 60.0, 70.0, 80.0, 90.0]
    best = references.best(late_share=np.array([0.01, 0.01], dtype=F4))
    assert TARGETS[int(best[0])] == 0.8
    assert int(best[1]) == -1
    references.incidents[0, REFERENCE + 1] = 3.0
    assert TARGETS[int(references.best(late_share=np.array([0.01, 0.01], dtype=F4))[0])] == 0.7
