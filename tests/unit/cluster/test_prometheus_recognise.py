"""What answers at an address: the servers, where they keep their API, and everything that is none of them."""

import datetime as dt
import socket
import time

import pytest
from aiohttp import web
from yarl import URL

from optiinfra.cluster.errors import ClusterError, Denied, Invalid, Unavailable, Unconfigured
from optiinfra.cluster.prometheus_ask import MetricsServer, PrometheusServer, ServerFacts, ServerKind, TimeGrid
from optiinfra.cluster.prometheus_links import query_link
from tests.unit.prometheus_stub import prometheus
from tests.unit.promql_stub import series

END = 1_700_006_400.0
FLEET = dict([series("up")])


async def facts(url, **how):
    async with MetricsServer(PrometheusServer(URL(url), **how)) as session:
        return await session.facts()


async def fails(kind, url, **how):
    with pytest.raises(ClusterError) as caught:
        await facts(url, **how)
    assert isinstance(caught.value, kind), caught.value
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("build", "beside", "kind", "version"),
    [
        ({"version": "3.5.0"}, {}, ServerKind.PROMETHEUS, "3.5.0"),
        ({"application": "Grafana Mimir", "version": "2.17.0"}, {}, ServerKind.MIMIR, "2.17.0"),
        ({"version": "2.24.0"}, {"isPartial": False}, ServerKind.VICTORIA_METRICS, ""),
        ({"version": "2.24.0"}, {"stats": {"seriesFetched": "1"}}, ServerKind.VICTORIA_METRICS, ""),
        ({}, {}, ServerKind.COMPATIBLE, ""),
    ],
)
async def test_servers_are_told_by_what_only_they_say(build, beside, kind, version):
    with prometheus(build=build, beside=beside) as stub:
        found = await facts(stub.url)
    assert (found.kind, found.version) == (kind, version)
    assert abs(found.clock_ahead_s) < 5.0


@pytest.mark.parametrize(
    ("under", "given", "tenant"),
    [
        ("", "", ""),
        ("", "/", ""),
        ("", "/graph?g0.expr=up", ""),
        ("", "/api/v1/query?query=up", ""),
        ("", "/vmui/#/?g0.expr=up", ""),
        ("/prometheus", "", ""),
        ("/prometheus", "/prometheus/", ""),
        ("/prometheus", "/prometheus/graph", ""),
        ("/select/0/prometheus", "", ""),
        ("/select/42:7/prometheus", "", "42:7"),
        ("/api/prom", "", ""),
        ("/tools/metrics-server", "/tools/metrics-server/", ""),
    ],
)
async def test_the_api_is_found_below_what_people_give(under, given, tenant):
    with prometheus(under=under, fleet=FLEET) as stub:
        found = await facts(stub.url + given, tenant=tenant)
    assert found.base.path.rstrip("/") == under


async def test_where_the_api_was_found_is_told_and_asked():
    with prometheus(under="/prometheus", fleet=FLEET) as stub:
        async with MetricsServer(PrometheusServer(URL(stub.url))) as session:
            asked = await session.ask([], TimeGrid.ending(END, since=600, step=60))
    assert asked.notes == (f"its API was found at {stub.url}/prometheus",)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("<!DOCTYPE html><html><title>Grafana</title>", "this is Grafana, not the metrics server"),
        ("<html><form action='/login'>Sign in</form></html>", "it answers with a login page"),
        ("<html>It works!</html>", "it answers with a web page"),
        ("# HELP up ...\nup 1\n", "not JSON: is it a Prometheus-compatible server?"),
        ('{"message": "hello"}', "it answers JSON of another kind"),
    ],
)
async def test_what_is_no_metrics_server_is_told(answer, said):
    with prometheus() as stub:
        stub.scripted = [web.Response(text=answer)] + [web.Response(status=404) for _ in range(9)]
        assert said in await fails(Invalid, stub.url)


async def test_an_address_without_anything_of_the_kind_is_told():
    with prometheus(under="/elsewhere") as stub:
        told = await fails(Invalid, stub.url)
    assert "it has no /api/v1/query: is a path missing in the address?" in told


async def test_a_redirect_is_told_and_not_followed():
    with prometheus() as stub:
        stub.scripted = [web.Response(status=302, headers={"Location": "/login?state=sesame"}) for _ in range(9)]
        told = await fails(Invalid, stub.url)
    assert "redirects are not followed" in told
    assert "it redirects to /login," in told
    assert "sesame" not in told


@pytest.mark.parametrize(
    ("status", "words", "given", "said"),
    [
        (401, "Unauthorized", "", "it wants a token or a user with a password; it says: Unauthorized"),
        (401, "expired", "token", "the token of {file} is not accepted: is it expired?; it says: expired"),
        (401, "no", "password", "the password of {file} is not accepted"),
        (403, "Forbidden", "token", "the token of {file} may not read it: ask for the right to query"),
        (401, "no org id", "", "it wants to know the tenant"),
    ],
)
async def test_who_is_not_let_in_is_told_what_to_give(tmp_path, status, words, given, said):
    file = tmp_path / "secret"
    file.write_text("sesame-open")
    how = {"": {}, "token": {"token_file": file}, "password": {"user": "me", "password_file": file}}[given]
    with prometheus() as stub:
        stub.scripted = [web.Response(status=status, text=words)]
        told = await fails(Denied, stub.url, **how)
        assert len(stub.asked) == 1
    assert said.format(file=file) in told
    assert "sesame" not in told


async def test_nobody_and_no_name_are_told():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        told = await fails(Unavailable, f"http://127.0.0.1:{free.getsockname()[1]}")
    assert "nobody listens there (connection refused)" in told
    told = await fails(Unavailable, "http://prometheus.monitoring.svc.invalid:9090")
    assert "its name is not known here" in told or "Cannot connect" in told


async def test_a_server_without_tls_and_one_with_it_are_told_apart():
    with prometheus() as stub:
        told = await fails(Unconfigured, stub.url.replace("http://", "https://"))
    assert "it does not speak TLS: write the address with http://" in told
    with prometheus() as stub:
        stub.scripted = [web.Response(status=400, text="Client sent an HTTP request to an HTTPS server.\n")]
        assert "write the address with https://" in await fails(Unconfigured, stub.url)


@pytest.mark.parametrize(
    "date",
    [
        None,
        lambda now: "",
        lambda now: "yesterday",
        lambda now: f"{dt.datetime.fromtimestamp(now, dt.timezone(dt.timedelta(hours=9))):%a, %d %b %Y %H:%M:%S} +0900",
        lambda now: f"{dt.datetime.fromtimestamp(now, dt.UTC):%a, %d %b %Y %H:%M:%S}",
    ],
)
@pytest.mark.parametrize("ahead", [-7_200.0, 0.0, 90.0])
async def test_the_clock_is_compared_in_whatever_zone_it_is_told(date, ahead, monkeypatch):
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        with prometheus(fleet=FLEET, clock_ahead_s=ahead, date=date) as stub:
            found = await facts(stub.url)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert found.clock_ahead_s == pytest.approx(ahead, abs=10.0)
    assert bool(found.clock_note) is (ahead != 0.0)


GRID = TimeGrid.ending(END, since=14 * 86_400.0, step=300)
QUERY = 'sum(rate(x{a="b&c"}[5m]))'


@pytest.mark.parametrize(
    ("kind", "base", "expected"),
    [
        (
            ServerKind.PROMETHEUS,
            "http://me:secret@p:9090/",
            (
                "http://p:9090/graph?g0.expr=sum%28rate%28x%7Ba%3D%22b%26c%22%7D%5B5m%5D%29%29&g0.tab=0"
                "&g0.range_input=336h&g0.end_input=2023-11-15%2000%3A00%3A00&g0.step_input=300"
            ),
        ),
        (
            ServerKind.VICTORIA_METRICS,
            "http://v:8481/select/0/prometheus",
            (
                "http://v:8481/select/0/vmui/?#/?g0.expr=sum%28rate%28x%7Ba%3D%22b%26c%22%7D%5B5m%5D%29%29"
                "&g0.range_input=336h&g0.end_input=2023-11-15T00%3A00%3A00&g0.step_input=300s"
            ),
        ),
        (ServerKind.MIMIR, "http://m/prometheus", ""),
        (ServerKind.COMPATIBLE, "http://m", ""),
    ],
)
def test_a_query_is_shown_in_the_server_s_own_page(kind, base, expected):
    assert query_link(ServerFacts(kind, "", URL(base), None), QUERY, GRID) == expected


def test_people_may_reach_the_page_elsewhere():
    found = ServerFacts(ServerKind.PROMETHEUS, "3.5.0", URL("http://127.0.0.1:9090"), None)
    link = query_link(found, "up", GRID, page=URL("https://prometheus.example.org/"))
    assert link.startswith("https://prometheus.example.org/graph?g0.expr=up&")


def test_a_link_that_no_browser_takes_is_left_out():
    found = ServerFacts(ServerKind.PROMETHEUS, "3.5.0", URL("http://p"), None)
    assert query_link(found, "x" * 9_000, GRID) == ""
