"""Classes, effective requests and an HPA's divisor follow Kubernetes' own rules."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from optiinfra.domain import pod_shape, resource_patch
from optiinfra.domain.pod_shape import PodShape, QosClass, Resource
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.resource_patch import WorkloadName
from optiinfra.domain.workload import ContainerFacts, Place, ScalerFacts, ScalerMetric

NONE = Unknown(UnknownReason.NOT_CONFIGURED, "not set")
GIB = 2.0**30


def container(name="app", cpu=NONE, memory=NONE, cpu_limit=NONE, memory_limit=NONE, place=Place.MAIN):
    return ContainerFacts(name, cpu, cpu_limit, memory, memory_limit, 0.0, place=place)


FULL = container("full", 1.0, GIB, 1.0, GIB)


@pytest.mark.parametrize(
    ("containers", "first", "expected"),
    [
        ([FULL], [], QosClass.GUARANTEED),
        ([container()], [], QosClass.BEST_EFFORT),
        ([container(cpu=0.0, memory=0.0)], [], QosClass.BEST_EFFORT),
        ([container(cpu=1.0)], [], QosClass.BURSTABLE),
        ([container(cpu=1.0, memory=GIB, cpu_limit=2.0, memory_limit=GIB)], [], QosClass.BURSTABLE),
        ([container(cpu=1.0, memory=GIB, cpu_limit=1.0)], [], QosClass.BURSTABLE),
        ([FULL, container("bare")], [], QosClass.BURSTABLE),
        ([FULL], [container("init", place=Place.INIT)], QosClass.BURSTABLE),
        ([FULL], [container("init", 3.0, GIB, 3.0, GIB, place=Place.INIT)], QosClass.GUARANTEED),
    ],
)
def test_the_class_looks_at_every_container(containers, first, expected):
    assert pod_shape.qos_class(PodShape(tuple(containers), tuple(first))) is expected


def test_resources_of_the_pod_as_a_whole_go_before_its_containers():
    whole = container("", 2.0, GIB, 2.0, GIB)
    assert pod_shape.qos_class(PodShape((container(),), pod_level=whole)) is QosClass.GUARANTEED
    assert pod_shape.effective_request(PodShape((FULL,), pod_level=whole), Resource.CPU) == 2.0


def test_an_init_container_can_hold_the_pods_request_up():
    init = container("migrate", 3.0, place=Place.INIT)
    shape = PodShape((container("app", 1.0),), (container("proxy", 0.5, place=Place.SIDECAR), init))
    assert pod_shape.effective_request(shape, Resource.CPU) == 3.5
    smaller = pod_shape.changed(shape, "app", Resource.CPU, request=0.1)
    assert pod_shape.effective_request(smaller, Resource.CPU) == 3.5, "the cut frees nothing"


def test_an_hpa_divides_by_what_runs_and_not_by_init_containers():
    shape = PodShape(
        (container("app", 1.0), container("log", 0.2)),
        (container("proxy", 0.5, place=Place.SIDECAR), container("init", 9.0, place=Place.INIT)),
    )
    assert pod_shape.scaled_request(shape, Resource.CPU) == 1.7
    assert pod_shape.scaled_request(shape, Resource.CPU, container="log") == 0.2
    missing = PodShape((container("app", 1.0), container("bare")))
    assert isinstance(pod_shape.scaled_request(missing, Resource.CPU), Unknown)


def metric(percent=70, container_name=""):
    source = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}}
    if container_name:
        source["container"] = container_name
    kind, field = ("ContainerResource", "containerResource") if container_name else ("Resource", "resource")
    return ScalerMetric(kind, "cpu", container_name, percent, json.dumps({"type": kind, field: source}))


EXTERNAL = ScalerMetric("External", written='{"type":"External","external":{"metric":{"name":"queue"}}}')


def pairs(shape, new, metrics, name="app"):
    after = pod_shape.changed(shape, name, Resource.CPU, request=new)
    return resource_patch.pairs_of(metrics, before=shape, after=after, resource=Resource.CPU, container=name)


@given(
    before=st.floats(0.01, 64.0),
    other=st.floats(0.0, 8.0),
    after=st.floats(0.01, 64.0),
    percent=st.integers(1, 100),
)
def test_the_pair_keeps_the_load_at_which_the_hpa_acts(before, other, after, percent):
    shape = PodShape((container("app", before), container("log", other)))
    for pair in pairs(shape, after, [metric(percent), EXTERNAL]):
        assert pair.threshold_before == pytest.approx(percent / 100.0 * (before + other))
        rounding = max(0.5, 1.0 - 100.0 * pair.threshold_before / (after + other)) / 100.0 * (after + other)
        assert abs(pair.threshold_after - pair.threshold_before) <= rounding + 1e-9


def test_another_containers_metric_is_left_alone():
    shape = PodShape((container("app", 1.0), container("log", 0.2)))
    assert pairs(shape, 0.5, [metric(70, "log")]) == ()
    (pair,) = pairs(shape, 0.5, [metric(70, "app")])
    assert (pair.before, pair.after) == (70, 140)


def test_a_threshold_that_nobody_can_compute_is_unknown():
    shape = PodShape((container("app", 1.0), container("bare")))
    assert isinstance(pairs(shape, 0.5, [metric()]), Unknown)


def scaler(*metrics, owner="", ours=False):
    return ScalerFacts(
        name="shop",
        uid="u",
        resource_version="1",
        min_replicas=1,
        max_replicas=9,
        current_replicas=2,
        desired_replicas=2,
        scaling_active=True,
        scaling_active_reason="",
        owned_by_us=ours,
        controller_owner=owner,
        metrics=metrics,
    )


def test_both_documents_are_one_patch_that_keeps_the_other_metrics():
    shape = PodShape((container("app", 1.0),))
    cpu = metric()
    found = pairs(shape, 0.35, [cpu, EXTERNAL])
    workload = resource_patch.workload_document(
        WorkloadName("Deployment", "shop", "web"),
        container="app",
        place=Place.MAIN,
        resources={"requests": {"cpu": "350m"}, "limits": {}},
    )
    hpa = resource_patch.scaler_document(scaler(cpu, EXTERNAL), found, namespace="web")
    first, second = yaml.safe_load_all(resource_patch.joined(workload, hpa))
    assert first["spec"]["template"]["spec"]["containers"] == [
        {"name": "app", "resources": {"requests": {"cpu": "350m"}}}
    ]
    assert second["metadata"] == {"name": "shop", "namespace": "web"}
    assert second["spec"]["metrics"][0]["resource"]["target"] == {"type": "Utilization", "averageUtilization": 200}
    assert second["spec"]["metrics"][1]["external"]["metric"]["name"] == "queue"


def test_half_of_a_pair_is_never_written():
    cpu = metric()
    found = pairs(PodShape((container("app", 1.0),)), 0.35, [cpu])
    assert resource_patch.scaler_document(scaler(cpu, owner="ScaledObject/shop"), found, namespace="web") == ""
    assert resource_patch.scaler_document(scaler(cpu, ours=True), found, namespace="web") == ""
    long = ScalerMetric("External")
    assert resource_patch.scaler_document(scaler(cpu, long), found, namespace="web") == ""
    assert resource_patch.joined("a: 1\n", "") == ""
    assert resource_patch.joined("x" * 4000, "y" * 200) == ""


def test_native_sidecars_are_patched_where_they_stand_and_other_kinds_not_at_all():
    resources = {"requests": {"cpu": "1"}}
    deployment = WorkloadName("StatefulSet", "db")
    text = resource_patch.workload_document(deployment, container="p", place=Place.SIDECAR, resources=resources)
    assert "initContainers" in yaml.safe_load(text)["spec"]["template"]["spec"]
    group = WorkloadName("LeaderWorkerSet", "llama")
    assert resource_patch.workload_document(group, container="p", place=Place.MAIN, resources=resources) == ""
