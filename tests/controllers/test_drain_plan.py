"""A drain plan carried out: real eviction API, real scheduler, real disruption budgets; nodes and pods simulated.

The plan is read from the operator's own mirror. Whoever follows it cordons, evicts step by step and waits; the
scheduler is held to the plan's targets by cordons. The nodes end empty, no budget is ever broken, nobody stays
without a place. What the plan refuses, the API server refuses, too.
"""

import asyncio
import contextlib
import itertools
import json
import subprocess
import time

import pytest
import yaml

from hack.cluster.errors import ApiError
from optiinfra.cluster.client import KubernetesClient
from optiinfra.cluster.inventory import Inventory
from optiinfra.domain.consolidation import ClusterFacts, DrainPolicy, NodeReason, PodReason, plan
from optiinfra.domain.consolidation.advice import PACKING_PROFILE
from optiinfra.domain.consolidation.scheduling import HabitKind, habit_of
from optiinfra.domain.units import UnixTime
from tests.unit.domain.drain_checker import complaints

GPUS = "nvidia.com/gpu"
NODES = "/api/v1/nodes"
HOSTNAME = "kubernetes.io/hostname"


def template(app, *, gpus, apart=False, labels=None):
    container = {"name": "engine", "image": "none", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}
    if gpus:
        container["resources"]["limits"] = {GPUS: gpus}
    spec = {"containers": [container], "terminationGracePeriodSeconds": 0}
    if apart:
        term = {"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": HOSTNAME}
        spec["affinity"] = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    return {"metadata": {"labels": {"app": app} | (labels or {})}, "spec": spec}


def workload(kind, app, *, replicas, **how):
    body = {"replicas": replicas, "selector": {"matchLabels": {"app": app}}, "template": template(app, **how)}
    if kind == "StatefulSet":
        body["serviceName"] = app
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": app}, "spec": body}


def budget(name, app, **spec):
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": {"app": app}}} | spec,
    }


def bare(name, node):
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}} | {
        "spec": template(name, gpus=1)["spec"] | {"nodeName": node}
    }


def is_ready(pod):
    conditions = pod["status"].get("conditions", [])
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
    return ready and "deletionTimestamp" not in pod["metadata"]


class Site:
    """A cluster with somebody who carries plans out."""

    def __init__(self, cluster, namespace):
        self.cluster = cluster
        self.namespace = namespace
        self.base = f"/api/v1/namespaces/{namespace}"

    def apply(self, *manifests):
        for manifest in manifests:
            self.cluster.kubectl("apply", f"--namespace={self.namespace}", "--filename=-", input=json.dumps(manifest))

    def pods(self):
        return self.cluster.request("GET", f"{self.base}/pods")["items"]

    def budgets(self):
        path = f"/apis/policy/v1/namespaces/{self.namespace}/poddisruptionbudgets"
        return self.cluster.request("GET", path)["items"]

    def names(self):
        return [node["metadata"]["name"] for node in self.cluster.request("GET", NODES)["items"]]

    def close(self, closed):
        """Cordon these nodes and no others."""
        for name in self.names():
            patch = {"spec": {"unschedulable": name in closed}}
            self.cluster.request("PATCH", f"{NODES}/{name}", patch, content_type="application/merge-patch+json")

    def evict(self, pod, *, dry_run=False):
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": self.namespace}}
        if dry_run:
            body["deleteOptions"] = {"dryRun": ["All"]}
        self.cluster.request("POST", f"{self.base}/pods/{pod}/eviction", body)

    def unmet(self):
        """Budgets with fewer healthy pods than they demand."""
        every = [(each, each.get("status", {})) for each in self.budgets()]
        return [each for each, told in every if told.get("currentHealthy", 0) < told.get("desiredHealthy", 0)]

    def started(self, count):
        """Wait until this many pods run. While they start no budget is met, and that is no disruption."""
        self.wait(lambda: self.all_ready(count) and not self.unmet(), starting=True)

    def wait(self, accepts, *, seconds=60, starting=False):
        deadline = time.monotonic() + seconds
        while not accepts():
            assert starting or not self.unmet()
            assert time.monotonic() < deadline, [
                (pod["metadata"]["name"], pod["spec"].get("nodeName"), pod["status"]) for pod in self.pods()
            ]
            time.sleep(0.1)

    def all_ready(self, count):
        pods = self.pods()
        return len(pods) == count and all(map(is_ready, pods))


@pytest.fixture
def site(control_plane, namespace):
    made = Site(control_plane, namespace)

    def alone():
        pods = control_plane.request("GET", "/api/v1/pods")["items"]
        return not [pod for pod in pods if pod["spec"].get("nodeName") and pod["metadata"]["namespace"] != namespace]

    made.wait(alone)  # what other tests left behind goes away by itself
    yield made
    made.close(set())


@contextlib.asynccontextmanager
async def mirror(cluster):
    async with KubernetesClient.from_environment(str(cluster.kubeconfig)) as client:
        inventory = Inventory(client, pool_of=lambda labels: "h100")
        task = asyncio.create_task(inventory.run())
        try:
            async with asyncio.timeout(30):
                await inventory.wait_synced()
            yield inventory
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def facts_of(cluster):
    async with mirror(cluster) as inventory:
        return ClusterFacts(
            nodes=tuple(inventory.nodes().values()), waiting=inventory.unplaced(), budgets=inventory.budgets()
        )


def refused(result):
    """Why pods may not be moved, by name."""
    return {pod.pod: pod.reason for refusal in result.refusals for pod in refusal.pods}


async def test_a_plan_is_carried_out_step_by_step(site, control_plane):
    first = site.names()[0]
    site.apply(
        bare("keeper", first),
        budget("llama", "llama", maxUnavailable=1),
        budget("cache", "cache", minAvailable=1),
        workload("Deployment", "llama", replicas=2, gpus=2, apart=True),
        workload("StatefulSet", "cache", replicas=2, gpus=1),
        workload("Deployment", "router", replicas=3, gpus=0),
        workload("Deployment", "gang", replicas=2, gpus=1, labels={"scheduling.x-k8s.io/pod-group": "gang"}),
    )
    count = 1 + 2 + 2 + 3 + 2
    site.started(count)
    site.wait(lambda: all(each["status"].get("disruptionsAllowed") == 1 for each in site.budgets()))
    facts = await facts_of(control_plane)
    policy, now = DrainPolicy(max_moves=100, headroom=0.1), UnixTime(time.time())
    result = plan(facts, policy, now=now)
    assert complaints(facts, policy, result, now=now) == []
    freed = [node.node for node in result.freed]
    # Llama's two pods repel each other, the bare pod stays: two nodes are needed, and its budget lets one of them go.
    assert freed
    assert first not in freed
    assert result.moves
    assert {move.pod for move in result.moves}.isdisjoint({"keeper"})
    for _, group in itertools.groupby(result.moves, key=lambda move: move.step):
        moves = list(group)
        targets = {move.target for move in moves}
        site.close(set(site.names()) - targets)
        for move in moves:
            site.evict(move.pod)  # 201 at once: a budget that does not allow it would answer 429
        site.wait(lambda: site.all_ready(count))
        placed = {pod["metadata"]["name"]: pod["spec"]["nodeName"] for pod in site.pods()}
        assert all(placed.get(move.pod, move.target) in targets for move in moves)
    assert not [pod["metadata"]["name"] for pod in site.pods() if pod["spec"]["nodeName"] in freed]
    site.close(set(freed))
    after = plan(await facts_of(control_plane), policy, now=UnixTime(time.time()))
    assert {refusal.node for refusal in after.refusals if refusal.reason is NodeReason.UNSCHEDULABLE} == set(freed)


async def test_what_the_plan_refuses_the_eviction_api_refuses(site, control_plane):
    site.apply(
        budget("tight", "tight", maxUnavailable=0),
        budget("one", "twice", maxUnavailable=1),
        budget("other", "twice", maxUnavailable=1),
        workload("StatefulSet", "tight", replicas=1, gpus=5),
        workload("StatefulSet", "twice", replicas=1, gpus=5),
        workload("StatefulSet", "free", replicas=1, gpus=5),
    )
    site.started(3)
    # Of two budgets on one pod the controller counts it for one only.
    site.wait(
        lambda: [b["status"].get("expectedPods") for b in site.budgets() if b["metadata"]["name"] == "tight"] == [1]
    )
    # So much headroom that nothing moves: each node then says what holds it by itself.
    policy = DrainPolicy(max_moves=100, headroom=0.99)
    result = plan(await facts_of(control_plane), policy, now=UnixTime(time.time()))
    reasons = refused(result)
    assert reasons.get("tight-0") is PodReason.NO_BUDGET
    assert reasons.get("twice-0") is PodReason.SEVERAL_BUDGETS
    with pytest.raises(ApiError, match="disruption budget") as tight:
        site.evict("tight-0", dry_run=True)
    assert tight.value.code == 429
    with pytest.raises(ApiError, match="more than one PodDisruptionBudget"):
        site.evict("twice-0", dry_run=True)
    site.evict("free-0", dry_run=True)


@pytest.fixture
def packing_scheduler(control_plane, tmp_path):
    """A second real kube-scheduler with the profile that is advised, beside the cluster's own."""
    profile = yaml.safe_load(PACKING_PROFILE)
    profile["profiles"] = [each for each in profile["profiles"] if each["schedulerName"] == "gpu-packing"]
    profile["clientConnection"] = {"kubeconfig": str(control_plane.kubeconfig)}
    profile["leaderElection"] = {"leaderElect": False}
    config = tmp_path / "scheduler.yaml"
    config.write_text(yaml.safe_dump(profile))
    binary = control_plane.binary("kube-scheduler")
    with (tmp_path / "scheduler.log").open("w") as log:
        process = subprocess.Popen(
            [str(binary), f"--config={config}", "--secure-port=0"], stdout=log, stderr=subprocess.STDOUT
        )
        try:
            yield "gpu-packing"
        finally:
            process.terminate()
            process.wait(timeout=10)


@pytest.mark.parametrize("name", ["default-scheduler", "gpu-packing"])
async def test_how_a_real_scheduler_fills_nodes_shows_in_its_placements(site, control_plane, request, name):
    if name == "gpu-packing":
        request.getfixturevalue("packing_scheduler")
    for number in range(20):
        pod = bare(f"p{number}", "")
        del pod["spec"]["nodeName"]
        pod["spec"]["schedulerName"] = name
        # The default profile looks at CPU and memory alone: a server asks for its share of them, too.
        pod["spec"]["containers"][0]["resources"]["requests"] = {"cpu": "16", "memory": "128Gi"}
        site.cluster.request("POST", f"{site.base}/pods", pod)
        began = time.monotonic()
        site.wait(lambda count=number + 1: site.all_ready(count))
        await asyncio.sleep(max(0.0, 1.05 - (time.monotonic() - began)))  # moments are whole seconds
    facts = await facts_of(control_plane)
    found = habit_of(facts.nodes)
    assert found.kind is (HabitKind.SPREADS if name == "default-scheduler" else HabitKind.PACKS), found
    in_use = sum(bool(node.pods) for node in facts.nodes)
    assert in_use == (4 if name == "default-scheduler" else 3)
