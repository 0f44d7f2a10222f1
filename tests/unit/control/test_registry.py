"""The registry: what was seen last, who acts, and which events ask for something."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optiinfra.api.errors import InvalidObject
from optiinfra.api.v1alpha1 import APPROVE_ANNOTATION, ResourceOptimization, TargetRef
from optiinfra.control.keys import ObjectKey
from optiinfra.control.registry import DRY_RUN_ANNOTATION, Broken, Registry
from tests.unit.control.examples import DEPLOYMENT, NOW, cro_body, ro_body, time_text

RO = "ResourceOptimization"
KEY = ObjectKey(RO, "inference", "svc")
ANCIENT = NOW - 99 * 86400
TARGET = TargetRef.model_validate(DEPLOYMENT)


def seen(registry: Registry, body):
    return registry.upsert(RO, body)


def test_a_new_object_needs_a_round_and_the_same_again_does_not():
    registry = Registry()
    change = seen(registry, ro_body())
    assert change.is_new
    assert change.needs_round
    assert change.key == KEY
    assert not seen(registry, ro_body()).needs_round
    assert isinstance(registry.get(KEY), ResourceOptimization)


def test_the_echo_of_our_own_status_write_asks_for_nothing():
    registry = Registry()
    seen(registry, ro_body(version="10"))
    status = {"observedGeneration": 1, "mode": "Recommend", "target": "vllm"}
    known = registry.get(KEY)
    written = ResourceOptimization.parse(ro_body(version="11", status=status))
    registry.replace(KEY, written)
    assert registry.get(KEY) is written is not known
    assert not seen(registry, ro_body(version="11", status=status)).needs_round


@pytest.mark.parametrize(
    ("change", "needs"),
    [
        ({"generation": 2, "suspend": True}, True),
        ({"annotations": {APPROVE_ANNOTATION: "abc"}}, True),
        ({"annotations": {DRY_RUN_ANNOTATION: "true"}}, True),
        ({"annotations": {"team": "ml"}}, False),
        ({"status": {"observedGeneration": 1}}, False),
    ],
)
def test_only_what_a_person_asked_for_needs_a_round(change, needs):
    registry = Registry()
    seen(registry, ro_body(version="10"))
    assert seen(registry, ro_body(version="11", **change)).needs_round is needs


def test_a_replaced_object_is_new_though_its_name_is_known():
    registry = Registry()
    seen(registry, ro_body(uid="first", version="10"))
    change = seen(registry, ro_body(uid="second", version="20"))
    assert change.is_new
    assert registry.get(KEY).metadata.uid == "second"
    assert registry.all_keys() == (KEY,)


@pytest.mark.parametrize("late_uid", ["uid-1", "uid-of-its-predecessor"])
def test_a_late_event_does_not_undo_a_newer_one(late_uid):
    registry = Registry()
    seen(registry, ro_body(version="100", generation=3, suspend=True))
    change = seen(registry, ro_body(version="99", generation=2, uid=late_uid))
    assert not change.needs_round
    assert registry.get(KEY).metadata.resource_version == "100"
    assert registry.get(KEY).spec.suspend


def test_versions_are_compared_as_numbers_and_opaque_ones_not_at_all():
    registry = Registry()
    seen(registry, ro_body(version="99"))
    seen(registry, ro_body(version="100", generation=2))
    assert registry.get(KEY).metadata.resource_version == "100"
    seen(registry, ro_body(version="opaque-a", generation=3))
    assert registry.get(KEY).metadata.resource_version == "opaque-a"


def test_an_object_that_cannot_be_parsed_is_kept_with_field_and_remedy():
    registry = Registry()
    status = {"observedGeneration": 1, "conditions": []}
    change = seen(registry, ro_body(interval="soon", status=status))
    assert change.needs_round
    broken = registry.get(KEY)
    assert isinstance(broken, Broken)
    assert broken.field == "spec.interval"
    assert broken.remedy
    assert broken.status == status
    assert broken.metadata.uid == "uid-1"
    assert list(registry.services()) == []
    mended = seen(registry, ro_body(interval="30s", generation=2, version="11"))
    assert mended.spec_changed
    assert [key for key, _ in registry.services()] == [KEY]


def test_an_object_that_breaks_no_longer_acts_on_its_target():
    registry = Registry()
    seen(registry, ro_body("old", uid="a", created=NOW - 100))
    seen(registry, ro_body("young", uid="b", created=NOW - 50))
    young = ObjectKey(RO, "inference", "young")
    assert registry.acting(young, TARGET).name == "old"
    seen(registry, ro_body("old", uid="a", created=NOW - 100, version="11", generation=2, interval="soon"))
    assert registry.acting(young, TARGET) == young


@pytest.mark.parametrize(
    "metadata",
    [
        {"name": 7, "namespace": "inference"},
        {"namespace": "inference"},
        {"name": "svc", "creationTimestamp": "yesterday"},
        None,
        "text",
    ],
)
def test_metadata_that_cannot_be_read_is_refused_with_the_one_error_that_callers_know(metadata):
    registry = Registry()
    body = ro_body()
    body["metadata"] = metadata
    with pytest.raises(InvalidObject):
        seen(registry, body)
    assert registry.all_keys() == ()


def test_a_body_without_metadata_is_refused_the_same_way():
    with pytest.raises(InvalidObject):
        Registry().upsert(RO, {"spec": {}})


def test_of_rivals_the_older_acts_then_the_smaller_uid():
    registry = Registry()
    for name, uid, created in (("c", "u3", NOW - 10), ("b", "u2", NOW - 99), ("a", "u9", NOW - 99)):
        seen(registry, ro_body(name, uid=uid, created=created))
    keys = [ObjectKey(RO, "inference", name) for name in "abc"]
    assert {registry.acting(key, TARGET).name for key in keys} == {"b"}
    registry.remove(keys[1])
    assert {registry.acting(keys[index], TARGET).name for index in (0, 2)} == {"a"}
    registry.remove(keys[0])
    assert registry.acting(keys[2], TARGET) == keys[2]


def test_another_namespace_kind_or_group_is_no_rival_and_another_version_of_the_group_is():
    registry = Registry()
    seen(registry, ro_body("old", uid="a", created=ANCIENT))
    seen(registry, ro_body("elsewhere", uid="b", namespace="other"))
    elsewhere = ObjectKey(RO, "other", "elsewhere")
    assert registry.acting(elsewhere, TARGET) == elsewhere
    for change, rival in (
        (("kind", "StatefulSet"), False),
        (("apiVersion", "x.io/v1"), False),
        (("apiVersion", "apps/v2"), True),
    ):
        reference = DEPLOYMENT | {change[0]: change[1]}
        seen(registry, ro_body("young", uid="c", version=str(50 + len(registry.all_keys())), targetRef=reference))
        young = ObjectKey(RO, "inference", "young")
        acts = registry.acting(young, TargetRef.model_validate(reference))
        assert (acts.name == "old") is rival, change
        registry.remove(young)


def test_an_object_that_is_being_deleted_makes_way():
    registry = Registry()
    seen(registry, ro_body("old", uid="a", created=ANCIENT))
    seen(registry, ro_body("young", uid="b"))
    young = ObjectKey(RO, "inference", "young")
    seen(registry, ro_body("old", uid="a", created=ANCIENT, version="11", deleting=True))
    assert registry.acting(young, TARGET) == young


def test_every_variant_of_a_service_is_a_target():
    registry = Registry()
    variants = [{"name": name, "targetRef": DEPLOYMENT | {"name": name}} for name in ("spot", "vllm")]
    seen(registry, ro_body("old", uid="a", created=ANCIENT, variants=variants))
    seen(registry, ro_body("young", uid="b"))
    young = ObjectKey(RO, "inference", "young")
    assert registry.acting(young, TARGET).name == "old"
    assert registry.remove(ObjectKey(RO, "inference", "old"))
    assert registry.acting(young, TARGET) == young
    assert not registry.remove(ObjectKey(RO, "inference", "old"))


def test_a_write_of_ours_does_not_bring_back_what_is_gone():
    registry = Registry()
    seen(registry, ro_body())
    known = registry.get(KEY)
    registry.remove(KEY)
    registry.replace(KEY, known)
    assert registry.get(KEY) is None


def test_cluster_objects_are_told_apart_and_come_oldest_first():
    registry = Registry()
    registry.upsert("ClusterResourceOptimization", cro_body("young", uid="b", created=NOW - 1))
    registry.upsert("ClusterResourceOptimization", cro_body("old", uid="a", created=ANCIENT))
    seen(registry, ro_body())
    assert [key.name for key, _ in registry.clusters()] == ["old", "young"]
    assert [key.name for key, _ in registry.services()] == ["svc"]
    assert str(registry.clusters()[0][0]) == "cro/old"
    assert str(KEY) == "ro/inference/svc"


def test_a_body_of_another_kind_is_kept_as_broken_and_not_taken_for_ours():
    registry = Registry()
    body = ro_body() | {"kind": "Deployment"}
    seen(registry, body)
    assert isinstance(registry.get(KEY), Broken)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.sampled_from(["add", "remove"]),
            st.integers(0, 3),
            st.sampled_from(["vllm", "tgi"]),
        ),
        max_size=25,
    )
)
def test_who_acts_never_depends_on_the_order_of_events(events):
    registry = Registry()
    alive: dict[str, tuple[int, str]] = {}
    for version, (name, what, age, target) in enumerate(events, start=1):
        key = ObjectKey(RO, "inference", name)
        if what == "remove":
            registry.remove(key)
            alive.pop(name, None)
            continue
        reference = DEPLOYMENT | {"name": target}
        body = ro_body(name, uid=f"u-{name}", created=NOW - age * 60, version=str(version), targetRef=reference)
        body["metadata"]["creationTimestamp"] = time_text(NOW - age * 60)
        seen(registry, body)
        alive[name] = (age, target)
    for name, (_, target) in alive.items():
        rivals = [other for other, (_, theirs) in alive.items() if theirs == target]
        expected = min(rivals, key=lambda other: (-alive[other][0], f"u-{other}"))
        reference = TargetRef.model_validate(DEPLOYMENT | {"name": target})
        assert registry.acting(ObjectKey(RO, "inference", name), reference).name == expected
