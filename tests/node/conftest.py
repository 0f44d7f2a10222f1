"""Fixtures of the tests on a real node: images that were built here, one node for all files, and two GPUs made up.

Where the machine cannot carry a node the tests are skipped with the reason. OPTIINFRA_IMAGE_BASE names the base of the
images (`debian`, made here, unless it is set); OPTIINFRA_KEEP=1 keeps the node's logs. With OPTIINFRA_E2E_KUBECONFIG
the node is a user's cluster, into which the user has loaded the images; what is there already is not touched.
"""

import itertools
import os
import platform
import shutil
import tempfile
from pathlib import Path

import pytest

from hack.binaries import bin_folder
from hack.cluster.errors import ApiError, ClusterError
from hack.cluster.remote import RemoteCluster
from hack.cluster.sessions import session_folder
from hack.images import build, tools
from hack.node import gpus as fake
from hack.node.cgroups import hierarchies
from hack.node.cluster import NAME, NodeCluster
from hack.node.requirements import unmet
from tests import nvml_stub, proofs
from tests.operator_process import eventually
from tests.real_node import AGENTS, GPUS, IMAGES, PATIENCE, SPACE, VERSION, consumer, on_machine, run_pod, started

E2E = "OPTIINFRA_E2E_KUBECONFIG"
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def images():
    """Build both, under the names that the chart's default values have; in a user's cluster they are there already."""
    if os.environ.get(E2E):
        return {}
    missing = unmet([bin_folder(), build.FOLDER])
    if missing:
        pytest.skip(f"no real node here: {'; '.join(missing)}")
    tags = {target: f"{name}:{VERSION}" for target, name in IMAGES.items()}
    base = os.environ.get("OPTIINFRA_IMAGE_BASE", build.DEBIAN)
    tool = tools.find(None, say=print)
    return {image.target: image for image in build.build(tool, tags=tags, base=base, runtime=None, say=print)}


@pytest.fixture(scope="session")
def node(request, images):
    """Start a node and load both images, or take the user's cluster."""
    if os.environ.get(E2E):
        yield from _users(request.config, Path(os.environ[E2E]))
    else:
        yield from _ours(request.config, images)


def _ours(config, images):
    version = "2" if hierarchies()[0].is_v2 else "1"
    with started(NodeCluster(session_folder("node"), say=print), images) as cluster:
        proofs.place(config, f"a node of hack.node, Linux {platform.release()}, cgroup v{version}")
        yield cluster


def _users(config, kubeconfig):
    """Take a cluster in which nothing of ours is, and which has the images."""
    scratch = Path(tempfile.mkdtemp(prefix="optiinfra-"))
    try:
        with RemoteCluster(kubeconfig, scratch=scratch) as cluster:
            version = cluster.request("GET", "/version")["gitVersion"]
            count = len(cluster.request("GET", "/api/v1/nodes")["items"])
            name = cluster.kubectl("config", "current-context").strip()
            proofs.place(config, f"{name}, Kubernetes {version}, {count} nodes")
            _refuse_an_installation(cluster)
            _require_images(cluster)
            yield cluster
    finally:
        shutil.rmtree(scratch)


def _refuse_an_installation(cluster):
    """The tests install and remove the chart: one that somebody uses must not be theirs."""
    names = [("/api/v1/namespaces/", name) for name in (SPACE, AGENTS)]
    names.append(("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/", "resourceoptimizations.optiinfra.io"))
    for path, name in names:
        try:
            cluster.request("GET", path + name)
        except ApiError as error:
            if error.code != 404:
                raise
        else:
            raise ClusterError(f"{name} is there already: the tests install and remove OptiInfra, so name another one")


def _require_images(cluster):
    """Run one container of each image in a namespace of its own."""
    space = f"optiinfra-e2e-images-{os.getpid()}"
    cluster.kubectl("create", "namespace", space)
    try:
        for target in IMAGES:
            pod = consumer(target)
            pod["spec"]["containers"][0]["image"] = f"{IMAGES[target]}:{VERSION}"
            try:
                run_pod(cluster, space, pod)
            except AssertionError as error:
                remedy = "load it into every node first, see docs/how-to/real-node.md"
                raise ClusterError(f"{IMAGES[target]}:{VERSION} does not run: {remedy} ({error})") from error
    finally:
        cluster.kubectl("delete", "namespace", space, "--wait=false")


@pytest.fixture(scope="session")
def gpus(node, tmp_path_factory):
    """Give the node two GPUs that only the driver's library makes up; they stay as long as it does."""
    if not on_machine(node):
        return None
    folder = tmp_path_factory.mktemp("nvml")
    rules = folder / "rules"
    rules.mkdir()
    (rules / "nvml-rules").write_text("gpus 2\nvalue utilization -1 37\n")
    fake.give(node, GPUS, library=nvml_stub.build(folder / "library") / "libnvidia-ml.so.1", rules=rules)
    eventually(lambda: fake.allocatable(node, NAME) == 2, seconds=PATIENCE, what="the kubelet offers two GPUs")
    return rules


@pytest.fixture
def work(node):
    """Make a namespace for pods of the test's own."""
    name = f"optiinfra-work-{os.getpid()}-{next(_numbers)}"
    node.kubectl("create", "namespace", name)
    yield name
    node.kubectl("delete", "namespace", name, "--wait=false")
