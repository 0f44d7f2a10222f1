"""The fleet's memory of idleness: what breaks a quiet time, what is learned, and what is never called idle."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from optiinfra.domain.idle.fleet import IdleMemory, Samples, Sight
from optiinfra.domain.idle.gaps import RING, stays_idle
from optiinfra.domain.idle.states import IdlePolicy

GIB = 2.0**30
MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
NAN = math.nan


class One:
    """One GPU, read at a fixed interval."""

    def __init__(self, *, interval=MINUTE, policy=None, start=0.0):
        self.memory = IdleMemory(policy or IdlePolicy())
        self.column = np.array([self.memory.column("n", "g")])
        self.interval, self.time = interval, start

    def read(self, *, duty=0.0, memory=70 * GIB, power=NAN, sm=NAN, limit=NAN, transfer=NAN, working=False):
        self.time += self.interval
        self.memory.observe(sample(self.column, self.time, duty, memory, power, sm, limit, transfer, working=working))
        return self

    def pass_(self, seconds, **facts):
        for _ in range(round(seconds / self.interval)):
            self.read(**facts)
        return self

    @property
    def judged(self):
        return self.memory.judge(self.column)

    @property
    def sight(self):
        return Sight(int(self.judged.sight[0]))


def sample(columns, time, duty, memory, power, sm, limit, transfer, *, working):
    def each(value):
        return np.broadcast_to(np.asarray(value, dtype=np.float64), columns.shape).copy()

    return Samples(
        gpu=columns,
        time=each(time),
        duty=each(duty),
        memory=each(memory),
        power=each(power),
        sm_active=each(sm),
        power_limit=each(limit),
        transfer=each(transfer),
        working=np.broadcast_to(np.asarray(working, dtype=np.bool_), columns.shape).copy(),
    )


def rest(gpu, minutes=24 * 60, **facts):
    """Minutes of quiet until the verdict is idle; None if it never comes."""
    for minute in range(minutes):
        gpu.read(**facts)
        if gpu.sight is Sight.IDLE:
            return minute
    return None


# ---- waiting


def test_an_empty_gpu_that_never_worked_is_idle_after_the_shortest_span():
    assert rest(One(), memory=0.3 * GIB) == 10


def test_a_filled_one_takes_longer_and_one_that_worked_takes_longest():
    filled = rest(One())
    after_work = rest(One().pass_(30 * MINUTE, duty=0.8))
    assert 10 <= filled <= 25
    assert filled < after_work <= 60


@pytest.mark.parametrize("pause", [12, 20, 28])
def test_a_gpu_whose_work_comes_regularly_is_never_idle_in_between(pause):
    gpu = One().pass_(10 * MINUTE, duty=0.6)
    seen = []
    for _ in range(12):
        seen.extend(gpu.read().sight for _ in range(pause))
        gpu.pass_(3 * MINUTE, duty=0.5)
    assert Sight.IDLE not in seen


def test_after_many_short_pauses_a_long_one_is_recognised():
    gpu = One()
    for _ in range(20):
        gpu.pass_(12 * MINUTE).pass_(3 * MINUTE, duty=0.5)
    assert 30 <= rest(gpu) <= 60


def test_pauses_that_are_always_long_make_the_verdict_early():
    gpu = One()
    for _ in range(6):
        gpu.pass_(5 * HOUR).pass_(10 * MINUTE, duty=0.5)
    assert rest(gpu) <= 12


def test_a_night_that_ended_at_this_time_yesterday_ends_the_verdict_before_the_morning():
    gpu = One(interval=5 * MINUTE)
    for _ in range(3):
        gpu.pass_(7 * HOUR).pass_(9 * HOUR, duty=0.7).pass_(8 * HOUR)
    gpu.pass_(3 * HOUR)
    assert gpu.sight is Sight.IDLE
    gpu.pass_(3.8 * HOUR)
    assert gpu.sight is Sight.EXPECTED


@pytest.mark.parametrize("interval", [1.0, 15.0, 60.0, 300.0])
def test_every_sampling_interval_comes_to_the_same_end(interval):
    gpu = One(interval=interval).pass_(30 * MINUTE, memory=0.0)
    assert gpu.sight is Sight.IDLE


def test_a_source_read_every_twenty_minutes_cannot_show_idleness():
    gpu = One(interval=20 * MINUTE).pass_(2 * DAY, memory=0.0)
    assert gpu.sight is not Sight.IDLE


# ---- what is work


def test_heart_beats_of_one_per_cent_are_not_work():
    assert rest(One(), duty=0.01, memory=0.0) == 10


def test_a_steady_background_is_learned_and_small_work_is_not_mistaken_for_it():
    assert One().pass_(3 * HOUR, duty=0.03).sight is Sight.IDLE
    gpu = One(interval=60.0)
    for _ in range(30):
        gpu.read(duty=0.03).pass_(14 * MINUTE)
        assert gpu.sight is not Sight.IDLE


def test_little_work_in_a_long_interval_is_work():
    gpu = One(interval=300.0)
    for _ in range(40):
        gpu.read(duty=0.02).read().read()
    assert gpu.sight is not Sight.IDLE


def test_multiprocessors_show_work_where_the_duty_does_not():
    assert One().pass_(2 * HOUR, duty=NAN, sm=0.3).sight is Sight.WORK
    assert One().pass_(2 * HOUR, duty=0.0, sm=0.3).sight is Sight.WORK


def test_an_engine_with_requests_is_at_work_whatever_the_gpu_shows():
    assert One().pass_(2 * HOUR, working=True).sight is Sight.WORK


def test_a_model_that_loads_is_not_idle_and_a_leak_is():
    gpu = One().pass_(3 * HOUR, memory=0.3 * GIB)
    assert gpu.sight is Sight.IDLE
    for gib in range(1, 70, 3):
        assert gpu.read(memory=gib * GIB).sight is not Sight.IDLE
    assert gpu.sight is Sight.LOADING
    leak = One()
    for minute in range(600):
        leak.read(memory=20 * GIB + minute * 8 * 2**20)
    assert leak.sight is Sight.IDLE


def test_bytes_over_pcie_are_work():
    assert One().pass_(2 * HOUR, transfer=2e9).sight is Sight.LOADING


# ---- what is missing


def test_a_moment_without_activity_blocks_the_verdict_for_the_shortest_span():
    gpu = One().pass_(2 * HOUR)
    assert gpu.sight is Sight.IDLE
    assert gpu.read(duty=NAN).sight is Sight.DARK
    gpu.pass_(9 * MINUTE)
    assert gpu.sight is Sight.DARK
    assert gpu.pass_(3 * MINUTE).sight is Sight.IDLE


def test_a_gpu_whose_duty_is_never_known_is_never_idle_whatever_its_power_says():
    assert One().pass_(DAY, duty=NAN, power=70.0).sight is Sight.DARK


def test_after_a_hole_the_gpu_is_watched_anew():
    gpu = One().pass_(5 * HOUR)
    gpu.time += HOUR
    assert gpu.read().sight is Sight.GAP
    assert gpu.pass_(5 * MINUTE).sight is Sight.GAP
    assert gpu.judged.elapsed[0] <= 6 * MINUTE


def test_one_missing_row_is_no_hole():
    gpu = One(interval=300.0).pass_(5 * HOUR)
    gpu.time += 300.0
    assert gpu.read().sight is Sight.IDLE


def test_unknown_memory_is_said():
    gpu = One().pass_(2 * HOUR)
    assert gpu.pass_(10 * MINUTE, memory=NAN).sight is Sight.MEMORY


# ---- power


def test_counters_that_show_nothing_while_power_is_high_are_not_believed():
    assert One().pass_(5 * HOUR, power=600.0, limit=700.0).sight is Sight.POWER
    assert One().pass_(5 * HOUR, power=600.0).sight is Sight.POWER


def test_a_floor_is_learned_at_rest_and_power_above_it_contradicts():
    gpu = One().pass_(3 * HOUR, power=72.0, limit=700.0)
    assert gpu.judged.floor[0] == pytest.approx(72.0)
    gpu.pass_(2 * HOUR, power=160.0, limit=700.0)
    assert gpu.sight is Sight.POWER
    assert gpu.judged.floor[0] < 80.0


@pytest.mark.parametrize(("watts", "limit"), [(29.0, 72.0), (280.0, 700.0), (280.0, NAN), (29.0, NAN)])
def test_a_floor_of_forty_per_cent_of_the_limit_is_a_floor(watts, limit):
    gpu = One().pass_(3 * HOUR, power=watts, limit=limit)
    assert gpu.sight is Sight.IDLE
    assert gpu.judged.floor[0] == pytest.approx(watts)


def test_no_floor_is_learned_under_load_or_while_a_model_loads():
    assert math.isnan(One().pass_(3 * HOUR, duty=0.9, power=300.0, limit=700.0).judged.floor[0])
    gpu = One()
    for minute in range(120):
        gpu.read(memory=minute * 2 * GIB, power=110.0, limit=700.0)
    assert math.isnan(gpu.judged.floor[0])


def test_a_filled_memory_has_a_floor_of_its_own():
    gpu = One().pass_(3 * HOUR, memory=0.2 * GIB, power=70.0, limit=700.0)
    gpu.pass_(2 * HOUR, memory=60 * GIB, power=118.0, limit=700.0)
    assert gpu.sight is Sight.IDLE
    assert gpu.judged.floor[0] == pytest.approx(118.0, abs=2.0)


# ---- clocks, GPUs that come and go


def test_a_sample_that_is_not_later_is_left_out():
    gpu = One().pass_(2 * HOUR)
    gpu.time -= 2 * MINUTE
    gpu.read(duty=1.0)
    assert gpu.sight is Sight.IDLE


def test_after_a_jump_of_the_clock_times_begin_anew_and_what_was_learned_stays():
    gpu = One(start=1e6).pass_(3 * HOUR, power=72.0, limit=700.0)
    gpu.memory.restart(gpu.column)
    gpu.time = 5e5
    assert gpu.read(power=72.0, limit=700.0).sight is Sight.GAP
    assert gpu.judged.floor[0] == pytest.approx(72.0)


def test_a_forgotten_gpu_leaves_nothing_to_the_next_one():
    gpu = One()
    for _ in range(RING + 3):
        gpu.pass_(12 * MINUTE).read(duty=0.5)
    assert gpu.judged.gaps[0] == RING
    gpu.memory.forget("n", "g")
    other = np.array([gpu.memory.column("n", "other")])
    assert other[0] == gpu.column[0]
    assert gpu.memory.judge(other).gaps[0] == 0
    assert math.isnan(gpu.memory.last_time("n", "other"))


def test_the_memory_of_a_fleet_is_bounded():
    memory = IdleMemory()
    columns = np.array([memory.column("n", str(number)) for number in range(1000)])
    arrays = (memory._state, memory._lengths, memory._ends)
    before = sum(one.nbytes for one in arrays)
    for step in range(300):
        duty = np.where(np.arange(1000) % 7 == step % 7, 0.5, 0.0)
        memory.observe(sample(columns, 60.0 * step, duty, GIB, NAN, NAN, NAN, NAN, working=False))
    assert sum(one.nbytes for one in (memory._state, memory._lengths, memory._ends)) == before
    assert before / 1024 < 1500


# ---- properties

DUTY = st.one_of(st.just(0.0), st.just(0.0), st.floats(0.0, 1.0), st.just(NAN))


@settings(max_examples=60, deadline=None)
@given(st.lists(DUTY, min_size=12, max_size=90), st.sampled_from([0.2 * GIB, 70 * GIB]))
def test_never_idle_with_work_or_an_unknown_moment_in_the_shortest_span(duties, memory):
    gpu = One(policy=IdlePolicy(probability=0.5, hysteresis=0.1))
    for number, duty in enumerate(duties):
        gpu.read(duty=duty, memory=memory)
        if gpu.sight is Sight.IDLE:
            last = duties[max(0, number - 10) : number + 1]
            assert len(last) == 11
            assert all(value <= 0.05 for value in last)


@settings(max_examples=12, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.0, 0.0, 0.7, NAN]), min_size=30, max_size=120), st.integers(0, 1))
def test_more_work_never_makes_a_quieter_verdict_at_once(duties, which):
    """With the last moment busy or dark instead, the verdict is not idle."""
    gpu = One().pass_(4 * HOUR)
    for duty in duties[:-1]:
        gpu.read(duty=duty)
    gpu.read(duty=(0.3, NAN)[which])
    assert gpu.sight is not Sight.IDLE


GAPS = st.lists(st.floats(5 * MINUTE, 12 * HOUR), max_size=RING)


def probability(elapsed, gaps, *, empty=False, never=False, horizon=1800.0):
    lengths = np.full((RING, 1), NAN)
    lengths[: len(gaps), 0] = gaps
    found = stays_idle(
        elapsed=np.array([elapsed]),
        now=np.array([1e9]),
        lengths=lengths,
        ends=np.full((RING, 1), 0.0),
        empty=np.array([empty]),
        never_worked=np.array([never]),
        horizon=horizon,
    )
    return float(found[0])


@settings(max_examples=200, deadline=None)
@given(st.floats(0.0, 2 * DAY), GAPS, st.booleans(), st.booleans())
def test_a_probability_is_one_and_an_empty_gpu_is_never_less_idle(elapsed, gaps, empty, never):
    found = probability(elapsed, gaps, empty=empty, never=never)
    assert 0.0 <= found <= 1.0
    assert probability(elapsed, gaps, empty=True, never=never) >= probability(elapsed, gaps, never=never) - 0.01


@settings(max_examples=200, deadline=None)
@given(st.floats(10 * MINUTE, 5 * HOUR), GAPS, st.floats(0.01, 0.99))
def test_a_gap_that_ended_within_the_horizon_lowers_the_probability(elapsed, gaps, place):
    assume(len(gaps) < RING)
    ended = elapsed + 1800.0 * place
    assume(ended < 8 * 1800.0)
    assert probability(elapsed, [*gaps, ended]) <= probability(elapsed, gaps) + 0.02


@given(st.floats(1.0, 10.0))
def test_all_times_scale_with_the_horizon(factor):
    plain = probability(40 * MINUTE, [20 * MINUTE, 75 * MINUTE])
    scaled = probability(40 * MINUTE * factor, [20 * MINUTE * factor, 75 * MINUTE * factor], horizon=1800.0 * factor)
    assert scaled == pytest.approx(plain, abs=1e-6)


@pytest.mark.parametrize("changes", [{"minimum_span": 0.0}, {"horizon": 60.0}, {"hysteresis": 0.9}])
def test_a_policy_that_cannot_be_is_refused(changes):
    with pytest.raises(ValueError, match="needed"):
        IdlePolicy(**changes)
