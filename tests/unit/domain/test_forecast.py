"""The forecast: it adds before a ramp, adds nothing on noise, and says how wrong it was."""

import math
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optiinfra.domain.forecast import Forecast, forecast, forecast_fleet
from optiinfra.domain.history import LoadHistory
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.signals import ServiceSignals
from optiinfra.domain.units import Seconds, UnixTime

START = UnixTime(1.5e9)
STEP = 15.0
UNMEASURED = Unknown(UnknownReason.NOT_MEASURED)


def lived(values, *, every=1):
    history = LoadHistory()
    for index, value in enumerate(values):
        if index % every == 0 and value is not None:
            known = {field.name: UNMEASURED for field in fields(ServiceSignals)}
            known.update(
                time=UnixTime(START + index * STEP),
                window=Seconds(60.0),
                replicas_expected=1,
                replicas_reporting=1,
                running=float(value),
                waiting=0.0,
            )
            history.observe(ServiceSignals(**known), 1)
    return history, UnixTime(START + (len(values) - 1) * STEP)


def noisy(values, *, share, seed=7):
    return np.asarray(values) * (1.0 + share * np.random.default_rng(seed).standard_normal(len(values)))


FLAT = [100.0] * 200
RAMP = [100.0] * 120 + [100.0 + 3.0 * i for i in range(1, 60)]


def test_a_ramp_is_seen_before_it_arrives():
    history, now = lived(RAMP)
    seen = forecast(history, now=now, horizon=Seconds(180.0))
    assert isinstance(seen, Forecast)
    assert seen.active
    truth_then = RAMP[-1] + 3.0 * 12
    assert seen.last < RAMP[-1] < seen.value
    assert seen.value == pytest.approx(truth_then, rel=0.12)
    assert seen.error < 0.5 * seen.baseline_error
    assert seen.slope == pytest.approx(3.0 / STEP, rel=0.1)


def test_a_longer_start_up_looks_further():
    history, now = lived(RAMP)
    near = forecast(history, now=now, horizon=Seconds(60.0))
    far = forecast(history, now=now, horizon=Seconds(300.0))
    assert near.last < near.value < far.value


@pytest.mark.parametrize("seed", range(20))
def test_noise_adds_little(seed):
    history, now = lived(noisy(FLAT, share=0.05, seed=seed))
    seen = forecast(history, now=now, horizon=Seconds(180.0))
    assert seen.last <= seen.value <= seen.last * 1.25


def test_falling_load_is_never_forecast_to_fall():
    history, now = lived(list(reversed(RAMP)))
    seen = forecast(history, now=now, horizon=Seconds(180.0))
    assert seen.value == seen.last
    assert seen.slope == 0.0
    assert seen.margin == 0.0


def test_a_saw_tooth_that_always_drops_switches_the_forecast_off():
    # It rises for three minutes and then drops: every trend it could follow is wrong a start-up later.
    history, now = lived([20.0 + 10.0 * (i % 14) for i in range(14 * 20 + 12)])
    seen = forecast(history, now=now, horizon=Seconds(150.0))
    assert not seen.active
    assert seen.error > seen.baseline_error
    assert seen.value == seen.last
    assert seen.growth == 1.0


def test_the_margin_covers_what_it_promises():
    rng = np.random.default_rng(3)
    walk = np.abs(np.cumsum(rng.normal(0.3, 3.0, 600))) + 50.0
    history, now = lived(walk)
    seen = forecast(history, now=now, horizon=Seconds(120.0))
    assert 0.0 <= seen.short_share <= 0.2


@pytest.mark.parametrize(
    ("values", "reason"),
    [([], UnknownReason.TOO_FEW_SAMPLES), ([5.0] * 10, UnknownReason.TOO_FEW_SAMPLES)],
)
def test_few_samples_are_no_forecast(values, reason):
    history, _ = lived(values)
    seen = forecast(history, now=UnixTime(START + 600.0), horizon=Seconds(60.0))
    assert isinstance(seen, Unknown)
    assert seen.reason is reason


def test_an_old_history_is_no_forecast():
    history, now = lived(FLAT)
    seen = forecast(history, now=UnixTime(now + 600.0), horizon=Seconds(60.0))
    assert isinstance(seen, Unknown)
    assert seen.reason is UnknownReason.STALE


def test_a_minute_between_observations_is_enough():
    history, now = lived([*RAMP, RAMP[-1] + 3.0], every=4)
    seen = forecast(history, now=now, horizon=Seconds(180.0))
    assert isinstance(seen, Forecast)
    assert seen.value > seen.last


def test_a_fleet_gets_the_same_answers_as_its_members():
    members = [
        lived(noisy(values, share=0.1, seed=i))[0] for i, values in enumerate([RAMP, FLAT[:179], RAMP[::-1]] * 3)
    ]
    now = UnixTime(START + 178 * STEP)
    horizons = [Seconds(30.0 * (1 + i)) for i in range(len(members))]
    together = forecast_fleet([*members, LoadHistory()], now=now, horizons=[*horizons, Seconds(60.0)])
    assert isinstance(together[-1], Unknown)
    for member, horizon, seen in zip(members, horizons, together, strict=False):
        assert forecast(member, now=now, horizon=horizon) == seen


@settings(max_examples=60)
@given(
    st.lists(st.one_of(st.none(), st.floats(0.0, 1e5)), max_size=150),
    st.floats(1.0, 7200.0),
)
def test_whatever_was_seen_it_only_adds_and_stays_finite(values, horizon):
    history, now = lived(values)
    seen = forecast(history, now=now, horizon=Seconds(horizon))
    if isinstance(seen, Forecast):
        assert seen.value >= seen.last
        numbers = (seen.value, seen.last, seen.slope, seen.margin, seen.error, seen.baseline_error, seen.growth)
        assert all(math.isfinite(number) and number >= 0.0 for number in numbers)
        assert seen.active or seen.value == seen.last
