"""Traces: reading Azure's format, and shaping it without touching the lengths."""

import gzip
import itertools
from collections import Counter

import pytest

from optiinfra_sim.errors import TraceError
from optiinfra_sim.trace import Arrival, LoadPoint, load_factor, read_trace, shape

HEAD = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
ONE = [LoadPoint(0.0, 1.0)]


@pytest.fixture(scope="module")
def bundled(package):
    return read_trace(package / "traces/azure-conversation.csv.gz")


def test_the_bundled_slice_is_twenty_minutes_of_azure_conversations(bundled):
    assert len(bundled) == 5985
    assert bundled[0] == Arrival(0.0, 374, 44)
    assert 1190 < bundled[-1].at < 1200
    assert all(left.at <= right.at for left, right in itertools.pairwise(bundled))


def test_plain_and_compressed_files_read_alike(tmp_path):
    text = HEAD + "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n"
    (tmp_path / "a.csv").write_text(text)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(text.encode()))
    plain = read_trace(tmp_path / "a.csv")
    assert plain == read_trace(tmp_path / "a.csv.gz")
    assert plain[1].at == pytest.approx(4.314579)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "first line"),
        ("a,b,c\n1,2,3\n", "first line"),
        (HEAD, "no requests"),
        (HEAD + "yesterday,1,2\n", "line 2"),
        (HEAD + "2023-11-16 18:15:46,1\n", "line 2"),
        (HEAD + "2023-11-16 18:15:46,0,5\n", "token counts"),
        (HEAD + "2023-11-16 18:15:46,5,nan\n", "line 2"),
        (HEAD + "2023-11-16 18:15:46,5,5\n2023-11-16 18:15:45,5,5\n", "line 3: earlier"),
    ],
)
def test_what_is_not_a_trace_is_refused_with_its_line(tmp_path, text, said):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(TraceError, match=said):
        read_trace(path)


def test_a_missing_or_broken_file_is_one_error(tmp_path):
    with pytest.raises(TraceError, match="cannot be read"):
        read_trace(tmp_path / "none.csv")
    (tmp_path / "broken.csv.gz").write_bytes(b"not gzip")
    with pytest.raises(TraceError, match="cannot be read"):
        read_trace(tmp_path / "broken.csv.gz")


def test_compression_keeps_the_requests_and_shortens_the_time(bundled):
    slow = shape(bundled, duration=1200, load=ONE)
    fast = shape(bundled, duration=1200, compression=4, load=ONE)
    assert Counter((one.prompt, one.output) for one in slow) == Counter((one.prompt, one.output) for one in fast)
    assert fast[-1].at == pytest.approx(slow[-1].at / 4)


def test_a_slice_starts_at_its_own_zero(bundled):
    cut = shape(bundled, start=300, duration=60, load=ONE)
    inside = [one for one in bundled if 300 <= one.at < 360]
    assert len(cut) == len(inside)
    assert cut[0].at == pytest.approx(inside[0].at - 300)


@pytest.mark.parametrize("factor", [0.25, 1.0, 1.5, 3.0])
def test_the_load_factor_multiplies_requests(bundled, factor):
    shaped = shape(bundled, duration=600, load=[LoadPoint(0.0, factor)])
    plain = shape(bundled, duration=600, load=ONE)
    assert len(shaped) == pytest.approx(len(plain) * factor, abs=1)
    assert {(one.prompt, one.output) for one in shaped} <= {(one.prompt, one.output) for one in plain}
    assert all(left.at <= right.at for left, right in itertools.pairwise(shaped))


def test_load_points_are_joined_by_straight_lines():
    points = [LoadPoint(10.0, 1.0), LoadPoint(20.0, 3.0), LoadPoint(30.0, 0.0)]
    moments = (0, 10, 15, 20, 25, 30, 99)
    assert [load_factor(points, at) for at in moments] == [1, 1, 2, 3, 1.5, 0, 0]


def test_shaping_repeats_exactly(bundled):
    load = [LoadPoint(0.0, 1.0), LoadPoint(100.0, 3.0)]
    assert shape(bundled, duration=300, load=load) == shape(bundled, duration=300, load=load)
