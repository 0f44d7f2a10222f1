"""A cluster that its user brought (kind, or any other): what the end-to-end tests may ask of it.

Everything goes through kubectl and the user's kubeconfig; nothing is installed beyond what a test applies,
and the cluster itself is neither started nor ended here. What was brought (simulated nodes) is taken away.
"""

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from hack.binaries import ensure
from hack.cluster import addresses, components, processes
from hack.cluster.addresses import Addresses
from hack.cluster.errors import ClusterError
from hack.cluster.kubectl import run_kubectl
from hack.cluster.nodes import DEFAULT_NODES, Node, is_usable, manifest
from hack.cluster.processes import Process

READY_SECONDS = 60.0


class AnyCluster(Protocol):
    """What an end-to-end test may use: the same for our own control plane and for a user's cluster."""

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""

    @property
    def pod_cidr(self) -> str:
        """The loopback addresses of the simulated pods."""

    def kubectl(self, *arguments: str, input: str | None = None) -> str:  # noqa: A002 - named as in subprocess
        """Run kubectl as administrator and return what it prints."""

    def service_account_kubeconfig(
        self, namespace: str, name: str, audience: str | None = None, *, seconds: int = 36000
    ) -> Path:
        """Make a kubeconfig with a token of an existing ServiceAccount."""


class ForeignCluster:
    """A running cluster behind a kubeconfig; inside `with` it has simulated GPU nodes, named optiinfra-*.

    KWOK plays them from this machine, so that pods get loopback addresses as on our own control plane. They
    carry the usual taint of GPU nodes: nothing else of the user's should land on them.
    """

    def __init__(self, kubeconfig: Path, *, scratch: Path, nodes: Sequence[Node] = DEFAULT_NODES) -> None:
        if not kubeconfig.is_file():
            raise ClusterError(f"OPTIINFRA_E2E_KUBECONFIG: no file {kubeconfig}")
        self._kubeconfig = kubeconfig.absolute()
        self._scratch = scratch
        self._nodes = [dataclasses.replace(node, name=f"optiinfra-{node.name}", taint=True) for node in nodes]
        self._binaries = ensure(["kubectl", "kwok"])
        self._addresses: Addresses | None = None
        self._kwok: Process | None = None

    def __enter__(self) -> Self:
        log = self._scratch / "kwok.log"
        try:
            with addresses.choose() as chosen:
                command = components.simulated_kubelets(
                    self._binaries["kwok"], addresses=chosen, kubeconfig=self._kubeconfig
                )
                self._kwok = processes.start("kwok", command, log=log)
            self._addresses = chosen
            manifests = {"apiVersion": "v1", "kind": "List", "items": [manifest(node) for node in self._nodes]}
            self.kubectl("apply", "--filename=-", input=json.dumps(manifests))
            self._wait_for_nodes(log)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    @property
    def kubeconfig(self) -> Path:
        """The user's kubeconfig."""
        return self._kubeconfig

    @property
    def pod_cidr(self) -> str:
        """The loopback addresses of the simulated pods."""
        if self._addresses is None:
            raise ClusterError("the simulated nodes are not up")
        return self._addresses.pod_cidr

    def kubectl(self, *arguments: str, input: str | None = None) -> str:  # noqa: A002 - named as in subprocess
        """Run kubectl with the user's kubeconfig and return what it prints."""
        return run_kubectl(self._binaries["kubectl"], self._kubeconfig, arguments, input)

    def service_account_kubeconfig(
        self, namespace: str, name: str, audience: str | None = None, *, seconds: int = 36000
    ) -> Path:
        """Make a kubeconfig with a token of an existing ServiceAccount, in the scratch folder."""
        wanted = [f"--duration={seconds}s"] + ([f"--audience={audience}"] if audience else [])
        token = self.kubectl("create", "token", name, f"--namespace={namespace}", *wanted).strip()
        view = self.kubectl("config", "view", "--raw", "--minify", "--flatten", "--output=json")
        content: dict[str, Any] = json.loads(view)
        for user in content["users"]:
            user["user"] = {"token": token}
        path = self._scratch / f"account-{namespace}-{name}.kubeconfig"
        path.touch(mode=0o600)
        path.write_text(json.dumps(content))
        return path

    def _wait_for_nodes(self, log: Path) -> None:
        names = [node.name for node in self._nodes]
        deadline = time.monotonic() + READY_SECONDS
        while True:
            items = json.loads(self.kubectl("get", "nodes", *names, "--output=json"))
            if all(is_usable(item) for item in items.get("items", [items])):
                return
            if self._kwok is None or not self._kwok.alive or time.monotonic() > deadline:
                raise ClusterError(f"the simulated nodes are not ready; {processes.last_words(log)}")
            time.sleep(0.5)

    def _end(self) -> None:
        if self._kwok is None:
            return
        try:
            names = [node.name for node in self._nodes]
            self.kubectl("delete", "nodes", *names, "--ignore-not-found", "--wait=false")
        finally:
            self._kwok.stop(grace=0)
            self._kwok = None
