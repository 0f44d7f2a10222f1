"""Answers read as arrays, and how a range and a question are cut: the same numbers, however they come."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optiinfra.cluster.errors import Invalid, Malformed
from optiinfra.cluster.prometheus_answer import Piece
from optiinfra.cluster.prometheus_grid import TimeGrid
from optiinfra.cluster.prometheus_matchers import Matcher, filled, one_of, parse_matcher
from optiinfra.cluster.prometheus_plan import AskLimits, Part, parts, points_of, samples_a_step
from optiinfra.cluster.prometheus_rows import rows
from optiinfra.domain.report.frames import Question
from tests.unit.promql_stub import matchers as conditions

START = 1_700_000_100.0
STEP = 300.0
PIECE = Piece(START, STEP, 6)


def written(value):
    if math.isnan(value):
        return "NaN"
    return ("+Inf" if value > 0 else "-Inf") if math.isinf(value) else repr(value)


def body(found, *, separators=(",", ":"), **beside):
    document = {"status": "success", "data": {"resultType": "matrix", "result": found, **beside}}
    return json.dumps(document, separators=separators).encode()


def read(found, *, by=("pod",), most=100, **how):
    return rows(body(found, **how), PIECE, by=by, most_series=most)


VALUES = st.lists(st.one_of(st.none(), st.floats(), st.integers(0, 2**63).map(float)), min_size=6, max_size=6)
NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=8)


@settings(deadline=None, max_examples=150)
@given(st.dictionaries(NAMES, VALUES, max_size=5), st.booleans())
def test_both_ways_of_reading_give_the_same(table, wide):
    found = [
        {
            "metric": {"pod": name, "odd": '"values":[[1,"2"]]'},
            "values": [[START + n * STEP, written(value)] for n, value in enumerate(values) if value is not None],
        }
        for name, values in table.items()
    ]
    got = read(found, separators=(", ", ": ") if wide else (",", ":"))
    assert got.keys == tuple((name,) for name in table)
    for row, values in zip(got.values, table.values(), strict=True):
        expected = [value if value is not None and math.isfinite(value) else math.nan for value in values]
        np.testing.assert_array_equal(row, np.array(expected))


@settings(deadline=None, max_examples=200)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.sampled_from(["1", START, "NaN"]),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from(["metric", "values", "histograms", "stats", "a"]), inner)
        ),
        max_leaves=12,
    ),
    st.integers(0, 60),
)
def test_no_answer_surprises(found, cut):
    for separators in ((",", ":"), (", ", ": ")):
        text = body([found], separators=separators)
        for one in (text, text[: len(text) - cut], text.replace(b"}", b"", 1)):
            try:
                got = rows(one, PIECE, by=("pod",), most_series=5)
            except (Malformed, Invalid):
                continue
            assert got.values.shape == (len(got.keys), 6)
            assert not np.isinf(got.values).any()


@pytest.mark.parametrize(
    "values",
    [
        [[START, "1"], [START, "2"]],
        [[START + STEP, "1"], [START, "2"]],
        [[START + 6 * STEP, "1"]],
        [[START - STEP, "1"]],
        [[START + n * STEP / 2, "1"] for n in range(9)],
        [[START, "one"]],
        [[START]],
        [["NaN", "1"]],
        [[START, "1", "2"]],
        [[START, "1"], [START + STEP]],
    ],
)
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_points_that_cannot_be_are_refused(values, separators):
    with pytest.raises(Malformed):
        read([{"metric": {}, "values": values}], separators=separators)


def test_native_histograms_and_too_many_series_are_told():
    with pytest.raises(Invalid, match="histogram_count"):
        read([{"metric": {}, "histograms": [[START, {"count": "1"}]]}])
    many = [{"metric": {"pod": str(n)}, "values": [[START, "1"]]} for n in range(9)]
    with pytest.raises(Invalid, match="9 series came back, at most 8"):
        read(many, most=8)


def test_samples_are_those_of_the_server():
    assert read([], stats={"samples": {"totalQueryableSamples": 12}}).samples == 12
    for odd in ({}, {"samples": None}, {"samples": {"totalQueryableSamples": "12"}}, {"seriesFetched": "3"}):
        assert read([], stats=odd).samples is None


GRIDS = st.builds(
    lambda begin, step, points: TimeGrid(begin * step, step, points, 300.0),
    st.integers(0, 6_000_000),
    st.sampled_from([15.0, 60.0, 300.0]),
    st.integers(1, 5_000),
)


@settings(deadline=None)
@given(GRIDS, st.integers(0, 12).map(lambda n: 2**n))
def test_cuts_cover_a_range_once_and_are_the_same_in_every_run(grid, points):
    cuts = list(grid.cuts(points))
    assert [first for first, _ in cuts] == [sum(n for _, n in cuts[:at]) for at in range(len(cuts))]
    assert sum(n for _, n in cuts) == grid.points
    assert all(1 <= n <= points for _, n in cuts)
    for first, _ in cuts[1:]:
        assert (round(grid.start / grid.step) + first) % points == 0


@settings(deadline=None)
@given(GRIDS.filter(lambda grid: grid.points > 1), st.data())
def test_halves_are_two_shorter_pieces_of_the_same(grid, data):
    first = data.draw(st.integers(0, grid.points - 2))
    points = data.draw(st.integers(2, grid.points - first))
    (a, n), (b, m) = grid.halves(first, points)
    assert (a, a + n, n + m) == (first, b, points)
    assert min(n, m) >= 1


@pytest.mark.parametrize(
    "how", [{"since": 10, "step": 60}, {"since": 60, "step": 0.5}, {"since": 60, "step": math.nan}]
)
def test_a_range_that_cannot_be_is_told(how):
    with pytest.raises(Invalid):
        TimeGrid.ending(START, **how)


def test_a_range_ends_at_a_whole_step():
    grid = TimeGrid.ending(START + 17, since=3_600, step=300)
    assert (grid.end, grid.points, grid.window) == (START - START % 300, 12, 300)
    assert TimeGrid.ending(START, since=3_600, step=60).window == 120


QUESTION = Question("q", "max by (namespace) (x{$matchers})", ("namespace",), ("x",))


@settings(deadline=None)
@given(
    st.dictionaries(st.text("ab.-|\"\\'", max_size=5), st.integers(1, 900), min_size=1, max_size=90),
    st.text("ab.-|", max_size=5),
)
def test_parts_are_everything_and_nothing_twice(series, other):
    limits = AskLimits(series=1_000)
    made = parts(QUESTION, series, limits, a_step=1.0)
    for value in [*series, other]:
        within = [
            part
            for part in made
            if all(test({"namespace": value}) for test in conditions(",".join(str(one) for one in part.matchers)))
        ]
        assert len(within) == 1
    assert sum(part.series for part in made) == sum(series.values())


@pytest.mark.parametrize(
    ("by", "promql", "split"),
    [
        (("namespace", "pod"), "sum by (namespace, pod) (x)", True),
        (("pod",), "sum by (pod) (x)", False),
        (("pod",), "max by (pod) (avg_over_time(x[5m]))", True),
        ((), "max(x)", True),
        (("pod",), "max by (pod) (x) / max by (pod) (y)", False),
        (("pod",), "max_over_time(x[5m])", False),
        (("pod",), "max by (pod) (x", False),
    ],
)
def test_only_what_stays_right_is_cut_by_a_label(by, promql, split):
    question = Question("q", promql, by, ("x",))
    assert (len(parts(question, {"a": 900, "b": 900}, AskLimits(series=1_000), a_step=1.0)) > 1) is split


def test_what_is_asked_for_one_moment_is_cut_by_what_its_window_reads():
    question = Question("q", "max by (namespace) (rate(x[1d]))", ("namespace",), ("x",), latest=True)
    made = parts(question, {"a": 900, "b": 900}, AskLimits(samples=3_000_000), a_step=2_880.0)
    assert [part.series for part in made] == [900, 900]


@settings(deadline=None)
@given(st.integers(1, 100_000), st.floats(1.0, 3_000.0))
def test_a_call_stays_within_the_limits_or_is_as_short_as_allowed(series, a_step):
    limits = AskLimits()
    points = points_of(Part((), series), a_step=a_step, limits=limits)
    small = points * series <= limits.cells and points * series * a_step <= limits.samples
    assert points <= limits.points
    assert small or points == limits.least_points


def test_the_longest_window_says_how_much_is_read():
    assert samples_a_step("up", scrape_s=30.0) == 1.0
    assert samples_a_step("rate(x[5m]) + rate(y[1h30m])", scrape_s=30.0) == 180.0
    assert samples_a_step("max_over_time(x[1d:5m])", scrape_s=60.0) == 1440.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cluster=prod", 'cluster="prod"'),
        ('cluster="a b"', 'cluster="a b"'),
        ('cluster=~"a|b"', 'cluster=~"a|b"'),
        (' cluster != "te\\"st" ', 'cluster!="te\\"st"'),
        ("cluster!~x.*", 'cluster!~"x.*"'),
    ],
)
def test_matchers_are_read_as_people_write_them(text, expected):
    assert str(parse_matcher(text)) == expected


@pytest.mark.parametrize("text", ["", "cluster", "=x", 'a="b', "a=b c", 'a="b"} or up{x="', "a-b=c", "a=" + "x" * 600])
def test_what_is_no_matcher_is_refused(text):
    with pytest.raises(Invalid):
        parse_matcher(text)


@given(st.text(max_size=20), st.lists(st.text(max_size=8), min_size=1, max_size=4))
def test_no_value_ends_a_string_early(value, values):
    for matcher in (Matcher("a", "=", value), one_of("a", values)):
        text = str(matcher)
        inner = text[text.index('"') + 1 : -1]
        place = 0
        while place < len(inner):
            assert inner[place] not in '"\n'
            place += 2 if inner[place] == "\\" else 1
        assert place == len(inner)


def test_places_are_filled():
    query = 'rate(a{x="y",$matchers}[$window]) / b{$matchers}'
    assert filled(query, matchers=[], window=300.0) == 'rate(a{x="y"}[300s]) / b{}'
    made = filled(query, matchers=[Matcher("c", "=", "d")], window=60.0)
    assert made == 'rate(a{x="y",c="d"}[60s]) / b{c="d"}'
