"""The VPA and KRR baselines: published vectors, their constants, and what they may and may not see."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optiinfra.domain.histogram import CPU_BUCKETS, DAY, MEMORY_BUCKETS
from optiinfra.domain.readings import Unknown
from optiinfra.domain.replay import krr, vpa
from optiinfra.domain.replay.usage import Usage, UsageError

MEBIBYTE = 1024.0**2


def usage(cpu, memory, *, days, step=60.0, start=0.0):
    """CPU in cores and memory in MiB as functions of the day (0 .. days) and of its number of samples."""
    count = round(days * DAY / step)
    time = start + np.arange(count) * step
    day = np.arange(count) * step / DAY
    cores = np.broadcast_to(cpu(day, days), day.shape).astype(float)
    return Usage(time, cores, np.broadcast_to(memory(day, days), day.shape) * MEBIBYTE)


def constant(value):
    return lambda day, _: np.full(day.shape, value)


def tenths(day, _):
    return np.arange(len(day)) % 10 * 0.1 + 0.1


def wave(middle, swing):
    return lambda day, _: middle + swing * np.sin(2.0 * np.pi * day)


def line(begin, end):
    return lambda day, days: begin + (end - begin) * day / days


def halved(first, then):
    return lambda day, days: np.where(day < days / 2.0, first, then)


FLAT = (constant(0.5), constant(1000.0))
STEPS = (tenths, constant(500.0))
WAVE = (wave(1.0, 0.9), wave(2000.0, 500.0))
LINE = (line(0.2, 1.0), line(1000.0, 2000.0))
HALVED = (halved(1.0, 0.2), halved(3000.0, 1000.0))
VECTORS = [
    # trace, days, CPU target, lower, upper, memory target, KRR CPU, KRR memory
    (FLAT, 1, 0.587, 0.585, 1.174, 1181.3, 0.500, 1150.0),
    (FLAT, 2, 0.587, 0.586, 0.880, 1181.3, 0.500, 1150.0),
    (FLAT, 8, 0.587, 0.586, 0.660, 1181.3, 0.500, 1150.0),
    (STEPS, 1, 1.168, 0.714, 2.336, 599.6, 1.000, 575.0),
    (STEPS, 8, 1.168, 0.715, 1.314, 599.6, 1.000, 575.0),
    (WAVE, 1, 2.162, 0.918, 4.563, 2990.9, 1.889, 2875.0),
    (WAVE, 8, 2.162, 0.919, 2.566, 2990.9, 1.889, 2875.0),
    (LINE, 1, 1.101, 0.811, 2.336, 2421.7, 0.960, 2299.0),
    (LINE, 8, 1.168, 1.037, 1.314, 2421.7, 0.960, 2300.0),
    (HALVED, 2, 1.168, 0.246, 1.752, 3496.9, 1.000, 3450.0),
    (HALVED, 8, 0.247, 0.246, 1.314, 1181.3, 1.000, 3450.0),
]


@pytest.mark.parametrize(("trace", "days", "target", "lower", "upper", "memory", "krr_cpu", "krr_memory"), VECTORS)
def test_the_published_vectors(trace, days, target, lower, upper, memory, krr_cpu, krr_memory):
    history = usage(*trace, days=days)
    at = np.array([days * DAY])
    found = vpa.recommend(history, at=at)
    assert found.cpu.target[0] == pytest.approx(target, abs=6e-4)
    assert found.cpu.lower[0] == pytest.approx(lower, abs=1e-3)
    assert found.cpu.upper[0] == pytest.approx(upper, abs=2e-3)
    assert found.memory.target[0] / MEBIBYTE == pytest.approx(memory, abs=0.06)
    cores, amount = krr.propose(history, now=at[0])
    assert cores == pytest.approx(krr_cpu, abs=1e-3)
    assert amount / MEBIBYTE == pytest.approx(krr_memory, abs=0.6)


class Recommender:
    """The recommender's own steps, sample by sample, as its code takes them."""

    def __init__(self):
        self.cpu, self.memory = {}, {}
        self.times = []
        self.end = self.usage = self.kill = 0.0

    def observe(self, time, cores, amount):
        if not np.isnan(cores):
            value = math.trunc(cores * 1000.0) / 1000.0
            bucket = CPU_BUCKETS.find(value)
            self.cpu[bucket] = self.cpu.get(bucket, 0.0) + 0.1 * 2.0 ** (time / DAY)
            self.times.append(time)
        if not np.isnan(amount):
            self.peak(time, float(math.trunc(amount)), kill=False)

    def killed(self, time, request):
        used = max(request, self.usage)
        self.peak(time, max(used + 100.0 * MEBIBYTE, math.trunc(used * 1.2)), kill=True)

    def peak(self, time, value, *, kill):
        if not self.end:
            self.end = time
        if time < self.end:
            highest = max(self.usage, self.kill)
            if not highest or value <= highest:
                return
            self.memory[MEMORY_BUCKETS.find(highest)] -= 2.0 ** (self.end / DAY)
        else:
            self.end += math.floor((time - self.end) / DAY) * DAY + DAY
            self.usage = self.kill = 0.0
        bucket = MEMORY_BUCKETS.find(value)
        self.memory[bucket] = self.memory.get(bucket, 0.0) + 2.0 ** (self.end / DAY)
        if kill:
            self.kill = value
        else:
            self.usage = value

    def recommendation(self, *, containers=1):
        days = min((self.times[-1] - self.times[0]) / DAY, len(self.times) / 1440.0) if self.times else 0.0
        least = math.trunc(25.0 / containers), math.trunc(250 * MEBIBYTE / containers)
        cpu = self.bounds(self.cpu, CPU_BUCKETS, days, unit=1000.0, least=least[0])
        return cpu, self.bounds(self.memory, MEMORY_BUCKETS, days, unit=1.0, least=least[1])

    @staticmethod
    def bounds(weights, buckets, days, *, unit, least):
        found = []
        for share, multiplier, exponent in ((0.9, 0.0, 1.0), (0.5, 0.001, -2.0), (0.95, 1.0, 1.0)):
            if not weights:
                return [math.nan] * 3
            total, passed = sum(weights.values()), 0.0
            for bucket in sorted(weights):
                passed += weights[bucket]
                if passed >= share * total:
                    break
            value = math.trunc(buckets.start(bucket + 1) * unit)
            value += math.trunc(value * 0.15)
            if multiplier:
                factor = (1.0 + (multiplier / days if days else math.inf)) ** exponent
                value = math.trunc(min(value * factor, 1e14))
            found.append(max(value, least) / unit)
        return found


@st.composite
def histories(draw):
    seed = draw(st.integers(0, 2**32 - 1))
    step = draw(st.sampled_from([60.0, 300.0, 3600.0]))
    # At most 42 days: after 50 the newest memory peak weighs as much as all before it, and p50 is a matter of rounding.
    count = draw(st.integers(2, 250))
    random = np.random.default_rng(seed)
    time = draw(st.sampled_from([0.0, 5.0 * DAY, 40_000.0])) + np.cumsum(random.integers(1, 5, count)) * step
    cores = random.gamma(0.7, draw(st.sampled_from([0.01, 1.0, 100.0])), count)
    amount = random.gamma(3.0, draw(st.sampled_from([1e7, 1e9])), count)
    for values in (cores, amount):
        values[random.random(count) < draw(st.sampled_from([0.0, 0.3]))] = np.nan
    amount[random.random(count) < 0.02] = 0.0
    return Usage(time, cores, amount)


@settings(deadline=None, max_examples=60)
@given(histories(), st.integers(1, 4))
def test_whole_histories_at_once_are_the_recommender_s_own_steps(history, containers):
    at = np.append(history.midnights(), history.time[-1] + 7.0)
    found = vpa.recommend(history, at=at, containers=containers)
    one, seen = Recommender(), 0
    for decision, now in enumerate(at):
        while seen < len(history.time) and history.time[seen] < now:
            one.observe(history.time[seen], history.cpu_cores[seen], history.memory_bytes[seen])
            seen += 1
        for bounds, expected in zip((found.cpu, found.memory), one.recommendation(containers=containers), strict=True):
            values = [bounds.target[decision], bounds.lower[decision], bounds.upper[decision]]
            assert values == pytest.approx(expected, rel=1e-9, nan_ok=True)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(50, 130))
def test_targets_and_upper_bounds_are_its_own_steps_after_months(seed, days):
    random = np.random.default_rng(seed)
    count = days * 4
    history = Usage(np.arange(count) * DAY / 4.0, random.gamma(1.0, 1.0, count), random.gamma(3.0, 1e9, count))
    found = vpa.recommend(history, at=history.midnights())
    one = Recommender()
    for decision, day in enumerate(np.split(np.arange(count), days)[:-1]):
        for sample in day:
            one.observe(history.time[sample], history.cpu_cores[sample], history.memory_bytes[sample])
        expected = one.recommendation()[1]
        assert [found.memory.target[decision], found.memory.upper[decision]] == [expected[0], expected[2]]


@settings(deadline=None, max_examples=30)
@given(histories())
def test_what_comes_later_changes_no_decision(history):
    at = history.midnights()
    half = len(history.time) // 2
    earlier = Usage(history.time[:half], history.cpu_cores[:half], history.memory_bytes[:half])
    count = int(np.searchsorted(at, history.time[half - 1], side="right"))
    for rule in (
        lambda one: vpa.recommend(one, at=at[:count]).requests,
        lambda one: vpa.recommend(one, at=at[:count], out_of_memory=True).requests,
        lambda one: krr.recommend(one, at=at[:count], strategy=krr.SIMPLE_WITH_KILLS),
    ):
        whole, part = rule(history), rule(earlier)
        np.testing.assert_array_equal(whole.cpu_cores, part.cpu_cores)
        np.testing.assert_array_equal(whole.memory_bytes, part.memory_bytes)


def test_a_sample_at_midnight_belongs_to_the_day_that_begins():
    history = Usage(np.array([0.0, DAY]), np.array([0.1, 50.0]), np.array([1e9, 1e11]))
    found = vpa.recommend(history, at=np.array([DAY, DAY + 1.0])).requests
    assert found.cpu_cores[0] < 0.2 < 50.0 < found.cpu_cores[1]
    assert found.memory_bytes[0] < 2e9 < 1e11 < found.memory_bytes[1]


def test_before_anything_was_measured_the_request_is_unknown():
    history = Usage(np.array([0.0, DAY]), np.array([np.nan, 1.0]), np.array([1e9, np.nan]))
    for found in (
        vpa.recommend(history, at=np.array([DAY, DAY + 60.0])).requests,
        krr.recommend(history, at=np.array([DAY, DAY + 60.0])),
    ):
        assert isinstance(found.cpu(0), Unknown)
    assert isinstance(vpa.recommend(history, at=np.array([0.0])).requests.memory(0), Unknown)
    assert vpa.recommend(history, at=np.array([DAY])).requests.memory(0) == pytest.approx(1.17e9, rel=0.05)


def test_the_least_amounts_are_the_pod_s_and_divided_among_its_containers():
    history = usage(constant(0.001), constant(1.0), days=1)
    at = np.array([DAY])
    alone, three = (vpa.recommend(history, at=at, containers=count).requests for count in (1, 3))
    assert (alone.cpu(0), alone.memory(0)) == (0.025, 250.0 * MEBIBYTE)
    assert (three.cpu(0), three.memory(0)) == (0.011, math.trunc(250.0 * MEBIBYTE / 3.0))  # 1st bucket: 10 m + 1.5 m
    assert krr.recommend(history, at=at).cpu(0) == 0.010
    assert krr.recommend(history, at=at).memory(0) == 100e6


@pytest.mark.parametrize(
    ("used", "noted"),
    [
        (100.0 * MEBIBYTE, 200.0 * MEBIBYTE),
        (500.0 * MEBIBYTE, 600.0 * MEBIBYTE),
        (1000.0 * MEBIBYTE, 1200.0 * MEBIBYTE),
    ],
)
def test_a_memory_kill_counts_a_fifth_more_and_at_least_100_mebibytes(used, noted):
    assert vpa.out_of_memory_sample(used) == noted


def grown(factor):
    """Two days of 1 GiB, then `factor` times as much."""
    return usage(constant(0.5), lambda day, _: np.where(day < 2.0, 1024.0, 1024.0 * factor), days=6, step=300.0)


def test_a_kill_raises_the_next_target_above_what_the_use_alone_would():
    history = grown(3.0)
    at = history.midnights()
    blind, told = (vpa.recommend(history, at=at, out_of_memory=known).requests for known in (False, True))
    # The third day is the first on which use exceeds the target of the second midnight.
    np.testing.assert_array_equal(blind.memory_bytes[:2], told.memory_bytes[:2])
    assert told.memory_bytes[2] > 1.15 * blind.memory_bytes[2]
    one = Recommender()
    for time, cores, amount in zip(history.time, history.cpu_cores, history.memory_bytes, strict=True):
        if time >= 3.0 * DAY:
            break
        one.observe(time, cores, amount)
    one.killed(3.0 * DAY - 300.0, told.memory_bytes[1])
    assert told.memory_bytes[2] == pytest.approx(one.recommendation()[1][0])


def test_kills_that_are_told_count_as_the_recommender_counts_them():
    history = usage(constant(0.5), constant(1000.0), days=3, step=300.0)
    request = 3000.0 * MEBIBYTE
    kill = vpa.Kill(1.5 * DAY, request)
    found = vpa.recommend(history, at=np.array([1.5 * DAY, 1.5 * DAY + 1.0, 3.0 * DAY]), kills=[kill]).requests
    one = Recommender()
    for time, cores, amount in zip(history.time, history.cpu_cores, history.memory_bytes, strict=True):
        one.observe(time, cores, amount)
        if time == kill.time:
            one.killed(time, request)
    assert found.memory(0) == pytest.approx(1181.3 * MEBIBYTE, rel=1e-4)
    assert found.memory(1) == pytest.approx(1.15 * 1.2 * request, rel=0.05)
    assert found.memory(2) == pytest.approx(one.recommendation()[1][0])


def test_a_kill_before_any_use_was_measured_is_all_there_is():
    nothing = Usage(*(np.zeros(0) for _ in range(3)))
    found = vpa.recommend(nothing, at=np.array([DAY]), kills=[vpa.Kill(60.0, 1e9)]).requests
    assert found.memory(0) == pytest.approx(1.2e9 * 1.15, rel=0.05)


def test_a_kill_under_krr_counts_the_limit_and_a_quarter_where_it_may_look():
    history = grown(1.2)
    at = history.midnights()
    blind, told = (krr.recommend(history, at=at, strategy=each) for each in (krr.SIMPLE, krr.SIMPLE_WITH_KILLS))
    limit = math.ceil(1024.0 * MEBIBYTE * 1.15 / 1e6) * 1e6
    assert blind.memory(1) == limit
    assert told.memory(2) == math.ceil(max(1.2 * 1024.0 * MEBIBYTE * 1.15, limit * 1.25) / 1e6) * 1e6 > blind.memory(2)


def test_krr_forgets_after_a_fortnight_and_wants_a_hundred_points():
    history = usage(constant(0.5), lambda day, _: np.where(day < 1.0, 4096.0, 1024.0), days=17, step=300.0)
    found = krr.recommend(history, at=np.array([99.0 * 300.0, 100.0 * 300.0, 14.0 * DAY, 15.0 * DAY]))
    assert isinstance(found.cpu(0), Unknown)
    assert isinstance(found.memory(0), Unknown)
    assert found.memory(1) == found.memory(2) == pytest.approx(4096.0 * MEBIBYTE * 1.15, abs=1e6)
    assert found.memory(3) == pytest.approx(1024.0 * MEBIBYTE * 1.15, abs=1e6)


def test_krr_s_percentile_is_interpolated_and_rounded_up_to_millicores():
    history = usage(lambda day, _: np.arange(len(day)) / 1000.0, constant(500.0), days=1, step=300.0)
    assert krr.propose(history, now=DAY)[0] == pytest.approx(0.287 * 0.95)
    assert krr.recommend(history, at=np.array([DAY])).cpu(0) == 0.273
    assert krr.recommend(history, at=np.array([DAY]), strategy=krr.SIMPLE_LIMIT).cpu(0) == 0.190


@pytest.mark.parametrize(
    ("time", "cores", "amount"),
    [
        ([0.0, 0.0], [1.0, 1.0], [1.0, 1.0]),
        ([0.0, math.nan], [1.0, 1.0], [1.0, 1.0]),
        ([0.0, 1.0], [1.0, -1.0], [1.0, 1.0]),
        ([0.0, 1.0], [1.0, 1.0], [1.0, math.inf]),
        ([0.0, 1.0], [1.0], [1.0, 1.0]),
    ],
)
def test_samples_that_cannot_be_are_refused(time, cores, amount):
    with pytest.raises(UsageError):
        Usage(np.array(time), np.array(cores), np.array(amount))


def test_of_no_samples_nothing_is_known():
    nothing = Usage(*(np.zeros(0) for _ in range(3)))
    assert len(nothing.midnights()) == 0
    assert isinstance(vpa.recommend(nothing, at=np.array([DAY])).requests.cpu(0), Unknown)
    assert isinstance(vpa.recommend(nothing, at=np.array([DAY]), out_of_memory=True).requests.memory(0), Unknown)
    assert isinstance(krr.recommend(nothing, at=np.array([DAY])).cpu(0), Unknown)
