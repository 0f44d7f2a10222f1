"""Floors and our own HPAs on a real API server, with the users' tools played by raw requests."""

import copy

import pytest

from optiinfra.cluster.client import KubernetesClient, PatchKind
from optiinfra.cluster.document import Key
from optiinfra.cluster.errors import AlreadyExists, Conflict, Invalid
from optiinfra.cluster.floor import Floor, FloorCase, FloorHeld, FloorRefusal, FloorReleased
from optiinfra.cluster.own_scaler import OwnScaler, OwnScalers
from optiinfra.cluster.scalers import HELD_LABEL, ORIGINAL_ANNOTATION, hpa_path, parse_scaler
from optiinfra.domain.scale_up_rules import USUAL_RULES, RateKind, RatePolicy, ScaleUpRules, Select
from optiinfra.domain.units import Seconds

METRICS = [
    {
        "type": "Resource",
        "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}},
    },
    {
        "type": "External",
        "external": {"metric": {"name": "queue"}, "target": {"type": "AverageValue", "averageValue": "3"}},
    },
    {
        "type": "Pods",
        "pods": {"metric": {"name": "kv"}, "target": {"type": "AverageValue", "averageValue": "800m"}},
    },
]


@pytest.fixture
async def client(apiserver):
    async with KubernetesClient.from_environment(str(apiserver.kubeconfig)) as opened:
        yield opened


def manifest(name="h", **spec):
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name},
        "spec": {
            "maxReplicas": 20,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"},
            "metrics": METRICS,
            "behavior": {"scaleDown": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}]}},
            **spec,
        },
    }


@pytest.fixture
def key(namespace):
    return Key(namespace, "h")


@pytest.fixture
def applied(client, key):
    """Create an HPA by server-side apply, as Argo CD or Flux would."""

    async def apply(manager="argocd", *, force=False, **spec):
        return await client.apply(hpa_path(*key), manifest(**spec), force=force, query={"fieldManager": manager})

    return apply


@pytest.fixture
def live(client, key):
    async def read():
        return await client.get(hpa_path(*key))

    return read


def uid_of(document):
    return document["metadata"]["uid"]


def without_volatile(document):
    document = copy.deepcopy(document)
    document["metadata"].pop("resourceVersion")
    for entry in document["metadata"]["managedFields"]:
        entry.pop("time")
    return document


async def set_by_update(client, key, value, manager="kubectl-edit"):
    body = {"spec": {"minReplicas": value}}
    return await client.patch(hpa_path(*key), body, kind=PatchKind.MERGE, query={"fieldManager": manager})


# (a) unowned


async def test_taking_moving_and_releasing_leaves_no_trace(client, key, applied, live):
    before = await applied()
    floor = Floor(client)
    uid = uid_of(before)
    assert await floor.take(key, uid=uid, value=4) == FloorHeld(4, 1, (await live())["metadata"]["resourceVersion"])
    held = await live()
    assert held["spec"]["minReplicas"] == 4
    assert held["metadata"]["labels"] == {HELD_LABEL: "true"}
    assert held["metadata"]["annotations"] == {ORIGINAL_ANNOTATION: "1"}
    assert held["spec"]["metrics"] == before["spec"]["metrics"]
    assert held["spec"]["behavior"] == before["spec"]["behavior"]
    facts = parse_scaler(held).facts
    assert (facts.held, facts.original_min_replicas, facts.min_replicas_managers) == (
        True,
        1,
        (("optiinfra", "Apply"),),
    )
    assert (await floor.move(key, uid=uid, value=7)).original == 1
    assert await floor.release(key, uid=uid) == FloorReleased(1, restored=True)
    after, before = without_volatile(await live()), without_volatile(before)
    for emptied in ("labels", "annotations"):
        assert not after["metadata"].pop(emptied, {})
    assert after == before


async def test_the_gitops_tool_can_apply_its_manifest_again_while_a_floor_is_held(client, key, applied, live):
    before = await applied()
    await Floor(client).take(key, uid=uid_of(before), value=4)
    await applied(maxReplicas=30)
    assert (await live())["spec"]["minReplicas"] == 4
    assert (await live())["spec"]["maxReplicas"] == 30


async def test_a_release_in_steps_says_when_another_is_needed(client, key, applied, live):
    uid = uid_of(await applied())
    floor = Floor(client)
    await floor.take(key, uid=uid, value=10)
    values = []
    while isinstance(result := await floor.release(key, uid=uid, max_step=4), FloorHeld):
        values.append((result.value, (await live())["spec"]["minReplicas"]))
    assert values == [(6, 6), (2, 2)]
    assert result == FloorReleased(1, restored=True)


async def test_taking_twice_keeps_the_first_original(client, key, applied):
    uid = uid_of(await applied())
    floor = Floor(client)
    await floor.take(key, uid=uid, value=4)
    assert (await floor.take(key, uid=uid, value=6)).original == 1


@pytest.mark.parametrize("value", [0, 21])
async def test_a_floor_outside_original_and_maximum_is_refused(client, key, applied, live, value):
    uid = uid_of(await applied())
    with pytest.raises(Invalid):
        await Floor(client).take(key, uid=uid, value=value)
    assert (await live())["spec"]["minReplicas"] == 1


async def test_a_replaced_hpa_is_not_touched(client, key, applied, live):
    old = uid_of(await applied())
    await client.delete(hpa_path(*key))
    new = await applied()
    for call in (Floor(client).take(key, uid=old, value=4), Floor(client).release(key, uid=old)):
        with pytest.raises(Conflict):
            await call
    assert (await live())["metadata"]["resourceVersion"] == new["metadata"]["resourceVersion"]


async def test_status_updates_between_read_and_write_do_not_stop_a_floor(client, key, applied):
    """The HPA controller writes every 15 s: each write is a new resourceVersion."""
    uid = uid_of(await applied())
    disturbed = 0

    async def disturb():
        nonlocal disturbed
        if disturbed < 2:
            disturbed += 1
            client.before_write = None
            status = {"status": {"currentReplicas": disturbed, "desiredReplicas": 1}}
            await client.patch(f"{hpa_path(*key)}/status", status, kind=PatchKind.MERGE, query={"fieldManager": "kcm"})
            client.before_write = disturb

    client.before_write = disturb
    assert (await Floor(client).take(key, uid=uid, value=4)).value == 4
    assert disturbed == 2
    disturbed = 0
    assert await Floor(client).release(key, uid=uid) == FloorReleased(1, restored=True)
    assert disturbed == 2


# (b), (c), (d): not ours


async def test_b_another_apply_manager_is_never_overwritten(client, key, applied, live):
    before = await applied("flux", minReplicas=2)
    refusal = await Floor(client).take(key, uid=uid_of(before), value=4)
    assert refusal == FloorRefusal(FloorCase.APPLY_MANAGER, "flux", "remove minReplicas from the manifest of flux")
    assert await live() == before


@pytest.mark.parametrize("spec", [{"minReplicas": 2}, {}])
async def test_c_an_update_manager_is_not_overwritten(client, key, live, spec):
    """Also where the server filled the default in: whoever created the object by POST owns that, too."""
    before = await client.create(hpa_path(key.namespace), manifest(**spec), query={"fieldManager": "kubectl-create"})
    refusal = await Floor(client).take(key, uid=uid_of(before), value=4)
    assert (refusal.case, refusal.manager) == (FloorCase.UPDATE_MANAGER, "kubectl-create")
    assert await live() == before


@pytest.mark.parametrize(("spec", "original"), [({"minReplicas": 2}, 2), ({}, 1)])
async def test_c_by_force_only_that_one_field_is_taken_from_update_managers(client, key, live, spec, original):
    before = await client.create(hpa_path(key.namespace), manifest(**spec), query={"fieldManager": "kubectl-create"})
    floor, uid = Floor(client), uid_of(before)
    assert (await floor.take(key, uid=uid, value=4, force=True)).original == original
    held = await live()
    assert held["spec"] == before["spec"] | {"minReplicas": 4}
    assert parse_scaler(held).facts.min_replicas_managers == (("optiinfra", "Apply"),)
    assert await floor.release(key, uid=uid) == FloorReleased(original, restored=True)
    assert (await live())["spec"] == before["spec"] | {"minReplicas": original}


async def test_c_what_was_written_beside_an_earlier_floor_is_not_taken_for_the_original(client, key, applied, live):
    uid = uid_of(await applied())
    floor = Floor(client)
    await floor.take(key, uid=uid, value=4)
    await set_by_update(client, key, 3)
    assert (await floor.take(key, uid=uid, value=6, force=True)).original == 3
    assert (await live())["metadata"]["annotations"][ORIGINAL_ANNOTATION] == "3"


async def test_b_an_apply_manager_is_not_forced_either(client, key, applied, live):
    before = await applied("flux", minReplicas=2)
    refusal = await Floor(client).take(key, uid=uid_of(before), value=4, force=True)
    assert (refusal.case, refusal.manager) == (FloorCase.APPLY_MANAGER, "flux")
    assert await live() == before


async def test_giving_way_leaves_the_value_of_who_wrote_it_and_nothing_of_ours(client, key, applied, live):
    uid = uid_of(await applied())
    floor = Floor(client)
    await floor.take(key, uid=uid, value=4, release_step=2)
    assert await floor.give_way(key, uid=uid) == FloorHeld(4, 1, (await live())["metadata"]["resourceVersion"])
    await set_by_update(client, key, 3)
    assert parse_scaler(await live()).facts.floor_lost
    assert await floor.give_way(key, uid=uid) == FloorReleased(3, restored=False)
    after = await live()
    assert after["spec"]["minReplicas"] == 3
    assert not after["metadata"].get("labels")
    assert not after["metadata"].get("annotations")
    assert "optiinfra" not in {entry["manager"] for entry in after["metadata"]["managedFields"]}
    assert not parse_scaler(after).facts.floor_lost


async def test_the_same_value_by_another_apply_manager_is_shared_and_given_way_to(client, key, applied, live):
    uid = uid_of(await applied())
    floor = Floor(client)
    await floor.take(key, uid=uid, value=4)
    await applied("argocd", minReplicas=4)
    assert parse_scaler(await live()).facts.floor_lost
    assert await floor.give_way(key, uid=uid) == FloorReleased(4, restored=False)
    await applied("argocd", minReplicas=2)
    assert (await live())["spec"]["minReplicas"] == 2


async def test_the_steps_of_the_way_back_are_written_beside_the_floor(client, key, applied, live):
    uid = uid_of(await applied())
    floor = Floor(client)
    await floor.take(key, uid=uid, value=7, release_step=3)
    assert parse_scaler(await live()).facts.release_step == 3
    await floor.move(key, uid=uid, value=6)
    assert parse_scaler(await live()).facts.release_step == 3
    assert (await floor.release(key, uid=uid, max_step=3)).value == 3
    assert parse_scaler(await live()).facts.release_step == 3
    await floor.release(key, uid=uid)
    assert not (await live())["metadata"].get("annotations")


async def test_the_pace_of_an_hpa_is_read_as_the_server_fills_it_in(client, key, applied, live):
    await applied(behavior={"scaleUp": {"policies": [{"type": "Pods", "value": 2, "periodSeconds": 90}]}})
    rules = parse_scaler(await live()).facts.scale_up
    assert rules == ScaleUpRules((RatePolicy(RateKind.PODS, 2, Seconds(90.0)),))
    await applied(behavior={"scaleUp": {"selectPolicy": "Disabled", "stabilizationWindowSeconds": 60}})
    rules = parse_scaler(await live()).facts.scale_up
    assert (rules.select, rules.stabilization) == (Select.DISABLED, 60.0)
    await applied(behavior=None)
    assert parse_scaler(await live()).facts.scale_up == USUAL_RULES


@pytest.mark.parametrize(
    ("api_version", "kind"), [("keda.sh/v1alpha1", "ScaledObject"), ("serving.kserve.io/v1beta1", "InferenceService")]
)
async def test_d_an_hpa_of_another_controller_is_left_alone(client, key, live, api_version, kind):
    body = manifest()
    owner = {"apiVersion": api_version, "kind": kind, "name": "llama", "uid": "u", "controller": True}
    body["metadata"]["ownerReferences"] = [owner]
    before = await client.apply(hpa_path(*key), body, query={"fieldManager": "keda"})
    refusal = await Floor(client).take(key, uid=uid_of(before), value=4)
    assert (refusal.case, refusal.manager) == (FloorCase.CONTROLLER_OWNER, f"{kind}/llama")
    assert await live() == before


async def test_a_floor_that_somebody_took_over_is_neither_moved_nor_restored(client, key, applied, live):
    uid = uid_of(await applied())
    floor = Floor(client)
    await floor.take(key, uid=uid, value=4)
    await set_by_update(client, key, 3)
    refusal = await floor.move(key, uid=uid, value=6)
    assert (refusal.case, refusal.manager) == (FloorCase.UPDATE_MANAGER, "kubectl-edit")
    assert await floor.release(key, uid=uid) == FloorReleased(3, restored=False)
    after = await live()
    assert after["spec"]["minReplicas"] == 3
    assert HELD_LABEL not in after["metadata"].get("labels", {})
    assert "optiinfra" not in {entry["manager"] for entry in after["metadata"]["managedFields"]}


async def test_a_field_taken_between_read_and_write_is_a_refusal(client, key, applied, live):
    uid = uid_of(await applied())

    async def seize():
        client.before_write = None
        await applied("flux", force=True, minReplicas=5)

    client.before_write = seize
    refusal = await Floor(client).take(key, uid=uid, value=7)
    assert (refusal.case, refusal.manager) == (FloorCase.APPLY_MANAGER, "flux")
    assert (await live())["spec"]["minReplicas"] == 5


async def test_what_is_not_held_is_not_moved_and_not_released(client, key, applied, live):
    before = await applied()
    floor = Floor(client)
    assert (await floor.move(key, uid=uid_of(before), value=4)).case is FloorCase.NOT_HELD
    assert (await floor.release(key, uid=uid_of(before))).case is FloorCase.NOT_HELD
    assert await live() == before


async def test_a_removed_label_does_not_make_the_floor_the_original(client, key, applied, live):
    uid = uid_of(await applied())
    floor = Floor(client)
    await floor.take(key, uid=uid, value=4)
    body = {"metadata": {"labels": None}}
    await client.patch(hpa_path(*key), body, kind=PatchKind.MERGE, query={"fieldManager": "kubectl"})
    assert (await floor.take(key, uid=uid, value=6)).original == 1
    assert await floor.release(key, uid=uid) == FloorReleased(1, restored=True)


async def test_a_removed_annotation_is_not_guessed(client, key, applied, live):
    uid = uid_of(await applied())
    floor = Floor(client)
    await floor.take(key, uid=uid, value=4)
    body = {"metadata": {"annotations": None}}
    await client.patch(hpa_path(*key), body, kind=PatchKind.MERGE, query={"fieldManager": "kubectl"})
    assert (await floor.take(key, uid=uid, value=6)).case is FloorCase.NOT_HELD
    assert await floor.release(key, uid=uid) == FloorReleased(4, restored=False)
    assert HELD_LABEL not in (await live())["metadata"].get("labels", {})


async def test_wiped_ownership_records_do_not_lose_the_original(client, key, applied, live):
    uid = uid_of(await applied())
    floor = Floor(client)
    await floor.take(key, uid=uid, value=4)
    patch = [{"op": "replace", "path": "/metadata/managedFields", "value": [{}]}]
    await client.patch(hpa_path(*key), patch, kind=PatchKind.JSON)
    assert await floor.release(key, uid=uid) == FloorReleased(1, restored=True)
    after = await live()
    assert after["spec"]["minReplicas"] == 1
    assert HELD_LABEL not in after["metadata"].get("labels", {})


async def test_c_an_hpa_without_ownership_records_is_not_ours(client, key, applied):
    uid = uid_of(await applied())
    patch = [{"op": "replace", "path": "/metadata/managedFields", "value": [{}]}]
    await client.patch(hpa_path(*key), patch, kind=PatchKind.JSON)
    refusal = await Floor(client).take(key, uid=uid, value=4)
    assert (refusal.case, refusal.manager) == (FloorCase.UPDATE_MANAGER, "before-first-apply")


async def test_a_floor_that_came_with_a_restored_backup_is_released_in_steps(client, key, applied, live):
    """Velero and its like create the object again, with our label and annotation, as their own."""
    uid = uid_of(await applied())
    floor = Floor(client)
    await floor.take(key, uid=uid, value=9)
    backup = await live()
    await client.delete(hpa_path(*key))
    backup["metadata"] = {field: backup["metadata"][field] for field in ("name", "labels", "annotations")}
    backup.pop("status")
    await client.create(hpa_path(key.namespace), backup, query={"fieldManager": "velero-server"})
    assert (await floor.release(key, max_step=4)).value == 5
    assert (await floor.release(key, max_step=4)) == FloorReleased(1, restored=True)
    after = await live()
    assert after["spec"]["minReplicas"] == 1
    assert {entry["manager"] for entry in after["metadata"]["managedFields"]} == {"velero-server"}
    assert HELD_LABEL not in after["metadata"].get("labels", {})


# Own


@pytest.fixture
def wanted(namespace):
    return OwnScaler(
        namespace=namespace,
        owner_name="llama",
        owner_uid="11111111-2222-3333-4444-555555555555",
        target_api_version="apps/v1",
        target_kind="Deployment",
        target_name="d",
        min_replicas=1,
        max_replicas=4,
        server_minor=36,
    )


async def test_our_hpa_is_created_changed_and_deleted(client, wanted):
    scalers = OwnScalers(client)
    uid = await scalers.apply(wanted)
    document = await client.get(hpa_path(*wanted.key))
    facts = parse_scaler(document).facts
    assert facts.owned_by_us
    assert facts.controller_owner == ""
    assert document["spec"]["behavior"]["scaleUp"]["tolerance"] == "0"
    assert document["spec"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"] == 0
    (metric,) = document["spec"]["metrics"]
    assert metric["external"]["metric"] == {
        "name": "optiinfra_desired_replicas",
        "selector": {"matchLabels": {"optiinfra.io/name": "llama"}},
    }
    bigger = OwnScaler(**{name: getattr(wanted, name) for name in wanted.__slots__} | {"max_replicas": 9})
    assert await scalers.apply(bigger, uid=uid) == uid
    assert (await client.get(hpa_path(*wanted.key)))["spec"]["maxReplicas"] == 9
    assert await scalers.apply(bigger, uid=uid) == uid
    assert await scalers.delete(wanted.key, uid=uid)
    assert not await scalers.delete(wanted.key, uid=uid)


async def test_a_users_hpa_of_the_same_name_is_not_touched(client, wanted):
    before = await client.create(hpa_path(wanted.namespace), manifest(wanted.key.name))
    scalers = OwnScalers(client)
    with pytest.raises(AlreadyExists):
        await scalers.apply(wanted)
    with pytest.raises(Conflict):
        await scalers.apply(wanted, uid="00000000-0000-0000-0000-000000000000")
    with pytest.raises(Conflict):
        await scalers.delete(wanted.key, uid="00000000-0000-0000-0000-000000000000")
    assert await client.get(hpa_path(*wanted.key)) == before


async def test_a_field_that_a_user_changed_on_our_hpa_is_a_conflict_with_names(client, wanted):
    scalers = OwnScalers(client)
    uid = await scalers.apply(wanted)
    body = {"spec": {"maxReplicas": 2}}
    await client.patch(hpa_path(*wanted.key), body, kind=PatchKind.MERGE, query={"fieldManager": "kubectl-edit"})
    with pytest.raises(Conflict) as caught:
        await scalers.apply(wanted, uid=uid)
    assert [field.field for field in caught.value.fields] == [".spec.maxReplicas"]
    assert "kubectl-edit" in caught.value.fields[0].manager


async def test_an_hpa_that_vanished_is_not_created_again_under_its_old_uid(client, wanted):
    scalers = OwnScalers(client)
    uid = await scalers.apply(wanted)
    await scalers.delete(wanted.key, uid=uid)
    with pytest.raises(Conflict):
        await scalers.apply(wanted, uid=uid)
