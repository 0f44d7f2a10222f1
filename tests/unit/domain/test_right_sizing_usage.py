"""What is kept of a container: what is refused, gaps and clocks, and that a checkpoint loses nothing that counts."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.right_sizing import (
    ContainerUsage,
    InvalidCheckpointError,
    InvalidUsageError,
    UsageHistory,
    estimate,
    remember,
)
from optiinfra.domain.right_sizing.checkpoint import LARGEST

DAY = 86_400.0
UNMEASURED = Unknown(UnknownReason.NOT_MEASURED)


@pytest.mark.parametrize("cpu", [-0.1, math.nan, math.inf, 1e7])
def test_cpu_that_cannot_be_is_refused_by_name(cpu):
    with pytest.raises(InvalidUsageError, match="cpu_cores"):
        UsageHistory().observe(ContainerUsage(0.0, cpu, 1.0))


@pytest.mark.parametrize("memory", [-1.0, math.nan, math.inf, 1e19])
def test_memory_that_cannot_be_is_refused_by_name(memory):
    with pytest.raises(InvalidUsageError, match="memory_bytes"):
        UsageHistory().observe(ContainerUsage(0.0, 1.0, memory))


@pytest.mark.parametrize("time", [-1.0, math.nan, 1e13])
def test_a_time_that_cannot_be_is_refused(time):
    with pytest.raises(InvalidUsageError, match="time"):
        UsageHistory().observe(ContainerUsage(time, 1.0, 1.0))


@pytest.mark.parametrize(
    ("time", "cpu", "memory"),
    [
        ([0.0, 1.0], [1.0], [1.0, 1.0]),
        ([1.0, 0.0], [1.0, 1.0], [1.0, 1.0]),
        ([0.0], [-1.0], [1.0]),
        ([0.0], [1.0], [math.inf]),
        ([-5.0], [1.0], [1.0]),
    ],
)
def test_many_samples_that_cannot_be_are_refused(time, cpu, memory):
    with pytest.raises(InvalidUsageError):
        UsageHistory().observe_many(np.array(time), np.array(cpu), np.array(memory))


def test_nothing_known_is_no_sample():
    history = UsageHistory()
    assert not history.observe(ContainerUsage(0.0, UNMEASURED, UNMEASURED))
    assert history.last is None
    assert history.samples == 0


def test_a_sample_older_than_the_last_is_left_out():
    history = UsageHistory()
    assert history.observe(ContainerUsage(2 * DAY, 1.0, 1e9))
    assert not history.observe(ContainerUsage(DAY, 50.0, 9e9))
    assert history.observe_many(np.array([DAY, 2 * DAY]), np.array([50.0, 1.0]), np.array([9e9, 1e9])) == 1
    assert np.nanmax(history.kept.peaks) == 1e9


def test_one_by_one_is_the_same_as_many():
    draw = np.random.default_rng(1)
    time = np.sort(draw.uniform(0.0, 5 * DAY, 500))
    cpu, memory = draw.exponential(1.0, 500), draw.exponential(1e9, 500)
    cpu[::7], memory[::11] = math.nan, math.nan
    many, single = UsageHistory(), UsageHistory()
    many.observe_many(time, cpu, memory)
    for when, cores, used in zip(time.tolist(), cpu.tolist(), memory.tolist(), strict=True):
        single.observe(
            ContainerUsage(when, UNMEASURED if math.isnan(cores) else cores, UNMEASURED if math.isnan(used) else used)
        )
    assert many.samples == single.samples
    np.testing.assert_allclose(many.kept.cpu.fast, single.kept.cpu.fast)
    np.testing.assert_allclose(many.kept.cpu.slow, single.kept.cpu.slow)
    np.testing.assert_allclose(many.kept.peaks, single.kept.peaks)
    np.testing.assert_allclose(many.kept.levels, single.kept.levels)


def test_a_gap_leaves_unknown_days_not_zeros():
    history = UsageHistory()
    history.observe(ContainerUsage(0.0, 1.0, 1e9))
    history.observe(ContainerUsage(4 * DAY, 1.0, 2e9))
    np.testing.assert_array_equal(history.kept.peaks[-5:], [1e9, math.nan, math.nan, math.nan, 2e9])
    (found,) = estimate([history], now=5 * DAY)
    assert found.memory.days == 2.0


def test_years_of_silence_leave_a_sketch_that_still_works():
    history = UsageHistory()
    history.observe(ContainerUsage(0.0, 1.0, 1e9))
    history.observe(ContainerUsage(3000 * DAY, UNMEASURED, 1e9))
    (found,) = estimate([history], now=3000 * DAY)
    assert 1.0 <= found.cpu.target < 2.0


def test_cpu_of_long_ago_counts_less():
    time = np.arange(0.0, 60 * DAY, 300.0)
    history = UsageHistory()
    history.observe_many(time, np.where(time < 30 * DAY, 8.0, 1.0), np.full(len(time), 1e9))
    (found,) = estimate([history], now=60 * DAY)
    assert found.cpu.target < 8.5
    history.observe_many(time + 60 * DAY, np.full(len(time), 1.0), np.full(len(time), 1e9))
    (found,) = estimate([history], now=120 * DAY)
    assert found.cpu.target < 1.2


entries = st.lists(
    st.tuples(
        st.floats(0.0, 90 * DAY),
        st.one_of(st.just(math.nan), st.floats(0.0, 1e3)),
        st.one_of(st.just(math.nan), st.floats(1.0, 1e15)),
    ),
    max_size=80,
)


@settings(max_examples=100, deadline=None)
@given(samples=entries, kill=st.booleans())
def test_a_checkpoint_gives_back_what_was_kept(samples, kill):
    history = UsageHistory()
    if samples:
        history.observe_many(*(np.array(column) for column in zip(*sorted(samples), strict=True)))
    if kill:
        history.observe_out_of_memory(time=90 * DAY, used=1e9)
    (found,) = estimate([history], now=91 * DAY)
    remember(history, found, now=91 * DAY)
    data = history.to_bytes()
    assert len(data) <= LARGEST
    again = UsageHistory.from_bytes(data)
    assert again.to_bytes() == data
    assert (again.samples, again.last, again.lifespan) == (history.samples, history.last, history.lifespan)
    (sized,) = estimate([again], now=91 * DAY)
    for resource in ("cpu", "memory"):
        one, other = getattr(found, resource), getattr(sized, resource)
        assert isinstance(one, Unknown) == isinstance(other, Unknown)
        if not isinstance(one, Unknown):
            assert other.target == pytest.approx(one.target, rel=0.05)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damaged_checkpoints_are_refused_or_read_but_never_worse(data):
    history = UsageHistory()
    time = np.arange(0.0, 3 * DAY, 900.0)
    history.observe_many(time, np.full(len(time), 1.0), np.full(len(time), 1e9))
    raw = bytearray(history.to_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(raw[: data.draw(st.integers(0, len(raw)))])
    try:
        read = UsageHistory.from_bytes(cut)
    except InvalidCheckpointError:
        return
    (found,) = estimate([read], now=3 * DAY)
    for one in (found.cpu, found.memory):
        assert isinstance(one, Unknown) or math.isfinite(one.target)


@pytest.mark.parametrize("data", [b"", b"OIRU", b"x" * 400, b"OIRU\x01" + bytes(600), bytes(5000)])
def test_foreign_bytes_are_refused(data):
    with pytest.raises(InvalidCheckpointError):
        UsageHistory.from_bytes(data)
