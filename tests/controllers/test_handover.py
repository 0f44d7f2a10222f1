"""Two replicas and one Lease: who leads, what the follower answers, and what becomes of a leader that is lost.

Real processes on a real control plane; the Lease times are short, so that each handover takes seconds.
"""

import contextlib
import os
import signal
import time
from datetime import UTC, datetime

import pytest

from hack.cluster.errors import ApiError
from tests.engine_pages import EnginePages, Page, Scene, deployment
from tests.operator_process import eventually, free_port, install

pytestmark = pytest.mark.timeout(150)

BUSY = Page(running=60, waiting=200, kv_cache_usage=0.5)
CALM = Page(running=30)
DURATION = 8.0
DEADLINE = 6.0
QUICKLY = 5.0
"""Seconds in which the other replica leads after a Lease was given back: it looks twice a second."""


@pytest.fixture(scope="module")
def scene(control_plane, tmp_path_factory):
    folder = tmp_path_factory.mktemp("handover")
    prefix = f"handover-{os.getpid()}"
    values = {"externalMetrics.enabled": "true", "actuation.enabled": "true"}
    with contextlib.ExitStack() as stack:
        pages = stack.enter_context(EnginePages(free_port()))
        installation = stack.enter_context(
            install(control_plane, folder=folder, namespace=f"{prefix}-operator", values=values)
        )
        environment = {
            "OPTIINFRA_INTERVAL_SECONDS": "1",
            "OPTIINFRA_SCRAPE_INTERVAL_SECONDS": "1",
            "OPTIINFRA_SIGNAL_WINDOW_SECONDS": "10",
            "OPTIINFRA_STALE_AFTER_SECONDS": "6",
            "OPTIINFRA_TICK_SECONDS": "1",
            "OPTIINFRA_HOLD_SECONDS": "0",
            "OPTIINFRA_LEASE_DURATION_SECONDS": str(DURATION),
            "OPTIINFRA_RENEW_DEADLINE_SECONDS": str(DEADLINE),
            "OPTIINFRA_RETRY_PERIOD_SECONDS": "0.5",
        }
        pair = [installation.operator(f"replica-{letter}", **environment) for letter in "ab"]
        made = Scene(control_plane, installation, pair[0], pages, prefix)
        namespace = f"{prefix}-service"
        control_plane.kubectl("create", "namespace", namespace)
        stack.callback(control_plane.kubectl, "delete", "namespace", namespace, "--wait=false")
        for replica in pair:
            stack.callback(replica.kill)
        made.made["service"], made.pair = namespace, pair
        body = deployment("svc", replicas=1)
        control_plane.request("POST", f"/apis/apps/v1/namespaces/{namespace}/deployments", body)
        made.engine = eventually(lambda: _address(control_plane, namespace), seconds=30, what="the pod has an address")
        pages.serve(made.engine, BUSY)
        made.optimize(namespace)
        made.permit("edit", namespace)
        yield made


def _address(cluster, namespace):
    pods = cluster.request("GET", f"/api/v1/namespaces/{namespace}/pods")["items"]
    return next((pod["status"]["podIP"] for pod in pods if pod.get("status", {}).get("podIP")), None)


@pytest.fixture
def replicas(scene):
    """Two replicas that run and are ready, whatever the test before did: (leader, follower)."""
    for replica in scene.pair:
        if not replica.running:
            replica.start()
    for replica in scene.pair:
        replica.wait_ready()
    scene.pages.serve(scene.engine, BUSY)

    def settled():
        leaders = [replica for replica in scene.pair if replica.leading]
        assert len(leaders) == 1
        assert leaders[0].desired(scene.made["service"]) == {"svc": 4.0}
        return leaders[0]

    leader = eventually(settled, seconds=30, what="one replica leads and decides")
    follower = next(replica for replica in scene.pair if replica is not leader)
    return leader, follower


def external(scene):
    """What the API server's aggregation layer gives an HPA controller."""
    path = f"/apis/external.metrics.k8s.io/v1beta1/namespaces/{scene.made['service']}/optiinfra_desired_replicas"
    return [item["value"] for item in scene.cluster.request("GET", path)["items"]]


def reachable(scene, replica):
    scene.installation.send_external_metrics_to(replica)

    def answered():
        try:
            external(scene)
        except ApiError as error:
            raise AssertionError(str(error)) from error
        return True

    eventually(answered, seconds=30, what=f"the API server reaches {replica.name}")


def test_only_one_leads_and_the_other_writes_nothing(scene, replicas):
    leader, follower = replicas
    # Before, both may have tried to take the first Lease, or a starved one may have lost it.
    began = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    for _ in range(10):
        assert (leader.leading, follower.leading) == (True, False)
        assert scene.installation.holder() == leader.identity
        time.sleep(0.2)
    assert follower.get("/health/ready").code == 200, "a follower is ready: it answers through the leader"
    assert follower.detailed()["leader"] == f"{leader.address}:{leader.port}"
    assert follower.desired(scene.made["service"]) == {}
    assert scene.writes(credential=follower.credential, since=began) == []
    assert {resource for _, _, resource in scene.writes(credential=leader.credential)} >= {
        "leases",
        "resourceoptimizations/status",
    }


def test_a_follower_answers_through_the_leader(scene, replicas):
    leader, follower = replicas
    namespace, token = scene.made["service"], scene.installation.token()
    path = f"/api/v1/optimize/status?namespace={namespace}&name=svc"
    assert follower.get(path).code == 401, "the leader asks for the caller's own token"
    assert follower.get(path, token=token).json()["metadata"] == leader.get(path, token=token).json()["metadata"]
    decisions = follower.get(f"/api/v1/decisions/{namespace}", token=token).json()["items"]
    assert [(item["name"], item["replicas"]) for item in decisions] == [("svc", 4)]
    body = {"namespace": namespace, "name": "svc"}
    stranger = scene.installation.token("optiinfra-agent")
    assert follower.post("/api/v1/optimize/run", body, token=stranger).code == 403, "rights are the caller's own"

    def accepted():
        answer = follower.post("/api/v1/optimize/run", body, token=token)
        return answer if answer.code == 202 else None

    answer = eventually(accepted, seconds=15, what="the caller may, as soon as the API server knows it")
    eventually(
        lambda: answer.json()["round_id"] in scene.status(namespace)["lastRound"].get("requested", ()),
        seconds=10,
        what="the round that the follower promised",
    )


def test_external_metrics_are_the_same_whichever_replica_is_asked(scene, replicas):
    for replica in replicas:
        reachable(scene, replica)
        assert external(scene) == ["4"], replica.name


def test_a_leader_that_is_asked_to_stop_hands_over_at_once(scene, replicas):
    leader, follower = replicas
    reachable(scene, follower)
    transitions = _transitions(scene)
    assert leader.terminate() == 0
    eventually(lambda: follower.leading, seconds=QUICKLY, what="the other one leads")
    assert scene.installation.holder() == follower.identity
    assert _transitions(scene) >= transitions
    eventually(lambda: external(scene) == ["4"], seconds=20, what="it decides the same")
    assert not leader.complaints()
    assert not follower.complaints()


def test_a_replica_that_has_hardly_begun_ends_when_asked(scene, replicas):
    """In its first moments the signal still belongs to Kopf."""
    _, follower = replicas
    follower.kill()
    follower.start().wait_ready()
    assert follower.terminate() == 0


def test_a_leader_that_dies_is_replaced_after_the_lease(scene, replicas):
    leader, follower = replicas
    namespace, token = scene.made["service"], scene.installation.token()

    def promised():
        answer = leader.post("/api/v1/optimize/run", {"namespace": namespace, "name": "svc"}, token=token)
        return answer.json()["round_id"] if answer.code == 202 else None

    asked = eventually(promised, seconds=15, what="the caller may, as soon as the API server knows it")
    reachable(scene, follower)
    leader.kill()
    died = time.monotonic()
    answers = []

    def taken():
        answers.append(external(scene))
        return follower.leading

    eventually(taken, seconds=DURATION + 8.0, what="the other one leads", every=0.1)
    # The dead one renewed half a second and a jitter before, or more where it starved; nobody is faster than its Lease.
    assert time.monotonic() - died > DURATION - DEADLINE
    assert all(answer in ([], ["4"]) for answer in answers)
    assert answers[0] == [], "without a leader there is no number, never an old one"
    eventually(lambda: external(scene) == ["4"], seconds=20, what="it decides the same")
    for round_id, states in ((asked, {"Done", "Lost"}), ("0" * 16, {"Lost"})):
        path = f"/api/v1/optimize/status?namespace={namespace}&name=svc&round={round_id}"
        told = follower.get(path, token=token).json()["round"]
        assert told["state"] in states, "the new leader forgets no promise silently"
    assert not follower.complaints()


@pytest.mark.timeout(300)
def test_a_leader_that_slept_beyond_its_deadline_writes_nothing_and_ends(scene, replicas):
    leader, follower = replicas
    namespace = scene.made["service"]
    try:
        leader.signal(signal.SIGSTOP)
        eventually(lambda: follower.leading, seconds=DURATION + 10.0, what="the other one leads")
        # Now every round of the sleeper would decide otherwise than before: it has something to write.
        scene.pages.serve(scene.engine, CALM)
        # With ticks of a second the scaler holds what was needed for about a minute.
        eventually(lambda: _desired(scene) < 4, seconds=150, what="a new decision")
        scene.pages.serve(scene.engine, BUSY)
        eventually(lambda: follower.desired(namespace) == {"svc": 4.0}, seconds=20, what="and another one")
        woken = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    finally:
        leader.signal(signal.SIGCONT)
    assert leader.wait_exit(seconds=15) == 1
    last = [record for record in leader.records() if record["message"] == "operator ended"][-1]
    assert "LeadershipLost" in last["error"]
    assert scene.writes(credential=leader.credential, since=woken) == []
    assert scene.installation.holder() == follower.identity
    assert follower.leading
    assert not follower.complaints()


def _desired(scene):
    return scene.status(scene.made["service"])["desired"].get("replicas", 4)


def _transitions(scene):
    return scene.cluster.request("GET", scene.installation.lease_path)["spec"].get("leaseTransitions", 0)
