"""A real node for `bench.node`: images, GPUs made up, the release, and what its containers use.

Times are this process's own clock, looked at ten times a second or more: the API server tells whole seconds.
"""

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.fleet import wait_until
from hack.binaries import ensure
from hack.chart_checks import CHART
from hack.cluster.errors import ApiError
from hack.cluster.nodes import Node
from hack.images import build, tools
from hack.node import gpus as made_up
from hack.node.cluster import NAME, NodeCluster
from hack.node.usage import Usage
from optiinfra import __version__
from tests import nvml_stub

SPACE, AGENTS = "optiinfra", "optiinfra-agent"
IMAGES = {target: f"ghcr.io/optiinfra/optiinfra-{target}:{__version__}" for target in build.TARGETS}
PYTHON = "/opt/optiinfra/bin/python"
GPUS = [f"GPU-{number:08d}-0000-4000-8000-{number:012d}" for number in range(8)]
_POLL_SECONDS = 0.05
_PATIENCE_SECONDS = 300.0

Document = dict[str, Any]


class Stage:
    """One node with the images loaded; the release comes and goes."""

    def __init__(self, node: NodeCluster) -> None:
        """Take a node that runs."""
        self.node = node

    def install(self, *settings: str) -> float:
        """Run `helm install` and return when it began, by time.monotonic()."""
        program = ensure(["helm4"], say=_silent)["helm4"]
        words = [word for setting in settings for word in ("--set", setting)]
        where = ["--namespace", SPACE, "--create-namespace", "--kubeconfig", str(self.node.kubeconfig)]
        began = time.monotonic()
        subprocess.run(
            [program, "install", "optiinfra", str(CHART), *where, *words], check=True, capture_output=True, timeout=120
        )
        return began

    def pods(self, component: str) -> list[Document]:
        """Return the living pods of a component."""
        path = f"/api/v1/pods?labelSelector=app.kubernetes.io/component={component}"
        items: list[Document] = self.node.request("GET", path)["items"]
        return [pod for pod in items if "deletionTimestamp" not in pod["metadata"]]

    def ready(self, component: str, count: int) -> list[Document]:
        """Wait until so many pods of a component, and no others, are ready."""

        def all_ready() -> bool:
            found = self.pods(component)
            return len(found) == count and all(is_ready(pod) for pod in found)

        wait_until(all_ready, seconds=_PATIENCE_SECONDS, what=f"{count} pods of the {component}")
        return self.pods(component)

    def restart(self, pod: Document, component: str, count: int) -> tuple[float, float]:
        """Delete a pod; return how long its successor's container took to Ready, and the CPU seconds of that."""
        meta = pod["metadata"]
        before = {one["metadata"]["uid"] for one in self.pods(component)}
        self.node.request("DELETE", f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}")
        began = 0.0
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < deadline:
            for one in self.pods(component):
                if one["metadata"]["uid"] in before:
                    continue
                if not began and is_running(one):
                    began = time.monotonic()
                if began and is_ready(one):
                    took = time.monotonic() - began
                    used = self.usage(one).cpu_seconds
                    self.ready(component, count)
                    return took, used
            time.sleep(_POLL_SECONDS)
        raise RuntimeError(f"no other pod of the {component} became ready")

    def usage(self, pod: Document) -> Usage:
        """Return what the only container of a pod uses, from its control group."""
        (status,) = pod["status"]["containerStatuses"]
        return self.node.usage(status["containerID"])

    def page(self, pod: Document, port: int, path: str) -> str:
        """Read a page of a pod through the API server."""
        meta = pod["metadata"]
        return self.node.kubectl(
            "get", "--raw", f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}:{port}/proxy{path}"
        )

    def leader(self) -> Document:
        """Return the operator's pod that leads."""
        path = f"/apis/coordination.k8s.io/v1/namespaces/{SPACE}/leases/optiinfra-operator"

        def who() -> list[Document]:
            holder = (self.node.request("GET", path).get("spec", {}).get("holderIdentity") or "").partition("@")[0]
            return [pod for pod in self.pods("operator") if pod["metadata"]["name"] == holder]

        wait_until(lambda: bool(who()), seconds=60.0, what="a leader")
        return who()[0]

    def until(self, look: Callable[[], bool], *, what: str) -> float:
        """Wait for something that the API server is asked about; return when it was so, by time.monotonic()."""

        def asked() -> bool:
            try:
                return look()
            except ApiError:
                return False  # its definition, or the object, is not there yet

        wait_until(asked, seconds=_PATIENCE_SECONDS, what=what, pause=_POLL_SECONDS)
        return time.monotonic()


@contextlib.contextmanager
def stage(folder: Path, *, simulated: int, say: Callable[[str], None]) -> Iterator[Stage]:
    """Build the images; start a node with them, with `simulated` KWOK nodes beside it and eight GPUs made up."""
    base = os.environ.get("OPTIINFRA_IMAGE_BASE", build.DEBIAN)
    images = build.build(tools.find(None, say=say), tags=IMAGES, base=base, runtime=None, say=say)
    others = [Node(name=f"simulated-{number}", gpus=8) for number in range(1, simulated + 1)]
    cluster = NodeCluster(folder, simulated=others, say=say)
    cluster.up(owned=True)
    try:
        for image in images:
            cluster.load(image.path)
        rules = folder / "nvml-rules"
        rules.mkdir()
        (rules / "nvml-rules").write_text(f"gpus {len(GPUS)}\nvalue utilization -1 37\n", encoding="utf-8")
        library = nvml_stub.build(folder / "nvml") / "libnvidia-ml.so.1"
        made_up.give(cluster, GPUS, library=library, rules=rules)
        wait_until(lambda: made_up.allocatable(cluster, NAME) == len(GPUS), seconds=60.0, what="GPUs")
        yield Stage(cluster)
    finally:
        cluster.down()


def is_ready(pod: Document) -> bool:
    """Whether a pod is ready."""
    return any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"].get("conditions", ()))


def is_running(pod: Document) -> bool:
    """Whether its container runs."""
    return any("running" in each.get("state", {}) for each in pod["status"].get("containerStatuses", ()))


def _silent(_: str) -> None:
    return
