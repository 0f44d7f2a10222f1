"""From the previous chart version to today's and back: objects stay valid, history and held floors stay, by both Helms.

There are no controllers here, so releases make no pods. The operators are processes: that of the previous version is
its own code from the history of the repository (today's in a clone without one, which the figures tell).
"""

import contextlib
import json
import os
import subprocess

import pytest
import yaml

from hack.binaries import ensure
from hack.chart_checks import CHART, ROOT, cases, helm
from hack.cluster import Cluster
from hack.cluster.errors import ApiError
from optiinfra.api import crd
from tests import previous_version
from tests.engine_pages import EnginePages, Page, Scene, hpa_path
from tests.held_floor import Watching, given_back
from tests.operator_process import Installation, eventually, free_port

pytestmark = pytest.mark.timeout(300)

SPACE, RELEASE = "optiinfra", "optiinfra"
OBJECTS = "/apis/optiinfra.io/v1alpha1"
HOOKLESS = ("--set", "release.enabled=false")
"""Without controllers the pre-delete Job could never run."""
NOWHERE = ("--set", "serviceMonitor.enabled=false", "--set", "prometheusRule.enabled=false")
"""The kinds of the Prometheus operator do not exist here."""
HELMS = ("helm", "helm4")
BUSY = Page(running=60, waiting=400, kv_cache_usage=0.5)
MAXIMUM = 3
TOPIC = "upgrade"


@pytest.fixture(scope="module")
def programs():
    return ensure(HELMS)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """An API server of its own: definitions have no namespace."""
    with Cluster(tmp_path_factory.mktemp("upgrade") / "cluster", controllers=False) as running:
        for name in (SPACE, "inference", "chat", "keda"):
            running.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        yield running


@pytest.fixture
def run(programs, cluster):
    """Run one of the Helms; afterwards no release and no object is left, only the definitions."""

    def call(which, verb, *arguments):
        return helm(programs[which], verb, *arguments, "--namespace", SPACE, "--kubeconfig", str(cluster.kubeconfig))

    yield call
    if RELEASE in call("helm", "list", "--short"):
        call("helm", "uninstall", RELEASE, "--no-hooks")
    for path in {path_of(document) for document in users_objects()}:
        with contextlib.suppress(ApiError):  # a test that failed before there were any definitions
            cluster.request("DELETE", path)


def live(cluster, *what):
    return json.loads(cluster.kubectl("get", *what, "--output=json"))


def definitions(cluster):
    """Specs of our definitions as the server has them, without what it fills in."""
    items = live(cluster, "customresourcedefinitions")["items"]
    for item in items:
        assert item["status"]["storedVersions"] == ["v1alpha1"]
    return {item["metadata"]["name"]: item["spec"]["versions"] for item in items}


def expected(documents):
    return {document["metadata"]["name"]: document["spec"]["versions"] for document in documents}


def same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, versions in wanted.items():
        assert found[name] == versions, name


BEFORE = expected(map(yaml.safe_load, previous_version.definition_files().values()))
AFTER = expected(map(crd.crd_of, crd.KINDS))


def users_objects():
    """What users have: the objects of the examples."""
    for name in ("recommend", "floor", "own", "variants", "cluster"):
        for number, document in enumerate(yaml.safe_load_all((ROOT / "examples" / f"{name}.yaml").read_text())):
            if document and document["apiVersion"].startswith("optiinfra.io/"):
                document["metadata"]["name"] = f"{name}-{number}" if number else name
                yield document


def path_of(document):
    plural = f"{document['kind'].lower()}s"
    space = document["metadata"].get("namespace")
    return f"{OBJECTS}/namespaces/{space}/{plural}" if space else f"{OBJECTS}/{plural}"


WRITTEN = {
    "summary": {
        "pools": 1,
        "measuredAt": "2026-11-22T07:00:00Z",
        "nodes": 3,
        "gpus": 24,
        "gpusAllocated": 20,
        "idleGpus": 0,
        "emptyableNodes": 2,
        "gpuPercent": 45,
    },
    "pools": [{"name": "h100", "nodes": 3, "gpus": 24, "gpusAllocated": 20, "emptyableNodes": 2, "gpuPercent": 45}],
}
"""What only the previous version wrote in this way: whole numbers that today may be words."""


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("helm", "helm4"),
        pytest.param("helm", "helm", marks=pytest.mark.soak),
        pytest.param("helm4", "helm4", marks=pytest.mark.soak),
    ],
)
def test_objects_and_definitions_outlive_the_upgrade_and_the_way_back(run, cluster, first, then):
    run(first, "install", RELEASE, str(previous_version.CHART), *HOOKLESS)
    cluster.kubectl("wait", "--for=condition=Established", "customresourcedefinition", "--all", "--timeout=30s")
    same(definitions(cluster), BEFORE)
    made = {}
    for document in users_objects():
        made[path_of(document), document["metadata"]["name"]] = cluster.request("POST", path_of(document), document)
    assert len(made) >= 5
    (cluster_path,) = {path for path, _ in made if "/clusterresource" in path}
    status = f"{cluster_path}/cluster/status"
    cluster.request("PATCH", status, {"status": WRITTEN}, content_type="application/merge-patch+json")

    def valid():
        for (path, name), original in made.items():
            found = cluster.request("GET", f"{path}/{name}")
            assert (found["metadata"]["uid"], found["spec"]) == (original["metadata"]["uid"], original["spec"])
            cluster.request("PUT", f"{path}/{name}?dryRun=All", found)
            cluster.request("PUT", f"{path}/{name}/status?dryRun=All", found)
        assert cluster.request("GET", f"{cluster_path}/cluster")["status"] == WRITTEN

    valid()
    run(then, "upgrade", RELEASE, str(CHART), *HOOKLESS)
    eventually(lambda: same(definitions(cluster), AFTER) is None, seconds=20, what="today's definitions")
    valid()
    for kind, space in (("deployment/optiinfra-operator", SPACE), ("daemonset/optiinfra-agent", f"{SPACE}-agent")):
        (container,) = live(cluster, kind, "-n", space)["spec"]["template"]["spec"]["containers"]
        assert not container["image"].endswith(previous_version.VERSION)
    run(then, "rollback", RELEASE)
    same(definitions(cluster), BEFORE)
    valid()
    run(then, "upgrade", RELEASE, str(CHART), *HOOKLESS)
    same(definitions(cluster), AFTER)
    valid()


@pytest.mark.soak
@pytest.mark.parametrize("which", HELMS)
@pytest.mark.parametrize("case", ["everything", "namespaces"])
def test_every_value_that_the_previous_chart_had_is_still_one(run, cluster, tmp_path, which, case):
    """A user's values file goes on; only values that the previous chart did not know are left out here."""
    (values,) = [path for path in cases() if path.name == f"{case}-values.yaml"]
    chosen = yaml.safe_load(values.read_text()) or {}
    chosen.pop("metricsServer", None)
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(chosen))
    same_values = ("--values", str(file), *HOOKLESS, *NOWHERE)
    run(which, "install", RELEASE, str(previous_version.CHART), *same_values)
    secrets = live(cluster, "secrets", "-A", "-l", "app.kubernetes.io/instance=optiinfra")["items"]
    run(which, "upgrade", RELEASE, str(CHART), *same_values)
    kept = live(cluster, "secrets", "-A", "-l", "app.kubernetes.io/instance=optiinfra")["items"]
    assert [item["data"] for item in kept] == [item["data"] for item in secrets], "certificates are kept"
    run(which, "rollback", RELEASE)


@pytest.mark.parametrize(
    ("which", "kept"),
    [
        ("helm4", "--reuse-values"),
        pytest.param("helm", "--reuse-values", marks=pytest.mark.soak),
        pytest.param("helm", "--reset-then-reuse-values", marks=pytest.mark.soak),
        pytest.param("helm4", "--reset-then-reuse-values", marks=pytest.mark.soak),
    ],
)
def test_values_may_be_taken_from_the_release(run, cluster, which, kept):
    """With --reuse-values a new chart's own defaults are not there: whatever is new has to do without."""
    run(which, "install", RELEASE, str(previous_version.CHART), *HOOKLESS, "--set", "operator.logLevel=DEBUG")
    run(which, "upgrade", RELEASE, str(CHART), kept)
    deployment = live(cluster, "deployment/optiinfra-operator", "-n", SPACE)
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert {"name": "OPTIINFRA_LOG_LEVEL", "value": "DEBUG"} in container["env"]


# ---- what was learned, and what is held


@pytest.fixture
def scene(run, cluster, tmp_path):
    """The previous release that may act, and one busy service with a user's HPA."""
    settings = ("--set", "actuation.enabled=true", "--set", "operator.replicas=0", "--set", "agent.enabled=false")
    prefix = f"upgrade-{os.getpid()}"
    run("helm4", "install", RELEASE, str(previous_version.CHART), *HOOKLESS, *settings)
    with contextlib.ExitStack() as stack:
        pages = stack.enter_context(EnginePages(free_port()))
        installation = Installation(cluster, tmp_path, SPACE, [], free_port(), free_port(), {})
        made = Scene(cluster, installation, None, pages, prefix)
        stack.callback(made.remove)
        made.upgrade = lambda: run("helm4", "upgrade", RELEASE, str(CHART), *HOOKLESS, *settings)
        made.rollback = lambda: run("helm4", "rollback", RELEASE)
        made.code = previous_version.source(tmp_path / "previous")
        namespace = made.namespace("service")
        made.engines(namespace, "svc", BUSY, BUSY, BUSY)
        made.hpa(namespace, "theirs", manager="argocd", maxReplicas=MAXIMUM)
        made.made_object = made.optimize(
            namespace, scaling={"actuation": "Floor"}, policy={"maxReplicaStep": 4, "cooldown": "1s"}
        )
        yield made


def operator(scene, name, *, code=None):
    """A replica with the environment that the release's Deployment has now."""
    deployment = live(scene.cluster, "deployment/optiinfra-operator", "-n", SPACE)
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    scene.installation.environment = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    replica = scene.installation.operator(
        name,
        OPTIINFRA_INTERVAL_SECONDS="1",
        OPTIINFRA_SCRAPE_INTERVAL_SECONDS="1",
        OPTIINFRA_SIGNAL_WINDOW_SECONDS="10",
        OPTIINFRA_TICK_SECONDS="1",
        OPTIINFRA_RETRY_PERIOD_SECONDS="0.5",
    )
    if code:
        replica.environment["PYTHONPATH"] = str(code / "operator")
    return replica


def restored(replica):
    """Checkpoints that a leader got its histories back from."""
    return replica.series("optiinfra_checkpoints_total").get((("outcome", "restored"),), 0.0)


@pytest.mark.soak
def test_history_and_a_held_floor_go_over_to_the_new_version_and_back(scene, cluster, figures):
    namespace = scene.made["service"]
    hpa = lambda: cluster.request("GET", hpa_path(namespace, "theirs"))  # noqa: E731
    checkpoint = f"{OBJECTS}/namespaces/{namespace}/optimizationcheckpoints"
    uid = scene.made_object["metadata"]["uid"]
    known = previous_version.learned("svc", "svc", uid=uid, code=scene.code)
    cluster.request("POST", checkpoint, known)
    since = previous_version.remembered(known)["svc"][0]

    def remembers(code=None):
        """The state that is kept now still has what was known before the first of these operators started."""
        times = previous_version.remembered(cluster.request("GET", f"{checkpoint}/svc"), code=code)["svc"]
        assert times[0] == since
        return len(times)

    def leads(replica):
        replica.wait_ready()
        eventually(lambda: replica.leading, seconds=60, what=f"{replica.name} leads")
        assert restored(replica) == 1

    previous = operator(scene, "previous", code=scene.code).start()
    leads(previous)
    eventually(lambda: hpa()["spec"].get("minReplicas") == MAXIMUM, seconds=90, what="the floor is held")
    held = hpa()
    points = len(previous_version.remembered(known)["svc"])
    with Watching(hpa) as watching:
        scene.upgrade()
        today = operator(scene, "today").start()  # beside the old one, as a rolling upgrade does
        today.wait_ready()
        assert previous.leading, "the Lease is left with whom it has"
        assert previous.terminate() == 0
        leads(today)
        assert remembers() > points, "it went on"
        decided = eventually(lambda: scene.status(namespace).get("lastRound"), seconds=60, what="a round")
        assert decided
        eventually(lambda: _decides(scene, namespace), seconds=90, what="today's operator decides as before")
        scene.rollback()
        older = operator(scene, "older", code=scene.code).start()
        assert today.terminate() == 0
        leads(older)
        points = remembers(scene.code)
        eventually(lambda: _decides(scene, namespace), seconds=90, what="the previous operator decides again")
    looks = watching.judge(MAXIMUM)
    assert hpa()["metadata"]["annotations"] == held["metadata"]["annotations"]
    for replica in (previous, today, older):
        assert replica.complaints() == []
    # The pre-delete Job's command, as uninstalling runs it.
    scene.upgrade()
    environment = dict(os.environ) | older.environment
    environment.pop("PYTHONPATH", None)
    older.kill()
    command = [str(ROOT / ".venv" / "bin" / "optiinfra"), "release", "--all", "--immediate"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    given_back(hpa)
    figures.add(TOPIC, "looks at a held floor during an upgrade and the way back, each of which saw it held", looks)
    figures.add(TOPIC, "steps of load remembered over both", points)
    figures.add(TOPIC, "the previous version ran its own code", int(scene.code is not None))


def _decides(scene, namespace):
    condition = scene.condition(namespace, "ActuationEffective")
    assert condition["reason"] == "AtLimit", condition
    return condition["status"] == "True"
