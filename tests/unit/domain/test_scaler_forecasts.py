"""Forecasters against loads whose answer is known: who is believed, who is off, and what the upper end covers."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optiinfra.domain.readings import Unknown
from optiinfra.domain.scaler.changes import Changes
from optiinfra.domain.scaler.checkpoint import MOST_BYTES, packed, unpacked
from optiinfra.domain.scaler.conformal import Conformal
from optiinfra.domain.scaler.decide import Scaler
from optiinfra.domain.scaler.forecasts import (
    FORECAST_REASONS,
    ForecastMemory,
    ForecastReason,
    Outlook,
    horizon,
    miss,
)
from optiinfra.domain.scaler.ledger import FORECASTERS, MINUTE, OPEN, ErrorLedger, Forecaster
from optiinfra.domain.scaler.load import LoadMemory
from optiinfra.domain.scaler.observation import Observation, Services
from optiinfra.domain.scaler.profiles import DAILY_BIN_TICKS, DAY_TICKS, Profile
from optiinfra.domain.scaler.state import arrays, put, take
from optiinfra.domain.scaler.tuning import DEFAULT, MOST_START_TICKS, WINDOW_TICKS
from optiinfra.domain.units import UnixTime

F4 = np.float32
DAILY, TREND, WEEKLY = (FORECASTERS.index(one) for one in (Forecaster.DAILY, Forecaster.TREND, Forecaster.WEEKLY))


@dataclass
class Life:
    """Loads of some workloads, (workloads, ticks), played through the forecasters alone."""

    workloads: int
    start: int | np.ndarray = 12
    tick: int = 0
    load: LoadMemory = field(init=False)
    memory: ForecastMemory = field(init=False)
    found: list[tuple[int, int]] = field(default_factory=list)
    """(tick, row) of the change-points."""

    def __post_init__(self) -> None:
        self.load = LoadMemory.empty(self.workloads)
        self.memory = ForecastMemory.empty(self.workloads)

    def play(self, loads, *, measured=None) -> Outlook:
        starts = np.broadcast_to(self.start, self.workloads)
        for column in range(loads.shape[1]):
            now = loads[:, column].astype(F4)
            features = self.load.observe(now, tick=self.tick, start_ticks=starts, tuning=DEFAULT)
            self.memory.observe(
                now,
                features,
                recent=self.load.recent,
                window=self.load.windows[:, 0],
                tick=self.tick,
                start_ticks=starts,
                measured=np.ones(self.workloads, dtype=np.bool_) if measured is None else measured[:, column],
                tuning=DEFAULT,
            )
            self.found += [(self.tick, int(row)) for row in np.flatnonzero(self.memory.changes.since == 0)]
            self.tick += 1
        return self.memory.outlook()


def days(count, *, low=3.0, high=13.0):
    moments = np.arange(int(count * DAY_TICKS))
    return (low + high) / 2.0 + (high - low) / 2.0 * np.sin(2.0 * np.pi * moments / DAY_TICKS)


def reason(outlook, forecaster, row=0):
    return FORECAST_REASONS[int(outlook.reason[row, forecaster])]


# ---- who is believed


def test_a_daily_wave_is_forecast_by_its_profile_after_the_second_day_and_not_before():
    life = Life(1, start=40)
    wave = days(2.1)
    first = life.play(wave[None, :DAY_TICKS])
    assert FORECASTERS[int(first.forecaster[0])] is not Forecaster.DAILY
    assert reason(first, DAILY) is ForecastReason.TOO_YOUNG
    second = life.play(wave[None, DAY_TICKS:10_000])
    assert FORECASTERS[int(second.forecaster[0])] is Forecaster.DAILY
    assert reason(second, DAILY) is ForecastReason.BELIEVED
    assert float(second.error[0, DAILY]) < 0.1 * float(second.error[0, 0])
    assert reason(second, WEEKLY) is ForecastReason.TOO_YOUNG
    # In the rise of the third day it knows what comes.
    third = life.play(wave[None, 10_000:11_520])
    assert wave[11_517] < 8.0 < float(third.point[0])
    assert float(third.point[0]) == pytest.approx(wave[11_518 + 44], rel=0.01)
    # It asks for what it expects, with the headroom that it is given.
    mean = np.full(1, 8.0, dtype=F4)
    needed = life.memory.need(margin=np.full(1, 0.1, dtype=F4), mean=mean)
    point = float(third.point[0])
    assert float(needed[0]) == pytest.approx(point + 0.1 * np.sqrt(8.0 * point), rel=0.01)


def test_on_white_noise_everything_is_off():
    draw = np.random.default_rng(11)
    life = Life(6)
    outlook = life.play(draw.normal(8.0, 1.0, size=(6, int(1.4 * DAY_TICKS))))
    assert (outlook.forecaster == 0).all()
    for row in range(6):
        assert reason(outlook, TREND, row) is ForecastReason.NOT_BETTER
        assert reason(outlook, 0, row) is ForecastReason.BASELINE
    assert not life.found


def test_a_ramp_is_forecast_by_the_trend_and_a_forecaster_that_goes_wrong_is_switched_off():
    ramp = np.concatenate([np.linspace(2.0, 20.0, 1_000), np.linspace(20.0, 2.0, 1_000)])
    life = Life(1)
    believed = life.play(ramp[None])
    assert FORECASTERS[int(believed.forecaster[0])] is Forecaster.TREND
    draw = np.random.default_rng(3)
    after = life.play(draw.normal(10.0, 2.0, size=(1, DAY_TICKS)).clip(0.0))
    assert FORECASTERS[int(after.forecaster[0])] is Forecaster.LEVEL


def test_a_profile_follows_the_height_of_today():
    profile = Profile.empty(1, bins=DAY_TICKS // DAILY_BIN_TICKS)
    everything, nothing = np.ones(1, dtype=np.bool_), np.zeros(1, dtype=np.bool_)
    for tick, load in enumerate(days(1.2)):
        profile.learn(np.array([load], dtype=F4), measured=everything, changed=nothing, tick=tick, bin_ticks=40)
    ahead = np.array([80])
    ratio, known = profile.ratio(tick=DAY_TICKS + 600, ahead=ahead, bin_ticks=40, least_periods=1.0)
    wave = days(1.0)
    assert known[0]
    assert float(ratio[0]) == pytest.approx(wave[600 - 2 + 80] / wave[600 - 2], rel=0.01)
    _, too_early = profile.ratio(tick=DAY_TICKS + 600, ahead=ahead, bin_ticks=40, least_periods=2.0)
    assert not too_early[0]


def test_the_loss_is_as_asymmetric_as_the_prices():
    price = 3.0
    for said, loss in ((9.0, price / (1.0 + price)), (11.0, 1.0 / (1.0 + price))):
        ledger = ErrorLedger.empty(1)
        points = np.full((1, len(FORECASTERS)), said, dtype=F4)
        everybody = np.ones((1, len(FORECASTERS)), dtype=np.bool_)
        ledger.note(points, minute=0, ahead=np.array([MINUTE]), said=everybody)
        ledger.judge(
            np.array([10.0], dtype=F4),
            mean=np.array([10.0], dtype=F4),
            minute=1,
            measured=np.array([True]),
            distrusted=np.array([False]),
            late_price=price,
        )
        assert float(ledger.loss[0, 0]) == pytest.approx(loss, rel=1e-3)
        assert float(ledger.mean_error()[0, 0]) == pytest.approx(0.1, rel=1e-3)


def test_the_longest_horizon_fits_the_ring():
    assert int(horizon(np.array([MOST_START_TICKS]))[0]) // MINUTE < OPEN
    assert int(horizon(np.array([1]))[0]) % MINUTE == 0


# ---- what the upper end covers


def test_the_upper_end_covers_what_it_says_on_steady_and_on_drifting_loads():
    draw = np.random.default_rng(7)
    ticks = DAY_TICKS
    steady = draw.gamma(20.0, 0.4, size=(2, ticks))
    walk = 8.0 * np.exp(np.cumsum(draw.normal(0.0, 0.004, size=(2, ticks)), axis=1))
    wilder = 8.0 + np.linspace(0.2, 3.0, ticks) * draw.normal(size=(2, ticks))
    wave = days(1.0)[None] * draw.normal(1.0, 0.1, size=(2, ticks))
    life = Life(8, start=np.array([4, 40] * 4))
    outlook = life.play(np.concatenate([steady, walk, wilder, wave]).clip(0.0))
    assert outlook.covered.all()
    aim = 1.0 - miss(DEFAULT)
    assert np.abs(outlook.coverage - aim).max() < 0.03
    assert (outlook.upper[outlook.bounded] >= outlook.point[outlook.bounded] * 0.99).all()


def test_the_aim_of_the_upper_end_is_the_critical_ratio_of_the_dearest_price():
    assert miss(DEFAULT) == pytest.approx(1.0 / (1.0 + DEFAULT.late_price * DEFAULT.late_price_most))


def test_an_upper_end_is_the_empirical_quantile():
    conformal = Conformal.empty(1)
    conformal.errors[0] = np.linspace(-0.31, 0.32, 64)
    conformal.kept[:] = 64
    mean = np.array([10.0], dtype=F4)
    upper, known = conformal.upper(np.array([10.0], dtype=F4), mean=mean, miss=0.2)
    assert known[0]
    # The 52nd of 64 errors: ceil(65 x 0.8).
    assert float(upper[0]) == pytest.approx(10.0 * (1.0 + np.linspace(-0.31, 0.32, 64)[51]), rel=1e-5)


# ---- changes and bursts


def test_a_step_is_a_change_point_within_a_quarter_of_an_hour_and_profiles_are_distrusted():
    draw = np.random.default_rng(5)
    at = int(1.4 * DAY_TICKS)
    steps = np.stack([np.concatenate([days(1.4), np.full(80, to)]) for to in (20.0, 4.0)])
    life = Life(2, start=40)
    before = life.play(steps[:, :at] * draw.normal(1.0, 0.04, at))
    assert not life.found
    assert not before.changed.any()
    assert (before.forecaster == DAILY).all()
    outlook = life.play(steps[:, at:] * draw.normal(1.0, 0.04, 80))
    assert {row for _, row in life.found} == {0, 1}
    assert all(at <= tick <= at + 60 for tick, _ in life.found)
    assert outlook.changed.all()
    assert (outlook.forecaster < DAILY).all()
    assert reason(outlook, DAILY) is ForecastReason.CHANGED
    assert life.memory.changes.relearning.all()


def test_after_a_change_a_profile_is_relearned_faster():
    slow, fast = (Profile.empty(1, bins=12) for _ in range(2))
    measured = np.ones(1, dtype=np.bool_)
    for profile, changed in ((slow, False), (fast, True)):
        for tick in range(6 * 48):
            load = np.array([4.0 if tick < 5 * 48 else 8.0], dtype=F4)
            quick = np.array([changed and tick >= 5 * 48])
            profile.learn(load, measured=measured, changed=quick, tick=tick, bin_ticks=4)
    assert float(slow.bins[0, 7]) == pytest.approx(4.0 + 4.0 * 0.3, rel=1e-2)
    assert float(fast.bins[0, 7]) == pytest.approx(4.0 + 4.0 * 0.6, rel=1e-2)


def test_a_short_burst_is_a_burst_and_no_change_point():
    draw = np.random.default_rng(9)
    quiet = draw.normal(8.0, 0.5, size=(1, 960))
    burst = draw.normal(16.0, 0.5, size=(1, 8))
    life = Life(1)
    assert not life.play(quiet).burst[0]
    assert life.play(burst).burst[0]
    after = life.play(draw.normal(8.0, 0.5, size=(1, 240)))
    assert not after.burst[0]
    assert not life.found


def test_a_wave_that_the_profile_knows_is_no_change_point():
    # Office hours: steep in the morning, steep in the evening.
    hours = np.arange(2 * DAY_TICKS) % DAY_TICKS / 240.0
    office = 2.0 + 10.0 * np.clip(np.minimum(hours - 8.0, 18.0 - hours), 0.0, 1.0)
    life = Life(1)
    life.play(office[None])
    assert [tick for tick, _ in life.found if tick > DAY_TICKS] == []


# ---- what holds for anything


anything = st.one_of(st.floats(0.0, 1e5), st.floats(0.0, 1e-3), st.just(0.0))


@settings(max_examples=15, deadline=None)
@given(
    levels=st.lists(anything, min_size=1, max_size=12),
    known=st.lists(st.booleans(), min_size=12, max_size=12),
    start=st.sampled_from([1, 12, 80]),
)
def test_nothing_is_ever_a_nan(levels, known, start):
    loads = np.repeat(np.array(levels), 50)[None]
    life = Life(1, start=start)
    outlook = life.play(loads, measured=np.repeat(np.array(known[: len(levels)]), 50)[None])
    for array in [*arrays(life.memory), *(getattr(outlook, name) for name in ("point", "upper", "error", "share"))]:
        assert array.dtype.kind != "f" or np.isfinite(array).all()


@settings(max_examples=5, deadline=None)
@given(order=st.permutations(range(5)), seed=st.integers(0, 1_000))
def test_workloads_do_not_know_of_each_other(order, seed):
    draw = np.random.default_rng(seed)
    loads = draw.gamma(4.0, 2.0, size=(5, 1)) * draw.lognormal(0.0, 0.3, size=(5, 700))
    straight, shuffled = Life(5), Life(5)
    first, second = straight.play(loads), shuffled.play(loads[list(order)])
    for one, other in zip(arrays(first), arrays(second), strict=True):
        assert np.array_equal(one[list(order)], other)


def test_what_was_not_measured_is_neither_learned_nor_judged():
    life = Life(1)
    life.play(np.full((1, 400), 6.0))
    scored = life.memory.ledger.scored.copy()
    bins = life.memory.daily.bins.copy()
    life.play(np.full((1, 200), 60.0), measured=np.zeros((1, 200), dtype=np.bool_))
    assert np.array_equal(life.memory.ledger.scored, scored)
    assert (life.memory.daily.bins[0] < 10.0).all()
    assert (bins >= 0.0).sum() <= (life.memory.daily.bins >= 0.0).sum() + 1
    assert not life.found


def test_parts_can_be_cut_out_and_put_back():
    life = Life(3)
    life.play(np.random.default_rng(1).gamma(5.0, size=(3, 500)))
    whole = [array.copy() for array in arrays(life.memory)]
    part = take(life.memory, slice(1, 2))
    put(life.memory, slice(1, 2), part)
    assert all(np.array_equal(one, other) for one, other in zip(whole, arrays(life.memory), strict=True))


# ---- in the decision


def services(current, *, start_up=180.0):
    return Services(
        capacity=np.ones(1),
        start_up_p50=np.full(1, start_up),
        start_up_p95=np.full(1, start_up),
        current=np.array([current]),
        minimum=np.ones(1, dtype=np.int64),
        maximum=np.full(1, 100),
        late_after_s=np.full(1, 10.0),
        late_share=np.full(1, 0.01),
        paused=np.zeros(1, dtype=np.bool_),
    )


def lived(loads, *, begin=1_700_000_000.0, start_up=180.0):
    """A scaler after these loads, the replicas it asked for, the time, and its last decision."""
    scaler, current, now = Scaler(np.array([10])), 10, begin
    for load in loads:
        now += 15.0
        one = Observation(arrived=np.array([load]), backlog=np.zeros(1), ready=np.array([float(current)]))
        current = int(scaler.desired((one,), services(current, start_up=start_up), now=UnixTime(now))[0])
    return scaler, current, now, scaler.decide((), services(current, start_up=start_up), now=UnixTime(now)).of(0)


def test_a_decision_says_first_that_nothing_is_known_and_later_what_is():
    draw = np.random.default_rng(2)
    _, _, _, young = lived(draw.normal(8.0, 0.4, 40))
    for value in (young.forecast_upper, young.forecast_error, young.forecast_coverage, young.burst, young.changed):
        assert isinstance(value, Unknown)
    assert young.forecaster is Forecaster.LEVEL
    _, _, _, old = lived(draw.normal(8.0, 0.4, 700))
    assert not isinstance(old.forecast_upper, Unknown)
    assert 8.0 < old.forecast_upper < 10.0
    assert not isinstance(old.forecast_error, Unknown)
    assert old.forecast_error == old.forecast_level_error == pytest.approx(0.028, abs=0.01)
    assert old.burst is False
    assert old.changed is False
    assert [record.forecaster for record in old.forecast_records] == list(Forecaster)


def test_a_checkpoint_keeps_profiles_and_records_and_stays_small():
    draw = np.random.default_rng(8)
    scaler, current, now, _ = lived(days(0.3) * draw.normal(1.0, 0.1, int(0.3 * DAY_TICKS)))
    data = packed(scaler.state, 0)
    assert len(data) < MOST_BYTES
    restored = Scaler.restored([unpacked(data)])
    one = Observation(arrived=np.array([9.0]), backlog=np.zeros(1), ready=np.array([float(current)]))
    for step in range(1, 12):
        at = UnixTime(now + 15.0 * step)
        kept = scaler.decide((one,), services(current), now=at).of(0)
        assert restored.decide((one,), services(current), now=at).of(0) == kept


@pytest.mark.parametrize("jump", [7_200.0, -86_400.0])
def test_a_gap_or_a_clock_step_drops_open_forecasts_and_keeps_what_was_learned(jump):
    scaler, current, now, _ = lived(np.full(600, 8.0))
    ledger = scaler.state.forecasts.ledger
    scored, changes = ledger.scored.copy(), scaler.state.forecasts.changes.windows.copy()
    one = Observation(arrived=np.array([30.0]), backlog=np.zeros(1), ready=np.array([float(current)]))
    scaler.decide((one,), services(current), now=UnixTime(now + jump))
    ledger = scaler.state.forecasts.ledger
    assert (ledger.scored <= scored).all()
    assert (ledger.open < 0.0).all()
    assert np.array_equal(scaler.state.forecasts.changes.windows, changes)


def test_a_level_that_changed_restarts_the_sums():
    changes = Changes.empty(1)
    always, stays = np.ones(1, dtype=np.bool_), np.ones((1, 3), dtype=F4)
    for _ in range(40):
        assert not changes.window(np.array([5.0], dtype=F4), moved=stays, measured=always)[0]
    told = [bool(changes.window(np.array([15.0], dtype=F4), moved=stays, measured=always)[0]) for _ in range(40)]
    assert told.index(True) == 2
    assert sum(told) == 1
    assert WINDOW_TICKS * 3 == 60


def test_a_trend_that_back_tests_badly_is_no_longer_extrapolated():
    draw = np.random.default_rng(4)
    life = Life(2)
    drawn = 8.0 * draw.gamma(8.0, 0.125, size=2_200)
    ramps = 8.0 + 4.0 * np.abs((np.arange(2_200) % 800) - 400) / 400.0
    life.play(np.stack([drawn, ramps])[:, :400])
    assert life.memory.trending.all(), "nothing was judged yet"
    life.play(np.stack([drawn, ramps])[:, 400:])
    assert life.memory.trending.tolist() == [False, True]
    rise = np.linspace(8.0, 16.0, 20, dtype=F4)
    for tick, load in enumerate(rise):
        features = life.load.observe(
            np.full(2, load, dtype=F4),
            tick=2_200 + tick,
            start_ticks=np.full(2, 12),
            tuning=DEFAULT,
            trending=life.memory.trending,
        )
    assert (features.slope > 0.3).all()
    assert features.later[0, 1] == features.later[0, 0] == features.level[0]
    assert features.later[1, 1] > features.level[1] + 3.0


@pytest.mark.parametrize("expected", [0.0, 2.0, 9.0, 30.0])
def test_a_believed_profile_only_adds(expected):
    scaler, current, now, plain = lived(np.full(500, 8.0))
    assert plain.forecast_added == 0.0
    scaler.state.forecasts.profile[:] = expected
    asked = scaler.decide((), services(current), now=UnixTime(now)).of(0)
    assert asked.desired >= plain.desired
    assert asked.forecast_added >= 0.0
    assert (asked.forecast_added > 0.0) == (expected > 8.0)
    assert (asked.desired > plain.desired) == (expected > 12.0)
    if expected > 8.0:
        assert asked.need >= expected * 0.95
    scaler.tuning = replace(DEFAULT, profiles=False)
    assert scaler.decide((), services(current), now=UnixTime(now)).of(0).desired == plain.desired
