"""An action that made things worse, end to end: judged, undone, rested from, told; and one that a control acquits.

Engines that are played by a script (fixed load, latencies that depend on how many replicas there are) behind the real
operator process, real controllers and KWOK pods. The test plays the scaler that listens. Minutes long, because verify
windows and rests are real time: only `make soak`.
"""

import calendar
import contextlib
import os
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import pytest

from hack.cluster.errors import ClusterError
from tests.engine_pages import MERGE, EnginePages, Page, Scene, deployment
from tests.operator_process import eventually, free_port, install

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1200)]
REPLICAS = 4
WINDOW, VERIFY = 10.0, 60.0
QUICK, SLOW = 0.3, 7.0
RATE = 3.0
"""Requests per second of one replica at REPLICAS; the load of all is the same whatever their number."""
PROMPT, GENERATED = 200, 100
_LINE = re.compile(r"vllm:(?P<name>\w+?)(?P<part>_bucket|_count|_sum|_total)?\{(?P<labels>.*)\} ")


@dataclass(frozen=True)
class Told(Page):
    """The page of one replica: what it served so far."""

    served: Counter = field(default_factory=Counter)
    """Requests by their time to the first token."""

    def text(self):
        requests = sum(self.served.values())
        totals = {
            "prompt_tokens": PROMPT * requests,
            "generation_tokens": GENERATED * requests,
            "request_success": requests,
        }
        seen = {
            "time_to_first_token_seconds": dict(self.served),
            "inter_token_latency_seconds": {0.02: GENERATED * requests},
            "request_queue_time_seconds": {0.01: requests},
            "request_prompt_tokens": {PROMPT: requests},
            "request_generation_tokens": {GENERATED: requests},
        }
        return "\n".join(self._line(line, totals, seen) for line in super().text().splitlines()) + "\n"

    @staticmethod
    def _line(line, totals, seen):
        found = _LINE.match(line)
        if found is None:
            return line
        name, part = found["name"], found["part"]
        if part == "_total" and name in totals and ('finished_reason="stop"' in line or "reason" not in line):
            return f"{found[0]}{float(totals[name])}"
        if name not in seen or part is None or part == "_total":
            return line
        values = seen[name]
        if part == "_bucket":
            bound = float(re.search(r'le="([^"]+)"', line)[1])
            return f"{found[0]}{float(sum(count for value, count in values.items() if value <= bound))}"
        weight = (lambda value: 1.0) if part == "_count" else float
        return f"{found[0]}{sum(weight(value) * count for value, count in values.items())}"


@dataclass
class Workload:
    """One Deployment: who follows what for it, and how fast its engines are."""

    namespace: str
    name: str
    published: str
    slow: bool = False
    pages: dict[str, Told] = field(default_factory=dict)
    owed: float = 0.0
    counts: list[int] = field(default_factory=list)

    @property
    def path(self):
        return f"/apis/apps/v1/namespaces/{self.namespace}/deployments/{self.name}"


@dataclass
class World:
    """Plays engines and the scaler, in a thread."""

    scene: Scene
    workloads: list[Workload] = field(default_factory=list)
    harm: object = lambda _workloads: None
    """Says at every look who is slow."""
    stop: threading.Event = field(default_factory=threading.Event)
    faults: list[str] = field(default_factory=list)

    def run(self):
        last = time.monotonic()
        while not self.stop.wait(0.3):
            now = time.monotonic()
            elapsed, last = now - last, now
            try:
                for workload in self.workloads:
                    self._attend(workload, elapsed)
                self.harm(self.workloads)
            except (ClusterError, OSError, KeyError) as error:
                self.faults.append(repr(error))

    def _attend(self, workload, elapsed):
        cluster = self.scene.cluster
        pods = cluster.request("GET", f"/api/v1/namespaces/{workload.namespace}/pods")["items"]
        living = [
            pod["status"]["podIP"]
            for pod in pods
            if pod["metadata"]["labels"]["app"] == workload.name
            and pod.get("status", {}).get("podIP")
            and "deletionTimestamp" not in pod["metadata"]
        ]
        workload.owed += RATE * REPLICAS * elapsed
        for number, address in enumerate(living):
            page = workload.pages.setdefault(address, Told(running=4, kv_cache_usage=0.1))
            mine = int(workload.owed / (len(living) - number))
            workload.owed -= mine
            page.served[SLOW if workload.slow else QUICK] += mine
            if self.scene.pages.behaviours.get(address) is not page:
                self.scene.pages.serve(address, page)
        asked = cluster.request("GET", workload.path)["spec"]["replicas"]
        workload.counts.append(asked)
        wanted = self.scene.operator.desired(workload.namespace).get(workload.published)
        if wanted is not None and asked != wanted:
            cluster.request("PATCH", workload.path, {"spec": {"replicas": int(wanted)}}, content_type=MERGE)


@pytest.fixture(scope="module")
def world(control_plane, tmp_path_factory):
    prefix = f"rollback-{os.getpid()}"
    with contextlib.ExitStack() as stack:
        pages = stack.enter_context(EnginePages(free_port()))
        folder = tmp_path_factory.mktemp("rollback")
        installation = stack.enter_context(
            install(control_plane, folder=folder, namespace=f"{prefix}-operator", values={})
        )
        operator = installation.operator(
            OPTIINFRA_INTERVAL_SECONDS="1",
            OPTIINFRA_SCRAPE_INTERVAL_SECONDS="1",
            OPTIINFRA_STALE_AFTER_SECONDS="6",
            OPTIINFRA_SIGNAL_WINDOW_SECONDS=str(WINDOW),
            OPTIINFRA_TICK_SECONDS="1",
            OPTIINFRA_HOLD_SECONDS="3",
            OPTIINFRA_RETRY_PERIOD_SECONDS="0.5",
        )
        made = World(Scene(control_plane, installation, operator, pages, prefix))
        stack.callback(operator.kill)
        thread = threading.Thread(target=made.run, daemon=True)
        operator.start().wait_ready()
        thread.start()
        stack.callback(thread.join, 30)
        stack.callback(made.stop.set)
        yield made


def began(world, case, *names, **spec):
    """Make Deployments and one object that looks after them; falls wait for `let_fall`."""
    scene = world.scene
    namespace = f"{scene.prefix}-{case}"
    scene.cluster.request("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    scene.made[case] = namespace
    for name in names:
        body = deployment(name, replicas=REPLICAS, gpus=0)
        container = body["spec"]["template"]["spec"]["containers"][0]
        container["resources"] = {"requests": {"cpu": "10m", "memory": "16Mi"}}
        scene.cluster.request("POST", f"/apis/apps/v1/namespaces/{namespace}/deployments", body)
        world.workloads.append(Workload(namespace, name, "svc" if len(names) == 1 else f"svc.{name}"))
    body = {
        "apiVersion": "optiinfra.io/v1alpha1",
        "kind": "ResourceOptimization",
        "metadata": {"name": "svc"},
        "spec": {
            "modes": {"scaleUp": "Auto", "scaleDown": "Recommend"},
            "engine": {"port": scene.pages.port},
            "insights": {"enabled": False},
            "objectives": {"timeToFirstTokenP95": "2s"},
            "policy": {"cooldown": "1s", "verifyWindow": f"{VERIFY:.0f}s", "maxReplicaStep": 1},
            **spec,
        },
    }
    scene.cluster.request("POST", scene.path(namespace), body)
    return namespace


def reference(name):
    return {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}


def let_fall(world, namespace, *, allowed=True):
    patch = {"spec": {"modes": {"scaleDown": "Auto" if allowed else "Recommend"}}}
    world.scene.cluster.request("PATCH", world.scene.path(namespace, "svc"), patch, content_type=MERGE)


def judged(world, namespace, number, *, falls=True):
    """Wait until so many falls (or rises) were judged; returns the newest."""

    def look():
        actions = world.scene.status(namespace).get("actions", [])
        found = [one for one in actions if (int(one["to"]) < int(one["from"])) is falls and "outcome" in one]
        return found[-1] if len(found) >= number else None

    return eventually(look, seconds=300, what=f"action {number} is judged", every=0.5)


def unix(text):
    return calendar.timegm(time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S"))


def recommended(status):
    return next((one for one in status.get("recommendations", ()) if one["type"] == "Replicas"), None)


def test_harm_is_undone_rested_from_for_longer_each_time_and_told(world, figures):
    namespace = began(world, "harm", "svc", targetRef=reference("svc"), scaling={"minReplicas": 1, "maxReplicas": 6})
    (workload,) = (one for one in world.workloads if one.namespace == namespace)

    def cliff(_workloads):
        workload.slow = workload.counts[-1:] < [REPLICAS]

    world.harm = cliff
    eventually(
        lambda: (found := recommended(world.scene.status(namespace))) and int(found["proposed"]) < REPLICAS,
        seconds=120,
        what="less is proposed",
    )
    time.sleep(8 * WINDOW)  # windows to compare with; nothing is waited for but time
    started = time.monotonic()
    let_fall(world, namespace)
    rests = []
    for number in (1, 2):
        action = judged(world, namespace, number)
        figures.add("Rollback", f"harm {number} ordered, proven and undone", time.monotonic() - started, "s")
        assert (action["from"], action["to"], action["state"]) == ("4", "3", "RolledBack"), action["outcome"]
        outcome = action["outcome"]
        assert (outcome["verdict"], outcome["reason"]) == ("Regressed", "TimeToFirstToken")
        assert outcome["control"].startswith("none: ")
        rests.append(unix(outcome["restsUntil"]) - unix(outcome["at"]))
        eventually(lambda: workload.counts[-1] == REPLICAS, seconds=60, what="the last verified count is back")
        marked = eventually(
            lambda: (found := recommended(world.scene.status(namespace))) and "trackRecord" in found and found,
            seconds=30,
            what="the recommendation says what happened",
        )
        assert marked["trackRecord"]["restsUntil"] == outcome["restsUntil"]
        assert action["id"] in marked["trackRecord"]["message"]
        degraded = world.scene.condition(namespace, "Degraded")
        assert (degraded["status"], degraded["reason"]) == ("True", "RolledBack"), degraded
        back = len(workload.counts)
        while time.time() < unix(outcome["restsUntil"]) - 5.0:
            assert set(workload.counts[back:]) <= {REPLICAS}, "nothing is taken away while it rests"
            time.sleep(0.5)
        started = time.monotonic()
    assert rests == [pytest.approx(VERIFY, abs=2.0), pytest.approx(2.0 * VERIFY, abs=2.0)], "the cool-off grows"

    # What did the harm is gone: the next fall is verified, and the story can be read everywhere.
    world.harm = lambda _workloads: setattr(workload, "slow", False)
    workload.slow = False
    action = judged(world, namespace, 3)
    assert (action["state"], action["outcome"]["reason"]) == ("Verified", "ObjectivesKept"), action["outcome"]
    let_fall(world, namespace, allowed=False)
    actions = world.scene.status(namespace)["actions"]
    told = {event["note"].partition(":")[0]: event["reason"] for event in world.scene.events(namespace)}
    undone = [one["id"] for one in actions if one["state"] == "RolledBack"]
    assert len(undone) == 2
    logged = {
        (record["action"], record["state"])
        for record in world.scene.operator.records()
        if record["message"] == "action judged" and namespace in record["object"]
    }
    for identifier in undone:
        assert told[identifier] == "ActionRolledBack"
        assert (identifier, "RolledBack") in logged
    assert min(workload.counts) == REPLICAS - 1
    figures.add("Rollback", "falls that did harm, all undone", len(undone), "")


def test_a_control_that_nobody_touched_acquits_an_action(world, figures):
    variants = [
        {"name": "touched", "targetRef": reference("touched"), "scaling": {"minReplicas": 1, "maxReplicas": REPLICAS}},
        {"name": "other", "targetRef": reference("other"), "scaling": {"minReplicas": 4, "maxReplicas": REPLICAS}},
    ]
    namespace = began(world, "control", "touched", "other", variants=variants)
    mine = [one for one in world.workloads if one.namespace == namespace]

    def network(_workloads):
        """Both get slow at the moment of the fall: it was not the fall."""
        for one in mine:
            one.slow = mine[0].counts[-1:] < [REPLICAS]

    world.harm = network
    eventually(lambda: recommended(world.scene.status(namespace)), seconds=120, what="less is proposed for one of them")
    time.sleep(8 * WINDOW)  # windows to compare with; nothing is waited for but time
    let_fall(world, namespace)
    action = judged(world, namespace, 1)
    assert (action["subject"], action["from"], action["to"]) == ("touched", "4", "3")
    outcome = action["outcome"]
    assert outcome["control"] == "variant other", outcome
    assert (outcome["verdict"], outcome["reason"], action["state"]) == ("Unknown", "SharedShift", "Applied"), outcome
    assert set(mine[1].counts) == {REPLICAS}
    figures.add("Rollback", "falls that a control group acquitted", 1, "")
    assert not world.faults[5:], world.faults[:10]
