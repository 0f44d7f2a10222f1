"""The questions about a fleet, asked of real servers: what they make of other spellings, copies and ranks.

Two hours of hand-written series in Debian's Prometheus and, in the long run, in Prometheus 3 and VictoriaMetrics. What
joining believes of a server's arithmetic (which copy counts, what adds up, what is left out) is shown here by servers.
"""

import asyncio
import json
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from yarl import URL

from hack.binaries.debian import ensure_packaged
from hack.binaries.find import ensure
from hack.prometheus.server import Server, free_port
from optiinfra.cluster.prometheus_ask import MetricsServer, PrometheusServer, TimeGrid
from optiinfra.domain.readings import EngineKind, Unknown
from optiinfra.domain.report.history import FleetHistory, GpuSource, HolderSource, Lack, OwnerSource
from optiinfra.domain.report.joining import join
from optiinfra.domain.report.joining_found import Found, found, single
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.engines.promql_fleet import discovery_questions, fleet_questions, label_questions, sharing_questions
from tests.unit.domain.answered_fleet import lines, model

END = 1_790_000_400
SCRAPE_S = 60
SCRAPES = 121
STEP_S = 300.0
MIB = 2.0**20
Value = float | Callable[[int], float]


class Page:
    """Series over two hours, written as OpenMetrics."""

    def __init__(self) -> None:
        self._series: list[tuple[str, str, Value]] = []

    def add(self, name: str, value: Value, **labels: str) -> None:
        inner = ",".join(f'{key}="{text}"' for key, text in labels.items())
        self._series.append((name, inner, value))

    def text(self) -> str:
        written: list[str] = []
        for name, inner, value in sorted(self._series, key=lambda one: (one[0], one[1])):
            for scrape in range(SCRAPES):
                number = value(scrape) if callable(value) else value
                if not np.isnan(number):
                    written.append(f"{name}{{{inner}}} {number:.17g} {END - (SCRAPES - 1 - scrape) * SCRAPE_S}")
        return "\n".join([*written, "# EOF", ""])


def counter(per_second: float, *, reset_at: int = -1) -> Callable[[int], float]:
    def value(scrape: int) -> float:
        since = scrape if reset_at < 0 or scrape < reset_at else scrape - reset_at
        return 1000.0 * (scrape < reset_at) + per_second * SCRAPE_S * since

    return value


def vllm(page: Page, pod: dict[str, str], *, old: bool = False, running: float = 4.0, **labels: str) -> None:
    told = {"engine": "0", "model_name": "llama", "instance": "10.0.0.9:8000", **pod}
    told |= labels
    page.add("vllm:num_requests_running", running, **told)
    page.add("vllm:num_requests_waiting", 2.0, **told)
    page.add("vllm:gpu_cache_usage_perc" if old else "vllm:kv_cache_usage_perc", 0.9 if old else 0.3, **told)
    page.add("vllm:prompt_tokens_total", counter(100.0, reset_at=60), **told)
    page.add("vllm:generation_tokens_total", counter(50.0, reset_at=60), **told)
    for reason, rate in (("stop", 2.0), ("length", 1.0), ("abort", 0.5)):
        page.add("vllm:request_success_total", counter(rate), finished_reason=reason, **told)
    for bound, share in (("0.5", 0.5), ("2.5", 0.9), ("+Inf", 1.0)):
        page.add("vllm:time_to_first_token_seconds_bucket", counter(share), le=bound, **told)
    page.add("vllm:time_to_first_token_seconds_count", counter(1.0), **told)
    page.add("vllm:time_to_first_token_seconds_sum", counter(0.8), **told)


def engines(page: Page) -> None:
    for number in ("x2x4z", "b5b6c"):
        pod = {"namespace": "chat", "pod": f"llama-7d9f8b6c5-{number}"}
        for copy in ("prometheus-0", "prometheus-1"):
            vllm(page, pod, instance=f"10.1.0.{number}:8000", prometheus_replica=copy)
    # Of an older version, under the older labels.
    vllm(page, {"kubernetes_namespace": "chat", "kubernetes_pod_name": "llama-7d9f8b6c5-d7d8f"}, old=True, running=7.0)
    for rank in ("0", "1"):
        ranked = {
            "namespace": "code",
            "pod": "qwen-0",
            "model_name": "qwen",
            "tp_rank": rank,
            "instance": "10.2.0.1:30000",
        }
        page.add("sglang:num_running_reqs", 5.0, **ranked)
        page.add("sglang:num_queue_reqs", 0.0, **ranked)
        page.add("sglang:token_usage", 0.4, **ranked)
        for mode, rate in (("input", 60.0), ("device_hit", 40.0)):
            page.add("sglang:prefill_effective_tokens_total", counter(rate), mode=mode, **ranked)
        page.add("sglang:realtime_tokens_total", counter(30.0), mode="decode", **ranked)
        page.add("sglang:generation_tokens_total", counter(29.0), **ranked)
    for rank in ("0", "1"):
        parallel = {
            "namespace": "code",
            "pod": "mistral-0",
            "model_name": "m",
            "engine": rank,
            "instance": "10.2.0.2:8000",
        }
        page.add("vllm:num_requests_running", 3.0, **parallel)
        page.add("vllm:prompt_tokens_total", counter(10.0), **parallel)
        page.add("vllm:generation_tokens_total", counter(10.0), **parallel)
    text = {"namespace": "text", "pod": "tgi-6f5d4c7b8b-x2x4z", "instance": "10.3.0.1:80"}
    page.add("tgi_batch_current_size", 6.0, **text)
    page.add("tgi_queue_size", 1.0, **text)
    page.add("tgi_batch_current_max_tokens", 500.0, **text)
    page.add("tgi_batch_max_total_tokens", 1000.0, **text)
    page.add("tgi_request_input_length_sum", counter(20.0), **text)
    page.add("tgi_request_generated_tokens_sum", counter(10.0), **text)
    # Scaled away half an hour before the end.
    gone = {"namespace": "gone", "pod": "phi-0", "model_name": "phi", "instance": "10.4.0.1:8000", "engine": "0"}
    page.add("vllm:num_requests_running", lambda scrape: 1.0 if scrape < 90 else np.nan, **gone)


def cluster(page: Page) -> None:
    own = {"namespace": "monitoring", "pod": "dcgm-exporter-k9k8j", "container": "exporter"}
    for number, holder in (("a", "llama-7d9f8b6c5-x2x4z"), ("b", ""), ("c", "llama-7d9f8b6c5-b5b6c")):
        gpu = {
            "UUID": f"GPU-{number}",
            "gpu": "0",
            "Hostname": "node-1",
            "modelName": "NVIDIA H100",
            "instance": "n1:9400",
        }
        if holder:
            gpu |= {"exported_namespace": "chat", "exported_pod": holder, "exported_container": "vllm"}
        page.add("DCGM_FI_DEV_GPU_UTIL", 80.0 if holder else 0.0, **gpu, **own)
        page.add("DCGM_FI_DEV_FB_USED", 1000.0, **gpu, **own)
        page.add("DCGM_FI_DEV_FB_FREE", 2000.0, **gpu, **own)
        page.add("DCGM_FI_DEV_POWER_USAGE", 9223372036854775794.0, **gpu, **own)
        if number == "c":  # shared: once more for a pod with no mapped process, with a literal zero
            other = gpu | {"exported_namespace": "code", "exported_pod": "qwen-0"}
            page.add("DCGM_FI_DEV_GPU_UTIL", 0.0, **other, **own)
    newer = {"UUID": "GPU-d", "Hostname": "node-2", "modelName": "NVIDIA B200", "instance": "n2:9400"}
    page.add("DCGM_FI_DEV_GPU_UTIL_RATIO", 0.25, **newer, namespace="code", pod="qwen-0", container="sglang")
    page.add("DCGM_FI_DEV_FB_USED_BYTES", 3000.0 * MIB, **newer, namespace="code", pod="qwen-0", container="sglang")
    state = {"namespace": "monitoring", "pod": "ksm-0", "container": "ksm"}

    def told(name: str, value: float, namespace: str, pod: str, **labels: str) -> None:
        page.add(name, value, exported_namespace=namespace, exported_pod=pod, **labels, **state)

    for number in ("x2x4z", "b5b6c", "d7d8f"):
        pod = f"llama-7d9f8b6c5-{number}"
        told("kube_pod_owner", 1.0, "chat", pod, owner_kind="ReplicaSet", owner_name="llama-7d9f8b6c5")
        told("kube_pod_info", 1.0, "chat", pod, node="node-1", uid=number, created_by_kind="ReplicaSet")
        asked = {"exported_container": "vllm", "node": "node-1", "resource": "nvidia_com_gpu", "unit": "integer"}
        told("kube_pod_container_resource_requests", 1.0, "chat", pod, **asked)
    finished = {"exported_container": "job", "node": "node-1", "resource": "nvidia_com_gpu", "unit": "integer"}
    told("kube_pod_container_resource_requests", 4.0, "chat", "llama-done", **finished)
    told("kube_pod_status_phase", 1.0, "chat", "llama-done", phase="Succeeded")
    page.add("kube_deployment_spec_replicas", 3.0, exported_namespace="chat", deployment="llama", **state)
    page.add("kube_node_status_capacity", 8.0, node="node-1", resource="nvidia_com_gpu", unit="integer", **state)


@pytest.fixture(
    scope="module",
    params=[
        "debian",
        pytest.param("prometheus", marks=pytest.mark.soak),
        pytest.param("victoria-metrics", marks=pytest.mark.soak),
    ],
)
def history(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[FleetHistory, Found]]:
    folder: Path = tmp_path_factory.mktemp("fleet")
    page = Page()
    engines(page)
    cluster(page)
    server = (
        victoria_metrics(folder, page)
        if request.param == "victoria-metrics"
        else prometheus(folder, page, request.param)
    )
    try:
        yield asyncio.run(asked(server.address))
    finally:
        server.stop()


def prometheus(folder: Path, page: Page, which: str) -> Server:
    (folder / "page.txt").write_text(page.text())
    (folder / "prometheus.yml").write_text("global: {scrape_interval: 60s}\n")
    promtool = [str(ensure_packaged("promtool")), "tsdb", "create-blocks-from", "openmetrics", "--quiet"]
    subprocess.run([*promtool, str(folder / "page.txt"), str(folder / "data")], check=True, timeout=120)
    program = ensure_packaged("prometheus") if which == "debian" else ensure(["prometheus"])["prometheus"]
    port = free_port()
    command = [
        str(program),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--storage.tsdb.retention.time=100y",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    return Server(name=which, command=command, port=port, log=folder / "server.log", ready="/-/ready")


def victoria_metrics(folder: Path, page: Page) -> Server:
    port = free_port()
    command = [
        str(ensure(["victoria-metrics"])["victoria-metrics"]),
        f"-storageDataPath={folder / 'data'}",
        "-retentionPeriod=100y",
        f"-httpListenAddr=127.0.0.1:{port}",
        "-memory.allowedBytes=256MiB",
    ]
    server = Server(name="victoria-metrics", command=command, port=port, log=folder / "server.log", ready="/health")
    try:
        in_milliseconds = [f"{line}000" for line in page.text().splitlines() if line and not line.startswith("#")]
        body = "\n".join([*in_milliseconds, ""]).encode()
        for path, data in (("/api/v1/import/prometheus", body), ("/internal/force_flush", None)):
            with urllib.request.urlopen(f"{server.address}{path}", data=data, timeout=60) as answer:
                answer.read()
        wait_for_samples(server.address)
    except BaseException:
        server.stop()
        raise
    return server


def wait_for_samples(address: str) -> None:
    """Wait until what was brought in can be asked for."""
    question = urllib.parse.urlencode({"query": "count(vllm:num_requests_running)", "time": str(END - 600)})
    deadline = time.monotonic() + 60.0
    while True:
        with urllib.request.urlopen(f"{address}/api/v1/query?{question}", timeout=60) as answer:
            if json.load(answer)["data"]["result"]:
                return
        assert time.monotonic() < deadline, "VictoriaMetrics does not show what was brought in"
        time.sleep(0.2)


async def asked(address: str) -> tuple[FleetHistory, Found]:
    async with MetricsServer(PrometheusServer(URL(address))) as server:
        grid = TimeGrid.ending(UnixTime(END), since=Seconds(5400.0), step=Seconds(STEP_S))
        first = await server.ask((*discovery_questions(1.0), *label_questions(1.0)), grid)
        seen = found(first.frames)
        shared = await server.ask(sharing_questions(seen), grid)
        names = tuple({name for question in fleet_questions(seen) for name in question.metrics})
        seen = replace(seen, existing=await server.names(names, grid), single=single(shared.frames))
        second = await server.ask(fleet_questions(seen), grid)
    return join(second.frames, now=UnixTime(END), found=seen), seen


def steady(course: object) -> float:
    """The one value of a course; courses here do not move but for the reset and the edges of the window."""
    assert isinstance(course, np.ndarray), course
    known = course[np.isfinite(course)]
    assert known.size
    return float(np.median(known))


def test_the_labels_of_each_kind_of_series_are_found(history: tuple[FleetHistory, Found]):
    _, seen = history
    assert seen.engines.pod == ("kubernetes_pod_name", "pod")
    assert seen.engines.namespace == ("kubernetes_namespace", "namespace")
    assert seen.gpus.pod == ("pod", "exported_pod")
    assert seen.state.container == ("container", "exported_container")
    assert set(seen.namespaces) >= {"chat", "code", "text"}
    assert "prometheus-0" in seen.copies


def test_it_is_seen_whose_pages_come_more_than_once(history: tuple[FleetHistory, Found]):
    _, seen = history
    # SGLang's come from each rank; each of the two servers, which are asked apart, has the others once.
    assert seen.single == {"vllm", "tgi"}
    assert seen.copies
    assert all("max by (" in one.promql for one in fleet_questions(seen) if one.name == "vllm.prompt_tokens")
    assert seen.existing is not None
    assert "vllm:generation_tokens_total" in seen.existing
    assert "vllm:no_such_series" not in seen.existing


def test_copies_count_once_and_other_spellings_and_versions_are_one_workload(history: tuple[FleetHistory, Found]):
    fleet, _ = history
    found_model = model(fleet, "chat/llama")
    load = found_model.load
    assert (found_model.kind, found_model.owner_source) == ("Deployment", OwnerSource.STATE_METRICS)
    assert steady(found_model.serving) == 3.0
    assert steady(load.running) == 4.0 + 4.0 + 7.0
    assert steady(load.running_highest) == 7.0
    assert steady(load.kv_usage) == pytest.approx((0.3 + 0.3 + 0.9) / 3.0)
    assert steady(load.kv_usage_highest) == 0.9
    assert steady(load.requests) == pytest.approx(3.5 * 3)
    assert steady(load.aborted) == pytest.approx(0.5 * 3)
    assert steady(load.prompt_tokens) == pytest.approx(300.0, rel=0.01)
    assert steady(load.work) == pytest.approx(300.0 + 4 * 150.0, rel=0.01)
    assert steady(load.ttft_mean) == pytest.approx(0.8)
    assert steady(load.ttft_late) == pytest.approx(0.1)
    assert load.ttft_p95 == pytest.approx(2.5)
    assert steady(found_model.spec_replicas) == 3.0


def test_a_counter_reset_is_no_negative_rate_and_is_told(history: tuple[FleetHistory, Found]):
    fleet, _ = history
    course = model(fleet, "chat/llama").load.prompt_tokens
    assert isinstance(course, np.ndarray)
    assert (course[np.isfinite(course)] > 200.0).all()
    (line,) = lines(fleet, Lack.COUNTER_RESETS)
    assert line.where == ("chat/llama",)


def test_ranks_are_one_and_data_parallel_engines_add_up(history: tuple[FleetHistory, Found]):
    fleet, _ = history
    qwen = model(fleet, "code/qwen").load
    assert (steady(qwen.running), steady(qwen.kv_usage)) == (5.0, pytest.approx(0.4))
    assert steady(qwen.prompt_tokens) == pytest.approx(100.0)
    assert steady(qwen.generation_tokens) == pytest.approx(30.0)
    assert steady(qwen.prefix_hit_ratio) == pytest.approx(0.4)
    mistral = model(fleet, "code/mistral")
    assert (steady(mistral.load.running), steady(mistral.load.running_highest), steady(mistral.serving)) == (
        6.0,
        3.0,
        1.0,
    )
    assert steady(mistral.load.prompt_tokens) == pytest.approx(20.0)


def test_tgi_has_tokens_from_its_sums_and_a_reservation(history: tuple[FleetHistory, Found]):
    tgi = model(history[0], "text/tgi")
    assert [kind for kind, _ in tgi.engines] == [EngineKind.TGI]
    assert steady(tgi.load.kv_reserved) == 0.5
    assert steady(tgi.load.work) == pytest.approx(60.0)
    assert tgi.config.kv_capacity_tokens == 1000.0
    assert isinstance(tgi.load.ttft_mean, Unknown)


def test_what_was_scaled_away_before_the_end_is_found(history: tuple[FleetHistory, Found]):
    course = model(history[0], "gone/phi").serving
    assert isinstance(course, np.ndarray)
    assert np.isnan(course[-4:]).all()
    assert (course[:10] == 1.0).all()


def test_gpus_of_two_dialects_with_their_holders_in_base_units(history: tuple[FleetHistory, Found]):
    fleet, _ = history
    gpus = {gpu.key: gpu for gpu in fleet.gpus}
    assert sorted(gpus) == ["GPU-a", "GPU-b", "GPU-c", "GPU-d"]
    assert [steady(gpus[key].utilization) for key in sorted(gpus)] == pytest.approx([0.8, 0.0, 0.8, 0.25])
    assert steady(gpus["GPU-a"].memory_used_bytes) == pytest.approx(1000 * MIB)
    assert steady(gpus["GPU-d"].memory_used_bytes) == pytest.approx(3000 * MIB)
    assert gpus["GPU-a"].memory_total_bytes == pytest.approx(3000 * MIB)
    assert (gpus["GPU-a"].source, gpus["GPU-d"].source) == (GpuSource.DCGM, GpuSource.DCGM_SCALED)
    assert [one.key for one in gpus["GPU-a"].holdings] == ["chat/llama"]
    assert gpus["GPU-a"].holdings[0].container == "vllm"
    assert gpus["GPU-b"].holdings == ()
    assert [one.key for one in gpus["GPU-c"].holdings] == ["chat/llama", "code/qwen"]
    assert gpus["GPU-b"].holder_source is HolderSource.EXPORTED
    assert isinstance(gpus["GPU-a"].power_watts, Unknown)
    assert lines(fleet, Lack.ABSURD_VALUES)


def test_requests_of_ended_pods_hold_nothing(history: tuple[FleetHistory, Found]):
    assert steady(model(history[0], "chat/llama").gpus_held) == 3.0
    assert model(history[0], "chat/llama").gpus_per_replica == 1.0
