"""The load history: steps, gaps, partial reports, and a checkpoint that fits and comes back."""

import math
import os
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optiinfra.domain.histogram import InvalidCheckpointError
from optiinfra.domain.history import MOST_BYTES, POINTS, Column, LoadHistory, stack
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.signals import ServiceSignals
from optiinfra.domain.units import Seconds, UnixTime

START = UnixTime(1.5e9)
UNMEASURED = Unknown(UnknownReason.UNREACHABLE, "no page")


def seen(time, *, running=1.0, waiting=0.0, kv=0.5, work=100.0, expected=2, reporting=2):
    values = {field.name: UNMEASURED for field in fields(ServiceSignals)}
    values.update(
        time=time,
        window=Seconds(60.0),
        replicas_expected=expected,
        replicas_reporting=reporting,
        running=running,
        waiting=waiting,
        kv_cache_usage_mean=kv,
        work_rate=work,
    )
    return ServiceSignals(**values)


def filled(values, *, step=15.0):
    history = LoadHistory(step=Seconds(step))
    for index, value in enumerate(values):
        if value is not None:
            history.observe(seen(UnixTime(START + index * step), running=value), 2)
    return history


def test_an_empty_history_knows_nothing():
    history = LoadHistory()
    assert len(history) == 0
    assert history.newest is None
    assert isinstance(history.latest(Column.RUNNING), Unknown)
    assert history.series(Column.RUNNING).values == ()
    assert len(LoadHistory.from_bytes(history.to_bytes())) == 0


def test_the_last_observation_of_a_step_counts():
    history = LoadHistory()
    for offset, running in ((0, 1.0), (5, 2.0), (14, 3.0), (15, 9.0)):
        history.observe(seen(UnixTime(START + offset), running=running), 2)
    assert history.series(Column.RUNNING).values == (3.0, 9.0)
    assert history.series(Column.RUNNING).times == (START, START + 15.0)


def test_missing_steps_are_left_out_not_zero():
    history = filled([1.0, None, None, 4.0])
    assert history.series(Column.RUNNING).values == (1.0, 4.0)
    assert len(history) == 4


def test_unknown_values_are_left_out_column_by_column():
    history = LoadHistory()
    history.observe(seen(START, running=UNMEASURED, kv=0.25), 2)
    assert isinstance(history.latest(Column.RUNNING), Unknown)
    assert history.latest(Column.KV_CACHE_USAGE) == 0.25


@pytest.mark.parametrize(
    ("expected", "reporting", "ready", "kept"),
    [(2, 2, 2, True), (2, 1, 2, False), (2, 0, 2, False), (3, 2, 2, True), (0, 0, 0, False), (2, 2, 3, True)],
)
def test_a_partial_sum_is_not_load(expected, reporting, ready, kept):
    history = LoadHistory()
    history.observe(seen(START, expected=expected, reporting=reporting), ready)
    assert isinstance(history.latest(Column.RUNNING), float) is kept
    assert history.latest(Column.READY) == ready


def test_only_six_hours_are_kept():
    history = filled([float(i) for i in range(POINTS + 500)])
    series = history.series(Column.RUNNING)
    assert len(history) == len(series.values) == POINTS
    assert series.values[0] == 500.0
    assert series.values[-1] == POINTS + 499
    assert history._data.shape[1] <= POINTS * 1.25


def test_a_pause_longer_than_the_history_begins_it_anew():
    history = filled([1.0, 2.0])
    history.observe(seen(UnixTime(START + 7 * 3600.0), running=5.0), 2)
    assert history.series(Column.RUNNING).values == (5.0,)


def test_a_late_observation_is_ignored_and_a_clock_put_back_begins_anew():
    history = filled([1.0, 2.0, 3.0])
    assert not history.observe(seen(START, running=9.0), 2)
    assert history.series(Column.RUNNING).values == (1.0, 2.0, 3.0)
    assert history.observe(seen(UnixTime(START - 3600.0), running=7.0), 2)
    assert history.series(Column.RUNNING).values == (7.0,)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_what_is_no_measurement_is_refused_by_name(value):
    with pytest.raises(ValueError, match="RUNNING must be finite"):
        LoadHistory().observe(seen(START, running=value), 2)


@pytest.mark.parametrize("step", [0.0, 301.0, math.nan])
def test_a_step_out_of_bounds_is_refused(step):
    with pytest.raises(ValueError, match="step"):
        LoadHistory(step=Seconds(step))


@given(
    st.lists(st.one_of(st.none(), st.integers(0, 5000)), min_size=1, max_size=200),
    st.integers(1, 260),
    st.integers(-100, 100),
)
def test_a_window_is_the_series_at_its_place(values, steps, offset):
    history = filled([None if v is None else float(v) for v in values])
    now = UnixTime(START + (len(values) - 1 + offset) * 15.0)
    window = stack([history, LoadHistory()], now=now, steps=steps)
    assert window.shape == (len(Column), 2, steps)
    assert np.isnan(window[:, 1]).all()
    for back in range(steps):
        index = len(values) - 1 + offset - back
        got = window[Column.RUNNING, 0, steps - 1 - back]
        expected = values[index] if 0 <= index < len(values) else None
        assert math.isnan(got) if expected is None else got == expected


def test_a_full_history_of_pure_noise_fits():
    noise = np.frombuffer(os.urandom(POINTS * 3 * 4), dtype=np.uint32).reshape(3, POINTS) / 7.0
    history = LoadHistory()
    for index in range(POINTS):
        a, b, c = (float(value) for value in noise[:, index])
        history.observe(seen(UnixTime(START + index * 15.0), running=a, waiting=b, kv=(a % 100) / 100, work=c), index)
    data = history.to_bytes()
    assert len(data) <= MOST_BYTES
    back = LoadHistory.from_bytes(data)
    for column in Column:
        before, after = history.series(column), back.series(column)
        assert before.times == after.times
        assert np.allclose(before.values, after.values, atol=max(before.values) / 60_000)


@given(st.lists(st.one_of(st.none(), st.integers(0, 60_000)), max_size=120))
def test_whole_numbers_and_gaps_come_back_exactly(values):
    history = filled([None if v is None else float(v) for v in values])
    back = LoadHistory.from_bytes(history.to_bytes())
    assert back.series(Column.RUNNING) == history.series(Column.RUNNING)
    assert back.step == history.step
    assert back.newest == history.newest


def test_a_restored_history_goes_on():
    values = [float(i % 40) for i in range(POINTS + 100)]
    whole = filled(values)
    restored = LoadHistory.from_bytes(filled(values[:-50]).to_bytes())
    for index, value in list(enumerate(values))[-50:]:
        restored.observe(seen(UnixTime(START + index * 15.0), running=value), 2)
    assert restored.series(Column.RUNNING) == whole.series(Column.RUNNING)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:20],
        lambda data: b"XXXX" + data[4:],
        lambda data: data[:4] + b"\x02" + data[5:],
        lambda data: data[:-4],
        lambda data: data + b"x",
        lambda data: data[:5] + b"\xff" * 8 + data[13:],
        lambda data: data + b"\0" * MOST_BYTES,
    ],
)
def test_a_damaged_checkpoint_is_refused_by_name(damage):
    with pytest.raises(InvalidCheckpointError, match="history checkpoint"):
        LoadHistory.from_bytes(damage(filled([1.0, 2.0, 3.0]).to_bytes()))


@given(st.binary(max_size=400), st.booleans())
def test_no_bytes_do_anything_but_fail_cleanly(data, prefix):
    valid = filled([1.0, 2.0]).to_bytes()
    with pytest.raises(InvalidCheckpointError):
        LoadHistory.from_bytes(valid[:40] + data if prefix and data != valid[40:] else data)


def test_a_quiet_span_reaches_back_to_the_last_work():
    assert filled([0.0] * 20).quiet_span(now=UnixTime(START + 20 * 15.0)) == 300.0
    assert filled([0.0] * 10 + [1.0] + [0.0] * 9).quiet_span(now=UnixTime(START + 20 * 15.0)) == 135.0
    assert filled([1.0] * 20).quiet_span(now=UnixTime(START + 20 * 15.0)) == 0.0


def test_a_quiet_span_ends_at_a_gap_and_is_nothing_when_nobody_was_heard_lately():
    gap = [0.0] * 10 + [None] * 6 + [0.0] * 5
    assert filled(gap).quiet_span(now=UnixTime(START + 21 * 15.0)) == 75.0
    assert filled([0.0] * 20).quiet_span(now=UnixTime(START + 20 * 15.0 + 120.0)) == 0.0
    assert LoadHistory().quiet_span(now=START) == 0.0
