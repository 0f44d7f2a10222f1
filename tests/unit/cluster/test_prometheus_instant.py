"""Queries at one moment: a batch, one answer each, and what fails leaves the others alone."""

import math
import socket

import pytest
from aiohttp import web
from yarl import URL

from optiinfra.cluster.errors import Invalid, Malformed
from optiinfra.cluster.prometheus import Prometheus, PrometheusServer
from optiinfra.cluster.prometheus_range import QueryLimits
from optiinfra.cluster.prometheus_vector import Vector, vector
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.units import UnixTime
from tests.unit.prometheus_stub import prometheus, refusal

AT = UnixTime(1_700_000_000.0)
A, B = (("namespace", "n"), ("pod", "a")), (("namespace", "n"), ("pod", "b"))
QUERIES = {"load": {A: lambda _: 1.0, B: lambda _: 2.0}, "queue": {A: lambda _: math.nan}}


class Naps:
    def __init__(self):
        self.seconds = []

    async def __call__(self, seconds):
        self.seconds.append(seconds)


async def instant(stub, *queries, limits=None, naps=None, url=None):
    server = PrometheusServer(URL(url or stub.url))
    async with Prometheus(server, limits=limits or QueryLimits(), sleep=naps or Naps()) as client:
        return await client.instant(queries, at=AT)


async def test_each_query_has_its_answer_in_their_order():
    with prometheus(queries=QUERIES) as stub:
        queue, load = await instant(stub, "queue", "load")
    assert isinstance(load, Vector)
    assert list(load.rows("pod", "absent")) == [(("a", ""), 1.0), (("b", ""), 2.0)]
    assert load.at == AT
    assert isinstance(queue, Vector)
    assert queue.values.tolist() == []
    assert queue.not_numbers == 1


async def test_what_is_no_query_is_unknown_and_leaves_the_others_alone():
    with prometheus(queries=QUERIES) as stub:
        odd, load = await instant(stub, "sum(", "load")
    assert isinstance(odd, Unknown)
    assert odd.reason is UnknownReason.INVALID
    assert "parse error" in odd.detail
    assert isinstance(load, Vector)


async def test_no_more_calls_than_allowed_run_at_the_same_moment():
    with prometheus(queries=QUERIES, delay_s=0.05) as stub:
        await instant(stub, *(["load"] * 8), limits=QueryLimits(at_once=2))
    assert stub.most_running == 2


async def test_the_age_of_samples_is_bounded_in_the_words_of_each_server():
    with prometheus(queries=QUERIES) as stub:
        async with Prometheus(PrometheusServer(URL(stub.url))) as client:
            await client.instant(["load"], at=AT, lookback=90.0)
    assert stub.asked[0]["lookback_delta"] == stub.asked[0]["max_lookback"] == "90s"
    assert float(stub.asked[0]["time"]) == AT


async def test_a_busy_server_is_asked_again_and_then_given_up():
    naps = Naps()
    with prometheus(queries=QUERIES, scripted=[web.Response(status=429, headers={"Retry-After": "3"})]) as stub:
        (load,) = await instant(stub, "load", naps=naps)
        assert isinstance(load, Vector)
        assert naps.seconds == [3.0]
        stub.scripted = [web.Response(status=503) for _ in range(5)]
        (load,) = await instant(stub, "load", limits=QueryLimits(failures=2))
    assert isinstance(load, Unknown)
    assert load.reason is UnknownReason.UNREACHABLE


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (web.Response(status=401, text="who"), UnknownReason.REFUSED),
        (web.Response(text="<html>"), UnknownReason.INVALID),
        (refusal(422, "execution", "many-to-many matching"), UnknownReason.INVALID),
        (
            web.json_response({"status": "success", "data": {"resultType": "matrix", "result": []}}),
            UnknownReason.INVALID,
        ),
    ],
)
async def test_why_there_is_no_answer_is_told(answer, reason):
    with prometheus(queries=QUERIES, scripted=[answer]) as stub:
        (load,) = await instant(stub, "load")
        assert isinstance(load, Unknown)
        assert load.reason is reason
        assert stub.url in load.detail


async def test_nobody_at_the_address_is_unreachable():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (load,) = await instant(None, "load", url=f"http://127.0.0.1:{port}")
    assert isinstance(load, Unknown)
    assert load.reason is UnknownReason.UNREACHABLE


def test_a_scalar_is_one_row_without_labels():
    body = b'{"status":"success","data":{"resultType":"scalar","result":[1700000000.5,"7"]}}'
    read = vector(body, at=AT, most_series=5)
    assert (read.at, list(read.rows())) == (1_700_000_000.5, [((), 7.0)])


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"metric": {}}, Malformed),
        ({"metric": {}, "value": [AT, "x"]}, Malformed),
        ({"metric": {}, "value": [None, "1"]}, Malformed),
        ({"metric": {}, "histogram": [AT, {"count": "1"}]}, Invalid),
        (7, Malformed),
    ],
)
def test_rows_that_cannot_be_are_refused(row, kind):
    import json

    body = json.dumps({"status": "success", "data": {"resultType": "vector", "result": [row]}}).encode()
    with pytest.raises(kind):
        vector(body, at=AT, most_series=5)


def test_a_part_of_the_storage_that_did_not_answer_is_a_warning():
    body = b'{"status":"success","isPartial":true,"data":{"resultType":"vector","result":[]}}'
    assert "partial" in vector(body, at=AT, most_series=5).warnings[0]
