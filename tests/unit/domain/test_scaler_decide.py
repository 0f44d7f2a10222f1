"""The decision of the priced ensemble: what holds for any load, and what is promised for gaps, clocks and hands."""

from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optiinfra.domain.replay.figures import Ledger
from optiinfra.domain.replay.fluid import Fleet, first_replicas, play
from optiinfra.domain.replay.learned import Learned
from optiinfra.domain.scaler.checkpoint import MOST_BYTES, CheckpointError, packed, unpacked
from optiinfra.domain.scaler.decide import Scaler
from optiinfra.domain.scaler.decision import REASONS, ScalerReason
from optiinfra.domain.scaler.observation import Observation, ScalerInputError, Services
from optiinfra.domain.scaler.state import arrays
from optiinfra.domain.units import UnixTime

NOW = 1_700_000_100.0


def services(current, *, capacity=1.0, start_up=60.0, minimum=1, maximum=50, paused=False):
    current = np.atleast_1d(np.asarray(current, dtype=np.int64))
    count = len(current)
    return Services(
        capacity=np.broadcast_to(np.asarray(capacity, dtype=np.float64), count).copy(),
        start_up_p50=np.full(count, start_up),
        start_up_p95=np.full(count, start_up),
        current=current,
        minimum=np.full(count, minimum),
        maximum=np.full(count, maximum),
        late_after_s=np.full(count, 10.0),
        late_share=np.full(count, 0.01),
        paused=np.full(count, paused),
    )


def seen(arrived, *, backlog=0.0, ready=4.0):
    arrived = np.atleast_1d(np.asarray(arrived, dtype=np.float64))
    shape = arrived.shape
    return Observation(
        arrived=arrived,
        backlog=np.broadcast_to(np.asarray(backlog, dtype=np.float64), shape).copy(),
        ready=np.broadcast_to(np.asarray(ready, dtype=np.float64), shape).copy(),
    )


class Life:
    """One workload whose orders are carried out at once; the clock moves 15 s a tick."""

    def __init__(self, replicas=4, **facts):
        self.scaler = Scaler(np.array([replicas]))
        self.current, self.facts, self.now = replicas, facts, NOW
        self.decision = None

    def tick(self, load, *, backlog=0.0, ready=None, obey=True, **facts):
        self.now += 15.0
        one = seen(load, backlog=backlog, ready=self.current if ready is None else ready)
        given_facts = services(self.current, **{**self.facts, **facts})
        self.decision = self.scaler.decide((one,), given_facts, now=UnixTime(self.now)).of(0)
        if obey:
            self.current = self.decision.desired
        return self.decision

    def steady(self, load, ticks):
        for _ in range(ticks):
            self.tick(load)
        return self.decision


def played(load, *, start_up=60.0, initial=None, **limits):
    load = np.atleast_2d(load)
    runs = len(load)
    minimum = np.full(runs, limits.get("minimum", 1))
    fleet = Fleet(
        load,
        start_up_s=np.full(runs, start_up),
        initial=first_replicas(load, minimum=minimum) if initial is None else np.full(runs, initial),
        minimum=minimum,
        maximum=np.full(runs, limits.get("maximum", 1000)),
    )
    learned = Learned(fleet)
    return play(fleet, learned), learned


# ---- properties


@settings(max_examples=40, deadline=None)
@given(
    loads=st.lists(st.one_of(st.floats(0, 1e4), st.sampled_from([np.nan, np.inf, -1.0])), min_size=1, max_size=40),
    backlogs=st.lists(st.one_of(st.floats(0, 1e5), st.just(np.nan)), min_size=40, max_size=40),
    limits=st.tuples(st.integers(0, 20), st.integers(0, 40)),
    start_up=st.sampled_from([1.0, 60.0, 5000.0]),
)
def test_it_is_never_outside_the_limits_and_never_a_nan(loads, backlogs, limits, start_up):
    minimum, maximum = limits[0], limits[0] + limits[1]
    life = Life(max(minimum, 1), minimum=minimum, maximum=maximum, start_up=start_up)
    for load, backlog in zip(loads, backlogs, strict=False):
        decision = life.tick(load, backlog=backlog)
        assert minimum <= decision.desired <= maximum
        assert minimum <= decision.floor <= max(decision.desired, minimum)
        numbers = (decision.need, decision.shrink_delay_s, decision.forecast, decision.late_budget_left)
        assert np.isfinite(numbers).all()
    for array in arrays(life.scaler.state):
        assert array.dtype.kind != "f" or np.isfinite(array).all()


@settings(max_examples=25, deadline=None)
@given(
    loads=st.lists(st.floats(0.5, 20.0), min_size=1, max_size=30),
    newest=st.floats(0.5, 20.0),
    more=st.floats(1.0, 10.0),
)
def test_more_load_now_never_asks_for_fewer_replicas(loads, newest, more):
    less_loaded, more_loaded = Life(6), Life(6)
    for load in loads:
        less_loaded.tick(load, obey=False)
        more_loaded.tick(load, obey=False)
    assert more_loaded.tick(newest * more).desired >= less_loaded.tick(newest).desired


@settings(max_examples=25, deadline=None)
@given(loads=st.lists(st.floats(0.0, 20.0), min_size=1, max_size=30), backlog=st.floats(0, 500))
def test_a_longer_queue_never_asks_for_fewer_replicas(loads, backlog):
    short, long = Life(6), Life(6)
    for load in loads:
        short.tick(load, obey=False)
        long.tick(load, obey=False)
    assert long.tick(5.0, backlog=backlog + 100.0).desired >= short.tick(5.0, backlog=backlog).desired


@settings(max_examples=25, deadline=None)
@given(loads=st.lists(st.floats(0.0, 20.0), min_size=1, max_size=40), missing=st.integers(1, 30))
def test_nothing_is_given_back_while_the_load_is_unknown(loads, missing):
    life = Life(8)
    for load in loads:
        life.tick(load)
    for _ in range(missing):
        before = life.current
        assert life.tick(np.nan, backlog=np.nan, ready=np.nan).desired >= before


@settings(max_examples=20, deadline=None)
@given(loads=st.lists(st.floats(0.0, 20.0), min_size=1, max_size=40))
def test_asking_twice_in_a_tick_answers_the_same_and_changes_nothing(loads):
    life = Life(5)
    for load in loads:
        life.tick(load)
    first = life.decision
    once = [array.copy() for array in arrays(life.scaler.state)]
    again = life.scaler.decide((seen(loads[-1], ready=5),), services(life.current), now=UnixTime(life.now + 4.0))
    assert again.of(0) == first
    assert all(np.array_equal(a, b) for a, b in zip(once, arrays(life.scaler.state), strict=True))


def test_a_fleet_decides_as_its_workloads_would_alone():
    load = np.random.default_rng(5).uniform(0.0, 12.0, size=(260, 50)).repeat(3, axis=1)
    together, _ = played(load)
    for row in (0, 150, 259):
        alone, _ = played(load[row])
        assert np.array_equal(alone.asked[0], together.asked[row])


# ---- what it is for


def daily(days, *, low=3.0, high=14.0, noise=0.05, seed=0):
    steps = int(days * 17_280)
    wave = (low + high) / 2 + (high - low) / 2 * np.sin(2 * np.pi * np.arange(steps) / 17_280)
    jitter = np.random.default_rng(seed).normal(1.0, noise, steps // 12 + 1).repeat(12)[:steps]
    return np.clip(wave * jitter, 0.0, None)


def test_a_daily_wave_is_served_cheaper_than_by_a_plain_hpa_and_in_time():
    fleet, learned = played(daily(0.6), start_up=180.0)
    figures = Ledger.of(fleet).figures()[0]
    assert figures.late10 < 0.01
    assert figures.cost < 1.4, "an HPA at 0.7 costs about 1.45"
    assert learned.last.of(0).reason is ScalerReason.LEARNED


def test_a_backlog_is_cleared_within_the_drain_time_and_not_in_proportion():
    life = Life(4, start_up=60.0)
    life.steady(3.0, 40)
    decision = life.tick(3.0, backlog=400.0)
    assert decision.reason is ScalerReason.QUEUE
    # 400 replica-seconds, less what four replicas spare until then, cleared in 40 s beside a load of three.
    assert 3.0 + (400.0 - 4 * 60.0) / 40.0 - 1.0 <= decision.desired <= 3.0 + 400.0 / 40.0 + 1.0


def test_nothing_is_given_back_while_work_waits():
    life = Life(8)
    life.steady(8.0, 40)
    before = life.current
    for _ in range(10):
        assert life.tick(0.5, backlog=200.0).desired >= before


def test_a_steady_load_that_vanishes_is_expected_back_for_hours_and_not_for_ever():
    life = Life(9, start_up=180.0)
    life.steady(8.0, 400)
    held = life.steady(0.0, 240)
    assert held.desired >= 8
    assert held.reason is ScalerReason.COLLAPSED
    assert life.steady(0.0, 800).desired == 1


def test_a_load_that_falls_as_loads_do_is_followed_down():
    life = Life(9)
    life.steady(8.0, 400)
    for step in range(480):
        life.tick(8.0 - 7.0 * step / 480)
    assert life.steady(1.0, 200).desired <= 3


def test_collapses_that_never_return_are_no_longer_held():
    life = Life(9)
    for _ in range(2):
        life.steady(8.0, 330)
        life.steady(0.0, 970)
        # Two hours of little load: nothing that could collapse.
        life.steady(0.4, 490)
    life.steady(8.0, 330)
    assert life.steady(0.0, 330).desired < 8


def test_an_impossible_objective_is_called_so_and_priced():
    generator = np.random.default_rng(2)
    load = np.full(17_280 * 2 // 5, 0.2)
    for start in generator.choice(len(load) - 40, 60, replace=False):
        load[start : start + 24] = generator.uniform(20, 60)
    _, learned = played(load, start_up=600.0)
    told = learned.last.of(0).infeasible
    assert told is not None
    assert told.best_late_share > 0.01
    assert told.shorter_start_late_share <= told.best_late_share
    assert told.spares_late_share <= told.best_late_share
    assert told.spares >= 1


def test_a_possible_objective_is_not_called_impossible():
    _, learned = played(daily(0.35), start_up=60.0)
    assert learned.last.of(0).infeasible is None


def test_the_best_target_of_a_plain_hpa_is_told_with_its_delay():
    _, learned = played(daily(0.4, noise=0.01), start_up=60.0)
    decision = learned.last.of(0)
    assert decision.hpa_target in {0.7, 0.8, 0.9}
    assert 60.0 <= decision.shrink_delay_s <= 2400.0
    assert len(decision.alternatives) == 3


def test_little_history_says_so():
    life = Life(4)
    assert life.steady(3.0, 30).reason is ScalerReason.YOUNG


# ---- gaps, clocks, hands


def test_before_the_first_known_load_what_runs_stays():
    life = Life(7)
    decision = life.tick(np.nan)
    assert decision.desired == 7
    assert decision.reason is ScalerReason.UNKNOWN


def test_a_gap_between_two_calls_is_lived_through_with_the_last_load():
    with_gap, without = Life(6), Life(6)
    with_gap.steady(5.0, 100)
    without.steady(5.0, 100)
    with_gap.now += 10 * 15.0
    without.steady(5.0, 10)
    assert abs(with_gap.tick(5.0).desired - without.tick(5.0).desired) <= 1


def test_after_a_long_gap_what_was_learned_stays():
    life = Life(6)
    life.steady(5.0, 600)
    paid = life.scaler.state.shadows.paid_sum.copy()
    life.now += 6 * 3600.0
    decision = life.tick(5.0)
    assert np.allclose(life.scaler.state.shadows.paid_sum, paid, rtol=0.02)
    assert decision.desired >= 5


@pytest.mark.parametrize("back", [15.0, 45.0, 86_400.0])
def test_a_clock_that_is_set_back_does_not_shrink_anything(back):
    life = Life(8)
    life.steady(7.0, 100)
    before = life.current
    life.now -= back
    for _ in range(10):
        assert life.tick(7.0).desired >= before - 1
    assert life.tick(7.0).desired >= 7


def test_a_change_by_hand_is_respected_for_five_minutes():
    life = Life(5)
    life.steady(4.0, 60)
    life.current = 12
    decision = life.tick(4.0)
    assert decision.desired == 12
    assert decision.reason is ScalerReason.BY_HAND
    assert life.steady(4.0, 60).desired < 12


def test_a_cut_by_hand_below_the_need_is_made_good():
    life = Life(8)
    life.steady(7.0, 60)
    life.current = 2
    assert life.steady(7.0, 4).desired >= 7


def test_while_paused_what_runs_is_the_answer_and_the_shadows_live_on():
    life = Life(5, paused=True)
    decision = life.steady(20.0, 60)
    assert decision.desired == 5
    assert decision.reason is ScalerReason.PAUSED
    assert life.tick(20.0, paused=False).desired > 5


def test_pods_that_never_become_ready_do_not_count_as_capacity():
    stuck, healthy = Life(6, start_up=60.0), Life(6, start_up=60.0)
    stuck.steady(5.0, 40)
    healthy.steady(5.0, 40)
    stuck.tick(5.0, ready=2.0)
    assert stuck.tick(5.0, ready=2.0, backlog=45.0).desired > healthy.tick(5.0, backlog=45.0).desired


def test_a_moving_capacity_moves_the_answer():
    life = Life(5)
    life.steady(4.0, 200)
    for _ in range(200):
        life.tick(4.0, capacity=0.5)
    assert life.current >= 8


def test_every_reason_is_an_index_of_its_own():
    assert len(set(REASONS)) == len(REASONS)


# ---- checkpoints


def test_a_restart_changes_nothing():
    load = daily(0.3, seed=4)
    _, learned = played(load, start_up=300.0)
    state = learned.scaler.state
    data = packed(state, 0)
    assert len(data) <= MOST_BYTES
    restored = Scaler.restored([unpacked(data)])
    now = UnixTime((int(state.tick[0]) + 1) * 15.0)
    one, facts = seen(6.0, ready=7.0), services(7, start_up=300.0)
    assert restored.decide((one,), facts, now=now).of(0) == learned.scaler.decide((one,), facts, now=now).of(0)


def test_a_restart_half_an_hour_later_changes_the_decision_by_at_most_one_replica():
    load = np.concatenate([daily(0.15, seed=6), np.full(720, 9.0)])
    _, learned = played(load, start_up=180.0)
    restored = Scaler.restored([unpacked(packed(learned.scaler.state, 0))])
    tick, current = int(learned.scaler.state.tick[0]), 10
    for step in range(1, 122):
        one, facts = seen(9.0, ready=current), services(current, start_up=180.0)
        now = UnixTime((tick + step) * 15.0)
        current = int(learned.scaler.desired((one,), facts, now=now)[0])
    late = restored.decide((one,), facts, now=now)
    assert abs(int(late.desired[0]) - current) <= 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:50],
        lambda data: b"XXXX" + data[4:],
        lambda data: data[:4] + b"\x09\x00" + data[6:],
        lambda data: data[:-40] + bytes(40),
        lambda data: data + bytes(MOST_BYTES),
    ],
)
def test_a_damaged_checkpoint_is_refused(damage):
    life = Life(3)
    life.steady(2.0, 50)
    data = packed(life.scaler.state, 0)
    assert int(unpacked(data).load.seen[0]) == 50
    with pytest.raises(CheckpointError):
        unpacked(damage(data))


# ---- input that does not fit


def test_rows_that_do_not_fit_are_refused_by_name():
    scaler = Scaler(np.array([1, 1]))
    with pytest.raises(ScalerInputError, match="services: 1 rows for 2"):
        scaler.decide((seen(1.0),), services(1), now=UnixTime(NOW))
    with pytest.raises(ScalerInputError, match="one row a workload"):
        scaler.decide((seen(1.0),), services([1, 1]), now=UnixTime(NOW))
    with pytest.raises(ScalerInputError, match="minimum is above maximum"):
        services(1, minimum=5, maximum=4)
    with pytest.raises(ScalerInputError, match="capacity"):
        services(1, capacity=0.0)


class Late:
    """A rule whose orders are carried out some syncs after they were given, as behind a Prometheus."""

    def __init__(self, rule, syncs):
        self.rule, self.under_way = rule, deque(maxlen=syncs + 1)

    def __call__(self, view):
        self.under_way.append(np.array(self.rule(view)))
        return self.under_way[0] if len(self.under_way) == self.under_way.maxlen else view.replicas


def test_orders_that_come_late_do_not_make_it_flap():
    noise = np.random.default_rng(3).normal(1.0, 0.12, 6 * 240)
    wave = 8.0 * (1.0 + 0.3 * np.sin(np.arange(6 * 240) / 240.0)) * np.maximum(noise, 0.1)
    load = np.repeat(wave, 3)[None, :]
    one = np.ones(1, dtype=np.int64)
    actions, costs = [], []
    for syncs in (0, 1, 3):
        fleet = Fleet(
            load, start_up_s=np.array([180.0]), initial=first_replicas(load, minimum=one), minimum=one, maximum=one * 60
        )
        play(fleet, Late(Learned(fleet), syncs))
        figures = Ledger.of(fleet).figures()[0]
        actions.append(figures.actions_per_day)
        costs.append(figures.cost)
    assert max(actions) <= 2.0 * actions[0] + 8.0
    assert max(costs) <= 1.1 * costs[0]
