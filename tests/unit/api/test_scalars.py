"""Scalars: what they read, and what they refuse with a remedy."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optiinfra.api.errors import InvalidValue
from optiinfra.api.scalars import Amount, AutoDuration, ContainerName, Duration, Label, Share, Time, Url, UrlPath, quote
from optiinfra.api.v1alpha1 import Base64, Currency, TimeOfDay, TimeZone


@pytest.mark.parametrize(
    ("text", "ratio"),
    [("0", 0), ("0.01", 0.01), ("1", 1), ("1.000", 1), ("60%", 0.6), ("100%", 1), ("0%", 0), ("2.5%", 0.025)],
)
def test_share(text, ratio):
    assert Share.check(text).ratio == pytest.approx(ratio)


@pytest.mark.parametrize(
    "text", ["", "%", "1.1", "101%", "100.5%", "-1%", ".5", "60 %", "1e-2", "0,5", "NaN", "0.01\n"]
)
def test_share_refuses(text):
    with pytest.raises(InvalidValue, match="write a share between 0 and 1"):
        Share.check(text)


@given(st.floats(0, 1))
def test_every_share_is_within_one(ratio):
    assert 0 <= Share.check(f"{ratio:.6f}").ratio <= 1


def test_auto_duration():
    assert AutoDuration.check("Auto").seconds is None
    assert AutoDuration.check("2m").seconds == 120
    with pytest.raises(InvalidValue, match="write Auto, or a duration"):
        AutoDuration.check("auto")


def test_duration_of_seconds():
    assert Duration.of(5400) == "1h30m"
    assert Duration.of(0.25).seconds == 0.25


def test_amount():
    assert Amount.check("2.50").money == 2.5
    for text in ("-1", "1,5", "1e3", "$2", "Infinity", "1.", "٢"):
        with pytest.raises(InvalidValue, match="write an amount"):
            Amount.check(text)


@given(st.integers(0, 4_000_000_000))
def test_time_is_read_back_to_the_second(moment):
    assert Time.of(moment).unix == moment
    assert Time.check(str(Time.of(moment + 0.9))) == Time.of(moment)


def test_time_reads_offsets_and_refuses_none():
    assert Time.check("2026-01-31T13:00:00+01:00").unix == Time.check("2026-01-31T12:00:00Z").unix
    with pytest.raises(InvalidValue, match="with its offset"):
        Time.check("2026-01-31T12:00:00")
    with pytest.raises(InvalidValue, match="write a time such as"):
        Time.check("yesterday")


@pytest.mark.parametrize(
    ("scalar", "good", "bad"),
    [
        (Label, ["a", "h100", "a-b", "1"], ["", "-a", "a-", "A", "a.b", "a_b", "a\n"]),
        (ContainerName, ["", "vllm", "a-1"], ["-", "vLLM", "a b"]),
        (UrlPath, ["/", "/metrics", "/a/b?x=1&y=%20"], ["", "metrics", "/a b", "/a\n", "/a#b", "http://x/"]),
        (
            Url,
            ["http://a", "https://a.b:9090/x", "http://[::1]:9090", "http://127.0.0.1"],
            ["ftp://a", "http://", "http://u:p@a", "http://a b", "//a", "http://a/\n"],
        ),
        (TimeOfDay, ["00:00", "23:59"], ["24:00", "7:00", "12:60", "12"]),
        (TimeZone, ["UTC", "Europe/Berlin", "Etc/GMT+5"], ["", "+02:00", "Nowhere/City", "../etc/passwd", "Europe/"]),
        (Currency, ["USD"], ["usd", "US", "USDT"]),
        (Base64, ["", "QUJD", "QQ==", "QUI="], ["Q", "QQ=", "Q Q=", "QUJD\n", "QU_D"]),
    ],
)
def test_grammar(scalar, good, bad):
    for text in good:
        assert scalar.check(text) == text
    for text in bad:
        with pytest.raises(InvalidValue):
            scalar.check(text)


@given(st.text(max_size=40))
def test_nothing_but_json_text_comes_out(text):
    for scalar in (Label, Share, Amount, UrlPath, Url, Currency):
        try:
            outcome = scalar.check(text)
        except InvalidValue as error:
            outcome = error
        if isinstance(outcome, InvalidValue):
            assert "\n" not in str(outcome)
        else:
            assert json.loads(json.dumps(outcome)) == text
            assert re.fullmatch(scalar.PATTERN.removeprefix("^").removesuffix("$"), text)


def test_quote_for_cel():
    assert quote(r"a\.b'c") == r"'a\\.b\'c'"
