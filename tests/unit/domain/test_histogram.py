"""The decaying histogram: the Vertical Pod Autoscaler's buckets, forgetting, and checkpoints."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optiinfra.domain.histogram import (
    CPU_BUCKETS,
    DAY,
    MEMORY_BUCKETS,
    Buckets,
    DecayingHistogram,
    InvalidCheckpointError,
)
from optiinfra.domain.readings import Unknown
from optiinfra.domain.units import Ratio, Seconds, UnixTime

START = UnixTime(1.7e9)


@pytest.mark.parametrize(("buckets", "about"), [(CPU_BUCKETS, 176), (MEMORY_BUCKETS, 176)])
def test_bucket_count_is_that_of_the_vpa(buckets, about):
    assert abs(buckets.count - about) <= 1


@given(st.floats(min_value=0.0, max_value=999.0))
def test_a_value_lies_in_its_bucket(value):
    bucket = CPU_BUCKETS.find(value)
    assert CPU_BUCKETS.start(bucket) <= value * (1 + 1e-9)
    assert value <= CPU_BUCKETS.start(bucket + 1) * (1 + 1e-9) + 1e-12


def test_a_value_beyond_the_largest_goes_into_the_last_bucket():
    assert CPU_BUCKETS.find(1e9) == CPU_BUCKETS.count - 1


def test_an_empty_histogram_has_no_percentile():
    histogram = DecayingHistogram(CPU_BUCKETS)
    assert histogram.empty
    assert isinstance(histogram.percentile(Ratio(0.9)), Unknown)


def test_a_percentile_is_the_end_of_its_bucket():
    histogram = DecayingHistogram(CPU_BUCKETS)
    for _ in range(9):
        histogram.add(0.5, weight=1.0, time=START)
    histogram.add(5.0, weight=1.0, time=START)
    assert histogram.percentile(Ratio(0.9)) == pytest.approx(CPU_BUCKETS.start(CPU_BUCKETS.find(0.5) + 1))
    assert histogram.percentile(Ratio(0.91)) == pytest.approx(CPU_BUCKETS.start(CPU_BUCKETS.find(5.0) + 1))
    assert histogram.percentile(Ratio(0.0)) == pytest.approx(CPU_BUCKETS.start(CPU_BUCKETS.find(0.5) + 1))


def test_a_sample_weighs_half_after_its_half_life():
    histogram = DecayingHistogram(CPU_BUCKETS, half_life=Seconds(100.0))
    histogram.add(1.0, weight=3.0, time=START)
    histogram.add(0.1, weight=1.4, time=UnixTime(START + 100.0))
    # 1.5 against 1.4: the older value still holds the median; a little more and it does not.
    assert histogram.percentile(Ratio(0.5)) > 1.0
    histogram.add(0.1, weight=0.2, time=UnixTime(START + 100.0))
    assert histogram.percentile(Ratio(0.5)) < 0.2


def test_years_of_decay_neither_overflow_nor_keep_old_samples():
    histogram = DecayingHistogram(CPU_BUCKETS)
    histogram.add(100.0, weight=1.0, time=START)
    for year in range(1, 30):
        histogram.add(1.0, weight=0.1, time=UnixTime(START + year * 365 * DAY))
    assert histogram.percentile(Ratio(1.0)) < 1.2


def test_subtracting_what_was_added_leaves_nothing():
    histogram = DecayingHistogram(MEMORY_BUCKETS)
    histogram.add(1e9, weight=1.0, time=START)
    histogram.subtract(1e9, weight=1.0, time=START)
    assert histogram.empty


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_what_is_no_measurement_is_refused(value):
    with pytest.raises(ValueError, match="finite"):
        DecayingHistogram(CPU_BUCKETS).add(value, weight=1.0, time=START)


@given(
    st.lists(st.tuples(st.floats(0.0, 900.0), st.floats(0.01, 5.0), st.floats(0.0, 40.0)), min_size=1, max_size=60),
    st.floats(0.0, 1.0),
)
def test_a_checkpoint_gives_the_same_percentiles(samples, share):
    histogram = DecayingHistogram(CPU_BUCKETS)
    for value, weight, days in sorted(samples, key=lambda sample: sample[2]):
        histogram.add(value, weight=weight, time=UnixTime(START + days * DAY))
    data = histogram.to_bytes()
    assert len(data) <= 1024
    back = DecayingHistogram.from_bytes(data)
    expected, found = histogram.percentile(Ratio(share)), back.percentile(Ratio(share))
    # Weights are kept as float32: a threshold that falls exactly on a bucket's edge may land one bucket away.
    assert abs(CPU_BUCKETS.find(expected * 0.99) - CPU_BUCKETS.find(found * 0.99)) <= 1 or share in (0.0, 1.0)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:10],
        lambda data: b"XXXX" + data[4:],
        lambda data: data[:4] + b"\x63" + data[5:],
        lambda data: data[:-3],
        lambda data: data + b"more",
        lambda data: data[:5] + b"\xff" * 40 + data[45:],
    ],
)
def test_a_damaged_checkpoint_is_refused_by_name(damage):
    histogram = DecayingHistogram(Buckets(first=1.0, largest=100.0))
    histogram.add(3.0, weight=1.0, time=START)
    with pytest.raises(InvalidCheckpointError, match="histogram checkpoint"):
        DecayingHistogram.from_bytes(damage(histogram.to_bytes()))


@given(st.binary(max_size=300))
def test_no_bytes_do_anything_but_fail_cleanly(data):
    with pytest.raises(InvalidCheckpointError):
        DecayingHistogram.from_bytes(data)
