"""Buckets as the Vertical Pod Autoscaler has them, and compressed checkpoints of an exact size."""

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optiinfra.domain.histogram import CPU_BUCKETS, MEMORY_BUCKETS, InvalidCheckpointError, inflate


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


def test_what_was_compressed_comes_back():
    assert inflate(zlib.compress(b"abc"), size=3, what="test") == b"abc"


@pytest.mark.parametrize(
    "data", [b"", b"noise", zlib.compress(b"ab"), zlib.compress(b"abcd"), zlib.compress(b"abc") + b"more"]
)
def test_bytes_of_another_size_are_refused_by_name(data):
    with pytest.raises(InvalidCheckpointError, match="test checkpoint"):
        inflate(data, size=3, what="test")
