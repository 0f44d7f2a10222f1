"""examples/hpa-external-metric.yaml on a real control plane: the real HPA controller follows our metric, and the second
one when ours is gone.

The file is applied as it is but for names of the cluster and the engines' port. The second metric comes from an adapter
that the test stands in for (custom.metrics.k8s.io).
"""

import contextlib
import os
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path

import grpc
import pytest
import yaml

from hack.cluster.aggregated import AggregatedApi, refusal
from tests.engine_pages import EnginePages, Page, Scene, deployment
from tests.keda_client import generate
from tests.operator_process import eventually, free_port, install
from tests.unit.web.certificates import Authority

EXAMPLE = Path(__file__).parents[2] / "examples" / "hpa-external-metric.yaml"
BUSY = Page(running=60, waiting=200, kv_cache_usage=0.5)
WAITING = "vllm_num_requests_waiting"
CUSTOM = "custom.metrics.k8s.io/v1beta2"
DESIRED = 5
"""One step of policy above one replica."""
pytestmark = [pytest.mark.timeout(400)]


class Adapter:
    """Requests waiting at each pod, as an adapter of the user's would give them to the HPA controller."""

    def __init__(self, cluster, namespace):
        self.cluster, self.namespace, self.waiting = cluster, namespace, 1

    def __call__(self, request):
        parts = request.path.split("/")
        if parts[-1] != WAITING or "pods" not in parts:
            return refusal(f"{request.path}: only {WAITING} of pods is known")
        pods = self.cluster.request("GET", f"/api/v1/namespaces/{self.namespace}/pods")["items"]
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        items = [
            {
                "describedObject": {"kind": "Pod", "namespace": self.namespace, "name": pod["metadata"]["name"]},
                "metric": {"name": WAITING},
                "timestamp": now,
                "value": str(self.waiting),
            }
            for pod in pods
        ]
        body = {"kind": "MetricValueList", "apiVersion": CUSTOM, "metadata": {}, "items": items}
        return HTTPStatus.OK, body


@pytest.fixture(scope="module")
def scene(control_plane, tmp_path_factory):
    prefix = f"hpa-example-{os.getpid()}"
    values = {"externalMetrics.enabled": "true"}
    with contextlib.ExitStack() as stack:
        pages = stack.enter_context(EnginePages(free_port()))
        folder = tmp_path_factory.mktemp("hpa-example")
        installation = stack.enter_context(
            install(control_plane, folder=folder, namespace=f"{prefix}-operator", values=values)
        )
        authority = Authority("keda", folder)
        (folder / "ca.crt").write_text(authority.pem)
        server = authority.sign("optiinfra-operator", server=True)
        port = free_port()
        operator = installation.operator(
            OPTIINFRA_HTTP_HOST="0.0.0.0",
            OPTIINFRA_KEDA_SCALER_ENABLED="true",
            OPTIINFRA_KEDA_SCALER_PORT=str(port),
            OPTIINFRA_KEDA_CERTIFICATE_FILE=str(server.certificate),
            OPTIINFRA_KEDA_KEY_FILE=str(server.key),
            OPTIINFRA_KEDA_CLIENT_CA_FILE=str(folder / "ca.crt"),
            OPTIINFRA_INTERVAL_SECONDS="1",
            OPTIINFRA_SCRAPE_INTERVAL_SECONDS="1",
            OPTIINFRA_SIGNAL_WINDOW_SECONDS="10",
            OPTIINFRA_STALE_AFTER_SECONDS="6",
            OPTIINFRA_TICK_SECONDS="1",
            OPTIINFRA_HOLD_SECONDS="0",
        )
        stack.callback(operator.kill)
        made = Scene(control_plane, installation, operator, pages, prefix)
        made.authority, made.keda_port, made.folder = authority, port, folder
        namespace = f"{prefix}-service"
        control_plane.kubectl("create", "namespace", namespace)
        made.made["service"] = namespace
        stack.callback(control_plane.kubectl, "delete", "namespace", namespace, "--wait=false")
        made.adapter = Adapter(control_plane, namespace)
        resources = [{"name": f"pods/{WAITING}", "singularName": "", "namespaced": True}]
        resources[0] |= {"kind": "MetricValueList", "verbs": ["get"]}
        stack.enter_context(
            AggregatedApi(
                control_plane, namespace=namespace, group_version=CUSTOM, resources=resources, answer=made.adapter
            )
        )
        operator.start()
        operator.wait_ready()
        installation.send_external_metrics_to(operator)
        body = deployment("vllm-llama-70b", replicas=1)
        control_plane.request("POST", f"/apis/apps/v1/namespaces/{namespace}/deployments", body)
        yield made


def replicas(scene):
    path = f"/apis/apps/v1/namespaces/{scene.made['service']}/deployments/vllm-llama-70b"
    return scene.cluster.request("GET", path)["spec"]["replicas"]


def conditions(scene):
    path = f"/apis/autoscaling/v2/namespaces/{scene.made['service']}/horizontalpodautoscalers/vllm-llama-70b"
    found = scene.cluster.request("GET", path).get("status", {}).get("conditions", ())
    return {entry["type"]: (entry["status"], entry["reason"]) for entry in found}


def serve_all(scene, behaviour):
    """Every pod of the workload has the same page, however many there are by now."""
    namespace = scene.made["service"]
    for pod in scene.cluster.request("GET", f"/api/v1/namespaces/{namespace}/pods")["items"]:
        address = pod.get("status", {}).get("podIP")
        if address:
            scene.pages.serve(address, behaviour)


def test_the_example_follows_our_count_and_its_second_metric_when_ours_is_gone(scene):
    namespace = scene.made["service"]
    optimization, scaler = yaml.safe_load_all(EXAMPLE.read_text())
    optimization["spec"]["engine"] = {"port": scene.pages.port}
    for document, path in (
        (optimization, f"/apis/optiinfra.io/v1alpha1/namespaces/{namespace}/resourceoptimizations"),
        (scaler, f"/apis/autoscaling/v2/namespaces/{namespace}/horizontalpodautoscalers"),
    ):
        document["metadata"]["namespace"] = namespace
        scene.cluster.request("POST", path, document)

    def followed():
        serve_all(scene, BUSY)
        return replicas(scene) >= DESIRED

    eventually(followed, seconds=120, what="the HPA controller follows the decision")
    assert conditions(scene)["ScalingActive"][0] == "True"

    # KEDA would be told the same by the same process.
    active, count = keda_is_told(scene)
    assert active
    assert count >= DESIRED
    assert scene.operator.detailed()["components"]["keda_scaler"]["status"] == "healthy"

    # Now nobody answers for the engines: the operator is unsure, its metric is absent, and nothing may shrink.
    scene.operator.kill()
    before = replicas(scene)
    eventually(
        lambda: _failing(scene) or None, seconds=90, what="the HPA controller says that our metric cannot be had"
    )
    scene.adapter.waiting = 16
    eventually(lambda: replicas(scene) > before, seconds=120, what="the second metric goes on scaling up")
    scene.adapter.waiting = 0
    grown = replicas(scene)
    seen = scene.cluster.request(
        "GET", f"/apis/autoscaling/v2/namespaces/{namespace}/horizontalpodautoscalers/vllm-llama-70b"
    )
    assert seen["spec"]["metrics"][0]["type"] == "External"
    assert replicas(scene) >= grown, "while one metric fails the HPA never shrinks"


def _failing(scene):
    events = scene.cluster.request("GET", f"/api/v1/namespaces/{scene.made['service']}/events")["items"]
    return any(event["reason"] == "FailedGetExternalMetric" for event in events)


def keda_is_told(scene):
    """What KEDA's calls are answered over mutual TLS: active, and the metric."""
    keda = generate(scene.folder)
    pair = scene.authority.sign("keda-client")
    files = (scene.authority.pem.encode(), pair.key.read_bytes(), pair.certificate.read_bytes())
    with grpc.secure_channel(f"127.0.0.1:{scene.keda_port}", grpc.ssl_channel_credentials(*files)) as channel:
        stub = keda.Stub(channel)
        reference = keda.messages.ScaledObjectRef(
            name="any", namespace=scene.made["service"], scalerMetadata={"resourceOptimization": "llama-70b"}
        )
        values = stub.GetMetrics(keda.messages.GetMetricsRequest(scaledObjectRef=reference), timeout=30).metricValues
        return stub.IsActive(reference, timeout=30).result, values[0].metricValue
