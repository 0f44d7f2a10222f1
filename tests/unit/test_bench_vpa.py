"""The bench against the real VPA recommender, without it: what the doubles tell, and what is called a difference."""

import json
import math
import urllib.error
import urllib.parse
import urllib.request

import numpy as np
import pytest

from bench import vpa as bench
from bench import vpa_runs
from bench.result import Result
from bench.vpa_runs import Compared, compared, corners, told, workloads_of
from hack.real_vpa import Look, Recommended, Sample, Series
from hack.real_vpa.metrics_api import usage_of
from hack.real_vpa.prometheus import LABELS_METRIC, Prometheus
from hack.real_vpa.workloads import autoscaler, recommendations
from optiinfra.domain.histogram import DAY
from optiinfra.domain.replay import vpa
from optiinfra.domain.replay.usage import Usage

NOW = 1_763_700_000.0
SELECTOR = '{job="kubernetes-cadvisor", pod_name=~".+"}'


def series(values, *, step=300.0, workload="a"):
    samples = tuple(Sample(NOW + number * step, cpu, memory) for number, (cpu, memory) in enumerate(values))
    return Series(workload, "container-1", samples)


def ask(prometheus, path, **form):
    request = urllib.request.Request(prometheus.url + path, data=urllib.parse.urlencode(form).encode())
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)["data"]


@pytest.fixture
def one():
    return series([(0.5, 1e9), (None, 2e9), (0.7, None), (0.8, 4e9)])


@pytest.fixture
def prometheus(one):
    names = {"a": ("a-x7k2p", {"app": "a"})}
    with Prometheus([one], namespace="n", names=names.__getitem__, until=NOW + 900.0) as server:
        yield server


def test_a_range_is_told_by_its_own_steps_and_nothing_that_is_not_known_yet(prometheus, one):
    form = {"start": NOW - 600.0 + 7.25, "end": NOW + 1200.0, "step": 300.0}
    data = ask(
        prometheus, "/api/v1/query_range", query=f"rate(container_cpu_usage_seconds_total{SELECTOR}[5m])", **form
    )
    assert data["resultType"] == "matrix"
    (found,) = data["result"]
    assert found["metric"] == {
        "job": "kubernetes-cadvisor",
        "namespace": "n",
        "pod_name": "a-x7k2p",
        "name": "container-1",
    }
    assert found["values"] == [[NOW + 7.25, "0.5"], [NOW + 607.25, "0.7"]]
    data = ask(prometheus, "/api/v1/query_range", query=f"container_memory_working_set_bytes{SELECTOR}", **form)
    assert data["result"][0]["values"] == [[NOW + 7.25, "1000000000.0"], [NOW + 307.25, "2000000000.0"]]
    usage = told(one)
    assert usage.time.tolist() == [NOW + 7.25, NOW + 307.25, NOW + 607.25]
    np.testing.assert_array_equal(usage.cpu_cores, [0.5, np.nan, 0.7])
    np.testing.assert_array_equal(usage.memory_bytes, [1e9, 2e9, np.nan])


def test_the_labels_of_a_pod_are_told_under_the_recommender_s_prefix(prometheus):
    (found,) = ask(prometheus, "/api/v1/query", query=f"{LABELS_METRIC}[10d]")["result"]
    assert found["metric"] == {
        "kubernetes_namespace": "n",
        "kubernetes_pod_name": "a-x7k2p",
        "pod_label_app": "a",
    }
    assert len(found["values"]) == 1


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("/api/v1/query_range", {"query": "up", "start": 0, "end": 1, "step": 1}),
        ("/api/v1/query_range", {"query": f"container_memory_working_set_bytes{SELECTOR}", "start": 0, "end": 1}),
        (
            "/api/v1/query_range",
            {"query": f"container_memory_working_set_bytes{SELECTOR}", "start": 0, "end": 1e12, "step": 1},
        ),
        ("/api/v1/query", {"query": f"container_memory_working_set_bytes{SELECTOR}"}),
    ],
)
def test_what_the_recommender_does_not_ask_is_refused_and_remembered(prometheus, path, form):
    with pytest.raises(urllib.error.HTTPError, match="400") as refused:
        ask(prometheus, path, **form)
    refused.value.close()
    assert prometheus.failures


def test_a_sample_is_written_as_metrics_server_writes_it():
    assert usage_of(0.1234567891, 1024.0 * 77) == {"cpu": "123456789n", "memory": "77Ki"}
    assert usage_of(0.0, 1025.9) == {"cpu": "0n", "memory": "1025"}


def test_only_use_from_metrics_server_is_rounded_up():
    one = series([(0.1234, 1e9), (0.1234, 1e9)])
    one.told.extend(one.samples)
    usage = told(one, rounded_from=NOW + 300.0)
    assert usage.cpu_cores.tolist() == [0.1234, 0.124]
    assert told(one).cpu_cores.tolist() == [0.1234, 0.1234]


def test_what_a_vpa_object_says_is_read_by_container():
    part = {"cpu": "587m", "memory": "262144k"}
    status = {
        "recommendation": {
            "containerRecommendations": [
                {"containerName": "c", "target": part, "lowerBound": part, "upperBound": {"cpu": "2", "memory": "1Gi"}}
            ]
        }
    }
    assert recommendations({**autoscaler("a"), "status": status}) == {
        "c": Recommended((0.587, 0.587, 2.0), (262144000.0, 262144000.0, 1024.0**3))
    }
    assert recommendations(autoscaler("a")) == {}


@pytest.fixture
def steady():
    one = series([(0.5, 1000.0 * 1024**2)] * 600)
    one.told.extend(one.samples)
    return one


def look(one, number, *, factor=1.0):
    time = one.samples[number].time
    found = vpa.recommend(told(one), at=np.array([time + 0.5]))
    cpu, memory = (
        tuple(float(part[0]) for part in (bounds.target, bounds.lower, bounds.upper))
        for bounds in (found.cpu, found.memory)
    )
    said = Recommended((cpu[0] * factor, *cpu[1:]), memory)
    return Look(number, time, {("a", "container-1"): said})


def test_a_recommender_that_says_the_same_differs_by_nothing(steady):
    done = compared(steady, [look(steady, 300), look(steady, 599)], live=NOW)
    assert bench.largest(done.exact) == 0.0
    assert done.real == done.baseline
    assert all(result.kept for result in bench.results([done]))


def test_one_that_says_more_differs_by_as_much_and_fails(steady):
    done = compared(steady, [look(steady, 300, factor=1.01), look(steady, 599)], live=NOW)
    assert bench.largest(done.exact) == pytest.approx(0.01)
    assert done.real == done.baseline, "at the end they agree again, which must not hide it"
    assert not all(result.kept for result in bench.results([done]))
    assert "| a/1 |" in bench.table([done])
    assert "| 1.00% |" in bench.table([done])


def test_one_that_says_nothing_fails(steady):
    done = compared(steady, [Look(300, steady.samples[300].time, {})], live=NOW)
    assert bench.largest(done.exact) == math.inf
    assert not Result("x", bench.largest(done.exact), "", bench.ALLOWED).kept


def test_traces_and_corners_end_now_and_reach_back_ten_days():
    time = np.arange(12 * 288) * 300.0
    usage = Usage(time, np.full(len(time), 0.5), np.full(len(time), 3e9))
    workloads = workloads_of([usage, usage], days=10, now=NOW)
    assert [one.name for one in workloads] == ["trace-1", "trace-2", *corners(usage)]
    for one in workloads:
        for part in one.series:
            assert NOW - 900.0 <= part.samples[-1].time <= NOW
            assert part.samples[0].time > NOW - 10.0 * DAY - 900.0
    killed = workloads[-1]
    assert killed.name == vpa_runs.KILLED
    assert killed.request_bytes is not None
    assert killed.request_bytes >= 3e9


def test_a_file_that_is_no_usage_is_refused_in_one_line(tmp_path, capsys):
    path = tmp_path / "u.csv"
    path.write_text("time_s,container,cpu_cores,memory_bytes\n0,a,-1,1\n")
    with pytest.raises(SystemExit):
        bench.main(["--usage", str(path)])
    assert "u.csv, line 2: cpu_cores" in capsys.readouterr().err.splitlines()[-1]


def test_the_table_goes_between_the_markers(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{bench.BEGIN}\nold\n{bench.END}\nafter\n")
    bench.write_page("new", page)
    assert page.read_text() == f"before\n{bench.BEGIN}\n\nnew\n\n{bench.END}\nafter\n"
    assert bench.BEGIN in bench.PAGE.read_text()


def test_the_page_says_what_the_bench_would_fail_on():
    # A table that was written by a run with differences must not stay on the page unseen.
    page = bench.PAGE.read_text()
    rows = [
        line for line in page.splitlines() if line.startswith(("| trace-", "| with-", "| growing", "| all-", "| kil"))
    ]
    assert len(rows) >= 10
    assert all(row.split("|")[7].strip() == "0.00%" for row in rows)


def test_a_comparison_holds_what_it_was_made_of(steady):
    done = compared(steady, [look(steady, 599)], live=NOW)
    assert isinstance(done, Compared)
    assert done.exact.shape == done.cut.shape == (1, 6)
