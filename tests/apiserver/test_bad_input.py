"""Bad input and loss, one case each: the real operator, a real API server, and engines that misbehave.

All objects live in one cluster under one operator, so each case is also a neighbour of all others. A case must end in
one clear condition that names what is wrong and what to do, in one Warning Event, and in nothing that was not
measured: no decided replicas, no published series, no touched HorizontalPodAutoscaler. A healthy object goes on.
"""

import contextlib
import json
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from hack.cluster.errors import ApiError
from tests.engine_pages import (
    HUGE_BYTES,
    OWN_RESOURCES,
    Background,
    EnginePages,
    Json,
    Page,
    Scene,
    Trouble,
    ready_pod,
    serving,
)
from tests.groq_stub import GroqStub
from tests.operator_process import eventually, free_port, install

pytestmark = pytest.mark.timeout(180)

BUSY = Page(running=60, waiting=200, kv_cache_usage=0.5)
CALM = Page(running=30)
PATIENCE = 30.0
CLUSTER_OBJECTS = "/apis/optiinfra.io/v1alpha1/clusterresourceoptimizations"
AGENT_NODE = "bad-input-agent-node"


@dataclass(frozen=True)
class Case:
    name: str
    prepare: Callable[[Scene, str], object]
    kind: str
    status: str
    reason: str
    words: tuple[str, ...]
    """Words of the message: the object or field, and the remedy."""
    measured: bool = False
    """Whether the engines were heard, so that a decision stands."""
    subject: str = "svc"


def _ready(name: str, prepare: Callable[[Scene, str], object], reason: str, *words: str, **more: Any) -> Case:
    return Case(name, prepare, "Ready", "False", reason, words, **more)


def _page(name: str, behaviour: Trouble | None, reason: str, *words: str) -> Case:
    def prepare(world: Scene, namespace: str) -> None:
        world.engines(namespace, "svc", behaviour)
        world.optimize(namespace)

    return _ready(f"page-{name}", prepare, reason, "svc", *words)


def _floor(name: str, hpa: Callable[[Scene, str], object], reason: str, *words: str) -> Case:
    def prepare(world: Scene, namespace: str) -> None:
        world.engines(namespace, "svc", BUSY)
        hpa(world, namespace)
        world.optimize(namespace, scaling={"actuation": "Floor"})

    return Case(name, prepare, "ActuationEffective", "False", reason, words, measured=True)


def _unknown_target(world: Scene, namespace: str) -> None:
    world.optimize(namespace)


def _unknown_kind(world: Scene, namespace: str) -> None:
    world.optimize(namespace, target={"apiVersion": "models.example/v1", "kind": "Model", "name": "svc"})


def _no_scale(world: Scene, namespace: str) -> None:
    world.optimize(namespace, target={"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "svc"})


def _no_scaler(world: Scene, namespace: str) -> None:
    world.engines(namespace, "svc", BUSY)
    world.optimize(namespace, scaling={"actuation": "Floor"})


def _named_scaler_missing(world: Scene, namespace: str) -> None:
    world.engines(namespace, "svc", BUSY)
    world.hpa(namespace, "other", manager="argocd", target="somebody-else")
    reference = {"kind": "HorizontalPodAutoscaler", "name": "other"}
    world.optimize(namespace, scaling={"actuation": "Floor", "scalerRef": reference})


def _two_scalers(world: Scene, namespace: str) -> None:
    world.engines(namespace, "svc", BUSY)
    world.hpa(namespace, "first", manager="argocd")
    world.hpa(namespace, "second", manager="argocd")
    world.optimize(namespace, scaling={"actuation": "Floor"})


def _own_beside_another(world: Scene, namespace: str) -> None:
    world.engines(namespace, "svc", BUSY)
    world.hpa(namespace, "theirs", manager="argocd")
    world.optimize(namespace, scaling={"actuation": "Own", "minReplicas": 1, "maxReplicas": 4})


def _two_objects(world: Scene, namespace: str) -> None:
    world.engines(namespace, "svc", BUSY)
    older = world.optimize(namespace, "svc")
    time.sleep(1.1)  # creation times have whole seconds; with equal ones the smaller uid would decide
    target = older["spec"]["targetRef"]
    world.optimize(namespace, "younger", target=target)


def _wrong_key(world: Scene, namespace: str) -> None:
    world.engines(namespace, "svc", BUSY)
    world.optimize(namespace, mode="Recommend", insights={"enabled": True})


CASES = (
    _ready("unknown-target", _unknown_target, "TargetNotFound", "Deployment/svc", "create it"),
    _ready("unknown-kind", _unknown_kind, "TargetNotFound", "Model/svc", "create it"),
    _ready("no-scale", _no_scale, "TargetWithoutScale", "DaemonSet/svc", "point targetRef at"),
    _ready("no-scaler", _no_scaler, "ScalerNotFound", "Deployment/svc", "create it", measured=True),
    _ready(
        "named-scaler-missing",
        _named_scaler_missing,
        "ScalerNotFound",
        "other",
        "correct spec.scaling.scalerRef",
        measured=True,
    ),
    _ready("two-scalers", _two_scalers, "SeveralScalers", "first, second", "delete all but one", measured=True),
    _ready("two-objects", _two_objects, "Conflict", "svc", "delete one of them", subject="younger"),
    _page("empty", Trouble.EMPTY, "EnginePageInvalid", "empty", "spec.engine.port"),
    _page("html", Trouble.HTML, "EnginePageInvalid", "HTML", "spec.engine.port"),
    _page("huge", Trouble.HUGE, "EnginePageInvalid", "more than 4194304 bytes", "spec.engine.port"),
    _page("endless", Trouble.ENDLESS, "EnginePageInvalid", "more than 4194304 bytes", "spec.engine.port"),
    _page("slow", Trouble.SLOW, "EngineUnreachable", "no complete answer", "spec.engine.port"),
    _page("redirect", Trouble.REDIRECT, "EnginePageInvalid", "redirects are not followed", "spec.engine.port"),
    _page("refused", None, "EngineUnreachable", "Connect", "spec.engine.port"),
    _page("unauthorized", Trouble.UNAUTHORIZED, "EngineRefused", "permission", "without a key"),
    _page("nan", Trouble.NAN, "PartialMetrics", "requests_running"),
    _floor(
        "apply-manager",
        lambda world, namespace: world.hpa(namespace, "theirs", manager="argocd", minReplicas=2),
        "FieldOwned",
        "HorizontalPodAutoscaler theirs",
        "remove minReplicas from the manifest of argocd",
    ),
    _floor(
        "update-manager",
        lambda world, namespace: world.hpa(namespace, "theirs", minReplicas=2),
        "FieldOwned",
        "HorizontalPodAutoscaler theirs",
        "kubectl-create wrote minReplicas",
    ),
    _floor(
        "controller-owner",
        lambda world, namespace: world.hpa(
            namespace,
            "theirs",
            manager="keda",
            metadata={
                "ownerReferences": [
                    {
                        "apiVersion": "keda.sh/v1alpha1",
                        "kind": "ScaledObject",
                        "name": "scaled",
                        "uid": "11111111-2222-3333-4444-555555555555",
                        "controller": True,
                    }
                ]
            },
        ),
        "ScalerOwnedByController",
        "HorizontalPodAutoscaler theirs",
        "set the minimum in ScaledObject/scaled",
    ),
    Case(
        "own-beside-another",
        _own_beside_another,
        "ActuationEffective",
        "False",
        "ScalerExists",
        ("theirs", "delete it"),
        measured=True,
    ),
    Case(
        "wrong-key",
        _wrong_key,
        "InsightsAvailable",
        "False",
        "AuthenticationFailed",
        ("key", "Secret"),
        measured=True,
    ),
)


@pytest.fixture(scope="module")
def world(apiserver, tmp_path_factory):
    """Everything of this file, made at once: one case needs seconds, all together hardly more."""
    folder = tmp_path_factory.mktemp("bad-input")
    prefix = f"bad-{os.getpid()}"
    key = folder / "api-key"
    key.write_text("gsk_not_the_right_one")
    values = {"actuation.enabled": "true", "insights.enabled": "true", "insights.secretName": "unused"}
    with contextlib.ExitStack() as stack:
        pages = stack.enter_context(EnginePages(free_port()))
        background = stack.enter_context(Background())
        groq = GroqStub()
        background.run(groq.__aenter__())
        stack.callback(lambda: background.run(groq.__aexit__(None, None, None)))
        installation = stack.enter_context(
            install(apiserver, folder=folder, namespace=f"{prefix}-operator", values=values)
        )
        agent_port = free_port()
        operator = installation.operator(
            OPTIINFRA_INTERVAL_SECONDS="1",
            OPTIINFRA_SCRAPE_INTERVAL_SECONDS="1",
            OPTIINFRA_SCRAPE_TIMEOUT_SECONDS="3",
            OPTIINFRA_STALE_AFTER_SECONDS="10",
            OPTIINFRA_SIGNAL_WINDOW_SECONDS="10",
            OPTIINFRA_LEASE_DURATION_SECONDS="25",
            OPTIINFRA_RENEW_DEADLINE_SECONDS="20",  # a restart of the API server takes up to 12 s on a busy machine
            OPTIINFRA_AGENT_INTERVAL_SECONDS="1",
            OPTIINFRA_AGENT_PORT=str(agent_port),
            OPTIINFRA_LLM_ENDPOINT=groq.url,
            OPTIINFRA_LLM_KEY_FILE=str(key),
        )
        made = Scene(apiserver, installation, operator, pages, prefix)
        stack.callback(made.remove)
        stack.callback(operator.kill)
        pages.redirect_to = made.address()
        pages.serve(pages.redirect_to, BUSY)
        healthy = made.namespace("healthy")
        made.engines(healthy, "svc", CALM)
        made.optimize(healthy)
        operator.start().wait_ready()
        for case in CASES:
            case.prepare(made, made.namespace(case.name))
        yield made


def assert_healthy(world: Scene) -> None:
    """The neighbour of all cases: its rounds go on, its number is right and published."""
    namespace = world.made["healthy"]
    rounds = world.operator.series("optiinfra_last_round_timestamp_seconds")
    assert rounds, "the operator says when its last round was"
    assert time.time() - next(iter(rounds.values())) < 20.0
    ready = world.condition(namespace, "Ready")
    assert (ready.get("status"), ready.get("reason")) == ("True", "Succeeded")
    assert world.status(namespace)["desired"]["replicas"] == 1
    assert world.operator.desired(namespace) == {"svc": 1.0}


def assert_nothing_unmeasured(world: Scene, namespace: str, subject: str) -> None:
    status = world.status(namespace, subject)
    assert "replicas" not in status.get("desired", {}), status["desired"]
    for name, value in status.get("utilization", {}).items():
        assert name == "measuredAt" or isinstance(value, str), f"{name} is {value}, and nothing was measured"
    assert subject not in world.operator.desired(namespace)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input_ends_in_one_condition_and_one_event(world, case):
    namespace, subject = world.made[case.name], case.subject

    def settled():
        found = world.condition(namespace, case.kind, subject)
        assert (found.get("status"), found.get("reason")) == (case.status, case.reason), found
        return found

    condition = eventually(settled, seconds=PATIENCE, what=f"{case.kind}={case.status} {case.reason}")
    for word in case.words:
        assert word in condition["message"], condition["message"]
    assert len(condition["message"]) < 400
    assert condition["observedGeneration"] == 1

    def told():
        return [event for event in world.events(namespace, subject) if event["type"] == "Warning"]

    warnings = eventually(told, seconds=PATIENCE, what="a Warning Event")
    assert [event["reason"] for event in warnings] == [case.reason]
    assert warnings[0]["note"] == condition["message"]
    if not case.measured:
        assert_nothing_unmeasured(world, namespace, subject)
    assert subject not in world.operator.desired(namespace), "nothing is published that cannot be acted on"
    assert world.written(namespace) <= OWN_RESOURCES
    assert_healthy(world)


def test_pages_are_read_no_further_than_allowed(world):
    for name in ("page-huge", "page-endless"):
        namespace = world.made[name]
        address = world.cluster.request("GET", f"/api/v1/namespaces/{namespace}/pods/svc-0")["status"]["podIP"]
        eventually(lambda address=address: world.pages.asked.get(address, 0) >= 2, seconds=10, what="two reads")
        # What the reader took, and what two sockets hold.
        assert world.pages.sent[address] / world.pages.asked[address] < HUGE_BYTES / 4


def test_a_redirect_is_not_followed(world):
    namespace = world.made["page-redirect"]
    address = world.cluster.request("GET", f"/api/v1/namespaces/{namespace}/pods/svc-0")["status"]["podIP"]
    eventually(lambda: world.pages.asked.get(address), seconds=10, what="the redirecting page is asked")
    assert world.pages.asked.get(world.pages.redirect_to, 0) == 0


def test_the_older_of_two_objects_acts(world):
    namespace = world.made["two-objects"]
    older = eventually(lambda: world.operator.desired(namespace), seconds=PATIENCE, what="the older one publishes")
    assert set(older) == {"svc"}
    assert world.condition(namespace, "Ready", "svc")["status"] == "True"


def test_a_wrong_key_is_never_shown(world):
    assert "gsk_not_the_right_one" not in world.operator.log.read_text()
    assert "gsk_not_the_right_one" not in json.dumps(world.status(world.made["wrong-key"]))


def test_conditions_that_stand_cost_no_further_writes_and_events(world):
    def statuses():
        return {case.name: world.status(world.made[case.name], case.subject) for case in CASES}

    def quiet():
        before = statuses()
        time.sleep(4.0)  # four rounds and four reads of each page
        after = statuses()
        changed = {name: (before[name], after[name]) for name in before if before[name] != after[name]}
        assert not changed, _differences(changed)
        return True

    eventually(quiet, seconds=25, what="no status write in four rounds")
    assert sum(len(world.events(world.made[case.name], case.subject)) for case in CASES) <= 2 * len(CASES)


def _differences(changed):
    """What changed, by object: (path, before, after), the leaves only."""

    def leaves(value, path=""):
        if isinstance(value, dict):
            return {key: leaf for name, part in value.items() for key, leaf in leaves(part, f"{path}.{name}").items()}
        if isinstance(value, list):
            return {key: leaf for i, part in enumerate(value) for key, leaf in leaves(part, f"{path}[{i}]").items()}
        return {path: value}

    found = {}
    for name, (before, after) in changed.items():
        old, new = leaves(before), leaves(after)
        found[name] = [(key, old.get(key), new.get(key)) for key in old | new if old.get(key) != new.get(key)]
    return found


@pytest.fixture(scope="module")
def lost_agent(world):
    """A node whose agent was heard and then went away, and a service on it; gives the service's namespace."""
    namespace, cluster = world.namespace("agent-gone"), world.cluster
    operator_namespace = world.installation.namespace
    agent, engine = world.address(), world.address()
    port = int(world.operator.environment["OPTIINFRA_AGENT_PORT"])
    labels = dict(part.split("=") for part in world.operator.environment["OPTIINFRA_AGENT_SELECTOR"].split(","))
    node = {
        "metadata": {"name": AGENT_NODE},
        "status": {
            "capacity": {"nvidia.com/gpu": "1", "cpu": "8", "memory": "64Gi", "pods": "20"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }
    cluster.request("POST", "/api/v1/nodes", node)
    accounts = f"/api/v1/namespaces/{operator_namespace}/serviceaccounts"
    cluster.request("POST", accounts, {"metadata": {"name": "default"}})
    pods = f"/api/v1/namespaces/{operator_namespace}/pods"
    cro = {
        "apiVersion": "optiinfra.io/v1alpha1",
        "kind": "ClusterResourceOptimization",
        "metadata": {"name": world.prefix},
        "spec": {"pools": [{"name": "all", "nodeSelector": {"kubernetes.io/os": "linux"}}]},
    }
    with contextlib.ExitStack() as stack:
        stack.callback(cluster.request, "DELETE", f"/api/v1/nodes/{AGENT_NODE}")
        cluster.request("POST", CLUSTER_OBJECTS, cro)
        stack.callback(cluster.request, "DELETE", f"{CLUSTER_OBJECTS}/{world.prefix}")
        agents = stack.enter_context(EnginePages(port))
        agents.serve(agent, Json(lambda: _snapshot(namespace)))
        ready_pod(cluster, operator_namespace, "agent-0", agent, labels=labels, node=AGENT_NODE)
        stack.callback(cluster.request, "DELETE", f"{pods}/agent-0?gracePeriodSeconds=0")
        world.pages.serve(engine, CALM)
        serving(cluster, namespace, "svc", [engine], node=AGENT_NODE)
        world.optimize(namespace)
        eventually(
            lambda: world.status(namespace).get("utilization", {}).get("gpuPercent") == 50,
            seconds=PATIENCE,
            what="GPU use is measured",
        )
        assert world.condition(namespace, "Degraded")["status"] == "False"
        agents.stop(agent)
        eventually(
            lambda: world.condition(namespace, "Degraded")["status"] == "True",
            seconds=PATIENCE,
            what="it says so",
        )
        yield namespace


def test_an_agent_that_goes_makes_gpu_use_unknown(world, lost_agent):
    condition = world.condition(lost_agent, "Degraded")
    assert condition["reason"] == "AgentUnreachable"
    assert AGENT_NODE in condition["message"]
    assert "DaemonSet" in condition["message"]
    utilization = world.status(lost_agent)["utilization"]
    assert isinstance(utilization["gpuPercent"], str)
    assert isinstance(utilization["kvCachePercent"], int)
    warnings = [event["reason"] for event in world.events(lost_agent) if event["type"] == "Warning"]
    assert warnings == ["AgentUnreachable"]
    assert world.operator.desired(lost_agent) == {"svc": 1.0}, "engines are heard, so the decision stands"
    assert_healthy(world)


def test_the_cluster_object_says_that_no_agent_is_heard(world, lost_agent):
    def said():
        conditions = world.cluster.request("GET", f"{CLUSTER_OBJECTS}/{world.prefix}")["status"]["conditions"]
        found = next(entry for entry in conditions if entry["type"] == "Ready")
        assert (found["status"], found["reason"]) == ("False", "AgentUnreachable"), found
        return True

    eventually(said, seconds=30, what="the cluster object says it, too")


def _snapshot(namespace: str) -> dict[str, Any]:
    now = time.time()
    gpu: dict[str, Any] = {
        "uuid": "GPU-1",
        "index": 0,
        "model": "NVIDIA H100 80GB HBM3",
        "memory_total_bytes": 80 << 30,
        "memory_used_bytes": 60 << 30,
        "memory_reserved_bytes": 0,
        "utilization_ratio": 0.5,
        "memory_utilization_ratio": 0.3,
        "sm_active_ratio": 0.5,
        "power_watts": 300.0,
        "power_limit_watts": 700.0,
        "energy_joules_total": 300.0 * now,
        "temperature_celsius": 50.0,
        "sm_clock_hertz": 1.9e9,
        "mig_enabled": False,
        "processes": 1,
        "unknown": {},
    }
    source = {"state": "ok", "reason": "", "time": now, "duration_s": 0.001}
    return {
        "version": 1,
        "simulated": True,
        "time": now,
        "node": AGENT_NODE,
        "agent": {"id": "agent-0", "version": "0", "started": now - 60.0},
        "sources": dict.fromkeys(("nvml", "cpu", "memory", "pressure", "pod_resources"), source),
        "cpu": {"cores": 8, "busy_seconds_total": now, "utilization_ratio": 0.1, "load1": 1.0},
        "memory": {
            "total_bytes": 64 << 30,
            "available_bytes": 32 << 30,
            "used_bytes": 32 << 30,
            "swap_total_bytes": 0,
            "swap_used_bytes": 0,
        },
        "pressure": dict.fromkeys(
            ("cpu_some_ratio", "memory_some_ratio", "memory_full_ratio", "io_some_ratio", "io_full_ratio"), 0.0
        ),
        "gpus": [gpu],
        "allocations": [
            {"gpu_uuid": "GPU-1", "namespace": namespace, "pod": "svc-0", "container": "vllm", "shared": False}
        ],
    }


def test_objects_deleted_while_rounds_run_leave_nothing(world):
    """Delete, and make anew under the same name, as fast as the API server allows, while each has a round."""
    namespace, cluster = world.namespace("deleted"), world.cluster
    world.engines(namespace, "svc", BUSY)
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "svc"}
    stop = threading.Event()
    failures: list[BaseException] = []
    token = world.installation.token()
    world.permit("edit", namespace)

    def ask() -> None:
        body = {"namespace": namespace, "name": "svc"}
        try:
            while not stop.is_set():
                answer = world.operator.post("/api/v1/optimize/run", body, token=token)
                assert answer.code in {202, 404}, answer
        except BaseException as error:  # noqa: BLE001  shown by the test's own thread
            failures.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for number in range(40):
            made = world.optimize(namespace, "svc", target=target)
            if number % 4 == 3:
                eventually(lambda: world.status(namespace).get("desired"), seconds=10, what="a status", every=0.02)
            cluster.request("DELETE", world.path(namespace, "svc"))
            assert made["metadata"]["uid"]
        # The last one points elsewhere: nothing of its predecessors may show in its status.
        world.optimize(namespace, "svc", target=target | {"name": "missing"})

        def settled():
            found = world.condition(namespace, "Ready")
            assert found.get("reason") == "TargetNotFound", found
            return True

        eventually(settled, seconds=PATIENCE, what="the last one's own status")
    finally:
        stop.set()
        asking.join(10)
    assert not failures
    assert_nothing_unmeasured(world, namespace, "svc")
    cluster.request("DELETE", world.path(namespace, "svc"))
    eventually(lambda: not world.operator.desired(namespace), seconds=30, what="nothing is published")
    path = f"/api/v1/optimize/status?namespace={namespace}"
    eventually(
        lambda: world.operator.get(path, token=token).json() == {"items": []}, seconds=30, what="nothing is remembered"
    )
    assert world.written(namespace) <= OWN_RESOURCES
    assert not world.operator.complaints()
    assert_healthy(world)


def _told(world, case):
    """What is warned of a case; that a target could not be read while there was no API server is true as well."""
    found = [event for event in world.events(world.made[case.name], case.subject) if event["type"] == "Warning"]
    return sorted((event["reason"], event["note"]) for event in found if event["reason"] != "ApiError")


def test_after_a_restart_of_the_api_server_everything_goes_on(world):
    namespace = world.made["healthy"]
    address = world.cluster.request("GET", f"/api/v1/namespaces/{namespace}/pods/svc-0")["status"]["podIP"]
    warned = {case.name: _told(world, case) for case in CASES}
    pid = world.operator.process.pid
    world.cluster.restart_apiserver()
    world.pages.serve(address, BUSY)
    eventually(
        lambda: world.status(namespace).get("desired", {}).get("replicas") == 4,
        seconds=PATIENCE,
        what="the new load is decided and written",
    )
    assert world.operator.running
    assert world.operator.process.pid == pid, "the Lease outlives a restart of the API server"
    eventually(lambda: world.operator.leading, seconds=10, what="it still leads")
    # The watches are back: a new object is seen, a deleted one forgotten.
    fresh = world.namespace("after-restart")
    world.optimize(fresh)
    eventually(lambda: world.condition(fresh, "Ready").get("reason") == "TargetNotFound", seconds=PATIENCE, what="seen")
    world.cluster.request("DELETE", world.path(fresh, "svc"))
    world.pages.serve(address, CALM)
    again = {case.name: _told(world, case) for case in CASES}
    assert again == warned, "what stood before is not told anew"
    with pytest.raises(ApiError):
        world.cluster.request("GET", world.path(fresh, "svc"))


def test_an_api_server_away_for_longer_than_the_lease_ends_the_leader(world):
    """It must not decide for ever on what it last saw; the kubelet starts it again, and it finds its way."""
    namespace = world.made["healthy"]
    world.cluster.stop_apiserver()
    try:
        assert world.operator.wait_exit(seconds=35) == 1
    finally:
        world.cluster.start_apiserver()
    last = [record for record in world.operator.records() if record["message"] == "operator ended"][-1]
    assert re.search(r"LeadershipLost: .*[Ll]ease", last["error"]), last
    address = world.cluster.request("GET", f"/api/v1/namespaces/{namespace}/pods/svc-0")["status"]["podIP"]
    world.pages.serve(address, BUSY)
    world.operator.start().wait_ready()
    eventually(lambda: world.operator.desired(namespace) == {"svc": 4.0}, seconds=PATIENCE, what="it decides again")
    eventually(lambda: world.condition(namespace, "Ready")["status"] == "True", seconds=10, what="and says so")
