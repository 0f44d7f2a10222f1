"""Actuation Floor from end to end: a real operator raises minReplicas of a user's HPA and gives it back.

The HPAs are made as GitOps tools make them: by server-side apply (raw, as kubectl would hide conflicts) of a manifest
without minReplicas, which leaves the field to nobody. There is no HPA controller here, so the tests set the replicas
and write the status that it would.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hack.cluster.errors import ApiError
from tests.engine_pages import MERGE, OWN_RESOURCES, EnginePages, Page, Scene, hpa_path, ready_pod
from tests.operator_process import eventually, free_port, install

pytestmark = pytest.mark.timeout(150)

BUSY = Page(running=60, waiting=400, kv_cache_usage=0.5)
CALM = Page(running=2, kv_cache_usage=0.05)
HELD = "optiinfra.io/held"
ORIGINAL = "optiinfra.io/original"
MAXIMUM = 6
STEP = 2
CASES = ("manifest", "falling", "suspended", "recommend", "signal", "deleted", "released")


@pytest.fixture(scope="module")
def scene(apiserver, tmp_path_factory):
    folder = tmp_path_factory.mktemp("floor")
    prefix = f"floor-{os.getpid()}"
    with contextlib.ExitStack() as stack:
        pages = stack.enter_context(EnginePages(free_port()))
        installation = stack.enter_context(
            install(apiserver, folder=folder, namespace=f"{prefix}-operator", values={"actuation.enabled": "true"})
        )
        operator = installation.operator(
            OPTIINFRA_INTERVAL_SECONDS="1",
            OPTIINFRA_SCRAPE_INTERVAL_SECONDS="1",
            OPTIINFRA_STALE_AFTER_SECONDS="6",
            OPTIINFRA_SIGNAL_WINDOW_SECONDS="10",
            OPTIINFRA_TICK_SECONDS="1",
            OPTIINFRA_HOLD_SECONDS="3",
            OPTIINFRA_RETRY_PERIOD_SECONDS="0.5",
        )
        made = Scene(apiserver, installation, operator, pages, prefix)
        stack.callback(made.remove)
        stack.callback(operator.kill)
        made.engine_of = {}
        for case in CASES:
            namespace = made.namespace(case)
            (made.engine_of[case],) = made.engines(namespace, "svc", BUSY)
            made.hpa(namespace, "theirs", manager="argocd", maxReplicas=MAXIMUM)
            assert "f:minReplicas" not in json.dumps(live(made, case)["metadata"]["managedFields"])
            made.optimize(
                namespace,
                scaling={"actuation": "Floor"},
                policy={"maxReplicaStep": STEP, "cooldown": "1s", "verifyWindow": "30s"},
            )
        operator.start().wait_ready()
        yield made


def live(scene, case):
    return scene.cluster.request("GET", hpa_path(scene.made[case], "theirs"))


def follow(scene, case):
    """What the HPA controller would do: at least minReplicas."""
    path = f"/apis/apps/v1/namespaces/{scene.made[case]}/deployments/svc"
    replicas = scene.cluster.request("GET", path)["spec"]["replicas"]
    floor = live(scene, case)["spec"]["minReplicas"]
    if replicas < floor:
        scene.cluster.request("PATCH", path, {"spec": {"replicas": floor}}, content_type=MERGE)


def replicas_come(scene, case, page):
    """What the Deployment's controllers would do: the pods that the floor asks for."""
    for number in range(1, MAXIMUM):
        address = scene.address()
        scene.pages.serve(address, page)
        labels = {"app": "svc"}
        ready_pod(scene.cluster, scene.made[case], f"svc-{number}", address, labels=labels, node="engine-node")


def wait_held(scene, case, value=MAXIMUM, *, seconds=90):
    def held():
        follow(scene, case)
        found = live(scene, case)
        assert found["spec"]["minReplicas"] == value, found["spec"]
        return found

    return eventually(held, seconds=seconds, what=f"{case}: a floor of {value}")


def assert_given_back(scene, case, *, seconds=20):
    def given_back():
        found = live(scene, case)
        metadata = found["metadata"]
        assert found["spec"]["minReplicas"] == 1, found["spec"]
        assert HELD not in metadata.get("labels", {})
        assert ORIGINAL not in metadata.get("annotations", {})
        assert "optiinfra" not in {entry["manager"] for entry in metadata["managedFields"]}
        return found

    return eventually(given_back, seconds=seconds, what=f"{case}: the floor is given back")


def owners(document):
    return {
        (entry["manager"], entry["operation"])
        for entry in document["metadata"]["managedFields"]
        if "f:minReplicas" in entry["fieldsV1"].get("f:spec", {})
    }


def test_the_floor_rises_in_steps_that_the_workload_follows_and_says_what_it_was(scene):
    for case in CASES:
        eventually(lambda case=case: live(scene, case)["spec"]["minReplicas"] == 1 + STEP, seconds=60, what=case)
    time.sleep(3.0)  # three rounds in which no replica came
    for case in CASES:
        assert live(scene, case)["spec"]["minReplicas"] == 1 + STEP, "the next step waits for this one"

    def risen():
        for case in CASES:
            follow(scene, case)
        values = {case: live(scene, case)["spec"]["minReplicas"] for case in CASES}
        assert set(values.values()) == {MAXIMUM}, values
        return True

    # An HPA without a behavior of its own doubles, or adds four, every 15 seconds; a floor is no faster.
    eventually(risen, seconds=120, what="all floors at the maximum")
    for case in CASES:
        found = live(scene, case)
        assert found["metadata"]["labels"][HELD] == "true"
        assert found["metadata"]["annotations"][ORIGINAL] == "1"
        assert owners(found) == {("optiinfra", "Apply")}
        assert found["spec"]["maxReplicas"] == MAXIMUM
        assert scene.written(scene.made[case]) <= OWN_RESOURCES | {"horizontalpodautoscalers"}
        assert scene.operator.desired(scene.made[case]) == {}, "a floor is not the published count"


def test_the_decision_is_effective_when_the_workload_follows(scene):
    wait_held(scene, "manifest")
    follow(scene, "manifest")
    replicas_come(scene, "manifest", BUSY)

    def effective():
        found = scene.condition(scene.made["manifest"], "ActuationEffective")
        # More would be needed than the maximum allows, which it says.
        assert (found["status"], found["reason"]) == ("True", "AtLimit"), found
        return True

    eventually(effective, seconds=20, what="it says so")


def test_the_users_tool_applies_its_manifest_again_without_a_conflict(scene):
    wait_held(scene, "manifest")
    scene.hpa(scene.made["manifest"], "theirs", manager="argocd", maxReplicas=MAXIMUM)
    found = live(scene, "manifest")
    assert found["spec"]["minReplicas"] == MAXIMUM
    assert owners(found) == {("optiinfra", "Apply")}


def test_a_maximum_below_the_floor_needs_the_floor_to_be_given_back_first(scene):
    """The API server refuses a maximum below minReplicas, so the user's way is to suspend, apply, and go on."""
    namespace = scene.made["manifest"]
    wait_held(scene, "manifest")
    with pytest.raises(ApiError, match="minReplicas") as refused:
        scene.hpa(namespace, "theirs", manager="argocd", maxReplicas=4)
    assert refused.value.code == 422
    scene.change(namespace, {"suspend": True})
    assert_given_back(scene, "manifest")
    scene.hpa(namespace, "theirs", manager="argocd", maxReplicas=4)
    scene.change(namespace, {"suspend": False})
    found = wait_held(scene, "manifest", 4)
    assert found["spec"]["maxReplicas"] == 4


@pytest.mark.timeout(420)
def test_the_floor_falls_only_while_the_hpa_is_active(scene):
    namespace = scene.made["falling"]
    wait_held(scene, "falling")
    replicas_come(scene, "falling", CALM)  # what is starting is never shrunk
    scene.pages.serve(scene.engine_of["falling"], CALM)

    def one_way():
        found = scene.condition(namespace, "ActuationEffective")
        assert (found["status"], found["reason"]) == ("False", "OneWayFloor"), found
        return found

    # With ticks of a second the scaler holds what was needed for about a minute.
    condition = eventually(one_way, seconds=120, what="the floor cannot fall")
    assert "metric" in condition["message"]
    assert live(scene, "falling")["spec"]["minReplicas"] == MAXIMUM
    status = {
        "status": {
            "currentReplicas": 1,
            "desiredReplicas": 1,
            "conditions": [{"type": "ScalingActive", "status": "True", "reason": "ValidMetricFound"}],
        }
    }
    scene.cluster.request("PATCH", hpa_path(namespace, "theirs") + "/status", status, content_type=MERGE)
    # What was needed at first counts less and less for four minutes.
    wait_held(scene, "falling", 1, seconds=240)


def test_suspend_gives_it_back(scene):
    wait_held(scene, "suspended")
    scene.change(scene.made["suspended"], {"suspend": True})
    assert_given_back(scene, "suspended")
    condition = scene.condition(scene.made["suspended"], "ActuationEffective")
    assert (condition["status"], condition["reason"]) == ("False", "Suspended")


def test_recommend_gives_it_back(scene):
    wait_held(scene, "recommend")
    scene.change(scene.made["recommend"], {"mode": "Recommend"})
    assert_given_back(scene, "recommend")


def test_another_actuation_gives_it_back(scene):
    wait_held(scene, "signal")
    scene.change(scene.made["signal"], {"scaling": {"actuation": "Signal"}})
    assert_given_back(scene, "signal")
    eventually(lambda: scene.operator.desired(scene.made["signal"]), seconds=10, what="it is published now")


def test_deleting_the_object_gives_it_back(scene):
    wait_held(scene, "deleted")
    scene.cluster.request("DELETE", scene.path(scene.made["deleted"], "svc"))
    assert_given_back(scene, "deleted", seconds=60)


def test_what_was_deleted_while_no_operator_ran_is_given_back_at_its_start(scene):
    """The object of `deleted` is made again, its floor taken again, and deleted behind a dead operator's back."""
    namespace = scene.made["deleted"]
    scene.hpa(namespace, "theirs", manager="argocd", maxReplicas=5)  # given back in one step
    scene.optimize(namespace, scaling={"actuation": "Floor"}, policy={"maxReplicaStep": STEP, "cooldown": "1s"})
    wait_held(scene, "deleted", 5)
    scene.operator.kill()
    scene.cluster.request("DELETE", scene.path(namespace, "svc"))
    held = {case: live(scene, case)["spec"]["minReplicas"] for case in ("released",)}
    scene.operator.start().wait_ready(seconds=40)
    assert_given_back(scene, "deleted", seconds=90)
    assert {case: live(scene, case)["spec"]["minReplicas"] for case in held} == held, "living objects keep theirs"


def test_release_gives_everything_back_and_stops_the_running_operator(scene):
    wait_held(scene, "released")
    installation, namespace = scene.installation, scene.made["released"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OPTIINFRA_")}
    environment |= scene.operator.environment | {"NO_PROXY": "127.0.0.0/8", "no_proxy": "127.0.0.0/8"}
    command = [str(Path(sys.executable).with_name("optiinfra")), "release", "--all", "--immediate"]
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{namespace}/theirs: minReplicas 1" in done.stdout
    for case in CASES:
        assert_given_back(scene, case, seconds=1)
    assert scene.cluster.request("GET", installation.switch_path)["data"] == {"paused": "true"}

    def stopped():
        found = scene.condition(namespace, "ActuationEffective")
        assert (found["status"], found["reason"]) == ("False", "KillSwitch"), found
        return found

    eventually(stopped, seconds=20, what="the operator says that its switch is on")
    before = {case: live(scene, case)["metadata"]["resourceVersion"] for case in CASES}
    time.sleep(5.0)  # five rounds under a need of six
    assert {case: live(scene, case)["metadata"]["resourceVersion"] for case in CASES} == before
    assert scene.operator.running
    assert scene.operator.desired(namespace) == {}
    assert scene.operator.desired(scene.made["signal"]) == {}


def test_a_person_switches_it_off_and_it_goes_on(scene):
    scene.cluster.request("PATCH", scene.installation.switch_path, {"data": {"paused": "false"}}, content_type=MERGE)
    wait_held(scene, "released")
    assert not scene.operator.complaints()
