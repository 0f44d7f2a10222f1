"""Limits from end to end: two replicas of a real operator, a short pool that is shared by priority, the kill switch.

Pods have one GPU each. Three objects want four replicas; the pool's budget is raised only once all wishes are known, so
that who was read first decides nothing.
"""

import contextlib
import json
import os
import time

import pytest

from optiinfra.api.reasons import Reason
from optiinfra.cluster.client import KubernetesClient, PatchKind
from optiinfra.control.kill_switch import ActsStopped, Stop
from tests.engine_pages import MERGE, EnginePages, Page, Scene, hpa_path
from tests.operator_process import eventually, free_port, install

pytestmark = pytest.mark.timeout(480)

BUSY = Page(running=60, waiting=400, kv_cache_usage=0.5)
WANTED = 4
"""Few enough for the scaler to want them all at once: it adds four at a time."""
QUICK = {
    "OPTIINFRA_INTERVAL_SECONDS": "1",
    "OPTIINFRA_SCRAPE_INTERVAL_SECONDS": "1",
    "OPTIINFRA_STALE_AFTER_SECONDS": "20",
    "OPTIINFRA_SIGNAL_WINDOW_SECONDS": "10",
    "OPTIINFRA_TICK_SECONDS": "1",
    "OPTIINFRA_HOLD_SECONDS": "3",
    "OPTIINFRA_RETRY_PERIOD_SECONDS": "0.5",
    "OPTIINFRA_RENEW_DEADLINE_SECONDS": "10",
    "OPTIINFRA_LEASE_DURATION_SECONDS": "15",
}
CLUSTERS = "/apis/optiinfra.io/v1alpha1/clusterresourceoptimizations"
OBJECTS = {"chat": 200, "agents": 100, "batch": 10}


@pytest.fixture(scope="module")
def scene(apiserver, tmp_path_factory):
    prefix = f"limits-{os.getpid()}"
    with contextlib.ExitStack() as stack:
        pages = stack.enter_context(EnginePages(free_port()))
        installation = stack.enter_context(
            install(
                apiserver,
                folder=tmp_path_factory.mktemp("limits"),
                namespace=f"{prefix}-operator",
                values={"actuation.enabled": "true"},
            )
        )
        operator, follower = installation.operator(**QUICK), installation.operator(**QUICK)
        made = Scene(apiserver, installation, operator, pages, prefix)
        made.follower = follower
        stack.callback(made.remove)
        stack.callback(follower.kill)
        stack.callback(operator.kill)
        made.cluster_path = f"{CLUSTERS}/{prefix}"
        # A name of its own: a pool is the whole cluster's, and other tests' objects stand in the same cluster.
        made.pool = f"{prefix}-h100"
        made.cluster.request("POST", CLUSTERS, cluster_object(prefix, [pool(made, gpus=3)]))
        stack.callback(apiserver.request, "DELETE", made.cluster_path)
        namespace = made.namespace("pool")
        for name, priority in OBJECTS.items():
            made.engines(namespace, name, BUSY)
            made.optimize(
                namespace,
                name,
                scaling={"actuation": "Signal", "maxReplicas": WANTED},
                policy={"maxReplicaStep": 8},
                poolRef={"name": made.pool},
                priority=priority,
            )
        held = made.namespace("held")
        made.engines(held, "svc", BUSY)
        made.hpa(held, "theirs", manager="argocd", maxReplicas=WANTED)
        made.optimize(held, scaling={"actuation": "Floor"}, policy={"maxReplicaStep": 1})
        operator.start().wait_ready()
        follower.start().wait_ready()
        yield made


def cluster_object(name, pools):
    return {
        "apiVersion": "optiinfra.io/v1alpha1",
        "kind": "ClusterResourceOptimization",
        "metadata": {"name": name},
        "spec": {"pools": pools, "defaults": {"interval": "5s"}},
    }


def pool(scene, *, gpus):
    return {"name": scene.pool, "nodeSelector": {"gpu": "h100"}, "gpuBudget": gpus}


def pair(scene):
    """The replica that leads and the one that does not, whichever they are."""

    def found():
        leading = [one for one in (scene.operator, scene.follower) if one.leading]
        return leading[0] if len(leading) == 1 else None

    leader = eventually(found, seconds=60, what="one of both leads")
    return leader, scene.follower if leader is scene.operator else scene.operator


def now_leading(scene):
    """Whoever leads now: on a slow machine the lead may have passed on since it was last asked."""
    return scene.operator if scene.operator.leading else scene.follower


def turn(scene, paused):
    scene.cluster.request("PATCH", scene.installation.switch_path, {"data": {"paused": paused}}, content_type=MERGE)


def stopped(operator):
    return operator.series("optiinfra_kill_switch") == {(): 1.0}


def floor(scene):
    return scene.cluster.request("GET", hpa_path(scene.made["held"], "theirs"))


def test_a_short_pool_is_shared_by_priority_and_everybody_who_waits_says_so(scene):
    namespace = scene.made["pool"]
    pair(scene)

    def all_wait():
        for name in OBJECTS:
            desired = scene.status(namespace, name).get("desired", {})
            assert desired.get("reason") == "PoolBudget", (name, desired)
        return True

    eventually(all_wait, seconds=60, what="three objects hold the whole budget and want more")
    # In the round that puts the operator's name on an object its status says what is wanted, and nothing is published.
    eventually(
        lambda: now_leading(scene).desired(namespace) == dict.fromkeys(OBJECTS, 1.0),
        seconds=60,
        what="each is published what it holds",
    )
    spec = {"pools": [pool(scene, gpus=8)]}
    scene.cluster.request("PATCH", scene.cluster_path, {"spec": spec}, content_type=MERGE)

    def shared():
        published = now_leading(scene).desired(namespace)
        # Whatever is published at any moment: never more than the budget.
        assert sum(published.values()) <= 8.0, published
        assert published == {"chat": 4.0, "agents": 3.0, "batch": 1.0}, published
        return published

    eventually(shared, seconds=150, what="four for priority 200, what is left for 100, nothing more for 10")

    def refused():
        message = scene.status(namespace, "batch")["desired"]["message"]
        assert f"pool {scene.pool}" in message, message
        assert "priority 10" in message, message
        return message

    eventually(refused, seconds=60, what="who waits says for whom")

    def counted():
        series = now_leading(scene).series("optiinfra_pool_gpus")
        rows = [(dict(labels), value) for labels, value in series.items()]
        gpus = {labels["what"]: value for labels, value in rows if labels["pool"] == scene.pool}
        assert (gpus["budget"], gpus["held"], gpus["refused"]) == (8.0, 8.0, 4.0), gpus
        return True

    eventually(counted, seconds=30, what="the metric counts what was ordered as held")

    def told():
        conditions = scene.cluster.request("GET", scene.cluster_path).get("status", {}).get("conditions", ())
        found = next(entry for entry in conditions if entry["type"] == "WithinLimits")
        assert (found["status"], found["reason"]) == ("True", "PoolShort"), found
        assert f"{namespace}/batch" in found["message"]
        return found

    eventually(told, seconds=60, what="the cluster's object says who waits")


def test_the_first_write_into_a_users_object_comes_after_the_question_whether_it_may_be_made(scene):
    eventually(lambda: floor(scene)["spec"].get("minReplicas", 1) > 1, seconds=60, what="a floor is taken")
    audit = [json.loads(line) for line in scene.cluster.audit_log.read_text().splitlines() if '"optiinfra"' in line]
    account = f"system:serviceaccount:{scene.installation.namespace}:optiinfra-operator"
    mine = [
        event for event in audit if event["user"].get("username") == account and event["stage"] == "ResponseComplete"
    ]
    kinds = [(event["verb"], event["objectRef"]["resource"]) for event in mine if "objectRef" in event]
    write = kinds.index(("patch", "horizontalpodautoscalers"))
    assert ("create", "selfsubjectaccessreviews") in kinds[:write]


async def test_a_write_that_waited_while_the_switch_was_turned_does_not_leave(scene):
    """The last question is asked when the bytes are about to go; what is no act of ours goes on."""
    path = scene.installation.switch_path
    stop = Stop(Reason.KILL_SWITCH, "somebody turned it a moment ago")

    def forbid():
        raise ActsStopped(stop)

    async with KubernetesClient.from_environment(str(scene.cluster.kubeconfig)) as client:
        before = (await client.get(path))["metadata"]["resourceVersion"]
        acting = client.fenced(forbid)
        with pytest.raises(ActsStopped, match="a moment ago"):
            await acting.patch(path, {"metadata": {"labels": {"x": "y"}}}, kind=PatchKind.MERGE)
        assert (await acting.get(path))["metadata"]["resourceVersion"] == before, "reading is no act"
        written = await client.patch(path, {"metadata": {"labels": {"x": "y"}}}, kind=PatchKind.MERGE)
        assert written["metadata"]["resourceVersion"] != before


def test_leader_and_follower_obey_the_kill_switch_within_seconds(scene, figures):
    namespace = scene.made["pool"]
    leader, follower = pair(scene)
    assert not stopped(leader)
    assert not stopped(follower)
    began = time.monotonic()
    turn(scene, "true")
    seen: dict[str, float] = {}

    def obeyed():
        for name, look in {
            "leader": lambda: stopped(leader),
            "follower": lambda: stopped(follower),
            "published": lambda: not leader.desired(namespace),
        }.items():
            if name not in seen and look():
                seen[name] = time.monotonic() - began
        return len(seen) == 3

    eventually(obeyed, seconds=30, what="both know it and nothing is published", every=0.05)
    figures.add("kill switch", "seconds until obeyed", max(seen.values()), "s")

    def told():
        for name in OBJECTS:
            found = scene.condition(namespace, "ActuationEffective", name)
            assert (found["status"], found["reason"]) == ("False", "KillSwitch"), found
        assert "paused" in found["message"]
        return True

    eventually(told, seconds=30, what="every acting object says so")
    for replica in (leader, follower):
        lines = [line for line in replica.records() if line["message"] == "kill switch stops all acts"]
        assert lines, f"{replica.name} logged it"
    part = leader.detailed()["components"]["kill_switch"] if "components" in leader.detailed() else leader.detailed()
    assert "paused" in json.dumps(part)


def test_a_new_leader_obeys_it_from_its_first_moment_and_writes_nothing(scene):
    namespace = scene.made["pool"]
    leader, follower = pair(scene)
    before = floor(scene)["metadata"]["resourceVersion"]
    leader.kill()
    eventually(lambda: follower.leading, seconds=60, what="the other one leads")
    rounds = follower.series("optiinfra_rounds_total")

    def several_rounds():
        now = follower.series("optiinfra_rounds_total")
        return sum(now.values()) >= sum(rounds.values()) + 5

    eventually(several_rounds, seconds=60, what="five rounds under a need of more")
    assert follower.desired(namespace) == {}
    assert floor(scene)["metadata"]["resourceVersion"] == before
    leader.start().wait_ready(seconds=60)


def test_a_person_turns_it_off_and_both_go_on(scene):
    turn(scene, "false")
    leader, follower = pair(scene)
    eventually(lambda: not stopped(leader) and not stopped(follower), seconds=30, what="both are free again")
    eventually(lambda: leader.desired(scene.made["pool"]), seconds=60, what="decisions are published again")
    assert not leader.complaints()
    assert not follower.complaints()
