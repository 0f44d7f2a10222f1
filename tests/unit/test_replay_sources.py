"""`optiinfra replay scaling` on a server's history and on a checkpoint: what it reads, learns, says and refuses."""

import base64
import io
import json
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import orjson
import pytest
import yaml
from click.testing import CliRunner

from optiinfra.cli import replay_picture, replay_prometheus
from optiinfra.cli.main import main
from optiinfra.cli.replay_scaling import Progress
from optiinfra.control.checkpoint import VERSION, pack
from optiinfra.control.memory import ObjectMemory
from optiinfra.domain.units import UnixTime
from optiinfra.engines.promql import service_queries
from tests.unit.control.examples import NOW, signals
from tests.unit.prometheus_stub import prometheus, refusal

QUERY = "sum(rate(work[1m]))"
STARTUP = ("--startup", "60s")


def call(*arguments):
    return CliRunner().invoke(main, ["replay", "scaling", *map(str, arguments)])


def asking(stub, *arguments, since="1h", query=QUERY):
    return call("--prometheus", stub.url, "--query", query, "--since", since, *STARTUP, *arguments)


@pytest.fixture(name="now")
def the_time():
    return time.time()


def steady(value):
    return {(): lambda _time: value}


def one_line(told):
    assert told.exit_code == 1, told.output
    lines = told.stderr.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


# ---- a Prometheus-compatible server


def test_the_history_of_a_server_is_replayed(now):
    wave = {(("job", "vllm"),): lambda time: 5000.0 + 2000.0 * np.sin((time - now) / 900.0)}
    with prometheus(queries={QUERY: wave}) as stub:
        told = asking(stub, "--replica-capacity", 1000, "--json")
    assert told.exit_code == 0, told.output
    document = json.loads(told.stdout)
    assert document["source"]["name"] == stub.url
    assert document["source"]["days"] == pytest.approx(241 * 15 / 86_400)
    assert document["source"]["unknown_share"] == 0.0
    assert document["replica_capacity"] == {"value": 1000.0, "basis": "given"}
    assert document["as_it_ran"] is None
    asked = stub.asked[0]
    assert float(asked["step"]) == 15.0
    # Whole steps since the epoch, up to now.
    assert float(asked["end"]) % 15.0 == 0.0
    assert now - 15.0 <= float(asked["end"]) <= time.time()
    assert float(asked["end"]) - float(asked["start"]) == 3600.0


def test_a_gap_is_lived_through_as_unknown_and_said(now):
    def load(time):
        return None if now - 2000 < time < now - 1000 else 5000.0

    with prometheus(queries={QUERY: {(): load}}) as stub:
        told = asking(stub, "--replica-capacity", 1000)
    assert told.exit_code == 0, told.output
    assert "of the time the load is not known: lived through as unknown, not counted" in told.stdout


def test_a_rate_is_not_believed_where_its_window_was_not_full(now):
    """As Prometheus answers: the rate fades out when scrapes end, and fades in when they begin again."""

    def load(time):
        since, until = time - (now - 1000), (now - 2000) - time
        share = 1.0 if until >= 0 or since >= 60 else max(0.0, 1.0 + until / 60.0) if since < 0 else since / 60.0
        return 8000.0 * share if share > 0.3 else None

    with prometheus(queries={QUERY: {(): load}}) as stub:
        told = asking(stub, "--replica-capacity", 1000, "--initial", 10, "--json")
    assert told.exit_code == 0, told.output
    document = json.loads(told.stdout)
    assert document["late10"] == 0.0
    assert document["source"]["unknown_share"] == pytest.approx((1000 + 2 * 30) / 3600, abs=0.02)


@pytest.mark.parametrize(
    ("query", "seconds"),
    [
        ("up", 0.0),
        ("sum(rate(a[1m])) + 4 * sum(rate(b[2m]))", 120.0),
        ("rate(a[1h30m])", 5400.0),
        ("max_over_time(rate(a[30s])[10m:15s])", 600.0),
        ('sum(rate(a{pod=~"x-[0-9]+"}[ 500ms ]))', 0.5),
    ],
)
def test_the_window_of_a_query_is_its_longest(query, seconds):
    assert replay_prometheus.window_of(query) == pytest.approx(seconds)


def test_only_what_is_beside_a_gap_is_taken_away():
    nan = np.nan
    values = np.array([1.0, 2, 3, nan, 5, 6, 7, 8, nan, nan])
    told = replay_prometheus.without_edges(values, steps=2)
    assert np.array_equal(told, np.array([1.0, nan, nan, nan, nan, nan, nan, nan, nan, nan]), equal_nan=True)
    assert np.array_equal(replay_prometheus.without_edges(values, steps=0), values, equal_nan=True)


def test_a_replica_s_capacity_is_learned_where_queues_lasted(now):
    queries = {QUERY: steady(2400.0), "ready": steady(3.0), "waiting": steady(40.0), "running": steady(24.0)}
    more = ("--ready-query", "ready", "--waiting-query", "waiting", "--running-query", "running")
    with prometheus(queries=queries) as stub:
        told = asking(stub, *more)
        document = json.loads(asking(stub, *more, "--json").stdout)
    assert told.exit_code == 0, told.output
    assert "a replica serves 800 work a second, learned from the times in which requests waited" in told.stdout
    assert "100.00% of the time requests waited: there the record tells what was served" in told.stdout
    assert document["replica_capacity"] == {"value": pytest.approx(800.0), "basis": "learned"}
    # Three replicas that are always busy.
    assert document["as_it_ran"]["cost"] == pytest.approx(1.0)
    assert any(line.startswith("as it ran") for line in told.stdout.splitlines())


def test_a_capacity_that_was_never_reached_is_said_with_its_lower_bound():
    queries = {QUERY: steady(2400.0), "ready": steady(3.0), "waiting": steady(0.0), "running": steady(9.0)}
    with prometheus(queries=queries) as stub:
        told = asking(stub, "--ready-query", "ready", "--waiting-query", "waiting", "--running-query", "running")
    assert told.exit_code == 0, told.output
    assert "what a replica serves is unknown, because no queue lasted long enough: at least 800" in told.stdout
    assert "give --replica-capacity for exact ones" in told.stdout


def test_without_what_it_takes_to_learn_a_capacity_it_must_be_given():
    with prometheus(queries={QUERY: steady(1.0), "ready": steady(1.0)}) as stub:
        said = one_line(asking(stub, "--ready-query", "ready"))
    assert "cannot be learned without waiting requests, running requests: give --replica-capacity" in said


def test_a_service_is_asked_for_by_its_workload():
    made = service_queries("inference/vllm-llama")
    queries = {
        made.work: steady(2400.0),
        made.ready: steady(3.0),
        made.waiting: steady(40.0),
        made.running: steady(24.0),
    }
    with prometheus(queries=queries) as stub:
        told = call("--prometheus", stub.url, "--service", "inference/vllm-llama", "--since", "1h", *STARTUP, "--json")
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout)["replica_capacity"]["basis"] == "learned"
    assert len(stub.asked) == 4


def test_what_a_service_does_not_publish_is_said():
    made = service_queries("inference/vllm-llama")
    queries = {made.work: steady(2400.0), made.ready: {}, made.waiting: {}, made.running: {}}
    with prometheus(queries=queries, warnings=["a store is away"]) as stub:
        told = call(
            "--prometheus", stub.url, "--service", "inference/vllm-llama", "--since", "1h", *STARTUP,
            "--replica-capacity", 1000,
        )  # fmt: skip
    assert told.exit_code == 0, told.output
    assert "the query for ready gave nothing: it is not known" in told.stdout
    assert told.stdout.count("the server warns: a store is away") == 1


@pytest.mark.parametrize(
    ("series", "said"),
    [
        ({}, "--query: nothing came back; check names, labels and --since"),
        (steady(float("nan")), "--query: all its 241 points are NaN"),
        (
            {(("pod", name),): lambda _time: 1.0 for name in "abcdefg"},
            'came back, one is needed; sum() them: {pod="a"}, {pod="b"}, {pod="c"}, {pod="d"}, {pod="e"} and 2 more',
        ),
        (steady(-1.0), "work: there are negative or infinite values"),
        (steady(1e9), "give --replica-capacity in its unit"),
    ],
)
def test_an_answer_that_cannot_be_replayed_is_named(series, said):
    with prometheus(queries={QUERY: series}) as stub:
        assert said in one_line(asking(stub, "--replica-capacity", 1))


def test_what_the_server_refuses_is_told_without_the_token(tmp_path):
    token = tmp_path / "token"
    token.write_text("sesame-1234567")
    with prometheus(scripted=[refusal(400, "bad_data", "parse error near sesame-1234567")]) as stub:
        said = one_line(asking(stub, "--token-file", token, "--header", "X-Scope-OrgID: tenant-key-7"))
        assert stub.headers[0]["X-Scope-OrgID"] == "tenant-key-7"
    assert said == f"Error: --query: ask {stub.url}: parse error near *** (HTTP 400)"


def test_the_query_that_was_refused_is_named():
    made = service_queries("inference/vllm-llama")
    with prometheus(queries={QUERY: steady(1.0), made.work: steady(1.0)}) as stub:
        said = one_line(asking(stub, "--ready-query", "wrong("))
        assert said.startswith("Error: --ready-query: ask ")
        told = call("--prometheus", stub.url, "--service", "inference/vllm-llama", "--since", "1h", *STARTUP)
        assert one_line(told).startswith("Error: --service, ready: ask ")
        assert "1 to 8192 are expected" in one_line(asking(stub, query="a" * 9000))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give one of LOAD, --prometheus and --checkpoint"),
        (("--prometheus", "http://x", "--checkpoint", __file__), "give one of LOAD, --prometheus and --checkpoint"),
        (("--prometheus", "http://x"), "--prometheus needs one of --query and --service"),
        (("--prometheus", "http://x", "--query", "a", "--service", "a/b"), "needs one of --query and --service"),
        (("--checkpoint", __file__, "--query", "a"), "--query belongs to --prometheus"),
        (("--checkpoint", __file__, "--header", "A: b"), "--header belongs to --prometheus"),
        (("--checkpoint", __file__, "--since", "1d"), "--since belongs to --prometheus"),
        (("--prometheus", "http://x", "--query", "a", "--target", "b"), "--target belongs to --checkpoint"),
        (("--prometheus", "http://x", "--query", "a", "--header", "my-secret"), "--header: write 'NAME: VALUE'"),
        (("--prometheus", "http://x", "--service", "vllm"), "write NAMESPACE/NAME"),
        (("--prometheus", "http://x", "--service", 'a/b"}'), "write NAMESPACE/NAME"),
        (("--prometheus", "http://x", "--query", "a", "--step", "7s"), "--step 7 s: a multiple or a part of 5 s"),
        (("--prometheus", "http://x", "--query", "a", "--since", "20s"), "less than two steps"),
        (("--prometheus", "http://[", "--query", "a"), "not an address"),
        (("--prometheus", "prometheus", "--query", "a"), "not an address"),
    ],
)
def test_options_that_do_not_belong_together_are_named(arguments, said):
    told = call(*arguments, *STARTUP)
    assert told.exit_code != 0
    assert said in " ".join(told.stderr.split())
    assert "my-secret" not in told.stderr


# ---- the operator's checkpoint


def remembered(*names, points=240, work=2400.0, waiting=40.0, missing=()):
    memory = ObjectMemory()
    for name in names:
        target = memory.target(name)
        for step in range(points):
            if step not in missing:
                at = UnixTime(NOW + 15 * step)
                known = signals(
                    time=at, running=24.0, waiting=waiting, work_rate=work, replicas_expected=3, replicas_reporting=3
                )
                target.history.observe(known, 3)
    return memory


def manifest(state, *, version=VERSION):
    return {
        "apiVersion": "optiinfra.io/v1alpha1",
        "kind": "OptimizationCheckpoint",
        "metadata": {"name": "llama", "namespace": "inference", "uid": "u", "resourceVersion": "1", "generation": 1},
        "spec": {"version": version, "time": "2026-11-21T10:00:00Z", "state": base64.b64encode(state).decode()},
    }


def kept(path, document, *, as_json=False):
    path.write_text(json.dumps(document) if as_json else yaml.safe_dump(document))
    return path


@pytest.mark.parametrize("as_json", [False, True])
def test_the_kept_history_of_an_object_is_replayed(tmp_path, as_json):
    file = kept(tmp_path / "c.yaml", manifest(pack(remembered("vllm", missing={50, 51, 52}))), as_json=as_json)
    told = call("--checkpoint", file, *STARTUP, "--json")
    assert told.exit_code == 0, told.output
    document = json.loads(told.stdout)
    assert document["source"]["name"] == "inference/llama"
    assert document["source"]["unknown_share"] == pytest.approx(3 / 240)
    assert document["source"]["notes"] == ["1.0 hours are kept; a checkpoint holds at most six"]
    assert document["replica_capacity"] == {"value": pytest.approx(800.0, rel=1e-3), "basis": "learned"}


def test_what_else_an_operator_keeps_there_is_left_alone(tmp_path):
    state = orjson.loads(zlib.decompress(pack(remembered("vllm"))))
    state["fleet"] = {"new": 1}
    state["targets"]["vllm"] = {"history": state["targets"]["vllm"]["history"], "scaler": "not for us"}
    file = kept(tmp_path / "c.yaml", manifest(zlib.compress(orjson.dumps(state))))
    assert call("--checkpoint", file, *STARTUP).exit_code == 0


def test_one_of_several_targets_is_named(tmp_path):
    file = kept(tmp_path / "c.yaml", manifest(pack(remembered("prefill", "decode"))))
    assert "several targets; name one of them with --target: decode, prefill" in one_line(
        call("--checkpoint", file, *STARTUP)
    )
    assert "no target 'x'; there is decode, prefill" in one_line(call("--checkpoint", file, "--target", "x", *STARTUP))
    told = call("--checkpoint", file, "--target", "decode", *STARTUP)
    assert told.exit_code == 0, told.output
    assert "source: inference/llama, decode, " in told.stdout


def test_a_list_of_one_is_that_one(tmp_path):
    one = manifest(pack(remembered("vllm")))
    listed = {"apiVersion": "v1", "kind": "List", "items": [one]}
    assert call("--checkpoint", kept(tmp_path / "c.yaml", listed), *STARTUP).exit_code == 0
    listed["items"] = [one, one]
    assert "a list; name the object" in one_line(call("--checkpoint", kept(tmp_path / "c.yaml", listed), *STARTUP))


BOMB = zlib.compress(b'{"targets": {}}' + b" " * (1 << 22))


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("just text", "no manifest; write it with kubectl get"),
        ({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "a"}}, "expected optiinfra.io/v1alpha1"),
        (manifest(b"rubbish"), "spec.state: not what the operator writes (error)"),
        (manifest(zlib.compress(b"[]")), "spec.state: not what the operator writes (TypeError)"),
        (manifest(zlib.compress(b'{"targets": {"a": {"history": "AAAA"}}}')), "target 'a': history checkpoint"),
        (manifest(zlib.compress(b'{"targets": {}}')), "it holds no history"),
        (manifest(BOMB), "more than 256 KiB unpacked"),
        (manifest(b"", version=VERSION + 1), f"this optiinfra reads version {VERSION}"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_named(tmp_path, document, said):
    told = one_line(call("--checkpoint", kept(tmp_path / "c.yaml", document), *STARTUP))
    assert said in told
    assert told.startswith("Error: c.yaml")


def test_a_broken_file_is_named(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("a: [")
    assert "neither YAML nor JSON" in one_line(call("--checkpoint", file, *STARTUP))
    file.write_bytes(b"\xff\xfe\xff")
    assert "cannot be read" in one_line(call("--checkpoint", file, *STARTUP))
    file.write_text(" " * (2 << 20))
    assert "larger than 1 MiB" in one_line(call("--checkpoint", file, *STARTUP))


# ---- the file, and what is drawn


@pytest.fixture(name="load")
def the_load(tmp_path):
    file = tmp_path / "load.csv"
    rows = "".join(f"{n * 15},{'' if 60 < n < 80 else 4000 + 2000 * (n % 40 > 20)}\n" for n in range(240))
    file.write_text(f"time_s,work\n{rows}")
    return file


def test_empty_cells_of_a_file_are_unknown(load):
    document = json.loads(call(load, "--replica-capacity", 1000, *STARTUP, "--json").stdout)
    assert document["source"]["unknown_share"] == pytest.approx(19 / 240)
    assert document["source"]["waited_share"] is None


def test_a_file_needs_a_capacity(load):
    assert "give --replica-capacity" in one_line(call(load, *STARTUP))


def test_the_summary_has_the_tuned_hpa_and_the_plan(load):
    told = call(load, "--replica-capacity", 1000, *STARTUP)
    names = [line.split("  ")[0] for line in told.stdout.splitlines()[2:8]]
    assert names[:4] == ["OptiInfra", "HPA at 0.5", "HPA at 0.7", "HPA at 0.8"]
    assert names[4].startswith("tuned HPA")
    assert names[5] == "known-future plan"
    document = json.loads(call(load, "--replica-capacity", 1000, *STARTUP, "--json").stdout)
    assert document["known_future"]["cost"] <= document["cost"]
    tuned = document["tuned_hpa"]
    assert "unknown" in tuned or tuned["late10"] <= 0.01


def test_a_picture_is_drawn(load, tmp_path):
    plot = tmp_path / "p.png"
    told = call(load, "--replica-capacity", 1000, *STARTUP, "--plot", plot)
    assert told.exit_code == 0, told.output
    head = plot.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(head[16:20], "big") > 1000


def test_without_matplotlib_the_remedy_is_told_before_anything_is_computed(load, tmp_path, monkeypatch):
    monkeypatch.setattr(replay_picture.importlib.util, "find_spec", lambda _name: None)
    plot = tmp_path / "p.png"
    said = one_line(call(load, "--replica-capacity", 1000, *STARTUP, "--plot", plot))
    assert "pip install 'optiinfra[plot]'" in said
    assert not plot.exists()


def test_the_page_shades_what_is_unknown_and_shows_what_ran(tmp_path):
    file = kept(tmp_path / "c.yaml", manifest(pack(remembered("vllm", missing=range(50, 90)))))
    plot = tmp_path / "p.html"
    told = call("--checkpoint", file, *STARTUP, "--plot", plot)
    assert told.exit_code == 0, told.output
    text = plot.read_text()
    assert text.count("<rect ") == 2
    assert "as it ran" in text
    assert "nan" not in text


def test_the_images_go_without_matplotlib_and_developers_do_not():
    locks = Path(__file__).parents[2] / "requirements"
    holders = [lock.name for lock in sorted(locks.glob("*.lock")) if "\nmatplotlib==" in lock.read_text()]
    assert holders == ["all.lock"]


def test_a_place_that_cannot_be_written_is_named(load, tmp_path):
    plot = tmp_path / "absent" / "p.html"
    assert "cannot be written" in one_line(call(load, "--replica-capacity", 1000, *STARTUP, "--plot", plot))


# ---- progress, and what is imported


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_shown_where_somebody_looks(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    progress = Progress()
    with progress.stage("the decision", 250) as on_sync:
        for sync in range(250):
            on_sync(sync)
    assert "the decision" in sys.stderr.getvalue()
    assert "100%" in sys.stderr.getvalue()
    assert progress.seconds >= 0.0


def test_progress_stays_out_of_pipes(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with Progress().stage("the decision", 250) as on_sync:
        on_sync(99)
    assert sys.stderr.getvalue() == ""


def test_a_file_costs_no_import_of_what_only_others_need():
    script = "import sys, optiinfra.cli.replay_scaling; print(*sorted(sys.modules))"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"matplotlib", "aiohttp", "kubernetes", "kopf"} & set(told.stdout.split())
