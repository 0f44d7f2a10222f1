"""Range queries over real sockets, from a server that has limits, refuses and misbehaves."""

import asyncio
import gzip
import math
import socket

import numpy as np
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from yarl import URL

from optiinfra.cluster.errors import (
    ClusterError,
    Denied,
    Invalid,
    Malformed,
    Throttled,
    Unavailable,
    Unconfigured,
)
from optiinfra.cluster.prometheus import Prometheus, PrometheusServer
from optiinfra.cluster.prometheus_answer import Piece, matrix
from optiinfra.cluster.prometheus_range import QueryLimits, RangeQuery
from tests.unit.prometheus_stub import TOO_MANY_SAMPLES, prometheus, refusal

START = 1_700_000_000.0
ONE = {"load": {(): lambda time: (time - START) / 15.0}}
TOKEN = "sesame-open-1234567"


class Naps:
    """Notes how long would have been slept."""

    def __init__(self):
        self.seconds = []

    async def __call__(self, seconds):
        self.seconds.append(seconds)


async def ask(stub, *, query="load", points=5, step=15.0, naps=None, limits=None, on_points=None, **server):
    where = PrometheusServer(URL(server.pop("url", None) or stub.url), **server)
    asked = RangeQuery(query, START, START + (points - 1) * step, step)
    async with Prometheus(where, limits=limits or QueryLimits(), sleep=naps or Naps()) as client:
        return await client.query_range(asked, on_points=on_points)


async def fails(kind, stub, **how):
    with pytest.raises(ClusterError) as caught:
        await ask(stub, **how)
    assert type(caught.value) is kind or (kind is Unavailable and isinstance(caught.value, Unavailable)), caught.value
    assert "\n" not in str(caught.value)
    return str(caught.value)


async def test_a_range_is_read_with_its_labels():
    labels = (("model", "m"), ("zone", "a"))
    with prometheus(queries={"load": {labels: lambda time: time}}) as stub:
        answer = await ask(stub)
    assert [one.labels for one in answer.series] == [labels]
    assert answer.series[0].times.tolist() == [START + 15.0 * n for n in range(5)]
    assert answer.series[0].values.tolist() == answer.series[0].times.tolist()
    assert answer.calls == 1
    assert answer.warnings == ()


async def test_a_long_range_is_asked_in_pieces_that_the_server_answers():
    told = []
    with prometheus(queries=ONE) as stub:
        answer = await ask(stub, points=40_321, on_points=told.append)
    assert answer.series[0].values.tolist() == [float(n) for n in range(40_321)]
    assert answer.calls == 4
    assert sum(told) == 40_321
    assert stub.most_running == 1


async def test_what_is_too_much_for_the_server_is_asked_in_smaller_pieces_without_waiting():
    naps = Naps()
    with prometheus(queries=ONE, most_samples=1500) as stub:
        answer = await ask(stub, points=8000, naps=naps)
    assert answer.series[0].values.tolist() == [float(n) for n in range(8000)]
    assert naps.seconds == []
    # 8000, 4000, 2000 are refused once, then eight pieces of 1000 come.
    assert answer.calls == 11


async def test_after_a_busy_moment_pieces_grow_again():
    with prometheus(queries=ONE) as stub:
        stub.scripted = [web.Response(status=503) for _ in range(5)]
        answer = await ask(stub, points=40_000)
    assert len(answer.series[0].values) == 40_000
    sizes = [round((float(one["end"]) - float(one["start"])) / 15.0) + 1 for one in stub.asked[5:]]
    assert sizes[0] == 11_000 // 32
    assert max(sizes) > 2_000
    assert answer.calls < 40


async def test_a_server_that_answers_fewer_points_than_prometheus_is_followed():
    with prometheus(queries=ONE, most_points=5_000) as stub:
        answer = await ask(stub, points=11_000)
    assert len(answer.series[0].values) == 11_000


async def test_a_range_that_stays_too_much_is_told_in_the_server_s_words():
    with prometheus(queries=ONE, most_samples=10) as stub:
        told = await fails(Invalid, stub, points=8000)
        assert TOO_MANY_SAMPLES in told
        assert len(stub.asked) <= 9


async def test_a_busy_server_is_asked_again_after_the_time_it_names():
    naps = Naps()
    busy = [
        web.Response(status=429, text="too many requests", headers={"Retry-After": "7"}),
        refusal(503, "timeout", "query timed out in expression evaluation"),
        web.Response(status=502, text="<html>bad gateway</html>"),
        web.Response(status=429, headers={"Retry-After": "86400"}),
    ]
    with prometheus(queries=ONE, scripted=busy) as stub:
        answer = await ask(stub, points=1000, naps=naps)
    assert len(answer.series[0].values) == 1000
    assert naps.seconds == [7.0, 1.0, 2.0, 30.0]


async def test_a_server_that_stays_busy_is_given_up():
    naps = Naps()
    with prometheus(queries=ONE) as stub:
        stub.scripted = [web.Response(status=429, text="slow down") for _ in range(50)]
        told = await fails(Throttled, stub, naps=naps)
        assert "slow down (HTTP 429)" in told
        assert len(stub.asked) == 8
    assert max(naps.seconds) <= 30.0


async def test_a_call_that_takes_too_long_is_asked_smaller():
    with prometheus(queries=ONE, delay_s=5.0, delay_over=300) as stub:
        answer = await ask(stub, points=1000, limits=QueryLimits(timeout_s=1.0))
    assert len(answer.series[0].values) == 1000


async def test_a_call_that_never_ends_is_told():
    with prometheus(queries=ONE, delay_s=5.0) as stub:
        told = await fails(Unavailable, stub, limits=QueryLimits(timeout_s=0.2))
    assert "no answer within 0.2 s" in told


async def test_nobody_at_the_address_is_told_soon():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    naps = Naps()
    told = await fails(Unavailable, None, url=f"http://127.0.0.1:{port}", naps=naps)
    assert f"http://127.0.0.1:{port}" in told
    assert len(naps.seconds) == 2


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (refusal(400, "bad_data", "1:5: parse error: unexpected end"), Invalid, "parse error: unexpected end"),
        (refusal(422, "execution", "many-to-many matching not allowed"), Invalid, "many-to-many"),
        (web.Response(status=401, text="who are you"), Denied, "it says: who are you (HTTP 401)"),
        (web.Response(status=403, text="no"), Denied, "it says: no (HTTP 403)"),
        (web.Response(status=404, text="404 page not found"), Invalid, "is a path missing in the address?"),
        (web.Response(status=302, headers={"Location": "/login"}), Invalid, "redirects are not followed"),
        (web.Response(text="<html>Grafana</html>"), Malformed, "not JSON: is it a Prometheus-compatible server?"),
        (web.Response(text="[1, 2]"), Malformed, "the answer is no object"),
        (web.json_response({"status": "success", "data": {"resultType": "vector", "result": []}}), Malformed, "matrix"),
        (web.json_response({"status": "error", "error": "odd"}), Malformed, "odd"),
        (web.Response(text="{}", headers={"Content-Encoding": "br"}), Malformed, "content encoding 'br'"),
    ],
)
async def test_what_does_not_help_to_ask_again_is_asked_once(answer, kind, said):
    with prometheus(queries=ONE, scripted=[answer]) as stub:
        told = await fails(kind, stub)
        assert said in told
        assert stub.url in told
        assert len(stub.asked) == 1


async def test_an_answer_without_end_is_cut():
    huge = web.Response(body=b"x" * (3 << 20))
    with prometheus(queries=ONE, scripted=[huge, huge]) as stub:
        told = await fails(Invalid, stub, limits=QueryLimits(bytes=1 << 20))
    assert "more than 1 MiB" in told


async def test_what_comes_slowly_is_asked_for_packed_from_then_on():
    """Two MiB in more than a second; a near server is never asked to pack."""
    text = '{"status":"success","data":{"resultType":"matrix","result":[]},"pad":"' + "x" * (2 << 20) + '"}'
    asked = []

    async def slowly(request):
        asked.append(request.headers["Accept-Encoding"])
        body, response = text.encode(), web.StreamResponse()
        if asked[-1] == "gzip":
            body = gzip.compress(body)
            response.headers["Content-Encoding"] = "gzip"
        await response.prepare(request)
        for at in range(0, len(body), 1 << 19):
            await response.write(body[at : at + (1 << 19)])
            await asyncio.sleep(0.3)
        return response

    app = web.Application()
    app.router.add_get("/api/v1/query_range", slowly)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server = PrometheusServer(URL(f"http://127.0.0.1:{runner.addresses[0][1]}"))
        query = RangeQuery("load", START, START + 60, 15.0)
        async with Prometheus(server) as client:
            for _ in range(3):
                assert (await client.query_range(query)).series == ()
        async with Prometheus(server, limits=QueryLimits(bytes=1 << 20)) as client:
            client._http._packed = True
            with pytest.raises(Invalid, match="more than 1 MiB"):
                await client.query_range(query)
    finally:
        await runner.cleanup()
    assert asked[:3] == ["identity", "gzip", "gzip"]


async def test_a_packed_answer_that_is_none_or_ends_early_is_refused():
    whole = gzip.compress(b'{"status":"success","data":{"resultType":"matrix","result":[]}}' * 50)
    for body, kind in ((b"not packed", Malformed), (whole[:-20], Unavailable)):
        answers = [web.Response(body=body, headers={"Content-Encoding": "gzip"}) for _ in range(9)]
        with prometheus(queries=ONE, scripted=answers) as stub:
            async with Prometheus(PrometheusServer(URL(stub.url)), sleep=Naps()) as client:
                client._http._packed = True
                with pytest.raises(kind):
                    await client.query_range(RangeQuery("load", START, START + 60, 15.0))


async def test_too_many_series_are_refused():
    many = {"load": {(("pod", str(n)),): lambda time: 1.0 for n in range(30)}}
    with prometheus(queries=many) as stub:
        told = await fails(Invalid, stub, limits=QueryLimits(series=20))
    assert "30 series came back; aggregate the query" in told


async def test_what_the_server_warns_of_is_passed_on_once():
    with prometheus(queries=ONE, warnings=["store  10.0.0.1\ndid not answer"]) as stub:
        answer = await ask(stub, points=300, limits=QueryLimits(points=100))
    assert answer.warnings == ("store 10.0.0.1 did not answer",)
    assert answer.calls == 3


async def test_what_is_no_number_and_what_is_missing_is_left_out():
    odd = {0: 1.0, 1: math.nan, 2: None, 3: math.inf, 4: 5.0}
    with prometheus(queries={"load": {(): lambda time: odd[round((time - START) / 15.0)]}}) as stub:
        series = (await ask(stub)).series[0]
    assert series.values.tolist() == [1.0, 5.0]
    assert series.not_numbers == 2
    grid = series.on_grid(start=START, step=15.0, points=6)
    assert np.isnan(grid).tolist() == [False, True, True, True, False, True]


async def test_series_that_come_and_go_are_joined_by_their_labels():
    a, b = (("pod", "a"),), (("pod", "b"),)
    middle = START + 150 * 15.0
    queries = {
        "load": {a: lambda time: 1.0 if time < middle else None, b: lambda time: 2.0 if time >= middle else None}
    }
    with prometheus(queries=queries) as stub:
        answer = await ask(stub, points=300, limits=QueryLimits(points=100))
    assert {one.labels: len(one.values) for one in answer.series} == {a: 150, b: 150}


async def test_headers_and_the_token_are_sent_and_the_token_is_read_anew(tmp_path):
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    with prometheus(queries=ONE, token=TOKEN) as stub:
        where = PrometheusServer(URL(stub.url), (("X-Scope-OrgID", "a"),), file)
        asked = RangeQuery("load", START, START + 60, 15.0)
        async with Prometheus(where, sleep=Naps()) as client:
            await client.query_range(asked)
            stub.token = "another-one-7654321"
            file.write_text(stub.token)
            await client.query_range(asked)
    assert [one["X-Scope-OrgID"] for one in stub.headers] == ["a", "a"]
    assert stub.headers[1]["Authorization"] == "Bearer another-one-7654321"


async def test_no_secret_stands_in_an_error(tmp_path):
    file = tmp_path / "token"
    file.write_text(TOKEN)
    echo = refusal(400, "bad_data", f"no tenant for Bearer {TOKEN} and key-of-the-tenant")
    with prometheus(queries=ONE, scripted=[echo]) as stub:
        told = await fails(Invalid, stub, token_file=file, headers=(("X-Key", "key-of-the-tenant"),))
        assert TOKEN not in told
        assert "key-of-the-tenant" not in told
        assert "no tenant for Bearer *** and ***" in told
        url = stub.url.replace("http://", "http://me:pass-word-99@")
        stub.scripted = [web.Response(status=401, text="no pass-word-99")]
        told = await fails(Denied, stub, url=url)
    assert "pass-word-99" not in told
    assert "me:" not in told


async def test_a_redirect_does_not_get_the_token(tmp_path):
    file = tmp_path / "token"
    file.write_text(TOKEN)
    with prometheus(queries=ONE) as other, prometheus(queries=ONE) as stub:
        stub.scripted = [web.Response(status=307, headers={"Location": f"{other.url}/api/v1/query_range"})]
        await fails(Invalid, stub, token_file=file)
        assert other.asked == []


@pytest.mark.parametrize(
    ("server", "said"),
    [
        ({"url": "prometheus:9090"}, "not an address"),
        ({"url": "ftp://prometheus"}, "not an address"),
        ({"token_file": "absent"}, "is not readable"),
        ({"token_file": "two"}, "does not hold one token"),
        ({"token_file": "good", "headers": (("Authorization", "Basic eA=="),)}, "give one of them"),
        ({"token_file": "good", "url": "http://me:secret@127.0.0.1"}, "give one of them"),
        ({"headers": (("X Y", "z"),)}, "write 'Name: value'"),
        ({"headers": (("X", "a\r\nY: b"),)}, "write 'Name: value'"),
        ({"url": "https://127.0.0.1", "authority_file": "two"}, "CA file"),
    ],
)
async def test_what_cannot_work_is_told_before_anything_is_asked(tmp_path, server, said):
    (tmp_path / "two").write_text("one and-two")
    (tmp_path / "good").write_text(TOKEN)
    given = {name: tmp_path / value if name.endswith("_file") else value for name, value in server.items()}
    with prometheus(queries=ONE) as stub:
        told = await fails(Unconfigured, stub, **given)
        assert said in told
        assert "secret" not in told
        assert stub.asked == []


async def test_a_long_query_goes_into_the_body():
    long = "sum(" + "a" * 3000 + ")"
    with prometheus(queries={long: {(): lambda time: 1.0}, "load": ONE["load"]}) as stub:
        assert len((await ask(stub, query=long)).series) == 1
        await ask(stub)
    assert stub.methods == ["POST", "GET"]


async def test_a_path_in_the_address_is_kept():
    with prometheus(queries=ONE) as stub:
        told = await fails(Invalid, stub, url=f"{stub.url}/prometheus/")
    assert "/prometheus: it has no /api/v1/query_range" in told


@pytest.mark.parametrize(
    ("query", "end", "step"), [(" ", 60.0, 15.0), ("x" * 9000, 60.0, 15.0), ("x", 0.0, 15.0), ("x", 60.0, 0.1)]
)
def test_a_query_that_cannot_be_is_refused(query, end, step):
    with pytest.raises(Invalid):
        RangeQuery(query, START, START + end, step)


async def test_more_points_than_are_worth_asking_for_are_refused():
    with prometheus(queries=ONE) as stub:
        assert "use a longer step" in await fails(Invalid, stub, points=2_000_000)


PIECE = Piece(START, 15.0, 4)


@settings(deadline=None, max_examples=200)
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.floats()
        | st.text(max_size=5)
        | st.sampled_from(["success", "matrix", "1", START]),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(["status", "data", "result", "resultType", "metric", "values", "warnings", "a"]), inner
            )
        ),
        max_leaves=12,
    )
)
def test_no_answer_surprises(document):
    import json

    for body in (document, {"status": "success", "data": {"resultType": "matrix", "result": [document]}}):
        try:
            found = matrix(json.dumps(body).encode(), PIECE, most_series=5)
        except (Malformed, Invalid):
            continue
        for one in found.series:
            assert np.isfinite(one.values).all()
            assert (one.times >= START - 7.5).all()
            assert (one.times <= PIECE.end + 7.5).all()


@pytest.mark.parametrize(
    "values",
    [
        [[START, "1"], [START, "2"]],
        [[START + 15, "1"], [START, "2"]],
        [[START + 600, "1"]],
        [[START - 600, "1"]],
        [[START + n, "1"] for n in range(9)],
        [[START, "one"]],
        [[START]],
    ],
)
def test_points_that_cannot_be_are_refused(values):
    import json

    body = {"status": "success", "data": {"resultType": "matrix", "result": [{"metric": {}, "values": values}]}}
    with pytest.raises(Malformed):
        matrix(json.dumps(body).encode(), PIECE, most_series=5)


def test_native_histograms_are_named():
    import json

    series = {"metric": {}, "histograms": [[START, {"count": "1"}]]}
    body = {"status": "success", "data": {"resultType": "matrix", "result": [series]}}
    with pytest.raises(Invalid, match="native histograms"):
        matrix(json.dumps(body).encode(), PIECE, most_series=5)
