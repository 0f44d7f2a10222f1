"""The models at the door: round trips, tolerance, and errors that name field and remedy."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from optiinfra.api.errors import InvalidObject
from optiinfra.api.v1alpha1 import (
    ClusterResourceOptimization,
    Mode,
    OptimizationCheckpoint,
    ResourceOptimization,
    ResourceOptimizationSpec,
    ResourceOptimizationStatus,
    TargetRef,
)

TARGET = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "vllm"}


def ro(spec=None, **rest):
    return {
        "apiVersion": "optiinfra.io/v1alpha1",
        "kind": "ResourceOptimization",
        "metadata": {"name": "a", "namespace": "n", "uid": "u", "generation": 3, "resourceVersion": "17"},
        "spec": {"targetRef": TARGET} if spec is None else spec,
        **rest,
    }


durations = st.integers(5, 3600).map(lambda seconds: f"{seconds}s")
specs = st.fixed_dictionaries(
    {"targetRef": st.just(TARGET)},
    optional={
        "mode": st.sampled_from([str(mode) for mode in Mode]),
        "modes": st.dictionaries(
            st.sampled_from(["scaleUp", "scaleDown", "resize"]), st.sampled_from([str(mode) for mode in Mode])
        ),
        "suspend": st.booleans(),
        "interval": durations,
        "priority": st.integers(0, 1000),
        "objectives": st.fixed_dictionaries(
            {},
            optional={
                "queueDelay": durations,
                "timeToFirstTokenP95": durations,
                "lateShare": st.integers(0, 50).map(lambda percent: f"{percent}%"),
            },
        ),
        "engine": st.fixed_dictionaries({}, optional={"port": st.integers(1, 65535), "scheme": st.just("https")}),
        "scaling": st.fixed_dictionaries(
            {}, optional={"minReplicas": st.integers(1, 10), "maxReplicas": st.integers(10, 10_000)}
        ),
        "policy": st.fixed_dictionaries({}, optional={"cooldown": durations, "rollback": st.booleans()}),
    },
)


@settings(max_examples=60)
@given(specs)
def test_round_trip(spec):
    parsed = ResourceOptimization.parse(ro(spec))
    written = parsed.spec.to_wire()
    assert ResourceOptimization.parse(ro(written)) == parsed
    for name, value in spec.items():
        if not isinstance(value, dict):
            assert written[name] == value
        else:
            assert value.items() <= written[name].items()


def test_metadata_is_read():
    found = ResourceOptimization.parse(
        ro()
        | {
            "metadata": {
                "name": "a",
                "namespace": "n",
                "uid": "u",
                "resourceVersion": "17",
                "generation": 3,
                "deletionTimestamp": "2026-01-31T12:00:00Z",
                "annotations": {"optiinfra.io/approve": "abc"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "x", "controller": True}],
                "managedFields": [{"manager": "kubectl"}],
            }
        }
    )
    assert found.key == "n/a"
    assert found.metadata.deleting
    assert found.metadata.generation == 3
    assert found.metadata.owner_references[0].controller
    assert found.metadata.annotations["optiinfra.io/approve"] == "abc"


def test_unknown_fields_of_a_newer_version_are_ignored():
    found = ResourceOptimization.parse(ro({"targetRef": TARGET, "novelty": {"x": 1}}))
    assert "novelty" not in found.spec.to_wire()


def test_models_are_frozen():
    found = ResourceOptimization.parse(ro())
    with pytest.raises(ValidationError, match="frozen"):
        found.spec.suspend = True


@pytest.mark.parametrize(
    ("obj", "field", "remedy"),
    [
        (ro({}), "spec", "exactly one of targetRef and variants is needed"),
        (ro({"targetRef": TARGET, "suspend": "yes"}), "spec.suspend", "valid boolean"),
        (ro({"targetRef": TARGET, "interval": "1s"}), "spec.interval", "write a duration between 5s and 1h"),
        (ro({"targetRef": TARGET, "mode": "x", "priority": -1}), "spec.mode", "(and 1 more)"),
        (ro("text"), "spec", "dictionary"),
        ({"kind": "ResourceOptimization", "metadata": {"name": "a"}}, "spec", "required"),
        ({"spec": {"targetRef": TARGET}}, "metadata", "required"),
        ({"spec": {"targetRef": TARGET}, "metadata": None}, "metadata", "dictionary"),
        (ro() | {"kind": "Deployment"}, "kind", "expected optiinfra.io/v1alpha1 ResourceOptimization"),
        (ro() | {"apiVersion": "optiinfra.io/v2"}, "kind", "expected optiinfra.io/v1alpha1"),
    ],
)
def test_error_names_field_and_remedy_in_one_line(obj, field, remedy):
    with pytest.raises(InvalidObject) as refused:
        ResourceOptimization.parse(obj)
    assert refused.value.field == field
    assert remedy in refused.value.remedy
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith("ResourceOptimization")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=10), below, max_size=3),
    max_leaves=6,
)


@settings(max_examples=100)
@given(
    st.sampled_from(sorted(field.alias or name for name, field in ResourceOptimizationSpec.model_fields.items())),
    json_values,
)
def test_any_json_in_any_field_is_read_or_refused_cleanly(field, value):
    refusal = None
    try:
        ResourceOptimization.parse(ro({"targetRef": TARGET, field: value}))
    except InvalidObject as error:
        refusal = error
    assert refusal is None or refusal.field.startswith("spec")


def test_status_that_does_not_fit_is_set_aside_with_its_reason():
    found = ResourceOptimization.parse(ro(status={"replicas": {"current": -1, "desired": 1, "ready": 0}}))
    assert found.status_error.startswith("status.replicas.current: ")
    assert found.status == ResourceOptimizationStatus()
    assert "statusError" not in found.to_wire()


def test_status_of_one_object_is_never_shared():
    found = ResourceOptimization.parse(ro(status={"target": "vllm"}))
    assert found.status.target == "vllm"
    assert ResourceOptimization.parse(ro()).status.target == ""


def test_cluster_object_without_anything():
    found = ClusterResourceOptimization.parse({"metadata": {"name": "cluster"}, "spec": {}})
    assert found.key == "cluster"
    assert found.spec.currency == "USD"
    assert found.spec.prices.gpu_hour is None


def test_prices_take_whole_numbers():
    found = ClusterResourceOptimization.parse(
        {"metadata": {"name": "c"}, "spec": {"prices": {"gpuHour": 2, "memoryGiBHour": "0.005"}}}
    )
    assert found.spec.prices.gpu_hour.money == 2
    assert found.spec.to_wire()["prices"] == {"gpuHour": "2", "memoryGiBHour": "0.005"}
    with pytest.raises(InvalidObject):
        ClusterResourceOptimization.parse({"metadata": {"name": "c"}, "spec": {"prices": {"gpuHour": True}}})


def test_checkpoint_is_bounded():
    def checkpoint(state):
        spec = {"version": 1, "time": "2026-01-31T12:00:00Z", "state": state}
        return OptimizationCheckpoint.parse({"metadata": {"name": "a", "namespace": "n"}, "spec": spec})

    assert len(checkpoint("QUJD" * 4096).spec.state) == 16_384
    with pytest.raises(InvalidObject, match="16384"):
        checkpoint("QUJD" * 4097)


def test_equal_references_are_one_key():
    assert (
        len({TargetRef.model_validate(TARGET), TargetRef(api_version="apps/v1", kind="Deployment", name="vllm")}) == 1
    )
