"""The CRDs on a real API server: accepted, structural, and refusing bad specs with messages that a person can use."""

import copy
import json
import re
import time
from pathlib import Path

import pytest
import yaml

from hack.cluster import Cluster
from hack.cluster.errors import ApiError
from optiinfra.api import crd
from optiinfra.api.errors import InvalidObject
from optiinfra.api.v1alpha1 import (
    ClusterResourceOptimization,
    OptimizationCheckpoint,
    ResourceOptimization,
)

KINDS = {"ro": ResourceOptimization, "cro": ClusterResourceOptimization, "ockpt": OptimizationCheckpoint}
BAD = yaml.safe_load((Path(__file__).parent / "bad_specs.yaml").read_text("utf-8"))
TARGET = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "vllm"}

# The example of the architecture page, with a maintenance window written out.
EXAMPLE = """
targetRef: {apiVersion: apps/v1, kind: Deployment, name: vllm-llama-70b}
mode: Recommend
suspend: false
interval: 30s
engine: {type: Auto, source: Pods, port: 8000, path: /metrics, scheme: http, containerName: ""}
model: {family: ""}
objectives: {timeToFirstTokenP95: 2s, interTokenLatencyP95: 100ms, queueDelay: 10s, lateShare: "0.01"}
scaling:
  actuation: Signal
  scalerRef: {kind: HorizontalPodAutoscaler, name: vllm-llama-70b}
  takeover: Never
  release: Steps
  minReplicas: 1
  maxReplicas: 16
  scaleToZero: {enabled: false}
  forecast: {enabled: true}
  startupTime: Auto
rightSizing: {enabled: true}
kvCache: {enabled: true}
tuning: {enabled: true}
insights: {enabled: true, dailyTokenBudget: 50000}
priority: 100
weight: 1
poolRef: {name: h100}
policy:
  maxReplicaStep: 4
  maxGpuStep: 32
  cooldown: 5m
  cooldowns: {scaleUp: 0s, scaleDown: 30m, resize: 24h}
  minAvailable: 2
  maintenanceWindows: [{days: [Sat, Sun], start: "22:30", duration: 4h, timeZone: Europe/Berlin}]
  blackoutWindows:
    - {from: "2026-11-27T00:00:00+01:00", until: "2026-11-30T00:00:00Z", timeZone: UTC, includes: [ScaleUp], note: sale}
    - {days: [Mon], start: "08:00", duration: 2h, timeZone: Europe/Berlin, includes: [], note: ""}
  verifyWindow: 10m
  rollback: true
"""
VARIANTS = """
variants:
  - {name: spot, targetRef: {apiVersion: apps/v1, kind: Deployment, name: a}, role: Unified, capacityType: Spot,
     maxShare: 60%, scaling: {actuation: Own, minReplicas: 1, maxReplicas: 4}}
  - {name: on-demand, targetRef: {apiVersion: leaderworkerset.x-k8s.io/v1, kind: LeaderWorkerSet, name: b}}
modes: {scaleUp: Auto, scaleDown: Approve, resize: Recommend}
"""
CLUSTER = """
currency: EUR
pools:
  - {name: h100, nodeSelector: {example.com/gpu: h100}, gpuModel: NVIDIA H100 80GB HBM3, maxGpus: 64,
     gpuBudget: 48, monthlyBudget: 150000, prices: {gpuHour: "2.50", cpuCoreHour: "0.04", memoryGiBHour: "0.005"}}
prices: {gpuHour: 3}
consolidation: {enabled: true, headroom: 5%}
idleGpus: {enabled: true, window: 30m}
disruption: {maxReplicas: 4, maxPods: 8, maxGpus: 32}
defaults:
  {interval: 15s, mode: Approve, objectives: {lateShare: 2%}, policy: {cooldown: 1m}, insights: {enabled: false}}
metricsSources: [{type: Prometheus, url: "http://prometheus.monitoring:9090/prometheus"}]
"""


@pytest.fixture(scope="module")
def server(apiserver):
    """The API server with our CRDs established."""
    for text in crd.rendered().values():
        apiserver.kubectl("apply", "--server-side", "-f", "-", input=text)
    for kind in KINDS.values():
        apiserver.kubectl("wait", "--for=condition=Established", f"crd/{kind.PLURAL}.{kind.GROUP}", "--timeout=30s")
        _until_served(apiserver, kind)
    return apiserver


def _until_served(cluster, kind):
    """Wait until the API server serves the kind; Established comes a little before (404, then 429)."""
    for _ in range(100):
        try:
            cluster.request("GET", f"/apis/{kind.API_VERSION}/{kind.PLURAL}")
        except ApiError as error:
            if error.code not in {404, 429}:
                raise
            time.sleep(0.1)
        else:
            return
    pytest.fail(f"{kind.KIND} is not served 10 s after it was established")


def _path(kind, namespace, name="", sub=""):
    scope = f"/namespaces/{namespace}" if kind.SCOPE == "Namespaced" else ""
    parts = [f"/apis/{kind.API_VERSION}{scope}/{kind.PLURAL}", name, sub]
    return "/".join(part for part in parts if part)


def _object(kind, name, spec):
    return {"apiVersion": kind.API_VERSION, "kind": kind.KIND, "metadata": {"name": name}, "spec": spec}


def _create(cluster, kind, namespace, name, spec, *, dry=False):
    path = _path(kind, namespace) + "?fieldValidation=Strict" + ("&dryRun=All" if dry else "")
    return cluster.request("POST", path, _object(kind, name, spec))


def _merged(base, change):
    result = copy.deepcopy(base)
    for key, value in change.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = _merged(result[key], value)
        else:
            result[key] = value
    return result


def _bad_spec(entry):
    return _merged({"targetRef": TARGET} if entry["kind"] == "ro" else {}, entry["change"])


def test_definitions_are_established_and_structural(server: Cluster):
    for kind in KINDS.values():
        stored = server.request(
            "GET", f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{kind.PLURAL}.{kind.GROUP}"
        )
        conditions = {condition["type"]: condition["status"] for condition in stored["status"]["conditions"]}
        assert conditions == {"NamesAccepted": "True", "Established": "True"}
        assert stored["status"]["storedVersions"] == ["v1alpha1"]


def test_example_is_accepted_as_it_is_written(server: Cluster, namespace: str):
    spec = yaml.safe_load(EXAMPLE)
    stored = _create(server, ResourceOptimization, namespace, "llama-70b", spec)
    assert stored["spec"] == spec
    assert ResourceOptimization.parse(stored).spec.policy.maintenance_windows[0].time_zone == "Europe/Berlin"


def test_minimal_object_gets_the_defaults_and_nothing_that_the_cluster_object_decides(server: Cluster, namespace: str):
    stored = _create(server, ResourceOptimization, namespace, "minimal", {"targetRef": TARGET})
    assert stored["spec"] == {
        "targetRef": TARGET,
        "suspend": False,
        "priority": 100,
        "weight": 1,
        "engine": {"type": "Auto", "source": "Pods", "port": 8000, "path": "/metrics", "scheme": "http"},
        "scaling": {
            "actuation": "Signal",
            "takeover": "Never",
            "release": "Steps",
            "scaleToZero": {"enabled": False},
            "forecast": {"enabled": True},
            "startupTime": "Auto",
        },
        "rightSizing": {"enabled": True},
        "kvCache": {"enabled": True},
        "tuning": {"enabled": True},
    }


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (ResourceOptimization, VARIANTS),
        (ClusterResourceOptimization, CLUSTER),
        (ClusterResourceOptimization, "{}"),
        (OptimizationCheckpoint, '{version: 1, time: "2026-01-31T12:00:00Z", state: "' + "QUJD" * 4096 + '"}'),
    ],
)
def test_good_specs_are_accepted_and_parsed_to_the_same(server: Cluster, kind, text):
    spec = yaml.safe_load(text)
    stored = _create(server, kind, "default", "good", spec, dry=True)
    assert kind.parse(stored).spec == kind.parse(_object(kind, "good", spec)).spec
    # what we write back is what the server has
    written = _create(server, kind, "default", "good", kind.parse(stored).spec.to_wire(), dry=True)
    assert kind.parse(written).spec == kind.parse(stored).spec


@pytest.mark.parametrize("entry", BAD, ids=lambda entry: f"{entry['kind']}-{entry['name']}")
def test_bad_spec_is_refused_with_field_and_remedy(server: Cluster, entry):
    kind = KINDS[entry["kind"]]
    with pytest.raises(ApiError) as refused:
        _create(server, kind, "default", "bad", _bad_spec(entry), dry=True)
    assert refused.value.code == 422
    assert entry["says"] in refused.value.message
    assert re.search(re.escape(entry["field"]) + r"[:\s]", refused.value.message), refused.value.message
    # one mistake, one message, in people's words
    assert "evaluating rule" not in refused.value.message
    assert "should match" not in refused.value.message


def test_enough_bad_specs_are_listed():
    assert len({(entry["kind"], entry["name"]) for entry in BAD}) == len(BAD) >= 40


@pytest.mark.parametrize("entry", BAD, ids=lambda entry: f"{entry['kind']}-{entry['name']}")
def test_bad_spec_is_refused_at_the_door_too(entry):
    kind = KINDS[entry["kind"]]
    with pytest.raises(InvalidObject) as refused:
        kind.parse(_object(kind, "bad", _bad_spec(entry)))
    assert refused.value.field == entry.get("door", entry["field"])
    assert refused.value.remedy


def test_misspelt_field_is_refused_by_strict_validation(server: Cluster, namespace: str):
    with pytest.raises(ApiError, match=r'unknown field "spec\.scaling\.minReplica"'):
        _create(server, ResourceOptimization, namespace, "x", {"targetRef": TARGET, "scaling": {"minReplica": 1}})


def test_long_name_is_refused(server: Cluster, namespace: str):
    with pytest.raises(ApiError, match="at most 63 characters"):
        _create(server, ResourceOptimization, namespace, "a" * 64, {"targetRef": TARGET}, dry=True)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"version": 0, "time": "2026-01-31T12:00:00Z", "state": ""}, "greater than or equal to 1"),
        ({"version": 1, "time": "yesterday", "state": ""}, "must be of type date-time"),
        ({"version": 1, "time": "2026-01-31T12:00:00Z", "state": "not base64!"}, "write base64 with padding"),
        ({"version": 1, "time": "2026-01-31T12:00:00Z", "state": "QUJD" * 4097}, "may not be more than 16384 bytes"),
    ],
)
def test_bad_checkpoint_is_refused(server: Cluster, spec, says):
    with pytest.raises(ApiError) as refused:
        _create(server, OptimizationCheckpoint, "default", "bad", spec, dry=True)
    assert says in refused.value.message


def _patch(cluster, kind, namespace, name, patch, sub=""):
    path = _path(kind, namespace, name, sub)
    return cluster.request("PATCH", path, patch, content_type="application/merge-patch+json")


def test_target_cannot_change(server: Cluster, namespace: str):
    _create(server, ResourceOptimization, namespace, "kept", {"targetRef": TARGET})
    with pytest.raises(ApiError, match="targetRef may not change: create a new object instead"):
        _patch(server, ResourceOptimization, namespace, "kept", {"spec": {"targetRef": {"name": "other"}}})
    variants = yaml.safe_load(VARIANTS)["variants"]
    with pytest.raises(ApiError, match="targetRef may not be added or removed: create a new object instead"):
        _patch(server, ResourceOptimization, namespace, "kept", {"spec": {"targetRef": None, "variants": variants}})
    changed = _patch(server, ResourceOptimization, namespace, "kept", {"spec": {"mode": "Auto"}})
    assert changed["metadata"]["generation"] == 2


def test_target_of_a_variant_cannot_change_but_variants_may_go(server: Cluster, namespace: str):
    spec = yaml.safe_load(VARIANTS)
    spec["variants"].append({"name": "third", "targetRef": TARGET})
    _create(server, ResourceOptimization, namespace, "kept", spec)
    spec["variants"].pop(1)
    _patch(server, ResourceOptimization, namespace, "kept", {"spec": {"variants": spec["variants"]}})
    spec["variants"][0]["targetRef"]["name"] = "other"
    with pytest.raises(ApiError, match="targetRef of a variant may not change"):
        _patch(server, ResourceOptimization, namespace, "kept", {"spec": {"variants": spec["variants"]}})


STATUS = {
    "observedGeneration": 1,
    "conditions": [
        {
            "type": "Ready",
            "status": "True",
            "observedGeneration": 1,
            "lastTransitionTime": "2026-01-31T12:00:00Z",
            "reason": "Succeeded",
            "message": "Everything that was asked for was done.",
        }
    ],
    "target": "vllm",
    "mode": "Recommend",
    "replicas": {"current": 4, "desired": 4, "ready": 3},
    "desired": {"replicas": 5, "rule": "Saturation", "reason": "KVCacheFull", "at": "2026-01-31T12:00:00Z"},
    "effective": "False NobodyListens",
    "utilization": {
        "gpuPercent": 35,
        "gpuMemoryPercent": 90,
        "kvCachePercent": "Stale",
        "batchPercent": 5,
        "measuredAt": "2026-01-31T12:00:00Z",
    },
    "bottleneck": {
        "type": "KVCache",
        "confidence": 0.9,
        "reason": "CacheFull",
        "since": "2026-01-31T11:00:00Z",
        "evidence": [
            {"signal": "kv_cache_usage", "value": 0.97, "unit": "ratio", "window": "5m", "source": "engine"},
            {"signal": "gpu_sm_active", "unknown": "Unsupported", "window": "0s", "source": "agent"},
        ],
    },
    "savings": {"summary": "5221 USD", "perMonthPotential": 5221, "currency": "USD"},
}


def test_status_is_separate_and_fills_the_columns(server: Cluster, namespace: str):
    made = _create(server, ResourceOptimization, namespace, "shown", {"targetRef": TARGET})
    assert "status" not in made
    ignored = _patch(server, ResourceOptimization, namespace, "shown", {"status": STATUS})
    assert "status" not in ignored
    written = _patch(
        server, ResourceOptimization, namespace, "shown", {"status": STATUS, "spec": {"priority": 1}}, "status"
    )
    assert written["status"] == STATUS
    assert written["spec"]["priority"] == 100
    assert written["metadata"]["generation"] == 1

    assert ResourceOptimization.parse(written).status_error == ""
    header, row = server.kubectl("get", "ro", "-n", namespace).splitlines()
    assert header.split() == [
        "NAME", "TARGET", "MODE", "READY", "BOTTLENECK", "GPU%", "KV%", "REPLICAS", "DESIRED", "EFFECTIVE",
        "SAVINGS/MO", "AGE",
    ]  # fmt: skip
    assert re.split(r"\s{2,}", row.strip())[:-1] == [
        "shown", "vllm", "Recommend", "True", "KVCache", "35", "Stale", "4", "5", "False NobodyListens", "5221 USD",
    ]  # fmt: skip
    server.kubectl("wait", "--for=condition=Ready", "ro/shown", "-n", namespace, "--timeout=5s")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"bottleneck": {"evidence": [{"signal": "x", "source": "engine"}]}}, "exactly one of value and unknown"),
        ({"conditions": [STATUS["conditions"][0] | {"type": "Healthy"}]}, "Unsupported value"),
        ({"utilization": {"measuredAt": "now"}}, "must be of type date-time"),
        ({"conditions": STATUS["conditions"] * 2}, "Duplicate value"),
    ],
)
def test_status_that_says_nothing_is_refused(server: Cluster, namespace: str, change, says):
    _create(server, ResourceOptimization, namespace, "shown", {"targetRef": TARGET})
    with pytest.raises(ApiError) as refused:
        _patch(server, ResourceOptimization, namespace, "shown", {"status": _merged(STATUS, change)}, "status")
    assert says in refused.value.message


def test_cluster_object_fills_its_columns(server: Cluster, namespace: str):
    name = f"cluster-{namespace}"[:63]
    _create(server, ClusterResourceOptimization, namespace, name, yaml.safe_load(CLUSTER))
    try:
        status = {
            "conditions": STATUS["conditions"],
            "summary": {
                "pools": 1, "nodes": 4, "gpus": 32, "gpusAllocated": 24, "idleGpus": 6, "emptyableNodes": 1,
                "gpuPercent": 40, "measuredAt": "2026-01-31T12:00:00Z",
            },
            "savings": {"summary": "12000 EUR"},
        }  # fmt: skip
        written = _patch(server, ClusterResourceOptimization, namespace, name, {"status": status}, "status")
        assert ClusterResourceOptimization.parse(written).status_error == ""
        header, row = server.kubectl("get", "cro", name).splitlines()
        assert header.split() == [
            "NAME", "READY", "POOLS", "NODES", "GPUS", "GPU%", "IDLE-GPUS", "EMPTYABLE", "SAVINGS/MO", "AGE",
        ]  # fmt: skip
        assert re.split(r"\s{2,}", row.strip())[1:-1] == ["True", "1", "4", "32", "40", "6", "1", "12000 EUR"]
    finally:
        server.kubectl("delete", "cro", name)


def test_short_names_and_category(server: Cluster, namespace: str):
    _create(server, ResourceOptimization, namespace, "found", {"targetRef": TARGET})
    _create(
        server, OptimizationCheckpoint, namespace, "found", {"version": 1, "time": "2026-01-31T12:00:00Z", "state": ""}
    )
    listed = server.kubectl("get", "optiinfra", "-n", namespace, "-o", "name").split()
    assert "resourceoptimization.optiinfra.io/found" in listed
    assert "optimizationcheckpoint.optiinfra.io/found" in server.kubectl("get", "ockpt", "-n", namespace, "-o", "name")


def test_explain_tells_what_a_field_means(server: Cluster):
    told = server.kubectl("explain", "ro.spec.scaling.actuation")
    assert "Signal publishes the desired count and writes nothing" in " ".join(told.split())
    assert re.search(r"ENUM:\s+Signal\s+Own\s+Floor", told)
    assert "Node pools." in server.kubectl("explain", "cro.spec.pools")


def test_what_is_stored_can_be_read_when_a_newer_operator_wrote_the_status(server: Cluster, namespace: str):
    stored = _create(server, ResourceOptimization, namespace, "newer", {"targetRef": TARGET}, dry=True)
    read = ResourceOptimization.parse(json.loads(json.dumps(stored)) | {"status": {"bottleneck": {"type": "Network"}}})
    assert read.status_error.startswith("status.bottleneck.")
    assert read.status.bottleneck is None
    assert read.spec.target_ref is not None


def test_largest_objects_stay_within_the_budget_of_the_rules(server: Cluster, namespace: str):
    name = "a" * 252
    variants = [
        {
            "name": f"{'v' * 62}{number}",
            "targetRef": {"apiVersion": "g" * 253, "kind": "K" * 63, "name": f"{name}{number}"},
            "maxShare": "10.0000%",
            "scaling": {"scalerRef": {"name": name}, "minReplicas": 1, "maxReplicas": 10_000, "startupTime": "99999h"},
        }
        for number in range(8)
    ]
    windows = [{"days": ["Mon", "Tue"], "start": "00:00", "duration": "24h"}] * 16
    _create(
        server,
        ResourceOptimization,
        namespace,
        "large",
        {"variants": variants, "policy": {"maintenanceWindows": windows}},
    )
    evidence = [{"signal": "s" * 64, "source": "engine", "window": "99999h", "unknown": "u" * 256}] * 16
    recommendations = [
        {
            "id": f"{number:032}", "type": "Replicas", "reason": "R" * 64, "message": "m" * 1024, "setting": "s" * 256,
            "current": "c" * 256, "proposed": "p" * 256, "lower": "l" * 256, "upper": "u" * 256, "direction": "ScaleUp",
            "confidence": 1, "evidence": evidence, "patch": "p" * 4096, "issuedAt": "2026-01-31T12:00:00Z",
            "expiresAt": "2026-02-01T12:00:00Z", "insight": {"text": "t" * 2048, "rank": 1},
        }
        for number in range(32)
    ]  # fmt: skip
    written = _patch(
        server, ResourceOptimization, namespace, "large", {"status": {"recommendations": recommendations}}, "status"
    )
    assert ResourceOptimization.parse(written).status_error == ""
    pools = [
        {
            "name": f"{'p' * 61}{number:02}",
            "nodeSelector": {f"{'d' * 250}/{'k' * 60}{key}": "v" * 63 for key in range(8)},
            "prices": {"gpuHour": "1" * 12, "cpuCoreHour": "0.04", "memoryGiBHour": "0.005"},
        }
        for number in range(32)
    ]
    sources = [{"type": "Prometheus", "url": f"http://{'h' * 500}/{number}"} for number in range(4)]
    _create(
        server, ClusterResourceOptimization, namespace, "large", {"pools": pools, "metricsSources": sources}, dry=True
    )
