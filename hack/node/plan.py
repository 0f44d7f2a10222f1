"""What the first process of a node is told: where it is to put what, as JSON from one process to another."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The namespaces of one node, before they exist."""

    host_name: str
    group: str
    """Name of the node's control group, in every tree."""
    trees: tuple[tuple[str, str], ...]
    """Of every tree of control groups: where this machine has it, and the options to mount it again (none: v2)."""
    folder: str
    """State directory; what the node keeps lies below it."""
    tools: str
    """Unpacked packages, laid over /usr."""
    bridge: str
    address: str
    """Of the bridge, with its prefix: the node's own address and the pods' gateway."""
    local: tuple[str, ...]
    """Networks of which every address is the node's own; simulated pods live there."""

    def write(self, path: Path) -> None:
        """Write it down."""
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read it again."""
        content = json.loads(path.read_text(encoding="utf-8"))
        content["trees"] = tuple((folder, options) for folder, options in content["trees"])
        content["local"] = tuple(content["local"])
        return cls(**content)


@dataclass(frozen=True)
class Kept:
    """Folders of the node that outlive its processes, by where the node sees them: below the state directory."""

    folder: Path

    def of(self, path: str) -> Path:
        """Return where a folder of the node lies on this machine."""
        return self.folder / "node" / path.lstrip("/").replace("/", "-")


KEPT = ("/var/lib/kubelet", "/var/lib/containerd", "/var/lib/cni", "/var/log")
"""Everything else that the node writes to /var/lib and /run is in memory, and ends with it."""
HIDDEN = ("/var/lib", "/run")
"""Laid under memory, so that no file of the machine's own is seen or touched there."""
EXACT = {
    "/proc/sys/vm/overcommit_memory": "1",
    "/proc/sys/vm/panic_on_oom": "0",
    "/proc/sys/kernel/panic": "10",
    "/proc/sys/kernel/panic_on_oops": "1",
    "/proc/sys/kernel/keys/root_maxkeys": "1000000",
    "/proc/sys/kernel/keys/root_maxbytes": "25000000",
}
"""What the kubelet sets on a machine that is its own. These have no namespaces: it is shown the values that it wants,
and sets nothing (kubelet, pkg/kubelet/cm/container_manager_linux.go: a value that is right is not written)."""
