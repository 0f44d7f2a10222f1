"""Actions on a real control plane: one story in status, Events, metrics and log, and decisions that nothing follows.

One operator process, real controllers and scheduler, KWOK for the pods. The test plays the scaler that listens (KEDA's
part): it gives each workload the count that is published, but for the one that nobody listens to.
"""

import contextlib
import os
import threading
from dataclasses import dataclass, field
from typing import Any

import pytest

from hack.cluster.errors import ClusterError
from tests.engine_pages import MERGE, EnginePages, Page, Scene, deployment
from tests.operator_process import eventually, free_port, install

pytestmark = pytest.mark.timeout(240)
BUSY = Page(running=60, waiting=400, kv_cache_usage=0.5)
ALONE = {
    "podAntiAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [
            {"labelSelector": {"matchLabels": {"app": "svc"}}, "topologyKey": "kubernetes.io/hostname"}
        ]
    }
}
CASES: dict[str, dict[str, Any]] = {
    "followed": {},
    "deaf": {},
    "quota": {},
    "crowded": {"affinity": ALONE, "nodeSelector": {"kubernetes.io/hostname": "gpu-1"}},
}


@dataclass
class Listener:
    """Serves a page at every pod, and gives each workload what is published."""

    scene: Scene
    stop: threading.Event = field(default_factory=threading.Event)
    faults: list[str] = field(default_factory=list)

    def run(self) -> None:
        while not self.stop.wait(0.4):
            try:
                for case, namespace in self.scene.made.items():
                    self._attend(case, namespace)
            except (ClusterError, OSError) as error:
                self.faults.append(str(error))

    def _attend(self, case: str, namespace: str) -> None:
        cluster, pages = self.scene.cluster, self.scene.pages
        for pod in cluster.request("GET", f"/api/v1/namespaces/{namespace}/pods")["items"]:
            address = pod.get("status", {}).get("podIP")
            if address and address not in pages.behaviours:
                pages.serve(address, BUSY)
        wanted = self.scene.operator.desired(namespace).get("svc")
        path = f"/apis/apps/v1/namespaces/{namespace}/deployments/svc"
        if case != "deaf" and wanted is not None and cluster.request("GET", path)["spec"]["replicas"] != wanted:
            cluster.request("PATCH", path, {"spec": {"replicas": int(wanted)}}, content_type=MERGE)


@pytest.fixture(scope="module")
def scene(control_plane, tmp_path_factory):
    prefix = f"actions-{os.getpid()}"
    with contextlib.ExitStack() as stack:
        pages = stack.enter_context(EnginePages(free_port()))
        folder = tmp_path_factory.mktemp("actions")
        installation = stack.enter_context(
            install(control_plane, folder=folder, namespace=f"{prefix}-operator", values={})
        )
        operator = installation.operator(
            OPTIINFRA_INTERVAL_SECONDS="1",
            OPTIINFRA_SCRAPE_INTERVAL_SECONDS="1",
            OPTIINFRA_STALE_AFTER_SECONDS="6",
            OPTIINFRA_SIGNAL_WINDOW_SECONDS="10",
            OPTIINFRA_TICK_SECONDS="1",
            OPTIINFRA_HOLD_SECONDS="3",
            OPTIINFRA_PATIENCE_SECONDS="8",
            OPTIINFRA_RETRY_PERIOD_SECONDS="0.5",
        )
        made = Scene(control_plane, installation, operator, pages, prefix)
        stack.callback(operator.kill)
        for case, placed in CASES.items():
            namespace = f"{prefix}-{case}"
            control_plane.request("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
            stack.callback(control_plane.request, "DELETE", f"/api/v1/namespaces/{namespace}")
            body = deployment("svc", replicas=1, gpus=0)
            template = body["spec"]["template"]["spec"]
            template["containers"][0]["resources"] = {"requests": {"cpu": "10m", "memory": "16Mi"}}
            template |= placed
            if case == "quota":
                quota = {"metadata": {"name": "team"}, "spec": {"hard": {"pods": "2"}}}
                control_plane.request("POST", f"/api/v1/namespaces/{namespace}/resourcequotas", quota)
            control_plane.request("POST", f"/apis/apps/v1/namespaces/{namespace}/deployments", body)
            made.made[case] = namespace
            policy = {"cooldown": "1s", "verifyWindow": "30s"}
            made.optimize(namespace, policy=policy, modes={"scaleUp": "Auto", "scaleDown": "Recommend"})
        listener = Listener(made)
        thread = threading.Thread(target=listener.run, daemon=True)
        operator.start().wait_ready()
        thread.start()
        stack.callback(thread.join, 30)
        stack.callback(listener.stop.set)
        yield made


def wait_effective(scene, case, reason, words, *, status="False"):
    def there():
        found = scene.condition(scene.made[case], "ActuationEffective")
        assert (found.get("status"), found.get("reason")) == (status, reason), found
        assert words in found["message"], found
        return found

    return eventually(there, seconds=90, what=f"{case}: {reason}", every=0.5)


@pytest.mark.parametrize(
    ("case", "reason", "words"),
    [
        ("deaf", "NobodyListens", "no scaler drives the workload"),
        ("quota", "QuotaExceeded", "exceeded quota: team"),
        ("crowded", "PodsPending", "anti-affinity"),
    ],
)
def test_what_nothing_follows_says_what_stops_it(scene, case, reason, words):
    wait_effective(scene, case, reason, words)
    status = scene.status(scene.made[case])
    assert status["effective"] == f"False ({reason})"
    ready = next(one for one in status["conditions"] if one["type"] == "Ready")
    assert ready["status"] == "True", "it measures and decides well; that nobody follows is said beside it"


def test_one_action_is_told_under_one_id_by_status_events_metrics_and_log(scene):
    namespace = scene.made["followed"]
    wait_effective(scene, "followed", "AtLimit", "spec.scaling.maxReplicas", status="True")

    def judged():
        actions = scene.status(namespace).get("actions", [])
        return actions if actions and all("outcome" in action for action in actions) else None

    actions = eventually(judged, seconds=120, what="every action is judged", every=0.5)
    ids = {action["id"] for action in actions}
    newest = actions[-1]
    assert newest["to"] == "4"
    assert {one["signal"] for one in newest["expected"]} >= {"replicas_ready", "seconds_until_ready", "queue_time_p95"}
    assert newest["outcome"]["verdict"] in {"Verified", "Unknown"}
    assert newest["outcome"]["control"].startswith("none: ")

    def told():
        notes = [(event["reason"], event["note"].partition(":")[0]) for event in scene.events(namespace)]
        ordered = {note for reason, note in notes if reason == "ActionApplied"}
        ended = {note for reason, note in notes if reason in {"ActionVerified", "ActionUnknown"}}
        assert ordered == ids, notes
        assert ended == ids, notes
        return True

    eventually(told, seconds=20, what="Events name the same actions")
    records = [record for record in scene.operator.records() if record.get("object", "").find(namespace) >= 0]
    assert {record["action"] for record in records if record["message"] == "replicas ordered"} == ids
    assert {record["action"] for record in records if record["message"] == "action judged"} == ids
    series = scene.operator.series("optiinfra_last_action_timestamp_seconds")
    shown = [dict(labels) for labels in series if dict(labels)["namespace"] == namespace]
    assert [(one["action"], one["outcome"]) for one in shown] == [(newest["id"], newest["outcome"]["verdict"].lower())]
    assert not scene.operator.complaints()
