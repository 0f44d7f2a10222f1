"""Right-sizing from end to end: a real operator, the real API server, and metrics.k8s.io behind its aggregation layer.

Eight days of use come out of a checkpoint, as after a change of leader; the rest is measured. Three replicas of the
operator follow each other: one that learns, one that has only what the first one saved, and one that is lied to.
"""

import base64
import contextlib
import json
import math
import os
import time
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path

import pytest
import yaml

from hack.cluster.aggregated import AggregatedApi
from optiinfra.control import sizing
from optiinfra.control.checkpoint import VERSION, pack, unpack
from optiinfra.control.memory import ObjectMemory
from optiinfra.control.usage import UsageSample
from optiinfra.domain import gpu_models, gpu_share
from optiinfra.domain.evidence import Proposal
from optiinfra.domain.gpu_share import ShareCase
from optiinfra.domain.gpu_use import GpuUse
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.resource_patch import WorkloadName
from optiinfra.domain.sizing_words import read_amount
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.domain.workload import ContainerFacts
from tests.engine_pages import make_namespace
from tests.operator_process import eventually, install

pytestmark = pytest.mark.timeout(180)

DAY = 86_400.0
NONE = Unknown(UnknownReason.NOT_CONFIGURED, "not set")
SEEDED = 8 * 288
VPA_CRDS = Path(__file__).parents[2] / "hack" / "real_vpa" / "crds.yaml"
RESOURCES = [{"name": "pods", "singularName": "", "namespaced": True, "kind": "PodMetrics", "verbs": ["get", "list"]}]


class Meter:
    """What metrics-server would say; `lie` replaces the memory of every container."""

    def __init__(self):
        self.broken = False
        self.lie = ""
        self.asked = 0

    def answer(self, request):
        if self.broken:
            return HTTPStatus.SERVICE_UNAVAILABLE, {"kind": "Status", "apiVersion": "v1", "message": "down"}
        namespace = request.path.split("/")[1]
        self.asked += 1
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        items = [
            {
                "metadata": {"name": f"shop-{number}", "namespace": namespace},
                "timestamp": now,
                "window": "15s",
                "containers": [{"name": "app", "usage": {"cpu": "450m", "memory": self.lie or "900Mi"}}],
            }
            for number in range(2)
        ]
        return HTTPStatus.OK, {"kind": "PodMetricsList", "apiVersion": "metrics.k8s.io/v1beta1", "items": items}


def state():
    """What eight days of a container look like in a checkpoint."""
    memory, now = ObjectMemory(), time.time() - 300.0
    samples = [
        UsageSample("app", UnixTime(at), 0.4 + 0.1 * math.sin(at / DAY * math.tau), 1e9, starting=False)
        for at in (now - 300.0 * (SEEDED - 1 - step) for step in range(SEEDED))
    ]
    sizing.hear(memory.target("shop"), samples, (), now=UnixTime(now))
    return base64.b64encode(pack(memory)).decode()


class Shop:
    """A Deployment with two pods that ask for far too much, and an HPA on their CPU."""

    def __init__(self, cluster, namespace):
        self.cluster, self.namespace = cluster, make_namespace(cluster, namespace)
        container = {
            "name": "app",
            "image": "shop:1",
            "resources": {"requests": {"cpu": "2", "memory": "4Gi"}, "limits": {"memory": "4Gi"}},
        }
        labels = {"app": "shop"}
        self._post(
            "/apis/apps/v1",
            "deployments",
            {
                "metadata": {"name": "shop"},
                "spec": {
                    "replicas": 2,
                    "selector": {"matchLabels": labels},
                    "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
                },
            },
        )
        for number in range(2):
            self._pod(f"shop-{number}", labels, container)
        target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "shop"}
        utilization = {"type": "Utilization", "averageUtilization": 70}
        self._post(
            "/apis/autoscaling/v2",
            "horizontalpodautoscalers",
            {
                "metadata": {"name": "shop"},
                "spec": {
                    "maxReplicas": 8,
                    "scaleTargetRef": target,
                    "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": utilization}}],
                },
            },
        )
        made = self._post(
            "/apis/optiinfra.io/v1alpha1",
            "resourceoptimizations",
            {"metadata": {"name": "shop"}, "spec": {"targetRef": target, "insights": {"enabled": False}}},
        )
        owner = {key: made[key] for key in ("apiVersion", "kind")} | {"name": "shop", "uid": made["metadata"]["uid"]}
        self._post(
            "/apis/optiinfra.io/v1alpha1",
            "optimizationcheckpoints",
            {
                "metadata": {"name": "shop", "ownerReferences": [owner]},
                "spec": {
                    "version": VERSION,
                    "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
                    "state": state(),
                },
            },
        )

    def _post(self, group, plural, body):
        kinds = {"deployments": "Deployment", "pods": "Pod", "horizontalpodautoscalers": "HorizontalPodAutoscaler"}
        kinds |= {"resourceoptimizations": "ResourceOptimization", "optimizationcheckpoints": "OptimizationCheckpoint"}
        kinds |= {"verticalpodautoscalers": "VerticalPodAutoscaler"}
        version = group.removeprefix("/apis/").removeprefix("/api/")
        whole = {"apiVersion": version, "kind": kinds[plural], **body}
        return self.cluster.request("POST", f"{group}/namespaces/{self.namespace}/{plural}", whole)

    def _pod(self, name, labels, container):
        body = {"metadata": {"name": name, "labels": labels}, "spec": {"containers": [container], "nodeName": "n1"}}
        self._post("/api/v1", "pods", body)
        types = ("PodScheduled", "Initialized", "ContainersReady", "Ready")
        conditions = [{"type": each, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"} for each in types]
        path = f"/api/v1/namespaces/{self.namespace}/pods/{name}/status"
        self.cluster.request(
            "PATCH",
            path,
            {"status": {"phase": "Running", "conditions": conditions}},
            content_type="application/merge-patch+json",
        )

    def leave_to_a_vertical_scaler(self):
        target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "shop"}
        self._post(
            "/apis/autoscaling.k8s.io/v1",
            "verticalpodautoscalers",
            {"metadata": {"name": "shop"}, "spec": {"targetRef": target, "updatePolicy": {"updateMode": "Recreate"}}},
        )

    def status(self):
        path = f"/apis/optiinfra.io/v1alpha1/namespaces/{self.namespace}/resourceoptimizations/shop"
        return self.cluster.request("GET", path).get("status", {})

    def sizes(self):
        found = [one for one in self.status().get("recommendations", ()) if one["type"] == "Resources"]
        return {one["setting"]: one for one in found}

    def refused(self):
        return {one["reason"]: one["message"] for one in self.status().get("refusals", ())}

    def degraded(self):
        conditions = self.status().get("conditions", ())
        return next((one for one in conditions if one["type"] == "Degraded"), {})


@pytest.fixture(scope="module")
def scene(apiserver, tmp_path_factory):
    folder, prefix = tmp_path_factory.mktemp("sizes"), f"sizes-{os.getpid()}"
    meter, seen = Meter(), {}
    with contextlib.ExitStack() as stack:
        installation = stack.enter_context(install(apiserver, folder=folder, namespace=f"{prefix}-operator"))
        apiserver.kubectl("apply", "--server-side", "-f", str(VPA_CRDS))
        stack.callback(apiserver.kubectl, "delete", "-f", str(VPA_CRDS), "--wait=false")
        shop, scaled = Shop(apiserver, f"{prefix}-shop"), Shop(apiserver, f"{prefix}-scaled")
        eventually(lambda: scaled.leave_to_a_vertical_scaler() or True, seconds=20, what="the VPA's kind is served")
        stack.enter_context(
            AggregatedApi(
                apiserver,
                namespace=f"{prefix}-operator",
                group_version="metrics.k8s.io/v1beta1",
                resources=RESOURCES,
                answer=meter.answer,
            )
        )

        def start():
            return installation.operator(OPTIINFRA_INTERVAL_SECONDS="1", OPTIINFRA_RETRY_PERIOD_SECONDS="0.5").start()

        learning = start()
        eventually(lambda: len(shop.sizes()) == 2, seconds=40, what="sizes")
        eventually(lambda: meter.asked >= 2, seconds=20, what="both namespaces are measured")
        eventually(lambda: scaled.refused().get("VerticalScalerActs"), seconds=20, what="the VPA is seen")
        seen["learned"], seen["refused by the VPA"] = shop.sizes(), scaled.refused()
        seen["sizes beside the VPA"] = scaled.sizes()
        events = apiserver.request("GET", f"/apis/events.k8s.io/v1/namespaces/{shop.namespace}/events")["items"]
        seen["events"] = [one for one in events if one["reason"] == "ResourcesRecommended"]
        time.sleep(3.0)  # rounds come every second, and the next one takes the samples
        assert learning.terminate() == 0
        seen["saved"] = saved(shop)
        seen["complaints"] = learning.complaints()

        meter.broken = True
        path = f"/apis/optiinfra.io/v1alpha1/namespaces/{shop.namespace}/resourceoptimizations/shop/status"
        apiserver.request(
            "PATCH", path, {"status": {"recommendations": []}}, content_type="application/merge-patch+json"
        )
        remembering = start()
        eventually(shop.sizes, seconds=40, what="sizes from the checkpoint alone")
        seen["remembered"] = shop.sizes()
        assert remembering.terminate() == 0

        meter.broken, meter.lie = False, "40Gi"
        lied_to = start()
        eventually(lambda: "UsageInvalid" in shop.refused(), seconds=40, what="a sample that cannot be is seen")
        seen["lied to"] = (shop.sizes(), shop.refused(), shop.degraded())
        assert lied_to.terminate() == 0
        yield shop, seen


def saved(shop):
    """The history that the operator's checkpoint holds."""
    path = f"/apis/optiinfra.io/v1alpha1/namespaces/{shop.namespace}/optimizationcheckpoints/shop"
    memory, kept = ObjectMemory(), shop.cluster.request("GET", path)["spec"]
    unpack(base64.b64decode(kept["state"]), memory, version=kept["version"])
    return memory.target("shop").usage["app"]


def _evidence(item, signal, statistic=None):
    return next(
        one["value"] for one in item["evidence"] if one["signal"] == signal and statistic in {None, one["statistic"]}
    )


def test_requests_have_bounds_evidence_price_and_a_class(scene):
    _, seen = scene
    cpu, memory = (seen["learned"][f"containers[app].requests.{one}"] for one in ("cpu", "memory"))
    assert (cpu["current"], cpu["reason"], cpu["direction"]) == ("2000m", "OverRequested", "Resize")
    lower, proposed, upper = (int(cpu[one].removesuffix("m")) for one in ("lower", "proposed", "upper"))
    assert lower <= proposed <= upper
    assert 450 <= proposed <= 800
    assert 954 <= int(memory["proposed"].removesuffix("Mi")) <= 2048
    assert 0.0 < cpu["confidence"] <= 1.0
    assert _evidence(cpu, "container_cpu_usage", "p50") <= _evidence(cpu, "container_cpu_usage", "max")
    assert _evidence(cpu, "cpu_request") == 2.0
    assert cpu["savings"]["cpuCores"] == pytest.approx(2 * (2.0 - proposed / 1000.0), rel=0.01)
    assert cpu["savings"]["perMonth"] > 0.0
    assert "QoS class stays Burstable" in cpu["message"]
    assert seen["complaints"] == []


def test_the_hpa_keeps_acting_where_it_acts(scene):
    _, seen = scene
    cpu = seen["learned"]["containers[app].requests.cpu"]
    workload, scaler = yaml.safe_load_all(cpu["patch"])
    request = workload["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"]
    percent = scaler["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"]
    assert request == cpu["proposed"]
    assert int(request.removesuffix("m")) * percent / 100.0 == pytest.approx(1400.0, rel=0.01)
    assert f"HPA shop goes from 70 % to {percent} %" in cpu["message"]
    assert len(list(yaml.safe_load_all(seen["learned"]["containers[app].requests.memory"]["patch"]))) == 1


def test_the_api_server_takes_the_patches(scene):
    shop, seen = scene
    cpu, memory = (seen["learned"][f"containers[app].requests.{one}"]["patch"] for one in ("cpu", "memory"))
    where = ["--namespace", shop.namespace]
    apply = ["apply", "--server-side", "--force-conflicts", *where]
    for patch in (cpu, memory):
        shop.cluster.kubectl(*apply, "--dry-run=server", "-f", "-", input=patch)
    told = shop.cluster.kubectl("patch", "deployment", "shop", *where, "--dry-run=server", "-o", "json", "-p", memory)
    limits = json.loads(told)["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits == {"memory": "4Gi"}, "nothing else is touched"
    shop.cluster.kubectl(*apply, "-f", "-", input=cpu)
    deployment = shop.cluster.request("GET", f"/apis/apps/v1/namespaces/{shop.namespace}/deployments/shop")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "shop:1"
    assert container["resources"]["requests"]["memory"] == "4Gi"
    assert container["resources"]["requests"]["cpu"] != "2"
    path = f"/apis/autoscaling/v2/namespaces/{shop.namespace}/horizontalpodautoscalers/shop"
    assert shop.cluster.request("GET", path)["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"] > 70


def test_new_recommendations_are_events_with_their_ids(scene):
    _, seen = scene
    notes = [one["note"].partition(":")[0] for one in seen["events"]]
    assert set(notes) == {one["id"] for one in seen["learned"].values()}
    assert len(notes) == len(set(notes)), "each is told once"


def test_a_request_that_a_vertical_scaler_sets_is_left_to_it(scene):
    _, seen = scene
    assert "VerticalPodAutoscaler shop in mode Recreate" in seen["refused by the VPA"]["VerticalScalerActs"]
    assert seen["sizes beside the VPA"] == {}


def test_the_next_leader_goes_on_with_what_was_learned(scene):
    _, seen = scene
    assert seen["remembered"].keys() == seen["learned"].keys()
    for setting, before in seen["learned"].items():
        after = seen["remembered"][setting]
        assert read_amount(after["proposed"]) == pytest.approx(read_amount(before["proposed"]), rel=0.05)
        assert _evidence(after, "samples") > SEEDED, "what the one before measured is there too"
    assert seen["saved"].samples > SEEDED


def test_a_sample_that_cannot_be_ends_sizing_and_says_why(scene):
    _, seen = scene
    sizes, refused, degraded = seen["lied to"]
    assert sizes == {}
    assert "40 GiB of memory, more than its limit allows (4 GiB)" in refused["UsageInvalid"]
    assert (degraded["status"], degraded["reason"]) == ("True", "UsageInvalid")


@pytest.mark.parametrize("written", ["limits", "both"])
def test_the_api_server_takes_a_smaller_gpu_share(apiserver, namespace, written):
    parts = ("limits",) if written == "limits" else ("limits", "requests")
    container = {"name": "app", "image": "a", "resources": {part: {"nvidia.com/gpu": "1"} for part in parts}}
    labels = {"app": "llama"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    body = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "llama"},
        "spec": {"selector": {"matchLabels": labels}, "template": template},
    }
    apiserver.request("POST", f"/apis/apps/v1/namespaces/{namespace}/deployments", body)
    whole = ContainerFacts("app", NONE, NONE, NONE, NONE, 1.0, gpu_resources=(("nvidia.com/gpu", 1.0),))
    little = GpuUse(
        span=Seconds(8 * DAY),
        samples=9_999,
        activity_p99=0.2,
        activity_most=0.3,
        bound=False,
        memory_peak=2e10,
        kv_tokens_peak=NONE,
        loads=1,
        dark=0.0,
    )
    answer = gpu_share.advise(
        ShareCase(
            workload=WorkloadName("Deployment", "llama", namespace),
            container=whole,
            gpu=gpu_models.recognise("NVIDIA H100 80GB HBM3"),
            use=little,
            replicas=2,
        )
    )
    assert isinstance(answer, Proposal)
    apiserver.kubectl("patch", "deployment", "llama", "--namespace", namespace, "-p", answer.patch)
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/llama"
    (patched,) = apiserver.request("GET", path)["spec"]["template"]["spec"]["containers"]
    share = {"nvidia.com/mig-3g.40gb": "1"}
    assert patched["resources"] == {"limits": share, "requests": share}
