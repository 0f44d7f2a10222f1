"""The client and the queries for a service against Prometheus itself, the one on PATH or else Debian's.

The stub in `tests/unit/prometheus_stub.py` speaks for it in all other tests. What it claims is what is asked here.
Only a machine of a kind that no package is pinned for, without a Prometheus of its own, goes without.
"""

import http.server
import shutil
import socket
import subprocess
import threading
import time
import urllib.request

import pytest
from yarl import URL

from hack.binaries.catalogue import architecture
from hack.binaries.debian import PACKAGES, ensure_packaged
from optiinfra.cluster.errors import Invalid
from optiinfra.cluster.prometheus import Prometheus, PrometheusServer
from optiinfra.cluster.prometheus_ask import AskLimits, MetricsServer, ServerKind, TimeGrid, parse_matcher
from optiinfra.cluster.prometheus_range import QueryLimits, RangeQuery
from optiinfra.cluster.prometheus_vector import Vector
from optiinfra.domain.readings import UnknownReason
from optiinfra.domain.report.frames import Question
from optiinfra.engines.promql import service_queries
from tests.unit.prometheus_stub import TOO_MANY_POINTS, TOO_MANY_SAMPLES

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None and architecture() not in PACKAGES["prometheus"].sha256,
    reason=f"prometheus is not on the PATH, and no package is pinned for {architecture()}",
)

STEP = 15
POINTS = 480
PODS = ("chat-0", "chat-1")
CONFIGURATION = """
global: {scrape_interval: 2s, scrape_timeout: 2s}
storage: {tsdb: {out_of_order_time_window: 2d}}
scrape_configs:
  - job_name: engines
    honor_labels: true
    static_configs: [{targets: ["127.0.0.1:%d"]}]
"""


def page(end):
    """Two vLLM pods, 100 prompt and 50 generated tokens a second each, with a gap of ten minutes; one of SGLang."""
    times = [end - STEP * back for back in range(POINTS - 1, -1, -1)]
    times = [time for n, time in enumerate(times) if not 200 <= n < 240]
    kinds = {
        "vllm:prompt_tokens": ("counter", "_total", lambda time: (time - times[0]) * 100.0),
        "vllm:generation_tokens": ("counter", "_total", lambda time: (time - times[0]) * 50.0),
        "vllm:num_requests_running": ("gauge", "", lambda _: 8.0),
        "vllm:num_requests_waiting": ("gauge", "", lambda _: 3.0),
    }
    lines = []
    for name, (kind, suffix, value) in kinds.items():
        lines.append(f"# TYPE {name} {kind}")
        for pod in (*PODS, "chat-large-0"):
            labels = f'namespace="inference",pod="{pod}",model_name="m",engine="0"'
            lines += [f"{name}{suffix}{{{labels}}} {value(time)} {time}" for time in times]
    lines.append("# TYPE sglang:realtime_tokens counter")
    for rank in "01":
        labels = f'namespace="inference",pod="code-0",mode="decode",tp_rank="{rank}"'
        lines += [f"sglang:realtime_tokens_total{{{labels}}} {(time - times[0]) * 10.0} {time}" for time in times]
    lines.append("# TYPE sglang:prompt_tokens counter")
    labels = 'namespace="inference",pod="code-0"'
    lines += [f"sglang:prompt_tokens_total{{{labels}}} {(time - times[0]) * 30.0} {time}" for time in times]
    return "\n".join([*lines, "# EOF", ""]).encode()


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(name="server", scope="module")
def the_server(tmp_path_factory):
    """A Prometheus that has scraped the page: (address, time of its last sample)."""
    folder = tmp_path_factory.mktemp("prometheus")
    end = int(time.time()) // STEP * STEP - 60
    # Whoever comes again gets an empty page: the past is told once.
    bodies = [page(end)]

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = bodies.pop() if bodies else b"# EOF\n"
            self.send_response(200)
            self.send_header("Content-Type", "application/openmetrics-text; version=1.0.0; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    pages = http.server.HTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=pages.serve_forever, daemon=True).start()
    (folder / "prometheus.yml").write_text(CONFIGURATION % pages.server_port)
    port = free_port()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [
                str(ensure_packaged("prometheus")),
                f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address=127.0.0.1:{port}",
                "--query.max-samples=15000",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        query = f"http://127.0.0.1:{port}/api/v1/query?query=count(vllm:prompt_tokens_total)&time={end}"
        for _ in range(600):
            assert process.poll() is None, (folder / "log").read_text()[-2000:]
            try:
                with urllib.request.urlopen(query, timeout=5) as answer:
                    if b'"3"' in answer.read():
                        break
            except OSError:
                pass  # it does not listen yet
            time.sleep(0.2)
        else:
            raise AssertionError((folder / "log").read_text()[-2000:])
        yield f"http://127.0.0.1:{port}", end
    finally:
        process.terminate()
        process.wait()
        pages.shutdown()
        pages.server_close()


async def ask(server, query, *, points=POINTS, step=STEP, limits=None):
    address, end = server
    asked = RangeQuery(query, end - (points - 1) * step, end, step)
    async with Prometheus(PrometheusServer(URL(address)), limits=limits or QueryLimits()) as client:
        answer = await client.query_range(asked)
    return answer, [one.on_grid(start=asked.start, step=asked.step, points=points) for one in answer.series]


async def test_the_queries_for_a_service_give_one_number_each(server):
    made = service_queries("inference/chat")
    for query, expected in ((made.ready, 2.0), (made.waiting, 6.0), (made.running, 16.0)):
        _, grids = await ask(server, query)
        assert len(grids) == 1
        known = grids[0][grids[0] == grids[0]]
        assert set(known.tolist()) == {expected}, query
    _, (work,) = await ask(server, made.work)
    assert work[100] == pytest.approx(2 * (100.0 + 4 * 50.0))
    # Within the gap, and a rate's window after its beginning, nothing is known.
    assert (work[205:240] != work[205:240]).all()
    assert work[300] == pytest.approx(600.0)


async def test_ranks_of_one_engine_are_not_added_up(server):
    _, (work,) = await ask(server, service_queries("inference/code").work)
    assert work[100] == pytest.approx(30.0 + 4 * 10.0)


async def test_more_points_than_it_answers_are_asked_in_pieces(server):
    answer, grids = await ask(server, "vector(1)", points=25_000, step=1)
    assert answer.calls == 3
    assert (grids[0] == 1.0).all()
    limits = QueryLimits(points=20_000, least_points=20_000)
    with pytest.raises(Invalid, match=TOO_MANY_POINTS[:40]):
        await ask(server, "vector(1)", points=20_000, step=1, limits=limits)


async def test_what_takes_too_many_samples_is_asked_in_smaller_pieces(server):
    query = "vllm:num_requests_running"
    answer, grids = await ask(server, query, points=11_000, step=1)
    assert answer.calls > 2
    assert len(grids) == 3
    assert all((grid[-5:] == 8.0).all() for grid in grids)
    with pytest.raises(Invalid, match=TOO_MANY_SAMPLES):
        await ask(server, query, points=11_000, step=1, limits=QueryLimits(least_points=11_000))


async def test_what_is_no_query_is_told_in_its_words(server):
    with pytest.raises(Invalid, match="parse error"):
        await ask(server, "sum(")


RUNNING = Question(
    "running",
    "sum by (namespace, pod) (avg_over_time(vllm:num_requests_running{$matchers}[$window]))",
    ("namespace", "pod"),
    ("vllm:num_requests_running",),
)
WORK = Question(
    "work",
    'sum by (pod) (rate(vllm:generation_tokens_total{namespace="inference",$matchers}[$window]))',
    ("pod",),
    ("vllm:generation_tokens_total", "vllm:old_name"),
)
ABSENT = Question("absent", "max(tgi_queue_size{$matchers})", (), ("tgi_queue_size",))
WRONG = Question("wrong", "sum(vllm:num_requests_running{$matchers}", (), ("vllm:num_requests_running",))


async def asked_of(server, *questions, limits=None, **how):
    address, end = server
    grid = TimeGrid.ending(end, since=POINTS * STEP, step=STEP, window=60)
    async with MetricsServer(PrometheusServer(URL(address)), limits=limits or AskLimits()) as client:
        return await client.ask(questions, grid, **how)


async def test_questions_of_a_fleet_are_counted_and_asked(server):
    asked = await asked_of(server, RUNNING, WORK, ABSENT, WRONG)
    assert asked.server.kind is ServerKind.PROMETHEUS
    assert asked.server.version
    assert abs(asked.server.clock_ahead_s) < 5
    running, work = asked.frames
    assert running.keys == (("inference", "chat-0"), ("inference", "chat-1"), ("inference", "chat-large-0"))
    assert set(running.values[:, -1].tolist()) == {8.0}
    assert running.values.shape == (3, POINTS)
    assert work.keys == (("chat-0",), ("chat-1",), ("chat-large-0",))
    assert work.values[0, 100] == pytest.approx(50.0)
    # A minute into the gap nothing is known.
    assert (work.values[:, 206:238] != work.values[:, 206:238]).all()
    reasons = {one.question.name: one.reason for one in asked.not_asked}
    assert reasons["absent"].reason is UnknownReason.NOT_MEASURED
    assert "no series tgi_queue_size from" in reasons["absent"].detail
    assert reasons["wrong"].reason is UnknownReason.INVALID
    assert "parse error" in reasons["wrong"].detail
    assert asked.series == 6
    assert asked.samples.counted > 3 * POINTS
    assert asked.samples.estimated == 0
    assert running.link.startswith(f"{server[0]}/graph?g0.expr=sum%20by")


async def test_what_the_server_finds_too_large_is_asked_in_parts_with_the_same_result(server):
    """The server allows 15,000 samples a query, the limits here do not keep to it."""
    whole = await asked_of(server, RUNNING)
    address, end = server
    grid = TimeGrid.ending(end, since=10_000, step=1, window=60)
    raw = Question("raw", "vllm:num_requests_running{$matchers}", ("pod",), ("vllm:num_requests_running",))
    async with MetricsServer(PrometheusServer(URL(address))) as client:
        fine = await client.ask([raw], grid)
    assert fine.not_asked == ()
    assert fine.frames[0].values.shape == (3, 10_000)
    assert (fine.frames[0].values[:, -5:] == 8.0).all()
    assert fine.calls > 5
    assert whole.frames[0].values.shape == (3, POINTS)


async def test_matchers_and_namespaces_narrow_what_is_read(server):
    asked = await asked_of(server, RUNNING, matchers=[parse_matcher('pod!="chat-0"')], namespaces=["inference", "x"])
    assert [key[1] for key in asked.frames[0].keys] == ["chat-1", "chat-large-0"]
    asked = await asked_of(server, RUNNING, namespaces=["elsewhere"])
    assert asked.frames == ()
    assert 'with namespace="elsewhere"' in asked.not_asked[0].reason.detail


async def test_a_moment_is_asked_and_what_is_old_is_left_out(server):
    address, end = server
    query = "max by (pod) (vllm:num_requests_running)"
    async with Prometheus(PrometheusServer(URL(address))) as client:
        (now,) = await client.instant([query], at=end)
        (later,) = await client.instant([query], at=end + 280)
        (much_later,) = await client.instant([query], at=end + 400)
    assert isinstance(now, Vector)
    assert dict(now.rows("pod"))[("chat-0",)] == 8.0
    assert len(later.values) == 3
    assert len(much_later.values) == 0


async def test_labels_are_looked_up(server):
    address, end = server
    grid = TimeGrid.ending(end, since=POINTS * STEP, step=STEP)
    async with MetricsServer(PrometheusServer(URL(address))) as client:
        names = await client.labels(["vllm:num_requests_running", "absent"], grid)
    assert names == {"__name__", "namespace", "pod", "model_name", "engine", "job", "instance"}
