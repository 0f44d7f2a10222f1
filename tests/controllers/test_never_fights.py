"""The operator among other writers never fights: at most the one write that the rules allow, then it is quiet.

Real controllers, the real operator process, the users' real tools (kubectl, Helm 3, Helm 4). The cases of a module run
side by side, each in a namespace of its own, under one operator; every write is counted in the API server's audit log.
A few of the most important ones run always, all of them with `make soak`.
"""

import concurrent.futures
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from hack.cluster.errors import ApiError, ClusterError
from hack.real_vpa.stage import CRDS as VPA_CRDS
from tests.neighbours import MAXIMUM, Ground, neighbourhood, second_operator
from tests.operator_process import eventually

pytestmark = [pytest.mark.safety, pytest.mark.timeout(900)]
SIDE_BY_SIDE = 10
HELD_WELL = ("AtLimit", "Succeeded")
ONCE = {"takeover": "Once"}
DOWN_AT_ONCE = {"scaleDown": {"stabilizationWindowSeconds": 0}}


@dataclass
class Played:
    """What came of a case."""

    writes: list[int] = field(default_factory=list)
    """Ours, by phase."""
    total: int = 0
    said: list[str] = field(default_factory=list)
    """The condition at the end of each phase."""
    by_manager: dict[str, int] = field(default_factory=dict)
    failure: str = ""

    def phase(self, ground: Ground, allowed: int, found: dict[str, str]) -> None:
        """End a phase: nothing more is written, and no more than allowed was."""
        ground.settle()
        fresh = ground.fresh()
        self.writes.append(len(fresh))
        self.said.append(f"{found['status']} {found['reason']}: {found['message']}")
        assert len(fresh) <= allowed, fresh


Case = Callable[[Ground, Played], None]
QUICK: dict[str, Case] = {}
SLOW: dict[str, Case] = {}


def quick(case: Case) -> Case:
    QUICK[case.__name__] = case
    return case


def slow(case: Case) -> Case:
    SLOW[case.__name__] = case
    return case


# ---- HPAs by every tool: minReplicas set and left out


def not_ours(ground: Ground, played: Played, manager: str) -> None:
    """Somebody owns the field: nothing is written, and the condition names who it is."""
    before = ground.minimum()
    ground.optimize()
    found = ground.wait("False", "FieldOwned", names=manager)
    played.phase(ground, 0, found)
    assert ground.minimum() == before


def taken(ground: Ground, played: Played, *, writes: int = 1, **spec: object) -> None:
    """Nobody owns the field: it is taken by one write, and the workload follows."""
    ground.optimize(**spec)
    ground.wait_minimum(MAXIMUM)
    ground.wait_replicas(MAXIMUM)
    played.phase(ground, writes, ground.wait("True", *HELD_WELL))
    assert ground.minimum() == MAXIMUM


@quick
def kubectl_apply_with_minimum(ground, played):
    ground.by_kubectl("apply", minReplicas=2)
    not_ours(ground, played, "kubectl-client-side-apply")
    ground.by_kubectl("apply", minReplicas=3)
    ground.wait_minimum(3)
    played.phase(ground, 0, ground.wait("False", "FieldOwned"))


@slow
def kubectl_apply_without_minimum(ground, played):
    ground.by_kubectl("apply")
    not_ours(ground, played, "kubectl-client-side-apply")
    ground.by_kubectl("apply", maxReplicas=5)
    played.phase(ground, 0, ground.wait("False", "FieldOwned"))


@slow
def kubectl_create_with_minimum(ground, played):
    ground.by_kubectl("create", minReplicas=2)
    not_ours(ground, played, "kubectl-create")
    ground.by_kubectl("replace", minReplicas=1)
    played.phase(ground, 0, ground.wait("False", "FieldOwned", names="kubectl"))


@slow
def kubectl_create_without_minimum(ground, played):
    ground.by_kubectl("create")
    not_ours(ground, played, "kubectl-create")
    ground.by_kubectl("apply", "--server-side", "--force-conflicts")
    played.phase(ground, 0, ground.wait("False", "FieldOwned", names="kubectl"))


@slow
def server_side_apply_with_minimum(ground, played):
    ground.by_apply("argocd", minReplicas=2)
    not_ours(ground, played, "argocd")
    ground.by_apply("argocd", minReplicas=1)
    played.phase(ground, 0, ground.wait("False", "FieldOwned", names="argocd"))


@quick
def server_side_apply_without_minimum(ground, played):
    ground.by_apply("argocd")
    taken(ground, played)
    ground.by_apply("argocd", behavior={"scaleDown": {"stabilizationWindowSeconds": 1}})
    played.phase(ground, 0, ground.wait("True", *HELD_WELL))
    assert ground.minimum() == MAXIMUM


@slow
def helm_3_with_minimum(ground, played):
    ground.helm("helm", "install", minimum=2)
    not_ours(ground, played, "helm")
    ground.helm("helm", "upgrade", minimum=2, round=2)
    ground.helm("helm", "rollback", "1")
    played.phase(ground, 0, ground.wait("False", "FieldOwned", names="helm"))
    assert ground.minimum() == 2


@slow
def helm_3_without_minimum(ground, played):
    ground.helm("helm", "install")
    not_ours(ground, played, "helm")
    ground.helm("helm", "upgrade", round=2)
    ground.helm("helm", "rollback", "1")
    played.phase(ground, 0, ground.wait("False", "FieldOwned", names="helm"))


@slow
def helm_4_with_minimum(ground, played):
    ground.helm("helm4", "install", minimum=2)
    not_ours(ground, played, "helm")
    ground.helm("helm4", "upgrade", minimum=2, round=2)
    ground.helm("helm4", "rollback", "1")
    played.phase(ground, 0, ground.wait("False", "FieldOwned", names="helm"))
    assert ground.minimum() == 2


@quick
def helm_4_without_minimum(ground, played):
    ground.helm("helm4", "install")
    taken(ground, played)
    ground.helm("helm4", "upgrade", round=2)
    ground.helm("helm4", "rollback", "1")
    played.phase(ground, 0, ground.wait("True", *HELD_WELL))
    assert ground.minimum() == MAXIMUM


# ---- takeover: Once


@quick
def takeover_from_kubectl_apply_lost_again(ground, played):
    ground.by_kubectl("apply", minReplicas=2)
    taken(ground, played, scaling=ONCE)
    assert ground.live()["metadata"]["annotations"]["optiinfra.io/original"] == "2"
    ground.by_kubectl("apply", minReplicas=2)
    found = ground.wait("False", "FloorLost", names="kubectl-client-side-apply")
    played.phase(ground, 1, found)
    assert ground.minimum() == 2
    assert not ground.live()["metadata"].get("labels")
    assert not [entry for entry in ground.live()["metadata"]["managedFields"] if entry["manager"] == "optiinfra"]


@slow
def takeover_is_armed_anew_by_never_and_once(ground, played):
    takeover_from_kubectl_apply_lost_again(ground, played)
    ground.change({"scaling": {"takeover": "Never"}})
    ground.wait("False", "FieldOwned")
    ground.change({"scaling": {"takeover": "Once"}})
    ground.wait_minimum(MAXIMUM)
    played.phase(ground, 1, ground.wait("True", *HELD_WELL))
    (record,) = ground.status()["takeovers"]
    assert (record["name"], record["scaler"], record["value"]) == ("svc", "theirs", 2)


@slow
def takeover_from_helm_3_without_minimum(ground, played):
    ground.helm("helm", "install")
    taken(ground, played, scaling=ONCE)
    ground.helm("helm", "upgrade", round=2)
    ground.helm("helm", "rollback", "1")
    played.phase(ground, 0, ground.wait("True", *HELD_WELL))


@slow
def takeover_from_helm_3_with_minimum(ground, played):
    ground.helm("helm", "install", minimum=2)
    taken(ground, played, scaling=ONCE)
    ground.helm("helm", "upgrade", minimum=2, round=2)
    found = ground.wait("False", "FloorLost", names="helm")
    played.phase(ground, 1, found)
    ground.helm("helm", "rollback", "1")
    played.phase(ground, 0, ground.wait("False", "FloorLost", names="helm"))


@slow
def takeover_is_never_from_an_apply_manager(ground, played):
    ground.helm("helm4", "install", minimum=2)
    ground.optimize(scaling=ONCE)
    played.phase(ground, 0, ground.wait("False", "FieldOwned", names="helm"))
    ground.helm("helm4", "upgrade", minimum=2, round=2)
    ground.helm("helm4", "rollback", "1")
    played.phase(ground, 0, ground.wait("False", "FieldOwned", names="helm"))


@quick
def takeover_under_a_loop_that_applies_its_own_value(ground, played):
    ground.by_kubectl("apply", minReplicas=2)
    with ground.again_and_again(lambda: ground.by_kubectl("apply", minReplicas=2), every=2.0):
        ground.optimize(scaling=ONCE)
        found = ground.wait("False", "FloorLost", names="kubectl-client-side-apply")
        # One forced apply, and one write that takes our marks off again; never a third one.
        played.phase(ground, 2, found)
    assert ground.minimum() == 2


@slow
def takeover_under_a_loop_that_replaces_the_whole_object(ground, played):
    """`replace --force` deletes the HPA and makes it anew: what was used up is known nevertheless."""
    ground.by_kubectl("create", minReplicas=2)
    with ground.again_and_again(lambda: ground.by_kubectl("replace", "--force", minReplicas=2), every=4.0):
        ground.optimize(scaling=ONCE)
        ground.wait("False", "FloorLost", names="kubectl")
        assert len(ground.fresh()) <= 2
        played.phase(ground, 1, ground.wait("False", "FloorLost", names="kubectl"))


# ---- tools that heal


@quick
def self_heal_of_a_manifest_with_minimum(ground, played):
    ground.by_apply("argocd-controller", force=True, minReplicas=2)
    with ground.again_and_again(lambda: ground.by_apply("argocd-controller", force=True, minReplicas=2)):
        not_ours(ground, played, "argocd-controller")


@quick
def forced_applies_of_a_manifest_without_minimum(ground, played):
    ground.by_apply("kustomize-controller", force=True)
    with ground.again_and_again(lambda: ground.by_apply("kustomize-controller", force=True)):
        taken(ground, played)
    assert ground.minimum() == MAXIMUM


@slow
def a_forced_apply_takes_a_held_field_away(ground, played):
    ground.by_apply("kustomize-controller", force=True)
    taken(ground, played)
    with ground.again_and_again(lambda: ground.by_apply("kustomize-controller", force=True, minReplicas=2)):
        found = ground.wait("False", "FieldOwned", "FloorLost", names="kustomize-controller")
        played.phase(ground, 1, found)
    assert ground.minimum() == 2


@slow
def a_person_edits_a_held_field(ground, played):
    ground.by_apply("argocd")
    taken(ground, played)
    ground.patch({"minReplicas": 3})
    found = ground.wait("False", "FieldOwned", names="kubectl-edit")
    played.phase(ground, 1, found)
    assert ground.minimum() == 3


@slow
def an_hpa_that_is_deleted_and_made_anew(ground, played):
    ground.by_apply("argocd")
    taken(ground, played)
    ground.kubectl("delete", "hpa", "theirs")
    ground.wait("False", "ScalerNotFound")
    ground.by_apply("argocd")
    ground.wait_minimum(MAXIMUM)
    played.phase(ground, 1, ground.wait("True", *HELD_WELL))


# ---- other scalers


@quick
def another_hpa_appears_beside_a_held_floor(ground, played):
    ground.by_apply("argocd")
    taken(ground, played)
    ground.by_apply("argocd", name="second", minReplicas=1, maxReplicas=2)
    found = ground.wait("False", "SeveralScalers", names="second")
    ground.wait_minimum(1)
    played.phase(ground, 2, found)
    ground.kubectl("delete", "hpa", "second")
    ground.wait_minimum(MAXIMUM)
    played.phase(ground, 1, ground.wait("True", *HELD_WELL))


@slow
def the_hpa_of_keda(ground, played):
    owner = {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "name": "svc", "uid": "0", "controller": True}
    body = ground.manifest("keda-hpa-svc", minReplicas=1)
    body["metadata"]["ownerReferences"] = [owner]
    path = f"/apis/autoscaling/v2/namespaces/{ground.namespace}/horizontalpodautoscalers"
    ground.cluster.request("POST", f"{path}?fieldManager=keda", body)
    ground.optimize()
    played.phase(ground, 0, ground.wait("False", "ScalerOwnedByController", names="ScaledObject/svc"))


@slow
def keda_adopts_an_hpa_whose_floor_is_held(ground, played):
    ground.by_apply("argocd")
    taken(ground, played)
    owner = {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "name": "svc", "uid": "0", "controller": True}
    path = f"/apis/autoscaling/v2/namespaces/{ground.namespace}/horizontalpodautoscalers/theirs?fieldManager=keda"
    body = {"metadata": {"ownerReferences": [owner]}}
    ground.cluster.request("PATCH", path, body, content_type="application/merge-patch+json")
    found = ground.wait("False", "ScalerOwnedByController", names="ScaledObject/svc")
    ground.wait_minimum(1)
    played.phase(ground, 2, found)


# ---- people and rollouts


@slow
def a_manual_scale(ground, played):
    ground.by_apply("argocd")
    taken(ground, played)
    for replicas in (1, 3, 6):
        ground.kubectl("scale", "deployment/svc", f"--replicas={replicas}")
        ground.wait_replicas(MAXIMUM)
    played.phase(ground, 0, ground.wait("True", *HELD_WELL))


@slow
def a_manual_scale_to_zero(ground, played):
    ground.by_apply("argocd")
    taken(ground, played)
    ground.kubectl("scale", "deployment/svc", "--replicas=0")
    found = ground.wait("False", "ScalerInactive", names="ScalingDisabled")
    played.phase(ground, 0, found)
    ground.kubectl("scale", "deployment/svc", "--replicas=1")
    ground.wait_replicas(MAXIMUM)
    played.phase(ground, 0, ground.wait("True", *HELD_WELL))


@slow
def a_rollout_in_progress(ground, played):
    ground.by_apply("argocd")
    taken(ground, played)
    for number in range(3):
        ground.kubectl("set", "image", "deployment/svc", f"vllm=vllm/vllm-openai:v0.32.{number + 1}")
    played.phase(ground, 0, ground.wait("True", *HELD_WELL))
    ground.kubectl("rollout", "status", "deployment/svc", "--timeout=60s")
    played.phase(ground, 0, ground.wait("True", *HELD_WELL))


@slow
def a_paused_deployment(ground, played):
    ground.by_apply("argocd")
    ground.kubectl("rollout", "pause", "deployment/svc")
    taken(ground, played)
    ground.kubectl("set", "image", "deployment/svc", "vllm=vllm/vllm-openai:v0.32.9")
    played.phase(ground, 0, ground.wait("True", *HELD_WELL))
    ground.kubectl("rollout", "resume", "deployment/svc")
    played.phase(ground, 0, ground.wait("True", *HELD_WELL))


# ---- a maximum that falls


@quick
def the_maximum_is_lowered_to_the_floor(ground, played):
    slow = {"scaleUp": {"policies": [{"type": "Pods", "value": 3, "periodSeconds": 1800}]}}
    ground.by_apply("argocd", maxReplicas=6, behavior=slow | DOWN_AT_ONCE)
    ground.optimize()
    ground.wait_minimum(MAXIMUM)  # no further: the HPA itself would add three in half an hour
    ground.wait_replicas(MAXIMUM)
    played.phase(ground, 1, ground.condition())
    ground.by_apply("argocd", maxReplicas=MAXIMUM, behavior=slow | DOWN_AT_ONCE)
    ground.wait("False", "MaximumLowered")
    ground.wait_minimum(1)
    ground.by_apply("argocd", maxReplicas=3, behavior=slow | DOWN_AT_ONCE)  # below what the floor was
    assert len(ground.fresh()) == 2, "an apply of the original, and one that takes our marks off"
    ground.wait_minimum(3)  # after the cooldown
    played.phase(ground, 1, ground.wait("True", *HELD_WELL))


@slow
def a_maximum_below_the_floor_together_with_the_objects_own(ground, played):
    """The API server refuses it once; with the same maximum in the object the next try succeeds."""
    ground.by_apply("argocd")
    taken(ground, played)
    with pytest.raises(ApiError, match="minReplicas") as refused:
        ground.by_apply("argocd", maxReplicas=2)
    assert refused.value.code == 422
    ground.change({"scaling": {"maxReplicas": 2}})
    ground.wait_minimum(2)
    ground.by_apply("argocd", maxReplicas=2)
    ground.settle()
    played.phase(ground, 2, ground.condition())


# ---- more than one of us


@quick
def two_objects_on_one_workload(ground, played):
    ground.by_apply("argocd")
    taken(ground, played)
    ground.street.scene.optimize(
        ground.namespace,
        "younger",
        target={"apiVersion": "apps/v1", "kind": "Deployment", "name": "svc"},
        scaling={"actuation": "Floor"},
    )
    found = ground.wait("False", "Conflict", names=f"{ground.namespace}/svc", name="younger")
    played.phase(ground, 0, found)


@slow
def two_operators_by_mistake(ground, played):
    """Another installation, scoped to this one namespace: it asks once, is answered, and leaves the object alone."""
    ground.by_apply("argocd")
    taken(ground, played)
    with second_operator(ground) as second:
        name = f"{second.environment['OPTIINFRA_NAMESPACE']}/optiinfra-operator"
        found = ground.wait("True", "OtherOperator", names=name, kind="Degraded")
        played.phase(ground, 0, found)
        asked = [write for write in ground.all_writes() if write.resource == "resourceoptimizations/status"]
        assert len([write for write in asked if second.environment["OPTIINFRA_NAMESPACE"] in write.user]) <= 3
        assert ground.status()["operator"] == f"{ground.street.scene.installation.namespace}/optiinfra-operator"
        assert second.desired(ground.namespace) == {}
    assert ground.minimum() == MAXIMUM


@slow
def two_operators_and_a_new_object(ground, played):
    """Both see it at the same moment; one of them, whichever it is, takes the floor."""
    ground.by_apply("argocd")
    with second_operator(ground):
        taken(ground, played)
        found = ground.wait("True", "OtherOperator", names="optiinfra-operator", kind="Degraded")
        played.phase(ground, 0, found)


# ---- our own HPA


def own(ground: Ground, played: Played) -> None:
    ground.optimize(scaling={"actuation": "Own", "minReplicas": 1, "maxReplicas": MAXIMUM})
    ground.wait_replicas(MAXIMUM)
    played.phase(ground, 1, ground.wait("True", *HELD_WELL))


@slow
def another_hpa_appears_beside_our_own(ground, played):
    own(ground, played)
    ground.by_apply("argocd", maxReplicas=2)
    found = ground.wait("False", "ScalerExists", names="theirs")
    played.phase(ground, 1, found)
    ground.kubectl("delete", "hpa", "theirs")
    ground.wait_replicas(MAXIMUM)
    played.phase(ground, 1, ground.wait("True", *HELD_WELL))


@slow
def a_person_edits_our_own_hpa(ground, played):
    own(ground, played)
    ground.patch({"maxReplicas": 5}, name="optiinfra-svc")
    found = ground.wait("False", "FieldOwned", names="kubectl-edit")
    played.phase(ground, 0, found)
    assert ground.live("optiinfra-svc")["spec"]["maxReplicas"] == 5


# ---- a VerticalPodAutoscaler


@slow
def a_vpa_in_auto(ground, played):
    """It owns requests, we own nothing of the pods: its object and its workload's template stay as they are."""
    ground.cluster.kubectl("apply", "--server-side", "-f", str(VPA_CRDS))
    ground.by_apply("argocd")
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "svc"}
    body = {
        "apiVersion": "autoscaling.k8s.io/v1",
        "kind": "VerticalPodAutoscaler",
        "metadata": {"name": "svc"},
        "spec": {"targetRef": target, "updatePolicy": {"updateMode": "Auto"}},
    }
    path = f"/apis/autoscaling.k8s.io/v1/namespaces/{ground.namespace}/verticalpodautoscalers"
    eventually(lambda: made(ground, path, body), seconds=30, what="the VerticalPodAutoscaler is made")
    taken(ground, played)
    touched = {write.resource for write in ground.ours()}
    assert touched == {"horizontalpodautoscalers"}


def made(ground: Ground, path: str, body: object) -> bool:
    try:
        ground.cluster.request("POST", path, body)
    except ApiError as error:
        raise AssertionError(str(error)) from error  # its kind was defined just now
    return True


# ---- play


def play(cases: dict[str, Case], control_plane, folder) -> dict[str, Played]:
    found: dict[str, Played] = {}

    def one(street, name: str, case: Case) -> None:
        played = found[name] = Played()
        try:
            ground = street.ground(name.replace("_", "-")[:36].strip("-"))
            case(ground, played)
        except (AssertionError, ApiError, ClusterError, pytest.fail.Exception):
            played.failure = traceback.format_exc()
            return
        played.by_manager = ground.by_manager()
        played.total = len(ground.ours())
        if late := ground.fresh():
            played.failure = f"writes after the last phase: {late}"
        if (turns := ground.reversals()) > TURNS.get(name, 0):
            played.failure = f"the replica count turned {turns} times: {street.counts[ground.namespace]}"
        # Between our read and our write the HPA controller may write its status; the fence refuses, and we look again.
        if len(refused := ground.refused()) > REFUSED.get(name, 0) + 2 * played.total:
            played.failure = f"requests that were refused: {refused}"

    with (
        neighbourhood(control_plane, folder) as street,
        concurrent.futures.ThreadPoolExecutor(SIDE_BY_SIDE) as pool,
    ):
        for done in [pool.submit(one, street, name, case) for name, case in cases.items()]:
            done.result()
        complaints = street.operators["first"].complaints()
    found["complaints"] = Played(failure="\n".join(str(item)[-600:] for item in complaints[:3]))
    return found


TURNS = {
    # The replica count follows what people ask for, and comes back.
    "a_manual_scale": 8,
    "a_manual_scale_to_zero": 3,
    "kubectl_create_with_minimum": 1,
    "server_side_apply_with_minimum": 1,
    "another_hpa_appears_beside_our_own": 2,
    "another_hpa_appears_beside_a_held_floor": 2,
    "keda_adopts_an_hpa_whose_floor_is_held": 1,
    "the_maximum_is_lowered_to_the_floor": 2,
    "a_maximum_below_the_floor_together_with_the_objects_own": 1,
    "takeover_from_kubectl_apply_lost_again": 1,
    "takeover_is_armed_anew_by_never_and_once": 2,
    "takeover_from_helm_3_with_minimum": 1,
    "takeover_under_a_loop_that_applies_its_own_value": 1,
    "takeover_under_a_loop_that_replaces_the_whole_object": 1,
    "a_forced_apply_takes_a_held_field_away": 1,
    "a_person_edits_a_held_field": 1,
    "an_hpa_that_is_deleted_and_made_anew": 2,
}
"""How often the replica count may turn around in a case: once for each thing that somebody else does to it."""


REFUSED = {"a_person_edits_our_own_hpa": 1}
"""Requests of ours that the API server refused: one by which we learn that somebody else changed our HPA."""


@pytest.fixture(scope="module")
def quick_cases(control_plane, tmp_path_factory, request):
    return play(chosen(QUICK, request), control_plane, tmp_path_factory.mktemp("quick"))


@pytest.fixture(scope="module")
def slow_cases(control_plane, tmp_path_factory, request):
    return play(chosen(SLOW, request), control_plane, tmp_path_factory.mktemp("slow"))


def chosen(cases: dict[str, Case], request: pytest.FixtureRequest) -> dict[str, Case]:
    """Return the cases whose tests were selected."""
    wanted = {item.callspec.params.get("name") for item in request.session.items if hasattr(item, "callspec")}
    return {name: case for name, case in cases.items() if name in wanted}


def told(played: Played, name: str, figures) -> None:
    for line in (name, f"{played.total} writes of ours; all: {played.by_manager}", *played.said):
        sys.stdout.write(f"{line}\n")
    assert not played.failure, played.failure
    if played.writes:
        figures.add("never fights", f"{name.replace('_', ' ')}: writes of ours", played.total, "writes")


@pytest.mark.parametrize("name", list(QUICK))
def test_never_fights(quick_cases, name, figures):
    told(quick_cases[name], name, figures)


def test_the_operator_has_nothing_to_complain_about(quick_cases):
    assert not quick_cases["complaints"].failure


@pytest.mark.soak
@pytest.mark.parametrize("name", [*SLOW, "complaints"])
def test_never_fights_at_length(slow_cases, name, figures):
    told(slow_cases[name], name, figures)
