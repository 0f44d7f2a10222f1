"""Fixtures of all tiers: real control planes, one of each kind a session, and a fresh namespace a test.

`apiserver` is etcd and kube-apiserver alone (no garbage collection, no default ServiceAccounts, and the
built-in roles admin, edit and view are empty, since a controller fills them);
`control_plane` adds controllers, scheduler, KWOK and four nodes of eight GPUs; `cluster` is that, or the
user's own when OPTIINFRA_E2E_KUBECONFIG names one. OPTIINFRA_KEEP=1 keeps their logs after the session.
"""

import contextlib
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from hack.binaries import ensure
from hack.cluster import Cluster, Node
from hack.cluster.errors import ApiError
from hack.cluster.foreign import AnyCluster, ForeignCluster
from hack.cluster.sessions import session_folder, sweep

pytest_plugins = ["tests.figures", "tests.second_try", "tests.proofs"]
# No test is judged by time, an example of a property neither: other processes share the machine.
settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")
E2E = "OPTIINFRA_E2E_KUBECONFIG"
TIERS = ("apiserver", "controllers", "node")
_LONGEST_FIRST = ("controllers", "apiserver", "node", "unit")
_NEEDS = {
    "apiserver": ("etcd", "kube-apiserver", "kubectl"),
    "control_plane": ("etcd", "kube-apiserver", "kubectl", "kube-controller-manager", "kube-scheduler", "kwok"),
}
_numbers = itertools.count(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark each test with its tier, which is the folder it lies in."""
    for item in items:
        tier = _tier(item)
        if tier in TIERS and tier != "node":
            item.add_marker(tier)
        if "figures" in getattr(item, "fixturenames", ()):
            item.add_marker("figures")
    if hasattr(config, "workerinput"):
        # Side by side (pytest-xdist) the longest go first, else one process ends alone with the demonstration.
        items.sort(key=lambda item: _LONGEST_FIRST.index(_tier(item)))


def _tier(item: pytest.Item) -> str:
    return item.path.relative_to(Path(__file__).parent).parts[0]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Get the binaries before the first test: building them takes longer than any test's time-out."""
    used = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    if "cluster" in used:
        used.add("control_plane")
    names = sorted({binary for fixture in used & _NEEDS.keys() for binary in _NEEDS[fixture]})
    if names and not session.config.option.collectonly:
        capture = session.config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled():
            ensure(names)


def _session_cluster(name: str, *, controllers: bool, nodes: list[Node]) -> Iterator[Cluster]:
    sweep()
    cluster = Cluster(session_folder(name), controllers=controllers, kwok=controllers, nodes=nodes, audit=True)
    cluster.up(owned=True)
    try:
        yield cluster
    finally:
        cluster.down(keep=bool(os.environ.get("OPTIINFRA_KEEP")))


@pytest.fixture(scope="session")
def apiserver() -> Iterator[Cluster]:
    """Start etcd and kube-apiserver, with an audit log."""
    yield from _session_cluster("apiserver", controllers=False, nodes=[])


@pytest.fixture(scope="session")
def control_plane() -> Iterator[Cluster]:
    """Start the full control plane with KWOK and four nodes of eight GPUs, with an audit log."""
    nodes = [Node(name=f"gpu-{number}", gpus=8) for number in range(1, 5)]
    yield from _session_cluster("control-plane", controllers=True, nodes=nodes)


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnyCluster]:
    """Give the user's cluster when one is named, else our own full control plane.

    In the user's cluster the simulated nodes carry the taint nvidia.com/gpu=present:NoSchedule, which the pods
    of an end-to-end test must tolerate.
    """
    chosen = os.environ.get(E2E)
    if chosen:
        with ForeignCluster(Path(chosen), scratch=tmp_path_factory.mktemp("foreign")) as foreign:
            yield foreign
    else:
        yield request.getfixturevalue("control_plane")


@pytest.fixture
def namespace(request: pytest.FixtureRequest) -> Iterator[str]:
    """Make a namespace in the cluster that the test uses, and delete it afterwards."""
    used = next((name for name in ("control_plane", "cluster") if name in request.fixturenames), "apiserver")
    where: AnyCluster = request.getfixturevalue(used)
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[:40].strip("-")
    name = f"{words}-{os.getpid()}-{next(_numbers)}"
    if isinstance(where, Cluster):
        # Hundreds of tests ask for one, and two starts of kubectl are most of the time that some of them take.
        where.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        yield name
        where.request("DELETE", f"/api/v1/namespaces/{name}")
        _remove_our_objects(where, name)
    else:
        where.kubectl("create", "namespace", name)
        yield name
        where.kubectl("delete", "namespace", name, "--wait=false")


def _remove_our_objects(cluster: Cluster, namespace: str) -> None:
    """Do what garbage collection does in a whole control plane: an operator of a later test would find them."""
    with contextlib.suppress(ApiError):  # a cluster without the definition has none
        cluster.request("DELETE", f"/apis/optiinfra.io/v1alpha1/namespaces/{namespace}/resourceoptimizations")
