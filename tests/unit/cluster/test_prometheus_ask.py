"""Many questions over one grid of time: counted first, cut, paced, within a budget, and told in full."""

import math

import numpy as np
import pytest
from aiohttp import web
from yarl import URL

from optiinfra.cluster.errors import ClusterError, Denied, Throttled, Unavailable
from optiinfra.cluster.prometheus_ask import (
    CALL_LIMITS,
    AskLimits,
    MetricsServer,
    OverBudget,
    PrometheusServer,
    TimeGrid,
    parse_matcher,
)
from optiinfra.cluster.prometheus_range import QueryLimits
from optiinfra.domain.readings import UnknownReason
from optiinfra.domain.report.frames import Question
from tests.unit.prometheus_stub import prometheus, refusal
from tests.unit.promql_stub import series

END = 1_700_006_400.0
STEP = 300.0
DAY = 86_400.0
LOAD = Question(
    "load", "sum by (namespace, pod) (rate(load_total{$matchers}[$window]))", ("namespace", "pod"), ("load_total",)
)
QUEUE = Question("queue", "max by (namespace) (queue{$matchers})", ("namespace",), ("queue", "old_queue"))
NODES = Question("nodes", "max by (node) (node_up{$matchers})", ("node",), ("node_up",), split_by="node")


class Naps:
    def __init__(self):
        self.seconds = []

    async def __call__(self, seconds):
        self.seconds.append(seconds)


def fleet(*, namespaces=("a", "b"), pods=2, value=lambda time: time, **labels):
    found = [
        series("load_total", value, namespace=namespace, pod=f"{namespace}-{n}", **labels)
        for namespace in namespaces
        for n in range(pods)
    ]
    found += [series("queue", lambda _: 3.0, namespace=namespace, **labels) for namespace in namespaces]
    return dict([*found, series("node_up", lambda _: 1.0, node="n1")])


def grid(since=DAY, **how):
    return TimeGrid.ending(END, since=since, step=STEP, **how)


async def ask(stub, *questions, since=DAY, limits=None, call_limits=None, naps=None, server=None, **how):
    where = server or PrometheusServer(URL(stub.url))
    async with MetricsServer(
        where, limits=limits or AskLimits(), call_limits=call_limits or CALL_LIMITS, sleep=naps or Naps()
    ) as session:
        return await session.ask(questions, grid(since), **how)


def asked_for(stub, words):
    return [given for given in stub.asked if words in given.get("query", "") and "start" in given]


async def test_frames_come_on_one_grid_in_the_order_of_their_labels():
    with prometheus(fleet=fleet()) as stub:
        asked = await ask(stub, LOAD, QUEUE, NODES)
    load, queue, nodes = asked.frames
    assert load.keys == (("a", "a-0"), ("a", "a-1"), ("b", "b-0"), ("b", "b-1"))
    assert load.times.tolist() == grid().times.tolist() == [END - STEP * back for back in range(287, -1, -1)]
    assert (load.values == load.times).all()
    assert queue.keys == (("a",), ("b",))
    assert nodes.keys == (("n1",),)
    assert asked.not_asked == ()
    assert asked.series == 7


async def test_the_window_and_the_matchers_stand_in_every_selector():
    matchers = [parse_matcher("cluster=x")]
    with prometheus(fleet=fleet(cluster="x") | fleet(cluster="y")) as stub:
        await ask(stub, LOAD, matchers=matchers, namespaces=["a"])
        assert {one["query"] for one in asked_for(stub, "rate(")} == {
            'sum by (namespace, pod) (rate(load_total{cluster="x",namespace="a"}[300s]))'
        }
        # Nodes have no namespace: they are not narrowed by one.
        asked = await ask(stub, NODES, namespaces=["a"])
        assert asked.frames[0].keys == (("n1",),)


async def test_what_is_not_there_is_not_asked_for_and_told():
    gone = Question("gone", "max(tgi_queue{$matchers})", (), ("tgi_queue", "tgi_b", "tgi_c", "tgi_d", "tgi_e"))
    with prometheus(fleet=fleet()) as stub:
        asked = await ask(stub, gone, LOAD)
        assert not asked_for(stub, "tgi_queue{")
    assert [frame.question for frame in asked.frames] == [LOAD]
    (why,) = asked.not_asked
    assert why.reason.reason is UnknownReason.NOT_MEASURED
    assert why.reason.detail == "no series tgi_queue, tgi_b, tgi_c, tgi_d and 1 more from 2023-11-14 to 2023-11-15"


async def test_an_empty_server_costs_a_few_small_calls():
    with prometheus(fleet={series("other")[0]: lambda _: 1.0}) as stub:
        asked = await ask(stub, LOAD, QUEUE, NODES)
        assert asked.frames == ()
        assert len(asked.not_asked) == 3
        assert asked.calls <= 6
        assert asked.samples.total == 0


async def test_models_that_are_gone_by_now_are_found():
    until = END - DAY / 2
    with prometheus(fleet=fleet(value=lambda time: 1.0 if time < until else None)) as stub:
        asked = await ask(stub, LOAD)
    assert asked.frames[0].values.shape[0] == 4
    assert np.isnan(asked.frames[0].values[:, -1]).all()


async def test_names_that_cannot_be_looked_up_are_counted_only():
    with prometheus(fleet=fleet(), names=False) as stub:
        asked = await ask(stub, LOAD, Question("gone", "gone{$matchers}", (), ("gone",)))
    assert len(asked.frames) == 1
    assert asked.not_asked[0].reason.reason is UnknownReason.NOT_MEASURED


async def test_no_call_touches_more_than_the_limits_say():
    limits = AskLimits(series=10, cells=1_000, samples=5_000)
    names = [f"n{n}" for n in range(12)]
    with prometheus(fleet=fleet(namespaces=names, pods=4)) as stub:
        asked = await ask(stub, LOAD, limits=limits)
        queries = [given for given in stub.asked if "step" in given]
        read = [size for size, given in zip(stub.touched, queries, strict=True) if "rate(" in given["query"]]
    assert len(read) > 10
    assert all(count <= 10 for count, _ in read)
    assert all(count * points <= 1_000 for count, points in read)
    assert all(count * points * 10 <= 5_000 for count, points in read)
    frame = asked.frames[0]
    assert frame.values.shape == (48, 288)
    assert (frame.values == frame.times).all()


async def test_the_last_part_is_everything_else():
    """A namespace that came up between two of the moments that are counted is read all the same."""
    short = series("load_total", lambda time: 5.0 if END - 1500 < time < END - 300 else None, namespace="z", pod="z-0")
    with prometheus(fleet=fleet(namespaces=["a", "b", "c"], pods=4) | dict([short])) as stub:
        asked = await ask(stub, LOAD, limits=AskLimits(series=5))
        assert any("!~" in given["query"] or "!=" in given["query"] for given in asked_for(stub, "rate("))
    assert ("z", "z-0") in asked.frames[0].keys
    assert asked.frames[0].values.shape[0] == 13


async def test_a_sum_over_all_is_never_cut_by_a_label():
    total = Question("total", "sum(load_total{$matchers})", (), ("load_total",))
    with prometheus(fleet=fleet(namespaces=["a", "b", "c"], pods=4, value=lambda _: 2.0)) as stub:
        asked = await ask(stub, total, limits=AskLimits(series=5))
    assert (asked.frames[0].values == 24.0).all()


async def test_what_reads_too_many_series_at_once_is_not_asked():
    total = Question("total", "sum(load_total{$matchers})", (), ("load_total",))
    with prometheus(fleet=fleet(pods=10)) as stub:
        asked = await ask(stub, total, limits=AskLimits(series=5, most_series=12))
        assert not asked_for(stub, "sum(load")
    assert "it reads 20 series at once, at most 12 are asked for" in asked.not_asked[0].reason.detail


async def test_only_the_newest_point_of_what_needs_no_history_is_asked():
    config = Question("config", "max by (pod) (load_total{$matchers})", ("pod",), ("load_total",), latest=True)
    with prometheus(fleet=fleet()) as stub:
        asked = await ask(stub, config)
        (given,) = asked_for(stub, "max by (pod)")
    assert float(given["start"]) == float(given["end"]) == END
    assert asked.frames[0].times.tolist() == [END]
    assert asked.frames[0].values.tolist() == [[END]] * 4


async def test_what_the_server_finds_too_large_comes_in_smaller_pieces():
    naps = Naps()
    with prometheus(fleet=fleet(), most_samples=4_000) as stub:
        asked = await ask(stub, LOAD, since=2 * DAY, naps=naps)
    frame = asked.frames[0]
    assert (frame.values == frame.times).all()
    assert naps.seconds == []


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (422, "query processing would load too many samples into memory in query execution"),
        (400, "exceeded maximum resolution of 11,000 points per timeseries"),
        (503, "query timed out in expression evaluation"),
        (422, "expanding series: rpc error: code = ResourceExhausted desc = exceeded series limit: limit 9 violated"),
        (500, "rpc error: code = ResourceExhausted desc = exceeded chunks limit: limit 12000 violated (got 12704)"),
        (
            422,
            "the query exceeded the maximum number of chunks (limit: 2000000 chunks) (err-mimir-max-chunks-per-query)",
        ),
        (422, "the query time range exceeds the limit (query length: 721h, limit: 720h) (err-mimir-max-query-length)"),
        (422, "cannot select more than -search.maxSamplesPerQuery=1000000000 samples"),
        (422, "the number of matching timeseries exceeds 300000; either narrow down the search"),
        (422, "not enough memory for processing 12345 data points across 4 time series"),
    ],
)
async def test_every_server_s_words_for_too_large_are_understood(status, words):
    with prometheus(fleet=fleet()) as stub:
        async with MetricsServer(PrometheusServer(URL(stub.url)), sleep=Naps()) as session:
            await session.ask([LOAD], grid())
            before = len(asked_for(stub, "rate("))
            whole = max(float(one["end"]) - float(one["start"]) for one in asked_for(stub, "rate("))
            # The next range call after the counting ones is refused once.
            refused = Refusing(stub, refusal(status, "execution", words))
            asked = await session.ask([LOAD], grid())
            after = asked_for(stub, "rate(")[before:]
    assert refused.times == 1
    assert all(float(one["end"]) - float(one["start"]) < whole for one in after[1:])
    assert (asked.frames[0].values == asked.frames[0].times).all()


class Refusing:
    """Refuses the first call for a rate."""

    def __init__(self, stub, answer, *, most=1):
        self.times, self.most, self.answer = 0, most, answer
        self.evaluate, stub._range = stub._range, self

    async def __call__(self, given):
        if "rate(" in given["query"] and self.times < self.most:
            self.times += 1
            return self.answer() if callable(self.answer) else self.answer
        return await self.evaluate(given)


async def test_a_question_that_stays_too_large_ends_alone():
    with prometheus(fleet=fleet()) as stub:
        Refusing(stub, lambda: refusal(422, "execution", "too many samples"), most=10**6)
        asked = await ask(stub, LOAD, QUEUE)
        assert 3 < len(asked_for(stub, "rate(")) < 60
    assert [frame.question for frame in asked.frames] == [QUEUE]
    assert "the server refuses it: too many samples" in asked.not_asked[0].reason.detail


async def test_a_question_the_server_cannot_parse_ends_alone_and_is_asked_once():
    odd = Question("odd", "sum(load_total{$matchers}", (), ("load_total",))
    with prometheus(fleet=fleet()) as stub:
        asked = await ask(stub, odd, QUEUE)
        assert len(asked_for(stub, "sum(load")) == 1
    assert [frame.question for frame in asked.frames] == [QUEUE]
    assert "parse error" in asked.not_asked[0].reason.detail


async def test_a_busy_server_is_left_alone_by_everybody_for_as_long_as_it_says():
    naps = Naps()
    with prometheus(fleet=fleet()) as stub:
        Refusing(stub, lambda: web.Response(status=429, headers={"Retry-After": "7"}), most=3)
        asked = await ask(stub, LOAD, since=14 * DAY, limits=AskLimits(cells=2_000), naps=naps)
    assert (asked.frames[0].values == asked.frames[0].times).all()
    assert naps.seconds
    assert set(naps.seconds) == {7.0}
    assert asked.waited_s == sum(naps.seconds)


async def test_a_server_that_stays_busy_ends_it_with_its_words():
    with prometheus(fleet=fleet()) as stub:
        Refusing(stub, lambda: web.Response(status=429, text="slow down"), most=10**6)
        with pytest.raises(Throttled, match="slow down"):
            await ask(stub, LOAD)
        assert len(asked_for(stub, "rate(")) <= 2 * CALL_LIMITS.failures


@pytest.mark.parametrize("most", [1, 3])
async def test_no_more_calls_run_at_once_than_allowed(most):
    with prometheus(fleet=fleet(), delay_s=0.02) as stub:
        limits = QueryLimits(bytes=64 << 20, series=1_000, at_once=most)
        await ask(stub, LOAD, since=14 * DAY, limits=AskLimits(cells=1_500), call_limits=limits)
    assert stub.most_running == most


async def test_access_that_ends_half_way_ends_everything():
    with prometheus(fleet=fleet()) as stub:
        Refusing(stub, web.Response(status=403, text="no"))
        with pytest.raises(Denied, match="may not read it: ask for the right to query; it says: no"):
            await ask(stub, LOAD, QUEUE)


async def test_a_server_that_goes_away_half_way_is_told():
    with prometheus(fleet=fleet()) as stub:
        async with MetricsServer(PrometheusServer(URL(stub.url)), sleep=Naps()) as session:
            await session.facts()
            stub.scripted = [web.Response(status=502) for _ in range(100)]
            with pytest.raises(Unavailable):
                await session.ask([LOAD], grid())


async def test_the_budget_is_kept_before_and_while_reading():
    with prometheus(fleet=fleet(pods=50)) as stub:
        with pytest.raises(OverBudget) as caught:
            await ask(stub, LOAD, limits=AskLimits(total_samples=100_000))
        assert not asked_for(stub, "rate(")
    told = str(caught.value)
    assert "samples would be read, the budget is 0 million" in told
    assert "raise the budget" in told
    assert "\n" not in told


async def test_samples_are_counted_by_the_server_or_estimated_and_said_apart():
    with prometheus(fleet=fleet(value=lambda _: 1.0)) as stub:
        counted = await ask(stub, LOAD)
        stub.stats = False
        estimated = await ask(stub, LOAD)
    assert counted.samples.estimated == estimated.samples.counted == 0
    # Four series, 288 steps, a window of five minutes, scraped every half minute.
    assert counted.samples.counted == counted.frames[0].samples == 4 * 288 * 10
    assert estimated.samples.estimated == counted.samples.counted
    assert estimated.frames[0].samples == 0


async def test_progress_is_told_to_the_end():
    told = []
    with prometheus(fleet=fleet()) as stub:
        await ask(stub, LOAD, QUEUE, since=7 * DAY, limits=AskLimits(cells=2_000), on_progress=told.append)
    assert len(told) > 5
    assert [one.done for one in told] == sorted(one.done for one in told)
    assert told[-1].done == told[-1].total
    assert {one.question for one in told} == {"load", "queue"}


async def test_copies_of_two_replicas_are_counted_once_and_fill_each_other_s_gaps():
    gap = (END - 7_200, END - 3_600)
    a = fleet(value=lambda time: None if gap[0] <= time < gap[1] else 2.0, prometheus_replica="p-0")
    b = fleet(value=lambda time: 2.0 if time > gap[0] - 3_600 else None, prometheus_replica="p-1")
    by_namespace = Question("sum", "sum by (namespace) (load_total{$matchers})", ("namespace",), ("load_total",))
    with prometheus(fleet=a | b) as stub:
        asked = await ask(stub, by_namespace, NODES)
    assert asked.copies.label == "prometheus_replica"
    assert asked.copies.values == ("p-0", "p-1")
    assert (asked.frames[0].values == 4.0).all()
    assert asked.frames[1].keys == (("n1",),)
    assert any("copies of replicas (prometheus_replica: p-0, p-1)" in note for note in asked.notes)


async def test_a_label_named_replica_that_is_no_copy_is_left_alone():
    found = dict(series("load_total", lambda _: 1.0, namespace="a", pod=f"p{n}", replica=str(n)) for n in range(3))
    with prometheus(fleet=found) as stub:
        asked = await ask(stub, Question("sum", "sum(load_total{$matchers})", (), ("load_total",)))
    assert asked.copies.values == ()
    assert (asked.frames[0].values == 3.0).all()


async def test_series_that_differ_in_other_labels_become_one_row_and_it_is_told():
    found = dict(series("load_total", lambda _, n=n: float(n), namespace="a", pod="p", le=str(n)) for n in range(3))
    with prometheus(fleet=found) as stub:
        asked = await ask(stub, Question("raw", "load_total{$matchers}", ("pod",), ("load_total",)))
    assert asked.frames[0].keys == (("p",),)
    assert (asked.frames[0].values == 2.0).all()
    assert any("had the labels of another one" in warning for warning in asked.frames[0].warnings)


async def test_absurd_values_are_not_measured():
    odd = iter([math.nan, math.inf, -math.inf])
    values = {}
    with prometheus(fleet=fleet(value=lambda time: values.setdefault(time, next(odd, 1.0)))) as stub:
        asked = await ask(stub, LOAD)
    found = asked.frames[0].values
    assert np.isnan(found).any()
    assert set(found[np.isfinite(found)].tolist()) == {1.0}


async def test_warnings_of_the_server_come_with_the_frame():
    with prometheus(fleet=fleet(), warnings=["store 10.0.0.1 did not answer"]) as stub:
        asked = await ask(stub, LOAD, QUEUE)
    assert all("store 10.0.0.1 did not answer" in frame.warnings for frame in asked.frames)


async def test_a_clock_that_is_off_is_told():
    with prometheus(fleet=fleet(), clock_ahead_s=-600.0) as stub:
        asked = await ask(stub, LOAD)
    assert asked.server.clock_ahead_s == pytest.approx(-600.0, abs=5.0)
    assert any("s behind this machine's: times are the server's" in note for note in asked.notes)


async def test_labels_are_looked_up_in_the_index():
    with prometheus(fleet=fleet(exported_pod="x")) as stub:
        async with MetricsServer(PrometheusServer(URL(stub.url))) as session:
            names = await session.labels(["load_total", "absent"], grid())
            assert names == {"__name__", "namespace", "pod", "exported_pod"}
            assert await session.labels(["load_total"], grid(), matchers=[parse_matcher("pod=none")]) == set()
            stub.names = False
            assert await session.labels(["load_total"], grid()) is None
        assert not asked_for(stub, "load_total")


async def test_nothing_to_ask_is_nothing():
    with prometheus(fleet=fleet()) as stub:
        asked = await ask(stub)
    assert asked.frames == asked.not_asked == ()


async def test_errors_are_one_line():
    with prometheus(fleet=fleet(), token="x" * 20) as stub, pytest.raises(ClusterError) as caught:
        await ask(stub, LOAD)
    assert "\n" not in str(caught.value)
