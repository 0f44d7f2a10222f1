"""Dry runs and approvals from end to end: a real operator, a second replica that follows, and the audit log as witness.

A dry run shows the exact requests and sends none: the audit log of the API server has no write of the operator into the
namespace, and what it shows is what is really sent afterwards.
"""

import contextlib
import json
import os

import pytest

from tests.engine_pages import EnginePages, Page, Scene, hpa_path, ready_pod
from tests.operator_process import eventually, free_port, install

pytestmark = pytest.mark.timeout(240)

BUSY = Page(running=60, waiting=400, kv_cache_usage=0.5)
RUN = "/api/v1/optimize/run"
MERGE = "application/merge-patch+json"
DRY = "optiinfra.io/dry-run"
APPROVE = "optiinfra.io/approve"


@pytest.fixture(scope="module")
def scene(apiserver, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dry-run")
    prefix = f"dry-{os.getpid()}"
    with contextlib.ExitStack() as stack:
        pages = stack.enter_context(EnginePages(free_port()))
        values = {"actuation.enabled": "true"}
        installation = stack.enter_context(
            install(apiserver, folder=folder, namespace=f"{prefix}-operator", values=values)
        )
        environment = {
            "OPTIINFRA_INTERVAL_SECONDS": "2",
            "OPTIINFRA_SCRAPE_INTERVAL_SECONDS": "1",
            "OPTIINFRA_SIGNAL_WINDOW_SECONDS": "10",
            "OPTIINFRA_TICK_SECONDS": "1",
        }
        leader, follower = installation.operator(**environment), installation.operator(**environment)
        made = Scene(apiserver, installation, leader, pages, prefix)
        stack.callback(made.remove)
        stack.callback(leader.kill)
        stack.callback(follower.kill)
        made.follower = follower
        floor = made.namespace("floor")
        made.engines(floor, "svc", BUSY)
        made.hpa(floor, "theirs", manager="argocd", maxReplicas=6)
        annotate(made, floor, {DRY: "true"}, make={"scaling": {"actuation": "Floor"}, "policy": {"maxReplicaStep": 2}})
        signal = made.namespace("signal")
        made.engines(signal, "svc", BUSY)
        made.optimize(signal, mode="Approve", policy={"maxReplicaStep": 2})
        leader.start().wait_ready(seconds=60)
        follower.start().wait_ready(seconds=60)
        yield made


def annotate(scene, namespace, annotations, *, make=None):
    if make is not None:
        scene.optimize(namespace, **make)
    body = {"metadata": {"annotations": annotations}}
    scene.cluster.request("PATCH", scene.path(namespace, "svc"), body, content_type=MERGE)


def ask(scene, namespace, operator):
    body = {"namespace": namespace, "name": "svc"}
    answer = operator.post(f"{RUN}?dryRun=true", body, token=scene.installation.token("optiinfra-operator"))
    assert answer.code == 200, answer
    return answer.json()


def foreign_writes(scene, namespace):
    own = {"resourceoptimizations/status", "optimizationcheckpoints", "events"}
    return [entry for entry in scene.writes(namespace=namespace) if entry[2] not in own]


def permitted(scene):
    for case in ("floor", "signal"):
        with contextlib.suppress(Exception):
            scene.permit("edit", scene.made[case])


def test_a_dry_run_shows_the_exact_request_and_none_is_sent(scene):
    namespace = scene.made["floor"]
    permitted(scene)

    def shown():
        found = ask(scene, namespace, scene.operator)
        assert found["writes"], found
        return found

    found = eventually(shown, seconds=60, what="the floor would be taken", every=1.0)
    (write,) = found["writes"]
    assert write["method"] == "PATCH"
    assert write["path"].startswith(f"{hpa_path(namespace, 'theirs')}?")
    assert "fieldManager=optiinfra" in write["path"]
    assert write["field_manager"] == "optiinfra"
    assert write["content_type"] == "application/apply-patch+yaml"
    assert write["body"]["spec"] == {"minReplicas": 3}
    assert found["published"] == []
    assert found["targets"][0]["order"] == 3

    def told():
        dry = scene.status(namespace).get("dryRun", {})
        assert json.loads(dry["writes"][0]["body"])["spec"] == {"minReplicas": 3}
        assert scene.condition(namespace, "ActuationEffective")["reason"] == "DryRun"
        return dry

    eventually(told, seconds=30, what="the annotation shows the same in the status")
    assert ask(scene, namespace, scene.follower)["writes"][0]["path"] == write["path"], "a follower asks the leader"
    assert scene.operator.desired(namespace) == {}
    assert foreign_writes(scene, namespace) == [], "the audit log has no write of ours"
    hpa = scene.cluster.request("GET", hpa_path(namespace, "theirs"))
    assert "optiinfra" not in {entry["manager"] for entry in hpa["metadata"]["managedFields"]}
    scene.shown = write


def test_what_was_shown_is_what_is_sent_afterwards(scene):
    namespace = scene.made["floor"]
    annotate(scene, namespace, {DRY: None})

    def taken():
        hpa = scene.cluster.request("GET", hpa_path(namespace, "theirs"))
        return hpa if hpa["spec"].get("minReplicas") == 3 else None

    hpa = eventually(taken, seconds=60, what="the floor is taken")
    shown = scene.shown["body"]
    assert hpa["metadata"]["uid"] == shown["metadata"]["uid"]
    assert hpa["metadata"]["labels"].items() >= shown["metadata"]["labels"].items()
    assert hpa["metadata"]["annotations"].items() >= shown["metadata"]["annotations"].items()
    eventually(lambda: "dryRun" not in scene.status(namespace), seconds=30, what="and the status forgets it")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (f"{RUN}?dryRun=yes", {"name": "svc"}),
        (f"{RUN}?dryrun=true", {"name": "svc"}),
        (RUN, {"name": "svc", "dry": True}),
        ("/api/v1/recommendations/abc/patch?format=xml", None),
        ("/api/v1/recommendations/abc/patch?formt=json", None),
        ("/api/v1/recommendations/..%2Fx/patch", None),
    ],
)
def test_what_is_not_known_is_refused(scene, path, body):
    token = scene.installation.token("optiinfra-operator")
    answer = scene.operator.get(path, token=token) if body is None else scene.operator.post(path, body, token=token)
    assert answer.code in (404, 422), answer
    assert (answer.code == 404) == ("%2F" in path)


def test_an_approval_is_an_envelope_that_survives_a_change_of_leader_and_ends_when_it_is_revoked(scene):
    namespace = scene.made["signal"]

    def recommended():
        items = scene.status(namespace).get("recommendations", ())
        return next((one for one in items if one["type"] == "Replicas"), None)

    item = eventually(recommended, seconds=60, what="replicas are recommended")
    envelope = item["envelope"]
    assert (envelope["lowest"], envelope["maxStep"]) == (1, 2)
    assert scene.operator.desired(namespace) == {}, "nothing is approved"
    annotate(scene, namespace, {APPROVE: f"{item['id']},nosuchid"})
    eventually(lambda: scene.operator.desired(namespace) == {"svc": 3.0}, seconds=60, what="the first step")

    def refused():
        found = scene.condition(namespace, "ApprovalsAccepted")
        assert (found["status"], found["reason"]) == ("False", "ApprovalRefused")
        assert "nosuchid is refused: it is unknown" in found["message"]
        return True

    eventually(refused, seconds=30, what="the other id is refused by name")
    annotate(scene, namespace, {APPROVE: item["id"]})
    deployment = f"/apis/apps/v1/namespaces/{namespace}/deployments/svc"
    scene.cluster.request("PATCH", deployment, {"spec": {"replicas": 3}}, content_type=MERGE)
    for number in range(1, 3):
        address = scene.address()
        scene.pages.serve(address, BUSY)
        ready_pod(scene.cluster, namespace, f"svc-{number}", address, labels={"app": "svc"}, node="engine-node")
    highest = float(min(envelope["highest"], 4))
    eventually(
        lambda: scene.operator.desired(namespace) == {"svc": highest},
        seconds=60,
        what="it moves on inside the envelope",
    )
    used = scene.status(namespace)["usedApprovals"]
    assert [(one["id"], one["state"]) for one in used] == [(item["id"], "Standing")]
    scene.operator.terminate(seconds=30)
    eventually(
        lambda: scene.follower.desired(namespace) == {"svc": highest}, seconds=90, what="the new leader goes on with it"
    )
    assert scene.status(namespace)["usedApprovals"][0]["until"] == used[0]["until"]
    annotate(scene, namespace, {APPROVE: None})
    eventually(lambda: scene.follower.desired(namespace) == {}, seconds=60, what="revoked, it is taken back")
    annotate(scene, namespace, {APPROVE: item["id"]})

    def spent():
        found = scene.condition(namespace, "ApprovalsAccepted")
        assert f"{item['id']} is refused: it was revoked" in found["message"]
        return True

    eventually(spent, seconds=60, what="an id works once")
    assert scene.follower.desired(namespace) == {}
