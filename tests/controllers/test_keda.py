"""KEDA itself (operator and metrics adapter) on a real control plane, with the examples' ScaledObjects.

Minutes, and the first run builds KEDA: only `make soak`. The files of examples/ are applied with names, addresses and
times of this cluster. Of what they need, one thing is doubled: Prometheus. The double reads the operator's own page for
our gauge at each question, and tells the second trigger what the test says.
"""

import base64
import contextlib
import http.server
import json
import os
import re
import threading
import time
import urllib.parse
from pathlib import Path

import pytest
import yaml

from hack.binaries import ensure
from hack.real_keda import NAMESPACE, RealKeda
from tests.engine_pages import EnginePages, Page, Scene, deployment
from tests.operator_process import eventually, free_port, install
from tests.unit.web.certificates import Authority

EXAMPLES = Path(__file__).parents[2] / "examples"
BUSY = Page(running=60, waiting=200, kv_cache_usage=0.5)
IDLE = Page(running=0, waiting=0, kv_cache_usage=0.0)
DESIRED = 5
"""One step of policy above one replica."""
FALLBACK = 7
NAME = "vllm-llama-70b"
LOADED = 240
pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]


class Prometheus:
    """Answers instant queries: our gauge from the operator's page, anything else from `queue`; None is no series."""

    def __init__(self, page):
        self.page, self.queue = page, None
        double = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query).get("query", [""])[0]
                value = double.value(query)
                result = [] if value is None else [{"metric": {}, "value": [time.time(), str(value)]}]
                body = json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def value(self, query):
        asked = re.search(r'optiinfra_desired_replicas\{namespace="([^"]+)", name="([^"]+)"\}', query)
        if asked is None:
            return self.queue
        try:
            text = self.page()
        except OSError:
            return None
        line = re.search(
            rf'^optiinfra_desired_replicas\{{name="{asked[2]}",namespace="{asked[1]}"\}} (\S+)$', text, re.MULTILINE
        )
        return None if line is None else float(line[1])

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="module")
def scene(control_plane, tmp_path_factory):
    ensure(["keda-operator", "keda-adapter"])
    prefix = f"keda-{os.getpid()}"
    folder = tmp_path_factory.mktemp("keda")
    with contextlib.ExitStack() as stack:
        pages = stack.enter_context(EnginePages(free_port()))
        installation = stack.enter_context(
            install(control_plane, folder=folder, namespace=f"{prefix}-operator", values={})
        )
        serving, clients = (
            Authority("serving", _made(folder / "serving")),
            Authority("clients", _made(folder / "clients")),
        )
        server, client = serving.sign("optiinfra-operator", server=True), clients.sign("keda")
        (folder / "client-ca.crt").write_text(clients.pem)
        port = free_port()
        operator = installation.operator(
            OPTIINFRA_INTERVAL_SECONDS="1",
            OPTIINFRA_SCRAPE_INTERVAL_SECONDS="1",
            OPTIINFRA_SIGNAL_WINDOW_SECONDS="10",
            OPTIINFRA_STALE_AFTER_SECONDS="6",
            OPTIINFRA_TICK_SECONDS="1",
            OPTIINFRA_HOLD_SECONDS="0",
            OPTIINFRA_HTTP_HOST="0.0.0.0",
            OPTIINFRA_KEDA_SCALER_ENABLED="true",
            OPTIINFRA_KEDA_SCALER_PORT=str(port),
            OPTIINFRA_KEDA_CERTIFICATE_FILE=str(server.certificate),
            OPTIINFRA_KEDA_KEY_FILE=str(server.key),
            OPTIINFRA_KEDA_CLIENT_CA_FILE=str(folder / "client-ca.crt"),
        )
        stack.callback(operator.kill)
        made = Scene(control_plane, installation, operator, pages, prefix)
        made.keda_port = port
        made.prometheus = Prometheus(lambda: operator.get("/metrics").text)
        stack.callback(made.prometheus.close)
        made.keda = stack.enter_context(RealKeda(control_plane, folder=folder / "keda", port=free_port))
        secret = {
            "metadata": {"name": "optiinfra-keda-client"},
            "data": {
                "ca.crt": base64.b64encode(serving.pem.encode()).decode(),
                "tls.crt": base64.b64encode(client.certificate.read_bytes()).decode(),
                "tls.key": base64.b64encode(client.key.read_bytes()).decode(),
            },
        }
        control_plane.request("POST", f"/api/v1/namespaces/{NAMESPACE}/secrets", secret)
        operator.start()
        operator.wait_ready()
        yield made


def _made(folder):
    folder.mkdir()
    return folder


def apply(scene, case, file):
    """Apply an example in a namespace of its own, with this cluster's names, addresses and times."""
    namespace = f"{scene.prefix}-{case}"
    scene.cluster.kubectl("create", "namespace", namespace)
    scene.made[case] = namespace
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments"
    scene.cluster.request("POST", path, deployment(NAME, replicas=1))
    documents = list(yaml.safe_load_all((EXAMPLES / file).read_text().replace('"inference"', f'"{namespace}"')))
    for document in documents:
        if "namespace" in document["metadata"]:
            document["metadata"]["namespace"] = namespace
        spec = document["spec"]
        if document["kind"] == "ResourceOptimization":
            spec["engine"] = {"port": scene.pages.port}
            spec["policy"] = {"cooldown": "1s"}
            spec["scaling"]["startupTime"] = "20s"
        if document["kind"] == "ScaledObject":
            spec |= {"pollingInterval": 2, "cooldownPeriod": 5}
            spec["fallback"]["replicas"] = FALLBACK
            for trigger in spec["triggers"]:
                if trigger["type"] == "prometheus":
                    trigger["metadata"]["serverAddress"] = scene.prometheus.url
                else:
                    trigger["metadata"]["scalerAddress"] = f"127.0.0.1:{scene.keda_port}"
    scene.cluster.kubectl("apply", "--server-side", "--filename=-", input=yaml.safe_dump_all(documents))
    return namespace


def replicas(scene, namespace):
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/{NAME}"
    return scene.cluster.request("GET", path)["spec"].get("replicas", 1)


def condition(scene, namespace, kind):
    path = f"/apis/keda.sh/v1alpha1/namespaces/{namespace}/scaledobjects/{NAME}"
    conditions = scene.cluster.request("GET", path).get("status", {}).get("conditions", ())
    return next((entry.get("status") for entry in conditions if entry["type"] == kind), None)


def addresses(scene, namespace):
    pods = scene.cluster.request("GET", f"/api/v1/namespaces/{namespace}/pods")["items"]
    return [address for pod in pods if (address := pod.get("status", {}).get("podIP"))]


def serve(scene, namespace, page):
    for address in addresses(scene, namespace):
        scene.pages.serve(address, page)


def reached(scene, namespace, page, count, figures, what):
    """Serve a page on all pods until the Deployment has so many replicas; returns the seconds."""
    started = time.monotonic()

    def there():
        serve(scene, namespace, page)
        return replicas(scene, namespace) == count

    eventually(there, seconds=LOADED, what=f"{what}: {count} replicas")
    figures.add("KEDA 2.21", what, time.monotonic() - started, "s")


@pytest.mark.parametrize(
    ("case", "file"), [("prometheus", "signal-keda.yaml"), ("external", "signal-keda-external.yaml")]
)
def test_keda_follows_us_and_its_fallback_takes_over_when_we_are_gone(scene, figures, case, file):
    scene.prometheus.queue = 0
    if not scene.operator.running:
        scene.operator.start()
        scene.operator.wait_ready()
    namespace = apply(scene, case, file)
    reached(scene, namespace, BUSY, DESIRED, figures, f"{case}: our count reached by KEDA's HPA")
    hpas = scene.cluster.request("GET", f"/apis/autoscaling/v2/namespaces/{namespace}/horizontalpodautoscalers")
    (hpa,) = hpas["items"]
    assert hpa["metadata"]["ownerReferences"][0]["kind"] == "ScaledObject"
    assert len(hpa["spec"]["metrics"]) == 2
    assert hpa["spec"]["metrics"][0]["external"]["target"] == {"type": "AverageValue", "averageValue": "1"}

    # The engines fall silent: the operator is unsure, and says so instead of its last number.
    for address in addresses(scene, namespace):
        scene.pages.stop(address)
    started = time.monotonic()
    lowest = [DESIRED]

    def fallen_back():
        lowest.append(replicas(scene, namespace))
        return condition(scene, namespace, "Fallback") == "True" and lowest[-1] == FALLBACK

    eventually(fallen_back, seconds=LOADED, what="KEDA's fallback takes over")
    figures.add("KEDA 2.21", f"{case}: fallback after the engines fell silent", time.monotonic() - started, "s")
    assert min(lowest) >= DESIRED, "nothing shrinks because we are unsure"

    # Now nobody is there at all.
    scene.operator.kill()
    before = replicas(scene, namespace)
    scene.prometheus.queue = 8 * (before + 2)
    if case == "prometheus":
        eventually(lambda: replicas(scene, namespace) > before, seconds=LOADED, what="the second trigger scales up")
    else:
        for _ in range(30):
            # An external scaler that cannot be reached makes KEDA withhold the metrics of all triggers: it holds. Once
            # it grows here, KEDA has got better, and docs/how-to/keda.md has to say so.
            assert replicas(scene, namespace) == before
            time.sleep(1.0)
    assert replicas(scene, namespace) >= before, "nothing shrinks because we are away"
    scene.prometheus.queue = 0

    scene.operator.start()
    scene.operator.wait_ready()

    def back():
        serve(scene, namespace, BUSY)
        return condition(scene, namespace, "Fallback") == "False"

    eventually(back, seconds=LOADED, what="KEDA listens to us again")


def rule(scene, namespace):
    path = f"/apis/optiinfra.io/v1alpha1/namespaces/{namespace}/resourceoptimizations/llama-70b"
    status = scene.cluster.request("GET", path).get("status", {})
    return status.get("desired", {}).get("rule"), status


def test_down_to_zero_and_back_by_the_second_trigger(scene, figures):
    scene.prometheus.queue = 0
    if not scene.operator.running:
        scene.operator.start()
        scene.operator.wait_ready()
    namespace = apply(scene, "zero", "signal-keda-external.yaml")
    reached(scene, namespace, IDLE, 0, figures, "external: nothing to do, down to zero replicas")
    eventually(lambda: rule(scene, namespace)[0] == "Asleep", seconds=LOADED, what="zero is a state of its own")
    for _ in range(10):
        assert replicas(scene, namespace) == 0, "nobody is woken"
        assert condition(scene, namespace, "Ready") == "True", "a quiet night is no error"
        time.sleep(1.0)

    scene.prometheus.queue = 1
    started = time.monotonic()
    eventually(lambda: replicas(scene, namespace) >= 1, seconds=LOADED, what="a queue at the gateway brings it back")
    figures.add("KEDA 2.21", "external: first replica after a queue at the gateway", time.monotonic() - started, "s")

    counts = set()

    def judged():
        serve(scene, namespace, Page(running=2, kv_cache_usage=0.05))
        counts.add(replicas(scene, namespace))
        return next((one for one in rule(scene, namespace)[1].get("actions", ()) if "outcome" in one), None)

    action = eventually(judged, seconds=LOADED, what="a zero that was needed again so soon is judged")
    assert (action["to"], action["outcome"]["reason"]) == ("0", "NeededAgain")
    assert counts == {1}, "a start is no fault: KEDA's fallback stays out of it"
    scene.prometheus.queue = 0
    for _ in range(10):
        serve(scene, namespace, Page(running=2, kv_cache_usage=0.05))
        assert replicas(scene, namespace) == 1, "what runs keeps it, without the second trigger"
        time.sleep(1.0)
