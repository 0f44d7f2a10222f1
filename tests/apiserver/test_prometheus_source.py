"""The same load by pods and by Prometheus: a real Prometheus scrapes the engines that the operator scrapes, too.

Two objects of one namespace stand on workloads that serve the same pages; one reads its pods, the other the server. The
server then goes away and comes back. What one says the other has to say: counts, bottleneck, settings, reasons.
"""

import contextlib
import json
import os
import shutil
import time

import pytest

from hack.binaries.catalogue import architecture
from hack.binaries.debian import PACKAGES, ensure_packaged
from hack.prometheus.server import Server
from tests.engine_pages import EnginePages, Page, Scene, Trouble
from tests.operator_process import eventually, free_port, install

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(
        shutil.which("prometheus") is None and architecture() not in PACKAGES["prometheus"].sha256,
        reason=f"prometheus is not on the PATH, and no package is pinned for {architecture()}",
    ),
]

CALM = Page(running=30, kv_cache_usage=0.2)
BUSY = Page(running=60, waiting=200, kv_cache_usage=0.5)
PATIENCE = 60.0
ROUND = 1.0
SCRAPE = 1.0
ASK = 2.0
TICK = 3.0
CONFIGURATION = """
global: {scrape_interval: 1s, scrape_timeout: 1s}
scrape_configs:
  - job_name: engines
    file_sd_configs: [{files: [%s], refresh_interval: 1s}]
"""


class MetricsServer:
    """Debian's Prometheus, with its targets in a file; it may be stopped and started again at its address."""

    def __init__(self, folder):
        self.folder, self.port, self.process = folder, free_port(), None
        self.targets = folder / "targets.json"
        self.targets.write_text("[]")
        (folder / "prometheus.yml").write_text(CONFIGURATION % self.targets)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def scrape(self, namespace, pods):
        """Name the pods (name -> host:port) as a service discovery would."""
        found = [
            {"targets": [host], "labels": {"namespace": namespace, "pod": name, "container": "vllm"}}
            for name, host in pods.items()
        ]
        fresh = self.targets.with_suffix(".new")
        fresh.write_text(json.dumps(found))
        fresh.rename(self.targets)

    def start(self):
        command = [
            str(ensure_packaged("prometheus")),
            f"--config.file={self.folder}/prometheus.yml",
            f"--storage.tsdb.path={self.folder}/data",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]
        self.process = Server(
            name="prometheus", command=command, port=self.port, log=self.folder / "log", ready="/-/ready"
        )

    def stop(self):
        if self.process is not None:
            self.process.stop()
            self.process = None


@pytest.fixture(name="metrics_server", scope="module")
def a_metrics_server(tmp_path_factory):
    server = MetricsServer(tmp_path_factory.mktemp("prometheus"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(name="world", scope="module")
def the_world(apiserver, metrics_server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prometheus-source")
    prefix = f"prom-{os.getpid()}"
    with contextlib.ExitStack() as stack:
        pages = stack.enter_context(EnginePages(free_port()))
        values = {"metricsServer.url": metrics_server.url}
        installation = stack.enter_context(
            install(apiserver, folder=folder, namespace=f"{prefix}-operator", values=values)
        )
        operator = installation.operator(
            OPTIINFRA_INTERVAL_SECONDS=str(ROUND),
            OPTIINFRA_SCRAPE_INTERVAL_SECONDS=str(SCRAPE),
            OPTIINFRA_PROMETHEUS_INTERVAL_SECONDS=str(ASK),
            OPTIINFRA_TICK_SECONDS=str(TICK),
            OPTIINFRA_STALE_AFTER_SECONDS="8",
            OPTIINFRA_SIGNAL_WINDOW_SECONDS="15",
        )
        made = Scene(apiserver, installation, operator, pages, prefix)
        stack.callback(made.remove)
        stack.callback(operator.kill)
        operator.start().wait_ready()
        yield made


def pair(world, metrics_server, case, *behaviours, **engine):
    """Two workloads with the same pages, and an object for each: by-pods and by-prometheus."""
    namespace = world.namespace(case)
    addresses = {name: world.engines(namespace, name, *behaviours) for name in ("by-pods", "by-prometheus")}
    pods = {
        f"{name}-{number}": f"{address}:{world.pages.port}"
        for name, found in addresses.items()
        for number, address in enumerate(found)
    }
    metrics_server.scrape(namespace, pods)
    world.optimize(namespace, "by-pods")
    world.optimize(namespace, "by-prometheus", engine={"source": "Prometheus", "port": world.pages.port, **engine})
    return namespace, [address for found in addresses.values() for address in found]


def judged(world, namespace, name):
    """What was decided of an object, without times and without names."""
    status = world.status(namespace, name)
    conditions = {one["type"]: (one["status"], one["reason"]) for one in status.get("conditions", ())}
    return {
        "bottleneck": status.get("bottleneck", {}).get("type"),
        "desired": [
            {key: one.get("desired", {}).get(key) for key in ("replicas", "rule", "floor", "reason", "unknown")}
            for one in status.get("targets", ())
        ],
        "utilization": [status.get("utilization", {}).get(key) for key in ("kvCachePercent", "batchPercent")],
        "conditions": {kind: conditions.get(kind) for kind in ("Ready", "MetricsAvailable", "AnalysisComplete")},
        "recommended": sorted((one["type"], one["reason"]) for one in status.get("recommendations", ())),
        "published": world.operator.desired(namespace).get(name),
    }


def together(world, namespace, *, bottleneck):
    """Wait until both say the same, and that; return what it is, and when each said it first."""
    began, first = time.monotonic(), {}

    def agree():
        found = {name: judged(world, namespace, name) for name in ("by-pods", "by-prometheus")}
        for name, one in found.items():
            if one["bottleneck"] == bottleneck and one["published"] is not None:
                first.setdefault(name, time.monotonic() - began)
        assert found["by-pods"] == found["by-prometheus"]
        assert len(first) == 2, found
        return found["by-pods"]

    return eventually(agree, seconds=PATIENCE, what=f"both say {bottleneck}"), first


def test_the_same_load_is_decided_alike_by_pods_and_by_prometheus(world, metrics_server, figures):
    namespace, addresses = pair(world, metrics_server, "alike", CALM, CALM)
    calm, _ = together(world, namespace, bottleneck=judged_bottleneck(world, namespace))
    assert calm["conditions"]["MetricsAvailable"] == ("True", "Succeeded")
    for address in addresses:
        world.pages.serve(address, BUSY)
    busy, first = together(world, namespace, bottleneck="Queue")
    assert busy["published"] > 2.0
    # A load that one of them saw for a tick and the other for two teaches them different things.
    time.sleep(4.0 * TICK)
    busy, _ = together(world, namespace, bottleneck="Queue")
    for address in addresses:
        world.pages.serve(address, CALM)
    again, _ = together(world, namespace, bottleneck=calm["bottleneck"])
    assert again["bottleneck"] == calm["bottleneck"]

    def history_told():
        found = world.status(namespace, "by-prometheus").get("history", {})
        # This server is minutes old at most: it was asked, and what is missing is said, be it all or a part.
        message = found.get("message", "")
        assert "no series of its pods" in message or "not there:" in message, found
        return True

    eventually(history_told, seconds=90.0, what="the server was asked for what it remembers")
    lag = max(0.0, first["by-prometheus"] - first["by-pods"])
    figures.add("Prometheus as a source", "seconds behind the pods' decision on a rise", round(lag, 1), "s")


def judged_bottleneck(world, namespace):
    def said():
        found = judged(world, namespace, "by-pods")
        assert found["conditions"]["MetricsAvailable"] == ("True", "Succeeded")
        return found["bottleneck"]

    return eventually(said, seconds=PATIENCE, what="the pods are heard")


@pytest.mark.soak
def test_a_server_that_goes_away_is_said_and_decisions_hold_until_it_is_back(world, metrics_server):
    namespace, _ = pair(world, metrics_server, "away", BUSY)
    together(world, namespace, bottleneck="Queue")
    metrics_server.stop()

    def told():
        found = world.condition(namespace, "MetricsAvailable", "by-prometheus")
        assert (found.get("status"), found.get("reason")) == ("False", "MetricsServerUnreachable"), found
        assert metrics_server.url in found["message"]
        return True

    eventually(told, seconds=PATIENCE, what="the object says that its server is away")
    assert world.condition(namespace, "MetricsAvailable", "by-pods")["status"] == "True"
    up = world.operator.series("optiinfra_metrics_server_up")
    assert set(up.values()) == {0.0}
    eventually(
        lambda: "by-prometheus" not in world.operator.desired(namespace),
        seconds=PATIENCE,
        what="nothing is published on what is not known",
    )
    lines = [one for one in world.operator.records() if one.get("message") == "metrics server not read"]
    assert lines
    metrics_server.start()
    together(world, namespace, bottleneck="Queue")


@pytest.mark.soak
def test_a_pod_that_the_server_cannot_scrape_is_unreachable_for_its_object(world, metrics_server):
    namespace, _ = pair(world, metrics_server, "down", None)

    def told():
        found = world.condition(namespace, "MetricsAvailable", "by-prometheus")
        assert (found.get("status"), found.get("reason")) == ("False", "EngineUnreachable"), found
        assert "up is 0" in found["message"]
        return True

    eventually(told, seconds=PATIENCE, what="a target that is down")


@pytest.mark.soak
def test_an_engine_that_is_not_there_is_told_for_pages_and_for_series(world, metrics_server):
    namespace, _ = pair(world, metrics_server, "type", CALM, type="SGLang")
    world.change(namespace, {"engine": {"type": "SGLang"}}, "by-pods")

    def told():
        reasons = {
            name: world.condition(namespace, "MetricsAvailable", name).get("reason")
            for name in ("by-pods", "by-prometheus")
        }
        assert reasons == {"by-pods": "EnginePageInvalid", "by-prometheus": "SeriesMissing"}
        return True

    eventually(told, seconds=PATIENCE, what="SGLang is not on the page")
    world.change(namespace, {"engine": {"type": "vLLM", "containerName": "vllm"}}, "by-pods")
    world.change(namespace, {"engine": {"type": "vLLM", "containerName": "vllm"}}, "by-prometheus")
    together(world, namespace, bottleneck=judged_bottleneck(world, namespace))
    world.change(namespace, {"engine": {"containerName": "sidecar"}}, "by-pods")

    def refused():
        found = world.condition(namespace, "Ready", "by-pods")
        assert found.get("reason") == "InvalidSpec", found
        assert "containerName" in found["message"]
        assert "vllm" in found["message"]
        return True

    eventually(refused, seconds=PATIENCE, what="no pod has that container")


def test_a_login_page_in_front_of_the_server_is_told(world):
    login = world.address()
    world.pages.serve(login, Trouble.HTML)
    namespace = world.namespace("login")
    world.engines(namespace, "svc", CALM)
    body = {
        "apiVersion": "optiinfra.io/v1alpha1",
        "kind": "ClusterResourceOptimization",
        "metadata": {"name": world.prefix},
        "spec": {"metricsSources": [{"type": "Prometheus", "url": f"http://{login}:{world.pages.port}"}]},
    }
    path = "/apis/optiinfra.io/v1alpha1/clusterresourceoptimizations"
    world.cluster.request("POST", path, body)
    try:
        world.optimize(namespace, engine={"source": "Prometheus"})

        def told():
            found = world.condition(namespace, "MetricsAvailable")
            assert found.get("reason") == "MetricsServerInvalid", found
            return True

        eventually(told, seconds=PATIENCE, what="a login page is no metrics server")
    finally:
        world.cluster.request("DELETE", f"{path}/{world.prefix}")
