"""The duration parser against its grammar, and against the implementation it stands in for."""

import re
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubernetes.utils import duration as reference

from optiinfra.api.duration import PATTERN, format_duration, parse_duration
from optiinfra.api.errors import InvalidValue

pairs = st.lists(st.tuples(st.integers(0, 99_999), st.sampled_from(["h", "m", "s", "ms"])), min_size=1, max_size=4)
texts = st.one_of(
    st.text(max_size=30),
    st.text(alphabet="0123456789hms.-+ dn", max_size=12),
    pairs.map(lambda found: "".join(f"{number}{unit}" for number, unit in found)),
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0s", 0),
        ("30s", 30),
        ("5m", 300),
        ("1h30m", 5400),
        ("100ms", 0.1),
        ("1s500ms", 1.5),
        ("2m1m", 180),
        ("99999h", 359_996_400),
    ],
)
def test_reads(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", " 30s", "30s\n", "30", "1d", "1.5h", "-5m", "+5m", "1h 30m", "100000s", "1h1h1h1h1h", "5M", "٣s", "1us", "0"],
)
def test_refuses_with_a_remedy(text):
    with pytest.raises(InvalidValue, match="write a duration such as 30s, 5m or 1h30m"):
        parse_duration(text)


@given(pairs)
def test_sum_of_its_pairs(found):
    scale = {"h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
    text = "".join(f"{number}{unit}" for number, unit in found)
    assert parse_duration(text) * 1000 == pytest.approx(sum(number * scale[unit] for number, unit in found))


@given(texts)
def test_accepts_exactly_the_pattern_of_the_schema(text):
    matches = re.fullmatch(PATTERN.strip("^$"), text) is not None
    try:
        parse_duration(text)
    except InvalidValue:
        assert not matches
    else:
        assert matches


@given(texts)
def test_agrees_with_the_client_library(text):
    try:
        ours = parse_duration(text)
    except InvalidValue:
        ours = None
    try:
        theirs = reference.parse_duration(text).total_seconds()
    except ValueError:
        theirs = None
    if text.endswith("\n"):  # `$` of their pattern forgives a line end; the API server does not
        assert ours is None
    else:
        assert ours == (None if theirs is None else pytest.approx(theirs))


@given(st.integers(0, 99_999 * 3_600_000))
def test_written_is_read_back(milliseconds):
    assert parse_duration(format_duration(milliseconds / 1000)) * 1000 == pytest.approx(milliseconds, abs=0.5)


@given(st.integers(0, 99_999 * 3600))
def test_written_as_the_client_library_does(seconds):
    assert format_duration(seconds) == (reference.format_duration(timedelta(seconds=seconds)) if seconds else "0s")


@pytest.mark.parametrize("seconds", [-1, 99_999 * 3600 + 1, float("inf"), float("nan")])
def test_does_not_write_what_cannot_be_read(seconds):
    with pytest.raises(InvalidValue, match="cannot be written as a duration"):
        format_duration(seconds)
