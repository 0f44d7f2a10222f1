"""Fixtures of the tests on a real node: images that were built here, one node for all files, and two GPUs made up.

Where the machine cannot carry a node the tests are skipped with the reason. OPTIINFRA_IMAGE_BASE names the base of the
images (`debian`, made here, unless it is set); OPTIINFRA_KEEP=1 keeps the node's logs.
"""

import itertools
import os

import pytest

from hack.binaries import bin_folder
from hack.cluster.sessions import session_folder, sweep
from hack.images import build, tools
from hack.node import gpus as fake
from hack.node.cluster import NAME, NodeCluster
from hack.node.requirements import unmet
from tests import nvml_stub
from tests.operator_process import eventually
from tests.real_node import GPUS, IMAGES, VERSION

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def images():
    """Build both, under the names that the chart's default values have."""
    missing = unmet([bin_folder(), build.FOLDER])
    if missing:
        pytest.skip(f"no real node here: {'; '.join(missing)}")
    tags = {target: f"{name}:{VERSION}" for target, name in IMAGES.items()}
    base = os.environ.get("OPTIINFRA_IMAGE_BASE", build.DEBIAN)
    tool = tools.find(None, say=print)
    return {image.target: image for image in build.build(tool, tags=tags, base=base, runtime=None, say=print)}


@pytest.fixture(scope="session")
def node(images):
    """Start a node and load both images; afterwards the machine has to be as it was."""
    sweep()
    cluster = NodeCluster(session_folder("node"), say=print)
    cluster.up(owned=True)
    try:
        for image in images.values():
            cluster.load(image.path)
        yield cluster
    finally:
        cluster.down(keep=bool(os.environ.get("OPTIINFRA_KEEP")))
    assert not [line for line in cluster.left if "optiinfra" in line or "node0" in line]


@pytest.fixture(scope="session")
def gpus(node, tmp_path_factory):
    """Give the node two GPUs that only the driver's library makes up; they stay as long as it does."""
    folder = tmp_path_factory.mktemp("nvml")
    rules = folder / "rules"
    rules.mkdir()
    (rules / "nvml-rules").write_text("gpus 2\nvalue utilization -1 37\n")
    fake.give(node, GPUS, library=nvml_stub.build(folder / "library") / "libnvidia-ml.so.1", rules=rules)
    eventually(lambda: fake.allocatable(node, NAME) == 2, seconds=60, what="the kubelet offers two GPUs")
    return rules


@pytest.fixture
def work(node):
    """Make a namespace for pods of the test's own."""
    name = f"work-{next(_numbers)}"
    node.kubectl("create", "namespace", name)
    yield name
    node.kubectl("delete", "namespace", name, "--wait=false")
