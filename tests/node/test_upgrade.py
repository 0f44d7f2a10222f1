"""From the previous chart version to today's on a real node and back, by both Helms: pods roll, and nothing is lost.

The previous version's images are built from its own code in the history of the repository, on the layers of today's;
a clone without that history runs today's code under both charts, which the figures tell.
"""

import os
import shutil

import pytest

from hack.binaries import ensure
from hack.chart_checks import ROOT, helm
from hack.cluster.errors import ClusterError
from hack.images import build, debian, tools
from hack.node.configurations import CONTAINERD_SOCKET
from tests import previous_version, real_node
from tests.engine_pages import Page, Scene
from tests.held_floor import Watching, given_back
from tests.node_engines import Engines, quick
from tests.operator_process import eventually
from tests.real_node import AGENTS, IMAGES, SPACE, TOPIC, VERSION

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]

BUSY = Page(running=60, waiting=400, kv_cache_usage=0.5)
MAXIMUM = 3
ACTING = quick("actuation.enabled=true")
PLACES = {"operator": ("deployments", SPACE), "agent": ("daemonsets", AGENTS)}
CHECKPOINTS = "/apis/optiinfra.io/v1alpha1/namespaces/{}/optimizationcheckpoints"


@pytest.fixture(scope="module")
def older(node, images, tmp_path_factory):
    """Bring images of the previous version into the node; returns its code, None when today's has to do."""
    real_node.needs_machine(node, "images of the previous version are brought into the node")
    folder = tmp_path_factory.mktemp("previous")
    wanted = ("operator", "pyproject.toml", "README.md", "LICENSE", "NOTICE", "requirements")
    code = previous_version.source(folder, *wanted)
    tags = {target: f"{name}:{previous_version.VERSION}" for target, name in IMAGES.items()}
    if code is None:
        for target, tag in tags.items():
            command = ("-a", CONTAINERD_SOCKET, "-n", "k8s.io", "images", "tag", f"{IMAGES[target]}:{VERSION}", tag)
            node.run("/usr/bin/ctr", *command)
        return None
    shutil.copy(ROOT / "Dockerfile", code)
    tool = tools.find(None, say=print)
    base = os.environ.get("OPTIINFRA_IMAGE_BASE", build.DEBIAN)
    own = base == build.DEBIAN
    arguments = {"BASE": debian.BUILDER, "RUNTIME": debian.RUNTIME} if own else {"BASE": base, "RUNTIME": base}
    for target, tag in tags.items():
        archive = build.FOLDER / f"previous-{target}.tar"
        tool.build(target, tag=tag, context=code, arguments=arguments, local_base=own, fresh=False)
        tool.save(tag, archive)
        node.load(archive)
        archive.unlink()
    return code


@pytest.fixture(scope="module", params=["helm", "helm4"])
def installed(request, node, older):
    """The previous version with its default values."""
    program = ensure([request.param])[request.param]
    with real_node.release(program, node, chart=previous_version.CHART):
        yield program


def rolled(node, version, *, seconds=240):
    """Wait until Deployment and DaemonSet run this version everywhere, and nothing else."""

    def done():
        for component, (plural, space) in PLACES.items():
            found = node.request("GET", f"/apis/apps/v1/namespaces/{space}/{plural}/optiinfra-{component}")
            status = found["status"]
            assert status["observedGeneration"] == found["metadata"]["generation"], component
            ready = status.get("numberReady") if component == "agent" else status.get("readyReplicas")
            wanted = status["desiredNumberScheduled"] if component == "agent" else found["spec"]["replicas"]
            assert ready == wanted, (component, status)
            for pod in real_node.pods(node, component):
                (container,) = pod["spec"]["containers"]
                assert container["image"] == f"{IMAGES[component]}:{version}", (pod["metadata"]["name"], container)
                assert real_node.is_ready(pod), (pod["metadata"]["name"], pod["status"])
                assert real_node.container_of(pod)["restartCount"] == 0
        return True

    eventually(done, seconds=seconds, what=f"version {version} runs everywhere")


def leader(node):
    """Return the pod that leads, by the Lease."""
    lease = node.request("GET", f"/apis/coordination.k8s.io/v1/namespaces/{SPACE}/leases/optiinfra-operator")
    holder = (lease.get("spec", {}).get("holderIdentity") or "").partition("@")[0]
    return next((pod for pod in real_node.pods(node, "operator") if pod["metadata"]["name"] == holder), None)


def decides_again(node, engines, version):
    """Wait until a leader of this version looked at the object, with the history of its checkpoint."""

    def done():
        pod = leader(node)
        assert pod is not None, "nobody leads"
        (container,) = pod["spec"]["containers"]
        assert container["image"].endswith(f":{version}"), container["image"]
        text = real_node.metrics(node, pod)
        assert real_node.value(text, "optiinfra_checkpoints_total", outcome="restored") >= 1
        assert engines.condition("MetricsAvailable").get("status") == "True", engines.status()
        assert real_node.value(text, "optiinfra_scrapes_total", outcome="ok", source="agent")
        return True

    eventually(done, seconds=180, what=f"a leader of version {version} decides with what was learned")


def test_default_values_roll_to_todays_version_and_back(installed, node, work, figures):
    rolled(node, previous_version.VERSION)
    engines = Engines(node, work)
    engines.start(Page(running=20))
    uid = engines.optimize()["metadata"]["uid"]
    cluster = {"apiVersion": "optiinfra.io/v1alpha1", "kind": "ClusterResourceOptimization", "spec": {}}
    path = "/apis/optiinfra.io/v1alpha1/clusterresourceoptimizations"
    node.request("POST", path, cluster | {"metadata": {"name": "cluster"}})
    try:
        eventually(lambda: engines.condition("Ready").get("status") == "True", seconds=180, what="it is looked at")
        eventually(lambda: node.request("GET", f"{path}/cluster").get("status"), seconds=120, what="so is the cluster")
        before = engines.status()
        real_node.upgrade(installed, node)
        rolled(node, VERSION)
        eventually(lambda: engines.condition("Ready").get("status") == "True", seconds=120, what="it still is")
        assert engines.status()["observedGeneration"] == before["observedGeneration"]
        ready = engines.condition("Ready")
        (known,) = [each for each in before["conditions"] if each["type"] == "Ready"]
        assert ready["lastTransitionTime"] == known["lastTransitionTime"], "an upgrade is no trouble of the object's"
        for place in (Scene.path(work, engines.name), f"{path}/cluster"):
            found = node.request("GET", place)
            for part in ("", "/status"):
                node.request("PUT", f"{place}{part}?dryRun=All", found)
        assert node.request("GET", Scene.path(work, engines.name))["metadata"]["uid"] == uid
        helm(installed, "rollback", "optiinfra", *real_node.where(node))
        rolled(node, previous_version.VERSION)
        eventually(lambda: engines.condition("Ready").get("status") == "True", seconds=120, what="and again")
    finally:
        node.request("DELETE", f"{path}/cluster")


def test_history_and_held_floors_outlive_the_upgrade_and_the_way_back(installed, node, older, work, figures):
    engines, checkpoint = Engines(node, work), f"{CHECKPOINTS.format(work)}/svc"
    engines.start(BUSY)
    engines.hpa_made(maximum=MAXIMUM)
    real_node.upgrade(installed, node, *ACTING, "operator.replicas=0", chart=previous_version.CHART)
    eventually(lambda: not real_node.pods(node, "operator"), seconds=120, what="no operator runs")
    uid = engines.optimize(mode="Auto", scaling={"actuation": "Floor"}, policy={"maxReplicaStep": 4, "cooldown": "1s"})[
        "metadata"
    ]["uid"]
    known = previous_version.learned("svc", "svc", uid=uid, code=older)
    node.request("POST", CHECKPOINTS.format(work), known)
    first = previous_version.remembered(known)["svc"][0]
    real_node.upgrade(installed, node, *ACTING, chart=previous_version.CHART)
    rolled(node, previous_version.VERSION)
    held = engines.held(MAXIMUM)
    decides_again(node, engines, previous_version.VERSION)

    def remembers(code=None):
        times = previous_version.remembered(node.request("GET", checkpoint), code=code)["svc"]
        assert times[0] == first
        return len(times)

    with Watching(engines.hpa, away=(ClusterError,)) as watching:
        real_node.upgrade(installed, node, *ACTING)
        rolled(node, VERSION)
        decides_again(node, engines, VERSION)
        learned = remembers()
        assert learned > len(previous_version.remembered(known)["svc"])
        assert engines.condition("ActuationEffective").get("status") == "True"
        helm(installed, "rollback", "optiinfra", *real_node.where(node))
        rolled(node, previous_version.VERSION)
        decides_again(node, engines, previous_version.VERSION)
        assert remembers(older) >= learned
        real_node.upgrade(installed, node, *ACTING)
        rolled(node, VERSION)
        decides_again(node, engines, VERSION)
    looks = watching.judge(MAXIMUM)
    assert engines.hpa()["metadata"]["annotations"] == held["metadata"]["annotations"]
    assert engines.asked() == MAXIMUM
    which = installed.name
    figures.add(TOPIC, f"{which} looks at a held floor in two upgrades and a rollback, all of which saw it held", looks)
    figures.add(TOPIC, f"{which} upgrade from images of the previous version's own code", int(older is not None))
    helm(installed, "uninstall", "optiinfra", *real_node.where(node), "--wait")
    given_back(engines.hpa)
    assert engines.asked() == MAXIMUM, "nobody lowers what runs but the user's HPA"
