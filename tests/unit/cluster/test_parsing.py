"""What comes through the door as JSON leaves it as facts, or not at all."""

import contextlib
import copy

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optiinfra.cluster.agents import parse_snapshot
from optiinfra.cluster.budgets import parse_budget
from optiinfra.cluster.errors import Malformed
from optiinfra.cluster.labels import format_selector, parse_selector, selector_of
from optiinfra.cluster.nodes import parse_node
from optiinfra.cluster.own_scaler import OwnScaler, build_own_scaler
from optiinfra.cluster.pods import parse_pod
from optiinfra.cluster.quantities import quantity
from optiinfra.cluster.scalers import parse_scaler
from optiinfra.cluster.status import merge_difference
from optiinfra.domain.readings import Unknown, UnknownReason


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("0", 0.0),
        ("2", 2.0),
        ("500m", 0.5),
        ("1Gi", 2.0**30),
        ("1.5Gi", 1.5 * 2**30),
        ("100k", 1e5),
        ("250n", 2.5e-7),
        ("3u", 3e-6),
        ("1e3", 1000.0),
        ("12E6", 12e6),
        ("1E", 1e18),
        ("-1", -1.0),
        (".5", 0.5),
    ],
)
def test_quantities_are_read_as_the_api_server_reads_them(written, number):
    assert quantity(written) == pytest.approx(number, rel=1e-12)


@pytest.mark.parametrize(
    "written", ["1K", "1 Gi", "", "Gi", "1gi", "1ki", "1mi", "NaN", "Infinity", "1_000", "1" * 65, "1e999", "\u0661"]
)
def test_what_the_api_server_refuses_is_refused(written):
    with pytest.raises(Malformed):
        quantity(written)


@pytest.mark.parametrize(
    ("written", "labels", "matches"),
    [
        ("app=a", {"app": "a"}, True),
        ("app==a,tier!=b", {"app": "a"}, True),
        ("app=a,tier!=b", {"app": "a", "tier": "b"}, False),
        ("app in (a, b)", {"app": "b"}, True),
        ("app notin (a,b)", {}, True),
        ("app notin (a,b)", {"app": "a"}, False),
        ("app", {"app": ""}, True),
        ("!app", {"app": ""}, False),
        ("a.b/c=d", {"a.b/c": "d"}, True),
        ("inn in (x)", {"inn": "x"}, True),
        ("", {"any": "thing"}, True),
        ("app=", {"app": ""}, True),
    ],
)
def test_selectors_match_as_kubectl_does(written, labels, matches):
    assert parse_selector(written).matches(labels) is matches


@pytest.mark.parametrize("written", ["app=a,", "=a", "app in a", "a=b c=d", "app=a;b", "x" * 5000, "a in (b", "!"])
def test_a_broken_selector_is_an_error_and_not_everything(written):
    with pytest.raises(Malformed):
        parse_selector(written)


_WORD = st.from_regex(r"[a-z][a-z0-9]{0,5}", fullmatch=True)


@given(
    st.dictionaries(_WORD, _WORD, max_size=3),
    st.lists(
        st.fixed_dictionaries(
            {
                "key": _WORD,
                "operator": st.sampled_from(["In", "NotIn"]),
                "values": st.lists(_WORD, min_size=1, max_size=3),
            }
        ),
        max_size=3,
    ),
    st.dictionaries(_WORD, _WORD, max_size=4),
)
def test_a_written_selector_means_the_same_as_its_document(match_labels, expressions, labels):
    selector = selector_of({"matchLabels": match_labels, "matchExpressions": expressions})
    again = parse_selector(format_selector(selector))
    assert again.matches(labels) is selector.matches(labels)


POD = {
    "metadata": {
        "name": "llama-0",
        "namespace": "inference",
        "uid": "u",
        "creationTimestamp": "2026-11-01T10:00:00Z",
        "labels": {"app": "llama"},
        "ownerReferences": [{"kind": "ReplicaSet", "name": "llama-1", "controller": True}],
    },
    "spec": {
        "nodeName": "gpu-1",
        "containers": [
            {
                "name": "vllm",
                "command": ["vllm", "serve"],
                "args": ["--max-num-seqs", "256"],
                "env": [
                    {"name": "VLLM_LOGGING_LEVEL", "value": "INFO"},
                    {"name": "VLLM_API_KEY", "value": "secret"},
                    {"name": "HF_TOKEN", "value": "secret"},
                    {"name": "MODEL_ID", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                    {"name": "MAX_TOTAL_TOKENS", "value": "4096"},
                ],
                "resources": {
                    "requests": {"cpu": "4", "memory": "16Gi", "nvidia.com/gpu": "2"},
                    "limits": {"memory": "32Gi", "nvidia.com/gpu": "2"},
                },
            }
        ],
    },
    "status": {
        "phase": "Running",
        "podIP": "10.0.0.1",
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-01T10:02:00Z"}],
        "containerStatuses": [{"name": "vllm", "restartCount": 3}],
    },
}


def pod(**spec):
    document = copy.deepcopy(POD)
    document["spec"] |= spec
    return document


def test_a_pod_as_facts():
    record = parse_pod(POD)
    facts = record.facts
    container = facts.containers[0]
    assert (facts.name, facts.namespace, facts.node, facts.ip) == ("llama-0", "inference", "gpu-1", "10.0.0.1")
    assert facts.ready
    assert facts.became_ready - facts.created == 120.0
    assert (facts.gpus, facts.cpu_request_cores, facts.memory_request_bytes) == (2.0, 4.0, 16 * 2**30)
    assert facts.restarts == 3
    assert container.arguments == ("vllm", "serve", "--max-num-seqs", "256")
    assert container.cpu_limit_cores == Unknown(UnknownReason.NOT_CONFIGURED, "no CPU limit")
    assert record.controller == ("ReplicaSet", "llama-1")
    assert record.labels == {"app": "llama"}


def test_secrets_and_references_never_pass_the_door():
    assert parse_pod(POD).facts.containers[0].environment == {"VLLM_LOGGING_LEVEL": "INFO", "MAX_TOTAL_TOKENS": "4096"}


def test_requests_count_as_the_scheduler_counts_them():
    def container(name, cpu, **more):
        return {"name": name, "resources": {"requests": {"cpu": cpu}}, **more}

    # Two sidecars of 1, one init container of 10 between them: the peak is 1 + 10, running is 2 + 1 + 1.
    document = pod(
        containers=[container("main", "2")],
        initContainers=[
            container("sidecar-1", "1", restartPolicy="Always"),
            container("big", "10"),
            container("sidecar-2", "1", restartPolicy="Always"),
        ],
        overhead={"cpu": "250m"},
    )
    assert parse_pod(document).facts.cpu_request_cores == 11.25
    document["spec"]["initContainers"][1] = container("small", "1")
    assert parse_pod(document).facts.cpu_request_cores == 4.25
    document["spec"]["resources"] = {"requests": {"cpu": "6"}}
    assert parse_pod(document).facts.cpu_request_cores == 6.25


def test_mig_instances_count_and_other_devices_do_not():
    resources = {"limits": {"nvidia.com/mig-1g.10gb": "3", "vendor/fpga": "1"}}
    facts = parse_pod(pod(containers=[{"name": "c", "resources": resources}])).facts
    assert facts.gpus == 3.0
    assert facts.containers[0].gpus == 3.0


@pytest.mark.parametrize(
    ("owner", "annotations", "volumes", "blockers"),
    [
        ("ReplicaSet", {}, [], ()),
        (None, {}, [], ("BarePod",)),
        ("DaemonSet", {}, [{"name": "h", "hostPath": {"path": "/"}}], ("DaemonSet",)),
        ("Node", {}, [], ("DaemonSet",)),
        ("ReplicaSet", {}, [{"name": "e", "emptyDir": {}}], ("LocalStorage",)),
        ("ReplicaSet", {}, [{"name": "e", "emptyDir": {"medium": "Memory"}}], ()),
        ("ReplicaSet", {"cluster-autoscaler.kubernetes.io/safe-to-evict": "true"}, [{"name": "e", "emptyDir": {}}], ()),
        (None, {"cluster-autoscaler.kubernetes.io/safe-to-evict": "true"}, [], ("BarePod",)),
        ("Job", {}, [], ("BatchJob",)),
        ("Job", {"cluster-autoscaler.kubernetes.io/safe-to-evict": "true"}, [], ()),
        ("ReplicaSet", {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}, [], ("DoNotDisrupt",)),
        ("ReplicaSet", {"karpenter.sh/do-not-disrupt": "true"}, [], ("DoNotDisrupt",)),
        ("ReplicaSet", {"karpenter.sh/do-not-disrupt": "10m"}, [], ()),
        ("ReplicaSet", {"karpenter.sh/do-not-disrupt": "ten minutes"}, [], ("DoNotDisrupt",)),
        ("ReplicaSet", {"karpenter.sh/do-not-disrupt": "false"}, [], ()),
        (
            "ReplicaSet",
            {"cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes": "a, e"},
            [{"name": "e", "emptyDir": {}}],
            (),
        ),
    ],
)
def test_what_blocks_moving_a_pod(owner, annotations, volumes, blockers):
    document = pod(volumes=volumes)
    document["metadata"]["annotations"] = annotations
    document["metadata"]["ownerReferences"] = [{"kind": owner, "name": "o", "controller": True}] if owner else []
    assert parse_pod(document).facts.blockers == blockers


@pytest.mark.parametrize(
    "broken",
    [
        {"metadata": {"name": ["x"]}},
        {"metadata": {"name": "x"}, "spec": {"containers": [1]}},
        {"metadata": {"name": "x"}, "spec": {"containers": [{"resources": {"requests": {"cpu": "many"}}}]}},
        {"metadata": {"name": "x", "creationTimestamp": "yesterday"}},
        {"spec": {}},
    ],
)
def test_a_lie_is_refused_and_not_coerced(broken):
    with pytest.raises(Malformed):
        parse_pod(broken)


def test_a_node_as_facts():
    facts = parse_node(
        {
            "metadata": {"name": "gpu-1", "labels": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}},
            "spec": {"unschedulable": True},
            "status": {
                "capacity": {"cpu": "64", "nvidia.com/gpu": "8", "memory": "512Gi"},
                "allocatable": {"cpu": "63500m", "nvidia.com/gpu": "7", "memory": "500Gi"},
                "conditions": [{"type": "Ready", "status": "Unknown"}],
            },
        }
    )
    assert (facts.gpus, facts.cpu_cores, facts.gpu_model) == (7.0, 63.5, "NVIDIA-H100-80GB-HBM3")
    assert not facts.ready
    assert facts.unschedulable


def test_an_hpa_tells_who_owns_its_minimum():
    record = parse_scaler(
        {
            "metadata": {
                "name": "h",
                "ownerReferences": [
                    {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "name": "so", "controller": True}
                ],
                "managedFields": [
                    {"manager": "keda", "operation": "Update", "fieldsV1": {"f:spec": {"f:minReplicas": {}}}},
                    {
                        "manager": "kcm",
                        "operation": "Update",
                        "subresource": "status",
                        "fieldsV1": {"f:spec": {"f:minReplicas": {}}},
                    },
                    {"manager": "helm", "operation": "Apply", "fieldsV1": {"f:spec": {"f:maxReplicas": {}}}},
                ],
            },
            "spec": {"maxReplicas": 5, "scaleTargetRef": {"kind": "Deployment", "name": "d"}},
            "status": {
                "conditions": [{"type": "ScalingActive", "status": "False", "reason": "FailedGetResourceMetric"}]
            },
        }
    )
    assert record.facts.min_replicas == 1
    assert record.facts.min_replicas_managers == (("keda", "Update"),)
    assert record.facts.controller_owner == "ScaledObject/so"
    assert record.facts.scaling_active is False
    assert (record.target_kind, record.target_name) == ("Deployment", "d")


def test_a_budget_says_what_the_eviction_api_asks():
    document = {
        "metadata": {"name": "b", "namespace": "n", "generation": 3},
        "spec": {"selector": {"matchLabels": {"a": "1"}}, "unhealthyPodEvictionPolicy": "AlwaysAllow"},
        "status": {"expectedPods": 4, "disruptionsAllowed": 1, "currentHealthy": 4, "observedGeneration": 3},
    }
    budget = parse_budget(document).budget
    assert (budget.allowed, budget.expected, budget.healthy, budget.desired) == (1, 4, 4, 0)
    assert budget.evicts_unready
    assert budget.current
    document["metadata"]["generation"] = 4
    assert not parse_budget(document).budget.current
    # An empty selector covers every pod of the namespace, none at all covers none.
    assert parse_budget(document | {"spec": {"selector": {}}}).budget.selector == ()
    assert parse_budget(document | {"spec": {}}).budget is None


@pytest.mark.parametrize(("minor", "tolerance"), [(34, None), (35, "0"), (36, "0")])
def test_our_hpa_sets_a_tolerance_only_where_servers_know_it(minor, tolerance):
    scaler = OwnScaler(
        namespace="n",
        owner_name="ro",
        owner_uid="u",
        target_api_version="apps/v1",
        target_kind="Deployment",
        target_name="d",
        min_replicas=1,
        max_replicas=4,
        server_minor=minor,
    )
    behavior = build_own_scaler(scaler)["spec"]["behavior"]
    assert [behavior[direction].get("tolerance") for direction in ("scaleUp", "scaleDown")] == [tolerance] * 2


def _merge(target, patch):
    """RFC 7386, as written there."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = _merge(result.get(name), value)
    return result


_DOCUMENTS = st.recursive(
    st.integers(0, 3) | st.text("ab", max_size=2) | st.lists(st.integers(0, 2), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
    max_leaves=8,
)
_STATUSES = st.dictionaries(st.sampled_from("abcd"), _DOCUMENTS, max_size=4)


@given(_STATUSES, _STATUSES)
def test_the_difference_turns_the_old_status_into_the_new_one(old, new):
    assert _merge(old, merge_difference(old, new)) == new
    assert merge_difference(new, copy.deepcopy(new)) == {}


SNAPSHOT = {
    "version": 1,
    "time": 1795000000.0,
    "node": "gpu-0",
    "agent": {"id": "agent-gpu-0", "version": "0.1.0", "started": 1794990000.0},
    "sources": {"nvml": {"state": "ok", "reason": ""}},
    "cpu": {"cores": 64, "utilization_ratio": None, "unknown": {"utilization_ratio": "warming_up"}},
    "memory": {"total_bytes": 10, "available_bytes": -1},
    "gpus": [
        {
            "uuid": "GPU-1",
            "model": "H100",
            "memory_total_bytes": 80,
            "memory_used_bytes": 0,
            "utilization_ratio": 1.02,
            "power_watts": 70.0,
            "power_limit_watts": 700.0,
            "energy_joules_total": 1.0,
            "sm_active_ratio": None,
            "unknown": {"sm_active_ratio": "unsupported"},
            "a field of tomorrow": {"x": 1},
        }
    ],
    "allocations": [{"gpu_uuid": "GPU-1", "namespace": "n", "pod": "p", "container": "c", "shared": True}],
}


def test_a_snapshot_as_a_reading():
    reading = parse_snapshot(orjson.dumps(SNAPSHOT))
    gpu = reading.gpus[0]
    assert (reading.node, reading.cpu_cores, reading.gpu_source) == ("gpu-0", 64.0, 1.0)
    assert reading.cpu_utilization_ratio.reason is UnknownReason.TOO_FEW_SAMPLES
    assert reading.memory_available_bytes.reason is UnknownReason.INVALID
    assert gpu.memory_used_bytes == 0.0
    assert gpu.utilization_ratio == 1.0
    assert gpu.sm_active_ratio.reason is UnknownReason.UNSUPPORTED
    assert reading.allocations[0].shared


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("unavailable", UnknownReason.UNSUPPORTED),
        ("denied", UnknownReason.REFUSED),
        ("failed", UnknownReason.INVALID),
        ("stuck", UnknownReason.UNREACHABLE),
        ("of tomorrow", UnknownReason.NOT_MEASURED),
    ],
)
def test_a_gpu_source_that_does_not_work_says_why(state, reason):
    document = SNAPSHOT | {"gpus": [], "sources": {"nvml": {"state": state, "reason": "because"}}}
    source = parse_snapshot(orjson.dumps(document)).gpu_source
    assert isinstance(source, Unknown)
    assert (source.reason, source.detail) == (reason, "because")


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"version": True},
        {"time": "now"},
        {"time": 0},
        {"node": ""},
        {"gpus": {}},
        {"gpus": [{}]},
        {"gpus": [{"uuid": "x"}] * 257},
        {"cpu": []},
    ],
)
def test_an_impossible_snapshot_is_refused_whole(change):
    with pytest.raises(Malformed):
        parse_snapshot(orjson.dumps(SNAPSHOT | change))


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b"{", b'{"version": NaN}', b"\xff\xfe", b" " * (1024 * 1024 + 1)]
)
def test_what_is_no_snapshot_is_refused(body):
    with pytest.raises(Malformed):
        parse_snapshot(body)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from([*SNAPSHOT, "nvml", "uuid", "unknown", "cores"]), inner, max_size=5)
        ),
        max_leaves=12,
    )
)
def test_no_document_whatsoever_breaks_the_parser(value):
    document = SNAPSHOT | value if isinstance(value, dict) else value
    with contextlib.suppress(Malformed):
        parse_snapshot(orjson.dumps(document))
