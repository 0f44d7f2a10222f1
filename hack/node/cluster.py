"""A control plane with one real node: `hack.cluster` moved into the node's network, and what makes the node.

Everything of `Cluster` works on it, through a relay of the API server's port. Beside it the node's programs can be
started again, images loaded, and programs run in its namespaces.
"""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from hack.binaries import bin_folder, ensure
from hack.cluster import addresses, processes
from hack.cluster.cluster import API_SERVER, Cluster
from hack.cluster.errors import ApiError, ClusterError
from hack.cluster.nodes import Node
from hack.cluster.record import Record
from hack.node import cgroups, gpus, machine, metrics_server, packages, pause, sandbox
from hack.node import configurations as of
from hack.node.enter import NETWORK, NODE
from hack.node.plan import Plan
from hack.node.requirements import ELSEWHERE, unmet
from hack.node.usage import Usage, of_container

NAME = "node-1"
CONTAINERD, KUBELET, PROXY, DNS = "containerd", "kubelet", "kube-proxy", "coredns"
_GROUP = "optiinfra-node-"
_BEFORE = "before.json"
_STOP_SECONDS = 10.0

Say = Callable[[str], None]


def default_folder() -> Path:
    """Return the state directory of the command line when none is named."""
    return bin_folder().parent / "node"


def _silent(_: str) -> None:
    return


class NodeCluster(Cluster):
    """A control plane and one real node; use it as a context manager, or call `up` and `down`.

    `simulated` nodes are KWOK's; their pods get ordinary addresses, of which every one leads to this node.
    `metrics_server` gives the cluster metrics.k8s.io, which HPAs on CPU read.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        simulated: Sequence[Node] = (),
        metrics_server: bool = False,
        audit: bool = False,
        say: Say = _silent,
    ) -> None:
        super().__init__(
            folder or default_folder(),
            controllers=True,
            kwok=bool(simulated),
            nodes=simulated,
            audit=audit,
            say=say,
        )
        self._metrics_server = metrics_server
        self.left: list[str] = []
        """After `down`: what of the machine is not as it was before `up`."""
        self.as_before: dict[str, int] = {}
        """After `down`: how many things of each kind are as they were."""

    # ---- what the node offers

    @property
    def settings_folder(self) -> Path:
        """Where the configurations of the node's programs lie."""
        return self.folder / "node" / "settings"

    def start(self, name: str, *command: str) -> None:
        """Start a program in the node, to run beside the others; it ends with the node, or when it is started again."""
        for process in self._running().processes:
            if process.name == name:
                process.stop(grace=0)
        self._remember(self._started(name, list(command), where=NODE))

    def load(self, archive: Path) -> None:
        """Bring an image into the node, from a docker-archive or an OCI archive."""
        self.run("/usr/bin/ctr", "-a", of.CONTAINERD_SOCKET, "-n", "k8s.io", "images", "import", str(archive.resolve()))

    def run(self, *command: str, text: str | None = None) -> str:
        """Run a program as the node would, in its namespaces, and return what it prints."""
        return sandbox.run(self._running().process(sandbox.FIRST), command, text=text)

    def usage(self, container: str) -> Usage:
        """Return what a running container uses, by its id as in a pod's status (`containerd://...`)."""
        identity = container.rpartition("/")[2]
        return of_container(cgroups.hierarchies(), _group(self._running()), identity)

    def restart(self, name: str) -> None:
        """End one of the node's programs and start it again: containerd, kubelet, kube-proxy or coredns."""
        self._running().process(name).stop(grace=_STOP_SECONDS)
        self._start(name, self._node_commands()[name])

    # ---- up and down

    def up(self, *, owned: bool = False) -> Self:
        """Start what does not run yet and wait until the node is ready."""
        if missing := unmet([self.folder, bin_folder()]):
            raise ClusterError(f"no real node here: {'; '.join(missing)}. {ELSEWHERE}")
        ensure([KUBELET, PROXY, DNS, *([metrics_server.NAME] if self._metrics_server else [])], say=self._say)
        packages.tools(packages.NODE, say=self._say)
        earlier = Record.read(self.folder)
        if earlier is not None and not all(each.alive for each in earlier.processes):
            self.down()
        super().up(owned=owned)
        return self

    def down(self, *, keep: bool = False) -> bool:
        """End everything, and look whether the machine is as it was."""
        record = Record.read(self.folder)
        if record is None:
            return False
        # Before etcd ends, whose command line keeps the slot: a start that gets the slot has groups of the same name.
        for process in record.processes:
            if process.name == sandbox.FIRST:
                process.stop(grace=0)
        cgroups.remove(cgroups.hierarchies(), _group(record))
        super().down(keep=True)
        before = self.folder / _BEFORE
        if before.exists():
            others = {f"{_GROUP}{slot}" for slot in addresses.SLOTS} - {_group(record)}
            self.as_before, self.left = machine.compare(before, others=others)
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)
        return True

    # ---- inside

    def _prepare(self) -> None:
        # While the lock of all starts is held: a group that another start has just made is in use by nothing yet.
        _remove_abandoned()
        record = self._running()
        machine.keep(self.folder / _BEFORE)
        trees = cgroups.hierarchies()
        cgroups.make(trees, _group(record))
        plan = Plan(
            host_name=NAME,
            group=_group(record),
            trees=tuple((str(tree.folder), tree.options) for tree in trees),
            folder=str(self.folder),
            tools=str(packages.tools(packages.NODE, say=self._say)),
            bridge=of.BRIDGE,
            address=f"{of.NODE_ADDRESS}/16",
            local=(of.SIMULATED_PODS,),
        )
        first = sandbox.make(plan, logs=self._files.logs)
        self._remember(first)
        self._remember(sandbox.relay(first, record.addresses.api, log=self.log(sandbox.RELAY)))

    def _commands(self) -> dict[str, list[str]]:
        commands = super()._commands()
        commands[API_SERVER] += [*of.api_server_flags(), f"--kubelet-certificate-authority={self.ca}"]
        if "kwok" in commands:
            commands["kwok"] += [f"--cidr={of.SIMULATED_PODS}", f"--node-ip={of.NODE_ADDRESS}"]
        return commands

    def _start(self, name: str, command: list[str]) -> None:
        where = NODE if name in {CONTAINERD, KUBELET, PROXY} else NETWORK
        self._remember(self._started(name, command, where=where))

    def _started(self, name: str, command: list[str], *, where: str) -> processes.Process:
        first = self._running().process(sandbox.FIRST)
        return sandbox.start(first, name, command, where=where, log=self.log(name))

    def _remember(self, process: processes.Process) -> None:
        self._record = self._running().replacing(process)
        self._record.write(self.folder)

    def _add_nodes(self) -> None:
        if not any(each.name == KUBELET for each in self._running().processes):
            self._make_node()
        if self._metrics_server and not any(each.name == metrics_server.NAME for each in self._running().processes):
            self._serve_metrics()
        super()._add_nodes()

    def _make_node(self) -> None:
        started = time.monotonic()
        self._write_configurations()
        commands = self._node_commands()
        self._start(CONTAINERD, commands[CONTAINERD])
        self._wait("containerd", self._has_containerd)
        image = self.folder / "node" / "pause.tar"
        pause.archive(image, name=of.PAUSE_IMAGE)
        self.load(image)
        self._start(KUBELET, commands[KUBELET])
        self._start(PROXY, commands[PROXY])
        self._start(DNS, commands[DNS])
        self._wait("the node", self._is_ready)
        self._say(f"the node is ready after another {time.monotonic() - started:.1f} s")

    def _serve_metrics(self) -> None:
        started = time.monotonic()
        serving = self.serving_certificate(metrics_server.HOST)
        command = metrics_server.command(
            self.binary(metrics_server.NAME),
            kubeconfig=self.kubeconfig_for(metrics_server.USER),
            keys=self._files.keys,
            certificate=serving.certificate,
            key=serving.key,
        )
        for path, body in metrics_server.objects(self.ca):
            self.request("POST", path, body)
        self._start(metrics_server.NAME, command)
        self._wait("metrics.k8s.io", lambda: metrics_server.is_available(self.request("GET", metrics_server.API_PATH)))
        self._say(f"metrics.k8s.io is served after another {time.monotonic() - started:.1f} s")

    def _has_containerd(self) -> bool:
        return bool(self.run("/usr/bin/ctr", "-a", of.CONTAINERD_SOCKET, "version"))

    def _is_ready(self) -> bool:
        try:
            conditions = self.request("GET", f"/api/v1/nodes/{NAME}")["status"]["conditions"]
        except ApiError:
            return False  # the kubelet has not told of it yet
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    def _write_configurations(self) -> None:
        serving = self.serving_certificate(NAME, of.NODE_ADDRESS, "127.0.0.1")
        self.kubeconfig_for(f"system:node:{NAME}", ("system:nodes",))
        proxy = self.kubeconfig_for("system:kube-proxy")
        folder = self.settings_folder
        kubelet = of.kubelet(keys=str(self._files.keys), certificate=str(serving.certificate), key=str(serving.key))
        network = folder / "network"
        network.mkdir(parents=True, exist_ok=True)
        (network / "10-node.conflist").write_text(json.dumps(of.pod_network()), encoding="utf-8")
        (folder / "containerd.toml").write_text(
            of.containerd(network_folder=str(network), gpu_runtime=str(self.settings_folder / gpus.RUNTIME)),
            encoding="utf-8",
        )
        # Whatever it may see: a role of its own would be one more thing to have before the node is ready.
        names = self.kubeconfig_for("coredns", ("system:masters",))
        (folder / "Corefile").write_text(of.dns(kubeconfig=str(names)), encoding="utf-8")
        (folder / "kubelet.json").write_text(json.dumps(kubelet), encoding="utf-8")
        (folder / "kube-proxy.json").write_text(json.dumps(of.kube_proxy(kubeconfig=str(proxy), node=NAME)))

    def _node_commands(self) -> dict[str, list[str]]:
        folder = self.settings_folder
        return {
            CONTAINERD: ["/usr/bin/containerd", "--config", str(folder / "containerd.toml")],
            KUBELET: [
                str(self.binary(KUBELET)),
                f"--config={folder / 'kubelet.json'}",
                f"--kubeconfig={self._files.kubeconfig(f'user-system-node-{NAME}')}",
                f"--hostname-override={NAME}",
                f"--node-ip={of.NODE_ADDRESS}",
            ],
            PROXY: [str(self.binary(PROXY)), f"--config={folder / 'kube-proxy.json'}"],
            DNS: [str(self.binary(DNS)), "-conf", str(folder / "Corefile")],
        }


def _group(record: Record) -> str:
    """Name the control group by what no other cluster of this machine has."""
    return f"{_GROUP}{record.addresses.slot}"


def _remove_abandoned() -> None:
    """Remove the control groups of nodes that were killed together with those who would have taken them down."""
    trees = cgroups.hierarchies()
    used = {f"{_GROUP}{slot}" for slot in addresses.slots_in_use()}
    names = {path.name for tree in trees for path in tree.folder.glob(f"{_GROUP}*")}
    for name in sorted(names - used):
        cgroups.remove(trees, name)
